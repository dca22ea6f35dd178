//! Options, exports, the listening socket.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use proptest::prelude::*;

use super::client::{Client, context_data, info_data};
use super::service::MemoryService;
use super::{Harness, SIZE};
use crate::core::request::NamespaceClient;
use crate::env::mailbox;
use crate::error::ErrorKind;
use crate::frontend::nbd::handshake::{Handshake, Progress};
use crate::frontend::nbd::{Export, Exports, Server};
use crate::units::{NamespaceId, PoolId};

const ACK: u32 = 1;
const SERVER: u32 = 2;
const INFO: u32 = 3;
const META: u32 = 4;
const UNSUPPORTED: u32 = (1 << 31) + 1;
const INVALID: u32 = (1 << 31) + 3;
const UNKNOWN: u32 = (1 << 31) + 6;

fn kinds(replies: &[(u32, Vec<u8>)]) -> Vec<u32> {
    replies.iter().map(|(kind, _)| *kind).collect()
}

#[test]
fn options_are_answered() {
    let harness = Harness::start();
    let mut client = Client::connect(harness.path());
    let list = client.option(3, &[]);
    assert_eq!(list, [(SERVER, b"\0\0\0\x04disk".to_vec()), (ACK, Vec::new())]);
    assert_eq!(kinds(&client.option(3, b"x")), [INVALID]);
    assert_eq!(kinds(&client.option(5, &[])), [UNSUPPORTED], "TLS");
    assert_eq!(kinds(&client.option(11, &[])), [UNSUPPORTED], "extended headers");
    assert_eq!(kinds(&client.option(0xffff_ffff, &[7; 1000])), [UNSUPPORTED]);
    assert_eq!(kinds(&client.option(6, &info_data("nothing", &[]))), [UNKNOWN]);
    assert_eq!(kinds(&client.option(6, b"\0\0\0\xffdisk")), [INVALID]);
    let info = client.option(6, &info_data("disk", &[1, 3]));
    assert_eq!(kinds(&info), [INFO, INFO, INFO, ACK]);
    assert_eq!(info[1].1, b"\0\x01disk");
    assert_eq!(info[2].1, b"\0\x03\0\0\x10\0\0\0\x10\0\x02\0\0\0", "4 KiB, 4 KiB, 32 MiB");
    // INFO does not end the negotiation
    assert_eq!(client.go("disk").0, SIZE as u64);
}

#[test]
fn contexts_need_structured_replies() {
    let harness = Harness::start();
    let mut client = Client::connect(harness.path());
    let query = context_data("disk", &["base:allocation"]);
    assert_eq!(kinds(&client.option(10, &query)), [INVALID]);
    assert_eq!(kinds(&client.option(8, b"x")), [INVALID]);
    assert_eq!(kinds(&client.option(8, &[])), [ACK]);
    assert_eq!(kinds(&client.option(9, &context_data("disk", &[]))), [META, ACK]);
    assert_eq!(kinds(&client.option(9, &context_data("disk", &["base:"]))), [META, ACK]);
    assert_eq!(kinds(&client.option(9, &context_data("disk", &["other:thing"]))), [ACK]);
    assert_eq!(kinds(&client.option(10, &context_data("nothing", &["base:allocation"]))), [UNKNOWN]);
    assert_eq!(kinds(&client.option(10, &context_data("disk", &[]))), [ACK], "selects nothing");
    assert_eq!(kinds(&client.option(10, b"\0\0\0\x04disk\0\0\0\x09\0\0")), [INVALID]);
    let selected = client.option(10, &query);
    assert_eq!(selected[0], (META, b"\0\0\0\x01base:allocation".to_vec()));
    let (_, flags) = client.go("disk");
    assert_eq!(flags, 0b1001_1110_1101, "flush, FUA, trim, zeroes, don't fragment, multi-conn, fast zero");
}

#[test]
fn the_old_way_in_and_the_way_out() {
    let harness = Harness::start();
    let mut client = Client::connect(harness.path());
    client.send_option(1, b"disk");
    assert_eq!(client.u64(), SIZE as u64);
    assert_eq!(client.u16(), 0b1001_0110_1101);
    client.request(3, 0, 5, 0, 0, &[]);
    assert_eq!(client.simple(), (0, 5));

    let mut nameless = Client::connect(harness.path());
    assert_eq!(nameless.go("").0, SIZE as u64, "the only export needs no name");
    let mut lost = Client::connect(harness.path());
    lost.send_option(1, b"nothing");
    assert!(lost.is_at_end());
    let mut leaving = Client::connect(harness.path());
    assert_eq!(kinds(&leaving.option(2, &[])), [ACK]);
    assert!(leaving.is_at_end());
}

#[test]
fn broken_handshakes_are_dropped() {
    let harness = Harness::start();
    let mut client = Client::connect(harness.path());
    client.send(b"IHAVENOT\0\0\0\x03\0\0\0\0");
    assert!(client.is_at_end());
    let mut client = Client::connect(harness.path());
    client.send(b"IHAVEOPT\0\0\0\x03\x7f\xff\xff\xff");
    assert!(client.is_at_end());
    let client = Client::connect(harness.path());
    drop(client);
    let mut good = Client::connect(harness.path());
    assert_eq!(good.go("disk").0, SIZE as u64);
    drop(good);
    harness.wait_until(|host| host.server.as_ref().unwrap().clients() == 0);
}

