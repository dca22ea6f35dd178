//! What front ends ask of the core, and how they are answered.
//!
//! A front end turns its protocol into [`Request`]s, sends them in groups through [`NamespaceClient`], and gets exactly
//! one [`Reply`] for each (I9): a request that is dropped unanswered answers itself with an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::buf::DataBuf;
use crate::env::Mailbox;
use crate::error::{Error, ErrorKind, Result};
use crate::units::NamespaceId;

/// What is asked. Offsets and lengths are bytes, multiples of the namespace's logical block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Fill the data buffer.
    Read,
    /// Store the data buffer; with `fua` durable before the reply.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Make everything of this namespace acknowledged before durable (I4).
    Flush,
    /// The range is not needed: whole 4 KiB blocks of it read as zeros afterwards, parts of blocks stay as they are.
    Discard,
    /// The range shall read as zeros; with `fua` durable before the reply.
    WriteZeroes {
        /// Force unit access.
        fua: bool,
    },
    /// Which parts of the range hold data.
    Status,
}

/// A run of bytes that holds data or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// Whether it holds data; otherwise it reads as zeros.
    pub data: bool,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Reply {
    /// The front end's own number for the request.
    pub tag: u64,
    /// How it ended. An error is already logged where it arose if it is ours.
    pub result: Result<()>,
    /// The buffer that the front end lent.
    pub data: Option<Arc<DataBuf>>,
    /// The answer to [`RequestKind::Status`].
    pub extents: Vec<Extent>,
}

/// Where replies go. Called on the core's thread: it must not block.
pub trait ReplySink: Send + Sync {
    /// Takes one reply.
    fn reply(&self, reply: Reply);
    /// No more replies in this turn of the core: send what was gathered.
    fn flush(&self) {}
}

/// A request. Dropping it unanswered answers it with [`ErrorKind::Shutdown`].
pub struct Request {
    /// What is asked.
    pub kind: RequestKind,
    /// First byte.
    pub offset: u64,
    /// Bytes. For reads and writes at most the data buffer's length; 0 for flush.
    pub len: u64,
    /// The front end's own number.
    pub tag: u64,
    /// Lent memory of reads and writes; unique (no other clone) for reads.
    pub data: Option<Arc<DataBuf>>,
    sink: Option<Arc<dyn ReplySink>>,
}

impl Request {
    /// A request to be answered at `sink`.
    #[must_use]
    pub fn new(
        kind: RequestKind,
        offset: u64,
        len: u64,
        tag: u64,
        data: Option<Arc<DataBuf>>,
        sink: Arc<dyn ReplySink>,
    ) -> Self {
        Self { kind, offset, len, tag, data, sink: Some(sink) }
    }

    /// Answers the request; the sink still wants [`ReplySink::flush`] at the end of the turn and is returned for that.
    pub fn answer(mut self, result: Result<()>, extents: Vec<Extent>) -> Option<Arc<dyn ReplySink>> {
        let sink = self.sink.take()?;
        sink.reply(Reply { tag: self.tag, result, data: self.data.take(), extents });
        Some(sink)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            let result = Err(Error::new(ErrorKind::Shutdown, "the pool stopped before the request was done"));
            sink.reply(Reply { tag: self.tag, result, data: self.data.take(), extents: Vec::new() });
            sink.flush();
        }
    }
}

/// What a front end needs to know of a namespace, and the way to its core. Cheap to clone; any thread.
#[derive(Clone)]
pub struct NamespaceClient {
    /// Which.
    pub id: NamespaceId,
    /// Its name: NBD export, status.
    pub name: Arc<str>,
    /// Its size in bytes.
    pub size: Arc<AtomicU64>,
    /// Bytes of a logical block as the host sees it: 512 or 4096.
    pub logical_block: u32,
    /// The pool, for the identity of devices.
    pub pool: crate::units::PoolId,
    /// The way to the core.
    pub mailbox: Mailbox<(NamespaceId, Request)>,
}

impl NamespaceClient {
    /// Hands one request to the core. It is answered in any case.
    pub fn submit(&self, request: Request) {
        drop(self.mailbox.send((self.id, request)));
    }

    /// Hands a group of requests to the core, with one wake; `requests` is empty afterwards.
    pub fn submit_all(&self, requests: &mut Vec<(NamespaceId, Request)>) {
        self.mailbox.send_all(requests);
        // what could not be handed over answers itself
        requests.clear();
    }

    /// Size in bytes now.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }
}
