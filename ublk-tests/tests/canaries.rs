//! The simulator must notice when a rule of the engine is off: each within a stated number of seeds.

use plica::sim::engine::Engine;
use plica::sim::{Canary, Kind, Plan, PlannedDeath, Point, Rule, Steps, abandoned, interrupted, run, sweep};

/// The first seed below `seeds` that notices, and what it says. With the rule on, the same seed must be green.
fn noticed(rule: Rule, seeds: u64, plan: fn(u64) -> Plan) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| {
        let canary = Canary::without(rule);
        let red = run(&Engine::new(), &plan(seed)).err()?;
        drop(canary);
        if let Err(red) = run(&Engine::new(), &plan(seed)) {
            panic!("red with all rules on: {red}");
        }
        Some((seed, red.violations.join("; ")))
    })
}

macro_rules! canaries {
    ($($name:ident: $rule:ident within $seeds:literal of $plan:expr,)+) => {$(
        #[test]
        fn $name() {
            let Some((seed, why)) = noticed(Rule::$rule, $seeds, $plan) else {
                panic!("{:?} off: {} seeds do not notice", Rule::$rule, $seeds);
            };
            println!("{:?} off: noticed at seed {seed}: {why}", Rule::$rule);
        }
    )+};
}

canaries! {
    checksum_off: Checksum within 200 of Plan::of,
    slot_reused_before_completion: SlotAfterCompletion within 200 of Plan::of,
    clear_segment_reused_early: ClearBeforeReuse within 400 of clears,
    root_before_flush: FlushBeforeRoot within 200 of Plan::of,
    flush_joins_a_running_one: FlushAfterCompletion within 200 of Plan::of,
    acknowledged_before_published: PublishBeforeAcknowledge within 200 of Plan::of,
    merge_without_compare: MergeByCompare within 200 of Plan::of,
    staging_not_adopted: Adoption within 200 of Plan::of,
    journal_in_leaves_that_no_root_marks: MarkBeforeJournal within 400 of |seed| Plan::with_journal(seed, true),
    slot_retired_before_its_copy: CopyBeforeRetire within 400 of killed_overwrites,
    move_without_compare: MoveByCompare within 50 of |seed| Plan::of_kind(seed, Kind::Cramped),
}

/// What is cleared stays so for long, while segments fill and empty with what a few blocks are overwritten with.
fn clears(seed: u64) -> Plan {
    let mut plan = Plan { journal: None, ..Plan::of_kind(seed, Kind::Churn) };
    (plan.habits.weights, plan.habits.hot_of_8, plan.habits.requests) = ([0, 12, 1, 3, 1], 6, 64..192);
    plan
}

/// A few blocks overwritten again and again, never flushed: open batches are compacted.
fn overwrites(seed: u64) -> Plan {
    let mut plan = Plan { journal: None, ..Plan::of_kind(seed, Kind::Churn) };
    let habits = &mut plan.habits;
    (habits.weights, habits.hot_of_8, habits.fua_of_8) = ([1, 16, 0, 0, 0], 6, 0);
    (habits.requests, habits.blocks_max, habits.pause_ns) = (64..192, 16, 0);
    plan
}

/// The same, the first daemon killed at one of its stores.
fn killed_overwrites(seed: u64) -> Plan {
    let nth = 2_000 + seed * 7_919 % 8_000;
    let cut = usize::try_from(seed % 1025).unwrap_or(0);
    let deaths = vec![PlannedDeath { at: Some((Point::Store, nth)), cut, power: false }];
    Plan { deaths, ..overwrites(seed) }
}

/// Every acknowledgement of a write that went to the journal is a promise: a third of all seeds must notice when it is
/// empty, on memory and on the block stand-in.
#[test]
fn acknowledged_before_persisted() {
    for (kind, first) in [("memory", 0), ("block", 2)] {
        let plans = (0..24).map(|n| Plan::with_journal(first + 3 * n, false));
        let (mut noticed, mut last) = (0, String::new());
        for plan in plans {
            let canary = Canary::without(Rule::PersistBeforeAcknowledge);
            let red = run(&Engine::new(), &plan).err();
            drop(canary);
            if let Some(red) = red {
                (noticed, last) = (noticed + 1, red.violations.join("; "));
                run(&Engine::new(), &plan).unwrap_or_else(|red| panic!("red with all rules on: {red}"));
            }
        }
        println!("PersistBeforeAcknowledge off, {kind}: noticed by {noticed} of 24 seeds; the last one: {last}");
        assert!(noticed >= 8, "{kind}: only {noticed} of 24 seeds notice");
    }
}

/// The first run of the sweeps that notices, of so many at most. With the rule on, the same run must be green.
fn swept(rule: Rule, most: usize, sweep_of: fn(u64) -> Vec<Plan>) {
    let mut runs = 0;
    for seed in 0.. {
        // the runs that count the steps are to be green
        let plans = sweep_of(seed);
        let canary = Canary::without(rule);
        for plan in plans {
            runs += 1;
            assert!(runs <= most, "{rule:?} off: {most} runs do not notice");
            if let Err(red) = run(&Engine::new(), &plan) {
                drop(canary);
                run(&Engine::new(), &plan).unwrap_or_else(|red| panic!("red with all rules on: {red}"));
                println!("{rule:?} off: noticed at run {runs}, seed {seed}: {}", red.violations.join("; "));
                return;
            }
        }
    }
}

/// Only what a daemon had acknowledged and not flushed can be missing behind a root that names it; and only if the machine
/// dies in the moment between that root and its flush. Random deaths hardly ever come there; a sweep does.
#[test]
fn data_after_pointer() {
    swept(Rule::DataBeforePointer, 1500, |seed| {
        let plan = interrupted(&Engine::new(), Plan::short(seed), false).unwrap_or_else(|red| panic!("{red}"));
        let mut plans = sweep(&Engine::new(), &plan, Steps::Opening, 3).unwrap_or_else(|red| panic!("{red}"));
        // a daemon that dies alone leaves what it wrote to the machine
        plans.retain(|plan| plan.deaths.last().is_some_and(|death| death.power));
        plans
    });
}

/// A dead session's batch is reached only when what a later one appended ends right where it begins. A daemon that dies
/// after each of its replies in turn leaves a batch of every length.
#[test]
fn stale_session_accepted() {
    swept(Rule::SessionListed, 600, |seed| {
        let plans = sweep(&Engine::new(), &abandoned(seed), Steps::Life, 1 << 20);
        let mut plans = plans.unwrap_or_else(|red| panic!("{red}"));
        let of_interest = |death: &PlannedDeath| !death.power && matches!(death.at, Some((Point::Reply, _)));
        plans.retain(|plan| plan.deaths.last().is_some_and(of_interest));
        plans
    });
}
