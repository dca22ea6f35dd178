//! Tasks of one thread: run in the order they became ready, or in an order picked by a seed.
//!
//! The core, its front-end guests and its background work are tasks here. A task is woken from any thread; the
//! executor's thread sleeps in the reactor when nothing is ready and is unparked by the first wake.

use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use async_task::{Runnable, Task};
use slab::Slab;

use super::reactor::Reactor;

/// Wakes the executor's thread out of the reactor. Any thread may call it.
pub trait Unpark: Send + Sync {
    /// Makes the next or current wait of the backend return.
    fn unpark(&self);
}

/// Tasks that are ready, and whether the thread sleeps.
pub struct ReadyQueue {
    ready: Mutex<VecDeque<Runnable>>,
    /// A waker of every task that has not ended: what is left when the executor goes is woken once more, to be dropped.
    live: Mutex<Slab<Option<Waker>>>,
    parked: AtomicBool,
    unpark: Arc<dyn Unpark>,
}

impl ReadyQueue {
    fn push(&self, runnable: Runnable) {
        lock(&self.ready).push_back(runnable);
        // pairs with the store in `Executor::park`: either we see the flag, or it sees our task
        if self.parked.load(Ordering::SeqCst) {
            self.unpark.unpark();
        }
    }

    fn len(&self) -> usize {
        lock(&self.ready).len()
    }

    fn take(&self, index: usize) -> Option<Runnable> {
        let mut ready = lock(&self.ready);
        if index == 0 { ready.pop_front() } else { ready.swap_remove_back(index) }
    }
}

/// A task that has not ended.
struct Live {
    queue: Arc<ReadyQueue>,
    key: usize,
}

impl Drop for Live {
    fn drop(&mut self) {
        // the waker may be the task's last owner: it goes after the lock
        let waker = lock(&self.queue.live).remove(self.key);
        drop(waker);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts tasks on the executor's thread.
#[derive(Clone)]
pub struct Spawner(Arc<ReadyQueue>);

impl Spawner {
    /// Starts `future`; dropping the handle cancels it, [`Task::detach`] lets it run.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let queue = self.0.clone();
        let live = Live { queue: self.0.clone(), key: lock(&self.0.live).insert(None) };
        let key = live.key;
        let guarded = async move {
            let _live = live;
            future.await
        };
        let (runnable, task) = async_task::spawn_local(guarded, move |runnable| queue.push(runnable));
        lock(&self.0.live)[key] = Some(runnable.waker());
        runnable.schedule();
        task
    }
}

/// How the next task is picked.
pub trait Order {
    /// Index of the task to run out of `ready` (at least 1), or `None` to let I/O complete first.
    fn pick(&mut self, ready: usize) -> Option<usize>;
}

/// First come, first served; looks at I/O after a burst of tasks.
#[derive(Default)]
pub struct Fifo(u32);

impl Fifo {
    const BURST: u32 = 32;
}

impl Order for Fifo {
    fn pick(&mut self, _ready: usize) -> Option<usize> {
        self.0 = (self.0 + 1) % Self::BURST;
        (self.0 != 0).then_some(0)
    }
}

/// Work that the thread may do when no task is ready.
pub struct IdleWork {
    /// Whether there seems to be some.
    pub has_work: Box<dyn Fn() -> bool>,
    /// Does a little of it, if there still is some.
    pub work: Box<dyn FnMut()>,
}

/// Runs tasks and I/O until one future is done.
pub struct Executor {
    queue: Arc<ReadyQueue>,
    reactor: Rc<Reactor>,
    order: Box<dyn Order>,
    idle: Option<IdleWork>,
}

impl Executor {
    /// An executor over `reactor` that picks tasks by `order`.
    #[must_use]
    pub fn new(reactor: Rc<Reactor>, order: Box<dyn Order>) -> Self {
        let queue = ReadyQueue {
            ready: Mutex::new(VecDeque::with_capacity(1024)),
            live: Mutex::new(Slab::with_capacity(1024)),
            parked: AtomicBool::new(false),
            unpark: reactor.unparker(),
        };
        Self { queue: Arc::new(queue), reactor, order, idle: None }
    }

