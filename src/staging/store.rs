//! Staging memory as files of the run directory: `RUN_DIR/<pool>.<session>.staging`.
//!
//! The directory should be on a tmpfs (`/run`, `/dev/shm`): it is memory, gone with the machine. On another filesystem
//! everything works, because the header names the boot, but the bytes are written to its device for nothing; that is
//! warned about.
//!
//! **Invariants.** A file is 0600, ours, of its one size, fully allocated before it is mapped (no SIGBUS later) and
//! flocked by the process that uses it. It appears under its name only when its header is stored.
//!
//! **Failure.** [`ErrorKind::NoSpace`] names the directory and what to do; [`ErrorKind::Busy`]: another process holds
//! the file; [`ErrorKind::Corrupt`]: it is not of its one size; [`ErrorKind::Config`]: it is somebody else's.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::{MmapMut, MmapOptions};
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::region::REGION_BYTES;
use super::{Region, StagingStore, was_served};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::format::slot::{STAGING_HEADER_BYTES, StagingHeader};
use crate::units::{PoolId, SessionId};

/// `f_type` of tmpfs and ramfs.
const MEMORY_FILESYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];
const SUFFIX: &str = ".staging";
/// Of a file that has no header yet.
const UNNAMED_SUFFIX: &str = ".staging.new";

/// Staging memory under one directory.
#[derive(Debug)]
pub struct RunDirStore {
    directory: PathBuf,
    /// Files in use. Their locks go with them.
    held: Vec<Held>,
    /// The newest session made here: whose medium leftovers are compared with.
    newest: Option<StagingHeader>,
}

#[derive(Debug)]
struct Held {
    pool: PoolId,
    session: SessionId,
    _file: File,
}

impl RunDirStore {
    /// A store in `directory`, which is made (0700) if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be made, [`ErrorKind::Config`] when others may write to it.
    pub fn open(directory: &Path) -> Result<Self> {
        prepare_directory(directory)?;
        Ok(Self { directory: directory.to_owned(), held: Vec::new(), newest: None })
    }

    fn path(&self, pool: PoolId, session: SessionId) -> PathBuf {
        self.directory.join(format!("{pool}.{:016x}{SUFFIX}", session.0))
    }

    /// Removes files of the pool on this very medium that nobody holds: a daemon that died between making its file and
    /// naming it in the root leaves one. A copy of the pool (same id, other medium) keeps its own.
    fn sweep(&self, newest: &StagingHeader) {
        let Ok(entries) = self.directory.read_dir() else { return };
        let prefix = format!("{}.", newest.pool);
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with(&prefix)) else { continue };
            let is_unnamed = name.ends_with(UNNAMED_SUFFIX);
            if (is_unnamed || name.ends_with(SUFFIX)) && is_leftover(&entry.path(), newest, is_unnamed) {
                tracing::debug!(file = name, "removing staging memory of an aborted start");
                drop(std::fs::remove_file(entry.path()));
            }
        }
    }
}

