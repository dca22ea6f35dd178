//! Writes of whole blocks.
//!
//! 1. cut into pieces at 64 KiB-aligned LBAs, each atomic;
//! 2. know the leaves;
//! 3. cut into fragments of the namespace's unit, number them, compress and seal them on the workers;
//! 4. make room for all of the piece;
//! 5. in one step append all records, change the map, publish (I12);
//! 6. acknowledge; with FUA after durability.
//!
//! From 3 to 5 a piece holds its buffers, also while it waits for room or for a reserved block: what it waits for gets
//! on without any of them (`partial`, `relocate`).

use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Core;
use super::admission::{Records, Route};
use super::tier0::Wrote;
use crate::buf::{AlignedBuf, DataBuf};
use crate::codec::{EncodeJob, Encoded, Sealer};
use crate::error::Result;
use crate::format::record::{RecordBody, RecordHeader, all_blocks, record_bytes};
use crate::format::{Codec, Compression};
use crate::limits::{ATOMIC_BLOCKS, ATOMIC_PIECES, BLOCK_BYTES, BLOCK_SIZE};
use crate::log::StreamKind;
use crate::units::{Lba, LbaRange, NamespaceId, OpNo, SealNo};

/// Fragments of a piece, at most: one for each block. Bounded, so that no request allocates for them (I10).
const FRAGMENTS_MAX: usize = ATOMIC_PIECES;

/// A fragment on its way through the codec.
struct Sealed {
    first: Lba,
    count: u8,
    seal: SealNo,
    out: AlignedBuf,
    encoded: Encoded,
}

/// How a namespace writes.
struct Shape {
    sealer: Arc<Sealer>,
    compression: Compression,
    unit: u64,
}

impl Core {
    /// Writes whole blocks from `data[at..]`. Returns the last operation, which is not yet durable.
    ///
    /// # Errors
    /// No space, the latch, the namespace gone; pieces before the failing one are written.
    pub(super) async fn write_blocks(
        self: &Rc<Self>,
        id: NamespaceId,
        data: &Arc<DataBuf>,
        at: usize,
        range: LbaRange,
        urgent: bool,
    ) -> Result<Wrote> {
        let mut wrote = Wrote::default();
        let mut done = 0;
        while done < range.count {
            let start = range.start.0 + done;
            let count = (ATOMIC_BLOCKS - start % ATOMIC_BLOCKS).min(range.count - done);
            let piece = LbaRange { start: Lba(start), count };
            let offset = at + usize::try_from(done).unwrap_or(usize::MAX) * BLOCK_BYTES;
            wrote = wrote.and(self.write_piece(id, data, offset, piece, range.count, urgent).await?);
            done += count;
        }
        Ok(wrote)
    }

    async fn write_piece(
        self: &Rc<Self>,
        id: NamespaceId,
        data: &Arc<DataBuf>,
        at: usize,
        piece: LbaRange,
        blocks: u64,
        urgent: bool,
    ) -> Result<Wrote> {
        self.latch.check()?;
        self.pace().await;
        let _known = self.know(id, piece).await?;
        let shape = self.shape(id)?;
        let mut sealed = ArrayVec::new();
        let result = self.seal_piece(id, data, at, piece, &shape, urgent, &mut sealed).await;
        let result = match result {
            Ok(()) => self.commit_piece(id, piece, blocks, &sealed).await,
            Err(error) => Err(error),
        };
        // drained, because an array that is iterated by value is copied whole
        for fragment in sealed.drain(..) {
            self.bufs.put(fragment.out);
        }
        result
    }

    fn shape(&self, id: NamespaceId) -> Result<Shape> {
        let state = self.state.borrow();
        let namespace = state.namespace(id)?;
        let entry = &namespace.entry;
        Ok(Shape { sealer: namespace.sealer.clone(), compression: entry.compression, unit: namespace.unit_blocks() })
    }

    #[expect(clippy::too_many_arguments, reason = "one caller; a struct would only rename them")]
    async fn seal_piece(
        self: &Rc<Self>,
        id: NamespaceId,
        data: &Arc<DataBuf>,
        at: usize,
        piece: LbaRange,
        shape: &Shape,
        urgent: bool,
        sealed: &mut ArrayVec<Sealed, FRAGMENTS_MAX>,
    ) -> Result<()> {
        let cuts = fragments(piece, shape.unit);
        let mut bufs = ArrayVec::<_, FRAGMENTS_MAX>::new();
        self.bufs.take(cuts.clone().count(), &mut bufs).await;
        // all are handed in before the first is waited for
        let mut jobs = ArrayVec::<_, FRAGMENTS_MAX>::new();
        for cut in cuts {
            let Some(out) = bufs.pop() else { unreachable!("a buffer for each fragment") };
            let seal = self.next_seal();
            let offset = at + usize::try_from(cut.start.0 - piece.start.0).unwrap_or(usize::MAX) * BLOCK_BYTES;
            let len = usize::try_from(cut.count).unwrap_or(usize::MAX) * BLOCK_BYTES;
            let job = EncodeJob {
                data: data.clone(),
                at: offset,
                len,
                namespace: id,
                first: cut.start,
                seal,
                compression: shape.compression,
                sealer: shape.sealer.clone(),
                out,
                urgent,
            };
            let count = u8::try_from(cut.count).unwrap_or(u8::MAX);
            jobs.push((cut.start, count, seal, self.codec.begin_encode(job)));
        }
        let mut result = Ok(());
        for (first, count, seal, begun) in jobs.drain(..) {
            let (out, encoded) = self.codec.end_encode(begun).await;
            match encoded {
                Ok(encoded) => sealed.push(Sealed { first, count, seal, out, encoded }),
                Err(error) => {
                    self.bufs.put(out);
                    result = Err(error);
                }
            }
        }
        result
    }

