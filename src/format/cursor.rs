//! Little-endian fields written and read in order. No structure casts, no word sizes: the format is what these say.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};

/// Writes fields one after the other. Running over the end is a programmer error.
pub(crate) struct Writer<'a> {
    rest: &'a mut [u8],
    written: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(buf: &'a mut [u8]) -> Self {
        Self { rest: buf, written: 0 }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let rest = std::mem::take(&mut self.rest);
        let (head, tail) = rest.split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.rest = tail;
        self.written += bytes.len();
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// The low `N` bytes of `value`.
    pub(crate) fn low_bytes<const N: usize>(&mut self, value: u64) -> &mut Self {
        let bytes = value.to_le_bytes();
        let (low, high) = bytes.split_at(N);
        debug_assert!(high.iter().all(|b| *b == 0), "{value:#x} needs more than {N} bytes");
        self.bytes(low)
    }

    /// Zeros up to `end` bytes from the start.
    pub(crate) fn zero_to(&mut self, end: usize) -> &mut Self {
        while self.written < end {
            self.u8(0);
        }
        self
    }

    pub(crate) fn written(&self) -> usize {
        self.written
    }
}

/// Reads fields one after the other. Running over the end is a damaged structure.
pub(crate) struct Reader<'a> {
    structure: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(structure: &'static str, buf: &'a [u8]) -> Self {
        Self { structure, rest: buf }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((head, tail)) = self.rest.split_at_checked(count) else {
            return Err(Error::corrupt(self.structure, "length", count as u64, self.rest.len() as u64));
        };
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of `N` bytes.
    pub(crate) fn low_bytes<const N: usize>(&mut self) -> Result<u64> {
        let bytes = self.bytes(N)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// Bytes that must be zero.
    pub(crate) fn zeros(&mut self, count: usize) -> Result<()> {
        match self.bytes(count)?.iter().find(|b| **b != 0) {
            None => Ok(()),
            Some(byte) => Err(Error::corrupt(self.structure, "reserved", 0, u64::from(*byte))),
        }
    }

    /// Nothing but zeros may follow.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.zeros(self.rest.len())
    }

    pub(crate) fn rest(&self) -> usize {
        self.rest.len()
    }

    /// Compares a field with what it must be.
    pub(crate) fn expect(&self, field: &'static str, expected: u64, got: u64) -> Result<()> {
        if expected == got { Ok(()) } else { Err(Error::corrupt(self.structure, field, expected, got)) }
    }
}

/// Appends the checksum of `buf[..len - 8]` at its end.
pub(crate) fn seal_checksum(buf: &mut [u8]) {
    let (body, check) = buf.split_at_mut(buf.len() - 8);
    check.copy_from_slice(&xxh3_64(body).to_le_bytes());
}

/// Structures of one size are read from exactly so many bytes.
pub(crate) fn exact_length(structure: &'static str, buf: &[u8], len: usize) -> Result<()> {
    if buf.len() == len { Ok(()) } else { Err(Error::corrupt(structure, "length", len as u64, buf.len() as u64)) }
}

/// Splits off the checksum at the end of `buf` and compares it; returns the body.
pub(crate) fn open_checksum<'a>(structure: &'static str, buf: &'a [u8]) -> Result<&'a [u8]> {
    let Some((body, check)) = buf.len().checked_sub(8).and_then(|at| buf.split_at_checked(at)) else {
        return Err(Error::corrupt(structure, "length", 8, buf.len() as u64));
    };
    let mut reader = Reader::new(structure, check);
    let got = reader.u64()?;
    reader.expect("checksum", xxh3_64(body), got)?;
    Ok(body)
}
