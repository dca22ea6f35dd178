//! The daemon: one pool, open, with its front ends and its control socket, until it is told to stop.
//!
//! ```text
//!   signals ──┐                   ┌─ ublk: threads of their own ──┐
//!   control ──┴─► Daemon ─ begins ┤                               ├─► core (this thread)
//!   socket        (this thread)   └─ nbd: tasks of this thread ───┘
//! ```
//!
//! Start: prepare the process, block signals, lock the pool's name in the run directory, lock the medium, open the pool
//! (recovery), listen for commands, serve. Stop: front ends first (they finish what is under way), then the pool.
//!
//! **Invariants.** Only one daemon a pool: the medium's lock; only one a pool id and run directory: a copy of a pool has
//! its own staging memory but would take over the sockets. Changes are made one at a time (`gate`).
//!
//! **Failure.** What keeps it from starting is an error, and nothing is served. A front end that fails later is its own
//! affair; a pool that fails latches read-only and goes on serving reads.
//!
//! **Not here:** protocols (`frontend`, `control`), recovery (`pool`).

mod commands;
mod gate;
mod helper;
mod journal;
mod machine;
mod placement;
mod process;
mod served;
mod signals;

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use sd_notify::NotifyState;

use self::gate::Gate;
use self::served::FrontEnds;
use self::signals::StopSignals;
use crate::codec::CodecPool;
use crate::control::{BusyDevices, ControlServer, Medium, Served, socket_path};
use crate::core::{Recompression, ReplayBounds, Watermarks};
use crate::env::{BusyPoll, Env, Mailbox, MailboxReceiver, mailbox};
use crate::error::{Error, Result};
use crate::fail;
use crate::format::leaf::LEAF_BYTES;
use crate::format::superblock::JournalName;
use crate::keys::RootKey;
use crate::media::{Access, Device};
use crate::pool::{JournalFound, OpenOptions, Pool};
use crate::staging::RunDirStore;
use crate::units::PoolId;

pub(crate) use commands::spec_of;
pub use journal::find_journal;
pub use machine::{Dock, Helped, Machine, boot_id, memory_bytes, unix_now};
pub use placement::check_placement;
pub use served::Transport;

/// How long the last answer of the control socket may take to leave.
const FAREWELL_NS: u64 = 50_000_000;
/// How often, and how far apart, it is tried to take over from a daemon that ends.
const NAME_TRIES: u32 = 50;
const NAME_PAUSE: Duration = Duration::from_millis(20);

/// How a pool is served.
pub struct ServeOptions {
    /// The pool's medium.
    pub path: PathBuf,
    /// The pool's id, as read from the medium.
    pub pool: PoolId,
    /// Its root key.
    pub root_key: RootKey,
    /// Namespaces to serve; all if empty.
    pub namespaces: Vec<String>,
    /// How they are served.
    pub transport: Transport,
    /// Where the NBD socket is; in the run directory if `None`.
    pub nbd_socket: Option<PathBuf>,
    /// Where control socket and staging memory are.
    pub run_dir: PathBuf,
    /// Queues of a ublk device.
    pub queues: u16,
    /// Codec workers.
    pub workers: usize,
    /// How long the core looks for work before it sleeps.
    pub busy_poll: BusyPoll,
    /// Bytes of memory for leaves of the map; all that are used stay in memory if `None`.
    pub map_memory: Option<u64>,
    /// How much cold data is recompressed.
    pub recompression: Recompression,
    /// From where on people are told that the pool is full.
    pub watermarks: Watermarks,
    /// The journal that the superblock names, if it names one.
    pub journal: Option<JournalName>,
    /// Where it is, if not where it was when it was given.
    pub journal_path: Option<PathBuf>,
    /// Open the pool without its journal, and give up what was there.
    pub accept_journal_loss: bool,
}

/// What the daemon tells while it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A namespace is served.
    Serving(Served),
    /// All that was to be served is.
    Ready,
}

/// Why it shall stop.
struct StopOrder {
    devices: BusyDevices,
    /// Where the result goes, if somebody waits for it.
    answer: Option<Mailbox<Result<()>>>,
}

/// An open pool and what is done with it.
struct Daemon {
    env: Env,
    pool: Rc<Pool>,
    dock: Dock,
    medium: Medium,
    front_ends: FrontEnds,
    /// Namespaces that are made while it runs are served at once.
    serves_all: bool,
    gate: Gate,
    stop: Mailbox<StopOrder>,
}

