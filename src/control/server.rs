//! The daemon's end: a task a connection, on the core's executor.
//!
//! Commands of one connection are handled one after another. A connection that sends nothing for a minute is closed;
//! beyond [`CONNECTIONS_MAX`] at a time new ones are closed at once.

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rustix::net::Shutdown;

use super::protocol::{Answer, REQUEST_BYTES_MAX, Request, decode_request, encode_reply};
use crate::buf::AlignedBuf;
use crate::env::Env;
use crate::env::reactor::{IoBuf, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;

/// Most connections at a time.
const CONNECTIONS_MAX: u32 = 16;
/// A connection on which nothing moves for so long is closed.
const IDLE_NS: u64 = 60_000_000_000;
/// Pause after a failed accept (no descriptors left).
const ACCEPT_PAUSE_NS: u64 = 100_000_000;

/// Makes the socket at `path`, 0600, and listens. A socket that is there is replaced: who calls this has made sure that
/// no daemon lives behind it.
///
/// # Errors
/// [`ErrorKind::Io`], also when the path is longer than a socket's may be.
pub fn bind_socket(path: &Path) -> Result<OwnedFd> {
    let shown = path.display();
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format!("replacing the socket {shown}"), e));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|e| Error::io(format!("listening at {shown}"), e))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))
        .map_err(|e| Error::io(format!("setting the permissions of {shown}"), e))?;
    Ok(listener.into())
}

/// Listens for commands. Dropped, it takes its socket away; connections end with the executor.
pub struct ControlServer {
    path: PathBuf,
    listener: Arc<OwnedFd>,
    closed: Rc<Cell<bool>>,
}

impl ControlServer {
    /// Listens at `path` and hands every command to `handle`, several at a time.
    ///
    /// # Errors
    /// See [`bind_socket`].
    pub fn start<F>(env: &Env, path: &Path, handle: impl Fn(Request) -> F + 'static) -> Result<Self>
    where
        F: Future<Output = Result<Answer>> + 'static,
    {
        let listener = Arc::new(bind_socket(path)?);
        let closed = Rc::new(Cell::new(false));
        let accepting = accept_all(env.clone(), listener.clone(), closed.clone(), Rc::new(handle));
        env.spawner.spawn(accepting).detach();
        Ok(Self { path: path.to_owned(), listener, closed })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.closed.set(true);
        // a client that comes now must not wait for an answer that nobody gives
        drop(std::fs::remove_file(&self.path));
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
    }
}

async fn accept_all<F>(
    env: Env,
    listener: Arc<OwnedFd>,
    closed: Rc<Cell<bool>>,
    handle: Rc<impl Fn(Request) -> F + 'static>,
) where
    F: Future<Output = Result<Answer>> + 'static,
{
    let connections = Rc::new(Cell::new(0));
    while !closed.get() {
        let slot = Rc::new(OnceCell::new());
        let accepted = env.reactor.submit(Op::Accept { socket: listener.clone(), accepted: slot.clone() }).await;
        let socket = match accepted.result.and_then(|_| take(slot)) {
            Ok(socket) => socket,
            // shutting the listener down ends the accept
            Err(_) if closed.get() => return,
            Err(error) => {
                tracing::warn!(%error, "accepting a control connection");
                env.sleep_ns(ACCEPT_PAUSE_NS).await;
                continue;
            }
        };
        if connections.get() >= CONNECTIONS_MAX {
            tracing::warn!("too many control connections at a time: one is turned away");
            continue;
        }
        connections.set(connections.get() + 1);
        let connection = Connection { env: env.clone(), socket: Arc::new(socket) };
        let (handle, connections) = (handle.clone(), connections.clone());
        let task = async move {
            if let Err(error) = connection.serve(&*handle).await {
                tracing::warn!(%error, "a control connection ended");
            }
            connections.set(connections.get() - 1);
        };
        env.spawner.spawn(task).detach();
    }
}

/// The connection's socket out of a completed accept.
fn take(slot: Rc<OnceCell<OwnedFd>>) -> Result<OwnedFd> {
    let socket = Rc::into_inner(slot).and_then(OnceCell::into_inner);
    socket.ok_or_else(|| Error::new(ErrorKind::Io, "an accept that gave no connection"))
}

struct Connection {
    env: Env,
    socket: Arc<OwnedFd>,
}

impl Connection {
    async fn serve<F>(&self, handle: &impl Fn(Request) -> F) -> Result<()>
    where
        F: Future<Output = Result<Answer>>,
    {
        let mut buf = AlignedBuf::zeroed(REQUEST_BYTES_MAX);
        let mut filled = 0;
        loop {
            let line_end = buf[..filled].iter().position(|byte| *byte == b'\n');
            let Some(line_end) = line_end else {
                if filled == buf.len() {
                    let error = Error::new(ErrorKind::OutOfRange, "a control message that is too long");
                    return self.reply(Err(error)).await;
                }
                let got;
                (buf, got) = self.receive(buf, filled).await?;
                if got == 0 {
                    return Ok(());
                }
                filled += got;
                continue;
            };
            match decode_request(&buf[..line_end]) {
                Ok(request) => {
                    tracing::debug!(command = ?request.command, "control");
                    let result = handle(request).await;
                    self.reply(result).await?;
                }
                // who sends such a thing cannot be expected to mean what follows
                Err(error) => return self.reply(Err(error)).await,
            }
            buf.copy_within(line_end + 1..filled, 0);
            filled -= line_end + 1;
        }
    }

    /// Receives something, or the end.
    async fn receive(&self, buf: AlignedBuf, start: usize) -> Result<(AlignedBuf, usize)> {
        self.transfer(Op::Recv { socket: self.socket.clone(), buf, start }).await
    }

    async fn reply(&self, result: Result<Answer>) -> Result<()> {
        let line = match encode_reply(result) {
            Ok(line) => line,
            // too long: said instead of sent
            Err(error) => encode_reply(Err(error))?,
        };
        let mut buf = AlignedBuf::copied(&line);
        let (mut start, end) = (0, buf.len());
        while start < end {
            let sent;
            (buf, sent) = self.transfer(Op::Send { socket: self.socket.clone(), buf, start, end }).await?;
            start += sent;
        }
        Ok(())
    }

    /// Moves some bytes; closes the connection when none move for too long.
    async fn transfer(&self, op: Op) -> Result<(AlignedBuf, usize)> {
        let (env, socket) = (self.env.clone(), self.socket.clone());
        let watch = self.env.spawner.spawn(async move {
            env.sleep_ns(IDLE_NS).await;
            let _ = rustix::net::shutdown(&socket, Shutdown::Both);
        });
        let ended = self.env.reactor.submit(op).await;
        drop(watch);
        let bytes = ended.result?;
        let Some(IoBuf::Owned(buf)) = ended.buf else { fail!(Io, "a transfer that lost its buffer") };
        Ok((buf, bytes))
    }
}
