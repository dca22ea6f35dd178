//! The engine under the simulator: fixed seeds, fresh seeds, one seed by hand.
//!
//! `PLICA_SIM_SEEDS=N` sets how many fixed seeds run (default 1340), `PLICA_SIM_FRESH=N` how many fresh ones (default
//! 20); `PLICA_SIM_SEED=S cargo test -p ublk-tests --test simulation one_seed` runs one and prints what happens, with
//! `PLICA_SIM_FAILING=errors` or `silently` on media that fail. `PLICA_SIM_SWEEPS=N` sets how many short runs are made
//! once for each of their steps, dead there (default 4).

use plica::sim::engine::Engine;
use plica::sim::{Failing, Kind, Plan, PlannedDeath, Point, Report, Steps, interrupted, run, sweep};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn green(plan: &Plan) -> Report {
    run(&Engine::new(), plan).unwrap_or_else(|red| panic!("{red}"))
}

/// Runs the seeds on all processors; what they did together.
fn green_all(seeds: impl Iterator<Item = u64>, plan: fn(u64) -> Plan) -> [u64; 4] {
    let seeds: Vec<u64> = seeds.collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut sums = [0; 4];
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
                let machine = report.machine;
                let counts = [report.good, machine.daemon_deaths, machine.power_losses, machine.clock_jumps];
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
    });
    sums
}

#[test]
fn fixed_seeds() {
    let count = number("PLICA_SIM_SEEDS", 1340);
    let [requests, deaths, losses, jumps] = green_all(0..count, Plan::of);
    println!(
        "{count} seeds: {requests} requests, {deaths} deaths of daemons, {losses} losses of power, {jumps} jumps of the clock"
    );
    assert!(
        count < 100 || (deaths > count / 4 && losses > count / 4 && jumps > count / 4),
        "the runs are too peaceful"
    );
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

/// Runs every plan of a sweep on all processors.
fn swept(plan: &Plan, steps: Steps, stride: u64) {
    let plans = sweep(&Engine::new(), plan, steps, stride).unwrap_or_else(|red| panic!("{red}"));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let plans = plans.iter().skip(worker).step_by(workers);
            scope.spawn(move || plans.for_each(|plan| drop(run_planned(plan))));
        }
    });
    println!("seed {}: {} runs, each dead at another step ({steps:?})", plan.seed, plans.len());
}

fn run_planned(plan: &Plan) -> Report {
    run(&Engine::new(), plan).unwrap_or_else(|red| panic!("planned deaths {:?}\n{red}", plan.deaths))
}

#[test]
fn a_death_at_every_step_of_a_life() {
    for seed in 0..number("PLICA_SIM_SWEEPS", 4) {
        swept(&Plan::short(seed), Steps::Life, 7);
    }
}

/// A daemon that died in the middle of its work, the machine with every other one.
fn interrupted_plan(seed: u64) -> Plan {
    interrupted(&Engine::new(), seed, seed % 2 == 1).unwrap_or_else(|red| panic!("{red}"))
}

#[test]
fn a_death_at_every_step_of_recovery_and_adoption() {
    for seed in 0..number("PLICA_SIM_SWEEPS", 4) {
        swept(&interrupted_plan(seed), Steps::Opening, 3);
    }
}

#[test]
fn two_deaths_in_a_row_in_recovery_and_adoption() {
    for seed in 0..number("PLICA_SIM_SWEEPS", 4).div_ceil(2) {
        // the second daemon comes to a third of its way, or to two thirds, or nearly serves
        let plan = interrupted_plan(seed);
        let steps = opening_steps(&plan, Point::Submit);
        for (share, power) in [(1, false), (2, true), (3, false)] {
            let death = PlannedDeath { at: Some((Point::Submit, (steps * share / 3).max(1))), cut: 500, power };
            let deaths = [plan.deaths.clone(), vec![death]].concat();
            swept(&Plan { deaths, ..plan.clone() }, Steps::Opening, 7);
        }
    }
}

/// Steps of this kind that the daemon after the one planned death takes until it serves.
fn opening_steps(plan: &Plan, point: Point) -> u64 {
    let life = plan.deaths.len();
    run_planned(&Plan { lives: 2, ..plan.clone() }).lives[life].opening[point as usize]
}

/// Zeros with FUA over what a discard had just cleared: acknowledged before the discard was durable.
#[test]
fn zeros_over_a_hole_that_is_not_durable() {
    green(&Plan::of_kind(56, Kind::Mixed));
}

#[test]
fn one_seed_is_one_run() {
    for failing in [Failing::Never, Failing::Errors, Failing::Silently] {
        for seed in 0..8 {
            let plan = Plan::failing(seed, failing);
            assert_eq!(green(&plan), green(&plan), "seed {seed} on media that fail {failing}");
        }
    }
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
