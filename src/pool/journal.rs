//! The journal of a pool: found again, begun by a session, or lost.
//!
//! **Invariants.** A session's name is in the header
//! before its root is durable: so a journal that is older than the pool's root is noticed, and never replayed.
//!
//! **Failure.** A journal that is missing, another pool's, or older than the pool: the pool is not opened, unless what was
//! there is given up; then all that may have been there reads as an error until it is rewritten.

use std::fmt::{self, Write as _};
use std::rc::Rc;

use super::copies::{Flush, write_superblock};
use crate::buf::AlignedBuf;
use crate::core::Core;
use crate::env::reactor::IoBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::format::journal::{JOURNAL_HEADER_BYTES, JOURNAL_HEADERS, JournalHeader};
use crate::format::namespaces::NamespaceTable;
use crate::format::root::Root;
use crate::format::superblock::{JournalName, Superblock};
use crate::limits::{BLOCK_SIZE, JOURNAL_SEGMENTS_MIN, LEAF_ENTRIES};
use crate::map::first_lba;
use crate::pmem::Journal;
use crate::recovery::{Directories, RecoveredJournal, scan_journal};
use crate::units::{LbaRange, NamespaceId, SessionId};

/// Leaves of a stake that are listed one by one.
const RANGES_SHOWN: usize = 32;

/// What whoever opens a pool found of its journal.
pub enum JournalFound {
    /// It is this.
    Here(Journal),
    /// It is not there: why.
    Missing(Error),
}

/// The journal of a pool that is being opened.
pub(super) enum PoolJournal {
    /// The pool has none.
    None,
    /// It is there and is the pool's.
    Here(Journal, JournalHeader),
    /// It is given up.
    Lost,
}

impl PoolJournal {
    /// Its medium, if it is there.
    pub(super) fn medium(&self) -> Option<Journal> {
        match self {
            Self::Here(journal, _) => Some(journal.clone()),
            Self::None | Self::Lost => None,
        }
    }

    /// What is on it.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) async fn scan(&self, root: &Root) -> Result<RecoveredJournal> {
        match self {
            Self::Here(journal, header) => scan_journal(journal, header.segment_count, root).await,
            Self::None | Self::Lost => Ok(RecoveredJournal::default()),
        }
    }

    /// What a dead daemon stored in these ranges becomes durable.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) async fn make_durable(&self, ranges: &[(u64, usize)]) -> Result<()> {
        match self {
            Self::Here(journal, _) if !ranges.is_empty() => journal.make_durable(ranges).await,
            _ => Ok(()),
        }
    }

    /// A session begins: before its root is durable, while the newest one is of `previous`.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) async fn begin(&self, previous: SessionId, session: SessionId) -> Result<()> {
        let Self::Here(journal, header) = self else { return Ok(()) };
        write_header(journal, &JournalHeader { sequence: header.sequence + 1, session, previous, ..*header }).await
    }
}

impl fmt::Display for PoolJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Here(journal, header) => write!(f, "{} on {}", header.id, journal.kind()),
            Self::Lost => f.write_str("lost"),
        }
    }
}

pub(super) async fn write_header(journal: &Journal, header: &JournalHeader) -> Result<()> {
    let buf = IoBuf::Owned(AlignedBuf::copied(&header.encode()));
    journal.persist(JournalHeader::offset(header.sequence), buf, JOURNAL_HEADER_BYTES).await.1
}

/// The header of a journal: the valid one with the higher sequence.
///
/// # Errors
/// There is none, or it cannot be read.
async fn read_journal_header(journal: &Journal) -> Result<JournalHeader> {
    let mut found: Result<JournalHeader> = Err(Error::new(ErrorKind::NotFound, "there is no journal"));
    if journal.size() < JournalHeader::bytes_of(JOURNAL_SEGMENTS_MIN) {
        return found;
    }
    for slot in 0..JOURNAL_HEADERS {
        let buf = AlignedBuf::zeroed(JOURNAL_HEADER_BYTES);
        let (buf, result) = journal.read(JournalHeader::offset(slot), buf, JOURNAL_HEADER_BYTES).await;
        result?;
        match (JournalHeader::decode(&buf), &found) {
            (Ok(header), Ok(other)) if other.sequence > header.sequence => {}
            (Ok(header), _) => found = Ok(header),
            (Err(error), Err(other)) if other.kind() == ErrorKind::NotFound => found = Err(error),
            (Err(_), _) => {}
        }
    }
    found
}

/// Whether this is the journal that pool and root belong to.
///
/// # Errors
/// It is another, an older state of it, or shorter than it was.
fn check_journal(header: &JournalHeader, name: &JournalName, root: &Root, size: u64) -> Result<()> {
    if header.pool != root.pool {
        fail!(Config, "it is the journal of another pool, {}", header.pool);
    }
    if header.id != name.id {
        fail!(Config, "it is another journal of this pool, {}, which was taken from it", header.id);
    }
    if ![header.session, header.previous].contains(&root.session) {
        fail!(Corrupt, "it is an older state of the pool's journal, or the pool is an older state: one was replaced");
    }
    if JournalHeader::bytes_of(header.segment_count) > size {
        let had = JournalHeader::bytes_of(header.segment_count);
        fail!(Corrupt, "it has been truncated: it had {had} bytes, now it has {size}");
    }
    Ok(())
}

