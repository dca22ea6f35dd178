//! The one thread that orders everything of a pool: a single-threaded asynchronous state machine.
//!
//! ```text
//!   front ends ─► dispatch ─► write ─► codec ─► commit: append + map change in one step ─► acknowledge
//!                         ├─► read  ─► fragment (staged memory or one device read) ─► codec ─► reply
//!                         ├─► discard (CLEAR records)      └─ flush: durability of batches
//!                         └─► partial (sub-block writes by compare)
//!   tier 0 (if there is a journal): small hot writes ─► persisted, a group at a time ─► acknowledge
//!   background: batch timer · leaf write-back and roots (checkpoint, image) · usage count · accounts of discarded leaves
//!               · cleaner (victims, clean, relocate, unpack) · when idle: cleaning ahead, recompression (idle, recompress, pack)
//! ```
//!
//! **Invariants.** All of I1–I12; each file cites those it upholds. Mutable state is in one [`State`] that is borrowed
//! only between awaits.
//!
//! **Failure.** A failed flush or metadata write latches the pool read-only (`latch`, I11); a fragment that does not
//! verify is an error for its LBAs alone (I5).
//!
//! **Not here:** opening and recovery (`recovery`, `pool`), protocols (`frontend`).

mod absorb;
mod account;
mod admission;
mod announce;
mod bulk;
mod checkpoint;
mod clean;
mod commit;
mod destage;
mod discard;
mod dispatch;
mod flush;
mod fragment;
mod fullness;
mod idle;
mod image;
mod latch;
mod leaves;
mod pace;
mod pack;
mod partial;
mod prepare;
mod read;
mod read_ahead;
mod recent;
mod recompress;
mod relocate;
pub mod request;
mod resident;
mod room;
pub mod scrub;
mod scrub_journal;
mod seal_segment;
mod state;
mod stats;
mod streams;
mod survey;
mod tier0;
mod tier0_swap;
mod unit;
mod unpack;
mod victims;
mod window;
mod write;
mod written;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

pub use account::Accounts;
pub use fullness::{Fullness, Watermarks};
pub use latch::Latch;
pub use recent::{Reading, Recent};
pub use recompress::{RecompressStatus, Recompression};
pub use room::RESERVE_SEGMENTS;
pub use state::{Namespace, RootState, State};
pub use stats::{NamespaceStats, Stats};
pub use tier0::Tier0;
pub use window::ReplayBounds;
pub use written::Written;

use crate::buf::BufPool;
use crate::codec::CodecPool;
use crate::env::Env;
use crate::env::sync::Notify;
use crate::format::layout::Layout;
use crate::limits::{BLOCK_BYTES, FRAGMENT_BYTES_MAX};
use crate::media::Media;
use crate::pmem::Journal;
use crate::units::{PoolId, SealNo, SessionId};

/// Bytes of a buffer for one fragment: its largest record, unaligned at both ends.
pub const FRAGMENT_BUF_BYTES: usize = FRAGMENT_BYTES_MAX + 3 * BLOCK_BYTES;
/// Fragment buffers of a core: bounds the codec work under way (I10).
pub const FRAGMENT_BUFS: usize = 512;
/// Fragment buffers of reserved sub-block writers: one block is read into two of them, and sealed into one.
const RESERVED_BUFS: usize = 8;
/// Leaves being read at a time.
const LEAF_BUFS: usize = 8;

/// A pool's engine. Lives on one thread; its tasks hold it by `Rc`.
pub struct Core {
    /// Time, chance, tasks.
    pub env: Env,
    /// The pool's medium.
    pub media: Media,
    /// Tier 0, while the pool has a journal.
    tier0: RefCell<Option<Rc<Tier0>>>,
    /// Where things are on the medium; its end as it was when the pool was opened ([`Core::layout_now`]).
    pub layout: Layout,
    /// Bytes of the pool, which may grow.
    pool_bytes: Cell<u64>,
    /// Identity.
    pub pool: PoolId,
    /// This tenure.
    pub session: SessionId,
    /// All that changes.
    pub state: RefCell<State>,
    /// Compression and sealing.
    pub codec: CodecPool,
    /// Why the pool takes no writes, if so.
    pub latch: Latch,
    /// What may have to be replayed.
    pub bounds: ReplayBounds,
    /// Counters.
    pub stats: Stats,
    /// The same of the last minutes.
    pub(crate) recent: Recent,
    /// How full it may become before people are told.
    watch: fullness::Watch,
    /// Everything in use read back.
    pub scrub: scrub::Scrub,
    bufs: BufPool,
    /// For sub-block writers with a reserved block: writers that hold all others may wait for them (`partial`).
    reserved_bufs: BufPool,
    /// For leaves: whoever reads one waits for the medium only, so these come back even when writers hold all others.
    leaf_bufs: BufPool,
    cleaner: clean::Cleaner,
    /// What is done while no request comes.
    idle: idle::Idle,
    recompress: recompress::Recompress,
    /// A new full image is to be written: the one on media is damaged, or in the way.
    image_wanted: Cell<bool>,
    seal_counter: Cell<u64>,
    flushing: Cell<bool>,
    /// Device flushes when the last host segment was opened.
    flushes_at_open: Cell<u64>,
    checkpointing: Cell<bool>,
    /// When the medium was last asked for space that it had none of.
    space_asked_ns: Cell<u64>,
    /// How many segments it had no space for, as was logged.
    refused_told: Cell<usize>,
    stopping: Cell<bool>,
    /// Leaves of the last root may take of the reserve.
    spends_reserve: Cell<bool>,
    /// The last root is written.
    over: Cell<bool>,
    /// What a stop has to wait for, but for requests and the cleaner.
    works: Cell<usize>,
    /// Somebody waits for requests under way.
    draining: Cell<bool>,
    /// Requests being handled.
    active: Cell<usize>,
    /// Slots, segments or room in a batch appeared, space was gained, or none will be any more.
    space: Notify,
    /// A batch advanced towards durability, or never will.
    durable: Notify,
    /// A leaf was loaded, or could not be.
    loaded: Notify,
    /// The map let go of leaves.
    pub(crate) detached: Notify,
    /// The first record of a host batch was appended.
    batch_begun: Notify,
    /// Segments are running out, or the replay window is large.
    checkpoint_wanted: Notify,
    /// The host flushes much, and the next segments were never used.
    preparation_wanted: Notify,
    /// A sub-block write let go of its block, or something ended that a checkpoint or a stop waits for.
    released: Notify,
}

