//! The queue between the core and its codec workers: one lock, two lines, a slab of tickets.
//!
//! A job has a *ticket*: the place where its result is put and where the waker of whoever waits for it is kept. Lines
//! and slab keep their memory, so that a steady load does not allocate.
//!
//! **Invariants.** Whenever a line is not empty, a worker is awake or was called. A job that is alone
//! ([`Submitted::Alone`]) is in no line: no worker begins it just before the core comes back for it. Urgent jobs overtake
//! others at most [`OVERTAKING_MAX`] times in a row; what the core takes back is not counted, since no worker's turn goes
//! to it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use slab::Slab;

use super::job::{Done, Work};

/// Most urgent jobs taken in a row while others wait.
const OVERTAKING_MAX: u32 = 8;

pub(super) struct Job {
    ticket: usize,
    work: Work,
}

/// What became of a job handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Submitted {
    /// A worker will do it.
    Queued,
    /// Nothing else is under way, or nothing that is as urgent, and no worker was called: whoever handed it in takes it
    /// back soon, and does it, or finds that others came meanwhile, for which workers were called.
    Alone,
}

enum Ticket {
    Waiting(Option<Waker>),
    Done(Done),
    /// Nobody waits any more.
    Orphan,
}

pub(super) struct Queue {
    state: Mutex<State>,
    called: Condvar,
}

struct State {
    urgent: VecDeque<Job>,
    other: VecDeque<Job>,
    /// The job that the core will come back for, until another comes for which that makes it wait.
    alone: Option<Job>,
    /// Urgent jobs taken since another one was.
    overtaking: u32,
    tickets: Slab<Ticket>,
    /// Jobs that workers are at.
    running: usize,
    /// Urgent ones among them.
    running_urgent: usize,
    /// Jobs that workers have done.
    finished: u64,
    /// Workers that sleep and were not called.
    sleeping: usize,
    /// Calls that no worker has answered yet.
    calls: usize,
    closed: bool,
}

/// Which line a job is taken from.
enum Line {
    /// The one whose turn it is.
    Next,
    Urgent,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        let state = State {
            urgent: VecDeque::with_capacity(capacity),
            other: VecDeque::with_capacity(capacity),
            alone: None,
            overtaking: 0,
            tickets: Slab::with_capacity(capacity),
            running: 0,
            running_urgent: 0,
            finished: 0,
            sleeping: 0,
            calls: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), called: Condvar::new() }
    }

    /// No code that can panic runs under the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands in a job; returns its ticket.
    pub(super) fn submit(&self, work: Work) -> (usize, Submitted) {
        let mut state = self.lock();
        let ticket = state.tickets.insert(Ticket::Waiting(None));
        let job = Job { ticket, work };
        if state.is_alone(&job.work) {
            state.alone = Some(job);
            return (ticket, Submitted::Alone);
        }
        // two that are as urgent are for workers; what is less urgent takes nothing from one that is alone
        let is_company = |held: &mut Job| job.work.urgent() || !held.work.urgent();
        if let Some(held) = state.alone.take_if(is_company) {
            state.push(held);
        }
        state.push(job);
        let call = state.sleeping > 0;
        if call {
            state.sleeping -= 1;
            state.calls += 1;
        }
        drop(state);
        if call {
            self.called.notify_one();
        }
        (ticket, Submitted::Queued)
    }

    /// The work of a job that is still alone, and forgets the ticket.
    pub(super) fn take_back(&self, ticket: usize) -> Option<Work> {
        let mut state = self.lock();
        let job = state.alone.take_if(|job| job.ticket == ticket)?;
        state.tickets.remove(ticket);
        Some(job.work)
    }

    /// Whether there is a job for [`Queue::take_helpable`].
    pub(super) fn has_helpable(&self) -> bool {
        self.lock().helpable_line().is_some()
    }

    /// A job that the core may do besides its own work. An urgent one also where it is another's turn that only workers
    /// do: the core would be idle, and what it takes off them brings that turn nearer.
    pub(super) fn take_helpable(&self) -> Option<Job> {
        let mut state = self.lock();
        match state.helpable_line()? {
            Line::Next => state.take(),
            Line::Urgent => state.urgent.pop_front(),
        }
    }

    /// The next job for a worker; sleeps until there is one. `None` when the pool is closed.
    pub(super) fn take(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.take() {
                state.running += 1;
                state.running_urgent += usize::from(job.work.urgent());
                return Some(job);
            }
            state.sleeping += 1;
            state = self
                .called
                .wait_while(state, |state| state.calls == 0 && !state.closed)
                .unwrap_or_else(PoisonError::into_inner);
            state.calls = state.calls.saturating_sub(1);
        }
    }

    /// A worker is done with a job of [`Queue::take`], which was urgent or not.
    pub(super) fn finish(&self, ticket: usize, urgent: bool, done: Done) {
        let mut state = self.lock();
        state.running -= 1;
        state.running_urgent -= usize::from(urgent);
        state.finished += 1;
        publish(state, ticket, done);
    }

    /// The core is done with a job of [`Queue::take_helpable`].
    pub(super) fn finish_helped(&self, ticket: usize, done: Done) {
        publish(self.lock(), ticket, done);
    }

    /// Looks for a result; leaves `waker` when there is none yet.
    pub(super) fn poll(&self, ticket: usize, waker: &Waker) -> Poll<Done> {
        let mut state = self.lock();
        match &mut state.tickets[ticket] {
            Ticket::Waiting(Some(old)) => old.clone_from(waker),
            Ticket::Waiting(empty) => *empty = Some(waker.clone()),
            Ticket::Done(_) | Ticket::Orphan => match state.tickets.remove(ticket) {
                Ticket::Done(done) => return Poll::Ready(done),
                Ticket::Waiting(_) | Ticket::Orphan => unreachable!("an orphan is not polled"),
            },
        }
        Poll::Pending
    }

    /// Nobody waits for this result any more.
    pub(super) fn abandon(&self, ticket: usize) {
        let mut state = self.lock();
        let alone = state.alone.take_if(|job| job.ticket == ticket);
        let old = match &mut state.tickets[ticket] {
            Ticket::Waiting(_) if alone.is_none() => std::mem::replace(&mut state.tickets[ticket], Ticket::Orphan),
            _ => state.tickets.remove(ticket),
        };
        drop(state);
        drop((old, alone));
    }

    /// Jobs that workers have done.
    pub(super) fn finished(&self) -> u64 {
        self.lock().finished
    }

    /// Sends the workers home.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.called.notify_all();
    }

    #[cfg(test)]
    pub(super) fn ticket_count(&self) -> usize {
        self.lock().tickets.len()
    }

    #[cfg(test)]
    pub(super) fn sleeping_count(&self) -> usize {
        self.lock().sleeping
    }
}

