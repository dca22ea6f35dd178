//! Opening a medium: a file or a block device, with direct I/O, held under an exclusive lock.
//!
//! **Invariants.** The lock is a flock on the very open file description that carries the I/O: the kernel does not wait
//! for plain writes in flight when a process dies, but they hold the description and with it the lock, so that a late
//! one never lands on a successor's. Only one process has a medium open for writing; readers share it among themselves.
//!
//! **Failure.** [`ErrorKind::Busy`]: another process has it (or it is mounted); [`ErrorKind::NotFound`];
//! [`ErrorKind::Config`]: not a file or block device.
//!
//! **Not here:** asynchronous I/O (`uring`), what the bytes mean.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, FileType, IFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::lock::{Sharing, lock};
use super::signature::{self, Signature};
use crate::buf::AlignedBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{BLOCK_SIZE, IO_ALIGN};

/// What is done with a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Looked at; other readers may do so at the same time.
    Read,
    /// Served or changed; by nobody else.
    Write,
}

/// What a medium is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A regular file.
    File,
    /// A block device.
    Block,
}

/// What tells one medium from another on this machine: of a file its filesystem and inode, of a block device its
/// number (and 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// `st_dev` of a file, `st_rdev` of a block device.
    pub device: u64,
    /// `st_ino` of a file, 0 for a block device.
    pub inode: u64,
}

/// `f_type` of btrfs.
const BTRFS_MAGIC: u64 = 0x9123_683e;

/// An open, locked medium.
#[derive(Debug)]
pub struct Device {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    kind: DeviceKind,
    access: Access,
    size: u64,
    block: u32,
    identity: Identity,
    direct: bool,
}

impl Device {
    /// Opens and locks a file or block device.
    ///
    /// # Errors
    /// See the module; waits for the lock of a process that is dying.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let shown = path.display();
        let before = fs::stat(path).map_err(|e| Error::io(format!("opening {shown}"), e))?;
        let kind = kind_of(before.st_mode).ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("{shown} is neither a regular file nor a block device"))
        })?;
        let (fd, direct) = open_descriptor(path, kind, access)?;
        let stat = fs::fstat(&fd).map_err(|e| Error::io(format!("looking at {shown}"), e))?;
        let identity = identity_of(&stat, kind);
        if kind_of(stat.st_mode) != Some(kind) || identity != identity_of(&before, kind) {
            crate::fail!(Busy, "{shown} was replaced while it was being opened");
        }
        let sharing = match access {
            Access::Read => Sharing::Readers,
            Access::Write => Sharing::Nobody,
        };
        lock(&fd, stat.st_ino, sharing, &shown.to_string())?;
        // after locking: whoever held it may have changed it
        let size = fs::seek(&fd, SeekFrom::End(0)).map_err(|e| Error::io(format!("measuring {shown}"), e))?;
        let block = match kind {
            DeviceKind::File => BLOCK_SIZE,
            DeviceKind::Block => fs::ioctl_blksszget(&fd)
                .map_err(|e| Error::io(format!("asking {shown} for its block size"), e))?
                .max(512),
        };
        if block as usize > IO_ALIGN {
            crate::fail!(Unsupported, "{shown} has logical blocks of {block} bytes; at most {IO_ALIGN} are supported");
        }
        if !direct {
            tracing::warn!(medium = %shown, "no direct I/O on this filesystem: the page cache is used, flushes still hold");
        }
        Ok(Self { fd: Arc::new(fd), path: path.to_owned(), kind, access, size, block, identity, direct })
    }

    /// Size in bytes when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a logical block: what offsets and lengths of I/O are multiples of. 512 to 4096; 4096 for files.
    #[must_use]
    pub fn block(&self) -> u32 {
        self.block
    }

    /// [`Self::block`] for slices.
    pub(super) fn block_bytes(&self) -> usize {
        self.block as usize
    }

    /// File or block device.
    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// For what it was opened.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Which medium of this machine it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether I/O goes past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path, for messages.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The open file description that carries the I/O and holds the lock.
    pub(crate) fn descriptor(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    /// What already lives on it: a filesystem, a partition table, one of `own`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be read.
    pub fn signature(&self, own: &[Signature]) -> Result<Option<&'static str>> {
        let head = self.read_blocking(0, signature::HEAD_BYTES)?;
        let tail_at = self.size.saturating_sub(signature::TAIL_BYTES as u64) & !(IO_ALIGN as u64 - 1);
        let tail = self.read_blocking(tail_at, signature::TAIL_BYTES + IO_ALIGN)?;
        Ok(signature::detect(&head, &tail, self.size, own))
    }

    /// Reads up to `len` bytes at `offset`, fewer at the end of the medium. Blocks the thread: for start-up and tools,
    /// before there is a reactor. Both are multiples of [`IO_ALIGN`].
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be read.
    pub fn read_blocking(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        assert!(offset.is_multiple_of(IO_ALIGN as u64) && len.is_multiple_of(IO_ALIGN), "{offset} + {len}");
        let mut buf = AlignedBuf::zeroed(len);
        let mut done = 0;
        while done < len {
            match rustix::io::pread(&self.fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(Errno::INTR) => {}
                // direct I/O only reads whole blocks, and there is no whole one behind an odd end
                Err(Errno::INVAL) if done > 0 => break,
                Err(e) => {
                    return Err(Error::io(format!("{}: reading {len} bytes at {offset}", self.name()), e));
                }
            }
        }
        Ok(buf[..done].to_vec())
    }
}

