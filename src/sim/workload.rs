//! What hosts do: clients that read, write, flush and discard, concurrently and over each other.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use fastrand::Rng;

use super::content;
use super::death::Death;
use super::oracle::{Body, Place};
use super::sink::{Hosts, Sink, lock};
use crate::buf::DataBuf;
use crate::core::request::{NamespaceClient, Request, RequestKind};
use crate::env::Env;
use crate::limits::BLOCK_SIZE;

/// How hosts of a run behave.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Clients at once.
    pub clients: usize,
    /// Requests of each client in one life of the daemon.
    pub requests: Range<u64>,
    /// Relative frequency of reads, writes, flushes, discards, writes of zeros.
    pub weights: [u32; 5],
    /// Of 8 writes so many are FUA.
    pub fua_of_8: u8,
    /// Of 8 requests so many go to the first few blocks of the namespace.
    pub hot_of_8: u8,
    /// Largest ordinary request in logical blocks.
    pub blocks_max: u64,
    /// A client now and then waits up to so long (nanoseconds).
    pub pause_ns: u64,
    /// Every request is of one logical block.
    pub sectors_only: bool,
}

impl Habits {
    /// Large writes over each other: segments fill, empty and are reused.
    #[must_use]
    pub fn churn(rng: &mut Rng) -> Self {
        Self {
            clients: rng.usize(2..=8),
            requests: [8..96, 64..192][rng.usize(0..2)].clone(),
            weights: [[1, 12, 1, 1, 0], [1, 12, 0, 0, 0], [0, 12, 4, 2, 2]][rng.usize(0..3)],
            fua_of_8: rng.u8(0..2),
            hot_of_8: rng.u8(0..8),
            blocks_max: 64,
            pause_ns: [0, 1_000_000][rng.usize(0..2)],
            sectors_only: false,
        }
    }

    /// Writes of all sizes over everything, to a pool that has hardly room for it.
    #[must_use]
    pub fn cramped(rng: &mut Rng) -> Self {
        Self {
            clients: rng.usize(4..=12),
            requests: [64..192, 128..256][rng.usize(0..2)].clone(),
            weights: [[1, 12, 1, 0, 0], [1, 12, 0, 1, 0], [1, 12, 1, 1, 1]][rng.usize(0..3)],
            fua_of_8: rng.u8(0..2),
            hot_of_8: rng.u8(0..4),
            blocks_max: [4, 16, 64][rng.usize(0..3)],
            pause_ns: [0, 0, 1_000_000][rng.usize(0..3)],
            sectors_only: false,
        }
    }

    /// Small writes, each soon flushed: many small batches, some of which a loss of power takes from between others.
    #[must_use]
    pub fn commits(rng: &mut Rng) -> Self {
        Self {
            clients: rng.usize(1..=6),
            requests: [1..6, 4..24][rng.usize(0..2)].clone(),
            // reads pin down what a loss of power left, so that it is noticed when that changes later
            weights: [[4, 8, 6, 1, 0], [8, 8, 2, 0, 0], [0, 8, 2, 0, 0]][rng.usize(0..3)],
            fua_of_8: rng.u8(0..6),
            hot_of_8: [4, 7][rng.usize(0..2)],
            blocks_max: 1,
            pause_ns: [0, 20_000_000][rng.usize(0..2)],
            sectors_only: false,
        }
    }

    /// Small writes here and there, and discards over many leaves at once.
    #[must_use]
    pub fn sparse(rng: &mut Rng) -> Self {
        Self {
            clients: [1, 4, 8][rng.usize(0..3)],
            requests: [4..32, 16..96][rng.usize(0..2)].clone(),
            weights: [[2, 8, 2, 3, 1], [2, 8, 0, 2, 1], [1, 12, 1, 2, 0]][rng.usize(0..3)],
            fua_of_8: rng.u8(0..2),
            hot_of_8: rng.u8(0..5),
            blocks_max: [1, 8, 64][rng.usize(0..3)],
            pause_ns: [0, 0, 2_000_000][rng.usize(0..3)],
            sectors_only: false,
        }
    }

