//! A namespace in memory: the reference that the front end is tested against.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::core::request::{Extent, NamespaceClient, ReplySink, Request, RequestKind};
use crate::env::{Env, MailboxReceiver, mailbox};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::BLOCK_BYTES;
use crate::units::{NamespaceId, PoolId};

/// Answers requests from a vector, in the order in which they come.
pub(super) struct MemoryService {
    blocks: RefCell<Vec<u8>>,
    /// Which blocks hold data.
    present: RefCell<Vec<bool>>,
    /// While set, requests are kept and not answered.
    held: Cell<bool>,
    kept: RefCell<Vec<Request>>,
    /// Requests seen, by kind, as text.
    log: RefCell<Vec<String>>,
    /// Whether to keep the log.
    logging: bool,
}

impl MemoryService {
    /// Starts a namespace of `size` bytes.
    pub(super) fn start(env: &Env, name: &str, size: usize, logical_block: u32) -> (Rc<Self>, NamespaceClient) {
        let (sender, receiver) = mailbox();
        let service = Rc::new(Self {
            blocks: RefCell::new(vec![0; size]),
            present: RefCell::new(vec![false; size.div_ceil(BLOCK_BYTES)]),
            held: Cell::new(false),
            kept: RefCell::default(),
            log: RefCell::default(),
            logging: size <= 64 << 20,
        });
        env.spawner.spawn(service.clone().run(receiver)).detach();
        let client = NamespaceClient {
            id: NamespaceId(1),
            name: Arc::from(name),
            size: Arc::new(AtomicU64::new(size as u64)),
            logical_block,
            pool: PoolId([7; 16]),
            mailbox: sender,
        };
        (service, client)
    }

    /// Keeps requests instead of answering them, or answers those kept.
    pub(super) fn hold(&self, held: bool) {
        self.held.set(held);
        if !held {
            self.answer_all(self.kept.take());
        }
    }

    /// Requests that are kept.
    pub(super) fn kept(&self) -> usize {
        self.kept.borrow().len()
    }

    /// What was asked so far.
    pub(super) fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    async fn run(self: Rc<Self>, receiver: MailboxReceiver<(NamespaceId, Request)>) {
        let mut received = Vec::new();
        loop {
            receiver.receive(&mut received).await;
            let requests = received.drain(..).map(|(_, request)| request);
            if self.held.get() {
                self.kept.borrow_mut().extend(requests);
            } else {
                self.answer_all(requests);
            }
        }
    }

    fn answer_all(&self, requests: impl IntoIterator<Item = Request>) {
        let mut sinks: Vec<Arc<dyn ReplySink>> = Vec::new();
        for request in requests {
            let sink = self.answer(request);
            if !sinks.iter().any(|other| Arc::ptr_eq(other, &sink)) {
                sinks.push(sink);
            }
        }
        for sink in sinks {
            sink.flush();
        }
    }

    fn answer(&self, mut request: Request) -> Arc<dyn ReplySink> {
        if self.logging {
            let entry = format!("{:?} {}+{}", request.kind, request.offset, request.len);
            self.log.borrow_mut().push(entry);
        }
        let result = self.perform(&mut request);
        let (result, extents) = match result {
            Ok(extents) => (Ok(()), extents),
            Err(error) => (Err(error), Vec::new()),
        };
        request.answer(result, extents).expect("answered once")
    }

    fn perform(&self, request: &mut Request) -> Result<Vec<Extent>> {
        let start = usize::try_from(request.offset).unwrap();
        let len = usize::try_from(request.len).unwrap();
        let mut blocks = self.blocks.borrow_mut();
        let Some(range) = blocks.get_mut(start..start + len) else {
            return Err(Error::new(ErrorKind::OutOfRange, "beyond the end"));
        };
        let mut present = self.present.borrow_mut();
        let touched = &mut present[start / BLOCK_BYTES..(start + len).div_ceil(BLOCK_BYTES)];
        match request.kind {
            RequestKind::Read => {
                let data = Arc::get_mut(request.data.as_mut().expect("reads lend memory")).expect("unique");
                data.bytes_mut()[..len].copy_from_slice(range);
            }
            RequestKind::Write { .. } => {
                range.copy_from_slice(&request.data.as_ref().expect("writes lend memory").bytes()[..len]);
                touched.fill(true);
            }
            RequestKind::Discard | RequestKind::WriteZeroes { .. } => {
                range.fill(0);
                touched.fill(false);
            }
            RequestKind::Flush => {}
            RequestKind::Status => {
                return Ok(touched.iter().map(|data| Extent { len: BLOCK_BYTES as u64, data: *data }).collect());
            }
        }
        Ok(Vec::new())
    }
}
