//! The bytes of version 1 never change.

use std::path::Path;

use super::samples::structures;
use crate::format::golden::{V1, bytes, parse, render};

#[test]
fn samples_are_what_they_were() {
    for structure in structures() {
        let golden = bytes(structure.name).unwrap();
        assert_eq!(render(&structure.bytes), render(&golden), "{}: the format must not change", structure.name);
        (structure.read)(&golden).unwrap();
    }
    assert_eq!(V1.len(), structures().len());
}

#[test]
fn files_parse_to_what_was_rendered() {
    let sample: Vec<u8> = (0..=255).chain([0; 100]).chain([7]).collect();
    assert_eq!(parse(&render(&sample)).unwrap(), sample);
    assert_eq!(parse("length 4\n000002 010203\n"), None, "more than the length");
    assert_eq!(parse("000000 00\n"), None);
}

/// Run by hand when a structure or a version is new: `cargo test write_golden -- --ignored`.
#[test]
#[ignore = "writes golden files that are not there yet"]
fn write_golden() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/format/golden/v1");
    for structure in structures() {
        let path = directory.join(structure.name).with_extension("hex");
        let missing = std::fs::read_to_string(&path).is_ok_and(|text| text == "length 0\n") || !path.exists();
        if missing {
            std::fs::write(&path, render(&structure.bytes)).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), render(&structure.bytes), "{}", structure.name);
    }
}
