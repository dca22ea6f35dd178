//! The engine in process, beside the raw file under it: IOPS of 4 KiB requests, in one run.
//!
//! `engine_bench POOL_FILE [--seconds N] [--mib N] [--data FILE] [--workers N] [--only ROW]`: the file is created, used
//! and removed. `--only` names part of a row, such as `flush`, to be measured (and profiled) alone.
//! Data is fio's kind of 2:1 (half random, half zeros) unless `--data` names a file to take blocks from.

use std::path::PathBuf;
use std::rc::Rc;

use clap::Parser;
use plica::allocator::Allocator;
use plica::buf::AlignedBuf;
use plica::core::request::NamespaceClient;
use plica::env::Env;
use plica::error::Result;
use plica::media::{Media, create_file};
use ublk_tests::bench::{
    BLOCK, Bench, Blocks, Lane, Meter, Serve, namespace, on_file, run_lanes, write_first, write_owned,
};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// More than one synchronous write after the other puts into the log.
const FLUSHED_A_SECOND: u64 = 128 << 20;

#[derive(Parser, Clone)]
#[command(about = "Measures the engine beside the raw file under it")]
struct Options {
    /// The pool's file: created, used and removed.
    path: PathBuf,
    /// Length of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Data that is written and read.
    #[arg(long, default_value_t = 256)]
    mib: u64,
    /// A file to take blocks from.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Codec workers.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Part of the name of a row, to be measured alone.
    #[arg(long, default_value = "")]
    only: String,
}

/// A row: its name, requests at a time, what each is.
type Row = (&'static str, usize, Step);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Read,
    Write,
    WriteAndFlush,
}

const ROWS: [Row; 4] = [
    ("random write + flush, depth 1", 1, Step::WriteAndFlush),
    ("random read, depth 1", 1, Step::Read),
    ("random read, depth 32", 32, Step::Read),
    ("random write, depth 32", 32, Step::Write),
];

struct Load {
    seconds: u64,
    blocks: u64,
    data: Blocks,
    only: String,
}

/// A place for requests that is measured: the engine, or the raw file.
#[derive(Clone)]
enum Target {
    Engine(NamespaceClient),
    Raw(Media),
}

impl Load {
    fn rows(&self) -> impl Iterator<Item = Row> {
        ROWS.into_iter().filter(|(name, ..)| name.contains(&self.only))
    }

    async fn measure(self: &Rc<Self>, env: &Env, target: &Target) -> Result<Vec<(&'static str, f64)>> {
        let mut rates = Vec::new();
        for (name, depth, step) in self.rows() {
            let meter = Meter::new(env, Some(self.seconds));
            run_lanes(env, depth, |_| {
                let (load, meter, target) = (self.clone(), meter.clone(), target.clone());
                async move {
                    match target {
                        Target::Engine(client) => load.engine_lane(&client, step, &meter).await,
                        Target::Raw(media) => load.raw_lane(&media, step, &meter).await,
                    }
                }
            })
            .await?;
            rates.push((name, meter.rate()));
        }
        Ok(rates)
    }

    async fn engine_lane(&self, client: &NamespaceClient, step: Step, meter: &Meter) -> Result<()> {
        let mut lane = Lane::new(BLOCK);
        while meter.goes_on() {
            let lba = self.data.below(self.blocks);
            if step != Step::Read {
                self.data.fill(lane.bytes_mut());
            }
            let request = async {
                match step {
                    Step::Read => lane.read(client, lba).await,
                    Step::Write => lane.write(client, lba).await,
                    Step::WriteAndFlush => {
                        lane.write(client, lba).await?;
                        lane.flush(client).await
                    }
                }
            };
            meter.time(request).await?;
        }
        Ok(())
    }

    async fn raw_lane(&self, media: &Media, step: Step, meter: &Meter) -> Result<()> {
        let mut buf = AlignedBuf::zeroed(BLOCK);
        while meter.goes_on() {
            let offset = self.data.below(self.blocks) * BLOCK as u64;
            if step != Step::Read {
                self.data.fill(&mut buf);
            }
            let request = async move {
                let (buf, result) = match step {
                    Step::Read => media.read(offset, buf, BLOCK).await,
                    Step::Write | Step::WriteAndFlush => write_owned(media, offset, buf, BLOCK).await,
                };
                match (result, step) {
                    (Ok(()), Step::WriteAndFlush) => (buf, media.flush().await),
                    (result, _) => (buf, result),
                }
            };
            let (back, result) = meter.time(request).await;
            result?;
            buf = back;
        }
        Ok(())
    }
}

async fn run_engine(bench: Bench, load: Rc<Load>, workers: usize) -> Result<Vec<(&'static str, f64)>> {
    bench.create().await?;
    let pool = bench.open(Serve { workers, ..Serve::default() }).await?;
    pool.create_namespace(&namespace("bench", load.blocks, 4)).await?;
    let client = pool.client("bench")?;
    // every block is written once in 4 KiB units, so that reads meet data
    run_lanes(&bench.env, 32, |first| {
        let (load, client) = (load.clone(), client.clone());
        async move {
            let mut lane = Lane::new(BLOCK);
            for lba in (first as u64..load.blocks).step_by(32) {
                load.data.fill(lane.bytes_mut());
                lane.write(&client, lba).await?;
            }
            Ok(())
        }
    })
    .await?;
    let rates = load.measure(&bench.env, &Target::Engine(client)).await?;
    let status = pool.status();
    eprintln!(
        "engine: reduction {:.2}, write amplification {:.2}, corrupt {}",
        status.reduction, status.write_amplification, status.corrupt
    );
    pool.stop().await?;
    Ok(rates)
}

fn load_of(options: &Options) -> Result<Rc<Load>, Box<dyn std::error::Error>> {
    let data = match &options.data {
        None => Blocks::half_zeros(),
        Some(file) => Blocks::of(std::fs::read(file)?).ok_or("the data file has no whole block")?,
    };
    Ok(Rc::new(Load { seconds: options.seconds, blocks: options.mib * 256, data, only: options.only.clone() }))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    drop(std::fs::remove_file(&options.path));
    // room for everything that is overwritten in the time: nothing relocates what is live
    create_file(&options.path, (options.mib << 22) + options.seconds * (2 << 30))?;
    let load = load_of(&options)?;
    let raw_rows = on_file(&options.path, None, |bench| async move {
        // as much as the engine writes before and while it flushes: both work in space that was written before
        let bytes = load.blocks * BLOCK as u64 + load.seconds * FLUSHED_A_SECOND;
        write_first(&bench.media, bytes, &load.data).await?;
        load.measure(&bench.env, &Target::Raw(bench.media.clone())).await
    })?;
    let load = load_of(&options)?;
    let engine_rows = on_file(&options.path, None, |bench| run_engine(bench, load, options.workers))?;
    std::fs::remove_file(&options.path)?;
    println!("{:<32} {:>12} {:>12} {:>8}", "4 KiB, 2:1 data, IOPS", "raw file", "engine", "ratio");
    for ((name, raw), (_, engine)) in raw_rows.iter().zip(&engine_rows) {
        println!("{name:<32} {raw:>12.0} {engine:>12.0} {:>7.2}x", engine / raw);
    }
    Ok(())
}
