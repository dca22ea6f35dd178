//! The messages, and their form on the wire: one line of JSON each, with a version.
//!
//! A line is bounded before it is parsed. Unknown fields are ignored, unknown commands are errors: an older daemon and a
//! newer client understand each other as far as they can; the version changes when they could misunderstand.

use std::fmt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::core::scrub::ScrubState;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::format::namespaces::NamespaceEntry;
use crate::limits::BLOCK_SIZE;
use crate::pool::{HeatRange, PoolStatus};

/// Version of the protocol.
pub const PROTOCOL_VERSION: u32 = 1;
/// Bytes of the longest request, with its line end.
pub const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Bytes of the longest reply, with its line end: the status of a full namespace table fits.
pub const REPLY_BYTES_MAX: usize = 2 << 20;

/// What a client asks the daemon to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Say that the daemon is alive and serves the pool that is meant.
    Hello,
    /// Counters and what is served.
    Status,
    /// The namespaces of the pool.
    NamespaceList,
    /// Make a namespace; it is served at once if the daemon serves all of them.
    NamespaceCreate(NamespaceInfo),
    /// Stop serving a namespace, and destroy its key and data.
    NamespaceDestroy {
        /// Which.
        name: String,
    },
    /// Give a namespace another size.
    NamespaceResize {
        /// Which.
        name: String,
        /// Bytes.
        size: u64,
        /// Discard what is beyond a smaller size.
        force: bool,
    },
    /// Serve a namespace.
    NamespaceServe {
        /// Which.
        name: String,
    },
    /// Stop serving a namespace.
    NamespaceUnserve {
        /// Which.
        name: String,
    },
    /// The medium has become larger: let the pool grow to its end.
    PoolGrow {
        /// Bytes of the medium.
        bytes: u64,
    },
    /// Give the pool, which has none, a journal.
    JournalAdd(NewJournal),
    /// Move all that is in the journal to the pool.
    JournalDrain {
        /// And do without it from then on.
        remove: bool,
    },
    /// Which ranges of LBAs use the journal.
    JournalHeat,
    /// Begin to read back and verify everything in use.
    ScrubStart {
        /// Bytes a second, at most.
        rate: u64,
    },
    /// Pause, resume or stop the scrub that is on its way.
    ScrubTurn {
        /// Paused, running or stopped.
        to: ScrubState,
    },
    /// Stop everything cleanly, then exit.
    Stop {
        /// What happens to block devices that somebody uses.
        devices: BusyDevices,
    },
}

/// What is to be a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewJournal {
    /// Where it is, or shall be.
    pub path: PathBuf,
    /// Bytes of a new file; `None`: it is there, and used whole.
    pub bytes: Option<u64>,
    /// A journal in memory that does not outlive the machine is accepted.
    pub volatile: bool,
    /// What it holds is given up.
    pub force: bool,
}

/// What stopping does with a block device that is mounted or otherwise in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BusyDevices {
    /// Refuse to stop.
    Refuse,
    /// Leave the device to the next daemon; I/O on it waits until then.
    Leave,
    /// Remove it; I/O of whoever uses it fails.
    Remove,
}

/// A medium of this machine: tells a pool from a copy of it, which has the same id. Of a file its filesystem and inode,
/// of a block device its number and 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Medium {
    /// Device number.
    pub device: u64,
    /// Inode.
    pub inode: u64,
}

/// A command, and the medium whose pool is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    version: u32,
    /// The daemon refuses if it serves another one.
    pub medium: Medium,
    /// What to do.
    pub command: Command,
}

impl Request {
    /// A request of this version.
    #[must_use]
    pub fn new(medium: Medium, command: Command) -> Self {
        Self { version: PROTOCOL_VERSION, medium, command }
    }
}

/// A namespace as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceInfo {
    /// Name.
    pub name: String,
    /// Its number in the pool, never used again; 0 for one that is to be made.
    #[serde(default)]
    pub id: u32,
    /// Bytes.
    pub size: u64,
    /// Cipher, as the command line calls it.
    pub cipher: String,
    /// Compression, as the command line calls it.
    pub compression: String,
    /// Bytes of the largest fragment; 0 when that is chosen by how the namespace is used.
    pub unit: u32,
    /// Bytes of a logical block as the host sees it.
    pub logical_block: u32,
    /// Unix time of creation in seconds; 0 for one that is to be made.
    #[serde(default)]
    pub created: u64,
}

impl From<&NamespaceEntry> for NamespaceInfo {
    fn from(entry: &NamespaceEntry) -> Self {
        Self {
            name: entry.name.clone(),
            id: entry.id.0,
            size: entry.blocks * u64::from(BLOCK_SIZE),
            cipher: entry.cipher.to_string(),
            compression: entry.compression.to_string(),
            unit: u32::from(entry.unit_blocks) * BLOCK_SIZE,
            logical_block: entry.logical_block,
            created: entry.created,
        }
    }
}

/// Where a namespace is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Which namespace.
    pub name: String,
    /// A device path or an NBD URI.
    pub at: String,
}

