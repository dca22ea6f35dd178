//! Victim policies against traces of writes: how many blocks are written for each block of the host, in steady state.
//!
//! ```text
//! cargo run --release -p ublk-tests --example cleaner_traces -- [--segments 512] [--blocks 256] [--rounds 6]
//! ```
//! Segments hold equal blocks; the cleaner keeps a few segments free and moves what is live to a stream of its own, as the
//! engine does, and chooses with the engine's own code. The first column is the analytic curve for uniform writes and
//! large segments (Desnoyers: 1 / (1 - u), where u is the live part of a victim and (u - 1) / ln u the utilization).
//! The last column is cost-benefit with host writes in two streams, told apart by the age of what they overwrite.
//! `--choice SEGMENTS` measures instead what choosing costs in a large pool, against a look at all segments.
//! With `--check` it ends with an error unless that stays within bounds of the curve and of the others.

use clap::Parser;
use fastrand::Rng;
use plica::cleaner::{Candidate, CostBenefit, Fifo, Greedy, Lifespan, VictimIndex, VictimPolicy};
use plica::units::SegmentId;

const UTILIZATIONS: [u32; 6] = [50, 60, 70, 80, 90, 95];
/// Free segments below which a victim is cleaned.
const FREE_LOW: usize = 4;
const NOWHERE: u32 = u32::MAX;
/// Streams.
const HOST: usize = 0;
const MOVED: usize = 1;
const COLD: usize = 2;

#[derive(Parser)]
#[command(about = "Write amplification of victim policies under traces of writes")]
struct Arguments {
    /// Segments of the store.
    #[arg(long, default_value_t = 512)]
    segments: u32,
    /// Blocks of a segment.
    #[arg(long, default_value_t = 256)]
    blocks: u32,
    /// How often all blocks are written; the last third is measured.
    #[arg(long, default_value_t = 6)]
    rounds: u64,
    /// Fail when cost-benefit with two streams is out of bounds.
    #[arg(long)]
    check: bool,
    /// Measure instead what choosing victims costs in a pool of so many segments (262144 of 4 MiB: 1 TiB).
    #[arg(long, value_name = "SEGMENTS")]
    choice: Option<u32>,
}

/// Blocks of a segment of 4 MiB, two to one.
const SEGMENT_BLOCKS: u32 = 2048;
/// Victims of a round.
const VICTIMS: usize = 32;
/// Overwrites between two choices.
const OVERWRITES: u32 = 32 * SEGMENT_BLOCKS / 2;

/// The best victims by a look at all segments: what the index is compared with.
fn choose_by_scan(segments: &[(u32, u64)], now: u64) -> Vec<usize> {
    let score = |(live, filled): &(u32, u64)| {
        let live = f64::from(*live) / f64::from(SEGMENT_BLOCKS);
        CostBenefit.score(&Candidate { live, age: now - filled })
    };
    let mut best: Vec<(f64, usize)> = Vec::with_capacity(VICTIMS + 1);
    for (id, segment) in segments.iter().enumerate().filter(|(_, (live, _))| *live * 32 <= SEGMENT_BLOCKS * 31) {
        let score = score(segment);
        if best.len() == VICTIMS && best.last().is_some_and(|(worst, _)| score <= *worst) {
            continue;
        }
        best.insert(best.partition_point(|(other, _)| *other >= score), (score, id));
        best.truncate(VICTIMS);
    }
    best.into_iter().map(|(_, id)| id).collect()
}

