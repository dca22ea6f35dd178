//! The engine under the simulator: fixed seeds, fresh seeds, one seed by hand.
//!
//! `PLICA_SIM_SEEDS=N` sets how many fixed seeds run (default 1340), `PLICA_SIM_FRESH=N` how many fresh ones (default
//! 20); `PLICA_SIM_SEED=S cargo test -p ublk-tests --test simulation one_seed` runs one and prints what happens, with
//! `PLICA_SIM_FAILING=errors` or `silently` on media that fail.

use plica::sim::engine::Engine;
use plica::sim::{Failing, Plan, Report, run};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn green(plan: &Plan) -> Report {
    run(&Engine::new(), plan).unwrap_or_else(|red| panic!("{red}"))
}

/// Runs the seeds on all processors; what they did together.
fn green_all(seeds: impl Iterator<Item = u64>, plan: fn(u64) -> Plan) -> (u64, u64, u64) {
    let seeds: Vec<u64> = seeds.collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut requests, mut deaths, mut losses) = (0, 0, 0);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|worker| {
                let seeds: Vec<u64> = seeds.iter().copied().skip(worker).step_by(workers).collect();
                scope.spawn(move || seeds.into_iter().map(|seed| green(&plan(seed))).collect::<Vec<_>>())
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
    let count = number("PLICA_SIM_SEEDS", 1340);
    let (requests, deaths, losses) = green_all(0..count, Plan::of);
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
    green_all(first..first + count, Plan::of);
}

#[test]
fn media_that_report_errors() {
    let count = number("PLICA_SIM_SEEDS", 1340) / 4;
    green_all(0..count, |seed| Plan::failing(seed, Failing::Errors));
}

#[test]
fn media_that_damage_silently() {
    let count = number("PLICA_SIM_SEEDS", 1340) / 4;
    green_all(0..count, |seed| Plan::failing(seed, Failing::Silently));
}

#[test]
fn one_seed() {
    let seed = number("PLICA_SIM_SEED", 1);
    let verbose = std::env::var_os("PLICA_SIM_SEED").is_some();
    let failing = std::env::var("PLICA_SIM_FAILING").map_or(Failing::Never, |text| text.parse().unwrap());
    let report = green(&Plan { verbose, ..Plan::failing(seed, failing) });
    println!("{report:#?}");
    let again = green(&Plan::failing(seed, failing));
    assert_eq!(report, again, "one seed is one run");
}
