//! The ledger's own SQL, on a Postgres of its own. What the function calls through PostgREST is called directly. Time
//! passes by everything that is written down moving into the past.

use super::purple_flea::{Bet, PurpleFlea};
use rust_decimal::Decimal;
use stack::postgres::{Cluster, OWNER, SUPERUSER};
use std::time::{Duration, SystemTime};
use tokio_postgres::Client;

/// Who deposits: one by everybody's policy, one with daily limits, one with another game.
const AGENTS: [&str; 3] = ["plain", "limited", "flipping"];

/// What the one with limits may stake in a day: some four bets.
const DAILY_WAGER_LIMIT: u32 = 40;

pub(super) struct Database {
    client: Client,
    _cluster: Cluster,
}

/// When a sequence begins, by the wall clock.
pub(super) fn wall_clock(since: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + since
}

impl Database {
    pub(super) async fn start() -> Self {
        let cluster = Cluster::start().await.unwrap();
        cluster.migrate(OWNER).await.unwrap();
        let client = cluster.connect(SUPERUSER).await.unwrap();
        let database = Self { client, _cluster: cluster };
        // Deposits alone are what happens here.
        database.run("update purple_flea.trade_policies set claim_faucet = false").await;
        for agent in AGENTS {
            database.run(&format!("insert into public.agents (id) values ('{agent}')")).await;
        }
        database
            .run(&format!(
                "set client_min_messages = error; \
                 alter table public.wallet_changes disable trigger purple_flea_doorbell; \
                 insert into purple_flea.trade_policies (agent_id, daily_wager_limit) values ('limited', {DAILY_WAGER_LIMIT}); \
                 insert into purple_flea.trade_policies (agent_id, game, side) values ('flipping', 'coin-flip', 'tails')"
            ))
            .await;
        database
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Forgets everything: as no user of the database can.
    pub(super) async fn clear(&self) {
        self.run(
            "set session_replication_role = replica; delete from purple_flea.job_events; delete from public.trade_results; \
             delete from purple_flea.rate_stops; delete from purple_flea.rate_slots; \
             delete from purple_flea.jobs; delete from public.wallet_changes; set session_replication_role = origin; \
             update purple_flea.trade_policies set paused = false where paused; \
             alter sequence public.wallet_changes_id_seq restart; update purple_flea.ledger set starts_after = 0, checked_until = 0",
        )
        .await;
    }

    /// Calls a function as PostgREST does, arguments by their names.
    pub(super) async fn call(&self, function: &str, arguments: &str) -> String {
        let sql = match function {
            "claim_jobs" => {
                "select public.claim_jobs(array(select jsonb_array_elements_text(a -> 'references')), \
                 (a ->> 'limit')::integer, (a ->> 'claim')::uuid, a ->> 'api')::text from (select $1::text::jsonb as a) as b"
            }
            "settle_jobs" => "select public.settle_jobs($1::text::jsonb -> 'outcomes')::text",
            "claim_lookups" => "select public.claim_lookups(($1::text::jsonb ->> 'limit')::integer)::text",
            other => panic!("{other}"),
        };
        let statement = self.client.prepare(sql).await.unwrap();
        self.client.query_one(&statement, &[&arguments]).await.unwrap().get(0)
    }

    pub(super) async fn deposit(&self, chance: &mut fastrand::Rng) {
        let rows: Vec<String> = (0..chance.u32(1..4))
            .map(|_| {
                let agent = AGENTS[chance.usize(0..AGENTS.len())];
                format!("('{agent}', 'deposit', {0}, {0})", chance.u32(1..200))
            })
            .collect();
        let rows = rows.join(", ");
        self.run(&format!(
            "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values {rows}"
        ))
        .await;
    }

    /// The reference of a deposit by its number, if there is one.
    pub(super) async fn reference(&self, number: Option<u32>) -> Option<String> {
        let number = i64::from(number?);
        let sql =
            "select reference from purple_flea.jobs order by wallet_change_id offset $1::int8 - 1 limit 1";
        self.client.query_opt(sql, &[&number]).await.unwrap().map(|row| row.get(0))
    }

    /// Lets so many milliseconds pass, or none and some back.
    pub(super) async fn shift(&self, ms: i64) {
        let by = format!("interval '{ms} milliseconds'");
        self.run(&format!(
            "update purple_flea.jobs set due_at = due_at - {by}, expires_at = expires_at - {by}, claimed_at = claimed_at - {by}, \
             lease_until = lease_until - {by}, lookup_at = lookup_at - {by} where state in ('pending', 'claimed', 'unknown'); \
             update purple_flea.rate_stops set until = until - {by}; update purple_flea.rate_slots set held_until = held_until - {by}"
        ))
        .await;
    }

    pub(super) async fn pause(&self, paused: bool) {
        self.run(&format!("update purple_flea.trade_policies set paused = {paused} where agent_id is null"))
            .await;
    }

    pub(super) async fn sweep(&self) {
        self.run("select purple_flea.ring()").await;
    }

    /// Unknown jobs that an operator may touch.
    pub(super) async fn unknown_jobs(&self) -> Vec<(String, String)> {
        let sql = "select reference, bet_key from purple_flea.jobs where state = 'unknown' \
                   and clock_timestamp() > lease_until + (purple_flea.timing()).lookup_wait + interval '1 second'";
        let rows = self.client.query(sql, &[]).await.unwrap();
        rows.into_iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    pub(super) async fn release(&self, reference: &str) {
        self.run(&format!("select purple_flea.release_job('{reference}', 'model')")).await;
    }

    pub(super) async fn close(&self, reference: &str) {
        self.run(&format!("select purple_flea.close_job('{reference}', 'model')")).await;
    }

    pub(super) async fn record(&self, reference: &str, bet: &Bet) {
        let Bet { bet_id, wager, payout, .. } = bet;
        let won = !payout.is_zero();
        self.run(&format!(
            "select purple_flea.record_bet('{reference}', '{bet_id}', {wager}, {won}, {payout})"
        ))
        .await;
    }

    /// Whether nothing is left to do.
    pub(super) async fn settled(&self) -> bool {
        let sql = "select not exists (select from purple_flea.jobs where state in ('pending', 'claimed') \
                   or (state = 'unknown' and reason not in ('not_found', 'no_history')))";
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// What the ledger and Purple Flea do not agree about.
    pub(super) async fn compare(&self, purple_flea: &PurpleFlea) -> Vec<String> {
        let mut violations = Vec::new();
        let jobs = "select j.reference, j.bet_key, j.state, j.wager::text, j.payout::text, coalesce(j.reason, ''), j.agent_id, \
                    (select count(*) from public.trade_results t where t.reference = j.reference and t.wager = j.wager \
                     and t.payout is not distinct from j.payout) from purple_flea.jobs j";
        let jobs = self.client.query(jobs, &[]).await.unwrap();
        let mut known = 0;
        for job in &jobs {
            let [reference, bet_key, state]: [&str; 3] = [job.get(0), job.get(1), job.get(2)];
            let number =
                |column: usize| job.get::<_, Option<&str>>(column).map(|n| n.parse::<Decimal>().unwrap());
            let (bets, rows) = (purple_flea.count(bet_key), job.get::<_, i64>(7));
            known += bets;
            let mut wrong = |what: String| violations.push(format!("{reference} ({state}): {what}"));
            if bets > 1 {
                wrong(format!("{bets} bets"));
            }
            match (state, purple_flea.bet(bet_key)) {
                ("executed", Some(bet))
                    if (number(3), number(4)) != (Some(bet.wager), Some(bet.payout)) || rows != 1 =>
                {
                    wrong(format!("{rows} rows, and not {} and {}", bet.wager, bet.payout));
                }
                ("unknown", Some(bet)) if bet.in_history && job.get::<_, &str>(5) == "not_found" => {
                    wrong("its bet stands in the history".to_owned());
                }
                ("executed", None)
                | ("pending" | "claimed", _)
                | ("skipped" | "rejected" | "dead", Some(_)) => {
                    wrong(format!("{bets} bets, because {}", job.get::<_, &str>(5)));
                }
                _ => {}
            }
        }
        if known != purple_flea.total() {
            violations.push(format!("{} bets, {known} of them for a job", purple_flea.total()));
        }
        violations.extend(self.history().await);
        violations
    }

    /// What must not be in any history: a deposit without a job, a gap, a conflict, a limit that was passed.
    async fn history(&self) -> Vec<String> {
        let checks = [
            (
                "a deposit without a job",
                "select w.id::text from public.wallet_changes w \
              where not exists (select from purple_flea.jobs j where j.wallet_change_id = w.id)",
            ),
            (
                "a gap in its history",
                "select reference from (select reference, from_state, lag(to_state) over \
              (partition by reference order by id) as before from purple_flea.job_events where kind = 'transition') as e \
              where from_state is distinct from before",
            ),
            (
                "an alarm",
                "select reference || ' ' || kind || ' ' || why from purple_flea.job_events where kind in ('conflict', 'alarm')",
            ),
            (
                "a row of trade_results too many",
                "select t.reference from public.trade_results t join purple_flea.jobs j using (reference) \
              where j.state <> 'executed'",
            ),
            (
                "a limit that was passed",
                "select j.bet_day::text from purple_flea.jobs j join purple_flea.trade_policies p using (agent_id) \
              where j.state = 'executed' group by j.bet_day, p.daily_wager_limit having sum(j.wager) > p.daily_wager_limit",
            ),
        ];
        let mut violations = Vec::new();
        for (what, sql) in checks {
            let rows = self.client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            violations.extend(rows.iter().map(|row| format!("{what}: {}", row.get::<_, &str>(0))));
        }
        violations
    }
}
