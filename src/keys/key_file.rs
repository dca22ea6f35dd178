//! A root key in a file: one line of text, so that it survives being copied by hand.
//!
//! ```text
//!  plica-root-key-1:<64 hex digits, the key>:<8 hex digits, the checksum>\n
//! ```
//!
//! The checksum (the first 4 bytes of SHA-256 over the text before its colon) tells a mistyped or cut key from a wrong
//! one.
//!
//! **Who may have written it.** All questions are asked of the opened file, not of its name, so that nothing can be
//! exchanged in between: a plain file, owned by this user or root, closed to everybody else. With that a directory
//! that others may write to gives them nothing but refusal. A symbolic link is refused rather than followed.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::root_key::{ROOT_KEY_BYTES, RootKey};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;

const PREFIX: &str = "plica-root-key-1:";
const CHECKSUM_BYTES: usize = 4;
const LINE_BYTES: usize = PREFIX.len() + 2 * ROOT_KEY_BYTES + 1 + 2 * CHECKSUM_BYTES + 1;
/// Permission bits of group and others.
const FOREIGN_BITS: u32 = 0o077;

pub(super) fn generate(path: &Path) -> Result<RootKey> {
    let mut key = RootKey::zeroed();
    getrandom::fill(key.bytes_mut())
        .map_err(|e| Error::new(ErrorKind::Io, format!("the kernel gave no random bytes for a key: {e}")))?;
    let name = path.display();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| Error::io(format!("cannot create key file {name}"), e))?;
    let mut file = File::from(fd);
    let written = file
        .write_all(encode(&key).as_bytes())
        .and_then(|()| rustix::fs::fsync(&file).map_err(Into::into))
        .and_then(|()| sync_parent(path));
    if let Err(e) = written {
        // a part of a key is worse than none; if this fails too, the first error is still the one to report
        let _ = std::fs::remove_file(path);
        return Err(Error::io(format!("cannot write key file {name}"), e));
    }
    Ok(key)
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let directory = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fsync(directory)?;
    Ok(())
}

pub(super) fn load(path: &Path) -> Result<RootKey> {
    let name = path.display();
    // NONBLOCK: opening a FIFO must not wait for a writer
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::LOOP) => fail!(Config, "key file {name} is a symbolic link: name the file itself"),
        Err(e) => return Err(Error::io(format!("cannot open key file {name}"), e)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io(format!("cannot stat key file {name}"), e))?;
    check_access(path, stat.st_mode, stat.st_uid)?;
    let mut text = Zeroizing::new(Vec::with_capacity(LINE_BYTES + 1));
    let limit = u64::try_from(LINE_BYTES + 1).unwrap_or(u64::MAX);
    File::from(fd)
        .take(limit)
        .read_to_end(&mut text)
        .map_err(|e| Error::io(format!("cannot read key file {name}"), e))?;
    decode(&text).map_err(|e| e.within(format_args!("key file {name}")))
}

fn check_access(path: &Path, mode: u32, owner: u32) -> Result<()> {
    let name = path.display();
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        fail!(Config, "key file {name} is not a plain file");
    }
    let user = rustix::process::geteuid().as_raw();
    if owner != user && owner != 0 {
        fail!(
            Config,
            "key file {name} belongs to user {owner}, who could change it: make it yours with `chown {user} {name}` \
             once you trust it"
        );
    }
    if mode & FOREIGN_BITS != 0 {
        fail!(
            Config,
            "key file {name} is open to others (mode {:03o}): close it with `chmod 600 {name}`, and consider whether \
             the key is still secret",
            mode & 0o777
        );
    }
    Ok(())
}

fn encode(key: &RootKey) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(LINE_BYTES));
    line.push_str(PREFIX);
    push_hex(&mut line, key.bytes());
    let checksum = checksum(&line);
    line.push(':');
    push_hex(&mut line, &checksum);
    line.push('\n');
    line
}

fn push_hex(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // writing to a string cannot fail
        let _ = write!(line, "{byte:02x}");
    }
}

fn checksum(text: &str) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::digest(text.as_bytes());
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&digest[..CHECKSUM_BYTES]);
    checksum
}

