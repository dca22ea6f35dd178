//! The failure latch: after a failed flush or metadata write the pool takes no writes any more (I11).
//!
//! **Invariants.** It is closed in one way only ([`Core::become_read_only`]), which wakes everybody who waits for
//! something that may not come any more; they look at the latch and end. Who waits for a request, a checkpoint or the
//! cleaner to end (`released`) is woken by these.

use std::cell::RefCell;

use super::Core;
use crate::error::{Error, ErrorKind, Result};

/// Closed once, with the reason; never opened again while the pool is served.
#[derive(Default)]
pub struct Latch(RefCell<Option<String>>);

impl Latch {
    /// Closes the latch. The first reason counts and is logged.
    fn close(&self, what: &str, error: &Error) {
        let mut reason = self.0.borrow_mut();
        if reason.is_none() {
            tracing::error!(
                "{what} failed: {error}; the pool is read-only from here on, nothing acknowledged is lost \
                by this; stop it, look at the medium, then serve it again"
            );
            *reason = Some(format!("{what} failed: {error}"));
        }
    }

    /// Refuses when the latch is closed.
    ///
    /// # Errors
    /// [`ErrorKind::ReadOnly`] with the reason.
    pub fn check(&self) -> Result<()> {
        match &*self.0.borrow() {
            None => Ok(()),
            Some(reason) => Err(Error::new(ErrorKind::ReadOnly, format!("the pool is read-only: {reason}"))),
        }
    }

