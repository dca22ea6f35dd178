//! Rules of the house that neither the compiler nor clippy knows, as functions over the source tree.
//!
//! Each returns what is wrong, one line a finding with its place; `tests/tidy.rs` expects none.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Most code lines of a file: without blank lines, comments, and its tests.
pub const CODE_LINES_MAX: usize = 400;

/// Layers of the main crate from the bottom up. A module uses its own layer and those below it.
pub const LAYERS: &[&[&str]] = &[
    &["units", "limits", "error", "canary", "allocator"],
    &["format"],
    &["buf"],
    &["staging"],
    &["env"],
    &["media", "pmem"],
    &["keys", "codec", "log", "map"],
    &["journal", "cleaner", "core"],
    &["recovery"],
    &["pool"],
    &["check", "advise"],
    &["frontend", "control", "metrics"],
    &["daemon"],
    &["cli", "sim"],
];

/// What the layers would allow and the design does not: the codec never sees media, the log neither keys nor plaintext,
/// the map no bytes, the cleaner no keys; the checker rebuilds the map without the engine.
pub const FORBIDDEN: &[(&str, &str)] = &[
    ("codec", "media"),
    ("log", "codec"),
    ("log", "keys"),
    ("map", "buf"),
    ("map", "media"),
    ("cleaner", "keys"),
    ("check", "core"),
];

/// Upward uses that are the simulator's seams: compiled only with it.
pub const SEAMS: &[(&str, &str)] = &[("staging", "sim")];

/// Files of the main crate that may contain unsafe code, and why.
pub const UNSAFE_FILES: &[(&str, &str)] = &[
    ("buf/data.rs", "pooled memory shared with the kernel"),
    ("frontend/ublk/pages.rs", "the character device that libublk shows as a number"),
    ("media/uring.rs", "submission of owned buffers to io_uring"),
    ("media/uring/flight.rs", "pointers of owned buffers while the kernel has them"),
    ("pmem/dax.rs", "cache-line write-back"),
    ("staging/region.rs", "the mapped file of the slots"),
    ("staging/store.rs", "mapping a file that nobody truncates"),
];

/// A Rust source file.
pub struct Source {
    /// Relative to the directory that was read.
    pub path: String,
    /// Everything before its tests, comments and the contents of strings taken out, line by line.
    code: Vec<String>,
}

/// Reads all Rust files under `directory`.
///
/// # Panics
/// When a file cannot be read: the tree under test is ours.
#[must_use]
pub fn sources(directory: &Path) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(directory, &mut |path| {
        if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path.to_owned());
        }
    });
    paths.sort();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Source::parse(&relative(directory, path), &text)
    };
    paths.iter().map(read).collect()
}

impl Source {
    /// The source text of a file.
    #[must_use]
    pub fn parse(path: &str, text: &str) -> Self {
        let is_tests = |line: &&str| line.trim_start().starts_with("#[cfg(test)]");
        let all_tests = path.ends_with("/tests.rs") || path.contains("/tests/");
        let lines = text.lines().take_while(|line| !all_tests && !is_tests(line));
        Self { path: path.into(), code: lines.map(|line| without_comment(line).to_owned()).collect() }
    }

    /// Lines that are neither blank nor only comment.
    #[must_use]
    pub fn code_line_count(&self) -> usize {
        self.code.iter().filter(|line| !line.trim().is_empty()).count()
    }

    /// The module of the first level it belongs to.
    #[must_use]
    pub fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Modules of the first level that it names, with line numbers.
    #[must_use]
    pub fn uses(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        // `use crate::{a::B, c::{D, E}}` may go over lines; depth 1 of its braces holds the modules.
        let mut depth = 0_usize;
        for (index, line) in self.code.iter().enumerate() {
            let mut rest = line.as_str();
            if depth > 0 {
                rest = group(rest, &mut depth, index + 1, &mut found);
            }
            while let Some(position) = rest.find("crate::") {
                rest = &rest[position + 7..];
                if let Some(inside) = rest.strip_prefix('{') {
                    depth = 1;
                    rest = group(inside, &mut depth, index + 1, &mut found);
                } else {
                    found.push((index + 1, name(rest).to_owned()));
                }
            }
        }
        found.retain(|(_, name)| !name.is_empty());
        found
    }
}

/// Files that are too long.
#[must_use]
pub fn long_files(sources: &[Source]) -> Vec<String> {
    let long = sources.iter().filter(|s| s.code_line_count() > CODE_LINES_MAX);
    long.map(|s| format!("{}: {} code lines, at most {CODE_LINES_MAX}", s.path, s.code_line_count())).collect()
}

