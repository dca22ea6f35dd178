//! The way to a pool: through its daemon if one serves it, otherwise directly.

use super::Failure;
use super::peek::{Peek, peek};
use super::pool_args::PoolArgs;
use crate::control::{Answer, Command, ControlClient, Request, socket_path};
use crate::error::{Error, ErrorKind, Result};

/// How a pool can be reached.
#[derive(Debug)]
pub(super) enum Access {
    /// A daemon serves it.
    Served(Daemon),
    /// Nobody does.
    Idle(Peek),
}

/// A connection to the daemon of a pool.
#[derive(Debug)]
pub(super) struct Daemon {
    client: ControlClient,
    pub(super) peek: Peek,
}

impl Daemon {
    /// Has the daemon do something.
    pub(super) fn ask(&mut self, command: Command) -> Result<Answer> {
        self.client.ask(&Request::new(self.peek.medium, command))
    }

    /// Waits until the daemon has exited.
    pub(super) fn wait_for_end(self) -> Result<()> {
        self.client.wait_for_end()
    }
}

/// Finds out who serves the pool.
///
/// # Errors
/// There is no pool, or its daemon cannot be reached.
pub(super) fn access(args: &PoolArgs) -> Result<Access, Failure> {
    let peek = peek(&args.pool)?;
    let path = socket_path(&args.run_dir, peek.superblock.pool);
    let Some(client) = ControlClient::connect(&path)? else { return Ok(Access::Idle(peek)) };
    let mut daemon = Daemon { client, peek };
    // the kernel keeps the socket of a killed daemon open until it has ended the daemon's I/O
    match daemon.ask(Command::Hello) {
        Ok(_) => Ok(Access::Served(daemon)),
        Err(error) if error.kind() == ErrorKind::Shutdown => Ok(Access::Idle(daemon.peek)),
        Err(error) => Err(error.into()),
    }
}

/// The error for an answer that does not belong to the command.
pub(super) fn unexpected(answer: &Answer) -> Failure {
    Error::new(ErrorKind::Unsupported, format!("the daemon gave an answer that does not fit: {answer:?}")).into()
}
