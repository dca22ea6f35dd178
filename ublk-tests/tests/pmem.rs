//! The journal on persistent memory: Debian's kernel in QEMU with an emulated NVDIMM, used through DAX, `/dev/ublkb0` on it,
//! and a power cut: under a load whose every block is known, and under SQLite.
//!
//! What the emulated processor stores is in the image at once, so this shows that mapping, write-back and recovery work on
//! such a medium; which cache lines a real one may lose is the simulator's matter.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs::File, path::PathBuf, time::Duration};

use ublk_tests::{
    Result, binaries,
    database::{SQLITE_AFTER, SQLITE_BEFORE},
    vm::Vm,
    workload::{Found, MARK_EVERY, Plan, Summary, Witness, parse_found},
};

const POOL_BYTES: u64 = 768 << 20;
const NVDIMM_BYTES: u64 = 128 << 20;
const BLOCKS: u64 = 2048;
/// Marks that the guest says before its power is cut.
const MARKS: u32 = 3;
const SILENCE: Duration = Duration::from_secs(400);

/// How the guest makes the NVDIMM usable, how it finds it again, and where the journal is.
struct Medium {
    make: &'static str,
    find: &'static str,
    journal: &'static str,
}

const FILE_OF_DAX_FILESYSTEM: Medium = Medium {
    make: "ndctl create-namespace -f -e namespace0.0 -m fsdax --map=mem >&2; mkfs.ext4 -q -b 4096 /dev/pmem0",
    find: "mkdir -p /run/pmem; mount -t ext4 -o dax /dev/pmem0 /run/pmem",
    journal: "/run/pmem/journal:64M",
};

const DEVICE_DAX: Medium = Medium {
    make: "ndctl create-namespace -f -e namespace0.0 -m devdax --map=mem >&2",
    find: "for _ in $(seq 50); do [ ! -e /dev/dax0.0 ] || break; sleep 0.1; done",
    journal: "/dev/dax0.0",
};

/// The images of one machine whose power is cut.
struct Machine {
    directory: tempfile::TempDir,
    medium: &'static Medium,
}

impl Machine {
    fn new(medium: &'static Medium) -> Result<Self> {
        binaries::build_plica()?;
        let machine = Self { directory: tempfile::tempdir().unwrap(), medium };
        for (name, bytes) in [("pool", POOL_BYTES), ("nvdimm", NVDIMM_BYTES)] {
            File::create(machine.path(name)).and_then(|file| file.set_len(bytes)).unwrap();
        }
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the guest keeps the root key.
    fn keys(&self) -> String {
        self.path("keys").display().to_string()
    }

    fn vm(&self) -> Vm {
        Vm::default().disk(self.path("pool")).nvdimm(self.path("nvdimm")).limit(500)
    }

    /// Runs a command of the guest until it has said some marks, then cuts the power: the last mark that came out.
    fn run_until_cut(&self, command: &str) -> Result<u64> {
        let Medium { make, find, .. } = self.medium;
        let script = format!("set -e; {make}; {find}; exec {} {command}", env!("CARGO_BIN_EXE_guest"));
        let mut running = self.vm().start(&script)?;
        let mut marks = 0;
        while marks < MARKS {
            match running.line(SILENCE)? {
                Some(line) => marks += u32::from(line.starts_with("mark ") && line != "mark 0"),
                None => return running.finish(&script).map(|said| panic!("the load ended by itself: {said:?}")),
            }
        }
        let said = running.cut_power()?;
        Ok(said.iter().rev().find_map(|line| line.strip_prefix("mark ")?.parse().ok()).unwrap())
    }

    /// Boots again and runs a command of the guest to its end.
    fn check(&self, command: &str) -> Result<Vec<String>> {
        self.vm().run(&format!("set -e; {}; exec {} {command}", self.medium.find, env!("CARGO_BIN_EXE_guest")))
    }
}

/// What the guest found after the cut: the witness's summary, and what the journal is on with its resident bytes.
fn cut_and_check(medium: &'static Medium) -> Result<(Summary, String)> {
    let machine = Machine::new(medium)?;
    let plan = Plan { seed: 4, block_count: BLOCKS };
    let (keys, seed, journal) = (machine.keys(), plan.seed, medium.journal);
    let done = machine.run_until_cut(&format!("cut-run $VM_DISK0 {keys} - {seed} {BLOCKS} 0 create {journal}"))?;
    let lines = machine.check(&format!("cut-check $VM_DISK0 {keys} {seed} {BLOCKS}"))?;
    let found = parse_found(&lines)?;
    let witness = Witness::new(plan, vec![Found::Zeros; usize::try_from(BLOCKS).unwrap()], 0);
    let summary = witness.check(done, done + 2 * MARK_EVERY, &found)?;
    let journal = journal_of(&lines);
    println!("power cut after operation {done}: {summary:?}; journal {journal}");
    Ok((summary, journal))
}

/// What the guest says of its journal: what it is on, and its resident bytes.
fn journal_of(lines: &[String]) -> String {
    lines.iter().find_map(|line| line.strip_prefix("journal ")).unwrap_or_default().to_owned()
}

fn expect_in_use(journal: &str) {
    let resident = journal.strip_prefix("dax ").map(|bytes| bytes.parse::<u64>().unwrap());
    assert!(resident.is_some_and(|bytes| bytes > 0), "the journal was to be on persistent memory: {journal}");
}

fn expect_kept(medium: &'static Medium) {
    let (summary, journal) = cut_and_check(medium).unwrap();
    assert!(summary.must_survive > 100, "{summary:?}");
    expect_in_use(&journal);
}

#[test]
fn a_file_of_a_dax_filesystem_keeps_what_was_flushed_over_a_power_cut() {
    expect_kept(&FILE_OF_DAX_FILESYSTEM);
}

#[test]
fn a_dax_device_keeps_what_was_flushed_over_a_power_cut() {
    expect_kept(&DEVICE_DAX);
}

#[test]
fn sqlite_keeps_every_committed_transaction_over_a_power_cut() {
    let machine = Machine::new(&FILE_OF_DAX_FILESYSTEM).unwrap();
    let (keys, journal) = (machine.keys(), machine.medium.journal);
    let done = machine.run_until_cut(&format!("{SQLITE_BEFORE} $VM_DISK0 {keys} create {journal}")).unwrap();
    let lines = machine.check(&format!("{SQLITE_AFTER} $VM_DISK0 {keys}")).unwrap();
    let found = lines.iter().find_map(|line| line.strip_prefix("rows ")?.parse::<u64>().ok()).unwrap();
    println!("power cut after {done} transactions: {found} are there; journal {}", journal_of(&lines));
    assert!(done > 0 && found >= done, "{done} transactions were committed, {found} are there");
    expect_in_use(&journal_of(&lines));
}
