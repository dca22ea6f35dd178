//! What a request header asks for, and whether it may be done. Pure.

use super::wire::{Header, WireError};
use crate::core::request::RequestKind;
use crate::limits::REQUEST_BYTES_MAX;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

const FLAG_FUA: u16 = 1;
/// Asks for zeros that are allocated. Space is taken when data comes, so there is nothing to do for it.
const FLAG_NO_HOLE: u16 = 1 << 1;
const FLAG_DONT_FRAGMENT: u16 = 1 << 2;
const FLAG_ONE_EXTENT: u16 = 1 << 3;
/// Asks to fail rather than write zeros slowly: they are never slow here.
const FLAG_FAST_ZERO: u16 = 1 << 4;

/// What the export and the handshake allow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Bytes of the export now.
    pub(super) size: u64,
    pub(super) logical_block: u32,
    pub(super) read_only: bool,
    /// Whether `base:allocation` was negotiated.
    pub(super) allocation: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes to the core.
    Accept(Ask),
    /// It is answered with an error; a write's payload is skipped.
    Refuse(WireError),
    /// The client says goodbye.
    Disconnect,
    /// The connection cannot go on.
    Violation(&'static str),
}

/// An accepted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) kind: RequestKind,
    /// Bytes; less than was asked for a block status, which may be answered in part.
    pub(super) len: u32,
    /// Block status: only the first extent is wanted.
    pub(super) one_extent: bool,
}

/// Whether a payload of `header.len` bytes follows the header.
pub(super) fn has_payload(header: &Header) -> bool {
    header.command == WRITE
}

/// Whether a refusal must be a structured reply where those were negotiated.
pub(super) fn replies_structured(header: &Header) -> bool {
    matches!(header.command, READ | BLOCK_STATUS)
}

/// Judges a request.
pub(super) fn judge(header: &Header, terms: &Terms) -> Verdict {
    let oversized = u64::from(header.len) > REQUEST_BYTES_MAX;
    let fua = header.flags & FLAG_FUA != 0;
    let (kind, flags) = match header.command {
        DISCONNECT => return Verdict::Disconnect,
        // its payload would have to be received to stay in step
        WRITE if oversized => return Verdict::Violation("a write of more than 32 MiB"),
        READ if oversized && header.flags & FLAG_DONT_FRAGMENT != 0 => return Verdict::Refuse(WireError::Overflow),
        READ if oversized => return Verdict::Refuse(WireError::Invalid),
        READ => (RequestKind::Read, FLAG_DONT_FRAGMENT),
        WRITE => (RequestKind::Write { fua }, 0),
        FLUSH if header.offset != 0 || header.len != 0 => return Verdict::Refuse(WireError::Invalid),
        FLUSH => (RequestKind::Flush, 0),
        // content after a trim is anything; if it must be durable, durable zeros are that
        TRIM if fua => (RequestKind::WriteZeroes { fua }, 0),
        TRIM => (RequestKind::Discard, 0),
        WRITE_ZEROES => (RequestKind::WriteZeroes { fua }, FLAG_NO_HOLE | FLAG_FAST_ZERO),
        BLOCK_STATUS if !terms.allocation => return Verdict::Refuse(WireError::Invalid),
        BLOCK_STATUS => (RequestKind::Status, FLAG_ONE_EXTENT),
        _ => return Verdict::Refuse(WireError::Invalid),
    };
    if header.flags & !(flags | FLAG_FUA) != 0 {
        return Verdict::Refuse(WireError::Invalid);
    }
    match check_range(header, kind, terms) {
        Ok(()) => {}
        Err(error) => return Verdict::Refuse(error),
    }
    let bound =
        if kind == RequestKind::Status { u32::try_from(REQUEST_BYTES_MAX).unwrap_or(u32::MAX) } else { u32::MAX };
    Verdict::Accept(Ask { kind, len: header.len.min(bound), one_extent: header.flags & FLAG_ONE_EXTENT != 0 })
}

