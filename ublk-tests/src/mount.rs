//! A filesystem on a served namespace, natively: where the kernel has neither ublk nor NBD.
//!
//! ```text
//!  database ─► filesystem ─► /dev/loopN, direct I/O ─► file of nbdfuse ─► NBD socket ─► plica serve
//! ```
//!
//! Unlike a ublk device it does not outlive the daemon: then everything on it sees I/O errors, until it is unmounted and
//! mounted anew. That is what a user of the NBD front end has to do, and what tests do here.
//!
//! # Failure
//! Root, `/dev/fuse` and loop devices are needed; [`Mount::attach`] says so. Dropping a mount takes everything down that
//! still stands, so that a test that fails leaves nothing behind.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::{
    Failure, Result,
    command::{Background, Cmd, sh},
    failure::ensure,
    wait,
};

/// How long a step of mounting and unmounting may take.
const STEP_LIMIT: Duration = Duration::from_secs(20);

/// A namespace as a block device, and where its filesystem is mounted.
pub struct Mount {
    point: PathBuf,
    /// What nbdfuse shows.
    file: PathBuf,
    /// `/dev/loopN`, while there is one.
    device: Option<PathBuf>,
    client: Option<Background>,
}

impl Mount {
    /// Makes what is served at `uri` a block device; it is to be mounted at `point`.
    ///
    /// # Errors
    /// What this machine lacks, or what the programs say.
    pub fn attach(uri: &str, point: impl Into<PathBuf>) -> Result<Self> {
        let has = |path: &str| Path::new(path).exists();
        ensure(geteuid().is_root() && has("/dev/fuse") && has("/dev/loop-control"), || {
            "mounting a namespace over NBD takes root, /dev/fuse and loop devices".into()
        })?;
        let point = point.into();
        let directory = point.with_extension("nbd");
        for path in [&point, &directory] {
            fs::create_dir_all(path).map_err(Failure::io(path.display()))?;
        }
        let file = directory.join("disk");
        fs::write(&file, "").map_err(Failure::io(file.display()))?;
        let client = Cmd::new("nbdfuse").arg(&file).arg(uri).start()?;
        let mut mount = Self { point, file, device: None, client: Some(client) };
        wait::until(&format!("nbdfuse to show {uri}"), STEP_LIMIT, || {
            if !mount.client.as_mut().map_or(Ok(false), Background::is_running)? {
                let ended = mount.client.take().map(|client| client.finish(STEP_LIMIT)).transpose()?;
                return Err(ended.map_or_else(|| Failure::new("nbdfuse ended"), |ended| ended.failure("nbdfuse")));
            }
            Ok(fs::metadata(&mount.file).is_ok_and(|shown| shown.len() > 0).then_some(()))
        })?;
        let device = Cmd::new("losetup").args(["--find", "--show", "--direct-io=on", "--sector-size", "4096"]);
        mount.device = Some(PathBuf::from(device.arg(&mount.file).ok()?.trim()));
        Ok(mount)
    }

    /// Makes a filesystem with the command `make`, for example `mkfs.ext4 -q`.
    ///
    /// # Errors
    /// What it says.
    pub fn make(&self, make: &str) -> Result<()> {
        sh(format!("{make} {}", self.device()?.display())).ok().map(|_| ())
    }

    /// Mounts it: the filesystem replays its own journal. Others than root may look into it.
    ///
    /// # Errors
    /// What mount says.
    pub fn mount(&self) -> Result<()> {
        Cmd::new("mount").arg(self.device()?).arg(&self.point).ok()?;
        Cmd::new("chmod").arg("755").arg(&self.point).ok().map(|_| ())
    }

    /// Unmounts it and takes the device away; `check` is run on the device in between, for example `e2fsck -fn`.
    ///
    /// # Errors
    /// Somebody still uses it, or `check` finds fault.
    pub fn detach(mut self, check: &str) -> Result<()> {
        Cmd::new("umount").arg(&self.point).ok()?;
        sh(format!("{check} {}", self.device()?.display())).limit(300).ok()?;
        self.take_down()
    }

    /// Takes everything down although nobody serves it any more: whoever has a file open there is killed.
    ///
    /// # Errors
    /// It cannot be unmounted.
    pub fn abandon(mut self) -> Result<()> {
        self.kill_users()?;
        self.take_down()
    }

    /// Kills every process that has its directory or an open file there.
    ///
    /// # Errors
    /// They do not go.
    pub fn kill_users(&self) -> Result<()> {
        let mut killed = Vec::new();
        wait::until(&format!("the end of who uses {}", self.point.display()), STEP_LIMIT, || {
            for pid in users(&self.point) {
                // One that has ended meanwhile needs no signal.
                kill_process(pid, Signal::KILL).ok();
                killed.push(pid);
            }
            // A server that starts takes one that is dead but not yet reaped for alive.
            killed.retain(|pid| is_there(*pid));
            Ok(killed.is_empty().then_some(()))
        })
    }

    fn device(&self) -> Result<&Path> {
        self.device.as_deref().ok_or_else(|| Failure::new(format!("{} has no device", self.file.display())))
    }

    /// From the top down; what is not there any more is passed over.
    fn take_down(&mut self) -> Result<()> {
        let (point, file) = (self.point.display(), self.file.display());
        // 1. the filesystem: one whose device is gone may still be busy with its own errors
        sh(format!(
            "for _ in $(seq 50); do ! mountpoint -q {point} || umount {point} 2>/dev/null || {{ sleep 0.1; continue; }}; exit 0; done
            umount -l {point}"
        ))
        .ok()?;
        // 2. the loop device
        if let Some(device) = self.device.take() {
            Cmd::new("losetup").arg("-d").arg(device).ok()?;
        }
        // 3. nbdfuse, which ends when its file is unmounted
        if let Some(client) = self.client.take() {
            sh(format!("for _ in $(seq 50); do ! fusermount3 -u {file} 2>/dev/null || exit 0; sleep 0.1; done; fusermount3 -uz {file}"))
                .ok()?;
            client.finish(STEP_LIMIT)?;
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.device.is_some() || self.client.is_some() {
            // A test that failed says why itself.
            self.kill_users().ok();
            self.take_down().ok();
        }
    }
}

/// Processes whose directory or open files are under `point`.
fn users(point: &Path) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let uses = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
        let links = std::iter::once(process.join("cwd")).chain(files);
        links.filter_map(|link| fs::read_link(link).ok()).any(|target| target.starts_with(point))
    };
    let numbers = processes.flatten().filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        uses(&entry.path()).then_some(pid)
    });
    numbers.collect()
}

/// Whether others see this process. A child of ours that has ended is not there: only we see it, and reap it when we want.
fn is_there(pid: Pid) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())) else { return false };
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let is_ours = field("PPid:") == Some(&std::process::id().to_string());
    !(is_ours && field("State:").is_some_and(|state| state.starts_with('Z')))
}
