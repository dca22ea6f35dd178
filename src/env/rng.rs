//! Chance: the kernel's generator, or a seed.

use crate::error::{Error, ErrorKind, Result};

/// Source of random bytes.
pub enum Rng {
    /// The kernel's generator (getrandom(2)).
    Kernel,
    /// A seeded generator, for the simulator only.
    #[cfg(feature = "sim")]
    Seeded(fastrand::Rng),
}

impl Rng {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the kernel has no randomness to give.
    pub fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        match self {
            Self::Kernel => getrandom::fill(bytes)
                .map_err(|e| Error::new(ErrorKind::Io, format!("the kernel gave no random bytes: {e}"))),
            #[cfg(feature = "sim")]
            Self::Seeded(rng) => {
                rng.fill(bytes);
                Ok(())
            }
        }
    }
}
