//! How long a thread looks for work before it sleeps: waking it takes tens of microseconds, as long as a commit.
//!
//! ```text
//!   work came within the most ─► look that long next time
//!   it took longer            ─► look half as long, and at last not at all
//! ```
//! As the kernel's halt polling does it (linux/Documentation/virt/guest-halt-polling.rst): a thread whose work comes close upon
//! its last answer never sleeps, one that waits long seldom looks.
//!
//! **Invariants.** Pure. What it costs is processor time, at most as long as the most before each sleep. **Not here:** the
//! clock and the looking ([`super::executor`]).

/// Below this (ns) looking is not worth beginning.
const LEAST_NS: u64 = 2_000;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct BusyPoll {
    most_ns: u64,
    span_ns: u64,
}

impl BusyPoll {
    /// At most so many nanoseconds at a time; 0 is never.
    #[must_use]
    pub fn new(most_ns: u64) -> Self {
        Self { most_ns, span_ns: 0 }
    }

    /// Whether it ever looks.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.most_ns > 0
    }

    /// How long to look now, in nanoseconds.
    #[must_use]
    pub fn span_ns(&self) -> u64 {
        self.span_ns
    }

    /// What follows from that work came so long after there was none any more.
    #[must_use]
    pub fn after(self, ns: u64) -> Self {
        let span_ns = if ns <= self.most_ns { self.most_ns } else { self.span_ns / 2 };
        Self { span_ns: if span_ns < LEAST_NS { 0 } else { span_ns }, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_as_long_as_that_pays() {
        let poll = BusyPoll::new(50_000);
        assert_eq!(poll.span_ns(), 0, "nothing is known");
        let poll = poll.after(49_000);
        assert_eq!(poll.span_ns(), 50_000);
        let poll = poll.after(1_000_000);
        assert_eq!(poll.span_ns(), 25_000);
        let poll = (0..4).fold(poll, |poll, _| poll.after(1_000_000));
        assert_eq!(poll.span_ns(), 0, "it never pays");
        assert_eq!(poll.after(50_000).span_ns(), 50_000);
    }

    #[test]
    fn with_no_time_it_never_looks() {
        assert!(!BusyPoll::new(0).is_wanted() && BusyPoll::new(1).is_wanted());
        assert_eq!(BusyPoll::new(0).after(0).span_ns(), 0);
    }
}
