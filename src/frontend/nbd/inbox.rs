//! What a client sent and nobody has used yet, and the socket it comes from.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use rustix::net::Shutdown;

use super::RECEIVE_BYTES;
use crate::buf::AlignedBuf;
use crate::env::Reactor;
use crate::env::reactor::{Completion, IoBuf, Op};
use crate::error::{Error, ErrorKind, Result};

/// The other end of a connection.
#[derive(Clone)]
pub(super) struct Peer {
    reactor: Rc<Reactor>,
    socket: Arc<OwnedFd>,
}

impl Peer {
    pub(super) fn new(reactor: Rc<Reactor>, socket: Arc<OwnedFd>) -> Self {
        Self { reactor, socket }
    }

    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Receives what is there into `buf[start..]`; at least a byte, or an error at the end of the stream.
    pub(super) async fn receive(&self, buf: AlignedBuf, start: usize) -> (AlignedBuf, Result<usize>) {
        let socket = self.socket.clone();
        let (buf, result) = buffer_of(self.reactor.submit(Op::Recv { socket, buf, start }).await);
        match result {
            Ok(0) => (buf, Err(Error::new(ErrorKind::Shutdown, "the client left"))),
            other => (buf, other),
        }
    }

    /// Sends all of `buf[..end]`.
    pub(super) async fn send(&self, mut buf: AlignedBuf, end: usize) -> (AlignedBuf, Result<()>) {
        let mut start = 0;
        while start < end {
            let socket = self.socket.clone();
            let (back, result) = buffer_of(self.reactor.submit(Op::Send { socket, buf, start, end }).await);
            buf = back;
            match result {
                Ok(sent) => start += sent,
                Err(error) => return (buf, Err(error)),
            }
        }
        (buf, Ok(()))
    }

    /// Ends the connection for whoever sends or receives on it.
    pub(super) fn hang_up(&self) {
        // an error means that it has ended already
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

fn buffer_of(completion: Completion) -> (AlignedBuf, Result<usize>) {
    match completion {
        Completion { result, buf: Some(IoBuf::Owned(buf)) } => (buf, result),
        other => unreachable!("socket operations give their buffer back: {other:?}"),
    }
}

/// Received bytes, in order.
pub(super) struct Inbox {
    buf: AlignedBuf,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { buf: AlignedBuf::zeroed(RECEIVE_BYTES), start: 0, end: 0 }
    }

    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// The first `len` bytes have been used.
    pub(super) fn consume(&mut self, len: usize) {
        assert!(len <= self.end - self.start, "{len} of {} bytes", self.end - self.start);
        self.start += len;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Waits for more. Nobody needs more than a whole inbox at once, so there is room.
    pub(super) async fn receive(&mut self, peer: &Peer) -> Result<()> {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        debug_assert!(self.end < self.buf.len(), "a full inbox that nobody could use");
        let buf = std::mem::replace(&mut self.buf, AlignedBuf::zeroed(0));
        let (buf, result) = peer.receive(buf, self.end).await;
        self.buf = buf;
        self.end += result?;
        Ok(())
    }
}
