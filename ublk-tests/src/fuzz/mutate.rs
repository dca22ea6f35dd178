//! Mutations: a few random changes of a sample, of the kinds that decoders trip over.

use fastrand::Rng;

/// Values at the edges of what fields hold.
const EDGES: [u64; 16] = [
    0,
    1,
    7,
    8,
    39,
    0x7f,
    0xff,
    0xfff,
    0x1000,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX - 7,
    u64::MAX,
];

/// An input: a mutated sample with, mostly, its checks made good; now and then noise.
pub fn input(corpus: &[Vec<u8>], seal: fn(&mut [u8]), rng: &mut Rng) -> Vec<u8> {
    if corpus.is_empty() || rng.u8(..) == 0 {
        let mut noise = vec![0; rng.usize(..5000)];
        rng.fill(&mut noise);
        return noise;
    }
    let mut bytes = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..1 + rng.usize(..4) {
        mutate(&mut bytes, rng);
    }
    if rng.u8(..8) != 0 {
        seal(&mut bytes);
    }
    bytes
}

/// Where to change something: mostly among the first bytes, where the fields are.
fn position(len: usize, rng: &mut Rng) -> usize {
    match rng.u8(..4) {
        0 => rng.usize(..len),
        1 => rng.usize(..len.min(1024)),
        2 => len - 1 - rng.usize(..len.min(256)),
        _ => rng.usize(..len.min(128)),
    }
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = position(bytes.len(), rng);
    match rng.u8(..10) {
        0 => bytes[at] ^= 1 << rng.u8(..8),
        1 => bytes[at] = rng.u8(..),
        2 | 3 => field(bytes, at, EDGES[rng.usize(..EDGES.len())], rng),
        4 => field(bytes, at, rng.u64(..), rng),
        5 => add(bytes, at, rng),
        6 => {
            let from = position(bytes.len(), rng);
            let len = rng.usize(..64).min(bytes.len() - at.max(from));
            bytes.copy_within(from..from + len, at);
        }
        7 => {
            let end = (at + rng.usize(..256)).min(bytes.len());
            bytes[at..end].fill(rng.u8(..) & 1);
        }
        8 => bytes.truncate(at),
        _ => {
            let more = rng.usize(..128);
            bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(more));
        }
    }
}

/// Overwrites 1, 2, 4, 5 or 8 bytes, mostly aligned as fields are.
fn field(bytes: &mut [u8], at: usize, value: u64, rng: &mut Rng) {
    let width = [1, 2, 4, 5, 8][rng.usize(..5)];
    let at = if rng.bool() { at / width * width } else { at };
    let end = (at + width).min(bytes.len());
    bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
}

fn add(bytes: &mut [u8], at: usize, rng: &mut Rng) {
    let by = i64::from(rng.i8(-16..=16));
    if let Some(chunk) = bytes.get_mut(at & !3..).and_then(|rest| rest.first_chunk_mut::<4>()) {
        let value = i64::from(u32::from_le_bytes(*chunk)) + by;
        chunk.copy_from_slice(&value.to_le_bytes()[..4]);
    }
}
