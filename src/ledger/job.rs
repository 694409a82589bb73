//! Jobs as the ledger hands them out, and outcomes as it takes them back.

use super::object::{Object, Unreadable};
use crate::{
    domain::{
        account::{Account, AccountKey},
        bet::{CashoutAt, Game, GameName},
        deposit,
        escrow::{End, EscrowRow},
        job::{
            AgentAction, AgentTask, DepositTask, EscrowAction, EscrowTask, Kind, OrderTask, RequestKind,
            State, Task,
        },
        order::{Form, Market, OrderRow},
        policy::{Policy, Spent},
        reference::Reference,
    },
    endpoint::Key,
    json,
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
    /// What the worker is to execute. `None` if this version cannot read the row or the policy: the database is of a newer
    /// or an older release.
    pub work: Option<Work>,
}

/// A task, and the account that it is executed on.
#[derive(Debug)]
pub struct Work {
    /// The account.
    pub account: Account,
    /// The task.
    pub task: Task,
}

/// A job's columns as the database wrote them.
struct Columns<'a> {
    kind: Option<Kind>,
    row: &'a RawValue,
    policy: &'a RawValue,
    spent: Option<Spent>,
    referral_code: Option<String>,
    fresh: bool,
    counterparty: Option<String>,
    escrow: Option<EscrowToEnd>,
}

/// The escrow that a job is to end.
struct EscrowToEnd {
    id: Option<String>,
    status: String,
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
        let idempotency_key = Reference::parse(&job.text("bet_key")?).ok_or(Unreadable)?.as_str().to_owned();
        let attempt = u32::try_from(job.whole("attempt")?).map_err(|_| Unreadable)?;
        let name = job.maybe_text("account")?;
        let key = account_key(job.flag_or_no("own_key")?, job.maybe_text("key")?.as_deref());
        let columns = Columns::read(job)?;
        let agent_id = agent_of(columns.row.get()).ok().flatten();
        let work = agent_id.and_then(|agent_id| {
            let account = Account { name: name.unwrap_or_else(|| agent_id.clone()), key };
            Some(Work { account, task: columns.task(agent_id)? })
        });
        Ok(Self { reference, idempotency_key, attempt, work })
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

impl<'a> Columns<'a> {
    fn read(job: &Object<'a>) -> Result<Self, Unreadable> {
        let object = |name| job.not_null(name)?.map(|field| Object::read(field.get())).transpose();
        let to_end =
            |escrow: Object| Ok(EscrowToEnd { id: escrow.maybe_text("id")?, status: escrow.text("status")? });
        Ok(Self {
            kind: kind(job)?,
            row: job.raw("row")?.ok_or(Unreadable)?,
            policy: job.raw("policy")?.ok_or(Unreadable)?,
            spent: object("spent")?.map(|spent| Spent::read(&spent)).transpose()?,
            referral_code: job.maybe_text("referral_code")?,
            fresh: job.flag_or_no("fresh")?,
            counterparty: job.maybe_text("counterparty")?,
            escrow: object("escrow")?.map(to_end).transpose()?,
        })
    }

    /// The task of the job; `None` if this version cannot read it.
    fn task(self, agent_id: String) -> Option<Task> {
        let Kind::Requested(kind) = self.kind? else {
            let (row, policy) = (deposit::read_row(self.row).ok()?, self.policy()?);
            return Some(Task::Deposit(Box::new(DepositTask { row, policy, spent: self.spent })));
        };
        Some(match kind {
            RequestKind::Trade => self.order(Form::Trade)?,
            RequestKind::Order => self.order(Form::Order)?,
            RequestKind::Registration => {
                let action = AgentAction::Register { referral_code: self.referral_code };
                Task::Agent(AgentTask { agent_id, action })
            }
            RequestKind::Faucet => {
                let Self { referral_code, fresh, .. } = self;
                Task::Agent(AgentTask { agent_id, action: AgentAction::ClaimFaucet { referral_code, fresh } })
            }
            RequestKind::DailyClaim => Task::Agent(AgentTask { agent_id, action: AgentAction::ClaimDaily }),
            RequestKind::Balance => Task::Agent(AgentTask { agent_id, action: AgentAction::ReadBalance }),
            RequestKind::Escrow => {
                let row: EscrowRow = json::read_columns(self.row).ok()?;
                Task::Escrow(EscrowTask::create(row, self.counterparty, self.referral_code))
            }
            RequestKind::EscrowRelease => self.end(agent_id, End::Release)?,
            RequestKind::EscrowCancel => self.end(agent_id, End::Cancel)?,
        })
    }

    fn policy(&self) -> Option<Policy> {
        Policy::read(self.policy.get()).ok()
    }

    fn order(self, form: Form) -> Option<Task> {
        let row: OrderRow = json::read_columns(self.row).ok()?;
        let (agent_id, policy) = (row.agent_id.clone(), Some(self.policy()?));
        let order = row.order(form);
        Some(Task::Order(Box::new(OrderTask { agent_id, order, policy, spent: self.spent })))
    }

    fn end(self, agent_id: String, end: End) -> Option<Task> {
        let EscrowToEnd { id, status } = self.escrow?;
        let action = EscrowAction::End { end, pf_escrow_id: id, pending: status == "pending" };
        Some(Task::Escrow(EscrowTask { agent_id, action }))
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
    /// The job was too old when its turn came. A ledger of release 0.1.0 says `dead`.
    #[serde(alias = "dead")]
    Expired,
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
            idempotency_key: row.text("bet_key")?,
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
