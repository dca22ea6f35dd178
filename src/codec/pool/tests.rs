//! The pool under a real executor, with 0, 1 and 2 workers.

use std::rc::Rc;
use std::sync::{Condvar, Mutex};

use super::*;
use crate::buf::DataBuf;
use crate::codec::testing::{data_key, half_noise, noise};
use crate::codec::{ENCODED_BYTES_MAX, FragmentName, Sealer, payload_hash};
use crate::env::executor::{Fifo, IdleWork, Unpark};
use crate::env::reactor::{Completion, Op};
use crate::env::{Backend, Executor, FileId, Reactor};
use crate::error::ErrorKind;
use crate::format::{Cipher, Codec, Compression};
use crate::limits::{BLOCK_BYTES, FRAGMENT_BYTES_MAX};
use crate::units::{Lba, NamespaceId, SealNo, SessionId};

/// A backend that only sleeps and wakes.
#[derive(Default)]
struct Sleeper(Arc<Bell>);

#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Unpark for Bell {
    fn unpark(&self) {
        *self.rung.lock().unwrap() = true;
        self.heard.notify_one();
    }
}

impl Backend for Sleeper {
    fn is_written(&self, _file: FileId, _offset: u64, _len: u64) -> bool {
        false
    }

    fn now_ns(&self) -> u64 {
        0
    }

    fn submit(&mut self, _token: usize, op: Op) {
        panic!("the codec does no I/O: {op:?}");
    }

    fn poll(&mut self, wait: bool, _until_ns: Option<u64>, _ended: &mut Vec<(usize, Completion)>) {
        if wait {
            let rung = self.0.rung.lock().unwrap();
            *self.0.heard.wait_while(rung, |rung| !*rung).unwrap() = false;
        }
    }

    fn unparker(&self) -> Arc<dyn Unpark> {
        self.0.clone()
    }
}

fn executor() -> Executor {
    Executor::new(Reactor::new(Box::new(Sleeper::default())), Box::new(Fifo::default()))
}

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(data_key(1), Cipher::Aes256Xts))
}

fn seal(counter: u64) -> SealNo {
    SealNo { session: SessionId(3), counter }
}

fn plain(blocks: usize, seed: u64) -> Vec<u8> {
    match seed % 3 {
        0 => noise(blocks * BLOCK_BYTES, seed),
        1 => half_noise(blocks * BLOCK_BYTES, seed),
        _ => vec![0; blocks * BLOCK_BYTES],
    }
}

fn encode_job(data: &Arc<DataBuf>, counter: u64, compression: Compression) -> EncodeJob {
    EncodeJob {
        data: data.clone(),
        at: 0,
        len: data.bytes().len(),
        namespace: NamespaceId(1),
        first: Lba(counter),
        seal: seal(counter),
        compression,
        sealer: sealer(),
        out: AlignedBuf::zeroed(ENCODED_BYTES_MAX),
        urgent: counter.is_multiple_of(2),
    }
}

fn data(plain: &[u8]) -> Arc<DataBuf> {
    Arc::new(DataBuf::owned(AlignedBuf::copied(plain)))
}

async fn round_trip(pool: Rc<CodecPool>, blocks: usize, counter: u64, compression: Compression) {
    let plain = plain(blocks, counter);
    let data = data(&plain);
    let (sealed, encoded) = pool.encode(encode_job(&data, counter, compression)).await;
    assert_eq!(Arc::strong_count(&data), 1, "released before the result is visible");
    let Encoded { codec, stored, hash } = encoded.unwrap();
    assert_eq!(hash, payload_hash(&sealed[..stored]));
    let count = u8::try_from(blocks).unwrap();
    let name = FragmentName { namespace: NamespaceId(1), first: Lba(counter), count, codec, seal: seal(counter) };
    let out = AlignedBuf::zeroed(FRAGMENT_BYTES_MAX);
    let job = DecodeJob { sealed, at: 0, len: stored, name, sealer: sealer(), out, urgent: true };
    let decoded = pool.decode(job).await;
    decoded.result.unwrap();
    assert!(decoded.out[..plain.len()] == plain, "{codec} {blocks} blocks");
    assert_eq!(decoded.sealed.len(), ENCODED_BYTES_MAX);
}

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

