//! Sweeps: the same run again and again, dead at each step in turn, so that no step is left to chance.
//!
//! A first run tells how many steps a life takes, of each kind; then each of them is the last of a run of its own, with and
//! without a loss of power after it. Whatever a daemon can do, it has once died while doing it.

use super::death::Point;
use super::plan::{Plan, PlannedDeath};
use super::subject::Subject;
use super::workload::Habits;
use super::world::{Red, Report, run};

/// Which steps a sweep goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// Those of a whole life: opening, serving, perhaps stopping.
    Life,
    /// Those until the pool is served: recovery, adoption, the session's root.
    Opening,
}

/// Nothing comes between, and the counts are those of a whole life.
const TO_THE_END: PlannedDeath = PlannedDeath { at: None, cut: 0, power: false };

/// The same run, but that its first daemon dies in the middle of its work, the machine with it or not: what a sweep over
/// [`Steps::Opening`] begins with.
///
/// # Errors
/// The run that counts the steps is red.
pub fn interrupted(subject: &dyn Subject, plan: Plan, power: bool) -> Result<Plan, Box<Red>> {
    let report = run(subject, &Plan { lives: 1, deaths: vec![TO_THE_END], ..plan.clone() })?;
    let submits = report.lives.first().copied().unwrap_or_default().all[Point::Submit as usize];
    let death = PlannedDeath { at: Some((Point::Submit, submits * 2 / 3)), cut: 500, power };
    Ok(Plan { deaths: vec![death], ..plan })
}

/// A short run whose first daemon leaves several small batches that no flush covers, and loses power: some of them are
/// gone, and valid ones lie behind the gap. How many requests the second daemon answers before it dies decides how much
/// its batch covers, for its successor completes it from shared memory: what a sweep over [`Point::Reply`] goes through.
#[must_use]
pub fn abandoned(seed: u64) -> Plan {
    let plan = Plan::short(seed);
    // longer pauses than a batch stays open, and few flushes
    let habits = Habits {
        clients: 1,
        requests: 12..16,
        weights: [0, 12, 1, 0, 0],
        fua_of_8: 0,
        pause_ns: 100_000_000,
        sectors_only: true,
        ..plan.habits
    };
    Plan { habits, deaths: vec![PlannedDeath { power: true, ..TO_THE_END }], ..plan }
}

/// All runs of a sweep, to be shared out among threads.
///
/// `plan.deaths` are those of the lives before the one that is swept; every `stride`th turn of tasks is taken, and every
/// other step.
///
/// # Errors
/// The run that counts the steps is red.
pub fn sweep(subject: &dyn Subject, plan: &Plan, steps: Steps, stride: u64) -> Result<Vec<Plan>, Box<Red>> {
    let life = plan.deaths.len();
    let lives = u32::try_from(life + 1).unwrap_or(u32::MAX);
    let report = run(subject, &with(plan, lives, TO_THE_END))?;
    let counts = counts(&report, life, steps);
    let mut plans = Vec::new();
    for point in Point::ALL {
        let stride = if point == Point::Task { stride } else { 1 };
        for nth in (1..=counts[point as usize]).step_by(usize::try_from(stride).unwrap_or(1)) {
            // of a store anything between nothing and all of it lands
            let cut = usize::try_from(nth * 389 % 1025).unwrap_or(0);
            for power in [false, true] {
                plans.push(with(plan, lives, PlannedDeath { at: Some((point, nth)), cut, power }));
            }
        }
    }
    Ok(plans)
}

fn with(plan: &Plan, lives: u32, death: PlannedDeath) -> Plan {
    let mut plan = Plan { lives, ..plan.clone() };
    plan.deaths.push(death);
    plan
}

fn counts(report: &Report, life: usize, steps: Steps) -> [u64; 5] {
    let life = report.lives.get(life).copied().unwrap_or_default();
    match steps {
        Steps::Life => life.all,
        Steps::Opening => life.opening,
    }
}
