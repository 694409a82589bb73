//! Runs PostgreSQL: the machine's own server, in a throw-away cluster on a free port, with the roles and the default
//! privileges of a hosted Supabase project; or a server of another version.

mod safeupdate;
mod versions;

use crate::{
    process::{self, Process},
    repository, webhook,
};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use safeupdate::Safeupdate;
use std::{
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::sleep};
use tokio_postgres::{Client, NoTls};

/// The superuser. Hosted projects do not give it to their owners.
pub const SUPERUSER: &str = "supabase_admin";

/// The role of a project's owner. It is no superuser.
pub const OWNER: &str = "postgres";

/// How long the server may take to accept connections.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the stack tries to connect.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Supabase's roles, schemas and default privileges.
const SUPABASE: &str = include_str!("supabase.sql");

/// Lets the API's login role connect to a server that does not have safeupdate.
const WITHOUT_SAFEUPDATE: &str = "alter role authenticator reset session_preload_libraries; \
    alter role postgres reset session_preload_libraries";

/// A running cluster. Ends when it is dropped.
pub struct Cluster {
    // Fields are dropped in this order: the server must end before its folder goes.
    server: Option<Process>,
    folder: TempDir,
    /// The running server's data folder, in `folder`.
    data: PathBuf,
    port: u16,
    bin: PathBuf,
    user: Option<String>,
    preload: Vec<String>,
    safeupdate: Safeupdate,
}

impl Cluster {
    /// Makes and starts a cluster as hosted Supabase has it.
    pub async fn start() -> Result<Self> {
        Self::make(bin()?, &[]).await?.hosted().await
    }

    /// Makes the same cluster with pg_cron, as in a project that has enabled it.
    pub async fn start_with_cron() -> Result<Self> {
        let cluster = Self::make(bin()?, &["pg_cron"]).await?.hosted().await?;
        let enable = format!("create extension pg_cron; grant usage on schema cron to {OWNER}");
        let superuser = cluster.connect(SUPERUSER).await?;
        superuser
            .batch_execute(&enable)
            .await
            .context("pg_cron is not there; on Debian: apt-get install postgresql-15-cron")?;
        Ok(cluster)
    }

    /// Makes the same cluster as [`Cluster::start`] with a server of version 16, 17 or 18, which is fetched the first time. It
    /// has no safeupdate: it comes without headers to compile the stand-in with.
    pub async fn start_version(major: u32) -> Result<Self> {
        let cluster = Self::make(versions::bin(major).await?, &[]).await?;
        cluster.supabase().await?;
        if !cluster.safeupdate.is_there() {
            let superuser = cluster.connect(SUPERUSER).await?;
            superuser.batch_execute(WITHOUT_SAFEUPDATE).await?;
        }
        Ok(cluster)
    }

    /// Tells whether the server of a version is available. It is fetched the first time.
    pub async fn has_version(major: u32) -> bool {
        versions::bin(major).await.is_ok()
    }

    /// Makes and starts a cluster with nothing but its superuser.
    pub async fn start_plain() -> Result<Self> {
        Self::make(bin()?, &[]).await
    }

    async fn hosted(self) -> Result<Self> {
        safeupdate::require(&self.safeupdate)?;
        self.supabase().await?;
        Ok(self)
    }

    async fn supabase(&self) -> Result<()> {
        let superuser = self.connect(SUPERUSER).await?;
        superuser.batch_execute(SUPABASE).await.context("Supabase's roles could not be made")
    }

    async fn make(bin: PathBuf, preload: &[&str]) -> Result<Self> {
        // As root the server runs as another user, which can reach /tmp, but perhaps not TMPDIR.
        let base = if geteuid().is_root() { PathBuf::from("/tmp") } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("purple-flea-postgres-").tempdir_in(base)?;
        let user = unprivileged(folder.path()).await?;
        let data = folder.path().join("data");
        let mut initdb = process::command(&bin.join("initdb"), user.as_deref(), "KILL");
        initdb.current_dir(folder.path()).arg("--pgdata").arg(&data);
        initdb.args([
            "--username",
            SUPERUSER,
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--locale",
            "C.UTF-8",
            "--no-sync",
        ]);
        // An interrupted initdb cleans up; a killed one leaves its children behind.
        let mut initdb = Process::spawn(initdb.stdout(Stdio::null()), Signal::INT)?;
        if !initdb.wait().await?.success() {
            bail!("initdb failed");
        }
        let port = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.port();
        let mut preload: Vec<String> = preload.iter().map(|name| (*name).to_owned()).collect();
        if has_extension(&bin, "pg_net").await {
            preload.push("pg_net".to_owned());
        }
        let safeupdate = Safeupdate::of(&bin).await?;
        let mut cluster = Self { server: None, folder, data, port, bin, user, preload, safeupdate };
        cluster.launch(&[]).await?;
        Ok(cluster)
    }

