//! What is served where: the namespaces' front ends, begun and ended while the pool is open.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::helper::blocking;
use crate::control::{BusyDevices, Served};
use crate::core::request::NamespaceClient;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::frontend::nbd::{Export, Exports, Server};
use crate::frontend::ublk::{UblkOptions, UblkServer};

/// How namespaces reach their users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Block devices of this kernel.
    Ublk,
    /// A Unix socket.
    Nbd,
}

/// What serves one namespace.
enum FrontEnd {
    Ublk { device: PathBuf, server: UblkServer },
    Nbd { uri: String },
}

impl FrontEnd {
    fn at(&self) -> String {
        match self {
            Self::Ublk { device, .. } => device.display().to_string(),
            Self::Nbd { uri } => uri.clone(),
        }
    }
}

/// The front ends of a daemon.
pub(super) struct FrontEnds {
    way: Way,
    serving: RefCell<BTreeMap<String, FrontEnd>>,
}

enum Way {
    Ublk(UblkOptions),
    Nbd { socket: PathBuf, exports: Exports, server: RefCell<Option<Server>> },
}

impl FrontEnds {
    /// Block devices.
    pub(super) fn ublk(queues: u16) -> Self {
        let way = Way::Ublk(UblkOptions { queues, ..UblkOptions::default() });
        Self { way, serving: RefCell::default() }
    }

    /// Exports at `socket`, whose directory exists.
    ///
    /// # Errors
    /// What listening reports.
    pub(super) fn nbd(env: &Env, socket: &Path) -> Result<Self> {
        let exports = Exports::new();
        let server = Server::start(env, socket, exports.clone())?;
        let way = Way::Nbd { socket: socket.to_owned(), exports, server: RefCell::new(Some(server)) };
        Ok(Self { way, serving: RefCell::default() })
    }

    /// Serves a namespace.
    ///
    /// # Errors
    /// It is served already, or its front end does not start.
    pub(super) async fn begin(&self, client: NamespaceClient) -> Result<Served> {
        let name = client.name.to_string();
        if self.serving.borrow().contains_key(&name) {
            fail!(Exists, "namespace {name} is served already");
        }
        let front_end = match &self.way {
            Way::Ublk(options) => {
                let options = options.clone();
                // the kernel reads the new device's partition table before this is done
                let server = blocking(move || UblkServer::start(client, options)).await??;
                let device = server.path().to_owned();
                warn_if_swap(&device);
                FrontEnd::Ublk { device, server }
            }
            Way::Nbd { socket, exports, .. } => {
                exports.insert(Export { client, read_only: false });
                FrontEnd::Nbd { uri: nbd_uri(&name, socket) }
            }
        };
        let at = front_end.at();
        self.serving.borrow_mut().insert(name.clone(), front_end);
        Ok(Served { name, at })
    }

    /// Stops serving a namespace. After an error it is still served.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it is not served, [`ErrorKind::Busy`], naming who uses it, as `devices` says.
    pub(super) async fn end(&self, name: &str, devices: BusyDevices) -> Result<()> {
        let Some(front_end) = self.serving.borrow_mut().remove(name) else {
            fail!(NotFound, "namespace {name} is not served");
        };
        match front_end {
            FrontEnd::Nbd { uri } => self.end_export(name, uri, devices),
            FrontEnd::Ublk { device, server } => {
                let (server, result) = blocking(move || end_device(server, devices)).await?;
                if result.is_err() {
                    self.serving.borrow_mut().insert(name.to_owned(), FrontEnd::Ublk { device, server });
                }
                result
            }
        }
    }

    /// A namespace has another size: whoever uses it sees that now. Returns who does not, and until when.
    pub(super) async fn follow_size(&self, name: &str, bytes: u64) -> Option<String> {
        if let Way::Nbd { exports, .. } = &self.way {
            let connections = exports.connections(name);
            return (connections > 0).then(|| {
                format!("{connections} NBD client(s) of namespace {name} see its new size when they connect again")
            });
        }
        let taken = self.serving.borrow_mut().remove(name);
        let Some(FrontEnd::Ublk { device, server }) = taken else { return None };
        let resized = blocking(move || {
            let result = server.resize(bytes);
            (server, result)
        });
        let keeps = |error: &Error| {
            let device = device.display();
            format!("{device} keeps its old size until namespace {name} is served anew (unserve, then serve): {error}")
        };
        match resized.await {
            Ok((server, result)) => {
                let note = result.err().as_ref().map(keeps);
                self.serving.borrow_mut().insert(name.to_owned(), FrontEnd::Ublk { device, server });
                note
            }
            Err(error) => Some(keeps(&error)),
        }
    }

    fn end_export(&self, name: &str, uri: String, devices: BusyDevices) -> Result<()> {
        let Way::Nbd { exports, .. } = &self.way else { return Ok(()) };
        let connections = exports.connections(name);
        if connections > 0 && devices == BusyDevices::Refuse {
            self.serving.borrow_mut().insert(name.to_owned(), FrontEnd::Nbd { uri });
            fail!(Busy, "namespace {name} is in use by {connections} NBD client(s)");
        }
        exports.remove(name);
        Ok(())
    }

    /// Stops listening, once nothing is served any more.
    pub(super) async fn close(&self) {
        let Way::Nbd { server, .. } = &self.way else { return };
        let server = server.borrow_mut().take();
        if let Some(server) = server {
            server.stop().await;
        }
    }

    /// Where a namespace is served.
    pub(super) fn get(&self, name: &str) -> Option<Served> {
        let serving = self.serving.borrow();
        serving.get(name).map(|front_end| Served { name: name.to_owned(), at: front_end.at() })
    }

    /// All that is served.
    pub(super) fn all(&self) -> Vec<Served> {
        let serving = self.serving.borrow();
        serving.iter().map(|(name, front_end)| Served { name: name.clone(), at: front_end.at() }).collect()
    }
}

/// Runs on a helper thread: the core must answer requests meanwhile.
fn end_device(mut server: UblkServer, devices: BusyDevices) -> (UblkServer, Result<()>) {
    let result = match (server.stop(devices == BusyDevices::Remove), devices) {
        (Err(error), BusyDevices::Leave) if error.kind() == ErrorKind::Busy => {
            tracing::warn!("{error}: the device stays, and I/O on it waits for the next plica serve of this pool");
            server.leave()
        }
        (result, _) => result,
    };
    (server, result)
}

/// Swap on a device that the daemon itself serves can wait for the daemon's memory, for ever.
fn warn_if_swap(device: &Path) {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let device = device.display().to_string();
    if swaps.lines().any(|line| line.split_whitespace().next() == Some(&device)) {
        tracing::error!("{device} is used as swap: the daemon needs memory to serve it; swapoff it");
    }
}

/// The URI of an export, as nbdinfo, nbdcopy, fio and qemu understand it.
fn nbd_uri(name: &str, socket: &Path) -> String {
    format!("nbd+unix:///{}?socket={}", percent_encoded(name), percent_encoded(&socket.to_string_lossy()))
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_what_nbd_tools_expect() {
        assert_eq!(nbd_uri("db", Path::new("/run/plica/x.nbd")), "nbd+unix:///db?socket=/run/plica/x.nbd");
        assert_eq!(nbd_uri("a", Path::new("/tmp/a b&ü")), "nbd+unix:///a?socket=/tmp/a%20b%26%C3%BC");
    }
}
