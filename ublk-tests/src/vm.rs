//! Guests, seen from the host: boot, read what they say, cut their power.
//!
//! `scripts/vm` does the booting. Standard output of the guest's command comes line by line and unbuffered, so a line
//! that was read here was really said there: that makes the host a witness of a power cut.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::NamedTempFile;

use crate::{Failure, Result, binaries, failure::ensure, wait};

/// A guest to be booted.
pub struct Vm {
    disks: Vec<PathBuf>,
    nvdimm: Option<PathBuf>,
    scratch: Option<String>,
    seconds: u64,
    memory: String,
}

/// A guest that runs a command.
pub struct Running {
    script: Child,
    pid_file: NamedTempFile,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
    errors: Option<thread::JoinHandle<String>>,
}

impl Default for Vm {
    fn default() -> Self {
        Self { disks: Vec::new(), nvdimm: None, scratch: None, seconds: 600, memory: "3G".into() }
    }
}

impl Vm {
    /// Another disk; the n-th is `$VM_DISKn` in the guest.
    #[must_use]
    pub fn disk(mut self, image: impl AsRef<Path>) -> Self {
        self.disks.push(image.as_ref().to_owned());
        self
    }

    /// Persistent memory in an image: in the guest `/dev/pmem0`. Only QEMU has it, which takes half a minute to boot.
    #[must_use]
    pub fn nvdimm(mut self, image: impl AsRef<Path>) -> Self {
        self.nvdimm = Some(image.as_ref().to_owned());
        self
    }

    /// A temporary ext4 of this size at `$SCRATCH`.
    #[must_use]
    pub fn scratch(mut self, size: &str) -> Self {
        self.scratch = Some(size.into());
        self
    }

    /// The guest is killed after this long.
    #[must_use]
    pub fn limit(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }

    /// Boots it and starts `command`, a shell script.
    ///
    /// # Errors
    /// When `scripts/vm` cannot be started.
    pub fn start(&self, command: &str) -> Result<Running> {
        let pid_file = NamedTempFile::new().map_err(Failure::io("temporary file"))?;
        let mut script = Command::new(binaries::repository().join("scripts/vm"));
        script.args(["--memory", &self.memory, "--timeout", &self.seconds.to_string()]);
        script.arg("--pid-file").arg(pid_file.path());
        script.arg("--env").arg(format!("PLICA_BIN={}", binaries::plica()?.display()));
        for disk in &self.disks {
            script.arg("--disk").arg(disk);
        }
        if let Some(image) = &self.nvdimm {
            script.args(["--kernel", "qemu", "--cpus", "2", "--nvdimm"]).arg(image);
        }
        if let Some(size) = &self.scratch {
            script.args(["--scratch", size]);
        }
        script.args(["--", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut script = script.spawn().map_err(Failure::io("starting scripts/vm"))?;
        let (sender, lines) = mpsc::channel();
        let out = script.stdout.take();
        thread::spawn(move || {
            for line in out.into_iter().flat_map(|o| BufReader::new(o).lines()).map_while(|line| line.ok()) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let err = script.stderr.take();
        let errors = thread::spawn(move || {
            err.into_iter()
                .flat_map(|e| BufReader::new(e).lines())
                .map_while(|line| line.ok())
                .fold(String::new(), |text, line| text + &line + "\n")
        });
        Ok(Running { script, pid_file, lines, seen: Vec::new(), errors: Some(errors) })
    }

    /// Boots it, runs `command` to its end; what it printed.
    ///
    /// # Errors
    /// When the command fails, or the guest dies under it.
    pub fn run(&self, command: &str) -> Result<Vec<String>> {
        self.start(command)?.finish(command)
    }
}

impl Running {
    /// The next line the command prints, or none when it has ended.
    ///
    /// # Errors
    /// When none comes in `limit`.
    pub fn line(&mut self, limit: Duration) -> Result<Option<String>> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => {
                self.seen.push(line.clone());
                Ok(Some(line))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Ok(None),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(Failure::new(format!("the guest says nothing for {limit:?}"))),
        }
    }

    /// Cuts the power: every process of the guest's machine is killed at this moment. All lines it got out.
    ///
    /// # Errors
    /// When the guest had ended before, or will not die.
    pub fn cut_power(mut self) -> Result<Vec<String>> {
        ensure(self.script.try_wait().map_err(Failure::io("scripts/vm"))?.is_none(), || {
            format!("the guest ended before its power was cut: {}", self.seen.join("\n"))
        })?;
        self.kill_guest()?;
        self.script.wait().map_err(Failure::io("scripts/vm"))?;
        while let Ok(line) = self.lines.recv() {
            self.seen.push(line);
        }
        Ok(std::mem::take(&mut self.seen))
    }

    /// Waits for the end of the command; all lines it printed.
    ///
    /// # Errors
    /// When it fails or the guest dies under it, with what it said on stderr.
    pub fn finish(mut self, command: &str) -> Result<Vec<String>> {
        while let Ok(line) = self.lines.recv() {
            self.seen.push(line);
        }
        let status = self.script.wait().map_err(Failure::io("scripts/vm"))?;
        let errors = self.errors.take().and_then(|e| e.join().ok()).unwrap_or_default();
        let seen = std::mem::take(&mut self.seen);
        ensure(status.success(), || {
            format!("in the VM, `{command}`: {status}\n{}\n--- stderr\n{errors}", seen.join("\n"))
        })?;
        Ok(seen)
    }

    fn kill_guest(&self) -> Result<()> {
        let read = || {
            let text = std::fs::read_to_string(self.pid_file.path()).map_err(Failure::io("pid file"))?;
            Ok(text.trim().parse().ok().and_then(Pid::from_raw))
        };
        let group = wait::until("the guest's process group", Duration::from_secs(10), read)?;
        kill_process_group(group, Signal::KILL).map_err(|e| Failure::new(format!("killing the guest: {e}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.script.try_wait(), Ok(None)) {
            // A test that failed: the guest goes before the script that would report on it.
            self.kill_guest().ok();
            self.script.wait().ok();
        }
    }
}
