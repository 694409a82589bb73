//! The component's code: compiled when the host starts, or ahead of time.

use anyhow::{Context, Result};
use std::{fs::File, io::Read, path::Path};
pub use wasmtime::component::Component;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Most instances at once. Each serves many requests, so this is far more than the connections that are let in need.
const INSTANCES_LIMIT: u32 = 500;

/// Core instances, tables and fibers of one instance of the component: the module itself and what adapts it.
const PARTS_OF_INSTANCE: u32 = 8;

/// Most memory of an instance, in bytes. It needs one or two MiB; whatever has sixty-four leaks.
const MEMORY_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// What is kept of an ended instance's memory for the next one, in bytes: giving it back costs more.
const KEEP_RESIDENT_BYTES: usize = 256 * 1024;

/// How every WebAssembly file begins.
const WASM_MAGIC: &[u8; 4] = b"\0asm";

/// The engine: the same for compiling and for running, or the one would not take the other's code.
pub fn engine() -> Result<Engine> {
    let parts = INSTANCES_LIMIT.saturating_mul(PARTS_OF_INSTANCE);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(INSTANCES_LIMIT)
        .total_core_instances(parts)
        .total_memories(INSTANCES_LIMIT)
        .total_tables(parts)
        .total_stacks(parts)
        .max_memory_size(MEMORY_LIMIT_BYTES)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES);
    let mut config = Config::new();
    config.wasm_component_model_async(true).allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
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
