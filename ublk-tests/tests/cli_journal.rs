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
    daemon.kill();

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
    let journal = format!("{}:16M", place.text("journal"));
    let add = ["--journal", &journal, "--journal-volatile"];
    let daemon = place.serve();
    place.on_pool("journal add", add).failed(1, "is served");
    daemon.terminate();
    assert!(place.on_pool("journal add", add).done().contains("added"));
    place
        .on_pool("journal add", ["--journal", &place.text("journal"), "--journal-volatile", "--force"])
        .failed(1, "already");
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