#[test]
fn many_jobs_at_once_all_end_well() {
    for workers in 0..=2 {
        for helping in [false, true] {
            let pool = Rc::new(CodecPool::new(workers).unwrap());
            let mut executor = executor();
            if helping {
                let (asked, pool) = (pool.clone(), pool.clone());
                executor.set_idle(IdleWork {
                    has_work: Box::new(move || asked.can_help()),
                    work: Box::new(move || {
                        pool.help_one();
                    }),
                });
            }
            let (spawner, jobs) = (executor.spawner(), pool.clone());
            executor.run(async move {
                let tasks: Vec<_> = (0..240u64)
                    .map(|i| {
                        let blocks = usize::try_from(i % 8 + 1).unwrap();
                        let compression = COMPRESSIONS[usize::try_from(i % 5 % 3).unwrap()];
                        spawner.spawn(round_trip(jobs.clone(), blocks, i, compression))
                    })
                    .collect();
                for task in tasks {
                    task.await;
                }
            });
            let counts = pool.counts();
            assert_eq!(counts.inline + counts.helped + counts.workers, 480, "{workers} workers: {counts:?}");
            assert_eq!(counts.workers > 0, workers > 0, "{counts:?}");
            assert!(helping || counts.helped == 0, "{counts:?}");
            assert_eq!(pool.queue.ticket_count(), 0);
        }
    }
}

#[test]
fn a_job_that_is_alone_stays_with_the_core() {
    let pool = Rc::new(CodecPool::new(2).unwrap());
    let jobs = pool.clone();
    executor().run(async move {
        for i in 0..20 {
            round_trip(jobs.clone(), 4, i, Compression::Lz4).await;
        }
    });
    assert_eq!(pool.counts(), CodecCounts { inline: 40, helped: 0, workers: 0 });
}

#[test]
fn a_fragment_of_a_block_or_two_is_opened_by_the_core_under_load_too() {
    for (blocks, inline_least) in [(1, 60), (2, 60), (3, 0)] {
        let pool = Rc::new(CodecPool::new(1).unwrap());
        let mut executor = executor();
        let (spawner, jobs) = (executor.spawner(), pool.clone());
        executor.run(async move {
            let job = |i| spawner.spawn(round_trip(jobs.clone(), blocks, i, Compression::Lz4));
            for task in (0..60).map(job).collect::<Vec<_>>() {
                task.await;
            }
        });
        let counts = pool.counts();
        assert!(counts.inline >= inline_least && counts.workers > 0, "{blocks} blocks: {counts:?}");
    }
}

#[test]
fn zstd_is_for_workers_even_alone() {
    let pool = Rc::new(CodecPool::new(1).unwrap());
    let jobs = pool.clone();
    executor().run(async move { round_trip(jobs, 8, 1, Compression::Zstd).await });
    assert_eq!(pool.counts(), CodecCounts { inline: 0, helped: 0, workers: 2 });
}

#[test]
fn a_panic_is_the_error_of_one_job() {
    for workers in 0..=1 {
        // alone (done by the core) and with zstd (done by the worker)
        for compression in [Compression::Lz4, Compression::Zstd] {
            let pool = Rc::new(CodecPool::new(workers).unwrap());
            executor().run(async move {
                let data = data(&plain(1, 1));
                let beyond = EncodeJob { at: BLOCK_BYTES, ..encode_job(&data, 1, compression) };
                let (out, result) = pool.encode(beyond).await;
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Io);
                assert!(error.to_string().contains("a codec job panicked: range end"), "{error}");
                assert_eq!(out.len(), ENCODED_BYTES_MAX);
                round_trip(pool, 4, 2, compression).await;
            });
        }
    }
}

