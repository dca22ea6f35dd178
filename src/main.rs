//! The `plica` command.

fn main() {}
