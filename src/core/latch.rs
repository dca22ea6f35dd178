//! The failure latch: after a failed flush or metadata write the pool takes no writes any more (I11).

use std::cell::RefCell;

use crate::error::{Error, ErrorKind, Result};

/// Closed once, with the reason; never opened again while the pool is served.
#[derive(Default)]
pub struct Latch(RefCell<Option<String>>);

impl Latch {
    /// Closes the latch. The first reason counts and is logged.
    pub fn close(&self, what: &str, error: &Error) {
        let mut reason = self.0.borrow_mut();
        if reason.is_none() {
            tracing::error!(
                "{what} failed: {error}; the pool is read-only from here on, nothing acknowledged is lost \
                by this; stop it, look at the medium, then serve it again"
            );
            *reason = Some(format!("{what} failed: {error}"));
        }
    }

    /// Refuses when the latch is closed.
    ///
    /// # Errors
    /// [`ErrorKind::ReadOnly`] with the reason.
    pub fn check(&self) -> Result<()> {
        match &*self.0.borrow() {
            None => Ok(()),
            Some(reason) => Err(Error::new(ErrorKind::ReadOnly, format!("the pool is read-only: {reason}"))),
        }
    }

    /// The reason, when closed.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}
