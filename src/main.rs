//! The `plica` command: parse and dispatch.

use std::process::ExitCode;

use clap::Parser;
use plica::allocator::Allocator;
use plica::cli::Cli;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    Cli::parse().run()
}
