//! The `plica` program as people use it: pools in files, served over NBD, killed, copied, damaged; and what it says and
//! exits with.

#[path = "common/program.rs"]
mod program;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use program::{BLOCK, Ended, Place, plica, read, sample, write};

#[test]
fn what_was_acknowledged_is_there_after_a_kill_and_after_a_stop() {
    let place = Place::with_namespace();
    let bytes = sample(24 << 20, 1);
    let daemon = place.serve();
    write(&place, daemon.uri(), &bytes);
    let status = place.status();
    assert_eq!((&status["served"], &status["serving"][0]["name"]), (&Value::Bool(true), &Value::from("db")));
    assert_eq!(status["pool"]["host_written"], 24 << 20);
    assert_eq!(place.staging_files().len(), 1);
    daemon.kill();

    let status = place.status();
    assert_eq!((&status["served"], &status["pool"]["clean"]), (&Value::Bool(false), &Value::Bool(false)));
    let daemon = place.serve();
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);
    assert_eq!(place.staging_files().len(), 1, "the old one has gone");
    let again = sample(8 << 20, 2);
    write(&place, daemon.uri(), &again);
    assert_eq!(place.on_pool("stop", []).done(), "stopped\n");
    assert_eq!(place.staging_files().len(), 0);

    assert_eq!(place.status()["pool"]["clean"], true);
    let daemon = place.serve();
    let now = read(&place, daemon.uri(), bytes.len());
    assert_eq!(now[..again.len()], again);
    assert_eq!(now[again.len()..], bytes[again.len()..]);
    assert_eq!(daemon.terminate(), 0, "SIGTERM is a clean stop");
    assert_eq!(place.status()["pool"]["clean"], true);
}

#[test]
fn namespaces_come_and_go_while_the_pool_is_served() {
    let place = Place::with_pool();
    let mut daemon = place.serve();
    assert_eq!(daemon.served, [""; 0]);
    let create = ["wal", "--size", "64M", "--unit", "8K", "--logical-block", "512", "--compression", "zstd"];
    let out = place.on_pool("namespace create", create).done();
    let line = out.lines().nth(1).unwrap().to_owned();
    assert!(line.starts_with("serving wal at nbd+unix:///wal?socket="), "{out}");
    daemon.served.push(line);
    let bytes = sample(1 << 20, 3);
    write(&place, daemon.uri(), &bytes);
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);

    place.on_pool("namespace create", create).failed(1, "there is a namespace \"wal\" already");
    let listed: Value = serde_json::from_str(&place.on_pool("namespace list", ["--json"]).done()).unwrap();
    assert_eq!(listed[0]["logical_block"], 512);
    assert_eq!((&listed[0]["unit"], &listed[0]["compression"]), (&Value::from(8192), &Value::from("zstd")));

    place.on_pool("namespace unserve", ["wal"]).done();
    place.on_pool("namespace unserve", ["wal"]).failed(1, "not served");
    assert!(place.on_pool("namespace serve", ["wal"]).done().starts_with("serving wal at "));
    place.on_pool("namespace serve", ["wal"]).failed(1, "served already");
    place.on_pool("namespace serve", ["none"]).failed(1, "no namespace \"none\"");

    place.on_pool("namespace destroy", ["wal"]).failed(2, "--yes");
    assert_eq!(place.on_pool("namespace destroy", ["wal", "--yes"]).done(), "namespace wal destroyed\n");
    place.on_pool("namespace destroy", ["wal", "--yes"]).failed(1, "no namespace \"wal\"");
    assert_eq!(place.on_pool("namespace list", ["--json"]).done(), "[]\n");
    place.on_pool("stop", []).done();
    place.on_pool("stop", []).failed(1, "no daemon serves");
}

#[test]
fn a_connected_client_keeps_a_namespace_from_being_destroyed() {
    let place = Place::with_namespace();
    let daemon = place.serve();
    // a destination that does not take what it is given keeps the connection open
    let mut client = Command::new("nbdcopy").args([daemon.uri(), "-"]).stdout(Stdio::piped()).spawn().unwrap();
    client.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    place.on_pool("namespace destroy", ["db", "--yes"]).failed(1, "in use by 1 NBD client");
    place.on_pool("namespace unserve", ["db"]).failed(1, "in use by");
    place.on_pool("stop", []).failed(1, "--force");
    client.kill().unwrap();
    client.wait().unwrap();
    place.on_pool("stop", ["--force"]).done();
}

