//! What the journal does for a database's log, in process and in one run: how much of a ring ever reaches the pool, what a
//! synchronous write costs, and what becomes of both beside a flood of data.
//!
//! `journal_bench DIR [--memory DIR] [--seconds N] [--only ring|sync|flood] [--json]`: DIR is the medium that is measured,
//! the journal in memory is a file of `--memory` (a tmpfs). Files are created, used and removed. Each figure stands beside
//! what it shall reach.

mod flood;
mod place;
mod ring;
mod sync;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use place::Place;
use plica::allocator::Allocator;
use plica::error::Result;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

#[derive(Parser)]
#[command(about = "Measures what the journal does for a database's log")]
struct Options {
    /// Where pool, raw file and the journal's stand-in go.
    directory: PathBuf,
    /// Where the journal in memory goes: a tmpfs.
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// Length of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// One part alone.
    #[arg(long)]
    only: Option<Part>,
    /// For programs.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A ring smaller than the journal.
    Ring,
    /// Random writes, each flushed.
    Sync,
    /// A ring beside a flood.
    Flood,
}

/// One figure.
struct Figure {
    part: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    /// What it shall be: at least (`true`) or at most so much.
    reach: Option<(bool, f64)>,
}

impl Figure {
    fn new(part: &'static str, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { part, name: name.into(), value, unit, reach: None }
    }

    fn at_least(self, least: f64) -> Self {
        Self { reach: Some((true, least)), ..self }
    }

    fn at_most(self, most: f64) -> Self {
        Self { reach: Some((false, most)), ..self }
    }

    fn print(&self) {
        let reach = match self.reach {
            None => String::new(),
            Some((true, least)) => format!("reach >= {least}{}", self.missed(self.value >= least)),
            Some((false, most)) => format!("reach <= {most}{}", self.missed(self.value <= most)),
        };
        let decimals = if self.value < 100.0 { 2 } else { 0 };
        let line = format!("{:<6} {:<58} {:>12.decimals$} {:<8} {reach}", self.part, self.name, self.value, self.unit);
        println!("{}", line.trim_end());
    }

    fn missed(&self, reached: bool) -> &'static str {
        if reached { "" } else { ": missed" }
    }

    fn json(&self) -> Value {
        let (least, most) = match self.reach {
            None => (None, None),
            Some((true, least)) => (Some(least), None),
            Some((false, most)) => (None, Some(most)),
        };
        json!({
            "part": self.part, "name": self.name, "value": self.value, "unit": self.unit,
            "at_least": least, "at_most": most,
        })
    }
}

/// Measures a part.
type Measure = fn(&Place, u64) -> Result<Vec<Figure>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let parts: [(Part, Measure); 3] =
        [(Part::Ring, ring::measure), (Part::Sync, sync::measure), (Part::Flood, flood::measure)];
    let mut all = Vec::new();
    for (part, measure) in parts {
        if options.only.is_none_or(|only| only == part) {
            let place = Place::new(&options.directory, &options.memory)?;
            let figures = measure(&place, options.seconds)?;
            if !options.json {
                figures.iter().for_each(Figure::print);
            }
            all.extend(figures);
        }
    }
    if options.json {
        println!("{:#}", Value::Array(all.iter().map(Figure::json).collect()));
    }
    Ok(())
}
