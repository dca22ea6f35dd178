//! From other threads to the core: a queue that is emptied whole.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

struct Shared<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    items: Vec<T>,
    waker: Option<Waker>,
    closed: bool,
}

/// The sending end; any thread.
pub struct Mailbox<T>(Arc<Shared<T>>);

/// The receiving end; one task of the core.
pub struct MailboxReceiver<T>(Arc<Shared<T>>);

/// A new mailbox.
#[must_use]
pub fn mailbox<T>() -> (Mailbox<T>, MailboxReceiver<T>) {
    let state = Mutex::new(State { items: Vec::with_capacity(256), waker: None, closed: false });
    let shared = Arc::new(Shared { state });
    (Mailbox(shared.clone()), MailboxReceiver(shared))
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Mailbox<T> {
    /// Hands over one item, or gives it back when the receiver is gone.
    ///
    /// # Errors
    /// The item, when nobody will ever receive it.
    pub fn send(&self, item: T) -> Result<(), T> {
        let waker = {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.closed {
                return Err(item);
            }
            state.items.push(item);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Hands over all of `items`, with one wake. What could not be handed over stays in `items`.
    pub fn send_all(&self, items: &mut Vec<T>) {
        let waker = {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.closed {
                return;
            }
            state.items.append(items);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> MailboxReceiver<T> {
    /// Waits until there is something, then moves all of it to the end of `into`.
    pub async fn receive(&self, into: &mut Vec<T>) {
        poll_fn(|cx| {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.items.is_empty() {
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            into.append(&mut state.items);
            Poll::Ready(())
        })
        .await;
    }
}

impl<T> Drop for MailboxReceiver<T> {
    fn drop(&mut self) {
        let items = {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.closed = true;
            std::mem::take(&mut state.items)
        };
        drop(items);
    }
}
