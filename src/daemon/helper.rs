//! Work that blocks its thread, awaited by a task of the core: front ends that wait for a kernel which may itself wait
//! for the core.

use crate::env::mailbox;
use crate::error::{Error, ErrorKind, Result};

/// Runs `work` on a thread of its own and waits for its end without blocking this one.
///
/// # Errors
/// No thread could be started, or `work` panicked.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (sender, receiver) = mailbox();
    let body = move || {
        // a panic is an answer, too: nobody may wait for ever
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok();
        drop(sender.send(result));
    };
    let thread = std::thread::Builder::new().name("helper".to_owned()).spawn(body);
    thread.map_err(|e| Error::io("starting a helper thread", e))?;
    let mut results = Vec::with_capacity(1);
    receiver.receive(&mut results).await;
    let panicked = || Error::new(ErrorKind::Io, "a helper thread panicked");
    results.pop().flatten().ok_or_else(panicked)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::env::executor::Fifo;
    use crate::env::{Executor, Reactor};
    use crate::media::UringBackend;

    #[test]
    fn results_and_panics_come_back() {
        let reactor = Reactor::new(Box::new(UringBackend::new().unwrap()));
        let mut executor = Executor::new(Rc::clone(&reactor), Box::new(Fifo::default()));
        let main_thread = std::thread::current().id();
        let other = executor.run(async { blocking(|| std::thread::current().id()).await });
        assert_ne!(other.unwrap(), main_thread);
        let error = executor.run(async { blocking(|| -> u8 { panic!("on purpose") }).await }).unwrap_err();
        assert_eq!(error.to_string(), "a helper thread panicked");
    }
}
