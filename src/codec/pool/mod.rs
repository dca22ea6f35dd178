//! Codec workers: threads that compress and seal for the core, and the rule who does what.
//!
//! ```text
//!  core ── job ─┬─ alone: the core does it itself           (a hand-over costs more than LZ4)
//!               └─ queue, urgent first ─┬─► worker threads   (one at a time, never waiting for a group)
//!                                       └─► the core, one small job whenever it has nothing else to do
//! ```
//!
//! A job that comes while nothing is under way first lets every task that is ready now have its turn. If none of them
//! brought another job, it is alone and the core does it: at depth 1 nothing ever hops. If others came, workers have
//! been called already. The same goes for a small urgent job while workers are at bulk alone: a commit does not wait for
//! their fragments. zstd is always the workers' as long as there are any. A fragment of a block or two is opened by the core at
//! once, under load too: it takes less than to hand it over.
//!
//! Recompression has a pool of its own, whose one thread gives way to all others.
//!
//! With no workers everything is done at once on the core's thread: single-CPU machines and the simulator, where jobs
//! additionally wait a random number of turns, so that they end in different orders.
//!
//! **Invariants.** A job owns its memory until it ends, also when nobody waits for it any more. A request's data is
//! released before its result is visible. No allocation per job under a steady load.
//!
//! **Failure.** A panic in a job is logged and is an [`crate::error::ErrorKind::Io`] of that job; the worker goes on.
//!
//! **Not here:** order. Jobs end in any order; the log decides what comes first.

mod job;
mod pack;
mod queue;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

pub use job::{DecodeJob, Decoded, EncodeJob};
pub use pack::{GROUP_BLOCKS, GROUP_RUNS, PackJob, PackPart, PackRun, Packed};

use self::job::{Coder, Done, Work};
use self::queue::{Queue, Submitted};
use super::Encoded;
use crate::buf::AlignedBuf;
#[cfg(feature = "sim")]
use crate::env::Env;
use crate::env::sync::yield_now;
use crate::error::{Error, Result};

/// Jobs for which there is room from the start.
const JOBS_EXPECTED: usize = 512;
/// The lowest priority of a thread.
const NICEST: i32 = 19;
/// What recompressing a group takes in the simulator.
const SIMULATED_PACK_NS: u64 = 250_000;

/// Who did the jobs so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodecCounts {
    /// Done at once by the core, because they were alone or there are no workers.
    pub inline: u64,
    /// Queued, then done by the core while it was idle.
    pub helped: u64,
    /// Done by workers.
    pub workers: u64,
}

/// The core's codec: belongs to the core's thread, has threads of its own.
pub struct CodecPool {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    coder: RefCell<Coder>,
    counts: Cell<CodecCounts>,
    #[cfg(feature = "sim")]
    chance: Option<Env>,
}

impl CodecPool {
    /// A pool of this many threads; with 0 the caller's thread does everything.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn new(workers: usize) -> Result<Self> {
        let mut pool = Self {
            queue: Arc::new(Queue::new(JOBS_EXPECTED)),
            threads: Vec::with_capacity(workers),
            coder: RefCell::default(),
            counts: Cell::default(),
            #[cfg(feature = "sim")]
            chance: None,
        };
        for index in 0..workers {
            let queue = pool.queue.clone();
            let thread = std::thread::Builder::new()
                .name(format!("plica-codec-{index}"))
                .spawn(move || work(&queue))
                .map_err(|e| Error::io(format!("cannot start codec worker {index}"), e))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// A pool of one thread that runs when no other wants the CPU.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn background() -> Result<Self> {
        let mut pool = Self::new(0)?;
        let queue = pool.queue.clone();
        let run = move || {
            if let Err(error) = rustix::process::nice(NICEST) {
                tracing::warn!("recompression runs at the priority of all else: {error}");
            }
            work(&queue);
        };
        let thread = std::thread::Builder::new().name("plica-pack".to_owned()).spawn(run);
        pool.threads.push(thread.map_err(|e| Error::io("cannot start the thread that recompresses", e))?);
        Ok(pool)
    }

