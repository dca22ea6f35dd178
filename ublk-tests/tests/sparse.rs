//! A pool in a sparse file, on a filesystem that fills before the pool does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::space::{WRITE, noise, settle};
use common::{Machine, ask, create_options, key, spec};
use plica::codec::CodecPool;
use plica::core::request::{NamespaceClient, RequestKind};
use plica::core::{Fullness, ReplayBounds};
use plica::env::{Env, Executor, Reactor, Rng};
use plica::error::{Error, ErrorKind};
use plica::media::Media;
use plica::pool::{OpenOptions, Pool};
use plica::sim::{Death, Fault, FaultKind, SeededOrder, SimBackend, Trace};

type Medium = Rc<RefCell<plica::sim::Machine>>;

const POOL_BYTES: u64 = 128 << 20;
/// As many blocks as the pool cannot have.
const BLOCKS: u64 = 64 << 10;
/// Written before the filesystem is full.
const FIRST: u64 = 4 << 10;
/// Simulated time of a run at most.
const RUN_NS_MAX: u64 = 600_000_000_000;

/// Runs `body` on a simulated machine.
fn simulate<F: Future<Output = ()> + 'static>(seed: u64, body: impl FnOnce(Env, Media, Medium) -> F) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut machine = plica::sim::Machine::new(rng.fork(), Trace::new(false));
    let file = machine.add_medium(POOL_BYTES);
    let machine = Rc::new(RefCell::new(machine));
    let reactor = Reactor::new(Box::new(SimBackend::new(machine.clone(), Death::never())));
    let mut executor = Executor::new(reactor.clone(), Box::new(SeededOrder::new(rng.fork())));
    let env = Env::new(executor.spawner(), reactor.clone(), Rng::Seeded(rng.fork()));
    let media = Media::new(reactor, file, POOL_BYTES, 4096, true);
    let ended = executor.run_until(body(env, media, machine.clone()), || {
        let machine = machine.borrow();
        machine.stalled || machine.clock > RUN_NS_MAX
    });
    assert!(ended.is_some(), "seed {seed}: it hangs");
}

async fn open(env: &Env, media: &Media, machine: &Machine) -> Rc<Pool> {
    let options = OpenOptions {
        root_key: key(),
        boot: [1; 16],
        identity: (1, 2),
        codec: CodecPool::simulated(env.clone()),
        bounds: ReplayBounds::default(),
        journal: None,
        accept_journal_loss: false,
        memory: None,
    };
    Pool::open(env, media, Box::new(machine.clone()), options).await.unwrap()
}

/// From now on the filesystem has no space for what never had any: segments are taken in the order of their numbers.
fn fill_filesystem(medium: &Medium, pool: &Pool) {
    let core = pool.core();
    let state = core.state.borrow();
    let (first, _) = state.log.segments.iter().find(|(_, info)| info.generation.0 == 0).unwrap();
    let range = core.layout.segment(first)..POOL_BYTES;
    medium.borrow_mut().faults.add(Fault { kind: FaultKind::NoSpace, file: 0, range, skip: 0, times: u64::MAX });
}

/// Writes blocks that do not compress, in this order, until one is refused. Returns how many, and why.
async fn write_until_full(client: &NamespaceClient, lbas: impl Iterator<Item = u64>) -> (u64, Option<Error>) {
    for (count, lba) in lbas.enumerate() {
        if let Err(error) = ask(client, WRITE, lba * 4096, 4096, Some(noise(lba))).await.0 {
            return (count as u64, Some(error));
        }
    }
    (BLOCKS, None)
}

/// Segments that the medium has had space for.
fn usable(pool: &Pool) -> u64 {
    let status = pool.status();
    u64::from(status.segments) - status.segments_refused
}

