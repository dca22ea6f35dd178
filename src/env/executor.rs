//! Tasks of one thread: run in about the order they became ready, or in an order picked by a seed.
//!
//! The core, its front-end guests and its background work are tasks here. A task is woken from any thread; the
//! executor's thread sleeps in the reactor when nothing is ready and is unparked by the first wake. It may look for work a
//! little before ([`BusyPoll`]).

use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use async_task::{Builder, ScheduleInfo, WithInfo};
use slab::Slab;

use super::BusyPoll;
use super::reactor::Reactor;

/// Wakes the executor's thread out of the reactor. Any thread may call it.
pub trait Unpark: Send + Sync {
    /// Makes the next or current wait of the backend return.
    fn unpark(&self);
}

/// How soon a task is run that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Somebody waits for each of its steps.
    Prompt,
    /// A step of it may wait for others: floods of data, and what runs in the background.
    Bulk,
}

/// A task on the executor's thread; dropping it cancels it.
pub type Task<T> = async_task::Task<T, Class>;

type Runnable = async_task::Runnable<Class>;

/// Tasks that are ready, and whether the thread sleeps.
pub struct ReadyQueue {
    ready: Mutex<Ready>,
    /// A waker of every task that has not ended: what is left when the executor goes is woken once more, to be dropped.
    live: Mutex<Slab<Option<Waker>>>,
    parked: AtomicBool,
    unpark: Arc<dyn Unpark>,
}

struct Ready {
    /// In the order they became ready: prompt ones, or all if they are not told apart.
    prompt: VecDeque<Runnable>,
    /// The prompt one that was woken last by another.
    hot: Option<Runnable>,
    /// The others, in order.
    bulk: VecDeque<Runnable>,
    /// See [`Order::sorts`].
    sorts: bool,
}

impl ReadyQueue {
    fn push(&self, runnable: Runnable, info: ScheduleInfo) {
        let mut ready = lock(&self.ready);
        if ready.sorts && *runnable.metadata() == Class::Bulk {
            ready.bulk.push_back(runnable);
        } else {
            // who wakes itself lets others go first
            let is_hot = ready.sorts && !info.woken_while_running;
            let to_line = if is_hot { ready.hot.replace(runnable) } else { Some(runnable) };
            ready.prompt.extend(to_line);
        }
        drop(ready);
        // pairs with the store in `Executor::park`: either we see the flag, or it sees our task
        if self.parked.load(Ordering::SeqCst) {
            self.unpark.unpark();
        }
    }

    fn tasks(&self) -> ReadyTasks {
        let ready = lock(&self.ready);
        let has_hot = ready.hot.is_some();
        ReadyTasks { prompt: ready.prompt.len() + usize::from(has_hot), has_hot, bulk: ready.bulk.len() }
    }

    fn take(&self, index: usize) -> Option<Runnable> {
        let mut ready = lock(&self.ready);
        let (line, has_hot) = (ready.prompt.len(), ready.hot.is_some());
        if index < line {
            return if index == 0 { ready.prompt.pop_front() } else { ready.prompt.swap_remove_back(index) };
        }
        if has_hot && index == line { ready.hot.take() } else { ready.bulk.pop_front() }
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
    /// Starts `future`; dropping the handle cancels it, `detach` lets it run.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.spawn_as(Class::Prompt, future)
    }

    /// Starts `future` as a task of that class.
    pub fn spawn_as<T: 'static>(&self, class: Class, future: impl Future<Output = T> + 'static) -> Task<T> {
        let queue = self.0.clone();
        let live = Live { queue: self.0.clone(), key: lock(&self.0.live).insert(None) };
        let key = live.key;
        let guarded = async move {
            let _live = live;
            future.await
        };
        let schedule = WithInfo(move |runnable, info| queue.push(runnable, info));
        let (runnable, task) = Builder::new().metadata(class).spawn_local(move |_| guarded, schedule);
        lock(&self.0.live)[key] = Some(runnable.waker());
        runnable.schedule();
        task
    }
}

/// Tasks that are ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyTasks {
    /// Prompt ones; all of them where they are not told apart.
    pub prompt: usize,
    /// The last of the prompt ones was woken last by another, and behind others that were ready.
    pub has_hot: bool,
    /// Bulk ones.
    pub bulk: usize,
}

/// How the next task is picked.
pub trait Order {
    /// Index of the task to run, prompt ones before the first bulk one, of which there is at least one in all; `None` to let
    /// I/O complete first.
    fn pick(&mut self, ready: ReadyTasks) -> Option<usize>;

