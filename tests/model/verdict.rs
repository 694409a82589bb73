//! Conditions that hold when no job is open: of each job by Purple Flea's books, and of the database by itself.

use super::{
    books::{CREDIT, Stake, StakedOn},
    purple_flea::SHARED_KEY,
    world::World,
};
use rust_decimal::Decimal;
use std::collections::HashSet;

/// The reasons for which Purple Flea or the ledger refuses a retryable job without a failure.
const REFUSALS: [&str; 5] =
    ["already_claimed", "invalid_status", "no_key_in_reply", "key_is_there", "not_found"];

/// A job as the ledger has it.
struct Job {
    reference: String,
    kind: String,
    idempotency_key: String,
    state: String,
    reason: String,
    wager: Option<Decimal>,
    payout: Option<Decimal>,
    /// How many rows of trade_results have its outcome.
    results: i64,
    /// The name of the key of its last claim; `None` before the first claim.
    key_name: Option<String>,
    /// The key of its last claim.
    key: Option<String>,
    /// The agent's own key at the end.
    own_key: Option<String>,
    /// Purple Flea's name for the account.
    account: String,
    repeatable: bool,
    /// Whether a restore made it unknown: then the ledger cannot know the key of its stake.
    restored: bool,
    /// The escrow of an escrow's job: Purple Flea's name, and the status in its row.
    escrow: Option<String>,
    escrow_status: Option<String>,
}

const JOBS: &str = "select j.reference, j.kind, j.idempotency_key, j.state, \
    coalesce(j.reason, ''), j.wager::text, j.payout::text, \
    (select count(*) from public.trade_results t where t.reference = j.reference \
    and t.wager = j.wager \
     and t.payout is not distinct from j.payout), \
    j.key_name, purple_flea.secret(j.key_name), coalesce(j.account, j.agent_id), purple_flea.is_retryable(j.kind), \
    e.pf_escrow_id, e.status, purple_flea.secret(a.api_key), \
    exists (select from purple_flea.job_events v where v.reference = j.reference \
    and v.changed_by = 'restore') \
    from purple_flea.all_jobs j join public.agents a on a.id = j.agent_id \
    left join public.escrow_requests e on e.id = j.escrow_id order by j.reference";

/// Records where the ledger and Purple Flea disagree, and what the database itself shows that must never be.
pub(super) async fn judge(world: &World<'_>) {
    let _turn = world.turn_alone().await;
    let jobs = jobs(world).await;
    for job in &jobs {
        let stakes = world.purple_flea.books.stakes_of(&job.idempotency_key);
        let wrong =
            if job.repeatable { repeatable(job, world) } else { staked(job, &stakes, world.has_jumped()) };
        if let Some(promise) = wrong {
            let Job { reference, kind, state, reason, .. } = job;
            world
                .accuse(promise, format!("{reference} ({kind} {state} {reason}), at Purple Flea {stakes:?}"));
        }
    }
    strangers(&jobs, world);
    history(world).await;
}

async fn jobs(world: &World<'_>) -> Vec<Job> {
    let number = |text: Option<&str>| text.map(|text| text.parse::<Decimal>().unwrap());
    let rows = world.database.rows(JOBS, &[]).await;
    let read = |row: &tokio_postgres::Row| Job {
        reference: row.get(0),
        kind: row.get(1),
        idempotency_key: row.get(2),
        state: row.get(3),
        reason: row.get(4),
        wager: number(row.get(5)),
        payout: number(row.get(6)),
        results: row.get(7),
        key_name: row.get(8),
        key: row.get(9),
        account: row.get(10),
        repeatable: row.get(11),
        escrow: row.get(12),
        escrow_status: row.get(13),
        own_key: row.get(14),
        restored: row.get(15),
    };
    rows.iter().map(read).collect()
}

/// Gives the promise that a job breaks which stakes money.
fn staked(job: &Job, stakes: &[Stake], jumped: bool) -> Option<&'static str> {
    let stake = match (stakes, job.state.as_str()) {
        ([], "executed") => return Some("a job is executed, and Purple Flea has no stake of it"),
        (_, "pending" | "claimed") => return Some("a job is still open at the end"),
        ([], _) => return None,
        ([_, _, ..], _) => return Some("a job is staked more than once"),
        ([stake], _) => stake,
    };
    // The key shows which account the money came from.
    let own = job.key_name.as_ref().is_some_and(|name| !name.is_empty());
    if own == (stake.key == SHARED_KEY) && !job.restored {
        return Some("a job is staked with another account's key");
    }
    let recorded = match stake.staked_on {
        StakedOn::Bet { payout, .. } => {
            (job.wager, job.payout, job.results) == (Some(stake.amount), Some(payout), 1)
        }
        StakedOn::Position => (job.wager, job.results) == (Some(stake.amount), 1),
        StakedOn::Escrow { .. } => job.escrow.as_ref() == Some(&stake.id),
    };
    match (job.state.as_str(), stake.staked_on) {
        ("executed", _) if recorded => None,
        // An unknown job waits for an operator, or for a row in a history that does not show its bet.
        // (After a jump of the database's clock, a look-up may have come before a late bet.)
        ("unknown", _)
            if job.reason == "not_found" && !jumped && stake.is_in_history_of(job.key.as_deref()) =>
        {
            Some("a job is unknown, and the history shows its bet")
        }
        ("unknown", _) => None,
        ("executed", _) => Some("a job is executed, and its outcome is not Purple Flea's"),
        _ => Some("a job is closed without its stake"),
    }
}

