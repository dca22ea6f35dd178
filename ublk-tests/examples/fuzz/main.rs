//! Fuzzes the decoders (`ublk_tests::fuzz`), for a time or with one input.
//!
//! ```text
//!   cargo run --release -p ublk-tests --example fuzz -- --seconds 60                      all targets, a minute each
//!   cargo run --release -p ublk-tests --example fuzz -- --target root --seconds 600 --corpus /tmp/corpus
//!   cargo run --release -p ublk-tests --example fuzz -- --target root --replay FILE      one input again
//!   cargo run --release -p ublk-tests --example fuzz -- --distil DIR                     only what adds something stays
//! ```
//!
//! Inputs with a new outcome are mutated in their turn; `--corpus` keeps them, beside those that the project keeps in
//! `ublk-tests/fuzz-corpus`. The input of a crash is kept in any case. A seed gives one sequence of inputs for one corpus.

#![expect(clippy::disallowed_methods, reason = "a tool with a time limit, outside the engine")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ublk_tests::fuzz::{Corpus, TARGETS, Target, corpus, mutate};

struct Options {
    seconds: u64,
    seed: u64,
    targets: Vec<&'static Target>,
    replay: Option<PathBuf>,
    corpus: Option<PathBuf>,
    distil: Option<PathBuf>,
    keep: PathBuf,
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
            eprintln!(
                "{message}\nusage: fuzz [--seconds N] [--seed S] [--target NAME]... [--corpus DIR] [--keep DIR]\n       \
                 fuzz [--target NAME]... --replay FILE | --distil DIR"
            );
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
        replay: None,
        corpus: None,
        distil: None,
        keep: PathBuf::from("target/fuzz"),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name}: {value:?} is not a number"));
        match name.as_str() {
            "--seconds" => options.seconds = number()?,
            "--seed" => options.seed = number()?,
            "--replay" => options.replay = Some(PathBuf::from(&value)),
            "--corpus" => options.corpus = Some(PathBuf::from(&value)),
            "--distil" => options.distil = Some(PathBuf::from(&value)),
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

/// Does what is asked with a target. Returns whether it held.
fn run(target: &Target, options: &Options) -> bool {
    if let Some(path) = &options.replay {
        let bytes = corpus::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let accepted = (target.run)(&bytes).accepted;
        println!("{}: {} holds and is {}", target.name, path.display(), if accepted { "accepted" } else { "refused" });
        return true;
    }
    if let Some(directory) = &options.distil {
        let (stay, go) = corpus::distil(directory, target).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        println!("{}: {stay} inputs stay, {go} are gone", target.name);
        return true;
    }
    fuzz(target, options)
}

fn fuzz(target: &Target, options: &Options) -> bool {
    let directories: Vec<_> = [corpus::kept()].into_iter().chain(options.corpus.clone()).collect();
    let mut corpus =
        Corpus::load(target, &directories).unwrap_or_else(|e| panic!("the corpus of {}: {e}", target.name));
    let (known, features) = (corpus.inputs.len(), corpus.features());
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let (begin, limit) = (Instant::now(), Duration::from_secs(options.seconds));
    let (mut count, mut accepted, mut failed) = (0_u64, 0_u64, None);
    while failed.is_none() && (!count.is_multiple_of(64) || begin.elapsed() < limit) {
        let mut rng = fastrand::Rng::with_seed(options.seed.wrapping_add(count));
        let input = mutate::input(&corpus.inputs, target.seal, &mut rng);
        count += 1;
        match catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            Ok(outcome) => {
                accepted += u64::from(outcome.accepted);
                if corpus.take(&input, &outcome)
                    && let Some(directory) = &options.corpus
                {
                    corpus::save(directory, target, &input).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
                }
            }
            Err(_) => failed = Some(input),
        }
    }
    std::panic::set_hook(hook);
    let rate = count as f64 / begin.elapsed().as_secs_f64().max(1e-9);
    println!(
        "{:<16} {count:>9} inputs, {accepted:>9} accepted, {rate:>7.0}/s, {known} kept inputs with {features} features, \
         {} new, seed {}",
        target.name,
        corpus.features() - features,
        options.seed
    );
    if let Some(input) = &failed {
        let seed = options.seed.wrapping_add(count - 1);
        let kept = keep(&options.keep, target.name, seed, input);
        println!("{}: FAILED; once more: fuzz --target {} --replay {kept}", target.name, target.name);
    }
    failed.is_none()
}

fn keep(directory: &Path, target: &str, seed: u64, input: &[u8]) -> String {
    let path = directory.join(format!("{target}-{seed}.bin"));
    let written = std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&path, input));
    written.map_or_else(|e| format!("not kept: {e}"), |()| path.display().to_string())
}
