//! What the last minutes were like: a few readings of counters, the oldest of which is taken from the newest.
//!
//! **Invariants.** A bounded number of readings (I10). **Not here:** the counters (`stats`), who takes the readings
//! (`checkpoint`).

use std::cell::RefCell;
use std::collections::VecDeque;

/// Readings kept: with one each five seconds those of the last five minutes.
const READINGS_MAX: usize = 61;

/// Counters at some time, since the pool was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// When, in ns of the environment's clock.
    pub at_ns: u64,
    /// Bytes written by the host.
    pub host_written: u64,
    /// Payload bytes stored for them.
    pub stored: u64,
    /// Bytes written to the medium.
    pub media_written: u64,
}

/// The readings.
#[derive(Debug, Default)]
pub struct Recent(RefCell<VecDeque<Reading>>);

impl Recent {
    /// Keeps a reading.
    pub fn push(&self, reading: Reading) {
        let mut readings = self.0.borrow_mut();
        if readings.len() == READINGS_MAX {
            readings.pop_front();
        }
        readings.push_back(reading);
    }

    /// What happened between the oldest reading and `now`; `at_ns` is how long that is. Everything, if none was taken yet.
    #[must_use]
    pub fn until(&self, now: Reading) -> Reading {
        let then = self.0.borrow().front().copied().unwrap_or_default();
        Reading {
            at_ns: now.at_ns.saturating_sub(then.at_ns),
            host_written: now.host_written - then.host_written,
            stored: now.stored - then.stored,
            media_written: now.media_written - then.media_written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(n: u64) -> Reading {
        Reading { at_ns: n * 5, host_written: n * 100, stored: n * 50, media_written: n * 70 }
    }

    #[test]
    fn only_the_last_minutes_count() {
        let recent = Recent::default();
        assert_eq!(recent.until(reading(3)), reading(3), "nothing was read before: all of it");
        (10..200).for_each(|n| recent.push(reading(n)));
        assert_eq!(recent.until(reading(200)), reading(61));
    }
}