impl fmt::Display for Served {
    /// `serving NAME as DEVICE` or `serving NAME at URI`: the line by which others find out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let preposition = if self.at.starts_with('/') { "as" } else { "at" };
        write!(f, "serving {} {preposition} {}", self.name, self.at)
    }
}

/// What the daemon says about itself and its pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The daemon's process.
    pub pid: u32,
    /// The daemon's version.
    pub daemon: String,
    /// What is served where.
    pub serving: Vec<Served>,
    /// The namespaces of the pool, served or not.
    pub namespaces: Vec<NamespaceInfo>,
    /// The engine's figures.
    pub pool: PoolStatus,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done.
    Done,
    /// It is done, and this is where the namespace is served now (if it is).
    Namespace {
        /// The namespace as it was made.
        namespace: NamespaceInfo,
        /// Where it is served.
        served: Option<Served>,
    },
    /// To [`Command::NamespaceResize`].
    Resized {
        /// The namespace as it is now.
        namespace: NamespaceInfo,
        /// Who still sees it as it was, and until when.
        note: Option<String>,
    },
    /// To [`Command::NamespaceList`].
    Namespaces(Vec<NamespaceInfo>),
    /// To [`Command::Status`].
    Status(Box<StatusReport>),
    /// The journal that the pool has now.
    Journal {
        /// Identity.
        id: String,
        /// What it is on: `dax`, `block` or `volatile`.
        kind: String,
    },
    /// To [`Command::JournalHeat`].
    Heat(Vec<HeatRange>),
}

#[derive(Serialize, Deserialize)]
struct Reply {
    version: u32,
    result: Outcome,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Ok(Answer),
    Error { kind: String, message: String },
}

/// Looked at first, so that another version gets a clear answer whatever else it changed.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// A request as a line.
///
/// # Errors
/// It is longer than a request may be.
pub fn encode_request(request: &Request) -> Result<Vec<u8>> {
    encode(request, REQUEST_BYTES_MAX)
}

/// Reads a request from a line, without its end.
///
/// # Errors
/// It is too long, of another version, or none.
pub fn decode_request(line: &[u8]) -> Result<Request> {
    decode(line, REQUEST_BYTES_MAX)
}

/// A reply as a line. An error is passed on with its kind and its message.
pub(super) fn encode_reply(result: Result<Answer>) -> Result<Vec<u8>> {
    let result = match result {
        Ok(answer) => Outcome::Ok(answer),
        Err(error) => Outcome::Error { kind: kind_name(error.kind()).to_owned(), message: error.to_string() },
    };
    encode(&Reply { version: PROTOCOL_VERSION, result }, REPLY_BYTES_MAX)
}

/// Reads a reply from a line, without its end.
///
/// # Errors
/// The error that the reply tells; or it is too long, of another version, or none.
pub fn decode_reply(line: &[u8]) -> Result<Answer> {
    match decode::<Reply>(line, REPLY_BYTES_MAX)?.result {
        Outcome::Ok(answer) => Ok(answer),
        Outcome::Error { kind, message } => Err(Error::new(kind_of(&kind), message)),
    }
}

fn encode(message: &impl Serialize, bytes_max: usize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)
        .map_err(|e| Error::new(ErrorKind::Config, format!("a control message that is no JSON: {e}")))?;
    line.push(b'\n');
    if line.len() > bytes_max {
        fail!(OutOfRange, "a control message of {} bytes; at most {bytes_max} are allowed", line.len());
    }
    Ok(line)
}

fn decode<T: DeserializeOwned>(line: &[u8], bytes_max: usize) -> Result<T> {
    if line.len() >= bytes_max {
        fail!(OutOfRange, "a control message of more than {bytes_max} bytes");
    }
    let versioned: Versioned = serde_json::from_slice(line).map_err(|e| not_understood(&e))?;
    if versioned.version != PROTOCOL_VERSION {
        fail!(
            Version,
            "the other side speaks version {} of the control protocol, this plica version {PROTOCOL_VERSION}",
            versioned.version
        );
    }
    serde_json::from_slice(line).map_err(|e| not_understood(&e))
}

fn not_understood(error: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Unsupported, format!("a control message that is not understood: {error}"))
}

const KINDS: [(ErrorKind, &str); 13] = [
    (ErrorKind::Io, "io"),
    (ErrorKind::Corrupt, "corrupt"),
    (ErrorKind::NoSpace, "no-space"),
    (ErrorKind::OutOfRange, "out-of-range"),
    (ErrorKind::Unsupported, "unsupported"),
    (ErrorKind::Locked, "locked"),
    (ErrorKind::ReadOnly, "read-only"),
    (ErrorKind::Busy, "busy"),
    (ErrorKind::Version, "version"),
    (ErrorKind::Config, "config"),
    (ErrorKind::NotFound, "not-found"),
    (ErrorKind::Exists, "exists"),
    (ErrorKind::Shutdown, "shutdown"),
];

fn kind_name(kind: ErrorKind) -> &'static str {
    KINDS.iter().find(|(k, _)| *k == kind).map_or("io", |(_, name)| name)
}