/// Leaves that so much memory holds.
fn leaves_in(memory: Option<u64>) -> usize {
    memory.map_or(usize::MAX, |bytes| usize::try_from(bytes / LEAF_BYTES as u64).unwrap_or(usize::MAX))
}

/// Serves a pool until a signal or a command stops it. `tell` hears of what is served.
///
/// # Errors
/// What kept it from serving, or from stopping cleanly.
pub fn serve(options: ServeOptions, tell: impl Fn(&Event) + 'static) -> Result<()> {
    process::prepare();
    let signals = StopSignals::block()?;
    // makes the run directory
    let staging = RunDirStore::open(&options.run_dir)?;
    let _name = lock_name(&options.run_dir, options.pool)?;
    let device = Device::open(&options.path, Access::Write)?;
    let (mut machine, journal) =
        machine_with_journal(&device, options.journal.as_ref(), options.journal_path.as_deref())?;
    let (env, media, medium, identity) = (machine.env(), machine.media(), machine.medium(), machine.identity());
    let (helped, dock) = (machine.helped(), machine.dock());
    machine.set_busy_poll(options.busy_poll);
    let (stop, orders) = mailbox();
    let on_signal = stop.clone();
    signals.watch(move |signal| {
        tracing::info!("{signal}");
        drop(on_signal.send(StopOrder { devices: BusyDevices::Leave, answer: None }));
    })?;
    machine.run(async move {
        let codec = CodecPool::new(options.workers)?;
        let open = OpenOptions {
            root_key: options.root_key,
            boot: boot_id()?,
            identity,
            codec,
            bounds: ReplayBounds { leaves_max: leaves_in(options.map_memory), ..ReplayBounds::default() },
            journal,
            accept_journal_loss: options.accept_journal_loss,
            memory: Some(memory_bytes()),
        };
        let pool = Pool::open(&env, &media, Box::new(staging), open).await?;
        pool.core().set_watermarks(options.watermarks);
        if options.recompression.percent > 0 {
            pool.core().set_recompression(options.recompression, CodecPool::background()?);
        }
        // it is empty: this is the only pool of the thread
        drop(helped.set(pool.clone()));
        let control = socket_path(&options.run_dir, options.pool);
        let front_ends = match options.transport {
            Transport::Ublk => Ok(FrontEnds::ublk(options.queues)),
            Transport::Nbd => {
                let socket = options.nbd_socket.unwrap_or_else(|| nbd_socket_path(&options.run_dir, options.pool));
                FrontEnds::nbd(&env, &socket)
            }
        };
        let front_ends = match front_ends {
            Ok(front_ends) => front_ends,
            Err(error) => return give_up(&pool, error).await,
        };
        let serves_all = options.namespaces.is_empty();
        let daemon = Daemon { env, pool, dock, medium, front_ends, serves_all, gate: Gate::default(), stop };
        Rc::new(daemon).run(options.namespaces, &control, orders, tell).await
    })
}

/// A machine over a pool's medium and, as far as it can be opened, its journal.
///
/// # Errors
/// What [`Machine::with_devices`] and [`find_journal`] report.
pub(crate) fn machine_with_journal(
    device: &Device,
    name: Option<&JournalName>,
    path: Option<&Path>,
) -> Result<(Machine, Option<JournalFound>)> {
    let (opened, missing) = match find_journal(name, path)? {
        Some(Ok(opened)) => (Some(opened), None),
        Some(Err(error)) => (None, Some(JournalFound::Missing(error))),
        None => (None, None),
    };
    let mut machine = Machine::with_devices(device, opened)?;
    let found = missing.or_else(|| machine.take_journal().map(JournalFound::Here));
    Ok((machine, found))
}

/// Where the NBD socket of a pool is, if nothing else is said.
fn nbd_socket_path(run_dir: &Path, pool: PoolId) -> PathBuf {
    run_dir.join(format!("{pool}.nbd"))
}

/// Holds the pool's name in the run directory, as long as the file is open. Waits a second for a daemon on its way out.
fn lock_name(run_dir: &Path, pool: PoolId) -> Result<File> {
    let path = run_dir.join(format!("{pool}.lock"));
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
    for _ in 0..NAME_TRIES {
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(file);
        }
        std::thread::sleep(NAME_PAUSE);
    }
    let run_dir = run_dir.display();
    fail!(Busy, "pool {pool}, or a copy of it, is already served by a daemon with run directory {run_dir}")
}

