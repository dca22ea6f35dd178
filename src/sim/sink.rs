//! Where replies arrive: each is judged at the moment it is given, for that is when the host may rely on it.
//!
//! At that moment it is also looked at what is served: what an acknowledged write left in a persistent journal is durable
//! from then on, flushed or not.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use super::death::{Death, Point};
use super::oracle::Oracle;
use super::subject::Serving;
use super::trace::Trace;
use crate::core::request::{Reply, ReplySink};
use crate::error::ErrorKind;

thread_local! {
    /// What is served on this thread: replies come from it, and a sink is not of one thread.
    static SERVED: RefCell<Option<Rc<dyn Serving>>> = const { RefCell::new(None) };
}

/// Says what is served on this thread from now on.
pub fn serves(serving: Option<Rc<dyn Serving>>) {
    SERVED.set(serving);
}

/// Which errors a host may see in this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// Only a full pool.
    NoSpace,
    /// Media fail: whatever is reported is fine, as long as data is never wrong.
    MediaErrors,
}

#[derive(Clone, Copy)]
enum Asked {
    Read,
    Write,
    Flush,
}

/// What hosts know, shared by all clients of a run.
pub struct Hosts {
    /// What may be where.
    pub oracle: Oracle,
    /// What hosts saw.
    pub trace: Trace,
    /// What must never happen and did.
    pub violations: Vec<String>,
    /// Which errors are fine.
    pub tolerance: Tolerance,
    /// The daemon was asked to stop: requests may be refused.
    pub stopping: bool,
    /// Replies without an error.
    pub good: u64,
    /// Replies with one.
    pub bad: BTreeMap<String, u64>,
    /// Writes that were durable as soon as they were acknowledged.
    pub persistent: u64,
    asked: BTreeMap<u64, Asked>,
    waiting: BTreeMap<u64, Waker>,
    failed: BTreeSet<u64>,
    seed: u64,
}

/// The hosts of one daemon's life, as the engine sees them.
pub struct Sink {
    hosts: Arc<Mutex<Hosts>>,
    death: Arc<Death>,
}

impl Hosts {
    /// Hosts that know of nothing.
    #[must_use]
    pub fn new(tolerance: Tolerance, trace: Trace, seed: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            oracle: Oracle::new(),
            trace,
            violations: Vec::new(),
            tolerance,
            stopping: false,
            good: 0,
            bad: BTreeMap::new(),
            persistent: 0,
            asked: BTreeMap::new(),
            waiting: BTreeMap::new(),
            failed: BTreeSet::new(),
            seed,
        }))
    }

    /// A read numbered `id` was handed over.
    pub fn expect_read(&mut self, id: u64) {
        self.trace.note(format_args!("read {id}"));
        self.asked.insert(id, Asked::Read);
    }

    /// A write, discard or write of zeros numbered `id` was handed over.
    pub fn expect_write(&mut self, id: u64) {
        let what = self.oracle.describe_write(id);
        self.trace.note(format_args!("{what}"));
        self.asked.insert(id, Asked::Write);
    }

    /// A flush numbered `id` was handed over.
    pub fn expect_flush(&mut self, id: u64) {
        self.trace.note(format_args!("flush {id}"));
        self.asked.insert(id, Asked::Flush);
    }

    /// Requests without a reply yet.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.asked.len()
    }

    /// The daemon is gone, and the requests with it.
    pub fn forget_requests(&mut self) {
        self.asked.clear();
        self.waiting.clear();
        self.failed.clear();
        self.stopping = false;
    }

    /// Notes what must never happen.
    pub fn violation(&mut self, what: String) {
        self.trace.note(format_args!("VIOLATION {what}"));
        self.violations.push(what);
    }

    fn judge(&mut self, reply: &Reply) {
        let id = reply.tag;
        let Some(asked) = self.asked.remove(&id) else {
            return self.violation(format!("request {id} was answered twice, or was never asked"));
        };
        let kind = reply.result.as_ref().err().map(crate::error::Error::kind);
        self.trace.note(format_args!("reply {id} {kind:?}"));
        match &reply.result {
            Ok(()) => self.good += 1,
            Err(error) => {
                self.failed.insert(id);
                *self.bad.entry(format!("{:?}", error.kind())).or_default() += 1;
                if !self.tolerated(asked, error.kind()) {
                    self.violation(format!("request {id} failed: {error} (seed {})", self.seed));
                }
            }
        }
        match asked {
            Asked::Write => {
                self.oracle.end_write(id, kind.is_none());
                if kind.is_none() && self.is_persistent(id) {
                    self.persistent += 1;
                    self.oracle.persisted(id);
                }
            }
            Asked::Flush => self.oracle.end_flush(id, kind.is_none()),
            Asked::Read if kind.is_some() => self.oracle.fail_read(id),
            Asked::Read => {
                let verdict = match &reply.data {
                    Some(data) => self.oracle.end_read(id, data.bytes()),
                    None => Err(format!("read {id} came back without its buffer")),
                };
                if let Err(why) = verdict {
                    self.violation(why);
                }
            }
        }
    }

    /// Whether what a write put there, or what replaced it, is in a persistent journal.
    fn is_persistent(&self, id: u64) -> bool {
        let Some(place) = self.oracle.place_of(id) else { return false };
        SERVED.with_borrow(|served| served.as_ref().is_some_and(|s| s.is_persistent(place.namespace, &place.bytes)))
    }

    fn tolerated(&self, asked: Asked, kind: ErrorKind) -> bool {
        match kind {
            ErrorKind::Shutdown => self.stopping,
            ErrorKind::NoSpace => matches!(asked, Asked::Write),
            _ => self.tolerance == Tolerance::MediaErrors,
        }
    }
}

/// Looks at what hosts know.
pub fn lock(hosts: &Mutex<Hosts>) -> MutexGuard<'_, Hosts> {
    hosts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink {
    /// The sink for a daemon that dies with `death`.
    #[must_use]
    pub fn new(hosts: Arc<Mutex<Hosts>>, death: Arc<Death>) -> Arc<Self> {
        Arc::new(Self { hosts, death })
    }

    /// Waits for the reply of request `id`; returns whether it was a good one.
    pub async fn replied(&self, id: u64) -> bool {
        poll_fn(|cx| {
            let mut hosts = lock(&self.hosts);
            if !hosts.asked.contains_key(&id) {
                return Poll::Ready(!hosts.failed.remove(&id));
            }
            hosts.waiting.insert(id, cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl ReplySink for Sink {
    fn reply(&self, reply: Reply) {
        // nobody hears the dead
        if self.death.is_dead() {
            return;
        }
        let waker = {
            let mut hosts = lock(&self.hosts);
            hosts.judge(&reply);
            hosts.waiting.remove(&reply.tag)
        };
        self.death.step(Point::Reply);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
