//! Golden files: the bytes of one sample of every structure, kept for every released version of the format, and the corpus
//! that the fuzzer starts from.
//!
//! A file is text, so that a change of the format can be read in a diff: the length, then lines of an offset and up to 32
//! bytes in hexadecimal; lines of zeros are left out. `cargo test write_golden -- --ignored` writes those that are missing,
//! and never changes one.

use std::fmt::Write;

const LINE: usize = 32;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        /// Name and text of every golden file of version 1.
        pub const V1: &[(&str, &str)] = &[$(($name, include_str!(concat!("golden/v1/", $name, ".hex")))),+];
    };
}

files!(
    "superblock",
    "namespaces",
    "root",
    "image",
    "batch",
    "summary",
    "leaf",
    "staging-header",
    "prelude",
    "journal",
    "superblock-journal"
);

/// The text of a golden file of these bytes.
#[must_use]
pub fn render(bytes: &[u8]) -> String {
    let mut text = format!("length {}\n", bytes.len());
    for (index, line) in bytes.chunks(LINE).enumerate().filter(|(_, line)| line.iter().any(|b| *b != 0)) {
        let hex: String = line.iter().map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(text, "{:06x} {hex}", index * LINE);
    }
    text
}

/// The bytes of a golden file; `None` when it is no such file.
#[must_use]
pub fn parse(text: &str) -> Option<Vec<u8>> {
    let mut lines = text.lines();
    let mut bytes = vec![0; lines.next()?.strip_prefix("length ")?.parse().ok()?];
    for line in lines {
        let (offset, hex) = line.split_once(' ')?;
        let offset = usize::from_str_radix(offset, 16).ok()?;
        for index in 0..hex.len() / 2 {
            let byte = u8::from_str_radix(hex.get(index * 2..index * 2 + 2)?, 16).ok()?;
            *bytes.get_mut(offset + index)? = byte;
        }
    }
    Some(bytes)
}

/// The bytes of a golden file of version 1.
#[must_use]
pub fn bytes(name: &str) -> Option<Vec<u8>> {
    V1.iter().find(|(n, _)| *n == name).and_then(|(_, text)| parse(text))
}
