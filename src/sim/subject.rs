//! What a world runs: something that serves namespaces from a medium.
//!
//! The engine is one; a plain disk without any log ([`super::plain`]) is another, so that the world and its oracle are
//! tested on something simple enough to be obviously right, or wrong in a known way.

use std::cell::RefCell;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use super::death::Death;
use super::machine::Machine;
use super::pmem::SimPmem;
use super::shared_memory::SharedMemory;
use crate::core::request::NamespaceClient;
use crate::env::{Env, FileId};
use crate::error::Result;

/// A future on the simulator's one thread.
pub type Local<T> = Pin<Box<dyn Future<Output = T>>>;

/// What a journal is on.
#[derive(Clone)]
pub enum HostJournal {
    /// Persistent memory.
    Memory(Rc<SimPmem>),
    /// A medium of the machine.
    Block(FileId, u64),
}

/// What a daemon finds when it starts.
#[derive(Clone)]
pub struct Host {
    /// Time, chance, tasks, I/O.
    pub env: Env,
    /// The machine, to look at.
    pub machine: Rc<RefCell<Machine>>,
    /// The pool's medium.
    pub file: FileId,
    /// Its size in bytes.
    pub size: u64,
    /// Its size when the pool was made.
    pub made_size: u64,
    /// What the pool's journal is on, if it has one.
    pub journal: Option<HostJournal>,
    /// The journal is lost, and given up.
    pub journal_lost: bool,
    /// The pool begins without its journal.
    pub journal_late: bool,
    /// Memory that outlives the daemon.
    pub shared_memory: Rc<RefCell<SharedMemory>>,
    /// Changes with every start of the machine.
    pub boot: [u8; 16],
    /// When this daemon dies.
    pub death: Arc<Death>,
    /// Whether the pool is to be looked at before it is opened: media that are well hold no damage, whenever daemon and
    /// machine died.
    pub checks: bool,
}

/// A namespace to be made.
#[derive(Clone, Debug)]
pub struct NamespacePlan {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical block: 512 or 4096.
    pub logical_block: u32,
    /// A number to draw further options from.
    pub flavour: u64,
}

/// A pool while it is served.
pub trait Serving {
    /// The ways to its namespaces, in the order of the plan.
    fn clients(&self) -> Vec<NamespaceClient>;
    /// Stops it cleanly.
    fn stop(&self) -> Local<Result<()>>;
    /// Moves everything out of its journal, if it has one.
    fn drain(&self) -> Local<Result<()>> {
        Box::pin(async { Ok(()) })
    }
    /// Gives the pool the host's journal, unless it has it, or it is lost.
    fn give_journal(&self) -> Local<Result<()>> {
        Box::pin(async { Ok(()) })
    }
    /// Takes the journal away from the pool, if it has one.
    fn take_journal(&self) -> Local<Result<()>> {
        Box::pin(async { Ok(()) })
    }
    /// Takes in what its medium, which has so many bytes by now, has gained.
    fn grow(&self, _bytes: u64) -> Local<Result<()>> {
        Box::pin(async { Ok(()) })
    }
    /// Begins to read back and verify everything in use, if it can.
    ///
    /// # Errors
    /// One is on its way.
    fn scrub(&self) -> Result<()> {
        Ok(())
    }
    /// Damaged places that this has found so far.
    fn scrub_damage(&self) -> u64 {
        0
    }
    /// Whether what these bytes of a namespace hold now was durable as soon as it was acknowledged: all of it is in a
    /// persistent journal. Then whatever was acknowledged of them is durable, or something that replaced it is.
    fn is_persistent(&self, _namespace: usize, _bytes: &Range<u64>) -> bool {
        false
    }
    /// Whether what it keeps account of is what is there; a sentence that says what is not.
    ///
    /// # Errors
    /// The sentence.
    fn audit(&self) -> std::result::Result<(), String> {
        Ok(())
    }
    /// What it did so far, by name: shows what the runs of a test reached.
    fn marks(&self) -> Vec<(&'static str, u64)>;
}

/// Something that can be served.
pub trait Subject {
    /// Formats the medium and makes the namespaces.
    fn create(&self, host: Host, namespaces: Vec<NamespacePlan>) -> Local<Result<()>>;
    /// Recovers and begins to serve.
    fn open(&self, host: Host) -> Local<Result<Rc<dyn Serving>>>;
}
