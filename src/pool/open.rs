//! Opening a pool: a table of named steps, each logged with its duration; and stopping it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::copies::{Flush, layout_of, read_superblock, read_table, write_superblock, write_table};
use super::journal::{JournalFound, PoolJournal, find_journal, lose_journal};
use crate::canary::{self, Rule};
use crate::codec::{CodecPool, Sealer};
use crate::core::request::{NamespaceClient, Request};
use crate::core::{Accounts, Core, Namespace, NamespaceStats, ReplayBounds, RootState, State};
use crate::env::{Env, Mailbox, mailbox};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::format::layout::Layout;
use crate::format::namespaces::{NamespaceEntry, NamespaceTable};
use crate::format::root::{Root, WindowSession, WindowState};
use crate::format::slot::{STAGING_HEADER_BYTES, StagingHeader};
use crate::format::superblock::{JournalName, Superblock};
use crate::keys::{RootKey, unwrap, verify_key_check};
use crate::limits::BLOCK_SIZE;
use crate::log::segments::SummaryState;
use crate::log::{Log, SegmentTable, StreamKind};
use crate::map::{Clock, Directory, DirtyQueue};
use crate::media::Media;
use crate::recovery::replay::Replay;
use crate::recovery::{self, Directories, Known, Recovered, RecoveredJournal, RecoveredSegment};
use crate::staging::{Region, StagingStore};
use crate::units::{NamespaceId, OpNo, SessionId};

/// Records of tier 0 replayed as a group.
const REPLAY_GROUP: usize = 4096;

/// How a pool is opened.
pub struct OpenOptions {
    /// The root key.
    pub root_key: RootKey,
    /// The boot of this machine (/proc/sys/kernel/random/boot_id).
    pub boot: [u8; 16],
    /// Device and inode number of the medium.
    pub identity: (u64, u64),
    /// Compression and sealing: worker threads, or the simulator's.
    pub codec: CodecPool,
    /// What may have to be replayed after a death.
    pub bounds: ReplayBounds,
    /// The pool's journal, if there is one.
    pub journal: Option<JournalFound>,
    /// Without its journal the pool is opened too, and what was there reads as errors.
    pub accept_journal_loss: bool,
    /// Bytes of memory of this machine, of which namespaces that are made or enlarged here get no more than there is; `None`:
    /// that is nobody's concern. A pool that has larger ones already is opened in any case.
    pub memory: Option<u64>,
}

/// An open pool. Lives on the core's thread.
pub struct Pool {
    pub(super) core: Rc<Core>,
    pub(super) superblock: RefCell<Superblock>,
    /// The journal that the superblocks name now.
    pub(super) journal: RefCell<Option<JournalName>>,
    pub(super) root_key: RootKey,
    pub(super) mailbox: Mailbox<(NamespaceId, Request)>,
    /// Bytes of memory of this machine, if that bounds namespaces.
    pub(super) memory: Option<u64>,
    staging: RefCell<Box<dyn StagingStore>>,
}

/// A step that ends logs its name and duration.
struct Step<'a>(&'a Env, &'static str, u64);

impl<'a> Step<'a> {
    fn begin(env: &'a Env, name: &'static str) -> Self {
        Self(env, name, env.now_ns())
    }

    fn end(self, what: impl std::fmt::Display) {
        let micros = (self.0.now_ns() - self.2) / 1000;
        tracing::info!("opening: {}: {what} ({}.{:03} ms)", self.1, micros / 1000, micros % 1000);
    }
}