#[test]
fn errors_give_the_buffers_back() {
    let pool = CodecPool::new(0).unwrap();
    executor().run(async move {
        let seal = seal(1);
        let name = FragmentName { namespace: NamespaceId(1), first: Lba(0), count: 2, codec: Codec::Lz4, seal };
        let (sealed, out) = (AlignedBuf::zeroed(100), AlignedBuf::zeroed(2 * BLOCK_BYTES));
        let job = DecodeJob { sealed, at: 10, len: 80, name, sealer: sealer(), out, urgent: true };
        let decoded = pool.decode(job).await;
        assert_eq!(decoded.result.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!((decoded.sealed.len(), decoded.out.len()), (100, 2 * BLOCK_BYTES));
    });
}

#[test]
fn jobs_nobody_waits_for_leave_nothing_behind() {
    let pool = Rc::new(CodecPool::new(2).unwrap());
    let mut executor = executor();
    let spawner = executor.spawner();
    let jobs = pool.clone();
    executor.run(async move {
        let data = data(&plain(8, 1));
        let tasks: Vec<_> = (0..50)
            .map(|i| {
                let (jobs, job) = (jobs.clone(), encode_job(&data, i, Compression::Zstd));
                spawner.spawn(async move { jobs.encode(job).await })
            })
            .collect();
        yield_now().await;
        yield_now().await;
        drop(tasks);
        // these go behind all others
        round_trip(jobs.clone(), 1, 1000, Compression::Zstd).await;
        while Arc::strong_count(&data) > 1 {
            yield_now().await;
        }
    });
    while pool.queue.ticket_count() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(pool.counts().workers, 52);
}

#[test]
fn a_pool_goes_down_with_jobs_in_it() {
    let pool = Rc::new(CodecPool::new(1).unwrap());
    let mut executor = executor();
    let spawner = executor.spawner();
    let jobs = pool.clone();
    let data = data(&plain(8, 1));
    let lent = data.clone();
    executor.run(async move {
        let tasks: Vec<_> = (0..200)
            .map(|i| {
                let (jobs, job) = (jobs.clone(), encode_job(&lent, i, Compression::Zstd));
                spawner.spawn(async move { jobs.encode(job).await })
            })
            .collect();
        yield_now().await;
        for task in tasks {
            task.cancel().await;
        }
    });
    let pool = Rc::into_inner(pool).expect("the tasks are gone");
    drop(pool);
    assert_eq!(Arc::strong_count(&data), 1, "and what they had lent");
}

fn queued(queue: &Queue, counter: u64, compression: Compression, urgent: bool) {
    let data = data(&plain(1, 1));
    queue.submit(Work::Encode(EncodeJob { urgent, ..encode_job(&data, counter, compression) }));
}

fn counter_of(job: queue::Job) -> u64 {
    match job.into_parts().1 {
        Work::Encode(job) => job.seal.counter,
        Work::Decode(_) | Work::Pack(_) => panic!("only encode jobs here"),
    }
}

#[test]
fn urgent_jobs_overtake_with_a_bound() {
    let queue = Queue::new(0);
    for i in 0..20 {
        queued(&queue, 100 + i, Compression::Lz4, false);
        queued(&queue, i, Compression::Lz4, true);
    }
    let order: Vec<u64> = (0..40).map(|_| counter_of(queue.take().unwrap())).collect();
    assert_eq!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 100, 8]);
    assert_eq!(order[17..19], [101, 16]);
    assert!(order[22..].iter().all(|&counter| counter >= 102), "{order:?}");
}

#[test]
fn the_core_helps_with_small_quick_jobs_only() {
    let queue = Queue::new(0);
    queued(&queue, 1, Compression::Lz4, false);
    queued(&queue, 2, Compression::Zstd, false);
    assert_eq!(counter_of(queue.take_helpable().unwrap()), 1);
    assert!(queue.take_helpable().is_none(), "zstd");
    assert_eq!(counter_of(queue.take().unwrap()), 2);
    let data = data(&plain(8, 1));
    queue.submit(Work::Encode(encode_job(&data, 3, Compression::Lz4)));
    assert!(queue.take_helpable().is_none(), "32 KiB");
}

