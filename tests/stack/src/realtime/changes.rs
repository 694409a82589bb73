//! Changes of tables (`postgres_changes`). Realtime polls: it takes what was committed, asks for each subscriber whether
//! the row as it is now may be seen, and sleeps for half a second when there is nothing. So a row that was deleted or
//! moved before the poll reaches nobody, a policy that raises silences everybody, and a delete reaches everybody.

pub(super) use super::subscription::Wanted;
use super::{
    Options, Server,
    hub::{Delivery, What},
    pgoutput::{Action, Change},
    policies::connect,
    replication::POSTGRES_EPOCH_S,
    subscription::{Asked, Subscription},
    table::{self, Table},
    token::Claims,
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};
use tokio_postgres::Client;

/// How long the poller sleeps: after an empty poll, and after changes that nobody wanted.
const IDLE: Duration = Duration::from_millis(500);
const UNWANTED: Duration = Duration::from_millis(175);

/// How many changes a poll takes, or one transaction, if that has more.
const POLL_CHANGES: usize = 100;

/// The largest transaction that was seen to arrive. One of 10,000 rows was lost whole.
const LARGE_TRANSACTION: usize = 5_000;

/// What the log has brought, and who wants it.
pub(super) struct Changes {
    url: String,
    cold_start: Duration,
    refresh: Duration,
    wanted: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether anybody has ever subscribed.
    warm: bool,
    wanted: VecDeque<Wanted>,
    subscriptions: Vec<Subscription>,
    open: Vec<Change>,
    committed: VecDeque<Transaction>,
}

struct Transaction {
    at_us: u64,
    changes: Vec<Change>,
}

/// One message for the subscribers of one role, and the numbers of their subscriptions.
struct Told {
    data: Value,
    to: Vec<u64>,
}