/// Space that was given back was behind all segments that were never written, and the pool called itself full and good.
#[test]
fn what_is_given_back_is_used_again_when_the_filesystem_is_full() {
    for seed in 0..2 {
        simulate(seed, async move |env, media, medium| {
            plica::pool::create(&env, &media, &create_options(&key())).await.unwrap();
            let machine = Machine::default();
            let pool = open(&env, &media, &machine).await;
            pool.create_namespace(&spec(BLOCKS)).await.unwrap();
            settle(&env, &pool).await;
            let client = pool.client("db").unwrap();
            // 1. a part is written, then the filesystem is full
            assert_eq!(write_until_full(&client, 0..FIRST).await.0, BLOCKS);
            fill_filesystem(&medium, &pool);
            let (more, error) = write_until_full(&client, FIRST..BLOCKS).await;
            let error = error.unwrap();
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert!(error.to_string().contains("under the pool has no space for"), "{error}");
            assert!(more < 16 << 8, "{more} blocks more were written than there was space announced for");
            let status = pool.status();
            assert!(status.segments_refused > 64 && usable(&pool) > 16, "{} are refused", status.segments_refused);
            assert_eq!(status.fullness, Fullness::Critical, "{:?} % in use", status.percent_used);
            // 2. what the medium has no space for is not asked for again and again
            let asked = medium.borrow().faults.hits();
            let at = env.now_ns();
            for _ in 0..50 {
                assert_eq!(write_until_full(&client, BLOCKS - 1..BLOCKS).await.1.unwrap().kind(), ErrorKind::NoSpace);
            }
            let (asked, seconds) = (medium.borrow().faults.hits() - asked, (env.now_ns() - at) / 1_000_000_000);
            assert!(asked <= seconds + 1, "asked {asked} times in {seconds} s");
            // 3. what is discarded is written again, many times over
            for round in 0..6 {
                ask(&client, RequestKind::Discard, 0, FIRST * 4096, None).await.0.unwrap();
                settle(&env, &pool).await;
                let (written, error) = write_until_full(&client, 0..FIRST / 4 * 3).await;
                assert!(error.is_none(), "round {round}: {written} blocks, then {error:?}");
            }
            // 4. also in the next serve, to which the segments look as if they had never been written
            pool.stop().await.unwrap();
            let pool = open(&env, &media, &machine).await;
            settle(&env, &pool).await;
            let client = pool.client("db").unwrap();
            ask(&client, RequestKind::Discard, 0, FIRST * 4096, None).await.0.unwrap();
            settle(&env, &pool).await;
            let (written, error) = write_until_full(&client, 0..FIRST / 4 * 3).await;
            assert!(error.is_none(), "{written} blocks, then {error:?}");
            // 5. the filesystem has space again, and nobody has to write for it to be seen
            medium.borrow_mut().faults.clear();
            env.sleep_ns(6_000_000_000).await;
            assert_eq!((pool.status().segments_refused, pool.status().fullness), (0, Fullness::Good));
            assert_eq!(write_until_full(&client, 0..3 * FIRST).await.0, BLOCKS);
            pool.stop().await.unwrap();
        });
    }
}

/// A writer that the medium had no space for asks it again after a second.
#[test]
fn a_writer_sees_that_the_filesystem_has_space_again() {
    simulate(7, async move |env, media, medium| {
        plica::pool::create(&env, &media, &create_options(&key())).await.unwrap();
        let pool = open(&env, &media, &Machine::default()).await;
        pool.create_namespace(&spec(BLOCKS)).await.unwrap();
        let client = pool.client("db").unwrap();
        fill_filesystem(&medium, &pool);
        let (written, error) = write_until_full(&client, 0..BLOCKS).await;
        assert_eq!(error.unwrap().kind(), ErrorKind::NoSpace);
        medium.borrow_mut().faults.clear();
        env.sleep_ns(1_000_000_000).await;
        let (more, error) = write_until_full(&client, written..written + FIRST).await;
        assert!(error.is_none(), "{more} blocks, then {error:?}");
        assert_eq!(pool.status().segments_refused, 0);
        pool.stop().await.unwrap();
    });
}
