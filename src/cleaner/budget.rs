//! A share of one CPU, as time that may be spent.
//!
//! ```text
//!   time that passes × percent ─► credit, up to a little saved ─► work ─► what it took is taken from the credit, also below zero
//! ```
//!
//! **Invariants.** Pure. Over any length of time no more is spent than the share of it, what was saved, and one piece of work.

/// CPU time that may be saved up: what a few groups of blocks take.
const CREDIT_MAX_NS: i64 = 2_000_000;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    percent: u8,
    credit_ns: i64,
    at_ns: u64,
}

impl Budget {
    /// A share, from `now_ns` on. 0 percent is none.
    #[must_use]
    pub fn new(percent: u8, now_ns: u64) -> Self {
        Self { percent, credit_ns: 0, at_ns: now_ns }
    }

    /// The share.
    #[must_use]
    pub fn percent(&self) -> u8 {
        self.percent
    }

    /// How long until there is time to be spent, in nanoseconds; 0: there is some. `None`: there never is.
    pub fn wait_ns(&mut self, now_ns: u64) -> Option<u64> {
        let percent = u64::from(self.percent);
        if percent == 0 {
            return None;
        }
        // what a percent does not divide stays for the next look
        let hundreds = now_ns.saturating_sub(self.at_ns) / 100;
        self.at_ns += hundreds * 100;
        let earned = i64::try_from(hundreds.saturating_mul(percent)).unwrap_or(CREDIT_MAX_NS);
        self.credit_ns = self.credit_ns.saturating_add(earned).min(CREDIT_MAX_NS);
        Some(if self.credit_ns > 0 { 0 } else { (self.credit_ns.unsigned_abs() + 1) * 100 / percent })
    }

    /// So much CPU time was spent.
    pub fn spend(&mut self, ns: u64) {
        self.credit_ns = self.credit_ns.saturating_sub(i64::try_from(ns).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_share_is_spent() {
        for (percent, work) in [(1, 250_000), (20, 250_000), (20, 9_000_000), (100, 30_000)] {
            let mut budget = Budget::new(percent, 5_000);
            let (mut now, mut spent) = (5_000, 0);
            // looked at very often, as a cleaner that is busy with other things does
            while now < 10_000_000_000 {
                match budget.wait_ns(now) {
                    Some(0) => {
                        budget.spend(work);
                        (now, spent) = (now + work, spent + work);
                    }
                    Some(wait) => now += (wait / 3).clamp(130, 5_000_000),
                    None => unreachable!("there is a share"),
                }
            }
            let share = now / 100 * u64::from(percent);
            assert!(spent <= share + 2_000_000 + work, "{percent} %: {spent} of {share}");
            assert!(spent >= share * 9 / 10 - work, "{percent} %: {spent} of {share}");
        }
    }

    #[test]
    fn what_is_not_used_is_not_saved_for_long() {
        let mut budget = Budget::new(50, 0);
        assert_eq!(budget.wait_ns(u64::MAX), Some(0));
        budget.spend(10_000_000);
        assert_eq!(budget.wait_ns(u64::MAX), Some((8_000_000 + 1) * 2));
        assert_eq!(Budget::new(0, 0).wait_ns(1 << 40), None);
    }
}