/// Closes the pool again when serving cannot begin.
async fn give_up(pool: &Pool, error: Error) -> Result<()> {
    if let Err(second) = pool.stop().await {
        tracing::error!("the pool was not stopped cleanly: {second}");
    }
    Err(error)
}

impl Daemon {
    /// Serves until told to stop.
    async fn run(
        self: Rc<Self>,
        names: Vec<String>,
        control: &Path,
        orders: MailboxReceiver<StopOrder>,
        tell: impl Fn(&Event),
    ) -> Result<()> {
        // 1. Listen first: who hears that a namespace is served may send a command at once. Changes wait (`gate`).
        let starting = self.gate.enter().await;
        let daemon = self.clone();
        let listening = ControlServer::start(&self.env, control, move |request| daemon.clone().handle(request));
        let server = match listening {
            Ok(server) => server,
            Err(error) => return self.abandon(error).await,
        };
        // 2. Serve.
        if let Err(error) = self.begin_all(names, &tell).await {
            return self.abandon(error).await;
        }
        drop(starting);
        tell(&Event::Ready);
        let count = self.front_ends.all().len();
        notify(&[NotifyState::Ready, NotifyState::Status(&format!("serving {count} namespaces"))]);
        let mut waiting = Vec::new();
        loop {
            orders.receive(&mut waiting).await;
            for order in std::mem::take(&mut waiting) {
                let pass = self.gate.enter().await;
                if let Err(error) = self.end_all(order.devices).await {
                    order.answer(Err(error));
                    continue;
                }
                // nothing is begun any more
                std::mem::forget(pass);
                drop(server);
                return self.close(order).await;
            }
        }
    }

    /// Ends what had begun when serving cannot go on.
    async fn abandon(&self, error: Error) -> Result<()> {
        if let Err(second) = self.end_all(BusyDevices::Leave).await {
            tracing::error!("{second}");
        }
        self.front_ends.close().await;
        give_up(&self.pool, error).await
    }

    async fn begin_all(&self, names: Vec<String>, tell: &impl Fn(&Event)) -> Result<()> {
        let names = match self.serves_all {
            true => self.pool.namespaces().into_iter().map(|entry| entry.name).collect(),
            false => names,
        };
        // a name that does not exist is said before anything is served
        let clients = names.iter().map(|name| self.pool.client(name)).collect::<Result<Vec<_>>>()?;
        if clients.is_empty() {
            tracing::info!("the pool has no namespaces yet; plica namespace create makes one while it is served");
        }
        for client in clients {
            tell(&Event::Serving(self.front_ends.begin(client).await?));
        }
        Ok(())
    }

    /// Ends all front ends, or none: when one refuses, those that had ended are begun again.
    async fn end_all(&self, devices: BusyDevices) -> Result<()> {
        let mut ended = Vec::new();
        for served in self.front_ends.all() {
            match self.front_ends.end(&served.name, devices).await {
                Ok(()) => ended.push(served.name),
                Err(error) if devices == BusyDevices::Refuse => {
                    self.begin_again(ended).await;
                    return Err(error);
                }
                // the process is about to end, which ends what is left of it
                Err(error) => tracing::error!("{error}"),
            }
        }
        Ok(())
    }

    async fn begin_again(&self, names: Vec<String>) {
        for name in names {
            let begun = match self.pool.client(&name) {
                Ok(client) => self.front_ends.begin(client).await,
                Err(error) => Err(error),
            };
            match begun {
                Ok(served) => tracing::info!("{served} again"),
                Err(error) => tracing::error!("namespace {name} is not served any more: {error}"),
            }
        }
    }

    async fn close(&self, order: StopOrder) -> Result<()> {
        tracing::info!("stopping");
        notify(&[NotifyState::Stopping]);
        self.front_ends.close().await;
        let result = self.pool.stop().await;
        match &result {
            Ok(()) => tracing::info!("stopped cleanly"),
            Err(error) => tracing::error!("the pool was not stopped cleanly, the next start recovers: {error}"),
        }
        if order.answer.is_some() {
            let told = result.as_ref().map_err(|e| Error::new(e.kind(), e.to_string())).copied();
            order.answer(told);
            self.env.sleep_ns(FAREWELL_NS).await;
        }
        result
    }
}

impl StopOrder {
    fn answer(self, result: Result<()>) {
        match (self.answer, result) {
            // whoever asked may have gone
            (Some(answer), result) => drop(answer.send(result)),
            (None, Err(error)) => tracing::error!("not stopped: {error}"),
            (None, Ok(())) => {}
        }
    }
}

/// Tells the service manager, if there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