    async fn commit_piece(
        self: &Rc<Self>,
        id: NamespaceId,
        piece: LbaRange,
        blocks: u64,
        sealed: &[Sealed],
    ) -> Result<Wrote> {
        let bytes = sealed.iter().map(|s| record_bytes(s.encoded.stored)).sum();
        let all_zero = sealed.iter().all(|s| s.encoded.codec == Codec::Zero);
        let records = Records { bytes, count: sealed.len(), all_zero };
        loop {
            self.wait_unreserved(id, piece).await;
            let route = self.make_room_somewhere(id, piece, blocks, records).await?;
            if !self.is_reserved(id, piece) {
                return self.append_fragments(id, sealed, route);
            }
        }
    }

    /// The step: records appended, map changed, published. Room was made (I12).
    fn append_fragments(&self, id: NamespaceId, sealed: &[Sealed], route: Route) -> Result<Wrote> {
        let Route { kind, bypass } = route;
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let stats = state.namespace(id)?.stats.clone();
        let begun = self.stamp_batch(state, kind);
        let mut last = OpNo(0);
        for s in sealed {
            let body = RecordBody::Fragment {
                moved: false,
                codec: s.encoded.codec,
                count: s.count,
                mask: all_blocks(s.count),
                seal: s.seal,
            };
            let header = RecordHeader { namespace: id, first: s.first, op_delta: 0, stored: 0, body };
            let payload = &s.out[..s.encoded.stored];
            let appended = state.log.append(kind, header, payload, s.encoded.hash);
            for index in 0..s.count {
                let lba = Lba(s.first.0 + u64::from(index));
                state.set(id, lba, appended.entry.with_index(index), appended.op);
            }
            last = appended.op;
            let stored = s.encoded.stored as u64;
            stats.stored.add(stored);
            self.stats.stored.add(stored);
            self.stats.overhead.add(record_bytes(s.encoded.stored) as u64 - stored);
        }
        if self.has_tier0()
            && let Some(first) = sealed.first().map(|s| s.first)
            && let Some(namespace) = state.namespaces.get_mut(&id)
        {
            namespace.count_journal(bypass, first, sealed.iter().map(|s| u32::from(s.count)).sum());
        }
        state.log.publish(kind);
        drop(guard);
        if begun {
            self.batch_has_begun(kind);
        }
        let zeros = sealed.iter().filter(|s| s.encoded.codec == Codec::Zero).map(|s| u64::from(s.count));
        Ok(Wrote { zeros: zeros.sum::<u64>() * u64::from(BLOCK_SIZE), ..Wrote::one(kind, last) })
    }

    /// Tells whoever closes batches of this stream that there is one.
    pub(super) fn batch_has_begun(&self, kind: StreamKind) {
        if kind == StreamKind::Journal {
            self.journal_begun();
        } else {
            self.batch_begun.notify_all();
        }
    }

    /// Stamps a stream's open batch when its first record is about to come. Returns whether it was the first.
    pub(super) fn stamp_batch(&self, state: &mut super::State, kind: StreamKind) -> bool {
        let Some(batch) = state.log.stream(kind).batch else { return false };
        let batch = state.log.batches.get_mut(batch);
        let begun = batch.count == 0;
        if begun {
            batch.opened_ns = self.env.now_ns();
        }
        begun
    }
}

/// The fragments of a piece: cut at LBAs aligned to the unit.
fn fragments(piece: LbaRange, unit: u64) -> impl Iterator<Item = LbaRange> + Clone {
    let mut start = piece.start.0;
    std::iter::from_fn(move || {
        let left = piece.end().0 - start;
        if left == 0 {
            return None;
        }
        let count = (unit - start % unit).min(left);
        let cut = LbaRange { start: Lba(start), count };
        start += count;
        Some(cut)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_at_aligned_units() {
        let piece = LbaRange { start: Lba(3), count: 10 };
        let cuts: Vec<_> = fragments(piece, 4).map(|cut| (cut.start.0, cut.count)).collect();
        assert_eq!(cuts, [(3, 1), (4, 4), (8, 4), (12, 1)]);
    }
}
