//! The engine under the simulator: fixed seeds, fresh seeds, one seed by hand.
//!
//! `PLICA_SIM_SEEDS=N` sets how many fixed seeds run (default 1340), `PLICA_SIM_FROM=S` the first of them (default 0: others
//! look where nobody looked), `PLICA_SIM_FRESH=N` how many fresh ones (default 20); `PLICA_SIM_SEED=S cargo test -p ublk-tests --test simulation one_seed` runs one and prints what happens, with
//! `PLICA_SIM_FAILING=errors` or `silently` on media that fail. `PLICA_SIM_SWEEPS=N` sets how many short runs are made
//! once for each of their steps, dead there (default 4).

use std::ops::Range;

use plica::sim::engine::Engine;
use plica::sim::{Failing, JournalKind, Kind, Plan, PlannedDeath, Point, Report, Steps, interrupted, run, sweep};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The fixed seeds of a test that takes one part in so many.
fn fixed(part: u64) -> Range<u64> {
    let from = number("PLICA_SIM_FROM", 0);
    from..from + number("PLICA_SIM_SEEDS", 1340) / part
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
    let seeds = fixed(1);
    let count = seeds.end - seeds.start;
    let [requests, deaths, losses, jumps] = green_all(seeds, Plan::of);
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
    green_all(fixed(4), |seed| Plan::failing(seed, Failing::Errors));
}

#[test]
fn media_that_damage_silently() {
    green_all(fixed(4), |seed| Plan::failing(seed, Failing::Silently));
}

/// A scrub of media that are well finds nothing, whatever hosts, cleaner, deaths and a clock that jumps do meanwhile; of media
/// that fail it reports what it finds, and nothing goes wrong with what hosts read.
#[test]
fn scrubs_while_hosts_write_and_clocks_jump() {
    let mut scrubbed = 0;
    let from = fixed(1).start;
    for seed in from..from + 90 {
        let failing = [Failing::Never, Failing::Errors, Failing::Silently][usize::try_from(seed % 3).unwrap_or(0)];
        let report = green(&Plan { scrubs: true, clock_jumps: true, failing, ..Plan::of(seed) });
        scrubbed += report.marks.get("segments scrubbed").copied().unwrap_or(0);
    }
    println!("90 seeds: {scrubbed} segments scrubbed");
    assert!(scrubbed > 900, "{scrubbed} segments scrubbed");
}

/// A batch that was being written to an open segment of the journal was looked at half written, and called damage.
#[test]
fn a_scrub_does_not_look_at_what_is_being_written_to_the_journal() {
    green(&Plan { scrubs: true, clock_jumps: true, ..Plan::of(9) });
}

/// Every second pool that grows is nearly full before.
fn growing(seed: u64) -> Plan {
    let kind = if seed.is_multiple_of(2) { Kind::Cramped } else { Kind::Churn };
    Plan { grows: true, ..Plan::of_kind(seed, kind) }
}

