//! The component's code: compiled when the host starts, or ahead of time.

use anyhow::{Context, Result};
use std::{fs::File, io::Read, path::Path};
pub use wasmtime::component::Component;
use wasmtime::{Config, Engine};

/// How every WebAssembly file begins.
const WASM_MAGIC: &[u8; 4] = b"\0asm";

/// The engine: the same for compiling and for running, or the one would not take the other's code.
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

/// Loads a component: compiles it, unless that was done ahead of time.
pub fn load(engine: &Engine, path: &Path) -> Result<Component> {
    let mut magic = [0; WASM_MAGIC.len()];
    let mut file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    if file.read_exact(&mut magic).is_ok() && magic == *WASM_MAGIC {
        return Ok(Component::from_file(engine, path)?);
    }
    // SAFETY: native code that somebody put there for us to run, as this program itself is. Wasmtime checks that it was
    // compiled by the same version with the same options; that it was not forged nobody can check.
    #[expect(unsafe_code, reason = "there is no other way to run what was compiled ahead of time")]
    let component = unsafe { Component::deserialize_file(engine, path) };
    component
        .map_err(anyhow::Error::from)
        .with_context(|| format!("{} was compiled by another version; compile it anew", path.display()))
}

/// The interfaces that a component imports.
pub fn imports(component: &Component) -> Vec<String> {
    component.component_type().imports(component.engine()).map(|(name, _)| name.to_owned()).collect()
}
