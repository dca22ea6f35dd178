//! What the daemon does when it is asked through its control socket.

use std::rc::Rc;

use super::helper::blocking;
use super::{Daemon, StopOrder, unix_now};
use crate::control::{Answer, BusyDevices, Command, NamespaceInfo, NewJournal, Request, StatusReport};
use crate::env::mailbox;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::limits::BLOCK_SIZE;
use crate::pool::NamespaceSpec;

impl Daemon {
    /// Does what `request` asks.
    pub(super) async fn handle(self: Rc<Self>, request: Request) -> Result<Answer> {
        if request.medium != self.medium {
            fail!(
                Busy,
                "a daemon serves a pool with the same id from another file or device: one of the two is a copy"
            );
        }
        match request.command {
            Command::Hello => Ok(Answer::Done),
            Command::Status => Ok(Answer::Status(Box::new(self.report()))),
            Command::NamespaceList => Ok(Answer::Namespaces(self.infos())),
            Command::NamespaceCreate(info) => self.create_namespace(&info).await,
            Command::NamespaceDestroy { name } => self.destroy_namespace(&name).await,
            Command::NamespaceResize { name, size, force } => self.resize_namespace(&name, size, force).await,
            Command::NamespaceServe { name } => self.serve_namespace(&name).await,
            Command::NamespaceUnserve { name } => {
                let _pass = self.gate.enter().await;
                self.front_ends.end(&name, BusyDevices::Refuse).await?;
                Ok(Answer::Done)
            }
            Command::PoolGrow { bytes } => {
                let _pass = self.gate.enter().await;
                self.pool.grow(bytes).await?;
                Ok(Answer::Done)
            }
            Command::JournalAdd(new) => self.add_journal(new).await,
            Command::JournalDrain { remove } => {
                let _pass = self.gate.enter().await;
                if remove {
                    self.pool.remove_journal().await?;
                } else {
                    self.pool.drain_journal().await?;
                }
                Ok(Answer::Done)
            }
            Command::JournalHeat => Ok(Answer::Heat(self.pool.journal_heat())),
            Command::ScrubStart { rate } => self.pool.core().scrub.start(rate).map(|()| Answer::Done),
            Command::ScrubTurn { to } => self.pool.core().scrub.turn(to).map(|()| Answer::Done),
            Command::Stop { devices } => self.order_stop(devices).await,
        }
    }

    fn infos(&self) -> Vec<NamespaceInfo> {
        self.pool.namespaces().iter().map(NamespaceInfo::from).collect()
    }

    fn report(&self) -> StatusReport {
        StatusReport {
            pid: std::process::id(),
            daemon: env!("CARGO_PKG_VERSION").to_owned(),
            serving: self.front_ends.all(),
            namespaces: self.infos(),
            pool: self.pool.status(),
        }
    }

    async fn create_namespace(&self, info: &NamespaceInfo) -> Result<Answer> {
        let spec = spec_of(info)?;
        let _pass = self.gate.enter().await;
        let entry = self.pool.create_namespace(&spec).await?;
        let namespace = NamespaceInfo::from(&entry);
        if !self.serves_all {
            return Ok(Answer::Namespace { namespace, served: None });
        }
        let client = self.pool.client(&entry.name)?;
        let served = self.front_ends.begin(client).await;
        let served = served.map_err(|e| e.within(format!("namespace {} was made, but is not served", entry.name)))?;
        Ok(Answer::Namespace { namespace, served: Some(served) })
    }

    async fn destroy_namespace(&self, name: &str) -> Result<Answer> {
        let _pass = self.gate.enter().await;
        self.pool.client(name)?;
        if self.front_ends.get(name).is_some() {
            self.front_ends.end(name, BusyDevices::Refuse).await?;
        }
        self.pool.destroy_namespace(name).await?;
        Ok(Answer::Done)
    }

    async fn resize_namespace(&self, name: &str, size: u64, force: bool) -> Result<Answer> {
        let _pass = self.gate.enter().await;
        let entry = self.pool.resize_namespace(name, size / u64::from(BLOCK_SIZE), force).await?;
        let note = self.front_ends.follow_size(name, size).await;
        if let Some(note) = &note {
            tracing::warn!("{note}");
        }
        Ok(Answer::Resized { namespace: NamespaceInfo::from(&entry), note })
    }

