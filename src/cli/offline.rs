//! Opening a pool in the command itself, while no daemon serves it.

use std::path::Path;
use std::rc::Rc;

use super::Failure;
use super::peek::Peek;
use super::pool_args::{KeyArgs, PoolArgs};
use crate::codec::CodecPool;
use crate::core::ReplayBounds;
use crate::daemon::{Machine, boot_id, machine_with_journal, memory_bytes};
use crate::error::{ErrorKind, Result};
use crate::media::{Access, Device};
use crate::pool::{Inspection, OpenOptions, Pool, inspect};
use crate::staging::RunDirStore;

/// What can be told of a pool without its key, changing nothing.
pub(super) fn look(path: &Path) -> Result<Inspection> {
    let mut machine = Machine::open(path, Access::Read)?;
    let media = machine.media();
    machine.run(async move { inspect(&media).await })
}

/// Opens the pool (which adopts what a killed daemon left, or refuses), does `body` and stops it cleanly.
pub(super) fn with_pool<T: 'static>(
    args: &PoolArgs,
    journal: Option<&Path>,
    peek: &Peek,
    key: &KeyArgs,
    body: impl AsyncFnOnce(Rc<Pool>) -> Result<T> + 'static,
) -> Result<T, Failure> {
    let root_key = key.open(&peek.superblock)?;
    let staging = RunDirStore::open(&args.run_dir)?;
    let device = Device::open(&args.pool, Access::Write).map_err(|error| match error.kind() {
        ErrorKind::Busy => error.within(
            "if a daemon serves this pool, name its --run-dir; if it is only starting, try again when it is ready",
        ),
        _ => error,
    })?;
    let (mut machine, journal) = machine_with_journal(&device, peek.superblock.journal.as_ref(), journal)?;
    let options = OpenOptions {
        root_key,
        boot: boot_id()?,
        identity: machine.identity(),
        codec: CodecPool::new(0)?,
        bounds: ReplayBounds::default(),
        journal,
        accept_journal_loss: false,
        memory: Some(memory_bytes()),
    };
    let (env, media) = (machine.env(), machine.media());
    let result = machine.run(async move {
        let pool = Pool::open(&env, &media, Box::new(staging), options).await?;
        let result = body(pool.clone()).await;
        pool.stop().await?;
        result
    });
    Ok(result?)
}
