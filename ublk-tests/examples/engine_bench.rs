//! The engine in process, beside the raw file under it: IOPS of 4 KiB requests, in one run.
//!
//! `engine_bench POOL_FILE [--seconds N] [--mib N] [--data FILE] [--workers N] [--only ROW]`: the file is created, used
//! and removed. `--only` names part of a row, such as `flush`, to be measured (and profiled) alone.
//! Data is fio's kind of 2:1 (half random, half zeros) unless `--data` names a file to take blocks from.

use std::cell::{Cell, OnceCell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use plica::buf::{AlignedBuf, DataBuf};
use plica::codec::CodecPool;
use plica::core::ReplayBounds;
use plica::core::request::{NamespaceClient, Reply, ReplySink, Request, RequestKind};
use plica::env::executor::{Fifo, IdleWork};
use plica::env::reactor::IoBuf;
use plica::env::{Env, Executor, Reactor, Rng};
use plica::format::superblock::KeySource;
use plica::format::{Cipher, Compression};
use plica::keys::RootKey;
use plica::media::{Access, Device, DeviceKind, Media, UringBackend, create_file};
use plica::pool::{CreateOptions, NamespaceSpec, OpenOptions, Pool};
use plica::staging::{Region, StagingStore};

const BLOCK: usize = 4096;
/// More than one synchronous write after the other puts into the log.
const FLUSHED_A_SECOND: u64 = 128 << 20;
type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

struct Options {
    path: PathBuf,
    seconds: u64,
    blocks: u64,
    data: Vec<u8>,
    workers: usize,
    only: String,
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

struct Load {
    env: Env,
    seconds: u64,
    blocks: u64,
    data: Rc<Vec<u8>>,
    random: Rc<Cell<u64>>,
    only: String,
}

impl Load {
    fn next(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x
    }

    fn fill(&self, block: &mut [u8]) {
        let blocks = (self.data.len() / BLOCK) as u64;
        let at = usize::try_from(self.next() % blocks).unwrap_or(0) * BLOCK;
        block.copy_from_slice(&self.data[at..at + BLOCK]);
    }

    /// Runs `depth` loops of `step` for the time; operations a second.
    async fn run<F: Future<Output = ()> + 'static>(&self, depth: usize, step: impl Fn(usize) -> F + 'static) -> f64 {
        let end = self.env.now_ns() + self.seconds * 1_000_000_000;
        let begin = self.env.now_ns();
        let step = Rc::new(step);
        let done = Rc::new(Cell::new(0_u64));
        let mut tasks = Vec::new();
        for lane in 0..depth {
            let (env, step, done) = (self.env.clone(), step.clone(), done.clone());
            tasks.push(self.env.spawner.spawn(async move {
                while env.now_ns() < end {
                    step(lane).await;
                    done.set(done.get() + 1);
                }
            }));
        }
        for task in tasks {
            task.await;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = done.get() as f64 * 1e9 / (self.env.now_ns() - begin) as f64;
        rate
    }
}

async fn ask(client: &NamespaceClient, kind: RequestKind, lba: u64, lane: &RefCell<Lane>) {
    let sink = lane.borrow().sink.clone();
    let data = lane.borrow_mut().data.take();
    let len = if kind == RequestKind::Flush { 0 } else { BLOCK as u64 };
    let lent = if kind == RequestKind::Flush { None } else { data.clone() };
    if kind == RequestKind::Read {
        drop(data);
    } else {
        lane.borrow_mut().data = data;
    }
    client.submit(Request::new(kind, lba * BLOCK as u64, len, 0, lent, sink.clone()));
    let reply = std::future::poll_fn(|cx| {
        let Ok(mut inner) = sink.0.lock() else { return Poll::Pending };
        match inner.0.take() {
            Some(reply) => Poll::Ready(reply),
            None => {
                inner.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
    .await;
    if let Err(error) = reply.result {
        panic!("{kind:?} of LBA {lba}: {error}");
    }
    if let Some(data) = reply.data {
        lane.borrow_mut().data = Some(data);
    }
}

struct Lane {
    sink: Arc<Sink>,
    data: Option<Arc<DataBuf>>,
}

fn lanes(depth: usize) -> Rc<Vec<RefCell<Lane>>> {
    let lane = |_| RefCell::new(Lane { sink: Arc::default(), data: Some(Arc::new(DataBuf::zeroed(BLOCK))) });
    Rc::new((0..depth).map(lane).collect())
}

impl Lane {
    fn fill(&mut self, load: &Load) {
        if let Some(buf) = self.data.as_mut().and_then(Arc::get_mut) {
            load.fill(buf.bytes_mut());
        }
    }
}

async fn engine(load: Rc<Load>, client: NamespaceClient, rows: &mut Vec<(&'static str, f64)>) {
    let client = Rc::new(client);
    for (name, depth, kind, flush) in [
        ("random write + flush, depth 1", 1, RequestKind::Write { fua: false }, true),
        ("random read, depth 1", 1, RequestKind::Read, false),
        ("random read, depth 32", 32, RequestKind::Read, false),
        ("random write, depth 32", 32, RequestKind::Write { fua: false }, false),
    ] {
        if !name.contains(&load.only) {
            continue;
        }
        let (l, lanes, client) = (load.clone(), lanes(depth), client.clone());
        let rate = load
            .run(depth, move |lane| {
                let (load, lanes, client) = (l.clone(), lanes.clone(), client.clone());
                async move {
                    if kind != RequestKind::Read {
                        lanes[lane].borrow_mut().fill(&load);
                    }
                    ask(&client, kind, load.next() % load.blocks, &lanes[lane]).await;
                    if flush {
                        ask(&client, RequestKind::Flush, 0, &lanes[lane]).await;
                    }
                }
            })
            .await;
        rows.push((name, rate));
    }
}

async fn raw(load: Rc<Load>, media: Media, rows: &mut Vec<(&'static str, f64)>) {
    for (name, depth, write, flush) in [
        ("random write + flush, depth 1", 1, true, true),
        ("random read, depth 1", 1, false, false),
        ("random read, depth 32", 32, false, false),
        ("random write, depth 32", 32, true, false),
    ] {
        if !name.contains(&load.only) {
            continue;
        }
        let bufs: Rc<RefCell<Vec<_>>> =
            Rc::new(RefCell::new((0..depth).map(|_| Some(AlignedBuf::zeroed(BLOCK))).collect()));
        let (l, media) = (load.clone(), media.clone());
        let rate = load
            .run(depth, move |lane| {
                let (load, bufs, media) = (l.clone(), bufs.clone(), media.clone());
                async move {
                    let offset = load.next() % load.blocks * BLOCK as u64;
                    let Some(mut buf) = bufs.borrow_mut()[lane].take() else { return };
                    let buf = if write {
                        load.fill(&mut buf);
                        match media.write(offset, IoBuf::Owned(buf), BLOCK).await {
                            (IoBuf::Owned(buf), Ok(())) => buf,
                            (_, result) => panic!("raw write: {result:?}"),
                        }
                    } else {
                        let (buf, result) = media.read(offset, buf, BLOCK).await;
                        assert!(result.is_ok(), "raw read: {result:?}");
                        buf
                    };
                    if flush {
                        let result = media.flush().await;
                        assert!(result.is_ok(), "raw flush: {result:?}");
                    }
                    bufs.borrow_mut()[lane] = Some(buf);
                }
            })
            .await;
        rows.push((name, rate));
    }
}

/// Writes the raw file's blocks, and as much as the engine writes before and while it flushes: both work in space that was
/// written before, since the first write to a place costs the filesystem more than the next.
async fn fill(media: &Media, load: &Load) -> plica::error::Result<()> {
    let chunk = 256 * BLOCK;
    let bytes = (load.blocks * BLOCK as u64 + load.seconds * FLUSHED_A_SECOND).min(media.size());
    let mut buf = AlignedBuf::zeroed(chunk);
    let mut offset = 0;
    while offset + chunk as u64 <= bytes {
        buf.chunks_mut(BLOCK).for_each(|block| load.fill(block));
        let (back, result) = media.write(offset, IoBuf::Owned(buf), chunk).await;
        result?;
        let IoBuf::Owned(back) = back else { unreachable!("what was lent comes back") };
        buf = back;
        offset += chunk as u64;
    }
    media.flush().await
}

/// The pool whose codec the thread helps when it has nothing else to do, as the daemon does.
type Helped = Rc<OnceCell<Rc<Pool>>>;

fn on_medium<T: 'static, F: Future<Output = T> + 'static>(
    path: &Path,
    workers: usize,
    body: impl FnOnce(Env, Media, CodecPool, Helped) -> F,
) -> AnyResult<T> {
    let device = Device::open(path, Access::Write)?;
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
    Ok(executor.run(body(env, media, CodecPool::new(workers)?, helped)))
}

fn load_of(env: &Env, options: &Options) -> Rc<Load> {
    Rc::new(Load {
        env: env.clone(),
        seconds: options.seconds,
        blocks: options.blocks,
        data: Rc::new(options.data.clone()),
        random: Rc::new(Cell::new(0x9e37_79b9_7f4a_7c15)),
        only: options.only.clone(),
    })
}

async fn run_engine(
    env: Env,
    media: Media,
    codec: CodecPool,
    helped: Helped,
    load: Rc<Load>,
) -> plica::error::Result<Vec<(&'static str, f64)>> {
    let root_key = RootKey::from_bytes(&[1; 32]);
    let create = CreateOptions {
        label: "bench",
        segment_bytes: None,
        key_source: KeySource::File,
        root_key: &root_key,
        pool: None,
        now_unix: 0,
        journal: None,
    };
    plica::pool::create(&env, &media, &create).await?;
    let open = OpenOptions {
        root_key,
        boot: [0; 16],
        identity: (0, 0),
        codec,
        bounds: ReplayBounds::default(),
        journal: None,
        accept_journal_loss: false,
    };
    let pool = Pool::open(&env, &media, Box::new(NoStore), open).await?;
    drop(helped.set(pool.clone()));
    let spec = NamespaceSpec {
        name: "bench".into(),
        blocks: load.blocks,
        cipher: Cipher::Aes256Xts,
        compression: Compression::Lz4,
        unit_blocks: 4,
        logical_block: 4096,
        now_unix: 0,
    };
    pool.create_namespace(&spec).await?;
    let client = pool.client("bench")?;
    // every block is written once in 4 KiB units, so that reads meet data
    let (lanes, next) = (lanes(32), Rc::new(Cell::new(0)));
    let mut tasks = Vec::new();
    for lane in 0..32 {
        let (load, lanes, client, next) = (load.clone(), lanes.clone(), client.clone(), next.clone());
        tasks.push(env.spawner.spawn(async move {
            while next.get() < load.blocks {
                let lba = next.replace(next.get() + 1);
                lanes[lane].borrow_mut().fill(&load);
                ask(&client, RequestKind::Write { fua: false }, lba, &lanes[lane]).await;
            }
        }));
    }
    for task in tasks {
        task.await;
    }
    let mut rows = Vec::new();
    engine(load, client, &mut rows).await;
    let status = pool.status();
    eprintln!(
        "engine: reduction {:.2}, write amplification {:.2}, corrupt {}",
        status.reduction, status.write_amplification, status.corrupt
    );
    pool.stop().await?;
    Ok(rows)
}

fn options() -> AnyResult<Options> {
    let mut args = std::env::args().skip(1);
    let path = args
        .next()
        .ok_or("usage: engine_bench POOL_FILE [--seconds N] [--mib N] [--data FILE] [--workers N] [--only ROW]")?;
    let mut options =
        Options { path: path.into(), seconds: 5, blocks: 65536, data: half_zeros(), workers: 1, only: String::new() };
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--seconds" => options.seconds = value.parse()?,
            "--mib" => options.blocks = value.parse::<u64>()? * 256,
            "--workers" => options.workers = value.parse()?,
            "--only" => options.only = value,
            "--data" => options.data = std::fs::read(value)?,
            _ => return Err(format!("unknown option {flag}").into()),
        }
    }
    let whole = options.data.len() / BLOCK * BLOCK;
    options.data.truncate(whole);
    if options.data.is_empty() {
        return Err("the data file has no whole block".into());
    }
    Ok(options)
}

/// Blocks of which half is random and half is zero.
fn half_zeros() -> Vec<u8> {
    let mut data = vec![0; 1024 * BLOCK];
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    for block in data.chunks_mut(BLOCK) {
        for word in block[..BLOCK / 2].chunks_mut(8) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            word.copy_from_slice(&x.to_le_bytes());
        }
    }
    data
}

fn main() -> AnyResult<()> {
    let options = options()?;
    drop(std::fs::remove_file(&options.path));
    // room for everything that is overwritten in the time: nothing relocates what is live
    create_file(&options.path, options.blocks * BLOCK as u64 * 4 + options.seconds * (2 << 30))?;
    let raw_rows = on_medium(&options.path, 0, |env, media, _, _| {
        let load = load_of(&env, &options);
        async move {
            let mut rows = Vec::new();
            fill(&media, &load).await?;
            raw(load, media, &mut rows).await;
            Ok::<_, plica::error::Error>(rows)
        }
    })??;
    let engine_rows = on_medium(&options.path, options.workers, |env, media, codec, helped| {
        let load = load_of(&env, &options);
        run_engine(env, media, codec, helped, load)
    })??;
    std::fs::remove_file(&options.path)?;
    println!("{:<32} {:>12} {:>12} {:>8}", "4 KiB, 2:1 data, IOPS", "raw file", "engine", "ratio");
    for ((name, raw), (_, engine)) in raw_rows.iter().zip(&engine_rows) {
        println!("{name:<32} {raw:>12.0} {engine:>12.0} {:>7.2}x", engine / raw);
    }
    Ok(())
}
