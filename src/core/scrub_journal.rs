//! A scrub of tier 0: every fragment that the map points to is read back from its segment and verified.
//!
//! ```text
//!   a segment, pinned, read whole ─► walked ─► records ─► those the map points to ─► verified
//!                                      └─ fewer live blocks than the map counts there ─► the map asked which
//! ```
//!
//! A damaged batch hides its records from a walk; what the map has there is then named from the map.
//!
//! **Invariants.** Those of [`super::scrub`]. **Failure** to read a segment is damage of all that the map has in it.

use std::rc::Rc;

use super::Core;
use crate::buf::AlignedBuf;
use crate::format::journal::journal_segment;
use crate::format::record::{Place, RecordHeader};
use crate::format::{Location, Tier};
use crate::limits::{GRANULE, JOURNAL_SEGMENT_BYTES};
use crate::log::walk::walk_all;
use crate::log::{SegmentState, Streams};
use crate::map::{Leaf, first_lba};
use crate::units::{Granule, Lba, LbaRange, NamespaceId, SegmentId};

impl Core {
    pub(super) async fn scrub_journal_segment(self: &Rc<Self>, id: SegmentId) {
        let (place, live, open, last) = {
            let state = self.state.borrow();
            // the journal may have been taken away, or be another one by now
            if !state.log.journal.contains(id) || state.log.journal.get(id).live == 0 {
                return;
            }
            let info = state.log.journal.get(id);
            let open = (info.state == SegmentState::Open).then_some(info.end);
            (state.log.place(Tier::Pmem, id, Granule(0)), info.live, open, state.log.last_op())
        };
        let Some(tier0) = self.tier0() else { return };
        // pinned before the wait: a pinned journal is not exchanged, and what `open` says is of this generation
        self.pin(Tier::Pmem, id);
        // of an open segment what was closed by now is looked at, once it is written; of a sealed one the last batch may be
        // on its way
        if self.wait_durable(Streams::Journal, last).await.is_err() {
            self.unpin(Tier::Pmem, id);
            return;
        }
        let (began, len) = (self.env.now_ns(), JOURNAL_SEGMENT_BYTES as usize);
        let (mut bytes, result) = tier0.journal.read(journal_segment(id), AlignedBuf::zeroed(len), len).await;
        if let Err(error) = result {
            tracing::error!("scrub: segment {id} of the journal: {error}");
            bytes.fill(0);
        }
        // behind it a batch may be half written
        bytes[open.unwrap_or(JOURNAL_SEGMENT_BYTES) as usize..len].fill(0);
        self.scrub_rests(began, len).await;
        let mut found = 0;
        for record in walk_all(&bytes, &place) {
            if let Ok(known) = self.know_fragment(&record).await {
                found += self.live_blocks(&record).count_ones();
                drop(known);
            }
            self.scrub_record(&record, &bytes, &place).await;
        }
        // more may have been overwritten meanwhile, and nothing is added to a sealed one
        let live = live.min(self.state.borrow().log.journal.get(id).live);
        if open.is_none() && found < live {
            self.scrub_hidden(&bytes, &place).await;
        }
        self.unpin(Tier::Pmem, id);
    }

    /// Names the blocks that the map has in a segment of tier 0 and that no record there holds.
    async fn scrub_hidden(self: &Rc<Self>, bytes: &[u8], place: &Place) {
        let mut hidden: Vec<(NamespaceId, Lba, Location)> = Vec::new();
        for (id, leaf) in self.leaves_on_journal() {
            let range = LbaRange { start: first_lba(leaf), count: 1 };
            // a leaf that cannot be read has been, or will be, found by itself
            let Ok(_known) = self.know(id, range).await else { continue };
            let state = self.state.borrow();
            let slot = state.namespaces.get(&id).and_then(|n| n.directory.slot(leaf));
            let entries = slot.and_then(|slot| slot.leaf.as_ref()).into_iter().flat_map(Leaf::iter).enumerate();
            let located = entries.filter_map(|(at, entry)| entry.location().map(|location| (at, location)));
            let here = located.filter(|(_, l)| (l.tier(), l.segment) == (place.tier, place.segment));
            hidden.extend(here.map(|(at, location)| (id, Lba(first_lba(leaf).0 + at as u64), location)));
        }
        let walked = walk_all(bytes, place);
        let is_walked = |granule: Granule| walked.iter().any(|r| super::scrub::granule_of(r) == Some(granule));
        for (id, lba, location) in hidden.into_iter().filter(|(_, _, l)| !is_walked(l.granule)) {
            let found = bytes.get((location.granule.0 * GRANULE) as usize..).unwrap_or_default();
            let verified = RecordHeader::decode_whole(found, &place.at(location.granule));
            let verified = verified.and_then(|(header, _)| header.check_fragment(id, lba, &location));
            if let Err(error) = verified {
                self.stats.corrupt.add(1);
                let at = (place.tier, place.segment, location.granule);
                self.scrub_found(Some(id), at, Some(lba.0), 1, error.to_string());
            }
        }
    }

    /// The leaves that may have blocks on tier 0.
    fn leaves_on_journal(&self) -> Vec<(NamespaceId, u32)> {
        let state = self.state.borrow();
        let namespaces = state.namespaces.iter().filter(|(_, namespace)| namespace.on_journal > 0);
        let leaves = namespaces.flat_map(|(id, n)| n.directory.iter().map(|(leaf, slot)| (*id, leaf, slot)));
        leaves.filter(|(_, _, slot)| slot.image.journaled).map(|(id, leaf, _)| (id, leaf)).collect()
    }
}
