//! Pools and their daemon, driven through the `plica` program as a user would.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Failure, Result, binaries, command::Cmd, failure::ensure, wait};

/// How long a daemon may take to serve: recovery included, on a slow guest.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a clean stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Which front end a daemon is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `/dev/ublkbN`.
    Ublk,
    /// A Unix socket.
    Nbd,
}

/// A pool and the files that belong to it.
#[derive(Clone, Debug)]
pub struct Pool {
    path: PathBuf,
    /// Keys, sockets and logs.
    directory: PathBuf,
    /// More options of `plica create`.
    options: Vec<String>,
}

/// A namespace to be created.
#[derive(Clone, Debug)]
pub struct Namespace<'a> {
    name: &'a str,
    size: &'a str,
    options: Vec<String>,
}

/// A daemon that serves a pool.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    /// What it serves: namespace and where.
    served: Vec<(String, String)>,
}

impl<'a> Namespace<'a> {
    /// A namespace with the defaults.
    #[must_use]
    pub fn new(name: &'a str, size: &'a str) -> Self {
        Self { name, size, options: Vec::new() }
    }

    /// One more option of `plica namespace create`, for example `("--unit", "8K")`.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.extend([name.to_owned(), value.to_owned()]);
        self
    }
}

impl Pool {
    /// The pool at `path`; `directory` receives its root key, socket and logs.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>, directory: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: directory.into(), options: Vec::new() }
    }

    /// With a journal, `PATH[:SIZE]`; in memory that does not outlive the machine only where `volatile`.
    #[must_use]
    pub fn journal(mut self, place: &str, volatile: bool) -> Self {
        self.options.extend(["--journal".into(), place.into()]);
        self.options.extend(volatile.then(|| "--journal-volatile".into()));
        self
    }

    /// Whether it is made with a journal.
    #[must_use]
    pub fn has_journal(&self) -> bool {
        !self.options.is_empty()
    }

    /// Makes a root key, the pool and its namespaces; `size` of a new file, none for a device.
    ///
    /// # Errors
    /// What `plica` says.
    pub fn create(&self, size: Option<&str>, namespaces: &[Namespace<'_>]) -> Result<()> {
        fs::create_dir_all(&self.directory).map_err(Failure::io(self.directory.display()))?;
        self.plica(["key", "generate"])?.arg(self.key()).ok()?;
        let create = self.plica(["create"])?.arg(&self.path).arg("--root-key").arg(self.key());
        let create = create.args(&self.options);
        create.args(size.map(|size| ["--size", size]).into_iter().flatten()).ok()?;
        namespaces.iter().try_for_each(|namespace| self.create_namespace(namespace))
    }

    /// Makes one namespace, served or not.
    ///
    /// # Errors
    /// What `plica` says.
    pub fn create_namespace(&self, namespace: &Namespace<'_>) -> Result<()> {
        let create = self.plica(["namespace", "create"])?.arg(&self.path).arg(namespace.name);
        let create = create.args(["--size", namespace.size]).args(&namespace.options);
        create.arg("--root-key").arg(self.key()).ok().map(|_| ())
    }

    /// Serves all namespaces; returns when all `names` are there.
    ///
    /// # Errors
    /// When the daemon ends or says nothing in time, with what it said.
    pub fn serve(&self, transport: Transport, names: &[&str]) -> Result<Daemon> {
        self.start(transport, names, &[])
    }

    /// Takes a pool over from the daemon that serves it on block devices; returns when all `names` are there.
    ///
    /// # Errors
    /// When the daemon ends or says nothing in time, with what it said.
    pub fn take_over(&self, names: &[&str]) -> Result<Daemon> {
        self.start(Transport::Ublk, names, &["--take-over"])
    }

    fn start(&self, transport: Transport, names: &[&str], options: &[&str]) -> Result<Daemon> {
        let log = self.directory.join("daemon.log");
        let errors = File::options().create(true).append(true).open(&log).map_err(Failure::io(log.display()))?;
        let mut command = Command::new(binaries::plica()?);
        command.arg("serve").arg(&self.path).arg("--root-key").arg(self.key()).args(options);
        match transport {
            Transport::Ublk => command.args(["--transport", "ublk"]),
            Transport::Nbd => command.args(["--transport", "nbd", "--nbd-socket"]).arg(self.socket()),
        };
        if let Some(run_dir) = self.run_dir() {
            command.arg("--run-dir").arg(run_dir);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(Failure::io("starting plica serve"))?;
        let lines = serving_lines(&mut child);
        let mut daemon = Daemon { child, log, served: Vec::new() };
        let wanted = |served: &[(String, String)]| names.iter().all(|n| served.iter().any(|(name, _)| name == n));
        while !wanted(&daemon.served) {
            match lines.recv_timeout(START_LIMIT) {
                Ok(pair) => daemon.served.push(pair),
                Err(mpsc::RecvTimeoutError::Timeout) => return Err(daemon.failure("plica serve does not get ready")),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(daemon.failure("plica serve ended")),
            }
        }
        if transport == Transport::Ublk {
            for name in names {
                let path = daemon.device(name)?;
                wait::until(&format!("{}", path.display()), START_LIMIT, || {
                    Ok(fs::metadata(&path).is_ok_and(|m| m.file_type().is_block_device()).then_some(()))
                })?;
            }
        }
        Ok(daemon)
    }

    /// `plica status POOL --json`.
    ///
    /// # Errors
    /// When it fails or is no JSON.
    pub fn status(&self) -> Result<serde_json::Value> {
        let text = self.plica(["status"])?.arg(&self.path).arg("--json").ok()?;
        serde_json::from_str(&text).map_err(|e| Failure::new(format!("plica status --json: {e} in {text}")))
    }

    /// `plica ARGS...`, with the pool's run directory.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn plica<const N: usize>(&self, args: [&str; N]) -> Result<Cmd> {
        let command = Cmd::new(binaries::plica()?).args(args);
        // Only what speaks to a daemon, or looks at what one has left, knows the option.
        let speaks = matches!(args.first(), Some(&("status" | "stop" | "namespace" | "check")));
        Ok(match self.run_dir() {
            Some(run_dir) if speaks => command.arg("--run-dir").arg(run_dir),
            _ => command,
        })
    }

    /// Where the pool is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its root key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.directory.join("root.key")
    }

    /// Its NBD socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("nbd.sock")
    }

    /// On a machine that is not a guest of the tests the daemons of tests keep out of /run.
    fn run_dir(&self) -> Option<PathBuf> {
        std::env::var_os("PLICA_IN_VM").is_none().then(|| self.directory.join("run"))
    }
}

