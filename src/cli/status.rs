//! `plica status`: what a pool holds, and what its daemon does.

use clap::Args;
use serde::Serialize;

use super::access::{Access, access, unexpected};
use super::offline::look;
use super::output::{Align, Table};
use super::pool_args::PoolArgs;
use super::{Failure, output, size};
use crate::control::{Answer, Command, NamespaceInfo, StatusReport};
use crate::core::scrub::ScrubState;
use crate::core::{Fullness, RecompressStatus};
use crate::format::superblock::{KeySource, Superblock};
use crate::pool::{Bypassed, Inspection, JournalStatus, NamespaceStatus, PoolStatus, WrittenStatus};

const HELP: &str = "\
Needs no key. If a daemon serves the pool the figures are its own; otherwise they are read from the pool as its \
last daemon left it.

--check is for monitoring: the exit code is 0 when all is well, 3 when space is low, 4 when space is critical or the pool \
is read-only, 1 when the pool is not served or cannot be asked. `plica serve` has the watermarks (--low-at, --critical-at).

Examples:
  plica status pool.plica
  plica status pool.plica --check
  plica status pool.plica --json | jq .pool.reduction";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,

    /// Tell by the exit code whether the pool is served, writable and has room
    #[arg(long)]
    check: bool,
}

/// Exit code: space is low.
const SPACE_LOW: u8 = 3;
/// Exit code: space is critical, or nothing can be written at all.
const SPACE_CRITICAL: u8 = 4;

/// A pool that nobody serves.
#[derive(Debug, Serialize)]
struct Idle {
    served: bool,
    pool: IdlePool,
    namespaces: Vec<NamespaceInfo>,
}

/// As [`PoolStatus`], as far as it can be told without opening the pool.
#[derive(Debug, Serialize)]
struct IdlePool {
    pool: String,
    label: String,
    created: u64,
    key_source: &'static str,
    pool_bytes: u64,
    segment_bytes: u32,
    segments: u32,
    /// Whether the last stop was clean; otherwise the next start recovers.
    clean: bool,
    host_written: u64,
    host_read: u64,
    host_discarded: u64,
    stored: u64,
    media_written: u64,
}

/// A pool that a daemon serves, with `served: true` beside what the daemon reports.
#[derive(Serialize)]
struct Running<'a> {
    served: bool,
    #[serde(flatten)]
    report: &'a StatusReport,
}

impl StatusArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        match access(&self.pool)? {
            Access::Served(mut daemon) => {
                let report = match daemon.ask(Command::Status)? {
                    Answer::Status(report) => report,
                    other => return Err(unexpected(&other)),
                };
                if self.json {
                    output::print_json(&Running { served: true, report: &report });
                } else {
                    output::print(&running_text(&daemon.peek.superblock, &report));
                }
                if self.check { verdict(&report.pool) } else { Ok(()) }
            }
            Access::Idle(peek) => {
                let idle = idle_of(&look(&self.pool.pool)?);
                if self.json {
                    output::print_json(&idle);
                } else {
                    output::print(&idle_text(&peek.superblock, &idle));
                }
                if self.check { Err(found("nobody serves the pool".to_owned(), 1)) } else { Ok(()) }
            }
        }
    }
}

fn found(text: String, code: u8) -> Failure {
    Failure::Found { text, code }
}

/// What a pool's state means for who watches it.
fn verdict(pool: &PoolStatus) -> Result<(), Failure> {
    if let Some(reason) = &pool.read_only {
        return Err(found(reason.clone(), SPACE_CRITICAL));
    }
    let percent = pool.percent_used.unwrap_or(0.0);
    let of =
        if pool.segments_refused > 0 { "what the pool has space for on its filesystem or device" } else { "the pool" };
    match pool.fullness {
        Fullness::Good => Ok(()),
        Fullness::Low => Err(found(format!("{percent:.0} % of {of} is in use: space is low"), SPACE_LOW)),
        Fullness::Critical => {
            Err(found(format!("{percent:.0} % of {of} is in use: space is critical"), SPACE_CRITICAL))
        }
    }
}

fn idle_of(inspection: &Inspection) -> Idle {
    let (superblock, root) = (&inspection.superblock, &inspection.root);
    let namespaces = inspection.namespaces.entries.iter().map(NamespaceInfo::from).collect();
    let pool = IdlePool {
        pool: superblock.pool.to_string(),
        label: label(superblock),
        created: superblock.created,
        key_source: key_source(superblock),
        pool_bytes: superblock.pool_bytes,
        segment_bytes: superblock.segment_bytes,
        segments: superblock.segment_count,
        clean: root.clean,
        host_written: root.lifetime.host_written,
        host_read: root.lifetime.host_read,
        host_discarded: root.lifetime.host_discarded,
        stored: root.lifetime.stored,
        media_written: root.lifetime.media_written,
    };
    Idle { served: false, pool, namespaces }
}

fn label(superblock: &Superblock) -> String {
    String::from_utf8_lossy(&superblock.label).trim_end_matches('\0').to_owned()
}

