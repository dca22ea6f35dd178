//! Leaves read back many at a time: for write-back after a replay, for the count of usage, and for the account of what was
//! discarded.
//!
//! ```text
//!   leaves not in memory ─► by place ─► neighbours in one read of up to 512 KiB ─► several at a time ─► installed | counted
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

use super::{Core, State};
use crate::buf::AlignedBuf;
use crate::format::record::RecordHeader;
use crate::format::root::LeafImage;
use crate::format::{Entry, Location, Tier};
use crate::limits::{GRANULE, SLOT_BYTES};
use crate::map::Leaf;
use crate::units::{NamespaceId, OpNo};

/// Reads under way.
const DEPTH: usize = 8;
/// Bytes of a read at most.
const READ_BYTES_MAX: u64 = SLOT_BYTES as u64;
/// Bytes between two leaves that are read for the sake of one read.
const GAP_BYTES_MAX: u64 = 32 << 10;

/// A leaf that is to be read. Its segment is pinned.
pub(super) struct Wanted {
    pub id: NamespaceId,
    pub leaf: u32,
    pub image: LeafImage,
    pub location: Location,
    /// The operation that let go of it, if one did.
    pub op: OpNo,
    /// Its first byte and the one behind it, in whole blocks of the medium.
    bytes: (u64, u64),
}

impl Core {
    /// Reads those of `leaves` that are not in memory and verify; counts what they point to, and with `keep` has them stay
    /// in memory.
    pub(crate) async fn load_leaves(self: &Rc<Self>, leaves: Vec<(NamespaceId, u32)>, keep: bool) {
        let wanted = self.mark_wanted(leaves, keep);
        self.read_leaves(wanted, move |state, wanted, found| {
            state.loading.remove(&(wanted.id, wanted.leaf));
            if let Some(found) = found {
                state.install_leaf(wanted.id, wanted.leaf, wanted.image.entry, found, keep);
            }
        })
        .await;
    }

    /// Reads leaves, neighbours together, and hands each to `done`, or `None` for one that cannot be read here.
    pub(super) async fn read_leaves(
        self: &Rc<Self>,
        wanted: Vec<Wanted>,
        done: impl Fn(&mut State, &Wanted, Option<Leaf>) + Clone + 'static,
    ) {
        let mut runs: VecDeque<_> = runs(wanted).into();
        let mut reading = VecDeque::with_capacity(DEPTH);
        loop {
            while reading.len() < DEPTH
                && let Some(run) = runs.pop_front()
            {
                let (core, done) = (self.clone(), done.clone());
                reading.push_back(self.env.spawner.spawn(async move { core.read_run(run, done).await }));
            }
            let Some(task) = reading.pop_front() else { break };
            task.await;
        }
    }

    /// Marks the leaves that nobody is reading, and pins their segments.
    fn mark_wanted(&self, leaves: Vec<(NamespaceId, u32)>, keep: bool) -> Vec<Wanted> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let mut all = Vec::with_capacity(leaves.len());
        for (id, leaf) in leaves {
            let Some(directory) = state.namespaces.get(&id).map(|n| &n.directory) else { continue };
            let Some(slot) = directory.slot(leaf).filter(|_| directory.needs_load(leaf)) else { continue };
            let image = slot.image;
            if image.entry == Entry::HOLE && !state.loading.contains(&(id, leaf)) {
                // it was first written in the replay window
                state.install_leaf(id, leaf, image.entry, Leaf::default(), keep);
                continue;
            }
            let staged = image
                .entry
                .location()
                .is_none_or(|l| state.log.batches.staged(l.tier(), l.segment, l.granule).is_some());
            if !staged && state.loading.insert((id, leaf)) {
                match self.wanted(state, (id, leaf), image, OpNo(0)) {
                    Some(wanted) => all.push(wanted),
                    None => drop(state.loading.remove(&(id, leaf))),
                }
            }
        }
        all
    }

    /// A leaf to be read; pins its segment. `None` when its image can be nowhere.
    pub(super) fn wanted(
        &self,
        state: &mut State,
        (id, leaf): (NamespaceId, u32),
        image: LeafImage,
        op: OpNo,
    ) -> Option<Wanted> {
        // images are on tier 1
        let location = image.entry.location().filter(|l| l.tier() == Tier::Ssd)?;
        if !state.log.segments.contains(location.segment) {
            return None;
        }
        state.log.segments.get_mut(location.segment).pins += 1;
        let block = u64::from(self.media.block());
        let start = self.layout.segment(location.segment) + u64::from(location.granule.0 * GRANULE);
        let end = (start & !511) + u64::from(location.sectors) * 512;
        let bytes = (start & !(block - 1), end.next_multiple_of(block));
        Some(Wanted { id, leaf, image, location, op, bytes })
    }

    async fn read_run(self: Rc<Self>, run: Vec<Wanted>, done: impl Fn(&mut State, &Wanted, Option<Leaf>)) {
        let from = run.first().map_or(0, |first| first.bytes.0);
        let to = run.iter().map(|wanted| wanted.bytes.1).max().unwrap_or(from);
        let len = usize::try_from(to - from).unwrap_or(usize::MAX);
        let (buf, result) = self.media.read(from, AlignedBuf::zeroed(len), len).await;
        let mut state = self.state.borrow_mut();
        for wanted in run {
            let Wanted { id, leaf, image, location, .. } = &wanted;
            state.log.segments.get_mut(location.segment).pins -= 1;
            let start = self.layout.segment(location.segment) + u64::from(location.granule.0 * GRANULE);
            let at = usize::try_from(start - from).unwrap_or(usize::MAX);
            let place = state.log.place(location.tier(), location.segment, location.granule);
            let record = buf.get(at..).filter(|_| result.is_ok()).unwrap_or_default();
            let found = RecordHeader::decode_whole(record, &place)
                .and_then(|(header, payload)| self.open_leaf((*id, *leaf), image, &header, payload, &state));
            done(&mut state, &wanted, found.ok());
        }
        drop(state);
        self.loaded.notify_all();
    }
}

/// Neighbours together.
fn runs(mut all: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    all.sort_unstable_by_key(|wanted| wanted.bytes.0);
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
