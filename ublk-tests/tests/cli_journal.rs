//! `plica` with a journal: made, served, killed, moved, drained, taken away; and what is refused.

#[path = "common/program.rs"]
mod program;

use program::{Place, nbdcopy, read, sample};

/// Writes in requests of 4 KiB, with a flush at the end.
fn write_small(place: &Place, uri: &str, bytes: &[u8]) {
    let file = place.text("written");
    std::fs::write(&file, bytes).expect("a file beside the pool");
    nbdcopy(&["--request-size=4096", "--requests=1", "--connections=1", "--flush", &file, uri]);
}

fn place_with_journal() -> Place {
    let place = Place::new();
    let (pool, key, journal) = (place.pool(), place.key(), place.text("journal"));
    let journal = format!("{journal}:16M");
    let args = ["create", &pool, "--size", "96M", "--root-key", &key, "--journal", &journal, "--journal-volatile"];
    place.plica(args).done();
    place.on_pool("namespace create", ["db", "--size", "64M", "--root-key", &key]).done();
    place
}

#[test]
fn a_journal_survives_a_kill_and_may_move() {
    let place = place_with_journal();
    let bytes = sample(512 << 10, 1);
    let daemon = place.serve();
    for _ in 0..3 {
        write_small(&place, daemon.uri(), &bytes);
    }
    let status = place.status();
    let figures = &status["pool"]["namespaces"][0]["journal"];
    assert!(figures["acknowledged"].as_u64() > Some(512 << 10) && figures["died"].as_u64() > Some(0), "{figures}");
    let text = place.on_pool("status", []).done();
    assert!(text.contains("JOURNAL OF") && text.contains("in the journal"), "{text}");
    assert!(text.contains(" %)"), "what share died, and what share was destaged: {text}");
    let heat: serde_json::Value =
        serde_json::from_str(&place.on_pool("journal heat", ["--json"]).done()).expect("JSON");
    let range = &heat[0];
    assert_eq!((&range["namespace"], &range["first_lba"], &range["lbas"]), (&"db".into(), &0.into(), &512.into()));
    assert!(range["acknowledged"] == figures["acknowledged"] && range["died"] == figures["died"], "{heat} {figures}");
    let text = place.on_pool("journal heat", []).done();
    assert!(text.contains("NAMESPACE") && text.contains("0..512"), "{text}");
    daemon.kill();
    place.on_pool("journal heat", []).failed(1, "nobody serves");

    std::fs::rename(place.path("journal"), place.path("moved")).expect("it is a file");
    place.serve_fails(&place.pool(), "--accept-journal-loss");
    std::fs::rename(place.path("moved"), place.path("journal")).expect("it is a file");
    let daemon = place.serve();
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);
    assert_eq!(place.on_pool("journal drain", []).done(), "the journal is empty\n");
    assert_eq!(place.status()["pool"]["journal"]["resident"], 0);
    place.on_pool("journal remove", []).done();
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);
    place.on_pool("stop", []).done();

    std::fs::remove_file(place.path("journal")).expect("nobody needs it");
    let daemon = place.serve();
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn a_pool_is_given_a_journal_and_gives_it_up() {
    let place = Place::with_namespace();
    let journal = format!("{}:32M", place.text("journal"));
    let add = ["--journal", &journal, "--journal-volatile"];
    assert!(place.on_pool("journal add", add).done().contains("added"));
    place
        .on_pool("journal add", ["--journal", &place.text("journal"), "--journal-volatile", "--force"])
        .failed(1, "already");
    let (key, another) = (place.key(), place.text("journal"));
    place.plica(["create", &another, "--root-key", &key]).failed(1, "holds the journal of a Plica pool");
    let bytes = sample(256 << 10, 2);
    let daemon = place.serve();
    for _ in 0..3 {
        write_small(&place, daemon.uri(), &bytes);
    }
    daemon.terminate();
    std::fs::remove_file(place.path("journal")).expect("it is lost");
    place.serve_fails(&place.pool(), "At stake in namespace db");
    let output =
        place.serving(&place.pool()).arg("--accept-journal-loss").arg("none").output().expect("it ends by itself");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("are lost") && text.contains("no namespace \"none\""), "{text}");
    assert_eq!(place.serve().terminate(), 0, "the pool has no journal any more");
}

