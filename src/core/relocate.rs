//! Relocation: live blocks of a segment appended anew, so that the segment comes free. The cleaner moves them within a
//! tier with it; moving them to another tier is the same act.
//!
//! ```text
//!   Source: place + bytes ─┐
//!   records of it ─────────┼─► live? (map) ─► verified ─┬─ mostly live ─► the same ciphertext ─┬─► MOVE by compare
//!   Destination ───────────┘                            ├─ partly dead ─► unpacked, resealed ──┤
//!                                                       └─ moved before ─► its group packed ───┘
//! ```
//!
//! **How to use it.** The caller pins the source segment, has its bytes in memory (or mapped), lists its records (summary
//! or walk: what is listed wrongly or not at all does no harm, it stays where it is), and hands them to
//! [`Core::relocate`] in portions as small as foreground latency asks for. Which records are handed over, from which
//! tier, and where they go is the caller's: nothing here knows how the source was chosen. The source is free when the
//! map says so (rule 6.3: its `live` count), which needs the moves to be settled; nothing has to be undone when
//! a relocation ends early.
//!
//! **Invariants.** A MOVE takes only blocks whose entry still is the one that its record gave them, compared in the step
//! that appends it (I8, I12). Nothing is moved that does not verify at its place (I5). What is resealed gets a new seal
//! number (I7). The source must be settled, or a part of a request could survive without the rest. A caller holds
//! no buffers of the host's: writers that wait for room may have them all, and wait for us.
//!
//! **Failure.** A record that does not verify, or whose leaf cannot be read, stays and is counted as left behind. No room
//! and the latch end the relocation.
//!
//! **Not here:** which segment, how fast, when (`clean`), resealing (`unpack`, `pack`).

use std::rc::Rc;

use super::Core;
use super::pack::groups_of;
use super::resident::Known;
use super::room::Purpose;
use super::unpack::Workspace;
use crate::canary::{self, Rule};
use crate::codec::payload_hash;
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::{Place, RECORD_HEADER_BYTES, RecordBody, RecordHeader, record_bytes};
use crate::format::summary::{Change, SummaryEntry};
use crate::format::{Codec, Entry, Tier};
use crate::limits::GRANULE;
use crate::units::{Lba, LbaRange, NamespaceId};

/// A segment to move from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// Where it is (granule 0).
    pub place: Place,
    /// All of it.
    pub bytes: &'a [u8],
}

/// Where blocks are moved to, and how.
#[derive(Clone, Copy)]
pub(super) struct Destination {
    /// Decides the stream, and how much of the reserve may be taken.
    pub purpose: Purpose,
    /// Which fragments are unpacked.
    pub unpack: Unpack,
}

/// Which partly dead fragments are opened, and only their live blocks sealed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unpack {
    /// Those at least half dead: the others are moved as they are, without a key.
    HalfDead,
    /// All of them.
    PartlyDead,
}

/// What a relocation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Relocated {
    /// Live blocks moved.
    pub blocks: u64,
    /// Bytes of the records that now hold them.
    pub bytes: u64,
    /// Fragments unpacked.
    pub unpacked: u64,
    /// Records left behind: they do not verify, or nobody can tell whether they are live.
    pub left: u64,
}

/// A fragment of the source, verified.
pub(super) struct Fragment<'a> {
    /// Its record.
    pub header: RecordHeader,
    /// Blocks in it.
    pub count: u8,
    /// How it was compressed.
    pub codec: Codec,
    /// Its ciphertext.
    pub payload: &'a [u8],
    /// Hash of that.
    pub hash: u64,
    /// The entry of its first block.
    pub entry: Entry,
}

impl Unpack {
    /// Whether a fragment of which these blocks are live is unpacked.
    pub(super) fn applies(self, count: u8, live: u8) -> bool {
        let live = live.count_ones();
        match self {
            Self::HalfDead => live * 2 <= u32::from(count),
            Self::PartlyDead => live < u32::from(count),
        }
    }
}

