//! The machine that simulated daemons run on: its clock, its media, what is in flight on them.
//!
//! It outlives daemons. When one dies, what it had in flight is decided ([`Machine::daemon_dies`]); when the machine
//! itself loses power, what was not durable is decided as well ([`Machine::loses_power`]).

use std::collections::BTreeMap;
use std::ops::Range;

use fastrand::Rng;

use super::fault::{FaultKind, FaultPlan, OpKind};
use super::media::{Change, Effect, Medium, SECTOR};
use super::trace::Trace;
use crate::env::reactor::{Completion, FileId, IoBuf, Op};
use crate::error::{Error, ErrorKind};

/// Of so many moments in which time passes, the clock jumps in one.
const JUMP_ONE_IN: u32 = 500;

/// How long operations take.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Nanoseconds of a read.
    pub read_ns: Range<u64>,
    /// Nanoseconds of a write, an allocation or a discard.
    pub write_ns: Range<u64>,
    /// Nanoseconds of a flush.
    pub flush_ns: Range<u64>,
    /// One operation in so many takes [`Latency::slow_ns`] more; 0 is none.
    pub slow_one_in: u32,
    /// What a slow operation takes more.
    pub slow_ns: Range<u64>,
}

impl Latency {
    /// One of several kinds of media, chosen by `rng`.
    #[must_use]
    pub fn any(rng: &mut Rng) -> Self {
        let scale = 1 << rng.u32(0..5);
        let flush_scale = 1 << rng.u32(0..8);
        Self {
            read_ns: 5_000..40_000 * scale,
            write_ns: 5_000..20_000 * scale,
            flush_ns: 1_000..10_000 * flush_scale,
            slow_one_in: [0, 4, 32, 256][rng.usize(0..4)],
            slow_ns: 100_000..5_000_000,
        }
    }

    fn draw(&self, kind: OpKind, rng: &mut Rng) -> u64 {
        let range = match kind {
            OpKind::Read => &self.read_ns,
            OpKind::Write | OpKind::Allocate | OpKind::Discard => &self.write_ns,
            OpKind::Flush => &self.flush_ns,
        };
        let slow =
            if self.slow_one_in > 0 && rng.u32(0..self.slow_one_in) == 0 { rng.u64(self.slow_ns.clone()) } else { 0 };
        rng.u64(range.clone()) + slow
    }
}

/// What is counted of the media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineStats {
    /// Operations that ended.
    pub operations: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Device flushes that succeeded.
    pub flushes: u64,
    /// Daemons that died.
    pub daemon_deaths: u64,
    /// Losses of power.
    pub power_losses: u64,
    /// Jumps of the clock.
    pub clock_jumps: u64,
}

struct InFlight {
    token: usize,
    op: Op,
    /// Of the bytes to be written, at submission.
    hash: u64,
    /// What a flush has to cover.
    mark: u64,
    fault: Option<(FaultKind, Range<u64>)>,
}

/// See the module.
pub struct Machine {
    /// Nanoseconds since the machine was made.
    pub clock: u64,
    /// Of these, nanoseconds that passed in jumps, while nothing ran.
    pub jumped_ns: u64,
    /// When the clock jumps: a generator of its own, so that all else is drawn as without jumps.
    pub jumps: Option<Rng>,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// What happened.
    pub trace: Trace,
    /// How fast the media are.
    pub latency: Latency,
    /// What the engine did that it must never do.
    pub violations: Vec<String>,
    /// Nobody has anything to wait for: the daemon hangs.
    pub stalled: bool,
    /// Counts.
    pub stats: MachineStats,
    media: Vec<Medium>,
    /// By the time they end, then by order of submission.
    in_flight: BTreeMap<(u64, u64), InFlight>,
    submitted: u64,
    flush_failed: bool,
    rng: Rng,
}

