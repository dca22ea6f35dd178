//! Any value that the types allow survives; any bytes are read without a panic.

use proptest::collection::vec;
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::samples::*;
use crate::format::record::{RecordBody, RecordHeader, all_blocks};
use crate::format::root::{DirectoryChange, LeafImage, Root, SegmentChange, WindowSegment, WindowSession, WindowState};
use crate::format::summary::{Change, SummaryEntry, decode_summary, encode_summary, summary_bytes};
use crate::format::{Codec, Entry, Location, State, Tier};
use crate::limits::NAMESPACE_BLOCKS_MAX;
use crate::units::{Generation, Granule, Lba, NamespaceId, OpNo, SealNo, SegmentId, SessionId};

fn any_entry() -> impl Strategy<Value = Entry> {
    let states = prop_oneof![
        Just(State::Data(Tier::Pmem)),
        Just(State::Data(Tier::Ssd)),
        Just(State::Data(Tier::Object)),
        Just(State::Zero(Tier::Ssd)),
    ];
    let location = (states, 0..1_u32 << 24, 0..1_u32 << 18, 0..128_u8, 0..8_u8, 0..512_u16).prop_map(
        |(state, segment, granule, sectors, index, check)| {
            let (segment, granule) = (SegmentId(segment), Granule(granule));
            Entry::new(&Location { state, segment, granule, sectors, index, check })
        },
    );
    prop_oneof![Just(Entry::HOLE), Just(Entry::LOST), location]
}

fn any_record() -> impl Strategy<Value = RecordHeader> {
    let seal =
        (any::<u64>(), any::<u64>()).prop_map(|(session, counter)| SealNo { session: SessionId(session), counter });
    let codec = prop_oneof![Just(Codec::Raw), Just(Codec::Lz4), Just(Codec::Zstd), Just(Codec::Zero)];
    let fragment = (any::<bool>(), codec, 1..9_u8, 1..=255_u8, seal).prop_map(|(moved, codec, count, mask, seal)| {
        let all = all_blocks(count);
        let mask = if moved && mask & all != 0 { mask & all } else { all };
        RecordBody::Fragment { moved, codec, count, mask, seal }
    });
    let clear = (1..1_u64 << 30).prop_map(|count| RecordBody::Clear { count });
    let leaf = any::<u64>().prop_map(|complete| RecordBody::Leaf { complete });
    let image = (any::<u64>(), any::<u64>()).prop_map(|(image, part)| RecordBody::Image { image, part });
    let body = prop_oneof![fragment, clear, leaf, image];
    (body, 1_u32.., 0..NAMESPACE_BLOCKS_MAX / 2, any::<u16>(), 1..4096_u16).prop_map(
        |(body, namespace, first, op_delta, size)| {
            let (namespace, first, stored) = match body {
                RecordBody::Fragment { codec: Codec::Zero, .. } | RecordBody::Clear { .. } => (namespace, first, 0),
                RecordBody::Fragment { .. } => (namespace, first, size),
                RecordBody::Leaf { .. } => (namespace, first & !511, 4096),
                RecordBody::Image { .. } => (0, 0, size),
            };
            RecordHeader { namespace: NamespaceId(namespace), first: Lba(first), op_delta, stored, body }
        },
    )
}