#[test]
fn exports_come_and_go() {
    let harness = Harness::start();
    harness.on_host(|host| {
        let (_, client) = MemoryService::start(&host.env, "second", 1 << 20, 512);
        host.exports.insert(Export { client, read_only: true });
    });
    let mut client = Client::connect(harness.path());
    assert_eq!(kinds(&client.option(6, &info_data("", &[]))), [UNKNOWN], "which one?");
    assert_eq!(client.option(3, &[]).len(), 3);
    let (size, flags) = client.go("second");
    assert_eq!((size, flags & 2), (1 << 20, 2), "read-only");
    client.request(1, 0, 9, 0, 512, &[1; 512]);
    assert_eq!(client.simple(), (1, 9), "EPERM");
    client.request(0, 0, 10, 512, 512, &[]);
    assert_eq!(client.simple(), (0, 10));
    assert_eq!(client.read(512), [0; 512]);
    assert_eq!(harness.on_host(|host| host.exports.connections("second")), 1);
    assert!(harness.on_host(|host| host.exports.remove("second")));
    assert!(client.is_at_end());
    assert_eq!(harness.on_host(|host| host.exports.connections("second")), 0);
    assert!(!harness.on_host(|host| host.exports.remove("second")));
}

#[test]
fn the_socket_is_private_and_taken_over_only_when_stale() {
    let mut harness = Harness::start();
    let path = harness.path().to_owned();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = path.clone();
    let busy =
        harness.on_host(move |host| Server::start(&host.env, &again, Exports::new()).map(drop).unwrap_err().kind());
    assert_eq!(busy, ErrorKind::Busy);
    let file = path.with_file_name("file");
    std::fs::write(&file, "precious").unwrap();
    let taken = file.clone();
    let exists =
        harness.on_host(move |host| Server::start(&host.env, &taken, Exports::new()).map(drop).unwrap_err().kind());
    assert_eq!(exists, ErrorKind::Exists);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let nowhere = path.with_file_name("missing").join("socket");
    let missing =
        harness.on_host(move |host| Server::start(&host.env, &nowhere, Exports::new()).map(drop).unwrap_err().kind());
    assert_eq!(missing, ErrorKind::NotFound);
    // what a killed server leaves behind
    let stale = path.with_file_name("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let replaced = stale.clone();
    harness.on_host(move |host| {
        let server = Server::start(&host.env, &replaced, host.exports.clone()).unwrap();
        host.env.spawner.spawn(server.stop()).detach();
    });
    harness.wait_until(move |_| !stale.exists());
    harness.stop();
    assert!(!path.exists(), "removed by a clean stop");
}

fn exports_without_service() -> Exports {
    let exports = Exports::new();
    let client = NamespaceClient {
        id: NamespaceId(1),
        name: "disk".into(),
        size: std::sync::Arc::new(std::sync::atomic::AtomicU64::new(1 << 30)),
        logical_block: 4096,
        pool: PoolId([0; 16]),
        mailbox: mailbox().0,
    };
    exports.insert(Export { client, read_only: false });
    exports
}

proptest! {
    /// Any bytes end in progress, a session, a goodbye or a violation, and never use more than there is.
    #[test]
    fn any_bytes_are_negotiated_with(
        flags in 0..4_u32,
        options in proptest::collection::vec((0..13_u32, proptest::collection::vec(any::<u8>(), 0..40), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let exports = exports_without_service();
        let mut input = vec![0, 0, 0, u8::try_from(flags).unwrap()];
        for (option, mut data, shape) in options {
            match shape % 4 {
                0 => data = info_data("disk", &[3, 1]),
                1 => data = context_data("disk", &["base:allocation", "x"]),
                2 => data.clear(),
                _ => {}
            }
            input.extend(b"IHAVEOPT\0\0\0");
            input.push(u8::try_from(option).unwrap());
            input.extend([0, 0, 0, u8::try_from(data.len()).unwrap()]);
            input.extend(data);
        }
        input.truncate(cut.index(input.len() + 1));
        let mut handshake = Handshake::default();
        let mut rest = &input[..];
        loop {
            let mut output = Vec::new();
            match handshake.advance(rest, &exports, &mut output) {
                Ok(Progress::Used(bytes)) => {
                    prop_assert!(bytes > 0 && bytes <= rest.len());
                    rest = &rest[bytes..];
                }
                Ok(Progress::Transmission(bytes, session)) => {
                    prop_assert!(bytes <= rest.len());
                    prop_assert!(session.structured || !session.allocation);
                    break;
                }
                Ok(Progress::Incomplete) => {
                    prop_assert!(output.is_empty());
                    break;
                }
                Ok(Progress::Leave) | Err(_) => break,
            }
        }
    }
}
