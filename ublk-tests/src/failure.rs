//! The one error of the harness: a sentence for the person who reads the test's output.

use std::{error, fmt, io};

/// Why a test failed.
pub struct Failure(String);

/// Result with [`Failure`].
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure that says `what`.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// The same failure seen from further out: `outer: inner`.
    #[must_use]
    pub fn within(self, outer: impl fmt::Display) -> Self {
        Self(format!("{outer}: {}", self.0))
    }

    /// For `map_err`: an error of the system with what was attempted.
    pub fn io(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What `unwrap` shows: the same, for lines of a program's output are to be read.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for Failure {}

/// `Ok` when `holds`, else the failure that `what` describes.
///
/// # Errors
/// When it does not hold.
pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Failure(what())) }
}
