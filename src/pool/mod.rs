//! A pool: what exists before a core runs, and how it is created, opened, changed and stopped.
//!
//! ```text
//!   create: superblock ×2, namespace table ×2, first root ×2
//!   open:   superblock ─► key ─► namespaces ─► root ─► adopt ─► replay ─► new session's root ─► Pool
//! ```
//!
//! **Invariants.** Namespaces and wrapped keys are only in the table, both copies of which are written and flushed in
//! turn (crypto-erase). **Failure:** one damaged copy of anything is repaired from the other and said; both are refused.

mod copies;
mod create;
mod grow;
mod heat;
mod journal;
mod journal_change;
mod namespaces;
mod open;
mod prepare;
mod resize;
mod status;

pub use copies::{Inspection, inspect};
pub(crate) use copies::{layout_of, read_superblock, read_table, superblock_may_be_cut, table_copies};
pub use create::{CreateOptions, create};
pub use heat::{HeatKind, HeatRange};
pub use journal::JournalFound;
pub(crate) use journal::own_journal;
pub use journal_change::{add_journal, give_journal};
pub use namespaces::NamespaceSpec;
pub(crate) use open::find_staged;
pub use open::{OpenOptions, Pool};
pub use prepare::prepare;
pub use status::{Bypassed, JournalStatus, NamespaceJournal, NamespaceStatus, PoolStatus, RecentStatus, WrittenStatus};
