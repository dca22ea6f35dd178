//! A client that speaks the protocol byte by byte, so that it can also speak it wrongly.

#![expect(clippy::big_endian_bytes, reason = "the protocol's byte order, written independently of the server's")]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(super) struct Client(pub(super) UnixStream);

impl Client {
    /// Connects and says which flags it knows.
    pub(super) fn connect(path: &Path) -> Self {
        let mut client = Self(UnixStream::connect(path).unwrap());
        client.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(client.read(8), b"NBDMAGIC");
        assert_eq!(client.read(8), b"IHAVEOPT");
        assert_eq!(client.read(2), [0, 3]);
        client.send(&3u32.to_be_bytes());
        client
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub(super) fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.read(2).try_into().unwrap())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.read(4).try_into().unwrap())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.read(8).try_into().unwrap())
    }

    /// Whether the server has ended the connection.
    pub(super) fn is_at_end(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(0) => true,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => true,
            other => panic!("not the end: {other:?}"),
        }
    }

    pub(super) fn send_option(&mut self, option: u32, data: &[u8]) {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        self.send(&bytes);
    }

    /// Sends an option and takes its replies, up to the last: type and data.
    pub(super) fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data);
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.u64(), 0x0003_e889_0455_65a9);
            assert_eq!(self.u32(), option);
            let kind = self.u32();
            let len = self.u32() as usize;
            let data = self.read(len);
            replies.push((kind, data));
            if kind == 1 || kind >= 1 << 31 {
                return replies;
            }
        }
    }

    /// Goes to an export: its size and flags.
    pub(super) fn go(&mut self, name: &str) -> (u64, u16) {
        let replies = self.option(7, &info_data(name, &[]));
        let export = replies.iter().find(|(kind, data)| *kind == 3 && data[..2] == [0, 0]).expect("export info");
        assert_eq!(replies.last().unwrap().0, 1);
        let size = u64::from_be_bytes(export.1[2..10].try_into().unwrap());
        (size, u16::from_be_bytes(export.1[10..12].try_into().unwrap()))
    }

    pub(super) fn request(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, len: u32, payload: &[u8]) {
        self.send(&request_bytes(command, flags, cookie, offset, len, payload));
    }

    /// A simple reply: error and cookie.
    pub(super) fn simple(&mut self) -> (u32, u64) {
        assert_eq!(self.u32(), 0x6744_6698);
        (self.u32(), self.u64())
    }

    /// A structured reply of one chunk: type, cookie, payload.
    pub(super) fn chunk(&mut self) -> (u16, u64, Vec<u8>) {
        assert_eq!(self.u32(), 0x668e_33ef);
        assert_eq!(self.u16(), 1, "done");
        let (kind, cookie, len) = (self.u16(), self.u64(), self.u32());
        (kind, cookie, self.read(len as usize))
    }
}

pub(super) fn request_bytes(command: u16, flags: u16, cookie: u64, offset: u64, len: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
pub(super) fn info_data(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend(u16::try_from(infos.len()).unwrap().to_be_bytes());
    infos.iter().for_each(|info| data.extend(info.to_be_bytes()));
    data
}

/// Data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
pub(super) fn context_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    queries.iter().for_each(|query| data.extend(string(query)));
    data
}

fn string(text: &str) -> Vec<u8> {
    let mut data = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    data.extend(text.as_bytes());
    data
}
