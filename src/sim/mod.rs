//! The deterministic simulator: one seed drives the order of tasks, the clock, the media, deaths and faults.
//!
//! ```text
//!   World (a run) ─┬─ Machine: clock, media with volatile caches, shared memory        outlives daemons
//!                  ├─ daemon: the real engine on Executor(SeededOrder) + SimBackend     one life each
//!                  ├─ clients: reads, writes, flushes, concurrently
//!                  └─ Oracle: which bytes may be where, by brute force over all writes
//! ```
//!
//! **Invariants.** Nothing here looks at real time, addresses or hash order: one `u64` reproduces a run exactly. What a
//! dead daemon does has no effect on the machine, the clients or the oracle.
//!
//! **Not here:** any rule of the engine. The oracle knows the promises to hosts and nothing of segments or roots.

pub mod backend;
pub mod content;
pub mod death;
pub mod engine;
pub mod fault;
pub mod machine;
pub mod media;
pub mod oracle;
pub mod order;
pub mod plain;
mod plan;
pub mod pmem;
mod report;
pub mod shared_memory;
pub mod shrink;
pub mod sink;
pub mod subject;
pub mod sweep;
pub mod trace;
pub mod usage;
pub mod workload;
pub mod world;

pub use crate::canary::{Canary, Rule};
pub use backend::SimBackend;
pub use death::{Death, Point};
pub use fault::{Fault, FaultKind};
pub use machine::{Latency, Machine};
pub use oracle::Oracle;
pub use order::SeededOrder;
pub use plan::{Drains, Failing, JournalKind, JournalPlan, Kind, Plan, PlannedDeath};
pub use pmem::SimPmem;
pub use shared_memory::SharedMemory;
pub use shrink::shrink;
pub use subject::{Host, NamespacePlan, Serving, Subject};
pub use sweep::{Steps, abandoned, interrupted, sweep};
pub use trace::Trace;
pub use world::{Red, Report, run};
