//! What must hold when nothing is left to do: of each job by Purple Flea's books, and of the database by itself.

use super::{
    books::{CREDIT, Stake, What},
    purple_flea::KEY,
    world::World,
};
use rust_decimal::Decimal;
use std::collections::HashSet;

/// Why Purple Flea, or the ledger, refuses what it does at most once without having been asked to fail.
const REFUSALS: [&str; 5] =
    ["already_claimed", "invalid_status", "no_key_in_reply", "key_is_there", "not_found"];

/// A job, as the ledger has it.
struct Job {
    reference: String,
    kind: String,
    bet_key: String,
    state: String,
    reason: String,
    wager: Option<Decimal>,
    payout: Option<Decimal>,
    /// The rows of trade_results with its outcome.
    results: i64,
    /// The name of the key that it was last claimed with; nothing before the first claim.
    key_name: Option<String>,
    /// That key.
    key: Option<String>,
    /// The agent's own key by now.
    own_key: Option<String>,
    /// What Purple Flea calls the account.
    account: String,
    repeatable: bool,
    /// Whether a restore made it unknown: then the ledger cannot know with which key it was staked.
    restored: bool,
    /// Of an escrow's: Purple Flea's name for it, and what its row says.
    escrow: Option<String>,
    escrow_status: Option<String>,
}

const JOBS: &str = "select j.reference, j.kind, j.idempotency_key, j.state, coalesce(j.reason, ''), j.wager::text, j.payout::text, \
    (select count(*) from public.trade_results t where t.reference = j.reference and t.wager = j.wager \
     and t.payout is not distinct from j.payout), \
    j.key_name, purple_flea.secret(j.key_name), coalesce(j.account, j.agent_id), purple_flea.is_repeatable(j.kind), \
    e.pf_escrow_id, e.status, purple_flea.secret(a.api_key), \
    exists (select from purple_flea.job_events v where v.reference = j.reference and v.changed_by = 'restore') \
    from purple_flea.all_jobs j join public.agents a on a.id = j.agent_id left join public.escrow_requests e on e.id = j.escrow_id order by j.reference";

/// What the ledger and Purple Flea do not agree about, and what happened that never may.
pub(super) async fn judge(world: &World<'_>) -> Vec<String> {
    let _turn = world.turn_alone().await;
    let mut violations = world.violations();
    let jobs = jobs(world).await;
    for job in &jobs {
        let stakes = world.purple_flea.books.stakes_of(&job.bet_key);
        let wrong =
            if job.repeatable { repeatable(job, world) } else { staked(job, &stakes, world.has_jumped()) };
        violations.extend(
            wrong.map(|wrong| {
                format!("{} ({} {}, {}): {wrong}", job.reference, job.kind, job.state, job.reason)
            }),
        );
    }
    violations.extend(strangers(&jobs, world));
    violations.extend(history(world).await);
    violations
}

