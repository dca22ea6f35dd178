//! The handshake: fixed newstyle, as a state machine from bytes to bytes. No I/O.
//!
//! ```text
//!   greeting ─► client flags ─► option, reply, option, reply … ─► GO or EXPORT_NAME ─► transmission
//! ```
//!
//! **Failure.** A [`Violation`] drops the connection; everything that the protocol can answer is answered.

use std::sync::Arc;

use super::exports::{Export, Exports};
use super::wire::{ALLOCATION_CONTEXT, Fields, Output};
use super::{OPTION_BYTES_MAX, wire};
use crate::limits::{BLOCK_SIZE, REQUEST_BYTES_MAX};

/// Bytes of an option without its data.
pub(super) const OPTION_HEADER_BYTES: usize = 16;

const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// `FIXED_NEWSTYLE | NO_ZEROES`, of the server and of the client alike.
const FLAG_FIXED: u16 = 1;
const FLAG_NO_ZEROES: u16 = 2;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_LIST_META_CONTEXT: u32 = 9;
const OPT_SET_META_CONTEXT: u32 = 10;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const REP_ERR_UNSUPPORTED: u32 = 0x8000_0001;
const REP_ERR_INVALID: u32 = 0x8000_0003;
const REP_ERR_UNKNOWN: u32 = 0x8000_0006;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_BLOCK_SIZE: u16 = 3;

const TRANSMIT_HAS_FLAGS: u16 = 1;
const TRANSMIT_READ_ONLY: u16 = 1 << 1;
const TRANSMIT_FLUSH: u16 = 1 << 2;
const TRANSMIT_FUA: u16 = 1 << 3;
const TRANSMIT_TRIM: u16 = 1 << 5;
const TRANSMIT_WRITE_ZEROES: u16 = 1 << 6;
const TRANSMIT_DONT_FRAGMENT: u16 = 1 << 7;
const TRANSMIT_MULTI_CONN: u16 = 1 << 8;
const TRANSMIT_FAST_ZERO: u16 = 1 << 11;

const ALLOCATION: &[u8] = b"base:allocation";
/// A query for everything in the namespace of the protocol itself.
const BASE: &[u8] = b"base:";

/// Why a connection is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

/// What was agreed on.
pub(super) struct Session {
    pub(super) export: Export,
    pub(super) structured: bool,
    /// Whether `base:allocation` may be asked for.
    pub(super) allocation: bool,
}

/// How far the input went.
pub(super) enum Progress {
    /// Not far enough: more bytes are needed.
    Incomplete,
    /// So many bytes were used; the output is to be sent.
    Used(usize),
    /// So many bytes were used; the output is to be sent, then requests follow.
    Transmission(usize, Session),
    /// The client leaves; the output is to be sent first.
    Leave,
}

/// The state of one handshake.
#[derive(Default)]
pub(super) struct Handshake {
    flags_known: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was selected last.
    allocation_of: Option<Arc<str>>,
}

impl Handshake {
    /// What the server says first.
    pub(super) fn greeting() -> Vec<u8> {
        let mut out = Reply::default();
        out.u64(NBD_MAGIC).u64(OPTION_MAGIC).u16(FLAG_FIXED | FLAG_NO_ZEROES);
        out.0
    }