/// The header of a journal that is the one that pool and root belong to.
///
/// # Errors
/// It has none, is another, or cannot be read.
pub(crate) async fn own_journal(journal: &Journal, name: &JournalName, root: &Root) -> Result<JournalHeader> {
    let header = read_journal_header(journal).await?;
    check_journal(&header, name, root, journal.size()).map(|()| header)
}

/// Looks at what was found of the pool's journal.
///
/// # Errors
/// It is not what the pool needs, and is not given up.
pub(super) async fn find_journal(
    superblock: &Superblock,
    table: &NamespaceTable,
    (root, directories): (&Root, &Directories),
    found: Option<JournalFound>,
    accept_loss: bool,
) -> Result<PoolJournal> {
    let Some(name) = &superblock.journal else {
        return match found {
            Some(JournalFound::Here(_)) => Err(Error::new(ErrorKind::Config, "this pool has no journal")),
            _ => Ok(PoolJournal::None),
        };
    };
    let problem = match found {
        None => Error::new(ErrorKind::NotFound, "it is not given"),
        Some(JournalFound::Missing(error)) => error,
        Some(JournalFound::Here(journal)) => match own_journal(&journal, name, root).await {
            Err(error) => error,
            Ok(header) => return Ok(PoolJournal::Here(journal, header)),
        },
    };
    let path = String::from_utf8_lossy(&name.path);
    let stake = stake(table, directories);
    if accept_loss {
        tracing::error!("journal {} ({path}) is given up: {problem}. {stake}", name.id);
        return Ok(PoolJournal::Lost);
    }
    fail!(
        NotFound,
        "the pool's journal {} ({path}) cannot be used: {problem}. {stake}Find it and name it with --journal, or give up \
         what only it has with --accept-journal-loss: those blocks then read as errors until they are rewritten",
        name.id
    );
}

/// What is lost with the journal, for people.
fn stake(table: &NamespaceTable, directories: &Directories) -> String {
    let mut text = String::new();
    let ranges = stake_ranges(directories);
    for entry in &table.entries {
        let own: Vec<_> = ranges.iter().filter(|(id, _)| *id == entry.id).collect();
        if own.is_empty() {
            continue;
        }
        let _ = write!(text, "At stake in namespace {}: the newest copies of blocks in", entry.name);
        for (_, range) in own.iter().take(RANGES_SHOWN) {
            let end = range.end().0.min(entry.blocks);
            let _ = write!(
                text,
                " LBAs {}..{end} ({} KiB),",
                range.start,
                (end - range.start.0) * u64::from(BLOCK_SIZE) / 1024
            );
        }
        if own.len() > RANGES_SHOWN {
            let _ = write!(text, " and {} more ranges,", own.len() - RANGES_SHOWN);
        }
        text.pop();
        text.push_str(". ");
    }
    if text.is_empty() { "Nothing is at stake. ".to_owned() } else { text }
}

/// Runs of journaled leaves.
fn stake_ranges(directories: &Directories) -> Vec<(NamespaceId, LbaRange)> {
    let mut ranges: Vec<(NamespaceId, LbaRange)> = Vec::new();
    for ((id, leaf), _) in directories.leaves.iter().filter(|(_, image)| image.journaled) {
        let start = first_lba(*leaf);
        match ranges.last_mut() {
            Some((owner, range)) if owner == id && range.end() == start => range.count += LEAF_ENTRIES as u64,
            _ => ranges.push((*id, LbaRange { start, count: LEAF_ENTRIES as u64 })),
        }
    }
    ranges
}

/// The journal is given up: what was there, or after an unclean stop may have been, reads as an error from now on; then the
/// pool has no journal any more. The session's root is durable, clean if the one that was found is; nothing is served yet.
///
/// # Errors
/// A leaf cannot be read, or the medium failed.
pub(super) async fn lose_journal(
    core: &Rc<Core>,
    superblock: &mut Superblock,
    directories: &Directories,
    clean: bool,
) -> Result<()> {
    for (id, range) in stake_ranges(directories) {
        let count = range.count.min(core.blocks_of(id).saturating_sub(range.start.0));
        if count > 0 {
            let range = LbaRange { count, ..range };
            let lost = core.lose_blocks(id, range, clean).await?;
            let state = core.state.borrow();
            let name = state.namespaces.get(&id).map_or("?", |n| n.entry.name.as_str());
            tracing::error!("namespace {name}, LBAs {}..{}: {lost} blocks are lost", range.start, range.end());
        }
    }
    core.checkpoint_all().await?;
    superblock.journal = None;
    superblock.sequence += 1;
    write_superblock(Flush::Served(core), superblock).await?;
    // only now: interrupted before, the next try must know as well what was on the journal and what was not
    if std::mem::take(&mut core.state.borrow_mut().root.stays_clean) {
        core.checkpoint(0).await?;
    }
    Ok(())
}
