//! Reads: map entries sampled in one step, each fragment fetched once, verified, opened, copied out.
//!
//! **Invariants.** Verified data or an error (I5). A segment is pinned from the sampling of the entry until its record
//! was read, so it is not reused meanwhile. With a known leaf a fragment costs one device read.

use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Core;
use super::fragment::{Fetch, Fetched};
use crate::buf::{AlignedBuf, BufPool};
use crate::codec::{DecodeJob, Decoded, FragmentName, Sealer};
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::RecordBody;
use crate::format::{Entry, Location, State as EntryState};
use crate::limits::{ATOMIC_BLOCKS, ATOMIC_PIECES, BLOCK_BYTES};
use crate::units::{Lba, LbaRange, NamespaceId};

/// Runs of a piece, at most: one for each block. Bounded, so that no request allocates for them (I10).
const RUNS_MAX: usize = ATOMIC_PIECES;

/// The buffers of a piece: one for each run, and one to open fragments in.
type Bufs = ArrayVec<AlignedBuf, { RUNS_MAX + 1 }>;

/// Blocks in a row of one request that lie in a row in one fragment.
#[derive(Clone, Copy)]
struct Run {
    lba: Lba,
    count: usize,
    entry: Entry,
}

impl Core {
    /// Reads whole blocks into `out`, which is exactly as long.
    ///
    /// # Errors
    /// A block that cannot be read or does not verify; `out` holds anything then.
    pub(super) async fn read_blocks(
        self: &Rc<Self>,
        id: NamespaceId,
        range: LbaRange,
        out: &mut [u8],
        urgent: bool,
    ) -> Result<()> {
        let mut start = range.start.0;
        for piece in out.chunks_mut(usize::try_from(ATOMIC_BLOCKS).unwrap_or(1) * BLOCK_BYTES) {
            let count = (piece.len() / BLOCK_BYTES) as u64;
            self.read_piece(id, LbaRange { start: Lba(start), count }, piece, urgent, &self.bufs).await?;
            start += count;
        }
        Ok(())
    }

    /// Reads blocks of one piece with buffers of `pool`: one more than blocks, taken at once. It holds them while it
    /// waits for the media, the journal and the codec, for nobody who needs buffers.
    pub(super) async fn read_piece(
        self: &Rc<Self>,
        id: NamespaceId,
        piece: LbaRange,
        out: &mut [u8],
        urgent: bool,
        pool: &BufPool,
    ) -> Result<()> {
        let _known = self.know(id, piece).await?;
        // buffers first: nothing may be awaited between sampling the entries and pinning their segments
        let mut bufs = Bufs::new();
        let wanted = usize::try_from(piece.count).unwrap_or(usize::MAX) + 1;
        pool.take(wanted, &mut bufs).await;
        let mut scratch = bufs.pop();
        let mut result = Ok(());
        match self.wait_persisted(id, piece).await.and_then(|()| self.sample(id, piece)) {
            Err(error) => result = Err(error),
            Ok((runs, sealer)) => {
                let mut fetches = ArrayVec::<_, RUNS_MAX>::new();
                for run in &runs {
                    fetches.push(self.start_run(run, &mut bufs));
                }
                // drained, because an array that is iterated by value is copied whole
                for (run, fetch) in runs.iter().zip(fetches.drain(..)) {
                    let at = usize::try_from(run.lba.0 - piece.start.0).unwrap_or(usize::MAX) * BLOCK_BYTES;
                    let part = &mut out[at..at + run.count * BLOCK_BYTES];
                    let ended = self.finish_run(id, run, fetch, &sealer, part, &mut bufs, &mut scratch, urgent).await;
                    if result.is_ok() {
                        result = ended;
                    }
                }
            }
        }
        bufs.into_iter().chain(scratch).for_each(|buf| pool.put(buf));
        result
    }

