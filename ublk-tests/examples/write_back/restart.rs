//! How soon a killed pool is served again: the directory of a large namespace, and a replay window that is full.

use plica::core::ReplayBounds;
use plica::media::create_file;

use crate::load::Load;
use crate::pool::{Fill, create, on_medium, open};
use crate::{AnyResult, Options, ratio};

/// Requests between two looks at the window.
const STEP: u64 = 4 << 10;

/// Fills the window of a pool with so many GiB of LBAs, kills it, opens it, and tells how long that took.
pub(crate) fn measure(options: &Options) -> AnyResult<()> {
    let blocks = options.gib << 30 >> 12;
    let (depth, kind) = (options.depth, options.overwrite);
    let bounds = ReplayBounds::default();
    create_file(&options.path, 24 << 30)?;
    on_medium(&options.path, |env, media| create(env, media, blocks, Fill::BlockPerLeaf))??;
    println!("{} GiB of LBAs in {} leaves, overwritten with {}", options.gib, blocks / 512, kind.name());
    let (window, segments, filled) = on_medium(&options.path, move |env, media| async move {
        let begun = env.now_ns();
        let pool = open(&env, &media, bounds, 2).await?;
        let load = Load::new(&env, blocks);
        let client = pool.client("bench")?;
        let core = pool.core();
        // leaves are written back from ¾ of the bound on: the window is full
        let leaves = core.stats.leaves_written.get();
        while core.stats.leaves_written.get() == leaves {
            load.overwrite(&client, depth, STEP, kind).await;
        }
        let state = core.state.borrow();
        let (window, segments) = (state.dirty.window(), state.log.segments.window_len());
        Ok::<_, plica::error::Error>((window, segments, env.now_ns() - begun))
    })??;
    let seconds = |ns| ratio(ns, 1_000_000) / 1000.0;
    println!("killed after {:.0} s with {window} map changes in {segments} segments", seconds(filled));
    let (opened, served, counted, read) = on_medium(&options.path, move |env, media| async move {
        let begun = env.now_ns();
        let pool = open(&env, &media, bounds, 3).await?;
        let opened = env.now_ns() - begun;
        let read = media.stats().read_bytes.get();
        // one request, while usage is counted in the background
        let load = Load::new(&env, blocks);
        load.overwrite(&pool.client("bench")?, 1, 1, kind).await;
        let served = env.now_ns() - begun;
        while !pool.core().state.borrow().log.segments.usage_known() {
            env.sleep_ns(1_000_000).await;
        }
        let counted = env.now_ns() - begun;
        pool.stop().await?;
        Ok::<_, plica::error::Error>((opened, served, counted, read))
    })??;
    println!("opened after the kill {:>7.2} s (target: at most 3), {} MiB read", seconds(opened), read >> 20);
    println!("first write answered  {:>7.2} s", seconds(served));
    println!("usage counted         {:>7.2} s", seconds(counted));
    Ok(())
}