    /// Whether tasks are told apart by class, and the one woken last is kept apart. If not, all are prompt and none is hot.
    fn sorts(&self) -> bool {
        false
    }
}

/// First come, first served, but for two things: prompt tasks go before bulk ones, a bounded number in a row; and of prompt
/// ones the one that was woken last goes first a few times in a row. A commit, which several tasks pass from one to the next,
/// so does not wait at each step for all that a flood of data has made ready. Looks at I/O after a burst of tasks.
#[derive(Default)]
pub struct Fifo {
    turns: u32,
    /// Hot tasks run in a row.
    hot: u32,
    /// Prompt tasks run in a row while bulk ones waited.
    prompt: u32,
}

impl Fifo {
    const BURST: u32 = 32;
    const HOT_MAX: u32 = 4;
    const PROMPT_MAX: u32 = 16;
}

impl Order for Fifo {
    fn pick(&mut self, ready: ReadyTasks) -> Option<usize> {
        self.turns = (self.turns + 1) % Self::BURST;
        if self.turns == 0 {
            return None;
        }
        if ready.prompt == 0 || (ready.bulk > 0 && self.prompt >= Self::PROMPT_MAX) {
            self.prompt = 0;
            return Some(ready.prompt);
        }
        self.prompt = if ready.bulk > 0 { self.prompt + 1 } else { 0 };
        let goes_first = ready.has_hot && self.hot < Self::HOT_MAX;
        self.hot = if goes_first { self.hot + 1 } else { 0 };
        Some(if goes_first { ready.prompt - 1 } else { 0 })
    }

