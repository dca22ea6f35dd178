//! Serves a file (best one in /dev/shm) as a ublk device through the product's own front end, without the engine: for
//! tests of the front end and the kernel's side of it.
//!
//! ```text
//! ublk_memory FILE [--size BYTES] [--block 512|4096] [--queues N] [--depth N] [--io-bytes N] [--pool NUMBER]
//! ```
//!
//! The file is made if it is missing; what was written survives SIGKILL of this process, like a pool's staging. Requests
//! are answered out of order, some of them late. Prints `serving PATH new|recovered`, then obeys lines on stdin and
//! answers each with `ok` or `error: …`:
//!
//! - `stop`: stop and remove the device, unless it is in use; ends the process on success
//! - `force`: the same even if it is in use
//! - `leave`: leave the device to the next server; ends the process
//! - `resize BYTES`: change the size
//! - `counts`: requests seen so far, by kind
//!
//! The end of stdin changes nothing.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{BufRead, Write as _, stdin, stdout};
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use plica::core::request::{NamespaceClient, ReplySink, Request, RequestKind};
use plica::env::{MailboxReceiver, mailbox};
use plica::error::{Error, ErrorKind, Result};
use plica::fail;
use plica::frontend::ublk::{UblkOptions, UblkServer};
use plica::units::{NamespaceId, PoolId};

type Counts = Arc<Mutex<BTreeMap<String, u64>>>;

struct Arguments {
    file: String,
    size: u64,
    block: u32,
    pool: u8,
    options: UblkOptions,
}

fn arguments() -> Result<Arguments> {
    let mut words = std::env::args().skip(1);
    let Some(file) = words.next() else { fail!(Config, "ublk_memory FILE [--size BYTES] ...") };
    let options = UblkOptions::default();
    let mut arguments = Arguments { file, size: 256 << 20, block: 4096, pool: 1, options };
    while let Some(name) = words.next() {
        let Some(value) = words.next() else { fail!(Config, "{name} needs a value") };
        match name.as_str() {
            "--size" => arguments.size = number(&value)?,
            "--block" => arguments.block = number(&value)?,
            "--pool" => arguments.pool = number(&value)?,
            "--queues" => arguments.options.queues = number(&value)?,
            "--depth" => arguments.options.depth = number(&value)?,
            "--io-bytes" => arguments.options.io_bytes = number(&value)?,
            _ => fail!(Config, "{name} is not known"),
        }
    }
    Ok(arguments)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::new(ErrorKind::Config, format!("{text} is not a number that fits")))
}

/// The reference service: a file, and the requests held back.
struct Service {
    file: File,
    size: Arc<AtomicU64>,
    counts: Counts,
    random: u64,
}

impl Service {
    fn run(mut self, receiver: &MailboxReceiver<(NamespaceId, Request)>) {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut held = Vec::new();
        let mut sinks: Vec<Arc<dyn ReplySink>> = Vec::new();
        loop {
            let fresh = wait(receiver, &waker, &mut held, Duration::from_millis(1));
            self.shuffle(&mut held);
            // one batch in four keeps a third of its requests for later
            let keep = if fresh && self.roll(4) == 0 { held.len() / 3 } else { 0 };
            for (_, request) in held.drain(keep..) {
                sinks.extend(self.answer(request));
            }
            for sink in sinks.drain(..) {
                sink.flush();
            }
        }
    }

    fn answer(&self, mut request: Request) -> Option<Arc<dyn ReplySink>> {
        let name = format!("{:?}", request.kind);
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        let result = self.perform(&mut request);
        if let Err(error) = &result {
            eprintln!("{:?} at {} of {}: {error}", request.kind, request.offset, request.len);
        }
        request.answer(result, Vec::new())
    }

    fn perform(&self, request: &mut Request) -> Result<()> {
        let end = request.offset.checked_add(request.len);
        if end.is_none_or(|end| end > self.size.load(Ordering::Acquire)) {
            fail!(OutOfRange, "beyond the end");
        }
        let len = usize::try_from(request.len).unwrap_or(usize::MAX);
        let done = match request.kind {
            RequestKind::Read => {
                let Some(buffer) = request.data.as_mut().and_then(Arc::get_mut) else {
                    fail!(Config, "a read without a buffer of its own");
                };
                self.file.read_exact_at(&mut buffer.bytes_mut()[..len], request.offset)
            }
            RequestKind::Write { .. } => {
                let Some(buffer) = request.data.as_ref() else { fail!(Config, "a write without data") };
                self.file.write_all_at(&buffer.bytes()[..len], request.offset)
            }
            RequestKind::Discard | RequestKind::WriteZeroes { .. } => self.clear(request.offset, request.len),
            RequestKind::Flush => Ok(()),
            RequestKind::Status => fail!(Unsupported, "not over ublk"),
        };
        done.map_err(|error| Error::io("the file", error))
    }

