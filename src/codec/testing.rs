//! Shared by the tests of keys and codec.

use crate::keys::DataKey;

/// The bytes that `digits` spell.
pub(crate) fn hex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "{digits:?} has half a byte");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// A data key that depends on `seed`.
pub(crate) fn data_key(seed: u8) -> DataKey {
    let bytes: [u8; 64] = std::array::from_fn(|i| seed.wrapping_add(u8::try_from(i).unwrap()));
    DataKey::from_bytes(&bytes).unwrap()
}

/// Bytes without any pattern, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()[7]
    };
    (0..len).map(|_| next()).collect()
}

/// Half noise, half zeros, in alternating runs: about 2:1.
pub(crate) fn half_noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = noise(len, seed);
    for (i, run) in bytes.chunks_mut(256).enumerate() {
        if i % 2 == 1 {
            run.fill(0);
        }
    }
    bytes
}