    fn sorts(&self) -> bool {
        true
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
    busy_poll: Option<BusyPoll>,
}

impl Executor {
    /// An executor over `reactor` that picks tasks by `order`.
    #[must_use]
    pub fn new(reactor: Rc<Reactor>, order: Box<dyn Order>) -> Self {
        let queue = ReadyQueue {
            ready: Mutex::new(Ready {
                prompt: VecDeque::with_capacity(1024),
                hot: None,
                bulk: VecDeque::with_capacity(1024),
                sorts: order.sorts(),
            }),
            live: Mutex::new(Slab::with_capacity(1024)),
            parked: AtomicBool::new(false),
            unpark: reactor.unparker(),
        };
        Self { queue: Arc::new(queue), reactor, order, idle: None, busy_poll: None }
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

    /// Sets how long to look for work before the thread sleeps.
    pub fn set_busy_poll(&mut self, poll: BusyPoll) {
        // one that never looks needs no clock
        self.busy_poll = poll.is_wanted().then_some(poll);
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
        let ready = self.queue.tasks();
        if ready.prompt + ready.bulk == 0 {
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
        let Some(poll) = self.busy_poll else { return self.sleep() };
        let began = self.reactor.now_ns();
        if !self.look_until(began + poll.span_ns()) {
            self.sleep();
        }
        self.busy_poll = Some(poll.after(self.reactor.now_ns() - began));
    }

    /// Looks at I/O and for tasks until that time. Returns whether there is something to do.
    fn look_until(&self, end_ns: u64) -> bool {
        let has_idle_work = || self.idle.as_ref().is_some_and(|idle| (idle.has_work)());
        while self.reactor.now_ns() < end_ns {
            if self.reactor.poll() || self.queue.tasks() != ReadyTasks::default() || has_idle_work() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    fn sleep(&self) {
        self.queue.parked.store(true, Ordering::SeqCst);
        if self.queue.tasks() == ReadyTasks::default() {
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

    /// What the named tasks did in which order; `main` starts them.
    fn order_of(main: impl AsyncFnOnce(Spawner, Rc<std::cell::RefCell<Vec<String>>>) + 'static) -> Vec<String> {
        let mut executor = Executor::new(Reactor::new(Box::new(Idle)), Box::new(Fifo::default()));
        let (spawner, said) = (executor.spawner(), Rc::new(std::cell::RefCell::new(Vec::new())));
        let says = said.clone();
        executor.run(async move { main(spawner, says).await });
        said.take()
    }

    #[test]
    fn what_was_woken_last_goes_first_a_few_times_and_who_yields_goes_last() {
        let order = order_of(async |spawner, said| {
            let say = |said: &Rc<std::cell::RefCell<Vec<String>>>, what: &str| said.borrow_mut().push(what.to_owned());
            // a chain in which each task wakes the next, behind others that are ready
            let links: Vec<_> = (0..=6).map(|_| Rc::new(crate::env::sync::Notify::default())).collect();
            for (n, pair) in links.windows(2).enumerate() {
                let (said, from, to) = (said.clone(), pair[0].clone(), pair[1].clone());
                let link = async move {
                    from.notified().await;
                    say(&said, &format!("link {n}"));
                    to.notify_all();
                };
                spawner.spawn(link).detach();
            }
            let end = links[6].clone();
            let all = spawner.spawn(async move { end.notified().await });
            crate::env::sync::yield_now().await;
            crate::env::sync::yield_now().await;
            for n in 0..3 {
                let said = said.clone();
                spawner.spawn(async move { say(&said, &format!("other {n}")) }).detach();
            }
            links[0].notify_all();
            crate::env::sync::yield_now().await;
            say(&said, "yielded");
            all.await;
        });
        let at = |what: &str| order.iter().position(|said| said == what).unwrap();
        assert_eq!(order.len(), 10, "{order:?}");
        assert!(at("link 2") < at("other 0"), "{order:?}");
        assert!(at("other 0") < at("link 5"), "bounded: {order:?}");
        assert!(at("other 2") < at("yielded"), "{order:?}");
    }

    #[test]
    fn prompt_tasks_go_before_bulk_ones_a_bounded_number_in_a_row() {
        let order = order_of(async |spawner, said| {
            let say = |class: Class, what: String| {
                let said = said.clone();
                spawner.spawn_as(class, async move { said.borrow_mut().push(what) })
            };
            let bulk: Vec<_> = (0..3).map(|n| say(Class::Bulk, format!("bulk {n}"))).collect();
            let prompt: Vec<_> = (0..40).map(|n| say(Class::Prompt, format!("prompt {n}"))).collect();
            for task in bulk.into_iter().chain(prompt) {
                task.await;
            }
        });
        let of = |class: &str| order.iter().filter(|said| said.starts_with(class)).cloned().collect::<Vec<_>>();
        assert_eq!((of("bulk").len(), of("prompt").len()), (3, 40));
        assert_eq!(of("bulk"), ["bulk 0", "bulk 1", "bulk 2"]);
        let first = order.iter().position(|said| said == "bulk 0").unwrap();
        assert!((12..=16).contains(&first), "after {first}: {order:?}");
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

    /// Each look takes a microsecond, each sleep lasts until its time.
    struct Clocked {
        now_ns: Rc<std::cell::Cell<u64>>,
        sleeps: Rc<std::cell::Cell<u64>>,
    }

    impl Backend for Clocked {
        fn now_ns(&self) -> u64 {
            self.now_ns.get()
        }

        fn submit(&mut self, _token: usize, op: Op) {
            panic!("nothing does I/O here: {op:?}");
        }

        fn poll(&mut self, wait: bool, until: Option<u64>, _ended: &mut Vec<(usize, Completion)>) {
            self.now_ns.set(self.now_ns.get() + 1_000);
            if let Some(until) = until.filter(|_| wait) {
                self.now_ns.set(until.max(self.now_ns.get()));
                self.sleeps.set(self.sleeps.get() + 1);
            }
        }

        fn is_written(&self, _file: FileId, _offset: u64, _len: u64) -> bool {
            false
        }

        fn unparker(&self) -> Arc<dyn Unpark> {
            Arc::new(Idle)
        }
    }

    #[test]
    fn a_thread_whose_work_comes_soon_does_not_sleep() {
        let (now_ns, sleeps) = (Rc::default(), Rc::default());
        let reactor = Reactor::new(Box::new(Clocked { now_ns: Rc::clone(&now_ns), sleeps: Rc::clone(&sleeps) }));
        let mut executor = Executor::new(reactor.clone(), Box::new(Fifo::default()));
        let mut slept = |gap_ns: u64| {
            let (before, reactor) = (sleeps.get(), reactor.clone());
            executor.run(async move {
                for _ in 0..20 {
                    reactor.sleep_until(reactor.now_ns() + gap_ns).await;
                }
            });
            let slept = sleeps.get() - before;
            executor.set_busy_poll(BusyPoll::new(50_000));
            slept
        };
        assert_eq!(slept(30_000), 20, "it was not told to look");
        assert_eq!(slept(30_000), 1, "once, to learn that it does not take long");
        assert_eq!(slept(1_000_000), 20, "it looks in vain, and then sleeps");
    }
}
