//! The bytes of a block say which operation wrote them; half of them compress.

use super::{BLOCK_BYTES, Plan};

const MAGIC: u64 = 0x736e_7469_7721_0a0d;
const TEXT: &[u8] = b"a fold in the cloth; ";

/// What a block that was read turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All zeros.
    Zeros,
    /// What this operation wrote there.
    Op(u64),
    /// Nothing that was ever written there.
    Damaged,
}

/// What operation `number` of `plan` writes to block `lba`.
#[must_use]
pub fn block(plan: &Plan, lba: u64, number: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK_BYTES);
    for field in [MAGIC, plan.seed, lba, number] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    let mut random = fastrand::Rng::with_seed(plan.seed ^ lba.rotate_left(40) ^ number);
    while bytes.len() < BLOCK_BYTES / 2 {
        bytes.extend_from_slice(&random.u64(..).to_le_bytes());
    }
    while bytes.len() < BLOCK_BYTES {
        let length = TEXT.len().min(BLOCK_BYTES - bytes.len());
        bytes.extend_from_slice(&TEXT[..length]);
    }
    bytes
}

/// Which operation of `plan` wrote these bytes to block `lba`.
#[must_use]
pub fn identify(plan: &Plan, lba: u64, bytes: &[u8]) -> Found {
    if bytes.iter().all(|b| *b == 0) {
        return Found::Zeros;
    }
    let number = bytes.get(24..32).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    number.filter(|n| block(plan, lba, *n) == bytes).map_or(Found::Damaged, Found::Op)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_names_its_operation_and_any_change_is_seen() {
        let plan = Plan { seed: 3, block_count: 100 };
        let bytes = block(&plan, 17, 90);
        assert_eq!(bytes.len(), BLOCK_BYTES);
        assert_eq!(identify(&plan, 17, &bytes), Found::Op(90));
        assert_eq!(identify(&plan, 18, &bytes), Found::Damaged);
        assert_eq!(identify(&Plan { seed: 4, ..plan }, 17, &bytes), Found::Damaged);
        assert_eq!(identify(&plan, 17, &vec![0; BLOCK_BYTES]), Found::Zeros);
        for position in [0, 8, 24, 31, 500, 2047, 2048, 4095] {
            let mut changed = bytes.clone();
            changed[position] ^= 4;
            assert_eq!(identify(&plan, 17, &changed), Found::Damaged, "byte {position}");
        }
    }
}
