//! Tasks of one thread: run in the order they became ready, or in an order picked by a seed.
//!
//! The core, its front-end guests and its background work are tasks here. A task is woken from any thread; the
//! executor's thread sleeps in the reactor when nothing is ready and is unparked by the first wake.

use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_task::{Runnable, Task};

use super::reactor::Reactor;

/// Wakes the executor's thread out of the reactor. Any thread may call it.
pub trait Unpark: Send + Sync {
    /// Makes the next or current wait of the backend return.
    fn unpark(&self);
}

/// Tasks that are ready, and whether the thread sleeps.
pub struct ReadyQueue {
    ready: Mutex<VecDeque<Runnable>>,
    parked: AtomicBool,
    unpark: Arc<dyn Unpark>,
}

impl ReadyQueue {
    fn push(&self, runnable: Runnable) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(runnable);
        // pairs with the store in `Executor::park`: either we see the flag, or it sees our task
        if self.parked.load(Ordering::SeqCst) {
            self.unpark.unpark();
        }
    }

    fn len(&self) -> usize {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self, index: usize) -> Option<Runnable> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if index == 0 { ready.pop_front() } else { ready.swap_remove_back(index) }
    }
}

/// Starts tasks on the executor's thread.
#[derive(Clone)]
pub struct Spawner(Arc<ReadyQueue>);

impl Spawner {
    /// Starts `future`; dropping the handle cancels it, [`Task::detach`] lets it run.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let queue = self.0.clone();
        #[cfg(feature = "sim")]
        let future = crate::sim::Mortal::new(future);
        let (runnable, task) = async_task::spawn_local(future, move |runnable| queue.push(runnable));
        runnable.schedule();
        task
    }
}

/// How the next task is picked.
pub trait Order {
    /// Index of the task to run out of `ready` (at least 1), or `None` to let I/O complete first.
    fn pick(&mut self, ready: usize) -> Option<usize>;
}

/// First come, first served; looks at I/O after every [`Fifo::BURST`] tasks.
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

/// Work that the thread may do when no task is ready; returns whether it did any.
pub type IdleWork = Box<dyn FnMut() -> bool>;

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
            self.reactor.poll(false);
        }
    }

    fn park(&mut self) {
        if self.reactor.poll(false) {
            return;
        }
        if let Some(idle) = &mut self.idle
            && idle()
        {
            return;
        }
        self.queue.parked.store(true, Ordering::SeqCst);
        if self.queue.len() == 0 {
            self.reactor.poll(true);
        }
        self.queue.parked.store(false, Ordering::SeqCst);
    }
}
