//! Inputs that are worth keeping: each had an outcome that none before it had.
//!
//! On disk an input is a text as golden files are (`fuzz-corpus/TARGET/HASH.hex`), so that most bytes of a table, which are
//! zeros, cost nothing and a diff can be read.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use plica::format::golden;
use xxhash_rust::xxh3::xxh3_64;

use super::{Outcome, Target};

/// Bytes of an input's text that are kept at most.
const TEXT_BYTES_MAX: usize = 12 << 10;

/// The inputs that mutations start from.
pub struct Corpus {
    /// Golden files and samples first.
    pub inputs: Vec<Vec<u8>>,
    seen: BTreeSet<u64>,
}

/// Where the inputs are that the project keeps.
#[must_use]
pub fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz-corpus")
}

impl Corpus {
    /// The target's own samples, and the inputs in these directories. All of them are run.
    ///
    /// # Errors
    /// A file cannot be read, or is no such text.
    pub fn load(target: &Target, directories: &[PathBuf]) -> io::Result<Self> {
        let mut corpus = Self { inputs: target.samples(), seen: BTreeSet::new() };
        for directory in directories {
            for path in files(&directory.join(target.name))? {
                corpus.inputs.push(read(&path)?);
            }
        }
        for input in &corpus.inputs {
            corpus.seen.extend((target.run)(input).features);
        }
        Ok(corpus)
    }

    /// Takes an input whose outcome has something new. Returns whether it had.
    pub fn take(&mut self, input: &[u8], outcome: &Outcome) -> bool {
        let before = self.seen.len();
        self.seen.extend(&outcome.features);
        let is_new = self.seen.len() > before;
        if is_new {
            self.inputs.push(input.to_vec());
        }
        is_new
    }

    /// Features seen so far.
    #[must_use]
    pub fn features(&self) -> usize {
        self.seen.len()
    }
}

/// Keeps an input in `directory`, unless its text is too long. Returns where.
///
/// # Errors
/// It cannot be written.
pub fn save(directory: &Path, target: &Target, input: &[u8]) -> io::Result<Option<PathBuf>> {
    let text = golden::render(input);
    if text.len() > TEXT_BYTES_MAX {
        return Ok(None);
    }
    let directory = directory.join(target.name);
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{:016x}.hex", xxh3_64(input)));
    std::fs::write(&path, text)?;
    Ok(Some(path))
}

/// Removes those of the kept inputs whose features smaller ones and the target's samples have too. Returns how many stay
/// and how many go.
///
/// # Errors
/// A file cannot be read or removed.
pub fn distil(directory: &Path, target: &Target) -> io::Result<(usize, usize)> {
    let mut inputs = Vec::new();
    for path in files(&directory.join(target.name))? {
        inputs.push((path.metadata()?.len(), read(&path)?, path));
    }
    inputs.sort();
    let mut corpus = Corpus::load(target, &[])?;
    let mut counts = (0, 0);
    for (_, input, path) in inputs {
        if corpus.take(&input, &(target.run)(&input)) {
            counts.0 += 1;
        } else {
            counts.1 += 1;
            std::fs::remove_file(path)?;
        }
    }
    Ok(counts)
}

/// The kept inputs of a directory, in order; none if it is not there.
///
/// # Errors
/// It cannot be read.
pub fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match directory.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// An input that was kept: as text, or as it is.
///
/// # Errors
/// It cannot be read, or a text is none.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "hex") {
        return std::fs::read(path);
    }
    let text = std::fs::read_to_string(path)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("{}: no input as text", path.display()));
    golden::parse(&text).ok_or_else(invalid)
}
