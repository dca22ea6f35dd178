//! A thread's executor over io_uring, with one medium: what an engine runs on, in the daemon and in commands.

use std::cell::OnceCell;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;

use crate::control::Medium;
use crate::env::executor::{Fifo, IdleWork};
use crate::env::{BusyPoll, Env, Executor, Reactor, Rng};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::BLOCK_SIZE;
use crate::media::{Access, Device, DeviceKind, Media, Registry, UringBackend};
use crate::pmem::{Journal, JournalDevice};
use crate::pool::Pool;

/// Executor, environment and medium of this thread.
pub struct Machine {
    executor: Executor,
    env: Env,
    media: Media,
    journal: Option<Journal>,
    dock: Dock,
    medium: Medium,
    /// Whose codec work this thread shares when it has nothing else to do.
    helped: Helped,
}

/// Makes journals of devices, also while its machine runs.
#[derive(Clone)]
pub struct Dock {
    registry: Registry,
    reactor: Rc<Reactor>,
}

impl Dock {
    /// The journal on a device, which stays open and locked as long as a clone of it lives.
    #[must_use]
    pub fn journal(&self, device: JournalDevice) -> Journal {
        match device {
            JournalDevice::Mapped(mapping, kind) => Journal::memory(Rc::new(mapping), kind),
            JournalDevice::Block(device) => {
                let registration = self.registry.register_for_now(&device);
                let (size, block) = (whole_blocks(&device), device.block());
                Journal::block(Media::for_now(self.reactor.clone(), registration, size, block))
            }
        }
    }
}

/// The pool that a thread's idle time goes to, once it is open.
pub type Helped = Rc<OnceCell<Rc<Pool>>>;

impl Machine {
    /// Opens and locks the medium at `path`.
    ///
    /// # Errors
    /// What [`Device::open`] and [`UringBackend::new`] report.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        Self::with_device(&Device::open(path, access)?)
    }

    /// Over an open medium, which stays open and locked as long as this lives.
    ///
    /// # Errors
    /// What [`UringBackend::new`] reports.
    pub fn with_device(device: &Device) -> Result<Self> {
        Self::with_devices(device, None)
    }

    /// Over an open medium, and an open journal.
    ///
    /// # Errors
    /// What [`UringBackend::new`] reports.
    pub fn with_devices(device: &Device, journal: Option<JournalDevice>) -> Result<Self> {
        let mut backend = UringBackend::new()?;
        let file = backend.register(device);
        let registry = backend.registry();
        let reactor = Reactor::new(Box::new(backend));
        let mut executor = Executor::new(reactor.clone(), Box::new(Fifo::default()));
        let env = Env::new(executor.spawner(), Rc::clone(&reactor), Rng::Kernel);
        let lazy = device.kind() == DeviceKind::File;
        let media = Media::new(reactor.clone(), file, whole_blocks(device), device.block(), lazy);
        let dock = Dock { registry, reactor };
        let journal = journal.map(|device| dock.journal(device));
        let identity = device.identity();
        let medium = Medium { device: identity.device, inode: identity.inode };
        let helped = Helped::default();
        let (asked, pool) = (helped.clone(), helped.clone());
        executor.set_idle(IdleWork {
            has_work: Box::new(move || asked.get().is_some_and(|pool| pool.core().codec.can_help())),
            work: Box::new(move || {
                if let Some(pool) = pool.get() {
                    pool.core().codec.help_one();
                }
            }),
        });
        Ok(Self { executor, env, media, journal, dock, medium, helped })
    }

    /// Sets how long it looks for work before it sleeps.
    pub fn set_busy_poll(&mut self, poll: BusyPoll) {
        self.executor.set_busy_poll(poll);
    }

    /// The environment of tasks here.
    #[must_use]
    pub fn env(&self) -> Env {
        self.env.clone()
    }

    /// The medium.
    #[must_use]
    pub fn media(&self) -> Media {
        self.media.clone()
    }

    /// The journal, if one was opened.
    #[must_use]
    pub fn journal(&self) -> Option<Journal> {
        self.journal.clone()
    }

    /// The journal, if one was opened, which is from now on the caller's to let go of.
    pub fn take_journal(&mut self) -> Option<Journal> {
        self.journal.take()
    }

    /// What makes journals of devices while this runs.
    #[must_use]
    pub fn dock(&self) -> Dock {
        self.dock.clone()
    }

    /// Which medium of this machine it is.
    #[must_use]
    pub fn medium(&self) -> Medium {
        self.medium
    }

    /// Device and inode of the medium, as staging memory is bound to them.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        (self.medium.device, self.medium.inode)
    }

    /// Where the pool is put that this thread's idle time shall go to.
    #[must_use]
    pub fn helped(&self) -> Helped {
        self.helped.clone()
    }

    /// Runs tasks until `main` is done.
    pub fn run<T: 'static>(&mut self, main: impl Future<Output = T> + 'static) -> T {
        self.executor.run(main)
    }
}

/// Its size without what is beyond the last whole block, which is nobody's.
fn whole_blocks(device: &Device) -> u64 {
    device.size() / u64::from(BLOCK_SIZE) * u64::from(BLOCK_SIZE)
}

/// The boot of this machine: memory of another boot is gone.
///
/// # Errors
/// The kernel does not say.
pub fn boot_id() -> Result<[u8; 16]> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(format!("reading {path}"), e))?;
    parse_uuid(text.trim())
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("{path} holds {text:?}, which is no boot id")))
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    let mut id = [0; 16];
    if pairs.len() != id.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? << 4 | low?).ok()?;
    }
    Some(id)
}

/// Bytes of memory of this machine.
#[must_use]
pub fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

/// Seconds since 1970, for times of creation that people read. Nothing is ordered by it.
///
/// The standard library's clock: that of `rustix` panics where the kernel's vDSO has no `getcpu` (User-Mode Linux).
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "a time for people, in the daemon; nothing under the simulator asks for it"
)]
pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_which_the_kernel_tells_everybody() {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
        let kib: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
        assert_eq!(memory_bytes() >> 10, kib);
    }

    #[test]
    fn boot_ids_are_read() {
        let id = parse_uuid("00010203-0405-0607-0809-0a0b0c0d0eff").unwrap();
        assert_eq!(id, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
        for text in ["", "0001", "00010203-0405-0607-0809-0a0b0c0d0eff00", "0001020g-0405-0607-0809-0a0b0c0d0eff"] {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
        assert_ne!(boot_id().unwrap(), [0; 16]);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