impl Pool {
    /// Opens the pool on `media`: recovers what the last serve left, and starts the engine.
    ///
    /// # Errors
    /// No pool, the wrong key, damage, or shared memory missing after an unclean stop in this boot.
    pub async fn open(
        env: &Env,
        media: &Media,
        mut staging: Box<dyn StagingStore>,
        mut options: OpenOptions,
    ) -> Result<Rc<Self>> {
        // 1. superblock and key: nothing is touched before the key is right
        let step = Step::begin(env, "superblock");
        let (mut superblock, both_superblocks) = read_superblock(media).await?;
        verify_key_check(&options.root_key, superblock.pool, &superblock.key_check)?;
        let layout = layout_of(&superblock);
        step.end(superblock.pool);
        // 2. namespaces
        let step = Step::begin(env, "namespaces");
        let (table, both_tables) = read_table(media, &layout, superblock.pool).await?;
        step.end(table.entries.len());
        // 3. the root, and what it stands for
        let step = Step::begin(env, "root");
        let (root, both_roots) = recovery::newest_root(media, &layout, superblock.pool).await?;
        root.check_bounds(superblock.segment_count)?;
        let directories = recovery::load_image(media, &layout, &root, superblock.segment_count).await?;
        step.end(format_args!("{} with {} leaves", root.sequence, directories.leaves.len()));
        // 4. its journal: nothing is changed before that is known to be the right one
        let step = Step::begin(env, "journal");
        let (found, accept) = (options.journal.take(), options.accept_journal_loss);
        let journal = find_journal(&superblock, &table, (&root, &directories), found, accept).await?;
        step.end(&journal);
        // 5. what the last daemon left in shared memory
        let step = Step::begin(env, "staging");
        let adopted = adopt_staging(media, &layout, &root, &mut *staging, &options).await?;
        step.end(format_args!("{adopted} batches adopted"));
        // 6. the window and tier 0; then all that counts from here on is durable (I1)
        let step = Step::begin(env, "window");
        let (mut recovered, tier0, replay) = scan(media, &layout, &root, &table, &journal).await?;
        if !canary::is_off(Rule::DataBeforePointer) {
            media.flush().await?;
            journal.make_durable(&tier0.recent).await?;
        }
        step.end(format_args!("{} segments, {} of tier 0", recovered.segments.len(), tier0.segments.len()));
        // 7. repairs, now that the pool is known to be good
        if !both_superblocks {
            write_superblock(Flush::Alone(media), &superblock).await?;
            tracing::warn!("a superblock was repaired from the other copy");
        }
        if !both_tables {
            write_table(Flush::Alone(media), &layout, &table).await?;
            tracing::warn!("a namespace table was repaired from the other copy");
        }
        if !both_roots {
            recovery::complete_root(media, &layout, &root).await?;
        }
        // 8. the state, and replay onto it
        let step = Step::begin(env, "replay");
        let session = SessionId(env.random_id()?);
        let region = new_region(&mut *staging, &superblock, session, &options, recovered.damage.is_empty())?;
        let parts = Parts { layout, superblock: &superblock, table, root: &root, session, region, tier0: &tier0 };
        let state = build_state(parts, &directories, &recovered, &options)?;
        let OpenOptions { root_key, codec, bounds, memory, .. } = options;
        let (medium, on) = (media.clone(), journal.medium());
        let core = Core::new(env.clone(), medium, on, layout, superblock.pool, session, state, codec, bounds);
        let records = replay.end(&mut core.state.borrow_mut());
        step.end(format_args!("{records} records for {} leaves", core.state.borrow().dirty.len()));
        recovered.damage.extend(damaged_gaps(&core, &tier0).await?);
        // 9. the root that ends the old serve and begins this one
        let is_lost = matches!(journal, PoolJournal::Lost);
        core.state.borrow_mut().root.stays_clean = is_lost && root.clean;
        begin_session(env, &core, &root, &recovered, &journal, &mut *staging).await?;
        if is_lost {
            lose_journal(&core, &mut superblock, &directories, root.clean).await?;
        }
        let (sender, receiver) = mailbox();
        core.start(receiver);
        let staging = RefCell::new(staging);
        let (journal, superblock) = (RefCell::new(superblock.journal.clone()), RefCell::new(superblock));
        Ok(Rc::new(Self { core, superblock, journal, root_key, mailbox: sender, memory, staging }))
    }

    /// The way to a namespace.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn client(&self, name: &str) -> Result<NamespaceClient> {
        let state = self.core.state.borrow();
        let Some((id, namespace)) = state.namespaces.iter().find(|(_, n)| n.entry.name == name) else {
            let names: Vec<_> = state.namespaces.values().map(|n| n.entry.name.as_str()).collect();
            fail!(NotFound, "no namespace {name:?} in this pool; it has: {}", names.join(", "));
        };
        Ok(NamespaceClient {
            id: *id,
            name: Arc::from(name),
            size: namespace.size.clone(),
            logical_block: namespace.entry.logical_block,
            pool: self.core.pool,
            mailbox: self.mailbox.clone(),
        })
    }

    /// The engine, for tests and benchmarks that look inside.
    #[must_use]
    pub fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Stops: answers what is under way, writes the map, switches to a clean root, removes the staging file. Requests
    /// that come later are answered with an error.
    ///
    /// # Errors
    /// What kept it from being clean; the staging file stays, and the next start replays.
    pub async fn stop(&self) -> Result<()> {
        self.core.stop().await?;
        self.staging.borrow_mut().remove(self.core.pool, self.core.session)
    }
}

/// Adopts the slots of the last serve, or says why there is nothing to adopt, or refuses.
async fn adopt_staging(
    media: &Media,
    layout: &Layout,
    root: &Root,
    staging: &mut dyn StagingStore,
    options: &OpenOptions,
) -> Result<usize> {
    if canary::is_off(Rule::Adoption) {
        return Ok(0);
    }
    match find_staged(root, staging, options.boot, options.identity)? {
        Some(region) => recovery::adopt(media, layout, root, &region).await,
        None => Ok(0),
    }
}