/// Uses that go up the layers, and modules that no layer knows.
#[must_use]
pub fn wrong_direction(sources: &[Source]) -> Vec<String> {
    let layer = |module: &str| LAYERS.iter().position(|names| names.contains(&module));
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|s| !matches!(s.path.as_str(), "lib.rs" | "main.rs")) {
        let from = source.module();
        let Some(own) = layer(from) else {
            wrong.push(format!("{}: no layer has module {from}", source.path));
            continue;
        };
        for (line, to) in source.uses() {
            let up = layer(&to).is_some_and(|other| other > own);
            if (up && !SEAMS.contains(&(from, to.as_str()))) || FORBIDDEN.contains(&(from, to.as_str())) {
                wrong.push(format!("{}:{line}: {from} must not know {to}", source.path));
            }
        }
    }
    wrong
}

/// Unsafe code where none is allowed.
#[must_use]
pub fn stray_unsafe(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|s| !UNSAFE_FILES.iter().any(|(path, _)| *path == s.path)) {
        for (index, line) in source.code.iter().enumerate() {
            // put together here, so that this line is not one of them
            if ["{", "impl", "fn", "extern"].iter().any(|what| line.contains(&["unsafe", what].join(" "))) {
                wrong.push(format!("{}:{}: unsafe", source.path, index + 1));
            }
        }
    }
    wrong
}

/// Text files under `directory` that contain one of `words`.
#[must_use]
pub fn files_with(directory: &Path, words: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    walk(directory, &mut |path| {
        // Not text: nothing to read.
        let Ok(text) = fs::read_to_string(path) else { return };
        for (index, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                wrong.push(format!("{}:{}: {word}", relative(directory, path), index + 1));
            }
        }
    });
    wrong
}

/// The file's path as findings show it.
fn relative(directory: &Path, path: &Path) -> String {
    path.strip_prefix(directory).unwrap_or(path).display().to_string()
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path)) {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(|entry| entry.ok());
    for path in entries.map(|entry| entry.path()) {
        let hidden = path.file_name().is_some_and(|name| name == "target" || name == ".git");
        match (path.is_dir(), hidden) {
            (_, true) => {}
            (true, _) => walk(&path, visit),
            (false, _) => visit(&path),
        }
    }
}

/// Takes the names at depth 1 out of `text`, inside `crate::{`; what follows its end.
fn group<'a>(text: &'a str, depth: &mut usize, line: usize, found: &mut Vec<(usize, String)>) -> &'a str {
    let mut at_start = true;
    for (position, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => *depth += 1,
            b'}' => {
                *depth -= 1;
                if *depth == 0 {
                    return &text[position + 1..];
                }
            }
            b',' => at_start = true,
            b' ' => {}
            _ if *depth == 1 && at_start => {
                found.push((line, name(&text[position..]).to_owned()));
                at_start = false;
            }
            _ => {}
        }
    }
    ""
}

fn name(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())).unwrap_or(text.len());
    // `fail!` and other macros of the crate are no modules.
    if text[end..].starts_with('!') { "" } else { &text[..end] }
}

/// The line up to its comment. A `//` inside a string ends it early, which hides nothing that is looked for here.
fn without_comment(line: &str) -> &str {
    line.find("//").map_or(line, |position| &line[..position])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_found_in_every_form() {
        let text = "use crate::error::Result;\nuse crate::{\n    codec::{Seal, keys},\n    log::X, // map::Y\n};\n\
                    fn f() { crate::fail!(Io, \"x\"); crate::media::open(); }\n/// [`crate::sim`]\n#[cfg(test)]\n\
                    mod tests { use crate::cli; }";
        let names: Vec<(usize, String)> = Source::parse("core/a.rs", text).uses();
        let names: Vec<(usize, &str)> = names.iter().map(|(line, name)| (*line, name.as_str())).collect();
        assert_eq!(names, [(1, "error"), (3, "codec"), (4, "log"), (6, "media")]);
    }

    #[test]
    fn each_rule_finds_its_offender() {
        let up = Source::parse("log/a.rs", "use crate::core::Core;\nuse crate::keys::Key;");
        assert_eq!(wrong_direction(&[up]).len(), 2);
        let fine = Source::parse("core/a.rs", "use crate::{log::Batch, map::Map};");
        assert_eq!(wrong_direction(&[fine]), Vec::<String>::new());
        assert_eq!(wrong_direction(&[Source::parse("misc.rs", "")]).len(), 1);
        let text = "fn f() {\n    unsafe { g() }\n}";
        assert_eq!(stray_unsafe(&[Source::parse("log/a.rs", text), Source::parse("pmem/dax.rs", text)]).len(), 1);
        let long = "let a = 1;\n".repeat(CODE_LINES_MAX + 1);
        let commented = "// why\n\n".repeat(CODE_LINES_MAX);
        assert_eq!(long_files(&[Source::parse("a.rs", &long), Source::parse("b.rs", &commented)]).len(), 1);
    }
}
