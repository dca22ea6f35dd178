//! Runs many seeds of the simulator and shows how far it is.
//!
//! ```text
//! cargo run --release --features sim --example simulate -- --seeds 10000 --from 0
//! ```
//! A red seed is shrunk and printed; the exit code is 1 then.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use plica::sim::engine::Engine;
use plica::sim::{Failing, Kind, Plan, Red, run, shrink};

#[derive(Parser)]
#[command(about = "Runs the engine under the simulator, seed by seed")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads (default: processors).
    #[arg(long)]
    threads: Option<usize>,
    /// Only plans of this kind: churn, commits, cramped, mixed or sparse (default: as the seed draws).
    #[arg(long)]
    kind: Option<Kind>,
    /// Every pool has a journal.
    #[arg(long)]
    journal: bool,
    /// The journal is lost at some time. Needs --journal.
    #[arg(long, requires = "journal")]
    journal_lost: bool,
    /// The pool begins without its journal, which comes and goes while hosts write. Needs --journal.
    #[arg(long, requires = "journal")]
    journal_late: bool,
    /// How media fail.
    #[arg(long, default_value_t = Failing::Never)]
    failing: Failing,
    /// Print everything that happens.
    #[arg(long)]
    verbose: bool,
    /// Go on after a red seed.
    #[arg(long)]
    keep_going: bool,
    /// Runs to spend on making a red plan smaller.
    #[arg(long, default_value_t = 100)]
    shrink: u32,
}

#[derive(Default)]
struct Totals {
    done: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    deaths: AtomicU64,
    losses: AtomicU64,
    stop: AtomicBool,
    marks: Mutex<BTreeMap<&'static str, u64>>,
    red: Mutex<Vec<u64>>,
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    // a panic of the engine is reported with its seed
    std::panic::set_hook(Box::new(|_| {}));
    let totals = Totals::default();
    let next = AtomicU64::new(arguments.from);
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&arguments, &next, &totals));
        }
    });
    let red = totals.red.lock().unwrap_or_else(PoisonError::into_inner);
    eprintln!();
    println!(
        "{} seeds: {} requests ({} refused), {} deaths of daemons, {} losses of power; red: {:?}",
        totals.done.load(Relaxed),
        totals.requests.load(Relaxed),
        totals.errors.load(Relaxed),
        totals.deaths.load(Relaxed),
        totals.losses.load(Relaxed),
        *red
    );
    println!("reached: {:?}", totals.marks.lock().unwrap_or_else(PoisonError::into_inner));
    if red.is_empty() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

fn work(arguments: &Arguments, next: &AtomicU64, totals: &Totals) {
    loop {
        let seed = next.fetch_add(1, Relaxed);
        if seed >= arguments.from + arguments.seeds || totals.stop.load(Relaxed) {
            return;
        }
        let mut plan = match arguments.kind {
            Some(kind) => Plan { failing: arguments.failing, ..Plan::of_kind(seed, kind) },
            None => Plan::failing(seed, arguments.failing),
        };
        if arguments.journal {
            plan.journal = Plan::with_journal(seed, arguments.journal_lost).journal;
        }
        if arguments.journal_late {
            plan = plan.with_journal_late();
        }
        plan.verbose = arguments.verbose;
        match run(&Engine::new(), &plan) {
            Ok(report) => {
                totals.requests.fetch_add(report.good, Relaxed);
                totals.errors.fetch_add(report.bad, Relaxed);
                totals.deaths.fetch_add(report.machine.daemon_deaths, Relaxed);
                totals.losses.fetch_add(report.machine.power_losses, Relaxed);
                let mut marks = totals.marks.lock().unwrap_or_else(PoisonError::into_inner);
                report.marks.into_iter().for_each(|(name, count)| *marks.entry(name).or_default() += count);
            }
            Err(red) => {
                if !arguments.keep_going {
                    totals.stop.store(true, Relaxed);
                }
                totals.red.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                report_red(arguments, &plan, red);
            }
        }
        let done = totals.done.fetch_add(1, Relaxed) + 1;
        if std::io::stderr().is_terminal() || done.is_multiple_of(100) {
            eprint!("\r{done} of {} seeds", arguments.seeds);
            let _ = std::io::stderr().flush();
        }
    }
}

fn report_red(arguments: &Arguments, plan: &Plan, red: Box<Red>) {
    let original = format!("{red}");
    let (small, red) = shrink(&Engine::new(), plan, red, arguments.shrink);
    println!("{original}\nshrunk to {small:?}:\n{red}\n");
}
