//! The receiving half of a connection: bytes become requests, handed to the core in groups.
//!
//! Small payloads are copied out of the inbox, of which one receive fills many requests; large ones are received
//! straight into the buffer that the core gets.

use std::sync::Arc;

use super::buffers::is_class;
use super::command::{self, Ask, Terms, Verdict};
use super::handshake::Session;
use super::inbox::{Inbox, Peer};
use super::outbox::{Flight, Outbox, Shape};
use super::wire::{Header, REQUEST_BYTES, WireError};
use super::{EXTENTS_MAX, LARGE_BYTES, REQUESTS_MAX};
use crate::buf::{AlignedBuf, DataBuf};
use crate::core::request::{Request, RequestKind};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::REQUEST_BYTES_MAX;
use crate::units::NamespaceId;

/// The receiving half.
pub(super) struct Receiver<'a> {
    pub(super) peer: &'a Peer,
    pub(super) inbox: Inbox,
    pub(super) session: &'a Session,
    pub(super) outbox: &'a Arc<Outbox>,
    /// Requests that have not been handed over yet.
    pub(super) group: Vec<(NamespaceId, Request)>,
}

/// Whether there is more to be done with what was received.
enum Step {
    Again,
    NeedBytes,
    Goodbye,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(peer: &'a Peer, inbox: Inbox, session: &'a Session, outbox: &'a Arc<Outbox>) -> Self {
        Self { peer, inbox, session, outbox, group: Vec::with_capacity(REQUESTS_MAX) }
    }

    /// Receives until the client says goodbye.
    ///
    /// # Errors
    /// The client left without a word, or broke the protocol.
    pub(super) async fn run(&mut self) -> Result<()> {
        loop {
            let step = self.step().await;
            match step {
                Ok(Step::Again) => continue,
                Ok(Step::NeedBytes) => {
                    self.hand_over();
                    self.inbox.receive(self.peer).await?;
                }
                Ok(Step::Goodbye) => {
                    self.hand_over();
                    return Ok(());
                }
                Err(error) => {
                    // what was received whole before is done all the same
                    self.hand_over();
                    return Err(error);
                }
            }
        }
    }

    fn hand_over(&mut self) {
        if !self.group.is_empty() {
            self.session.export.client.submit_all(&mut self.group);
        }
    }

    /// Takes one request.
    async fn step(&mut self) -> Result<Step> {
        let Some(head) = self.inbox.bytes().first_chunk::<REQUEST_BYTES>() else { return Ok(Step::NeedBytes) };
        let Some(header) = Header::decode(head) else { return Err(violation("wrong magic number of a request")) };
        let payload = if command::has_payload(&header) { to_usize(header.len) } else { 0 };
        let client = &self.session.export.client;
        let terms = Terms {
            size: client.size_bytes(),
            logical_block: client.logical_block,
            read_only: self.session.export.read_only,
            allocation: self.session.allocation,
        };
        match command::judge(&header, &terms) {
            Verdict::Disconnect => Ok(Step::Goodbye),
            Verdict::Violation(what) => Err(violation(what)),
            Verdict::Refuse(error) => {
                self.make_room(0).await?;
                self.inbox.consume(REQUEST_BYTES);
                self.skip(payload).await?;
                self.outbox.refuse(refusal(&header, error));
                Ok(Step::Again)
            }
            Verdict::Accept(_) if payload < LARGE_BYTES && self.inbox.bytes().len() < REQUEST_BYTES + payload => {
                Ok(Step::NeedBytes)
            }
            Verdict::Accept(ask) => {
                self.accept(&header, ask, payload).await?;
                Ok(Step::Again)
            }
        }
    }

    async fn accept(&mut self, header: &Header, ask: Ask, payload: usize) -> Result<()> {
        let weight = if ask.kind == RequestKind::Read { to_usize(ask.len) } else { payload };
        self.make_room(weight).await?;
        self.inbox.consume(REQUEST_BYTES);
        let data = if payload >= LARGE_BYTES {
            Some(self.receive_large(payload).await?)
        } else if weight > 0 {
            let mut data = self.outbox.buffer(weight);
            if payload > 0 {
                let target = Arc::get_mut(&mut data).expect("a buffer from the pool has no other user");
                target.bytes_mut()[..payload].copy_from_slice(&self.inbox.bytes()[..payload]);
                self.inbox.consume(payload);
            }
            Some(data)
        } else {
            None
        };
        self.open(header, ask, weight, data);
        Ok(())
    }