/// The staging memory of a root's session, if it counts: after an unclean stop, in the same boot.
///
/// # Errors
/// [`ErrorKind::Busy`] when it should be there and is not, or is another pool file's; when a later serve's is there.
pub(crate) fn find_staged(
    root: &Root,
    staging: &mut dyn StagingStore,
    boot: [u8; 16],
    (device, inode): (u64, u64),
) -> Result<Option<Region>> {
    let expected = StagingHeader { pool: root.pool, session: root.session, boot, device, inode };
    if root.clean || root.boot != boot {
        // a root is switched before its session serves, and the memory of the session before goes at once
        if let Some(later) = staging.other_serve(&expected)? {
            fail!(
                Busy,
                "this pool is at an older moment than its last serve: session {:016x} served it in this same boot of the \
                 machine, its staging file is still there, and the pool knows nothing of it (was a backup put back?). Put \
                 the newer state of the pool back, or, to go on with the old one, remove the staging file",
                later.0
            );
        }
        return Ok(None);
    }
    let Some(region) = staging.find(root.pool, root.session)? else {
        fail!(
            Busy,
            "the last serve of this pool ended without a stop, in this same boot of the machine, and its staging file \
             (session {:016x}) is missing: acknowledged writes may be in it. Find the file and put it back, serve with \
             the run directory that was used, or restart the machine to give them up",
            root.session.0
        );
    };
    let mut header = [0; STAGING_HEADER_BYTES];
    region.load_header(&mut header);
    let header = StagingHeader::decode(&header)?;
    if header != expected {
        fail!(
            Busy,
            "the staging file of session {:016x} belongs to another pool file, boot or serve (was the pool copied after \
             a kill?): serve the original, or restart the machine to give up what is staged",
            root.session.0
        );
    }
    Ok(Some(region))
}

fn new_region(
    staging: &mut dyn StagingStore,
    superblock: &Superblock,
    session: SessionId,
    options: &OpenOptions,
    writable: bool,
) -> Result<Region> {
    if !writable {
        return Ok(Region::anonymous());
    }
    let (device, inode) = options.identity;
    staging.create(&StagingHeader { pool: superblock.pool, session, boot: options.boot, device, inode })
}

struct Parts<'a> {
    layout: Layout,
    superblock: &'a Superblock,
    table: NamespaceTable,
    root: &'a Root,
    session: SessionId,
    region: Region,
    tier0: &'a RecoveredJournal,
}

fn build_state(
    parts: Parts<'_>,
    directories: &Directories,
    recovered: &Recovered,
    options: &OpenOptions,
) -> Result<State> {
    let Parts { layout, superblock, table, root, session, region, tier0 } = parts;
    let mut namespaces = BTreeMap::new();
    for entry in &table.entries {
        namespaces.insert(entry.id, open_namespace(entry, superblock, &options.root_key)?);
    }
    let mut segments = SegmentTable::new(directories.generations.clone(), root.replay_start);
    for part in root.image_parts.iter().filter_map(|e| e.segment()) {
        segments.add_live(part);
    }
    for ((id, leaf), image) in &directories.leaves {
        let slot = namespaces.get_mut(id).and_then(|n| n.directory.slot_mut(*leaf));
        if let Some(slot) = slot {
            slot.image = *image;
            slot.takes_journal = image.journaled;
            image.entry.segment().into_iter().for_each(|segment| segments.add_live(segment));
        }
    }
    for segment in &recovered.segments {
        let listed = segment.listed;
        let (end, summary) = match segment.known {
            Known::Walk(0) => {
                segments.recovered_announced(listed.segment, listed.generation);
                continue;
            }
            Known::Walk(end) => (end, SummaryState::None),
            Known::Summary => (listed.end, SummaryState::Durable),
            Known::Damaged => (listed.end, SummaryState::Never),
        };
        segments.recovered(listed.segment, end, summary, segment.tops);
        segments.fill(listed.segment, segment.total, end);
    }
    let journal = SegmentTable::of_journal(&tier0.segments);
    let highest = recovered.highest;
    let mut log = Log::new(superblock.pool, session, layout.segment_bytes, highest, segments, journal, region);
    // a session appends to no segment of tier 0 that it did not open
    for kind in StreamKind::SSD {
        append_behind(&mut log, kind, recovered);
    }
    let root_state = root_state(root, &namespaces, recovered.accepted, options.boot);
    Ok(State {
        log,
        namespaces,
        dirty: DirtyQueue::default(),
        holes: 0,
        waiting: 0,
        clock: Clock::new(options.bounds.leaves_max),
        accounts: Accounts::default(),
        root: root_state,
        table,
        loading: BTreeSet::new(),
        latched: BTreeSet::new(),
        reserved: BTreeSet::new(),
    })
}

