//! The component's code: compiled when the host starts, or ahead of time.

use anyhow::{Context, Result};
use std::{fs::File, io::Read, path::Path};
pub use wasmtime::component::Component;
use wasmtime::{Config, Engine};

/// The first bytes of every WebAssembly file.
const WASM_MAGIC: &[u8; 4] = b"\0asm";

/// Makes the engine. Compiling and running need the same configuration: Wasmtime refuses code of another one.
pub fn engine() -> Result<Engine> {
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    Ok(Engine::new(&config)?)
}

/// Compiles a component ahead of time, for this machine's kind of processor and this version of the host.
pub fn compile(engine: &Engine, wasm: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(wasm).with_context(|| format!("{} cannot be read", wasm.display()))?;
    Ok(engine.precompile_component(&bytes)?)
}

/// Loads a component, and compiles it unless that was done ahead of time.
pub fn load(engine: &Engine, path: &Path) -> Result<Component> {
    let mut magic = [0; WASM_MAGIC.len()];
    let mut file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    if file.read_exact(&mut magic).is_ok() && magic == *WASM_MAGIC {
        return Ok(Component::from_file(engine, path)?);
    }
    // SAFETY: the operator installed this native code, as the operator installed this program. Wasmtime checks that the same
    // version compiled it with the same options. Wasmtime cannot check that the code was not forged.
    #[expect(
        unsafe_code,
        reason = "there is no other way to run a component that was compiled ahead of time"
    )]
    let component = unsafe { Component::deserialize_file(engine, path) };
    component
        .map_err(anyhow::Error::from)
        .with_context(|| format!("{} was compiled by another version; compile it anew", path.display()))
}

/// Lists a component's imports and exports, as the JSON object that its description in a registry has.
pub fn interfaces(component: &Component) -> String {
    let (component_type, engine) = (component.component_type(), component.engine());
    let exports: Vec<String> = component_type.exports(engine).map(|(name, _)| name.to_owned()).collect();
    format!(r#"{{"imports":{},"exports":{}}}"#, json(&imports(component)), json(&exports))
}

/// Writes names as a JSON array. No interface's name has a character that JSON escapes.
fn json(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("[{}]", quoted.join(","))
}

/// Lists the interfaces that a component imports.
pub fn imports(component: &Component) -> Vec<String> {
    component.component_type().imports(component.engine()).map(|(name, _)| name.to_owned()).collect()
}