    /// A payload straight from the socket. The buffer has exactly its size, so that nothing behind it is received.
    async fn receive_large(&mut self, payload: usize) -> Result<Arc<DataBuf>> {
        let pooled = is_class(payload).then(|| self.outbox.buffer(payload));
        let mut buf = pooled
            .and_then(|shared| Arc::into_inner(shared)?.into_owned())
            .unwrap_or_else(|| AlignedBuf::zeroed(payload));
        let mut filled = payload.min(self.inbox.bytes().len());
        buf[..filled].copy_from_slice(&self.inbox.bytes()[..filled]);
        self.inbox.consume(filled);
        if filled < payload {
            // it takes a while: what came before need not wait for it
            self.hand_over();
        }
        while filled < payload {
            let (back, result) = self.peer.receive(buf, filled).await;
            buf = back;
            filled += result?;
        }
        Ok(Arc::new(DataBuf::owned(buf)))
    }

    /// Reads past a payload that nobody wants.
    async fn skip(&mut self, payload: usize) -> Result<()> {
        let mut left = payload;
        loop {
            let here = left.min(self.inbox.bytes().len());
            self.inbox.consume(here);
            left -= here;
            if left == 0 {
                return Ok(());
            }
            self.hand_over();
            self.inbox.receive(self.peer).await?;
        }
    }

    /// Waits until another request may be opened. The group goes first: room comes from what the core answers.
    async fn make_room(&mut self, bytes: usize) -> Result<()> {
        if self.outbox.has_room(bytes) {
            return Ok(());
        }
        self.hand_over();
        if self.outbox.room(bytes).await {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Shutdown, "the client left"))
    }

    /// Opens a request and puts it, or the parts that it must be cut into, into the group.
    fn open(&mut self, header: &Header, ask: Ask, weight: usize, data: Option<Arc<DataBuf>>) {
        let cut = matches!(ask.kind, RequestKind::Discard | RequestKind::WriteZeroes { .. });
        let parts = if cut { u64::from(ask.len).div_ceil(REQUEST_BYTES_MAX) } else { 1 };
        let tag = self.outbox.open(Flight {
            cookie: header.cookie,
            offset: header.offset,
            len: ask.len,
            weight,
            shape: shape(&ask),
            parts: u32::try_from(parts).expect("at most 4 GiB in parts of 32 MiB"),
            error: None,
        });
        let client = &self.session.export.client;
        if parts == 1 {
            let request = Request::new(ask.kind, header.offset, ask.len.into(), tag, data, self.outbox.clone());
            self.group.push((client.id, request));
            return;
        }
        let end = header.offset + u64::from(ask.len);
        for part in 0..parts {
            let offset = header.offset + part * REQUEST_BYTES_MAX;
            let len = REQUEST_BYTES_MAX.min(end - offset);
            self.group.push((client.id, Request::new(ask.kind, offset, len, tag, None, self.outbox.clone())));
        }
    }
}

fn shape(ask: &Ask) -> Shape {
    match ask.kind {
        RequestKind::Read => Shape::Data,
        RequestKind::Status => Shape::Status { most: if ask.one_extent { 1 } else { EXTENTS_MAX } },
        RequestKind::Write { .. } | RequestKind::Flush | RequestKind::Discard | RequestKind::WriteZeroes { .. } => {
            Shape::Plain
        }
    }
}

fn refusal(header: &Header, error: WireError) -> Flight {
    let shape = if command::replies_structured(header) { Shape::Structured } else { Shape::Plain };
    Flight { cookie: header.cookie, offset: 0, len: 0, weight: 0, shape, parts: 0, error: Some(error) }
}

fn to_usize(len: u32) -> usize {
    len as usize
}

fn violation(what: &str) -> Error {
    Error::new(ErrorKind::Config, format!("the client broke the protocol: {what}"))
}