    /// The entries of a piece, gathered into runs, their segments pinned.
    fn sample(&self, id: NamespaceId, piece: LbaRange) -> Result<(ArrayVec<Run, RUNS_MAX>, Arc<Sealer>)> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let namespace = state.namespaces.get(&id).ok_or_else(|| super::state::gone(id))?;
        let mut runs = ArrayVec::<Run, RUNS_MAX>::new();
        for offset in 0..piece.count {
            let lba = Lba(piece.start.0 + offset);
            let entry = namespace.directory.get(lba);
            if let Some(run) = runs.last_mut()
                && follows(run, entry)
            {
                run.count += 1;
                continue;
            }
            runs.push(Run { lba, count: 1, entry });
        }
        for location in runs.iter().filter_map(|run| data_location(run.entry)) {
            state.log.table_mut(location.tier()).get_mut(location.segment).pins += 1;
        }
        Ok((runs, namespace.sealer.clone()))
    }

    fn start_run(&self, run: &Run, bufs: &mut Bufs) -> Option<Fetch> {
        let location = data_location(run.entry)?;
        let Some(buf) = bufs.pop() else { unreachable!("a buffer for each block") };
        Some(self.start_fetch(&location, buf))
    }

    #[expect(clippy::too_many_arguments, reason = "one caller; a struct would only rename them")]
    async fn finish_run(
        self: &Rc<Self>,
        id: NamespaceId,
        run: &Run,
        fetch: Option<Fetch>,
        sealer: &Arc<Sealer>,
        out: &mut [u8],
        bufs: &mut Bufs,
        scratch: &mut Option<AlignedBuf>,
        urgent: bool,
    ) -> Result<()> {
        let (Some(fetch), Some(location)) = (fetch, data_location(run.entry)) else {
            if run.entry.state() == EntryState::Lost {
                return Err(Error::new(ErrorKind::Io, format!("namespace {id}, LBA {}: lost with its tier", run.lba)));
            }
            out.fill(0);
            return Ok(());
        };
        let (header, buf, at) = self.finish_fetch(fetch, &location).await;
        self.unpin(location.tier(), location.segment);
        let opened = match header {
            Err(error) => Err((error, buf)),
            Ok(header) => match header.check_fragment(id, run.lba, &location) {
                Err(error) => Err((error, buf)),
                Ok(()) => self.open(Fetched { buf, at, header }, sealer, scratch, urgent).await,
            },
        };
        match opened {
            Ok(buf) => {
                bufs.push(buf);
                let Some(plain) = scratch else { unreachable!("opening gives the buffer back") };
                let from = usize::from(location.index) * BLOCK_BYTES;
                out.copy_from_slice(&plain[from..from + out.len()]);
                Ok(())
            }
            Err((error, buf)) => {
                bufs.push(buf);
                Err(self.lost_fragment(id, run.lba, run.entry, error))
            }
        }
    }

    /// Opens a verified fragment into the scratch buffer.
    async fn open(
        &self,
        fetched: Fetched,
        sealer: &Arc<Sealer>,
        scratch: &mut Option<AlignedBuf>,
        urgent: bool,
    ) -> Result<AlignedBuf, (Error, AlignedBuf)> {
        let payload = fetched.payload();
        let RecordBody::Fragment { codec, count, seal, .. } = fetched.header.body else {
            return Err((Error::corrupt("fragment", "kind", 1, fetched.header.kind() as u64), fetched.buf));
        };
        let Some(out) = scratch.take() else { unreachable!("one scratch buffer, used by one run at a time") };
        let name =
            FragmentName { namespace: fetched.header.namespace, first: fetched.header.first, count, codec, seal };
        let job = DecodeJob {
            sealed: fetched.buf,
            at: payload.start,
            len: payload.len(),
            name,
            sealer: sealer.clone(),
            out,
            urgent,
        };
        let Decoded { sealed, out, result } = self.codec.decode(job).await;
        *scratch = Some(out);
        match result {
            Ok(()) => Ok(sealed),
            Err(error) => Err((error, sealed)),
        }
    }
}

/// Whether `entry` is the next block of the run's fragment (or of its hole).
fn follows(run: &Run, entry: Entry) -> bool {
    match run.entry.location() {
        None => run.entry == entry,
        Some(first) => {
            let index = usize::from(first.index) + run.count;
            index < 8 && u8::try_from(index).is_ok_and(|index| entry == run.entry.with_index(index))
        }
    }
}

/// The location of an entry that has a payload to read.
fn data_location(entry: Entry) -> Option<Location> {
    entry.location().filter(|l| matches!(l.state, EntryState::Data(_)))
}
