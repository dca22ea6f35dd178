//! What a 4 KiB block costs in compression, sealing and hashing, beside LZ4 alone on the same data.
//!
//! `cargo run --release --example codec_speed [FILE]`
//!
//! The first table is of half-zero blocks, as fio makes for `buffer_compress_percentage=50`; the second of FILE, of
//! which the first 64 MiB are used. "ratio" is the whole encoding over LZ4 alone in the same run.

use std::hint::black_box;
use std::io::Read;
use std::time::Duration;

use plica::codec::{Decoder, ENCODED_BYTES_MAX, Encoder, FragmentName, Sealer, payload_hash};
use plica::error::{Error, Result};
use plica::format::{Cipher, Codec, Compression};
use plica::keys::DataKey;
use plica::limits::BLOCK_BYTES;
use plica::units::{Lba, NamespaceId, SealNo, SessionId};

/// Bytes of a file that are measured.
const SAMPLE_BYTES: usize = 64 << 20;
/// Pieces of a sample that one pass uses.
const PIECES: usize = 512;
/// How long each figure is measured.
const MEASURED: Duration = Duration::from_millis(200);

/// CPU time of this thread: other work on the machine shows less in it than in the time of day.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("CPU time is not negative")
}

/// Nanoseconds per 4 KiB of `unit`-sized pieces of `sample` under `work`: the best of several passes.
fn measure(sample: &[u8], unit: usize, mut work: impl FnMut(&[u8])) -> f64 {
    let begin = cpu_time();
    let mut best = f64::INFINITY;
    while cpu_time() < begin + MEASURED || best.is_infinite() {
        let pass = cpu_time();
        let mut blocks = 0.0;
        for piece in sample.chunks_exact(unit).take(PIECES) {
            work(piece);
            blocks += f64::from(u32::try_from(unit / BLOCK_BYTES).unwrap_or(u32::MAX));
        }
        best = best.min((cpu_time() - pass).as_secs_f64() * 1e9 / blocks);
    }
    best
}

fn print(what: &str, ns: f64, lz4_ns: f64) {
    println!("  {what:<28} {:>8.0} MB/s {:>8.3} µs/block {:>7.2} × lz4", 4096.0 / ns * 1e3, ns / 1e3, ns / lz4_ns);
}

fn sealer(cipher: Cipher) -> Result<Sealer> {
    let key = DataKey::generate(|bytes| {
        getrandom::fill(bytes).map_err(|e| Error::io("no random bytes", std::io::Error::other(e.to_string())))
    })?;
    Ok(Sealer::new(key, cipher))
}

fn table(title: &str, sample: &[u8], unit: usize) -> Result<()> {
    println!("{title}, units of {} KiB", unit >> 10);
    let mut out = vec![0; ENCODED_BYTES_MAX];
    let mut lz4_out = vec![0; lz4_flex::block::get_maximum_output_size(unit)];
    let mut lz4_table = lz4_flex::block::CompressTable::small();
    let lz4 = measure(sample, unit, |plain| {
        let len = lz4_flex::block::compress_into_with_table(plain, &mut lz4_out, &mut lz4_table);
        black_box(len).ok();
    });
    print("lz4 alone", lz4, lz4);
    print(
        "hash of so many bytes",
        measure(sample, unit, |plain| {
            black_box(payload_hash(plain));
        }),
        lz4,
    );
    let mut encoder = Encoder::new();
    for cipher in [Cipher::Aes256Xts, Cipher::Aes256Gcm] {
        let sealer = sealer(cipher)?;
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let (mut counter, mut stored, mut plain_bytes, mut raw) = (0, 0, 0, 0);
            let ns = measure(sample, unit, |plain| {
                counter += 1;
                let seal = SealNo { session: SessionId(1), counter };
                let encoded = encoder.encode(plain, NamespaceId(1), Lba(0), seal, compression, &sealer, &mut out);
                if let Ok(encoded) = black_box(encoded) {
                    stored += encoded.stored;
                    plain_bytes += plain.len();
                    raw += usize::from(encoded.codec == Codec::Raw);
                }
            });
            print(&format!("encode {compression} {cipher}"), ns, lz4);
            if cipher == Cipher::Aes256Xts {
                let kept = 100.0 * stored as f64 / plain_bytes as f64;
                println!("      stored {kept:.1} %, {raw} of {counter} raw");
            }
        }
        decode_rows(sample, unit, &sealer, lz4)?;
    }
    Ok(())
}

fn decode_rows(sample: &[u8], unit: usize, sealer: &Sealer, lz4: f64) -> Result<()> {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let mut plain = vec![0; unit];
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let mut sealed = Vec::new();
        for (piece, counter) in sample.chunks_exact(unit).take(PIECES).zip(1..) {
            let seal = SealNo { session: SessionId(1), counter };
            let mut out = vec![0; ENCODED_BYTES_MAX];
            let (namespace, first) = (NamespaceId(1), Lba(0));
            let encoded = encoder.encode(piece, namespace, first, seal, compression, sealer, &mut out)?;
            out.truncate(encoded.stored);
            let count = u8::try_from(unit / BLOCK_BYTES).unwrap_or(u8::MAX);
            sealed.push((FragmentName { namespace, first, count, codec: encoded.codec, seal }, out));
        }
        let mut next = 0;
        let ns = measure(sample, unit, |_| {
            let (name, bytes) = &sealed[next % sealed.len()];
            next += 1;
            decoder.decode(bytes, name, sealer, &mut plain).expect("it was just encoded");
        });
        print(&format!("decode {compression} {}", sealer.cipher()), ns, lz4);
    }
    Ok(())
}

/// Blocks whose first half is random and whose second half is zero.
fn half_zero() -> Result<Vec<u8>> {
    let mut sample = vec![0; 8 << 20];
    for block in sample.chunks_exact_mut(BLOCK_BYTES) {
        getrandom::fill(&mut block[..BLOCK_BYTES / 2])
            .map_err(|e| Error::io("no random bytes", std::io::Error::other(e.to_string())))?;
    }
    Ok(sample)
}

fn main() -> Result<()> {
    let half_zero = half_zero()?;
    table("half-zero blocks", &half_zero, BLOCK_BYTES)?;
    table("half-zero blocks", &half_zero, 4 * BLOCK_BYTES)?;
    let mut noise = vec![0; 2 << 20];
    getrandom::fill(&mut noise).map_err(|e| Error::io("no random bytes", std::io::Error::other(e.to_string())))?;
    table("random bytes", &noise, BLOCK_BYTES)?;
    table("random bytes", &noise, 4 * BLOCK_BYTES)?;
    if let Some(path) = std::env::args_os().nth(1) {
        let mut sample = Vec::new();
        let limit = u64::try_from(SAMPLE_BYTES).unwrap_or(u64::MAX);
        std::fs::File::open(&path)
            .and_then(|file| file.take(limit).read_to_end(&mut sample))
            .map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
        for blocks in [1, 4, 8] {
            table(&path.display().to_string(), &sample, blocks * BLOCK_BYTES)?;
        }
    }
    Ok(())
}
