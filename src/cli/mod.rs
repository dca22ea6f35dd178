//! The `plica` command: one file a subcommand.
//!
//! ```text
//!   parse ─► subcommand ─┬─ a daemon serves the pool ─► control socket
//!                        └─ nobody does ─────────────► open the pool here (recovery adopts or refuses)
//! ```
//!
//! **Invariants.** Secrets never come from the command line and never reach output or logs. Exit codes: 0 done, 1 failed,
//! 2 wrong usage. What is for programs (`--json`) goes to standard output, everything for people besides the answer
//! itself to standard error.
//!
//! **Not here:** what commands do to a pool (`pool`, `daemon`).

mod access;
mod advise;
mod check;
mod create;
mod dump;
mod failure;
mod grow;
mod journal;
mod key;
mod namespace;
mod offline;
mod output;
mod peek;
mod pool_args;
mod scrub;
mod serve;
mod size;
mod status;
mod stop;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

pub use failure::Failure;

const ABOUT: &str = "A packed, compressed, encrypted block device for databases, over ublk and NBD";
const EXAMPLES: &str = "\
Examples:
  A new pool in a file, with one namespace, served until Ctrl-C:
    plica key generate pool.key
    plica create pool.plica --size 16G --root-key pool.key
    plica namespace create pool.plica db --size 8G --root-key pool.key
    plica serve pool.plica --root-key pool.key

  From another terminal:
    plica status pool.plica
    plica namespace create pool.plica wal --size 1G --unit 8K
    plica stop pool.plica

Exit codes: 0 done, 1 failed, 2 wrong usage; plica status --check has more.
Environment: PLICA_LOG sets what is logged to standard error (error, warn, info, debug; or targets, such as \
plica::recovery=debug). Without it commands log warnings, and serve also what it does.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "plica", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make root keys
    #[command(subcommand, after_help = key::HELP)]
    Key(key::KeyCommand),
    /// Make a pool in a file or on a block device
    Create(create::CreateArgs),
    /// Make, list, resize, serve and destroy the namespaces of a pool
    #[command(subcommand, after_help = namespace::HELP)]
    Namespace(namespace::NamespaceCommand),
    /// Give a pool a journal in persistent memory, empty it, take it away
    #[command(subcommand, after_help = journal::HELP)]
    Journal(journal::JournalCommand),
    /// Serve a pool's namespaces as block devices, in the foreground
    Serve(serve::ServeArgs),
    /// Show what a pool holds and what its daemon does
    Status(status::StatusArgs),
    /// Make a pool larger
    Grow(grow::GrowArgs),
    /// Check a pool that is not served for damage, changing nothing
    Check(check::CheckArgs),
    /// Read back and verify everything in use of a pool that is served
    #[command(subcommand, after_help = scrub::HELP)]
    Scrub(scrub::ScrubCommand),
    /// Show what is where in a pool that is not served, for engineers
    #[command(subcommand, after_help = dump::HELP)]
    Dump(dump::DumpCommand),
    /// Show what settings would make of existing data: space and CPU
    Advise(advise::AdviseArgs),
    /// Stop the daemon that serves a pool, cleanly
    Stop(stop::StopArgs),
}

impl Cli {
    /// Does what was asked.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let is_serve = matches!(self.command, Command::Serve(_));
        start_logging(if is_serve { "info" } else { "warn" });
        let result = match self.command {
            Command::Key(command) => command.run(),
            Command::Create(args) => args.run(),
            Command::Namespace(command) => command.run(),
            Command::Journal(command) => command.run(),
            Command::Serve(args) => args.run(),
            Command::Status(args) => args.run(),
            Command::Grow(args) => args.run(),
            Command::Check(args) => args.run(),
            Command::Scrub(command) => command.run(),
            Command::Dump(command) => command.run(),
            Command::Advise(args) => args.run(),
            Command::Stop(args) => args.run(),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        }
    }
}

