//! What a target made of an input, as a set of features.
//!
//! A refusal is one feature: the message without its numbers, so which check refused it. What was accepted has one for
//! each number in it: what stands before the number, and how many hexadecimal digits it has. What a text quotes does not count.

use std::collections::BTreeSet;
use std::fmt::{Debug, Display, Write};

use xxhash_rust::xxh3::xxh3_64;

/// Characters of what was accepted that are looked at: a root may have thousands of entries.
const LOOK: usize = 4000;

/// What a target made of an input.
#[derive(Debug, Default)]
pub struct Outcome {
    /// It was accepted.
    pub accepted: bool,
    /// What is remarkable about it.
    pub features: BTreeSet<u64>,
}

impl Outcome {
    /// It was refused, for this reason.
    pub fn refused(reason: &impl Display) -> Self {
        let text = reason.to_string();
        let words: Vec<_> = tokens(&text).filter(|token| !is_value(token)).collect();
        Self { accepted: false, features: BTreeSet::from([xxh3_64(words.join(" ").as_bytes())]) }
    }

    /// It was accepted, as this.
    pub fn accepted(what: &impl Debug) -> Self {
        let mut text = Limited(String::with_capacity(LOOK));
        // the end of what is too long is not looked at
        let _ = write!(text, "{what:?}");
        Self { accepted: true, features: features(&text.0) }
    }
}

/// A string that ends when it is long enough.
struct Limited(String);

impl Write for Limited {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.push_str(s);
        if self.0.len() < LOOK { Ok(()) } else { Err(std::fmt::Error) }
    }
}

/// The words and numbers of a text; what it quotes is the input's own.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let unquoted = text.split(['"', '`']).step_by(2);
    unquoted
        .flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|token| !token.is_empty())
}

/// Not a word of ours: a number, in whatever base.
fn is_value(token: &str) -> bool {
    token.bytes().any(|byte| byte.is_ascii_digit()) || !token.is_ascii()
}

fn features(text: &str) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    // the two words before a number: the field and its type
    let (mut before, mut word) = (String::new(), String::new());
    for token in tokens(text) {
        if is_value(token) {
            // of what is no decimal number the length counts
            let number = token.parse::<u64>().unwrap_or(1 << token.len().min(60));
            let feature = format!("{before} {word} {}", (u64::BITS - number.leading_zeros()) / 4);
            found.insert(xxh3_64(feature.as_bytes()));
        } else {
            found.insert(xxh3_64(format!("{word} {token}").as_bytes()));
            before = std::mem::replace(&mut word, token.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_told_apart_by_what_refused_them_and_by_the_size_of_fields() {
        let refused = |text: &str| Outcome::refused(&text).features;
        assert_eq!(refused("root: length 4096, not 17"), refused("root: length 8192, not 5"));
        assert_ne!(refused("root: length 4096"), refused("root: flags 4096"));
        let accepted = |a: u32, b: u32| Outcome::accepted(&(a, b, "name")).features;
        assert_eq!(accepted(4, 9), accepted(5, 12));
        assert_ne!(accepted(4, 9), accepted(4, 900));
    }
}