fn decode(bytes: &[u8]) -> Result<RootKey> {
    let malformed = || Error::new(ErrorKind::Config, format!("is not a line `{PREFIX}KEY:CHECKSUM`"));
    let text = std::str::from_utf8(bytes).map_err(|_| malformed())?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    if line.starts_with("plica-root-key-") && !line.starts_with(PREFIX) {
        fail!(Version, "is of a version that this program does not read");
    }
    let body = line.strip_prefix(PREFIX).ok_or_else(malformed)?;
    let (digits, check) = body.split_once(':').ok_or_else(malformed)?;
    let mut key = RootKey::zeroed();
    let mut stored = [0; CHECKSUM_BYTES];
    if !read_hex(digits, key.bytes_mut()) || !read_hex(check, &mut stored) {
        return Err(malformed());
    }
    if stored != checksum(&line[..PREFIX.len() + digits.len()]) {
        fail!(Config, "has a checksum that does not fit its key: it was mistyped or damaged");
    }
    Ok(key)
}

/// Fills `into` from exactly as many lower-case hex digits; returns whether they were that.
fn read_hex(digits: &str, into: &mut [u8]) -> bool {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != into.len() || !rest.is_empty() {
        return false;
    }
    for (byte, pair) in into.iter_mut().zip(pairs) {
        let [Some(high), Some(low)] = pair.map(value) else { return false };
        *byte = high << 4 | low;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn refused(path: &Path) -> Error {
        load(path).expect_err("this key file must be refused")
    }

    fn new_key_file(directory: &tempfile::TempDir) -> PathBuf {
        let path = directory.path().join("key");
        generate(&path).unwrap();
        path
    }

    fn write_private(path: &Path, content: &[u8]) {
        std::fs::write(path, content).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    #[test]
    fn what_is_generated_loads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let key = generate(&path).unwrap();
        assert_eq!(load(&path).unwrap().bytes(), key.bytes());
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(path.metadata().unwrap().len(), u64::try_from(LINE_BYTES).unwrap());
        assert_ne!(key.bytes(), &[0; 32]);
    }

    #[test]
    fn nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = new_key_file(&directory);
        let before = std::fs::read(&path).unwrap();
        assert_eq!(generate(&path).unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let dangling = directory.path().join("dangling");
        symlink(directory.path().join("elsewhere"), &dangling).unwrap();
        assert_eq!(generate(&dangling).unwrap_err().kind(), ErrorKind::Exists);
        assert!(!directory.path().join("elsewhere").exists());
    }

    #[test]
    fn open_permissions_are_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = new_key_file(&directory);
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let error = refused(&path);
            assert_eq!(error.kind(), ErrorKind::Config, "{mode:o}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
        for mode in [0o400, 0o600, 0o700] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert!(load(&path).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn foreign_owners_are_refused() {
        let user = rustix::process::geteuid().as_raw();
        let path = Path::new("key");
        let error = check_access(path, 0o100_600, user + 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(&format!("belongs to user {}", user + 1)), "{error}");
        assert!(check_access(path, 0o100_600, user).is_ok());
        assert!(check_access(path, 0o100_400, 0).is_ok(), "root may do everything anyway");
    }

    #[test]
    fn links_directories_and_pipes_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = new_key_file(&directory);
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        let error = refused(&link);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert_eq!(refused(directory.path()).kind(), ErrorKind::Config);
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(refused(&pipe).kind(), ErrorKind::Config);
        assert_eq!(refused(&directory.path().join("none")).kind(), ErrorKind::NotFound);
    }

    #[test]
    fn damaged_content_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = new_key_file(&directory);
        let good = std::fs::read(&path).unwrap();
        let other = directory.path().join("other");
        for len in 0..good.len() - 1 {
            write_private(&other, &good[..len]);
            assert!(matches!(refused(&other).kind(), ErrorKind::Config | ErrorKind::Version), "{len} bytes");
        }
        write_private(&other, &good[..good.len() - 1]);
        assert!(load(&other).is_ok(), "an editor may drop the last newline");
        for at in 0..good.len() - 1 {
            let mut changed = good.clone();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            write_private(&other, &changed);
            assert!(matches!(refused(&other).kind(), ErrorKind::Config | ErrorKind::Version), "byte {at}");
        }
        let mut longer = good.clone();
        longer.extend_from_slice(b"more");
        write_private(&other, &longer);
        assert_eq!(refused(&other).kind(), ErrorKind::Config);
    }

    #[test]
    fn another_version_is_named() {
        let error = decode(b"plica-root-key-2:00:00\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Version);
    }
}