    /// A little of everything.
    #[must_use]
    pub fn mixed(rng: &mut Rng) -> Self {
        let weights = [[4, 8, 1, 1, 1], [2, 10, 0, 0, 0], [2, 8, 4, 0, 0], [4, 6, 1, 4, 2], [8, 4, 1, 1, 1]];
        Self {
            clients: [1, 2, 4, 8, 16][rng.usize(0..5)],
            requests: [1..4, 4..32, 16..64, 64..128][rng.usize(0..4)].clone(),
            weights: weights[rng.usize(0..weights.len())],
            fua_of_8: [0, 0, 1, 4][rng.usize(0..4)],
            hot_of_8: rng.u8(0..8),
            blocks_max: [1, 2, 8, 16, 64][rng.usize(0..5)],
            pause_ns: [0, 50_000, 2_000_000, 30_000_000][rng.usize(0..4)],
            sectors_only: false,
        }
    }
}

/// The clients' way to one namespace.
#[derive(Clone)]
pub struct Target {
    /// Index of the namespace at the oracle.
    pub index: usize,
    /// The way to it.
    pub client: NamespaceClient,
}

/// What requests are made with.
#[derive(Clone)]
pub struct Desk {
    /// What hosts know.
    pub hosts: Arc<Mutex<Hosts>>,
    /// Where replies go.
    pub sink: Arc<Sink>,
}

impl Desk {
    /// Reads; the oracle judges.
    pub async fn read(&self, target: &Target, bytes: Range<u64>) -> bool {
        let len = bytes.end - bytes.start;
        let data = DataBuf::zeroed(usize::try_from(len).unwrap_or(usize::MAX));
        let id = {
            let mut hosts = lock(&self.hosts);
            let id = hosts.oracle.submit_read(Place { namespace: target.index, bytes: bytes.clone() });
            hosts.expect_read(id);
            id
        };
        self.ask(target, RequestKind::Read, bytes.start, len, id, Some(data)).await
    }

    /// Writes what the number of the write says.
    pub async fn write(&self, target: &Target, bytes: Range<u64>, fua: bool) -> bool {
        let len = bytes.end - bytes.start;
        let id = self.expect_write(target, &bytes, Body::Data, fua);
        let mut data = DataBuf::zeroed(usize::try_from(len).unwrap_or(usize::MAX));
        content::fill(id, target.client.id.0, bytes.start / 512, data.bytes_mut());
        self.ask(target, RequestKind::Write { fua }, bytes.start, len, id, Some(data)).await
    }

    /// Discards. Blocks of 4 KiB that the range covers only in part keep what they hold.
    pub async fn discard(&self, target: &Target, bytes: Range<u64>) -> bool {
        let block = u64::from(BLOCK_SIZE);
        let start = bytes.start.next_multiple_of(block);
        let whole = start..(bytes.end / block * block).max(start);
        let id = self.expect_write(target, &whole, Body::Zeros, false);
        self.ask(target, RequestKind::Discard, bytes.start, bytes.end - bytes.start, id, None).await
    }

    /// Writes zeros.
    pub async fn write_zeroes(&self, target: &Target, bytes: Range<u64>, fua: bool) -> bool {
        let id = self.expect_write(target, &bytes, Body::Zeros, fua);
        self.ask(target, RequestKind::WriteZeroes { fua }, bytes.start, bytes.end - bytes.start, id, None).await
    }

    /// Flushes.
    pub async fn flush(&self, target: &Target) -> bool {
        let id = {
            let mut hosts = lock(&self.hosts);
            let id = hosts.oracle.submit_flush(target.index);
            hosts.expect_flush(id);
            id
        };
        self.ask(target, RequestKind::Flush, 0, 0, id, None).await
    }

    /// What must be true is a violation when it is not, unless it is a dead daemon's.
    pub fn hold(&self, death: &Death, verdict: Result<(), String>) {
        if let (Err(why), false) = (verdict, death.is_dead()) {
            lock(&self.hosts).violation(why);
        }
    }

