//! What the ledger hands out and takes back.

use crate::{
    game::{CashoutAt, Game, GameName, Side},
    money::{self, Amount},
    policy::{Policy, Spent},
    purple_flea::{
        Account, AccountKey,
        escrow::End,
        trading::{Direction, Form, Market},
    },
    upstream::Key,
    webhook::{event, reference::Reference},
    work::{
        Kind, Work,
        agent::Errand,
        deposit,
        escrow::{EscrowRow, Step, What},
        order::OrderRow,
    },
};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
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
    /// On whose account it is done.
    pub account: Account,
    /// What is to be done. `None` if the row or the policy is nothing that can be judged: a newer or an older database.
    pub work: Option<Work>,
}

#[derive(Deserialize)]
struct HandedOut<'a> {
    reference: String,
    kind: Option<Kind>,
    bet_key: String,
    attempt: u32,
    #[serde(borrow)]
    row: &'a RawValue,
    #[serde(borrow)]
    policy: &'a RawValue,
    spent: Option<SpentRow>,
    account: Option<String>,
    #[serde(default)]
    own_key: bool,
    key: Option<String>,
    referral_code: Option<String>,
    #[serde(default)]
    fresh: bool,
    counterparty: Option<String>,
    escrow: Option<EscrowStanding>,
}

/// Whose row it is, whatever else it is.
#[derive(Deserialize)]
struct Whose {
    agent_id: Option<String>,
    sender_id: Option<String>,
}

/// What an escrow is that is to end.
#[derive(Deserialize)]
struct EscrowStanding {
    id: Option<String>,
    status: String,
}

#[derive(Deserialize)]
struct PolicyRow {
    game: GameName,
    cashout_at: CashoutAt,
    side: Side,
    market: Option<Market>,
    direction: Direction,
    size: Option<Amount>,
    check_balance: bool,
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

fn policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Policy>, D::Error> {
    Ok(Option::<PolicyRow>::deserialize(deserializer)?.map(Policy::from))
}

/// A secret goes out in a settlement and nowhere else.
fn exposed<S: Serializer>(secret: &Option<Key>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Key::expose).serialize(serializer)
}

impl Job {
    /// Reads a job as the database wrote it; `None` where not even its name can be read.
    pub(crate) fn read(raw: &RawValue) -> Option<Self> {
        let job: HandedOut = serde_json::from_str(raw.get()).ok()?;
        let reference = Reference::parse(&job.reference)?;
        let bet_key = Reference::parse(&job.bet_key)?.as_str().to_owned();
        let attempt = job.attempt;
        let key = account_key(job.own_key, job.key.as_deref());
        let whose: Option<Whose> = serde_json::from_str(job.row.get()).ok();
        let agent_id = whose.and_then(|whose| whose.agent_id.or(whose.sender_id)).unwrap_or_default();
        let account = Account { name: job.account.clone().unwrap_or_else(|| agent_id.clone()), key };
        Some(Self { reference, bet_key, attempt, account, work: job.work(agent_id) })
    }
}

fn account_key(own: bool, key: Option<&str>) -> AccountKey {
    match key.and_then(Key::parse) {
        _ if !own => AccountKey::Everybodys,
        Some(key) => AccountKey::Own(key),
        None => AccountKey::Missing,
    }
}

impl HandedOut<'_> {
    fn work(self, agent_id: String) -> Option<Work> {
        let policy = || Some(Policy::from(serde_json::from_str::<PolicyRow>(self.policy.get()).ok()?));
        let spent = self.spent.map(|SpentRow { wagered, lost, open }| Spent { wagered, lost, open });
        let end = |end| {
            let escrow = self.escrow.as_ref()?;
            let pending = escrow.status == "pending";
            Some(Work::Escrow(Step {
                agent_id: agent_id.clone(),
                what: What::End { end, pf_escrow_id: escrow.id.clone(), pending },
            }))
        };
        let row = self.row;
        match self.kind? {
            Kind::Deposit => {
                let row = event::read_row(row).ok()?;
                Some(Work::Deposit(Box::new(deposit::Case { row, policy: policy()?, spent })))
            }
            kind @ (Kind::Trade | Kind::Order) => {
                let row: OrderRow = serde_json::from_str(row.get()).ok()?;
                let form = if kind == Kind::Trade { Form::Trade } else { Form::Order };
                Some(Work::Order(Box::new(row.case(form, Some(policy()?), spent))))
            }
            kind @ (Kind::Registration | Kind::Faucet | Kind::DailyClaim | Kind::Balance) => {
                Some(Work::Agent(Errand {
                    agent_id,
                    kind,
                    referral_code: self.referral_code,
                    fresh: self.fresh,
                }))
            }
            Kind::Escrow => {
                let row: EscrowRow = serde_json::from_str(row.get()).ok()?;
                Some(Work::Escrow(Step::create(row, self.counterparty, self.referral_code)))
            }
            Kind::EscrowRelease => end(End::Release),
            Kind::EscrowCancel => end(End::Cancel),
        }
    }
}

impl From<PolicyRow> for Policy {
    fn from(row: PolicyRow) -> Self {
        Self {
            game: row.game,
            cashout_at: row.cashout_at,
            side: row.side,
            market: row.market,
            direction: row.direction,
            size: row.size,
            check_balance: row.check_balance,
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

/// What the ledger says about a job that was asked for.
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
    /// A key that came with it. The ledger keeps it with the secrets, apart from the result.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "exposed")]
    pub secret: Option<Key>,
}

/// An unknown job whose bet is to be looked for.
#[derive(Deserialize)]
pub struct Lookup {
    /// What it is called.
    pub reference: String,
    /// Its last claim's token.
    pub token: String,
    /// What its bet is called at Purple Flea.
    pub bet_key: String,
    /// Whose deposit.
    pub agent_id: String,
    /// What Purple Flea calls the agent, where that is another name.
    pub account: Option<String>,
    /// What the agent's own key is called: bets are looked for key by key. Empty: it was made with everybody's.
    pub key_name: String,
    key: Option<String>,
    /// What it was to do.
    pub kind: Kind,
    /// The policy that it was claimed under.
    #[serde(deserialize_with = "policy")]
    pub policy: Option<Policy>,
    /// Not bet before: Unix seconds.
    pub from_s: u64,
    /// Nor after.
    pub until_s: u64,
}

impl Lookup {
    /// The account that it was bet on.
    pub fn account(&self) -> Account {
        let key = account_key(!self.key_name.is_empty(), self.key.as_deref());
        Account { name: self.account.clone().unwrap_or_else(|| self.agent_id.clone()), key }
    }

    /// The game that it was bet on, if it was a bet.
    pub fn game(&self) -> Option<Game> {
        self.policy.as_ref().filter(|_| self.kind == Kind::Deposit)?.game()
    }
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
