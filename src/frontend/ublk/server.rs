//! A served device, as the daemon holds it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::control::{self, Command, Progress, Ready};
use super::options::UblkOptions;
use crate::core::request::NamespaceClient;
use crate::error::{Error, ErrorKind, Result};

/// Bound on each step of bringing a device up.
const STEP_WAIT: Duration = Duration::from_secs(30);
/// Bound on a command. Stopping waits for the requests that are under way, and for queues that end (30 s at most).
const COMMAND_WAIT: Duration = Duration::from_secs(90);
/// How long the device node may take to appear.
const NODE_STEPS: u32 = 500;
const NODE_STEP: Duration = Duration::from_millis(10);

/// One namespace served as `/dev/ublkbN`.
///
/// Dropping it leaves the device to the next server: its I/O waits until then. [`UblkServer::stop`] removes the device.
/// None of this may be called on the core's thread, which must answer requests meanwhile.
pub struct UblkServer {
    path: PathBuf,
    recovered: bool,
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl UblkServer {
    /// Serves `client`'s namespace: recovers its device if an earlier daemon left one (which keeps its own shape), or
    /// adds one as `options` say. Returns when the block device is there.
    ///
    /// # Errors
    /// `Unsupported` without driver, `Config` for options or without root's rights, `Busy` if a living process serves
    /// the namespace's device, `Io` when the driver does not answer in time: each says what to do.
    pub fn start(client: NamespaceClient, options: UblkOptions) -> Result<Self> {
        options.check()?;
        let name = client.name.clone();
        let (progress, heard) = channel();
        let (commands, received) = channel();
        let body = move || control::run(client, &options, &progress, &received);
        let thread = thread::Builder::new().name("ublk-control".to_owned()).spawn(body);
        let thread = thread.map_err(|error| Error::io("starting a ublk control thread", error))?;
        let ready = until_ready(&heard).map_err(|error| error.within(format!("namespace {name} over ublk")))?;
        let path = PathBuf::from(format!("/dev/ublkb{}", ready.number));
        wait_for_node(&path);
        tracing::info!(namespace = %name, path = %path.display(), recovered = ready.recovered, "serving");
        Ok(Self { path, recovered: ready.recovered, commands, thread: Some(thread) })
    }

    /// The block device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the device was there before, left by an earlier daemon.
    #[must_use]
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// Changes the size of the device, without interrupting who uses it. The namespace has the new size already: what is
    /// beyond it is refused from then on, by the core until this is done and by the kernel after.
    ///
    /// # Errors
    /// `Unsupported` before Linux 6.16; `Config` if `bytes` is not a whole number of logical blocks.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        self.command("resizing", |ended| Command::Resize(bytes, ended))
    }

    /// Stops and removes the device. Requests under way are finished first, so the core must still be there. After an
    /// error it serves on if it was busy; otherwise ask again or end the process.
    ///
    /// # Errors
    /// `Busy`, naming who uses the device, unless `force`: then their I/O fails from now on.
    pub fn stop(&mut self, force: bool) -> Result<()> {
        self.command("stopping", |ended| Command::Stop { force, ended })?;
        self.join();
        Ok(())
    }

    /// Ends serving but leaves the device, with whoever uses it, to the next server: their I/O waits until then. The
    /// core must still be there.
    ///
    /// # Errors
    /// `Io` if a thread had panicked or the driver does not let go in time.
    pub fn leave(&mut self) -> Result<()> {
        self.command("leaving", Command::Leave)?;
        self.join();
        Ok(())
    }

    fn command(&self, what: &str, command: impl FnOnce(Sender<Result<()>>) -> Command) -> Result<()> {
        let path = self.path.display();
        let (ended, end) = channel();
        let gone = || Error::new(ErrorKind::Shutdown, format!("{what} {path}: it is not served any more"));
        self.commands.send(command(ended)).map_err(|_| gone())?;
        match end.recv_timeout(COMMAND_WAIT) {
            Ok(result) => result.map_err(|error| error.within(format!("{what} {path}"))),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => {
                let context = format!("{what} {path}: the kernel did not answer within {} s", COMMAND_WAIT.as_secs());
                Err(Error::new(ErrorKind::Io, context))
            }
        }
    }

    fn join(&mut self) {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(path = %self.path.display(), "the ublk control thread panicked");
        }
    }
}

impl Drop for UblkServer {
    fn drop(&mut self) {
        if self.thread.is_none() {
            return;
        }
        if let Err(error) = self.leave() {
            tracing::warn!(path = %self.path.display(), %error, "a ublk device was not left in order");
        }
    }
}

/// Waits for the device, each step with its own bound. When one takes too long the control thread is left in the
/// kernel, where nothing can reach it; if it ever returns it removes what it added.
fn until_ready(heard: &Receiver<Progress>) -> Result<Ready> {
    let mut step = "starting";
    loop {
        match heard.recv_timeout(STEP_WAIT) {
            Ok(Progress::Step(next)) => step = next,
            Ok(Progress::Ready(ready)) => return Ok(ready),
            Ok(Progress::Failed(error)) => return Err(error),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(ErrorKind::Io, format!("{step}: the control thread ended")));
            }
            Err(RecvTimeoutError::Timeout) => {
                let release = rustix::system::uname();
                let release = release.release().to_string_lossy().into_owned();
                let seconds = STEP_WAIT.as_secs();
                let context = format!(
                    "{step}: kernel {release} did not answer within {seconds} s; use another kernel or --transport nbd"
                );
                return Err(Error::new(ErrorKind::Io, context));
            }
        }
    }
}

fn wait_for_node(path: &Path) {
    for _ in 0..NODE_STEPS {
        if path.exists() {
            return;
        }
        thread::sleep(NODE_STEP);
    }
    tracing::warn!(path = %path.display(), "the device serves, but its node has not appeared");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_followed_to_the_end() {
        let (progress, heard) = channel();
        progress.send(Progress::Step("adding")).unwrap();
        progress.send(Progress::Ready(Ready { number: 3, recovered: true })).unwrap();
        let ready = until_ready(&heard).unwrap();
        assert_eq!((ready.number, ready.recovered), (3, true));

        progress.send(Progress::Failed(Error::new(ErrorKind::Busy, "taken"))).unwrap();
        assert_eq!(until_ready(&heard).err().unwrap().kind(), ErrorKind::Busy);

        progress.send(Progress::Step("adding")).unwrap();
        drop(progress);
        let error = until_ready(&heard).err().unwrap();
        assert!(error.to_string().contains("adding"), "{error}");
    }
}