#[test]
fn only_one_daemon_serves_a_pool() {
    let place = Place::with_namespace();
    let daemon = place.serve();
    place.serve_fails(&place.pool(), "already served");
    let mut elsewhere = place.serving(&place.pool());
    let elsewhere = elsewhere.arg("--run-dir").arg(place.memory.path().join("other"));
    Ended::of(elsewhere.output().unwrap()).failed(2, "cannot be used multiple times");
    let other = place.memory.path().join("other");
    let key = place.key();
    let args = ["serve", &place.pool(), "--root-key", &key, "--transport", "nbd", "--run-dir", other.to_str().unwrap()];
    place.plica(args).failed(1, "already in use by");
    // without the run directory there is no daemon to be found, but the pool is not touched
    let args = ["namespace", "create", &place.pool(), "x", "--size", "1M", "--root-key", &key, "--run-dir"];
    place.plica(args.into_iter().chain([other.to_str().unwrap()])).failed(1, "--run-dir");
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn a_copy_made_after_a_kill_is_not_served() {
    let place = Place::with_namespace();
    let bytes = sample(1 << 20, 4);
    let daemon = place.serve();
    write(&place, daemon.uri(), &bytes);
    daemon.kill();
    std::fs::copy(place.path("pool"), place.path("copy")).unwrap();
    place.serve_fails(&place.text("copy"), "copied after a kill");
    // and the attempt did no harm to the original
    let daemon = place.serve();
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);
    // while it is served, commands for the copy are not carried out on the original
    place.on(&place.text("copy"), "namespace destroy", ["db", "--yes"]).failed(1, "one of the two is a copy");
    place.serve_fails(&place.text("copy"), "already served");
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn lost_staging_memory_is_refused_in_the_same_boot() {
    let place = Place::with_namespace();
    let daemon = place.serve();
    write(&place, daemon.uri(), &sample(1 << 20, 5));
    daemon.kill();
    let [file] = <[PathBuf; 1]>::try_from(place.staging_files()).unwrap();
    let hidden = place.path("hidden");
    std::fs::copy(&file, &hidden).unwrap();
    std::fs::remove_file(&file).unwrap();
    place.serve_fails(&place.pool(), "staging file");
    let key = place.key();
    place.on_pool("namespace create", ["x", "--size", "1M", "--root-key", &key]).failed(1, "staging file");
    // cut off
    std::fs::write(&file, &std::fs::read(&hidden).unwrap()[..1 << 20]).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    place.serve_fails(&place.pool(), "staging file: size");
    // put back
    std::fs::copy(&hidden, &file).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(place.serve().terminate(), 0);
}

#[test]
fn staging_memory_of_another_pool_or_serve_is_refused() {
    let (place, other) = (Place::with_namespace(), Place::with_namespace());
    let bytes = sample(1 << 20, 6);
    let killed = |place: &Place| {
        let daemon = place.serve();
        write(place, daemon.uri(), &bytes);
        daemon.kill();
        let [file] = <[PathBuf; 1]>::try_from(place.staging_files()).unwrap();
        file
    };
    let older = std::fs::read(killed(&place)).unwrap();
    let file = killed(&place);
    let own = std::fs::read(&file).unwrap();
    let foreign = std::fs::read(killed(&other)).unwrap();
    for content in [older, foreign] {
        std::fs::write(&file, content).unwrap();
        place.serve_fails(&place.pool(), "belongs to another pool file, boot or serve");
    }
    // put back
    std::fs::write(&file, own).unwrap();
    let daemon = place.serve();
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn staging_memory_of_another_boot_is_refused() {
    let place = Place::with_namespace();
    let daemon = place.serve();
    write(&place, daemon.uri(), &sample(1 << 20, 9));
    daemon.kill();
    let [path] = <[PathBuf; 1]>::try_from(place.staging_files()).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut header = [0; 128];
    file.read_exact_at(&mut header, 0).unwrap();
    let own = header;
    // the boot; a header whose checksum is good
    header[40] ^= 1;
    file.write_all_at(&header, 0).unwrap();
    place.serve_fails(&place.pool(), "checksum");
    let check = xxhash_rust::xxh3::xxh3_64(&header[..120]).to_le_bytes();
    header[120..].copy_from_slice(&check);
    file.write_all_at(&header, 0).unwrap();
    place.serve_fails(&place.pool(), "belongs to another pool file, boot or serve");
    file.write_all_at(&own, 0).unwrap();
    assert_eq!(place.serve().terminate(), 0);
}

#[test]
fn a_pool_put_back_to_an_older_moment_is_refused_while_its_last_serve_is_remembered() {
    let place = Place::with_namespace();
    let (first, second) = (sample(1 << 20, 10), sample(1 << 20, 11));
    let daemon = place.serve();
    write(&place, daemon.uri(), &first);
    assert_eq!(daemon.terminate(), 0);
    let backup = std::fs::read(place.pool()).unwrap();
    let daemon = place.serve();
    write(&place, daemon.uri(), &second);
    daemon.kill();
    let newer = std::fs::read(place.pool()).unwrap();

    // the same file with older content: a clean pool, as far as it knows
    std::fs::write(place.pool(), &backup).unwrap();
    place.serve_fails(&place.pool(), "is at an older moment than its last serve");
    let key = place.key();
    place.on_pool("namespace create", ["x", "--size", "1M", "--root-key", &key]).failed(1, "at an older moment");
    assert_eq!(std::fs::read(place.pool()).unwrap(), backup, "nothing was changed");
    // the newer state is put back
    std::fs::write(place.pool(), &newer).unwrap();
    let daemon = place.serve();
    assert_eq!(read(&place, daemon.uri(), second.len()), second);
    write(&place, daemon.uri(), &second);
    daemon.kill();
    // the old one, on purpose
    std::fs::write(place.pool(), &backup).unwrap();
    let [file] = <[PathBuf; 1]>::try_from(place.staging_files()).unwrap();
    std::fs::remove_file(file).unwrap();
    let daemon = place.serve();
    assert_eq!(read(&place, daemon.uri(), first.len()), first);
    assert_eq!(daemon.terminate(), 0);
}

#[test]
fn a_wrong_key_touches_nothing() {
    let place = Place::with_namespace();
    let other = place.text("other-key");
    place.plica(["key", "generate", &other]).done();
    let before = std::fs::read(place.path("pool")).unwrap();
    place.on_pool("serve", ["--transport", "nbd", "--root-key", &other]).failed(1, "not the root key");
    place.on_pool("namespace create", ["x", "--size", "1M", "--root-key", &other]).failed(1, "not the root key");
    place.on_pool("namespace create", ["x", "--size", "1M"]).failed(2, "--root-key");
    place.on_pool("serve", ["--transport", "nbd", "--root-key", &place.text("none")]).failed(1, "none");
    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o644)).unwrap();
    place.on_pool("serve", ["--transport", "nbd", "--root-key", &other]).failed(1, "chmod 600");
    assert!(std::fs::read(place.path("pool")).unwrap() == before, "the pool is as it was");
    place.plica(["key", "generate", &other]).failed(1, "exists");
}

