//! What operation *n* is.

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;

/// Every so many operations one is a mark.
pub const MARK_EVERY: u64 = 40;

/// Consecutive blocks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first block.
    pub start: u64,
    /// How many.
    pub count: u64,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes the blocks of a range.
    Write {
        /// Where.
        range: Range,
        /// Durable by itself when it is complete (FUA).
        forced: bool,
    },
    /// Makes a range zeros.
    Zero(Range),
    /// Makes everything before it durable.
    Flush,
    /// Says that everything before it is complete.
    Mark,
}

/// An endless sequence of operations, given by its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What tells this sequence from others.
    pub seed: u64,
    /// Blocks of the device that are used.
    pub block_count: u64,
}

impl Range {
    /// Whether block `lba` is in it.
    #[must_use]
    pub fn contains(self, lba: u64) -> bool {
        (self.start..self.start + self.count).contains(&lba)
    }

    /// Whether a request for it is promised to be atomic.
    #[must_use]
    pub fn is_atomic(self) -> bool {
        self.count.is_power_of_two() && self.count <= 16 && self.start.is_multiple_of(self.count)
    }
}

impl Op {
    /// The blocks it changes.
    #[must_use]
    pub fn range(self) -> Option<Range> {
        match self {
            Self::Write { range, .. } | Self::Zero(range) => Some(range),
            Self::Flush | Self::Mark => None,
        }
    }
}

impl Plan {
    /// Operation `number`.
    #[must_use]
    pub fn op(&self, number: u64) -> Op {
        if number % MARK_EVERY == MARK_EVERY - 1 {
            return Op::Mark;
        }
        let mut random = fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match random.u8(0..100) {
            0..20 => Op::Flush,
            20..28 => Op::Zero(self.range(&mut random)),
            28..40 => Op::Write { range: self.range(&mut random), forced: true },
            _ => Op::Write { range: self.range(&mut random), forced: false },
        }
    }

    /// Half of the ranges are small and in a small hot area, so that blocks are overwritten before they are flushed.
    fn range(&self, random: &mut fastrand::Rng) -> Range {
        let count = if random.bool() { 1 << random.u32(0..5) } else { random.u64(1..=24) };
        let area = if random.bool() { self.block_count / 16 } else { self.block_count };
        let start = random.u64(0..area.max(count + 1) - count);
        let start = if count.is_power_of_two() { start / count * count } else { start };
        Range { start, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_the_same_every_time_and_has_every_kind_of_operation() {
        let plan = Plan { seed: 7, block_count: 2048 };
        let (mut atomic, mut forced, mut zeros, mut flushes, mut marks) = (0, 0, 0, 0, 0);
        for number in 0..4000 {
            let op = plan.op(number);
            assert_eq!(op, plan.op(number));
            if let Some(range) = op.range() {
                assert!(range.count > 0 && range.start + range.count <= plan.block_count, "{range:?}");
                atomic += u32::from(range.is_atomic() && range.count > 1);
            }
            match op {
                Op::Write { forced: true, .. } => forced += 1,
                Op::Zero(_) => zeros += 1,
                Op::Flush => flushes += 1,
                Op::Mark => marks += 1,
                Op::Write { .. } => {}
            }
        }
        assert_eq!(marks, 100);
        assert!(atomic > 500 && forced > 300 && zeros > 200 && flushes > 500, "{atomic} {forced} {zeros} {flushes}");
    }
}
