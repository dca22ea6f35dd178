//! Writes of parts of a block (512-byte logical blocks): read, merge, and append only if the block is still the one that
//! was read (I8).
//!
//! A sub-block writer holds its block against other sub-block writers. A full-block write may overtake it: then it merges
//! again. After [`TRIES`] rounds full-block writes of that block wait until it is through (I10): the block is reserved.
//!
//! ```text
//!   a block held ─► fragment buffers ─► a block reserved ─► reserved buffers ─► room, leaves, durability
//! ```
//!
//! **Invariants.** Who has one of these waits only for what is further right, so nobody waits in a circle. Full-block
//! writers wait for a reserved block with their fragment buffers in hand; so a reserved sub-block writer takes none of
//! those, but of a pool that only such writers take from. Each has one block, and takes the buffers of a step at once,
//! with none in hand: so whoever has some of them needs no more, however many blocks are reserved. Nothing that makes
//! room, reads leaves or makes operations durable takes buffers of either pool, or waits for a block.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::Core;
use super::admission::{Records, Route};
use super::tier0::Wrote;
use crate::buf::{BufPool, DataBuf};
use crate::canary::{self, Rule};
use crate::codec::EncodeJob;
use crate::error::Result;
use crate::format::record::{RecordBody, RecordHeader, record_bytes};
use crate::format::{Codec, Entry};
use crate::limits::BLOCK_BYTES;
use crate::units::{Lba, LbaRange, NamespaceId};

/// Rounds before full-block writes have to wait.
const TRIES: usize = 3;

/// The bytes of a sub-block write; `None` writes zeros.
pub(super) struct Part<'a> {
    /// The block.
    pub lba: Lba,
    /// Which of its bytes.
    pub within: Range<usize>,
    /// What to store there.
    pub bytes: Option<&'a [u8]>,
}

/// A block as it was before it was read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    entry: Entry,
    /// Where an open batch was compacted since, the same entry may mean another record.
    compactions: u64,
}

/// Holds a block until dropped.
struct Held<'a> {
    core: &'a Core,
    block: (NamespaceId, Lba),
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.core.state.borrow_mut();
        state.latched.remove(&self.block);
        state.reserved.remove(&self.block);
        drop(state);
        self.core.released.notify_all();
    }
}

impl Core {
    /// Writes a part of one block. Returns the operation, which is not yet durable.
    ///
    /// # Errors
    /// The block cannot be read, no space, the latch, the namespace gone.
    pub(super) async fn write_part(self: &Rc<Self>, id: NamespaceId, part: &Part<'_>) -> Result<Wrote> {
        let block = (id, part.lba);
        while !self.state.borrow_mut().latched.insert(block) {
            self.released.notified().await;
        }
        let _held = Held { core: self, block };
        for round in 0.. {
            if round == TRIES {
                self.state.borrow_mut().reserved.insert(block);
            }
            // writers that wait for the block may hold all the others
            let pool = if round < TRIES { &self.bufs } else { &self.reserved_bufs };
            if let Some(wrote) = self.try_part(id, part, pool).await? {
                return Ok(wrote);
            }
        }
        unreachable!("a reserved block changes under nobody")
    }

    /// One round: `None` when the block changed meanwhile.
    async fn try_part(self: &Rc<Self>, id: NamespaceId, part: &Part<'_>, pool: &BufPool) -> Result<Option<Wrote>> {
        self.latch.check()?;
        self.pace().await;
        let range = LbaRange { start: part.lba, count: 1 };
        let _known = self.know(id, range).await?;
        // 1. read; the pin keeps the entry from meaning anything else until the compare, but for compactions
        let seen = {
            let state = self.state.borrow();
            Seen { entry: state.namespace(id)?.directory.get(part.lba), compactions: state.log.compactions }
        };
        let pinned = seen.entry.place();
        pinned.into_iter().for_each(|(tier, segment)| self.pin(tier, segment));
        let result = self.merge_and_append(id, part, seen, pool).await;
        pinned.into_iter().for_each(|(tier, segment)| self.unpin(tier, segment));
        result
    }