#[test]
fn passphrases_come_from_a_descriptor_and_never_from_the_line() {
    let place = Place::new();
    let pool = place.pool();
    let with = |passphrase: &str, args: &[&str]| {
        let mut command = Command::new(plica());
        let mut child = command
            .args(args)
            .args(["--passphrase-fd", "0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // one that refuses before it reads is fine
        let _ = writeln!(child.stdin.take().unwrap(), "{passphrase}");
        Ended::of(child.wait_with_output().unwrap())
    };
    with("correct horse", &["create", &pool, "--size", "64M"]).done();
    let run = place.run_dir();
    let create = ["namespace", "create", &pool, "db", "--size", "1M", "--run-dir", run.to_str().unwrap()];
    with("wrong horse", &create).failed(1, "not the root key");
    with("", &create).failed(1, "empty");
    place.plica(create.into_iter().chain(["--root-key", &place.key()])).failed(1, "comes from a passphrase");
    with("correct horse", &create).done();
    let args = ["create", &place.text("p2"), "--size", "64M", "--passphrase"];
    // without a terminal of its own
    let mut command = Command::new("setsid");
    Ended::of(command.arg(plica()).args(args).stdin(Stdio::null()).output().unwrap()).failed(2, "--passphrase-fd");
    assert!(!place.path("p2").exists());
}

#[test]
fn media_that_hold_something_are_refused() {
    let place = Place::with_pool();
    let (key, pool) = (place.key(), place.pool());
    place.plica(["create", &pool, "--root-key", &key]).failed(1, "holds Plica pool");
    let image = place.text("image");
    File::create_new(&image).unwrap().set_len(64 << 20).unwrap();
    let made = Command::new("/sbin/mkfs.ext4").args(["-q", "-F", &image]).status();
    assert!(made.expect("mkfs.ext4 is needed (package e2fsprogs)").success());
    place.plica(["create", &image, "--root-key", &key]).failed(1, "an ext4 filesystem");
    place.plica(["create", &image, "--root-key", &key, "--size", "128M"]).failed(2, "used whole");
    place.plica(["create", &image, "--root-key", &key, "--force"]).done();
    place.plica(["create", &image, "--root-key", &key]).failed(1, "holds Plica pool");
    // a pool whose first superblock is damaged is still one
    OpenOptions::new().write(true).open(&image).unwrap().write_all_at(&[0; 4096], 0).unwrap();
    place.plica(["create", &image, "--root-key", &key]).failed(1, "holds Plica pool");
}

#[test]
fn a_prepared_pool_has_its_space_from_the_start() {
    let place = Place::new();
    let (key, pool) = (place.key(), place.pool());
    let written = || std::fs::metadata(place.path("pool")).unwrap().blocks() * 512;
    place.plica(["create", &pool, "--size", "64M", "--root-key", &key]).done();
    assert!(written() < 4 << 20, "{} bytes are taken", written());
    place.plica(["create", &pool, "--root-key", &key, "--force", "--prepare"]).done();
    assert!(written() > 56 << 20, "{} bytes are taken", written());
    place.on_pool("namespace create", ["db", "--size", "64M", "--root-key", &key]).done();
    let bytes = sample(8 << 20, 5);
    let daemon = place.serve();
    write(&place, daemon.uri(), &bytes);
    assert_eq!(read(&place, daemon.uri(), bytes.len()), bytes);
}

#[test]
fn sizes_that_do_not_work_leave_nothing() {
    let place = Place::new();
    let (key, pool) = (place.key(), place.pool());
    place.plica(["create", &pool, "--root-key", &key]).failed(2, "--size");
    place.plica(["create", &pool, "--size", "100000001", "--root-key", &key]).failed(2, "nearest: 97656K and 97660K");
    place.plica(["create", &pool, "--size", "8M", "--root-key", &key]).failed(1, "too small");
    place.plica(["create", "/dev/null", "--root-key", &key]).failed(1, "neither a regular file nor a block device");
    assert!(!place.path("pool").exists());
    place.plica(["status", &pool]).failed(1, "No such file");
    place.plica(["status", &key]).failed(1, "no Plica superblock");
    let missing = place.text("no/such/directory/pool");
    place.plica(["create", &missing, "--size", "64M", "--root-key", &key]).failed(1, "No such file");
}

#[test]
fn one_damaged_superblock_is_repaired_and_two_are_refused() {
    let place = Place::with_namespace();
    let file = OpenOptions::new().read(true).write(true).open(place.path("pool")).unwrap();
    let last = file.metadata().unwrap().len() - BLOCK;
    let mut good = [0; 4096];
    file.read_exact_at(&mut good, 0).unwrap();
    for at in [0, last] {
        file.write_all_at(b"damage", at + 100).unwrap();
        let output = Ended::of(place.serving(&place.pool()).arg("nosuch").output().unwrap());
        output.failed(1, "superblock was repaired");
        let mut copy = [0; 4096];
        file.read_exact_at(&mut copy, at).unwrap();
        assert!(copy == good, "repaired at {at}");
    }
    for at in [0, last] {
        file.write_all_at(b"damage", at + 100).unwrap();
    }
    place.serve_fails(&place.pool(), "superblock");
    place.on_pool("status", []).failed(1, "superblock");
    // truncated
    file.write_all_at(&good, 0).unwrap();
    file.set_len(last / 2).unwrap();
    place.serve_fails(&place.pool(), "truncated");
}

#[test]
fn unknown_namespaces_and_wrong_transports_are_named() {
    let place = Place::with_namespace();
    let named = Ended::of(place.serving(&place.pool()).args(["db", "nosuch"]).output().unwrap());
    assert!(!named.out.contains("serving"), "nothing is served before all names are known: {}", named.out);
    named.failed(1, "no namespace \"nosuch\" in this pool; it has: db");
    let key = place.key();
    let both = ["--root-key", &key, "--transport", "ublk", "--nbd-socket", "/tmp/x"];
    place.on_pool("serve", both).failed(2, "--nbd-socket");
    if !Path::new("/dev/ublk-control").exists() {
        place.on_pool("serve", ["--root-key", &key, "--transport", "ublk"]).failed(1, "modprobe ublk_drv");
    }
    assert_eq!(place.status()["pool"]["clean"], true, "a failed start ends cleanly");
}

#[test]
fn a_run_directory_that_is_too_small_or_open_to_others_is_refused() {
    let place = Place::with_namespace();
    let run = place.run_dir();
    std::fs::set_permissions(&run, PermissionsExt::from_mode(0o777)).unwrap();
    place.serve_fails(&place.pool(), "others may write");
    std::fs::set_permissions(&run, PermissionsExt::from_mode(0o700)).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    if rustix::mount::mount("tmpfs", &run, "tmpfs", flags, Some(c"size=8m,mode=700")).is_err() {
        eprintln!("the small tmpfs is not tested: mounting is not allowed here");
        return;
    }
    let output = Ended::of(place.serving(&place.pool()).output().unwrap());
    let left = place.staging_files();
    rustix::mount::unmount(&run, rustix::mount::UnmountFlags::DETACH).unwrap();
    output.failed(1, "no room in");
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_eq!(place.serve().terminate(), 0, "the pool is unharmed");
}

#[test]
fn output_whose_reader_has_gone_is_no_failure() {
    let place = Place::with_namespace();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(plica()).args(["status", &place.pool()]).stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn pools_and_namespaces_grow_while_they_are_served_and_afterwards() {
    let place = Place::with_namespace();
    place.on_pool("status", ["--check"]).failed(1, "nobody serves the pool");
    let before = std::fs::metadata(place.pool()).unwrap().len();
    let daemon = place.serve();
    place.on_pool("status", ["--check"]).done();
    let bytes = sample(4 << 20, 7);
    write(&place, daemon.uri(), &bytes);
    let grown = (before + (64 << 20)).to_string();
    place.on_pool("grow", ["1M"]).failed(2, "pools do not shrink");
    assert!(place.on_pool("grow", [grown.as_str()]).done().starts_with("the pool has "));
    assert_eq!(place.status()["pool"]["pool_bytes"], before + (64 << 20));
    place.on_pool("grow", []).failed(1, "would gain none");

    let resized = place.on_pool("namespace resize", ["db", "--size", "3G", "--json"]).done();
    assert_eq!(serde_json::from_str::<Value>(&resized).unwrap()["size"], 3_u64 << 30);
    place.on_pool("namespace resize", ["db", "--size", "1M"]).failed(1, "--force");
    daemon.kill();

    let key = place.key();
    let again = (before + (128 << 20)).to_string();
    place.on_pool("grow", [again.as_str(), "--root-key", &key]).done();
    let forced = ["db", "--size", "2M", "--force", "--root-key", &key];
    assert_eq!(place.on_pool("namespace resize", forced).done(), "namespace db has 2M now\n");
    place.on_pool("check", []).done();
    let daemon = place.serve();
    assert_eq!(place.status()["pool"]["pool_bytes"], before + (128 << 20));
    assert_eq!(read(&place, daemon.uri(), 2 << 20), bytes[..2 << 20]);
    assert_eq!(daemon.terminate(), 0);
}
