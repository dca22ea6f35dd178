//! The bytes of the transmission phase: request headers, simple and structured replies. Big-endian, as NBD is.
//!
//! Pure functions; decoding any bytes ends in a value or `None`.

#![expect(clippy::big_endian_bytes, reason = "the protocol's byte order; this module is the only one that knows it")]

use crate::core::request::Extent;
use crate::error::ErrorKind;

/// Bytes of a request without its payload.
pub(super) const REQUEST_BYTES: usize = 28;
/// Bytes of the longest reply without its data or extents.
pub(super) const REPLY_BYTES_MAX: usize = 32;
/// Bytes of an extent in a block status reply.
pub(super) const EXTENT_BYTES: usize = 8;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

const REPLY_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_OFFSET_DATA: u16 = 1;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 0x8001;

/// `NBD_STATE_HOLE | NBD_STATE_ZERO`.
const STATE_HOLE_ZERO: u32 = 3;
/// Number of the one metadata context that there is, `base:allocation`.
pub(super) const ALLOCATION_CONTEXT: u32 = 1;

/// A request as it was sent, without payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flags: u16,
    pub(super) command: u16,
    /// The client's own number.
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Header {
    /// `None` if the magic number is wrong.
    pub(super) fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.u32()? != REQUEST_MAGIC {
            return None;
        }
        Some(Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            len: fields.u32()?,
        })
    }
}

/// Error numbers of the protocol (those of Linux).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum WireError {
    Perm = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
    Overflow = 75,
    Unsupported = 95,
    Shutdown = 108,
}

impl From<ErrorKind> for WireError {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::ReadOnly => Self::Perm,
            ErrorKind::NoSpace => Self::NoSpace,
            ErrorKind::OutOfRange | ErrorKind::Config => Self::Invalid,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Shutdown => Self::Shutdown,
            ErrorKind::Io
            | ErrorKind::Corrupt
            | ErrorKind::Locked
            | ErrorKind::Busy
            | ErrorKind::Version
            | ErrorKind::NotFound
            | ErrorKind::Exists => Self::Io,
        }
    }
}

/// A success or an error without data, as everybody understands it.
pub(super) fn put_simple(out: &mut Output<'_>, cookie: u64, error: Option<WireError>) {
    out.u32(SIMPLE_MAGIC);
    out.u32(error.map_or(0, |error| error as u32));
    out.u64(cookie);
}

/// The header of a read's data in one structured chunk; `len` bytes of data follow.
pub(super) fn put_data_header(out: &mut Output<'_>, cookie: u64, offset: u64, len: u32) {
    put_chunk(out, CHUNK_OFFSET_DATA, cookie, len + 8);
    out.u64(offset);
}

/// An error as a structured reply, or a success without content.
pub(super) fn put_structured(out: &mut Output<'_>, cookie: u64, error: Option<WireError>) {
    match error {
        Some(error) => {
            put_chunk(out, CHUNK_ERROR, cookie, 6);
            out.u32(error as u32);
            out.u16(0);
        }
        None => put_chunk(out, CHUNK_NONE, cookie, 0),
    }
}

/// The parts of the first `len` bytes of a range. What no extent covers is not reported; with none at all everything
/// is said to be data, which is always true enough.
pub(super) fn put_block_status(out: &mut Output<'_>, cookie: u64, len: u32, extents: &[Extent], most: usize) {
    let mut parts: Vec<(u32, bool)> = Vec::with_capacity(extents.len().min(most));
    let mut left = len;
    for extent in extents {
        let part = u32::try_from(extent.len).map_or(left, |bytes| bytes.min(left));
        if part == 0 {
            continue;
        }
        let full = parts.len() == most;
        match parts.last_mut() {
            Some((before, data)) if *data == extent.data => *before += part,
            _ if full => break,
            _ => parts.push((part, extent.data)),
        }
        left -= part;
    }
    if parts.is_empty() {
        parts.push((len, true));
    }
    let count = u32::try_from(parts.len()).expect("bounded by `most`");
    put_chunk(out, CHUNK_BLOCK_STATUS, cookie, 4 + count * 8);
    out.u32(ALLOCATION_CONTEXT);
    for (bytes, data) in parts {
        out.u32(bytes);
        out.u32(if data { 0 } else { STATE_HOLE_ZERO });
    }
}

fn put_chunk(out: &mut Output<'_>, kind: u16, cookie: u64, len: u32) {
    out.u32(STRUCTURED_MAGIC);
    out.u16(REPLY_DONE);
    out.u16(kind);
    out.u64(cookie);
    out.u32(len);
}

/// Reads big-endian fields off the front of a slice.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*front)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string with its length before it.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.bytes(len)
    }
}