    /// A pool without threads whose jobs wait for 0 to 3 turns, as `env` draws.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn simulated(env: Env) -> Self {
        Self {
            queue: Arc::new(Queue::new(0)),
            threads: Vec::new(),
            coder: RefCell::default(),
            counts: Cell::default(),
            chance: Some(env),
        }
    }

    /// Threads of the pool.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.threads.len()
    }

    /// Who did the jobs so far.
    #[must_use]
    pub fn counts(&self) -> CodecCounts {
        CodecCounts { workers: self.queue.finished(), ..self.counts.get() }
    }

    /// Compresses and seals; gives the output buffer back in any case.
    pub async fn encode(&self, job: EncodeJob) -> (AlignedBuf, Result<Encoded>) {
        self.end_encode(self.begin_encode(job)).await
    }

    /// Hands in a job, to be waited for with [`CodecPool::end_encode`]: how several are under way at a time.
    pub fn begin_encode(&self, job: EncodeJob) -> Begun {
        self.begin(Work::Encode(job))
    }

    /// Waits for a job of [`CodecPool::begin_encode`]; gives the output buffer back in any case.
    pub async fn end_encode(&self, begun: Begun) -> (AlignedBuf, Result<Encoded>) {
        match self.end(begun).await {
            Done::Encode(out, result) => (out, result),
            Done::Decode(_) | Done::Pack(_) => unreachable!("an encode job ends as one"),
        }
    }

    /// Opens and decompresses; gives both buffers back in any case.
    pub async fn decode(&self, job: DecodeJob) -> Decoded {
        match self.end(self.begin(Work::Decode(job))).await {
            Done::Decode(decoded) => decoded,
            Done::Encode(..) | Done::Pack(_) => unreachable!("a decode job ends as one"),
        }
    }

    /// Recompresses a group of blocks.
    pub async fn pack(&self, job: Box<PackJob>) -> Packed {
        match self.end(self.begin(Work::Pack(job))).await {
            // the simulator's time does not depend on the machine's speed
            Done::Pack(packed) if self.is_simulated() => Packed { cpu_ns: SIMULATED_PACK_NS, ..packed },
            Done::Pack(packed) => packed,
            Done::Encode(..) | Done::Decode(_) => unreachable!("a pack job ends as one"),
        }
    }

    fn is_simulated(&self) -> bool {
        #[cfg(feature = "sim")]
        return self.chance.is_some();
        #[cfg(not(feature = "sim"))]
        false
    }

    /// Whether there is a job for [`CodecPool::help_one`].
    pub fn can_help(&self) -> bool {
        self.queue.has_helpable()
    }

    /// Does one small queued job, if there is one; returns whether it did. For
    /// [`crate::env::Executor::set_idle`]: what the core does when it has nothing to do.
    pub fn help_one(&self) -> bool {
        let Some(job) = self.queue.take_helpable() else { return false };
        let (ticket, work) = job.into_parts();
        let done = self.coder.borrow_mut().perform(work);
        self.queue.finish_helped(ticket, done);
        self.count(|counts| &mut counts.helped);
        true
    }

    fn begin(&self, work: Work) -> Begun {
        if self.threads.is_empty() || work.brief() {
            return Begun(Stage::Held(work));
        }
        let (number, submitted) = self.queue.submit(work);
        Begun(Stage::Queued(Waiting { queue: self.queue.clone(), ticket: Some(number) }, submitted))
    }

    async fn end(&self, begun: Begun) -> Done {
        let (mut waiting, submitted) = match begun.0 {
            Stage::Held(work) => {
                self.wait_a_little().await;
                return self.perform(work);
            }
            Stage::Queued(waiting, submitted) => (waiting, submitted),
        };
        if submitted == Submitted::Alone {
            yield_now().await;
            if let Some(work) = waiting.take_back() {
                return self.perform(work);
            }
        }
        waiting.await
    }

    fn perform(&self, work: Work) -> Done {
        self.count(|counts| &mut counts.inline);
        self.coder.borrow_mut().perform(work)
    }

    fn count(&self, which: impl FnOnce(&mut CodecCounts) -> &mut u64) {
        let mut counts = self.counts.get();
        *which(&mut counts) += 1;
        self.counts.set(counts);
    }

    /// In the simulator, some turns, now and then.
    async fn wait_a_little(&self) {
        #[cfg(feature = "sim")]
        if let Some(env) = &self.chance {
            let mut byte = [0];
            // a seeded generator does not fail
            let _ = env.random(&mut byte);
            for _ in 0..[0, 0, 0, 0, 0, 1, 2, 3][usize::from(byte[0] % 8)] {
                yield_now().await;
            }
        }
    }
}

impl Drop for CodecPool {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a codec worker ended with a panic");
            }
        }
    }
}

/// A worker's life.
fn work(queue: &Queue) {
    let mut coder = Coder::default();
    while let Some(job) = queue.take() {
        let (ticket, work) = job.into_parts();
        let urgent = work.urgent();
        let done = coder.perform(work);
        queue.finish(ticket, urgent, done);
    }
}

/// A job handed in and not yet waited for.
pub struct Begun(Stage);

enum Stage {
    /// There are no workers: it is done when it is waited for.
    Held(Work),
    /// In the workers' queue.
    Queued(Waiting, Submitted),
}

/// Waits for a job. Dropped early, the job goes on and frees its memory at its end.
struct Waiting {
    queue: Arc<Queue>,
    /// The ticket, until it is used up.
    ticket: Option<usize>,
}

impl Waiting {
    /// The work, if nobody has begun it and nothing else is under way.
    fn take_back(&mut self) -> Option<Work> {
        let work = self.queue.take_back(self.ticket?)?;
        self.ticket = None;
        Some(work)
    }
}

impl Future for Waiting {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let Some(ticket) = self.ticket else { unreachable!("polled after its end") };
        let poll = self.queue.poll(ticket, cx.waker());
        if poll.is_ready() {
            self.ticket = None;
        }
        poll
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.queue.abandon(ticket);
        }
    }
}

#[cfg(test)]
mod tests;