    async fn launch(&mut self, more: &[&str]) -> Result<()> {
        let mut server = process::command(&self.bin.join("postgres"), self.user.as_deref(), "INT");
        server.current_dir(self.folder.path()).arg("-D").arg(&self.data);
        for option in [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            format!("shared_preload_libraries={}", self.preload.join(",")),
            "fsync=off".to_owned(),
            "wal_level=logical".to_owned(),
            "max_connections=200".to_owned(),
            // An agent waits from the commit of its deposit to the commit of its trade. Only PostgreSQL knows both
            // times.
            "track_commit_timestamp=on".to_owned(),
        ] {
            server.arg("-c").arg(option);
        }
        if let Some(setting) = self.safeupdate.setting(self.folder.path()).await? {
            server.arg("-c").arg(setting);
        }
        for option in more {
            server.args(["-c", option]);
        }
        let log = std::fs::File::create(self.log_path())?;
        server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.server = Some(Process::spawn(&mut server, Signal::INT)?);
        let accepting = async {
            while let Err(error) = self.connect(SUPERUSER).await {
                if let Some(status) = self.server.as_mut().and_then(|server| server.ended().ok().flatten()) {
                    let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
                    bail!("postgres ended with {status} ({error:#}):\n{log}");
                }
                sleep(TRY_EVERY).await;
            }
            Ok(())
        };
        tokio::time::timeout(START_TIMEOUT, accepting)
            .await
            .context("postgres did not accept connections in time")?
    }

    /// Kills one of the server's processes as `kill -9` does. All connections break, and the server recovers as after a crash:
    /// unlogged tables are empty then.
    pub async fn crash(&self) -> Result<()> {
        let client = self.connect(SUPERUSER).await?;
        let bystander = self.connect(SUPERUSER).await?;
        let pid: i32 = client.query_one("select pg_backend_pid()", &[]).await?.get(0);
        let pid = Pid::from_raw(pid).context("no process id")?;
        kill_process(pid, Signal::KILL)?;
        // Other connections break a moment later.
        while bystander.query_one("select 1", &[]).await.is_ok() {}
        Ok(())
    }