fn any_root() -> impl Strategy<Value = Root> {
    let states = prop_oneof![Just(WindowState::Announced), Just(WindowState::Open), Just(WindowState::Flushed)];
    let window = (any::<u32>(), any::<u32>(), states, 0..=1024_u32).prop_map(|(segment, generation, state, blocks)| {
        WindowSegment { segment: SegmentId(segment), generation: Generation(generation), state, end: blocks * 4096 }
    });
    let change = (any::<u32>(), any::<u32>())
        .prop_map(|(s, g)| SegmentChange { segment: SegmentId(s), generation: Generation(g) });
    let session = (any::<u64>(), any::<u64>())
        .prop_map(|(s, op)| WindowSession { session: SessionId(s), last_accepted: OpNo(op) });
    let directory = (any::<u32>(), any::<u32>(), any_entry(), 0..1_u64 << 63, any::<bool>()).prop_map(
        |(ns, leaf, entry, op, journaled)| {
            let image = LeafImage { entry, complete: OpNo(op), journaled };
            DirectoryChange { namespace: NamespaceId(ns), leaf, image }
        },
    );
    let lists = (
        vec(any_entry(), 0..20),
        vec(change.clone(), 0..20),
        vec(session, 0..20),
        vec(window, 0..300),
        vec(change, 0..300),
        vec(directory, 0..300),
    );
    (any::<[u64; 5]>(), any::<bool>(), lists).prop_map(|(numbers, clean, lists)| {
        let [sequence, session, replay_start, last_op, image] = numbers;
        let (image_parts, image_generations, sessions, window, segments, directory) = lists;
        Root {
            sequence,
            session: SessionId(session),
            clean,
            replay_start: OpNo(replay_start),
            last_op: OpNo(last_op),
            image,
            image_parts,
            image_generations,
            sessions,
            window,
            segments,
            directory,
            ..root()
        }
    })
}

/// Replaces the checksum at the end of `bytes` by the right one.
fn reseal(bytes: &mut [u8]) {
    if let Some(end) = bytes.len().checked_sub(8) {
        let check = xxh3_64(&bytes[..end]);
        bytes[end..].copy_from_slice(&check.to_le_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn entries(entry in any_entry()) {
        prop_assert_eq!(Entry::from_bits(entry.0).unwrap(), entry);
        if let Some(location) = entry.location() {
            prop_assert_eq!(Entry::new(&location), entry);
        }
    }

    #[test]
    fn records(header in any_record(), hash: u64) {
        let bytes = header.encode(hash, &place());
        let (decoded, check) = RecordHeader::decode(&bytes).unwrap();
        prop_assert_eq!(decoded, header);
        prop_assert!(decoded.verify(check, hash, &place()).is_ok());
        prop_assert!(decoded.verify(check, hash ^ 1, &place()).is_err());
    }

    #[test]
    fn batches(headers in vec(any_record(), 1..40), first in 1..1_u64 << 60) {
        let records: Vec<_> = headers
            .into_iter()
            .enumerate()
            .map(|(i, header)| {
                let header = RecordHeader { op_delta: u16::try_from(i * 3).unwrap(), ..header };
                (header, vec![7; usize::from(header.stored)])
            })
            .collect();
        let bytes = batch_of(&records, &place(), SESSION, first);
        let (header, walked) = read_batch(&bytes, &place()).unwrap();
        prop_assert_eq!(header.count as usize, records.len());
        prop_assert_eq!(header.last_op.0, first + u64::from(walked.last_delta));
    }

    #[test]
    fn roots(root in any_root()) {
        let mut bytes = vec![0xff; root.encoded_bytes()];
        root.encode(&mut bytes).unwrap();
        prop_assert_eq!(Root::decode(&bytes, pool()).unwrap(), root);
    }

    #[test]
    fn summaries(clears in vec((1..1_u64 << 30, 1..1_u64 << 20), 0..200)) {
        let mut op = 77;
        let entries: Vec<_> = clears
            .into_iter()
            .map(|(count, step)| {
                op += step;
                SummaryEntry { op: OpNo(op), namespace: NamespaceId(1), first: Lba(count), change: Change::Clear { count } }
            })
            .collect();
        let mut tail = vec![0xff; summary_bytes(entries.len()).next_multiple_of(4096)];
        encode_summary(&entries, &place(), &mut tail);
        prop_assert_eq!(decode_summary(&tail, &place()).unwrap(), entries);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..5000), at in 0_usize..4096, patch: [u8; 8]) {
        for structure in structures() {
            let _ = (structure.read)(&bytes);
            if structure.name == "namespaces" {
                continue;
            }
            // bytes of a sample with a patch in it, and its checksum made good: deeper than chance gets
            let mut forged = structure.bytes.clone();
            let at = at % forged.len();
            let end = (at + 8).min(forged.len());
            forged[at..end].copy_from_slice(&patch[..end - at]);
            let _ = (structure.read)(&forged);
            reseal(&mut forged);
            let _ = (structure.read)(&forged);
        }
    }
}
