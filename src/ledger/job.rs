//! The rows of claims, answers and look-ups that the ledger sends, and the settlements that it accepts.

use super::object::{Object, Unreadable};
use crate::{
    domain::{
        account::{Account, AccountKey},
        bet::{BetRow, CashoutAt, Game, GameName},
        escrow::{Counterparty, EscrowRow},
        job::{Kind, RequestKind, State},
        order::{Leverage, Market},
        policy::{Policy, Spent},
        position::CloseRow,
        reference::Reference,
    },
    endpoint::Key,
    json,
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use std::time::Duration;

/// A claimed job.
#[derive(Debug)]
pub struct Job {
    /// The job's name.
    pub reference: Reference,
    /// The idempotency key, the same on every attempt.
    pub idempotency_key: String,
    /// The number of claims of the job, this one included.
    pub attempt: u32,
    /// The job's columns. `None` if this version cannot read the kind or the agent, because the database is
    /// of another release.
    pub columns: Option<Columns>,
}

/// The columns of a job. `jobs::decode` makes a task of them.
#[derive(Debug)]
pub struct Columns {
    /// The kind.
    pub kind: Kind,
    /// The agent.
    pub agent_id: String,
    /// The account that the job is executed on.
    pub account: Account,
    /// The row of the table that the job came from.
    pub row: Box<RawValue>,
    /// The policy, as the claim fixed it; `None` if this version cannot read it.
    pub policy: Option<Policy>,
    /// The agent's stakes of the day, if the policy has a daily limit.
    pub spent: Option<Spent>,
    /// The referral code of the agent that brought this one in.
    pub referral_code: Option<String>,
    /// Whether the account may have a credit of this kind that the ledger has not recorded.
    pub fresh: bool,
    /// Seconds until the faucet accepts a claim from our address, if it has refused one.
    pub faucet_wait_s: Option<u64>,
    /// The receiver of an escrow.
    pub counterparty: Counterparty,
    /// The escrow that the job is about, if another job makes it.
    pub escrow: Option<MadeEscrow>,
    /// For how long after its claim the job may be executed: until the end of its signal; `None`: it answers none.
    pub good_for: Option<Duration>,
}

/// The escrow that a job is about.
#[derive(Debug)]
pub struct MadeEscrow {
    /// Purple Flea's id of the escrow, if it was made.
    pub id: Option<String>,
    /// Whether Purple Flea may still make the escrow.
    pub pending: bool,
}

impl Spent {
    fn read(row: &Object) -> Result<Self, Unreadable> {
        Ok(Self { wagered: row.decimal("wagered")?, lost: row.decimal("lost")?, open: row.decimal("open")? })
    }
}

/// Serializes the secret of a settlement. No other place sends it.
fn exposed<S: Serializer>(secret: &Option<Key>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Key::expose).serialize(serializer)
}

impl Job {
    /// Reads a job from the ledger's row.
    ///
    /// # Errors
    ///
    /// Fails if the reference, the idempotency key or the attempt is not readable. A job whose kind or agent
    /// this version cannot read has no columns.
    pub fn read(job: &Object) -> Result<Self, Unreadable> {
        let reference = Reference::parse(&job.text("reference")?).ok_or(Unreadable)?;
        let idempotency_key =
            Reference::parse(&job.text("idempotency_key")?).ok_or(Unreadable)?.as_str().to_owned();
        let attempt = u32::try_from(job.integer("attempt")?).map_err(|_| Unreadable)?;
        Ok(Self { reference, idempotency_key, attempt, columns: Columns::read(job)? })
    }
}

impl Columns {
    /// Returns whether the agent's next job has to wait until this one is settled. Its stake counts against a
    /// daily limit.
    pub fn is_one_at_a_time(&self) -> bool {
        self.spent.is_some()
    }