/// Pools that grow while hosts write and daemons die have the old size or the new one, and lose nothing.
#[test]
fn pools_that_grow_while_hosts_write() {
    let grown: u64 = (0..8).map(|seed| green(&growing(seed)).marks["bytes grown"]).sum();
    assert!(grown > 8 << 20, "{grown} bytes in eight runs");
    green_all(fixed(20).skip(8), growing);
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

/// A short run of large overwrites of a few blocks, never flushed, stored raw in large fragments: open batches are full
/// after a few of them, and compacted.
fn overwrites(seed: u64) -> Plan {
    let mut plan = Plan::short(seed);
    for namespace in &mut plan.namespaces {
        (namespace.size, namespace.logical_block, namespace.flavour) = (64 * 4096, 4096, 28);
    }
    let habits = &mut plan.habits;
    (habits.clients, habits.requests, habits.weights) = (2, 16..20, [1, 24, 0, 0, 0]);
    (habits.fua_of_8, habits.hot_of_8, habits.blocks_max) = (0, 8, 64);
    plan
}

#[test]
fn a_death_at_every_store_while_batches_are_compacted() {
    for seed in 0..number("PLICA_SIM_SWEEPS", 4).div_ceil(2) {
        let plan = overwrites(seed);
        let compacted = green(&plan).marks["batches compacted"];
        assert!(compacted > 0, "seed {seed} compacts nothing");
        let mut plans = sweep(&Engine::new(), &plan, Steps::Life, 1 << 20).unwrap_or_else(|red| panic!("{red}"));
        plans.retain(|plan| {
            let last = plan.deaths.last();
            last.is_some_and(|death| !death.power && matches!(death.at, Some((Point::Store, _))))
        });
        let adopted: u64 = plans.iter().map(|plan| run_planned(plan).marks["slots adopted"]).sum();
        println!(
            "seed {seed}: {} runs, {compacted} batches compacted in the first, {adopted} slots adopted",
            plans.len()
        );
        assert!(adopted > 0, "nothing was adopted");
    }
}

/// A daemon that died in the middle of its work, the machine with every other one.
fn interrupted_plan(seed: u64) -> Plan {
    interrupted(&Engine::new(), Plan::short(seed), seed % 2 == 1).unwrap_or_else(|red| panic!("{red}"))
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

const JOURNALS: [JournalKind; 2] = [JournalKind::Memory, JournalKind::Block];

/// Serving, with writes that go to the journal, and draining it.
#[test]
fn a_death_at_every_step_of_a_life_with_a_journal() {
    for kind in JOURNALS {
        let mut destaged = 0;
        for seed in 0..number("PLICA_SIM_SWEEPS", 4) {
            let plan = Plan::short_with_journal(seed, kind);
            let marks = run_planned(&plan).marks;
            let reached = ["journal batches", "writes persistent at once"];
            assert!(reached.iter().all(|mark| marks[mark] > 0), "seed {seed} on {kind:?}: {marks:?}");
            destaged += marks["journal segments destaged"];
            swept(&plan, Steps::Life, 7);
        }
        assert!(destaged > 0, "no drain on {kind:?} had anything to move");
    }
}

/// What was acknowledged is there after each of these deaths, though nobody flushed it.
#[test]
fn a_death_at_every_step_of_recovery_with_a_journal() {
    for kind in JOURNALS {
        for seed in 0..number("PLICA_SIM_SWEEPS", 4) {
            let plan = interrupted(&Engine::new(), Plan::short_with_journal(seed, kind), seed % 2 == 1);
            swept(&plan.unwrap_or_else(|red| panic!("{red}")), Steps::Opening, 3);
        }
    }
}

/// A journal that comes and goes while hosts write, dies with its daemon, loses power, is lost, or meets media that fail.
#[test]
fn journals_that_come_while_the_pool_is_served() {
    green_all(fixed(10), |seed| Plan::with_journal(seed, seed % 4 == 3).with_journal_late());
    green_all(fixed(20), |seed| {
        Plan { failing: Failing::Errors, ..Plan::with_journal(seed * 3 + 2, false) }.with_journal_late()
    });
    green_all(fixed(20), |seed| {
        Plan { failing: Failing::Silently, ..Plan::with_journal(seed, false) }.with_journal_late()
    });
}

/// Given to a pool that is served, written to, taken away and given again.
#[test]
fn a_death_at_every_step_of_a_life_that_a_journal_comes_to() {
    for kind in JOURNALS {
        let mut at_once = 0;
        for seed in 0..number("PLICA_SIM_SWEEPS", 4) {
            let plan = Plan::short_with_journal(seed, kind).with_journal_late();
            at_once += run_planned(&plan).marks["writes persistent at once"];
            swept(&plan, Steps::Life, 7);
        }
        // in a short life it may come too late for one plan, not for all of them
        assert!(at_once > 0, "nothing went to the journal on {kind:?}");
    }
}

#[test]
fn journals_that_are_lost() {
    green_all(fixed(10), |seed| Plan::with_journal(seed, true));
}

#[test]
fn journals_on_media_that_report_errors() {
    // of three such journals one is on a block medium
    green_all(fixed(10).map(|n| n * 3 + 2), |seed| Plan {
        failing: Failing::Errors,
        ..Plan::with_journal(seed, false)
    });
}

#[test]
fn journals_on_media_that_damage_silently() {
    green_all(fixed(5), |seed| Plan { failing: Failing::Silently, ..Plan::with_journal(seed, false) });
}

/// What a destage had moved was still being made durable when the daemon ended, behind the clean root.
#[test]
fn a_stop_waits_for_what_is_destaged() {
    green(&Plan { failing: Failing::Silently, ..Plan::with_journal(47, false) }.with_journal_late());
}

/// While a journal was given to the pool its superblock was flushed beside the log: that flush failed, the other one reported
/// what it had lost as durable.
#[test]
fn one_flush_at_a_time_while_a_journal_is_given() {
    green(
        &Plan { journal: Plan::with_journal(20088, false).journal, ..Plan::failing(20088, Failing::Errors) }
            .with_journal_late(),
    );
}

/// What is in use is never known when a leaf is damaged: draining waited for it forever.
#[test]
fn draining_ends_when_a_leaf_of_the_map_is_damaged() {
    for seed in [28, 36, 46, 52] {
        green(&Plan { journal: Plan::with_journal(seed, false).journal, ..Plan::failing(seed, Failing::Silently) });
    }
}

/// After a failed write to the journal blocks were read from memory that no daemon would have again, and the next batch
/// was written behind the torn one.
#[test]
fn what_could_not_be_written_to_the_journal_is_neither_read_nor_followed() {
    for seed in [251, 308] {
        green(&Plan { failing: Failing::Errors, ..Plan::with_journal(seed, false) });
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