/// Writes big-endian fields into a buffer that is known to be long enough.
pub(super) struct Output<'a> {
    buf: &'a mut [u8],
    at: usize,
}

impl<'a> Output<'a> {
    /// Writes behind the first `at` bytes.
    pub(super) fn new(buf: &'a mut [u8], at: usize) -> Self {
        Self { buf, at }
    }

    /// How far the buffer is filled.
    pub(super) fn len(&self) -> usize {
        self.at
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.buf[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(put: impl FnOnce(&mut Output<'_>)) -> Vec<u8> {
        let mut buf = vec![0; 1 << 16];
        let mut out = Output::new(&mut buf, 0);
        put(&mut out);
        let len = out.len();
        buf.truncate(len);
        buf
    }

    #[test]
    fn a_request_is_decoded_field_by_field() {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&[0x25, 0x60, 0x95, 0x13]);
        bytes[4..8].copy_from_slice(&[0, 1, 0, 6]);
        bytes[8..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        bytes[16..24].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0x10, 0]);
        bytes[24..28].copy_from_slice(&[0, 0, 0x20, 0]);
        let expected =
            Header { flags: 1, command: 6, cookie: 0x0102_0304_0506_0708, offset: 0x1_0000_1000, len: 0x2000 };
        assert_eq!(Header::decode(&bytes), Some(expected));
        for at in 0..4 {
            let mut wrong = bytes;
            wrong[at] ^= 1;
            assert_eq!(Header::decode(&wrong), None, "byte {at} of the magic number");
        }
    }

    #[test]
    fn replies_have_the_lengths_they_say() {
        assert_eq!(
            encoded(|out| put_simple(out, 7, None)),
            [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]
        );
        assert_eq!(encoded(|out| put_simple(out, 7, Some(WireError::NoSpace)))[4..8], [0, 0, 0, 28]);
        let data = encoded(|out| put_data_header(out, 7, 4096, 8192));
        assert_eq!(data.len(), 28);
        assert_eq!(data[4..8], [0, 1, 0, 1], "done, offset data");
        assert_eq!(data[16..20], [0, 0, 0x20, 8]);
        let error = encoded(|out| put_structured(out, 7, Some(WireError::Io)));
        assert_eq!(error.len(), 26);
        assert_eq!(error[4..8], [0, 1, 0x80, 1]);
        assert_eq!(error[16..26], [0, 0, 0, 6, 0, 0, 0, 5, 0, 0]);
    }

    fn status(len: u32, extents: &[Extent], most: usize) -> Vec<(u32, u32)> {
        let bytes = encoded(|out| put_block_status(out, 1, len, extents, most));
        let mut fields = Fields(&bytes[16..]);
        let payload = fields.u32().unwrap() as usize;
        assert_eq!(payload, bytes.len() - 20);
        assert_eq!(fields.u32(), Some(ALLOCATION_CONTEXT));
        std::iter::from_fn(|| Some((fields.u32()?, fields.u32()?))).collect()
    }

    #[test]
    fn block_status_merges_cuts_and_never_is_empty() {
        let extent = |len, data| Extent { len, data };
        let parts = [extent(4096, true), extent(4096, true), extent(8192, false), extent(1 << 40, true)];
        assert_eq!(status(65536, &parts, 100), [(8192, 0), (8192, 3), (49152, 0)]);
        assert_eq!(status(65536, &parts, 1), [(8192, 0)]);
        assert_eq!(status(4096, &parts, 100), [(4096, 0)]);
        assert_eq!(status(65536, &[], 100), [(65536, 0)]);
    }

    proptest! {
        #[test]
        fn block_status_never_exceeds_the_request(
            len in 1..=u32::MAX,
            parts in proptest::collection::vec((any::<u64>(), any::<bool>()), 0..50),
            most in 1..40_usize,
        ) {
            let extents: Vec<_> = parts.into_iter().map(|(len, data)| Extent { len, data }).collect();
            let status = status(len, &extents, most);
            prop_assert!(!status.is_empty() && status.len() <= most);
            prop_assert!(status.iter().all(|(bytes, _)| *bytes > 0));
            prop_assert!(status.iter().map(|(bytes, _)| u64::from(*bytes)).sum::<u64>() <= u64::from(len));
        }

        #[test]
        fn any_bytes_decode_to_something(bytes in any::<[u8; REQUEST_BYTES]>(), more in any::<Vec<u8>>()) {
            let header = Header::decode(&bytes);
            prop_assert_eq!(header.is_some(), bytes[..4] == [0x25, 0x60, 0x95, 0x13]);
            let mut fields = Fields(&more);
            let string = fields.string().map(<[u8]>::len);
            prop_assert!(string.is_none_or(|len| len + 4 + fields.0.len() == more.len()));
        }
    }
}
