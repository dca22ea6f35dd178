//! What is done to a device inside the guest, one function a scenario.
//!
//! A scenario makes a pool, has it served, uses the device as people do and says what did not hold. It runs in a guest
//! (`scripts/vm`) or, as root, on any machine whose kernel has ublk; all its files are under one directory, which must
//! take direct I/O.

mod daemon_death;
mod discard;
pub mod files;
mod filesystem;
mod journal;
mod many;
mod nbd_client;
mod postgres;
mod verify;

use std::path::{Path, PathBuf};

use crate::{
    Failure, Result,
    daemon::{Daemon, Namespace, Pool, Transport},
};

/// Where a scenario works.
pub struct Place {
    directory: PathBuf,
}

type Scenario = fn(&Place) -> Result<()>;

/// Every scenario with its name.
pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("ext4", filesystem::ext4),
    ("xfs", filesystem::xfs),
    ("btrfs", filesystem::btrfs),
    ("verify-random", verify::random),
    ("verify-mixed", verify::mixed),
    ("verify-sectors", verify::sectors),
    ("verify-gcm-zstd", verify::gcm_zstd),
    ("discard", discard::ranges),
    ("fstrim", discard::fstrim),
    ("two-keys", many::two_keys),
    ("many-namespaces", many::hundred),
    ("online-namespaces", many::online),
    ("resized", many::resized),
    ("daemon-death", daemon_death::under_fio),
    ("daemon-death-acknowledged", daemon_death::nothing_acknowledged_is_lost),
    ("daemon-death-mounted", daemon_death::mounted),
    ("daemon-death-hundred", daemon_death::hundred),
    ("upgrades", daemon_death::upgrades),
    ("refusals", daemon_death::refusals),
    ("postgres-crash", postgres::crash),
    ("postgres-journal", postgres::crash_with_journal),
    ("sealed", journal::sealed),
    ("nbd-client", nbd_client::filesystem),
];

impl Place {
    /// A place in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A pool of `size` in a file there, with `namespaces`.
    ///
    /// # Errors
    /// What `plica` says.
    pub fn pool(&self, size: &str, namespaces: &[Namespace<'_>]) -> Result<Pool> {
        let pool = Pool::at(self.path("pool"), self.path("pool.d"));
        pool.create(Some(size), namespaces)?;
        Ok(pool)
    }

    /// A pool with one namespace `data`, served.
    ///
    /// # Errors
    /// What `plica` says.
    pub fn served(&self, namespace: &Namespace<'_>) -> Result<(Pool, Daemon, PathBuf)> {
        let pool = self.pool("3G", std::slice::from_ref(namespace))?;
        let (daemon, device) = serve(&pool)?;
        Ok((pool, daemon, device))
    }
}

/// Serves a pool whose one namespace is `data`.
///
/// # Errors
/// What `plica` says.
pub fn serve(pool: &Pool) -> Result<(Daemon, PathBuf)> {
    let daemon = pool.serve(Transport::Ublk, &["data"])?;
    let device = daemon.device("data")?;
    Ok((daemon, device))
}

/// Runs the scenario called `name` in `directory`.
///
/// # Errors
/// What did not hold, or that there is no such scenario.
pub fn run(name: &str, directory: &Path) -> Result<()> {
    let found = SCENARIOS.iter().find(|(known, _)| *known == name);
    let (_, scenario) = found.ok_or_else(|| Failure::new(format!("no scenario {name}")))?;
    scenario(&Place::new(directory))
}
