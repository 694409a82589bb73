//! One deposit's way from its row to its ending: decide, call. The same in both modes; what stands around it, the
//! claim and the settling, is the ledger's.

use crate::{
    game::{CashoutAt, Game, GameName, Side},
    ledger::job::State,
    log::{Line, milliseconds},
    money::Amount,
    outside::Outside,
    policy::{Bet, Decision, Policy, Skip, Spent},
    problem::{Problem, json},
    purple_flea::{
        PurpleFlea,
        reply::{Failure, Outcome},
    },
    webhook::{event::WalletChange, reference::Reference},
};
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::time::Duration;

/// What is left of a lease when the last byte of an exchange may come in: room to settle, and for clocks that tick
/// differently.
const LEASE_MARGIN_MS: u64 = 1_000;

/// After how many seconds a deposit is looked at again that only an open bet keeps from its own. The database does so
/// as soon as that bet is known; this is for the day's end.
const OPEN_LIMIT_RETRY_S: u64 = 900;

/// After how many seconds a job is looked at again that we could not read: somebody has to update one side first.
const UNREADABLE_RETRY_S: u64 = 300;

/// How a deposit's way ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The bet was made.
    Executed {
        /// Which.
        bet: Bet,
        /// And how it ended.
        outcome: Outcome,
    },
    /// Nothing is bet, for good.
    Skipped {
        /// Whose deposit.
        agent_id: String,
        /// Why.
        skip: Skip,
    },
    /// Nothing was sent, for now.
    Waiting {
        /// Whose deposit, where that could be read.
        agent_id: Option<String>,
        /// Why.
        wait: Wait,
    },
    /// It was to be made, and was not, or nobody knows.
    Failed {
        /// Which.
        bet: Bet,
        /// What Purple Flea, or its silence, proves.
        failure: Failure,
    },
}

/// Why nothing was sent for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Bets are paused.
    Paused,
    /// A daily limit holds, unless bets of unknown outcome turn out not to have been made.
    DailyLimitOpen,
    /// The bet could have outlived its lease.
    OutOfTime,
    /// The ledger's row or policy is nothing that this version can read.
    Unreadable,
}

impl Wait {
    /// Its name in replies, logs and the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::DailyLimitOpen => "daily_limit_open",
            Self::OutOfTime => "out_of_time",
            Self::Unreadable => "unreadable_job",
        }
    }

    fn retry_after_s(self) -> u64 {
        match self {
            Self::Paused | Self::OutOfTime => 0,
            Self::DailyLimitOpen => OPEN_LIMIT_RETRY_S,
            Self::Unreadable => UNREADABLE_RETRY_S,
        }
    }
}

/// Decides about a row and makes the bet, if there is to be one. With a `deadline` on the monotonic clock, a bet that
/// might still be under way then is not sent.
pub async fn run(
    policy: &Policy,
    row: &WalletChange,
    spent: Option<&Spent>,
    purple_flea: &PurpleFlea,
    bet_key: &str,
    deadline: Option<Duration>,
    outside: &impl Outside,
) -> Ending {
    let agent_id = row.agent_id.clone();
    let bet = match policy.decide(row, spent) {
        Decision::Bet(bet) => bet,
        Decision::Skip(skip) => return Ending::Skipped { agent_id, skip },
        Decision::Paused => return Ending::Waiting { agent_id: Some(agent_id), wait: Wait::Paused },
        Decision::DailyLimitOpen => {
            return Ending::Waiting { agent_id: Some(agent_id), wait: Wait::DailyLimitOpen };
        }
    };
    let longest = purple_flea.timeout.saturating_add(Duration::from_millis(LEASE_MARGIN_MS));
    if deadline.is_some_and(|deadline| outside.monotonic().saturating_add(longest) > deadline) {
        return Ending::Waiting { agent_id: Some(agent_id), wait: Wait::OutOfTime };
    }
    match purple_flea.play(&bet, bet_key, outside).await {
        Ok(outcome) => Ending::Executed { bet, outcome },
        Err(failure) => Ending::Failed { bet, failure },
    }
}

/// A bet that was executed, as replies and the ledger have it.
#[derive(Serialize)]
struct ExecutedBody<'a> {
    status: &'static str,
    reference: &'a str,
    agent_id: &'a str,
    game: GameName,
    #[serde(skip_serializing_if = "Option::is_none")]
    cashout_at: Option<CashoutAt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<Side>,
    wager: Amount,
    outcome: &'static str,
    payout: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crash_point: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bet_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// A deposit that led to no bet, or to none that is known of.
#[derive(Serialize, Default)]
struct NotBetBody<'a> {
    status: &'static str,
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'static str,
    reference: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    game: Option<GameName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wager: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purple_flea_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bet: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
}

impl Ending {
    /// Whether Purple Flea took or refused the bet itself: then others may fare as well.
    pub fn encourages(&self) -> bool {
        matches!(self, Self::Executed { .. } | Self::Failed { failure: Failure::Rejected { .. }, .. })
    }

    /// The state that it leads a claimed job to.
    pub fn state(&self) -> State {
        match self {
            Self::Executed { .. } => State::Executed,
            Self::Skipped { .. } => State::Skipped,
            Self::Waiting { .. } => State::Pending,
            Self::Failed { failure, .. } => match failure {
                Failure::Rejected { .. } => State::Rejected,
                Failure::NotAuthorized(_) | Failure::RateLimited { .. } | Failure::NotSent(_) => {
                    State::Pending
                }
                Failure::TimedOut | Failure::Unknown(_) => State::Unknown,
            },
        }
    }

