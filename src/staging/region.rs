//! The memory under the staging slots: one mapping, [`SLOT_COUNT`] slots of [`SLOT_BYTES`], each with a published word.
//!
//! ```text
//!   0          header page (written once, see format::slot)
//!   4096       per slot 64 bytes: published word (u64), prelude (format::slot)
//!   8192       slot 0 | slot 1 | …
//! ```
//!
//! **Invariants.** One thread (the core) stores into slots. Bytes below a slot's published length never change until
//! the slot is reused; the kernel and adopters read only those. **Failure:** none once mapped: the file is fully
//! allocated and locked before use (no SIGBUS). **Not here:** what the bytes mean (`format::slot`, `log`).
//!
//! Under the simulator a handle belongs to one daemon's life ([`Region::belonging_to`]): stores after its death have no
//! effect, while the memory stays for its successor.

use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapMut;

use crate::buf::AlignedBuf;
use crate::format::slot::PRELUDE_BYTES;
use crate::limits::{SLOT_BYTES, SLOT_COUNT};

/// Bytes before the first slot.
pub(crate) const HEADER_BYTES: usize = 8192;
/// Bytes of the whole region.
pub(crate) const REGION_BYTES: usize = HEADER_BYTES + SLOT_COUNT * SLOT_BYTES;
const PUBLISHED_AT: usize = 4096;
const PUBLISHED_STRIDE: usize = 8 + PRELUDE_BYTES;
const _: () = assert!(PUBLISHED_STRIDE == 64 && PUBLISHED_AT + SLOT_COUNT * PUBLISHED_STRIDE <= HEADER_BYTES);

enum Memory {
    /// A file under `/run`.
    Mapped(#[expect(dead_code, reason = "kept mapped")] MmapMut),
    /// Ordinary memory: tests, the simulator's daemon.
    Owned(#[expect(dead_code, reason = "kept allocated")] AlignedBuf),
}

/// The staging memory. Cloned by reference; the last user unmaps it.
#[derive(Clone)]
pub struct Region {
    inner: Rc<Inner>,
    #[cfg(feature = "sim")]
    death: Option<std::sync::Arc<crate::sim::Death>>,
}

struct Inner {
    base: NonNull<u8>,
    slots: usize,
    _memory: Memory,
}

impl Region {
    /// Over a mapped file of exactly `REGION_BYTES`.
    #[must_use]
    pub fn mapped(mut map: MmapMut) -> Self {
        assert_eq!(map.len(), REGION_BYTES, "a staging file has one size");
        let base = NonNull::from(&mut map[0]);
        Self::over(base, SLOT_COUNT, Memory::Mapped(map))
    }

    /// Over ordinary memory, which dies with the process.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::ordinary(SLOT_COUNT)
    }

    /// Over ordinary memory for this many slots, at most [`SLOT_COUNT`].
    #[must_use]
    pub fn ordinary(slots: usize) -> Self {
        assert!(slots <= SLOT_COUNT, "{slots} slots");
        let mut memory = AlignedBuf::zeroed(HEADER_BYTES + slots * SLOT_BYTES);
        let base = NonNull::from(&mut memory[0]);
        Self::over(base, slots, Memory::Owned(memory))
    }

    fn over(base: NonNull<u8>, slots: usize, memory: Memory) -> Self {
        Self {
            inner: Rc::new(Inner { base, slots, _memory: memory }),
            #[cfg(feature = "sim")]
            death: None,
        }
    }

    /// The same memory for a daemon that may die: its stores count as long as it lives.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn belonging_to(&self, death: std::sync::Arc<crate::sim::Death>) -> Self {
        Self { inner: self.inner.clone(), death: Some(death) }
    }

    /// How many of `len` bytes that are about to be stored will land.
    #[inline]
    fn landing(&self, len: usize) -> usize {
        #[cfg(feature = "sim")]
        if let Some(death) = &self.death {
            return death.store(len);
        }
        len
    }

    fn published(&self, slot: usize) -> &AtomicU64 {
        assert!(slot < self.inner.slots, "slot {slot}");
        #[expect(unsafe_code, reason = "an atomic word inside the mapping")]
        // SAFETY: in bounds (slot < slots), aligned to 8 (the base is page aligned, stride 64), lives as long as
        // the mapping that self keeps, and only ever accessed as an atomic.
        unsafe {
            AtomicU64::from_ptr(self.inner.base.as_ptr().add(PUBLISHED_AT + slot * PUBLISHED_STRIDE).cast())
        }
    }

