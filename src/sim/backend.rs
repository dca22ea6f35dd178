//! I/O of a simulated daemon: operations go to the [`Machine`], end after a random time and in any order.
//!
//! Simulated time passes only here: a little at every look, and as far as the next event when nothing is ready.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::death::{Death, Point};
use super::machine::Machine;
use crate::env::FileId;
use crate::env::executor::Unpark;
use crate::env::reactor::{Backend, Completion, Op};

/// The [`Backend`] of one daemon's life.
pub struct SimBackend {
    machine: Rc<RefCell<Machine>>,
    death: Arc<Death>,
}

impl SimBackend {
    /// A backend on `machine` that works as long as the daemon lives.
    #[must_use]
    pub fn new(machine: Rc<RefCell<Machine>>, death: Arc<Death>) -> Self {
        Self { machine, death }
    }
}

/// There is one thread: it is awake whenever something could wake it.
struct Awake;

impl Unpark for Awake {
    fn unpark(&self) {}
}

impl Backend for SimBackend {
    fn now_ns(&self) -> u64 {
        self.machine.borrow().clock
    }

    fn is_written(&self, _file: FileId, _offset: u64, _len: u64) -> bool {
        false
    }

    fn submit(&mut self, token: usize, op: Op) {
        if self.death.step(Point::Submit) {
            self.machine.borrow_mut().submit(token, op);
        }
    }

    fn poll(&mut self, wait: bool, until_ns: Option<u64>, ended: &mut Vec<(usize, Completion)>) {
        if self.death.is_dead() {
            return;
        }
        let mut machine = self.machine.borrow_mut();
        if wait {
            match machine.next_end().into_iter().chain(until_ns).min() {
                Some(next) => machine.clock = machine.clock.max(next),
                None => machine.stalled = true,
            }
        } else {
            machine.pass_time();
        }
        while machine.next_end().is_some_and(|end| end <= machine.clock) && self.death.step(Point::Complete) {
            ended.extend(machine.end_next());
        }
    }

