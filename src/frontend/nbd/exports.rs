//! Who is exported under which name, and who is connected to it. Changes while the server runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use rustix::net::Shutdown;

use crate::core::request::NamespaceClient;

/// A namespace as it is exported.
#[derive(Clone)]
pub struct Export {
    /// The way to its core. Its name is the export's name.
    pub client: NamespaceClient,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// The exports of a server. Cheap to clone; belongs to the core's thread.
#[derive(Clone, Default)]
pub struct Exports(Rc<RefCell<BTreeMap<Arc<str>, Entry>>>);

struct Entry {
    export: Export,
    sockets: Vec<Weak<OwnedFd>>,
}

impl Exports {
    /// No exports yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Exports a namespace under its name. One that was there by that name is replaced and its clients disconnected.
    pub fn insert(&self, export: Export) {
        let name = export.client.name.clone();
        self.remove(&name);
        self.0.borrow_mut().insert(name, Entry { export, sockets: Vec::new() });
    }

    /// Exports it no longer; its clients are disconnected, requests under way still complete. Returns whether there
    /// was one.
    pub fn remove(&self, name: &str) -> bool {
        let Some(entry) = self.0.borrow_mut().remove(name) else { return false };
        for socket in entry.sockets.iter().filter_map(Weak::upgrade) {
            // the receiver sees the end of the stream; an error means that the client has left already
            let _ = rustix::net::shutdown(&socket, Shutdown::Read);
        }
        true
    }

    /// How many clients are connected to an export.
    #[must_use]
    pub fn connections(&self, name: &str) -> usize {
        self.0
            .borrow()
            .get(name)
            .map_or(0, |entry| entry.sockets.iter().filter(|socket| socket.strong_count() > 0).count())
    }

    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.0.borrow().keys().cloned().collect()
    }

    /// The export that a client means by `name`; no name means the only export, if there is just one.
    pub(super) fn find(&self, name: &[u8]) -> Option<Export> {
        let table = self.0.borrow();
        if name.is_empty() && table.len() == 1 {
            return table.values().next().map(|entry| entry.export.clone());
        }
        let name = std::str::from_utf8(name).ok()?;
        table.get(name).map(|entry| entry.export.clone())
    }

    /// Notes that `socket` is connected to `export`. Returns false if that export has gone meanwhile.
    pub(super) fn connect(&self, export: &Export, socket: &Arc<OwnedFd>) -> bool {
        let mut table = self.0.borrow_mut();
        let Some(entry) = table.get_mut(&export.client.name).filter(|e| e.export.client.id == export.client.id) else {
            return false;
        };
        entry.sockets.retain(|socket| socket.strong_count() > 0);
        entry.sockets.push(Arc::downgrade(socket));
        true
    }
}
