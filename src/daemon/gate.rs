//! One at a time: changes of a pool and of what is served wait for each other.

use std::cell::Cell;

use crate::env::sync::Notify;

/// A lock among tasks of one thread.
#[derive(Default)]
pub(super) struct Gate {
    taken: Cell<bool>,
    freed: Notify,
}

/// The right to change something, until it is dropped.
pub(super) struct Pass<'a>(&'a Gate);

impl Gate {
    /// Waits until nobody else changes anything.
    pub(super) async fn enter(&self) -> Pass<'_> {
        self.freed.until(|| !self.taken.get()).await;
        self.taken.set(true);
        Pass(self)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.taken.set(false);
        self.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::task::Poll;

    use super::*;
    use crate::env::executor::Fifo;
    use crate::env::{Executor, Reactor};
    use crate::media::UringBackend;

    #[test]
    fn changes_do_not_overlap() {
        let reactor = Reactor::new(Box::new(UringBackend::new().unwrap()));
        let mut executor = Executor::new(reactor, Box::new(Fifo::default()));
        let (gate, log) = (Rc::new(Gate::default()), Rc::new(RefCell::new(Vec::new())));
        let tasks: Vec<_> = (0..5)
            .map(|task| {
                let (gate, log) = (gate.clone(), log.clone());
                executor.spawner().spawn(async move {
                    let _pass = gate.enter().await;
                    log.borrow_mut().push((task, "in"));
                    for _ in 0..3 {
                        give_way().await;
                    }
                    log.borrow_mut().push((task, "out"));
                })
            })
            .collect();
        executor.run(async move {
            for task in tasks {
                task.await;
            }
        });
        let log = log.borrow();
        assert_eq!(log.len(), 10);
        for pair in log.chunks(2) {
            assert_eq!((pair[0].0, pair[0].1, pair[1].1), (pair[1].0, "in", "out"));
        }
    }

    async fn give_way() {
        let mut waited = false;
        poll_fn(|cx| {
            if waited {
                return Poll::Ready(());
            }
            waited = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
