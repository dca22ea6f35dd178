//! The sending half of a connection: replies of the core become bytes, as many as there are in one send.

use std::sync::Arc;

use super::inbox::Peer;
use super::outbox::{Answer, Outbox, Shape, Work};
use super::wire::{self, EXTENT_BYTES, Output, REPLY_BYTES_MAX};
use super::{EXTENTS_MAX, LARGE_BYTES, REQUESTS_MAX, SEND_BYTES};
use crate::buf::{AlignedBuf, DataBuf};
use crate::error::Result;

/// The sending half.
pub(super) struct Sender {
    peer: Peer,
    outbox: Arc<Outbox>,
    structured: bool,
    buf: AlignedBuf,
    filled: usize,
    /// What the bytes in `buf` answer.
    requests: usize,
    bytes: usize,
    buffers: Vec<Arc<DataBuf>>,
}

impl Sender {
    pub(super) fn new(peer: Peer, outbox: Arc<Outbox>, structured: bool) -> Self {
        let buffers = Vec::with_capacity(REQUESTS_MAX);
        let buf = AlignedBuf::zeroed(SEND_BYTES);
        Self { peer, outbox, structured, buf, filled: 0, requests: 0, bytes: 0, buffers }
    }

    /// Sends replies until there will be none any more. When the client does not take them the connection is broken
    /// off.
    pub(super) async fn run(mut self) {
        let mut answers = Vec::with_capacity(REQUESTS_MAX);
        while let Work::Answers = self.outbox.work(&mut answers).await {
            if let Err(error) = self.send_all(&mut answers).await {
                tracing::debug!(%error, "a client does not take its replies");
                self.outbox.break_off();
                break;
            }
        }
        self.peer.hang_up();
    }

    async fn send_all(&mut self, answers: &mut Vec<Answer>) -> Result<()> {
        for answer in answers.drain(..) {
            let data_bytes = match (answer.flight.shape, answer.flight.error) {
                (Shape::Data, None) => answer.flight.len as usize,
                (Shape::Status { .. }, None) => answer.extents.len().min(EXTENTS_MAX) * EXTENT_BYTES + EXTENT_BYTES,
                _ => 0,
            };
            let large = matches!(answer.flight.shape, Shape::Data) && data_bytes >= LARGE_BYTES;
            let needed = REPLY_BYTES_MAX + if large { 0 } else { data_bytes };
            if self.filled + needed > SEND_BYTES {
                self.send().await?;
            }
            self.requests += 1;
            self.bytes += answer.flight.weight;
            if large {
                self.send_large(answer, data_bytes).await?;
            } else {
                self.put(answer, data_bytes);
            }
        }
        self.send().await
    }

    /// Encodes a reply with whatever comes with it.
    fn put(&mut self, answer: Answer, data_bytes: usize) {
        self.put_head(&answer, data_bytes);
        if let Some(data) = answer.data {
            if data_bytes > 0 {
                self.buf[self.filled..self.filled + data_bytes].copy_from_slice(&data.bytes()[..data_bytes]);
                self.filled += data_bytes;
            }
            self.buffers.push(data);
        }
    }

    /// Encodes a reply without its data.
    fn put_head(&mut self, answer: &Answer, data_bytes: usize) {
        let flight = &answer.flight;
        let mut out = Output::new(&mut self.buf, self.filled);
        match (flight.shape, flight.error) {
            (Shape::Data, None) if self.structured => {
                let len = u32::try_from(data_bytes).expect("a length of the protocol");
                wire::put_data_header(&mut out, flight.cookie, flight.offset, len);
            }
            (Shape::Status { most }, None) => {
                wire::put_block_status(&mut out, flight.cookie, flight.len, &answer.extents, most);
            }
            (Shape::Data | Shape::Status { .. } | Shape::Structured, error) if self.structured => {
                wire::put_structured(&mut out, flight.cookie, error);
            }
            (_, error) => wire::put_simple(&mut out, flight.cookie, error),
        }
        self.filled = out.len();
    }

    /// Sends a read's data straight from its buffer.
    async fn send_large(&mut self, answer: Answer, data_bytes: usize) -> Result<()> {
        self.put_head(&answer, data_bytes);
        let owned = answer.data.and_then(|data| Arc::into_inner(data)?.into_owned());
        // the core gives back what it was lent, and keeps nothing
        let buf = owned.expect("a read's buffer comes back without other users");
        // its header goes first, and is settled with its data
        let (requests, bytes) = (std::mem::take(&mut self.requests), std::mem::take(&mut self.bytes));
        self.send().await?;
        let (buf, result) = self.peer.send(buf, data_bytes).await;
        self.buffers.push(Arc::new(DataBuf::owned(buf)));
        self.outbox.settle(requests, bytes, &mut self.buffers);
        result
    }

    /// Sends what was encoded.
    async fn send(&mut self) -> Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let buf = std::mem::replace(&mut self.buf, AlignedBuf::zeroed(0));
        let (buf, result) = self.peer.send(buf, self.filled).await;
        self.buf = buf;
        self.filled = 0;
        let (requests, bytes) = (std::mem::take(&mut self.requests), std::mem::take(&mut self.bytes));
        self.outbox.settle(requests, bytes, &mut self.buffers);
        result
    }
}
