//! The `plica` program under test: its files, its daemon, what it says and exits with.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub(crate) const BLOCK: u64 = 4096;

/// The program, built when it is not up to date.
pub(crate) fn plica() -> PathBuf {
    ublk_tests::binaries::build_plica().unwrap()
}

/// Files of one test: a key, a pool, a run directory in memory.
pub(crate) struct Place {
    pub(crate) files: tempfile::TempDir,
    pub(crate) memory: tempfile::TempDir,
}

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A daemon in the background.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) served: Vec<String>,
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The command did what it was told.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, 0, "{}", self.err);
        self.out
    }

    /// It did not, with this exit code, and said so.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, says: &str) {
        assert_eq!(self.code, code, "{}", self.err);
        assert!(self.err.contains(says), "expected {says:?} in {:?}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let memory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let place = Self { files: tempfile::tempdir().unwrap(), memory: memory.unwrap() };
        place.plica(["key", "generate", &place.key()]).done();
        place
    }

    pub(crate) fn with_pool() -> Self {
        let place = Self::new();
        place.plica(["create", &place.pool(), "--size", "96M", "--root-key", &place.key()]).done();
        place
    }

    /// A pool with one namespace, `db`.
    pub(crate) fn with_namespace() -> Self {
        let place = Self::with_pool();
        place.on_pool("namespace create", ["db", "--size", "256M", "--root-key", &place.key()]).done();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn key(&self) -> String {
        self.text("key")
    }

    pub(crate) fn pool(&self) -> String {
        self.text("pool")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.memory.path().join("run")
    }

    pub(crate) fn plica<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Ended {
        Ended::of(Command::new(plica()).args(args).stdin(Stdio::null()).output().unwrap())
    }

    /// `plica WORDS POOL ARGS --run-dir …`.
    pub(crate) fn on_pool<'a>(&self, words: &str, args: impl IntoIterator<Item = &'a str>) -> Ended {
        self.on(&self.pool(), words, args)
    }

    pub(crate) fn on<'a>(&self, pool: &str, words: &str, args: impl IntoIterator<Item = &'a str>) -> Ended {
        let mut command = Command::new(plica());
        command.args(words.split(' ')).arg(pool).args(args).arg("--run-dir").arg(self.run_dir());
        Ended::of(command.stdin(Stdio::null()).output().unwrap())
    }

    pub(crate) fn serving(&self, pool: &str) -> Command {
        let mut command = Command::new(plica());
        command.args(["serve", pool, "--root-key", &self.key(), "--transport", "nbd"]);
        command.arg("--run-dir").arg(self.run_dir()).stdin(Stdio::null());
        command
    }

    pub(crate) fn serve(&self) -> Daemon {
        let child = self.serving(&self.pool()).stdout(Stdio::piped()).spawn().unwrap();
        let mut daemon = Daemon { child, served: Vec::new() };
        for line in BufReader::new(daemon.child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if line == "ready" {
                return daemon;
            }
            // who hears of a namespace may send a command at once
            assert!(self.listens(), "{line}, but no control socket");
            daemon.served.push(line);
        }
        panic!("plica serve ended: {:?}", daemon.child.wait().unwrap());
    }

    /// There is a control socket in the run directory.
    fn listens(&self) -> bool {
        let mut entries = self.run_dir().read_dir().unwrap().map(|entry| entry.unwrap().path());
        entries.any(|path| path.extension().is_some_and(|extension| extension == "sock"))
    }

    /// Serves, and expects that to fail.
    pub(crate) fn serve_fails(&self, pool: &str, says: &str) {
        Ended::of(self.serving(pool).output().unwrap()).failed(1, says);
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.on_pool("status", ["--json"]).done()).unwrap()
    }

    pub(crate) fn staging_files(&self) -> Vec<PathBuf> {
        let entries = self.run_dir().read_dir().unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "staging")).collect()
    }
}

impl Daemon {
    /// The URI of the only namespace.
    pub(crate) fn uri(&self) -> &str {
        let [line] = self.served.as_slice() else { panic!("{:?}", self.served) };
        line.split(' ').nth(3).unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon: {:?}", self.child.try_wait());
        }
        // a test that failed must not leave it behind; one that ended has nothing to kill
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that compress to about half.
pub(crate) fn sample(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let mut bytes = vec![seed; len];
    for chunk in bytes.chunks_mut(16) {
        for byte in chunk.iter_mut().take(8) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = state.to_le_bytes()[3];
        }
    }
    bytes
}

/// Copies with nbdcopy, which flushes at the end only if told to.
pub(crate) fn nbdcopy(args: &[&str]) {
    let output = Command::new("nbdcopy").args(args).output().expect("nbdcopy is needed (package libnbd-bin)");
    assert!(output.status.success(), "nbdcopy {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn write(place: &Place, uri: &str, bytes: &[u8]) {
    let file = place.text("written");
    std::fs::write(&file, bytes).unwrap();
    nbdcopy(&["--destination-is-zero", &file, uri]);
}

/// The first `len` bytes of an export.
pub(crate) fn read(place: &Place, uri: &str, len: usize) -> Vec<u8> {
    let file = place.text("read");
    nbdcopy(&[uri, &file]);
    let mut bytes = std::fs::read(&file).unwrap();
    assert!(bytes[len..].iter().all(|byte| *byte == 0), "nothing was written behind");
    bytes.truncate(len);
    bytes
}
