//! The real engine as the world's subject.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::death::Death;
use super::pmem::MappedPmem;
use super::shared_memory::SharedMemory;
use super::subject::{Host, HostJournal, Local, NamespacePlan, Serving, Subject};
use super::usage::check_usage;
use crate::check::{Staged, check};
use crate::codec::CodecPool;
use crate::core::request::NamespaceClient;
use crate::core::{Recompression, ReplayBounds};
use crate::error::{Error, ErrorKind, Result};
use crate::format::root::Root;
use crate::format::slot::StagingHeader;
use crate::format::superblock::KeySource;
use crate::format::{Cipher, Compression, Tier};
use crate::keys::RootKey;
use crate::limits::BLOCK_SIZE;
use crate::log::StreamKind;
use crate::log::segments::SummaryState;
use crate::media::Media;
use crate::pmem::{Journal, JournalKind};
use crate::pool::{
    CreateOptions, JournalFound, NamespaceSpec, OpenOptions, Pool, create, find_staged, read_superblock,
};
use crate::staging::{Region, StagingStore};
use crate::units::{Lba, PoolId, SessionId};

/// Where the journal is.
const PATH: &str = "/dev/pmem0";
/// The device and inode number of the simulated medium.
const IDENTITY: (u64, u64) = (1, 1);

/// See the module.
#[derive(Default)]
pub struct Engine {
    names: Rc<RefCell<Vec<String>>>,
}

impl Engine {
    /// The engine as it ships.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

fn root_key() -> RootKey {
    RootKey::from_bytes(&[0x42; 32])
}

/// Bits that depend on the size of the pool when it was made alone, so that they stay the same for its life.
fn dice(host: &Host) -> u64 {
    (host.made_size >> 20).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50
}

fn media(host: &Host) -> Media {
    let block = 512 << ((host.made_size >> 20) % 2 * 3);
    Media::new(host.env.reactor.clone(), host.file, host.size, block, dice(host) & 4 == 0)
}

/// The host's journal, as this daemon sees it.
fn journal(host: &Host) -> Option<Journal> {
    match host.journal.clone().filter(|_| !host.journal_lost)? {
        HostJournal::Memory(memory) => {
            let mapped = MappedPmem::new(memory, host.death.clone());
            Some(Journal::memory(Rc::new(mapped), JournalKind::Dax))
        }
        HostJournal::Block(file, size) => {
            Some(Journal::block(Media::new(host.env.reactor.clone(), file, size, 512, false)))
        }
    }
}

/// The host's journal, if the pool that this daemon opens has one.
async fn own_journal(host: &Host) -> Result<Option<Journal>> {
    if host.journal_late && read_superblock(&media(host)).await?.0.journal.is_none() {
        return Ok(None);
    }
    Ok(journal(host))
}

async fn open(host: &Host) -> Result<Rc<Pool>> {
    let journal = own_journal(host).await?;
    let staging = SimStaging { memory: host.shared_memory.clone(), death: host.death.clone(), newest: None };
    let options = OpenOptions {
        root_key: root_key(),
        boot: host.boot,
        identity: IDENTITY,
        codec: CodecPool::simulated(host.env.clone()),
        bounds: bounds(host),
        journal: journal.map(JournalFound::Here),
        accept_journal_loss: host.journal_lost,
        memory: None,
    };
    let pool = Pool::open(&host.env, &media(host), Box::new(staging), options).await?;
    if recompresses(host) {
        // everything is cold: what is recompressed is overwritten all the time
        let settings = Recompression { percent: 100, cold_ns: 0 };
        pool.core().set_recompression(settings, CodecPool::simulated(host.env.clone()));
    }
    Ok(pool)
}

/// Half of all pools.
fn recompresses(host: &Host) -> bool {
    dice(host) & 32 == 0
}

/// What `plica check` would say of the pool as the last daemon left it.
async fn check_pool(host: &Host) -> Result<()> {
    let mut staging = SimStaging { memory: host.shared_memory.clone(), death: host.death.clone(), newest: None };
    let boot = host.boot;
    let staged = move |root: &Root| match find_staged(root, &mut staging, boot, IDENTITY) {
        Ok(None) => Staged::Void,
        Ok(Some(region)) => Staged::Region(region),
        Err(error) => Staged::Missing(error.to_string()),
    };
    if host.journal_lost {
        // that it is missing is damage, and nobody denies it
        return Ok(());
    }
    let found = own_journal(host).await?.map(JournalFound::Here);
    let report = check(&media(host), found, staged, |_, _| ()).await?;
    if report.damage.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, format!("a check found damage: {:?}", report.damage)))
}

