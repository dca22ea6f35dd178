//! Targets that are streams of bytes from other programs: NBD clients and the control socket.

#![expect(clippy::big_endian_bytes, reason = "the order of bytes in the NBD protocol")]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use plica::control::{
    BusyDevices, Command, Medium, NamespaceInfo, Request, decode_reply, decode_request, encode_request,
};
use plica::core::request::NamespaceClient;
use plica::env::mailbox;
use plica::frontend::nbd::converse::converse;
use plica::frontend::nbd::{Export, Exports};
use plica::units::{NamespaceId, PoolId};

use super::outcome::Outcome;

const SIZE: u64 = 1 << 20;

/// Two exports, so that no name is not enough to find one.
fn exports() -> Exports {
    let exports = Exports::new();
    for (id, name, logical_block) in [(1, "disk", 4096), (2, "logs", 512)] {
        let client = NamespaceClient {
            id: NamespaceId(id),
            name: name.into(),
            size: Arc::new(AtomicU64::new(SIZE)),
            logical_block,
            pool: PoolId([7; 16]),
            mailbox: mailbox().0,
        };
        exports.insert(Export { client, read_only: id == 2 });
    }
    exports
}

/// An NBD client's bytes: however they arrive, the server makes the same of them, and it lets nothing through that is
/// beyond the export.
pub(super) fn nbd(bytes: &[u8]) -> Outcome {
    let exports = exports();
    let whole = converse(&exports, bytes, bytes.len());
    for piece in [1, 13, 28] {
        // byte by byte is slow and finds what it finds in short inputs
        if bytes.len() / piece < 2000 {
            assert_eq!(converse(&exports, bytes, piece), whole, "in pieces of {piece}");
        }
    }
    // each option is answered with a bounded number of bytes
    assert!(whole.said.len() <= bytes.len() * 32, "{} bytes for {}", whole.said.len(), bytes.len());
    for (kind, offset, len) in &whole.accepted {
        let end = offset.checked_add(u64::from(*len)).expect("an end");
        assert!(end <= SIZE && (*len > 0 || kind == "Flush"), "{kind} of {len} bytes at {offset}");
    }
    let accepted = whole.transmission && whole.dropped.is_none();
    let kinds: Vec<_> = whole.accepted.iter().map(|(kind, offset, len)| (kind, offset / 512, len)).collect();
    let outcome = Outcome::accepted(&(&whole.dropped, whole.transmission, kinds, whole.said.len()));
    Outcome { accepted, ..outcome }
}

/// A line on the control socket: what is understood encodes to a line that is understood as the same.
pub(super) fn control(bytes: &[u8]) -> Outcome {
    let reply = decode_reply(bytes).map_or_else(|e| Outcome::refused(&e), |reply| Outcome::accepted(&reply));
    let request = match decode_request(bytes) {
        Ok(request) => request,
        Err(error) => {
            let features = Outcome::refused(&error).features;
            return Outcome { accepted: false, features: features.into_iter().chain(reply.features).collect() };
        }
    };
    let Ok(line) = encode_request(&request) else { return reply };
    let again = decode_request(&line[..line.len() - 1]).expect("our own line");
    assert_eq!(again, request);
    Outcome::accepted(&request)
}

fn option(out: &mut Vec<u8>, option: u32, data: &[u8]) {
    out.extend(0x4948_4156_454f_5054_u64.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(u32::try_from(data.len()).expect("short").to_be_bytes());
    out.extend(data);
}

fn name(name: &str) -> Vec<u8> {
    let mut out = u32::try_from(name.len()).expect("short").to_be_bytes().to_vec();
    out.extend(name.as_bytes());
    out
}

fn request(out: &mut Vec<u8>, flags: u16, command: u16, offset: u64, len: u32) {
    out.extend(0x2560_9513_u32.to_be_bytes());
    out.extend(flags.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(0x1234_5678_9abc_def0_u64.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
    if command == 1 {
        out.extend(std::iter::repeat_n(0x5a, len as usize));
    }
}

/// Clients that do everything once.
pub(super) fn clients() -> Vec<Vec<u8>> {
    let mut modern = 3_u32.to_be_bytes().to_vec();
    option(&mut modern, 3, &[]);
    option(&mut modern, 8, &[]);
    let mut query = name("disk");
    query.extend(1_u32.to_be_bytes());
    query.extend(name("base:allocation"));
    option(&mut modern, 9, &query);
    option(&mut modern, 10, &query);
    let mut info = name("disk");
    info.extend([0, 2, 0, 1, 0, 3]);
    option(&mut modern, 6, &info);
    option(&mut modern, 7, &info);
    for command in 0..8 {
        let flush = command == 3;
        request(
            &mut modern,
            u16::from(command == 1),
            command,
            if flush { 0 } else { 8192 },
            if flush { 0 } else { 4096 },
        );
    }
    let mut old = 1_u32.to_be_bytes().to_vec();
    option(&mut old, 1, b"logs");
    request(&mut old, 0, 0, 512, 1024);
    request(&mut old, 0, 4, 0, 512);
    request(&mut old, 0, 2, 0, 0);
    let mut leaving = 0_u32.to_be_bytes().to_vec();
    option(&mut leaving, 5, &[]);
    option(&mut leaving, 2, &[]);
    vec![modern, old, leaving]
}

/// Requests as a plica sends them, and a reply.
pub(super) fn lines() -> Vec<Vec<u8>> {
    let medium = Medium { device: 2049, inode: 123_456 };
    let info = NamespaceInfo {
        name: "db".into(),
        id: 1,
        size: 1 << 30,
        cipher: "aes-256-xts".into(),
        compression: "lz4".into(),
        unit: 16384,
        logical_block: 4096,
        created: 1_700_000_000,
    };
    let commands = [
        Command::Hello,
        Command::NamespaceCreate(info),
        Command::NamespaceDestroy { name: "db".into() },
        Command::Stop { devices: BusyDevices::Leave },
    ];
    let line = |command| encode_request(&Request::new(medium, command)).expect("a short request");
    let mut lines: Vec<_> = commands.into_iter().map(line).collect();
    lines.push(br#"{"version":1,"result":{"error":{"kind":"config","message":"no"}}}"#.to_vec());
    lines
}
