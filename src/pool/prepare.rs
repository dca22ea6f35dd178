//! A new pool's space written once, before anybody waits for it.
//!
//! In a file, the first write to a place makes the filesystem change its own metadata, which the next flush has to wait
//! for; and space that was written is space that the pool has. **Not here:** preparation while serving (`core::prepare`).

use std::collections::VecDeque;

use super::copies::layout_of;
use crate::buf::AlignedBuf;
use crate::env::reactor::IoBuf;
use crate::error::Result;
use crate::format::superblock::Superblock;
use crate::media::Media;
use crate::units::SegmentId;

/// Bytes of a write.
const PIECE_BYTES: usize = 1 << 20;
/// Writes under way.
const DEPTH: usize = 4;

/// Writes zeros to all segments of a pool that has just been made. `progress` hears of bytes written and bytes in all.
///
/// # Errors
/// What the medium reports. The pool is good nevertheless.
pub async fn prepare(media: &Media, superblock: &Superblock, mut progress: impl FnMut(u64, u64)) -> Result<()> {
    let start = layout_of(superblock).segment(SegmentId(0));
    let all = u64::from(superblock.segment_count) * u64::from(superblock.segment_bytes);
    let mut free: Vec<_> = (0..DEPTH).map(|_| IoBuf::Owned(AlignedBuf::zeroed(PIECE_BYTES))).collect();
    let mut under_way = VecDeque::with_capacity(DEPTH);
    let mut written = 0;
    for at in (0..all).step_by(PIECE_BYTES) {
        if free.is_empty() {
            free.push(end_of(&mut under_way).await?);
            written += PIECE_BYTES as u64;
            progress(written, all);
        }
        under_way.extend(free.pop().map(|buf| media.write(start + at, buf, PIECE_BYTES)));
    }
    while !under_way.is_empty() {
        end_of(&mut under_way).await?;
    }
    media.flush().await?;
    progress(all, all);
    Ok(())
}

/// Waits for the oldest write.
async fn end_of<F: Future<Output = (IoBuf, Result<()>)>>(under_way: &mut VecDeque<F>) -> Result<IoBuf> {
    let Some(write) = under_way.pop_front() else { unreachable!("one is under way") };
    let (buf, result) = write.await;
    result.map(|()| buf)
}
