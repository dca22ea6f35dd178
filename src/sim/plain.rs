//! A disk without any log: block n of namespace k is at a fixed place of the medium. The world's own test subject.
//!
//! It acknowledges a write when the medium completed it and a flush when the medium flushed, and so keeps every promise
//! but atomicity beyond a sector. [`Flaw`]s break one promise each: the world must notice.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::subject::{Host, Local, NamespacePlan, Serving, Subject};
use crate::buf::AlignedBuf;
use crate::core::request::{NamespaceClient, Request, RequestKind};
use crate::env::reactor::{Completion, IoBuf, Op};
use crate::env::sync::Notify;
use crate::env::{Env, FileId, MailboxReceiver, mailbox};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{NamespaceId, PoolId};

/// A promise that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// None: what is promised is kept.
    None,
    /// FLUSH is acknowledged without a flush of the medium.
    FlushIgnored,
    /// FUA is ignored.
    FuaIgnored,
    /// A write is acknowledged before the medium has it.
    AcknowledgedEarly,
    /// A write now and then goes to the neighbouring block.
    Misplaced,
    /// A request now and then has no reply.
    NeverAnswers,
    /// FLUSH joins a flush of the medium that is under way, instead of waiting for the next one.
    FlushJoins,
}

/// See the module.
pub struct PlainDisk {
    /// What is wrong with it.
    pub flaw: Flaw,
    plans: RefCell<Vec<NamespacePlan>>,
}

impl PlainDisk {
    /// A plain disk with this flaw.
    #[must_use]
    pub fn new(flaw: Flaw) -> Self {
        Self { flaw, plans: RefCell::default() }
    }
}

impl Subject for PlainDisk {
    fn create(&self, _host: Host, namespaces: Vec<NamespacePlan>) -> Local<Result<()>> {
        *self.plans.borrow_mut() = namespaces;
        Box::pin(async { Ok(()) })
    }

    fn open(&self, host: Host) -> Local<Result<Rc<dyn Serving>>> {
        let (plans, flaw) = (self.plans.borrow().clone(), self.flaw);
        Box::pin(async move {
            // a late write of the last daemon is on the medium or never will be: make it last
            host.env.reactor.submit(Op::Flush { file: host.file }).await.result?;
            let (sender, receiver) = mailbox();
            let mut clients = Vec::new();
            let mut bases = Vec::new();
            let mut base = 0;
            for (id, plan) in (1..).zip(plans) {
                bases.push(base);
                base += plan.size;
                clients.push(NamespaceClient {
                    id: NamespaceId(id),
                    name: plan.name.into(),
                    size: Arc::new(AtomicU64::new(plan.size)),
                    logical_block: plan.logical_block,
                    pool: PoolId([1; 16]),
                    mailbox: sender.clone(),
                });
            }
            let disk = Disk {
                env: host.env.clone(),
                file: host.file,
                bases,
                flaw,
                flushing: Rc::default(),
                busy: Rc::default(),
                freed: Rc::default(),
            };
            host.env.spawner.spawn(disk.clone().serve(receiver)).detach();
            let serving: Rc<dyn Serving> = Rc::new(ServedDisk { disk, clients });
            Ok(serving)
        })
    }
}

struct ServedDisk {
    disk: Disk,
    clients: Vec<NamespaceClient>,
}

impl Serving for ServedDisk {
    fn clients(&self) -> Vec<NamespaceClient> {
        self.clients.clone()
    }

    fn stop(&self) -> Local<Result<()>> {
        let disk = self.disk.clone();
        Box::pin(async move { disk.flush().await })
    }

