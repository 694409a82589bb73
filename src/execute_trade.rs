//! One event from its bytes to its reply: read, and then, by the mode, play it here and now or do what is due
//! in the ledger.

use crate::{
    admission::Refusal,
    config::Settings,
    drain::{self, Drained, Span},
    ending::Ending,
    game::Choice,
    ledger::{
        Ledger,
        job::{Answer, Standing},
        rpc::LedgerError,
    },
    log::{Level, Line, milliseconds},
    outside::Outside,
    problem::{Problem, json},
    purple_flea::Account,
    skip::Skip,
    time_budget,
    webhook::{
        event::{self, Event, Unhandled, WalletChange},
        reference::{Reference, ReferenceError},
    },
    work::{
        Kind, Means, Work,
        agent::Errand,
        deposit::Case,
        escrow::{Step, What},
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde_json::json;
use std::time::Duration;

/// Says that nothing happened this time: the outcome is an earlier one's.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What is to go on after the reply.
#[derive(Debug, PartialEq, Eq)]
pub struct Later {
    asked: Vec<Reference>,
}

/// A reply, and what is to go on after it.
pub type Reply = (Response<Vec<u8>>, Option<Later>);

/// Answers one event of a caller that was let in. What the log should know goes into `line` on the way, the reference among it: what has one by
/// then is called by it in the reply, too.
pub async fn run(
    settings: &Settings,
    webhook_id: Option<String>,
    headers: &HeaderMap,
    body: &[u8],
    outside: &impl Outside,
    line: &mut Line,
) -> Result<Reply, Problem> {
    let (row, choice) = match event::read(body)? {
        Event::Inserted { row, choice } => (row, choice),
        Event::NewAgent { agent_id } => {
            let named = webhook_id.clone().unwrap_or_else(|| format!("faucet-{agent_id}"));
            let errand =
                Errand { agent_id: agent_id.clone(), kind: Kind::Faucet, referral_code: None, fresh: false };
            // The ledger knows best what a new agent needs.
            let todo = Todo { agent_id, named, by_name: false, work: Work::Agent(errand) };
            return todo.run(webhook_id, settings, headers, outside, line).await;
        }
        Event::NewEscrow { id, row } => {
            let (agent_id, named) = (row.sender_id.clone(), format!("escrow-{id}"));
            let work = Work::Escrow(Step::create(row, None, None));
            return Todo { agent_id, named, by_name: true, work }
                .run(webhook_id, settings, headers, outside, line)
                .await;
        }
        Event::EndEscrow { id, sender_id, end, pf_escrow_id } => {
            let named = format!("escrow-{id}-{}", end.verb());
            let what = What::End { end, pf_escrow_id, pending: false };
            let work = Work::Escrow(Step { agent_id: sender_id.clone(), what });
            let todo = Todo { agent_id: sender_id, named, by_name: true, work };
            return todo.run(webhook_id, settings, headers, outside, line).await;
        }
        Event::Ring { reference } => {
            let ledger = settings.ledger.as_ref().ok_or(Problem::LedgerNotConfigured)?;
            if let (Some(reference), Some(id)) = (&reference, webhook_id)
                && reference.as_str() != id
            {
                return Err(Refusal::ReferenceMismatch.into());
            }
            return by_the_ledger(settings, ledger, reference, headers, outside, line).await;
        }
        Event::Unhandled(why) => {
            line.decision = Some(why.name());
            return Ok((unhandled(why), None));
        }
    };
    let reference = Reference::of(row.id, webhook_id.as_deref())?;
    line.reference = Some(reference.as_str().to_owned());
    line.agent = Some(row.agent_id.clone());
    let Some(ledger) = &settings.ledger else {
        let (agent_id, policy) = (row.agent_id.clone(), settings.policy.with(&choice));
        let work = Work::Deposit(Box::new(Case { row, policy, spent: None }));
        return here_and_now(settings, &work, &agent_id, &reference, outside, line).await;
    };
    if choice != Choice::default() {
        return Err(Problem::PolicyInLedger);
    }
    if let Some(reply) = without_a_job(&row, &reference, line) {
        return Ok((reply, None));
    }
    by_the_ledger(settings, ledger, Some(reference), headers, outside, line).await
}

/// What a row other than a deposit's asks for.
struct Todo {
    agent_id: String,
    /// What it is called.
    named: String,
    /// Whether the ledger calls it so, too; otherwise it does whatever is due.
    by_name: bool,
    work: Work,
}

impl Todo {
    async fn run(
        self,
        webhook_id: Option<String>,
        settings: &Settings,
        headers: &HeaderMap,
        outside: &impl Outside,
        line: &mut Line,
    ) -> Result<Reply, Problem> {
        line.agent = Some(self.agent_id.clone());
        if self.by_name && webhook_id.is_some_and(|id| id != self.named) {
            return Err(Refusal::ReferenceMismatch.into());
        }
        let reference = Reference::parse(&self.named);
        if let Some(ledger) = &settings.ledger {
            let reference = reference.filter(|_| self.by_name);
            return by_the_ledger(settings, ledger, reference, headers, outside, line).await;
        }
        let reference = reference.ok_or(ReferenceError::Malformed)?;
        here_and_now(settings, &self.work, &self.agent_id, &reference, outside, line).await
    }
}

/// Does a piece of work without a ledger: now, and without a memory of it.
pub async fn here_and_now(
    settings: &Settings,
    work: &Work,
    agent_id: &str,
    reference: &Reference,
    outside: &impl Outside,
    line: &mut Line,
) -> Result<Reply, Problem> {
    line.reference = Some(reference.as_str().to_owned());
    let (purple_flea, account) = (&settings.purple_flea, &Account::everybodys(agent_id));
    let started = outside.monotonic();
    let means = Means { purple_flea, account, bet_key: reference.as_str(), deadline: None, outside };
    let ending = work.run(&means).await;
    if matches!(ending, Ending::Executed { .. } | Ending::Failed { .. }) {
        line.purple_flea_ms = Some(milliseconds(outside.monotonic().saturating_sub(started)));
    }
    ending.note(line);
    Ok((ending.response(reference)?, None))
}

/// What is no deposit has no job, and nobody has to be asked about it. (The row is only a hint; but there is nothing
/// to be gained from a wrong one.)
fn without_a_job(row: &WalletChange, reference: &Reference, line: &mut Line) -> Option<Response<Vec<u8>>> {
    if row.is_deposit() {
        return None;
    }
    let ending = Ending::skipped(&row.agent_id, Skip::NotADeposit);
    ending.note(line);
    ending.response(reference).ok()
}

/// Does what is due in the ledger, and answers about what was asked for.
pub async fn by_the_ledger(
    settings: &Settings,
    ledger: &Ledger,
    reference: Option<Reference>,
    headers: &HeaderMap,
    outside: &impl Outside,
    line: &mut Line,
) -> Result<Reply, Problem> {
    line.reference = reference.as_ref().map(|reference| reference.as_str().to_owned());
    let asked: Vec<Reference> = reference.into_iter().collect();
    if settings.after_reply && prefers_async(headers) {
        let body = json!({ "status": "accepted", "reference": line.reference });
        return Ok((json(StatusCode::ACCEPTED, "application/json", &body), Some(Later { asked })));
    }
    let began = outside.monotonic();
    let span = Span {
        until: time_budget::claims_end_before_reply(began, settings.purple_flea.timeout),
        ends: time_budget::reports_end(began),
        linger: Duration::ZERO,
    };
    let drained = drain::run(settings, ledger, &asked, span, outside).await?;
    line.jobs = Some(drained.claimed);
    Ok((reply(&asked, drained, line)?, None))
}

impl Later {
    /// Goes on after the reply.
    pub async fn run(self, settings: &Settings, outside: &impl Outside) {
        let Some(ledger) = &settings.ledger else { return };
        let mut line = Line::new(outside.now(), "drain");
        line.reference = self.asked.first().map(|reference| reference.as_str().to_owned());
        let started = outside.monotonic();
        let span = Span {
            until: time_budget::claims_end_after_reply(started, settings.purple_flea.timeout),
            ends: time_budget::reports_end(started),
            linger: settings.linger,
        };
        match drain::run(settings, ledger, &self.asked, span, outside).await {
            Ok(drained) => line.jobs = Some(drained.claimed),
            Err(error) => {
                let problem = Problem::Ledger(error);
                (line.code, line.cause) = (Some(problem.code()), problem.cause());
                line.level = Level::Error;
            }
        }
        line.ms = milliseconds(outside.monotonic().saturating_sub(started));
        outside.log(&line);
    }
}

/// `Prefer: respond-async`, as RFC 7240 writes it.
fn prefers_async(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    preferences.flat_map(|value| value.split(',')).any(|preference| {
        preference.split(';').next().is_some_and(|p| p.trim().eq_ignore_ascii_case("respond-async"))
    })
}

/// The reply to a drain: about the deposit that was asked for, or about the drain itself.
fn reply(asked: &[Reference], drained: Drained, line: &mut Line) -> Result<Response<Vec<u8>>, Problem> {
    let Some(reference) = asked.first() else {
        let body = json!({ "status": "drained", "jobs": drained.claimed });
        return Ok(json(StatusCode::OK, "application/json", &body));
    };
    if let Some((_, ending)) = drained.endings.into_iter().find(|(ours, _)| ours == reference) {
        ending.note(line);
        return ending.response(reference);
    }
    let answer = drained.answers.into_iter().find(|answer| answer.reference == reference.as_str());
    told(answer.ok_or(Problem::Ledger(LedgerError::Unreadable))?, line)
}

/// What the ledger says about a deposit that was not ours to execute.
fn told(answer: Answer, line: &mut Line) -> Result<Response<Vec<u8>>, Problem> {
    line.agent = answer.agent_id.clone();
    let wait_s = answer.retry_after_s.unwrap_or(1);
    match answer.state {
        Standing::Executed | Standing::Skipped | Standing::Rejected => {
            line.decision = Some("replayed");
            let result = answer.result.ok_or(Problem::Ledger(LedgerError::Unreadable))?;
            let mut response = json(StatusCode::OK, "application/json", &result);
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            Ok(response)
        }
        Standing::Waiting => {
            line.decision = Some("waiting");
            let body = json!({
                "status": "waiting", "reason": answer.reason.as_deref().unwrap_or("not_its_turn"),
                "detail": "Not this call's to execute now. The ledger has it, and it is executed by itself when its turn comes.",
                "reference": answer.reference, "agent_id": answer.agent_id, "retry_after_s": wait_s,
            });
            Ok(json(StatusCode::OK, "application/json", &body))
        }
        // It was ours, and its ending was told above; anything else is somebody else's claim.
        Standing::Claimed | Standing::InFlight => Err(Problem::InFlight(wait_s)),
        Standing::Unknown => Err(Problem::Unresolved(answer.reason.unwrap_or_default())),
        Standing::Dead => Err(Problem::TooOld),
        Standing::NotFound => Err(Problem::UnknownDeposit),
    }
}

fn unhandled(why: Unhandled) -> Response<Vec<u8>> {
    let detail = match why {
        Unhandled::Table => "Only rows of wallet_changes, agents and escrow_requests lead to anything.",
        Unhandled::Kind => {
            "Only inserted rows lead to anything, and escrows that are requested to be released or cancelled."
        }
    };
    let body = json!({ "status": "skipped", "reason": why.name(), "detail": detail });
    json(StatusCode::OK, "application/json", &body)
}
