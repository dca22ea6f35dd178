//! No request allocates (I10): memory for what is under way is there from the start.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::alloc::System;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use common::{Machine, create, open, pattern, serve, spec};
use plica::buf::DataBuf;
use plica::core::request::{NamespaceClient, Reply, ReplySink, Request, RequestKind};
use plica::env::Env;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WRITE: RequestKind = RequestKind::Write { fua: false };
/// Requests under way at a time.
const DEPTH: u64 = 16;
const BLOCKS: u64 = 4096;

/// Takes one reply at a time, without allocating.
#[derive(Default)]
struct Lane(Mutex<(Option<Reply>, Option<std::task::Waker>)>);

impl ReplySink for Lane {
    fn reply(&self, reply: Reply) {
        let mut inner = self.0.lock().unwrap();
        inner.0 = Some(reply);
        if let Some(waker) = inner.1.take() {
            waker.wake();
        }
    }
}

async fn ask(
    client: &NamespaceClient,
    lane: &Arc<Lane>,
    kind: RequestKind,
    lba: u64,
    data: Option<Arc<DataBuf>>,
) -> Option<Arc<DataBuf>> {
    let len = data.as_ref().map_or(0, |d| d.bytes().len() as u64);
    client.submit(Request::new(kind, lba * 4096, len, 0, data, lane.clone()));
    let reply = std::future::poll_fn(|cx| {
        let mut inner = lane.0.lock().unwrap();
        match inner.0.take() {
            Some(reply) => std::task::Poll::Ready(reply),
            None => {
                inner.1 = Some(cx.waker().clone());
                std::task::Poll::Pending
            }
        }
    })
    .await;
    reply.result.unwrap();
    reply.data
}

/// Runs `count` requests of `blocks` blocks, `DEPTH` at a time, and returns the allocations of the process meanwhile.
async fn allocations(env: &Env, client: &NamespaceClient, kind: RequestKind, blocks: u64, count: u64) -> u64 {
    let next = Rc::new(Cell::new(0));
    let mut tasks = Vec::new();
    for first in 0..DEPTH {
        let (client, next) = (client.clone(), next.clone());
        let mut buf = DataBuf::zeroed(usize::try_from(blocks).unwrap() * 4096);
        buf.bytes_mut().chunks_mut(4096).for_each(|block| block.copy_from_slice(&pattern(first, 1)));
        tasks.push(env.spawner.spawn(async move {
            let lane = Arc::new(Lane::default());
            let mut data = Some(Arc::new(buf));
            while next.get() < count {
                let lba = next.replace(next.get() + 1) * 7 * blocks % BLOCKS;
                data = ask(&client, &lane, kind, lba, data.take()).await;
            }
        }));
    }
    let region = Region::new(ALLOCATOR);
    for task in tasks {
        task.await;
    }
    region.change().allocations as u64
}

#[test]
fn requests_do_not_allocate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    let machine = Machine::default();
    create(&path, 256 << 20, &machine, spec(BLOCKS));
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        let client = pool.client("db").unwrap();
        let lane = Arc::new(Lane::default());
        // everything grows to its size, and every leaf is known
        allocations(&env, &client, WRITE, 16, BLOCKS / 16 * 4).await;
        allocations(&env, &client, RequestKind::Read, 16, BLOCKS / 16).await;
        for (kind, blocks, name) in [
            (WRITE, 1, "write of a block"),
            (WRITE, 16, "write of 64 KiB"),
            (RequestKind::Read, 1, "read of a block"),
            (RequestKind::Read, 16, "read of 64 KiB"),
        ] {
            ask(&client, &lane, RequestKind::Flush, 0, None).await;
            let count = if blocks == 1 { 4000 } else { 1000 };
            let made = allocations(&env, &client, kind, blocks, count).await;
            println!("{name}: {made} allocations for {count} requests");
            // batches, segments, summaries and roots may; there are far fewer of them than requests
            assert!(made * 4 < count, "{name}: {made} allocations for {count} requests");
        }
        pool.stop().await.unwrap();
    });
}
