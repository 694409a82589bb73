//! The built components agree with spin.toml and with the settings.

use anyhow::{Context, Result};
use purple_flea_edge::config::{SETTINGS, Setting};
use stack::{host::Build, repository};
use std::{collections::BTreeSet, fs};
use toml::{Table, Value};

fn manifest() -> Result<Table> {
    Ok(fs::read_to_string(repository().join("spin.toml"))?.parse()?)
}

fn table<'a>(value: &'a Table, path: &[&str]) -> Result<&'a Table> {
    path.iter().try_fold(value, |table, name| {
        table.get(*name).and_then(Value::as_table).with_context(|| format!("no {name}"))
    })
}

#[test]
fn the_manifest_names_the_artifact_that_the_build_makes() -> Result<()> {
    let manifest = manifest()?;
    let component = table(&manifest, &["component", "purple-flea-edge"])?;
    let source = component["source"].as_str().context("no source")?;
    assert_eq!(repository().join(source), Build::Spin.artifact()?);
    let command = component["build"]["command"].as_str().context("no build command")?;
    assert_eq!(command, "cargo build --package purple-flea-edge-component --target wasm32-wasip2 --release");
    let hosts = component["allowed_outbound_hosts"].as_array().context("no hosts")?;
    let urls: Vec<Value> = SETTINGS
        .iter()
        // Inngest calls the one at `inngest_serve_url`; the function itself never does.
        .filter(|setting| setting.name.ends_with("_url") && setting.name != "inngest_serve_url")
        .map(|setting| Value::from(format!("{{{{ {} }}}}", setting.name)))
        .collect();
    assert_eq!(hosts, &urls, "the allowed hosts are the URLs of the settings, and no others");
    Ok(())
}

#[test]
fn the_manifest_declares_every_setting_with_its_default_and_whether_it_is_secret() -> Result<()> {
    let manifest = manifest()?;
    let variables = table(&manifest, &["variables"])?;
    let passed_on = table(&manifest, &["component", "purple-flea-edge", "variables"])?;
    for Setting { name, default, secret, .. } in SETTINGS {
        let variable = variables
            .get(name)
            .and_then(Value::as_table)
            .with_context(|| format!("{name} is not declared"))?;
        assert_eq!(variable.get("secret").is_some_and(|s| s.as_bool() == Some(true)), secret, "{name}");
        let template = passed_on
            .get(name)
            .and_then(Value::as_str)
            .with_context(|| format!("{name} is not passed on"))?;
        assert!(template.starts_with(&format!("{{{{ {name} }}}}")), "{template}");
        if variable.get("required").is_none() {
            // A URL's path has a variable of its own.
            let filled_in = variables.iter().fold(template.to_owned(), |text, (name, variable)| {
                let default = variable.get("default").and_then(Value::as_str).unwrap_or_default();
                text.replace(&format!("{{{{ {name} }}}}"), default)
            });
            assert_eq!(filled_in, default, "{name}");
        }
    }
    let names: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    let passed_on: BTreeSet<&str> = passed_on.keys().map(String::as_str).collect();
    assert_eq!(passed_on, names, "spin.toml passes on exactly the settings");
    Ok(())
}

#[test]
fn the_default_build_imports_only_wasi_and_spins_variables() -> Result<()> {
    let imports = Build::Spin.imports()?;
    let (spin, others): (Vec<_>, Vec<_>) = imports.iter().partition(|name| name.starts_with("spin:"));
    assert_eq!(spin, ["spin:variables/variables@3.0.0"]);
    assert!(others.iter().all(|name| name.starts_with("wasi:")), "{others:?}");
    Ok(())
}

#[test]
fn the_build_without_spin_imports_only_wasi() -> Result<()> {
    let imports = Build::Wasi.imports()?;
    assert!(imports.iter().any(|name| name.starts_with("wasi:http/")), "{imports:?}");
    assert!(imports.iter().all(|name| name.starts_with("wasi:")), "{imports:?}");
    Ok(())
}

#[test]
fn the_component_links_no_tokio_reqwest_sqlx_or_regex() -> Result<()> {
    let mut tree = std::process::Command::new(env!("CARGO"));
    tree.current_dir(repository()).args([
        "tree",
        "--package",
        "purple-flea-edge-component",
        "--edges",
        "normal",
        "--target",
        "wasm32-wasip2",
        "--prefix",
        "none",
    ]);
    let output = tree.output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let crates = String::from_utf8(output.stdout)?;
    assert!(crates.contains("spin-sdk"), "{crates}");
    for banned in ["tokio", "reqwest", "sqlx", "regex"] {
        assert!(!crates.lines().any(|line| line.split(' ').next() == Some(banned)), "{banned}:\n{crates}");
    }
    Ok(())
}
