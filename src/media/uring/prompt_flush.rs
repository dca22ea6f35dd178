//! Which flushes are made by the thread itself instead of by the ring.
//!
//! The kernel gives an fsync from a ring to a thread of its own. That costs two wake-ups, which on a medium that flushes in
//! less than a tenth of a millisecond is a quarter of the whole: on a small virtual machine 7,800 synchronous writes of
//! 4 KiB a second against 10,000. So a flush that nothing else is under way with, on a medium that is known to flush
//! quickly, is a plain system call. It keeps whatever comes meanwhile waiting, but never longer than [`PROMPT_NS`] on average.
//!
//! **Not here:** what a flush means (`env::reactor`).

/// Flushes that take longer than this on average are left to the kernel's threads: then the wake-ups do not matter, and
/// requests that come meanwhile would wait.
const PROMPT_NS: u64 = 250_000;
/// A flush counts for one in so many in the average.
const WEIGHT: u64 = 8;

/// How long flushes take.
#[derive(Debug, Default)]
pub(super) struct FlushTimes {
    /// Moving average; 0: none has been made.
    average_ns: u64,
}

impl FlushTimes {
    /// A flush took so long.
    pub(super) fn took(&mut self, ns: u64) {
        let ns = ns.max(1);
        self.average_ns = match self.average_ns {
            0 => ns,
            average => (average * (WEIGHT - 1) + ns) / WEIGHT,
        };
    }

    /// Whether the medium is known to flush quickly.
    pub(super) fn are_prompt(&self) -> bool {
        (1..PROMPT_NS).contains(&self.average_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_medium_is_prompt_while_its_flushes_are_short() {
        let mut times = FlushTimes::default();
        assert!(!times.are_prompt(), "nothing is known yet");
        times.took(60_000);
        assert!(times.are_prompt());
        times.took(10_000_000);
        assert!(!times.are_prompt(), "a long flush counts at once");
        for _ in 0..40 {
            times.took(60_000);
        }
        assert!(times.are_prompt(), "and is forgotten in time");
    }
}
