//! Pools with a journal, in files.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use plica::core::request::{NamespaceClient, RequestKind};
use plica::env::Env;
use plica::media::Media;
use plica::pmem::dax::{Durability, Mapping};
use plica::pmem::{Journal, JournalKind};
use plica::pool::{CreateOptions, JournalFound, NamespaceSpec, Pool, create};

use super::{Machine, ask, create_options, key, open_with, pattern, serve};

pub(crate) const WRITE: RequestKind = RequestKind::Write { fua: false };
pub(crate) const FLUSH: RequestKind = RequestKind::Flush;

/// A pool and its journal in files.
pub(crate) struct Place {
    _dir: tempfile::TempDir,
    /// The pool.
    pub(crate) pool: PathBuf,
    /// The journal.
    pub(crate) journal: PathBuf,
    /// The machine that it is on.
    pub(crate) machine: Machine,
}

/// The journal, mapped. Each call is another daemon's.
pub(crate) fn journal(path: &Path) -> Journal {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mapping = Mapping::new(Arc::new(file.into()), len, Durability::Never, false).unwrap();
    Journal::memory(Rc::new(mapping), JournalKind::Dax)
}

impl Place {
    pub(crate) fn new(pool_bytes: u64, journal_bytes: u64, spec: NamespaceSpec) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (pool, path) = (dir.path().join("pool"), dir.path().join("journal"));
        File::create(&pool).unwrap().set_len(pool_bytes).unwrap();
        File::create(&path).unwrap().set_len(journal_bytes).unwrap();
        let place = Self { _dir: dir, pool, journal: path.clone(), machine: Machine::default() };
        let machine = place.machine.clone();
        serve(&place.pool, |env, media| async move {
            let key = key();
            let options = CreateOptions { journal: Some((journal(&path), &path)), ..create_options(&key) };
            create(&env, &media, &options).await.unwrap();
            let found = Some(JournalFound::Here(journal(&path)));
            let pool = open_with(&env, &media, &machine, found, false).await.unwrap();
            pool.create_namespace(&spec).await.unwrap();
            pool.stop().await.unwrap();
        });
        place
    }

    /// A daemon's life. Unless `body` stops the pool it ends like a kill.
    pub(crate) fn live<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        body: impl FnOnce(Rc<Pool>, NamespaceClient, Env) -> F + 'static,
    ) -> T {
        let (path, machine) = (self.journal.clone(), self.machine.clone());
        serve(&self.pool, |env, media| async move {
            let found = Some(JournalFound::Here(journal(&path)));
            let pool = open_with(&env, &media, &machine, found, false).await.unwrap();
            let client = pool.client("db").unwrap();
            body(pool, client, env).await
        })
    }

    /// Opening without the journal.
    pub(crate) fn open_without<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        accept: bool,
        body: impl FnOnce(plica::error::Result<Rc<Pool>>, Env, Media) -> F + 'static,
    ) -> T {
        let machine = self.machine.clone();
        serve(&self.pool, move |env, media| async move {
            let opened = open_with(&env, &media, &machine, None, accept).await;
            body(opened, env, media).await
        })
    }
}

/// A committed write: acknowledged, then flushed, as databases do.
pub(crate) async fn commit(client: &NamespaceClient, lba: u64, blocks: u64, version: u64) {
    let data: Vec<u8> = (lba..lba + blocks).flat_map(|lba| pattern(lba, version)).collect();
    ask(client, WRITE, lba * 4096, blocks * 4096, Some(data)).await.0.unwrap();
    ask(client, FLUSH, 0, 0, None).await.0.unwrap();
}

pub(crate) async fn expect(client: &NamespaceClient, lba: u64, version: u64) {
    let (result, data) = ask(client, RequestKind::Read, lba * 4096, 4096, None).await;
    result.unwrap();
    assert_eq!(data, pattern(lba, version), "LBA {lba}");
}
