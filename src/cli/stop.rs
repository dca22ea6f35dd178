//! `plica stop`.

use clap::Args;

use super::access::{Access, access, unexpected};
use super::pool_args::PoolArgs;
use super::{Failure, output};
use crate::control::{Answer, BusyDevices, Command};
use crate::error::{Error, ErrorKind};

const HELP: &str = "\
Everything acknowledged is made durable and the map is written, so that the next start has nothing to replay. \
Returns when the daemon has exited.

A block device that is mounted or otherwise in use, or an NBD client, keeps the daemon from stopping, unless \
--leave or --force is given. With --leave the device stays, and I/O on it waits until `plica serve` takes it \
over again: that is how a daemon is restarted or upgraded under a mounted filesystem. NBD clients are \
disconnected. SIGTERM does the same as --leave.

Examples:
  plica stop pool.plica
  plica stop pool.plica --leave && plica serve pool.plica --root-key pool.key";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct StopArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// Leave block devices that are in use to the next daemon; their I/O waits until then
    #[arg(long, conflicts_with = "force")]
    leave: bool,

    /// Remove block devices even if they are in use: the I/O of whoever uses them fails
    #[arg(long)]
    force: bool,
}

impl StopArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Access::Served(mut daemon) = access(&self.pool)? else {
            let context = format!(
                "no daemon serves {} (run directory {})",
                self.pool.pool.display(),
                self.pool.run_dir.display()
            );
            return Err(Error::new(ErrorKind::NotFound, context).into());
        };
        let devices = match (self.leave, self.force) {
            (true, _) => BusyDevices::Leave,
            (false, true) => BusyDevices::Remove,
            (false, false) => BusyDevices::Refuse,
        };
        let answer = daemon.ask(Command::Stop { devices }).map_err(|error| match error.kind() {
            ErrorKind::Busy => {
                Error::new(ErrorKind::Busy, format!("{error} (--leave and --force stop nevertheless, see --help)"))
            }
            _ => error,
        })?;
        match answer {
            Answer::Done => daemon.wait_for_end()?,
            other => return Err(unexpected(&other)),
        }
        output::print("stopped\n");
        Ok(())
    }
}
