//! Simulated persistent memory: of what was stored and not written back, any cache line survives a loss of power or not.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use fastrand::Rng;

use super::death::{Death, Point};
use crate::pmem::Memory;

/// Bytes of a cache line.
const LINE: usize = 64;

/// The memory, which outlives daemons and machines.
pub struct SimPmem {
    inner: RefCell<Inner>,
}

struct Inner {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Lines that may differ.
    dirty: BTreeSet<usize>,
}

impl SimPmem {
    /// `len` zero bytes.
    #[must_use]
    pub fn new(len: usize) -> Rc<Self> {
        let inner = Inner { current: vec![0; len], durable: vec![0; len], dirty: BTreeSet::new() };
        Rc::new(Self { inner: RefCell::new(inner) })
    }

    /// The machine loses power: each line that was not written back is old or new.
    pub fn loses_power(&self, rng: &mut Rng) {
        let Inner { current, durable, dirty } = &mut *self.inner.borrow_mut();
        // mostly all or nothing, now and then a mixture
        let manner = rng.u8(0..4);
        for line in std::mem::take(dirty) {
            let survives = match manner {
                0 => false,
                1 => true,
                _ => rng.bool(),
            };
            let bytes = line * LINE..(line + 1) * LINE;
            if survives {
                durable[bytes.clone()].copy_from_slice(&current[bytes]);
            } else {
                current[bytes.clone()].copy_from_slice(&durable[bytes]);
            }
        }
    }

    /// Bits of a byte are stored wrong, whoever looks.
    pub fn flip(&self, at: u64, bits: u8) {
        let inner = &mut *self.inner.borrow_mut();
        inner.current[index(at)] ^= bits;
        inner.durable[index(at)] ^= bits;
    }

    /// Lines that were stored and not written back.
    #[must_use]
    pub fn dirty_count(&self) -> usize {
        self.inner.borrow().dirty.len()
    }
}

/// The memory as one daemon has it mapped.
pub struct MappedPmem {
    memory: Rc<SimPmem>,
    death: Arc<Death>,
}

impl MappedPmem {
    /// Works as long as the daemon lives.
    #[must_use]
    pub fn new(memory: Rc<SimPmem>, death: Arc<Death>) -> Self {
        Self { memory, death }
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("64-bit only")
}

impl Memory for MappedPmem {
    fn size(&self) -> u64 {
        self.memory.inner.borrow().current.len() as u64
    }

    fn load(&self, at: u64, into: &mut [u8]) {
        let at = index(at);
        into.copy_from_slice(&self.memory.inner.borrow().current[at..at + into.len()]);
    }

    fn store(&self, at: u64, bytes: &[u8]) {
        let (at, len) = (index(at), self.death.store(bytes.len()));
        let Inner { current, dirty, .. } = &mut *self.memory.inner.borrow_mut();
        current[at..at + len].copy_from_slice(&bytes[..len]);
        dirty.extend(at / LINE..(at + len).div_ceil(LINE));
    }

    fn write_back(&self, at: u64, len: usize) {
        if !self.death.step(Point::Store) {
            return;
        }
        let Inner { current, durable, dirty } = &mut *self.memory.inner.borrow_mut();
        for line in index(at) / LINE..(index(at) + len).div_ceil(LINE) {
            if dirty.remove(&line) {
                let bytes = line * LINE..(line + 1) * LINE;
                durable[bytes.clone()].copy_from_slice(&current[bytes]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_were_not_written_back_survive_or_not() {
        let mut seen = BTreeSet::new();
        for seed in 0..64 {
            let memory = SimPmem::new(4096);
            let mapped = MappedPmem::new(memory.clone(), Death::never());
            mapped.store(0, &[1; 256]);
            mapped.write_back(0, 100);
            assert_eq!(memory.dirty_count(), 2);
            memory.loses_power(&mut Rng::with_seed(seed));
            let mut bytes = [0; 256];
            mapped.load(0, &mut bytes);
            assert!(bytes[..128].iter().all(|byte| *byte == 1), "lines that hold a byte of the range are durable");
            seen.insert((bytes[128], bytes[192]));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    }

    #[test]
    fn a_dead_daemon_stores_nothing() {
        let memory = SimPmem::new(4096);
        let death = Death::never();
        let mapped = MappedPmem::new(memory, death.clone());
        death.plan(Point::Store, 1, 512);
        mapped.store(0, &[7; 128]);
        mapped.store(256, &[7; 128]);
        let mut bytes = [0; 384];
        mapped.load(0, &mut bytes);
        assert_eq!([bytes[63], bytes[64], bytes[256]], [7, 0, 0]);
    }
}
