//! Rules of the engine that a test switches off, to show that the simulator notices.
//!
//! The switches are of one thread, like everything simulated. Without the feature `sim` no rule can be switched off, and
//! asking costs nothing: [`is_off`] is `false` when compiling.

#[cfg(feature = "sim")]
use std::cell::Cell;

/// A rule that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// I1: a flush comes between data and what points at it.
    DataBeforePointer,
    /// I5: checksums are compared.
    Checksum,
    /// A staging slot is reused only after its write completed.
    SlotAfterCompletion,
    /// Rule 6.3: a segment with CLEARs waits for the leaves that hold them.
    ClearBeforeReuse,
    /// Rule 6.1: batches of sessions that no root lists are refused.
    SessionListed,
    /// I3: a root is switched only after the flush it depends on.
    FlushBeforeRoot,
    /// Durability comes only from a device flush submitted after the writes completed.
    FlushAfterCompletion,
    /// Section 4: records are published before they are acknowledged.
    PublishBeforeAcknowledge,
    /// I8: a sub-block write is appended only if the block is still what was merged.
    MergeByCompare,
    /// Section 4: slots of a dead daemon are adopted.
    Adoption,
    /// What goes through tier 0 is acknowledged when it is durable.
    PersistBeforeAcknowledge,
    /// Tier 0 takes only blocks of leaves that the durable root calls journaled.
    MarkBeforeJournal,
    /// A slot is retired only after the copy of its live records is published.
    CopyBeforeRetire,
    /// I8: a MOVE takes only blocks whose entry still is what was read.
    MoveByCompare,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::DataBeforePointer,
        Self::Checksum,
        Self::SlotAfterCompletion,
        Self::ClearBeforeReuse,
        Self::SessionListed,
        Self::FlushBeforeRoot,
        Self::FlushAfterCompletion,
        Self::PublishBeforeAcknowledge,
        Self::MergeByCompare,
        Self::Adoption,
        Self::PersistBeforeAcknowledge,
        Self::MarkBeforeJournal,
        Self::CopyBeforeRetire,
        Self::MoveByCompare,
    ];
}

#[cfg(feature = "sim")]
thread_local! {
    static OFF: Cell<Option<Rule>> = const { Cell::new(None) };
}

/// Whether the rule is switched off on this thread.
#[cfg(feature = "sim")]
#[must_use]
pub fn is_off(rule: Rule) -> bool {
    OFF.get() == Some(rule)
}

/// Whether the rule is switched off: never.
#[cfg(not(feature = "sim"))]
#[must_use]
#[inline]
pub const fn is_off(_rule: Rule) -> bool {
    false
}

/// A rule that is off as long as this lives.
#[cfg(feature = "sim")]
pub struct Canary(());

#[cfg(feature = "sim")]
impl Canary {
    /// Switches a rule off on this thread.
    #[must_use]
    pub fn without(rule: Rule) -> Self {
        assert!(OFF.get().is_none(), "one canary at a time");
        OFF.set(Some(rule));
        Self(())
    }
}

#[cfg(feature = "sim")]
impl Drop for Canary {
    fn drop(&mut self) {
        OFF.set(None);
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_off_only_while_its_canary_lives() {
        assert!(Rule::ALL.iter().all(|rule| !is_off(*rule)));
        let canary = Canary::without(Rule::Checksum);
        assert!(is_off(Rule::Checksum) && !is_off(Rule::Adoption));
        drop(canary);
        assert!(!is_off(Rule::Checksum));
    }
}
