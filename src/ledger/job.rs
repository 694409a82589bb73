//! Jobs as the ledger hands them out, and outcomes as it takes them back.

use super::object::{Object, Unreadable};
use crate::{
    domain::{
        account::{Account, AccountKey},
        bet::{CashoutAt, Game, GameName},
        job::{Kind, State},
        order::Market,
        policy::{Policy, Spent},
        reference::Reference,
    },
    endpoint::Key,
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// A claimed job.
#[derive(Debug)]
pub struct Job {
    /// The job's name.
    pub reference: Reference,
    /// The job's name at Purple Flea, the same on every attempt.
    pub idempotency_key: String,
    /// The number of claims of the job, this one included.
    pub attempt: u32,
    /// The work. `None` if this version cannot read whose it is: the database is of a newer or an older release.
    pub work: Option<Work>,
}

/// A job's kind, account and columns. `jobs::decode` makes a task of them.
#[derive(Debug)]
pub struct Work {
    /// The kind.
    pub kind: Kind,
    /// The agent.
    pub agent_id: String,
    /// The account that the job is executed on.
    pub account: Account,
    /// The row of the table that the job came from.
    pub row: Box<RawValue>,
    /// The policy, as the database froze it; `None` if this version cannot read it.
    pub policy: Option<Policy>,
    /// What the agent has spent today, if its policy limits that.
    pub spent: Option<Spent>,
    /// The referral code of the agent that brought this one in.
    pub referral_code: Option<String>,
    /// Whether the faucet's credit is all that the account can hold: we registered it, and nothing has come since.
    pub fresh: bool,
    /// Purple Flea's name of an escrow's receiver, if that is another one.
    pub counterparty: Option<String>,
    /// The escrow that the job is to end.
    pub escrow: Option<EscrowToEnd>,
}

/// The escrow that a job is to end.
#[derive(Debug)]
pub struct EscrowToEnd {
    /// Purple Flea's id of it, if it was made.
    pub id: Option<String>,
    /// Whether it may still be made.
    pub pending: bool,
}

impl Spent {
    fn read(row: &Object) -> Result<Self, Unreadable> {
        Ok(Self { wagered: row.decimal("wagered")?, lost: row.decimal("lost")?, open: row.decimal("open")? })
    }
}

/// A secret goes out in a settlement and nowhere else.
fn exposed<S: Serializer>(secret: &Option<Key>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Key::expose).serialize(serializer)
}

impl Job {
    /// Reads a job as the database wrote it.
    ///
    /// # Errors
    ///
    /// If not even the job's names can be read. A job whose row this version cannot read is one without work.
    pub fn read(job: &Object) -> Result<Self, Unreadable> {
        let reference = Reference::parse(&job.text("reference")?).ok_or(Unreadable)?;
        let idempotency_key =
            Reference::parse(&job.text("idempotency_key")?).ok_or(Unreadable)?.as_str().to_owned();
        let attempt = u32::try_from(job.whole("attempt")?).map_err(|_| Unreadable)?;
        Ok(Self { reference, idempotency_key, attempt, work: Work::read(job)? })
    }
}

impl Work {
    /// Whether the agent's next job can only be claimed when this one is settled: its stake counts against a daily limit.
    pub fn is_one_at_a_time(&self) -> bool {
        self.spent.is_some()
    }

    fn read(job: &Object) -> Result<Option<Self>, Unreadable> {
        let object = |name| job.not_null(name)?.map(|field| Object::read(field.get())).transpose();
        let to_end = |escrow: Object| {
            let pending = escrow.text("status")? == "pending";
            Ok(EscrowToEnd { id: escrow.maybe_text("id")?, pending })
        };
        let (kind, row) = (kind(job)?, job.raw("row")?.ok_or(Unreadable)?);
        let key = account_key(job.flag_or_no("own_key")?, job.maybe_text("key")?.as_deref());
        let name = job.maybe_text("account")?;
        let policy = Policy::read(job.raw("policy")?.ok_or(Unreadable)?.get()).ok();
        let spent = object("spent")?.map(|spent| Spent::read(&spent)).transpose()?;
        let referral_code = job.maybe_text("referral_code")?;
        let fresh = job.flag_or_no("fresh")?;
        let counterparty = job.maybe_text("counterparty")?;
        let escrow = object("escrow")?.map(to_end).transpose()?;
        let (Some(kind), Some(agent_id)) = (kind, agent_of(row.get()).ok().flatten()) else {
            return Ok(None);
        };
        let account = Account { name: name.unwrap_or_else(|| agent_id.clone()), key };
        let row = row.to_owned();
        Ok(Some(Self {
            kind,
            agent_id,
            account,
            row,
            policy,
            spent,
            referral_code,
            fresh,
            counterparty,
            escrow,
        }))
    }
}

/// The agent of a row of any of the tables.
fn agent_of(row: &str) -> Result<Option<String>, Unreadable> {
    let row = Object::read(row)?;
    let (agent, sender) = (row.maybe_text("agent_id")?, row.maybe_text("sender_id")?);
    Ok(agent.or(sender))
}

fn account_key(own: bool, key: Option<&str>) -> AccountKey {
    match key.and_then(Key::parse) {
        _ if !own => AccountKey::Shared,
        Some(key) => AccountKey::Own(key),
        None => AccountKey::Missing,
    }
}

