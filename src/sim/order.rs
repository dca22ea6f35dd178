//! Which task runs next: the seed says.

use fastrand::Rng;

use crate::env::executor::{Order, ReadyTasks};

/// Picks any ready task, and now and then lets I/O come first. How often is drawn once a run, so that some runs are
/// nearly first come, first served and others starve tasks for long.
pub struct SeededOrder {
    rng: Rng,
    io_one_in: u32,
    in_turn_of_8: u8,
}

impl SeededOrder {
    /// An order drawn from `rng`.
    #[must_use]
    pub fn new(mut rng: Rng) -> Self {
        let io_one_in = [2, 4, 16, 64][rng.usize(0..4)];
        let in_turn_of_8 = [0, 0, 4, 7][rng.usize(0..4)];
        Self { rng, io_one_in, in_turn_of_8 }
    }
}

impl Order for SeededOrder {
    fn pick(&mut self, ready: ReadyTasks) -> Option<usize> {
        if self.rng.u32(0..self.io_one_in) == 0 {
            return None;
        }
        if self.rng.u8(0..8) < self.in_turn_of_8 {
            return Some(0);
        }
        Some(self.rng.usize(0..ready.prompt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches_every_task_and_io_and_repeats_itself() {
        for seed in 0..16 {
            let picks = |seed| {
                let mut order = SeededOrder::new(Rng::with_seed(seed));
                (0..1000).map(|_| order.pick(ReadyTasks { prompt: 4, ..ReadyTasks::default() })).collect::<Vec<_>>()
            };
            let first = picks(seed);
            assert_eq!(first, picks(seed));
            for task in [None, Some(0), Some(1), Some(2), Some(3)] {
                assert!(first.contains(&task), "seed {seed} never picks {task:?}");
            }
        }
    }
}