#[test]
fn a_pool_that_is_served_is_given_journals() {
    let place = Place::with_namespace();
    let bytes = sample(256 << 10, 5);
    let daemon = place.serve();
    let add = |journal: &str| place.on_pool("journal add", ["--journal", journal, "--journal-volatile"]);
    // refused, and the pool goes on without one
    add(&place.text("none")).failed(2, "PATH:SIZE");
    add(&format!("{}:1M", place.text("small"))).failed(1, "too small");
    assert!(!place.path("small").exists(), "a file that was made for nothing goes");
    std::fs::write(place.path("full"), vec![1; 8 << 20]).expect("a file beside the pool");
    add(&place.text("full")).failed(1, "--force");
    add(&place.pool()).failed(1, "in use");
    assert!(place.status()["pool"]["journal"].is_null());

    // a file beside the pool, by whatever it is on; then, if there is one, in memory; the file again
    let memory = tempfile::NamedTempFile::new_in("/dev/shm").ok();
    let mut journals = vec![format!("{}:16M", place.text("journal"))];
    if let Some(memory) = &memory {
        memory.as_file().set_len(16 << 20).expect("memory");
        let path = memory.path().to_str().expect("a path of ours");
        place.on_pool("journal add", ["--journal", path]).failed(1, "--journal-volatile");
        journals.push(path.to_owned());
    }
    let count = journals.len();
    for (at, journal) in journals.iter().enumerate() {
        let added = add(journal).done();
        assert!(added.starts_with("journal ") && added.ends_with(") added\n"), "{added}");
        add(&place.text("full")).failed(1, "already");
        for _ in 0..3 {
            write_small(&place, daemon.uri(), &bytes);
        }
        let figures = &place.status()["pool"]["journal"];
        assert!(figures["resident"].as_u64() > Some(0) && figures["written"].as_u64() > Some(0), "{figures}");
        if at + 1 < count {
            place.on_pool("journal remove", []).done();
        }
    }
    daemon.kill();
    let daemon = place.serve();
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);
    // the daemon has let go of what it took away
    place.on_pool("journal remove", []).done();
    place.on_pool("journal add", ["--journal", &place.text("journal"), "--journal-volatile", "--force"]).done();
    write_small(&place, daemon.uri(), &bytes);
    let text = place.on_pool("status", []).done();
    assert!(text.contains("PAST THE JOURNAL") && text.contains("ZEROS"), "{text}");
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);
    assert_eq!(daemon.terminate(), 0);
    assert!(place.on_pool("check", []).done().contains("fragments in use"));
}

#[test]
fn what_makes_no_journal_is_refused() {
    let place = Place::with_pool();
    let small = format!("{}:1M", place.text("small"));
    place.on_pool("journal add", ["--journal", &small, "--journal-volatile"]).failed(1, "too small");
    place.on_pool("journal add", ["--journal", &place.text("none")]).failed(2, "PATH:SIZE");
    std::fs::write(place.path("full"), vec![1; 8 << 20]).expect("a file beside the pool");
    place.on_pool("journal add", ["--journal", &place.text("full"), "--journal-volatile"]).failed(1, "--force");
    place.on_pool("journal drain", ["--root-key", &place.key()]).failed(1, "no journal");
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() {
        let file = tempfile::NamedTempFile::new_in(memory).expect("memory");
        file.as_file().set_len(8 << 20).expect("memory");
        let path = file.path().to_str().expect("a path of ours");
        place.on_pool("journal add", ["--journal", path]).failed(1, "--journal-volatile");
        place.on_pool("journal add", ["--journal", path, "--journal-volatile"]).done();
    }
}

/// The LBAs of the namespace that are in the journal, with the byte of each on it.
fn on_journal(place: &Place, lbas: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    let at = |lba: u64| {
        let out = place.on_pool("dump lba", ["db", &lba.to_string(), "--json"]).done();
        let view: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        let at = &view["at"];
        (at["journal"] == true).then(|| (lba, at["offset"].as_u64().expect("a number")))
    };
    lbas.filter_map(at).collect()
}

fn check_json(place: &Place) -> serde_json::Value {
    serde_json::from_str(&place.on_pool("check", ["--json"]).out).expect("JSON")
}

