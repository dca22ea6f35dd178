//! Planned misbehaviour of a medium: which operation, where, how often.
//!
//! A plan is bounded to what the format promises to survive or to report, so that every red run is a bug.

use std::ops::Range;

/// How a medium misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A read ends in an error.
    ReadError,
    /// A write ends in an error; any of its sectors may have landed.
    WriteError,
    /// A flush ends in an error; what it covered may be lost.
    FlushError,
    /// Taking space ends in an error.
    NoSpace,
    /// One bit of a write is stored wrong, and its end is reported as good.
    BitFlip,
    /// A write lands elsewhere in the fault's range, and its end is reported as good.
    Misdirected,
    /// A write lands nowhere, and its end is reported as good.
    Lost,
    /// Only some sectors of a write land, and its end is reported as good.
    Torn,
}

/// What an operation is, for faults to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
    /// An allocation.
    Allocate,
    /// A discard.
    Discard,
}

impl FaultKind {
    fn hits(self, op: OpKind) -> bool {
        match self {
            Self::ReadError => op == OpKind::Read,
            Self::FlushError => op == OpKind::Flush,
            Self::NoSpace => op == OpKind::Allocate,
            Self::WriteError | Self::BitFlip | Self::Misdirected | Self::Lost | Self::Torn => op == OpKind::Write,
        }
    }
}

/// One planned fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// On which medium (index of its `FileId`).
    pub file: usize,
    /// Bytes that an operation must touch to be hit. A flush touches everything.
    pub range: Range<u64>,
    /// So many matching operations are spared first.
    pub skip: u64,
    /// So many are hit then.
    pub times: u64,
}

/// The faults of a run.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    faults: Vec<Fault>,
    hits: u64,
}

impl FaultPlan {
    /// Plans one more.
    pub fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.faults.clear();
    }

    /// How many operations were hit.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// What happens to this operation, and in which range; counts it.
    pub fn strike(&mut self, op: OpKind, file: usize, touched: &Range<u64>) -> Option<(FaultKind, Range<u64>)> {
        let mut struck = None;
        for fault in &mut self.faults {
            let touches = op == OpKind::Flush || (fault.range.start < touched.end && touched.start < fault.range.end);
            if fault.file != file || !fault.kind.hits(op) || !touches {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 && struck.is_none() {
                fault.times -= 1;
                self.hits += 1;
                struck = Some((fault.kind, fault.range.clone()));
            }
        }
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_the_nth_matching_operation_only() {
        let mut plan = FaultPlan::default();
        plan.add(Fault { kind: FaultKind::Lost, file: 0, range: 4096..8192, skip: 1, times: 1 });
        assert_eq!(plan.strike(OpKind::Write, 0, &(0..4096)), None, "outside the range");
        assert_eq!(plan.strike(OpKind::Write, 1, &(4096..8192)), None, "another medium");
        assert_eq!(plan.strike(OpKind::Read, 0, &(4096..8192)), None, "another operation");
        assert_eq!(plan.strike(OpKind::Write, 0, &(0..4097)), None, "spared");
        assert_eq!(plan.strike(OpKind::Write, 0, &(8191..9000)), Some((FaultKind::Lost, 4096..8192)));
        assert_eq!(plan.strike(OpKind::Write, 0, &(4096..8192)), None, "once only");
        assert_eq!(plan.hits(), 1);
    }
}
