//! Requests in, replies out.
//!
//! A fixed number of handler tasks take requests from two queues: small ones, each step of which goes before others
//! ([`Class::Prompt`]), and large ones. So nothing is spawned or allocated for a request (I10), and each is answered exactly
//! once (I9).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::Core;
use super::partial::Part;
use super::request::{Extent, ReplySink, Request, RequestKind};
use super::tier0::Wrote;
use crate::env::MailboxReceiver;
use crate::env::executor::Class;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::format::Entry;
use crate::limits::{BLOCK_BYTES, BLOCK_SIZE, REQUEST_BYTES_MAX};
use crate::log::Streams;
use crate::units::{Lba, LbaRange, NamespaceId, OpNo};

/// Small requests handled at a time.
const HANDLERS: usize = 256;
/// Large requests handled at a time.
const BULK_HANDLERS: usize = 128;
/// A larger read is bulk: it waits for what is small.
const SMALL_READ_MAX: u64 = 128 << 10;
/// A larger write is bulk. Pages and commits of databases are smaller; a flood of writes as large as this one would
/// otherwise keep a commit waiting for all that came before it.
const SMALL_WRITE_MAX: u64 = 32 << 10;

/// Requests of a kind that wait for a handler, and handlers that wait for one.
#[derive(Default)]
struct Queue {
    inner: RefCell<QueueInner>,
}

#[derive(Default)]
struct QueueInner {
    requests: VecDeque<(NamespaceId, Request)>,
    idle: Vec<Waker>,
}

impl Queue {
    fn push(&self, item: (NamespaceId, Request)) {
        let mut inner = self.inner.borrow_mut();
        inner.requests.push_back(item);
        if let Some(waker) = inner.idle.pop() {
            waker.wake();
        }
    }

