//! What happened, as a running hash: two runs of one seed are the same run if and only if their hashes agree.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

/// Hash of the events of a run, and the last of them in words.
pub struct Trace {
    hash: Xxh3,
    count: u64,
    recent: std::collections::VecDeque<String>,
    verbose: bool,
}

impl Trace {
    const RECENT: usize = 64;

    /// Nothing happened yet. With `verbose`, every event goes to standard error as well.
    #[must_use]
    pub fn new(verbose: bool) -> Self {
        Self { hash: Xxh3::new(), count: 0, recent: std::collections::VecDeque::with_capacity(Self::RECENT), verbose }
    }

    /// Notes an event.
    pub fn note(&mut self, event: fmt::Arguments<'_>) {
        let text = event.to_string();
        self.hash.update(text.as_bytes());
        self.hash.update(b"\n");
        self.count += 1;
        if self.verbose {
            eprintln!("{:>7} {text}", self.count);
        }
        if self.recent.len() == Self::RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(text);
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.hash.digest()
    }

    /// How many events there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last events, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &str> {
        self.recent.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_matter() {
        let digest = |events: &[&str]| {
            let mut trace = Trace::new(false);
            for event in events {
                trace.note(format_args!("{event}"));
            }
            trace.digest()
        };
        assert_eq!(digest(&["a", "b"]), digest(&["a", "b"]));
        assert_ne!(digest(&["a", "b"]), digest(&["b", "a"]));
        assert_ne!(digest(&["ab"]), digest(&["a", "b"]));
    }
}
