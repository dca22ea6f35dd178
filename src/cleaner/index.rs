//! The segments that may be victims, in an order in which the best are found without a look at all of them.
//!
//! ```text
//!   a segment's live part ─► class (1 of 256) ─► in it by when it was filled, oldest first
//!   choose: the oldest of each class are scored; the best goes, the next of its class takes its place
//! ```
//!
//! Every policy prefers the older of two segments that are equally full, so the best of a class is its oldest, but for what
//! the live part differs within a class. Choosing looks at no more than a segment a class and one a victim, however
//! many segments there are; keeping the order costs something only when a segment changes its class.
//!
//! **Invariants.** Pure. What is in it is what [`VictimIndex::update`] was told last. **Not here:** who tells it (the log
//! lists segments whose live blocks crossed a mark, see [`VictimIndex::mark`]).

use std::collections::BTreeSet;

use super::victim::{Candidate, GAIN_MIN, VictimPolicy};
use crate::units::SegmentId;

/// Classes of segments by their live part.
const CLASSES: u32 = 256;

/// Where a segment is, and how full it is.
#[derive(Clone, Copy)]
struct Kept {
    class: usize,
    live: f64,
    filled: u64,
}

/// See the module.
#[derive(Default)]
pub struct VictimIndex {
    classes: Vec<BTreeSet<(u64, SegmentId)>>,
    kept: Vec<Option<Kept>>,
}

impl VictimIndex {
    /// A segment is a candidate from now on, filled at operation `filled` and live to this part; with `None` it is none.
    pub fn update(&mut self, id: SegmentId, candidate: Option<(f64, u64)>) {
        let index = id.0 as usize;
        if self.kept.len() <= index {
            self.kept.resize(index + 1, None);
        }
        if self.classes.is_empty() {
            self.classes.resize_with(CLASSES as usize, BTreeSet::new);
        }
        let kept = candidate.filter(|(live, _)| *live <= 1.0 - GAIN_MIN).map(|(live, filled)| Kept {
            class: class_of(live),
            live,
            filled,
        });
        let old = std::mem::replace(&mut self.kept[index], kept);
        let place = |kept: &Kept| (kept.class, kept.filled);
        if old.as_ref().map(place) == kept.as_ref().map(place) {
            return;
        }
        if let Some(old) = old {
            self.classes[old.class].remove(&(old.filled, id));
        }
        if let Some(new) = kept {
            self.classes[new.class].insert((new.filled, id));
        }
    }