async fn jobs(world: &World<'_>) -> Vec<Job> {
    let number = |text: Option<&str>| text.map(|text| text.parse::<Decimal>().unwrap());
    let rows = world.database.rows(JOBS, &[]).await;
    let read = |row: &tokio_postgres::Row| Job {
        reference: row.get(0),
        kind: row.get(1),
        bet_key: row.get(2),
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

/// What is wrong with a job that stakes money.
fn staked(job: &Job, stakes: &[Stake], jumped: bool) -> Option<String> {
    let stake = match (stakes, job.state.as_str()) {
        ([], "executed") => return Some("not at Purple Flea".to_owned()),
        (_, "pending" | "claimed") => return Some("still open".to_owned()),
        ([], _) => return None,
        ([_, _, ..], _) => return Some(format!("staked {} times", stakes.len())),
        ([stake], _) => stake,
    };
    // Whose money it was shows in the key.
    let own = job.key_name.as_ref().is_some_and(|name| !name.is_empty());
    if own == (stake.key == KEY) && !job.restored {
        return Some(format!("staked with the key {}", stake.key));
    }
    let recorded = match stake.what {
        What::Bet { payout, .. } => {
            (job.wager, job.payout, job.results) == (Some(stake.amount), Some(payout), 1)
        }
        What::Position => (job.wager, job.results) == (Some(stake.amount), 1),
        What::Escrow { .. } => job.escrow.as_ref() == Some(&stake.id),
    };
    match (job.state.as_str(), stake.what) {
        ("executed", _) if recorded => None,
        // It stays to be looked up: in a history that does not show it, or by an operator.
        // (When the database's clock was set, it may have looked before a late bet came.)
        ("unknown", _)
            if job.reason == "not_found" && !jumped && stake.is_in_history_of(job.key.as_deref()) =>
        {
            Some("its bet stands in the history".to_owned())
        }
        ("unknown", _) => None,
        _ => Some(format!("at Purple Flea: {stake:?}")),
    }
}

/// What is wrong with a job that Purple Flea does at most once, however often it is asked.
fn repeatable(job: &Job, world: &World<'_>) -> Option<String> {
    let books = &world.purple_flea.books;
    let escrow = || job.escrow.as_ref().and_then(|id| books.escrow(id));
    let refused = REFUSALS.contains(&job.reason.as_str()) || books.has_refused(&job.bet_key);
    let wrong = match (job.state.as_str(), job.kind.as_str()) {
        ("executed", "registration") => {
            let key = job.own_key.as_deref().and_then(|key| books.owner(key));
            key.is_none().then_some("its key is not kept")
        }
        ("executed", "faucet") => (!books.has_credit(&job.account)).then_some("no credit was given"),
        ("executed", "daily_claim") => (!books.has_claimed_daily(&job.account)).then_some("not claimed"),
        ("executed", "escrow_release" | "escrow_cancel") => {
            (escrow() != job.escrow_status.as_deref()).then_some("the escrow is something else")
        }
        ("executed", _) => None,
        ("rejected", _) if !refused => Some("Purple Flea did not refuse it"),
        ("rejected" | "skipped", _) if books.has_ended(&job.bet_key) => Some("done all the same"),
        ("rejected" | "skipped", _) => None,
        _ => Some("still open"),
    };
    wrong.map(str::to_owned)
}

/// What stands at Purple Flea and belongs to no job: only a restore may forget one, and then it was done once.
fn strangers(jobs: &[Job], world: &World<'_>) -> Vec<String> {
    let known: HashSet<&str> = jobs.iter().map(|job| job.bet_key.as_str()).collect();
    let forgotten = world.forgotten.borrow();
    let mut seen = HashSet::new();
    let mut wrong = Vec::new();
    for bet_key in world.purple_flea.books.bet_keys() {
        if known.contains(bet_key.as_str()) {
            continue;
        }
        if !forgotten.contains(&bet_key) {
            wrong.push(format!("{bet_key}: staked for no job"));
        } else if !seen.insert(bet_key.clone()) {
            wrong.push(format!("{bet_key}: forgotten, and staked more than once"));
        }
    }
    wrong
}

/// What must not be in any history.
async fn history(world: &World<'_>) -> Vec<String> {
    let credits = format!(
        // (Of a new account the balance tells what the faucet gave; a claim of the day that got lost is in it.)
        "select a.id from public.agents a where \
         (select count(*) from public.wallet_changes w where w.agent_id = a.id and w.change_amount in ({CREDIT}, 2 * {CREDIT})) <> \
         (select count(*) from purple_flea.all_jobs j where j.agent_id = a.id and j.kind in ('faucet', 'daily_claim') \
          and j.state = 'executed' and (j.result ->> 'credited')::numeric > 0)"
    );
    let checks = [
        (
            "a deposit without a job",
            "select w.id::text from public.wallet_changes w where w.change_type = 'deposit' \
             and not exists (select from purple_flea.all_jobs j where j.wallet_change_id = w.id)",
        ),
        (
            "a gap in its history",
            "select reference from (select reference, from_state, lag(to_state) over \
             (partition by reference order by id) as before from purple_flea.all_job_events where kind = 'transition') as e \
             where from_state is distinct from before",
        ),
        (
            // (A registration may be made twice, and the second key is kept beside the first.)
            "an alarm",
            "select reference || ' ' || kind || ' ' || why from purple_flea.all_job_events \
             where kind in ('conflict', 'alarm') and why <> 'key_is_there'",
        ),
        (
            "a row of trade_results without its job",
            "select t.reference from public.trade_results t where not exists ( \
             select from purple_flea.all_jobs j where j.reference = t.reference and j.state = 'executed')",
        ),
        (
            "a limit that was passed",
            "select j.bet_day::text from purple_flea.all_jobs j join purple_flea.trade_policies p using (agent_id) \
             where j.state = 'executed' group by j.bet_day, p.daily_wager_limit having sum(j.wager) > p.daily_wager_limit",
        ),
        (
            "dead though it was held back, or is not so old",
            "select j.reference from purple_flea.all_jobs j where j.state = 'dead' and j.reason = 'too_old' \
             and j.changed_at - j.created_at - model.held_for(j.agent_id, j.created_at, j.changed_at) \
                 < (purple_flea.timing()).max_age - interval '1 second'",
        ),
        ("a credit that was given twice, or not written down", credits.as_str()),
        (
            "an escrow's row that says too much",
            "select e.id::text from public.escrow_requests e where e.status in ('released', 'cancelled') and not exists ( \
             select from purple_flea.jobs j where j.escrow_id = e.id and j.kind in ('escrow_release', 'escrow_cancel') \
             and (j.state = 'executed' or j.result ? 'escrow_status'))",
        ),
    ];
    let mut violations = Vec::new();
    for (what, sql) in checks {
        let rows = world.database.rows(sql, &[]).await;
        violations.extend(rows.iter().map(|row| format!("{what}: {}", row.get::<_, &str>(0))));
    }
    violations
}