impl Daemon {
    /// The block device of a namespace.
    ///
    /// # Errors
    /// When it is not served.
    pub fn device(&self, name: &str) -> Result<PathBuf> {
        let found = self.served.iter().find(|(served, _)| served == name);
        found.map(|(_, place)| PathBuf::from(place)).ok_or_else(|| Failure::new(format!("{name} is not served")))
    }

    /// Kills it as a crash would: it has no chance to do anything.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill(mut self) -> Result<()> {
        let ended = self.child.try_wait().map_err(Failure::io("plica serve"))?;
        if let Some(status) = ended {
            return Err(self.failure(&format!("plica serve had ended by itself ({status})")));
        }
        self.child.kill().map_err(Failure::io("killing plica serve"))?;
        self.child.wait().map_err(Failure::io("plica serve")).map(|_| ())
    }

    /// Stops it with SIGTERM.
    ///
    /// # Errors
    /// When it does not end with status 0 in time.
    pub fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::new("plica serve without a process id"))?;
        kill_process(pid, Signal::TERM).map_err(|e| Failure::new(format!("stopping plica serve: {e}")))?;
        self.expect_end()
    }

    /// Waits for a clean end that somebody else has asked for.
    ///
    /// # Errors
    /// When it does not end with status 0 in time.
    pub fn expect_end(&mut self) -> Result<()> {
        let child = &mut self.child;
        let ended =
            wait::until("the end of plica serve", STOP_LIMIT, || child.try_wait().map_err(Failure::io("plica serve")));
        let status = ended.map_err(|late| self.failure(&late.to_string()))?;
        ensure(status.success(), || self.failure(&format!("plica serve: {status}")).to_string())
    }

    /// `what`, and the end of the daemon's log.
    fn failure(&self, what: &str) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let mut text = format!("{what}\n--- {}", self.log.display());
        for line in &lines[lines.len().saturating_sub(40)..] {
            write!(text, "\n{line}").ok();
        }
        Failure::new(text)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// The pairs of the daemon's lines `serving NAME as PLACE`.
fn serving_lines(child: &mut Child) -> mpsc::Receiver<(String, String)> {
    let (sender, lines) = mpsc::channel();
    let out = child.stdout.take();
    thread::spawn(move || {
        // Read to the end also when nobody listens any more: a full pipe would stop the daemon.
        for line in out.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(|line| line.ok()) {
            if let Some((name, place)) = line
                .strip_prefix("serving ")
                .and_then(|rest| rest.split_once(" as ").or_else(|| rest.split_once(" at ")))
            {
                sender.send((name.to_owned(), place.trim().to_owned())).ok();
            }
        }
    });
    lines
}
