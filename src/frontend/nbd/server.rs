//! The listening socket and its clients.
//!
//! **Failure.** [`ErrorKind::Busy`]: another server listens there. [`ErrorKind::Exists`]: the path is something else
//! than a socket. [`ErrorKind::NotFound`]: the directory is missing. Once it listens, what goes wrong with one client
//! ends that client.

use std::cell::{Cell, OnceCell, RefCell};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use rustix::fs::{self, FileType, Mode};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::exports::Exports;
use super::{CONNECTIONS_MAX, connection};
use crate::env::Env;
use crate::env::executor::Task;
use crate::env::reactor::Op;
use crate::env::sync::Notify;
use crate::error::{Error, ErrorKind, Result};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// How long clients may take to get their last replies when the server stops.
const STOP_NS: u64 = 5_000_000_000;
/// Pause after a failed accept.
const ACCEPT_PAUSE_NS: u64 = 100_000_000;
/// What a client's socket may hold of replies that it has not taken yet.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// A listening server. [`Server::stop`] ends it.
pub struct Server {
    env: Env,
    path: PathBuf,
    /// Device and inode of the socket's name: only our own is removed at the end.
    identity: (u64, u64),
    listener: Arc<OwnedFd>,
    clients: Rc<Clients>,
    accepting: Task<()>,
}

#[derive(Default)]
struct Clients {
    count: Cell<usize>,
    changed: Notify,
    stopping: Cell<bool>,
    sockets: RefCell<Vec<Weak<OwnedFd>>>,
}

impl Server {
    /// Listens at `path`, a socket that only its owner may use, in a directory that exists.
    ///
    /// # Errors
    /// See the module.
    pub fn start(env: &Env, path: &Path, exports: Exports) -> Result<Self> {
        let shown = path.display();
        let address = SocketAddrUnix::new(path)
            .map_err(|e| Error::new(ErrorKind::Config, format!("{shown} cannot be the path of a socket: {e}")))?;
        remove_stale(path, &address)?;
        let failed = |e: Errno| Error::io(format!("listening at {}", path.display()), e);
        let listener = stream_socket().map_err(failed)?;
        net::bind(&listener, &address).map_err(failed)?;
        // before anybody can connect
        fs::chmod(path, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        net::listen(&listener, BACKLOG).map_err(failed)?;
        let stat = fs::lstat(path).map_err(failed)?;
        let listener = Arc::new(listener);
        let clients = Rc::new(Clients::default());
        let accepting = env.spawner.spawn(accept(env.clone(), listener.clone(), exports, clients.clone()));
        tracing::info!(socket = %shown, "NBD server listens");
        let identity = (stat.st_dev, stat.st_ino);
        Ok(Self { env: env.clone(), path: path.to_owned(), identity, listener, clients, accepting })
    }

    /// How many clients there are, in handshake or connected.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.count.get()
    }

    /// Stops listening and takes no more requests; returns when those under way have been answered and the clients
    /// are disconnected.
    pub async fn stop(self) {
        let ours = |stat: &fs::Stat| (stat.st_dev, stat.st_ino) == self.identity;
        if fs::lstat(&self.path).is_ok_and(|stat| ours(&stat)) {
            // somebody else may have been faster
            let _ = fs::unlink(&self.path);
        }
        // ends the accept under way, and with it the task
        self.clients.stopping.set(true);
        self.clients.changed.notify_all();
        let _ = net::shutdown(&self.listener, Shutdown::Both);
        self.accepting.await;
        self.clients.shut_down(Shutdown::Read);
        let (env, clients) = (self.env.clone(), self.clients.clone());
        let _impatience = self.env.spawner.spawn(async move {
            env.sleep_ns(STOP_NS).await;
            tracing::warn!(clients = clients.count.get(), "NBD clients do not take their replies; dropping them");
            clients.shut_down(Shutdown::Both);
        });
        self.clients.changed.until(|| self.clients.count.get() == 0).await;
    }
}

impl Clients {
    fn enter(&self, socket: &Arc<OwnedFd>) {
        self.count.set(self.count.get() + 1);
        let mut sockets = self.sockets.borrow_mut();
        sockets.retain(|socket| socket.strong_count() > 0);
        sockets.push(Arc::downgrade(socket));
    }

    fn leave(&self) {
        self.count.set(self.count.get() - 1);
        self.changed.notify_all();
    }

    fn shut_down(&self, how: Shutdown) {
        for socket in self.sockets.borrow().iter().filter_map(Weak::upgrade) {
            // an error means that the client has left already
            let _ = net::shutdown(&socket, how);
        }
    }
}

fn stream_socket() -> rustix::io::Result<OwnedFd> {
    net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Removes a socket that a server left behind when it died.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<()> {
    let shown = path.display();
    let stat = match fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(Error::io(format!("looking at {shown}"), e)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        crate::fail!(Exists, "{shown} exists and is not a socket");
    }
    let probe =
        net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None);
    match probe.and_then(|probe| net::connect(&probe, address)) {
        Err(Errno::CONNREFUSED) => fs::unlink(path).map_err(|e| Error::io(format!("removing the old {shown}"), e)),
        Ok(()) | Err(Errno::AGAIN) => Err(Error::new(ErrorKind::Busy, format!("another server listens at {shown}"))),
        Err(e) => Err(Error::io(format!("asking whether anybody listens at {shown}"), e)),
    }
}

/// Accepts clients until the listener is shut down.
async fn accept(env: Env, listener: Arc<OwnedFd>, exports: Exports, clients: Rc<Clients>) {
    loop {
        clients.changed.until(|| clients.count.get() < CONNECTIONS_MAX || clients.stopping.get()).await;
        if clients.stopping.get() {
            return;
        }
        let accepted = Rc::new(OnceCell::new());
        let end = env.reactor.submit(Op::Accept { socket: listener.clone(), accepted: accepted.clone() }).await;
        match (end.result, Rc::into_inner(accepted).and_then(OnceCell::into_inner)) {
            (Ok(_), Some(socket)) => {
                // large reads fit in whole; without it they take a few more turns
                let _ = sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER_BYTES);
                let socket = Arc::new(socket);
                clients.enter(&socket);
                let (env, exports, clients) = (env.clone(), exports.clone(), clients.clone());
                let serving = env.spawner.clone().spawn(async move {
                    connection::serve(env, socket, exports).await;
                    clients.leave();
                });
                serving.detach();
            }
            (Err(error), _) => {
                if clients.stopping.get() {
                    return;
                }
                tracing::warn!(%error, "accepting an NBD client");
                env.sleep_ns(ACCEPT_PAUSE_NS).await;
            }
            (Ok(_), None) => unreachable!("an accept without an error has a socket"),
        }
    }
}