    async fn merge_and_append(
        self: &Rc<Self>,
        id: NamespaceId,
        part: &Part<'_>,
        seen: Seen,
        pool: &BufPool,
    ) -> Result<Option<Wrote>> {
        let mut block = DataBuf::zeroed(BLOCK_BYTES);
        let range = LbaRange { start: part.lba, count: 1 };
        self.read_piece(id, range, block.bytes_mut(), true, pool).await?;
        // 2. merge
        let target = &mut block.bytes_mut()[part.within.clone()];
        match part.bytes {
            Some(bytes) => target.copy_from_slice(bytes),
            None => target.fill(0),
        }
        // 3. seal
        let (sealer, compression) = {
            let state = self.state.borrow();
            let namespace = state.namespace(id)?;
            (namespace.sealer.clone(), namespace.entry.compression)
        };
        let mut bufs = Vec::with_capacity(1);
        pool.take(1, &mut bufs).await;
        let Some(out) = bufs.pop() else { unreachable!("one was taken") };
        let seal = self.next_seal();
        let job = EncodeJob {
            data: Arc::new(block),
            at: 0,
            len: BLOCK_BYTES,
            namespace: id,
            first: part.lba,
            seal,
            compression,
            sealer,
            out,
            urgent: true,
        };
        let (out, encoded) = self.codec.encode(job).await;
        let result = match encoded {
            Err(error) => Err(error),
            Ok(encoded) => {
                let all_zero = encoded.codec == Codec::Zero;
                let records = Records { bytes: record_bytes(encoded.stored), count: 1, all_zero };
                match self.make_room_somewhere(id, range, 1, records).await {
                    Err(error) => Err(error),
                    // 4. compare and append, in one step (I8, I12)
                    Ok(route) => self.append_if_unchanged(id, part.lba, seen, route, |header| {
                        let body = RecordBody::Fragment { moved: false, codec: encoded.codec, count: 1, mask: 1, seal };
                        (RecordHeader { body, ..header }, &out[..encoded.stored], encoded.hash)
                    }),
                }
            }
        };
        pool.put(out);
        result
    }

    fn append_if_unchanged<'a>(
        &self,
        id: NamespaceId,
        lba: Lba,
        seen: Seen,
        Route { kind, bypass }: Route,
        record: impl FnOnce(RecordHeader) -> (RecordHeader, &'a [u8], u64),
    ) -> Result<Option<Wrote>> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let entry = state.namespace(id)?.directory.get(lba);
        let now = Seen { entry, compactions: state.log.compactions };
        if now != seen && !canary::is_off(Rule::MergeByCompare) {
            return Ok(None);
        }
        let begun = self.stamp_batch(state, kind);
        let blank =
            RecordHeader { namespace: id, first: lba, op_delta: 0, stored: 0, body: RecordBody::Clear { count: 1 } };
        let (header, payload, hash) = record(blank);
        let appended = state.log.append(kind, header, payload, hash);
        state.set(id, lba, appended.entry, appended.op);
        state.log.publish(kind);
        let stored = payload.len() as u64;
        self.stats.stored.add(stored);
        state.namespace(id)?.stats.stored.add(stored);
        if self.has_tier0()
            && let Some(namespace) = state.namespaces.get_mut(&id)
        {
            namespace.count_journal(bypass, lba, 1);
        }
        drop(guard);
        if begun {
            self.batch_has_begun(kind);
        }
        Ok(Some(Wrote::one(kind, appended.op)))
    }

    /// Whether a full-block write of the range has to wait for a sub-block write.
    pub(super) fn is_reserved(&self, id: NamespaceId, range: LbaRange) -> bool {
        let reserved = &self.state.borrow().reserved;
        !reserved.is_empty() && reserved.range((id, range.start)..(id, range.end())).next().is_some()
    }

    /// Waits until no sub-block write has precedence in the range.
    pub(super) async fn wait_unreserved(&self, id: NamespaceId, range: LbaRange) {
        while self.is_reserved(id, range) {
            self.released.notified().await;
        }
    }
}
