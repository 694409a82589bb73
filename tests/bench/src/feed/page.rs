//! Measures a page of 100 events of a tenant that has millions: the time in the database, and the plan.

use crate::{
    chart::short,
    figures::{median, percentile, rounded},
    progress::Progress,
    table::number,
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use stack::postgres::{Cluster, OWNER, SUPERUSER};
use std::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

/// The tenant's events.
const QUICK: u64 = 1_000_000;
const FULL: u64 = 10_000_000;

/// Pages that are measured, at random places of the feed.
const PAGES: usize = 200;

/// Events of another tenant, after all of those. The statistics do not know it.
const BESIDE: u64 = 150;

/// Rows that one statement loads.
const CHUNK: u64 = 500_000;

/// Loads the events FIRST to LAST. All of an epoch before the present one may be read, whatever their positions.
const LOAD: &str = "\
    insert into public.frame_events (tenant_id, type, subject, payload, occurred_at, epoch, position) \
    select t.id, 'trade.executed', 'trade:wallet-change-' || n, \
      jsonb_build_object('type', 'trade.executed', 'tenant_id', t.id, 'agent_id', 'agent-001', \
        'reference', 'wallet-change-' || n, 'status', 'executed', 'occurred_at', '2026-05-21T10:00:00.000Z'), \
      now(), 0, n \
    from public.tenants t, generate_series(FIRST::bigint, LAST::bigint) as n where t.name = 'TENANT'";

/// Functions that read a page of 100 after a place, and give its time in milliseconds by the database's own clock: the
/// whole call that a client causes, and the walk along the index in it (one event more tells whether there is more).
const CLOCKS: &str = "\
    create function pg_temp.read_ms(key_hash text, after text) returns float8 language plpgsql as $$ \
    declare \
      began constant timestamptz := clock_timestamp(); \
      page  constant jsonb       := public.read_events(key_hash, after); \
      ms    constant float8      := extract(epoch from clock_timestamp() - began) * 1000; \
    begin \
      if jsonb_array_length(page -> 'events') <> 100 then raise exception 'no page: %', left(page::text, 200); end if; \
      return ms; \
    end $$; \
    create function pg_temp.walk_ms(place bigint) returns float8 language plpgsql as $$ \
    declare \
      began constant timestamptz := clock_timestamp(); \
      rows  constant bigint      := (select count(*) from purple_flea.page_of_events( \
        purple_flea.operator_tenant(), 0, place, 0, 1, 1, null, 101)); \
    begin \
      if rows <> 101 then raise exception 'not a page: %', rows; end if; \
      return extract(epoch from clock_timestamp() - began) * 1000; \
    end $$";

/// Prepares the query that the function `purple_flea.page_of_events` runs, with the function's settings and its own
/// words. So the plan is that of the query that clients cause.
const PREPARE: &str = "\
    do $$ \
    declare \
      function constant pg_proc := (select p from pg_proc p where p.oid = 'purple_flea.page_of_events'::regproc); \
      query    text := substring(function.prosrc from 'return query(.*?);'); \
      setting  text; \
      name     text; \
      n        integer := 0; \
    begin \
      foreach name in array '{tenant,after_epoch,after_position,after_id,end_epoch,end_position,most}'::text[] loop \
        n := n + 1; \
        query := regexp_replace(query, '\\m' || name || '\\M', '$' || n, 'g'); \
      end loop; \
      foreach setting in array function.proconfig loop \
        perform set_config(split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1), false); \
      end loop; \
      execute 'prepare page (uuid, integer, bigint, bigint, integer, bigint, integer) as ' || query; \
    end $$";

/// The measurement.
pub struct Pages {
    events: u64,
    loaded_s: f64,
    read_ms: Vec<f64>,
    walk_ms: Vec<f64>,
    /// Of the tenant with few events.
    beside_ms: Vec<f64>,
    /// The plan's nodes, the outermost first.
    nodes: Vec<Node>,
}

/// Counts the measurements.
pub fn steps() -> usize {
    2
}

/// Measures, in a cluster of its own.
pub async fn measure(quick: bool, progress: &mut Progress) -> Result<Pages> {
    let events = if quick { QUICK } else { FULL };
    progress.step(&format!("feed: a tenant with {} events", short(events as f64)));
    let cluster = Cluster::start().await?;
    cluster.migrate(OWNER).await?;
    let superuser = cluster.connect(SUPERUSER).await?;
    superuser.batch_execute("alter system set autovacuum = off").await?;
    superuser.batch_execute("select pg_reload_conf()").await?;
    let from = Instant::now();
    load(&superuser, "operator", 1, events).await?;
    // Without these, the server would write the events to disk and look at them during the measurement.
    superuser.batch_execute("vacuum analyze public.frame_events").await?;
    superuser.batch_execute("insert into public.tenants (name) values ('beside')").await?;
    load(&superuser, "beside", events + 1, events + BESIDE).await?;
    superuser.batch_execute("checkpoint").await?;
    let loaded_s = from.elapsed().as_secs_f64();
    progress.step("feed: pages at random places");
    let owner = cluster.connect(OWNER).await?;
    owner.batch_execute(CLOCKS).await?;
    let (read_ms, walk_ms) = pages(&owner, events).await?;
    let beside_ms = pages_beside(&owner).await?;
    let plan = plan(&cluster, events / 2).await?;
    Ok(Pages { events, loaded_s, read_ms, walk_ms, beside_ms, nodes: nodes(&plan) })
}

/// Loads a tenant's events.
async fn load(superuser: &Client, tenant: &str, mut first: u64, until: u64) -> Result<()> {
    while first <= until {
        let last = until.min(first + CHUNK - 1);
        let chunk = LOAD.replace("FIRST", &first.to_string()).replace("LAST", &last.to_string());
        let chunk = chunk.replace("TENANT", tenant);
        superuser.batch_execute(&chunk).await.context("the events cannot be loaded")?;
        first = last + 1;
    }
    Ok(())
}

/// Makes a key for a tenant, and gives its SHA-256.
async fn key(owner: &Client, tenant: &str) -> Result<String> {
    let make = "select encode(sha256(convert_to( \
                  public.create_api_key(t.id, 'bench', '{events:read}') ->> 'key', 'UTF8')), 'hex') \
                from public.tenants t where t.name = $1";
    Ok(owner.query_one(make, &[&tenant]).await?.get(0))
}

/// Gives the times of the first page of the tenant with few events.
async fn pages_beside(owner: &Client) -> Result<Vec<f64>> {
    let key = key(owner, "beside").await?;
    let mut times = Vec::new();
    for number in 0..=PAGES / 10 {
        let read: f64 = owner.query_one("select pg_temp.read_ms($1, null)", &[&key]).await?.get(0);
        // The first use of a key is noted.
        if number > 0 {
            times.push(read);
        }
    }
    Ok(times)
}

/// Gives the times of whole calls and of their walks.
async fn pages(owner: &Client, events: u64) -> Result<(Vec<f64>, Vec<f64>)> {
    let key = key(owner, "operator").await?;
    let cursor = "select purple_flea.make_cursor( \
                    purple_flea.cursor_seal(purple_flea.current_generation()), e.tenant_id, e.epoch, e.position, e.id) \
                  from public.frame_events e where e.epoch = 0 and e.position = $1";
    let (mut reads, mut walks) = (Vec::new(), Vec::new());
    for number in 0..=PAGES {
        let place = || i64::try_from(fastrand::u64(1..events - 200));
        let cursor: String = owner.query_one(cursor, &[&place()?]).await?.get(0);
        let read: f64 = owner.query_one("select pg_temp.read_ms($1, $2)", &[&key, &cursor]).await?.get(0);
        let walk: f64 = owner.query_one("select pg_temp.walk_ms($1)", &[&place()?]).await?.get(0);
        // The first call of a session plans, and the first use of a key is noted.
        if number > 0 {
            reads.push(read);
            walks.push(walk);
        }
    }
    Ok((reads, walks))
}

/// Gives the plan of a page after a place.
async fn plan(cluster: &Cluster, place: u64) -> Result<Value> {
    let session = cluster.connect(OWNER).await?;
    session.batch_execute(PREPARE).await.context("the page's query is not as expected")?;
    let explain = format!(
        "explain (analyze, timing off, format json) execute page \
         ('00000000-0000-4000-8000-000000000001', 0, {place}, {place}, 1, 1, 101)"
    );
    for message in session.simple_query(&explain).await? {
        if let SimpleQueryMessage::Row(row) = message {
            let plan: Value = serde_json::from_str(row.get(0).context("no plan")?)?;
            return Ok(plan[0]["Plan"].clone());
        }
    }
    bail!("no plan")
}

/// One node of a plan.
struct Node {
    kind: String,
    index: Option<String>,
    rows: f64,
    /// Rows that were read and left out.
    removed: f64,
}

/// Lists the nodes of a plan, the outermost first.
fn nodes(plan: &Value) -> Vec<Node> {
    let number = |name: &str| plan[name].as_f64().unwrap_or_default();
    let node = Node {
        kind: plan["Node Type"].as_str().unwrap_or_default().to_owned(),
        index: plan["Index Name"].as_str().map(str::to_owned),
        rows: number("Actual Rows"),
        removed: number("Rows Removed by Filter") + number("Rows Removed by Index Recheck"),
    };
    let inner = plan["Plans"].as_array().into_iter().flatten().flat_map(nodes);
    [node].into_iter().chain(inner).collect()
}

impl Node {
    fn is_scan_of_page(&self) -> bool {
        self.kind.starts_with("Index") && self.index.is_some() && self.rows <= 101.0 && self.removed == 0.0
    }

    fn words(&self) -> String {
        let index = self.index.as_ref().map_or(String::new(), |index| format!(" on {index}"));
        format!("{}{index} ({} rows)", self.kind, self.rows)
    }
}

impl Pages {
    /// Gives the median time of a whole page in the database, in milliseconds.
    pub fn ms(&self) -> Option<f64> {
        median(self.read_ms.iter().copied())
    }

    /// Says whether the plan is one scan of an index that reads the page's rows and no other.
    pub fn is_one_scan(&self) -> bool {
        matches!(self.nodes.as_slice(), [limit, scan] if limit.kind == "Limit" && scan.is_scan_of_page())
    }

    /// Gives the plan in words.
    pub fn plan(&self) -> String {
        self.nodes.iter().map(Node::words).collect::<Vec<_>>().join(" > ")
    }

    /// Gives the report's entry.
    pub fn to_json(&self) -> Value {
        let times = |all: &[f64]| {
            json!({
                "p50_ms": rounded(median(all.iter().copied())), "p99_ms": rounded(percentile(all, 0.99)),
                "max_ms": rounded(percentile(all, 1.0)),
            })
        };
        json!({
            "events": self.events, "pages": self.read_ms.len(), "read_events": times(&self.read_ms),
            "walk": times(&self.walk_ms), "tenant_beside": times(&self.beside_ms), "plan": self.plan(), "one_index_scan": self.is_one_scan(),
            "load_s": rounded(Some(self.loaded_s)),
        })
    }

    /// Gives the table's rows: the call, its median, 99th percentile and longest time.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: &str, all: &[f64]| {
            let figures = [median(all.iter().copied()), percentile(all, 0.99), percentile(all, 1.0)];
            [vec![name.to_owned()], figures.map(|ms| number(ms, 2)).to_vec()].concat()
        };
        vec![
            row(&format!("read_events() of {} events", short(self.events as f64)), &self.read_ms),
            row("the walk along the index", &self.walk_ms),
            row(&format!("read_events() of a tenant with {BESIDE} events beside them"), &self.beside_ms),
        ]
    }
}
