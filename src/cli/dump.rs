//! `plica dump`: what is where in a pool that nobody serves, for engineers.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::check::{open_to_look, staged_for};
use super::output::{Align, Table};
use super::pool_args::PoolArgs;
use super::{Failure, output};
use crate::check::Snapshot;
use crate::check::look::{LbaView, PlaceView, RecordView, RootView, SegmentView};
use crate::error::{ErrorKind, Result};
use crate::format::Tier;
use crate::units::{Lba, SegmentId};

pub(super) const HELP: &str = "\
Changes nothing and needs no key: it shows where data is, never the data. After a kill it shows the pool as the next \
start will take it, with what is in shared memory.

Examples:
  plica dump root pool.plica
  plica dump lba pool.plica db 4711
  plica dump segment pool.plica 3 --tier 0
  plica dump segment pool.plica 12 --json | jq '.records[] | select(.problem)'";

const ROOT_HELP: &str = "Example:\n  plica dump root pool.plica";
const SEGMENT_HELP: &str = "Example:\n  plica dump segment pool.plica 12";
const BATCH_HELP: &str = "\
Bytes at which batches start are listed by plica dump segment.

Example:
  plica dump batch pool.plica 12 8192";
const LEAF_HELP: &str = "\
A leaf holds 512 LBAs; leaf N begins with LBA 512 × N.

Example:
  plica dump leaf pool.plica db 0";
const LBA_HELP: &str = "\
LBAs are in blocks of 4 KiB: byte 1 MiB of the device is LBA 256.

Example:
  plica dump lba pool.plica db 256";

#[derive(Debug, Subcommand)]
pub(super) enum DumpCommand {
    /// The newest root and the segments that recovery looks at
    #[command(after_help = ROOT_HELP)]
    Root(RootArgs),
    /// The batches and records of a segment
    #[command(after_help = SEGMENT_HELP)]
    Segment(SegmentArgs),
    /// One batch with its records
    #[command(after_help = BATCH_HELP)]
    Batch(BatchArgs),
    /// A leaf of the map
    #[command(after_help = LEAF_HELP)]
    Leaf(LeafArgs),
    /// Where an LBA is
    #[command(after_help = LBA_HELP)]
    Lba(LbaArgs),
}

#[derive(Debug, Args)]
pub(super) struct RootArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct SegmentArgs {
    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    tier: TierArgs,

    /// Which, from 0
    #[arg(value_name = "SEGMENT")]
    segment: u32,
}

#[derive(Debug, Args)]
pub(super) struct BatchArgs {
    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    tier: TierArgs,

    /// In which segment, from 0
    #[arg(value_name = "SEGMENT")]
    segment: u32,

    /// At which byte of the segment it starts
    #[arg(value_name = "BYTE")]
    byte: u32,
}

/// Whose segment.
#[derive(Debug, Args)]
struct TierArgs {
    /// Whose segment: 0 the journal's, 1 the pool's
    #[arg(long, value_name = "TIER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    tier: u8,
}

impl TierArgs {
    fn get(&self) -> Tier {
        if self.tier == 0 { Tier::Pmem } else { Tier::Ssd }
    }
}

#[derive(Debug, Args)]
pub(super) struct LeafArgs {
    #[command(flatten)]
    common: Common,

    /// Whose
    #[arg(value_name = "NAMESPACE")]
    namespace: String,

    /// Which, from 0
    #[arg(value_name = "LEAF")]
    leaf: u32,
}

#[derive(Debug, Args)]
pub(super) struct LbaArgs {
    #[command(flatten)]
    common: Common,

    /// Whose
    #[arg(value_name = "NAMESPACE")]
    namespace: String,

    /// Which block of 4 KiB, from 0
    #[arg(value_name = "LBA")]
    lba: u64,
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    pool: PoolArgs,

    /// The journal, if it is not where it was when it was given to the pool
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// An LBA and the fragment it is in.
#[derive(Serialize)]
struct Located {
    #[serde(flatten)]
    lba: LbaView,
    fragment: Option<RecordView>,
}

impl DumpCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Root(args) => args.common.show(async |s| Ok(s.root_view()), root_text),
            Self::Segment(args) => {
                args.common.show(async move |s| s.segment(args.tier.get(), SegmentId(args.segment)).await, segment_text)
            }
            Self::Batch(args) => args
                .common
                .show(async move |s| s.batch(args.tier.get(), SegmentId(args.segment), args.byte).await, segment_text),
            Self::Leaf(args) => {
                let LeafArgs { common, namespace, leaf } = args;
                let look = async move |s: &Snapshot| s.leaf_view(s.namespace(&namespace)?, leaf).await;
                common.show(look, |view| {
                    let mut facts = Table::facts();
                    facts.row(["namespace", &view.namespace]).row(["leaf", &view.leaf.to_string()]);
                    facts.row(["durable image", &view.image.as_ref().map_or_else(|| "none".to_owned(), place_text)]);
                    facts.row(["complete up to", &view.complete.to_string()]);
                    format!("{}\n{}", facts.render(), lba_table(&view.entries))
                })
            }
            Self::Lba(args) => {
                let LbaArgs { common, namespace, lba } = args;
                let look = async move |s: &Snapshot| {
                    let (lba, fragment) = s.lba(s.namespace(&namespace)?, Lba(lba)).await?;
                    Ok(Located { lba, fragment })
                };
                common.show(look, |located| {
                    let fragment = located.fragment.as_ref().map(|f| record_table(std::slice::from_ref(f)));
                    let fragment = fragment.map_or_else(String::new, |table| format!("\n{table}"));
                    format!("{}{fragment}", lba_table(std::slice::from_ref(&located.lba)))
                })
            }
        }
    }
}

