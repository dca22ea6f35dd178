//! What cleaning a segment would gain: guessed from what is counted, then from a look at each of its records.
//!
//! **Invariants.** A victim that gains nothing is never cleaned, so cleaning ends. Others have their turn while records are
//! looked at. **Failure:** a record that does not verify, or whose leaf cannot be read, counts as nothing.
//!
//! **Not here:** moving what is live (`relocate`).

use std::rc::Rc;

use super::Core;
use super::relocate::Unpack;
use crate::cleaner::pace::PRESSURE_MAX;
use crate::cleaner::victim::GAIN_MIN;
use crate::env::sync::yield_now;
use crate::format::Codec;
use crate::format::record::{RecordBody, RecordHeader, record_bytes};
use crate::format::summary::{Change, SUMMARY_ENTRY_BYTES, SummaryEntry};
use crate::limits::{BLOCK_SIZE, GRANULE};
use crate::log::SegmentInfo;
use crate::units::{Granule, SegmentId};

/// Records surveyed before others have their turn.
const SURVEYED: usize = 32;

/// What is to be had of a victim.
#[derive(Default)]
pub(super) struct Survey {
    /// Records with live blocks.
    pub(super) live: Vec<SummaryEntry>,
    /// Blocks in it.
    pub(super) total: u32,
    /// Bytes of its records, with what the summary says of them.
    pub(super) bytes: u64,
    /// Of these what would be moved, when only fragments at least half dead are unpacked.
    half: u64,
    /// The same when all partly dead ones are.
    partly: u64,
}

impl Core {
    /// What cleaning a segment gains, as far as that is known before it is read.
    pub(super) fn expected_gain(&self, id: SegmentId) -> u64 {
        let bytes = self.layout.segment_bytes;
        let live = live_share(self.state.borrow().log.segments.get(id), usual_blocks(bytes), bytes);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 4 MiB")]
        let gain = ((1.0 - live) * f64::from(bytes)) as u64;
        gain
    }

    /// How a surveyed segment is best cleaned, and the bytes that it then gains; `None` when it is not worth it.
    pub(super) fn gain(&self, survey: &Survey) -> Option<(Unpack, u64)> {
        let whole = u64::from(self.layout.segment_bytes);
        let (half, partly) = (whole.saturating_sub(survey.half), whole.saturating_sub(survey.partly));
        let available = self.state.borrow().log.segments.available();
        let is_pressed = self.cleaner.pacer.borrow().pressure(available) * 2 >= PRESSURE_MAX;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let pays = |gain: u64| gain as f64 >= GAIN_MIN * whole as f64;
        if pays(half) && half * 2 >= partly && !is_pressed {
            Some((Unpack::HalfDead, half))
        } else {
            pays(partly).then_some((Unpack::PartlyDead, partly))
        }
    }

    /// Looks at what is live, for which `advance` is gained as far as writers are concerned.
    pub(super) async fn survey(self: &Rc<Self>, records: Vec<SummaryEntry>, bytes: &[u8], advance: u64) -> Survey {
        let mut survey = Survey::default();
        let looks = records.len().div_ceil(SURVEYED).max(1) as u64;
        for (index, record) in records.into_iter().enumerate() {
            if index % SURVEYED == 0 {
                self.credit(advance / looks);
                yield_now().await;
            }
            let Change::Fragment { entry, .. } = record.change else { continue };
            let granule = entry.location().map_or(Granule(0), |l| l.granule);
            let found = bytes.get((granule.0 * GRANULE) as usize..).unwrap_or_default();
            let header = RecordHeader::decode(found).map(|(header, _)| header);
            let Ok(RecordHeader { stored, body: RecordBody::Fragment { codec, count, .. }, .. }) = header else {
                continue;
            };
            survey.total += u32::from(count);
            let taken = (record_bytes(usize::from(stored)) + SUMMARY_ENTRY_BYTES) as u64;
            survey.bytes += taken;
            let Ok(_known) = self.know_fragment(&record).await else { continue };
            let live = self.live_blocks(&record);
            if live == 0 {
                continue;
            }
            survey.live.push(record);
            let part =
                if codec == Codec::Zero { taken } else { taken * u64::from(live.count_ones()) / u64::from(count) };
            survey.half += if Unpack::HalfDead.applies(count, live) { part } else { taken };
            survey.partly += part;
        }
        survey
    }
}

/// Blocks of a segment that was not read since the pool was opened: compressed two to one.
pub(super) fn usual_blocks(segment_bytes: u32) -> u32 {
    segment_bytes / BLOCK_SIZE * 2
}

/// The live part of a segment: of what can be dropped from it, and of its space.
pub(super) fn live_share(info: &SegmentInfo, usual: u32, segment_bytes: u32) -> f64 {
    let total = if info.total == 0 { usual } else { info.total };
    let bytes = if info.bytes == 0 { segment_bytes } else { info.bytes };
    (f64::from(info.live) / f64::from(total.max(info.live)) * f64::from(bytes) / f64::from(segment_bytes)).min(1.0)
}
