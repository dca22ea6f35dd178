//! A file or device mapped into memory, and how stores to it are made durable: the only unsafe code of tier 0.
//!
//! On persistent memory (`MAP_SYNC`: the filesystem has everything durable that is needed to find a page before the page
//! can be written) a store is durable when its cache line was written back and a fence has passed. Which instruction does
//! it is asked of the processor: `clwb` keeps the line in the cache, `clflushopt` and `clflush` do not.
//!
//! **Failure.** A processor that this does not know how to write back has no DAX journals: such a medium is used as a
//! block stand-in.

#![expect(unsafe_code, reason = "mapped memory and instructions that write cache lines back")]

use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::Memory;

/// How a mapping becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// By writing cache lines back.
    WriteBack(WriteBack),
    /// Never: it lives as long as the machine runs.
    Never,
}

/// The instruction that writes a cache line back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteBack {
    /// `clwb`.
    Clwb,
    /// `clflushopt`.
    ClflushOpt,
    /// `clflush`.
    Clflush,
}

/// Memory of a mapped file or device, which stays open and locked as long as this lives.
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
    durability: Durability,
    _file: Arc<OwnedFd>,
}

// SAFETY: the mapping belongs to whoever has this, and any thread may read and write it.
unsafe impl Send for Mapping {}

/// Bytes of a cache line.
const LINE: usize = 64;

impl Mapping {
    /// Maps `len` bytes of `file`, which nobody makes shorter: it is locked. With `sync` only where stores to it can be made
    /// durable by writing cache lines back.
    ///
    /// # Errors
    /// What the kernel says: `EOPNOTSUPP` or `EINVAL` where `sync` cannot be had.
    pub fn new(file: Arc<OwnedFd>, len: usize, durability: Durability, sync: bool) -> Result<Self, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = if sync { MapFlags::SHARED_VALIDATE | MapFlags::SYNC } else { MapFlags::SHARED };
        // SAFETY: a new mapping, placed where nothing is mapped.
        let start = unsafe { mmap(ptr::null_mut(), len, protection, flags, &file, 0) }?;
        let Some(start) = NonNull::new(start.cast()) else { return Err(Errno::NOMEM) };
        Ok(Self { start, len, durability, _file: file })
    }

    /// Has all pages there before the first store, huge ones where the filesystem takes advice: a page that is met for the
    /// first time keeps a commit waiting. For ordinary memory; kernels before 5.14 do not know how, and pages come one by one.
    ///
    /// # Errors
    /// There is not so much memory.
    pub fn populate(&self) -> Result<(), Errno> {
        let advise = |advice| {
            // SAFETY: a whole mapping of ours; neither advice changes what it holds.
            unsafe { madvise(self.start.as_ptr().cast(), self.len, advice) }
        };
        // only a wish: without huge pages it works too
        let _ = advise(Advice::LinuxHugepage);
        match advise(Advice::LinuxPopulateWrite) {
            Err(Errno::INVAL) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A pointer to a range, which must be within the mapping.
    fn range(&self, at: u64, len: usize) -> *mut u8 {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "{len} bytes at {at} of {}", self.len);
        self.start.as_ptr().wrapping_add(at)
    }
}

impl Memory for Mapping {
    fn size(&self) -> u64 {
        self.len as u64
    }

    fn load(&self, at: u64, into: &mut [u8]) {
        let from = self.range(at, into.len());
        // SAFETY: `range` is within the mapping, which lives as long as `self`; `into` is memory of its own.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
    }

    fn store(&self, at: u64, bytes: &[u8]) {
        let to = self.range(at, bytes.len());
        // SAFETY: as in `load`; no reference into the mapping is ever made, and it belongs to one thread.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    fn write_back(&self, at: u64, len: usize) {
        let start = self.range(at, len);
        if let Durability::WriteBack(how) = self.durability {
            write_back(how, start, len);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; nothing points into it any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a whole mapping is unmapped");
    }
}

/// How this processor writes cache lines back; `None` when that is not known.
#[must_use]
#[cfg(target_arch = "x86_64")]
pub fn detect() -> Option<WriteBack> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let extended = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
    let has_clflush = __cpuid(1).edx & 1 << 19 != 0;
    if extended & 1 << 24 != 0 {
        Some(WriteBack::Clwb)
    } else if extended & 1 << 23 != 0 {
        Some(WriteBack::ClflushOpt)
    } else {
        has_clflush.then_some(WriteBack::Clflush)
    }
}

/// How this processor writes cache lines back: not known.
#[must_use]
#[cfg(not(target_arch = "x86_64"))]
pub fn detect() -> Option<WriteBack> {
    None
}

/// Writes all cache lines of a range back, and waits.
#[cfg(target_arch = "x86_64")]
fn write_back(how: WriteBack, start: *mut u8, len: usize) {
    use std::arch::asm;
    use std::arch::x86_64::{_mm_clflush, _mm_sfence};
    let first = start.wrapping_sub(start.addr() % LINE);
    for line in (0..len + start.addr() % LINE).step_by(LINE) {
        let line = first.wrapping_add(line);
        // SAFETY: the line holds bytes of a mapping that lives; `detect` has found the instruction.
        unsafe {
            match how {
                WriteBack::Clwb => asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags)),
                WriteBack::ClflushOpt => asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags)),
                WriteBack::Clflush => _mm_clflush(line),
            }
        }
    }
    // SAFETY: every x86-64 processor has it.
    unsafe { _mm_sfence() };
}

#[cfg(not(target_arch = "x86_64"))]
fn write_back(how: WriteBack, _start: *mut u8, _len: usize) {
    unreachable!("{how:?} is never detected here, in lines of {LINE} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_persisted_is_in_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16384).unwrap();
        let shared = Arc::new(OwnedFd::from(file.try_clone().unwrap()));
        for how in detect().map(Durability::WriteBack).into_iter().chain([Durability::Never]) {
            let mapping = Mapping::new(shared.clone(), 16384, how, false).unwrap();
            mapping.populate().unwrap();
            mapping.store(4096, &[7; 4096]);
            mapping.store(100, &[9; 50]);
            mapping.write_back(100, 8092);
            let mut read = [0; 4200];
            mapping.load(4090, &mut read);
            assert!(read[..6].iter().all(|byte| *byte == 0) && read[6..4102].iter().all(|byte| *byte == 7));
            drop(mapping);
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 100).unwrap();
            assert_eq!(read[..51], [[9; 50].as_slice(), &[0]].concat());
        }
    }

    #[test]
    #[should_panic(expected = "4096 bytes at 16384 of 16384")]
    fn beyond_its_end_nothing_is_touched() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16384).unwrap();
        Mapping::new(Arc::new(file.into()), 16384, Durability::Never, false).unwrap().store(16384, &[1; 4096]);
    }
}
