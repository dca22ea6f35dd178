//! Waiting within the core's thread: no locks, no atomics.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, Waker};

/// A condition that tasks wait for: whoever changes the state calls [`Notify::notify_all`], whoever waits looks again.
#[derive(Default)]
pub struct Notify {
    waiting: RefCell<Vec<Waker>>,
    epoch: Cell<u64>,
}

impl Notify {
    /// Wakes everybody who waits now.
    pub fn notify_all(&self) {
        self.epoch.set(self.epoch.get() + 1);
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Waits for the next [`Notify::notify_all`].
    pub async fn notified(&self) {
        let epoch = self.epoch.get();
        poll_fn(|cx| {
            if self.epoch.get() != epoch {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            // a task that waits again and again for something else too would be listed each time
            if !waiting.last().is_some_and(|last| last.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits for the next [`Notify::notify_all`], or until `timer` is over.
    pub async fn notified_or(&self, timer: impl Future<Output = ()>) {
        futures_util::future::select(pin!(self.notified()), pin!(timer)).await;
    }

    /// Waits until `condition` holds; it is looked at now and after every [`Notify::notify_all`].
    pub async fn until(&self, mut condition: impl FnMut() -> bool) {
        while !condition() {
            self.notified().await;
        }
    }
}

/// Lets every task that is ready now go first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
