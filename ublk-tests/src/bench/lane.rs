//! One request at a time, and loops of them side by side.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use plica::buf::DataBuf;
use plica::core::request::{NamespaceClient, Reply, ReplySink, Request, RequestKind};
use plica::env::Env;
use plica::error::{Error, ErrorKind, Result};

use super::BLOCK;

/// A loop's memory and the place for its reply: one request at a time, nothing allocated for it.
pub struct Lane {
    sink: Arc<Sink>,
    data: Option<Arc<DataBuf>>,
}

#[derive(Default)]
struct Sink(Mutex<(Option<Reply>, Option<Waker>)>);

impl ReplySink for Sink {
    fn reply(&self, reply: Reply) {
        let Ok(mut inner) = self.0.lock() else { return };
        inner.0 = Some(reply);
        if let Some(waker) = inner.1.take() {
            waker.wake();
        }
    }
}

impl Lane {
    /// A lane of requests of `len` bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self { sink: Arc::default(), data: Some(Arc::new(DataBuf::zeroed(len))) }
    }

    /// What is written next, or was read.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.data.as_mut().and_then(Arc::get_mut).map(DataBuf::bytes_mut).unwrap_or_default()
    }

    /// Writes the lane's bytes from block `lba` on.
    ///
    /// # Errors
    /// The engine's.
    pub async fn write(&mut self, client: &NamespaceClient, lba: u64) -> Result<()> {
        let data = self.data.clone();
        self.ask(client, RequestKind::Write { fua: false }, lba, data).await
    }

    /// Reads from block `lba` on.
    ///
    /// # Errors
    /// The engine's.
    pub async fn read(&mut self, client: &NamespaceClient, lba: u64) -> Result<()> {
        let data = self.data.take();
        self.ask(client, RequestKind::Read, lba, data).await
    }

    /// Makes durable what was acknowledged.
    ///
    /// # Errors
    /// The engine's.
    pub async fn flush(&mut self, client: &NamespaceClient) -> Result<()> {
        self.ask(client, RequestKind::Flush, 0, None).await
    }

    async fn ask(
        &mut self,
        client: &NamespaceClient,
        kind: RequestKind,
        lba: u64,
        data: Option<Arc<DataBuf>>,
    ) -> Result<()> {
        let len = data.as_ref().map_or(0, |data| data.bytes().len() as u64);
        client.submit(Request::new(kind, lba * BLOCK as u64, len, 0, data, self.sink.clone()));
        let sink = &self.sink;
        let reply = poll_fn(|cx| {
            let Ok(mut inner) = sink.0.lock() else { return Poll::Pending };
            let reply = inner.0.take();
            if reply.is_none() {
                inner.1 = Some(cx.waker().clone());
            }
            reply.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        if reply.data.is_some() {
            self.data = reply.data;
        }
        reply.result.map_err(|e| Error::new(ErrorKind::Io, format!("{kind:?} of LBA {lba}: {e}")))
    }
}

/// Runs `depth` of these side by side, to the end of all.
///
/// # Errors
/// The first that one of them reports.
pub async fn run_lanes<F: Future<Output = Result<()>> + 'static>(
    env: &Env,
    depth: usize,
    lane: impl Fn(usize) -> F,
) -> Result<()> {
    let tasks: Vec<_> = (0..depth).map(|index| env.spawner.spawn(lane(index))).collect();
    for task in tasks {
        task.await?;
    }
    Ok(())
}