impl Common {
    /// Takes a snapshot of the pool, looks into it, and prints what was seen.
    fn show<T: Serialize + 'static>(
        self,
        look: impl AsyncFnOnce(&Snapshot) -> Result<T> + 'static,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let (mut machine, journal) =
            open_to_look(&self.pool.pool, self.journal.as_deref()).map_err(|error| match error.kind() {
                ErrorKind::Busy => error.within("what a daemon uses cannot be looked into, stop it first"),
                _ => error,
            })?;
        let staged = staged_for(&machine, &self.pool.run_dir)?;
        let media = machine.media();
        let view = machine.run(async move {
            let (snapshot, _) = Snapshot::take(&media, journal, staged).await?;
            look(&snapshot).await
        })?;
        if self.json {
            output::print_json(&view);
        } else {
            output::print(&text(&view));
        }
        Ok(())
    }
}

fn place_text(place: &PlaceView) -> String {
    let of = if place.journal { " of the journal" } else { "" };
    format!(
        "segment {}{of} at byte {} ({} on the medium), {} sectors",
        place.segment, place.byte, place.offset, place.sectors
    )
}

fn lba_table(lbas: &[LbaView]) -> String {
    let mut table = Table::new(&[
        ("LBA", Align::Right),
        ("STATE", Align::Left),
        ("TIER", Align::Right),
        ("SEGMENT", Align::Right),
        ("BYTE", Align::Right),
        ("ON MEDIUM", Align::Right),
        ("SECTORS", Align::Right),
        ("INDEX", Align::Right),
    ]);
    for lba in lbas {
        let at = |field: fn(&PlaceView) -> u64| lba.at.as_ref().map_or_else(String::new, |at| field(at).to_string());
        table.row([
            lba.lba.to_string(),
            lba.state.clone(),
            at(|p| u64::from(!p.journal)),
            at(|p| p.segment.into()),
            at(|p| p.byte.into()),
            at(|p| p.offset),
            at(|p| p.sectors.into()),
            lba.index.map_or_else(String::new, |index| index.to_string()),
        ]);
    }
    table.render()
}

fn record_table(records: &[RecordView]) -> String {
    let mut table = Table::new(&[
        ("OPERATION", Align::Right),
        ("KIND", Align::Left),
        ("NAMESPACE", Align::Left),
        ("FIRST LBA", Align::Right),
        ("LBAS", Align::Right),
        ("BYTE", Align::Right),
        ("STORED", Align::Right),
        ("CODEC", Align::Left),
        ("SEAL", Align::Left),
        ("PROBLEM", Align::Left),
    ]);
    let number = |n: Option<u32>| n.map_or_else(String::new, |n| n.to_string());
    for r in records {
        table.row([
            if r.op == 0 { String::new() } else { r.op.to_string() },
            r.kind.clone(),
            r.namespace.clone(),
            r.first_lba.to_string(),
            r.lbas.to_string(),
            number(r.byte),
            number(r.stored.map(u32::from)),
            r.codec.clone().unwrap_or_default(),
            r.seal.clone().unwrap_or_default(),
            r.problem.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

fn segment_text(view: &SegmentView) -> String {
    let mut facts = Table::facts();
    let of = if view.journal { " of the journal" } else { "" };
    facts.row(["segment", &format!("{}{of}", view.segment)]).row(["byte on medium", &view.offset.to_string()]);
    facts.row(["generation", &view.generation.to_string()]).row(["records known by", &view.source]);
    let mut batches = Table::new(&[
        ("BATCH AT", Align::Right),
        ("LENGTH", Align::Right),
        ("RECORDS", Align::Right),
        ("SESSION", Align::Left),
        ("OPERATIONS", Align::Left),
        ("SETTLED", Align::Right),
    ]);
    for b in &view.batches {
        let operations = format!("{} to {}", b.first_op, b.last_op);
        let (byte, length, records) = (b.byte.to_string(), b.length.to_string(), b.records.to_string());
        batches.row([byte, length, records, b.session.clone(), operations, b.settled.to_string()]);
    }
    format!("{}\n{}\n{}", facts.render(), batches.render(), record_table(&view.records))
}

fn root_text(view: &RootView) -> String {
    let mut facts = Table::facts();
    let segments = format!("{} of {} bytes", view.segments, view.segment_bytes);
    facts.row(["pool", &view.pool]).row(["segments", &segments]).row(["root", &view.sequence.to_string()]);
    facts.row(["session", &view.session]).row(["stopped cleanly", if view.clean { "yes" } else { "no" }]);
    let replay = format!("records above operation {}, of {} seen", view.replay_start, view.last_op);
    let changes = format!("{} leaves, {} generations", view.directory_changes, view.generation_changes);
    facts.row(["replay", &replay]).row(["full image", &format!("{} ({} parts)", view.image, view.image_parts.len())]);
    facts.row(["changes since", &changes]);
    for (session, accepted) in &view.sessions {
        facts.row(["earlier session", &format!("{session} up to operation {accepted}")]);
    }
    let mut window = Table::new(&[
        ("SEGMENT", Align::Right),
        ("GENERATION", Align::Right),
        ("STATE", Align::Left),
        ("END", Align::Right),
        ("RECORDS", Align::Right),
    ]);
    for w in &view.window {
        let (segment, generation) = (w.segment.to_string(), w.generation.to_string());
        window.row([segment, generation, w.state.clone(), w.end.to_string(), w.records.to_string()]);
    }
    format!("{}\n{}", facts.render(), window.render())
}
