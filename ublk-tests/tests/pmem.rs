//! The journal on persistent memory: Debian's kernel in QEMU with an emulated NVDIMM, used through DAX, and a power cut.
//!
//! What the emulated processor stores is in the image at once, so this shows that mapping, write-back and recovery work on
//! such a medium; which cache lines a real one may lose is the simulator's matter.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs::File, path::Path, time::Duration};

use ublk_tests::{
    Result, binaries,
    vm::Vm,
    workload::{Found, MARK_EVERY, Plan, Summary, Witness, parse_found},
};

const POOL_BYTES: u64 = 768 << 20;
const NVDIMM_BYTES: u64 = 128 << 20;
const BLOCKS: u64 = 2048;
/// Marks that the guest says before its power is cut.
const MARKS: u32 = 3;
const SILENCE: Duration = Duration::from_secs(120);

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

/// What the guest found after the cut: the witness's summary, and what the journal is on with its resident bytes.
fn cut_and_check(medium: &Medium) -> Result<(Summary, String)> {
    binaries::build_plica()?;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for (name, bytes) in [("pool", POOL_BYTES), ("nvdimm", NVDIMM_BYTES)] {
        File::create(path(name)).and_then(|file| file.set_len(bytes)).unwrap();
    }
    let vm = || Vm::default().disk(path("pool")).nvdimm(path("nvdimm")).limit(400);
    let plan = Plan { seed: 4, block_count: BLOCKS };
    let guest = Path::new(env!("CARGO_BIN_EXE_guest")).display();
    let keys = path("keys");
    let keys = keys.display();

    let before = format!(
        "set -e; {}; {}; exec {guest} cut-run $VM_DISK0 {keys} - {} {BLOCKS} 0 create {}",
        medium.make, medium.find, plan.seed, medium.journal
    );
    let mut running = vm().start(&before)?;
    let mut marks = 0;
    while marks < MARKS {
        match running.line(SILENCE)? {
            Some(line) => marks += u32::from(line.starts_with("mark ")),
            None => return running.finish(&before).map(|said| panic!("the load ended by itself: {said:?}")),
        }
    }
    let said = running.cut_power()?;
    let done = said.iter().rev().find_map(|line| line.strip_prefix("mark ")?.parse().ok()).unwrap();

    let after = format!("set -e; {}; exec {guest} cut-check $VM_DISK0 {keys} {} {BLOCKS}", medium.find, plan.seed);
    let lines = vm().run(&after)?;
    let found = parse_found(&lines)?;
    let witness = Witness::new(plan, vec![Found::Zeros; usize::try_from(BLOCKS).unwrap()], 0);
    let summary = witness.check(done, done + 2 * MARK_EVERY, &found)?;
    let journal = lines.iter().find_map(|line| line.strip_prefix("journal ")).unwrap_or_default().to_owned();
    println!("power cut after operation {done}: {summary:?}; journal {journal}");
    Ok((summary, journal))
}

fn expect_kept(medium: &Medium) {
    let (summary, journal) = cut_and_check(medium).unwrap();
    assert!(summary.must_survive > 100, "{summary:?}");
    let resident = journal.strip_prefix("dax ").map(|bytes| bytes.parse::<u64>().unwrap());
    assert!(resident.is_some_and(|bytes| bytes > 0), "the journal was to be on persistent memory: {journal}");
}

#[test]
fn a_file_of_a_dax_filesystem_keeps_what_was_flushed_over_a_power_cut() {
    expect_kept(&FILE_OF_DAX_FILESYSTEM);
}

#[test]
fn a_dax_device_keeps_what_was_flushed_over_a_power_cut() {
    expect_kept(&DEVICE_DAX);
}
