//! The namespace table: the only place of names, sizes and wrapped data keys. Two copies of 256 KiB outside the log,
//! each written whole in place, one after the other, so that a destroyed namespace's key is gone from both (crypto-erase).

use super::cursor::{Reader, Writer, exact_length, open_checksum, seal_checksum};
use super::kinds::{Cipher, Compression};
use super::layout::NAMESPACE_TABLE_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{FRAGMENT_BLOCKS_MAX, NAMESPACE_BLOCKS_MAX, NAMESPACES_MAX};
use crate::units::{NamespaceId, PoolId};

/// Bytes of a wrapped data key: nonce 12, ciphertext 64, tag 16.
pub const WRAPPED_KEY_BYTES: usize = 92;
/// Longest name in bytes.
pub const NAME_BYTES_MAX: usize = 63;
const ENTRY_BYTES: usize = 256;
const HEADER_BYTES: usize = 256;
const MAGIC: u64 = u64::from_le_bytes(*b"PLCnames");
const _: () = assert!(HEADER_BYTES + NAMESPACES_MAX * ENTRY_BYTES + 8 <= NAMESPACE_TABLE_BYTES);

/// The unit of a namespace whose largest fragment is chosen by how it is used.
pub const UNIT_AUTO: u8 = 0;

/// A namespace as the table keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceEntry {
    /// Identity; never used again.
    pub id: NamespaceId,
    /// Name: 1 to 63 bytes of `[A-Za-z0-9._-]`, not starting with a dot or dash.
    pub name: String,
    /// Size in 4 KiB blocks.
    pub blocks: u64,
    /// Cipher.
    pub cipher: Cipher,
    /// Compression of new writes.
    pub compression: Compression,
    /// Largest fragment of new writes in blocks: 1, 2, 4 or 8, or [`UNIT_AUTO`].
    pub unit_blocks: u8,
    /// Logical block that the host sees: 512 or 4096.
    pub logical_block: u32,
    /// Unix time of creation in seconds.
    pub created: u64,
    /// The data key, wrapped by the root key.
    pub wrapped_key: [u8; WRAPPED_KEY_BYTES],
}

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceTable {
    /// The pool it belongs to.
    pub pool: PoolId,
    /// Counts rewrites; of two valid copies the higher one counts.
    pub sequence: u64,
    /// The id that the next namespace gets.
    pub next_id: u32,
    /// Namespaces in order of creation.
    pub entries: Vec<NamespaceEntry>,
}