#[test]
fn the_core_helps_with_an_urgent_job_while_a_large_one_has_its_turn() {
    let queue = Queue::new(0);
    let data = data(&plain(8, 1));
    queue.submit(Work::Encode(EncodeJob { urgent: false, ..encode_job(&data, 100, Compression::Lz4) }));
    for i in 0..10 {
        queued(&queue, i, Compression::Lz4, true);
    }
    let helped: Vec<u64> = (0..10).map(|_| counter_of(queue.take_helpable().unwrap())).collect();
    assert_eq!(helped, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert!(queue.take_helpable().is_none(), "32 KiB");
    queued(&queue, 10, Compression::Lz4, true);
    assert_eq!(counter_of(queue.take().unwrap()), 100, "a worker takes what has its turn");
}

#[test]
fn only_a_lonely_job_is_taken_back() {
    let queue = Queue::new(0);
    let data = data(&plain(1, 1));
    let submit = |compression| queue.submit(Work::Encode(encode_job(&data, 1, compression)));
    let (first, submitted) = submit(Compression::Lz4);
    assert_eq!(submitted, Submitted::Alone);
    assert!(queue.take_back(first).is_some());
    assert_eq!(queue.ticket_count(), 0);
    assert_eq!(submit(Compression::Zstd).1, Submitted::Queued);
    let (second, submitted) = submit(Compression::Lz4);
    assert_eq!(submitted, Submitted::Queued);
    assert!(queue.take_back(second).is_none());
    drop(queue.take());
    assert!(queue.take_back(second).is_none(), "a worker is at another job");
}

#[test]
fn an_urgent_job_among_bulk_is_taken_back_and_strands_nobody() {
    let queue = Queue::new(0);
    let (bulk, small) = (data(&plain(8, 1)), data(&plain(1, 1)));
    let submit = |data: &Arc<DataBuf>, counter, urgent| {
        queue.submit(Work::Encode(EncodeJob { urgent, ..encode_job(data, counter, Compression::Lz4) }))
    };
    // one that is not urgent is alone, and nobody was called for it: an urgent one calls
    let (first, submitted) = submit(&bulk, 1, false);
    assert_eq!(submitted, Submitted::Alone);
    assert_eq!(submit(&small, 2, true).1, Submitted::Queued);
    assert!(queue.take_back(first).is_none());
    assert_eq!(counter_of(queue.take().unwrap()), 2);
    queue.finish(1, true, Done::Encode(AlignedBuf::zeroed(0), Err(Error::new(ErrorKind::Io, "not done"))));
    // a worker is at bulk, more waits: a small urgent one goes back to the core, a second and a large one do not
    assert_eq!(counter_of(queue.take().unwrap()), 1);
    assert_eq!(submit(&bulk, 3, false).1, Submitted::Queued);
    let (urgent, submitted) = submit(&small, 4, true);
    assert_eq!(submitted, Submitted::Alone);
    assert!(queue.take_back(urgent).is_some());
    assert_eq!(submit(&bulk, 5, true).1, Submitted::Queued, "32 KiB take long");
    let (urgent, submitted) = submit(&small, 6, true);
    assert_eq!(submitted, Submitted::Queued, "another is as urgent");
    assert!(queue.take_back(urgent).is_none());
    assert_eq!(counter_of(queue.take().unwrap()), 5);
    let (urgent, submitted) = submit(&small, 7, true);
    assert_eq!(submitted, Submitted::Queued, "a worker is at an urgent one, and another waits");
    assert!(queue.take_back(urgent).is_none());
    let left: Vec<u64> = (0..3).map(|_| counter_of(queue.take().unwrap())).collect();
    assert_eq!(left, [6, 7, 3]);
}

#[test]
fn workers_sleep_when_there_is_nothing_to_do() {
    let pool = CodecPool::new(2).unwrap();
    while pool.queue.sleeping_count() < 2 {
        std::thread::yield_now();
    }
    assert_eq!(pool.worker_count(), 2);
    assert_eq!(pool.counts(), CodecCounts::default());
}

#[cfg(feature = "sim")]
#[test]
fn simulated_jobs_end_in_orders_that_depend_on_the_seed() {
    use std::collections::HashSet;

    use crate::env::{Env, Rng};

    let order_of = |seed| {
        let reactor = Reactor::new(Box::new(Sleeper::default()));
        let mut executor = Executor::new(reactor.clone(), Box::new(Fifo::default()));
        let spawner = executor.spawner();
        let env = Env::new(spawner.clone(), reactor, Rng::Seeded(fastrand::Rng::with_seed(seed)));
        let pool = Rc::new(CodecPool::simulated(env));
        executor.run(async move {
            let order = Rc::new(RefCell::new(Vec::new()));
            let tasks: Vec<_> = (0..6)
                .map(|i| {
                    let (pool, order) = (pool.clone(), order.clone());
                    spawner.spawn(async move {
                        round_trip(pool, 1, i, Compression::Lz4).await;
                        order.borrow_mut().push(i);
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
            order.take()
        })
    };
    let orders: HashSet<_> = (0..20).map(order_of).collect();
    assert!(orders.len() > 5, "{orders:?}");
    assert_eq!(order_of(7), order_of(7));
}