    /// A handle that starts tasks here.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        Spawner(self.queue.clone())
    }

    /// Sets what to do when nothing is ready.
    pub fn set_idle(&mut self, work: IdleWork) {
        self.idle = Some(work);
    }

    /// Runs until `main` is done.
    pub fn run<T: 'static>(&mut self, main: impl Future<Output = T> + 'static) -> T {
        self.run_until(main, || false).expect("nothing stops it before main is done")
    }

    /// Runs until `main` is done, or `stop` says so (looked at after every task: how the simulator kills a daemon).
    pub fn run_until<T: 'static>(
        &mut self,
        main: impl Future<Output = T> + 'static,
        mut stop: impl FnMut() -> bool,
    ) -> Option<T> {
        let done = Rc::new(std::cell::RefCell::new(None));
        let slot = done.clone();
        let _main = self.spawner().spawn(async move {
            let result = main.await;
            *slot.borrow_mut() = Some(result);
        });
        loop {
            if stop() {
                return None;
            }
            if let Some(result) = done.borrow_mut().take() {
                return Some(result);
            }
            self.turn();
        }
    }

    /// One task, or one look at I/O.
    fn turn(&mut self) {
        let ready = self.queue.len();
        if ready == 0 {
            self.park();
        } else if let Some(index) = self.order.pick(ready) {
            if let Some(runnable) = self.queue.take(index) {
                runnable.run();
            }
        } else {
            self.reactor.poll();
        }
    }

    fn park(&mut self) {
        if let Some(idle) = &mut self.idle
            && (idle.has_work)()
        {
            // what was started goes out first
            if !self.reactor.poll() {
                (idle.work)();
            }
            return;
        }
        self.queue.parked.store(true, Ordering::SeqCst);
        if self.queue.len() == 0 {
            // what was started goes out with the wait: one system call
            let queue = &self.queue;
            self.reactor.wait(|| queue.parked.store(false, Ordering::SeqCst));
        }
        self.queue.parked.store(false, Ordering::SeqCst);
    }
}

impl Drop for Executor {
    /// Cancels what has not ended: each task is woken once more and dropped instead of run, with all that it holds.
    fn drop(&mut self) {
        self.idle = None;
        loop {
            let wakers: Vec<_> = lock(&self.queue.live).iter().filter_map(|(_, waker)| waker.clone()).collect();
            if wakers.is_empty() {
                break;
            }
            wakers.into_iter().for_each(Waker::wake);
            while let Some(runnable) = self.queue.take(0) {
                drop(runnable);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::reactor::{Backend, Completion, FileId, Op};

    struct Idle;

    impl Unpark for Idle {
        fn unpark(&self) {}
    }

    impl Backend for Idle {
        fn now_ns(&self) -> u64 {
            0
        }

        fn submit(&mut self, _token: usize, op: Op) {
            panic!("nothing does I/O here: {op:?}");
        }

        fn poll(&mut self, _wait: bool, _until: Option<u64>, _ended: &mut Vec<(usize, Completion)>) {}

        fn is_written(&self, _file: FileId, _offset: u64, _len: u64) -> bool {
            false
        }

        fn unparker(&self) -> Arc<dyn Unpark> {
            Arc::new(Idle)
        }
    }

    #[test]
    fn a_dropped_executor_drops_tasks_that_wait_for_each_other() {
        let alive = Rc::new(());
        let mut executor = Executor::new(Reactor::new(Box::new(Idle)), Box::new(Fifo::default()));
        let notify = Rc::new(crate::env::sync::Notify::default());
        let spawner = executor.spawner();
        for _ in 0..3 {
            let (held, notify, inner) = (alive.clone(), notify.clone(), spawner.clone());
            let waits = async move {
                let _held = held;
                notify.notified().await;
                inner.spawn(async {}).detach();
            };
            spawner.spawn(waits).detach();
        }
        executor.run(async {});
        drop(notify);
        assert!(Rc::strong_count(&alive) > 1, "the tasks are there");
        drop((executor, spawner));
        assert_eq!(Rc::strong_count(&alive), 1, "and gone");
    }
}