impl StagingStore for RunDirStore {
    fn create(&mut self, header: &StagingHeader) -> Result<Region> {
        let path = self.path(header.pool, header.session);
        if path.exists() {
            fail!(Exists, "staging memory {} exists already", path.display());
        }
        let unnamed = self.directory.join(format!("{}.{:016x}{UNNAMED_SUFFIX}", header.pool, header.session.0));
        // a name that only an aborted start of the same session can have left
        drop(std::fs::remove_file(&unnamed));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&unnamed).map_err(|e| Error::io(format!("creating {}", unnamed.display()), e))?;
        let made = fill_new(&file, &self.directory, header).and_then(|region| {
            std::fs::rename(&unnamed, &path).map_err(|e| Error::io(format!("naming {}", path.display()), e))?;
            Ok(region)
        });
        if made.is_err() {
            // the error that is reported is the first one
            drop(std::fs::remove_file(&unnamed));
        }
        let region = made?;
        self.newest = Some(*header);
        self.held.push(Held { pool: header.pool, session: header.session, _file: file });
        Ok(region)
    }

    fn find(&mut self, pool: PoolId, session: SessionId) -> Result<Option<Region>> {
        let path = self.path(pool, session);
        let shown = path.display();
        let file = match open_existing(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        lock(&file, &path)?;
        let size = file.metadata().map_err(|e| Error::io(format!("looking at {shown}"), e))?.len();
        if size != REGION_BYTES as u64 {
            return Err(Error::corrupt("staging file", "size", REGION_BYTES as u64, size).within(shown));
        }
        // an intact file has no holes, so this takes nothing; with holes, reading them needs memory that may be missing
        allocate(&file, &self.directory)?;
        let region = Region::mapped(map(&file, &path)?);
        self.held.push(Held { pool, session, _file: file });
        Ok(Some(region))
    }

    fn other_serve(&mut self, known: &StagingHeader) -> Result<Option<SessionId>> {
        let within = |e| Error::io(format!("looking into {}", self.directory.display()), e);
        let prefix = format!("{}.", known.pool);
        for entry in self.directory.read_dir().map_err(within)? {
            let name = entry.map_err(within)?.file_name();
            let name = name.to_str().filter(|name| name.starts_with(&prefix) && name.ends_with(SUFFIX));
            let found = name.and_then(|name| served(&self.directory.join(name)));
            if let Some(found) = found
                && found == (StagingHeader { session: found.session, ..*known })
                && found.session != known.session
            {
                return Ok(Some(found.session));
            }
        }
        Ok(None)
    }

    fn remove(&mut self, pool: PoolId, session: SessionId) -> Result<()> {
        let path = self.path(pool, session);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("removing {}", path.display()), e));
            }
            _ => {}
        }
        self.held.retain(|held| (held.pool, held.session) != (pool, session));
        if let Some(newest) = self.newest.filter(|newest| newest.pool == pool) {
            self.sweep(&newest);
        }
        Ok(())
    }
}

/// The header of a file that nobody holds, if its session has served.
fn served(path: &Path) -> Option<StagingHeader> {
    let file = open_existing(path).ok()?;
    lock(&file, path).ok()?;
    if file.metadata().ok()?.len() != REGION_BYTES as u64 {
        return None;
    }
    let region = Region::mapped(map(&file, path).ok()?);
    let mut bytes = [0; STAGING_HEADER_BYTES];
    region.load_header(&mut bytes);
    StagingHeader::decode(&bytes).ok().filter(|header| was_served(&region, header))
}

fn is_leftover(path: &Path, newest: &StagingHeader, is_unnamed: bool) -> bool {
    let Ok(file) = open_existing(path) else { return false };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return false;
    }
    let mut bytes = [0; STAGING_HEADER_BYTES];
    let found = rustix::io::pread(&file, &mut bytes, 0).ok().and_then(|_| StagingHeader::decode(&bytes).ok());
    found.map_or(is_unnamed, |found| {
        (found.device, found.inode) == (newest.device, newest.inode) && found.session != newest.session
    })
}

fn prepare_directory(directory: &Path) -> Result<()> {
    let shown = directory.display();
    let made = DirBuilder::new().mode(0o700).recursive(true).create(directory);
    made.map_err(|e| Error::io(format!("creating the run directory {shown} (another one: --run-dir)"), e))?;
    let metadata = directory.metadata().map_err(|e| Error::io(format!("looking at {shown}"), e))?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own && metadata.uid() != 0 {
        fail!(Config, "the run directory {shown} belongs to user {}, not to user {own}", metadata.uid());
    }
    // whoever may write there can replace staging memory and sockets
    if metadata.mode() & 0o022 != 0 {
        fail!(
            Config,
            "others may write to the run directory {shown} (mode {:04o}): chmod 0700 it, or name another",
            metadata.mode() & 0o7777
        );
    }
    let kind = rustix::fs::statfs(directory).ok().and_then(|stat| u64::try_from(stat.f_type).ok());
    if !kind.is_some_and(|kind| MEMORY_FILESYSTEMS.contains(&kind)) {
        tracing::warn!(
            directory = %shown,
            "the run directory is not in memory (tmpfs): staged writes are also written to its disk; better name one \
             on a tmpfs, such as /dev/shm/plica"
        );
    }
    Ok(())
}

