//! `scripts/release` packages what was built, completely and reproducibly, as registries and container runtimes read it.

use crate::{front_door::soon, host_program::program, scripts::script};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stack::{host::Build, process};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};
use tempfile::tempdir;
use tokio::{process::Command, sync::OnceCell};

/// A commit's time: 2026-11-30, 00:00:00 UTC.
const EPOCH: &str = "1795996800";

/// A release of the component and the host as they were built for the tests, with small bills of materials.
struct Release {
    /// Has the files that it is made of in `from`, and the release in `release`.
    folder: PathBuf,
    /// The output of the script with `--json`.
    report: Value,
}

impl Release {
    /// Gives the release that all tests look at. Packing the host takes seconds.
    async fn get() -> Result<&'static Self> {
        static RELEASE: OnceCell<Release> = OnceCell::const_new();
        RELEASE.get_or_try_init(Self::make).await
    }

    async fn make() -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("release");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let from = folder.join("from");
        fs::create_dir_all(&from)?;
        fs::copy(Build::Spin.artifact()?, from.join("purple_flea_edge.wasm"))?;
        fs::copy(Build::Wasi.artifact()?, from.join("purple_flea_edge-wasi.wasm"))?;
        fs::copy(program()?, from.join("purple-flea-host"))?;
        for name in ["component", "component-wasi", "host"] {
            let sbom = json!({"bomFormat": "CycloneDX", "specVersion": "1.5", "metadata": {"name": name}});
            fs::write(from.join(format!("{name}.cdx.json")), sbom.to_string())?;
        }
        let report = package(&folder, "release").await?;
        Ok(Self { folder, report })
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join("release").join(name)
    }

    /// Reads a blob of the layout after checking its size and digest against its descriptor.
    fn blob(&self, descriptor: &Value) -> Result<Vec<u8>> {
        let digest = descriptor["digest"].as_str().context("no digest")?;
        let name = digest.strip_prefix("sha256:").context("another digest")?;
        let bytes = fs::read(self.path("oci/blobs/sha256").join(name))?;
        ensure!(sha256(&bytes) == name, "{digest} is the digest of other bytes");
        ensure!(descriptor["size"] == json!(bytes.len()), "{descriptor} has {} bytes", bytes.len());
        Ok(bytes)
    }

    fn json(&self, descriptor: &Value) -> Result<Value> {
        Ok(serde_json::from_slice(&self.blob(descriptor)?)?)
    }

    /// The layout's manifests by their names, without the version.
    fn manifests(&self) -> Result<BTreeMap<String, Value>> {
        let index: Value = serde_json::from_slice(&fs::read(self.path("oci/index.json"))?)?;
        let version = format!("-{}", self.report["version"].as_str().context("no version")?);
        let manifests = index["manifests"].as_array().context("no manifests")?.iter();
        manifests
            .map(|descriptor| {
                let name = descriptor["annotations"]["org.opencontainers.image.ref.name"].as_str();
                Ok((name.context("no name")?.replace(&version, ""), descriptor.clone()))
            })
            .collect()
    }
}

