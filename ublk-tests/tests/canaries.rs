//! The simulator must notice when a rule of the engine is off: each within a stated number of seeds.

use plica::sim::engine::Engine;
use plica::sim::{Canary, Kind, Plan, Rule, run};

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
    data_after_pointer: DataBeforePointer within 200 of Plan::of,
    checksum_off: Checksum within 200 of Plan::of,
    slot_reused_before_completion: SlotAfterCompletion within 200 of Plan::of,
    clear_segment_reused_early: ClearBeforeReuse within 200 of |seed| Plan::of_kind(seed, Kind::Churn),
    stale_session_accepted: SessionListed within 1000 of |seed| Plan::of_kind(seed, Kind::Commits),
    root_before_flush: FlushBeforeRoot within 200 of Plan::of,
    flush_joins_a_running_one: FlushAfterCompletion within 200 of Plan::of,
    acknowledged_before_published: PublishBeforeAcknowledge within 200 of Plan::of,
    merge_without_compare: MergeByCompare within 200 of Plan::of,
    staging_not_adopted: Adoption within 200 of Plan::of,
    move_without_compare: MoveByCompare within 100 of |seed| Plan::of_kind(seed, Kind::Cramped),
    source_reused_before_the_move_is_settled: SettledBeforeReuse within 200 of |seed| Plan::of_kind(seed, Kind::Cramped),
}
