//! Leaves read back many at a time: for write-back after a replay, and for the count of usage.
//!
//! ```text
//!   leaves not in memory ─► by place ─► neighbours in one read of up to 512 KiB ─► several reads at a time ─► installed
//! ```
//!
//! Leaves are written back oldest first, so those of a checkpoint lie side by side: reading them one by one would take a
//! device read for each 2 MiB of LBAs.
//!
//! **Invariants.** A leaf that is being read is marked, so nobody reads or makes it meanwhile; the segment is pinned (I2).
//! Bounded reads (I10). **Failure:** a leaf that does not verify here stays unknown; who needs it reads it by itself and
//! gets the error. **Not here:** leaves on demand, write-back (`leaves`).

use std::collections::VecDeque;
use std::rc::Rc;

use super::Core;
use crate::buf::AlignedBuf;
use crate::format::record::RecordHeader;
use crate::format::root::LeafImage;
use crate::format::{Entry, Location, Tier};
use crate::limits::{GRANULE, SLOT_BYTES};
use crate::map::Leaf;
use crate::units::NamespaceId;

/// Reads under way.
const DEPTH: usize = 8;
/// Bytes of a read at most.
const READ_BYTES_MAX: u64 = SLOT_BYTES as u64;
/// Bytes between two leaves that are read for the sake of one read.
const GAP_BYTES_MAX: u64 = 32 << 10;

/// A leaf that is to be read.
struct Wanted {
    id: NamespaceId,
    leaf: u32,
    image: LeafImage,
    location: Location,
    /// Its first byte and the one behind it, in whole blocks of the medium.
    bytes: (u64, u64),
}

impl Core {
    /// Reads those of `leaves` that are not in memory and verify.
    pub(crate) async fn load_leaves(self: &Rc<Self>, leaves: Vec<(NamespaceId, u32)>) {
        let mut runs: VecDeque<_> = runs(self.mark_wanted(leaves)).into();
        let mut reading = VecDeque::with_capacity(DEPTH);
        loop {
            while reading.len() < DEPTH
                && let Some(run) = runs.pop_front()
            {
                let core = self.clone();
                reading.push_back(self.env.spawner.spawn(async move { core.load_run(run).await }));
            }
            let Some(task) = reading.pop_front() else { break };
            task.await;
        }
    }

    /// Marks the leaves that nobody is reading, and pins their segments.
    fn mark_wanted(&self, leaves: Vec<(NamespaceId, u32)>) -> Vec<Wanted> {
        let block = u64::from(self.media.block());
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let mut all = Vec::with_capacity(leaves.len());
        for (id, leaf) in leaves {
            let Some(directory) = state.namespaces.get(&id).map(|n| &n.directory) else { continue };
            let Some(slot) = directory.slot(leaf).filter(|_| directory.needs_load(leaf)) else { continue };
            let image = slot.image;
            if image.entry == Entry::HOLE && !state.loading.contains(&(id, leaf)) {
                // it was first written in the replay window
                state.install_leaf(id, leaf, Leaf::empty());
                continue;
            }
            // images are on tier 1
            let Some(location) = image.entry.location().filter(|l| l.tier() == Tier::Ssd) else { continue };
            let staged = state.log.batches.staged(location.tier(), location.segment, location.granule).is_some();
            if staged || !state.log.segments.contains(location.segment) || !state.loading.insert((id, leaf)) {
                continue;
            }
            state.log.segments.get_mut(location.segment).pins += 1;
            let start = self.layout.segment(location.segment) + u64::from(location.granule.0 * GRANULE);
            let end = (start & !511) + u64::from(location.sectors) * 512;
            let bytes = (start & !(block - 1), end.next_multiple_of(block));
            all.push(Wanted { id, leaf, image, location, bytes });
        }
        all.sort_unstable_by_key(|wanted| wanted.bytes.0);
        all
    }

    async fn load_run(self: Rc<Self>, run: Vec<Wanted>) {
        let from = run.first().map_or(0, |first| first.bytes.0);
        let to = run.iter().map(|wanted| wanted.bytes.1).max().unwrap_or(from);
        let len = usize::try_from(to - from).unwrap_or(usize::MAX);
        let (buf, result) = self.media.read(from, AlignedBuf::zeroed(len), len).await;
        let mut state = self.state.borrow_mut();
        for Wanted { id, leaf, image, location, .. } in run {
            state.log.segments.get_mut(location.segment).pins -= 1;
            state.loading.remove(&(id, leaf));
            let start = self.layout.segment(location.segment) + u64::from(location.granule.0 * GRANULE);
            let at = usize::try_from(start - from).unwrap_or(usize::MAX);
            let place = state.log.place(location.tier(), location.segment, location.granule);
            let record = buf.get(at..).filter(|_| result.is_ok()).unwrap_or_default();
            let found = RecordHeader::decode_whole(record, &place)
                .and_then(|(header, payload)| self.open_leaf((id, leaf), &image, &header, payload, &state));
            if let Ok(found) = found {
                state.install_leaf(id, leaf, found);
            }
        }
        drop(state);
        self.loaded.notify_all();
    }
}

/// Neighbours together. `all` is in order of place.
fn runs(all: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    let mut runs: Vec<Vec<Wanted>> = Vec::new();
    for wanted in all {
        if let Some(run) = runs.last_mut()
            && let (Some(first), Some(last)) = (run.first(), run.last())
            && wanted.bytes.0 <= last.bytes.1 + GAP_BYTES_MAX
            && wanted.bytes.1 <= first.bytes.0 + READ_BYTES_MAX
        {
            run.push(wanted);
        } else {
            runs.push(vec![wanted]);
        }
    }
    runs
}