impl Job {
    pub(super) fn into_parts(self) -> (usize, Work) {
        (self.ticket, self.work)
    }
}

fn publish(mut state: MutexGuard<'_, State>, ticket: usize, done: Done) {
    match std::mem::replace(&mut state.tickets[ticket], Ticket::Done(done)) {
        Ticket::Waiting(waker) => {
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        Ticket::Orphan | Ticket::Done(_) => {
            let unwanted = state.tickets.remove(ticket);
            drop(state);
            drop(unwanted);
        }
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.urgent.len() + self.other.len()
    }

    fn push(&mut self, job: Job) {
        let line = if job.work.urgent() { &mut self.urgent } else { &mut self.other };
        line.push_back(job);
    }

    /// Whether `work` would be alone, or the only urgent one beside what is not: it would wait for a worker to end that, and
    /// then to wake the core, which can do it sooner.
    fn is_alone(&self, work: &Work) -> bool {
        let none = self.running == 0 && self.waiting() == 0;
        let none_as_urgent = self.running_urgent == 0 && self.urgent.is_empty();
        self.alone.is_none() && work.quick() && (none || (none_as_urgent && work.urgent() && work.helpable()))
    }

    /// Whether the next job is one that is not urgent.
    fn other_is_next(&self) -> bool {
        self.urgent.is_empty() || (!self.other.is_empty() && self.overtaking >= OVERTAKING_MAX)
    }

    fn next_line(&self) -> &VecDeque<Job> {
        if self.other_is_next() { &self.other } else { &self.urgent }
    }

    /// The line whose first job the core may do.
    fn helpable_line(&self) -> Option<Line> {
        let helpable = |line: &VecDeque<Job>| line.front().is_some_and(|job| job.work.helpable());
        if helpable(self.next_line()) { Some(Line::Next) } else { helpable(&self.urgent).then_some(Line::Urgent) }
    }

    fn take(&mut self) -> Option<Job> {
        if self.other_is_next() {
            self.overtaking = 0;
            self.other.pop_front()
        } else {
            self.overtaking = if self.other.is_empty() { 0 } else { self.overtaking + 1 };
            self.urgent.pop_front()
        }
    }
}
