//! What clients write: bytes that name the write they come from.
//!
//! Every sector of 512 bytes carries the number of its write, its namespace and its place, then filler that compresses
//! well, somewhat or not at all, depending on the write. Some writes have blocks of zeros in them. All of it is a
//! function of the write's number, so that a read is compared byte for byte without keeping what was written.

/// Bytes of a sector.
pub const SECTOR_BYTES: usize = 512;
const SECTORS_PER_BLOCK: u64 = 8;
const STAMP_BYTES: usize = 32;
const MAGIC: u64 = 0x706c_6963_6173_696d;

/// What a cell (one logical block of a namespace) turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Zeros only.
    Zero,
    /// Exactly what this write put there.
    Write(u64),
    /// Bytes that no write put there.
    Foreign,
}

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whether write `id` has zeros at `sector`.
#[must_use]
pub fn is_zero(id: u64, sector: u64) -> bool {
    mix(id).is_multiple_of(8) && mix(id ^ (sector / SECTORS_PER_BLOCK)).is_multiple_of(2)
}

/// The bytes of write `id` from `sector` on.
pub fn fill(id: u64, namespace: u32, sector: u64, buf: &mut [u8]) {
    for (sector, bytes) in (sector..).zip(buf.chunks_exact_mut(SECTOR_BYTES)) {
        fill_sector(id, namespace, sector, bytes);
    }
}

fn fill_sector(id: u64, namespace: u32, sector: u64, bytes: &mut [u8]) {
    if is_zero(id, sector) {
        bytes.fill(0);
        return;
    }
    bytes[0..8].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&id.to_le_bytes());
    bytes[16..24].copy_from_slice(&sector.to_le_bytes());
    bytes[24..28].copy_from_slice(&namespace.to_le_bytes());
    bytes[28..32].fill(0);
    let filler = &mut bytes[STAMP_BYTES..];
    let random_of_4 = mix(id ^ 0x5eed) % 5;
    let repeated = mix(id).to_le_bytes();
    let mut state = mix(id ^ (sector << 20));
    for (i, chunk) in (0u64..).zip(filler.chunks_exact_mut(8)) {
        if i % 4 < random_of_4 {
            state = mix(state);
            chunk.copy_from_slice(&state.to_le_bytes());
        } else {
            chunk.copy_from_slice(&repeated);
        }
    }
}

/// What `cell`, read at `sector`, holds.
#[must_use]
pub fn find(namespace: u32, sector: u64, cell: &[u8]) -> Found {
    if cell.iter().all(|byte| *byte == 0) {
        return Found::Zero;
    }
    let id = u64::from_le_bytes(cell[8..16].try_into().unwrap_or_default());
    let mut expected = [0; SECTOR_BYTES];
    for (sector, bytes) in (sector..).zip(cell.chunks_exact(SECTOR_BYTES)) {
        fill_sector(id, namespace, sector, &mut expected);
        if bytes != expected {
            return Found::Foreign;
        }
    }
    Found::Write(id)
}

/// What the stamp of a sector says, for reports on [`Found::Foreign`] bytes.
#[must_use]
pub fn describe(sector: &[u8]) -> String {
    let word = |at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().unwrap_or_default());
    if sector.iter().all(|byte| *byte == 0) {
        "zeros".into()
    } else if word(0) == MAGIC {
        format!("write {} of namespace {} for sector {}", word(8), word(24), word(16))
    } else {
        format!("no stamp ({:016x} {:016x})", word(0), word(8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_names_its_write() {
        let mut zeros = 0;
        for id in 1..200 {
            let mut block = [0; 4096];
            fill(id, 3, 80, &mut block);
            match find(3, 80, &block) {
                Found::Zero => {
                    assert!(is_zero(id, 80));
                    zeros += 1;
                    continue;
                }
                found => assert_eq!(found, Found::Write(id)),
            }
            assert_eq!(find(3, 88, &block), Found::Foreign, "another place");
            assert_eq!(find(4, 80, &block), Found::Foreign, "another namespace");
            assert_eq!(find(3, 80, &block[..512]), Found::Write(id), "one sector is enough");
            block[4095] ^= 1;
            assert_eq!(find(3, 80, &block), Found::Foreign, "one bit");
        }
        assert!((1..40).contains(&zeros), "{zeros} zero blocks");
    }
}