/// Gives a new file its space, lock and header, and maps it.
fn fill_new(file: &File, directory: &Path, header: &StagingHeader) -> Result<Region> {
    lock(file, directory)?;
    allocate(file, directory)?;
    let region = Region::mapped(map(file, directory)?);
    region.store_header(&header.encode());
    Ok(region)
}

fn allocate(file: &File, directory: &Path) -> Result<()> {
    let result = loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, REGION_BYTES as u64) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    let shown = directory.display();
    result.map_err(|errno| match errno {
        Errno::NOSPC | Errno::DQUOT => Error::new(
            ErrorKind::NoSpace,
            format!(
                "no room in {shown} for the staging memory of {} KiB: make its filesystem larger (mount -o \
                 remount,size=…), free some of it, or name another directory on a tmpfs (--run-dir)",
                REGION_BYTES / 1024
            ),
        ),
        Errno::OPNOTSUPP => Error::new(
            ErrorKind::Unsupported,
            format!("the filesystem of {shown} cannot set space aside; name a directory on a tmpfs (--run-dir)"),
        ),
        other => Error::io(format!("allocating staging memory in {shown}"), other),
    })
}

fn map(file: &File, path: &Path) -> Result<MmapMut> {
    #[expect(unsafe_code, reason = "memory that outlives the process is a mapping")]
    // SAFETY: the file is fully allocated, 0600 and ours, flocked by us and of a name that only this program uses: no
    // other process of ours stores into it or truncates it while we hold the lock.
    let mapped = unsafe { MmapOptions::new().len(REGION_BYTES).map_mut(file) };
    let mapped = mapped.map_err(|e| Error::io(format!("mapping staging memory {}", path.display()), e))?;
    if let Err(error) = mapped.lock() {
        tracing::warn!(
            %error,
            "staging memory could not be locked in memory and may be swapped out: raise the limit on locked memory \
             (ulimit -l, LimitMEMLOCK=infinity)"
        );
    }
    Ok(mapped)
}

/// Opens a file that must be a regular one of ours, without following links.
fn open_existing(path: &Path) -> Result<File> {
    let shown = path.display();
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let file = opened.map_err(|e| Error::io(format!("opening {shown}"), e))?;
    let metadata = file.metadata().map_err(|e| Error::io(format!("looking at {shown}"), e))?;
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_file() || metadata.uid() != own || metadata.mode() & 0o077 != 0 {
        fail!(Config, "{shown} is not a private file of user {own}: not used as staging memory");
    }
    Ok(file)
}

