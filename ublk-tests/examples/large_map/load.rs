//! Requests in closed loops: one block of each leaf written, leaves read at random.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use plica::buf::DataBuf;
use plica::core::request::{NamespaceClient, Reply, ReplySink, Request, RequestKind};
use plica::env::Env;
use plica::format::slot::StagingHeader;
use plica::staging::{Region, StagingStore};
use plica::units::{PoolId, SessionId};

/// Bytes of a block.
const BLOCK: usize = 4096;

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

async fn ask(
    client: &NamespaceClient,
    sink: &Arc<Sink>,
    kind: RequestKind,
    (offset, len): (u64, u64),
    data: Option<Arc<DataBuf>>,
) -> Option<Arc<DataBuf>> {
    client.submit(Request::new(kind, offset, len, 0, data, sink.clone()));
    let reply = std::future::poll_fn(|cx| {
        let Ok(mut inner) = sink.0.lock() else { return Poll::Pending };
        if let Some(reply) = inner.0.take() {
            return Poll::Ready(reply);
        }
        inner.1 = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
    if let Err(error) = reply.result {
        panic!("{kind:?} of {len} bytes at {offset}: {error}");
    }
    reply.data
}

/// See the module.
pub(crate) struct Load {
    leaves: u64,
    space: u64,
    random: Cell<u64>,
}

impl Load {
    /// On so many leaves of so many bytes of LBA space.
    pub(crate) fn new(leaves: u64, space: u64) -> Rc<Self> {
        Rc::new(Self { leaves, space, random: Cell::new(0x9e37_79b9_7f4a_7c15) })
    }

    fn next(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x
    }

    /// The offset of the block that a leaf has.
    fn offset(&self, leaf: u64) -> u64 {
        leaf * self.space + leaf % 512 * BLOCK as u64
    }

    /// Writes one block of each leaf.
    pub(crate) async fn fill(self: &Rc<Self>, env: &Env, client: &NamespaceClient, depth: usize) {
        let next = Rc::new(Cell::new(0));
        let writers = (0..depth).map(|_| {
            let (load, client, next) = (self.clone(), client.clone(), next.clone());
            env.spawner.spawn(async move {
                let sink = Arc::<Sink>::default();
                let mut data = DataBuf::zeroed(BLOCK);
                data.bytes_mut().fill(7);
                let data = Arc::new(data);
                while next.get() < load.leaves {
                    let leaf = next.replace(next.get() + 1);
                    let range = (load.offset(leaf), BLOCK as u64);
                    ask(&client, &sink, RequestKind::Write { fua: false }, range, Some(data.clone())).await;
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await;
        }
    }

    /// Reads so many blocks, nine of ten of them from a twentieth of the leaves, which lie here and there.
    pub(crate) async fn skewed_reads(self: &Rc<Self>, env: &Env, client: &NamespaceClient, depth: usize, count: u64) {
        let left = Rc::new(Cell::new(count));
        let readers = (0..depth).map(|_| {
            let (load, client, left) = (self.clone(), client.clone(), left.clone());
            env.spawner.spawn(async move {
                let sink = Arc::<Sink>::default();
                let mut data = Some(Arc::new(DataBuf::zeroed(BLOCK)));
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    let leaf = load.next() % load.leaves;
                    let leaf = if load.next().is_multiple_of(10) { leaf } else { leaf / 20 * 20 };
                    let range = (load.offset(leaf), BLOCK as u64);
                    data = ask(&client, &sink, RequestKind::Read, range, data).await;
                }
            })
        });
        for reader in readers.collect::<Vec<_>>() {
            reader.await;
        }
    }

    /// Discards so many bytes from the first on.
    pub(crate) async fn discard(client: &NamespaceClient, len: u64) {
        ask(client, &Arc::default(), RequestKind::Discard, (0, len), None).await;
    }

    /// Flushes.
    pub(crate) async fn flush(client: &NamespaceClient) {
        ask(client, &Arc::default(), RequestKind::Flush, (0, 0), None).await;
    }
}