fn kind_of(name: &str) -> ErrorKind {
    KINDS.iter().find(|(_, n)| *n == name).map_or(ErrorKind::Io, |(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(name: &str) -> NamespaceInfo {
        NamespaceInfo {
            name: name.to_owned(),
            id: 1,
            size: 1 << 30,
            cipher: "aes-256-xts".to_owned(),
            compression: "lz4".to_owned(),
            unit: 16384,
            logical_block: 4096,
            created: 1,
        }
    }

    fn request(command: Command) -> Request {
        Request::new(Medium { device: 5, inode: 6 }, command)
    }

    fn body(line: &[u8]) -> &[u8] {
        line.strip_suffix(b"\n").unwrap()
    }

    #[test]
    fn requests_and_replies_come_back_as_they_went() {
        let name = || "db".to_owned();
        for command in [
            Command::Hello,
            Command::Status,
            Command::NamespaceList,
            Command::NamespaceCreate(info("db")),
            Command::NamespaceDestroy { name: name() },
            Command::NamespaceServe { name: name() },
            Command::NamespaceUnserve { name: name() },
            Command::JournalAdd(NewJournal { path: "/j".into(), bytes: Some(1), volatile: true, force: false }),
            Command::JournalDrain { remove: true },
            Command::Stop { devices: BusyDevices::Leave },
        ] {
            let line = encode_request(&request(command.clone())).unwrap();
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1, "one line");
            assert_eq!(decode_request(body(&line)).unwrap(), request(command));
        }
        let answer = Answer::Namespaces(vec![info("a"), info("b")]);
        let line = encode_reply(Ok(answer.clone())).unwrap();
        assert_eq!(decode_reply(body(&line)).unwrap(), answer);
    }

    #[test]
    fn the_wire_form_is_stable() {
        let line = encode_request(&request(Command::NamespaceDestroy { name: "db".to_owned() })).unwrap();
        let text = r#"{"version":1,"medium":{"device":5,"inode":6},"command":{"namespace-destroy":{"name":"db"}}}"#;
        assert_eq!(String::from_utf8(line).unwrap(), format!("{text}\n"));
        let line = encode_request(&request(Command::Stop { devices: BusyDevices::Refuse })).unwrap();
        let text = r#"{"version":1,"medium":{"device":5,"inode":6},"command":{"stop":{"devices":"refuse"}}}"#;
        assert_eq!(String::from_utf8(line).unwrap(), format!("{text}\n"));
        assert_eq!(encode_reply(Ok(Answer::Done)).unwrap(), b"{\"version\":1,\"result\":{\"ok\":\"done\"}}\n");
    }

    #[test]
    fn errors_keep_kind_and_message() {
        for (kind, _) in KINDS {
            let line = encode_reply(Err(Error::new(kind, "namespace db\nis \"mounted\""))).unwrap();
            let error = decode_reply(body(&line)).unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (kind, "namespace db\nis \"mounted\"".to_owned()));
        }
    }

    #[test]
    fn another_version_is_said_so() {
        let error = decode_request(b"{\"version\":2,\"command\":[\"something\",\"new\"]}").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Version);
        assert!(error.to_string().contains("version 2"), "{error}");
    }

    #[test]
    fn what_is_too_long_is_neither_sent_nor_read() {
        let name = "x".repeat(REQUEST_BYTES_MAX);
        let error = encode_request(&request(Command::NamespaceServe { name })).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        let line = vec![b' '; REQUEST_BYTES_MAX];
        assert_eq!(decode_request(&line).unwrap_err().kind(), ErrorKind::OutOfRange);
    }

    #[test]
    fn hostile_input_is_an_error() {
        let deep = "[".repeat(8000);
        for line in [
            "",
            "null",
            "{}",
            "[]",
            r#"{"version":1}"#,
            r#"{"version":1,"command":"status"}"#,
            r#"{"version":-1,"medium":{"device":5,"inode":6},"command":"status"}"#,
            r#"{"version":1,"medium":{"device":5,"inode":6},"command":"launch"}"#,
            r#"{"version":1,"medium":{"device":5,"inode":6},"command":{"namespace-create":{}}}"#,
            r#"{"version":1,"medium":{"device":5,"inode":6},"command":{"namespace-create":{"size":-5}}}"#,
            r#"{"version":1,"medium":{"device":5,"inode":6},"command":"status""#,
            "\u{0}\u{1}",
            &deep,
        ] {
            decode_request(line.as_bytes()).expect_err(line);
        }
        let later = r#"{"version":1,"medium":{"device":5,"inode":6},"command":"status","later":true}"#;
        decode_request(later.as_bytes()).expect("unknown fields are ignored");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode_request(&bytes);
            let _ = decode_reply(&bytes);
        }

        #[test]
        fn any_name_stays_one_line(name in ".{0,200}") {
            let request = request(Command::NamespaceServe { name });
            let line = encode_request(&request).unwrap();
            prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            prop_assert_eq!(decode_request(body(&line)).unwrap(), request);
        }
    }
}
