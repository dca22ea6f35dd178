//! Requests and replies, whole and broken.

use super::client::{Client, context_data, request_bytes};
use super::{Harness, SIZE};

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;
const FUA: u16 = 1;
const ONE_EXTENT: u16 = 8;

fn simple(harness: &Harness) -> Client {
    let mut client = Client::connect(harness.path());
    client.go("disk");
    client
}

fn structured(harness: &Harness) -> Client {
    let mut client = Client::connect(harness.path());
    client.option(8, &[]);
    client.option(10, &context_data("disk", &["base:allocation"]));
    client.go("disk");
    client
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 31 + i / 251 + seed * 97) % 256).unwrap()).collect()
}

#[test]
fn data_of_all_sizes_comes_back() {
    let harness = Harness::start();
    let mut client = simple(&harness);
    let sizes = [4096, 8192, 12288, 61440, 65536, 69632, 131_072, 262_144, 1 << 20, (1 << 20) + 4096, 32 << 20];
    for (i, &len) in sizes.iter().enumerate() {
        let data = pattern(i, len);
        let (offset, wire_len) = (4096 * i as u64, u32::try_from(len).unwrap());
        client.request(WRITE, 0, 1, offset, wire_len, &data);
        assert_eq!(client.simple(), (0, 1), "write of {len}");
        client.request(READ, 0, 2, offset, wire_len, &[]);
        assert_eq!(client.simple(), (0, 2), "read of {len}");
        assert!(client.read(len) == data, "content of {len}");
    }
}

#[test]
fn many_requests_in_one_packet_and_one_in_many() {
    let harness = Harness::start();
    let mut client = structured(&harness);
    let mut bytes = Vec::new();
    for i in 0..100_u64 {
        bytes.extend(request_bytes(WRITE, 0, i, i * 4096, 4096, &pattern(usize::try_from(i).unwrap(), 4096)));
    }
    bytes.extend(request_bytes(FLUSH, 0, 100, 0, 0, &[]));
    // in odd pieces: headers and payloads are torn everywhere
    for piece in bytes.chunks(1777) {
        client.send(piece);
    }
    let mut cookies: Vec<u64> =
        (0..=100).map(|_| client.simple()).map(|(error, cookie)| (error == 0).then_some(cookie).unwrap()).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (0..=100).collect::<Vec<_>>());
    let reads: Vec<u8> = (0..100_u64).flat_map(|i| request_bytes(READ, 0, i, i * 4096, 4096, &[])).collect();
    client.send(&reads);
    for _ in 0..100 {
        let (kind, cookie, payload) = client.chunk();
        assert_eq!(kind, 1);
        assert_eq!(payload[..8], (cookie * 4096).to_be_bytes_like());
        assert!(payload[8..] == pattern(usize::try_from(cookie).unwrap(), 4096), "block {cookie}");
    }
}

trait BeBytes {
    fn to_be_bytes_like(self) -> [u8; 8];
}

impl BeBytes for u64 {
    fn to_be_bytes_like(self) -> [u8; 8] {
        let mut bytes = self.to_le_bytes();
        bytes.reverse();
        bytes
    }
}

#[test]
fn commands_reach_the_core_as_requests() {
    let harness = Harness::start();
    let mut client = simple(&harness);
    client.request(WRITE, FUA, 1, 4096, 4096, &pattern(1, 4096));
    client.request(TRIM, 0, 2, 8192, 4096, &[]);
    client.request(TRIM, FUA, 3, 8192, 4096, &[]);
    client.request(WRITE_ZEROES, 2 | FUA, 4, 0, 65536, &[]);
    client.request(FLUSH, 0, 5, 0, 0, &[]);
    // more than one request may hold: cut, and answered once
    client.request(WRITE_ZEROES, 0, 6, 0, 40 << 20, &[]);
    for cookie in 1..=6 {
        assert_eq!(client.simple(), (0, cookie));
    }
    let log = harness.on_host(|host| host.service.log());
    let expected = [
        "Write { fua: true } 4096+4096",
        "Discard 8192+4096",
        "WriteZeroes { fua: true } 8192+4096",
        "WriteZeroes { fua: true } 0+65536",
        "Flush 0+0",
        "WriteZeroes { fua: false } 0+33554432",
        "WriteZeroes { fua: false } 33554432+8388608",
    ];
    assert_eq!(log, expected);
}

#[test]
fn refused_requests_leave_the_connection_in_step() {
    let harness = Harness::start();
    let mut client = structured(&harness);
    let end = SIZE as u64;
    client.request(WRITE, 0, 1, end, 1 << 20, &pattern(1, 1 << 20));
    assert_eq!(client.simple(), (28, 1), "ENOSPC, and its payload is skipped");
    client.request(WRITE, 0, 2, 100, 4096, &pattern(1, 4096));
    assert_eq!(client.simple(), (22, 2), "EINVAL: unaligned");
    client.request(READ, 0, 3, end, 4096, &[]);
    assert_eq!(client.chunk(), (0x8001, 3, vec![0, 0, 0, 22, 0, 0]), "a structured error");
    client.request(77, 0, 4, 0, 0, &[]);
    assert_eq!(client.simple(), (22, 4));
    client.request(READ, 0, 5, 0, 4096, &[]);
    assert_eq!(client.chunk().2[8..], [0; 4096]);
    assert_eq!(harness.on_host(|host| host.service.log().len()), 1, "only the last reached the core");
}

