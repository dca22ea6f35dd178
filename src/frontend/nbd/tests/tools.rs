//! What people use: each tool that is installed must work. A tool that is not there is said so and passed over.

use std::path::Path;
use std::process::Command;

use super::Harness;

/// Runs a tool and returns what it prints, or nothing if it is not installed.
fn run(command: &str, arguments: &[&str]) -> Option<String> {
    let output = match Command::new(command).args(arguments).output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("{command} is not installed: passed over");
            return None;
        }
        Err(e) => panic!("{command}: {e}"),
    };
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {arguments:?}: {}\n{printed}{errors}", output.status);
    Some(printed)
}

fn uri(path: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", path.display())
}

/// Half noise, half zeros, so that holes are worth something.
fn image(path: &Path, len: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = vec![0; len];
    for (i, block) in content.chunks_mut(4096).enumerate() {
        if i % 64 < 32 {
            block.iter_mut().for_each(|byte| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state.to_le_bytes()[0];
            });
        }
    }
    std::fs::write(path, content).unwrap();
}

#[test]
fn nbdinfo_shows_what_there_is() {
    let harness = Harness::with_blocks(super::SIZE, 512);
    let Some(info) = run("nbdinfo", &[&uri(harness.path(), "disk")]) else { return };
    for expected in [
        "export-size: 67108864",
        "can_multi_conn: true",
        "can_fua: true",
        "can_trim: true",
        "can_zero: true",
        "can_flush: true",
        "base:allocation",
        "block_size_minimum: 512",
        "block_size_preferred: 4096",
    ] {
        assert!(info.contains(expected), "{expected:?} in {info}");
    }
    let list = run("nbdinfo", &["--list", &uri(harness.path(), "")]).unwrap();
    assert!(list.contains("export=\"disk\""), "{list}");
}

#[test]
fn nbdcopy_there_and_back() {
    let harness = Harness::start();
    let directory = harness.path().parent().unwrap();
    let (source, copy) = (directory.join("source"), directory.join("copy"));
    image(&source, super::SIZE);
    let uri = uri(harness.path(), "disk");
    if run("nbdcopy", &["--flush", source.to_str().unwrap(), &uri]).is_none() {
        return;
    }
    run("nbdcopy", &[&uri, copy.to_str().unwrap()]).unwrap();
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&copy).unwrap(), "the copy is the source");
    let map = run("nbdinfo", &["--map", "--totals", &uri]).unwrap();
    assert!(map.contains("33554432"), "half of it are holes: {map}");
}

#[test]
fn qemu_writes_reads_and_compares() {
    let harness = Harness::start();
    let directory = harness.path().parent().unwrap();
    let source = directory.join("source");
    image(&source, super::SIZE);
    let uri = uri(harness.path(), "disk");
    let convert = ["convert", "-n", "-f", "raw", "-O", "raw", source.to_str().unwrap(), &uri];
    if run("qemu-img", &convert).is_none() {
        return;
    }
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", source.to_str().unwrap(), &uri]).unwrap();
    let script = [
        "-f",
        "raw",
        "-c",
        "write -P 0x5a 1M 3M",
        "-c",
        "flush",
        "-c",
        "read -P 0x5a 1M 3M",
        "-c",
        "write -z 2M 1M",
        "-c",
        "read -P 0 2M 1M",
        "-c",
        "discard 1M 1M",
        "-c",
        "write -f -P 7 0 4k",
        "-c",
        "read -P 7 0 4k",
        &uri,
    ];
    if let Some(printed) = run("qemu-io", &script) {
        assert!(!printed.contains("failed"), "{printed}");
    }
}

#[test]
fn fio_verifies_what_it_wrote() {
    let harness = Harness::start();
    let uri = format!("--uri={}", uri(harness.path(), "disk"));
    let arguments = [
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bsrange=4k-128k",
        "--size=32m",
        "--iodepth=32",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--fsync=64",
    ];
    if let Some(printed) = run("fio", &arguments) {
        assert!(printed.contains("err= 0"), "{printed}");
    }
}