fn lock(file: &File, path: &Path) -> Result<()> {
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => fail!(Busy, "staging memory {} is in use by another process", path.display()),
            Err(e) => return Err(Error::io(format!("locking {}", path.display()), e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn header(session: u64) -> StagingHeader {
        StagingHeader { pool: PoolId([7; 16]), session: SessionId(session), boot: [3; 16], device: 5, inode: 6 }
    }

    fn run_dir() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        (directory, run)
    }

    fn names(run: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            run.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_published_is_found_by_the_next_process() {
        let (_directory, run) = run_dir();
        let header = header(0xabc);
        {
            let mut store = RunDirStore::open(&run).unwrap();
            let region = store.create(&header).unwrap();
            region.store(3, 100, b"sealed");
            region.publish(3, 106);
            // the process dies: nothing is removed
        }
        let file = run.join("07070707-0707-0707-0707-070707070707.0000000000000abc.staging");
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        assert_eq!(metadata.len(), REGION_BYTES as u64);
        assert_eq!(metadata.blocks() * 512, REGION_BYTES as u64, "fully allocated");
        assert_eq!(run.metadata().unwrap().permissions().mode() & 0o7777, 0o700);

        let mut store = RunDirStore::open(&run).unwrap();
        let region = store.find(header.pool, header.session).unwrap().expect("it is there");
        let mut bytes = [0; STAGING_HEADER_BYTES];
        region.load_header(&mut bytes);
        assert_eq!(StagingHeader::decode(&bytes).unwrap(), header);
        assert_eq!(region.published_bytes(3), 106);
        let mut stored = [0; 6];
        region.load(3, 100, &mut stored);
        assert_eq!(&stored, b"sealed");
        assert!(store.find(header.pool, SessionId(1)).unwrap().is_none());

        store.remove(header.pool, header.session).unwrap();
        store.remove(header.pool, header.session).expect("removing nothing is no error");
        assert!(store.find(header.pool, header.session).unwrap().is_none());
        region.load(3, 100, &mut stored);
        assert_eq!(&stored, b"sealed", "the mapping outlives the file");
    }

    #[test]
    fn a_file_in_use_is_refused() {
        let (_directory, run) = run_dir();
        let mut store = RunDirStore::open(&run).unwrap();
        let _region = store.create(&header(1)).unwrap();
        let mut other = RunDirStore::open(&run).unwrap();
        assert_eq!(other.find(header(1).pool, SessionId(1)).err().unwrap().kind(), ErrorKind::Busy);
        assert_eq!(other.create(&header(1)).err().unwrap().kind(), ErrorKind::Exists);
    }

    #[test]
    fn a_damaged_or_foreign_file_is_refused() {
        let (_directory, run) = run_dir();
        let mut store = RunDirStore::open(&run).unwrap();
        drop(store.create(&header(1)).unwrap());
        store.held.clear();
        let path = store.path(header(1).pool, SessionId(1));
        OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
        assert_eq!(store.find(header(1).pool, SessionId(1)).err().unwrap().kind(), ErrorKind::Corrupt);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(store.find(header(1).pool, SessionId(1)).err().unwrap().kind(), ErrorKind::Config);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(store.find(header(1).pool, SessionId(1)).is_err(), "links are not followed");
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let (_directory, run) = run_dir();
        std::fs::create_dir(&run).unwrap();
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = RunDirStore::open(&run).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("0777"), "{error}");
    }

    #[test]
    fn leftovers_of_this_medium_go_and_those_of_a_copy_stay() {
        let (_directory, run) = run_dir();
        let mut before = RunDirStore::open(&run).unwrap();
        drop(before.create(&header(1)).unwrap());
        drop(before.create(&header(2)).unwrap());
        let copy = StagingHeader { inode: 99, session: SessionId(3), ..header(0) };
        drop(before.create(&copy).unwrap());
        drop(before);
        let prefix = "07070707-0707-0707-0707-070707070707.000000000000000";
        let half_made = run.join(format!("{prefix}9.staging.new"));
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half_made).unwrap();

        let mut store = RunDirStore::open(&run).unwrap();
        let _old = store.find(header(1).pool, SessionId(1)).unwrap().expect("there");
        let _new = store.create(&header(4)).unwrap();
        store.remove(header(1).pool, SessionId(1)).unwrap();
        assert_eq!(names(&run), [format!("{prefix}3.staging"), format!("{prefix}4.staging")]);
    }

    #[test]
    fn no_room_says_where_and_what_to_do() {
        let (_directory, run) = run_dir();
        RunDirStore::open(&run).unwrap();
        let Ok(()) = mount_small_tmpfs(&run) else {
            eprintln!("not run: a small tmpfs cannot be mounted here");
            return;
        };
        let error = RunDirStore::open(&run).and_then(|mut store| store.create(&header(1))).err();
        let left = names(&run);
        rustix::mount::unmount(&run, rustix::mount::UnmountFlags::DETACH).unwrap();
        let error = error.expect("4 MiB are not enough");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().contains("16392 KiB") && error.to_string().contains("--run-dir"), "{error}");
        assert_eq!(left, [""; 0], "nothing is left behind");
    }

    fn mount_small_tmpfs(at: &Path) -> rustix::io::Result<()> {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", at, "tmpfs", flags, Some(c"size=4m,mode=700"))
    }
}