/// Whether `name` may name a namespace: it becomes part of paths, URIs and messages.
#[must_use]
pub fn valid_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.chars().all(inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

impl NamespaceTable {
    /// One copy: always the whole area, so that nothing of an earlier table stays behind.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] beyond [`NAMESPACES_MAX`] namespaces.
    pub fn encode(&self, bytes: &mut [u8]) -> Result<()> {
        assert_eq!(bytes.len(), NAMESPACE_TABLE_BYTES, "a table copy has one size");
        if self.entries.len() > NAMESPACES_MAX {
            let text = format!("a pool holds at most {NAMESPACES_MAX} namespaces");
            return Err(Error::new(ErrorKind::NoSpace, text));
        }
        let fits = |e: &NamespaceEntry| valid_name(&e.name) && matches!(e.logical_block, 512 | 4096);
        assert!(self.entries.iter().all(fits), "names and block sizes are checked where they come in");
        bytes.fill(0);
        let mut w = Writer::new(bytes);
        w.u64(MAGIC).bytes(&self.pool.0).u64(self.sequence).u32(self.next_id);
        w.u32(u32::try_from(self.entries.len()).unwrap_or(u32::MAX)).zero_to(HEADER_BYTES);
        for (index, entry) in self.entries.iter().enumerate() {
            let logical_shift = u8::try_from(entry.logical_block.trailing_zeros()).unwrap_or(0);
            w.u32(entry.id.0).u8(entry.cipher.to_byte()).u8(entry.compression.to_byte()).u8(entry.unit_blocks);
            w.u8(logical_shift).u64(entry.blocks).u64(entry.created);
            w.u8(u8::try_from(entry.name.len()).unwrap_or(0)).bytes(entry.name.as_bytes());
            let name_end = HEADER_BYTES + index * ENTRY_BYTES + 25 + NAME_BYTES_MAX;
            w.zero_to(name_end).bytes(&entry.wrapped_key).zero_to(HEADER_BYTES + (index + 1) * ENTRY_BYTES);
        }
        seal_checksum(bytes);
        Ok(())
    }

    /// Reads one copy of the table of `pool`.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is damaged or another pool's.
    pub fn decode(bytes: &[u8], pool: PoolId) -> Result<Self> {
        exact_length("namespace table", bytes, NAMESPACE_TABLE_BYTES)?;
        let body = open_checksum("namespace table", bytes)?;
        let mut r = Reader::new("namespace table", body);
        let magic = r.u64()?;
        r.expect("magic", MAGIC, magic)?;
        if r.array::<16>()? != pool.0 {
            return Err(Error::corrupt("namespace table", "pool", 0, 1));
        }
        let (sequence, next_id, count) = (r.u64()?, r.u32()?, r.u32()?);
        r.zeros(HEADER_BYTES - 40)?;
        if count as usize > NAMESPACES_MAX {
            return Err(Error::corrupt("namespace table", "count", NAMESPACES_MAX as u64, u64::from(count)));
        }
        let entries = (0..count).map(|_| decode_entry(&mut r)).collect::<Result<Vec<_>>>()?;
        r.finish()?;
        check_identities(&entries, next_id)?;
        Ok(Self { pool, sequence, next_id, entries })
    }
}

/// Ids are given out in ascending order and never again, and a name means one namespace.
fn check_identities(entries: &[NamespaceEntry], next_id: u32) -> Result<()> {
    let mut names = std::collections::BTreeSet::new();
    let mut above = 0;
    for entry in entries {
        if entry.id.0 <= above || entry.id.0 >= next_id {
            return Err(Error::corrupt("namespace entry", "id", u64::from(above) + 1, u64::from(entry.id.0)));
        }
        above = entry.id.0;
        if !names.insert(entry.name.as_str()) {
            return Err(Error::corrupt("namespace entry", "name", 0, u64::from(entry.id.0)));
        }
    }
    Ok(())
}

/// Whether a namespace can have this as its unit.
#[must_use]
pub fn is_unit(blocks: u8) -> bool {
    blocks == UNIT_AUTO || blocks.is_power_of_two() && u32::from(blocks) <= FRAGMENT_BLOCKS_MAX
}

fn decode_entry(r: &mut Reader<'_>) -> Result<NamespaceEntry> {
    let corrupt = |field, got| Error::corrupt("namespace entry", field, 0, got);
    let id = NamespaceId(r.u32()?);
    let (cipher, compression) = (Cipher::from_byte(r.u8()?)?, Compression::from_byte(r.u8()?)?);
    let (unit_blocks, logical_shift) = (r.u8()?, r.u8()?);
    let (blocks, created, name_len) = (r.u64()?, r.u64()?, r.u8()?);
    let (name, padding) = r.bytes(NAME_BYTES_MAX)?.split_at_checked(usize::from(name_len)).unwrap_or_default();
    let name = std::str::from_utf8(name).ok().filter(|n| valid_name(n));
    let Some(name) = name.filter(|_| padding.iter().all(|b| *b == 0)) else {
        return Err(corrupt("name", u64::from(name_len)));
    };
    let wrapped_key = r.array()?;
    r.zeros(ENTRY_BYTES - 25 - NAME_BYTES_MAX - WRAPPED_KEY_BYTES)?;
    if !is_unit(unit_blocks) {
        return Err(corrupt("unit", u64::from(unit_blocks)));
    }
    if !matches!(logical_shift, 9 | 12) {
        return Err(corrupt("logical block", u64::from(logical_shift)));
    }
    if id.0 == 0 || blocks == 0 || blocks > NAMESPACE_BLOCKS_MAX {
        return Err(corrupt("size", blocks));
    }
    let logical_block = 1 << logical_shift;
    let name = name.to_owned();
    Ok(NamespaceEntry { id, name, blocks, cipher, compression, unit_blocks, logical_block, created, wrapped_key })
}