    /// Takes one step with the bytes received so far; what is to be sent is appended to `output`.
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        exports: &Exports,
        output: &mut Vec<u8>,
    ) -> Result<Progress, Violation> {
        let mut fields = Fields(input);
        if !self.flags_known {
            let Some(flags) = fields.u32() else { return Ok(Progress::Incomplete) };
            if flags & !u32::from(FLAG_FIXED | FLAG_NO_ZEROES) != 0 {
                return Err(Violation("unknown client flags"));
            }
            self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
            self.flags_known = true;
            return Ok(Progress::Used(4));
        }
        let (Some(magic), Some(option), Some(len)) = (fields.u64(), fields.u32(), fields.u32()) else {
            return Ok(Progress::Incomplete);
        };
        if magic != OPTION_MAGIC {
            return Err(Violation("wrong magic number of an option"));
        }
        let len = usize::try_from(len).ok().filter(|len| *len <= OPTION_BYTES_MAX);
        let len = len.ok_or(Violation("an option of more than 64 KiB"))?;
        let Some(data) = fields.bytes(len) else { return Ok(Progress::Incomplete) };
        let used = OPTION_HEADER_BYTES + len;
        self.answer(option, data, used, exports, output)
    }

    fn answer(
        &mut self,
        option: u32,
        data: &[u8],
        used: usize,
        exports: &Exports,
        output: &mut Vec<u8>,
    ) -> Result<Progress, Violation> {
        let mut replies = Replies { option, output };
        match option {
            OPT_EXPORT_NAME => {
                let export = exports.find(data).ok_or(Violation("no such export"))?;
                let mut reply = Reply::default();
                reply.u64(export.client.size_bytes()).u16(self.transmission_flags(&export));
                if !self.no_zeroes {
                    reply.bytes(&[0; 124]);
                }
                output.extend_from_slice(&reply.0);
                return Ok(Progress::Transmission(used, self.session(export)));
            }
            OPT_ABORT => {
                replies.put(REP_ACK, &[]);
                return Ok(Progress::Leave);
            }
            OPT_LIST if data.is_empty() => {
                for name in exports.names() {
                    replies.put(REP_SERVER, &Reply::default().string(name.as_bytes()).0);
                }
                replies.put(REP_ACK, &[]);
            }
            OPT_STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                replies.put(REP_ACK, &[]);
            }
            OPT_LIST | OPT_STRUCTURED_REPLY => replies.refuse(REP_ERR_INVALID, "this option has no data"),
            OPT_INFO | OPT_GO => {
                if let Some(export) = self.describe(data, exports, &mut replies)
                    && option == OPT_GO
                {
                    return Ok(Progress::Transmission(used, self.session(export)));
                }
            }
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => self.contexts(data, exports, &mut replies),
            _ => replies.refuse(REP_ERR_UNSUPPORTED, "this server does not know the option"),
        }
        Ok(Progress::Used(used))
    }

    /// `NBD_OPT_INFO` and `NBD_OPT_GO`.
    fn describe(&self, data: &[u8], exports: &Exports, replies: &mut Replies<'_>) -> Option<Export> {
        let mut fields = Fields(data);
        let Some((name, asked)) = parse_info(&mut fields) else {
            replies.refuse(REP_ERR_INVALID, "malformed request for information");
            return None;
        };
        let Some(export) = exports.find(name) else {
            replies.refuse(REP_ERR_UNKNOWN, "no such export");
            return None;
        };
        let size = export.client.size_bytes();
        let flags = self.transmission_flags(&export);
        replies.put(REP_INFO, &Reply::default().u16(INFO_EXPORT).u64(size).u16(flags).0);
        if asked.contains(&INFO_NAME) {
            replies.put(REP_INFO, &Reply::default().u16(INFO_NAME).bytes(export.client.name.as_bytes()).0);
        }
        // also unasked: whoever understands it had better know
        let smallest = export.client.logical_block;
        let largest = u32::try_from(REQUEST_BYTES_MAX).unwrap_or(u32::MAX);
        let mut sizes = Reply::default();
        sizes.u16(INFO_BLOCK_SIZE).u32(smallest).u32(smallest.max(BLOCK_SIZE)).u32(largest);
        replies.put(REP_INFO, &sizes.0);
        replies.put(REP_ACK, &[]);
        Some(export)
    }

    /// `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
    fn contexts(&mut self, data: &[u8], exports: &Exports, replies: &mut Replies<'_>) {
        let selects = replies.option == OPT_SET_META_CONTEXT;
        if selects {
            self.allocation_of = None;
        }
        if !self.structured {
            return replies.refuse(REP_ERR_INVALID, "structured replies must be negotiated first");
        }
        let Some((name, wanted)) = parse_contexts(data, selects) else {
            return replies.refuse(REP_ERR_INVALID, "malformed query for metadata contexts");
        };
        let Some(export) = exports.find(name) else {
            return replies.refuse(REP_ERR_UNKNOWN, "no such export");
        };
        if wanted {
            let id = if selects { ALLOCATION_CONTEXT } else { 0 };
            replies.put(REP_META_CONTEXT, &Reply::default().u32(id).bytes(ALLOCATION).0);
        }
        if selects && wanted {
            self.allocation_of = Some(export.client.name);
        }
        replies.put(REP_ACK, &[]);
    }

    fn session(&self, export: Export) -> Session {
        let allocation = self.allocation_of.as_ref() == Some(&export.client.name);
        Session { structured: self.structured, allocation, export }
    }

    fn transmission_flags(&self, export: &Export) -> u16 {
        let mut flags = TRANSMIT_HAS_FLAGS | TRANSMIT_FLUSH | TRANSMIT_FUA | TRANSMIT_MULTI_CONN;
        if export.read_only {
            flags |= TRANSMIT_READ_ONLY;
        } else {
            flags |= TRANSMIT_TRIM | TRANSMIT_WRITE_ZEROES | TRANSMIT_FAST_ZERO;
        }
        if self.structured {
            flags |= TRANSMIT_DONT_FRAGMENT;
        }
        flags
    }
}

/// Export name and the kinds of information asked for.
fn parse_info<'a>(fields: &mut Fields<'a>) -> Option<(&'a [u8], Vec<u16>)> {
    let name = fields.string()?;
    let count = fields.u16()?;
    let asked = (0..count).map(|_| fields.u16()).collect::<Option<Vec<_>>>()?;
    fields.0.is_empty().then_some((name, asked))
}

/// Export name and whether the queries ask for `base:allocation`.
fn parse_contexts(data: &[u8], selects: bool) -> Option<(&[u8], bool)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u32()?;
    // listing without a query lists everything
    let mut wanted = count == 0 && !selects;
    for _ in 0..count {
        let query = fields.string()?;
        wanted |= query == ALLOCATION || (query == BASE && !selects);
    }
    fields.0.is_empty().then_some((name, wanted))
}

/// Bytes of a reply, big-endian.
#[derive(Default)]
struct Reply(Vec<u8>);

impl Reply {
    fn put(&mut self, len: usize, put: impl FnOnce(&mut Output<'_>)) -> &mut Self {
        let at = self.0.len();
        self.0.resize(at + len, 0);
        put(&mut wire::Output::new(&mut self.0, at));
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.put(2, |out| out.u16(value))
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.put(4, |out| out.u32(value))
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.put(8, |out| out.u64(value))
    }

    fn string(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(length_field(bytes)).bytes(bytes)
    }
}

/// Replies to one option.
struct Replies<'a> {
    option: u32,
    output: &'a mut Vec<u8>,
}

impl Replies<'_> {
    fn put(&mut self, kind: u32, data: &[u8]) {
        let mut reply = Reply::default();
        reply.u64(REPLY_MAGIC).u32(self.option).u32(kind).u32(length_field(data)).bytes(data);
        self.output.extend_from_slice(&reply.0);
    }

    fn refuse(&mut self, kind: u32, message: &str) {
        self.put(kind, message.as_bytes());
    }
}

fn length_field(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("names and messages are short")
}