    async fn serve_namespace(&self, name: &str) -> Result<Answer> {
        let _pass = self.gate.enter().await;
        let client = self.pool.client(name)?;
        let served = self.front_ends.begin(client).await?;
        let entry = self.pool.namespaces().into_iter().find(|entry| entry.name == name);
        let Some(entry) = entry else { fail!(NotFound, "no namespace {name:?} in this pool") };
        Ok(Answer::Namespace { namespace: NamespaceInfo::from(&entry), served: Some(served) })
    }

    async fn add_journal(&self, new: NewJournal) -> Result<Answer> {
        let _pass = self.gate.enter().await;
        self.pool.check_takes_journal()?;
        let path = new.path.clone();
        // making and mapping a file takes its time
        let (is_new, device) = blocking(move || new.open()).await??;
        let kind = device.kind().to_string();
        let added = self.pool.add_journal(self.dock.journal(device), &path).await;
        if added.is_err() && is_new && self.pool.check_takes_journal().is_ok() {
            // the error that is reported is the first one
            drop(std::fs::remove_file(&path));
        }
        Ok(Answer::Journal { id: added?.to_string(), kind })
    }

    async fn order_stop(&self, devices: BusyDevices) -> Result<Answer> {
        let (answer, result) = mailbox();
        let order = StopOrder { devices, answer: Some(answer) };
        if self.stop.send(order).is_err() {
            fail!(Shutdown, "the daemon is already stopping");
        }
        let mut results = Vec::with_capacity(1);
        result.receive(&mut results).await;
        let gone = || Err(Error::new(ErrorKind::Shutdown, "the daemon is already stopping"));
        results.pop().unwrap_or_else(gone).map(|()| Answer::Done)
    }
}

/// From the form that people and the wire use.
///
/// # Errors
/// [`ErrorKind::Config`] for what no namespace can be.
pub(crate) fn spec_of(info: &NamespaceInfo) -> Result<NamespaceSpec> {
    let block = u64::from(BLOCK_SIZE);
    if !info.size.is_multiple_of(block) {
        fail!(Config, "{} bytes are not a multiple of 4 KiB", info.size);
    }
    let unit = info.unit / BLOCK_SIZE;
    let unit_blocks = u8::try_from(unit).ok().filter(|_| info.unit.is_multiple_of(BLOCK_SIZE));
    let Some(unit_blocks) = unit_blocks else {
        fail!(Config, "a unit of {} bytes: auto, 4K, 8K, 16K or 32K can be had", info.unit)
    };
    Ok(NamespaceSpec {
        name: info.name.clone(),
        blocks: info.size / block,
        cipher: info.cipher.parse()?,
        compression: info.compression.parse()?,
        unit_blocks,
        logical_block: info.logical_block,
        now_unix: unix_now(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Cipher, Compression};

    fn info() -> NamespaceInfo {
        NamespaceInfo {
            name: "db".to_owned(),
            id: 0,
            size: 8 << 30,
            cipher: "aes-256-gcm".to_owned(),
            compression: "zstd".to_owned(),
            unit: 8192,
            logical_block: 512,
            created: 0,
        }
    }

    #[test]
    fn a_spec_is_what_was_asked() {
        let spec = spec_of(&info()).unwrap();
        assert_eq!((spec.name.as_str(), spec.blocks, spec.unit_blocks, spec.logical_block), ("db", 2 << 20, 2, 512));
        assert_eq!((spec.cipher, spec.compression), (Cipher::Aes256Gcm, Compression::Zstd));
    }

    #[test]
    fn what_no_namespace_can_be_is_refused() {
        for bad in [
            NamespaceInfo { size: 4097, ..info() },
            NamespaceInfo { cipher: "rot13".to_owned(), ..info() },
            NamespaceInfo { compression: "gzip".to_owned(), ..info() },
            NamespaceInfo { unit: 5000, ..info() },
            NamespaceInfo { unit: 2 << 20, ..info() },
        ] {
            assert_eq!(spec_of(&bad).unwrap_err().kind(), ErrorKind::Config, "{bad:?}");
        }
    }
}
