//! The environment: the only place where reality is chosen.
//!
//! Time, chance, tasks and I/O reach the engine through [`Env`]; the same engine code runs over io_uring
//! ([`crate::media::uring`]) and under the seeded simulator (`crate::sim`).
//!
//! ```text
//!   engine ── Env ─┬─ Spawner ── executor (FIFO, or picked by the seed)
//!                  ├─ Reactor ── Backend: io_uring | simulated media
//!                  └─ Rng ────── kernel | seed
//! ```
//!
//! **Not here:** threads. The codec pool and front ends have their own and reach the core by [`Mailbox`].

mod busy_poll;
pub mod executor;
mod mailbox;
pub mod reactor;
mod rng;
pub mod sync;

use std::cell::RefCell;
use std::rc::Rc;

pub use busy_poll::BusyPoll;
pub use executor::{Executor, Spawner};
pub use mailbox::{Mailbox, MailboxReceiver, mailbox};
pub use reactor::{Backend, FileId, Reactor};
pub use rng::Rng;

use crate::error::Result;

/// What the engine may use of the world. Cheap to clone; belongs to the core's thread.
#[derive(Clone)]
pub struct Env {
    /// Starts tasks.
    pub spawner: Spawner,
    /// Does I/O and tells time.
    pub reactor: Rc<Reactor>,
    rng: Rc<RefCell<Rng>>,
}

impl Env {
    /// An environment of these parts.
    #[must_use]
    pub fn new(spawner: Spawner, reactor: Rc<Reactor>, rng: Rng) -> Self {
        Self { spawner, reactor, rng: Rc::new(RefCell::new(rng)) }
    }

    /// Monotonic nanoseconds since some fixed moment.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.reactor.now_ns()
    }

    /// Waits this long.
    pub async fn sleep_ns(&self, ns: u64) {
        self.reactor.sleep_until(self.now_ns() + ns).await;
    }

    /// Fills `bytes` with random bytes fit for keys.
    ///
    /// # Errors
    /// The kernel gave none.
    pub fn random(&self, bytes: &mut [u8]) -> Result<()> {
        self.rng.borrow_mut().fill(bytes)
    }

    /// A random number that is not 0.
    ///
    /// # Errors
    /// The kernel gave none.
    pub fn random_id(&self) -> Result<u64> {
        loop {
            let mut bytes = [0; 8];
            self.random(&mut bytes)?;
            let id = u64::from_le_bytes(bytes);
            if id != 0 {
                return Ok(id);
            }
        }
    }
}
