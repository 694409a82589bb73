//! Inngest's own server, by the program that `INNGEST_CLI` names.

use super::{
    Options,
    state::{Run, Status},
};
use crate::{
    http1,
    log::Log,
    process::{Process, Signal, command},
};
use anyhow::{Context, Result, ensure};
use http::Request;
use serde_json::{Value, json};
use std::{path::Path, process::Stdio, time::Duration};
use tempfile::TempDir;

/// Time between two looks at a run.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Longest start of the server.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The running server.
pub(super) struct Server {
    pub(super) url: String,
    /// The value of the `authorization` header of its GraphQL.
    bearer: Option<String>,
    _process: Process,
    _folder: TempDir,
}

impl Server {
    /// Starts the server, and waits until it answers.
    pub(super) async fn start(program: &Path, options: &Options) -> Result<Self> {
        let (listener, url) = http1::listen().await?;
        let port = listener.local_addr()?.port().to_string();
        drop(listener);
        let folder = TempDir::new()?;
        // The server takes the key's digits alone.
        let digits =
            options.signing_key.as_deref().map(|key| key.rsplit('-').next().unwrap_or(key).to_owned());
        let mut command = command(program, None, "TERM");
        match (&digits, &options.event_key) {
            (Some(digits), Some(event_key)) => {
                command.args(["start", "--signing-key", digits, "--event-key", event_key, "--sqlite-dir"]);
                command.arg(folder.path());
            }
            _ => {
                command.args(["dev", "--no-discovery", "--no-poll"]);
            }
        }
        command.args(["--host", "127.0.0.1", "--port", &port]);
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command, Signal::TERM)?;
        let log = Log::default();
        process.read_lines(&log, &log)?;
        let server = Self {
            url,
            bearer: digits.map(|digits| format!("Bearer {digits}")),
            _process: process,
            _folder: folder,
        };
        let answers = async {
            while server.query("{ __typename }").await.is_err() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(START_LIMIT, answers).await.context("the real server does not answer")?;
        println!("{}: Inngest's own server, {}", server.url, program.display());
        Ok(server)
    }

    /// Gives the runs of an event.
    pub(super) async fn runs_of(&self, event_id: &str) -> Result<Vec<Run>> {
        let query = format!(
            "{{ eventV2(id: {}) {{ runs {{ id status output function {{ slug }} }} }} }}",
            json!(event_id)
        );
        let reply = self.query(&query).await?;
        let runs = reply["eventV2"]["runs"].as_array().cloned().unwrap_or_default();
        runs.iter().map(read_run).collect()
    }

    async fn query(&self, query: &str) -> Result<Value> {
        let mut request =
            Request::post(format!("{}/v0/gql", self.url)).header("content-type", "application/json");
        if let Some(bearer) = &self.bearer {
            request = request.header("authorization", bearer);
        }
        let reply = http1::send(request.body(serde_json::to_vec(&json!({ "query": query }))?)?).await?;
        ensure!(reply.status() == 200, "GraphQL answers {}", reply.status());
        let body: Value = serde_json::from_slice(reply.body())?;
        ensure!(body["errors"].is_null(), "GraphQL: {}", body["errors"]);
        Ok(body["data"].clone())
    }
}

fn read_run(run: &Value) -> Result<Run> {
    let text = |name: &str| run[name].as_str().unwrap_or_default().to_owned();
    let output = run["output"].as_str().map(|text| serde_json::from_str(text).unwrap_or(json!(text)));
    let status = match run["status"].as_str().unwrap_or_default() {
        // The output is empty for a moment after the end.
        "COMPLETED" if output.is_some() => Status::Completed,
        "FAILED" => Status::Failed,
        "CANCELLED" => Status::Cancelled,
        _ => Status::Running,
    };
    Ok(Run {
        id: text("id"),
        function: run["function"]["slug"]
            .as_str()
            .context("no slug")?
            .trim_start_matches("purple-flea-")
            .to_owned(),
        status,
        output: output.unwrap_or_default(),
        waits_for: Vec::new(),
        calls: 0,
    })
}
