//! The contract of [`crate::env::reactor`], kept by the io_uring backend on a real file.

use std::cell::OnceCell;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::env::executor::Fifo;
use crate::env::{Executor, Spawner};

const SIZE: u64 = 8 << 20;

struct World {
    executor: Executor,
    media: Media,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn world() -> World {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    create_file(&path, SIZE).unwrap();
    let device = Device::open(&path, Access::Write).unwrap();
    let mut backend = UringBackend::new().unwrap();
    let file = backend.register(&device);
    let reactor = Reactor::new(Box::new(backend));
    let media = Media::new(reactor.clone(), file, device.size(), device.block(), device.kind() == DeviceKind::File);
    World { executor: Executor::new(reactor, Box::new(Fifo::default())), media, path, _directory: directory }
}

impl World {
    fn reactor(&self) -> Rc<Reactor> {
        self.media.0.reactor.clone()
    }

    fn spawner(&self) -> Spawner {
        self.executor.spawner()
    }

    fn run<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        self.executor.run(future)
    }
}

fn pattern(seed: u8, len: usize) -> AlignedBuf {
    let bytes: Vec<u8> = (0..len).map(|i| (i as u64).wrapping_mul(2_654_435_761).to_le_bytes()[1] ^ seed).collect();
    AlignedBuf::copied(&bytes)
}

async fn write(media: &Media, offset: u64, seed: u8, len: usize) -> Result<()> {
    media.write(offset, IoBuf::Owned(pattern(seed, len)), len).await.1
}

#[test]
fn what_was_written_is_read() {
    let mut world = world();
    let media = world.media.clone();
    world.run(async move {
        write(&media, 4096, 1, 1 << 20).await.unwrap();
        media.flush().await.unwrap();
        let (buf, result) = media.read(4096, AlignedBuf::zeroed(2 << 20), 1 << 20).await;
        result.unwrap();
        assert_eq!(buf[..1 << 20], *pattern(1, 1 << 20));
        assert!(buf[1 << 20..].iter().all(|b| *b == 0), "only `len` bytes are touched");
        let stats = media.stats();
        assert_eq!((stats.reads.get(), stats.writes.get(), stats.flushes.get()), (1, 1, 1));
        assert_eq!((stats.read_bytes.get(), stats.written_bytes.get()), (1 << 20, 1 << 20));
    });
    let on_disk = std::fs::read(&world.path).unwrap();
    assert_eq!(on_disk[4096..4096 + (1 << 20)], *pattern(1, 1 << 20));
}

#[test]
fn a_read_goes_into_a_part_of_its_buffer() {
    let mut world = world();
    let media = world.media.clone();
    world.run(async move {
        write(&media, 8192, 1, 1 << 20).await.unwrap();
        let (buf, result) = media.read_into(8192, pattern(9, 2 << 20), 4096, 1 << 20).await;
        result.unwrap();
        let (before, after) = (pattern(9, 2 << 20), pattern(1, 1 << 20));
        let end = 4096 + (1 << 20);
        assert_eq!((&buf[..4096], &buf[4096..end], &buf[end..]), (&before[..4096], &after[..], &before[end..]));
        let (buf, result) = media.read_into(SIZE, buf, 4096, 8192).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::OutOfRange);
        assert_eq!(buf.len(), 2 << 20, "the buffer comes back");
    });
}

#[test]
fn written_space_is_told_from_space_that_is_only_allocated() {
    let mut world = world();
    let media = world.media.clone();
    world.run(async move {
        media.allocate(0, 4 << 20).await.unwrap();
        assert!(!media.is_written(0, 1 << 20), "allocated only");
        write(&media, 1 << 20, 1, 1 << 20).await.unwrap();
        media.flush().await.unwrap();
        assert!(media.is_written(1 << 20, 1 << 20));
        assert!(!media.is_written(1 << 20, (1 << 20) + 4096), "a hole behind it");
        assert!(!media.is_written((1 << 20) - 4096, 8192), "a hole before it");
        assert!(!media.is_written(SIZE, 4096), "outside");
    });
}

