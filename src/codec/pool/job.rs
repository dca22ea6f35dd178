//! What is handed to a codec worker: everything it needs, owned, and handed back with the result.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::pack::{PackJob, Packed, thread_cpu_ns};
use crate::buf::{AlignedBuf, DataBuf};
use crate::codec::{Decoder, Encoded, Encoder, FragmentName, Sealer};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Codec, Compression};
use crate::limits::BLOCK_BYTES;
use crate::units::{Lba, NamespaceId, SealNo};

/// Uncompressed bytes of the largest job that the core takes off the workers.
const SMALL_BYTES_MAX: usize = 16 << 10;

/// Uncompressed bytes of the largest fragment that the core opens itself, also under load: that takes it 2 to 4 microseconds,
/// handing it over and being woken for the result more.
const BRIEF_BYTES_MAX: usize = 8 << 10;

/// Blocks to compress and seal.
#[derive(Debug)]
pub struct EncodeJob {
    /// The request's data. Released before the result is handed back.
    pub data: Arc<DataBuf>,
    /// Where in `data` the blocks begin, in bytes.
    pub at: usize,
    /// How many bytes they are: 1 to 8 blocks.
    pub len: usize,
    /// Whose data it is.
    pub namespace: NamespaceId,
    /// The first LBA.
    pub first: Lba,
    /// Their seal number, used for nothing else (I7).
    pub seal: SealNo,
    /// What to compress with.
    pub compression: Compression,
    /// The namespace's key.
    pub sealer: Arc<Sealer>,
    /// Where to, at least [`crate::codec::ENCODED_BYTES_MAX`] bytes.
    pub out: AlignedBuf,
    /// Whether it goes before what is not urgent.
    pub urgent: bool,
}

/// A payload to open and decompress.
#[derive(Debug)]
pub struct DecodeJob {
    /// Bytes from the medium, whose checksum was verified.
    pub sealed: AlignedBuf,
    /// Where in `sealed` the payload begins.
    pub at: usize,
    /// Its length.
    pub len: usize,
    /// The fragment's name, from its header.
    pub name: FragmentName,
    /// The namespace's key.
    pub sealer: Arc<Sealer>,
    /// Where to: the blocks go to its beginning.
    pub out: AlignedBuf,
    /// Whether it goes before what is not urgent.
    pub urgent: bool,
}

/// What a [`DecodeJob`] gives back.
#[derive(Debug)]
pub struct Decoded {
    /// The job's input buffer.
    pub sealed: AlignedBuf,
    /// The job's output buffer, which holds the blocks if all went well.
    pub out: AlignedBuf,
    /// Whether it did; see [`Decoder::decode`].
    pub result: Result<()>,
}

pub(super) enum Work {
    Encode(EncodeJob),
    Decode(DecodeJob),
    Pack(Box<PackJob>),
}

pub(super) enum Done {
    Encode(AlignedBuf, Result<Encoded>),
    Decode(Decoded),
    Pack(Packed),
}

impl Work {
    pub(super) fn urgent(&self) -> bool {
        match self {
            Self::Encode(job) => job.urgent,
            Self::Decode(job) => job.urgent,
            Self::Pack(_) => false,
        }
    }

    /// Whether it costs less than handing it to another thread and waiting: anything but zstd.
    pub(super) fn quick(&self) -> bool {
        match self {
            Self::Encode(job) => job.compression != Compression::Zstd,
            Self::Decode(job) => job.name.codec != Codec::Zstd,
            Self::Pack(_) => false,
        }
    }

    /// Whether handing it over would cost the core more than doing it.
    pub(super) fn brief(&self) -> bool {
        let Self::Decode(job) = self else { return false };
        self.quick() && usize::from(job.name.count) * BLOCK_BYTES <= BRIEF_BYTES_MAX
    }

    /// Whether the core may take it off the workers while there is more to come.
    pub(super) fn helpable(&self) -> bool {
        let len = match self {
            Self::Encode(job) => job.len,
            Self::Decode(job) => usize::from(job.name.count) * BLOCK_BYTES,
            Self::Pack(_) => return false,
        };
        self.quick() && len <= SMALL_BYTES_MAX
    }
}

/// One thread's coders.
#[derive(Default)]
pub(super) struct Coder {
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
}

impl Coder {
    /// Does the work. A panic in it becomes an error of this job.
    pub(super) fn perform(&mut self, work: Work) -> Done {
        match work {
            Work::Encode(job) => {
                let EncodeJob { data, at, len, namespace, first, seal, compression, sealer, mut out, .. } = job;
                let result = self.guarded(|coder| {
                    let plain = &data.bytes()[at..at + len];
                    coder.encoder.encode(plain, namespace, first, seal, compression, &sealer, &mut out)
                });
                // before anyone hears of the result: the core may then be the data's only owner
                drop(data);
                Done::Encode(out, result)
            }
            Work::Decode(DecodeJob { sealed, at, len, name, sealer, mut out, .. }) => {
                let result = self.guarded(|coder| {
                    let plain = &mut out[..usize::from(name.count) * BLOCK_BYTES];
                    coder.decoder.decode(&sealed[at..at + len], &name, &sealer, plain)
                });
                Done::Decode(Decoded { sealed, out, result })
            }
            Work::Pack(mut job) => {
                let began = thread_cpu_ns();
                let result = self.guarded(|coder| coder.pack(&mut job));
                Done::Pack(Packed { job, result, cpu_ns: thread_cpu_ns() - began })
            }
        }
    }

    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(result) => result,
            Err(cause) => {
                // whatever state the panic left behind goes with it
                *self = Self::default();
                let what = (cause.downcast_ref::<String>().map(String::as_str))
                    .or_else(|| cause.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                tracing::error!("a codec job panicked: {what}");
                Err(Error::new(ErrorKind::Io, format!("a codec job panicked: {what}")))
            }
        }
    }
}
