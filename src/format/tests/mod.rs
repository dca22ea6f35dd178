//! Tests of the format: samples of every structure, and what must hold for each of them.

#![expect(clippy::indexing_slicing, reason = "a test that indexes out of bounds fails, as it should")]

mod arbitrary;
mod bounds;
mod damage;
mod golden_files;
mod mixtures;
mod round_trip;
mod samples;
mod tables;