    /// Whether it speaks for the next bet's not faring better.
    pub fn discourages(&self) -> bool {
        use Failure::{NotAuthorized, NotSent, RateLimited};
        matches!(
            self,
            Self::Failed { failure: NotAuthorized(_) | NotSent(_) | RateLimited { .. }, .. }
                | Self::Waiting { wait: Wait::OutOfTime, .. }
        )
    }

    /// All there is to say about it, as JSON: what the ledger keeps, and what a success is answered with.
    pub fn body(&self, reference: &Reference) -> Box<RawValue> {
        let reference = reference.as_str();
        match self {
            Self::Executed { bet, outcome } => executed_body(bet, outcome, reference, None),
            Self::Skipped { agent_id, skip } => raw(&NotBetBody {
                status: "skipped",
                reason: skip.name(),
                detail: skip.detail(),
                reference,
                agent_id: Some(agent_id),
                ..NotBetBody::default()
            }),
            Self::Waiting { agent_id, wait } => raw(&NotBetBody {
                status: "waiting",
                reason: wait.name(),
                detail: "Nothing was executed.",
                reference,
                agent_id: agent_id.as_deref(),
                retry_after_s: Some(wait.retry_after_s()),
                ..NotBetBody::default()
            }),
            Self::Failed { bet, failure } => failed_body(bet, failure, reference),
        }
    }

    /// The reply to whoever asked for this deposit.
    pub fn response(self, reference: &Reference) -> Result<Response<Vec<u8>>, Problem> {
        match self {
            Self::Failed { failure, .. } => Err(failure.into()),
            ending => Ok(json(StatusCode::OK, "application/json", &ending.body(reference))),
        }
    }

    /// Tells the log.
    pub fn note(&self, line: &mut Line) {
        match self {
            Self::Executed { bet, outcome } => {
                line.agent = Some(bet.agent_id.clone());
                line.decision = Some("bet");
                line.outcome = Some(word(outcome));
            }
            Self::Skipped { agent_id, skip } => {
                line.agent = Some(agent_id.clone());
                line.decision = Some(skip.name());
            }
            Self::Waiting { agent_id, wait } => {
                line.agent.clone_from(agent_id);
                line.decision = Some(wait.name());
            }
            Self::Failed { bet, failure } => {
                line.agent = Some(bet.agent_id.clone());
                line.decision = Some("bet");
                let problem = Problem::from(failure.clone());
                line.code = Some(problem.code());
                line.cause = problem.cause();
            }
        }
    }
}

/// A bet that was executed, as JSON; with a `reason` where that is not simply that it was made.
pub fn executed_body(
    bet: &Bet,
    outcome: &Outcome,
    reference: &str,
    reason: Option<&'static str>,
) -> Box<RawValue> {
    let (cashout_at, side) = match bet.game {
        Game::Crash(cashout_at) => (Some(cashout_at), None),
        Game::CoinFlip(side) => (None, Some(side)),
    };
    raw(&ExecutedBody {
        status: "executed",
        reference,
        agent_id: &bet.agent_id,
        game: bet.game.name(),
        cashout_at,
        side,
        wager: bet.wager,
        outcome: word(outcome),
        payout: outcome.payout,
        crash_point: outcome.crash_point,
        bet_id: outcome.bet_id.as_deref(),
        reason,
    })
}

fn failed_body(bet: &Bet, failure: &Failure, reference: &str) -> Box<RawValue> {
    let problem = Problem::from(failure.clone());
    let (status, reason, code, max_bet) = match failure {
        Failure::Rejected { code, max_bet } => {
            ("rejected", code.as_deref().unwrap_or("rejected"), code.as_deref(), *max_bet)
        }
        Failure::TimedOut | Failure::Unknown(_) => ("unknown", problem.code(), None, None),
        Failure::NotAuthorized(_) | Failure::RateLimited { .. } | Failure::NotSent(_) => {
            ("waiting", problem.code(), None, None)
        }
    };
    raw(&NotBetBody {
        status,
        reason,
        reference,
        agent_id: Some(&bet.agent_id),
        game: Some(bet.game.name()),
        wager: Some(bet.wager),
        purple_flea_code: code,
        max_bet,
        cause: problem.cause().filter(|_| code.is_none()),
        retry_after_s: match failure {
            Failure::RateLimited { retry_after_s } => Some(*retry_after_s),
            // Asking again within a minute changes no setting.
            Failure::NotAuthorized(_) => Some(60),
            _ => None,
        },
        ..NotBetBody::default()
    })
}

fn raw(body: &impl Serialize) -> Box<RawValue> {
    // Nothing that is written here can fail to be JSON.
    to_raw_value(body).unwrap_or_default()
}

fn word(outcome: &Outcome) -> &'static str {
    if outcome.won { "win" } else { "loss" }
}

/// Notes how long Purple Flea took, whatever it said.
pub fn timed(line: &mut Line, from: Duration, to: Duration) {
    line.purple_flea_ms = Some(milliseconds(to.saturating_sub(from)));
}
