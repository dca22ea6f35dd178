//! `plica key`: making root keys.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Failure, output};
use crate::keys::RootKey;

pub(super) const HELP: &str = "\
Example:
  plica key generate /etc/plica/pool.key";

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a new random root key in a new file
    #[command(after_help = "\
The file is readable by its owner only; commands refuse a key file that others may read. Keep a copy in a \
safe place: without its root key a pool cannot be read by anybody.

Example:
  plica key generate /etc/plica/pool.key")]
    Generate {
        /// The file to make; an existing one is never overwritten
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

impl KeyCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self::Generate { file } = self;
        RootKey::generate_file(&file)?;
        output::print(&format!(
            "root key written to {}\nKeep a copy in a safe place: without it the pool is lost.\n",
            file.display()
        ));
        Ok(())
    }
}
