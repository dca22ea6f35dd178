//! `plica check`: whether everything in a pool that nobody serves is there and belongs together.

use std::path::{Path, PathBuf};

use clap::Args;

use super::output::{Align, Progress, Table};
use super::peek::peek;
use super::pool_args::PoolArgs;
use super::{Failure, output, size};
use crate::check::{Damage, Report, Staged, check};
use crate::daemon::{Machine, boot_id, machine_with_journal};
use crate::error::{Error, ErrorKind, Result};
use crate::format::root::Root;
use crate::limits::BLOCK_SIZE;
use crate::media::{Access, Device};
use crate::pool::{JournalFound, find_staged};
use crate::staging::RunDirStore;

/// Lines of damage that people are shown; programs get all of it.
const SHOWN: usize = 40;

const HELP: &str = "\
Reads the whole pool and changes nothing: superblocks, roots, the map, every fragment's checksum, its journal, and whether \
the map and the log tell the same. Needs no key. After a kill it also looks at what the next start will adopt. A pool that is \
served is checked by a scrub instead: see plica scrub.

Exit codes: 0 all is well, 1 damage (or the check could not be made), 2 wrong usage.

Examples:
  plica check pool.plica
  plica check /dev/nvme1n1 --json | jq '.damage[] | {namespace, first_lba, lbas}'";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// The journal, if it is not where it was when it was given to the pool
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let report = self.check()?;
        if self.json {
            output::print_json(&report);
        } else {
            output::print(&text(&report));
        }
        if report.damage.is_empty() {
            return Ok(());
        }
        let (places, lbas) = (report.damage.len(), report.totals.hurt_lbas);
        let hurt = if lbas == 0 { "no LBA is hurt".to_owned() } else { format!("{lbas} LBAs cannot be read") };
        Err(Error::new(ErrorKind::Corrupt, format!("{places} damaged places in {}: {hurt}", self.pool.pool.display()))
            .into())
    }

    fn check(&self) -> Result<Report> {
        let (mut machine, journal) =
            open_to_look(&self.pool.pool, self.journal.as_deref()).map_err(|error| match error.kind() {
                ErrorKind::Busy => error.within("a pool in use is not checked, stop its daemon or scrub it"),
                _ => error,
            })?;
        let staged = staged_for(&machine, &self.pool.run_dir)?;
        let media = machine.media();
        machine.run(async move {
            let mut progress = Progress::new("checking");
            check(&media, journal, staged, |done, all| progress.at(done, all)).await
        })
    }
}

/// Opens a pool, and its journal if it has one, for a look at them.
///
/// # Errors
/// What [`Device::open`] reports of the pool. What keeps the journal from being opened is for who looks to judge.
pub(super) fn open_to_look(pool: &Path, journal: Option<&Path>) -> Result<(Machine, Option<JournalFound>)> {
    let device = Device::open(pool, Access::Read)?;
    // what is wrong with a superblock is told by who looks
    let name = peek(pool).ok().and_then(|peek| peek.superblock.journal);
    machine_with_journal(&device, name.as_ref(), journal)
}

/// Finds what a killed daemon left in shared memory of the pool on this machine's medium.
pub(super) fn staged_for(machine: &Machine, run_dir: &Path) -> Result<impl FnOnce(&Root) -> Staged + use<>> {
    let (boot, identity, run_dir) = (boot_id()?, machine.identity(), run_dir.to_owned());
    Ok(move |root: &Root| {
        // the run directory is not made for the sake of a look that needs none
        if root.clean || root.boot != boot {
            return Staged::Void;
        }
        match RunDirStore::open(&run_dir).and_then(|mut store| find_staged(root, &mut store, boot, identity)) {
            Ok(None) => Staged::Void,
            Ok(Some(region)) => Staged::Region(region),
            Err(error) => Staged::Missing(error.to_string()),
        }
    })
}

fn text(report: &Report) -> String {
    let t = &report.totals;
    let mut facts = Table::facts();
    let state = if report.clean { "stopped cleanly" } else { "not stopped cleanly" };
    facts.row(["pool", &report.pool]).row(["state", state]);
    if !report.clean {
        let text = format!("{} staged batches, {} records to replay", t.staged_batches, t.replayed_records);
        facts.row(["next start", &text]);
    }
    let walked = t.segments_written - t.segments_summarised;
    let segments = format!("{} written of {}, {walked} without a summary that counts", t.segments_written, t.segments);
    let records = format!(
        "{} verified, {}, of which {} in use",
        t.records,
        size::approximate(t.record_bytes),
        size::approximate(t.live_bytes)
    );
    let map = format!("{} leaves, {} mapped", t.leaves, size::approximate(t.mapped_blocks * u64::from(BLOCK_SIZE)));
    facts.row(["segments", &segments]).row(["records", &records]).row(["map", &map]);
    if t.journal_segments > 0 {
        let text = format!(
            "{} segments written of {}; {} fragments in use, {}",
            t.journal_segments_written,
            t.journal_segments,
            t.journal_records,
            size::approximate(t.journal_blocks * u64::from(BLOCK_SIZE))
        );
        facts.row(["journal", &text]);
    }
    let mut text = facts.render();
    if !report.namespaces.is_empty() {
        let mut table =
            Table::new(&[("NAMESPACE", Align::Left), ("MAPPED", Align::Right), ("HURT LBAS", Align::Right)]);
        for n in &report.namespaces {
            let mapped = size::approximate(n.mapped_blocks * u64::from(BLOCK_SIZE));
            table.row([&n.name, &mapped, &n.hurt_lbas.to_string()]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    report.notes.iter().for_each(|note| text.push_str(&format!("\nnote: {note}\n")));
    if report.damage.is_empty() {
        text.push_str("\nno damage found\n");
        return text;
    }
    text.push_str("\ndamage:\n");
    report.damage.iter().take(SHOWN).for_each(|damage| text.push_str(&format!("  {}\n", line(damage))));
    if report.damage.len() > SHOWN {
        text.push_str(&format!("  and {} more: --json lists all\n", report.damage.len() - SHOWN));
    }
    text
}

fn line(damage: &Damage) -> String {
    let mut parts = Vec::new();
    if let Some(first) = damage.first_lba {
        let whose = damage.namespace.as_deref().unwrap_or("?");
        let last = first + damage.lbas.saturating_sub(1);
        let lbas = if damage.lbas == 1 { format!("LBA {first}") } else { format!("LBAs {first} to {last}") };
        parts.push(format!("namespace {whose}, {lbas}"));
    }
    let of = if damage.journal { " of the journal" } else { "" };
    match (damage.segment, damage.byte) {
        (Some(segment), Some(byte)) => parts.push(format!("segment {segment}{of} at byte {byte}")),
        (Some(segment), None) => parts.push(format!("segment {segment}{of}")),
        (None, _) => {}
    }
    parts.push(damage.what.clone());
    parts.join(": ")
}