    fn marks(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

#[derive(Clone)]
struct Disk {
    env: Env,
    file: FileId,
    bases: Vec<u64>,
    flaw: Flaw,
    flushing: Rc<RefCell<bool>>,
    /// One read or write at a time: the medium does not order what overlaps.
    busy: Rc<Cell<bool>>,
    freed: Rc<Notify>,
}

impl Disk {
    async fn serve(self, receiver: MailboxReceiver<(NamespaceId, Request)>) {
        let mut requests = Vec::new();
        loop {
            receiver.receive(&mut requests).await;
            for (id, request) in requests.drain(..) {
                let disk = self.clone();
                self.env.spawner.spawn(async move { disk.handle(id, request).await }).detach();
            }
        }
    }

    async fn handle(self, id: NamespaceId, mut request: Request) {
        let base = self.bases[usize::try_from(id.0 - 1).unwrap_or(0)];
        let at = base + request.offset;
        if self.flaw == Flaw::NeverAnswers && request.tag % 64 == 7 {
            return std::future::pending().await;
        }
        let result = match request.kind {
            RequestKind::Read => self.read(&mut request, at).await,
            RequestKind::Write { fua } => {
                let bytes = AlignedBuf::copied(request.data.as_ref().map_or(&[], |data| data.bytes()));
                let at = if self.flaw == Flaw::Misplaced && request.tag % 16 == 3 { at ^ 4096 } else { at };
                if self.flaw == Flaw::AcknowledgedEarly {
                    request.answer(Ok(()), Vec::new());
                    let _ = self.write(at, bytes, fua).await;
                    return;
                }
                self.write(at, bytes, fua).await
            }
            RequestKind::Flush => self.flush().await,
            // like any disk, it may ignore what is not a whole block
            RequestKind::Discard if request.len < 4096 => Ok(()),
            RequestKind::Discard => {
                let (start, end) = (at.next_multiple_of(4096), (at + request.len) / 4096 * 4096);
                let zeros = AlignedBuf::zeroed(usize::try_from(end.saturating_sub(start)).unwrap_or(0));
                if zeros.is_empty() { Ok(()) } else { self.write(start, zeros, false).await }
            }
            RequestKind::WriteZeroes { fua } => {
                let zeros = AlignedBuf::zeroed(usize::try_from(request.len).unwrap_or(0));
                self.write(at, zeros, fua).await
            }
            RequestKind::Status => Err(Error::new(ErrorKind::Unsupported, "a plain disk has no holes")),
        };
        request.answer(result, Vec::new());
    }

    async fn read(&self, request: &mut Request, at: u64) -> Result<()> {
        let len = usize::try_from(request.len).unwrap_or(0);
        let buf = AlignedBuf::zeroed(len);
        let end = self.alone(Op::Read { file: self.file, offset: at, buf, start: 0, len }).await;
        if let (Some(IoBuf::Owned(buf)), Some(data)) = (end.buf, request.data.as_mut().and_then(Arc::get_mut)) {
            data.bytes_mut()[..len].copy_from_slice(&buf);
        }
        end.result.map(drop)
    }

    async fn write(&self, at: u64, bytes: AlignedBuf, fua: bool) -> Result<()> {
        let len = bytes.len();
        let op = Op::Write { file: self.file, offset: at, buf: IoBuf::Owned(bytes), len, durable: false };
        self.alone(op).await.result?;
        if fua && self.flaw != Flaw::FuaIgnored { self.flush().await } else { Ok(()) }
    }

    async fn alone(&self, op: Op) -> Completion {
        self.freed.until(|| !self.busy.get()).await;
        self.busy.set(true);
        let end = self.env.reactor.submit(op).await;
        self.busy.set(false);
        self.freed.notify_all();
        end
    }

    async fn flush(&self) -> Result<()> {
        if self.flaw == Flaw::FlushIgnored {
            return Ok(());
        }
        if self.flaw == Flaw::FlushJoins && *self.flushing.borrow() {
            while *self.flushing.borrow() {
                self.env.sleep_ns(500).await;
            }
            return Ok(());
        }
        *self.flushing.borrow_mut() = true;
        let end = self.env.reactor.submit(Op::Flush { file: self.file }).await;
        *self.flushing.borrow_mut() = false;
        end.result.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Plan, run};

    /// Single sectors only: a plain disk tears everything larger.
    fn plan(seed: u64) -> Plan {
        let mut plan = Plan::of(seed);
        plan.habits.blocks_max = 1;
        plan.habits.sectors_only = true;
        for namespace in &mut plan.namespaces {
            namespace.logical_block = 512;
            namespace.size = 64 * 4096;
        }
        plan
    }

    fn red_seeds(flaw: Flaw, seeds: std::ops::Range<u64>) -> Vec<u64> {
        let flawed = |seed: u64| {
            let mut plan = plan(seed);
            plan.lives = 6;
            plan.habits.clients = 8;
            plan.habits.requests = 16..128;
            plan.habits.weights = [2, 6, 4, 0, 0];
            run(&PlainDisk::new(flaw), &plan).is_err()
        };
        seeds.filter(|seed| flawed(*seed)).collect()
    }

    #[test]
    fn a_plain_disk_keeps_its_promises() {
        for seed in 0..60 {
            if let Err(red) = run(&PlainDisk::new(Flaw::None), &plan(seed)) {
                panic!("{red}");
            }
        }
    }

    #[test]
    fn one_seed_is_one_run() {
        let report = |seed| run(&PlainDisk::new(Flaw::None), &plan(seed)).unwrap();
        assert_eq!(report(5), report(5));
        assert_ne!(report(5).digest, report(6).digest);
    }

    #[test]
    fn every_flaw_is_noticed() {
        for flaw in [
            Flaw::FlushIgnored,
            Flaw::FuaIgnored,
            Flaw::AcknowledgedEarly,
            Flaw::Misplaced,
            Flaw::NeverAnswers,
            Flaw::FlushJoins,
        ] {
            let red = red_seeds(flaw, 0..60);
            println!("{flaw:?}: {red:?}");
            assert!(!red.is_empty(), "{flaw:?} is never noticed");
        }
    }
}