fn key_source(superblock: &Superblock) -> &'static str {
    match superblock.key_source {
        KeySource::File => "key-file",
        KeySource::Passphrase { .. } => "passphrase",
    }
}

/// What is the same whether it is served or not.
fn facts(superblock: &Superblock) -> Table {
    let mut table = Table::facts();
    table.row(["pool", &superblock.pool.to_string()]);
    let label = label(superblock);
    if !label.is_empty() {
        table.row(["label", &label]);
    }
    let segment = size::exact(u64::from(superblock.segment_bytes));
    let bytes = size::approximate(superblock.pool_bytes);
    table.row(["size", &format!("{bytes}, {} segments of {segment}", superblock.segment_count)]);
    table.row(["created", &output::moment(superblock.created)]);
    table.row(["root key", if key_source(superblock) == "passphrase" { "a passphrase" } else { "a key file" }]);
    table
}

fn idle_text(superblock: &Superblock, idle: &Idle) -> String {
    let mut table = facts(superblock);
    let state = if idle.pool.clean {
        "not served; stopped cleanly"
    } else {
        "not served; not stopped cleanly: the next start recovers"
    };
    table.row(["state", state]);
    table.row(["host wrote", &size::approximate(idle.pool.host_written)]);
    table.row(["stored", &size::approximate(idle.pool.stored)]);
    table.row(["medium wrote", &size::approximate(idle.pool.media_written)]);
    format!("{}\n{}", table.render(), super::namespace::list(&idle.namespaces))
}

fn running_text(superblock: &Superblock, report: &StatusReport) -> String {
    let mut table = facts(superblock);
    table.row(["state", &format!("served by process {} (plica {})", report.pid, report.daemon)]);
    figures(&mut table, &report.pool);
    let text = format!("{}\n{}", table.render(), served_list(report));
    match &report.pool.journal {
        Some(_) => format!("{text}\n{}\n{}", journal_list(report), bypassed_list(report)),
        None => text,
    }
}

/// What was written to the medium since the pool was opened, by what it is.
fn written_text(written: &WrittenStatus) -> String {
    let WrittenStatus { total, payload, headers, batches, summaries, moved, map, roots, prepared, other } = *written;
    let parts = [
        ("data", payload),
        ("headers", headers),
        ("batches", batches),
        ("summaries", summaries),
        ("moved", moved),
        ("map", map),
        ("roots", roots),
        ("prepared", prepared),
        ("other", other),
    ];
    let parts = parts.into_iter().filter(|(_, bytes)| *bytes > 0);
    let parts: Vec<_> = parts.map(|(name, bytes)| format!("{name} {}", share(bytes, total))).collect();
    format!("{} since the start: {}", size::approximate(total), parts.join(", "))
}

fn figures(table: &mut Table, pool: &PoolStatus) {
    if let Some(reason) = &pool.read_only {
        table.row(["READ-ONLY", reason]);
    }
    let free = pool.segments_free * u64::from(pool.segment_bytes);
    let counting = match (pool.usage_known, pool.accounting) {
        (false, _) => ", still counting after a start",
        (true, true) => ", more to come of what was discarded",
        (true, false) => "",
    };
    let free = format!("{} ({} of {} segments{counting})", size::approximate(free), pool.segments_free, pool.segments);
    table.row(["free", &free]);
    if pool.segments_refused > 0 {
        let missing = size::approximate(pool.segments_refused * u64::from(pool.segment_bytes));
        let text = format!(
            "for {missing} ({} segments) on the filesystem or thin device under the pool",
            pool.segments_refused
        );
        table.row(["NO SPACE BELOW", &text]);
    }
    if let Some(percent) = pool.percent_used {
        let meaning = match pool.fullness {
            Fullness::Good => "",
            Fullness::Low => ": space is LOW",
            Fullness::Critical => ": space is CRITICAL, writes will soon be refused",
        };
        table.row(["in use", &format!("{percent:.0} % when all that is dead is cleaned away{meaning}")]);
    }
    traffic(table, pool);
    let limit = pool.map_limit.map_or(String::new(), |limit| format!(", at most {}", size::approximate(limit)));
    let [total, resident] = [pool.map_total, pool.map_resident].map(size::approximate);
    let found = share(pool.map_hits, pool.map_hits + pool.map_misses);
    table.row(["map", &format!("{total}, {resident} of it in memory{limit}; {found} of looks at it found there")]);
    table.row(["flushes", &format!("{}, on the medium {}", pool.flushes, pool.media_flushes)]);
    if pool.corrupt > 0 {
        table.row(["CORRUPT", &format!("{} fragments did not verify and were answered with an error", pool.corrupt)]);
    }
    if pool.read_errors > 0 {
        let text =
            format!("{} fragments were not given back by the medium and were answered with an error", pool.read_errors);
        table.row(["READ ERRORS", &text]);
    }
    if pool.scrub.state != ScrubState::Never {
        table.row(["scrub", &super::scrub::summary(&pool.scrub)]);
    }
    if let Some(journal) = &pool.journal {
        journal_figures(table, journal);
    }
    if pool.no_space > 0 {
        table.row(["NO SPACE", &format!("{} writes were refused for want of space", pool.no_space)]);
    }
}