/// Runs the script on `folder/from`.
async fn package(folder: &Path, output: &str) -> Result<Value> {
    let mut command = script("release");
    command.env("SOURCE_DATE_EPOCH", EPOCH).arg("--json");
    command.arg("--from").arg(folder.join("from")).arg("--output").arg(folder.join(output));
    Ok(serde_json::from_str(&soon(process::run(&mut command)).await??)?)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_a_release_has_its_checksum_and_every_blob_its_digest_and_size() -> Result<()> {
    let release = Release::get().await?;
    let sums = fs::read_to_string(release.path("SHA256SUMS"))?;
    let mut summed = BTreeSet::new();
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").context("no checksum line")?;
        assert_eq!(sha256(&fs::read(release.path(name))?), sum, "{name}");
        summed.insert(name.to_owned());
    }
    let files =
        fs::read_dir(release.path(""))?.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
    let mut files = files.collect::<Result<BTreeSet<_>>>()?;
    assert!(files.remove("SHA256SUMS") && files.remove("oci"), "{files:?}");
    assert_eq!((files.len(), &files), (7, &summed));
    assert_eq!(release.report["files"].as_array().map(Vec::len), Some(files.len()));

    let layout: Value = serde_json::from_slice(&fs::read(release.path("oci/oci-layout"))?)?;
    assert_eq!(layout, json!({"imageLayoutVersion": "1.0.0"}));
    let manifests = release.manifests()?;
    assert_eq!(
        manifests.keys().map(String::as_str).collect::<Vec<_>>(),
        ["component", "component-sbom", "component-wasi", "component-wasi-sbom", "host", "host-sbom"]
    );
    let mut referenced = BTreeSet::new();
    for descriptor in manifests.values() {
        let manifest = release.json(descriptor)?;
        assert_eq!(manifest["mediaType"], descriptor["mediaType"]);
        let layers = manifest["layers"].as_array().context("no layers")?;
        for part in [descriptor, &manifest["config"]].into_iter().chain(layers) {
            release.blob(part)?;
            referenced.insert(part["digest"].as_str().context("no digest")?.replace("sha256:", ""));
        }
    }
    let blobs = fs::read_dir(release.path("oci/blobs/sha256"))?;
    let blobs = blobs.map(|blob| Ok(blob?.file_name().to_string_lossy().into_owned()));
    assert_eq!(blobs.collect::<Result<BTreeSet<_>>>()?, referenced, "every blob belongs to a manifest");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_files_make_the_same_release_and_nothing_else_is_overwritten() -> Result<()> {
    let release = Release::get().await?;
    let (folder, mut again) = (&release.folder, release.report.clone());
    again["folder"] = json!(folder.join("again"));
    assert_eq!(package(folder, "again").await?, again);
    // An earlier release may be replaced; a folder of something else may not.
    assert_eq!(package(folder, "again").await?, again);
    let refused = package(folder, "from").await.unwrap_err().to_string();
    assert!(refused.contains("is not empty, and is no release"), "{refused}");
    assert!(folder.join("from/purple-flea-host").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_components_are_wasm_artifacts_that_say_what_they_import() -> Result<()> {
    let release = Release::get().await?;
    let manifests = release.manifests()?;
    for (name, build) in [("component", Build::Spin), ("component-wasi", Build::Wasi)] {
        let manifest = release.json(&manifests[name])?;
        let layer = &manifest["layers"][0];
        assert_eq!(layer["mediaType"], "application/wasm");
        assert!(release.blob(layer)? == fs::read(build.artifact()?)?, "{name} has other bytes");
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
        let config = release.json(&manifest["config"])?;
        assert_eq!((&config["architecture"], &config["os"]), (&json!("wasm"), &json!("wasip2")));
        assert_eq!(config["layerDigests"], json!([layer["digest"]]));
        assert_eq!(config["created"], "2026-11-30T00:00:00Z");
        assert_eq!(config["component"]["imports"], json!(build.imports()?));
        let exports = config["component"]["exports"].as_array().context("no exports")?;
        assert!(
            exports
                .iter()
                .any(|name| name.as_str().is_some_and(|name| name.starts_with("wasi:http/handler")))
        );
    }
    for name in ["component", "component-wasi", "host"] {
        let sbom = &manifests[&format!("{name}-sbom")];
        let manifest = release.json(sbom)?;
        assert_eq!(sbom["artifactType"], "application/vnd.cyclonedx+json");
        assert_eq!(manifest["subject"]["digest"], manifests[name]["digest"]);
        assert_eq!(release.json(&manifest["layers"][0])?["metadata"]["name"], name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_for_spin_names_the_component_beside_it() -> Result<()> {
    let release = Release::get().await?;
    let manifest: toml::Table = fs::read_to_string(release.path("spin.toml"))?.parse()?;
    let components = manifest["component"].as_table().context("no components")?;
    let (_, component) = components.iter().next().context("no component")?;
    let source = component["source"].as_str().context("no source")?;
    assert!(fs::read(release.path(source))? == fs::read(Build::Spin.artifact()?)?, "{source}");
    assert!(component.get("build").is_none() && component.get("variables").is_some(), "{component}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_has_all_that_the_host_needs_to_read_its_component() -> Result<()> {
    let release = Release::get().await?;
    let manifest = release.json(&release.manifests()?["host"])?;
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    let config = release.json(&manifest["config"])?;
    let layer = release.blob(&manifest["layers"][0])?;
    let scratch = tempdir()?;
    let (packed, rootfs) = (scratch.path().join("layer.tar.gz"), scratch.path().join("rootfs"));
    fs::write(&packed, layer)?;
    fs::create_dir(&rootfs)?;
    let unpacked = Command::new("gzip").arg("-dc").arg(&packed).output().await?.stdout;
    assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", sha256(&unpacked))]));
    process::run(Command::new("tar").arg("-xzf").arg(&packed).arg("-C").arg(&rootfs)).await?;
    assert!(rootfs.join("usr/share/doc/purple-flea-edge/LICENSE").exists());

    let entry = config["config"]["Entrypoint"].as_array().context("no entry point")?;
    let entry: Vec<&str> = entry.iter().filter_map(Value::as_str).collect();
    let [host, "--listen", "0.0.0.0:3000", component] = entry[..] else {
        anyhow::bail!("another entry point: {entry:?}")
    };
    // With no file of this machine in reach. Without root's rights the kernel may refuse that.
    let mut chroot = match is_root()? {
        true => Command::new("chroot"),
        false => {
            let mut unshare = Command::new("unshare");
            unshare.args(["--user", "--map-root-user", "chroot"]);
            unshare
        }
    };
    chroot.arg(&rootfs).args([host, "interfaces", component]).stdin(Stdio::null());
    match process::run(&mut chroot).await {
        Ok(printed) => {
            let interfaces: Value = serde_json::from_str(&printed)?;
            assert_eq!(interfaces["imports"], json!(Build::Spin.imports()?));
        }
        Err(error) if !is_root()? && error.to_string().contains("unshare") => {
            eprintln!("not run: this machine lets only root change the root folder: {error}");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_reads_and_copies_the_image() -> Result<()> {
    if Command::new("skopeo").arg("--version").stdout(Stdio::null()).status().await.is_err() {
        eprintln!("not run: skopeo is missing; on Debian: apt-get install skopeo");
        return Ok(());
    }
    let release = Release::get().await?;
    let version = release.report["version"].as_str().context("no version")?;
    let image = format!("oci:{}:host-{version}", release.path("oci").display());
    let inspected = process::run(Command::new("skopeo").args(["inspect", &image])).await?;
    let inspected: Value = serde_json::from_str(&inspected)?;
    assert_eq!(inspected["Digest"], release.manifests()?["host"]["digest"]);
    assert_eq!((&inspected["Os"], &inspected["Created"]), (&json!("linux"), &json!("2026-11-30T00:00:00Z")));
    // A copy reads every blob, and checks its digest.
    let scratch = tempdir()?;
    for name in ["component", "component-wasi", "host"] {
        let from = format!("oci:{}:{name}-{version}", release.path("oci").display());
        let to = format!("dir:{}", scratch.path().join(name).display());
        process::run(Command::new("skopeo").args(["--insecure-policy", "copy", "--quiet", &from, &to]))
            .await?;
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata("/proc/self")?.uid() == 0)
}
