//! Arguments that several commands share: the pool, its run directory, its root key.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::Failure;
use crate::error::{Error, ErrorKind};
use crate::format::superblock::{KeySource, Superblock};
use crate::keys::{Passphrase, PassphraseParams, RootKey};

/// Where daemons keep sockets and staging memory.
const RUN_DIR: &str = "/run/plica";

/// Which pool.
#[derive(Clone, Debug, Args)]
pub(super) struct PoolArgs {
    /// The pool: a file or block device
    #[arg(value_name = "POOL")]
    pub(super) pool: PathBuf,

    /// Where the daemon of the pool keeps its control socket and staging memory
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    pub(super) run_dir: PathBuf,
}

/// Where the root key comes from. At most one is named; [`key_is_required`] makes it exactly one.
#[derive(Clone, Debug, Args)]
#[group(id = "key-source", multiple = false)]
pub(super) struct KeyArgs {
    /// Root key from a file that `plica key generate` made
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,

    /// Root key from a passphrase, asked for at the terminal
    #[arg(long)]
    passphrase: bool,

    /// Root key from a passphrase, read from open file descriptor N up to the end of the line
    #[arg(long, value_name = "N")]
    passphrase_fd: Option<u32>,
}

/// For commands that cannot do without a root key.
pub(super) fn key_is_required() -> ArgGroup {
    ArgGroup::new("key").args(["root_key", "passphrase", "passphrase_fd"]).required(true)
}

/// The one that was named.
enum Source<'a> {
    File(&'a PathBuf),
    Terminal,
    Descriptor(u32),
}

impl KeyArgs {
    /// The root key of an existing pool.
    ///
    /// # Errors
    /// Wrong usage if none is named; otherwise what reading or deriving it gives, or that the pool's key is of the other
    /// sort.
    pub(super) fn open(&self, superblock: &Superblock) -> Result<RootKey, Failure> {
        let source = self.named()?;
        Ok(match (superblock.key_source, source) {
            (KeySource::File, Source::File(path)) => RootKey::load_file(path)?,
            (KeySource::Passphrase { memory_kib, passes, lanes, salt }, source) => {
                let what = format!("pool {}", superblock.pool);
                let passphrase = match source {
                    Source::Terminal => Passphrase::prompt(&what)?,
                    Source::Descriptor(number) => Passphrase::from_descriptor(number)?,
                    Source::File(_) => {
                        return Err(wrong_sort("a passphrase: name --passphrase or --passphrase-fd"));
                    }
                };
                RootKey::from_passphrase(&passphrase, &PassphraseParams { salt, memory_kib, passes, lanes })?
            }
            (KeySource::File, Source::Terminal | Source::Descriptor(_)) => {
                return Err(wrong_sort("a key file: name it with --root-key"));
            }
        })
    }

    /// The root key of a pool that is to be made, and how to get it again. `salt` is random.
    ///
    /// # Errors
    /// See [`KeyArgs::open`].
    pub(super) fn new_key(&self, salt: [u8; 16]) -> Result<(RootKey, KeySource), Failure> {
        let passphrase = match self.named()? {
            Source::File(path) => return Ok((RootKey::load_file(path)?, KeySource::File)),
            Source::Terminal => Passphrase::prompt_new("the new pool")?,
            Source::Descriptor(number) => Passphrase::from_descriptor(number)?,
        };
        let params = PassphraseParams::with_salt(salt);
        let PassphraseParams { memory_kib, passes, lanes, salt } = params;
        let key = RootKey::from_passphrase(&passphrase, &params)?;
        Ok((key, KeySource::Passphrase { memory_kib, passes, lanes, salt }))
    }

    fn named(&self) -> Result<Source<'_>, Failure> {
        match (&self.root_key, self.passphrase, self.passphrase_fd) {
            (Some(path), _, _) => Ok(Source::File(path)),
            (None, true, _) => at_terminal(),
            (None, false, Some(number)) => Ok(Source::Descriptor(number)),
            (None, false, None) => Err(Failure::Usage(
                "no daemon serves this pool, so its root key is needed: --root-key FILE, --passphrase or \
                 --passphrase-fd N (if one does serve it, name its --run-dir)"
                    .to_owned(),
            )),
        }
    }
}

/// A passphrase is asked for only where it is typed unseen.
fn at_terminal() -> Result<Source<'static>, Failure> {
    if std::fs::File::open("/dev/tty").is_ok() {
        return Ok(Source::Terminal);
    }
    Err(Failure::Usage(
        "--passphrase asks at a terminal, and there is none; --passphrase-fd N reads it from an open file descriptor"
            .to_owned(),
    ))
}

fn wrong_sort(right: &str) -> Failure {
    Error::new(ErrorKind::Locked, format!("the root key of this pool comes from {right}")).into()
}
