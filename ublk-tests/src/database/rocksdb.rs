//! RocksDB under its own benchmark, `db_bench`: keys 0, 1, 2, ... each synchronised before the next.
//!
//! What was acknowledged the benchmark says itself, after each key. It counts a key before it looks whether writing it failed,
//! says so then, and ends. Each load has a database of its own beside the earlier ones, for it counts from zero again; all of
//! them are verified.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::Database;
use crate::{
    Failure, Result,
    command::{Background, sh},
    failure::ensure,
};

/// Options of every run: tables and log are small, so that they are written and dropped during a short test.
const OPTIONS: &str = "--key_size=16 --value_size=400 --write_buffer_size=1048576 --target_file_size_base=1048576 \
     --max_bytes_for_level_base=4194304 --level0_file_num_compaction_trigger=2 --verify_checksum=1 \
     --use_direct_io_for_flush_and_compaction=1 --use_direct_reads=1";

/// Databases in a directory of a mounted filesystem.
pub struct RocksDb {
    directory: PathBuf,
    /// Of each the keys that were acknowledged.
    acknowledged: Vec<Arc<AtomicU64>>,
}

impl RocksDb {
    /// Databases in `directory`.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), acknowledged: Vec::new() }
    }

    fn path(&self, index: usize) -> PathBuf {
        self.directory.join(format!("db-{index}"))
    }

    /// Key by key through the log and all tables; then the checksum of every block, and all that can be read.
    fn verify_one(&self, index: usize, acknowledged: u64) -> Result<u64> {
        let path = self.path(index);
        let path = path.display();
        let keys = sh(format!("ldb --db={path} scan --no_value --key_hex")).ok()?;
        let mut found = 0;
        for line in keys.lines().filter(|line| line.starts_with("0x")) {
            let number = line.get(2..18).and_then(|digits| u64::from_str_radix(digits, 16).ok());
            ensure(number == Some(found), || format!("{path}: {line} where key {found} was to be"))?;
            found += 1;
        }
        // and the one that failed or was on its way
        ensure((acknowledged..=acknowledged + 1).contains(&found), || {
            format!("{path}: {acknowledged} keys were acknowledged, {found} are there")
        })?;
        let checks = "--benchmarks=verifychecksum,readseq --use_existing_db=1";
        let read = sh(format!("db_bench --db={path} --num={} {checks} {OPTIONS} 2>&1", found + 1)).ok()?;
        let whole = format!(" {found} operations;");
        let is_whole = read.lines().any(|line| line.contains("readseq") && line.contains(&whole));
        ensure(is_whole && !read.contains("failed"), || format!("{path}: {found} keys, but db_bench says {read}"))?;
        Ok(found)
    }
}

impl Database for RocksDb {
    fn make(&mut self) -> Result<()> {
        std::fs::create_dir_all(&self.directory).map_err(Failure::io(self.directory.display()))
    }

    /// There is no server: who opens a database recovers it.
    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    fn load(&mut self) -> Result<Vec<Background>> {
        let path = self.path(self.acknowledged.len());
        let acknowledged = Arc::<AtomicU64>::default();
        self.acknowledged.push(Arc::clone(&acknowledged));
        let fill = format!(
            "exec db_bench --db={} --benchmarks=fillseq --num=100000000 --sync=1 --stats_interval=1 {OPTIONS} \
             2>&1 > /dev/null",
            path.display()
        );
        // put error: IO error: ...
        // ... thread 0: (1,2600) ops and (134.0,936.1) ops/second in (1.492138,2.777358) seconds
        let hear = move |line: &str| {
            if line.contains("put error") {
                acknowledged.fetch_sub(1, Ordering::SeqCst);
            }
            let counts = line.split_once("thread 0: (").and_then(|(_, rest)| rest.split_once(") ops and"));
            if let Some(all) = counts.and_then(|(counts, _)| counts.split_once(',')?.1.parse().ok()) {
                acknowledged.store(all, Ordering::SeqCst);
            }
        };
        Ok(vec![sh(fill).converse(std::iter::empty(), hear)?])
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.iter().map(|keys| keys.load(Ordering::SeqCst)).sum()
    }

    fn verify(&mut self) -> Result<u64> {
        let each = self.acknowledged.iter().enumerate();
        each.map(|(index, keys)| {
            let found = self.verify_one(index, keys.load(Ordering::SeqCst))?;
            keys.store(found, Ordering::SeqCst);
            Ok(found)
        })
        .sum()
    }

    fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}
