//! What is written, and where: blocks of a kind, and random numbers that are the same in every run.

use std::cell::RefCell;

use super::BLOCK;

/// Blocks of which half is random.
const BLOCKS: usize = 1024;

/// A source of blocks to write and of LBAs to write to.
pub struct Blocks {
    data: Vec<u8>,
    random: RefCell<fastrand::Rng>,
}

impl Blocks {
    /// Blocks of which half is random and half is zero: what fio calls 50 % compressible.
    #[must_use]
    pub fn half_zeros() -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let mut data = vec![0; BLOCKS * BLOCK];
        data.chunks_mut(BLOCK).for_each(|block| random.fill(&mut block[..BLOCK / 2]));
        Self { data, random: RefCell::new(random) }
    }

    /// The whole blocks of `data`; `None` when there is none.
    #[must_use]
    pub fn of(mut data: Vec<u8>) -> Option<Self> {
        data.truncate(data.len() / BLOCK * BLOCK);
        let random = RefCell::new(fastrand::Rng::with_seed(7));
        (!data.is_empty()).then_some(Self { data, random })
    }

    /// A number below `end`.
    #[must_use]
    pub fn below(&self, end: u64) -> u64 {
        self.random.borrow_mut().u64(..end)
    }

    /// Fills whole blocks, each with one chosen at random.
    pub fn fill(&self, bytes: &mut [u8]) {
        for block in bytes.chunks_mut(BLOCK) {
            let at = self.random.borrow_mut().usize(..self.data.len() / BLOCK) * BLOCK;
            block.copy_from_slice(&self.data[at..at + BLOCK]);
        }
    }
}
