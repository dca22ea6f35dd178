//! What befalls a life and what is between lives: planned deaths, faults of media, losses of power and of the journal, and
//! drains of it.

use super::World;
use crate::error::{ErrorKind, Result};
use crate::format::journal::{JOURNAL_FRONT_BYTES, journal_segment};
use crate::sim::death::{Death, Point};
use crate::sim::fault::{Fault, FaultKind};
use crate::sim::oracle::Failure;
use crate::sim::plan::{Drains, Failing, SPARED_BYTES};
use crate::sim::sink::lock;
use crate::sim::subject::{Host, HostJournal, Serving};
use crate::units::SegmentId;

/// Most bytes by which a medium is enlarged at a time.
const GROWTH_BYTES_MAX: u64 = 12 << 20;

/// When a life drains the journal, or gives and takes one that comes late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    Never,
    Meanwhile,
    Afterwards,
    /// It is given while hosts write.
    Comes,
    /// It is taken away and given again while hosts write.
    GoesAndComes,
    /// It is given while hosts write, taken away when they are done, and given again.
    Swaps,
}

/// How the medium is enlarged in a life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    after_ns: u64,
    bytes: u64,
}

impl World<'_> {
    /// Plans a death at some point of the coming life, more often early than late: a third of them while it recovers.
    pub(super) fn plan_death(&mut self, death: &Death) {
        let (point, nth) = match self.rng.u8(0..9) {
            0 => return,
            1..=3 => ([Point::Submit, Point::Complete][self.rng.usize(0..2)], self.rng.u64(1..=64)),
            _ => {
                let magnitude = self.rng.u32(0..14);
                (Point::ALL[self.rng.usize(0..Point::ALL.len())], self.rng.u64(1..=1 << magnitude))
            }
        };
        death.plan(point, nth, self.rng.usize(0..=1024));
    }

    /// When the coming life drains the journal.
    pub(super) fn drain(&mut self) -> Drain {
        let comes_late = self.plan.journal.is_some_and(|journal| journal.comes_late);
        match self.plan.journal.map_or(Drains::Never, |journal| journal.drains) {
            Drains::Never if comes_late => Drain::Comes,
            Drains::Always if comes_late => Drain::Swaps,
            Drains::Sometimes if comes_late => {
                [Drain::Never, Drain::Comes, Drain::GoesAndComes, Drain::Swaps][self.drains.usize(0..4)]
            }
            Drains::Never => Drain::Never,
            Drains::Always => Drain::Afterwards,
            Drains::Sometimes => {
                [Drain::Never, Drain::Never, Drain::Meanwhile, Drain::Afterwards][self.drains.usize(0..4)]
            }
        }
    }

    /// How the medium is enlarged in the coming life, at most four times in all.
    pub(super) fn growth(&mut self) -> Option<Growth> {
        let bytes = self.machine.borrow_mut().medium(self.file).len();
        if !self.plan.grows || bytes > self.plan.pool_bytes + 4 * GROWTH_BYTES_MAX || self.grows.bool() {
            return None;
        }
        let at_most = [1, 100_000, 5_000_000][self.grows.usize(0..3)];
        let after_ns = self.grows.u64(0..at_most);
        // also by what is no whole segment, and no whole block
        let more = self.grows.u64(3 << 20..GROWTH_BYTES_MAX) / 512 * 512;
        Some(Growth { after_ns, bytes: bytes + more })
    }

    /// Plans what the media do in the coming life.
    pub(super) fn plan_faults(&mut self) {
        let kinds: &[FaultKind] = match self.plan.failing {
            Failing::Never => return,
            Failing::Errors => {
                &[FaultKind::ReadError, FaultKind::WriteError, FaultKind::FlushError, FaultKind::NoSpace]
            }
            Failing::Silently => &[FaultKind::BitFlip, FaultKind::Lost, FaultKind::Torn, FaultKind::Misdirected],
        };
        let range = if self.plan.failing == Failing::Silently {
            SPARED_BYTES..self.plan.pool_bytes - SPARED_BYTES
        } else {
            0..self.plan.pool_bytes
        };
        let mut machine = self.machine.borrow_mut();
        machine.faults.clear();
        for _ in 0..self.rng.u32(0..4) {
            let kind = kinds[self.rng.usize(0..kinds.len())];
            let magnitude = self.rng.u32(0..9);
            let skip = self.rng.u64(0..1 << magnitude);
            let (mut file, mut range, times) = (self.file.0, range.clone(), self.rng.u64(1..=2));
            // the journal gets half of them: of its front both headers would be more than the format survives
            if let Some(HostJournal::Block(journal, bytes)) = &self.journal
                && self.rng.bool()
            {
                let spared = if self.plan.failing == Failing::Silently { JOURNAL_FRONT_BYTES } else { 0 };
                (file, range) = (journal.0, spared..*bytes);
            }
            machine.faults.add(Fault { kind, file, range, skip, times });
        }
        drop(machine);
        if self.plan.failing == Failing::Silently {
            self.damage_memory();
        }
    }

    /// Bits of a journal in memory are wrong, more often near the start of a segment, where something is.
    fn damage_memory(&mut self) {
        let (Some(HostJournal::Memory(memory)), Some(plan)) = (&self.journal, self.plan.journal) else { return };
        for _ in 0..self.rng.u32(0..4) {
            let segment = SegmentId(self.rng.u32(0..plan.segments));
            let magnitude = self.rng.u32(3..=18);
            let at = journal_segment(segment) + self.rng.u64(0..1 << magnitude);
            memory.flip(at, 1 << self.rng.u8(0..8));
        }
    }

    pub(super) fn after_death(&mut self, power: Option<bool>) {
        // after a failed flush nobody can know what is durable until the machine starts anew
        let flush_failed = self.machine.borrow_mut().take_flush_failed();
        let drawn = self.rng.u8(0..2) == 0;
        let power = flush_failed || power.unwrap_or(drawn);
        if !power || self.rng.bool() {
            self.machine.borrow_mut().daemon_dies();
            self.shared_memory.borrow().daemon_dies(&mut self.rng);
        }
        if power {
            self.lose_power();
        }
        self.perhaps_lose_journal();
    }

    pub(super) fn after_stop(&mut self) {
        self.machine.borrow_mut().daemon_ends();
        lock(&self.hosts).oracle.stopped();
        if self.rng.bool() && self.plan.failing != Failing::Silently {
            self.lose_power();
        }
        self.perhaps_lose_journal();
    }

    /// Now and then the journal is gone when the next daemon starts.
    fn perhaps_lose_journal(&mut self) {
        if self.plan.journal.is_some_and(|journal| journal.lost) && self.rng.u8(0..3) == 0 {
            self.journal_lost = true;
        }
    }

    fn lose_power(&mut self) {
        self.machine.borrow_mut().loses_power();
        if let Some(HostJournal::Memory(memory)) = &self.journal {
            memory.loses_power(&mut self.rng);
        }
        self.shared_memory.borrow_mut().loses_power();
        self.boot = self.rng.u128(..).to_le_bytes();
        self.failure = Failure::Machine;
    }
}

