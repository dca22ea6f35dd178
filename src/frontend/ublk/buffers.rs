//! The memory of a queue: one buffer for each tag, in one mapping.
//!
//! **Invariant.** The mapping lives as long as any of its buffers: each co-owns it, so a request that outlives its queue
//! still has its memory. A mapping gives zero pages when they are first touched; small requests never make the rest of
//! their buffers resident.

use std::sync::Arc;

use memmap2::{Advice, MmapMut};
use rustix::mm::{MlockFlags, mlock_with};

use crate::buf::DataBuf;
use crate::error::{Error, Result};

/// `count` buffers of `bytes` bytes (a multiple of the page).
///
/// # Errors
/// `Io` or `NoSpace` when there is no address space for them.
pub(super) fn tag_buffers(count: usize, bytes: usize) -> Result<Vec<Arc<DataBuf>>> {
    let total = count.saturating_mul(bytes);
    let mut mapping =
        MmapMut::map_anon(total).map_err(|error| Error::io(format!("{total} bytes for ublk buffers"), error))?;
    // a huge page would make 2 MiB resident for the first 4 KiB request; without the advice it only costs memory
    if let Err(error) = mapping.advise(Advice::NoHugePage) {
        tracing::debug!(%error, "ublk buffers may use huge pages");
    }
    lock_when_touched(&mut mapping);
    let start = mapping.as_mut_ptr();
    let mapping = Arc::new(mapping);
    Ok((0..count).map(|index| Arc::new(buffer(&mapping, start, index * bytes, bytes))).collect())
}

#[expect(unsafe_code, reason = "a buffer is a part of a mapping")]
fn buffer(mapping: &Arc<MmapMut>, start: *mut u8, offset: usize, bytes: usize) -> DataBuf {
    debug_assert!(offset + bytes <= mapping.len());
    // SAFETY: `offset + bytes` is within the mapping, which is readable and writable and lives as long as the clone
    // given as owner. Buffers do not overlap, nobody uses the mapping itself any more, and the driver writes to a buffer
    // only between the commit of one request and the arrival of the next, when the queue alone holds it.
    unsafe { DataBuf::from_foreign(start.add(offset), bytes, Box::new(mapping.clone())) }
}

/// Keeps touched pages from being swapped: writing them to swap might need this very device. Not every environment
/// allows it; serving without is possible.
#[expect(unsafe_code, reason = "locking of a raw range")]
fn lock_when_touched(mapping: &mut MmapMut) {
    // SAFETY: the range is exactly the mapping; locking changes no content.
    let locked = unsafe { mlock_with(mapping.as_mut_ptr().cast(), mapping.len(), MlockFlags::ONFAULT) };
    if let Err(error) = locked {
        tracing::debug!(%error, bytes = mapping.len(), "ublk buffers are not locked in memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_apart_aligned_and_outlive_each_other() {
        let mut buffers = tag_buffers(3, 64 << 10).unwrap();
        for (index, buffer) in buffers.iter_mut().enumerate() {
            let bytes = Arc::get_mut(buffer).unwrap().bytes_mut();
            assert_eq!(bytes.len(), 64 << 10);
            assert_eq!(bytes.as_ptr().addr() % 4096, 0);
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(u8::try_from(index).unwrap() + 1);
        }
        let last = buffers.pop().unwrap();
        assert!(buffers[0].bytes().iter().all(|&byte| byte == 1));
        assert!(buffers[1].bytes().iter().all(|&byte| byte == 2));
        drop(buffers);
        assert!(last.bytes().iter().all(|&byte| byte == 3));
    }
}
