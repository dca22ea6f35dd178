//! `plica advise`: what settings would make of existing data, from a sample of it.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::output::{Align, Progress, Table};
use super::{Failure, output, size};
use crate::advise::{Advisor, Estimate, SETTINGS, STRETCH_BYTES, Setting, best_of, places};
use crate::env::Rng;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Cipher, Compression};
use crate::limits::BLOCK_BYTES;

/// Characters of a bar that stands for the size of the data itself.
const BAR: f64 = 40.0;

const HELP: &str = "\
Reads a sample spread over the whole file or device, changes nothing, and encodes it as a namespace with each setting \
would: SPACE is what the log takes for it, headers and padding included; WRITE and READ are the CPU time for a block of \
4 KiB, on this machine, with one processor.

A namespace's unit is the largest fragment: what the host writes in smaller pieces is stored in smaller pieces. So take \
the row of the size that is written: 8K for PostgreSQL, 16K for InnoDB, 4K for a random mix of everything. Point it at \
a data directory's largest files, or at the device that they are on.

Examples:
  plica advise /var/lib/postgresql/15/main/base/16384/16397
  plica advise /dev/nvme0n1p2 --sample 1G
  plica advise disk.img --json | jq '.settings[] | {compression, unit, space}'";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct AdviseArgs {
    /// A file or block device with data like that which is to be stored
    #[arg(value_name = "FILE-OR-DEVICE")]
    data: PathBuf,

    /// Bytes to look at, at most
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = size::parse_size)]
    sample: u64,

    /// Cipher of the namespace: it decides a part of the time
    #[arg(long, value_name = "CIPHER", default_value_t = Cipher::Aes256Xts)]
    cipher: Cipher,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    compression: String,
    unit: u64,
    space: f64,
    write_ns: u64,
    read_ns: u64,
}

#[derive(Serialize)]
struct Advice {
    bytes: u64,
    sampled: u64,
    zeros: u64,
    settings: Vec<Row>,
    advised: Vec<String>,
}

