//! Smaller plans that are still red: less to read when a seed has found something.

use super::plan::Plan;
use super::subject::Subject;
use super::world::{Red, run};

/// Makes `plan`, which is red, smaller as long as it stays red. At most `tries` runs.
#[must_use]
pub fn shrink(subject: &dyn Subject, plan: &Plan, red: Box<Red>, tries: u32) -> (Plan, Box<Red>) {
    let mut best = (plan.clone(), red);
    let mut left = tries;
    loop {
        let candidates = smaller(&best.0);
        let mut improved = false;
        for candidate in candidates {
            if left == 0 {
                return best;
            }
            left -= 1;
            if let Err(red) = run(subject, &candidate) {
                best = (candidate, red);
                improved = true;
                break;
            }
        }
        if !improved {
            return best;
        }
    }
}

/// Plans that are smaller in one way each, the largest steps first.
fn smaller(plan: &Plan) -> Vec<Plan> {
    let mut plans = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        plans.push(smaller);
    };
    if plan.lives > 1 {
        with(&|plan| plan.lives /= 2);
        with(&|plan| plan.lives -= 1);
    }
    if plan.namespaces.len() > 1 {
        with(&|plan| plan.namespaces.truncate(1));
    }
    if plan.habits.clients > 1 {
        with(&|plan| plan.habits.clients /= 2);
        with(&|plan| plan.habits.clients -= 1);
    }
    let requests = plan.habits.requests.clone();
    if requests.end > 2 {
        with(&|plan| plan.habits.requests = requests.start.min(requests.end / 2 - 1)..requests.end / 2);
        with(&|plan| plan.habits.requests = requests.start.min(requests.end - 2)..requests.end - 1);
    }
    if plan.habits.blocks_max > 1 {
        with(&|plan| plan.habits.blocks_max /= 2);
    }
    for weight in 0..plan.habits.weights.len() {
        if plan.habits.weights[weight] > 0 && plan.habits.weights.iter().filter(|w| **w > 0).count() > 1 {
            with(&|plan| plan.habits.weights[weight] = 0);
        }
    }
    if plan.namespaces.iter().any(|namespace| namespace.size > 64 * 4096) {
        with(&|plan| plan.namespaces.iter_mut().for_each(|namespace| namespace.size = 64 * 4096));
    }
    if plan.habits.pause_ns > 0 {
        with(&|plan| plan.habits.pause_ns = 0);
    }
    plans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::plain::{Flaw, PlainDisk};

    #[test]
    fn a_red_plan_gets_smaller_and_stays_red() {
        let disk = PlainDisk::new(Flaw::Misplaced);
        let mut plan = Plan::of(1);
        plan.habits.requests = 16..64;
        plan.habits.weights = [2, 6, 1, 1, 1];
        let red = run(&disk, &plan).unwrap_err();
        let (small, _) = shrink(&disk, &plan, red, 200);
        assert!(small.habits.requests.end < 64 || small.lives < plan.lives);
        assert!(run(&disk, &small).is_err());
    }
}