impl Machine {
    /// A machine without media, at time 0.
    #[must_use]
    pub fn new(mut rng: Rng, trace: Trace) -> Self {
        Self {
            clock: 0,
            jumped_ns: 0,
            jumps: None,
            faults: FaultPlan::default(),
            trace,
            latency: Latency::any(&mut rng),
            violations: Vec::new(),
            stalled: false,
            stats: MachineStats::default(),
            media: Vec::new(),
            in_flight: BTreeMap::new(),
            submitted: 0,
            flush_failed: false,
            rng,
        }
    }

    /// Plugs in a medium of `len` zero bytes.
    pub fn add_medium(&mut self, len: u64) -> FileId {
        self.media.push(Medium::new(len));
        FileId(self.media.len() - 1)
    }

    /// A medium, to look at or to damage.
    pub fn medium(&mut self, file: FileId) -> &mut Medium {
        &mut self.media[file.0]
    }

    /// Notes what the engine must never do.
    pub fn violation(&mut self, what: String) {
        self.trace.note(format_args!("VIOLATION {what}"));
        self.violations.push(what);
    }

    /// Whether a flush failed since the last call.
    pub fn take_flush_failed(&mut self) -> bool {
        std::mem::take(&mut self.flush_failed)
    }

    /// When the next operation ends.
    pub(super) fn next_end(&self) -> Option<u64> {
        self.in_flight.first_key_value().map(|(key, _)| key.0)
    }

    /// Starts an operation.
    pub(super) fn submit(&mut self, token: usize, op: Op) {
        let Some((kind, file, touched)) = describe(&op) else {
            self.violation(format!("{op:?} on a simulated medium"));
            return;
        };
        let hash = written(&op).map_or(0, xxhash_rust::xxh3::xxh3_64);
        self.trace.note(format_args!("{} submit {kind:?} {} {touched:?} {hash:x}", self.clock, file.0));
        let block_io = !matches!(kind, OpKind::Flush);
        if block_io && (!touched.start.is_multiple_of(SECTOR) || !touched.end.is_multiple_of(SECTOR)) {
            self.violation(format!("{kind:?} of {touched:?} is not aligned to sectors"));
        }
        if touched.end > self.media[file.0].len() {
            self.violation(format!("{kind:?} of {touched:?} is beyond the end of medium {}", file.0));
            return;
        }
        let fault = self.faults.strike(kind, file.0, &touched);
        let mark = self.media[file.0].mark();
        let end = self.clock + self.latency.draw(kind, &mut self.rng);
        self.submitted += 1;
        self.in_flight.insert((end, self.submitted), InFlight { token, op, hash, mark, fault });
    }

    /// The clock jumps ahead by seconds to hours, once in a while: the machine was suspended.
    fn maybe_jump(&mut self) {
        let Some(rng) = &mut self.jumps else { return };
        if rng.u32(0..JUMP_ONE_IN) == 0 {
            let magnitude = rng.u32(0..14);
            let jump_ns = rng.u64(1_000_000_000..2_000_000_000) << magnitude;
            self.clock += jump_ns;
            self.jumped_ns += jump_ns;
            self.stats.clock_jumps += 1;
            self.trace.note(format_args!("{} the clock jumped by {jump_ns} ns", self.clock));
        }
    }

    /// Lets a little time pass, perhaps until something ends.
    pub(super) fn pass_time(&mut self) {
        self.maybe_jump();
        let step = self.rng.u64(50..2_000);
        self.clock += step;
        if self.rng.u8(0..8) == 0
            && let Some(end) = self.next_end()
        {
            self.clock = self.clock.max(end.min(self.clock + 2_000_000));
        }
    }

    /// Ends the next operation that is due.
    pub(super) fn end_next(&mut self) -> Option<(usize, Completion)> {
        let entry = self.in_flight.first_entry().filter(|entry| entry.key().0 <= self.clock)?;
        let ended = entry.remove();
        self.stats.operations += 1;
        self.check_unchanged(&ended);
        let token = ended.token;
        let fault = ended.fault.as_ref().map(|(kind, _)| *kind);
        let (file, touched) = describe(&ended.op).map(|(_, file, touched)| (file, touched))?;
        let completion = self.end(ended);
        self.trace.note(format_args!(
            "{} end {} {touched:?} {fault:?} {}",
            self.clock,
            file.0,
            completion.result.is_ok()
        ));
        Some((token, completion))
    }

