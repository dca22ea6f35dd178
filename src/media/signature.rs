//! What already lives on a medium, by its magic numbers: so that nothing is overwritten that somebody may miss.
//!
//! **Not here:** whether overwriting is allowed (the commands decide), and checking anything beyond the magic number.

use crate::format::journal;

/// A magic number and what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// For people: "an XFS filesystem".
    pub name: &'static str,
    /// Byte offset on the medium.
    pub offset: usize,
    /// The bytes there.
    pub magic: &'static [u8],
}

const fn at(offset: usize, magic: &'static [u8], name: &'static str) -> Signature {
    Signature { name, offset, magic }
}

/// Bytes from the start of a medium that are looked at.
pub const HEAD_BYTES: usize = 256 << 10;
/// Bytes from the end of a medium that are looked at (mdraid keeps older superblocks there).
pub const TAIL_BYTES: usize = 128 << 10;

/// The first that fits is it; what is more specific comes first, since boot sectors of filesystems look like an MBR.
const HEAD: &[Signature] = &[
    at(0, &journal::MAGIC, "the journal of a Plica pool"),
    at(journal::JOURNAL_HEADER_BYTES, &journal::MAGIC, "the journal of a Plica pool"),
    at(0, b"LUKS\xba\xbe", "a LUKS container"),
    at(0x10040, b"_BHRfS_M", "a btrfs filesystem"),
    at(0, b"XFSB", "an XFS filesystem"),
    at(4086, b"SWAPSPACE2", "swap space"),
    at(4086, b"SWAP-SPACE", "swap space"),
    at(512, b"LABELONE", "an LVM2 physical volume"),
    at(0, b"LABELONE", "an LVM2 physical volume"),
    at(4096, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID (mdraid)"),
    at(0, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID (mdraid)"),
    at(4120, b"\xc6\x85\x73\xf6", "a bcache or bcachefs member"),
    at(0, b"dmvdo001", "a VDO volume"),
    at(1024, b"\x10\x20\xf5\xf2", "an F2FS filesystem"),
    at(1024, b"\xe2\xe1\xf5\xe0", "an EROFS filesystem"),
    at(0, b"hsqs", "a squashfs filesystem"),
    at(0, b"QFI\xfb", "a QCOW2 image"),
    at(0x8000, b"JFS1", "a JFS filesystem"),
    at(0x8001, b"CD001", "an ISO 9660 filesystem"),
    at(512, b"EFI PART", "a GPT partition table"),
    at(4096, b"EFI PART", "a GPT partition table"),
    at(3, b"NTFS    ", "an NTFS filesystem"),
    at(3, b"EXFAT   ", "an exFAT filesystem"),
    at(82, b"FAT32   ", "a FAT filesystem"),
    at(54, b"FAT16   ", "a FAT filesystem"),
    at(54, b"FAT12   ", "a FAT filesystem"),
];
const MBR: Signature = at(510, b"\x55\xaa", "a partition table (MBR) or boot sector");
const EXT_MAGIC: Signature = at(0x438, b"\x53\xef", "an ext filesystem");
const RAID_MAGIC: &[u8] = b"\xfc\x4e\x2b\xa9";

/// Names what is on a medium of `size` bytes, given its first up to [`HEAD_BYTES`] and its last up to [`TAIL_BYTES`]
/// (or all of it, if it is smaller). `own` is looked at first.
#[must_use]
pub fn detect(head: &[u8], tail: &[u8], size: u64, own: &[Signature]) -> Option<&'static str> {
    own.iter()
        .chain(HEAD)
        .find(|signature| found(head, signature.offset, signature.magic))
        .map(|signature| signature.name)
        .or_else(|| ext(head))
        .or_else(|| zfs(head))
        .or_else(|| raid_at_end(tail, size))
        .or_else(|| found(head, MBR.offset, MBR.magic).then_some(MBR.name))
}

fn found(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic))
}

/// ext2, ext3 and ext4 share a magic number and differ by feature bits.
fn ext(head: &[u8]) -> Option<&'static str> {
    const COMPAT_JOURNAL: u8 = 0x04;
    const INCOMPAT_EXTENTS_64BIT_FLEX: u16 = 0x0040 | 0x0080 | 0x0200;
    if !found(head, EXT_MAGIC.offset, EXT_MAGIC.magic) {
        return None;
    }
    let compat = *head.get(0x45c)?;
    let incompat = u16::from_le_bytes([*head.get(0x460)?, *head.get(0x461)?]);
    Some(if incompat & INCOMPAT_EXTENTS_64BIT_FLEX != 0 {
        "an ext4 filesystem"
    } else if compat & COMPAT_JOURNAL != 0 {
        "an ext3 filesystem"
    } else {
        "an ext2 filesystem"
    })
}