    /// When a segment has fewer live blocks than this it is in another class than with `live` of them: it is to be told
    /// again. `whole`: how many would make its live part 1.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "blocks of a segment"
    )]
    pub fn mark(live: u32, whole: f64) -> u32 {
        let share = f64::from(live) / whole.max(1.0);
        if share > 1.0 - GAIN_MIN {
            // as soon as it gains anything
            return ((1.0 - GAIN_MIN) * whole).floor().max(0.0) as u32 + 1;
        }
        let least = class_of(share) as f64 / f64::from(CLASSES) * whole;
        (least.ceil() as u32).clamp(1, live.max(1))
    }

    /// The best `count` victims, best first: only such as gain something.
    #[must_use]
    pub fn choose(&self, policy: &dyn VictimPolicy, now: u64, count: usize) -> Vec<SegmentId> {
        let score = |id: SegmentId| {
            let kept = self.kept.get(id.0 as usize).copied().flatten();
            kept.map_or(f64::MIN, |kept| {
                policy.score(&Candidate { live: kept.live, age: now.saturating_sub(kept.filled) })
            })
        };
        let mut lines: Vec<_> = (self.classes.iter())
            .map(|class| class.iter().map(|(_, id)| (score(*id), *id)).peekable())
            .filter_map(|mut line| line.peek().is_some().then_some(line))
            .collect();
        let mut victims = Vec::with_capacity(count.min(self.kept.len()));
        while victims.len() < count {
            let heads = lines.iter_mut().enumerate().filter_map(|(at, line)| Some((line.peek()?.0, at)));
            let Some((_, best)) = heads.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))) else { break };
            victims.extend(lines[best].next().map(|(_, id)| id));
        }
        victims
    }

    /// The class that a segment is in, if it is a candidate.
    #[must_use]
    pub fn class(&self, id: SegmentId) -> Option<usize> {
        self.kept.get(id.0 as usize).copied().flatten().map(|kept| kept.class)
    }

    /// How many segments are candidates.
    #[must_use]
    pub fn len(&self) -> usize {
        self.classes.iter().map(BTreeSet::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.classes.iter().all(BTreeSet::is_empty)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 256")]
fn class_of(live: f64) -> usize {
    ((live * f64::from(CLASSES)) as usize).min(CLASSES as usize - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cleaner::{CostBenefit, Fifo, Greedy};

    fn of(candidates: &[(u32, f64, u64)]) -> VictimIndex {
        let mut index = VictimIndex::default();
        candidates.iter().for_each(|(id, live, filled)| index.update(SegmentId(*id), Some((*live, *filled))));
        index
    }

    fn ids(index: &VictimIndex, policy: &dyn VictimPolicy, count: usize) -> Vec<u32> {
        index.choose(policy, 10_000, count).into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn each_policy_has_its_order_and_none_takes_what_gains_nothing() {
        let mut index = of(&[(0, 0.9, 9000), (1, 0.5, 9900), (2, 0.2, 9990), (3, 0.99, 1000), (4, 0.7, 9600)]);
        assert_eq!(ids(&index, &Greedy, 9), [2, 1, 4, 0]);
        assert_eq!(ids(&index, &Fifo, 9), [0, 4, 1, 2]);
        assert_eq!(ids(&index, &CostBenefit, 9), [4, 1, 2, 0]);
        assert_eq!(ids(&index, &CostBenefit, 2), [4, 1]);
        assert_eq!(ids(&index, &Greedy, 0), [0; 0]);
        index.update(SegmentId(2), None);
        index.update(SegmentId(3), Some((0.1, 1000)));
        assert_eq!(ids(&index, &Greedy, 9), [3, 1, 4, 0]);
        assert_eq!(index.len(), 4);
    }

    #[test]
    fn a_mark_is_where_the_class_changes() {
        for (whole, live) in [(2048.0, 1500), (2048.0, 9), (100.0, 50), (2048.0, 0), (5000.0, 4843)] {
            let mark = VictimIndex::mark(live, whole);
            let class = |live: u32| class_of(f64::from(live) / whole);
            assert!((mark..=live).all(|n| class(n) == class(live)), "{live} of {whole}: {mark}");
            assert!(mark == 1 || class(mark - 1) < class(live), "{live} of {whole}: {mark}");
        }
        // none before it gains something
        let mark = VictimIndex::mark(2048, 2048.0);
        assert!(f64::from(mark - 1) / 2048.0 <= 1.0 - GAIN_MIN && f64::from(mark) / 2048.0 > 1.0 - GAIN_MIN);
    }

    proptest! {
        #[test]
        fn no_segment_left_out_is_much_better(
            segments in proptest::collection::vec((0.0..1.0f64, 0..9_999u64), 1..300),
            count in 1..20usize,
        ) {
            let all: Vec<_> = (0..).zip(&segments).map(|(id, (live, filled))| (id, *live, *filled)).collect();
            let index = of(&all);
            let score = |(_, live, filled): &(u32, f64, u64)| {
                CostBenefit.score(&Candidate { live: *live, age: 10_000 - filled })
            };
            let chosen = ids(&index, &CostBenefit, count);
            let gains = all.iter().filter(|(_, live, _)| *live <= 1.0 - GAIN_MIN);
            let (taken, left): (Vec<_>, Vec<_>) = gains.partition(|(id, ..)| chosen.contains(id));
            prop_assert!(taken.len() == count || left.is_empty());
            let worst = taken.iter().map(&score).fold(f64::MAX, f64::min);
            let best = left.iter().map(score).fold(0.0, f64::max);
            // within a class the free part differs by an eighth at most, where segments are nearly full
            prop_assert!(best <= worst * 1.14, "{best} was left for {worst}");
        }
    }
}
