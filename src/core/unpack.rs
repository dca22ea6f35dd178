//! Unpacking: a partly dead fragment is opened, and each run of its live blocks sealed as a fragment of its own.
//!
//! Without it a block that is overwritten keeps its dead neighbours' space: random 4 KiB overwrites of 16 KiB fragments
//! would come to take up to 1.47 times their space.
//!
//! **Invariants.** Each new fragment has a new seal number (I7). Plaintext is only in the workspace, in memory (I6). Each
//! is appended by compare (I8). **Failure.** What cannot be opened, or would not get smaller, is left to be moved whole.
//! **Not here:** which fragments (`relocate`).

use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::pack::PackBufs;
use super::relocate::{Destination, Fragment, Relocated};
use super::{Core, FRAGMENT_BUF_BYTES};
use crate::buf::{AlignedBuf, DataBuf};
use crate::codec::{DecodeJob, Decoded, EncodeJob, Encoded, FragmentName, Sealer};
use crate::error::Result;
use crate::format::record::{RecordBody, RecordHeader, all_blocks, record_bytes};
use crate::format::{Codec, Compression};
use crate::limits::{BLOCK_BYTES, FRAGMENT_BLOCKS_MAX};
use crate::units::{Lba, SealNo};

/// Runs of live blocks in a fragment that has dead ones, at most: every other block.
const RUNS_MAX: usize = FRAGMENT_BLOCKS_MAX as usize / 2;

/// The buffers of one relocation: never the host's, which may all be held by writers that wait for room.
pub(super) struct Workspace {
    /// Of a cleaner that recompresses.
    pub(super) pack: Option<PackBufs>,
    sealed: Option<AlignedBuf>,
    plain: Option<AlignedBuf>,
    out: ArrayVec<AlignedBuf, RUNS_MAX>,
}

impl Workspace {
    pub(super) fn new() -> Self {
        let buf = || AlignedBuf::zeroed(FRAGMENT_BUF_BYTES);
        Self { pack: None, sealed: Some(buf()), plain: Some(buf()), out: (0..RUNS_MAX).map(|_| buf()).collect() }
    }
}

/// A run of live blocks, sealed anew.
struct Resealed {
    /// First block of the run in the old fragment.
    start: u8,
    header: RecordHeader,
    out: AlignedBuf,
    encoded: Encoded,
}

impl Core {
    /// Moves the live blocks of a fragment without the dead ones. `None` when that does not work or saves nothing.
    pub(super) async fn unpack(
        self: &Rc<Self>,
        fragment: &Fragment<'_>,
        live: u8,
        destination: Destination,
        workspace: &mut Workspace,
    ) -> Result<Option<Relocated>> {
        let id = fragment.header.namespace;
        let Some((sealer, compression)) =
            self.state.borrow().namespaces.get(&id).map(|n| (n.sealer.clone(), n.entry.compression))
        else {
            return Ok(None);
        };
        // what was made small before is not made larger
        let compression = if fragment.codec == Codec::Zstd { Compression::Zstd } else { compression };
        if !self.open_into(fragment, &sealer, workspace).await {
            return Ok(None);
        }
        let resealed = self.reseal(fragment, live, &sealer, compression, workspace).await;
        let whole = record_bytes(fragment.payload.len());
        let bytes: usize = resealed.iter().map(|r| record_bytes(r.encoded.stored)).sum();
        let moved = if bytes < whole && resealed.len() == runs(live).count() {
            self.append_runs(fragment, &resealed, destination).await.map(Some)
        } else {
            Ok(None)
        };
        workspace.out.extend(resealed.into_iter().map(|r| r.out));
        moved
    }

    /// Opens the fragment into the workspace. Returns whether that worked.
    async fn open_into(&self, fragment: &Fragment<'_>, sealer: &Arc<Sealer>, workspace: &mut Workspace) -> bool {
        let RecordBody::Fragment { codec, count, seal, .. } = fragment.header.body else { return false };
        let (Some(mut sealed), Some(out)) = (workspace.sealed.take(), workspace.plain.take()) else {
            unreachable!("a workspace is used by one relocation at a time");
        };
        let len = fragment.payload.len();
        sealed[..len].copy_from_slice(fragment.payload);
        let (namespace, first) = (fragment.header.namespace, fragment.header.first);
        let name = FragmentName { namespace, first, count, codec, seal };
        let job = DecodeJob { sealed, at: 0, len, name, sealer: sealer.clone(), out, urgent: false };
        let Decoded { sealed, out, result } = self.codec.decode(job).await;
        (workspace.sealed, workspace.plain) = (Some(sealed), Some(out));
        if let Err(error) = &result {
            tracing::error!(
                "namespace {namespace}, LBA {first}: a fragment cannot be opened and is moved whole: {error}"
            );
        }
        result.is_ok()
    }

