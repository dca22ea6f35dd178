//! The `plica` command: parse and dispatch.

use std::process::ExitCode;

use clap::Parser;
use plica::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