/// Drains the journal. A full pool, or one that has become read-only, keeps what is there.
pub(super) async fn drained(pool: &dyn Serving, well: bool) -> std::result::Result<(), String> {
    judged("draining", pool.drain().await, well)
}

/// Gives the pool its journal, unless it has it.
pub(super) async fn given(pool: &dyn Serving, well: bool) -> std::result::Result<(), String> {
    judged("giving a journal", pool.give_journal().await, well)
}

/// Takes the journal away. A full pool keeps it.
pub(super) async fn taken(pool: &dyn Serving, well: bool) -> std::result::Result<(), String> {
    judged("taking the journal away", pool.take_journal().await, well)
}

/// Enlarges the medium, and has the pool take that in.
pub(super) async fn grown(host: &Host, pool: &dyn Serving, growth: Growth) -> std::result::Result<(), String> {
    host.env.sleep_ns(growth.after_ns).await;
    if host.death.is_dead() {
        return Ok(());
    }
    host.machine.borrow_mut().medium(host.file).enlarge(growth.bytes);
    pool.grow(growth.bytes).await.map_err(|error| format!("growing failed: {error}"))
}

fn judged(what: &str, result: Result<()>, well: bool) -> std::result::Result<(), String> {
    match result {
        Err(error) if well && error.kind() != ErrorKind::NoSpace => Err(format!("{what} failed: {error}")),
        _ => Ok(()),
    }
}