    /// The reason, when closed.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}

impl Core {
    /// Closes the latch: the pool takes no writes from here on, because of this failure.
    pub(crate) fn become_read_only(&self, what: &str, error: &Error) {
        self.latch.close(what, error);
        // writers that want room, and tasks that look at what is left to do
        self.space.notify_all();
        // those who want something durable, and writers that want room in the journal
        self.durable.notify_all();
        // the cleaner, in the middle of a segment
        self.cleaner.wanted.notify_all();
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::task::Poll;

    use fastrand::Rng;

    use super::*;
    use crate::codec::CodecPool;
    use crate::core::ReplayBounds;
    use crate::env::sync::Notify;
    use crate::env::{Env, Executor, Reactor};
    use crate::error::ErrorKind;
    use crate::format::slot::StagingHeader;
    use crate::format::superblock::KeySource;
    use crate::format::{Cipher, Compression};
    use crate::keys::RootKey;
    use crate::media::Media;
    use crate::pool::{CreateOptions, NamespaceSpec, OpenOptions, Pool, create};
    use crate::sim::{Death, Fault, FaultKind, Machine, SeededOrder, SimBackend, Trace};
    use crate::staging::{Region, StagingStore};
    use crate::units::{PoolId, SessionId};

    const POOL_BYTES: u64 = 64 << 20;
    const MEDIUM_BYTES: u64 = 128 << 20;

    struct Staging;

    impl StagingStore for Staging {
        fn create(&mut self, header: &StagingHeader) -> Result<Region> {
            let region = Region::anonymous();
            region.store_header(&header.encode());
            Ok(region)
        }

        fn find(&mut self, _pool: PoolId, _session: SessionId) -> Result<Option<Region>> {
            Ok(None)
        }

        fn remove(&mut self, _pool: PoolId, _session: SessionId) -> Result<()> {
            Ok(())
        }
    }

    async fn new_pool(env: &Env, media: &Media) -> Rc<Pool> {
        let root_key = RootKey::from_bytes(&[7; 32]);
        let options = CreateOptions {
            label: "test",
            segment_bytes: Some(1 << 20),
            key_source: KeySource::File,
            root_key: &root_key,
            pool: None,
            now_unix: 1,
            journal: None,
        };
        create(env, media, &options).await.unwrap();
        let options = OpenOptions {
            root_key,
            boot: [1; 16],
            identity: (1, 2),
            codec: CodecPool::simulated(env.clone()),
            bounds: ReplayBounds::default(),
            journal: None,
            accept_journal_loss: false,
            memory: None,
        };
        Pool::open(env, media, Box::new(Staging), options).await.unwrap()
    }

    async fn make_namespace(pool: &Pool) -> Result<()> {
        let spec = NamespaceSpec {
            name: "db".into(),
            blocks: 64,
            cipher: Cipher::Aes256Xts,
            compression: Compression::Lz4,
            unit_blocks: 4,
            logical_block: 4096,
            now_unix: 1,
        };
        pool.create_namespace(&spec).await.map(drop)
    }

    /// Closes the latch of a pool by `fails`, which finds writes to the front of the medium failing, while tasks wait
    /// for room, for durability and for cause to clean. All of them, and a stop, have to end.
    fn everybody_ends(fails: impl AsyncFnOnce(&Pool) -> Result<()> + 'static) {
        let mut machine = Machine::new(Rng::with_seed(1), Trace::new(false));
        let file = machine.add_medium(MEDIUM_BYTES);
        let machine = Rc::new(RefCell::new(machine));
        let reactor = Reactor::new(Box::new(SimBackend::new(machine.clone(), Death::never())));
        let mut executor = Executor::new(reactor.clone(), Box::new(SeededOrder::new(Rng::with_seed(2))));
        let env = Env::new(executor.spawner(), reactor.clone(), crate::env::Rng::Seeded(Rng::with_seed(3)));
        let media = Media::new(reactor, file, POOL_BYTES, 4096, true);
        let (faulty, clock) = (machine.clone(), machine.clone());
        let main = async move {
            let pool = new_pool(&env, &media).await;
            env.sleep_ns(1_000_000_000).await;
            let ended = Rc::new(Cell::new(0));
            let notifies: [fn(&Core) -> &Notify; 3] =
                [|core| &core.space, |core| &core.durable, |core| &core.cleaner.wanted];
            for notify in notifies {
                let (core, ended) = (pool.core().clone(), ended.clone());
                let wait = async move {
                    notify(&core).until(|| core.latch.check().is_err()).await;
                    ended.set(ended.get() + 1);
                };
                env.spawner.spawn(wait).detach();
            }
            env.sleep_ns(1_000_000).await;
            let fault = Fault { kind: FaultKind::WriteError, file: 0, range: 0..4 << 20, skip: 0, times: u64::MAX };
            faulty.borrow_mut().faults.add(fault);
            fails(&pool).await.unwrap_err();
            assert_eq!(pool.core().latch.check().unwrap_err().kind(), ErrorKind::ReadOnly);
            env.sleep_ns(1_000_000).await;
            assert_eq!(ended.get(), 3, "not all who wait were woken");
            pool.stop().await.unwrap_err();
        };
        let ended = executor.run_until(main, || clock.borrow().stalled || clock.borrow().clock > 60_000_000_000);
        assert!(ended.is_some(), "the pool cannot be stopped");
    }

    #[test]
    fn a_namespace_table_that_cannot_be_written_leaves_nobody_waiting() {
        everybody_ends(make_namespace);
    }

    #[test]
    fn a_superblock_that_cannot_be_written_leaves_nobody_waiting() {
        everybody_ends(async |pool: &Pool| pool.grow(MEDIUM_BYTES).await.map(drop));
    }

    /// It asked the cleaner, and the latch closed before that had its turn.
    #[test]
    fn who_demands_a_segment_ends() {
        everybody_ends(async |pool: &Pool| {
            let core = pool.core();
            let mut demand = std::pin::pin!(core.demand_segment());
            let waits = std::future::poll_fn(|cx| Poll::Ready(demand.as_mut().poll(cx).is_pending()));
            assert!(waits.await, "it waits for the cleaner");
            core.become_read_only("the test", &Error::new(ErrorKind::Io, "as planned"));
            demand.await;
            core.latch.check()
        });
    }
}