fn kind_of(mode: u32) -> Option<DeviceKind> {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Some(DeviceKind::File),
        FileType::BlockDevice => Some(DeviceKind::Block),
        _ => None,
    }
}

fn identity_of(stat: &fs::Stat, kind: DeviceKind) -> Identity {
    match kind {
        DeviceKind::File => Identity { device: stat.st_dev, inode: stat.st_ino },
        DeviceKind::Block => Identity { device: stat.st_rdev, inode: 0 },
    }
}

/// Opens with direct I/O, or without where the filesystem refuses that.
fn open_descriptor(path: &Path, kind: DeviceKind, access: Access) -> Result<(OwnedFd, bool)> {
    let mut flags = OFlags::CLOEXEC | OFlags::NONBLOCK;
    flags |= match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::RDWR,
    };
    if kind == DeviceKind::Block && access == Access::Write {
        // on a block device: nobody else may have it mounted or claimed
        flags |= OFlags::EXCL;
    }
    let opened = match fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
        Err(Errno::INVAL) => fs::open(path, flags, Mode::empty()).map(|fd| (fd, false)),
        other => other.map(|fd| (fd, true)),
    };
    let (fd, direct) = opened.map_err(|e| {
        let hint = match (e, kind) {
            (Errno::BUSY, DeviceKind::Block) => " (mounted, or claimed by another user of block devices)",
            _ => "",
        };
        Error::io(format!("opening {}{hint}", path.display()), e)
    })?;
    // NONBLOCK was for the open alone; with it I/O that would have to wait ends in EAGAIN
    let kept = if direct { OFlags::DIRECT } else { OFlags::empty() };
    fs::fcntl_setfl(&fd, kept).map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
    Ok((fd, direct))
}

/// Makes a new file of `size` bytes for a pool: 0600, without copy-on-write where that is an attribute (btrfs), its
/// name durable. Space is taken as it is written.
///
/// # Errors
/// [`ErrorKind::Exists`]; [`ErrorKind::NoSpace`] or [`ErrorKind::Io`] from the filesystem. No file is left behind then.
pub fn create_file(path: &Path, size: u64) -> Result<()> {
    let shown = path.display();
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| Error::io(format!("creating {shown}"), e))?;
    let result = shape_file(&fd, path, size);
    if result.is_err() {
        // the error that is reported is the first one
        let _ = fs::unlink(path);
    }
    result
}

fn shape_file(fd: &OwnedFd, path: &Path, size: u64) -> Result<()> {
    let failed = |what: &'static str| move |e: Errno| Error::io(format!("{what} {}", path.display()), e);
    let is_btrfs = fs::fstatfs(fd).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(BTRFS_MAGIC));
    if is_btrfs {
        // only an empty file takes the attribute; without it each rewrite of a block moves it and fragments the pool
        let set = fs::ioctl_getflags(fd).and_then(|old| fs::ioctl_setflags(fd, old | IFlags::NOCOW));
        if let Err(error) = set {
            tracing::warn!(medium = %path.display(), %error, "copy-on-write could not be switched off; the pool will fragment");
        }
    }
    fs::ftruncate(fd, size).map_err(failed("sizing"))?;
    fs::fsync(fd).map_err(failed("flushing"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    directory.and_then(fs::fsync).map_err(failed("flushing the directory of"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pool_file(size: u64) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool");
        create_file(&path, size).unwrap();
        (directory, path)
    }

    #[test]
    fn a_created_file_is_private_and_of_its_size() {
        let (_directory, path) = pool_file(1 << 20);
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(metadata.len(), 1 << 20);
        assert_eq!(create_file(&path, 1).unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20, "the file that was there is untouched");
    }

    #[test]
    fn a_failed_creation_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("huge");
        create_file(&path, u64::MAX).expect_err("larger than any file");
        assert!(!path.exists());
    }

    #[test]
    fn one_writer_or_many_readers() {
        let (_directory, path) = pool_file(1 << 20);
        let writer = Device::open(&path, Access::Write).unwrap();
        assert_eq!((writer.size(), writer.block(), writer.kind()), (1 << 20, 4096, DeviceKind::File));
        let error = Device::open(&path, Access::Write).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let holder = format!("already in use by process {}", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        assert_eq!(Device::open(&path, Access::Read).unwrap_err().kind(), ErrorKind::Busy);
        let identity = writer.identity();
        drop(writer);
        let reader = Device::open(&path, Access::Read).unwrap();
        let another = Device::open(&path, Access::Read).unwrap();
        assert_eq!(reader.identity(), identity);
        assert_eq!(another.identity(), identity);
        assert_eq!(Device::open(&path, Access::Write).unwrap_err().kind(), ErrorKind::Busy);
    }

    #[test]
    fn only_files_and_block_devices() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Device::open(directory.path(), Access::Write).unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(Device::open(Path::new("/dev/null"), Access::Read).unwrap_err().kind(), ErrorKind::Config);
        let missing = directory.path().join("missing");
        assert_eq!(Device::open(&missing, Access::Read).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn finds_what_lives_there() {
        let (_directory, path) = pool_file(1 << 20);
        let device = Device::open(&path, Access::Read).unwrap();
        assert_eq!(device.signature(&[]).unwrap(), None);
        drop(device);
        let mut content = vec![0; 70_001];
        content[0x10040..0x10048].copy_from_slice(b"_BHRfS_M");
        std::fs::write(&path, &content).unwrap();
        let device = Device::open(&path, Access::Read).unwrap();
        assert_eq!(device.signature(&[]).unwrap(), Some("a btrfs filesystem"));
    }
}