#[test]
fn out_of_range_is_an_error_and_the_buffer_comes_back() {
    let mut world = world();
    let media = world.media.clone();
    world.run(async move {
        for offset in [SIZE - 4096, SIZE, u64::MAX - 4095] {
            let (buf, result) = media.read(offset, pattern(9, 8192), 8192).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::OutOfRange);
            assert_eq!(*buf, *pattern(9, 8192));
            assert_eq!(write(&media, offset, 1, 8192).await.unwrap_err().kind(), ErrorKind::OutOfRange);
            assert_eq!(media.allocate(offset, 8192).await.unwrap_err().kind(), ErrorKind::OutOfRange);
            assert_eq!(media.discard(offset, 8192).await.unwrap_err().kind(), ErrorKind::OutOfRange);
        }
    });
    assert_eq!(std::fs::metadata(&world.path).unwrap().len(), SIZE, "the file has not grown");
}

#[test]
fn a_medium_that_shrank_is_an_error() {
    let mut world = world();
    let media = world.media.clone();
    std::fs::OpenOptions::new().write(true).open(&world.path).unwrap().set_len(SIZE / 2 + 4096).unwrap();
    world.run(async move {
        let (_, result) = media.read(SIZE / 2, AlignedBuf::zeroed(16384), 16384).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("the medium ends there"), "{error}");
        media.read(SIZE / 2, AlignedBuf::zeroed(4096), 4096).await.1.unwrap();
    });
}

#[test]
fn allocation_takes_space_and_discard_gives_it_up() {
    use std::os::unix::fs::MetadataExt;
    let mut world = world();
    let media = world.media.clone();
    let path = world.path.clone();
    let taken = move |path: &Path| std::fs::metadata(path).unwrap().blocks() * 512;
    world.run(async move {
        write(&media, 0, 3, 4096).await.unwrap();
        media.flush().await.unwrap();
        media.allocate(0, 1 << 20).await.unwrap();
        assert!(taken(&path) >= 1 << 20);
        let (buf, result) = media.read(0, AlignedBuf::zeroed(8192), 8192).await;
        result.unwrap();
        assert_eq!(buf[..4096], *pattern(3, 4096), "allocation keeps content");
        assert!(buf[4096..].iter().all(|b| *b == 0));
        media.discard(0, 1 << 20).await.unwrap();
        assert!(taken(&path) < 1 << 20);
    });
}

#[test]
fn more_operations_than_the_queue_has_entries() {
    const COUNT: u64 = 1500;
    let mut world = world();
    let (media, spawner) = (world.media.clone(), world.spawner());
    world.run(async move {
        let started: Vec<_> = (0..COUNT)
            .map(|i| media.write(i * 4096, IoBuf::Owned(pattern(u8::try_from(i % 251).unwrap(), 4096)), 4096))
            .collect();
        for writing in started {
            writing.await.1.unwrap();
        }
        let readers: Vec<_> = (0..COUNT)
            .map(|i| {
                let media = media.clone();
                spawner.spawn(async move {
                    let (buf, result) = media.read(i * 4096, AlignedBuf::zeroed(4096), 4096).await;
                    result.unwrap();
                    assert_eq!(*buf, *pattern(u8::try_from(i % 251).unwrap(), 4096), "block {i}");
                })
            })
            .collect();
        for reader in readers {
            reader.await;
        }
    });
}

#[test]
fn a_dropped_future_lets_its_operation_end() {
    let mut world = world();
    let media = world.media.clone();
    world.run(async move {
        for i in 0..64 {
            // started, never awaited
            drop(media.write(i * 65536, IoBuf::Owned(pattern(7, 65536)), 65536));
            drop(media.read(i * 65536, AlignedBuf::zeroed(65536), 65536));
        }
        media.flush().await.unwrap();
        // the writes may still be under way; they end all the same, before the backend does
    });
    let path = world.path.clone();
    let directory = world._directory;
    drop((world.executor, world.media));
    let on_disk = std::fs::read(path).unwrap();
    for i in 0..64 {
        assert_eq!(on_disk[i * 65536..(i + 1) * 65536], *pattern(7, 65536), "write {i}");
    }
    drop(directory);
}

