//! What the ledger hands out and takes back.

use crate::{
    game::{CashoutAt, GameName, Side},
    money::{self, Amount},
    policy::{Policy, Spent},
    webhook::{
        event::{self, WalletChange},
        reference::Reference,
    },
};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::value::RawValue;

/// A claimed job.
#[derive(Debug)]
pub struct Job {
    /// What it is called.
    pub reference: Reference,
    /// What its bet is called at Purple Flea, on every attempt.
    pub bet_key: String,
    /// How many times it was claimed, this time included.
    pub attempt: u32,
    /// What is to be judged. `None` if the row or the policy is nothing that can be: a newer or an older database.
    pub case: Option<Case>,
}

/// A deposit and the rules it is judged by, both as the database froze them.
#[derive(Debug)]
pub struct Case {
    /// The deposit's row.
    pub row: WalletChange,
    /// Its agent's policy.
    pub policy: Policy,
    /// What the agent has spent today, where the policy limits that.
    pub spent: Option<Spent>,
}

#[derive(Deserialize)]
struct HandedOut<'a> {
    reference: String,
    bet_key: String,
    attempt: u32,
    #[serde(borrow)]
    row: &'a RawValue,
    #[serde(borrow)]
    policy: &'a RawValue,
    spent: Option<SpentRow>,
}

#[derive(Deserialize)]
struct PolicyRow {
    game: GameName,
    cashout_at: CashoutAt,
    side: Side,
    min_balance: Amount,
    min_change: Amount,
    #[serde(deserialize_with = "decimal")]
    wager_fraction: Decimal,
    max_wager: Option<Amount>,
    daily_wager_limit: Option<Amount>,
    daily_loss_limit: Option<Amount>,
}

#[derive(Deserialize)]
struct SpentRow {
    #[serde(deserialize_with = "decimal")]
    wagered: Decimal,
    #[serde(deserialize_with = "decimal")]
    lost: Decimal,
    #[serde(deserialize_with = "decimal")]
    open: Decimal,
}

fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    money::decimal(number.as_str()).map_err(de::Error::custom)
}

fn policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Policy, D::Error> {
    PolicyRow::deserialize(deserializer).map(Policy::from)
}

impl Job {
    /// Reads a job as the database wrote it; `None` where not even its name can be read.
    pub(super) fn read(raw: &RawValue) -> Option<Self> {
        let job: HandedOut = serde_json::from_str(raw.get()).ok()?;
        let case = event::read_row(job.row).ok().and_then(|row| {
            let policy: PolicyRow = serde_json::from_str(job.policy.get()).ok()?;
            let spent = job.spent.map(|SpentRow { wagered, lost, open }| Spent { wagered, lost, open });
            Some(Case { row, policy: policy.into(), spent })
        });
        Some(Self {
            reference: Reference::parse(&job.reference)?,
            bet_key: Reference::parse(&job.bet_key)?.as_str().to_owned(),
            attempt: job.attempt,
            case,
        })
    }
}

impl From<PolicyRow> for Policy {
    fn from(row: PolicyRow) -> Self {
        Self {
            game: row.game,
            cashout_at: row.cashout_at,
            side: row.side,
            min_balance: row.min_balance,
            min_change: row.min_change,
            wager_fraction: row.wager_fraction,
            max_wager: row.max_wager,
            daily_wager_limit: row.daily_wager_limit,
            daily_loss_limit: row.daily_loss_limit,
            // What is paused is not handed out.
            paused: false,
        }
    }
}

/// What the ledger says about a deposit that was asked for.
#[derive(Debug, Deserialize)]
pub struct Answer {
    /// Which.
    pub reference: String,
    /// Whose.
    pub agent_id: Option<String>,
    /// What became of it.
    pub state: Standing,
    /// Why.
    pub reason: Option<String>,
    /// After how many seconds it is worth asking again.
    pub retry_after_s: Option<u64>,
    /// The outcome that was recorded.
    pub result: Option<Box<RawValue>>,
}

/// Where a deposit's job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is ours now.
    Claimed,
    /// Somebody else is at it.
    InFlight,
    /// Its bet was made.
    Executed,
    /// Nothing was bet, by the policy.
    Skipped,
    /// Purple Flea refused the bet.
    Rejected,
    /// Nobody knows whether its bet was made.
    Unknown,
    /// It was too old when its turn came.
    Dead,
    /// Its turn comes later.
    Waiting,
    /// There is no such job.
    NotFound,
}

/// A state that a claimed job can be brought into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing was executed; try again later.
    Pending,
    /// The bet was made.
    Executed,
    /// Nothing is bet, for good.
    Skipped,
    /// Purple Flea refused the bet for good.
    Rejected,
    /// The bet may have been made.
    Unknown,
}

/// An outcome on its way to the ledger.
#[derive(Debug, Serialize)]
pub struct Settlement {
    /// Of which job.
    pub reference: String,
    /// Of which claim.
    pub token: String,
    /// What state it leads to.
    pub state: State,
    /// All there is to say about it.
    pub result: Box<RawValue>,
}

/// An unknown job whose bet is to be looked for.
#[derive(Debug, Deserialize)]
pub struct Lookup {
    /// What it is called.
    pub reference: String,
    /// Its last claim's token.
    pub token: String,
    /// What its bet is called at Purple Flea.
    pub bet_key: String,
    /// Whose deposit.
    pub agent_id: String,
    /// The policy that it was claimed under.
    #[serde(deserialize_with = "policy")]
    pub policy: Policy,
    /// Not bet before: Unix seconds.
    pub from_s: u64,
    /// Nor after.
    pub until_s: u64,
}

/// How the ledger is.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Health {
    /// `ok`, or `missing` when nobody has swept for minutes.
    pub sweeper: String,
    /// Jobs that are due, counted to 10,000.
    pub due: u64,
    /// For how long the oldest of them has been.
    pub oldest_due_s: Option<u64>,
    /// Jobs whose outcome nobody knows, counted to 10,000.
    pub unknown: u64,
    /// Conflicts and outcomes that could not be recorded, of the last day.
    pub alarms: u64,
    /// Whether deposits wait because Purple Flea refuses our key or does not know our URL.
    #[serde(skip_serializing)]
    pub refused_by_purple_flea: bool,
}
