//! Signals as messages: blocked in every thread, waited for by one.
//!
//! Nothing runs in a signal handler, and no system call of another thread is interrupted.

use nix::sys::signal::{SigSet, Signal};

use crate::error::{Error, Result};

/// Exit status of a process that is told to stop a second time.
const IMPATIENT: i32 = 1;

/// The signals that ask the daemon to stop, blocked in this thread and all that it starts.
pub(super) struct StopSignals(SigSet);

impl StopSignals {
    /// Blocks them. To be called before there is another thread.
    ///
    /// # Errors
    /// The kernel refused.
    pub(super) fn block() -> Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        signals.thread_block().map_err(|errno| Error::io("blocking signals", errno))?;
        Ok(Self(signals))
    }

    /// Calls `first` at the first of them. At the second the process ends at once, as if killed: the next start recovers.
    ///
    /// # Errors
    /// No thread could be started.
    pub(super) fn watch(self, first: impl FnOnce(&'static str) + Send + 'static) -> Result<()> {
        let wait = move || {
            if let Ok(signal) = self.0.wait() {
                first(signal.as_str());
            }
            if let Ok(signal) = self.0.wait() {
                tracing::warn!("{signal} again: ending without a clean stop, the next start recovers");
                std::process::exit(IMPATIENT);
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(wait);
        thread.map(drop).map_err(|e| Error::io("starting the signal thread", e))
    }
}