#[test]
fn timers_fire_in_order_and_not_early() {
    let mut world = world();
    let reactor = world.reactor();
    let spawner = world.spawner();
    world.run(async move {
        let start = reactor.now_ns();
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let sleepers: Vec<_> = [30_u64, 10, 20]
            .into_iter()
            .map(|ms| {
                let (reactor, order) = (reactor.clone(), order.clone());
                spawner.spawn(async move {
                    reactor.sleep_until(start + ms * 1_000_000).await;
                    assert!(reactor.now_ns() >= start + ms * 1_000_000);
                    order.borrow_mut().push(ms);
                })
            })
            .collect();
        for sleeper in sleepers {
            sleeper.await;
        }
        assert_eq!(*order.borrow(), [10, 20, 30]);
        // a moment that has passed
        reactor.sleep_until(start).await;
    });
}

#[test]
fn another_thread_wakes_a_sleeping_ring() {
    let mut world = world();
    let (mailbox, receiver) = crate::env::mailbox::<u32>();
    let sender = std::thread::spawn(move || {
        for i in 0..200 {
            if i % 50 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            mailbox.send(i).unwrap();
        }
    });
    let received = world.run(async move {
        let mut received = Vec::new();
        while received.len() < 200 {
            receiver.receive(&mut received).await;
        }
        received
    });
    sender.join().unwrap();
    assert_eq!(received, (0..200).collect::<Vec<_>>());
}

#[test]
fn an_unpark_before_the_sleep_is_not_lost() {
    let world = world();
    let reactor = world.reactor();
    let unparker = reactor.unparker();
    for _ in 0..3 {
        unparker.unpark();
        unparker.unpark();
        reactor.poll();
        // would sleep for ever
        reactor.wait(|| {});
    }
}

#[test]
fn sockets_accept_receive_and_send() {
    let mut world = world();
    let reactor = world.reactor();
    let path = world._directory.path().join("socket");
    let listener: Arc<OwnedFd> = Arc::new(UnixListener::bind(&path).unwrap().into());
    let done = Arc::new(AtomicBool::new(false));
    let client_done = done.clone();
    let client = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"olleh");
        client_done.store(true, Ordering::SeqCst);
    });
    world.run(async move {
        let accepted = Rc::new(OnceCell::new());
        reactor.submit(Op::Accept { socket: listener, accepted: accepted.clone() }).await.result.unwrap();
        let socket = Arc::new(Rc::into_inner(accepted).unwrap().into_inner().unwrap());
        let mut buf = AlignedBuf::zeroed(4096);
        let mut received = 0;
        while received < 5 {
            let end = reactor.submit(Op::Recv { socket: socket.clone(), buf, start: received }).await;
            received += end.result.unwrap();
            let Some(IoBuf::Owned(back)) = end.buf else { panic!("the buffer comes back") };
            buf = back;
        }
        buf[..5].reverse();
        let end = reactor.submit(Op::Send { socket: socket.clone(), buf, start: 0, end: 5 }).await;
        assert_eq!(end.result.unwrap(), 5);
        // the client leaves: end of the stream, then an error instead of a signal
        let buf = AlignedBuf::zeroed(4096);
        assert_eq!(reactor.submit(Op::Recv { socket: socket.clone(), buf, start: 0 }).await.result.unwrap(), 0);
        let buf = AlignedBuf::zeroed(4096);
        assert!(reactor.submit(Op::Send { socket, buf, start: 0, end: 4096 }).await.result.is_err());
    });
    client.join().unwrap();
    assert!(done.load(Ordering::SeqCst));
}

#[test]
fn a_backend_dropped_while_operations_wait_ends_them() {
    let world = world();
    let reactor = world.reactor();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let socket: Arc<OwnedFd> = Arc::new(ours.into());
    let waiting = reactor.submit(Op::Recv { socket: socket.clone(), buf: AlignedBuf::zeroed(4096), start: 0 });
    reactor.poll();
    drop(waiting);
    assert_eq!(Arc::strong_count(&socket), 2);
    drop((reactor, world));
    assert_eq!(Arc::strong_count(&socket), 1, "the operation has ended and let go of its socket");
    drop(theirs);
}