/// CPU time of this thread, as the kernel tells it; 0 where it does not.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Rounds of overwrites and choices in a large pool: CPU time of a choice by scan and by index, that of keeping the index, and
/// how good the chosen are.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn measure_choice(count: u32) {
    const ROUNDS: u32 = 40;
    let mut rng = Rng::with_seed(1);
    let mut now = u64::from(count) * 10_000;
    let mut segments: Vec<(u32, u64)> =
        (0..count).map(|_| (rng.u32(SEGMENT_BLOCKS * 2 / 5..=SEGMENT_BLOCKS), rng.u64(0..now))).collect();
    let whole = f64::from(SEGMENT_BLOCKS);
    let (mut index, mut marks) = (VictimIndex::default(), vec![0; count as usize]);
    let tell = |index: &mut VictimIndex, marks: &mut [u32], id: usize, (live, filled): (u32, u64)| {
        index.update(SegmentId(u32::try_from(id).unwrap_or(NOWHERE)), Some((f64::from(live) / whole, filled)));
        marks[id] = VictimIndex::mark(live, whole);
    };
    segments.iter().enumerate().for_each(|(id, segment)| tell(&mut index, &mut marks, id, *segment));
    let (mut scan, mut by_index, mut kept, mut drops) = (0, 0, 0, 0_u64);
    let (mut score_scan, mut score_index) = (0.0, 0.0);
    for _ in 0..ROUNDS {
        // what the host overwrites until the next round: the space that the last one gained
        let began = cpu_ns();
        for _ in 0..OVERWRITES {
            now += 1;
            let id = rng.usize(0..segments.len());
            if segments[id].0 > 1 {
                segments[id].0 -= 1;
                drops += 1;
                if segments[id].0 < marks[id] {
                    tell(&mut index, &mut marks, id, segments[id]);
                }
            }
        }
        kept += cpu_ns() - began;
        let began = cpu_ns();
        let scanned = choose_by_scan(&segments, now);
        scan += cpu_ns() - began;
        let began = cpu_ns();
        let found = index.choose(&CostBenefit, now, VICTIMS);
        by_index += cpu_ns() - began;
        let score = |id: usize| {
            let (live, filled) = segments[id];
            CostBenefit.score(&Candidate { live: f64::from(live) / whole, age: now - filled })
        };
        score_scan += scanned.iter().map(|id| score(*id)).sum::<f64>();
        score_index += found.iter().map(|id| score(id.0 as usize)).sum::<f64>();
        for id in found {
            segments[id.0 as usize] = (SEGMENT_BLOCKS, now);
            tell(&mut index, &mut marks, id.0 as usize, segments[id.0 as usize]);
        }
    }
    let micros = |ns: u64| ns as f64 / f64::from(ROUNDS) / 1000.0;
    println!("{count} segments, a choice of {VICTIMS} victims, {} overwrites between two", drops / u64::from(ROUNDS));
    println!("{:<44} {:>12.1} us", "by a look at all segments", micros(scan));
    println!("{:<44} {:>12.1} us", "by the index", micros(by_index));
    println!("{:<44} {:>12.1} us", "the overwrites themselves, keeping the index", micros(kept));
    println!("{:<44} {:>12.2} %", "mean score of the chosen, of the best", 100.0 * score_index / score_scan);
}

/// Where writes go.
#[derive(Clone, Copy, PartialEq)]
enum Trace {
    Uniform,
    Zipfian(f64),
    /// Nine of ten writes go to one of ten blocks.
    HotCold,
    /// Nine of ten writes go round a ring of a tenth of the blocks, as a database's log does.
    Circular,
}

const TRACES: [(&str, Trace); 6] = [
    ("uniform", Trace::Uniform),
    ("zipfian 0.8", Trace::Zipfian(0.8)),
    ("zipfian 0.99", Trace::Zipfian(0.99)),
    ("zipfian 1.2", Trace::Zipfian(1.2)),
    ("hot/cold 90/10", Trace::HotCold),
    ("circular log", Trace::Circular),
];

/// Draws the blocks that a trace writes.
struct Writes {
    trace: Trace,
    blocks: u32,
    rng: Rng,
    at: u32,
    /// Zipfian: the share of writes that go to ranks up to this one.
    shares: Vec<f64>,
    /// Zipfian: the block of each rank, so that hot ones do not lie together.
    ranks: Vec<u32>,
}