#[test]
fn damage_in_the_journal_is_named_by_check_scrub_and_dump() {
    let place = place_with_journal();
    let bytes = sample(512 << 10, 3);
    let daemon = place.serve();
    for _ in 0..3 {
        write_small(&place, daemon.uri(), &bytes);
    }
    daemon.kill();
    // after a kill too, with all that is replayed
    let report = check_json(&place);
    assert_eq!(report["damage"].as_array().map(Vec::len), Some(0), "{report}");
    assert!(report["totals"]["journal_blocks"].as_u64() > Some(64), "{report}");
    assert_eq!(place.serve().terminate(), 0);
    assert!(place.on_pool("check", []).done().contains("fragments in use"));

    let found = on_journal(&place, 100..128);
    let (lba, offset) = found[found.len() / 2];
    let (segment, byte) = (offset / (256 << 10) - 1, offset % (256 << 10));
    let path = place.path("journal");
    let whole = std::fs::read(&path).expect("a file");
    let damage = |at: u64| {
        let mut bytes = whole.clone();
        bytes[usize::try_from(at).expect("small")] ^= 0x10;
        std::fs::write(&path, bytes).expect("a file");
    };
    // 1. a flipped bit in a fragment
    damage(offset + 60);
    let report = check_json(&place);
    let told = report["damage"].as_array().expect("a list");
    let of_lba = |d: &&serde_json::Value| d["namespace"] == "db" && d["first_lba"] == lba && d["journal"] == true;
    assert!(told.len() == 1 && told.iter().all(|d| of_lba(&d)), "{report}");
    assert_eq!((&told[0]["segment"], &told[0]["byte"]), (&segment.into(), &byte.into()));
    place.on_pool("check", []).failed(1, "1 LBAs cannot be read");
    let dump = place.on_pool("dump segment", [&segment.to_string(), "--tier", "0"]).done();
    assert!(dump.contains("of the journal") && dump.contains("check is"), "{dump}");
    let daemon = place.serve();
    let scrub = place.on_pool("scrub start", ["--wait"]);
    assert!(scrub.out.contains(&format!("segment {segment} of the journal at byte {byte}")), "{}", scrub.out);
    scrub.failed(1, "1 damaged");
    place.on_pool("journal drain", []).failed(1, "damaged and stay there");
    daemon.terminate();

    // 2. the pool has moved on: its journal as it was is an older state
    std::fs::write(&path, &whole).expect("a file");
    let told = place.on_pool("check", []);
    assert!(told.out.contains("older state"), "{}", told.out);
    told.failed(1, "no LBA is hurt");
}

#[test]
fn a_journal_that_is_missing_or_torn_when_it_was_added() {
    let place = Place::with_namespace();
    assert_eq!(place.serve().terminate(), 0);
    let pool = |bytes: &[u8]| std::fs::write(place.path("pool"), bytes).expect("a file");
    let old = std::fs::read(place.path("pool")).expect("a file");
    let journal = format!("{}:16M", place.text("journal"));
    // the second copy is written before the first; each is torn in turn
    for (first, second, has_journal) in [("old", "torn", false), ("old", "new", true), ("torn", "new", true)] {
        place.on_pool("journal add", ["--journal", &journal, "--journal-volatile"]).done();
        let mut cut = std::fs::read(place.path("pool")).expect("a file");
        let end = cut.len();
        for (range, what) in [(0..4096, first), (end - 4096..end, second)] {
            let changed = match what {
                "old" => 4096,
                "torn" => 4096 - 512,
                _ => 0,
            };
            // the sectors that did not land are the last ones
            let keeps = range.end - changed..range.end;
            cut[keeps.clone()].copy_from_slice(&old[keeps]);
        }
        pool(&cut);
        let told = place.on_pool("check", []).done();
        assert!(told.contains("one of the two superblocks") && told.contains("was cut short"), "{told}");
        let daemon = place.serve();
        assert_eq!(place.status()["pool"]["journal"].is_object(), has_journal);
        assert_eq!(daemon.terminate(), 0);
        let told = place.on_pool("check", []).done();
        assert!(!told.contains("superblock"), "it is repaired: {told}");
        std::fs::remove_file(place.path("journal")).expect("a file");
        pool(&old);
    }
    place.on_pool("journal add", ["--journal", &journal, "--journal-volatile"]).done();
    std::fs::remove_file(place.path("journal")).expect("it is lost");
    place.on_pool("check", []).failed(1, "damaged places");
    let report = check_json(&place);
    assert!(report["damage"][0]["what"].as_str().is_some_and(|what| what.contains("cannot be used")), "{report}");
}