/// What the durable root says, for the session that goes on from it.
fn root_state(root: &Root, namespaces: &BTreeMap<NamespaceId, Namespace>, accepted: OpNo, boot: [u8; 16]) -> RootState {
    let mut sessions = root.sessions.clone();
    sessions.push(WindowSession { session: root.session, last_accepted: accepted });
    let unknown = |id: &NamespaceId| !namespaces.contains_key(id);
    RootState {
        sequence: root.sequence,
        replay_start: root.replay_start,
        boot,
        lifetime: root.lifetime,
        image: root.image,
        image_directory_bytes: root.image_directory_bytes,
        image_parts: root.image_parts.clone(),
        sessions,
        directory: root
            .directory
            .iter()
            .filter(|d| !unknown(&d.namespace))
            .map(|d| ((d.namespace, d.leaf), d.image))
            .collect(),
        segments: root.segments.iter().map(|c| (c.segment, c.generation)).collect(),
        release: Vec::new(),
        marks: BTreeSet::new(),
        stays_clean: false,
    }
}

/// Unwraps a namespace's key and lays out its map.
pub(super) fn open_namespace(entry: &NamespaceEntry, superblock: &Superblock, root_key: &RootKey) -> Result<Namespace> {
    let key = unwrap(root_key, superblock.pool, entry.id, entry.cipher, &entry.wrapped_key)
        .map_err(|e| e.within(format!("namespace {:?}", entry.name)))?;
    Ok(Namespace {
        entry: entry.clone(),
        directory: Directory::new(entry.blocks),
        sealer: Arc::new(Sealer::new(key, entry.cipher)),
        size: Arc::new(AtomicU64::new(entry.blocks * u64::from(BLOCK_SIZE))),
        last_op: OpNo(0),
        cleared: OpNo(0),
        unflushed: 0,
        sizes: Default::default(),
        on_journal: 0,
        stats: Rc::new(NamespaceStats::default()),
        flight: Rc::default(),
    })
}

/// The new session appends behind what was accepted: in the stream's newest walked segment that is not full.
fn append_behind(log: &mut Log, kind: StreamKind, recovered: &Recovered) {
    let open = recovered.segments.iter().filter(|s| s.listed.state != WindowState::Flushed);
    let newest = open.filter(|s| s.stream == Some(kind)).max_by_key(|s| s.tops.0);
    let Some(open) = newest.and_then(RecoveredSegment::reopened) else { return };
    let room = crate::limits::BLOCK_BYTES;
    if open.fits(log.segment_bytes, open.at as usize + room, 1) {
        log.segments.reopen(open.id);
        log.stream_mut(kind).segment = Some(open);
    }
}

/// Reads the window and tier 0; their records are noted for replay as they are found, and only kept where a segment is
/// appended to again.
async fn scan(
    media: &Media,
    layout: &Layout,
    root: &Root,
    table: &NamespaceTable,
    journal: &PoolJournal,
) -> Result<(Recovered, RecoveredJournal, Replay)> {
    let mut replay = Replay::new(root.replay_start, table);
    let mut recovered = recovery::scan_window(media, layout, root, |segment| {
        replay.add(&segment.records)?;
        if segment.known == Known::Summary {
            segment.records = Vec::new();
        }
        Ok(())
    })
    .await?;
    let mut tier0 = journal.scan(root).await?;
    recovered.add_journal(&tier0);
    tier0.records.sort_unstable_by_key(|record| record.op);
    std::mem::take(&mut tier0.records).chunks(REPLAY_GROUP).try_for_each(|group| replay.add(group))?;
    Ok((recovered, tier0, replay))
}

/// What is damaged on tier 0: that takes the map as it is after the replay.
async fn damaged_gaps(core: &Rc<Core>, tier0: &RecoveredJournal) -> Result<Vec<String>> {
    if tier0.gaps.is_empty() {
        return Ok(Vec::new());
    }
    core.know_dirty().await?;
    let state = core.state.borrow();
    let in_use = tier0.gaps.iter().filter(|id| state.log.journal.get(**id).live > 0);
    Ok(in_use
        .map(|id| format!("segment {id} of the journal: a batch is damaged, though it was acknowledged"))
        .collect())
}

async fn begin_session(
    env: &Env,
    core: &Rc<Core>,
    root: &Root,
    recovered: &Recovered,
    journal: &PoolJournal,
    staging: &mut dyn StagingStore,
) -> Result<()> {
    let step = Step::begin(env, "session");
    if !recovered.damage.is_empty() {
        let text = recovered.damage.join("; ");
        core.become_read_only("recovery", &Error::new(ErrorKind::Corrupt, text));
        return Ok(());
    }
    journal.begin(root.session, core.session).await?;
    core.checkpoint(0).await?;
    core.seal_recovered(recovered.segments.iter().filter_map(RecoveredSegment::reopened));
    staging.remove(root.pool, root.session)?;
    step.end(format_args!("{:016x}", core.session.0));
    Ok(())
}
