//! Where the programs under test are, built when they are not up to date.

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{Failure, Result, command::Cmd, failure::ensure};

/// Root directory of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// The `plica` program: `$PLICA_BIN`, else the one beside this program.
///
/// # Errors
/// When there is none.
pub fn plica() -> Result<PathBuf> {
    let path = match env::var_os("PLICA_BIN") {
        Some(path) => PathBuf::from(path),
        None => profile_directory()?.join("plica"),
    };
    ensure(path.is_file(), || format!("{} does not exist: cargo build, or set PLICA_BIN", path.display()))?;
    Ok(path)
}

/// Called by tests on the host: builds `plica` in the profile of the test, once a process, unless `$PLICA_BIN` names
/// one. `cargo test -p ublk-tests` alone would test the program of yesterday.
///
/// # Errors
/// When it does not compile.
pub fn build_plica() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    if env::var_os("PLICA_BIN").is_none() {
        BUILT
            .get_or_init(|| {
                let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
                let mut build = Cmd::new(cargo).args(["build", "--quiet", "--package", "plica", "--bin", "plica"]);
                if !cfg!(debug_assertions) {
                    build = build.arg("--release");
                }
                let manifest = repository().join("Cargo.toml");
                build.arg("--manifest-path").arg(manifest).limit(1800).ok().map(|_| ()).map_err(|e| e.to_string())
            })
            .clone()
            .map_err(Failure::new)?;
    }
    plica()
}

/// `target/release` or `target/debug`: this program is there or, when it is a test, one directory below.
fn profile_directory() -> Result<PathBuf> {
    let own = env::current_exe().map_err(Failure::io("own path"))?;
    let directory = own.parent().ok_or_else(|| Failure::new("a program without a directory"))?;
    let is_deps = directory.file_name().is_some_and(|name| name == "deps");
    Ok(if is_deps { directory.parent().unwrap_or(directory).to_owned() } else { directory.to_owned() })
}