/// Mostly bounds so small that the engine meets them: full images, writers that wait for leaves, leaves that have no room.
fn bounds(host: &Host) -> ReplayBounds {
    let leaves_max = [usize::MAX, usize::MAX, 2, 6][usize::try_from(dice(host) / 8 % 4).unwrap_or(0)];
    let quiet_ns = [200_000_000, 1_000_000][usize::from(recompresses(host))];
    let real = ReplayBounds { leaves_max, quiet_ns, ..Default::default() };
    match dice(host) % 4 {
        0 => real,
        1 => ReplayBounds { changes_min: 256, image_bytes: 128, load_bytes: 0, hot_segments_min: 32, ..real },
        2 => ReplayBounds { segments_max: 6, root_bytes: 900, journal_quiet_ns: 20_000_000, ..real },
        _ => ReplayBounds {
            changes_min: 1024,
            changes_max: 2048,
            segments_max: 12,
            image_bytes: 64,
            root_bytes: real.root_bytes,
            journal_quiet_ns: 5_000_000,
            load_bytes: 64 << 10,
            cold_segments_min: 24,
            hot_segments_min: 28,
            quiet_ns,
            leaves_max,
        },
    }
}

fn spec(plan: &NamespacePlan) -> NamespaceSpec {
    let flavour = usize::try_from(plan.flavour % 1024).unwrap_or(0);
    NamespaceSpec {
        name: plan.name.clone(),
        blocks: plan.size / u64::from(BLOCK_SIZE),
        cipher: [Cipher::Aes256Xts, Cipher::Aes256Gcm][flavour % 2],
        compression: [Compression::Lz4, Compression::Lz4, Compression::None, Compression::Zstd][flavour / 2 % 4],
        unit_blocks: [1, 2, 4, 8, 1, 0, 4, 0][flavour / 8 % 8],
        logical_block: plan.logical_block,
        now_unix: 0,
    }
}

impl Subject for Engine {
    fn create(&self, host: Host, namespaces: Vec<NamespacePlan>) -> Local<Result<()>> {
        *self.names.borrow_mut() = namespaces.iter().map(|plan| plan.name.clone()).collect();
        Box::pin(async move {
            let root_key = root_key();
            let options = CreateOptions {
                label: "simulated",
                segment_bytes: None,
                key_source: KeySource::File,
                root_key: &root_key,
                pool: None,
                now_unix: 0,
                journal: journal(&host).filter(|_| !host.journal_late).map(|journal| (journal, Path::new(PATH))),
            };
            create(&host.env, &media(&host), &options).await?;
            let pool = open(&host).await?;
            for plan in &namespaces {
                pool.create_namespace(&spec(plan)).await?;
            }
            pool.stop().await
        })
    }

    fn open(&self, host: Host) -> Local<Result<Rc<dyn Serving>>> {
        let names = self.names.borrow().clone();
        Box::pin(async move {
            if host.checks {
                check_pool(&host).await?;
            }
            let pool = open(&host).await?;
            let clients = names.iter().map(|name| pool.client(name)).collect::<Result<_>>()?;
            let serving: Rc<dyn Serving> = Rc::new(ServedPool { pool, clients, host });
            Ok(serving)
        })
    }
}

struct ServedPool {
    pool: Rc<Pool>,
    clients: Vec<NamespaceClient>,
    host: Host,
}

impl Serving for ServedPool {
    fn clients(&self) -> Vec<NamespaceClient> {
        self.clients.clone()
    }

    fn stop(&self) -> Local<Result<()>> {
        let pool = self.pool.clone();
        Box::pin(async move { pool.stop().await })
    }

    fn drain(&self) -> Local<Result<()>> {
        let pool = self.pool.clone();
        Box::pin(async move {
            match pool.core().tier0() {
                Some(_) => pool.drain_journal().await,
                None => Ok(()),
            }
        })
    }

    fn give_journal(&self) -> Local<Result<()>> {
        let (pool, journal) = (self.pool.clone(), journal(&self.host));
        Box::pin(async move {
            match journal.filter(|_| pool.core().tier0().is_none()) {
                Some(journal) => pool.add_journal(journal, Path::new(PATH)).await.map(drop),
                None => Ok(()),
            }
        })
    }

    fn take_journal(&self) -> Local<Result<()>> {
        let pool = self.pool.clone();
        Box::pin(async move {
            match pool.core().tier0() {
                Some(_) => pool.remove_journal().await,
                None => Ok(()),
            }
        })
    }

