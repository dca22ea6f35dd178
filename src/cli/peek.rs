//! Which pool is this? Read without a lock, so that it also works while a daemon serves the pool.
//!
//! One copy of the superblock is written after the other, so a look without a lock sees one whole. Nothing is repaired here.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use std::io::{Seek, SeekFrom};

use crate::control::Medium;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::format::superblock::{SUPERBLOCK_BYTES, Superblock};

/// Bit mask and value of `st_mode` for a block device.
const FILE_TYPE: u32 = 0o170_000;
const BLOCK_DEVICE: u32 = 0o060_000;

/// A pool as seen from outside.
#[derive(Debug)]
pub(super) struct Peek {
    pub(super) superblock: Superblock,
    /// Which medium of this machine it is.
    pub(super) medium: Medium,
}

/// Looks at the pool at `path`.
///
/// # Errors
/// There is none, of another version, or with both superblocks damaged.
pub(super) fn peek(path: &Path) -> Result<Peek> {
    let shown = path.display();
    let failed = |what: &str| {
        let context = format!("{what} pool {shown}");
        move |e| Error::io(context, e)
    };
    let mut file = File::open(path).map_err(failed("opening"))?;
    let metadata = file.metadata().map_err(failed("looking at"))?;
    let is_device = metadata.mode() & FILE_TYPE == BLOCK_DEVICE;
    if !is_device && !metadata.is_file() {
        fail!(Config, "{shown} is neither a regular file nor a block device");
    }
    let medium = if is_device {
        Medium { device: metadata.rdev(), inode: 0 }
    } else {
        Medium { device: metadata.dev(), inode: metadata.ino() }
    };
    let size = file.seek(SeekFrom::End(0)).map_err(failed("measuring"))?;
    let superblock = newest(&file, size).map_err(|e| e.within(shown))?;
    Ok(Peek { superblock, medium })
}

fn newest(file: &File, size: u64) -> Result<Superblock> {
    let copy_bytes = SUPERBLOCK_BYTES as u64;
    let first = read_copy(file, 0);
    // the second copy ends with the pool, which may be smaller than the medium
    let end = first.as_ref().map_or(size, |s| s.pool_bytes.min(size)) / copy_bytes * copy_bytes;
    let second = end.checked_sub(copy_bytes).filter(|at| *at > 0).map(|at| read_copy(file, at));
    match (first, second) {
        (Ok(a), Some(Ok(b))) => Ok(if a.sequence >= b.sequence { a } else { b }),
        (Ok(one), _) | (Err(_), Some(Ok(one))) => Ok(one),
        // one that says what is wrong before one that says there is nothing
        (Err(a), Some(Err(b))) if a.kind() == ErrorKind::NotFound => Err(b),
        (Err(a), _) => Err(a),
    }
}

fn read_copy(file: &File, at: u64) -> Result<Superblock> {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => Superblock::decode(&bytes),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => fail!(NotFound, "no Plica superblock here"),
        Err(e) => Err(Error::io(format!("reading the superblock at {at}"), e)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::format::superblock::KeySource;
    use crate::units::PoolId;

    const BYTES: u64 = 24 << 20;

    fn superblock(sequence: u64) -> Superblock {
        Superblock {
            pool: PoolId([9; 16]),
            sequence,
            pool_bytes: BYTES,
            segment_bytes: 1 << 20,
            segment_count: 20,
            created: 1,
            key_source: KeySource::File,
            key_check: [0; 16],
            label: [0; 64],
            journal: None,
        }
    }

    fn pool(copies: [Option<u64>; 2]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool");
        let file = File::create_new(&path).unwrap();
        // not a multiple of 4 KiB: what is beyond is not the pool's
        file.set_len(BYTES + 100).unwrap();
        for (sequence, at) in copies.into_iter().zip([0, BYTES - 4096]) {
            if let Some(sequence) = sequence {
                file.write_all_at(&superblock(sequence).encode(), at).unwrap();
            }
        }
        (directory, path)
    }

    #[test]
    fn either_copy_is_enough_and_the_newer_one_counts() {
        for (copies, sequence) in
            [([Some(1), Some(1)], 1), ([Some(1), Some(2)], 2), ([None, Some(3)], 3), ([Some(4), None], 4)]
        {
            let (_directory, path) = pool(copies);
            let found = peek(&path).unwrap();
            assert_eq!(found.superblock, superblock(sequence), "{copies:?}");
            assert_eq!(found.medium.inode, path.metadata().unwrap().ino());
        }
    }

    #[test]
    fn what_is_no_pool_is_said_so() {
        let (directory, path) = pool([None, None]);
        let error = peek(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("pool: no Plica superblock"), "{error}");
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(peek(&path).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(peek(directory.path()).unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(peek(&directory.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn damage_is_not_taken_for_absence() {
        let (_directory, path) = pool([Some(1), None]);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[1], 60).unwrap();
        assert_eq!(peek(&path).unwrap_err().kind(), ErrorKind::Corrupt);
        let (_directory, path) = pool([None, Some(1)]);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[1], BYTES - 4096 + 60).unwrap();
        assert_eq!(peek(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