    fn end(&mut self, ended: InFlight) -> Completion {
        let InFlight { op, mark, fault, .. } = ended;
        match op {
            Op::Read { file, offset, mut buf, start, len } => {
                if fault.is_some() {
                    return failed("the simulated medium failed to read", ErrorKind::Io, Some(IoBuf::Owned(buf)));
                }
                let into = &mut buf[start..start + len];
                self.media[file.0].read(offset, into);
                self.mix_in(file, offset, into);
                Completion { result: Ok(len), buf: Some(IoBuf::Owned(buf)) }
            }
            Op::Write { file, offset, buf, len, durable } => {
                let completion = self.end_write(file, offset, buf, len, fault);
                if durable && completion.result.is_ok() {
                    self.media[file.0].make_durable(offset..offset + len as u64);
                }
                completion
            }
            Op::Flush { file } => {
                if fault.is_some() {
                    self.flush_failed = true;
                    self.media[file.0].flush_failed(mark, &mut self.rng);
                    return failed("the simulated medium failed to flush", ErrorKind::Io, None);
                }
                self.media[file.0].flush(mark);
                self.stats.flushes += 1;
                Completion { result: Ok(0), buf: None }
            }
            Op::Discard { file, offset, len } => {
                self.media[file.0].complete(Change { offset, effect: Effect::Discard(len) });
                Completion { result: Ok(0), buf: None }
            }
            Op::Allocate { .. } if fault.is_some() => failed("the simulated medium is full", ErrorKind::NoSpace, None),
            _ => Completion { result: Ok(0), buf: None },
        }
    }

    fn end_write(
        &mut self,
        file: FileId,
        offset: u64,
        buf: IoBuf,
        len: usize,
        fault: Option<(FaultKind, Range<u64>)>,
    ) -> Completion {
        let mut change = Change { offset, effect: Effect::Write(bytes_of(&buf, len).into()) };
        let mut result = Ok(len);
        let medium = &mut self.media[file.0];
        let rng = &mut self.rng;
        match fault {
            None => medium.complete(change),
            Some((FaultKind::Lost, _)) => {}
            Some((FaultKind::Misdirected, range)) => {
                let room = range.end.min(medium.len()).saturating_sub(len as u64).max(range.start) - range.start;
                change.offset = range.start + rng.u64(0..=room / SECTOR) * SECTOR;
                if change.offset + len as u64 <= medium.len() {
                    medium.complete(change);
                }
            }
            Some((FaultKind::BitFlip, _)) => {
                medium.complete(change);
                medium.flip(offset + rng.u64(0..len as u64), 1 << rng.u8(0..8));
            }
            Some((FaultKind::Torn, _)) => change.torn(rng).into_iter().for_each(|part| medium.complete(part)),
            Some(_) => {
                change.torn(rng).into_iter().for_each(|part| medium.complete(part));
                result = Err(Error::new(ErrorKind::Io, "the simulated medium failed to write"));
            }
        }
        self.stats.written_bytes += len as u64;
        Completion { result, buf: Some(buf) }
    }

    /// A read that ends while writes of the same sectors are in flight sees either.
    fn mix_in(&mut self, file: FileId, offset: u64, buf: &mut [u8]) {
        let end = offset + buf.len() as u64;
        for other in self.in_flight.values() {
            let Op::Write { file: to, offset: at, buf: from, len, .. } = &other.op else { continue };
            let overlap = offset.max(*at)..end.min(at + *len as u64);
            if *to != file || overlap.is_empty() {
                continue;
            }
            let from = bytes_of(from, *len);
            for sector in overlap.step_by(usize::try_from(SECTOR).unwrap_or(512)) {
                if self.rng.bool() {
                    let within = |base: u64| usize::try_from(sector - base).unwrap_or(0);
                    let (into, source) = (within(offset), within(*at));
                    buf[into..into + 512].copy_from_slice(&from[source..source + 512]);
                }
            }
        }
    }