    async fn pop(&self) -> (NamespaceId, Request) {
        poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            if let Some(item) = inner.requests.pop_front() {
                return Poll::Ready(item);
            }
            inner.idle.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Core {
    /// Starts everything that runs for the life of the core: requests from `mailbox`, the batch timer, checkpoints, the
    /// usage count, the cleaner.
    pub fn start(self: &Rc<Self>, mailbox: MailboxReceiver<(NamespaceId, Request)>) {
        let spawner = &self.env.spawner;
        let (small, large) = (Rc::new(Queue::default()), Rc::new(Queue::default()));
        for _ in 0..HANDLERS {
            spawner.spawn(self.clone().run_handler(small.clone())).detach();
        }
        for _ in 0..BULK_HANDLERS {
            spawner.spawn_as(Class::Bulk, self.clone().run_handler(large.clone())).detach();
        }
        spawner.spawn(self.clone().run_inbox(mailbox, small, large)).detach();
        spawner.spawn_as(Class::Bulk, self.clone().run_batch_timer()).detach();
        spawner.spawn_as(Class::Bulk, self.clone().run_checkpoints()).detach();
        spawner.spawn_as(Class::Bulk, self.clone().run_counter_roots()).detach();
        spawner.spawn_as(Class::Bulk, self.clone().run_preparation()).detach();
        spawner.spawn_as(Class::Bulk, self.clone().count_usage()).detach();
        spawner.spawn_as(Class::Bulk, self.clone().run_accounting()).detach();
        spawner.spawn_as(Class::Bulk, self.clone().run_scrub()).detach();
        spawner.spawn_as(Class::Bulk, self.clone().run_cleaner()).detach();
        spawner.spawn_as(Class::Bulk, self.clone().run_idle_watch()).detach();
        if let Some(tier0) = self.tier0() {
            self.start_tier0(&tier0);
        }
    }

    /// Returns when every request to a namespace that is under way now has been answered. One at a time.
    pub(crate) async fn drain_requests(&self, id: NamespaceId) {
        let flight = self.state.borrow().namespaces.get(&id).map(|n| n.flight.clone());
        let Some(flight) = flight else { return };
        let turn = flight.turn();
        self.draining.set(true);
        self.released.until(|| flight.count(turn) == 0).await;
        self.draining.set(false);
    }

    async fn run_inbox(
        self: Rc<Self>,
        mailbox: MailboxReceiver<(NamespaceId, Request)>,
        small: Rc<Queue>,
        large: Rc<Queue>,
    ) {
        let mut arrived = Vec::with_capacity(256);
        loop {
            mailbox.receive(&mut arrived).await;
            for item in arrived.drain(..) {
                if is_bulk(&item.1) { large.push(item) } else { small.push(item) }
            }
        }
    }

    async fn run_handler(self: Rc<Self>, queue: Rc<Queue>) {
        loop {
            let (id, mut request) = queue.pop().await;
            let mut extents = Vec::new();
            self.active.set(self.active.get() + 1);
            self.idle.interrupt();
            let result = self.handle(id, &mut request, &mut extents).await;
            self.active.set(self.active.get() - 1);
            if self.stopping.get() || self.draining.get() {
                self.released.notify_all();
            }
            let sink: Option<Arc<dyn ReplySink>> = request.answer(result, extents);
            if let Some(sink) = sink {
                sink.flush();
            }
        }
    }

    async fn handle(self: &Rc<Self>, id: NamespaceId, request: &mut Request, extents: &mut Vec<Extent>) -> Result<()> {
        if self.stopping.get() {
            fail!(Shutdown, "the pool is stopping");
        }
        let (namespace, _ticket) = {
            let mut state = self.state.borrow_mut();
            let namespace = state.namespace_mut(id)?;
            check_bounds(request, namespace.entry.blocks, namespace.entry.logical_block)?;
            if matches!(request.kind, RequestKind::Read | RequestKind::Write { .. }) {
                let is_write = request.kind != RequestKind::Read;
                namespace.sizes.count(is_write, request.offset, request.len);
            }
            (namespace.stats.clone(), namespace.flight.enter())
        };
        let len = request.len;
        match request.kind {
            RequestKind::Read => {
                self.read_request(id, request).await?;
                self.stats.host_read.add(len);
                namespace.read.add(len);
            }
            RequestKind::Write { fua } => {
                let wrote = self.write_request(id, request).await?;
                self.mind_window();
                self.stats.host_written.add(len);
                namespace.written.add(len);
                self.count_unflushed(id, if fua { None } else { Some(len - wrote.zeros) });
                self.acknowledge(id, wrote, fua).await?;
            }
            RequestKind::Flush => {
                self.stats.flushes.add(1);
                let op = self.state.borrow().namespace(id)?.last_op;
                self.count_unflushed(id, None);
                self.wait_durable(Streams::Host, op).await?;
            }
            RequestKind::Discard => {
                let wrote = self.clear_request(id, request, false).await?;
                self.stats.host_discarded.add(len);
                namespace.discarded.add(len);
                self.acknowledge(id, wrote, false).await?;
            }
            RequestKind::WriteZeroes { fua } => {
                let wrote = self.clear_request(id, request, true).await?;
                namespace.discarded.add(len);
                self.acknowledge(id, wrote, fua).await?;
            }
            RequestKind::Status => self.status_request(id, request, extents).await?,
        }
        Ok(())
    }

    /// Waits until what went to tier 0 is durable; the rest is what FLUSH waits for from now on, or with `fua` this.
    async fn acknowledge(self: &Rc<Self>, id: NamespaceId, wrote: Wrote, fua: bool) -> Result<()> {
        if let Some(namespace) = self.state.borrow_mut().namespaces.get_mut(&id) {
            namespace.last_op = namespace.last_op.max(wrote.host);
        }
        if wrote.journal > OpNo(0) {
            self.wait_durable(Streams::Journal, wrote.journal).await?;
        }
        if fua {
            self.wait_durable(Streams::Host, wrote.host).await?;
        }
        Ok(())
    }

    /// Counts bytes written since the namespace's last flush; `None` is a flush.
    fn count_unflushed(&self, id: NamespaceId, len: Option<u64>) {
        if let Some(namespace) = self.state.borrow_mut().namespaces.get_mut(&id) {
            namespace.unflushed = len.map_or(0, |len| namespace.unflushed + len);
        }
    }

    async fn read_request(self: &Rc<Self>, id: NamespaceId, request: &mut Request) -> Result<()> {
        let (offset, len) = (request.offset, usize::try_from(request.len).unwrap_or(usize::MAX));
        let urgent = !is_bulk(request);
        let Some(out) = request.data.as_mut().and_then(Arc::get_mut).and_then(|d| d.bytes_mut().get_mut(..len)) else {
            fail!(Config, "a read needs a buffer of its own, as long as the read");
        };
        let span = Span::of(offset, request.len);
        if span.head.is_none() && span.tail.is_none() {
            return self.read_blocks(id, span.whole, out, urgent).await;
        }
        // parts of blocks: read whole blocks aside
        let blocks = LbaRange { start: Lba(offset / u64::from(BLOCK_SIZE)), count: span.touched() };
        let mut aside = crate::buf::AlignedBuf::zeroed(usize::try_from(blocks.count).unwrap_or(1) * BLOCK_BYTES);
        self.read_blocks(id, blocks, &mut aside, urgent).await?;
        let from = usize::try_from(offset % u64::from(BLOCK_SIZE)).unwrap_or(0);
        out.copy_from_slice(&aside[from..from + len]);
        Ok(())
    }

    async fn write_request(self: &Rc<Self>, id: NamespaceId, request: &mut Request) -> Result<Wrote> {
        let Some(data) = request.data.clone().filter(|d| d.bytes().len() as u64 >= request.len) else {
            fail!(Config, "a write needs a buffer at least as long as the write");
        };
        let urgent = !is_bulk(request);
        let span = Span::of(request.offset, request.len);
        let mut at = 0;
        let mut wrote = Wrote::default();
        if let Some((lba, within)) = span.head {
            let bytes = Some(&data.bytes()[..within.len()]);
            at = within.len();
            wrote = self.write_part(id, &Part { lba, within, bytes }).await?;
        }
        if span.whole.count > 0 {
            wrote = wrote.and(self.write_blocks(id, &data, at, span.whole, urgent).await?);
            at += usize::try_from(span.whole.count).unwrap_or(usize::MAX) * BLOCK_BYTES;
        }
        if let Some((lba, within)) = span.tail {
            let bytes = Some(&data.bytes()[at..at + within.len()]);
            wrote = wrote.and(self.write_part(id, &Part { lba, within, bytes }).await?);
        }
        Ok(wrote)
    }

    /// Discards whole blocks; with `exact` zeroes the parts of blocks at both ends too.
    async fn clear_request(self: &Rc<Self>, id: NamespaceId, request: &Request, exact: bool) -> Result<Wrote> {
        let span = Span::of(request.offset, request.len);
        let mut wrote = Wrote::default();
        if span.whole.count > 0 {
            wrote.host = self.clear_blocks(id, span.whole).await?;
        }
        for (lba, within) in span.head.iter().chain(&span.tail).filter(|_| exact).cloned() {
            wrote = wrote.and(self.write_part(id, &Part { lba, within, bytes: None }).await?);
        }
        Ok(wrote)
    }

    async fn status_request(
        self: &Rc<Self>,
        id: NamespaceId,
        request: &Request,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        let start = request.offset / u64::from(BLOCK_SIZE);
        let end = (request.offset + request.len).div_ceil(u64::from(BLOCK_SIZE));
        let mut skipped = request.offset % u64::from(BLOCK_SIZE);
        let mut left = request.len;
        for lba in (start..end).map(Lba) {
            let known = self.know(id, LbaRange { start: lba, count: 1 }).await?;
            let data = self.state.borrow().namespace(id)?.directory.get(lba) != Entry::HOLE;
            drop(known);
            let len = (u64::from(BLOCK_SIZE) - std::mem::take(&mut skipped)).min(left);
            left -= len;
            match extents.last_mut() {
                Some(last) if last.data == data => last.len += len,
                _ => extents.push(Extent { len, data }),
            }
        }
        Ok(())
    }
}

/// Whether small requests go before it.
fn is_bulk(request: &Request) -> bool {
    match request.kind {
        RequestKind::Read => request.len > SMALL_READ_MAX,
        RequestKind::Write { .. } => request.len > SMALL_WRITE_MAX,
        _ => false,
    }
}

/// A byte range as whole blocks and parts of blocks at its ends.
struct Span {
    head: Option<(Lba, std::ops::Range<usize>)>,
    whole: LbaRange,
    tail: Option<(Lba, std::ops::Range<usize>)>,
}

impl Span {
    fn of(offset: u64, len: u64) -> Self {
        let block = u64::from(BLOCK_SIZE);
        let within = |bytes: u64| usize::try_from(bytes).unwrap_or(0);
        let end = offset + len;
        let (first_whole, end_whole) = (offset.div_ceil(block), end / block);
        if len == 0 || (first_whole > end_whole) {
            // inside one block
            let head = (len > 0).then(|| (Lba(offset / block), within(offset % block)..within(offset % block + len)));
            return Self { head, whole: LbaRange { start: Lba(first_whole), count: 0 }, tail: None };
        }
        let head = (!offset.is_multiple_of(block)).then(|| (Lba(offset / block), within(offset % block)..BLOCK_BYTES));
        let tail = (!end.is_multiple_of(block)).then(|| (Lba(end_whole), 0..within(end % block)));
        Self { head, whole: LbaRange { start: Lba(first_whole), count: end_whole - first_whole }, tail }
    }

    fn touched(&self) -> u64 {
        self.whole.count + u64::from(self.head.is_some()) + u64::from(self.tail.is_some())
    }
}

fn check_bounds(request: &Request, blocks: u64, logical_block: u32) -> Result<()> {
    let size = blocks * u64::from(BLOCK_SIZE);
    let Some(end) = request.offset.checked_add(request.len) else {
        fail!(OutOfRange, "{} bytes at {} is no range", request.len, request.offset);
    };
    if end > size {
        fail!(OutOfRange, "{} bytes at {} end beyond the namespace ({size} bytes)", request.len, request.offset);
    }
    let aligned = |n: u64| n.is_multiple_of(u64::from(logical_block));
    if !aligned(request.offset) || !aligned(request.len) {
        fail!(OutOfRange, "{} bytes at {} are not whole blocks of {logical_block}", request.len, request.offset);
    }
    let moves_data = matches!(request.kind, RequestKind::Read | RequestKind::Write { .. });
    if moves_data && (request.len == 0 || request.len > REQUEST_BYTES_MAX) {
        return Err(Error::new(ErrorKind::OutOfRange, format!("a request of {} bytes", request.len)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Part = Option<(u64, usize, usize)>;

    fn parts(offset: u64, len: u64) -> (Part, u64, u64, Part) {
        let span = Span::of(offset, len);
        let flat = |p: Option<(Lba, std::ops::Range<usize>)>| p.map(|(lba, r)| (lba.0, r.start, r.end));
        (flat(span.head), span.whole.start.0, span.whole.count, flat(span.tail))
    }

    #[test]
    fn ranges_split_into_blocks_and_parts() {
        assert_eq!(parts(4096, 8192), (None, 1, 2, None));
        assert_eq!(parts(512, 512), (Some((0, 512, 1024)), 1, 0, None));
        assert_eq!(parts(512, 3584), (Some((0, 512, 4096)), 1, 0, None));
        assert_eq!(parts(512, 4096), (Some((0, 512, 4096)), 1, 0, Some((1, 0, 512))));
        assert_eq!(parts(3584, 9216), (Some((0, 3584, 4096)), 1, 2, Some((3, 0, 512))));
        assert_eq!(parts(8192, 512), (None, 2, 0, Some((2, 0, 512))));
    }
}