    /// Publishes the first `bytes` of a slot: what was stored there before is visible to whoever reads the word.
    pub fn publish(&self, slot: usize, bytes: usize) {
        let word = bytes as u64;
        // a word lands whole or not at all
        if self.landing(size_of_val(&word)) == size_of_val(&word) {
            self.published(slot).store(word, Ordering::Release);
        }
        if word == 0 {
            // the next prelude must not be seen with the old length: a release store alone lets later stores go before
            std::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    /// What was published of a slot.
    #[must_use]
    pub fn published_bytes(&self, slot: usize) -> u64 {
        self.published(slot).load(Ordering::Acquire)
    }

    /// Stores the prelude of a slot: where its batch belongs. Only while nothing of the slot is published.
    pub fn store_prelude(&self, slot: usize, bytes: &[u8; PRELUDE_BYTES]) {
        assert!(slot < self.inner.slots, "slot {slot}");
        #[expect(unsafe_code, reason = "a store into the mapping")]
        // SAFETY: in bounds: 8 + PRELUDE_BYTES is the stride; only this thread stores.
        unsafe {
            let to = self.inner.base.as_ptr().add(PUBLISHED_AT + slot * PUBLISHED_STRIDE + 8);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, self.landing(PRELUDE_BYTES));
        }
    }

    /// Copies out the prelude of a slot.
    #[must_use]
    pub fn load_prelude(&self, slot: usize) -> [u8; PRELUDE_BYTES] {
        assert!(slot < self.inner.slots, "slot {slot}");
        let mut bytes = [0; PRELUDE_BYTES];
        #[expect(unsafe_code, reason = "a load from the mapping")]
        // SAFETY: in bounds as in `store_prelude`.
        unsafe {
            let from = self.inner.base.as_ptr().add(PUBLISHED_AT + slot * PUBLISHED_STRIDE + 8);
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), PRELUDE_BYTES);
        }
        bytes
    }

    /// Copies `bytes` into a slot.
    pub fn store(&self, slot: usize, at: usize, bytes: &[u8]) {
        assert!(slot < self.inner.slots && at + bytes.len() <= SLOT_BYTES, "slot {slot} at {at} + {}", bytes.len());
        let bytes = &bytes[..self.landing(bytes.len())];
        #[expect(unsafe_code, reason = "a store into the mapping")]
        // SAFETY: in bounds (asserted); only this thread stores (Region is not Send), `bytes` is a Rust slice and so
        // not part of the region except by `SlotBuf::bytes`, whose range is below the published length and never
        // stored to again.
        unsafe {
            let to = self.inner.base.as_ptr().add(HEADER_BYTES + slot * SLOT_BYTES + at);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Zeroes `len` bytes of a slot.
    pub fn zero(&self, slot: usize, at: usize, len: usize) {
        assert!(slot < self.inner.slots && at + len <= SLOT_BYTES, "slot {slot} at {at} + {len}");
        let len = self.landing(len);
        #[expect(unsafe_code, reason = "a store into the mapping")]
        // SAFETY: as in `store`.
        unsafe {
            std::ptr::write_bytes(self.inner.base.as_ptr().add(HEADER_BYTES + slot * SLOT_BYTES + at), 0, len);
        }
    }

    /// Copies out of a slot.
    pub fn load(&self, slot: usize, at: usize, into: &mut [u8]) {
        assert!(slot < self.inner.slots && at + into.len() <= SLOT_BYTES, "slot {slot} at {at} + {}", into.len());
        #[expect(unsafe_code, reason = "a load from the mapping")]
        // SAFETY: in bounds (asserted); this thread is the only one that stores.
        unsafe {
            let from = self.inner.base.as_ptr().add(HEADER_BYTES + slot * SLOT_BYTES + at);
            std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
        }
    }

    /// The header page: written before serving, read by adopters.
    pub fn store_header(&self, bytes: &[u8]) {
        assert!(bytes.len() <= PUBLISHED_AT, "header of {}", bytes.len());
        let bytes = &bytes[..self.landing(bytes.len())];
        #[expect(unsafe_code, reason = "a store into the mapping")]
        // SAFETY: in bounds (asserted); only this thread stores.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.inner.base.as_ptr(), bytes.len());
        }
    }

    /// Copies out of the header page.
    pub fn load_header(&self, into: &mut [u8]) {
        assert!(into.len() <= PUBLISHED_AT, "header of {}", into.len());
        #[expect(unsafe_code, reason = "a load from the mapping")]
        // SAFETY: in bounds (asserted).
        unsafe {
            std::ptr::copy_nonoverlapping(self.inner.base.as_ptr(), into.as_mut_ptr(), into.len());
        }
    }

    /// The slot's memory for the kernel to write out; keeps the region mapped.
    #[must_use]
    pub fn slot_buf(&self, slot: usize) -> SlotBuf {
        assert!(slot < self.inner.slots, "slot {slot}");
        SlotBuf { region: self.clone(), slot }
    }
}

/// A slot lent to a write operation.
pub struct SlotBuf {
    region: Region,
    slot: usize,
}

impl SlotBuf {
    /// The slot's bytes. Only what was submitted is stable; see the module's invariants.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        #[expect(unsafe_code, reason = "a view of the mapping")]
        // SAFETY: in bounds and mapped as long as self; a submitted slot is not stored to until its write completed
        // and this lease came back.
        unsafe {
            std::slice::from_raw_parts(
                self.region.inner.base.as_ptr().add(HEADER_BYTES + self.slot * SLOT_BYTES),
                SLOT_BYTES,
            )
        }
    }
}

impl std::fmt::Debug for SlotBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SlotBuf({})", self.slot)
    }
}