fn check_range(header: &Header, kind: RequestKind, terms: &Terms) -> Result<(), WireError> {
    if kind == RequestKind::Flush {
        return Ok(());
    }
    let changes = !matches!(kind, RequestKind::Read | RequestKind::Status);
    if changes && terms.read_only {
        return Err(WireError::Perm);
    }
    let block = u64::from(terms.logical_block);
    let len = u64::from(header.len);
    if len == 0 || !header.offset.is_multiple_of(block) || !len.is_multiple_of(block) {
        return Err(WireError::Invalid);
    }
    if header.offset.checked_add(len).is_none_or(|end| end > terms.size) {
        let writes = matches!(header.command, WRITE | WRITE_ZEROES);
        return Err(if writes { WireError::NoSpace } else { WireError::Invalid });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TERMS: Terms = Terms { size: 1 << 30, logical_block: 4096, read_only: false, allocation: true };

    fn header(command: u16, flags: u16, offset: u64, len: u32) -> Header {
        Header { flags, command, cookie: 1, offset, len }
    }

    fn kind(command: u16, flags: u16) -> Option<RequestKind> {
        match judge(&header(command, flags, 4096, 8192), &TERMS) {
            Verdict::Accept(ask) => Some(ask.kind),
            _ => None,
        }
    }

    #[test]
    fn commands_become_requests() {
        assert_eq!(kind(READ, 0), Some(RequestKind::Read));
        assert_eq!(kind(READ, FLAG_FUA | FLAG_DONT_FRAGMENT), Some(RequestKind::Read));
        assert_eq!(kind(WRITE, 0), Some(RequestKind::Write { fua: false }));
        assert_eq!(kind(WRITE, FLAG_FUA), Some(RequestKind::Write { fua: true }));
        assert_eq!(kind(TRIM, 0), Some(RequestKind::Discard));
        assert_eq!(kind(TRIM, FLAG_FUA), Some(RequestKind::WriteZeroes { fua: true }));
        let flags = FLAG_NO_HOLE | FLAG_FAST_ZERO;
        assert_eq!(kind(WRITE_ZEROES, flags), Some(RequestKind::WriteZeroes { fua: false }));
        assert_eq!(kind(BLOCK_STATUS, FLAG_ONE_EXTENT), Some(RequestKind::Status));
        let flush = judge(&header(FLUSH, 0, 0, 0), &TERMS);
        assert_eq!(flush, Verdict::Accept(Ask { kind: RequestKind::Flush, len: 0, one_extent: false }));
        assert_eq!(judge(&header(DISCONNECT, 0, 0, 0), &TERMS), Verdict::Disconnect);
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_error() {
        let refused = |command, flags, offset, len| judge(&header(command, flags, offset, len), &TERMS);
        let invalid = Verdict::Refuse(WireError::Invalid);
        assert_eq!(refused(99, 0, 0, 4096), invalid, "unknown command");
        assert_eq!(refused(READ, 1 << 9, 0, 4096), invalid, "unknown flag");
        assert_eq!(refused(WRITE, FLAG_NO_HOLE, 0, 4096), invalid, "a flag of another command");
        assert_eq!(refused(READ, 0, 100, 4096), invalid, "unaligned offset");
        assert_eq!(refused(WRITE, 0, 0, 100), invalid, "unaligned length");
        assert_eq!(refused(WRITE, 0, 0, 0), invalid, "nothing");
        assert_eq!(refused(FLUSH, 0, 4096, 0), invalid, "flush of a range");
        assert_eq!(refused(READ, 0, 1 << 30, 4096), invalid, "behind the end");
        assert_eq!(refused(TRIM, 0, u64::MAX - 4095, 4096), invalid, "overflow");
        assert_eq!(refused(READ, 0, 0, (32 << 20) + 4096), invalid, "too large");
        let overflow = refused(READ, FLAG_DONT_FRAGMENT, 0, (32 << 20) + 4096);
        assert_eq!(overflow, Verdict::Refuse(WireError::Overflow));
        assert_eq!(refused(WRITE, 0, 1 << 30, 4096), Verdict::Refuse(WireError::NoSpace));
        assert_eq!(refused(WRITE_ZEROES, 0, 1 << 30, 4096), Verdict::Refuse(WireError::NoSpace));
        assert!(matches!(refused(WRITE, 0, 0, (32 << 20) + 4096), Verdict::Violation(_)));
        let no_context = Terms { allocation: false, ..TERMS };
        assert_eq!(judge(&header(BLOCK_STATUS, 0, 0, 4096), &no_context), invalid);
        let read_only = Terms { read_only: true, ..TERMS };
        assert_eq!(judge(&header(WRITE, 0, 0, 4096), &read_only), Verdict::Refuse(WireError::Perm));
        assert!(matches!(judge(&header(READ, 0, 0, 4096), &read_only), Verdict::Accept(_)));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_in_range(
            command in 0..9_u16, flags in any::<u16>(), offset in any::<u64>(), len in any::<u32>(),
            blocks in 0..1000_u64, block in prop_oneof![Just(512_u32), Just(4096)],
        ) {
            let terms = Terms { size: blocks * u64::from(block), logical_block: block, ..TERMS };
            if let Verdict::Accept(ask) = judge(&header(command, flags, offset, len), &terms)
                && ask.kind != RequestKind::Flush
            {
                prop_assert!(ask.len > 0 && ask.len <= len);
                prop_assert!(offset + u64::from(ask.len) <= terms.size);
                prop_assert!(offset.is_multiple_of(u64::from(block)) && ask.len.is_multiple_of(block));
            }
        }
    }
}