impl Writes {
    fn new(trace: Trace, blocks: u32) -> Self {
        let mut rng = Rng::with_seed(42);
        let (mut shares, mut ranks) = (Vec::new(), Vec::new());
        if let Trace::Zipfian(theta) = trace {
            let mut sum = 0.0;
            for rank in 1..=blocks {
                sum += f64::from(rank).powf(-theta);
                shares.push(sum);
            }
            shares.iter_mut().for_each(|share| *share /= sum);
            ranks = (0..blocks).collect();
            rng.shuffle(&mut ranks);
        }
        Self { trace, blocks, rng, at: 0, shares, ranks }
    }

    fn next(&mut self) -> u32 {
        let tenth = self.blocks / 10;
        match self.trace {
            Trace::Uniform => self.rng.u32(0..self.blocks),
            Trace::Zipfian(_) => {
                let share = self.rng.f64();
                let rank = self.shares.partition_point(|s| *s < share).min(self.ranks.len() - 1);
                self.ranks[rank]
            }
            Trace::HotCold if self.rng.u8(0..10) < 9 => self.rng.u32(0..tenth),
            Trace::Circular if self.rng.u8(0..10) < 9 => {
                self.at = (self.at + 1) % tenth;
                self.at
            }
            Trace::HotCold | Trace::Circular => self.rng.u32(tenth..self.blocks),
        }
    }
}

#[derive(Clone, Default)]
struct Segment {
    blocks: Vec<u32>,
    live: u32,
    /// When it was filled.
    filled: Option<u64>,
    stream: usize,
    /// Below so many live blocks it is told to the index again.
    mark: u32,
}

/// A log of segments with a map.
struct Store {
    segments: Vec<Segment>,
    /// Segment and position of each block.
    map: Vec<(u32, u32)>,
    free: Vec<u32>,
    open: [u32; 3],
    /// Host writes go to two streams.
    splits: bool,
    lifespan: Lifespan,
    index: VictimIndex,
    segment_blocks: u32,
    now: u64,
    moved: u64,
}

impl Store {
    fn new(segments: u32, segment_blocks: u32, blocks: u32, splits: bool) -> Self {
        let mut free: Vec<u32> = (0..segments).rev().collect();
        let open = [free.pop(), free.pop(), free.pop()].map(Option::unwrap_or_default);
        Self {
            segments: vec![Segment::default(); segments as usize],
            map: vec![(NOWHERE, 0); blocks as usize],
            free,
            open,
            splits,
            lifespan: Lifespan::default(),
            index: VictimIndex::default(),
            segment_blocks,
            now: 0,
            moved: 0,
        }
    }

    fn append(&mut self, stream: usize, block: u32) {
        if self.segments[self.open[stream] as usize].blocks.len() == self.segment_blocks as usize {
            self.segments[self.open[stream] as usize].filled = Some(self.now);
            self.tell(self.open[stream]);
            self.open[stream] = self.free.pop().unwrap_or_else(|| panic!("out of segments"));
            self.segments[self.open[stream] as usize].stream = stream;
        }
        let (old, _) = self.map[block as usize];
        if old != NOWHERE {
            self.segments[old as usize].live -= 1;
            if self.segments[old as usize].live < self.segments[old as usize].mark {
                self.tell(old);
            }
        }
        let segment = &mut self.segments[self.open[stream] as usize];
        let position = u32::try_from(segment.blocks.len()).unwrap_or(NOWHERE);
        self.map[block as usize] = (self.open[stream], position);
        segment.blocks.push(block);
        segment.live += 1;
    }

    /// Tells the index what a segment is now.
    fn tell(&mut self, id: u32) {
        let whole = f64::from(self.segment_blocks);
        let segment = &mut self.segments[id as usize];
        let candidate = segment.filled.map(|filled| (f64::from(segment.live) / whole, filled));
        segment.mark = if candidate.is_some() { VictimIndex::mark(segment.live, whole) } else { 0 };
        self.index.update(SegmentId(id), candidate);
    }

