//! Rules of the house, checked: see `ublk_tests::tidy`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use ublk_tests::{
    binaries::repository,
    tidy::{self, files_with, long_files, sources, stray_unsafe, wrong_direction},
};

fn expect_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn files(directory: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

#[test]
fn modules_use_only_what_is_below_them() {
    expect_none(&wrong_direction(&sources(&repository().join("src"))));
}

#[test]
fn unsafe_code_is_where_it_is_allowed() {
    expect_none(&stray_unsafe(&sources(&repository().join("src"))));
    expect_none(&stray_unsafe(&sources(&repository().join("ublk-tests"))));
}

#[test]
fn files_are_short() {
    for directory in ["src", "ublk-tests"] {
        let sources = sources(&repository().join(directory));
        assert!(!sources.is_empty(), "no source in {directory}");
        expect_none(&long_files(&sources));
    }
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // In two parts, or this file would be found.
    let words = [["/wo", "rk/"], ["/tmp/", "wt"], ["/home/", ""]].map(|parts| parts.concat());
    let mut findings = Vec::new();
    for place in ["src", "ublk-tests", "scripts", "fio-jobs", ".ci"] {
        let found = files_with(&repository().join(place), &words);
        findings.extend(found.into_iter().map(|finding| format!("{place}/{finding}")));
    }
    findings.retain(|finding| !finding.starts_with("ublk-tests/tests/tidy.rs"));
    expect_none(&findings);
}

#[test]
fn every_fio_job_says_what_it_shows() {
    let jobs = files(&repository().join("fio-jobs"), "fio");
    assert!(jobs.len() >= 8, "{jobs:?}");
    for job in jobs {
        let text = fs::read_to_string(&job).unwrap();
        for part in ["# Shows:", "# Run:", "# Expect:"] {
            assert!(text.contains(part), "{} has no line {part}", job.display());
        }
        assert!(text.contains("${TARGET}"), "{} does not take its target from the environment", job.display());
        assert!(text.contains("buffer_compress_percentage=50"), "{} has no 2:1 data", job.display());
    }
}

#[test]
fn the_readme_shows_the_demonstration_and_the_tests() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    for command in ["scripts/demo", "scripts/test"] {
        assert!(readme.contains(command), "README.md does not show {command}");
    }
}

#[test]
fn scripts_say_what_they_do_and_can_be_run() {
    for name in ["setup", "test", "demo", "vm"] {
        let path = repository().join("scripts").join(name);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("#!/bin/bash\n# "), "scripts/{name} does not begin with what it does");
        assert!(text.contains("set -euo pipefail"), "scripts/{name} goes on after errors");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "scripts/{name} cannot be run");
    }
}

#[test]
fn allowed_files_exist_or_are_a_layer_to_come() {
    let modules: Vec<&str> = tidy::LAYERS.iter().flat_map(|layer| layer.iter().copied()).collect();
    for (path, why) in tidy::UNSAFE_FILES {
        let module = path.split('/').next().unwrap();
        assert!(modules.contains(&module) && !why.is_empty(), "{path}");
    }
}
