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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::super::protocol::{Command, Medium};
    use super::*;
    use crate::control::ControlClient;
    use crate::env::executor::Fifo;
    use crate::env::{Executor, Reactor, Rng, mailbox};
    use crate::media::UringBackend;

    const MEDIUM: Medium = Medium { device: 1, inode: 2 };

    /// Serves at a path, on this thread, while `clients` runs on another.
    fn with_server(clients: impl FnOnce(&Path) + Send + 'static) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let reactor = Reactor::new(Box::new(UringBackend::new().unwrap()));
        let mut executor = Executor::new(reactor.clone(), Box::new(Fifo::default()));
        let env = Env::new(executor.spawner(), reactor, Rng::Kernel);
        let (over, ended) = mailbox();
        let at = path.clone();
        let server = ControlServer::start(&env, &path, answer).unwrap();
        let clients = std::thread::spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| clients(&at)));
            assert!(over.send(()).is_ok(), "somebody waits for the end");
            result
        });
        executor.run(async move {
            ended.receive(&mut Vec::new()).await;
            drop(server);
        });
        clients.join().unwrap().unwrap();
        assert!(!path.exists(), "the socket goes with the server");
    }

    async fn answer(request: Request) -> Result<Answer> {
        match request.command {
            Command::Hello | Command::Status => Ok(Answer::Done),
            Command::NamespaceServe { name } => fail!(NotFound, "no {name}"),
            _ => Ok(Answer::Namespaces(Vec::new())),
        }
    }

    fn ask(path: &Path, command: Command) -> Result<Answer> {
        ControlClient::connect(path).unwrap().expect("it listens").ask(&Request::new(MEDIUM, command))
    }

    /// Sends bytes as they are, and gives all that comes back.
    fn send(path: &Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // a server that has had enough closes before it has read everything
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        String::from_utf8(reply).unwrap()
    }

    #[test]
    fn commands_are_answered_in_order_on_one_connection() {
        with_server(|path| {
            let mut client = ControlClient::connect(path).unwrap().unwrap();
            for _ in 0..100 {
                assert_eq!(client.ask(&Request::new(MEDIUM, Command::Status)).unwrap(), Answer::Done);
                let serve = Command::NamespaceServe { name: "db".to_owned() };
                let error = client.ask(&Request::new(MEDIUM, serve)).unwrap_err();
                assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::NotFound, "no db"));
            }
            // two in one packet
            let status = super::super::protocol::encode_request(&Request::new(MEDIUM, Command::Status)).unwrap();
            assert_eq!(send(path, &status.repeat(2)).lines().count(), 2);
        });
    }

    #[test]
    fn hostile_clients_are_told_and_left() {
        with_server(|path| {
            assert!(send(path, b"GET / HTTP/1.1\r\n\r\n").contains("not understood"));
            assert!(send(path, b"\n").contains("not understood"));
            assert!(send(path, br#"{"version":7}"#).is_empty(), "half a line is no message");
            assert!(send(path, b"{\"version\":7}\n").contains("version 7"));
            assert!(send(path, &[0xff; 64]).is_empty());
            send(path, &vec![b'x'; 4 * REQUEST_BYTES_MAX]);
            assert_eq!(ask(path, Command::Status).unwrap(), Answer::Done, "it is still there");
        });
    }

    #[test]
    fn a_message_in_pieces_is_put_together() {
        with_server(|path| {
            let line = super::super::protocol::encode_request(&Request::new(MEDIUM, Command::Status)).unwrap();
            let mut stream = UnixStream::connect(path).unwrap();
            for piece in line.chunks(7) {
                stream.write_all(piece).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut reply = String::new();
            BufReader::new(stream).read_line(&mut reply).unwrap();
            assert!(reply.contains("\"done\""), "{reply}");
        });
    }

    #[test]
    fn connections_are_bounded_and_come_free() {
        with_server(|path| {
            let idle: Vec<_> = (0..CONNECTIONS_MAX).map(|_| UnixStream::connect(path).unwrap()).collect();
            let mut tries = 0;
            while ask(path, Command::Status).is_ok() {
                tries += 1;
                assert!(tries < 1000, "{CONNECTIONS_MAX} others are connected");
            }
            drop(idle);
            tries = 0;
            while ask(path, Command::Status).is_err() {
                tries += 1;
                assert!(tries < 1000, "all others have gone");
            }
        });
    }

    #[test]
    fn nobody_listening_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        assert!(ControlClient::connect(&path).unwrap().is_none());
        drop(bind_socket(&path).unwrap());
        assert!(path.exists(), "left by a daemon that was killed");
        assert!(ControlClient::connect(&path).unwrap().is_none());
        let _listening = bind_socket(&path).expect("it is replaced");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(ControlClient::connect(&path).unwrap().is_some());
    }
}
