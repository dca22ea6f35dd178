//! A root key out of a passphrase: Argon2id (RFC 9106), and the ways a passphrase comes in.
//!
//! A passphrase is typed at the terminal or read from a file descriptor that the caller has opened (a password
//! manager, a service manager's credential). Command lines and environments are not offered: other processes can read
//! them.

use std::fmt;
use std::fs::File;
use std::io::Read;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::{Zeroize, Zeroizing};

use super::root_key::ROOT_KEY_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;

/// Bytes of the salt.
pub const SALT_BYTES: usize = 16;
/// Longest passphrase in bytes.
const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Most memory a derivation may ask for: the parameters come from a medium, and must not exhaust the machine.
const MEMORY_KIB_MAX: u32 = 4 << 20;
/// Most passes, for the same reason.
const PASSES_MAX: u32 = 64;
/// Most lanes.
const LANES_MAX: u32 = 64;

/// What somebody knows by heart. Erased when dropped; cannot be cloned or printed.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// A passphrase of these bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if it is empty or longer than 1024 bytes.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self> {
        if bytes.is_empty() {
            fail!(Config, "the passphrase is empty");
        }
        if bytes.len() > PASSPHRASE_BYTES_MAX {
            fail!(Config, "the passphrase is longer than {PASSPHRASE_BYTES_MAX} bytes");
        }
        Ok(Self(bytes))
    }

    /// Asks at the terminal, without echo.
    ///
    /// # Errors
    /// There is no terminal, or what was typed is not a passphrase.
    pub fn prompt(what_for: &str) -> Result<Self> {
        let typed = rpassword::prompt_password(format!("Passphrase for {what_for}: "))
            .map_err(|e| Error::io("cannot ask for the passphrase at the terminal", e))?;
        Self::new(Zeroizing::new(typed.into_bytes()))
    }

    /// Asks at the terminal twice: for a passphrase that is set, where a slip would lock everybody out.
    ///
    /// # Errors
    /// As [`Passphrase::prompt`]; or the two differ.
    pub fn prompt_new(what_for: &str) -> Result<Self> {
        let first = Self::prompt(&format!("{what_for} (new)"))?;
        let second = Self::prompt(&format!("{what_for} (again)"))?;
        first.confirmed_by(&second)?;
        Ok(first)
    }

    fn confirmed_by(&self, other: &Self) -> Result<()> {
        if *self.0 != *other.0 {
            fail!(Config, "the two passphrases differ");
        }
        Ok(())
    }

    /// Reads up to the first newline (or the end) from an open file descriptor of this process. What follows the
    /// newline is not consumed from a pipe or terminal. A file is read from its beginning. Sockets cannot be used.
    ///
    /// # Errors
    /// There is no such descriptor, or what it gives is not a passphrase.
    pub fn from_descriptor(number: u32) -> Result<Self> {
        // by its name: taking a bare number for a descriptor cannot be done safely
        let file = File::open(format!("/proc/self/fd/{number}"))
            .map_err(|e| Error::io(format!("cannot read the passphrase from file descriptor {number}"), e))?;
        Self::from_reader(file).map_err(|e| e.within(format_args!("file descriptor {number}")))
    }

    fn from_reader(mut reader: impl Read) -> Result<Self> {
        // never grown, so that no copy is left behind
        let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 1));
        let mut byte = Zeroizing::new([0]);
        while bytes.len() <= PASSPHRASE_BYTES_MAX {
            match reader.read(&mut byte[..]) {
                Ok(0) => break,
                Ok(_) if byte[0] == b'\n' => break,
                Ok(_) => bytes.push(byte[0]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("cannot read the passphrase", e)),
            }
        }
        Self::new(bytes)
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(secret)")
    }
}

/// How a passphrase becomes a key: not secret, stored in the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassphraseParams {
    /// Random, drawn when the pool is created.
    pub salt: [u8; SALT_BYTES],
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes. They are computed one after the other here.
    pub lanes: u32,
}

impl PassphraseParams {
    /// The parameters of new pools: 128 MiB, 3 passes, 4 lanes: twice the memory of RFC 9106's second recommendation,
    /// and still small enough to open a pool on a small machine.
    #[must_use]
    pub fn with_salt(salt: [u8; SALT_BYTES]) -> Self {
        Self { salt, memory_kib: 128 << 10, passes: 3, lanes: 4 }
    }

