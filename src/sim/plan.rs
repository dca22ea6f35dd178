//! What a run shall be: everything that a seed decides before it begins.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;

use super::death::Point;
use super::subject::NamespacePlan;
use super::workload::Habits;

/// How the media of a run fail, beyond losing what was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Not at all.
    Never,
    /// They report errors: reads, writes, flushes, allocations. Every promise holds, but requests and openings may fail.
    Errors,
    /// They damage segments and say nothing: bit flips, lost, torn and misdirected writes. Daemons only stop cleanly:
    /// what is read is right or an error.
    Silently,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::Errors => "errors",
            Self::Silently => "silently",
        })
    }
}

impl FromStr for Failing {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "never" => Ok(Self::Never),
            "errors" => Ok(Self::Errors),
            "silently" => Ok(Self::Silently),
            other => Err(format!("{other:?} is none of: never, errors, silently")),
        }
    }
}

/// Bytes at both ends of a pool that silent damage spares: superblocks, roots and namespace tables have two copies each,
/// and losing both is beyond what the format survives.
pub(super) const SPARED_BYTES: u64 = 4 << 20;

/// What the pool's journal is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalKind {
    /// Persistent memory.
    Memory,
    /// A medium of the machine.
    Block,
}

/// When the journal is drained while the pool is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drains {
    /// Never.
    Never,
    /// In some lives, while hosts write or when they are done.
    Sometimes,
    /// In every life, when hosts are done.
    Always,
}

/// The journal of a run's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalPlan {
    /// On what.
    pub kind: JournalKind,
    /// How many segments.
    pub segments: u32,
    /// It is lost at some time, and given up: what is read is right or an error.
    pub lost: bool,
    /// When it is drained.
    pub drains: Drains,
    /// The pool begins without it; daemons give it and take it away again while hosts write.
    pub comes_late: bool,
}

impl JournalPlan {
    /// Of eight pools three have a journal; a quarter of those lose it.
    fn draw(rng: &mut Rng) -> Option<Self> {
        let kinds = [Some(JournalKind::Memory), Some(JournalKind::Memory), Some(JournalKind::Block), None];
        let (kind, lost) = (kinds[rng.usize(0..8).min(3)], rng.u8(0..4) == 0);
        let segments = [16, 16, 24, 48][rng.usize(0..4)];
        let drains = if rng.bool() { Drains::Sometimes } else { Drains::Never };
        kind.map(|kind| Self { kind, segments, lost, drains, comes_late: false })
    }
}

/// What a run consists of. Drawn from the seed, then changed by tests that want something definite.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of everything.
    pub seed: u64,
    /// Bytes of the pool's medium.
    pub pool_bytes: u64,
    /// The namespaces.
    pub namespaces: Vec<NamespacePlan>,
    /// Daemons before the last one.
    pub lives: u32,
    /// How hosts behave.
    pub habits: Habits,
    /// How the first lives end; the ends of the others are drawn.
    pub deaths: Vec<PlannedDeath>,
    /// How the media fail.
    pub failing: Failing,
    /// The clock jumps ahead now and then, as that of a machine that was suspended or stopped.
    pub clock_jumps: bool,
    /// Each daemon scrubs the pool while its hosts write.
    pub scrubs: bool,
    /// The medium is enlarged now and then, and the pool with it, while hosts write.
    pub grows: bool,
    /// The pool's journal, if it has one.
    pub journal: Option<JournalPlan>,
    /// Print every event.
    pub verbose: bool,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedDeath {
    /// At which step, counted from 1; `None`: it lives until its hosts are done.
    pub at: Option<(Point, u64)>,
    /// Of a fatal store so many of 1024 parts still land.
    pub cut: usize,
    /// Whether the machine loses power too.
    pub power: bool,
}

/// What a run is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A small pool overwritten again and again: segments are reused.
    Churn,
    /// Small writes, each soon flushed, and many deaths.
    Commits,
    /// A little of everything.
    Mixed,
    /// A small pool nearly full of live blocks, overwritten in small pieces: the cleaner is always at work.
    Cramped,
    /// Namespaces much larger than the pool, written here and there and discarded in large pieces: leaves come and go.
    Sparse,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "churn" => Ok(Self::Churn),
            "commits" => Ok(Self::Commits),
            "mixed" => Ok(Self::Mixed),
            "cramped" => Ok(Self::Cramped),
            "sparse" => Ok(Self::Sparse),
            other => Err(format!("{other:?} is none of: churn, commits, cramped, mixed, sparse")),
        }
    }
}

