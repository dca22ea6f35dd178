//! libublk's errors as ours.
//!
//! libublk reports `EBUSY` of a control command as success with a negative value; [`done`] puts that right.

use std::io;

use libublk::UblkError;

use crate::error::{Error, ErrorKind, Result};

/// Turns the end of a control command into the value it gave.
pub(super) fn done(what: &str, ended: Result<i32, UblkError>) -> Result<i32> {
    match ended {
        Ok(value) if value >= 0 => Ok(value),
        Ok(negative) => Err(Error::io(what, io::Error::from_raw_os_error(negative.saturating_neg()))),
        Err(error) => Err(ours(what, error)),
    }
}

/// The same error with what was attempted.
pub(super) fn ours(what: &str, error: UblkError) -> Error {
    match error {
        UblkError::UringIOError(errno) | UblkError::OtherError(errno) => {
            Error::io(what, io::Error::from_raw_os_error(errno.saturating_abs()))
        }
        UblkError::IOError(error) => Error::io(what, error),
        UblkError::QueueIsDown => Error::new(ErrorKind::Shutdown, format!("{what}: the device has stopped")),
        UblkError::InvalidVal => Error::new(ErrorKind::Config, format!("{what}: a value is out of range")),
        error @ (UblkError::UringTimeout | UblkError::UringIoQueued | UblkError::JsonError(_)) => {
            Error::new(ErrorKind::Io, format!("{what}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_success_is_an_error_with_its_errno() {
        let busy = done("recover", Ok(-16)).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        assert!(busy.to_string().starts_with("recover: "), "{busy}");
        assert_eq!(done("add", Ok(7)).unwrap(), 7);
        assert_eq!(done("add", Err(UblkError::UringIOError(-95))).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(done("add", Err(UblkError::InvalidVal)).unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(done("add", Err(UblkError::QueueIsDown)).unwrap_err().kind(), ErrorKind::Shutdown);
    }
}
