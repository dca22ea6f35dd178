//! Sub-block writes get through, however many writers of whole blocks wait for them with all fragment buffers in hand.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use common::{Machine, ask, create_options, key, pattern, spec};
use plica::codec::CodecPool;
use plica::core::ReplayBounds;
use plica::core::request::{NamespaceClient, RequestKind};
use plica::env::{Env, Executor, Reactor, Rng};
use plica::media::Media;
use plica::pool::{OpenOptions, Pool};
use plica::sim::{Death, SeededOrder, SimBackend, Trace};

const WRITE: RequestKind = RequestKind::Write { fua: false };
/// Blocks that are atomic together, and have a fragment each.
const PIECE: u64 = 16;
/// Pieces that everybody writes to.
const PIECES: u64 = 2;
/// Writers of whole pieces: all that are handled at a time, four times as many as there are buffers for.
const WHOLE: u64 = 128;
/// Writes of each sub-block writer, of which there is one for each block.
const PART_WRITES: u64 = 4;
const POOL_BYTES: u64 = 128 << 20;
/// Simulated time of a run at most.
const RUN_NS_MAX: u64 = 60_000_000_000;

/// Runs `body` on a simulated machine and calls `watch` after every step. `None` when it hangs.
fn simulate<F: Future<Output = ()> + 'static>(
    seed: u64,
    mut watch: impl FnMut(),
    body: impl FnOnce(Env, Media) -> F,
) -> Option<()> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut machine = plica::sim::Machine::new(rng.fork(), Trace::new(false));
    let file = machine.add_medium(POOL_BYTES);
    let machine = Rc::new(RefCell::new(machine));
    let reactor = Reactor::new(Box::new(SimBackend::new(machine.clone(), Death::never())));
    let mut executor = Executor::new(reactor.clone(), Box::new(SeededOrder::new(rng.fork())));
    let env = Env::new(executor.spawner(), reactor.clone(), Rng::Seeded(rng.fork()));
    let media = Media::new(reactor, file, POOL_BYTES, 4096, true);
    executor.run_until(body(env, media), || {
        watch();
        let machine = machine.borrow();
        machine.stalled || machine.clock > RUN_NS_MAX
    })
}

/// A new pool, served, with a namespace of all pieces in sectors of 512 bytes. Its codec takes its time.
async fn new_pool(env: &Env, media: &Media) -> Rc<Pool> {
    plica::pool::create(env, media, &create_options(&key())).await.unwrap();
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
    let pool = Pool::open(env, media, Box::new(Machine::default()), options).await.unwrap();
    let mut sectors = spec(PIECES * PIECE);
    (sectors.logical_block, sectors.unit_blocks) = (512, 1);
    pool.create_namespace(&sectors).await.unwrap();
    pool
}

/// Writers of whole pieces go on until every sub-block writer is through.
async fn contend(env: &Env, client: &NamespaceClient) {
    let left = Rc::new(Cell::new(PIECES * PIECE));
    let whole = (0..WHOLE).map(|n| {
        let (client, left, start) = (client.clone(), left.clone(), n % PIECES * PIECE);
        let data: Vec<u8> = (start..start + PIECE).flat_map(|lba| pattern(lba, 1)).collect();
        env.spawner.spawn(async move {
            while left.get() > 0 {
                ask(&client, WRITE, start * 4096, PIECE * 4096, Some(data.clone())).await.0.unwrap();
            }
        })
    });
    let whole: Vec<_> = whole.collect();
    let parts = (0..PIECES * PIECE).map(|lba| {
        let (client, left) = (client.clone(), left.clone());
        env.spawner.spawn(async move {
            for _ in 0..PART_WRITES {
                ask(&client, WRITE, lba * 4096 + 512, 512, Some(vec![9; 512])).await.0.unwrap();
            }
            left.set(left.get() - 1);
        })
    });
    for task in parts.collect::<Vec<_>>().into_iter().chain(whole) {
        task.await;
    }
}

/// Each block is that of the writers of whole pieces, with or without the part of another.
async fn check(client: &NamespaceClient) {
    let (result, data) = ask(client, RequestKind::Read, 0, PIECES * PIECE * 4096, None).await;
    result.unwrap();
    for (lba, block) in (0..).zip(data.chunks(4096)) {
        let mut merged = pattern(lba, 1);
        merged[512..1024].fill(9);
        assert!(block == merged || block == pattern(lba, 1), "LBA {lba}");
    }
}

#[test]
fn reserved_sub_block_writers_get_through_when_others_hold_all_buffers() {
    for seed in 0..4 {
        let served: Rc<RefCell<Option<Rc<Pool>>>> = Rc::default();
        let (watched, reserved) = (served.clone(), Rc::new(Cell::new(0)));
        let most = reserved.clone();
        let watch = move || {
            if let Some(pool) = &*watched.borrow() {
                most.set(most.get().max(pool.core().state.borrow().reserved.len()));
            }
        };
        let ended = simulate(seed, watch, async move |env, media| {
            let pool = new_pool(&env, &media).await;
            *served.borrow_mut() = Some(pool.clone());
            let client = pool.client("db").unwrap();
            contend(&env, &client).await;
            check(&client).await;
            served.take();
            pool.stop().await.unwrap();
        });
        assert!(ended.is_some(), "seed {seed}: it hangs with {} blocks reserved", reserved.get());
        assert!(reserved.get() > 1, "seed {seed}: {} blocks were reserved at a time", reserved.get());
    }
}