    fn write(&mut self, block: u32) {
        let age = match self.map[block as usize] {
            (NOWHERE, _) => None,
            (segment, _) => Some(self.now - self.segments[segment as usize].filled.unwrap_or(self.now)),
        };
        let is_cold = self.splits && self.lifespan.is_cold(age);
        self.append(if is_cold { COLD } else { HOST }, block);
    }

    fn clean(&mut self, policy: &dyn VictimPolicy) {
        let now = self.now;
        let Some(victim) = self.index.choose(policy, now, 1).first().copied() else {
            panic!("no victim gains anything")
        };
        self.index.update(victim, None);
        let segment = std::mem::take(&mut self.segments[victim.0 as usize]);
        self.segments[victim.0 as usize].live = segment.live;
        if segment.stream == HOST {
            self.lifespan.cleaned(now - segment.filled.unwrap_or(now));
        }
        for (position, block) in (0..).zip(segment.blocks) {
            if self.map[block as usize] == (victim.0, position) {
                self.append(MOVED, block);
                self.moved += 1;
            }
        }
        self.free.push(victim.0);
    }
}

/// Blocks written for each block of the host.
fn amplification(
    arguments: &Arguments,
    trace: Trace,
    utilization: u32,
    policy: &dyn VictimPolicy,
    splits: bool,
) -> f64 {
    let blocks = arguments.segments * arguments.blocks / 100 * utilization;
    let mut store = Store::new(arguments.segments, arguments.blocks, blocks, splits);
    let mut writes = Writes::new(trace, blocks);
    let total = u64::from(blocks) * arguments.rounds;
    let measured_from = total * 2 / 3;
    let mut moved_before = 0;
    for step in 0..u64::from(blocks) + total {
        // once in order, then as the trace says
        let block = u32::try_from(step).ok().filter(|step| *step < blocks).unwrap_or_else(|| writes.next());
        store.now += 1;
        while store.free.len() < FREE_LOW {
            store.clean(policy);
        }
        store.write(block);
        if step == u64::from(blocks) + measured_from {
            moved_before = store.moved;
        }
    }
    let host = total - measured_from;
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let ratio = (host + store.moved - moved_before) as f64 / host as f64;
    ratio
}

/// The live part u of a victim satisfies (u - 1) / ln u = utilization; bisected.
fn analytic(utilization: u32) -> f64 {
    let wanted = f64::from(utilization) / 100.0;
    let (mut low, mut high) = (1e-9, 1.0 - 1e-9);
    for _ in 0..100 {
        let middle: f64 = f64::midpoint(low, high);
        if (middle - 1.0) / middle.ln() < wanted { low = middle } else { high = middle }
    }
    1.0 / (1.0 - low)
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    if let Some(count) = arguments.choice {
        measure_choice(count);
        return std::process::ExitCode::SUCCESS;
    }
    let mut good = true;
    println!(
        "{:<16} {:>5} {:>9} {:>8} {:>8} {:>13} {:>12}",
        "trace", "live", "analytic", "FIFO", "greedy", "cost-benefit", "two streams"
    );
    for (name, trace) in TRACES {
        for utilization in UTILIZATIONS {
            let of = |policy: &dyn VictimPolicy, splits| amplification(&arguments, trace, utilization, policy, splits);
            let (fifo, greedy, benefit) = (of(&Fifo, false), of(&Greedy, false), of(&CostBenefit, false));
            let split = of(&CostBenefit, true);
            let optimum = if trace == Trace::Uniform { format!("{:.2}", analytic(utilization)) } else { "-".into() };
            println!(
                "{name:<16} {utilization:>4}% {optimum:>9} {fifo:>8.2} {greedy:>8.2} {benefit:>13.2} {split:>12.2}"
            );
            // the free segments are not part of the analytic curve's space
            let bound = if trace == Trace::Uniform { analytic(utilization) * 1.3 } else { greedy.min(fifo) * 1.15 };
            good &= utilization > 90 || split <= bound && split <= benefit * 1.05;
        }
    }
    if arguments.check && !good {
        eprintln!("cost-benefit is out of bounds");
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}
