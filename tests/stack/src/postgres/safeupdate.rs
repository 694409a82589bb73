//! Provides the extension safeupdate, as hosted Supabase has it: the server's own, or a stand-in that is compiled here.

use super::config;
use crate::{process, repository};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::{fs, process::Command, sync::Mutex};

/// The stand-in's source.
const SOURCE: &str = include_str!("safeupdate.c");

/// The module's name, also in `session_preload_libraries`.
const NAME: &str = "safeupdate";

/// Lets this process compile once at a time. Other processes may compile the same meanwhile.
static COMPILING: Mutex<()> = Mutex::const_new(());

/// The module's origin.
pub(super) enum Safeupdate {
    /// The server has the real one.
    Real,
    /// The server has none, and this file is the stand-in.
    StandIn(PathBuf),
    /// The server has none, and without its headers the stand-in could not be compiled.
    Missing,
}

impl Safeupdate {
    /// Finds the module for a server, and compiles it if necessary.
    pub(super) async fn of(bin: &Path) -> Result<Self> {
        let library = config(bin, "--pkglibdir").await.map(|folder| folder.join(format!("{NAME}.so")));
        if library.is_some_and(|library| library.exists()) {
            return Ok(Self::Real);
        }
        let version = process::run(Command::new(bin.join("postgres")).arg("--version")).await?;
        let Some(headers) = headers(bin, &version).await else { return Ok(Self::Missing) };
        Ok(Self::StandIn(compile(&headers, &version).await?))
    }

    /// Copies the module into the server's reach, and gives the setting that makes the server look there.
    pub(super) async fn setting(&self, folder: &Path) -> Result<Option<String>> {
        let Self::StandIn(library) = self else { return Ok(None) };
        // As root the server runs as another user. That user may not be able to read our folders.
        fs::copy(library, folder.join(format!("{NAME}.so"))).await?;
        Ok(Some(format!("dynamic_library_path=$libdir:{}", folder.display())))
    }

    /// Tells whether the server can load the module.
    pub(super) fn is_there(&self) -> bool {
        !matches!(self, Self::Missing)
    }
}

/// Finds the folder of the server's headers: its own, or the one that scripts/lib/toolchain.sh has unpacked below
/// target.
async fn headers(bin: &Path, version: &str) -> Option<PathBuf> {
    let own = config(bin, "--includedir-server").await;
    let major = version.split_whitespace().find_map(|word| word.split('.').next()?.parse::<u32>().ok())?;
    let unpacked = format!("target/postgres-headers/usr/include/postgresql/{major}/server");
    let folders = own.into_iter().chain([repository().join(unpacked)]);
    folders.into_iter().find(|folder| folder.join("postgres.h").exists())
}

/// Compiles the stand-in, unless the file exists. Each version of server and source has a file of its own.
async fn compile(headers: &Path, version: &str) -> Result<PathBuf> {
    let folder = repository().join("target/safeupdate");
    let key = Sha256::digest(format!("{version}\n{SOURCE}"));
    let name: String = key.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let library = folder.join(format!("{name}.so"));
    let _compiling = COMPILING.lock().await;
    if library.exists() {
        return Ok(library);
    }
    fs::create_dir_all(&folder).await?;
    let work = TempDir::new_in(&folder)?;
    let (source, made) = (work.path().join("safeupdate.c"), work.path().join("safeupdate.so"));
    fs::write(&source, SOURCE).await?;
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu99", "-O2", "-fPIC", "-shared", "-I"]).arg(headers).arg("-o").arg(&made).arg(&source);
    process::run(&mut cc).await.context("the stand-in for safeupdate could not be compiled")?;
    // A rename is atomic: a file that is there is whole.
    fs::rename(&made, &library).await?;
    Ok(library)
}

/// Fails with the missing part if the stand-in could not be compiled.
pub(super) fn require(safeupdate: &Safeupdate) -> Result<()> {
    if safeupdate.is_there() {
        return Ok(());
    }
    bail!(
        "the server's headers are missing, which the stand-in for safeupdate is compiled with; scripts/dev and \
         scripts/test fetch them on Debian, where `apt-get install postgresql-server-dev-<version>` brings them, too"
    )
}