impl Core {
    /// Moves what is live of these records of the source.
    ///
    /// # Errors
    /// No room, or the latch. What was moved by then counts in `done`.
    pub(super) async fn relocate(
        self: &Rc<Self>,
        source: &Source<'_>,
        records: &[SummaryEntry],
        destination: Destination,
        workspace: &mut Workspace,
        done: &mut Relocated,
    ) -> Result<()> {
        for record in records {
            let Change::Fragment { entry, mask, .. } = record.change else { continue };
            let Ok(_known) = self.know_fragment(record).await else {
                done.left += 1;
                continue;
            };
            let mut live = if canary::is_off(Rule::MoveByCompare) { mask } else { self.live_blocks(record) };
            if live == 0 {
                continue;
            }
            let fragment = match verified(source, record, entry) {
                Ok(fragment) => fragment,
                Err(error) => {
                    // nobody reads it now: an error for its LBAs when somebody does, and for the operator at once
                    self.lost_fragment(record.namespace, record.first, entry, error);
                    done.left += 1;
                    continue;
                }
            };
            if self.pack_around(&fragment, workspace).await? {
                live = self.live_blocks(record);
                if live == 0 {
                    continue;
                }
            }
            if fragment.codec != Codec::Zero && destination.unpack.applies(fragment.count, live) {
                match self.unpack(&fragment, live, destination, workspace).await? {
                    Some(moved) => {
                        done.blocks += moved.blocks;
                        done.bytes += moved.bytes;
                        done.unpacked += 1;
                        continue;
                    }
                    // it would not be smaller: what is dead in it is not worth another try
                    None => self.move_fragment(&fragment, live, destination, false, done).await?,
                }
            } else {
                let shrinks = fragment.codec != Codec::Zero;
                self.move_fragment(&fragment, live, destination, shrinks, done).await?;
            }
        }
        Ok(())
    }

    /// Recompresses what a fragment is a part of, if it was moved before and there is time and room for that. Returns whether
    /// anything was moved.
    async fn pack_around(self: &Rc<Self>, fragment: &Fragment<'_>, workspace: &mut Workspace) -> Result<bool> {
        let Some(bufs) = &mut workspace.pack else { return Ok(false) };
        let mut moved = 0;
        for group in groups_of(&fragment.header) {
            if fragment.codec == Codec::Zero || !self.is_due_again(&fragment.header) {
                break;
            }
            match self.pack_group(group, bufs).await {
                Ok(blocks) => moved += blocks,
                // there may be room to move it as it is
                Err(error) if error.kind() == ErrorKind::NoSpace => break,
                Err(error) => return Err(error),
            }
        }
        Ok(moved > 0)
    }

