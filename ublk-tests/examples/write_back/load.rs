//! Writers in closed loops, and how long each request took.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use plica::buf::DataBuf;
use plica::core::request::{NamespaceClient, Reply, ReplySink, Request, RequestKind};
use plica::env::Env;
use plica::format::slot::StagingHeader;
use plica::limits::LEAF_ENTRIES;
use plica::staging::{Region, StagingStore};
use plica::units::{PoolId, SessionId};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;
/// Bytes of a request that maps.
const CHUNK: usize = 16 * BLOCK;

/// Staging in ordinary memory: every start is one after the machine's restart.
pub(crate) struct NoStore;

impl StagingStore for NoStore {
    fn create(&mut self, header: &StagingHeader) -> plica::error::Result<Region> {
        let region = Region::anonymous();
        region.store_header(&header.encode());
        Ok(region)
    }

    fn find(&mut self, _: PoolId, _: SessionId) -> plica::error::Result<Option<Region>> {
        Ok(None)
    }

    fn remove(&mut self, _: PoolId, _: SessionId) -> plica::error::Result<()> {
        Ok(())
    }
}

/// What blocks are overwritten with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overwrite {
    /// Random blocks, one by one, with data that compresses to almost nothing.
    Blocks,
    /// Random blocks, one by one, with zeros: records without a payload.
    Zeros,
    /// Random aligned ranges of 64 KiB: records of four blocks each.
    Ranges,
}

impl Overwrite {
    /// What the command line calls it.
    pub(crate) const ALL: [(&str, Self); 3] =
        [("blocks", Self::Blocks), ("zeros", Self::Zeros), ("ranges", Self::Ranges)];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    fn bytes(self) -> usize {
        if self == Self::Ranges { CHUNK } else { BLOCK }
    }
}

/// One request at a time and its reply.
#[derive(Default)]
struct Sink(Mutex<(Option<Reply>, Option<Waker>)>);

impl ReplySink for Sink {
    fn reply(&self, reply: Reply) {
        let Ok(mut inner) = self.0.lock() else { return };
        inner.0 = Some(reply);
        if let Some(waker) = inner.1.take() {
            waker.wake();
        }
    }
}

/// Nanoseconds of requests.
#[derive(Default)]
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    /// Those of another phase, too.
    pub(crate) fn add(&mut self, others: &Self) {
        self.0.extend_from_slice(&others.0);
    }

    /// The latency that `share` of 1000 requests do not exceed. Sorts them.
    pub(crate) fn quantile(&mut self, share: usize) -> u64 {
        self.0.sort_unstable();
        let at = (self.0.len() * share / 1000).min(self.0.len().saturating_sub(1));
        self.0.get(at).copied().unwrap_or(0)
    }
}

/// See the module.
pub(crate) struct Load {
    env: Env,
    blocks: u64,
    random: Cell<u64>,
    latencies: RefCell<Vec<u64>>,
}

impl Load {
    pub(crate) fn new(env: &Env, blocks: u64) -> Rc<Self> {
        let (random, latencies) = (Cell::new(0x9e37_79b9_7f4a_7c15), RefCell::default());
        Rc::new(Self { env: env.clone(), blocks, random, latencies })
    }

    fn next(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x
    }

    /// Writes every block once, in order.
    pub(crate) async fn map_everything(self: &Rc<Self>, client: &NamespaceClient) {
        let next = Rc::new(Cell::new(0));
        self.writers(8, |load| {
            let (next, client) = (next.clone(), client.clone());
            async move {
                let mut writer = Writer::new(CHUNK);
                while next.get() < load.blocks {
                    let lba = next.replace(next.get() + (CHUNK / BLOCK) as u64);
                    writer.write(&client, lba).await;
                }
            }
        })
        .await;
    }

    /// Writes one block of each leaf.
    pub(crate) async fn map_sparsely(self: &Rc<Self>, client: &NamespaceClient) {
        let next = Rc::new(Cell::new(0));
        self.writers(8, |load| {
            let (next, client) = (next.clone(), client.clone());
            async move {
                let mut writer = Writer::new(BLOCK);
                while next.get() < load.blocks {
                    let lba = next.replace(next.get() + LEAF_ENTRIES as u64);
                    writer.write(&client, lba).await;
                }
            }
        })
        .await;
    }

    /// So many random overwrites; how long each took.
    pub(crate) async fn overwrite(
        self: &Rc<Self>,
        client: &NamespaceClient,
        depth: usize,
        count: u64,
        kind: Overwrite,
    ) -> Latencies {
        self.latencies.take();
        let left = Rc::new(Cell::new(count));
        self.writers(depth, |load| {
            let (left, client) = (left.clone(), client.clone());
            async move {
                let mut writer = Writer::new(kind.bytes());
                writer.says_lba = kind != Overwrite::Zeros;
                let count = (kind.bytes() / BLOCK) as u64;
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    let begun = load.env.now_ns();
                    writer.write(&client, load.next() % load.blocks / count * count).await;
                    load.latencies.borrow_mut().push(load.env.now_ns() - begun);
                }
            }
        })
        .await;
        Latencies(self.latencies.take())
    }

    async fn writers<F: Future<Output = ()> + 'static>(self: &Rc<Self>, depth: usize, body: impl Fn(Rc<Self>) -> F) {
        let tasks: Vec<_> = (0..depth).map(|_| self.env.spawner.spawn(body(self.clone()))).collect();
        for task in tasks {
            task.await;
        }
    }
}

/// One loop of requests.
struct Writer {
    sink: Arc<Sink>,
    data: Arc<DataBuf>,
    /// Blocks are not zeros.
    says_lba: bool,
}

impl Writer {
    fn new(len: usize) -> Self {
        Self { sink: Arc::default(), data: Arc::new(DataBuf::zeroed(len)), says_lba: true }
    }

    /// Writes blocks that say their LBA, or zeros.
    async fn write(&mut self, client: &NamespaceClient, lba: u64) {
        let len = self.data.bytes().len();
        if let Some(data) = Arc::get_mut(&mut self.data).filter(|_| self.says_lba) {
            for (lba, block) in (lba..).zip(data.bytes_mut().chunks_mut(BLOCK)) {
                block[..8].copy_from_slice(&(lba + 1).to_le_bytes());
            }
        }
        let data = Some(self.data.clone());
        let kind = RequestKind::Write { fua: false };
        client.submit(Request::new(kind, lba * BLOCK as u64, len as u64, 0, data, self.sink.clone()));
        let sink = &self.sink;
        let reply = std::future::poll_fn(|cx| {
            let Ok(mut inner) = sink.0.lock() else { return Poll::Pending };
            let reply = inner.0.take();
            if reply.is_none() {
                inner.1 = Some(cx.waker().clone());
            }
            reply.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        if let Err(error) = reply.result {
            panic!("write of LBA {lba}: {error}");
        }
    }
}