    /// Seals each run of live blocks of the opened fragment; those that cannot be are missing.
    async fn reseal(
        &self,
        fragment: &Fragment<'_>,
        live: u8,
        sealer: &Arc<Sealer>,
        compression: Compression,
        workspace: &mut Workspace,
    ) -> ArrayVec<Resealed, RUNS_MAX> {
        let Some(plain) = workspace.plain.take() else { unreachable!("opening gives the buffer back") };
        let data = Arc::new(DataBuf::owned(plain));
        let mut jobs = ArrayVec::<_, RUNS_MAX>::new();
        for (start, count) in runs(live) {
            let Some(out) = workspace.out.pop() else { unreachable!("a buffer for each run") };
            let (seal, first) = (self.next_seal(), Lba(fragment.header.first.0 + u64::from(start)));
            let job = EncodeJob {
                data: data.clone(),
                at: usize::from(start) * BLOCK_BYTES,
                len: usize::from(count) * BLOCK_BYTES,
                namespace: fragment.header.namespace,
                first,
                seal,
                compression,
                sealer: sealer.clone(),
                out,
                urgent: false,
            };
            jobs.push((start, first, count, seal, self.codec.begin_encode(job)));
        }
        let mut resealed = ArrayVec::new();
        for (start, first, count, seal, begun) in jobs {
            let (out, encoded) = self.codec.end_encode(begun).await;
            match encoded {
                Ok(encoded) => {
                    let header = resealed_header(&fragment.header, first, count, seal, &encoded);
                    resealed.push(Resealed { start, header, out, encoded });
                }
                Err(_) => workspace.out.push(out),
            }
        }
        let plain = Arc::try_unwrap(data).ok().and_then(DataBuf::into_owned);
        workspace.plain = plain.or_else(|| Some(AlignedBuf::zeroed(FRAGMENT_BUF_BYTES)));
        resealed
    }

    async fn append_runs(
        self: &Rc<Self>,
        fragment: &Fragment<'_>,
        resealed: &[Resealed],
        destination: Destination,
    ) -> Result<Relocated> {
        let mut moved = Relocated::default();
        for r in resealed {
            let bytes = record_bytes(r.encoded.stored);
            self.make_room(destination.purpose, bytes, 1).await?;
            let RecordBody::Fragment { count, .. } = r.header.body else { continue };
            let payload = (&r.out[..r.encoded.stored], r.encoded.hash);
            let old = |index: u8| fragment.entry.with_index(r.start + index);
            let live = all_blocks(count);
            let blocks = self.append_move(&r.header, payload, old, live, destination.purpose, true);
            moved.blocks += blocks;
            moved.bytes += if blocks > 0 { bytes as u64 } else { 0 };
        }
        Ok(moved)
    }
}

fn resealed_header(old: &RecordHeader, first: Lba, count: u8, seal: SealNo, encoded: &Encoded) -> RecordHeader {
    let body = RecordBody::Fragment { moved: true, codec: encoded.codec, count, mask: all_blocks(count), seal };
    RecordHeader { namespace: old.namespace, first, op_delta: 0, stored: 0, body }
}

/// The runs of set bits: first bit and length.
pub(super) fn runs(live: u8) -> impl Iterator<Item = (u8, u8)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = u16::from(live) >> at;
        if rest == 0 {
            return None;
        }
        let start = at + u8::try_from(rest.trailing_zeros()).unwrap_or(8);
        let count = u8::try_from((u16::from(live) >> start).trailing_ones()).unwrap_or(8);
        at = start + count;
        Some((start, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_live_blocks() {
        let of = |live| runs(live).collect::<Vec<_>>();
        assert_eq!(of(0), []);
        assert_eq!(of(0b1111_1111), [(0, 8)]);
        assert_eq!(of(0b1000_0000), [(7, 1)]);
        assert_eq!(of(0b0101_0101), [(0, 1), (2, 1), (4, 1), (6, 1)]);
        assert_eq!(of(0b1100_1110), [(1, 3), (6, 2)]);
    }
}