    fn read(job: &Object) -> Result<Option<Self>, Unreadable> {
        let object = |name| job.not_null(name)?.map(|field| Object::read(field.get())).transpose();
        let made = |escrow: Object| {
            let pending = escrow.text("status")? == "pending";
            Ok(MadeEscrow { id: escrow.maybe_text("id")?, pending })
        };
        let (kind, row) = (kind(job)?, job.raw("row")?.ok_or(Unreadable)?);
        let key = account_key(job.flag_or_false("own_key")?, job.maybe_text("key")?.as_deref());
        let name = job.maybe_text("account")?;
        let policy = Policy::read(job.raw("policy")?.ok_or(Unreadable)?.get()).ok();
        let spent = object("spent")?.map(|spent| Spent::read(&spent)).transpose()?;
        let referral_code = job.maybe_text("referral_code")?;
        let fresh = job.flag_or_false("fresh")?;
        let faucet_wait_s = job.maybe_integer("faucet_wait_s")?;
        let wallet_address = job.maybe_text("wallet_address")?;
        let counterparty = Counterparty {
            name: job.maybe_text("counterparty")?,
            address: job.maybe_text("counterparty_address")?,
        };
        let escrow = object("escrow")?.map(made).transpose()?;
        let good_for = job.maybe_integer("good_for_ms")?.map(Duration::from_millis);
        let (Some(kind), Some(agent_id)) = (kind, agent_of(row.get()).ok().flatten()) else {
            return Ok(None);
        };
        let account = Account { name: name.unwrap_or_else(|| agent_id.clone()), key, wallet_address };
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
            faucet_wait_s,
            counterparty,
            escrow,
            good_for,
        }))
    }
}

/// Returns the agent of a row of any table.
fn agent_of(row: &str) -> Result<Option<String>, Unreadable> {
    let row = Object::read(row)?;
    let (agent, sender) = (row.maybe_text("agent_id")?, row.maybe_text("sender_id")?);
    Ok(agent.or(sender))
}

pub(super) fn account_key(own: bool, key: Option<&str>) -> AccountKey {
    match key.and_then(Key::parse) {
        _ if !own => AccountKey::Shared,
        Some(key) => AccountKey::Own(key),
        None => AccountKey::Missing,
    }
}

/// Reads a job's kind. Returns `None` if the database names no kind.
fn kind(row: &Object) -> Result<Option<Kind>, Unreadable> {
    row.maybe_text("kind")?.map(|name| Kind::parse(&name).ok_or(Unreadable)).transpose()
}

impl Policy {
    fn read(row: &str) -> Result<Self, Unreadable> {
        let row = Object::read(row)?;
        Ok(Self {
            game: row.variant("game")?,
            cashout_at: CashoutAt::new(row.amount("cashout_at")?).ok_or(Unreadable)?,
            side: row.variant("side")?,
            guess: row.maybe_variant("guess")?.unwrap_or_default(),
            market: row
                .maybe_text("market")?
                .map(|name| Market::parse(&name).ok_or(Unreadable))
                .transpose()?,
            direction: row.maybe_variant("direction")?,
            leverage: row
                .maybe_integer("leverage")?
                .map(|times| Leverage::new(times).ok_or(Unreadable))
                .transpose()?,
            size: row.maybe_amount("size")?,
            check_balance: row.flag("check_balance")?,
            min_balance: row.amount("min_balance")?,
            min_change: row.amount("min_change")?,
            wager_fraction: row.decimal("wager_fraction")?,
            max_wager: row.maybe_amount("max_wager")?,
            risk_factor: row.not_null("risk_factor")?.map(|_| row.decimal("risk_factor")).transpose()?,
            daily_wager_limit: row.maybe_amount("daily_wager_limit")?,
            daily_loss_limit: row.maybe_amount("daily_loss_limit")?,
            // The ledger hands out no job while the policy is paused.
            paused: false,
        })
    }
}

/// The ledger's answer about a requested job.
#[derive(Debug)]
pub struct Answer {
    /// The job.
    pub reference: String,
    /// The agent.
    pub agent_id: Option<String>,
    /// The job's state for this claim.
    pub state: JobStatus,
    /// The reason.
    pub reason: Option<String>,
    /// Seconds until another request makes sense.
    pub retry_after_s: Option<u64>,
    /// The recorded outcome.
    pub result: Option<Box<RawValue>>,
}

