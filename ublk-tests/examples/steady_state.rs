//! The engine in steady state: a pool of which a given part is live, overwritten at random for several capacities.
//!
//! ```text
//! cargo run --release -p ublk-tests --example steady_state -- POOL_FILE [--mib 34816] [--live 70] [--rounds 4]
//!     [--trace uniform|zipfian] [--fill-blocks 1] [--depth 32] [--workers 1]
//! ```
//! In process, 4 KiB overwrites of 2:1 data (half random, half zeros), never flushed. A round is as many stored bytes as the
//! pool's segments hold; for each it prints the bytes that went to the medium for each byte of the host, everything
//! counted, the rate, and latencies. `--fill-blocks 4` writes everything once in requests of four blocks instead of
//! one, so that fragments become partly dead. The file is created, used and removed.

use std::cell::{Cell, OnceCell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use clap::Parser;
use plica::buf::DataBuf;
use plica::codec::CodecPool;
use plica::core::ReplayBounds;
use plica::core::request::{NamespaceClient, Reply, ReplySink, Request, RequestKind};
use plica::env::executor::{Fifo, IdleWork};
use plica::env::{Env, Executor, Reactor, Rng};
use plica::format::superblock::KeySource;
use plica::format::{Cipher, Compression};
use plica::keys::RootKey;
use plica::media::{Access, Device, DeviceKind, Media, UringBackend, create_file};
use plica::pool::{CreateOptions, NamespaceSpec, OpenOptions, Pool};
use plica::staging::{Region, StagingStore};

const BLOCK: usize = 4096;
/// Bytes that a block takes: half of it, what LZ4 makes of the zeros, header, and its part of the summary.
const BLOCK_STORED: u64 = 2144;
type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Parser, Clone)]
#[command(about = "Overwrites a pool at random until it is in steady state")]
struct Arguments {
    /// The pool's file.
    pool: PathBuf,
    /// Its size.
    #[arg(long, default_value_t = 34816)]
    mib: u64,
    /// Live part of its segments, in percent.
    #[arg(long, default_value_t = 70)]
    live: u64,
    /// Capacities written after the fill.
    #[arg(long, default_value_t = 4)]
    rounds: u64,
    /// Where writes go: uniform or zipfian (0.99).
    #[arg(long, default_value = "uniform")]
    trace: String,
    /// Blocks of the requests that fill it.
    #[arg(long, default_value_t = 1)]
    fill_blocks: u64,
    /// Requests at a time.
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Codec workers.
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

/// Staging in ordinary memory: the benchmark does not outlive itself.
struct NoStore;

impl StagingStore for NoStore {
    fn create(&mut self, header: &plica::format::slot::StagingHeader) -> plica::error::Result<Region> {
        let region = Region::anonymous();
        region.store_header(&header.encode());
        Ok(region)
    }

    fn find(&mut self, _: plica::units::PoolId, _: plica::units::SessionId) -> plica::error::Result<Option<Region>> {
        Ok(None)
    }

