//! From the driver's descriptor of a request to ours. Pure.

use libublk::sys;

use super::params::SECTOR;
use crate::core::request::RequestKind;
use crate::error::ErrorKind;

/// A request as the core shall see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// What is asked.
    pub(super) kind: RequestKind,
    /// First byte.
    pub(super) offset: u64,
    /// Bytes; 0 for a flush.
    pub(super) len: u64,
}

impl Asked {
    /// Whether the tag's buffer goes along.
    pub(super) fn has_data(self) -> bool {
        matches!(self.kind, RequestKind::Read | RequestKind::Write { .. })
    }
}

/// Reads a descriptor. `io_bytes` is what the buffer of a tag holds.
///
/// # Errors
/// The kind for the errno that the host gets at once.
pub(super) fn translate(descriptor: sys::ublksrv_io_desc, io_bytes: usize) -> Result<Asked, ErrorKind> {
    let fua = descriptor.op_flags & sys::UBLK_IO_F_FUA != 0;
    let kind = match descriptor.op_flags & 0xff {
        sys::UBLK_IO_OP_READ => RequestKind::Read,
        sys::UBLK_IO_OP_WRITE => RequestKind::Write { fua },
        sys::UBLK_IO_OP_FLUSH => return Ok(Asked { kind: RequestKind::Flush, offset: 0, len: 0 }),
        sys::UBLK_IO_OP_DISCARD => RequestKind::Discard,
        // NOUNMAP asks that space stays taken; a log-structured store overwrites elsewhere anyway, so zeros are zeros
        sys::UBLK_IO_OP_WRITE_ZEROES => RequestKind::WriteZeroes { fua },
        _ => return Err(ErrorKind::Unsupported),
    };
    let len = u64::from(descriptor.nr_sectors) * SECTOR;
    let offset = descriptor.start_sector.checked_mul(SECTOR).ok_or(ErrorKind::OutOfRange)?;
    let asked = Asked { kind, offset, len };
    if asked.has_data() && usize::try_from(len).map_or(true, |len| len > io_bytes) {
        return Err(ErrorKind::OutOfRange);
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(op_flags: u32, nr_sectors: u32, start_sector: u64) -> sys::ublksrv_io_desc {
        sys::ublksrv_io_desc { op_flags, nr_sectors, start_sector, addr: 0 }
    }

    #[test]
    fn every_operation_is_what_it_says() {
        let fua = sys::UBLK_IO_F_FUA;
        let cases = [
            (sys::UBLK_IO_OP_READ, RequestKind::Read),
            (sys::UBLK_IO_OP_READ | sys::UBLK_IO_F_META, RequestKind::Read),
            (sys::UBLK_IO_OP_WRITE, RequestKind::Write { fua: false }),
            (sys::UBLK_IO_OP_WRITE | fua | sys::UBLK_IO_F_SWAP, RequestKind::Write { fua: true }),
            (sys::UBLK_IO_OP_DISCARD, RequestKind::Discard),
            (sys::UBLK_IO_OP_WRITE_ZEROES | sys::UBLK_IO_F_NOUNMAP, RequestKind::WriteZeroes { fua: false }),
            (sys::UBLK_IO_OP_WRITE_ZEROES | fua, RequestKind::WriteZeroes { fua: true }),
        ];
        for (op_flags, kind) in cases {
            let asked = translate(descriptor(op_flags, 8, 16), 64 << 10).unwrap();
            assert_eq!(asked, Asked { kind, offset: 8192, len: 4096 });
        }
        let flush = translate(descriptor(sys::UBLK_IO_OP_FLUSH, 0, 0), 64 << 10).unwrap();
        assert_eq!(flush, Asked { kind: RequestKind::Flush, offset: 0, len: 0 });
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for op in [sys::UBLK_IO_OP_WRITE_SAME, sys::UBLK_IO_OP_ZONE_APPEND, sys::UBLK_IO_OP_REPORT_ZONES, 0xff] {
            assert_eq!(translate(descriptor(op, 8, 0), 64 << 10), Err(ErrorKind::Unsupported));
        }
        assert_eq!(translate(descriptor(sys::UBLK_IO_OP_READ, 129, 0), 64 << 10), Err(ErrorKind::OutOfRange));
        assert!(translate(descriptor(sys::UBLK_IO_OP_READ, 128, 0), 64 << 10).is_ok());
        assert!(translate(descriptor(sys::UBLK_IO_OP_DISCARD, 1 << 16, 0), 64 << 10).is_ok());
        assert_eq!(translate(descriptor(sys::UBLK_IO_OP_WRITE, 8, u64::MAX), 64 << 10), Err(ErrorKind::OutOfRange));
    }
}