/// A job's kind; `None` if the database names none.
fn kind(row: &Object) -> Result<Option<Kind>, Unreadable> {
    row.maybe_text("kind")?.map(|name| Kind::parse(&name).ok_or(Unreadable)).transpose()
}

impl Policy {
    fn read(row: &str) -> Result<Self, Unreadable> {
        let row = Object::read(row)?;
        Ok(Self {
            game: row.word("game")?,
            cashout_at: CashoutAt::new(row.amount("cashout_at")?).ok_or(Unreadable)?,
            side: row.word("side")?,
            market: row
                .maybe_text("market")?
                .map(|name| Market::parse(&name).ok_or(Unreadable))
                .transpose()?,
            direction: row.word("direction")?,
            size: row.maybe_amount("size")?,
            check_balance: row.flag("check_balance")?,
            min_balance: row.amount("min_balance")?,
            min_change: row.amount("min_change")?,
            wager_fraction: row.decimal("wager_fraction")?,
            max_wager: row.maybe_amount("max_wager")?,
            daily_wager_limit: row.maybe_amount("daily_wager_limit")?,
            daily_loss_limit: row.maybe_amount("daily_loss_limit")?,
            // The ledger hands out no job of a paused policy.
            paused: false,
        })
    }
}

/// The ledger's answer about a job that a caller asked about.
#[derive(Debug)]
pub struct Answer {
    /// The job.
    pub reference: String,
    /// The agent.
    pub agent_id: Option<String>,
    /// Where the job stands.
    pub state: Standing,
    /// The reason.
    pub reason: Option<String>,
    /// After how many seconds another question makes sense.
    pub retry_after_s: Option<u64>,
    /// The outcome that was recorded.
    pub result: Option<Box<RawValue>>,
}

impl Answer {
    pub(super) fn read(row: &Object) -> Result<Self, Unreadable> {
        Ok(Self {
            reference: row.text("reference")?,
            agent_id: row.maybe_text("agent_id")?,
            state: row.word("state")?,
            reason: row.maybe_text("reason")?,
            retry_after_s: row.maybe_whole("retry_after_s")?,
            result: row.not_null("result")?.map(ToOwned::to_owned),
        })
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// This claim took it.
    Claimed,
    /// Another claim has it.
    InFlight,
    /// Purple Flea did it.
    Executed,
    /// The function left it, for good.
    Skipped,
    /// Purple Flea refused it, for good.
    Rejected,
    /// Purple Flea may have done it.
    Unknown,
    /// The job expired: it was too old when its turn came.
    Dead,
    /// A worker takes it later.
    Waiting,
    /// There is no such job.
    NotFound,
}

/// An outcome on its way to the ledger.
#[derive(Debug, Serialize)]
pub struct Settlement {
    /// The job.
    pub reference: String,
    /// The claim's token.
    pub token: String,
    /// The state that it leads the job to.
    pub state: State,
    /// The whole outcome.
    pub result: Box<RawValue>,
    /// A key that came with the reply. The ledger keeps it in the vault, apart from the result.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "exposed")]
    pub secret: Option<Key>,
}

/// An unknown job whose bet the worker looks up.
pub struct Lookup {
    /// The job's name.
    pub reference: String,
    /// The token of the last claim.
    pub token: String,
    /// The job's name at Purple Flea.
    pub idempotency_key: String,
    /// The agent.
    pub agent_id: String,
    /// Purple Flea's name of the agent, if that is another one.
    pub account: Option<String>,
    /// The name of the agent's own key, because a look-up reads one key's history at a time; `None` for the shared key.
    pub key_name: Option<String>,
    key: Option<String>,
    /// The kind of job.
    pub kind: Kind,
    /// The game, if the job is a bet.
    pub game: Option<Game>,
    /// The earliest time of the bet, in Unix seconds.
    pub from_s: u64,
    /// The latest time of the bet, in Unix seconds.
    pub until_s: u64,
}

impl Lookup {
    pub(super) fn read(row: &Object) -> Result<Self, Unreadable> {
        let policy = row.raw("policy")?.ok_or(Unreadable)?.get();
        let kind = kind(row)?.ok_or(Unreadable)?;
        Ok(Self {
            reference: row.text("reference")?,
            token: row.text("token")?,
            idempotency_key: row.text("idempotency_key")?,
            agent_id: row.text("agent_id")?,
            account: row.maybe_text("account")?,
            key_name: Some(row.text("key_name")?).filter(|name| !name.is_empty()),
            key: row.maybe_text("key")?,
            kind,
            game: if kind == Kind::Deposit { frozen_game(policy) } else { None },
            from_s: row.whole("from_s")?,
            until_s: row.whole("until_s")?,
        })
    }

    /// The account of the bet.
    pub fn account(&self) -> Account {
        let key = account_key(self.key_name.is_some(), self.key.as_deref());
        Account { name: self.account.clone().unwrap_or_else(|| self.agent_id.clone()), key }
    }
}

/// Reads the game of a frozen policy. An earlier release may have frozen it, so only the game has to be readable.
fn frozen_game(policy: &str) -> Option<Game> {
    let policy = Object::read(policy).ok()?;
    match policy.word("game").ok()? {
        GameName::Crash => CashoutAt::new(policy.amount("cashout_at").ok()?).map(Game::Crash),
        GameName::CoinFlip => policy.word("side").ok().map(Game::CoinFlip),
        GameName::Trade => None,
    }
}