    fn remove(&mut self, _: plica::units::PoolId, _: plica::units::SessionId) -> plica::error::Result<()> {
        Ok(())
    }
}

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

/// Which block is written next.
struct Trace {
    random: RefCell<fastrand::Rng>,
    blocks: u64,
    /// Zipfian: zeta(blocks), alpha, eta of Gray's approximation.
    zipfian: Option<(f64, f64, f64)>,
}

impl Trace {
    #[expect(clippy::cast_precision_loss, reason = "a distribution")]
    fn new(blocks: u64, is_zipfian: bool) -> Self {
        let zipfian = is_zipfian.then(|| {
            let theta = 0.99;
            let zeta = |n: u64| (1..=n).map(|rank| (rank as f64).powf(-theta)).sum::<f64>();
            let all = zeta(blocks);
            let eta = (1.0 - (2.0 / blocks as f64).powf(1.0 - theta)) / (1.0 - zeta(2) / all);
            (all, 1.0 / (1.0 - theta), eta)
        });
        Self { random: RefCell::new(fastrand::Rng::with_seed(7)), blocks, zipfian }
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ranks")]
    fn next(&self) -> u64 {
        let mut random = self.random.borrow_mut();
        let Some((all, alpha, eta)) = self.zipfian else { return random.u64(0..self.blocks) };
        let u = random.f64();
        let rank = match u * all {
            under if under < 1.0 => 0,
            under if under < 1.0 + 0.5_f64.powf(0.99) => 1,
            _ => (self.blocks as f64 * (eta * u - eta + 1.0).powf(alpha)) as u64,
        };
        // spread over the namespace, so that hot blocks do not lie together
        (rank.min(self.blocks - 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.blocks
    }
}

/// One lane's buffer and place for its reply.
struct Lane {
    sink: Arc<Sink>,
    data: RefCell<Option<Arc<DataBuf>>>,
    random: RefCell<fastrand::Rng>,
}

impl Lane {
    fn new(seed: u64) -> Self {
        let random = RefCell::new(fastrand::Rng::with_seed(seed));
        Self { sink: Arc::default(), data: RefCell::default(), random }
    }

    async fn write(&self, client: &NamespaceClient, lba: u64, blocks: u64) -> Result<(), plica::error::Error> {
        let len = usize::try_from(blocks).unwrap_or(1) * BLOCK;
        let mut data = self.data.borrow_mut().take().and_then(|d| Arc::try_unwrap(d).ok());
        if data.as_ref().is_none_or(|d| d.bytes().len() != len) {
            data = None;
        }
        let mut data = data.unwrap_or_else(|| DataBuf::zeroed(len));
        for block in data.bytes_mut().chunks_mut(BLOCK) {
            self.random.borrow_mut().fill(&mut block[..BLOCK / 2]);
        }
        let data = Arc::new(data);
        let kind = RequestKind::Write { fua: false };
        client.submit(Request::new(kind, lba * BLOCK as u64, len as u64, 0, Some(data.clone()), self.sink.clone()));
        drop(data);
        let reply = std::future::poll_fn(|cx| {
            let Ok(mut inner) = self.sink.0.lock() else { return Poll::Pending };
            match inner.0.take() {
                Some(reply) => Poll::Ready(reply),
                None => {
                    inner.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        *self.data.borrow_mut() = reply.data;
        reply.result
    }
}

/// Writes `count` requests, the blocks of which `next` names; latencies in microseconds.
async fn load(
    env: &Env,
    lanes: &[Rc<Lane>],
    client: &NamespaceClient,
    count: u64,
    blocks: u64,
    next: Rc<dyn Fn(u64) -> u64>,
) -> plica::error::Result<Vec<u32>> {
    let done = Rc::new(Cell::new(0));
    let times = Rc::new(RefCell::new(Vec::new()));
    let tasks: Vec<_> = lanes
        .iter()
        .map(|lane| {
            let (env, lane, client, next) = (env.clone(), lane.clone(), client.clone(), next.clone());
            let (done, times) = (done.clone(), times.clone());
            let spawner = env.spawner.clone();
            spawner.spawn(async move {
                while done.get() < count {
                    let lba = next(done.replace(done.get() + 1));
                    let began = env.now_ns();
                    lane.write(&client, lba, blocks).await?;
                    let micros = (env.now_ns() - began) / 1000;
                    times.borrow_mut().push(u32::try_from(micros).unwrap_or(u32::MAX));
                }
                Ok::<_, plica::error::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    let mut times = times.take();
    times.sort_unstable();
    Ok(times)
}

/// A new pool, served.
async fn new_pool(env: &Env, media: &Media, codec: CodecPool) -> plica::error::Result<Rc<Pool>> {
    let root_key = RootKey::from_bytes(&[1; 32]);
    let create = CreateOptions {
        label: "steady state",
        segment_bytes: None,
        key_source: KeySource::File,
        root_key: &root_key,
        pool: None,
        now_unix: 0,
        journal: None,
    };
    plica::pool::create(env, media, &create).await?;
    let open = OpenOptions {
        root_key,
        boot: [1; 16],
        identity: (0, 0),
        codec,
        bounds: ReplayBounds::default(),
        journal: None,
        accept_journal_loss: false,
    };
    Pool::open(env, media, Box::new(NoStore), open).await
}

async fn measure(env: Env, media: Media, codec: CodecPool, helped: Helped, a: Arguments) -> plica::error::Result<()> {
    let pool = new_pool(&env, &media, codec).await?;
    drop(helped.set(pool.clone()));
    let first = pool.status();
    let usable = u64::from(first.segments) * u64::from(first.segment_bytes);
    let blocks = usable * a.live / 100 / BLOCK_STORED / a.fill_blocks * a.fill_blocks;
    let spec = NamespaceSpec {
        name: "steady".into(),
        blocks,
        cipher: Cipher::Aes256Xts,
        compression: Compression::Lz4,
        unit_blocks: 4,
        logical_block: 4096,
        now_unix: 0,
    };
    pool.create_namespace(&spec).await?;
    let client = pool.client("steady")?;
    println!("{} MiB of segments, {} MiB of data", usable >> 20, (blocks * BLOCK as u64) >> 20);
    println!(
        "{:<8} {:>12} {:>12} {:>10} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9}",
        "round", "medium/host", "moved/stored", "IOPS", "p50 us", "p99 us", "p99.9", "max ms", "cleaned", "unpacked"
    );
    let lanes: Vec<_> = (0..a.depth).map(|lane| Rc::new(Lane::new(lane as u64))).collect();
    let trace = Rc::new(Trace::new(blocks, a.trace == "zipfian"));
    let a_round = usable / BLOCK_STORED;
    let mut before = pool.status();
    for round in 0..=a.rounds {
        let began = env.now_ns();
        let times = if round == 0 {
            let fill = a.fill_blocks;
            load(&env, &lanes, &client, blocks / fill, fill, Rc::new(move |n| n * fill)).await?
        } else {
            let trace = trace.clone();
            load(&env, &lanes, &client, a_round, 1, Rc::new(move |_| trace.next())).await?
        };
        let now = pool.status();
        let host = now.host_written - before.host_written;
        let at =
            |per_mille: usize| times.get((times.len() * per_mille / 1000).min(times.len() - 1)).copied().unwrap_or(0);
        println!(
            "{:<8} {:>12.3} {:>12.3} {:>10.0} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9}",
            if round == 0 { "fill".into() } else { round.to_string() },
            ratio(now.media_written - before.media_written, host),
            ratio(now.relocated_stored - before.relocated_stored, now.stored - before.stored),
            ratio(times.len() as u64 * 1_000_000_000, env.now_ns() - began),
            at(500),
            at(990),
            at(999),
            at(1000) / 1000,
            now.segments_cleaned - before.segments_cleaned,
            now.fragments_unpacked - before.fragments_unpacked,
        );
        before = now;
    }
    pool.stop().await
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b.max(1) as f64
}

/// The pool whose codec the core helps when it is idle.
type Helped = Rc<OnceCell<Rc<Pool>>>;

fn main() -> AnyResult<()> {
    let arguments = Arguments::parse();
    drop(std::fs::remove_file(&arguments.pool));
    create_file(&arguments.pool, arguments.mib << 20)?;
    let device = Device::open(&arguments.pool, Access::Write)?;
    let mut backend = UringBackend::new()?;
    let (size, block) = (device.size(), device.block());
    let file = backend.register(&device);
    let reactor = Reactor::new(Box::new(backend));
    let mut executor = Executor::new(reactor.clone(), Box::new(Fifo::default()));
    let env = Env::new(executor.spawner(), reactor.clone(), Rng::Kernel);
    let media = Media::new(reactor, file, size, block, device.kind() == DeviceKind::File);
    let helped = Helped::default();
    let (asked, pool) = (helped.clone(), helped.clone());
    executor.set_idle(IdleWork {
        has_work: Box::new(move || asked.get().is_some_and(|pool| pool.core().codec.can_help())),
        work: Box::new(move || {
            if let Some(pool) = pool.get() {
                pool.core().codec.help_one();
            }
        }),
    });
    let codec = CodecPool::new(arguments.workers)?;
    let path = arguments.pool.clone();
    let result = executor.run(measure(env, media, codec, helped, arguments));
    std::fs::remove_file(&path)?;
    Ok(result?)
}