    fn unparker(&self) -> Arc<dyn Unpark> {
        Arc::new(Awake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::AlignedBuf;
    use crate::env::reactor::{FileId, IoBuf};
    use crate::env::{Executor, Reactor};
    use crate::sim::fault::{Fault, FaultKind};
    use crate::sim::order::SeededOrder;
    use crate::sim::trace::Trace;
    use fastrand::Rng;

    fn machine(seed: u64) -> (Rc<RefCell<Machine>>, FileId) {
        let mut machine = Machine::new(Rng::with_seed(seed), Trace::new(false));
        let file = machine.add_medium(1 << 20);
        (Rc::new(RefCell::new(machine)), file)
    }

    fn write(file: FileId, offset: u64, byte: u8) -> Op {
        let buf = IoBuf::Owned(AlignedBuf::copied(&[byte; 4096]));
        Op::Write { file, offset, buf, len: 4096, durable: false }
    }

    fn read(file: FileId, offset: u64) -> Op {
        Op::Read { file, offset, buf: AlignedBuf::zeroed(4096), start: 0, len: 4096 }
    }

    fn byte(completion: Completion) -> u8 {
        match completion.buf {
            Some(IoBuf::Owned(buf)) => buf[0],
            other => panic!("{other:?}"),
        }
    }

    /// Several tasks write, flush and read; the hash of everything that happened.
    fn run(seed: u64) -> u64 {
        let (machine, file) = machine(seed);
        let reactor = Reactor::new(Box::new(SimBackend::new(machine.clone(), Death::never())));
        let mut executor = Executor::new(reactor.clone(), Box::new(SeededOrder::new(Rng::with_seed(seed ^ 1))));
        let spawner = executor.spawner();
        executor.run(async move {
            let tasks: Vec<_> = (0..8u8)
                .map(|task| {
                    let reactor = reactor.clone();
                    spawner.spawn(async move {
                        let offset = u64::from(task) * 4096;
                        reactor.submit(write(file, offset, task + 1)).await.result.unwrap();
                        reactor.submit(Op::Flush { file }).await.result.unwrap();
                        reactor.sleep_until(reactor.now_ns() + 1000).await;
                        assert_eq!(byte(reactor.submit(read(file, offset)).await), task + 1);
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
        });
        let machine = machine.borrow();
        assert_eq!(machine.violations, Vec::<String>::new());
        assert_eq!(machine.stats.flushes, 8);
        machine.trace.digest()
    }

    #[test]
    fn one_seed_is_one_run() {
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn a_dead_daemon_reaches_nothing() {
        let (machine, file) = machine(3);
        let death = Death::never();
        death.plan(Point::Submit, 2, 0);
        let reactor = Reactor::new(Box::new(SimBackend::new(machine.clone(), death.clone())));
        let mut executor = Executor::new(reactor.clone(), Box::new(SeededOrder::new(Rng::with_seed(3))));
        let watched = death.clone();
        let end = executor.run_until(
            async move {
                reactor.submit(write(file, 0, 1)).await.result.unwrap();
                reactor.submit(write(file, 4096, 2)).await.result.unwrap();
            },
            move || watched.is_dead(),
        );
        assert!(end.is_none());
        machine.borrow_mut().daemon_dies();
        let mut buf = [9; 8192];
        machine.borrow_mut().medium(file).read(0, &mut buf);
        assert_eq!((buf[0], buf[4096]), (1, 0));
    }

    #[test]
    fn a_hang_is_noticed() {
        let (machine, _) = machine(4);
        let reactor = Reactor::new(Box::new(SimBackend::new(machine.clone(), Death::never())));
        let mut executor = Executor::new(reactor, Box::new(SeededOrder::new(Rng::with_seed(4))));
        let watched = machine.clone();
        let end = executor.run_until(std::future::pending::<()>(), move || watched.borrow().stalled);
        assert!(end.is_none() && machine.borrow().stalled);
    }

    #[test]
    fn faults_strike_and_are_reported_or_not() {
        let outcome = |kind: FaultKind, op: fn(FileId) -> Op| {
            let (machine, file) = machine(5);
            machine.borrow_mut().faults.add(Fault { kind, file: 0, range: 0..8192, skip: 0, times: 1 });
            let reactor = Reactor::new(Box::new(SimBackend::new(machine.clone(), Death::never())));
            let mut executor = Executor::new(reactor.clone(), Box::new(SeededOrder::new(Rng::with_seed(5))));
            let ended = executor.run(async move { reactor.submit(op(file)).await });
            assert_eq!(machine.borrow().faults.hits(), 1);
            let mut buf = [0; 4096];
            machine.borrow_mut().medium(file).read(0, &mut buf);
            (ended.result.map_err(|e| e.kind()), buf.iter().filter(|byte| **byte != 0xff).count())
        };
        use crate::error::ErrorKind;
        assert_eq!(outcome(FaultKind::ReadError, |file| read(file, 0)).0, Err(ErrorKind::Io));
        assert_eq!(outcome(FaultKind::WriteError, |file| write(file, 0, 0xff)).0, Err(ErrorKind::Io));
        assert_eq!(outcome(FaultKind::FlushError, |file| Op::Flush { file }).0, Err(ErrorKind::Io));
        let full = outcome(FaultKind::NoSpace, |file| Op::Allocate { file, offset: 0, len: 4096 });
        assert_eq!(full.0, Err(ErrorKind::NoSpace));
        assert_eq!(outcome(FaultKind::Lost, |file| write(file, 0, 0xff)), (Ok(4096), 4096));
        assert_eq!(outcome(FaultKind::BitFlip, |file| write(file, 0, 0xff)), (Ok(4096), 1));
        assert_eq!(outcome(FaultKind::Torn, |file| write(file, 0, 0xff)).0, Ok(4096));
        assert_eq!(outcome(FaultKind::Misdirected, |file| write(file, 0, 0xff)).0, Ok(4096));
    }
}