#[test]
fn block_status_shows_holes() {
    let harness = Harness::start();
    let mut client = structured(&harness);
    client.request(WRITE, 0, 1, 8192, 8192, &pattern(1, 8192));
    assert_eq!(client.simple(), (0, 1));
    client.request(BLOCK_STATUS, 0, 2, 0, 65536, &[]);
    let extents = [0, 0, 0, 1, 0, 0, 0x20, 0, 0, 0, 0, 3, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 3];
    assert_eq!(client.chunk(), (5, 2, extents.to_vec()));
    client.request(BLOCK_STATUS, ONE_EXTENT, 3, 0, 65536, &[]);
    assert_eq!(client.chunk(), (5, 3, extents[..12].to_vec()));
    let mut plain = simple(&harness);
    plain.request(BLOCK_STATUS, 0, 4, 0, 65536, &[]);
    assert_eq!(plain.simple(), (22, 4), "not negotiated");
}

#[test]
fn nonsense_drops_the_connection_after_what_came_before() {
    let harness = Harness::start();
    let mut client = simple(&harness);
    let mut bytes = request_bytes(WRITE, 0, 1, 0, 4096, &pattern(1, 4096));
    bytes.extend([0xee; 28]);
    client.send(&bytes);
    assert_eq!(client.simple(), (0, 1));
    assert!(client.is_at_end());
    let mut oversized = simple(&harness);
    oversized.request(WRITE, 0, 1, 0, (32 << 20) + 4096, &[]);
    assert!(oversized.is_at_end());
}

#[test]
fn goodbye_waits_for_answers() {
    let harness = Harness::start();
    let mut client = simple(&harness);
    harness.on_host(|host| host.service.hold(true));
    client.request(WRITE, 0, 1, 0, 4096, &pattern(1, 4096));
    client.request(DISCONNECT, 0, 0, 0, 0, &[]);
    harness.wait_until(|host| host.service.kept() == 1);
    harness.on_host(|host| host.service.hold(false));
    assert_eq!(client.simple(), (0, 1));
    assert!(client.is_at_end());
}

#[test]
fn a_client_that_vanishes_harms_nothing() {
    let harness = Harness::start();
    let mut client = simple(&harness);
    harness.on_host(|host| host.service.hold(true));
    client.request(WRITE, 0, 1, 0, 4096, &pattern(5, 4096));
    client.request(READ, 0, 2, 0, 1 << 20, &[]);
    // and half a request
    let half = request_bytes(WRITE, 0, 3, 1 << 20, 1 << 20, &pattern(6, 1000));
    client.send(&half);
    harness.wait_until(|host| host.service.kept() == 2);
    drop(client);
    harness.on_host(|host| host.service.hold(false));
    harness.wait_until(|host| host.server.as_ref().unwrap().clients() == 0);
    let mut next = simple(&harness);
    next.request(READ, 0, 1, 0, 4096, &[]);
    assert_eq!(next.simple(), (0, 1));
    assert!(next.read(4096) == pattern(5, 4096), "its whole request was done");
    next.request(READ, 0, 2, 1 << 20, 4096, &[]);
    assert_eq!(next.simple(), (0, 2));
    assert_eq!(next.read(4096), [0; 4096], "its half request was not");
}

#[test]
fn what_is_under_way_is_bounded() {
    let harness = Harness::start();
    let mut client = simple(&harness);
    harness.on_host(|host| host.service.hold(true));
    let mut sender = Client(client.0.try_clone().unwrap());
    let sending = std::thread::spawn(move || {
        for i in 0..600 {
            sender.request(READ, 0, i, i * 4096, 4096, &[]);
        }
        for i in 600..700 {
            sender.request(READ, 0, i, 0, 1 << 20, &[]);
        }
    });
    harness.wait_until(|host| host.service.kept() == 256);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(harness.on_host(|host| host.service.kept()), 256);
    harness.on_host(|host| host.service.hold(false));
    sending.join().unwrap();
    let mut cookies = Vec::new();
    for _ in 0..700 {
        let (error, cookie) = client.simple();
        assert_eq!(error, 0);
        client.read(if cookie < 600 { 4096 } else { 1 << 20 });
        cookies.push(cookie);
    }
    cookies.sort_unstable();
    assert_eq!(cookies, (0..700).collect::<Vec<_>>());
}

#[test]
fn a_client_that_takes_no_replies_does_not_stop_the_others() {
    let harness = Harness::start();
    let mut deaf = simple(&harness);
    for i in 0..30 {
        deaf.request(READ, 0, i, 0, 1 << 20, &[]);
    }
    let mut other = simple(&harness);
    other.request(READ, 0, 1, 0, 4096, &[]);
    assert_eq!(other.simple(), (0, 1));
    drop(deaf);
    harness.wait_until(|host| host.server.as_ref().unwrap().clients() == 1);
}

#[test]
fn a_stopped_server_answers_what_it_has() {
    let mut harness = Harness::start();
    let mut client = simple(&harness);
    harness.on_host(|host| host.service.hold(true));
    client.request(WRITE, 0, 1, 0, 4096, &pattern(1, 4096));
    harness.wait_until(|host| host.service.kept() == 1);
    harness.on_host(|host| {
        let service = host.service.clone();
        let env = host.env.clone();
        host.env
            .spawner
            .spawn(async move {
                env.sleep_ns(50_000_000).await;
                service.hold(false);
            })
            .detach();
    });
    harness.stop();
    assert_eq!(client.simple(), (0, 1));
    assert!(client.is_at_end());
}
