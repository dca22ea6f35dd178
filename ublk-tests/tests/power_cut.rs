//! Power cuts: the guest is killed in the middle of a load, and its disk is brought to what a real one would have kept.
//!
//! ```text
//!  base ─► guest on dm-log-writes: pool, load, marks ─► KILL ─► log ─► cut at some entry ─► disk ─► guest: check
//!                                                                                            └─► base of the next round
//! ```
//!
//! Writes that no flush had covered are gone, torn or there as the seed says; which ones must be there the host knows
//! from the marks. The seed is printed; `PLICA_CUT_SEED` repeats it, `PLICA_CUT_ROUNDS` does more of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ublk_tests::{
    Failure, Result, binaries,
    command::Cmd,
    database::{AFTER_CUT, BEFORE_CUT, MARIADB_AFTER, MARIADB_BEFORE},
    log_writes::{Keep, Log, Tally, cut},
    scenario::files::{FILES_AFTER, FILES_BEFORE},
    vm::Vm,
    workload::{Found, MARK_EVERY, Plan, Summary, Witness, parse_found},
};

const DISK_BYTES: u64 = 2 << 30;
const LOG_BYTES: u64 = 16 << 30;
/// Two cuts a round, each of another moment of the same run.
const CUTS_PER_ROUND: u32 = 2;
const SILENCE: Duration = Duration::from_secs(120);

/// The last sectors of a disk that has a journal beside its pool: 256 MiB.
const JOURNAL_SECTORS: u64 = 512 << 10;

/// The images of one chain of power cuts.
struct Bench {
    directory: tempfile::TempDir,
    random: fastrand::Rng,
    /// The disk's end is a journal: a cut takes it at the same moment as the pool.
    journal: bool,
}

