//! The moment at which a simulated daemon stops to exist.
//!
//! Everything a daemon can do to the outside (store to shared memory, hand I/O to a medium, answer a client) asks
//! [`Death`] first. At the planned point it turns [`Death::is_dead`]; from then on stores, submissions and replies have
//! no effect, although the task that was running still runs to its next await. The executor is stopped right after it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use std::sync::{Arc, Mutex, PoisonError};

/// A kind of step at which a daemon can die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Between two tasks.
    Task,
    /// At a store to shared memory, which may be cut in its middle.
    Store,
    /// Before an operation reaches a medium.
    Submit,
    /// Before the end of an operation is reported.
    Complete,
    /// Right after a host was answered.
    Reply,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Task, Self::Store, Self::Submit, Self::Complete, Self::Reply];

    fn index(self) -> usize {
        self as usize
    }
}

/// Steps of a life, of each kind, in the order of [`Point::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifeSteps {
    /// Until the pool was served.
    pub opening: [u64; 5],
    /// Until it ended.
    pub all: [u64; 5],
}

/// One daemon's life. Shared by its region, backend and reply sinks.
pub struct Death {
    dead: AtomicBool,
    seen: [AtomicU64; 5],
    plan: Mutex<Option<(Point, u64)>>,
    /// How much of the fatal store still lands, in 1/1024 of its bytes.
    cut: AtomicUsize,
}

impl Death {
    /// A daemon that lives until [`Death::kill`].
    #[must_use]
    pub fn never() -> Arc<Self> {
        let seen = [const { AtomicU64::new(0) }; 5];
        Arc::new(Self { dead: AtomicBool::new(false), seen, plan: Mutex::new(None), cut: AtomicUsize::new(0) })
    }

    /// Plans the death at the `nth` (from 1) next step of this kind; of a store, `cut` of 1024 parts still land.
    pub fn plan(&self, point: Point, nth: u64, cut: usize) {
        let at = self.seen[point.index()].load(Relaxed) + nth.max(1);
        self.cut.store(cut.min(1024), Relaxed);
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some((point, at));
    }

    /// Forgets a plan that has not come true.
    pub fn spare(&self) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Dies now.
    pub fn kill(&self) {
        self.dead.store(true, Relaxed);
    }

    /// Whether it is dead.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    /// Steps so far, of each kind, in the order of [`Point::ALL`].
    #[must_use]
    pub fn counts(&self) -> [u64; 5] {
        Point::ALL.map(|point| self.seen[point.index()].load(Relaxed))
    }

    /// Takes one step; returns whether it still has an effect.
    pub fn step(&self, point: Point) -> bool {
        if self.is_dead() {
            return false;
        }
        let count = self.seen[point.index()].fetch_add(1, Relaxed) + 1;
        let plan = *self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if plan == Some((point, count)) {
            self.kill();
        }
        !self.is_dead()
    }

    /// Takes a store of `len` bytes; returns how many of them, from the first on, still land.
    pub fn store(&self, len: usize) -> usize {
        if self.is_dead() {
            return 0;
        }
        if self.step(Point::Store) { len } else { len * self.cut.load(Relaxed) / 1024 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dies_at_the_planned_step_and_not_before() {
        let death = Death::never();
        assert!(death.step(Point::Submit));
        death.plan(Point::Submit, 2, 0);
        assert!(death.step(Point::Submit));
        assert!(death.step(Point::Task), "another kind of step does not count");
        assert!(!death.step(Point::Submit));
        assert!(death.is_dead());
        assert!(!death.step(Point::Task));
        assert_eq!(death.store(100), 0);
    }

    #[test]
    fn the_fatal_store_lands_in_part() {
        let death = Death::never();
        death.plan(Point::Store, 1, 512);
        assert_eq!(death.store(100), 50);
        assert_eq!(death.store(100), 0);
        let spared = Death::never();
        spared.plan(Point::Store, 1, 0);
        spared.spare();
        assert_eq!(spared.store(7), 7);
    }
}