    fn expect_write(&self, target: &Target, bytes: &Range<u64>, body: Body, fua: bool) -> u64 {
        let mut hosts = lock(&self.hosts);
        let place = Place { namespace: target.index, bytes: bytes.clone() };
        let id = hosts.oracle.submit_write(place, body, fua);
        hosts.expect_write(id);
        id
    }

    async fn ask(
        &self,
        target: &Target,
        kind: RequestKind,
        offset: u64,
        len: u64,
        id: u64,
        data: Option<DataBuf>,
    ) -> bool {
        let request = Request::new(kind, offset, len, id, data.map(Arc::new), self.sink.clone());
        target.client.submit(request);
        self.sink.replied(id).await
    }
}

/// Failed requests after which a client gives up.
const FAILURES_MAX: u32 = 8;

/// One client, until it has made all its requests.
pub async fn client(env: Env, desk: Desk, targets: Vec<Target>, habits: Habits, mut rng: Rng) {
    let mut failures = 0;
    for _ in 0..rng.u64(habits.requests.clone()) {
        if habits.pause_ns > 0 && rng.u8(0..4) == 0 {
            env.sleep_ns(rng.u64(0..habits.pause_ns)).await;
        }
        let target = &targets[rng.usize(0..targets.len())];
        let fua = rng.u8(0..8) < habits.fua_of_8;
        let good = match choose(&habits.weights, &mut rng) {
            0 => desk.read(target, range(target, &habits, &mut rng)).await,
            1 => desk.write(target, range(target, &habits, &mut rng), fua).await,
            2 => desk.flush(target).await,
            3 => {
                let bytes = large_range(target, &habits, &mut rng);
                desk.discard(target, bytes).await
            }
            _ => {
                let bytes = large_range(target, &habits, &mut rng);
                desk.write_zeroes(target, bytes, fua).await
            }
        };
        // a full pool or a broken one is tried a few times, not forever
        failures += u32::from(!good);
        if failures == FAILURES_MAX {
            return;
        }
    }
}

fn choose(weights: &[u32; 5], rng: &mut Rng) -> usize {
    let mut left = rng.u32(0..weights.iter().sum());
    for (index, weight) in weights.iter().enumerate() {
        if left < *weight {
            return index;
        }
        left -= weight;
    }
    unreachable!("less than the sum")
}

fn range(target: &Target, habits: &Habits, rng: &mut Rng) -> Range<u64> {
    let block = u64::from(target.client.logical_block);
    let blocks = target.client.size_bytes() / block;
    let most = if rng.u8(0..32) == 0 { 64 } else { habits.blocks_max };
    let count = if habits.sectors_only || rng.bool() { 1 } else { rng.u64(1..=most) }.min(blocks);
    let hot = rng.u8(0..8) < habits.hot_of_8;
    let last = if hot { (blocks - count).min(24) } else { blocks - count };
    let start = rng.u64(0..=last);
    // databases write aligned pages
    let start = if rng.bool() { start / count * count } else { start };
    start * block..(start + count) * block
}

/// Like [`range`], now and then much larger.
fn large_range(target: &Target, habits: &Habits, rng: &mut Rng) -> Range<u64> {
    if habits.sectors_only || rng.u8(0..4) > 0 {
        return range(target, habits, rng);
    }
    let block = u64::from(target.client.logical_block);
    let blocks = target.client.size_bytes() / block;
    let start = if rng.bool() { 0 } else { rng.u64(0..blocks) };
    let end = if rng.bool() { blocks } else { rng.u64(start + 1..=blocks) };
    start * block..end * block
}

/// Reads everything, in requests of different sizes.
pub async fn read_everything(desk: Desk, target: Target, mut rng: Rng) {
    let block = u64::from(target.client.logical_block);
    let size = target.client.size_bytes();
    let mut at = 0;
    while at < size {
        let blocks = if rng.u8(0..4) == 0 { rng.u64(1..=8) } else { rng.u64(1..=512) };
        let end = (at + blocks * block).min(size);
        desk.read(&target, at..end).await;
        at = end;
    }
}
