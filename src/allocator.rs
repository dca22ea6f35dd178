//! The allocator of the programs: jemalloc, in pages of 2 MiB.
//!
//! A core looks at its map, its tables and its buffers at random. In pages of 4 KiB most of these looks miss the TLB, in
//! a guest twice over: overwriting at random in steady state is 10 to 18 % faster in huge pages, and p99 a quarter
//! shorter. glibc can do the same, but only when it is told so by the environment. It is built with `thp:always`
//! (`.cargo/config.toml`), which asks the kernel with `madvise`: `/sys/kernel/mm/transparent_hugepage/enabled` must not be
//! `never`. `_RJEM_MALLOC_CONF` in the environment comes after that (jemalloc's manual, TUNING).
//!
//! **Not here:** memory shared with hosts or with a later daemon (`staging`, `frontend`).

/// To be named as `#[global_allocator]` by a program.
pub use tikv_jemallocator::Jemalloc as Allocator;