/// What was written: by the host, to the medium, by the cleaner.
fn traffic(table: &mut Table, pool: &PoolStatus) {
    let wrote = size::approximate(pool.host_written);
    table.row(["host wrote", &format!("{wrote}, read {}", size::approximate(pool.host_read))]);
    let absorbed = match pool.absorbed {
        0 => String::new(),
        bytes => format!("; {} overwritten in memory before they were written", size::approximate(bytes)),
    };
    let stored = size::approximate(pool.stored);
    table.row(["stored", &format!("{stored} (reduced {:.2} times){absorbed}", pool.reduction)]);
    let media = size::approximate(pool.media_written);
    table.row(["medium wrote", &format!("{media} ({:.2} for each byte of the host)", pool.write_amplification)]);
    if pool.recent.host_written > 0 {
        let recent = &pool.recent;
        let [wrote, media] = [recent.host_written, recent.media_written].map(size::approximate);
        let amplification = recent.write_amplification;
        let text = format!(
            "host {wrote}, medium {media} ({amplification:.2} for each byte), reduced {:.2} times",
            recent.reduction
        );
        table.row([&format!("last {} s", recent.seconds), &text]);
    }
    if pool.written.total > 0 {
        table.row(["of that", &written_text(&pool.written)]);
    }
    if pool.segments_cleaned > 0 {
        let [moved, stored] = [pool.relocated, pool.relocated_stored].map(size::approximate);
        let unpacked = pool.fragments_unpacked;
        let ahead = pool.segments_cleaned_ahead;
        let text = format!(
            "{} segments, {ahead} of them ahead; moved {moved} as {stored}, {unpacked} fragments unpacked",
            pool.segments_cleaned
        );
        table.row(["cleaned", &text]);
    }
    if pool.recompressed.percent > 0 {
        table.row(["recompressed", &recompressed(&pool.recompressed)]);
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn recompressed(r: &RecompressStatus) -> String {
    let [data, before, after] = [r.data, r.before, r.after].map(size::approximate);
    let seconds = r.cpu_ns as f64 / 1e9;
    let left = share(r.after, r.before);
    format!("{data}: {before} became {after} ({left}); {seconds:.1} s of CPU, at most {} % of one", r.percent)
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

fn journal_figures(table: &mut Table, journal: &JournalStatus) {
    let JournalStatus { kind, bytes, segments, segments_free, resident, written, destaged_segments, .. } = journal;
    let free = segments_free * (bytes / (*segments).max(1));
    let text = format!("{kind}, {}, free {}", size::approximate(*bytes), size::approximate(free));
    table.row(["journal", &text]);
    let text = format!(
        "{} of blocks; {} written, {destaged_segments} segments moved to the pool",
        size::approximate(*resident),
        size::approximate(*written)
    );
    table.row(["in the journal", &text]);
}

/// What the journal did for each namespace.
fn journal_list(report: &StatusReport) -> String {
    let mut table = Table::new(&[
        ("JOURNAL OF", Align::Left),
        ("ACKNOWLEDGED", Align::Right),
        ("DIED", Align::Right),
        ("DESTAGED", Align::Right),
        ("BYPASSED", Align::Right),
        ("RESIDENT", Align::Right),
    ]);
    for NamespaceStatus { name, journal: j, .. } in &report.pool.namespaces {
        let [a, b, r] = [j.acknowledged, j.bypassed, j.resident].map(size::approximate);
        let [d, s] = [j.died, j.destaged].map(|part| size::with_percent(part, j.acknowledged));
        table.row([name, &a, &d, &s, &b, &r]);
    }
    table.render()
}

/// Why what was written past the journal was.
fn bypassed_list(report: &StatusReport) -> String {
    let mut table = Table::new(&[
        ("PAST THE JOURNAL", Align::Left),
        ("ZEROS", Align::Right),
        ("LARGE", Align::Right),
        ("LOAD", Align::Right),
        ("COLD", Align::Right),
        ("FIRST", Align::Right),
        ("FULL", Align::Right),
        ("CLOSED", Align::Right),
    ]);
    for NamespaceStatus { name, journal, .. } in &report.pool.namespaces {
        let Bypassed { zeros, large, load, cold, first, full, closed } = journal.bypassed_as;
        let [z, l, o, c, f, u, d] = [zeros, large, load, cold, first, full, closed].map(size::approximate);
        table.row([name, &z, &l, &o, &c, &f, &u, &d]);
    }
    table.render()
}

fn served_list(report: &StatusReport) -> String {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("WRITTEN", Align::Right),
        ("READ", Align::Right),
        ("STORED", Align::Right),
        ("SERVED AT", Align::Left),
    ]);
    for NamespaceStatus { name, size, written, read, stored, .. } in &report.pool.namespaces {
        let at = report.serving.iter().find(|served| served.name == *name).map_or("-", |served| &served.at);
        let [size, written, read, stored] = [*size, *written, *read, *stored].map(size::approximate);
        table.row([name, &size, &written, &read, &stored, at]);
    }
    table.render()
}
