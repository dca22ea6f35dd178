//! The pool of a measurement: created, filled, opened, each time with a ring and a clock of its own.

use std::path::Path;
use std::rc::Rc;

use plica::codec::CodecPool;
use plica::core::ReplayBounds;
use plica::env::executor::Fifo;
use plica::env::{Env, Executor, Reactor, Rng};
use plica::format::superblock::KeySource;
use plica::format::{Cipher, Compression};
use plica::keys::RootKey;
use plica::media::{Access, Device, DeviceKind, Media, UringBackend};
use plica::pool::{CreateOptions, NamespaceSpec, OpenOptions, Pool};

use crate::AnyResult;
use crate::load::{Load, NoStore};

/// What a new pool holds.
#[derive(Clone, Copy)]
pub(crate) enum Fill {
    /// Every LBA.
    Everything,
    /// One block of each leaf: the directory of a full namespace, and no data to speak of.
    BlockPerLeaf,
}

/// Runs `body` on the pool file with a thread, a ring and a clock of its own; what it leaves behind dies with it.
pub(crate) fn on_medium<T: 'static, F: Future<Output = T> + 'static>(
    path: &Path,
    body: impl FnOnce(Env, Media) -> F,
) -> AnyResult<T> {
    let device = Device::open(path, Access::Write)?;
    let mut backend = UringBackend::new()?;
    let (size, block) = (device.size(), device.block());
    let file = backend.register(&device);
    let reactor = Reactor::new(Box::new(backend));
    let mut executor = Executor::new(reactor.clone(), Box::new(Fifo::default()));
    let env = Env::new(executor.spawner(), reactor.clone(), Rng::Kernel);
    let media = Media::new(reactor, file, size, block, device.kind() == DeviceKind::File);
    Ok(executor.run(body(env, media)))
}

fn root_key() -> RootKey {
    RootKey::from_bytes(&[1; 32])
}

pub(crate) async fn create(env: Env, media: Media, blocks: u64, fill: Fill) -> plica::error::Result<()> {
    let root_key = root_key();
    let key_source = KeySource::File;
    let options = CreateOptions {
        label: "bench",
        segment_bytes: None,
        key_source,
        root_key: &root_key,
        pool: None,
        now_unix: 0,
        journal: None,
    };
    plica::pool::create(&env, &media, &options).await?;
    let pool = open(&env, &media, ReplayBounds::default(), 1).await?;
    let spec = NamespaceSpec {
        name: "bench".into(),
        blocks,
        cipher: Cipher::Aes256Xts,
        compression: Compression::Lz4,
        unit_blocks: 8,
        logical_block: 4096,
        now_unix: 0,
    };
    pool.create_namespace(&spec).await?;
    let load = Load::new(&env, blocks);
    let client = pool.client("bench")?;
    match fill {
        Fill::Everything => load.map_everything(&client).await,
        Fill::BlockPerLeaf => load.map_sparsely(&client).await,
    }
    pool.stop().await
}

/// Opens the pool in the `boot`th boot of the machine.
pub(crate) async fn open(env: &Env, media: &Media, bounds: ReplayBounds, boot: u8) -> plica::error::Result<Rc<Pool>> {
    let codec =
        CodecPool::new(1).map_err(|e| plica::error::Error::new(plica::error::ErrorKind::Config, e.to_string()))?;
    let options = OpenOptions {
        root_key: root_key(),
        boot: [boot; 16],
        identity: (0, 0),
        codec,
        bounds,
        journal: None,
        accept_journal_loss: false,
        memory: None,
    };
    Pool::open(env, media, Box::new(NoStore), options).await
}
