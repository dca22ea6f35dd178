//! `plica grow`: a pool made larger, served or not.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};

use clap::Args;

use super::access::{Access, access, unexpected};
use super::offline::with_pool;
use super::pool_args::{KeyArgs, PoolArgs};
use super::size::{approximate, parse_block_size_multiple};
use super::{Failure, output};
use crate::control::{Answer, Command};
use crate::error::Error;

const HELP: &str = "\
A pool in a file is given the size; a pool on a device grows to the end of the device, which has been made larger \
before (lvextend, a larger disk). If a daemon serves the pool it grows while it is served, without a pause; otherwise \
it is opened here, for which its root key is needed. Pools do not shrink.

Whatever happens meanwhile, the pool has the old size or the new one afterwards; repeat it if it was interrupted.

Examples:
  plica grow pool.plica 200G
  plica grow /dev/vg0/plica --root-key /etc/plica/pool.key";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct GrowArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// The new size of the pool file: 200G, 2T [default: the size that the file or device has]
    #[arg(value_name = "SIZE", value_parser = parse_block_size_multiple)]
    size: Option<u64>,

    #[command(flatten)]
    key: KeyArgs,
}

impl GrowArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let access = access(&self.pool)?;
        let bytes = self.make_medium_larger()?;
        match access {
            Access::Served(mut daemon) => match daemon.ask(Command::PoolGrow { bytes })? {
                Answer::Done => {}
                other => return Err(unexpected(&other)),
            },
            Access::Idle(peek) => {
                with_pool(&self.pool, None, &peek, &self.key, async move |pool| pool.grow(bytes).await)?;
            }
        }
        output::print(&format!("the pool has {} now\n", approximate(bytes)));
        Ok(())
    }

    /// Gives a file its new size. What is behind the end of a pool is nothing to it until it has grown. Returns the size
    /// of the medium.
    fn make_medium_larger(&self) -> Result<u64, Failure> {
        let shown = self.pool.pool.display();
        let failed = |what: &str| {
            let context = format!("{what} {shown}");
            move |e| Error::io(context, e)
        };
        let mut medium = OpenOptions::new().write(true).open(&self.pool.pool).map_err(failed("opening"))?;
        let now = medium.seek(SeekFrom::End(0)).map_err(failed("measuring"))?;
        let Some(size) = self.size else { return Ok(now) };
        if size < now {
            let text = format!("{shown} has {} already, and pools do not shrink", approximate(now));
            return Err(Failure::Usage(text));
        }
        if size > now {
            if !medium.metadata().map_err(failed("looking at"))?.is_file() {
                let text = format!("{shown} is a device of {}; make the device larger first", approximate(now));
                return Err(Failure::Usage(text));
            }
            // durable by the flush that comes before anything names the new end
            medium.set_len(size).map_err(failed("making room in"))?;
        }
        Ok(size)
    }
}
