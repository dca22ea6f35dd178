//! A pool on a file, with or without a journal, opened as a daemon would; staging is ordinary memory.

use std::future::Future;
use std::path::Path;
use std::rc::Rc;

use plica::buf::AlignedBuf;
use plica::codec::CodecPool;
use plica::core::ReplayBounds;
use plica::daemon::{Helped, Machine};
use plica::env::Env;
use plica::env::reactor::IoBuf;
use plica::error::{Error, ErrorKind, Result};
use plica::format::slot::StagingHeader;
use plica::format::superblock::KeySource;
use plica::format::{Cipher, Compression};
use plica::keys::RootKey;
use plica::media::{Access, Device, Media};
use plica::pmem::{Journal, open_journal};
use plica::pool::{CreateOptions, JournalFound, NamespaceSpec, OpenOptions, Pool};
use plica::staging::{Region, StagingStore};
use plica::units::{PoolId, SessionId};

use super::{BLOCK, Blocks};

/// A thread's environment, medium and journal.
#[derive(Clone)]
pub struct Bench {
    /// Time, chance, tasks.
    pub env: Env,
    /// The file.
    pub media: Media,
    journal: Option<Journal>,
    helped: Helped,
}

/// How a pool is opened.
pub struct Serve {
    /// Bounds of its replay window.
    pub bounds: ReplayBounds,
    /// Which boot of the machine it is.
    pub boot: u8,
    /// Codec workers.
    pub workers: usize,
}

impl Default for Serve {
    fn default() -> Self {
        Self { bounds: ReplayBounds::default(), boot: 1, workers: 1 }
    }
}

/// Staging in ordinary memory: no measurement outlives its process.
struct NoStore;

impl StagingStore for NoStore {
    fn create(&mut self, header: &StagingHeader) -> Result<Region> {
        let region = Region::anonymous();
        region.store_header(&header.encode());
        Ok(region)
    }

    fn find(&mut self, _: PoolId, _: SessionId) -> Result<Option<Region>> {
        Ok(None)
    }

    fn remove(&mut self, _: PoolId, _: SessionId) -> Result<()> {
        Ok(())
    }
}

/// Runs `body` on a file, and a journal beside it, with a thread, a ring and a clock of its own; what it leaves behind dies
/// with it.
///
/// # Errors
/// A file cannot be opened; what `body` reports.
pub fn on_file<T: 'static, F: Future<Output = Result<T>> + 'static>(
    path: &Path,
    journal: Option<&Path>,
    body: impl FnOnce(Bench) -> F,
) -> Result<T> {
    let device = Device::open(path, Access::Write)?;
    let journal = journal.map(open_journal).transpose()?;
    let mut machine = Machine::with_devices(&device, journal)?;
    let (env, media, journal) = (machine.env(), machine.media(), machine.journal());
    let bench = Bench { env, media, journal, helped: machine.helped() };
    machine.run(body(bench))
}

/// A namespace with the defaults but for its largest fragment, in blocks.
#[must_use]
pub fn namespace(name: &str, blocks: u64, unit_blocks: u8) -> NamespaceSpec {
    NamespaceSpec {
        name: name.into(),
        blocks,
        cipher: Cipher::Aes256Xts,
        compression: Compression::Lz4,
        unit_blocks,
        logical_block: 4096,
        now_unix: 0,
    }
}

/// Writes the first `bytes` of a medium, as far as it goes: the first write to a place costs the filesystem more than the
/// next.
///
/// # Errors
/// The medium's.
pub async fn write_first(media: &Media, bytes: u64, blocks: &Blocks) -> Result<()> {
    const CHUNK: usize = 256 * BLOCK;
    let mut buf = AlignedBuf::zeroed(CHUNK);
    for offset in (0..bytes.min(media.size()) / CHUNK as u64).map(|chunk| chunk * CHUNK as u64) {
        blocks.fill(&mut buf);
        let (back, result) = write_owned(media, offset, buf, CHUNK).await;
        result?;
        buf = back;
    }
    media.flush().await
}

/// Writes ordinary memory, which comes back.
pub async fn write_owned(media: &Media, offset: u64, buf: AlignedBuf, len: usize) -> (AlignedBuf, Result<()>) {
    match media.write(offset, IoBuf::Owned(buf), len).await {
        (IoBuf::Owned(buf), result) => (buf, result),
        (IoBuf::Slot(_), _) => unreachable!("what was lent comes back"),
    }
}

fn root_key() -> RootKey {
    RootKey::from_bytes(&[1; 32])
}

impl Bench {
    /// Makes a pool there, with the journal if there is one.
    ///
    /// # Errors
    /// The engine's.
    pub async fn create(&self) -> Result<()> {
        let root_key = root_key();
        let options = CreateOptions {
            label: "bench",
            segment_bytes: None,
            key_source: KeySource::File,
            root_key: &root_key,
            pool: None,
            now_unix: 0,
            journal: self.journal.clone().map(|journal| (journal, Path::new("journal"))),
        };
        plica::pool::create(&self.env, &self.media, &options).await.map(|_| ())
    }

    /// Opens the pool; the thread's idle time goes to its codec.
    ///
    /// # Errors
    /// The engine's.
    pub async fn open(&self, serve: Serve) -> Result<Rc<Pool>> {
        let codec = CodecPool::new(serve.workers).map_err(|e| Error::new(ErrorKind::Config, e.to_string()))?;
        let options = OpenOptions {
            root_key: root_key(),
            boot: [serve.boot; 16],
            identity: (0, 0),
            codec,
            bounds: serve.bounds,
            journal: self.journal.clone().map(JournalFound::Here),
            accept_journal_loss: false,
            memory: None,
        };
        let pool = Pool::open(&self.env, &self.media, Box::new(NoStore), options).await?;
        drop(self.helped.set(pool.clone()));
        Ok(pool)
    }
}