/// Gives the promise that a job breaks which Purple Flea does at most once, however often the function tries.
fn repeatable(job: &Job, world: &World<'_>) -> Option<&'static str> {
    let books = &world.purple_flea.books;
    let escrow = || job.escrow.as_ref().and_then(|id| books.escrow(id));
    let refused = REFUSALS.contains(&job.reason.as_str()) || books.has_refused(&job.idempotency_key);
    match (job.state.as_str(), job.kind.as_str()) {
        ("executed", "registration") => {
            let key = job.own_key.as_deref().and_then(|key| books.owner(key));
            key.is_none().then_some("an agent is registered, and its key is lost")
        }
        ("executed", "faucet") => (!books.has_credit(&job.account))
            .then_some("a faucet's claim is executed, and Purple Flea gave no credit"),
        ("executed", "daily_claim") => (!books.has_claimed_daily(&job.account))
            .then_some("a daily claim is executed, and Purple Flea has none"),
        ("executed", "escrow_release" | "escrow_cancel" | "escrow_dispute") => (escrow()
            != job.escrow_status.as_deref())
        .then_some("an escrow has another status at Purple Flea"),
        ("executed", _) => None,
        ("rejected", _) if !refused => Some("a job is rejected, and Purple Flea did not refuse it"),
        ("rejected" | "skipped", _) if books.has_ended(&job.idempotency_key) => {
            Some("a job is closed, and Purple Flea ended its escrow")
        }
        ("rejected" | "skipped", _) => None,
        // A worker looks at an open escrow every hour.
        ("pending", "escrow_status") if matches!(escrow(), Some("funded" | "completed")) => None,
        _ => Some("a job is still open at the end"),
    }
}

/// Records stakes that belong to no job. Only a restore may forget a job, and then Purple Flea has one stake of it.
fn strangers(jobs: &[Job], world: &World<'_>) {
    let known: HashSet<&str> = jobs.iter().map(|job| job.idempotency_key.as_str()).collect();
    let forgotten = world.forgotten.borrow();
    let mut seen = HashSet::new();
    for key in world.purple_flea.books.idempotency_keys() {
        if known.contains(key.as_str()) {
            continue;
        }
        if !forgotten.contains(&key) {
            world.accuse("Purple Flea has a stake of no job", key);
        } else if !seen.insert(key.clone()) {
            world.accuse("a forgotten job is staked more than once", key);
        }
    }
}

/// Records what the database itself shows that must never be.
async fn history(world: &World<'_>) {
    let credits = format!(
        // (At the gateway the credit of a claim whose answer got lost is the balance, at most $1. It may contain a daily
        // claim whose answer got lost, too.)
        "select a.id from public.agents a where \
         (select count(*) from public.wallet_changes w where w.agent_id = a.id \
         and w.change_amount in ({CREDIT}, 2 * {CREDIT})) <> \
         (select count(*) from purple_flea.all_jobs j where j.agent_id = a.id \
         and j.kind in ('faucet', 'daily_claim') \
          and j.state = 'executed' and (j.result ->> 'credited')::numeric > 0)"
    );
    let checks = [
        (
            "a deposit has no job",
            "select w.id::text from public.wallet_changes w where w.change_type = 'deposit' \
             and not exists (select from purple_flea.all_jobs j where j.wallet_change_id = w.id)",
        ),
        (
            "a job has a gap in its history",
            "select reference from (select reference, from_state, lag(to_state) over \
             (partition by reference order by id) as before from purple_flea.all_job_events \
             where kind = 'transition') as e \
             where from_state is distinct from before",
        ),
        (
            // (A function may register an agent twice. The ledger keeps the second key beside the first.)
            "the ledger raises an alarm",
            "select reference || ' ' || kind || ' ' || why from purple_flea.all_job_events \
             where kind in ('conflict', 'alarm') and why <> 'key_is_there'",
        ),
        (
            "a row of trade_results has no executed job",
            "select t.reference from public.trade_results t where not exists ( \
             select from purple_flea.all_jobs j where j.reference = t.reference \
             and j.state = 'executed')",
        ),
        (
            "the bets of a day pass the limit of the policy",
            "select j.bet_day::text from purple_flea.all_jobs j \
             join purple_flea.trade_policies p using (agent_id) \
             where j.state = 'executed' group by j.bet_day, p.daily_wager_limit \
             having sum(j.wager) > p.daily_wager_limit",
        ),
        (
            "a job expires too early, or though it was held back",
            "select j.reference from purple_flea.all_jobs j where j.state = 'dead' \
             and j.reason = 'too_old' \
             and j.changed_at - j.created_at - model.held_for(j.agent_id, j.created_at, j.changed_at) \
                 < (purple_flea.timing()).max_age - interval '1 second'",
        ),
        ("a credit is written down twice, or not at all", credits.as_str()),
        (
            "an escrow's row has a status that no job gave it",
            "select e.id::text from public.escrow_requests e \
             where e.status in ('released', 'cancelled', 'disputed') and not exists ( \
             select from purple_flea.jobs j where j.escrow_id = e.id \
             and j.kind like 'escrow\\_%' \
             and (j.state = 'executed' or j.result ? 'escrow_status'))",
        ),
    ];
    for (promise, sql) in checks {
        for row in world.database.rows(sql, &[]).await {
            world.accuse(promise, row.get::<_, &str>(0));
        }
    }
}