impl Answer {
    pub(super) fn read(row: &Object) -> Result<Self, Unreadable> {
        Ok(Self {
            reference: row.text("reference")?,
            agent_id: row.maybe_text("agent_id")?,
            state: row.variant("state")?,
            reason: row.maybe_text("reason")?,
            retry_after_s: row.maybe_integer("retry_after_s")?,
            result: row.not_null("result")?.map(ToOwned::to_owned),
        })
    }
}

/// The state of a requested job, as a claim's answer reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// This claim took the job.
    Claimed,
    /// Another claim has the job.
    InFlight,
    /// Purple Flea executed the job.
    Executed,
    /// The function skipped the job for good.
    Skipped,
    /// Purple Flea refused the job for good.
    Rejected,
    /// Purple Flea may have executed the job.
    Unknown,
    /// The job has expired.
    Dead,
    /// A worker claims the job later.
    Waiting,
    /// There is no such job.
    NotFound,
}

/// An outcome to be reported to the ledger.
#[derive(Debug, Serialize)]
pub struct Settlement {
    /// The job.
    pub reference: String,
    /// The claim's token.
    pub token: String,
    /// The state that the outcome leads to.
    pub state: State,
    /// The complete outcome.
    pub result: Box<RawValue>,
    /// A key from the reply. The ledger keeps it in the vault, apart from the result.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "exposed")]
    pub secret: Option<Key>,
}

/// An unknown job whose bet the worker looks up.
pub struct Lookup {
    /// The job's name.
    pub reference: String,
    /// The token of the last claim.
    pub token: String,
    /// The idempotency key.
    pub idempotency_key: String,
    /// The agent.
    pub agent_id: String,
    /// The agent's name at Purple Flea, if it differs from its id.
    pub account: Option<String>,
    /// The name of the agent's own key; `None` for the shared key. One query reads the history of one key.
    pub key_name: Option<String>,
    key: Option<String>,
    /// The kind of job.
    pub kind: Kind,
    /// What the look-up seeks; `None` if Purple Flea cannot show it.
    pub sought: Option<Sought>,
    /// The referral code of the agent that brought this one in.
    pub referral_code: Option<String>,
    /// The earliest time of the bet, in Unix seconds.
    pub from_s: u64,
    /// The latest time of the bet, in Unix seconds.
    pub until_s: u64,
}

/// What a look-up seeks.
#[derive(Debug)]
pub enum Sought {
    /// A bet on this game.
    Bet(Game),
    /// An escrow of this row.
    Escrow(EscrowRow),
    /// The close of this row's position.
    Close(CloseRow),
}

impl Sought {
    fn read(kind: Kind, policy: &str, row: Option<&RawValue>) -> Option<Self> {
        match kind {
            Kind::Deposit => frozen_game(policy).map(Self::Bet),
            Kind::Requested(RequestKind::Bet) => {
                json::read_columns::<BetRow>(row?).ok()?.game().map(Self::Bet)
            }
            Kind::Requested(RequestKind::Escrow) => json::read_columns(row?).ok().map(Self::Escrow),
            Kind::Requested(RequestKind::Close) => json::read_columns(row?).ok().map(Self::Close),
            Kind::Requested(_) => None,
        }
    }
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
            sought: Sought::read(kind, policy, row.not_null("row")?),
            referral_code: row.maybe_text("referral_code")?,
            from_s: row.integer("from_s")?,
            until_s: row.integer("until_s")?,
        })
    }

    /// Returns the account of the bet.
    pub fn account(&self) -> Account {
        let key = account_key(self.key_name.is_some(), self.key.as_deref());
        let name = self.account.clone().unwrap_or_else(|| self.agent_id.clone());
        Account { name, key, wallet_address: None }
    }
}

/// Reads the game of a stored policy. An earlier release may have stored it, so only the game has to be
/// readable.
fn frozen_game(policy: &str) -> Option<Game> {
    let policy = Object::read(policy).ok()?;
    match policy.variant("game").ok()? {
        GameName::Crash => CashoutAt::new(policy.amount("cashout_at").ok()?).map(Game::Crash),
        GameName::CoinFlip => policy.variant("side").ok().map(Game::CoinFlip),
        GameName::HiLo => policy.variant("guess").ok().map(Game::HiLo),
        GameName::Trade => None,
    }
}