impl Changes {
    pub(super) fn new(url: String, options: &Options) -> Self {
        let (cold_start, refresh) = (options.cold_start, options.publication_refresh);
        Self { url, cold_start, refresh, wanted: Notify::new(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a wish until the poller takes it.
    pub(super) fn want(&self, wanted: Wanted) {
        self.state().wanted.push_back(wanted);
        self.wanted.notify_one();
    }

    /// Ends subscriptions.
    pub(super) fn forget(&self, numbers: &[u64]) {
        let mut state = self.state();
        state.wanted.retain(|wanted| !numbers.contains(&wanted.number));
        state.subscriptions.retain(|subscription| !numbers.contains(&subscription.number));
    }

    /// Gives a channel's subscriptions the claims of a new token.
    pub(super) fn refresh(&self, channel: u64, claims: &Claims) {
        let mut state = self.state();
        for subscription in state.subscriptions.iter_mut().filter(|one| one.channel == channel) {
            subscription.claims = claims.clone();
        }
    }

    /// Takes a change of an open transaction.
    pub(super) fn log(&self, change: Change) {
        let mut state = self.state();
        if state.warm && state.open.len() <= LARGE_TRANSACTION {
            state.open.push(change);
        }
    }

    /// Ends the open transaction. A large one is lost.
    pub(super) fn commit(&self, at_us: u64) {
        let mut state = self.state();
        let changes = std::mem::take(&mut state.open);
        if !changes.is_empty() && changes.len() <= LARGE_TRANSACTION {
            state.committed.push_back(Transaction { at_us, changes });
        }
    }

    /// Forgets the open transaction: the stream has ended.
    pub(super) fn roll_back(&self) {
        self.state().open.clear();
    }

    fn take_batch(&self) -> Vec<Transaction> {
        let mut state = self.state();
        let (mut batch, mut size) = (Vec::new(), 0);
        while size < POLL_CHANGES {
            let Some(transaction) = state.committed.pop_front() else { break };
            size += transaction.changes.len();
            batch.push(transaction);
        }
        batch
    }
}

/// Polls until the server ends.
pub(super) async fn poll(server: Arc<Server>) {
    let mut poller = Poller { server, client: None, published: HashSet::new(), read: None };
    let mut pause = IDLE;
    loop {
        let end = Instant::now() + pause;
        while timeout_at(end, poller.server.changes.wanted.notified()).await.is_ok() {
            poller.subscribe().await;
        }
        pause = match poller.poll().await {
            Ok(Polled::Told) => Duration::ZERO,
            Ok(Polled::Unwanted) => UNWANTED,
            Ok(Polled::Nothing) => IDLE,
            Err(_) => {
                // The changes that the poll had taken are lost.
                poller.client = None;
                IDLE
            }
        };
    }
}

/// How a poll ended.
enum Polled {
    Nothing,
    Unwanted,
    Told,
}

struct Poller {
    server: Arc<Server>,
    client: Option<Client>,
    /// The ids of the published tables, and when they were read.
    published: HashSet<u32>,
    read: Option<Instant>,
}

impl Poller {
    async fn client(&mut self) -> Result<&Client> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = Some(connect(&self.server.changes.url).await?);
        }
        self.client.as_ref().context("no connection")
    }

    /// Puts all wishes into force, and tells each channel how that went. The first one takes long.
    async fn subscribe(&mut self) {
        if !self.server.changes.state().warm {
            sleep(self.server.changes.cold_start).await;
            self.server.changes.state().warm = true;
        }
        loop {
            let Some(wanted) = self.server.changes.state().wanted.pop_front() else { return };
            let result = match Asked::read(&wanted.binding) {
                Ok(asked) => self.tables(&asked, &wanted.claims).await.map(|tables| (asked, tables)),
                Err(why) => Err(why),
            };
            let (status, message) = match &result {
                Ok(_) => ("ok", "Subscribed to PostgreSQL"),
                Err(why) => ("error", why.as_str()),
            };
            let payload = json!({ "extension": "postgres_changes", "status": status, "message": message,
                                  "channel": wanted.topic });
            let what = What::Push("system", Arc::new(payload));
            let Wanted { number, channel, claims, sender, .. } = wanted;
            let told = sender.send(Delivery { channel, what }).is_ok();
            if let (Ok((asked, tables)), true) = (result, told) {
                let subscription = Subscription { number, channel, sender, claims, asked, tables };
                self.server.changes.state().subscriptions.push(subscription);
            }
        }
    }

    /// Gives the published tables of a binding, if its filters can be.
    async fn tables(&mut self, asked: &Asked, claims: &Claims) -> Result<Vec<u32>, String> {
        let described = asked.describe();
        let refused = |error: &str| {
            format!(
                "Unable to subscribe to changes with given parameters. An exception happened so please check your \
                 connect parameters: [{described}]. Exception: {error}"
            )
        };
        let client = self.client().await.map_err(|error| refused(&error.to_string()))?;
        let find = "select format('%I.%I', schemaname, tablename)::regclass::oid from pg_publication_tables \
                    where pubname = 'supabase_realtime' and $1::text in (schemaname::text, '*') \
                      and $2::text in (tablename::text, '*')";
        let rows = client.query(find, &[&asked.schema, &asked.table]).await;
        let rows = rows.map_err(|error| refused(&error.to_string()))?;
        let tables: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
        if tables.is_empty() {
            return Err(format!(
                "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given \
                 connect parameters: [{described}]"
            ));
        }
        for table in tables.iter().filter(|_| !asked.filters.is_empty()) {
            let table = Table::read(client, *table, &claims.role).await;
            let table = table.map_err(|error| refused(&error.to_string()))?;
            for filter in &asked.filters {
                let known = table.columns.iter().find(|column| column.name == filter.column);
                let Some(column) = known.filter(|column| column.is_readable) else {
                    return Err(refused(&format!("invalid column for filter {}", filter.column)));
                };
                let row = vec![(column, None)];
                table::passes(client, &row, filter).await.map_err(|error| refused(&error.to_string()))?;
            }
        }
        Ok(tables)
    }

    async fn poll(&mut self) -> Result<Polled> {
        let batch = self.server.changes.take_batch();
        if batch.is_empty() {
            return Ok(Polled::Nothing);
        }
        self.server.options.delays.wait_for_poll().await;
        self.read_published().await?;
        let mut told = Vec::new();
        for transaction in &batch {
            let committed = self.timestamp(transaction.at_us).await?;
            for change in &transaction.changes {
                if self.published.contains(&change.relation.oid) {
                    told.extend(self.look(change, &committed).await?);
                }
            }
        }
        if told.is_empty() {
            return Ok(Polled::Unwanted);
        }
        for message in told {
            let many = u64::try_from(message.to.len())?;
            if !self.server.hub.count_changes(many) {
                self.send(&message);
            }
        }
        Ok(Polled::Told)
    }

    async fn read_published(&mut self) -> Result<()> {
        let refresh = self.server.changes.refresh;
        if self.read.is_some_and(|read| read.elapsed() < refresh) {
            return Ok(());
        }
        let find = "select format('%I.%I', schemaname, tablename)::regclass::oid from pg_publication_tables \
                    where pubname = 'supabase_realtime'";
        let rows = self.client().await?.query(find, &[]).await?;
        self.published = rows.iter().map(|row| row.get(0)).collect();
        self.read = Some(Instant::now());
        Ok(())
    }

    async fn timestamp(&mut self, at_us: u64) -> Result<String> {
        let at_s = at_us as f64 / 1e6 + POSTGRES_EPOCH_S as f64;
        let format =
            r#"select to_char(to_timestamp($1) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"#;
        Ok(self.client().await?.query_one(format, &[&at_s]).await?.get(0))
    }

    /// Decides who is told of a change, role by role.
    async fn look(&mut self, change: &Change, committed: &str) -> Result<Vec<Told>> {
        // The subscribers of now, so that no lock is held while the database is asked.
        type One = (u64, Claims, Asked);
        let mut roles: HashMap<String, Vec<One>> = HashMap::new();
        for one in &self.server.changes.state().subscriptions {
            if one.is_about(change.relation.oid, change.action) {
                let group = roles.entry(one.claims.role.clone()).or_default();
                group.push((one.number, one.claims.clone(), one.asked.clone()));
            }
        }
        let client = self.client().await?;
        let mut told = Vec::new();
        for (role, group) in roles {
            let table = Table::read(client, change.relation.oid, &role).await?;
            let keys = || table.columns.iter().filter(|column| column.is_key);
            let deleted = change.action == Action::Delete;
            let error = match (keys().count(), keys().all(|column| column.is_readable)) {
                _ if deleted => None,
                (0, _) => Some("Error 400: Bad Request, no primary key"),
                (_, false) => Some("Error 401: Unauthorized"),
                _ => None,
            };
            if let Some(error) = error {
                // The whole role is told that something happened, whatever it filters by.
                let to = group.iter().map(|(number, ..)| *number).collect();
                told.push(Told { data: empty(change, error), to });
                continue;
            }
            let (new, old) = (table.new_row(change), table.old_row(change));
            let mut seen = Vec::new();
            for (number, claims, asked) in &group {
                let row = if deleted { &old } else { &new };
                let mut sees = true;
                for filter in &asked.filters {
                    sees = sees && table::passes(client, row, filter).await?;
                }
                if sees && table.has_policies && !deleted {
                    sees = table::is_visible(client, change, &new, claims).await?;
                }
                if sees {
                    seen.push((*number, asked.select.clone()));
                }
            }
            let selections: BTreeSet<Option<Vec<String>>> =
                seen.iter().map(|(_, select)| select.clone()).collect();
            for select in selections {
                let to = seen.iter().filter(|(_, one)| *one == select).map(|(number, _)| *number).collect();
                let data = describe(client, change, &table, committed, select.as_deref()).await?;
                told.push(Told { data, to });
            }
        }
        Ok(told)
    }

    /// Sends a message to each channel once, with the numbers of its subscriptions.
    fn send(&self, message: &Told) {
        let state = self.server.changes.state();
        let mut channels: HashMap<u64, (Vec<u64>, &Subscription)> = HashMap::new();
        for one in state.subscriptions.iter().filter(|one| message.to.contains(&one.number)) {
            channels.entry(one.channel).or_insert_with(|| (Vec::new(), one)).0.push(one.number);
        }
        for (channel, (ids, one)) in channels {
            let payload = json!({ "ids": ids, "data": message.data });
            let what = What::Push("postgres_changes", Arc::new(payload));
            let _ = one.sender.send(Delivery { channel, what });
        }
    }
}

/// Describes a change to a role that may not read the table: nothing but that it happened.
fn empty(change: &Change, error: &str) -> Value {
    json!({
        "schema": change.relation.schema, "table": change.relation.name, "type": change.action.name(),
        "commit_timestamp": null, "columns": [], "record": {}, "errors": [error],
    })
}

async fn describe(
    client: &Client,
    change: &Change,
    table: &Table,
    committed: &str,
    select: Option<&[String]>,
) -> Result<Value> {
    let wanted =
        |name: &str, is_key: bool| is_key || select.is_none_or(|names| names.iter().any(|one| one == name));
    let shown = |column: &table::Column| column.is_readable && wanted(&column.name, column.is_key);
    let columns: Vec<Value> = table
        .columns
        .iter()
        .filter(|column| shown(column))
        .map(|column| json!({ "name": column.name, "type": column.type_name }))
        .collect();
    let (mut new, mut old) = (table.new_row(change), table.old_row(change));
    let too_large = table::is_too_large(&new) || table::is_too_large(&old);
    let errors = if too_large { json!(["Error 413: Payload Too Large"]) } else { Value::Null };
    for row in [&mut new, &mut old] {
        row.retain(|(column, _)| shown(column));
        if too_large {
            table::shorten(row);
        }
    }
    if change.action == Action::Delete && table.has_policies {
        old.retain(|(column, _)| column.is_key);
    }
    let mut data = json!({
        "schema": change.relation.schema, "table": change.relation.name, "type": change.action.name(),
        "commit_timestamp": committed, "columns": columns, "errors": errors,
    });
    if change.action != Action::Delete {
        data["record"] = table::json(client, &new).await?;
    }
    if change.action != Action::Insert {
        data["old_record"] = table::json(client, &old).await?;
    }
    Ok(data)
}
