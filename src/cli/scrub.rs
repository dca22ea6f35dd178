//! `plica scrub`: everything in use of a served pool read back and verified, at a set rate.

use std::thread::sleep;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::access::{Access, Daemon, access, unexpected};
use super::output::{Progress, Table};
use super::pool_args::PoolArgs;
use super::{Failure, output, size};
use crate::control::{Answer, Command};
use crate::core::scrub::{ScrubDamage, ScrubState, ScrubStatus};
use crate::error::{Error, ErrorKind, Result};

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_millis(200);
/// Lines of damage that people are shown.
const SHOWN: usize = 40;

pub(super) const HELP: &str = "\
A scrub reads everything that is in use and verifies it, while the pool is served. What is damaged is logged, and \
listed by plica scrub status with the namespace and LBAs that are hurt; damage of the map that is still in memory is \
mended. A pool that is not served is checked with plica check.

Examples:
  plica scrub start pool.plica
  plica scrub start pool.plica --rate 200M --wait
  plica scrub status pool.plica";

const START_HELP: &str = "\
Example:
  plica scrub start pool.plica --rate 200M --wait";
const STATUS_HELP: &str = "\
Exit codes: 0 no damage found, 1 damage found (or no answer).

Example:
  plica scrub status pool.plica --json";
const PAUSE_HELP: &str = "Example:\n  plica scrub pause pool.plica";
const RESUME_HELP: &str = "Example:\n  plica scrub resume pool.plica";
const STOP_HELP: &str = "Example:\n  plica scrub stop pool.plica";

#[derive(Debug, Subcommand)]
pub(super) enum ScrubCommand {
    /// Begin a scrub
    #[command(after_help = START_HELP)]
    Start(StartArgs),
    /// Show how far it is and what it found
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Let it wait
    #[command(after_help = PAUSE_HELP)]
    Pause(TurnArgs),
    /// Let it go on
    #[command(after_help = RESUME_HELP)]
    Resume(TurnArgs),
    /// End it before its end
    #[command(after_help = STOP_HELP)]
    Stop(TurnArgs),
}

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// Bytes a second to read at most
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = parse_rate)]
    rate: u64,

    /// Wait for the end and show what was found
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TurnArgs {
    #[command(flatten)]
    pool: PoolArgs,
}

impl ScrubCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Start(args) => {
                let mut daemon = daemon_of(&args.pool)?;
                ask(&mut daemon, Command::ScrubStart { rate: args.rate })?;
                if args.wait { show(&wait(&mut daemon)?, false) } else { Ok(()) }
            }
            Self::Status(args) => show(&status(&mut daemon_of(&args.pool)?)?, args.json),
            Self::Pause(args) => args.turn(ScrubState::Paused),
            Self::Resume(args) => args.turn(ScrubState::Running),
            Self::Stop(args) => args.turn(ScrubState::Stopped),
        }
    }
}

impl TurnArgs {
    fn turn(&self, to: ScrubState) -> Result<(), Failure> {
        ask(&mut daemon_of(&self.pool)?, Command::ScrubTurn { to })
    }
}

fn parse_rate(text: &str) -> Result<u64, String> {
    let rate = size::parse_size(text)?;
    if rate == 0 { Err("at least 1 byte a second".to_owned()) } else { Ok(rate) }
}

fn daemon_of(args: &PoolArgs) -> Result<Daemon, Failure> {
    match access(args)? {
        Access::Served(daemon) => Ok(daemon),
        Access::Idle(_) => {
            let pool = args.pool.display();
            Err(Error::new(ErrorKind::NotFound, format!("no daemon serves {pool}: use plica check")).into())
        }
    }
}

fn ask(daemon: &mut Daemon, command: Command) -> Result<(), Failure> {
    match daemon.ask(command)? {
        Answer::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn status(daemon: &mut Daemon) -> Result<ScrubStatus, Failure> {
    match daemon.ask(Command::Status)? {
        Answer::Status(report) => Ok(report.pool.scrub),
        other => Err(unexpected(&other)),
    }
}

fn wait(daemon: &mut Daemon) -> Result<ScrubStatus, Failure> {
    let mut progress = Progress::new("scrubbing");
    loop {
        let status = status(daemon)?;
        progress.at(status.segments_done.into(), status.segments.into());
        if !matches!(status.state, ScrubState::Running | ScrubState::Paused) {
            return Ok(status);
        }
        sleep(LOOK);
    }
}

/// One line for the status of a pool.
pub(super) fn summary(status: &ScrubStatus) -> String {
    let ScrubStatus { segments_done, segments, records, damaged, .. } = status;
    let state = match status.state {
        ScrubState::Never => return "never since the pool was opened".to_owned(),
        ScrubState::Running => "running",
        ScrubState::Paused => "paused",
        ScrubState::Stopped => "stopped",
        ScrubState::Done => "done",
    };
    let found = if *damaged == 0 { "no damage".to_owned() } else { format!("{damaged} DAMAGED PLACES") };
    format!("{state}, {segments_done} of {segments} segments, {records} records verified, {found}")
}

fn show(status: &ScrubStatus, json: bool) -> Result<(), Failure> {
    if json {
        output::print_json(status);
    } else {
        let mut table = Table::facts();
        table.row(["scrub", &summary(status)]);
        table.row([
            "read",
            &format!("{} at up to {}/s", size::approximate(status.bytes), size::approximate(status.rate)),
        ]);
        let lines = status.damage.iter().take(SHOWN).map(|d| format!("  {}\n", line(d)));
        output::print(&(table.render() + &lines.collect::<String>()));
    }
    if status.damaged == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, format!("{} damaged places", status.damaged)).into())
}

fn line(damage: &ScrubDamage) -> String {
    let ScrubDamage { what, journal, segment, byte, namespace, first_lba, lbas } = damage;
    let of = if *journal { " of the journal" } else { "" };
    let whose = namespace.as_deref().map_or_else(String::new, |name| format!("namespace {name}, "));
    let which = first_lba.map_or_else(String::new, |first| format!("LBA {first}, {lbas} LBAs hurt: "));
    format!("{whose}{which}segment {segment}{of} at byte {byte}: {what}")
}