    fn clear(&self, mut offset: u64, mut len: u64) -> std::io::Result<()> {
        let zeros = [0; 1 << 16];
        while len > 0 {
            let part = usize::try_from(len).unwrap_or(usize::MAX).min(zeros.len());
            self.file.write_all_at(&zeros[..part], offset)?;
            offset += part as u64;
            len -= part as u64;
        }
        Ok(())
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.roll(index + 1));
        }
    }

    /// A number below `bound`.
    fn roll(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 33).unwrap_or(0) % bound
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Adds what is there to `held`; waits while `held` is empty, else at most `patience`. Returns whether anything came.
fn wait<T>(receiver: &MailboxReceiver<T>, waker: &Waker, held: &mut Vec<T>, patience: Duration) -> bool {
    let patient = held.is_empty();
    let mut received = pin!(receiver.receive(held));
    let mut context = Context::from_waker(waker);
    loop {
        if received.as_mut().poll(&mut context) == Poll::Ready(()) {
            return true;
        }
        if patient {
            thread::park();
        } else {
            thread::park_timeout(patience);
            return received.as_mut().poll(&mut context) == Poll::Ready(());
        }
    }
}

fn say(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Error::io("stdout", error))
}

fn obey(line: &str, server: &mut UblkServer, file: &File, size: &AtomicU64, counts: &Counts) -> Result<bool> {
    match line.trim() {
        "stop" => server.stop(false)?,
        "force" => server.stop(true)?,
        "leave" => server.leave()?,
        "counts" => {
            for (kind, count) in counts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                say(&format!("{kind} {count}"))?;
            }
            return Ok(false);
        }
        other => {
            let Some(bytes) = other.strip_prefix("resize ") else { fail!(Config, "{other}: not known") };
            let bytes = number(bytes)?;
            let before = size.load(Ordering::Acquire);
            if bytes > before {
                file.set_len(bytes).map_err(|error| Error::io("the file", error))?;
                size.store(bytes, Ordering::Release);
            }
            server.resize(bytes)?;
            size.store(bytes, Ordering::Release);
            return Ok(false);
        }
    }
    Ok(true)
}

fn serve() -> Result<()> {
    let arguments = arguments()?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&arguments.file);
    let file = file.map_err(|error| Error::io(arguments.file.clone(), error))?;
    let length = file.metadata().map_err(|error| Error::io("the file", error))?.len();
    let bytes = if length == 0 { arguments.size } else { length };
    file.set_len(bytes).map_err(|error| Error::io("the file", error))?;

    let size = Arc::new(AtomicU64::new(bytes));
    let counts = Counts::default();
    let (send, receive) = mailbox();
    let service = Service {
        file: file.try_clone().map_err(|error| Error::io("the file", error))?,
        size: size.clone(),
        counts: counts.clone(),
        random: u64::from(std::process::id()) << 17 | 0x5bd1,
    };
    thread::spawn(move || service.run(&receive));

    let client = NamespaceClient {
        id: NamespaceId(1),
        name: "memory".into(),
        size: size.clone(),
        logical_block: arguments.block,
        pool: PoolId([arguments.pool; 16]),
        mailbox: send,
    };
    let mut server = UblkServer::start(client, arguments.options)?;
    let how = if server.recovered() { "recovered" } else { "new" };
    say(&format!("serving {} {how}", server.path().display()))?;
    for line in stdin().lock().lines() {
        let line = line.map_err(|error| Error::io("stdin", error))?;
        match obey(&line, &mut server, &file, &size, &counts) {
            Ok(over) => {
                say("ok")?;
                if over {
                    return Ok(());
                }
            }
            Err(error) => say(&format!("error: {error}"))?,
        }
    }
    loop {
        thread::park();
    }
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    serve()
}
