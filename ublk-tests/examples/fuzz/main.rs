//! A deterministic mutational fuzzer for every decoder of bytes from media, shared memory and sockets.
//!
//! ```text
//!   golden files ─► mutate ─► (mostly) seal the checks again ─► target ─► what it accepts must encode to the same bytes
//! ```
//!
//! Checksums would stop nearly every mutation at the door; so most inputs get good ones again, as an attacker's would have.
//! A target fails by a panic. One seed gives one sequence of inputs, so that `--seed` reproduces a failure; the input is
//! kept in a file too.
//!
//! ```text
//!   cargo run --release --features sim --example fuzz -- --seconds 60                    all targets, a minute each
//!   cargo run --release --features sim --example fuzz -- --target root --seed 7 --seconds 5
//!   cargo run --release --features sim --example fuzz -- --target root --input FILE      one input again
//! ```

#![expect(clippy::disallowed_methods, reason = "a tool with a time limit, outside the engine")]

mod mutate;
mod seal;
mod streams;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use targets::{TARGETS, Target};

struct Options {
    seconds: u64,
    seed: u64,
    targets: Vec<&'static Target>,
    input: Option<PathBuf>,
    keep: PathBuf,
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
            eprintln!("{message}\nusage: fuzz [--seconds N] [--seed S] [--target NAME]... [--input FILE] [--keep DIR]");
            eprintln!("targets: {}", names.join(", "));
            return ExitCode::from(2);
        }
    };
    let failures = options.targets.iter().filter(|target| !run(target, &options)).count();
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seconds: 60,
        seed: fastrand::u64(..),
        targets: Vec::new(),
        input: None,
        keep: PathBuf::from("target/fuzz"),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name}: {value:?} is not a number"));
        match name.as_str() {
            "--seconds" => options.seconds = number()?,
            "--seed" => options.seed = number()?,
            "--input" => options.input = Some(PathBuf::from(&value)),
            "--keep" => options.keep = PathBuf::from(&value),
            "--target" => {
                let target = TARGETS.iter().find(|t| t.name == value);
                options.targets.push(target.ok_or_else(|| format!("no target {value:?}"))?);
            }
            _ => return Err(format!("unknown option {name}")),
        }
    }
    if options.targets.is_empty() {
        options.targets = TARGETS.iter().collect();
    }
    Ok(options)
}

/// Runs a target for its time, or on one input. Returns whether it held.
fn run(target: &Target, options: &Options) -> bool {
    if let Some(path) = &options.input {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (target.run)(&bytes);
        println!("{}: {} holds", target.name, path.display());
        return true;
    }
    let corpus = target.corpus();
    for bytes in &corpus {
        (target.run)(bytes);
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let (begin, limit) = (Instant::now(), Duration::from_secs(options.seconds));
    let mut count = 0_u64;
    let mut accepted = 0_u64;
    let mut failed = None;
    while failed.is_none() && (!count.is_multiple_of(64) || begin.elapsed() < limit) {
        let mut rng = fastrand::Rng::with_seed(options.seed.wrapping_add(count));
        let input = mutate::input(&corpus, target.seal, &mut rng);
        count += 1;
        match catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            Ok(well) => accepted += u64::from(well),
            Err(_) => failed = Some(input),
        }
    }
    std::panic::set_hook(hook);
    let seconds = begin.elapsed().as_secs_f64().max(1e-9);
    let rate = count as f64 / seconds;
    println!("{}: {count} inputs, {accepted} accepted, {rate:.0}/s, seed {}", target.name, options.seed);
    if let Some(input) = &failed {
        let seed = options.seed.wrapping_add(count - 1);
        let kept = keep(&options.keep, target.name, seed, input);
        println!("{}: FAILED with --seed {seed}; input: {kept}", target.name);
    }
    failed.is_none()
}

fn keep(directory: &Path, target: &str, seed: u64, input: &[u8]) -> String {
    let path = directory.join(format!("{target}-{seed}.bin"));
    let written = std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&path, input));
    written.map_or_else(|e| format!("not kept: {e}"), |()| path.display().to_string())
}