    fn grow(&self, bytes: u64) -> Local<Result<()>> {
        let pool = self.pool.clone();
        Box::pin(async move { pool.grow(bytes).await.map(drop) })
    }

    fn scrub(&self) -> Result<()> {
        self.pool.core().scrub.start(64 << 20)
    }

    fn scrub_damage(&self) -> u64 {
        self.pool.core().scrub.status().damaged
    }

    fn is_persistent(&self, namespace: usize, bytes: &Range<u64>) -> bool {
        let core = self.pool.core();
        // a reply may come from within a step of the core
        let Ok(state) = core.state.try_borrow() else { return false };
        let Ok(namespace) = state.namespace(self.clients[namespace].id) else { return false };
        let block = u64::from(BLOCK_SIZE);
        (bytes.start / block..bytes.end.div_ceil(block)).all(|lba| {
            let location = namespace.directory.get(Lba(lba)).location();
            let on_journal = location.filter(|location| location.tier() == Tier::Pmem);
            on_journal.is_some_and(|l| !state.log.batches.holds(l.tier(), l.segment, l.granule))
        })
    }

    fn audit(&self) -> std::result::Result<(), String> {
        check_usage(self.pool.core())
    }

    fn marks(&self) -> Vec<(&'static str, u64)> {
        let core = self.pool.core();
        let state = core.state.borrow();
        let reused = state.log.segments.iter().filter(|(_, info)| info.generation.0 > 1).count();
        let hot = state.log.segments.iter().filter(|(_, info)| info.stream == Some(StreamKind::Hot)).count();
        let sealed = state.log.segments.iter().filter(|(_, info)| info.summary == SummaryState::Durable).count();
        vec![
            ("roots", core.stats.roots.get()),
            ("roots made to fit", core.stats.roots_fitted.get()),
            ("leaves written", core.stats.leaves_written.get()),
            ("batches compacted", state.log.compactions),
            ("refused for space", core.stats.no_space.get()),
            ("hot segments", hot as u64),
            ("segments cleaned", core.stats.cleaned.get()),
            ("blocks relocated", core.stats.relocated_blocks.get()),
            ("fragments unpacked", core.stats.unpacked.get()),
            ("blocks recompressed", core.recompress_status().data / u64::from(BLOCK_SIZE)),
            ("segments cleaned ahead", core.stats.cleaned_ahead.get()),
            ("bytes grown", self.pool.status().pool_bytes.saturating_sub(self.host.made_size)),
            ("segments reused", reused as u64),
            ("summaries durable", sealed as u64),
            ("leaves missed", core.stats.map_misses.get()),
            ("leaves let go of", core.stats.leaves_detached.get()),
            ("full images", u64::from(state.root.image > 0)),
            ("journal segments destaged", core.tier0().map_or(0, |tier0| tier0.destaged_segments.get())),
            ("segments scrubbed", u64::from(core.scrub.status().segments_done)),
            ("journal batches", core.tier0().map_or(0, |tier0| tier0.persists.get())),
        ]
    }
}

/// Staging files in the simulated machine's memory.
struct SimStaging {
    memory: Rc<RefCell<SharedMemory>>,
    death: Arc<Death>,
    /// The session made here: what others left goes when the one before is removed.
    newest: Option<SessionId>,
}

impl StagingStore for SimStaging {
    fn create(&mut self, header: &StagingHeader) -> Result<Region> {
        if self.death.is_dead() {
            return Err(Error::new(ErrorKind::Shutdown, "a dead daemon makes no files"));
        }
        let made = self.memory.borrow_mut().create(header.pool, header.session, self.death.clone());
        let Some(region) = made else {
            return Err(Error::new(ErrorKind::Exists, "the staging file exists"));
        };
        region.store_header(&header.encode());
        self.newest = Some(header.session);
        Ok(region)
    }

    fn other_serve(&mut self, known: &StagingHeader) -> Result<Option<SessionId>> {
        Ok(self.memory.borrow().other_serve(known))
    }

    fn find(&mut self, pool: PoolId, session: SessionId) -> Result<Option<Region>> {
        Ok(self.memory.borrow_mut().find(pool, session, self.death.clone()))
    }

    fn remove(&mut self, pool: PoolId, session: SessionId) -> Result<()> {
        // a dead daemon removes nothing
        if self.death.step(super::Point::Store) {
            let mut memory = self.memory.borrow_mut();
            memory.remove(pool, session);
            if let Some(newest) = self.newest {
                memory.sweep(pool, newest);
            }
        }
        Ok(())
    }
}
