//! How a command that does not succeed ends.

use std::io::Write;
use std::process::ExitCode;

use crate::error::Error;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// It was asked wrongly: exit code 2.
    Usage(String),
    /// It failed: exit code 1.
    Failed(Error),
    /// It did what was asked, and what it found is to be told by the exit code.
    Found {
        /// What, for people.
        text: String,
        /// The exit code.
        code: u8,
    },
}

impl Failure {
    /// Says why on standard error, and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        let (text, code) = match self {
            Self::Usage(text) => (text.clone(), 2),
            Self::Failed(error) => (error.to_string(), 1),
            Self::Found { text, code } => (text.clone(), *code),
        };
        // nowhere else to say it
        drop(writeln!(std::io::stderr(), "plica: {text}"));
        ExitCode::from(code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}
