//! What the host's block layer is told about a device.
//!
//! The cache attributes cannot change while a device lives, so a volatile cache and FUA are always there: what makes a
//! flush cheap is the pool's business.

use libublk::sys;

use crate::error::Result;
use crate::fail;
use crate::limits::{ATOMIC_BYTES, BLOCK_SHIFT, BLOCK_SIZE, REQUEST_BYTES_MAX};

const SECTOR_SHIFT: u32 = 9;

/// Bytes in the unit of the driver's offsets and lengths.
pub(super) const SECTOR: u64 = 1 << SECTOR_SHIFT;

/// Sectors of the largest discard and write-zeroes request.
#[expect(clippy::cast_possible_truncation, reason = "a constant, checked below")]
const CLEAR_SECTORS_MAX: u32 = (REQUEST_BYTES_MAX >> SECTOR_SHIFT) as u32;
const _: () = assert!(CLEAR_SECTORS_MAX as u64 * SECTOR == REQUEST_BYTES_MAX);

/// Parameters of a new device of `bytes` bytes in blocks of `logical_block`, with reads and writes up to `io_bytes`.
///
/// # Errors
/// `Config` if the size is not a whole number of blocks or the block size is not 512 or 4096.
pub(super) fn parameters(bytes: u64, logical_block: u32, io_bytes: u32) -> Result<sys::ublk_params> {
    if logical_block != 512 && logical_block != BLOCK_SIZE {
        fail!(Config, "logical blocks of {logical_block} bytes: 512 and 4096 can be had");
    }
    if bytes == 0 || !bytes.is_multiple_of(u64::from(logical_block)) {
        fail!(Config, "a device of {bytes} bytes: the size must be a multiple of {logical_block}, and not 0");
    }
    let basic = sys::ublk_param_basic {
        attrs: sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA,
        logical_bs_shift: shift(u64::from(logical_block)),
        physical_bs_shift: shift(1 << BLOCK_SHIFT),
        io_opt_shift: shift(ATOMIC_BYTES),
        io_min_shift: shift(1 << BLOCK_SHIFT),
        max_sectors: io_bytes >> SECTOR_SHIFT,
        dev_sectors: bytes >> SECTOR_SHIFT,
        ..Default::default()
    };
    let discard = sys::ublk_param_discard {
        discard_alignment: 0,
        discard_granularity: BLOCK_SIZE,
        max_discard_sectors: CLEAR_SECTORS_MAX,
        max_write_zeroes_sectors: CLEAR_SECTORS_MAX,
        max_discard_segments: 1,
        ..Default::default()
    };
    Ok(sys::ublk_params {
        types: sys::UBLK_PARAM_TYPE_BASIC | sys::UBLK_PARAM_TYPE_DISCARD,
        basic,
        discard,
        ..Default::default()
    })
}

/// Size in bytes that a device with these parameters has.
pub(super) fn size_bytes(params: &sys::ublk_params) -> u64 {
    params.basic.dev_sectors << SECTOR_SHIFT
}

/// Bytes of a logical block of a device with these parameters.
pub(super) fn logical_block(params: &sys::ublk_params) -> u32 {
    1 << params.basic.logical_bs_shift.min(31)
}

#[expect(clippy::cast_possible_truncation, reason = "at most 63")]
fn shift(power_of_two: u64) -> u8 {
    power_of_two.trailing_zeros() as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_new_device_has_a_cache_fua_and_discard() {
        for block in [512, 4096] {
            let params = parameters(8 << 30, block, 512 << 10).unwrap();
            assert_eq!(params.basic.attrs, sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA);
            assert_eq!(logical_block(&params), block);
            assert_eq!(size_bytes(&params), 8 << 30);
            assert_eq!(params.basic.max_sectors, 1024);
            assert_eq!(1 << params.basic.io_opt_shift, 64 << 10);
            assert_eq!((1 << params.basic.physical_bs_shift, 1 << params.basic.io_min_shift), (4096, 4096));
            assert_eq!(u64::from(params.discard.max_write_zeroes_sectors) * SECTOR, REQUEST_BYTES_MAX);
            assert_eq!(params.discard.max_discard_segments, 1);
        }
    }

    #[test]
    fn odd_sizes_are_refused() {
        for (bytes, block) in [(0, 4096), (4096 + 512, 4096), (1 << 20, 1024)] {
            assert_eq!(parameters(bytes, block, 512 << 10).unwrap_err().kind(), ErrorKind::Config);
        }
        assert!(parameters(4096 + 512, 512, 512 << 10).is_ok());
    }
}
