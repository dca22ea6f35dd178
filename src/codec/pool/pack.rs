//! Recompression of a group of neighbouring blocks: opened from however many fragments they are in, joined, and sealed anew
//! as few fragments, as small as that can be made.

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::job::Coder;
use crate::buf::AlignedBuf;
use crate::codec::{Encoded, FragmentName, Sealer};
use crate::error::Result;
use crate::limits::{BLOCK_BYTES, FRAGMENT_BLOCKS_MAX};
use crate::units::{Lba, NamespaceId, SealNo};

/// Blocks of a group: those of the largest fragment.
pub const GROUP_BLOCKS: usize = FRAGMENT_BLOCKS_MAX as usize;
/// Runs of blocks that follow each other in a group, at most.
pub const GROUP_RUNS: usize = GROUP_BLOCKS / 2;

/// A fragment that some of the group's blocks are in.
#[derive(Debug)]
pub struct PackPart {
    /// Its record, verified.
    pub sealed: AlignedBuf,
    /// Where its payload begins there.
    pub at: usize,
    /// Length of that.
    pub len: usize,
    /// Its name.
    pub name: FragmentName,
    /// The blocks that are taken from it, by their place in the group.
    pub blocks: u8,
}

/// Blocks that follow each other, to be one fragment.
#[derive(Debug)]
pub struct PackRun {
    /// The first, by its place in the group.
    pub start: u8,
    /// How many.
    pub count: u8,
    /// Their seal number, used for nothing else (I7).
    pub seal: SealNo,
    /// Where to, at least [`crate::codec::ENCODED_BYTES_MAX`] bytes.
    pub out: AlignedBuf,
    /// What became of them.
    pub encoded: Encoded,
}

/// A group to be recompressed, with all the memory for that. Handed back when it is done.
#[derive(Debug)]
pub struct PackJob {
    /// Whose it is.
    pub namespace: NamespaceId,
    /// Its first LBA.
    pub first: Lba,
    /// The namespace's key.
    pub sealer: Arc<Sealer>,
    /// The fragments. What no fragment gives is zeros.
    pub parts: ArrayVec<PackPart, GROUP_BLOCKS>,
    /// What shall become of it.
    pub runs: ArrayVec<PackRun, GROUP_RUNS>,
    /// Room for the whole group.
    pub plain: AlignedBuf,
    /// Room for one fragment.
    pub opened: AlignedBuf,
}

/// A [`PackJob`] that was done.
#[derive(Debug)]
pub struct Packed {
    /// The job, its runs encoded if all went well.
    pub job: Box<PackJob>,
    /// Whether it did.
    pub result: Result<()>,
    /// CPU time it took.
    pub cpu_ns: u64,
}

impl Coder {
    pub(super) fn pack(&mut self, job: &mut PackJob) -> Result<()> {
        let group = &mut job.plain[..GROUP_BLOCKS * BLOCK_BYTES];
        group.fill(0);
        for part in &job.parts {
            let opened = &mut job.opened[..usize::from(part.name.count) * BLOCK_BYTES];
            let sealed = &part.sealed[part.at..part.at + part.len];
            self.decoder.decode(sealed, &part.name, &job.sealer, opened)?;
            for index in (0..GROUP_BLOCKS).filter(|index| part.blocks >> index & 1 == 1) {
                // the caller took only blocks that are in the fragment
                let within = usize::try_from(job.first.0 + index as u64 - part.name.first.0).unwrap_or(usize::MAX);
                let from = within * BLOCK_BYTES;
                group[index * BLOCK_BYTES..][..BLOCK_BYTES].copy_from_slice(&opened[from..from + BLOCK_BYTES]);
            }
        }
        for run in &mut job.runs {
            let start = usize::from(run.start) * BLOCK_BYTES;
            let plain = &group[start..start + usize::from(run.count) * BLOCK_BYTES];
            let name = (job.namespace, Lba(job.first.0 + u64::from(run.start)), run.seal);
            run.encoded = self.encoder.encode_cold(plain, name, &job.sealer, &mut run.out)?;
        }
        Ok(())
    }
}

/// CPU time of this thread.
pub(super) fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
