//! The extension safeupdate, as hosted Supabase has it: the server's own, or a stand-in that is compiled here.

use super::config;
use crate::{process, repository};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::{fs, process::Command, sync::Mutex};

/// The stand-in.
const SOURCE: &str = include_str!("safeupdate.c");

/// How the module is named, in `session_preload_libraries` too.
const NAME: &str = "safeupdate";

/// Compiles once at a time in this process. Other processes may compile the same meanwhile.
static COMPILING: Mutex<()> = Mutex::const_new(());

/// Where the server finds the module.
pub(super) enum Safeupdate {
    /// The server has the real one.
    Real,
    /// This file is the stand-in for it.
    StandIn(PathBuf),
    /// The server's headers are not there, so that nothing could be compiled.
    Missing,
}

impl Safeupdate {
    /// Finds the module for a server, and compiles it where that is necessary.
    pub(super) async fn of(bin: &Path) -> Result<Self> {
        let library = config(bin, "--pkglibdir").await.map(|folder| folder.join(format!("{NAME}.so")));
        if library.is_some_and(|library| library.exists()) {
            return Ok(Self::Real);
        }
        let version = process::run(Command::new(bin.join("postgres")).arg("--version")).await?;
        let Some(headers) = headers(bin, &version).await else { return Ok(Self::Missing) };
        Ok(Self::StandIn(compile(&headers, &version).await?))
    }

    /// Puts the module where the server looks for it, and gives the setting that makes it look there.
    pub(super) async fn setting(&self, folder: &Path) -> Result<Option<String>> {
        let Self::StandIn(library) = self else { return Ok(None) };
        // As root the server runs as another user, and that user may not be able to read our folders.
        fs::copy(library, folder.join(format!("{NAME}.so"))).await?;
        Ok(Some(format!("dynamic_library_path=$libdir:{}", folder.display())))
    }

    /// Whether the server can load the module.
    pub(super) fn is_there(&self) -> bool {
        !matches!(self, Self::Missing)
    }
}

/// The folder of the server's headers: its own, or what scripts/lib/toolchain.sh has unpacked below target.
async fn headers(bin: &Path, version: &str) -> Option<PathBuf> {
    let own = config(bin, "--includedir-server").await;
    let major = version.split_whitespace().find_map(|word| word.split('.').next()?.parse::<u32>().ok())?;
    let unpacked = format!("target/postgres-headers/usr/include/postgresql/{major}/server");
    let folders = own.into_iter().chain([repository().join(unpacked)]);
    folders.into_iter().find(|folder| folder.join("postgres.h").exists())
}

/// Compiles the stand-in, unless that has been done: a file per version of the server and of the source.
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

/// Says what is missing where nothing could be compiled.
pub(super) fn require(safeupdate: &Safeupdate) -> Result<()> {
    if safeupdate.is_there() {
        return Ok(());
    }
    bail!(
        "the server's headers are missing, which the stand-in for safeupdate is compiled with; scripts/dev and \
         scripts/test fetch them on Debian, where `apt-get install postgresql-server-dev-<version>` brings them, too"
    )
}
