//! The engine under the simulator: fixed seeds, fresh seeds, one seed by hand.
//!
//! `PLICA_SIM_SEEDS=N` sets how many fixed seeds run (default 500), `PLICA_SIM_FRESH=N` how many fresh ones (default
//! 20); `PLICA_SIM_SEED=S cargo test --features sim --test simulation one_seed` runs one and prints what happens.

use plica::sim::engine::Engine;
use plica::sim::{Plan, Report, run};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn green(plan: &Plan) -> Report {
    run(&Engine::new(), plan).unwrap_or_else(|red| panic!("{red}"))
}

/// Runs the seeds on all processors; what they did together.
fn green_all(seeds: impl Iterator<Item = u64>) -> (u64, u64, u64) {
    let seeds: Vec<u64> = seeds.collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut requests, mut deaths, mut losses) = (0, 0, 0);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|worker| {
                let seeds: Vec<u64> = seeds.iter().copied().skip(worker).step_by(workers).collect();
                scope.spawn(move || seeds.into_iter().map(|seed| green(&Plan::of(seed))).collect::<Vec<_>>())
            })
            .collect();
        for handle in handles {
            let reports = handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            for report in reports {
                requests += report.good;
                deaths += report.machine.daemon_deaths;
                losses += report.machine.power_losses;
            }
        }
    });
    (requests, deaths, losses)
}

#[test]
fn fixed_seeds() {
    let count = number("PLICA_SIM_SEEDS", 500);
    let (requests, deaths, losses) = green_all(0..count);
    println!("{count} seeds: {requests} requests, {deaths} deaths of daemons, {losses} losses of power");
    assert!(count < 100 || (deaths > count / 4 && losses > count / 4), "the runs are too peaceful");
}

#[test]
fn fresh_seeds() {
    let count = number("PLICA_SIM_FRESH", 20);
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    let first = u64::from_le_bytes(bytes) >> 16;
    println!("fresh seeds: {first} to {}", first + count);
    green_all(first..first + count);
}

#[test]
fn one_seed() {
    let seed = number("PLICA_SIM_SEED", 1);
    let verbose = std::env::var_os("PLICA_SIM_SEED").is_some();
    let plan = Plan { verbose, ..Plan::of(seed) };
    let report = green(&plan);
    println!("{report:#?}");
    let again = green(&Plan::of(seed));
    assert_eq!(report, again, "one seed is one run");
}