    pub(super) fn derive(&self, passphrase: &Passphrase, key: &mut [u8; ROOT_KEY_BYTES]) -> Result<()> {
        let Self { salt, memory_kib, passes, lanes } = self;
        if *memory_kib > MEMORY_KIB_MAX || *passes > PASSES_MAX || *lanes > LANES_MAX {
            fail!(Config, "passphrase parameters out of bounds: {memory_kib} KiB, {passes} passes, {lanes} lanes");
        }
        let refused = |e| Error::new(ErrorKind::Config, format!("passphrase parameters: {e}"));
        let params = Params::new(*memory_kib, *passes, *lanes, Some(ROOT_KEY_BYTES)).map_err(refused)?;
        let mut memory = Memory::new(params.block_count(), *memory_kib)?;
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(&passphrase.0, salt, key, &mut memory.0)
            .map_err(refused)
    }
}

/// Argon2's memory: taken with an error instead of an abort, erased when dropped.
struct Memory(Vec<Block>);

impl Memory {
    fn new(blocks: usize, memory_kib: u32) -> Result<Self> {
        let mut memory = Vec::new();
        if memory.try_reserve_exact(blocks).is_err() {
            fail!(Config, "the passphrase needs {memory_kib} KiB of memory to become a key, and there is not so much");
        }
        memory.resize(blocks, Block::new());
        Ok(Self(memory))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for block in &mut self.0 {
            block.zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::codec::testing::hex;
    use crate::keys::RootKey;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
    }

    fn small() -> PassphraseParams {
        PassphraseParams { salt: [2; 16], memory_kib: 64, passes: 3, lanes: 4 }
    }

    /// Computed with another implementation of Argon2id.
    #[test]
    fn bytes_are_what_they_were() {
        let key = RootKey::from_passphrase(&passphrase("correct horse"), &small()).unwrap();
        assert_eq!(key.bytes().as_slice(), hex("d4db550b32c4e3dc2bec6b9bad168f506a21842c82983f606d1db480e291a0b4"));
    }

    #[test]
    fn everything_matters() {
        let key = |text: &str, params: PassphraseParams| {
            *RootKey::from_passphrase(&passphrase(text), &params).unwrap().bytes()
        };
        let base = key("a", small());
        assert_eq!(base, key("a", small()));
        assert_ne!(base, key("b", small()));
        assert_ne!(base, key("a", PassphraseParams { salt: [3; 16], ..small() }));
        assert_ne!(base, key("a", PassphraseParams { memory_kib: 128, ..small() }));
        assert_ne!(base, key("a", PassphraseParams { passes: 4, ..small() }));
        assert_ne!(base, key("a", PassphraseParams { lanes: 2, ..small() }));
    }

    #[test]
    fn parameters_out_of_bounds_are_refused() {
        let bad = [
            PassphraseParams { memory_kib: u32::MAX, ..small() },
            PassphraseParams { memory_kib: 0, ..small() },
            PassphraseParams { passes: 0, ..small() },
            PassphraseParams { passes: u32::MAX, ..small() },
            PassphraseParams { lanes: 0, ..small() },
            PassphraseParams { lanes: 65, ..small() },
        ];
        for params in bad {
            let error = RootKey::from_passphrase(&passphrase("a"), &params).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{params:?}");
        }
    }

    #[test]
    fn a_line_is_read_and_no_more() {
        let mut rest: &[u8] = b"one two\nthree";
        assert_eq!(*Passphrase::from_reader(&mut rest).unwrap().0, b"one two");
        assert_eq!(rest, b"three");
        assert_eq!(*Passphrase::from_reader(&mut rest).unwrap().0, b"three");
        assert_eq!(Passphrase::from_reader(&mut rest).unwrap_err().kind(), ErrorKind::Config);
        assert!(Passphrase::from_reader([b'x'; 1024].as_slice()).is_ok());
        let too_long = Passphrase::from_reader(std::io::repeat(b'x')).unwrap_err();
        assert!(too_long.to_string().contains("longer than 1024"), "{too_long}");
    }

    #[test]
    fn descriptors_are_read() {
        use std::os::fd::AsRawFd;
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"hunter2\n").unwrap();
        let number = u32::try_from(reader.as_raw_fd()).unwrap();
        assert_eq!(*Passphrase::from_descriptor(number).unwrap().0, b"hunter2");
        let error = Passphrase::from_descriptor(1_000_000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("file descriptor 1000000"), "{error}");
    }

    #[test]
    fn a_slip_when_setting_is_noticed() {
        assert!(passphrase("a").confirmed_by(&passphrase("a")).is_ok());
        assert_eq!(passphrase("a").confirmed_by(&passphrase("b")).unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", passphrase("hunter2")), "Passphrase(secret)");
    }
}