impl AdviseArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let file = File::open(&self.data).map_err(|e| Error::io(format!("cannot open {}", self.data.display()), e))?;
        // of a block device only its end tells the size
        let bytes = (&file).seek(SeekFrom::End(0)).map_err(|e| self.unreadable(e))?;
        if bytes < BLOCK_BYTES as u64 {
            let text = format!("{} has {bytes} bytes: there is no block of 4 KiB to look at", self.data.display());
            return Err(Error::new(ErrorKind::Config, text).into());
        }
        let (estimates, zeros) = self.sample(&file, bytes)?;
        let sampled = estimates.first().map_or(0, |(_, estimate)| estimate.blocks * BLOCK_BYTES as u64);
        let advice = Advice {
            bytes,
            sampled,
            zeros: zeros * BLOCK_BYTES as u64,
            settings: estimates.iter().map(row).collect(),
            advised: advised(&estimates),
        };
        if self.json {
            output::print_json(&advice);
        } else {
            output::print(&text(&advice));
        }
        Ok(())
    }

    fn sample(&self, file: &File, bytes: u64) -> Result<(Vec<(Setting, Estimate)>, u64)> {
        let mut advisor = Advisor::new(self.cipher, |key| Rng::Kernel.fill(key))?;
        let mut estimates: Vec<_> = SETTINGS.map(|setting| (setting, Estimate::default())).to_vec();
        let begin = now();
        let clock = || u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (mut progress, mut zeros) = (Progress::new("trying settings"), 0);
        let places = places(bytes, self.sample);
        let mut stretch = vec![0; usize::try_from(STRETCH_BYTES).unwrap_or(BLOCK_BYTES)];
        for (done, at) in places.iter().enumerate() {
            let whole = (bytes - at).min(STRETCH_BYTES) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
            let blocks = &mut stretch[..usize::try_from(whole).unwrap_or(0)];
            file.read_exact_at(blocks, *at).map_err(|e| self.unreadable(e))?;
            zeros += blocks.chunks(BLOCK_BYTES).filter(|block| block.iter().all(|byte| *byte == 0)).count() as u64;
            for (setting, estimate) in &mut estimates {
                advisor.tries(*setting, blocks, clock, estimate)?;
            }
            progress.at(done as u64 + 1, places.len() as u64);
        }
        Ok((estimates, zeros))
    }

    fn unreadable(&self, error: std::io::Error) -> Error {
        Error::io(format!("cannot read {}", self.data.display()), error)
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement for people, of this process alone")]
fn now() -> Instant {
    Instant::now()
}

fn unit_bytes(setting: Setting) -> u64 {
    u64::from(setting.unit_blocks) * BLOCK_BYTES as u64
}

fn row((setting, estimate): &(Setting, Estimate)) -> Row {
    Row {
        compression: setting.compression.to_string(),
        unit: unit_bytes(*setting),
        space: estimate.space(),
        write_ns: estimate.write_ns_a_block(),
        read_ns: estimate.read_ns_a_block(),
    }
}

/// The options for those who want speed and those who want space.
fn advised(estimates: &[(Setting, Estimate)]) -> Vec<String> {
    let space = |setting: Setting| estimates.iter().find(|(s, _)| *s == setting).map_or(1.0, |(_, e)| e.space());
    let best = |compression| best_of(compression, estimates);
    let gains = |setting: &Setting| space(*setting) < 0.97;
    let chosen: Vec<_> = [Compression::Lz4, Compression::Zstd].into_iter().filter_map(best).filter(gains).collect();
    if chosen.is_empty() {
        return vec!["--compression none".to_owned()];
    }
    let option = |s: Setting| format!("--compression {} --unit {}", s.compression, size::exact(unit_bytes(s)));
    chosen.into_iter().map(option).collect()
}

fn text(advice: &Advice) -> String {
    let mut facts = Table::facts();
    let looked = format!("{} of {}", size::approximate(advice.sampled), size::approximate(advice.bytes));
    let zeros = format!("{} are zeros, which take no space but headers", size::approximate(advice.zeros));
    facts.row(["looked at", &looked]).row(["of these", &zeros]);
    let mut table = Table::new(&[
        ("COMPRESSION", Align::Left),
        ("UNIT", Align::Right),
        ("SPACE", Align::Right),
        ("RATIO", Align::Right),
        ("WRITE us", Align::Right),
        ("READ us", Align::Right),
        ("", Align::Left),
    ]);
    for row in &advice.settings {
        table.row([
            row.compression.clone(),
            size::exact(row.unit),
            format!("{:.1} %", row.space * 100.0),
            format!("{:.2}", 1.0 / row.space.max(0.001)),
            micros(row.write_ns),
            micros(row.read_ns),
            bar(row.space),
        ]);
    }
    let advised = advice.advised.join("\n       or    ");
    format!("{}\n{}\nadvised      {advised}\n", facts.render(), table.render())
}

fn micros(ns: u64) -> String {
    format!("{}.{}", ns / 1000, ns / 100 % 10)
}

/// A bar as long as the space that is taken.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length on a screen, bounded here")]
fn bar(space: f64) -> String {
    "#".repeat((space.clamp(0.0, 1.1) * BAR).round() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(stored: u64) -> Estimate {
        Estimate { blocks: 100, stored, write_ns: 250_000, read_ns: 20_000, fragments: 50 }
    }

    fn with_unit(compression: Compression, unit_blocks: u8, stored: u64) -> (Setting, Estimate) {
        (Setting { compression, unit_blocks }, estimate(stored))
    }

    #[test]
    fn what_does_not_shrink_is_advised_to_be_left_alone() {
        let noise = [with_unit(Compression::Lz4, 4, 410_000), with_unit(Compression::Zstd, 4, 409_000)];
        assert_eq!(advised(&noise), ["--compression none"]);
        let shrinks = [with_unit(Compression::Lz4, 4, 200_000), with_unit(Compression::Zstd, 8, 100_000)];
        assert_eq!(advised(&shrinks), ["--compression lz4 --unit 16K", "--compression zstd --unit 32K"]);
    }

    #[test]
    fn rows_show_space_time_and_a_bar() {
        let rows = vec![row(&with_unit(Compression::Lz4, 2, 204_800))];
        let advised = vec!["--compression lz4 --unit 8K".to_owned()];
        let text = text(&Advice { bytes: 1 << 30, sampled: 409_600, zeros: 4096, settings: rows, advised });
        let line = text.lines().find(|line| line.starts_with("lz4")).unwrap();
        let columns: Vec<_> = line.split_whitespace().collect();
        assert_eq!(columns, ["lz4", "8K", "50.0", "%", "2.00", "2.5", "0.4", "####################"]);
        assert!(text.contains("400 KiB of 1 GiB") && text.ends_with("--compression lz4 --unit 8K\n"), "{text}");
    }
}