impl Bench {
    fn new(name: &str) -> Self {
        let plica = binaries::build_plica().unwrap();
        let seed = env::var("PLICA_CUT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        println!("{name}: PLICA_CUT_SEED={seed}, {}", plica.display());
        let directory = tempfile::tempdir().unwrap();
        File::create(directory.path().join("base")).unwrap().set_len(DISK_BYTES).unwrap();
        Self { directory, random: fastrand::Rng::with_seed(seed), journal: false }
    }

    /// Pool and journal on one disk.
    fn with_journal(name: &str) -> Self {
        Self { journal: true, ..Self::new(name) }
    }

    /// Shell commands after which the guest has `/dev/mapper/plica-pool` on `device`, and where it has a journal
    /// `/dev/mapper/plica-journal`.
    fn divide(&self, device: &str) -> String {
        let journal = if self.journal { JOURNAL_SECTORS } else { 0 };
        let pool = format!(
            "sectors=$(($(blockdev --getsz {device}) - {journal}))
            dmsetup create plica-pool --table \"0 $sectors linear {device} 0\""
        );
        if !self.journal {
            return pool;
        }
        format!("{pool}\ndmsetup create plica-journal --table \"0 {journal} linear {device} $sectors\"")
    }

    /// What the guest is told when it is to make the pool.
    fn create(&self) -> &'static str {
        if self.journal { "create /dev/mapper/plica-journal" } else { "create" }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `command` of the guest on a copy of the base until it has said some marks, then cuts the power: the log,
    /// and the last mark that came out.
    fn run_until_cut(&mut self, command: &str) -> Result<(Log, u64)> {
        let (disk, log) = (self.path("disk"), self.path("log"));
        copy(&self.path("base"), &disk)?;
        File::create(&log).and_then(|file| file.set_len(LOG_BYTES)).map_err(Failure::io("log image"))?;
        let table = "0 $(blockdev --getsz $VM_DISK0) log-writes $VM_DISK0 $VM_DISK1";
        let guest = env!("CARGO_BIN_EXE_guest");
        let divide = self.divide("/dev/mapper/plica-log");
        let script = format!("set -e\ndmsetup create plica-log --table \"{table}\"\n{divide}\nexec {guest} {command}");
        let mut guest = Vm::default().disk(&disk).disk(&log).limit(600).start(&script)?;
        let mut wanted = self.random.u32(5..25);
        while wanted > 0 {
            let Some(line) = guest.line(SILENCE)? else {
                let failed = guest.finish(&script).err();
                return Err(failed.unwrap_or_else(|| Failure::new("the load ended by itself")));
            };
            wanted -= u32::from(line.starts_with("mark "));
        }
        thread::sleep(Duration::from_millis(self.random.u64(0..100)));
        let lines = guest.cut_power()?;
        let last = lines.iter().rev().find_map(|line| line.strip_prefix("mark ")?.parse().ok());
        Ok((Log::open(&log)?, last.ok_or_else(|| Failure::new("no mark"))?))
    }

    /// Builds the disk `name` that a power cut somewhere after the first mark leaves; what was done by then.
    fn cut_somewhere(&mut self, log: &Log, name: &str) -> Result<(u64, Tally)> {
        let first = log.marks().next().map_or(0, |(index, _)| index + 1);
        let at = self.random.usize(first..=log.entries().len());
        let keep = if self.random.u8(0..3) == 0 { Keep::Nothing } else { Keep::Some(self.random.fork()) };
        copy(&self.path("base"), &self.path(name))?;
        let image = File::options().read(true).write(true).open(self.path(name)).map_err(Failure::io(name))?;
        let tally = cut(log, &image, at, keep)?;
        let done = log.mark_before(at).and_then(|word| word.parse().ok());
        println!("  cut at entry {at} of {}, after mark {done:?}: {tally:?}", log.entries().len());
        Ok((done.ok_or_else(|| Failure::new("a cut before the first mark"))?, tally))
    }

    /// Runs `command` of the guest on disk `name`.
    fn check(&self, name: &str, command: &str) -> Result<Vec<String>> {
        let guest = env!("CARGO_BIN_EXE_guest");
        let divide = self.divide("$VM_DISK0");
        Vm::default().disk(self.path(name)).limit(300).run(&format!("set -e\n{divide}\nexec {guest} {command}"))
    }

    /// Disk `name` becomes the base of the next round.
    fn rebase(&self, name: &str) -> Result<()> {
        std::fs::rename(self.path(name), self.path("base")).map_err(Failure::io("next base"))
    }
}

fn rounds(default: u32) -> u32 {
    env::var("PLICA_CUT_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    Cmd::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to).limit(300).ok().map(|_| ())
}

#[test]
fn nothing_flushed_is_lost_over_twenty_power_cuts() {
    let mut bench = Bench::new("power cuts");
    let plan = Plan { seed: bench.random.u64(..), block_count: 8192 };
    let keys = bench.path("keys");
    let mut witness = Witness::new(plan, vec![Found::Zeros; 8192], 0);
    let (mut tallies, mut summaries) = (Vec::new(), Vec::new());
    for round in 0..rounds(10) {
        let create = if round == 0 { bench.create() } else { "" };
        let run = format!("cut-run /dev/mapper/plica-pool {} plica-log {} 8192", keys.display(), plan.seed);
        let (log, last_mark) = bench.run_until_cut(&format!("{run} {} {create}", witness.first())).unwrap();
        println!("round {round}: {} entries, last mark {last_mark}", log.entries().len());
        let mut found = Vec::new();
        for _ in 0..CUTS_PER_ROUND {
            let (done, tally) = bench.cut_somewhere(&log, "cut").unwrap();
            copy(&bench.path("cut"), &bench.path("unchecked")).unwrap();
            let check = format!("cut-check /dev/mapper/plica-pool {} {} 8192", keys.display(), plan.seed);
            found = parse_found(&bench.check("cut", &check).unwrap()).unwrap();
            let summary = witness.check(done, last_mark + 2 * MARK_EVERY, &found).unwrap();
            println!("  {summary:?}");
            tallies.push(tally);
            summaries.push(summary);
        }
        // Half of the rounds go on from a clean stop, the others recover what the check has recovered once already.
        bench.rebase(if round % 2 == 0 { "unchecked" } else { "cut" }).unwrap();
        witness = Witness::new(plan, found, Witness::next_first(last_mark));
    }
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let (lost, torn) = (sum(|t| t.lost), sum(|t| t.torn));
    assert!(lost > 0 && torn > 0, "no write was dropped under the pool: {tallies:?}");
    let seen = |of: fn(&Summary) -> u64| summaries.iter().map(of).sum::<u64>();
    assert!(seen(|s| s.must_survive) > 1000 && seen(|s| s.atomic) > 0, "{summaries:?}");
}

#[test]
fn postgres_keeps_every_committed_row_over_power_cuts() {
    database_keeps_every_committed_row(Bench::new("PostgreSQL"), BEFORE_CUT, AFTER_CUT, rounds(3));
}

#[test]
fn postgres_with_a_journal_keeps_every_committed_row_over_power_cuts() {
    let bench = Bench::with_journal("PostgreSQL, journal");
    database_keeps_every_committed_row(bench, BEFORE_CUT, AFTER_CUT, rounds(2));
}

#[test]
fn innodb_without_doublewrite_keeps_every_committed_row_over_power_cuts() {
    database_keeps_every_committed_row(Bench::new("InnoDB"), MARIADB_BEFORE, MARIADB_AFTER, rounds(3));
}

#[test]
fn innodb_with_a_journal_keeps_every_committed_row_over_power_cuts() {
    let bench = Bench::with_journal("InnoDB, journal");
    database_keeps_every_committed_row(bench, MARIADB_BEFORE, MARIADB_AFTER, rounds(2));
}

fn database_keeps_every_committed_row(mut bench: Bench, before: &str, after: &str, rounds: u32) {
    let keys = bench.path("keys");
    let mut rows = 0;
    for round in 0..rounds {
        let create = if round == 0 { bench.create() } else { "" };
        let run = format!("{before} /dev/mapper/plica-pool {} plica-log {rows} {create}", keys.display());
        let (log, last_mark) = bench.run_until_cut(&run).unwrap();
        println!("round {round}: {} entries, last mark {last_mark}", log.entries().len());
        let (done, _) = bench.cut_somewhere(&log, "cut").unwrap();
        let lines = bench.check("cut", &format!("{after} /dev/mapper/plica-pool {}", keys.display())).unwrap();
        let found = lines.iter().find_map(|line| line.strip_prefix("rows ")?.parse().ok()).unwrap();
        assert!((done..=last_mark + 40).contains(&found), "{done} rows were committed, {found} are there");
        println!("  {done} rows were committed, {found} are there");
        rows = found;
        bench.rebase("cut").unwrap();
    }
}

#[test]
fn ext4_keeps_every_synchronised_file_over_power_cuts() {
    filesystem_keeps_every_synchronised_file("ext4");
}

#[test]
fn xfs_keeps_every_synchronised_file_over_power_cuts() {
    filesystem_keeps_every_synchronised_file("xfs");
}

#[test]
fn btrfs_keeps_every_synchronised_file_over_power_cuts() {
    filesystem_keeps_every_synchronised_file("btrfs");
}

fn filesystem_keeps_every_synchronised_file(kind: &str) {
    let mut bench = Bench::new(kind);
    let keys = bench.path("keys");
    let mut next = 0;
    for round in 0..rounds(2) {
        let create = if round == 0 { bench.create() } else { "" };
        let run = format!("{FILES_BEFORE} {kind} /dev/mapper/plica-pool {} plica-log {next} {create}", keys.display());
        let (log, last_mark) = bench.run_until_cut(&run).unwrap();
        println!("round {round}: {} entries, last mark {last_mark}", log.entries().len());
        let (done, _) = bench.cut_somewhere(&log, "cut").unwrap();
        // writes go on for a moment after the last mark that came out
        let after = format!("{FILES_AFTER} {kind} /dev/mapper/plica-pool {} {done} {}", keys.display(), last_mark + 64);
        let lines = bench.check("cut", &after).unwrap();
        next = lines.iter().find_map(|line| line.strip_prefix("writes ")?.parse().ok()).unwrap();
        println!("  {done} files were synchronised, all are there");
        bench.rebase("cut").unwrap();
    }
}