    fn check_unchanged(&mut self, op: &InFlight) {
        if let Some(bytes) = written(&op.op)
            && xxhash_rust::xxh3::xxh3_64(bytes) != op.hash
        {
            self.violation(format!("{:?} was changed while it was being written", op.op));
        }
    }

    /// The daemon is gone: what it had in flight lands or not.
    pub fn daemon_dies(&mut self) {
        self.trace.note(format_args!("{} the daemon dies", self.clock));
        self.stats.daemon_deaths += 1;
        for (file, changes) in self.abandoned() {
            self.media[file].orphan(&changes, &mut self.rng);
        }
    }

    /// The machine is gone: what is not durable remains or not, sector by sector.
    pub fn loses_power(&mut self) {
        self.trace.note(format_args!("{} the machine loses power", self.clock));
        self.stats.power_losses += 1;
        let mut abandoned = self.abandoned();
        for (file, medium) in self.media.iter_mut().enumerate() {
            let changes = abandoned.remove(&file).unwrap_or_default();
            medium.crash(&changes, &mut self.rng);
        }
    }

    /// The daemon ended by itself; it must have waited for its I/O.
    pub fn daemon_ends(&mut self) {
        self.trace.note(format_args!("{} the daemon ends", self.clock));
        // a read that nobody waits for harms nobody
        let changes = self.in_flight.values().filter(|op| !matches!(op.op, Op::Read { .. }));
        let left: Vec<_> = changes.map(|op| format!("{:?}", op.op)).collect();
        if !left.is_empty() {
            self.violation(format!("the daemon ended with I/O in flight: {left:?}"));
        }
        for (file, changes) in self.abandoned() {
            self.media[file].orphan(&changes, &mut self.rng);
        }
    }

    fn abandoned(&mut self) -> BTreeMap<usize, Vec<Change>> {
        self.stalled = false;
        let mut changes: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
        for op in std::mem::take(&mut self.in_flight).into_values() {
            self.check_unchanged(&op);
            // a write that is struck by a fault is as good as one that does not land
            if op.fault.is_some() {
                continue;
            }
            match op.op {
                Op::Write { file, offset, buf, len, .. } => {
                    let effect = Effect::Write(bytes_of(&buf, len).into());
                    changes.entry(file.0).or_default().push(Change { offset, effect });
                }
                Op::Discard { file, offset, len } => {
                    changes.entry(file.0).or_default().push(Change { offset, effect: Effect::Discard(len) });
                }
                _ => {}
            }
        }
        changes
    }
}

fn failed(what: &str, kind: ErrorKind, buf: Option<IoBuf>) -> Completion {
    Completion { result: Err(Error::new(kind, what)), buf }
}

fn bytes_of(buf: &IoBuf, len: usize) -> &[u8] {
    match buf {
        IoBuf::Owned(buf) => &buf[..len],
        IoBuf::Slot(slot) => &slot.bytes()[..len],
    }
}

fn written(op: &Op) -> Option<&[u8]> {
    match op {
        Op::Write { buf, len, .. } => Some(bytes_of(buf, *len)),
        _ => None,
    }
}

fn describe(op: &Op) -> Option<(OpKind, FileId, Range<u64>)> {
    Some(match op {
        Op::Read { file, offset, len, .. } => (OpKind::Read, *file, *offset..*offset + *len as u64),
        Op::Write { file, offset, len, .. } => (OpKind::Write, *file, *offset..*offset + *len as u64),
        Op::Flush { file } => (OpKind::Flush, *file, 0..0),
        Op::Allocate { file, offset, len } => (OpKind::Allocate, *file, *offset..*offset + *len),
        Op::Discard { file, offset, len } => (OpKind::Discard, *file, *offset..*offset + *len),
        Op::Recv { .. } | Op::Send { .. } | Op::Accept { .. } => return None,
    })
}