impl Core {
    /// An engine over recovered state. Nothing runs yet: see [`Core::start`].
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "one caller; a struct would only rename them")]
    pub fn new(
        env: Env,
        media: Media,
        journal: Option<Journal>,
        layout: Layout,
        pool: PoolId,
        session: SessionId,
        state: State,
        codec: CodecPool,
        bounds: ReplayBounds,
    ) -> Rc<Self> {
        let cleaner = clean::Cleaner::new(state.log.segments.count(), layout.segment_bytes);
        Rc::new(Self {
            env,
            media,
            tier0: RefCell::new(journal.map(|journal| Rc::new(Tier0::new(journal)))),
            layout,
            pool_bytes: Cell::new(layout.pool_bytes),
            pool,
            session,
            state: RefCell::new(state),
            codec,
            latch: Latch::default(),
            bounds,
            stats: Stats::default(),
            recent: Recent::default(),
            watch: fullness::Watch::default(),
            scrub: scrub::Scrub::default(),
            bufs: BufPool::new(FRAGMENT_BUFS, FRAGMENT_BUF_BYTES),
            reserved_bufs: BufPool::new(RESERVED_BUFS, FRAGMENT_BUF_BYTES),
            leaf_bufs: BufPool::new(LEAF_BUFS, FRAGMENT_BUF_BYTES),
            cleaner,
            idle: idle::Idle::default(),
            recompress: recompress::Recompress::default(),
            image_wanted: Cell::new(false),
            seal_counter: Cell::new(0),
            flushing: Cell::new(false),
            flushes_at_open: Cell::new(0),
            checkpointing: Cell::new(false),
            space_asked_ns: Cell::new(0),
            refused_told: Cell::new(0),
            stopping: Cell::new(false),
            spends_reserve: Cell::new(false),
            over: Cell::new(false),
            works: Cell::new(0),
            draining: Cell::new(false),
            active: Cell::new(0),
            space: Notify::default(),
            durable: Notify::default(),
            loaded: Notify::default(),
            detached: Notify::default(),
            batch_begun: Notify::default(),
            checkpoint_wanted: Notify::default(),
            preparation_wanted: Notify::default(),
            released: Notify::default(),
        })
    }

    /// Tier 0, while the pool has a journal.
    #[must_use]
    pub fn tier0(&self) -> Option<Rc<Tier0>> {
        self.tier0.borrow().clone()
    }

    /// Whether the pool has a journal.
    fn has_tier0(&self) -> bool {
        self.tier0.borrow().is_some()
    }

    /// Where things are on the medium, now that the pool may have grown.
    #[must_use]
    pub fn layout_now(&self) -> Layout {
        Layout { pool_bytes: self.pool_bytes.get(), ..self.layout }
    }

    /// The pool has grown, durably: it has so many segments.
    pub(crate) fn enlarge(&self, pool_bytes: u64, segments: u32) {
        self.pool_bytes.set(pool_bytes);
        self.state.borrow_mut().log.segments.grow(segments as usize);
        self.cleaner.enlarge(segments as usize, self.layout.segment_bytes);
        self.checkpoint_wanted.notify_all();
        self.space.notify_all();
    }

    /// The number for the next fragment to be sealed: never the same twice under a key (I7), since the session is new
    /// at each open and durable before the first seal.
    fn next_seal(&self) -> SealNo {
        let counter = self.seal_counter.get() + 1;
        self.seal_counter.set(counter);
        SealNo { session: self.session, counter }
    }
}