/// The first label's ring of uberblocks: 128 slots of 1 KiB or fewer larger ones, in either byte order.
fn zfs(head: &[u8]) -> Option<&'static str> {
    const UBERBLOCKS_AT: usize = 128 << 10;
    const MAGIC: u64 = 0x00ba_b10c;
    let slots = head.get(UBERBLOCKS_AT..)?.chunks(1024);
    let is_uberblock = |slot: &[u8]| {
        slot.first_chunk::<8>()
            .is_some_and(|word| u64::from_le_bytes(*word) == MAGIC || u64::from_le_bytes(*word).swap_bytes() == MAGIC)
    };
    slots.take(128).any(is_uberblock).then_some("a member of a ZFS pool")
}

/// Superblocks 0.90 (the last whole 64 KiB but one) and 1.0 (8 KiB before the end).
fn raid_at_end(tail: &[u8], size: u64) -> Option<&'static str> {
    let old = (size & !0xffff).checked_sub(0x1_0000);
    let new = size.checked_sub(0x2000).map(|at| at & !0xfff);
    let starts_at = size.checked_sub(tail.len() as u64)?;
    [old, new]
        .into_iter()
        .flatten()
        .filter_map(|at| usize::try_from(at.checked_sub(starts_at)?).ok())
        .any(|at| found(tail, at, RAID_MAGIC))
        .then_some("a member of a Linux RAID (mdraid)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut image = vec![0; 1 << 20];
        for (offset, bytes) in parts {
            image[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        image
    }

    fn detect_image(image: &[u8]) -> Option<&'static str> {
        let head = &image[..image.len().min(HEAD_BYTES)];
        let tail = &image[image.len().saturating_sub(TAIL_BYTES)..];
        detect(head, tail, image.len() as u64, &[])
    }

    #[test]
    fn empty_and_short_media_hold_nothing() {
        assert_eq!(detect_image(&image(&[])), None);
        assert_eq!(detect_image(&[]), None);
        assert_eq!(detect_image(&[0x55, 0xaa]), None);
    }

    #[test]
    fn every_entry_of_the_table_is_found() {
        for signature in HEAD {
            let image = image(&[(signature.offset, signature.magic)]);
            assert_eq!(detect_image(&image), Some(signature.name), "{signature:?}");
        }
    }

    #[test]
    fn ext_generations_differ_by_features() {
        let magic = (0x438, b"\x53\xef".as_slice());
        assert_eq!(detect_image(&image(&[magic])), Some("an ext2 filesystem"));
        assert_eq!(detect_image(&image(&[magic, (0x45c, b"\x04")])), Some("an ext3 filesystem"));
        assert_eq!(detect_image(&image(&[magic, (0x45c, b"\x04"), (0x460, b"\x40")])), Some("an ext4 filesystem"));
    }

    #[test]
    fn raid_and_zfs_in_their_places() {
        let size = 1 << 20;
        assert_eq!(detect_image(&image(&[(size - 0x2000, RAID_MAGIC)])), Some("a member of a Linux RAID (mdraid)"));
        assert_eq!(detect_image(&image(&[(size - 0x1_0000, RAID_MAGIC)])), Some("a member of a Linux RAID (mdraid)"));
        let uberblock = 0x00ba_b10c_u64.to_le_bytes();
        assert_eq!(detect_image(&image(&[((128 << 10) + 5 * 1024, &uberblock)])), Some("a member of a ZFS pool"));
    }

    #[test]
    fn a_boot_sector_comes_last_and_our_own_first() {
        let boot = (510, b"\x55\xaa".as_slice());
        assert_eq!(detect_image(&image(&[boot])), Some("a partition table (MBR) or boot sector"));
        assert_eq!(detect_image(&image(&[boot, (512, b"EFI PART")])), Some("a GPT partition table"));
        let own = [at(0, b"OURS", "a pool")];
        let image = image(&[boot, (0, b"OURS")]);
        assert_eq!(detect(&image[..HEAD_BYTES], &[], 1 << 20, &own), Some("a pool"));
    }
}
