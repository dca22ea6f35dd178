//! The host's side: which values a block may have after a power cut.

use super::{Found, MARK_EVERY, Op, Plan};
use crate::{Result, failure::ensure};

/// Knows what a device held at one moment and what was done to it since.
#[derive(Clone, Debug)]
pub struct Witness {
    plan: Plan,
    /// What was read when the operations began: durable, since it had survived a restart.
    baseline: Vec<Found>,
    /// Number of the first operation since then.
    first: u64,
}

/// What a check looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Blocks that had to show an operation of this round or a later one.
    pub must_survive: u64,
    /// Blocks that showed an operation that had not been made durable.
    pub beyond: u64,
    /// Writes of several blocks found whole, or wholly absent.
    pub atomic: u64,
}

impl Witness {
    /// A device that holds `baseline`, before operation `first`.
    #[must_use]
    pub fn new(plan: Plan, baseline: Vec<Found>, first: u64) -> Self {
        Self { plan, baseline, first }
    }

    /// Number of the first operation.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Where the operations of the next round may begin: beyond all that this one can have made.
    #[must_use]
    pub fn next_first(last_mark: u64) -> u64 {
        (last_mark / MARK_EVERY + 3) * MARK_EVERY
    }

    /// Checks what was found after a power cut at a moment when all operations before `done` were complete and none
    /// from `limit` on had begun.
    ///
    /// # Errors
    /// A durable write is missing, a block holds what was never written there, or an atomic write is there in part.
    pub fn check(&self, done: u64, limit: u64, found: &[Found]) -> Result<Summary> {
        ensure(found.len() == self.baseline.len(), || format!("{} blocks found", found.len()))?;
        let flushed = (self.first..done).rev().find(|n| self.plan.op(*n) == Op::Flush);
        let mut allowed: Vec<Vec<Found>> = self.baseline.iter().map(|value| vec![*value]).collect();
        let mut floors: Vec<Option<u64>> = vec![None; found.len()];
        for number in self.first..limit {
            let (range, value, forced) = match self.plan.op(number) {
                Op::Write { range, forced } => (range, Found::Op(number), forced),
                Op::Zero(range) => (range, Found::Zeros, false),
                Op::Flush | Op::Mark => continue,
            };
            let durable = number < done && (forced || flushed.is_some_and(|flush| number < flush));
            let blocks = (0..).zip(allowed.iter_mut().zip(&mut floors)).filter(|(lba, _)| range.contains(*lba));
            for (_, (values, floor)) in blocks {
                if durable {
                    values.clear();
                    *floor = Some(number);
                }
                values.push(value);
            }
        }
        let mut summary = Summary::default();
        for (lba, ((found, allowed), floor)) in found.iter().zip(&allowed).zip(&floors).enumerate() {
            ensure(allowed.contains(found), || {
                format!("block {lba} shows {found:?}, allowed after operation {done} is one of {allowed:?}")
            })?;
            summary.must_survive += u64::from(floor.is_some());
            summary.beyond += u64::from(Some(found) != allowed.first());
        }
        self.check_atomic(limit, found, &mut summary)?;
        Ok(summary)
    }

    /// Later wins, block by block; so when one block of an atomic write shows it, the others show it or a later one.
    fn check_atomic(&self, limit: u64, found: &[Found], summary: &mut Summary) -> Result<()> {
        for number in self.first..limit {
            let Op::Write { range, .. } = self.plan.op(number) else { continue };
            if !range.is_atomic() || range.count == 1 {
                continue;
            }
            let blocks: Vec<(u64, Found)> =
                (0..).zip(found.iter().copied()).filter(|(l, _)| range.contains(*l)).collect();
            if !blocks.iter().any(|(_, value)| *value == Found::Op(number)) {
                continue;
            }
            for (lba, value) in &blocks {
                let newer = match value {
                    Found::Op(other) => *other >= number,
                    Found::Zeros => (number..limit).any(|n| matches!(self.plan.op(n), Op::Zero(r) if r.contains(*lba))),
                    Found::Damaged => false,
                };
                ensure(newer, || {
                    format!("operation {number} on {range:?} is there in part: block {lba} shows {value:?}")
                })?;
            }
            summary.atomic += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { seed: 11, block_count: 256 };

    /// The device after operations 0 to `count`, with what `skip` says left out.
    fn played(count: u64, skip: impl Fn(u64) -> bool) -> Vec<Found> {
        let mut found = vec![Found::Zeros; 256];
        for number in (0..count).filter(|n| !skip(*n)) {
            let (range, value) = match PLAN.op(number) {
                Op::Write { range, .. } => (range, Found::Op(number)),
                Op::Zero(range) => (range, Found::Zeros),
                Op::Flush | Op::Mark => continue,
            };
            let blocks = (0..).zip(&mut found).filter(|(lba, _)| range.contains(*lba));
            blocks.for_each(|(_, slot)| *slot = value);
        }
        found
    }

    fn witness() -> Witness {
        Witness::new(PLAN, vec![Found::Zeros; 256], 0)
    }

    #[test]
    fn everything_there_and_the_uncovered_lost_are_both_right() {
        let flush = (0..200).rev().find(|n| PLAN.op(*n) == Op::Flush).unwrap();
        let all = witness().check(200, 280, &played(200, |_| false)).unwrap();
        assert!(all.must_survive > 200, "{all:?}");
        let forced = |n| matches!(PLAN.op(n), Op::Write { forced: true, .. });
        let lost = played(200, |n| n > flush && !forced(n));
        witness().check(200, 280, &lost).unwrap();
        let beyond = witness().check(200, 280, &played(240, |_| false)).unwrap();
        assert!(beyond.beyond > 0, "{beyond:?}");
    }

    #[test]
    fn a_durable_write_that_is_missing_is_noticed() {
        let visible = |n: u64| played(200, |_| false).contains(&Found::Op(n));
        let flush = (0..200).rev().find(|n| PLAN.op(*n) == Op::Flush).unwrap();
        let victims: Vec<u64> = (0..flush).filter(|n| visible(*n)).collect();
        assert!(victims.len() > 10);
        for victim in victims {
            let said = witness().check(200, 280, &played(200, |n| n == victim));
            assert!(said.is_err(), "operation {victim} is missing and nobody noticed");
        }
    }

    #[test]
    fn damage_the_future_and_half_a_write_are_noticed() {
        let good = played(200, |_| false);
        let mut damaged = good.clone();
        damaged[9] = Found::Damaged;
        assert!(witness().check(200, 280, &damaged).is_err());
        assert!(witness().check(200, 210, &played(280, |_| false)).is_err());
        let whole = |n: u64| matches!(PLAN.op(n), Op::Write { range, .. } if range.is_atomic() && range.count > 1);
        let number = (240..400).find(|n| whole(*n)).unwrap();
        let range = PLAN.op(number).range().unwrap();
        let mut torn = good;
        torn[usize::try_from(range.start).unwrap()] = Found::Op(number);
        let said = witness().check(200, 400, &torn).unwrap_err().to_string();
        assert!(said.contains("in part"), "{said}");
    }
}
