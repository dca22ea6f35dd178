//! The media of a backend, by the number that operations name them by. More can come, and go, while the backend runs.
//!
//! **Invariants.** A medium stays open, and locked, as long as it is registered or an operation on it is under way. A number
//! is never given out twice.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use crate::env::FileId;
use crate::media::device::{Device, DeviceKind};

/// A medium that operations name by [`FileId`].
pub(super) struct Registered {
    /// The open file description that carries the I/O and holds the lock.
    pub(super) fd: Arc<OwnedFd>,
    /// For messages.
    pub(super) name: String,
    /// Bytes; transfers are continued at multiples of it.
    pub(super) block: usize,
    /// Whether ranges can be allocated (files) or always are (block devices).
    pub(super) allocates: bool,
}

/// The media of a backend. Cheap to clone; belongs to the backend's thread.
#[derive(Clone, Default)]
pub struct Registry(Rc<RefCell<Vec<Option<Rc<Registered>>>>>);

/// Keeps a medium registered, until it is dropped.
pub struct Registration {
    registry: Registry,
    file: FileId,
}

impl Registry {
    /// Makes a medium known. It stays open, and locked, as long as the backend lives.
    #[must_use]
    pub fn register(&self, device: &Device) -> FileId {
        let mut files = self.0.borrow_mut();
        files.push(Some(Rc::new(Registered {
            fd: device.descriptor(),
            name: device.name(),
            block: device.block_bytes(),
            allocates: device.kind() == DeviceKind::File,
        })));
        FileId(files.len() - 1)
    }

    /// Makes a medium known for as long as the registration lives: nobody may begin operations on it later.
    #[must_use]
    pub fn register_for_now(&self, device: &Device) -> Registration {
        Registration { registry: self.clone(), file: self.register(device) }
    }

    /// A medium.
    ///
    /// # Panics
    /// It is not registered any more.
    pub(super) fn get(&self, file: FileId) -> Rc<Registered> {
        self.0.borrow()[file.0].clone().expect("operations are begun on media that are registered")
    }
}

impl Registration {
    /// How operations name it.
    #[must_use]
    pub fn file(&self) -> FileId {
        self.file
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.0.borrow_mut()[self.file.0] = None;
    }
}
