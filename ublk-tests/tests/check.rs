//! `plica check` and `plica dump` on pools that are well, that were killed, and that were hurt in all ways that media and
//! people have; and that a hurt pool never returns wrong data.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/program.rs"]
mod program;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use program::{Ended, Place, read, sample, write};

/// Bytes written to the namespace: three segments and more, at 2:1.
const WRITTEN: usize = 30 << 20;

/// A pool with data, stopped cleanly.
fn filled() -> (Place, Vec<u8>) {
    let place = Place::with_namespace();
    let bytes = sample(WRITTEN, 7);
    let daemon = place.serve();
    write(&place, daemon.uri(), &bytes);
    assert_eq!(daemon.terminate(), 0);
    (place, bytes)
}

impl Place {
    fn check(&self) -> Ended {
        self.on_pool("check", [])
    }

    fn check_json(&self) -> Value {
        serde_json::from_str(&self.on_pool("check", ["--json"]).out).unwrap()
    }

    fn lba(&self, lba: u64) -> Value {
        let out = self.on_pool("dump lba", ["db", &lba.to_string(), "--json"]).done();
        serde_json::from_str(&out).unwrap()
    }

    fn medium(&self) -> File {
        OpenOptions::new().read(true).write(true).open(self.path("pool")).unwrap()
    }

    /// The places of the segments that hold the first and the last LBA written, and the bytes of a segment.
    fn two_segments(&self) -> [(u64, u64); 2] {
        let at = |lba| {
            let place = &self.lba(lba)["at"];
            let number = |field: &str| place[field].as_u64().unwrap();
            (number("segment"), number("offset") - number("byte"))
        };
        let both = [at(0), at((WRITTEN as u64 >> 12) - 1)];
        assert_ne!(both[0], both[1]);
        both
    }
}

