//! How full a pool is, and who is told.
//!
//! Fullness is the share of the pool's segments that live blocks take, when all that is dead has been cleaned away. Free
//! segments would not tell: the cleaner keeps few of them, whatever is live. Those that the medium has no space for are
//! no part of the pool here.
//!
//! It is looked at with every root; a watermark that is crossed is logged once. **Not here:** what a full pool refuses (`room`).

use std::cell::Cell;

use serde::{Deserialize, Serialize};

use super::Core;
use super::room::RESERVE_SEGMENTS;
use super::survey::{live_share, usual_blocks};
use crate::log::SegmentState;

/// How full a pool is, as far as people need to care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fullness {
    /// There is room.
    #[default]
    Good,
    /// More than the lower watermark is in use.
    Low,
    /// More than the upper watermark is in use: soon writes are refused.
    Critical,
}

/// Percent of the pool in use from which on people are warned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Space is low.
    pub low: u8,
    /// Space is critical.
    pub critical: u8,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { low: 80, critical: 95 }
    }
}

impl Watermarks {
    /// What so much in use means.
    #[must_use]
    pub fn judge(&self, percent: f64) -> Fullness {
        if percent >= f64::from(self.critical) {
            Fullness::Critical
        } else if percent >= f64::from(self.low) {
            Fullness::Low
        } else {
            Fullness::Good
        }
    }
}

/// The watermarks of a core, and the last judgement.
#[derive(Default)]
pub(super) struct Watch {
    marks: Cell<Watermarks>,
    last: Cell<Fullness>,
}

impl Core {
    /// Sets the watermarks.
    pub fn set_watermarks(&self, marks: Watermarks) {
        self.watch.marks.set(marks);
    }

    /// Percent of the pool, as far as the medium has space for it, that live blocks take, 100 when no more can be
    /// written; `None` while that is being counted.
    #[must_use]
    pub fn percent_used(&self) -> Option<f64> {
        let live = self.live_segments()?;
        #[expect(clippy::cast_precision_loss, reason = "at most 2^24 segments")]
        let usable = self.state.borrow().log.segments.usable_count().saturating_sub(RESERVE_SEGMENTS).max(1) as f64;
        Some((live * 100.0 / usable).min(100.0))
    }

    /// Segments that live blocks would take, were all that is dead cleaned away; `None` while that is being counted.
    pub(super) fn live_segments(&self) -> Option<f64> {
        let state = self.state.borrow();
        let segments = &state.log.segments;
        if !segments.usage_known() {
            return None;
        }
        let (bytes, usual) = (self.layout.segment_bytes, usual_blocks(self.layout.segment_bytes));
        let in_use = segments.iter().filter(|(_, info)| {
            !matches!(info.state, SegmentState::Free | SegmentState::Announcing | SegmentState::Announced)
        });
        Some(in_use.map(|(_, info)| live_share(info, usual, bytes)).sum())
    }

    /// How full the pool is.
    #[must_use]
    pub fn fullness(&self) -> Fullness {
        self.percent_used().map_or(self.watch.last.get(), |percent| self.judge(percent))
    }

    /// What so much in use means here. Of few usable segments those that streams have open are a large part: writes are
    /// refused before the upper watermark is reached.
    fn judge(&self, percent: f64) -> Fullness {
        let is_out = {
            let segments = &self.state.borrow().log.segments;
            segments.refused_count() > 0 && segments.available() <= RESERVE_SEGMENTS
        };
        if is_out && self.is_hopeless() { Fullness::Critical } else { self.watch.marks.get().judge(percent) }
    }

    /// Logs a watermark that was crossed.
    pub(super) fn mind_fullness(&self) {
        let Some(percent) = self.percent_used() else { return };
        let now = self.judge(percent);
        let before = self.watch.last.replace(now);
        if now == before {
            return;
        }
        match now {
            Fullness::Good => tracing::info!("{percent:.0} % of the pool is in use: there is room again"),
            Fullness::Low => tracing::warn!(
                "{percent:.0} % of the pool is in use: discard or destroy something soon, or move to a larger pool"
            ),
            Fullness::Critical => tracing::error!(
                "{percent:.0} % of the pool is in use: writes will soon fail with ENOSPC; discard or destroy something now"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_judge() {
        let marks = Watermarks { low: 70, critical: 90 };
        assert_eq!(
            [0.0, 69.9, 70.0, 89.9, 90.0, 100.0].map(|percent| marks.judge(percent)),
            [Fullness::Good, Fullness::Good, Fullness::Low, Fullness::Low, Fullness::Critical, Fullness::Critical]
        );
    }
}