impl Plan {
    /// The plan of a seed on media that fail.
    #[must_use]
    pub fn failing(seed: u64, failing: Failing) -> Self {
        Self { failing, ..Self::of(seed) }
    }

    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x006b_696e_6400);
        // seeds keep what they were: of eight, one is cramped, and of sixteen one sparse
        let kind = if seed % 8 == 7 {
            Kind::Cramped
        } else if seed % 16 == 13 {
            Kind::Sparse
        } else {
            [Kind::Churn, Kind::Commits, Kind::Commits, Kind::Mixed, Kind::Mixed, Kind::Mixed][rng.usize(0..6)]
        };
        Self::of_kind(seed, kind)
    }

    /// The plan of a seed with a journal.
    #[must_use]
    pub fn with_journal(seed: u64, lost: bool) -> Self {
        let kind = [JournalKind::Memory, JournalKind::Memory, JournalKind::Block][index(seed % 3)];
        let drains = if seed.is_multiple_of(2) { Drains::Sometimes } else { Drains::Never };
        let segments = [16, 24, 48][index(seed / 3 % 3)];
        let journal = Some(JournalPlan { kind, segments, lost, drains, comes_late: false });
        Self { journal, ..Self::of(seed) }
    }

    /// The same plan, but that the pool begins without its journal.
    #[must_use]
    pub fn with_journal_late(self) -> Self {
        Self { journal: self.journal.map(|journal| JournalPlan { comes_late: true, ..journal }), ..self }
    }

    /// The plan of a seed, of one kind: for what only that kind brings about often.
    #[must_use]
    pub fn of_kind(seed: u64, kind: Kind) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x0070_6c61_6e00);
        if kind == Kind::Cramped {
            return Self::cramped(seed, &mut rng);
        }
        let count = [1, 1, 2, 3][rng.usize(0..4)];
        // little to verify, so that deaths come while hosts write
        let sizes = match kind {
            Kind::Commits => [16, 32, 64, 256],
            Kind::Sparse => [2 << 10, 4 << 10, 6_000, 8 << 10],
            Kind::Churn | Kind::Mixed | Kind::Cramped => [64, 256, 512, 1024],
        };
        let namespaces = (0..count)
            .map(|index| NamespacePlan {
                name: format!("n{index}"),
                size: sizes[rng.usize(0..4)] * 4096,
                logical_block: if rng.u8(0..3) == 0 { 512 } else { 4096 },
                flavour: rng.u64(..),
            })
            .collect();
        let (pool_mib, lives, habits) = match kind {
            Kind::Churn => (rng.u64(20..=28), rng.u32(1..=6), Habits::churn(&mut rng)),
            Kind::Commits => (rng.u64(24..=32), rng.u32(4..=16), Habits::commits(&mut rng)),
            Kind::Mixed | Kind::Cramped => (rng.u64(24..=64), rng.u32(1..=8), Habits::mixed(&mut rng)),
            Kind::Sparse => (rng.u64(24..=40), rng.u32(1..=8), Habits::sparse(&mut rng)),
        };
        let pool_bytes = pool_mib << 20;
        let (deaths, failing, journal) = (Vec::new(), Failing::Never, JournalPlan::draw(&mut rng));
        // not drawn: what else a seed decides stays as it was
        let clock_jumps = xxhash_rust::xxh3::xxh3_64(&seed.to_le_bytes()).is_multiple_of(4);
        Self {
            seed,
            pool_bytes,
            namespaces,
            lives,
            habits,
            deaths,
            failing,
            clock_jumps,
            scrubs: false,
            grows: false,
            journal,
            verbose: false,
        }
    }

    /// A run so short that it can be made once for each of its steps.
    #[must_use]
    pub fn short(seed: u64) -> Self {
        let plan = Self::of_kind(seed, Kind::Commits);
        let habits = Habits { clients: 2, requests: 3..8, pause_ns: 0, ..plan.habits };
        let namespaces = plan.namespaces.into_iter().take(1).map(|n| NamespacePlan { size: 64 << 10, ..n }).collect();
        Self { pool_bytes: 24 << 20, namespaces, habits, clock_jumps: false, journal: None, ..plan }
    }

    /// A short run with a journal that is drained when hosts are done: some of its writes go there.
    #[must_use]
    pub fn short_with_journal(seed: u64, kind: JournalKind) -> Self {
        let plan = Self::short(seed);
        let journal = Some(JournalPlan { kind, segments: 16, lost: false, drains: Drains::Always, comes_late: false });
        // the first write of a leaf has it marked; pauses let that happen before the last one
        let habits = Habits { weights: [1, 10, 2, 0, 0], requests: 6..12, pause_ns: 2_000_000, ..plan.habits };
        Self { habits, journal, ..plan }
    }

    /// Live blocks take most of what streams and reserve leave of the pool.
    fn cramped(seed: u64, rng: &mut Rng) -> Self {
        let pool_mib = rng.u64(20..=26);
        // 4 MiB at the ends, three open segments, four in reserve, one announced ahead
        let usable_blocks = (pool_mib - 4 - 8) * 256;
        let count = rng.u64(1..=2);
        // of every second such pool the data gets smaller, so that recompression gains something: there is more of it
        let shrinks = seed % 16 == 15;
        let blocks = usable_blocks * rng.u64(60..=115) * if shrinks { 13 } else { 10 } / 1000 / count;
        let namespaces = (0..count).map(|index| NamespacePlan {
            name: format!("n{index}"),
            size: blocks * 4096,
            logical_block: if rng.u8(0..4) == 0 { 512 } else { 4096 },
            // stored raw, or else with LZ4: what is written is what it takes
            flavour: rng.u64(0..2) + if shrinks { 0 } else { 4 } + 8 * rng.u64(0..4),
        });
        let namespaces = namespaces.collect();
        let (lives, habits) = (rng.u32(1..=5), Habits::cramped(rng));
        let (deaths, failing, journal) = (Vec::new(), Failing::Never, JournalPlan::draw(rng));
        Self {
            seed,
            pool_bytes: pool_mib << 20,
            namespaces,
            lives,
            habits,
            deaths,
            failing,
            clock_jumps: false,
            scrubs: false,
            grows: false,
            journal,
            verbose: false,
        }
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(0)
}