fn flip(file: &File, offset: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn bytes_at(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// Reads blocks one at a time; `None` for one that gave an error.
fn blocks(uri: &str, lbas: impl Iterator<Item = u64>) -> Vec<(u64, Option<Vec<u8>>)> {
    let lbas: Vec<u64> = lbas.collect();
    let mut command = Command::new("qemu-io");
    command.args(["-r", "-f", "raw"]);
    for lba in &lbas {
        command.args(["-c", &format!("read -v {} 4096", lba * 4096)]);
    }
    let out = command.arg(uri).output().expect("qemu-io is needed (package qemu-utils)");
    let out = String::from_utf8(out.stdout).unwrap();
    let (mut found, mut bytes) = (Vec::new(), Vec::new());
    for line in out.lines() {
        if line == "read failed: Input/output error" {
            found.push(None);
        } else if line.starts_with("read 4096/4096 bytes") {
            found.push(Some(std::mem::take(&mut bytes)));
        } else if let Some((_, row)) = line.split_once(":  ") {
            // sixteen bytes, then the same as text
            bytes.extend(row.split(' ').take(16).map(|byte| u8::from_str_radix(byte, 16).unwrap()));
        }
    }
    assert_eq!(found.len(), lbas.len(), "{out}");
    lbas.into_iter().zip(found).collect()
}

#[test]
fn a_pool_that_is_well_is_called_so() {
    let (place, bytes) = filled();
    let out = place.check().done();
    assert!(out.contains("no damage found"), "{out}");
    let report = place.check_json();
    assert_eq!(report["totals"]["mapped_blocks"], bytes.len() as u64 / 4096);
    assert_eq!(report["namespaces"][0]["hurt_lbas"], 0);
    assert!(report["totals"]["live_bytes"].as_u64() > Some(8 << 20), "{report}");
    let daemon = place.serve();
    place.check().failed(1, "in use by process");
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);
    daemon.kill();
    // as the next start will take it, shared memory included
    let report = place.check_json();
    assert_eq!((&report["clean"], report["damage"].as_array().map(Vec::len)), (&Value::Bool(false), Some(0)));
}

#[test]
fn what_was_acknowledged_and_not_flushed_is_found() {
    let (place, _) = filled();
    let daemon = place.serve();
    // it says what it did when it did it, not when it ends
    let mut client = Command::new("stdbuf");
    client.args([
        "-oL",
        "qemu-io",
        "-f",
        "raw",
        "-t",
        "writeback",
        "-c",
        "write -P 0x78 12288 4096",
        "-c",
        "sleep 60000",
    ]);
    let mut client = client.arg(daemon.uri()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("wrote 4096/4096"), "{line}");
    // acknowledged, and never flushed
    daemon.kill();
    client.kill().unwrap();
    client.wait().unwrap();
    let report = place.check_json();
    assert_eq!(report["damage"].as_array().map(Vec::len), Some(0), "{report}");
    assert!(report["totals"]["replayed_records"].as_u64() >= Some(1), "{report}");
    assert_eq!(place.lba(3)["fragment"]["first_lba"], 3);
    // somebody clears the run directory
    for file in place.staging_files() {
        std::fs::remove_file(file).unwrap();
    }
    place.check().failed(1, "1 damaged places");
    assert!(place.check().out.contains("is missing: acknowledged writes may be in it"));
    place.serve_fails(&place.pool(), "is missing");
}

#[test]
fn a_flipped_bit_hurts_its_fragment_alone_and_is_named() {
    let (place, bytes) = filled();
    let at = place.lba(1000);
    let (first, lbas) = (at["fragment"]["first_lba"].as_u64().unwrap(), at["fragment"]["lbas"].as_u64().unwrap());
    flip(&place.medium(), at["at"]["offset"].as_u64().unwrap() + 100);

    place.check().failed(1, "LBAs cannot be read");
    let report = place.check_json();
    let damage = report["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 1, "{report}");
    assert_eq!(
        (&damage[0]["namespace"], &damage[0]["first_lba"], &damage[0]["lbas"]),
        (&"db".into(), &first.into(), &lbas.into())
    );
    assert_eq!(report["namespaces"][0]["hurt_lbas"], lbas);
    assert!(place.lba(1000)["fragment"]["problem"].as_str().unwrap().contains("check"));

    let daemon = place.serve();
    for (lba, found) in blocks(daemon.uri(), first - 1..first + lbas + 1) {
        let hurt = (first..first + lbas).contains(&lba);
        let at = usize::try_from(lba).unwrap() * 4096;
        assert_eq!(found.as_deref(), (!hurt).then_some(&bytes[at..at + 4096]), "LBA {lba}");
    }
    let status = place.status();
    assert_eq!(status["pool"]["corrupt"], lbas, "each block was asked for by itself");
}

#[test]
fn a_flipped_bit_in_a_leaf_names_what_it_held() {
    let (place, _) = filled();
    let leaf: Value = serde_json::from_str(&place.on_pool("dump leaf", ["db", "2", "--json"]).done()).unwrap();
    assert_eq!(leaf["entries"].as_array().map(Vec::len), Some(512));
    flip(&place.medium(), leaf["image"]["offset"].as_u64().unwrap() + 1000);
    let report = place.check_json();
    let damage = report["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 1, "{report}");
    assert_eq!((&damage[0]["first_lba"], &damage[0]["lbas"]), (&1024.into(), &512.into()));
    assert!(damage[0]["what"].as_str().unwrap().starts_with("leaf 2 of the map"));
}

#[test]
fn segments_that_changed_places_are_noticed_and_never_read() {
    let (place, bytes) = filled();
    let file = place.medium();
    let [(a, at_a), (b, at_b)] = place.two_segments();
    let len = usize::try_from(place.status()["pool"]["segment_bytes"].as_u64().unwrap()).unwrap();
    let (one, other) = (bytes_at(&file, at_a, len), bytes_at(&file, at_b, len));
    file.write_all_at(&one, at_b).unwrap();
    file.write_all_at(&other, at_a).unwrap();
    let report = place.check_json();
    for segment in [a, b] {
        let named =
            report["damage"].as_array().unwrap().iter().any(|d| d["segment"] == segment && d["namespace"] == "db");
        assert!(named, "segment {segment}: {report}");
    }
    never_wrong(&place, &bytes);
}

#[test]
fn an_older_moment_of_a_segment_is_noticed_and_never_read() {
    let (place, mut bytes) = filled();
    let file = place.medium();
    let len = usize::try_from(place.status()["pool"]["segment_bytes"].as_u64().unwrap()).unwrap();
    let older = std::fs::read(place.path("pool")).unwrap();
    // new data until the segment was emptied and written anew
    for round in 0..12 {
        bytes = sample(WRITTEN, 20 + round);
        let daemon = place.serve();
        write(&place, daemon.uri(), &bytes);
        assert_eq!(daemon.terminate(), 0);
    }
    assert_eq!(place.check().code, 0);
    // one that holds data now and held other data then
    let now = (0..30).map(|n| place.lba(n * 256)["at"].clone());
    let number = |at: &Value, field: &str| at[field].as_u64().unwrap();
    let mut used_before = now.map(|at| (number(&at, "segment"), number(&at, "offset") - number(&at, "byte")));
    let then = |at: u64| &older[usize::try_from(at).unwrap()..][..len];
    let (segment, at) = used_before.find(|(_, at)| then(*at).starts_with(b"PLCb")).expect("segments are reused");
    assert_ne!(bytes_at(&file, at, len), then(at));
    file.write_all_at(then(at), at).unwrap();
    let report = place.check_json();
    let hurt = |d: &Value| d["segment"] == segment && d["lbas"].as_u64() > Some(0);
    assert!(report["damage"].as_array().unwrap().iter().any(hurt), "{report}");
    never_wrong(&place, &bytes);
}

#[test]
fn a_zeroed_stretch_and_blocks_of_another_pool_are_noticed_and_never_read() {
    let (place, bytes) = filled();
    let (foreign, _) = filled();
    let file = place.medium();
    let [(zeroed, at_zeroed), (replaced, at_replaced)] = place.two_segments();
    file.write_all_at(&vec![0; 512 << 10], at_zeroed + (64 << 10)).unwrap();
    file.write_all_at(&bytes_at(&foreign.medium(), at_replaced, 512 << 10), at_replaced).unwrap();
    let report = place.check_json();
    for segment in [zeroed, replaced] {
        let named =
            report["damage"].as_array().unwrap().iter().any(|d| d["segment"] == segment && d["namespace"] == "db");
        assert!(named, "segment {segment}: {report}");
    }
    assert!(report["totals"]["hurt_lbas"].as_u64() > Some(64), "{report}");
    never_wrong(&place, &bytes);
}

#[test]
fn one_lost_copy_is_told_and_hurts_nobody() {
    let (place, bytes) = filled();
    let file = place.medium();
    let size = file.metadata().unwrap().len();
    // superblock, namespace table and both root slots of one end of the pool, each in turn
    for (offset, len, says) in [
        (0, 4096, "one of the two superblocks"),
        (size - 4096, 4096, "one of the two superblocks"),
        (4096, 256 << 10, "one of the two namespace tables"),
        (260 << 10, 1 << 20, "copy 0 of root"),
        (size - (1284 << 10), 1 << 20, "copy 1 of root"),
    ] {
        let whole = bytes_at(&file, offset, len);
        file.write_all_at(&vec![0; len], offset).unwrap();
        let ended = place.check();
        assert!(ended.out.contains(says), "{}", ended.out);
        ended.failed(1, "no LBA is hurt");
        file.write_all_at(&whole, offset).unwrap();
        place.check().done();
    }
    // and with one whole end gone the pool is served, and well again after that
    file.write_all_at(&vec![0; 2 << 20], 0).unwrap();
    let daemon = place.serve();
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);
    assert_eq!(daemon.terminate(), 0);
    place.check().done();
}

/// A daemon that is killed while it writes the table leaves the first copy torn, or newer than the second, or the second
/// torn. Nobody can tell a torn copy from a damaged one, so nothing is called damage; after a clean stop it is.
#[test]
fn a_table_whose_write_was_cut_short_is_no_damage() {
    const TABLE: usize = 256 << 10;
    let place = Place::with_namespace();
    let file = place.medium();
    let second = file.metadata().unwrap().len() - (260 << 10);
    let daemon = place.serve();
    let older = bytes_at(&file, 4096, TABLE);
    place.on_pool("namespace create", ["other", "--size", "64M"]).done();
    let newer = bytes_at(&file, 4096, TABLE);
    assert_ne!(older, newer);
    assert_eq!(bytes_at(&file, second, TABLE), newer);
    daemon.kill();
    let torn = [&newer[..512], &older[512..]].concat();
    let put = |copies: [&[u8]; 2]| {
        file.write_all_at(copies[0], 4096).unwrap();
        file.write_all_at(copies[1], second).unwrap();
    };
    for copies in [[&torn, &older], [&newer, &older], [&newer, &torn]] {
        put(copies.map(Vec::as_slice));
        let out = place.check().done();
        assert!(out.contains("note: one of the two namespace tables"), "{out}");
    }
    // the second is never the newer one
    put([&older, &newer]);
    place.check().failed(1, "no LBA is hurt");
    put([&newer, &torn]);
    let daemon = place.serve();
    assert_eq!(daemon.terminate(), 0);
    assert!(!place.check().done().contains("namespace tables"));
    put([&newer, &torn]);
    place.check().failed(1, "no LBA is hurt");
}

#[test]
fn a_truncated_pool_is_refused() {
    let (place, _) = filled();
    place.medium().set_len(60 << 20).unwrap();
    place.check().failed(1, "truncated");
    place.serve_fails(&place.pool(), "truncated");
}

#[test]
fn what_is_where_is_shown() {
    let (place, _) = filled();
    let root = place.on_pool("dump root", []).done();
    assert!(root.contains("stopped cleanly  yes"), "{root}");
    let at = place.lba(5);
    let segment = at["at"]["segment"].to_string();
    let view: Value =
        serde_json::from_str(&place.on_pool("dump segment", [segment.as_str(), "--json"]).done()).unwrap();
    let records = view["records"].as_array().unwrap();
    let holds = |r: &&Value| r["kind"] == "write" && r["first_lba"] == at["fragment"]["first_lba"];
    let record = records.iter().find(holds).expect("the record is in its segment");
    assert_eq!((&record["byte"], &record["problem"]), (&at["at"]["byte"], &Value::Null));
    let byte = view["batches"][0]["byte"].to_string();
    let batch: Value =
        serde_json::from_str(&place.on_pool("dump batch", [segment.as_str(), &byte, "--json"]).done()).unwrap();
    assert_eq!(batch["records"].as_array().map(Vec::len).map(|n| n as u64), view["batches"][0]["records"].as_u64());
    assert_eq!(place.lba(60_000)["state"], "hole");
    place.on_pool("dump lba", ["db", "65536"]).failed(1, "namespace db has 65536");
    place.on_pool("dump lba", ["nobody", "0"]).failed(1, "it has: db");
    place.on_pool("dump segment", ["9999"]).failed(1, "segment 9999 of");
    place.on_pool("dump batch", [segment.as_str(), "16"]).failed(1, "batches start at: 0");
    place.on_pool("dump leaf", ["db", "128"]).failed(1, "the last of namespace db is 127");
}

/// Serves the pool if it can be served, and reads some of it: everything that is read is right.
fn never_wrong(place: &Place, bytes: &[u8]) {
    let daemon = place.serve();
    let (mut good, mut bad) = (0, 0);
    let step = bytes.len() as u64 / 4096 / 97;
    for (lba, found) in blocks(daemon.uri(), (0..97).map(|n| n * step)) {
        let at = usize::try_from(lba).unwrap() * 4096;
        match found {
            Some(found) if found == bytes[at..at + 4096] => good += 1,
            Some(_) => panic!("LBA {lba} returned wrong data"),
            None => bad += 1,
        }
    }
    assert!(good > 0 && bad > 0, "{good} good, {bad} bad");
}

#[test]
fn a_scrub_finds_what_is_hurt_and_mends_the_map() {
    let (place, bytes) = filled();
    let fragment = place.lba(3000);
    let leaf: Value = serde_json::from_str(&place.on_pool("dump leaf", ["db", "1", "--json"]).done()).unwrap();
    let daemon = place.serve();
    place.on_pool("scrub start", ["--wait", "--rate", "1G"]).done();
    let status: Value = serde_json::from_str(&place.on_pool("scrub status", ["--json"]).done()).unwrap();
    assert_eq!((&status["state"], &status["damaged"]), (&"done".into(), &0.into()));
    assert!(status["records"].as_u64() >= Some(1900), "{status}");

    // the whole map is in memory now: a damaged leaf is mended, a damaged fragment cannot be
    flip(&place.medium(), fragment["at"]["offset"].as_u64().unwrap() + 60);
    flip(&place.medium(), leaf["image"]["offset"].as_u64().unwrap() + 60);
    let ended = place.on_pool("scrub start", ["--wait", "--rate", "1G"]);
    assert!(ended.out.contains("leaf 1 of the map") && ended.out.contains("written anew"), "{}", ended.out);
    ended.failed(1, "2 damaged places");
    let status: Value = serde_json::from_str(&place.on_pool("scrub status", ["--json"]).out).unwrap();
    let hurt: Vec<_> = status["damage"].as_array().unwrap().iter().filter(|d| d["lbas"] != 0).collect();
    assert_eq!(hurt.len(), 1, "{status}");
    assert_eq!((&hurt[0]["namespace"], &hurt[0]["first_lba"]), (&"db".into(), &fragment["fragment"]["first_lba"]));

    // what is written anew is well again
    let first = fragment["fragment"]["first_lba"].as_u64().unwrap();
    let write = format!("write -P 0x11 {} 16384", first * 4096);
    let io = Command::new("qemu-io").args(["-f", "raw", "-c", &write, daemon.uri()]).output().unwrap();
    assert!(io.status.success());
    let (_, found) = blocks(daemon.uri(), first..=first).remove(0);
    assert_eq!(found, Some(vec![0x11; 4096]));
    assert_eq!(daemon.terminate(), 0);
    let report = place.check_json();
    let unused = |d: &Value| d["what"].as_str().unwrap().contains("nothing that is in use is hurt");
    assert!(report["damage"].as_array().unwrap().iter().all(unused), "{report}");
    let daemon = place.serve();
    let now = read(&place, daemon.uri(), bytes.len());
    assert_eq!(now[..usize::try_from(first).unwrap() * 4096], bytes[..usize::try_from(first).unwrap() * 4096]);
}

#[test]
fn a_scrub_keeps_its_rate_and_can_be_paused_and_stopped() {
    let (place, _) = filled();
    place.on_pool("scrub status", []).failed(1, "no daemon serves");
    let daemon = place.serve();
    let state = || {
        let out = place.on_pool("scrub status", ["--json"]).done();
        serde_json::from_str::<Value>(&out).unwrap()
    };
    assert_eq!(state()["state"], "never");
    place.on_pool("scrub pause", []).failed(1, "no scrub is on its way");
    place.on_pool("scrub start", ["--rate", "1M"]).done();
    place.on_pool("scrub start", []).failed(1, "a scrub is on its way");
    place.on_pool("scrub pause", []).done();
    let paused = state();
    assert_eq!(paused["state"], "paused");
    place.on_pool("scrub resume", []).done();
    assert_eq!(state()["state"], "running");
    assert!(place.on_pool("status", []).done().contains("scrub         running"));
    place.on_pool("scrub stop", []).done();
    let stopped = state();
    assert_eq!(stopped["state"], "stopped");
    // a few pieces of half a MiB at a megabyte a second, however slow the commands were
    assert!(stopped["bytes"].as_u64() < Some(16 << 20), "{stopped}");
    drop(daemon);
}
