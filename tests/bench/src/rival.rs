//! What a careful team would pick instead of this project: graphile-worker on Node, with the same database, the same
//! Purple Flea and the specification's own two tables. `peers/graphile` has the worker.

use crate::{
    aside::Threads,
    peers::Machine,
    server::{Recipe, Server, Stop},
    stage::{LOOK_EVERY, START_TIMEOUT, Stage, fund},
};
use anyhow::{Context, Result, bail};
use stack::{
    postgres::{Cluster, OWNER},
    purple_flea::{KEY, PurpleFlea},
};
use std::{fs, path::Path, process::Command, sync::Arc};
use tokio::time::sleep;

/// The worker's libraries, below the repository's folder. `scripts/bench` installs them.
const FOLDER: &str = "target/tools/graphile";

/// A job that the worker has not finished. A finished job is deleted.
const OPEN: &str = "select exists (select from graphile_worker.jobs)";

/// The version of the library in use, where it is installed.
pub fn version(root: &Path) -> Option<String> {
    let package = fs::read(root.join(FOLDER).join("node_modules/graphile-worker/package.json")).ok()?;
    let package: serde_json::Value = serde_json::from_slice(&package).ok()?;
    package["version"].as_str().map(str::to_owned)
}

/// The running rival. Ends when it is dropped.
pub struct Rival {
    /// The database, the worker and Purple Flea.
    pub stage: Stage,
    _threads: Threads,
}

impl Rival {
    /// Starts it, with its schema in a database of its own.
    pub async fn start(machine: &Machine) -> Result<Self> {
        let threads = Threads::start("purple_flea", 1)?;
        let cluster = Arc::new(Cluster::start().await?);
        let purple_flea = threads.run(PurpleFlea::start()).await?;
        let url = cluster.url(OWNER);
        let folder = machine.root.join(FOLDER);
        // The worker's own program makes its schema, which the trigger refers to.
        let mut migrate = Command::new("node");
        migrate.arg(folder.join("node_modules/graphile-worker/dist/cli.js"));
        let migrated = migrate.args(["--schema-only", "-c", &url]).output()?;
        if !migrated.status.success() {
            bail!("graphile-worker's schema failed:\n{}", String::from_utf8_lossy(&migrated.stderr));
        }
        let owner = cluster.connect(OWNER).await?;
        let schema = machine.root.join("tests/bench/peers/graphile/schema.sql");
        owner.batch_execute(&fs::read_to_string(schema)?).await.context("the rival's schema failed")?;
        fund(&purple_flea);
        let environment =
            [("DATABASE_URL", url.as_str()), ("PURPLE_FLEA_URL", &purple_flea.url), ("PURPLE_FLEA_KEY", KEY)];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let path = std::env::var("PATH").map(|path| ("PATH".to_owned(), path));
        let recipe = Recipe {
            program: "node".into(),
            arguments: vec![folder.join("worker.mjs").display().to_string()],
            environment: environment.into_iter().chain(path).collect(),
            stop: Stop::Kill,
        };
        let worker = Server::start(&recipe, &machine.scratch.join("graphile.log"), true)?;
        let mut stage = Stage { worker, purple_flea, owner, cluster, open: OPEN };
        // It listens for jobs as soon as it is connected.
        let listens = "select exists (select from pg_stat_activity where query ilike 'listen %jobs:insert%')";
        while !stage.owner.query_one(listens, &[]).await?.get::<_, bool>(0) {
            stage.worker.must_live()?;
            if stage.worker.started.elapsed() > START_TIMEOUT {
                bail!("graphile-worker did not listen in time");
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(Self { stage, _threads: threads })
    }
}
