//! Which writes of the host die soon: told from how long the block that they overwrite lived.
//!
//! ```text
//!   a write ─► what does it overwrite?  nothing, or what outlived the host's segments ─► cold stream
//!                                        what died sooner                              ─► the host's stream
//!   a segment of the host's is cleaned ─► how long did it last? ─► the average of that is the bound
//! ```
//!
//! A block that lived short will probably live short again (Wang et al., SepBIT, FAST '22, who also take the bound from the
//! segments that are cleaned). Kept apart, the host's segments are nearly dead when they are cleaned, and cold ones
//! are not cleaned for the sake of short-lived blocks among them. `cleaner_traces` prints what that brings.
//!
//! Ages are in operations, and of a block that the cleaner moved since that move: nothing remembers more.
//!
//! **Invariants.** Pure. A wrong guess costs space that is cleaned later, never data. **Not here:** the streams (`core`).

/// Weight of the average against the newest value.
const WEIGHT: u64 = 16;

/// How long segments of the host's stream last until they are cleaned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lifespan {
    average: Option<u64>,
}

impl Lifespan {
    /// A segment of the host's stream was cleaned, so many operations after it was filled.
    pub fn cleaned(&mut self, age: u64) {
        self.average = Some(self.average.map_or(age, |average| (average * (WEIGHT - 1) + age) / WEIGHT));
    }

    /// Whether a write goes to the cold stream that overwrites what is so old; `None` when it overwrites nothing, or
    /// nobody knows.
    #[must_use]
    pub fn is_cold(&self, age: Option<u64>) -> bool {
        match (age, self.average) {
            (None, _) => true,
            // no such segment was ever worth cleaning
            (Some(_), None) => false,
            (Some(age), Some(average)) => age >= average,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_follows_what_is_cleaned() {
        let mut lifespan = Lifespan::default();
        assert!(lifespan.is_cold(None) && !lifespan.is_cold(Some(u64::MAX)));
        lifespan.cleaned(1000);
        assert!(lifespan.is_cold(Some(1000)) && !lifespan.is_cold(Some(999)));
        (0..100).for_each(|_| lifespan.cleaned(100));
        assert!(lifespan.is_cold(Some(150)) && !lifespan.is_cold(Some(99)), "{lifespan:?}");
    }
}