    /// Returns when the map knows the blocks of a record; `None` when there is nothing to know.
    pub(super) async fn know_fragment(self: &Rc<Self>, record: &SummaryEntry) -> Result<Option<Known<'_>>> {
        let Change::Fragment { mask, .. } = record.change else { return Ok(None) };
        let count = u64::from(u8::BITS - mask.leading_zeros()).max(1);
        match self.know(record.namespace, LbaRange { start: record.first, count }).await {
            // a namespace that is gone has nothing live
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    /// The blocks of a fragment that the map still finds there. Their leaves are known.
    pub(super) fn live_blocks(&self, record: &SummaryEntry) -> u8 {
        let Change::Fragment { entry, mask, .. } = record.change else { return 0 };
        let state = self.state.borrow();
        live_mask(&state, record.namespace, record.first, entry, mask)
    }

    /// Moves a whole fragment as it is. With `shrinks` its dead blocks count as space that may be had later.
    async fn move_fragment(
        self: &Rc<Self>,
        fragment: &Fragment<'_>,
        live: u8,
        destination: Destination,
        shrinks: bool,
        done: &mut Relocated,
    ) -> Result<()> {
        let bytes = record_bytes(fragment.payload.len());
        self.make_room(destination.purpose, bytes, 1).await?;
        let moved = self.append_move(
            &fragment.header,
            (fragment.payload, fragment.hash),
            |index| fragment.entry.with_index(index),
            live,
            destination.purpose,
            shrinks,
        );
        done.blocks += moved;
        done.bytes += if moved > 0 { bytes as u64 } else { 0 };
        Ok(())
    }

    /// The step: blocks of `live` whose entry still is what `old` says are moved to a new record, or nothing happens.
    /// Room was made (I8, I12). Returns how many.
    pub(super) fn append_move(
        &self,
        header: &RecordHeader,
        (payload, hash): (&[u8], u64),
        old: impl Fn(u8) -> Entry,
        live: u8,
        purpose: Purpose,
        shrinks: bool,
    ) -> u64 {
        let RecordBody::Fragment { codec, count, seal, .. } = header.body else { return 0 };
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let Some(namespace) = state.namespaces.get_mut(&header.namespace) else { return 0 };
        let is_current = |index: &u8| {
            let lba = Lba(header.first.0 + u64::from(*index));
            namespace.directory.get(lba) == old(*index) || canary::is_off(Rule::MoveByCompare)
        };
        let blocks = (0..count).filter(|index| live >> index & 1 == 1).filter(is_current);
        let mask = blocks.fold(0, |mask, index| mask | 1 << index);
        if mask == 0 {
            return 0;
        }
        let body = RecordBody::Fragment { moved: true, codec, count, mask, seal };
        let header = RecordHeader { body, op_delta: 0, ..*header };
        if old(0).tier() == Some(Tier::Pmem) {
            namespace.count_destaged(header.first, mask.count_ones());
        }
        let appended = state.log.append(purpose.stream(), header, payload, hash);
        for index in (0..count).filter(|index| mask >> index & 1 == 1) {
            let lba = Lba(header.first.0 + u64::from(index));
            state.set(header.namespace, lba, appended.entry.with_index(index), appended.op);
        }
        if !shrinks {
            state.log.segments.forget_dead(appended.segment, u32::from(count) - mask.count_ones());
        }
        u64::from(mask.count_ones())
    }
}

/// The blocks of a fragment whose entries are still those that its record gave them.
fn live_mask(state: &super::State, id: NamespaceId, first: Lba, entry: Entry, mask: u8) -> u8 {
    let Some(namespace) = state.namespaces.get(&id) else { return 0 };
    let is_live = |index: &u8| {
        let lba = Lba(first.0 + u64::from(*index));
        namespace.directory.get(lba) == entry.with_index(*index)
    };
    let listed = (0..8).filter(|index| mask >> index & 1 == 1);
    listed.filter(is_live).fold(0, |live, index| live | 1 << index)
}

/// A record of the source, verified at its place, and the fragment that the list says it is (I5).
fn verified<'a>(source: &Source<'a>, record: &SummaryEntry, entry: Entry) -> Result<Fragment<'a>> {
    let Some(location) = entry.location() else {
        return Err(Error::corrupt("fragment", "entry", 1, entry.0));
    };
    let found = source.bytes.get((location.granule.0 * GRANULE) as usize..).unwrap_or_default();
    let (header, check) = RecordHeader::decode(found)?;
    let end = RECORD_HEADER_BYTES + usize::from(header.stored);
    let Some(payload) = found.get(RECORD_HEADER_BYTES..end) else {
        return Err(Error::corrupt("record", "length", found.len() as u64, end as u64));
    };
    let hash = payload_hash(payload);
    header.verify(check, hash, &source.place.at(location.granule))?;
    header.check_fragment(record.namespace, record.first, &location)?;
    let RecordBody::Fragment { codec, count, .. } = header.body else {
        return Err(Error::corrupt("fragment", "kind", 1, header.kind() as u64));
    };
    Ok(Fragment { header, count, codec, payload, hash, entry })
}
