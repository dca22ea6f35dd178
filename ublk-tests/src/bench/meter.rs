//! How long requests took, and how many there were in a time.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

use plica::env::Env;

/// Measures what lanes do, for a time or until they end by themselves.
pub struct Meter {
    env: Env,
    begun_ns: u64,
    end_ns: Cell<u64>,
    times_ns: RefCell<Times>,
}

/// Nanoseconds of requests, in chunks: one array that grows would be copied, in the thread that is measured.
#[derive(Default)]
struct Times(Vec<Vec<u64>>);

/// Times of a chunk.
const CHUNK: usize = 1 << 16;

/// Nanoseconds of requests, in order of length.
pub struct Latencies(Vec<u64>);

impl Times {
    fn push(&mut self, ns: u64) {
        match self.0.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => chunk.push(ns),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(ns);
                self.0.push(chunk);
            }
        }
    }

    fn count(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }
}

impl Meter {
    /// Begins now; [`Meter::goes_on`] for so long, or without an end.
    #[must_use]
    pub fn new(env: &Env, seconds: Option<u64>) -> Rc<Self> {
        let begun_ns = env.now_ns();
        let end_ns = Cell::new(seconds.map_or(u64::MAX, |seconds| begun_ns + seconds * 1_000_000_000));
        Rc::new(Self { env: env.clone(), begun_ns, end_ns, times_ns: RefCell::default() })
    }

    /// Whether the time is not over.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.env.now_ns() < self.end_ns.get()
    }

    /// The time is over.
    pub fn end(&self) {
        self.end_ns.set(0);
    }

    /// Notes how long `request` takes.
    pub async fn time<T>(&self, request: impl Future<Output = T>) -> T {
        let begun = self.env.now_ns();
        let done = request.await;
        self.times_ns.borrow_mut().push(self.env.now_ns() - begun);
        done
    }

    /// Requests a second since it began.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let seconds = ratio(self.env.now_ns() - self.begun_ns, 1_000_000_000);
        ratio(self.times_ns.borrow().count() as u64, 1) / seconds
    }

    /// How long each request took.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        let mut times = self.times_ns.take().0.concat();
        times.sort_unstable();
        Latencies(times)
    }
}

impl Latencies {
    /// Microseconds that `per_mille` of 1000 requests do not exceed.
    #[must_use]
    pub fn micros(&self, per_mille: usize) -> f64 {
        let at = (self.0.len() * per_mille / 1000).min(self.0.len().saturating_sub(1));
        ratio(self.0.get(at).copied().unwrap_or(0), 1000)
    }
}

/// `a / b`, for people.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b.max(1) as f64
}
