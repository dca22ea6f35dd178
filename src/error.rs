//! One error type: a kind to match on, a context to read, a source to follow; and the only table from kind to errno.
//!
//! Media bytes and host requests are input: they become errors, never assertions. Messages say what happened, to
//! what, and where useful what to do.

use std::{error, fmt, io};

/// What went wrong: small, stable, matchable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The medium or the kernel reported an error.
    Io,
    /// Bytes were read but are not what was written.
    Corrupt,
    /// No space in the pool or under it.
    NoSpace,
    /// Beyond the end of a namespace, segment or structure.
    OutOfRange,
    /// Not supported here: by this kernel, device or build.
    Unsupported,
    /// The key is missing or wrong.
    Locked,
    /// The pool accepts no writes any more.
    ReadOnly,
    /// Another user holds it.
    Busy,
    /// Made by a version that this one does not read.
    Version,
    /// The caller asked for something that does not make sense.
    Config,
    /// No such pool, namespace or device.
    NotFound,
    /// It exists already.
    Exists,
    /// The daemon is going down.
    Shutdown,
}

impl ErrorKind {
    /// The errno for front ends (positive, as in errno(3)): the one table.
    #[must_use]
    pub fn errno(self) -> i32 {
        use rustix::io::Errno;
        let errno = match self {
            Self::Io | Self::Corrupt | Self::Locked => Errno::IO,
            Self::NoSpace => Errno::NOSPC,
            Self::OutOfRange | Self::Config | Self::Version => Errno::INVAL,
            Self::Unsupported => Errno::OPNOTSUPP,
            Self::ReadOnly => Errno::ROFS,
            Self::Busy => Errno::BUSY,
            Self::NotFound => Errno::NOENT,
            Self::Exists => Errno::EXIST,
            Self::Shutdown => Errno::SHUTDOWN,
        };
        errno.raw_os_error()
    }
}

/// What a damaged structure should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Name of the structure as FORMAT.md calls it.
    pub structure: &'static str,
    /// Name of the field.
    pub field: &'static str,
    /// What was expected there.
    pub expected: u64,
    /// What was there.
    pub got: u64,
}

/// An error with its context.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    damage: Option<Damage>,
    source: Option<Box<dyn error::Error + Send + Sync>>,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `context` is a sentence for people.
    #[must_use]
    #[cold]
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), damage: None, source: None }
    }

    /// A damaged structure: which field was expected to be what.
    #[must_use]
    #[cold]
    pub fn corrupt(structure: &'static str, field: &'static str, expected: u64, got: u64) -> Self {
        let context = format!("{structure}: {field} is {got:#x}, expected {expected:#x}");
        let damage = Some(Damage { structure, field, expected, got });
        Self { kind: ErrorKind::Corrupt, context, damage, source: None }
    }

    /// An error of the system, with what was attempted.
    #[must_use]
    #[cold]
    pub fn io(context: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            io::ErrorKind::ResourceBusy => ErrorKind::Busy,
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        };
        Self { kind, context: context.into(), damage: None, source: Some(Box::new(source)) }
    }

    /// The same error seen from further out: `outer: inner`.
    #[must_use]
    #[cold]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.context = format!("{outer}: {}", self.context);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Which structure was damaged, if that is what went wrong.
    #[must_use]
    pub fn damage(&self) -> Option<Damage> {
        self.damage
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_ref().map(|s| &**s as &(dyn error::Error + 'static))
    }
}

/// An error of `kind` with a formatted context: `fail!(Config, "size {size} is not a multiple of 4096")`.
#[macro_export]
macro_rules! fail {
    ($kind:ident, $($arg:tt)*) => {
        return Err($crate::error::Error::new($crate::error::ErrorKind::$kind, format!($($arg)*)))
    };
}
