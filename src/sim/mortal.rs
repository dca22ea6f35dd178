//! Tasks that end with their daemon.
//!
//! A simulated daemon is killed between two tasks. Its suspended futures hold the engine, which holds wakers, which
//! hold the futures: nothing would ever free them. So every future started while a [`Cemetery`] is open on this thread
//! is registered there, and closing it drops them all. What their destructors do has no effect on the world: the
//! daemon is [`dead`](super::Death) by then.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

type Body<T> = RefCell<Option<Pin<Box<dyn Future<Output = T>>>>>;

trait Kill {
    fn kill(&self);
}

impl<T> Kill for Body<T> {
    fn kill(&self) {
        let body = self.take();
        drop(body);
    }
}

#[derive(Default)]
struct Registry {
    open: bool,
    next: u64,
    tasks: BTreeMap<u64, Weak<dyn Kill>>,
}

thread_local! {
    static REGISTRY: RefCell<Registry> = RefCell::default();
}

/// The place where the tasks of the daemons of this thread end. One at a time.
pub struct Cemetery(());

impl Cemetery {
    /// From now on tasks of this thread are registered.
    #[must_use]
    pub fn open() -> Self {
        REGISTRY.with_borrow_mut(|registry| {
            assert!(!registry.open, "one simulated daemon a thread");
            registry.open = true;
        });
        Self(())
    }

    /// Drops every registered future. Must not be called from inside one.
    pub fn bury_all(&self) {
        // a destructor may start or end other tasks: take one at a time
        while let Some((_, task)) = REGISTRY.with_borrow_mut(|registry| registry.tasks.pop_first()) {
            if let Some(task) = task.upgrade() {
                task.kill();
            }
        }
    }
}

impl Drop for Cemetery {
    fn drop(&mut self) {
        self.bury_all();
        REGISTRY.with_borrow_mut(|registry| registry.open = false);
    }
}

/// A future that can be taken away.
pub(crate) struct Mortal<T> {
    body: Rc<Body<T>>,
    id: Option<u64>,
}

impl<T: 'static> Mortal<T> {
    /// Wraps `future`; registers it if a [`Cemetery`] is open here.
    pub(crate) fn new(future: impl Future<Output = T> + 'static) -> Self {
        let body: Rc<Body<T>> = Rc::new(RefCell::new(Some(Box::pin(future))));
        let weak: Weak<Body<T>> = Rc::downgrade(&body);
        let id = REGISTRY.with_borrow_mut(|registry| {
            registry.open.then(|| {
                registry.next += 1;
                registry.tasks.insert(registry.next, weak);
                registry.next
            })
        });
        Self { body, id }
    }
}

impl<T> Future for Mortal<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.body.borrow_mut().as_mut() {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Mortal<T> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // the thread may be ending, and the registry with it
            let _ = REGISTRY.try_with(|registry| registry.borrow_mut().tasks.remove(&id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_of_task_and_engine_is_freed() {
        struct Engine {
            waker: RefCell<Option<std::task::Waker>>,
        }
        let cemetery = Cemetery::open();
        let engine = Rc::new(Engine { waker: RefCell::new(None) });
        let weak = Rc::downgrade(&engine);
        let mut mortal = Box::pin(Mortal::new(std::future::poll_fn(move |cx| {
            *engine.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::<()>::Pending
        })));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(mortal.as_mut().poll(&mut cx).is_pending());
        assert!(weak.upgrade().is_some());
        cemetery.bury_all();
        assert!(weak.upgrade().is_none(), "the future and all it held are gone");
        assert!(mortal.as_mut().poll(&mut cx).is_pending(), "a dead task never ends");
    }
}
