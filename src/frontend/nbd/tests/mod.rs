//! The server on a thread of its own, with namespaces in memory behind it, and clients that try it.

mod client;
mod handshake;
mod service;
mod tools;
mod transmission;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use self::service::MemoryService;
use super::{Export, Exports, Server};
use crate::env::executor::Fifo;
use crate::env::{Env, Executor, Mailbox, Reactor, Rng, mailbox};
use crate::media::UringBackend;

const SIZE: usize = 64 << 20;

/// What runs on the server's thread.
struct Host {
    env: Env,
    exports: Exports,
    service: Rc<MemoryService>,
    server: Option<Server>,
}

type Task = Box<dyn FnOnce(&mut Host) + Send>;

/// A running server with one export, "disk".
struct Harness {
    path: PathBuf,
    tasks: Mailbox<Option<Task>>,
    thread: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Harness {
    fn start() -> Self {
        Self::with_blocks(SIZE, 4096)
    }

    fn with_blocks(size: usize, logical_block: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd.sock");
        let (tasks, receiver) = mailbox::<Option<Task>>();
        let (ready, is_ready) = mpsc::channel();
        let socket = path.clone();
        let thread = std::thread::spawn(move || {
            let reactor = Reactor::new(Box::new(UringBackend::new().unwrap()));
            let mut executor = Executor::new(reactor.clone(), Box::new(Fifo::default()));
            let env = Env::new(executor.spawner(), reactor, Rng::Kernel);
            executor.run(async move {
                let exports = Exports::new();
                let (service, client) = MemoryService::start(&env, "disk", size, logical_block);
                exports.insert(Export { client, read_only: false });
                let server = Server::start(&env, &socket, exports.clone()).unwrap();
                let mut host = Host { env, exports, service, server: Some(server) };
                ready.send(()).unwrap();
                let mut tasks = Vec::new();
                'serving: loop {
                    receiver.receive(&mut tasks).await;
                    for task in tasks.drain(..) {
                        match task {
                            Some(task) => task(&mut host),
                            None => break 'serving,
                        }
                    }
                }
                if let Some(server) = host.server.take() {
                    server.stop().await;
                }
            });
        });
        is_ready.recv_timeout(Duration::from_secs(20)).unwrap();
        Self { path, tasks, thread: Some(thread), _directory: directory }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// Runs something on the server's thread.
    fn on_host<T: Send + 'static>(&self, task: impl FnOnce(&mut Host) -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let task: Task = Box::new(move |host| done.send(task(host)).unwrap());
        assert!(self.tasks.send(Some(task)).is_ok(), "the server runs");
        result.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    /// Waits until something is true on the server's thread.
    fn wait_until(&self, mut condition: impl FnMut(&mut Host) -> bool + Clone + Send + 'static) {
        for _ in 0..2000 {
            let mut condition = condition.clone();
            if self.on_host(move |host| condition(host)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(self.on_host(move |host| condition(host)), "it never happened");
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            assert!(self.tasks.send(None).is_ok(), "the server runs");
            thread.join().unwrap();
        }
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}
