//! Real time for tests: nothing waits for ever.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{Failure, Result};

/// The present moment.
#[expect(clippy::disallowed_methods, reason = "the harness drives real processes and lives outside the simulator")]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Asks `ready` every few milliseconds until it gives a value.
///
/// # Errors
/// After `limit` without one; `what` says what was waited for. What `ready` fails with ends the wait at once.
pub fn until<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = now();
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if start.elapsed() >= limit {
            return Err(Failure::new(format!("waited {limit:?} in vain for {what}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
}