/// Logs to standard error, which is the journal under systemd.
fn start_logging(default: &str) {
    let filter = EnvFilter::try_from_env("PLICA_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    // systemd's journal has its own clock
    let is_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    if is_journal {
        format.with_ansi(false).without_time().init();
    } else {
        format.with_ansi(is_terminal).init();
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn good_lines_are_understood() {
        for line in [
            "plica key generate pool.key",
            "plica create pool --size 16G --root-key k",
            "plica create /dev/sdz --passphrase --label fast --segment-size 4M --force",
            "plica create pool --size 1T --passphrase-fd 3",
            "plica namespace create pool db --size 8G",
            "plica namespace create pool db --size 8G --cipher aes-256-gcm --compression none --unit 32K \
             --logical-block 512 --root-key k --json",
            "plica namespace list pool --json",
            "plica namespace destroy pool db --yes",
            "plica namespace serve pool db",
            "plica namespace unserve pool db",
            "plica serve pool --root-key k",
            "plica serve pool db wal --passphrase-fd 0 --transport nbd --nbd-socket /tmp/s --run-dir /tmp/r --queues 2 \
             --workers 4",
            "plica create pool --size 1G --root-key k --journal /dev/shm/j:64M --journal-volatile",
            "plica journal add pool --journal /mnt/pmem/j:8G",
            "plica journal drain pool",
            "plica journal remove pool --root-key k --journal j",
            "plica serve pool --root-key k --journal /mnt/pmem/j --accept-journal-loss",
            "plica status pool",
            "plica status pool --json --run-dir /tmp/r",
            "plica check pool",
            "plica check pool --json --run-dir /tmp/r",
            "plica scrub start pool",
            "plica scrub start pool --rate 10M --wait",
            "plica scrub pause pool",
            "plica scrub resume pool",
            "plica scrub stop pool",
            "plica scrub status pool --json",
            "plica dump root pool",
            "plica dump segment pool 5 --json",
            "plica dump batch pool 5 4096",
            "plica dump leaf pool db 0",
            "plica dump lba pool db 4711 --run-dir /tmp/r",
            "plica advise data",
            "plica advise /dev/sdz --sample 1G --cipher aes-256-gcm --json",
            "plica stop pool",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_usage_exits_with_2_and_says_what() {
        for (line, says) in [
            ("plica", "Usage"),
            ("plica launch", "launch"),
            ("plica create pool --size 10000 --root-key k", "8K and 12K"),
            ("plica create pool --size 1G", "--root-key"),
            ("plica create pool --size 1G --root-key k --passphrase", "cannot be used with"),
            ("plica create pool --size 1G --root-key k --segment-size 3M", "none of: 1M, 2M, 4M"),
            (
                "plica create pool --size 1G --root-key k --label 012345678901234567890123456789012345678901234567890123456789012345",
                "at most 64 bytes",
            ),
            ("plica namespace create pool db", "--size"),
            ("plica namespace create pool ../db --size 1G", "1 to 63 letters"),
            ("plica namespace create pool db --size 1G --cipher rot13", "aes-256-xts, aes-256-gcm"),
            ("plica namespace create pool db --size 1G --compression gzip", "none, lz4, zstd"),
            ("plica namespace create pool db --size 1G --unit 64K", "4K, 8K, 16K, 32K"),
            ("plica namespace create pool db --size 1G --logical-block 1024", "512, 4K"),
            ("plica namespace create pool db --size 8192T", "4P"),
            ("plica serve pool --root-key k --transport iscsi", "auto"),
            ("plica serve pool", "--root-key"),
            ("plica scrub start pool --rate 0", "1 byte"),
            ("plica serve pool --root-key k --queues 0", "1..="),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn every_command_has_help_with_examples() {
        fn walk(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                let path = format!("{path} {}", sub.get_name());
                let error = parse(&format!("{path} --help")).expect_err("help");
                assert_eq!((error.kind(), error.exit_code()), (ErrorKind::DisplayHelp, 0), "{path}");
                let help = error.to_string();
                assert!(help.contains("Example") && help.contains("  plica "), "{path}: {help}");
                walk(sub, &path);
            }
        }
        walk(&Cli::command(), "plica");
    }
}