    /// Stops the server as an operator does, at once: open transactions are rolled back, and connections break.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        server.signal(Signal::INT)?;
        server.wait().await?;
        Ok(())
    }

    /// Starts the server again, on the same port, with all committed data.
    pub async fn start_again(&mut self) -> Result<()> {
        self.launch(&[]).await
    }

    /// Copies the running server, as an asynchronous standby that has lost its connection.
    pub async fn copy(&self, name: &str) -> Result<PathBuf> {
        let copy = self.folder.path().join(name);
        let mut backup = process::command(&self.bin.join("pg_basebackup"), self.user.as_deref(), "KILL");
        backup.current_dir(self.folder.path()).arg("--pgdata").arg(&copy).args([
            "--dbname",
            &self.url(SUPERUSER),
            "--checkpoint=fast",
            "--no-sync",
        ]);
        process::run(&mut backup).await?;
        Ok(copy)
    }

    /// Stops the server at once, and promotes a copy to primary: on a new timeline, without the transactions that were
    /// committed after the copy was made.
    pub async fn fail_over(&mut self, copy: PathBuf) -> Result<()> {
        let mut server = self.server.take().context("no server runs")?;
        server.signal(Signal::QUIT)?;
        server.wait().await?;
        // The copy recovers all of its own log, then begins a new timeline.
        std::fs::write(copy.join("recovery.signal"), "")?;
        let lost = std::mem::replace(&mut self.data, copy);
        self.launch(&["restore_command=/bin/false"]).await?;
        let promoted = async {
            let client = self.connect(SUPERUSER).await?;
            while client.query_one("select pg_is_in_recovery()", &[]).await?.get::<_, bool>(0) {
                sleep(TRY_EVERY).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(START_TIMEOUT, promoted)
            .await
            .context("the copy was not promoted in time")??;
        std::fs::remove_dir_all(lost)?;
        Ok(())
    }

    /// Writes a dump of some schemas into the cluster's folder, in pg_dump's custom format.
    pub async fn dump(&self, name: &str, schemas: &[&str]) -> Result<PathBuf> {
        let file = self.folder.path().join(name);
        let mut dump = process::command(&self.bin.join("pg_dump"), None, "TERM");
        dump.args(["--format=custom", "--dbname", &self.url(SUPERUSER), "--file"]).arg(&file);
        for schema in schemas {
            dump.args(["--schema", schema]);
        }
        process::run(&mut dump).await?;
        Ok(file)
    }

    /// Restores a dump in place, as `pg_restore --clean` does. In a deadlock Postgres ends the session that checks for
    /// deadlocks first. That is mostly another session, because this one waits longer than the others' second.
    pub async fn restore(&self, dump: &Path, schemas: &[&str], options: &[&str]) -> Result<()> {
        let mut restore = process::command(&self.bin.join("pg_restore"), None, "TERM");
        restore.args(["--clean", "--if-exists", "--dbname", &self.url(SUPERUSER)]).args(options);
        restore.env("PGOPTIONS", "-c deadlock_timeout=5s");
        for schema in schemas {
            restore.args(["--schema", schema]);
        }
        process::run(restore.arg(dump)).await?;
        Ok(())
    }

    /// Gives the path of the server's log.
    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Gives the database's URL for a role.
    pub fn url(&self, role: &str) -> String {
        format!("postgresql://{role}@127.0.0.1:{}/postgres", self.port)
    }

    /// Gives the folder of the server's programs, `psql` among them.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Connects as a role.
    pub async fn connect(&self, role: &str) -> Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url(role), NoTls).await?;
        tokio::spawn(async move {
            // The client sees an error of the connection.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Applies the project's SQL with the project's own script, as a role.
    pub async fn migrate(&self, role: &str) -> Result<String> {
        self.migrate_with(role, &[]).await
    }

    /// Does the same with options of the script.
    pub async fn migrate_with(&self, role: &str, options: &[&str]) -> Result<String> {
        let mut migrate = process::command(&repository().join("scripts/migrate"), None, "TERM");
        migrate.args(options).env("DATABASE_URL", self.url(role)).env("PATH", path_with(&self.bin)?);
        process::run(&mut migrate).await
    }

    /// Applies the project's SQL as the owner, gives the trigger the function's URL, and adds an agent. The agent claims no
    /// faucet, because most tests need its deposits alone. The ledger keeps none of Purple Flea's rate limits.
    pub async fn install(&self, function_url: &str, agent_id: &str) -> Result<Client> {
        self.migrate(OWNER).await?;
        let owner = self.connect(OWNER).await?;
        let set = "select purple_flea.set_secret($1, $2)";
        owner.execute(set, &[&"purple_flea_function_url", &function_url]).await?;
        owner.execute(set, &[&"purple_flea_webhook_secret", &webhook::SECRET]).await?;
        owner.execute("update purple_flea.trade_policies set claim_faucet = false", &[]).await?;
        owner.execute("delete from purple_flea.rate_limits", &[]).await?;
        owner.execute("insert into public.agents (id) values ($1)", &[&agent_id]).await?;
        Ok(owner)
    }
}

/// Gives `PATH` with a folder in front.
pub fn path_with(folder: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(folders)?)
}

/// Finds the folder of the newest server's programs.
fn bin() -> Result<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        // A folder may hold a client alone.
        .filter(|(_, bin): &(u32, PathBuf)| bin.join("initdb").exists())
        .collect();
    versions.sort();
    let debian = versions.pop().map(|(_, bin)| bin);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = debian.into_iter().chain(std::env::split_paths(&path));
    candidates
        .into_iter()
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .context("there is no PostgreSQL server on this machine; on Debian: apt-get install postgresql")
}

/// Gives one of a server's folders, as its `pg_config` prints it, or none for a server without that program.
async fn config(bin: &Path, folder: &str) -> Option<PathBuf> {
    let mut command = process::command(&bin.join("pg_config"), None, "KILL");
    let printed = process::run(command.arg(folder)).await.ok()?;
    Some(PathBuf::from(printed.trim()))
}

async fn has_extension(bin: &Path, name: &str) -> bool {
    let Some(folder) = config(bin, "--sharedir").await else { return false };
    folder.join("extension").join(format!("{name}.control")).exists()
}

/// As root, gives the user that the server runs as, and gives that user the folder. PostgreSQL refuses to run as root.
async fn unprivileged(folder: &Path) -> Result<Option<String>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for user in ["postgres", "nobody"] {
        let id = |flag: &'static str| async move {
            let output = process::run(tokio::process::Command::new("id").args([flag, user])).await?;
            output.trim().parse::<u32>().context("id printed no number")
        };
        if let (Ok(uid), Ok(gid)) = (id("-u").await, id("-g").await) {
            chown(folder, Some(uid), Some(gid))?;
            return Ok(Some(user.to_owned()));
        }
    }
    bail!("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
}
