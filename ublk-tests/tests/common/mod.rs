//! What engine tests share: a pool on a temporary file, a machine whose shared memory outlives the daemon.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod journal;
pub(crate) mod space;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use plica::buf::DataBuf;
use plica::codec::CodecPool;
use plica::core::ReplayBounds;
use plica::core::request::{NamespaceClient, Reply, ReplySink, Request, RequestKind};
use plica::env::executor::Fifo;
use plica::env::{Env, Executor, Reactor, Rng};
use plica::error::Result;
use plica::format::slot::StagingHeader;
use plica::format::superblock::KeySource;
use plica::format::{Cipher, Compression};
use plica::keys::RootKey;
use plica::media::{Access, Device, DeviceKind, Media, UringBackend};
use plica::pool::{CreateOptions, JournalFound, NamespaceSpec, OpenOptions, Pool};
use plica::staging::{Region, StagingStore};
use plica::units::{PoolId, SessionId};

/// Shared memory that outlives daemons.
#[derive(Clone, Default)]
pub(crate) struct Machine(Rc<RefCell<BTreeMap<(PoolId, SessionId), Region>>>);

impl Machine {
    /// Staging files there are.
    pub(crate) fn files(&self) -> usize {
        self.0.borrow().len()
    }

    /// Somebody deletes all of them.
    pub(crate) fn forget(&self) {
        self.0.borrow_mut().clear();
    }
}

impl StagingStore for Machine {
    fn create(&mut self, header: &StagingHeader) -> Result<Region> {
        let region = Region::anonymous();
        region.store_header(&header.encode());
        self.0.borrow_mut().insert((header.pool, header.session), region.clone());
        Ok(region)
    }

    fn find(&mut self, pool: PoolId, session: SessionId) -> Result<Option<Region>> {
        Ok(self.0.borrow().get(&(pool, session)).cloned())
    }

    fn remove(&mut self, pool: PoolId, session: SessionId) -> Result<()> {
        self.0.borrow_mut().remove(&(pool, session));
        Ok(())
    }
}

/// The key of all test pools.
pub(crate) fn key() -> RootKey {
    RootKey::from_bytes(&[7; 32])
}

/// Runs `body` on an executor of its own over io_uring. Everything it spawned dies at the end, like a daemon.
pub(crate) fn serve<T: 'static, F: Future<Output = T> + 'static>(path: &Path, body: impl FnOnce(Env, Media) -> F) -> T {
    let device = Device::open(path, Access::Write).unwrap();
    let mut backend = UringBackend::new().unwrap();
    let (size, block) = (device.size(), device.block());
    let file = backend.register(&device);
    let reactor = Reactor::new(Box::new(backend));
    let mut executor = Executor::new(reactor.clone(), Box::new(Fifo::default()));
    let env = Env::new(executor.spawner(), reactor.clone(), Rng::Kernel);
    let media = Media::new(reactor, file, size, block, device.kind() == DeviceKind::File);
    executor.run(body(env, media))
}

/// A pool with segments of 1 MiB and no journal.
pub(crate) fn create_options(root_key: &RootKey) -> CreateOptions<'_> {
    CreateOptions {
        label: "test",
        segment_bytes: Some(1 << 20),
        key_source: KeySource::File,
        root_key,
        pool: None,
        now_unix: 1,
        journal: None,
    }
}

/// Makes a pool of `bytes` with one namespace `db` of `blocks` blocks.
pub(crate) fn create(path: &Path, bytes: u64, machine: &Machine, spec: NamespaceSpec) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    let machine = machine.clone();
    serve(path, |env, media| async move {
        let key = key();
        let options = create_options(&key);
        plica::pool::create(&env, &media, &options).await.unwrap();
        let pool = open(&env, &media, &machine).await.unwrap();
        pool.create_namespace(&spec).await.unwrap();
        pool.stop().await.unwrap();
    });
}

/// A namespace `db`.
pub(crate) fn spec(blocks: u64) -> NamespaceSpec {
    NamespaceSpec {
        name: "db".into(),
        blocks,
        cipher: Cipher::Aes256Xts,
        compression: Compression::Lz4,
        unit_blocks: 4,
        logical_block: 4096,
        now_unix: 1,
    }
}

/// Opens the pool, in the same boot always.
pub(crate) async fn open(env: &Env, media: &Media, machine: &Machine) -> Result<Rc<Pool>> {
    open_with(env, media, machine, None, false).await
}

/// Opens a pool with its journal.
pub(crate) async fn open_with(
    env: &Env,
    media: &Media,
    machine: &Machine,
    journal: Option<JournalFound>,
    accept_journal_loss: bool,
) -> Result<Rc<Pool>> {
    let options = OpenOptions {
        root_key: key(),
        boot: [1; 16],
        identity: (1, 2),
        codec: CodecPool::new(0).unwrap(),
        bounds: ReplayBounds::default(),
        journal,
        accept_journal_loss,
        memory: None,
    };
    Pool::open(env, media, Box::new(machine.clone()), options).await
}

/// Collects replies, wakes who waits.
#[derive(Default)]
pub(crate) struct Sink(Mutex<(Vec<Reply>, Option<std::task::Waker>)>);

impl ReplySink for Sink {
    fn reply(&self, reply: Reply) {
        let waker = {
            let mut inner = self.0.lock().unwrap();
            inner.0.push(reply);
            inner.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// One request and its reply.
pub(crate) async fn ask(
    client: &NamespaceClient,
    kind: RequestKind,
    offset: u64,
    len: u64,
    data: Option<Vec<u8>>,
) -> (Result<()>, Vec<u8>) {
    let sink = Arc::new(Sink::default());
    let moves = matches!(kind, RequestKind::Read | RequestKind::Write { .. });
    let data = moves.then(|| {
        let mut buf = DataBuf::zeroed(usize::try_from(len).unwrap());
        if let Some(data) = &data {
            buf.bytes_mut().copy_from_slice(data);
        }
        Arc::new(buf)
    });
    client.submit(Request::new(kind, offset, len, 1, data, sink.clone()));
    let reply = std::future::poll_fn(|cx| {
        let mut inner = sink.0.lock().unwrap();
        match inner.0.pop() {
            Some(reply) => std::task::Poll::Ready(reply),
            None => {
                inner.1 = Some(cx.waker().clone());
                std::task::Poll::Pending
            }
        }
    })
    .await;
    (reply.result, reply.data.map(|d| d.bytes().to_vec()).unwrap_or_default())
}

/// Bytes that compress to about half and tell where they belong.
pub(crate) fn pattern(lba: u64, version: u64) -> Vec<u8> {
    let mut block = vec![0; 4096];
    let mut x = lba.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    for chunk in block[..2048].chunks_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        chunk.copy_from_slice(&x.to_le_bytes());
    }
    block[2048..2056].copy_from_slice(&lba.to_le_bytes());
    block[2056..2064].copy_from_slice(&version.to_le_bytes());
    block
}
