//! What the ledger hands out and takes back.

use crate::{
    game::{CashoutAt, Game, GameName},
    object::{Object, Unreadable},
    policy::{Policy, Spent},
    purple_flea::{
        Account, AccountKey,
        escrow::End,
        trading::{Form, Market},
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
use serde::{Deserialize, Serialize, Serializer};
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

/// A job as the database wrote it.
struct HandedOut<'a> {
    kind: Option<Kind>,
    row: &'a RawValue,
    policy: &'a RawValue,
    spent: Option<Spent>,
    referral_code: Option<String>,
    fresh: bool,
    counterparty: Option<String>,
    escrow: Option<EscrowStanding>,
}

/// What an escrow is that is to end.
struct EscrowStanding {
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
    /// Reads a job as the database wrote it; refused where not even its name can be read.
    pub(crate) fn read(job: &Object) -> Result<Self, Unreadable> {
        let reference = Reference::parse(&job.text("reference")?).ok_or(Unreadable)?;
        let bet_key = Reference::parse(&job.text("bet_key")?).ok_or(Unreadable)?.as_str().to_owned();
        let attempt = u32::try_from(job.whole("attempt")?).map_err(|_| Unreadable)?;
        let account = job.maybe_text("account")?;
        let key = account_key(job.flag_or_no("own_key")?, job.maybe_text("key")?.as_deref());
        let handed_out = HandedOut::read(job)?;
        let agent_id = whose(handed_out.row.get()).ok().flatten().unwrap_or_default();
        let account = Account { name: account.unwrap_or_else(|| agent_id.clone()), key };
        Ok(Self { reference, bet_key, attempt, account, work: handed_out.work(agent_id) })
    }
}

/// Whose row it is, whatever else it is.
fn whose(row: &str) -> Result<Option<String>, Unreadable> {
    let row = Object::read(row)?;
    let (agent, sender) = (row.maybe_text("agent_id")?, row.maybe_text("sender_id")?);
    Ok(agent.or(sender))
}

fn account_key(own: bool, key: Option<&str>) -> AccountKey {
    match key.and_then(Key::parse) {
        _ if !own => AccountKey::Everybodys,
        Some(key) => AccountKey::Own(key),
        None => AccountKey::Missing,
    }
}

impl<'a> HandedOut<'a> {
    fn read(job: &Object<'a>) -> Result<Self, Unreadable> {
        let object = |name| job.not_null(name)?.map(|field| Object::read(field.get())).transpose();
        let standing = |escrow: Object| {
            Ok(EscrowStanding { id: escrow.maybe_text("id")?, status: escrow.text("status")? })
        };
        Ok(Self {
            kind: job.maybe_word("kind")?,
            row: job.raw("row")?.ok_or(Unreadable)?,
            policy: job.raw("policy")?.ok_or(Unreadable)?,
            spent: object("spent")?.map(|spent| Spent::read(&spent)).transpose()?,
            referral_code: job.maybe_text("referral_code")?,
            fresh: job.flag_or_no("fresh")?,
            counterparty: job.maybe_text("counterparty")?,
            escrow: object("escrow")?.map(standing).transpose()?,
        })
    }

    fn work(self, agent_id: String) -> Option<Work> {
        let policy = || Policy::read(self.policy.get()).ok();
        let spent = self.spent;
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
                let row: OrderRow = event::read_columns(row).ok()?;
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
                let row: EscrowRow = event::read_columns(row).ok()?;
                Some(Work::Escrow(Step::create(row, self.counterparty, self.referral_code)))
            }
            Kind::EscrowRelease => end(End::Release),
            Kind::EscrowCancel => end(End::Cancel),
        }
    }
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
            // What is paused is not handed out.
            paused: false,
        })
    }
}

/// What the ledger says about a job that was asked for.
#[derive(Debug)]
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

impl State {
    /// The ledger's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Executed => "executed",
            Self::Skipped => "skipped",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
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
    /// The game that it was bet on, if it was a bet.
    pub game: Option<Game>,
    /// Not bet before: Unix seconds.
    pub from_s: u64,
    /// Nor after.
    pub until_s: u64,
}

impl Lookup {
    pub(super) fn read(row: &Object) -> Result<Self, Unreadable> {
        let policy = row.raw("policy")?.ok_or(Unreadable)?.get();
        let kind = row.word("kind")?;
        Ok(Self {
            reference: row.text("reference")?,
            token: row.text("token")?,
            bet_key: row.text("bet_key")?,
            agent_id: row.text("agent_id")?,
            account: row.maybe_text("account")?,
            key_name: row.text("key_name")?,
            key: row.maybe_text("key")?,
            kind,
            game: if kind == Kind::Deposit { frozen_game(policy) } else { None },
            from_s: row.whole("from_s")?,
            until_s: row.whole("until_s")?,
        })
    }

    /// The account that it was bet on.
    pub fn account(&self) -> Account {
        let key = account_key(!self.key_name.is_empty(), self.key.as_deref());
        Account { name: self.account.clone().unwrap_or_else(|| self.agent_id.clone()), key }
    }
}

/// The game of a policy that was frozen some time ago, perhaps by an earlier release: what else it has or lacks does not
/// matter here.
fn frozen_game(policy: &str) -> Option<Game> {
    let policy = Object::read(policy).ok()?;
    match policy.word("game").ok()? {
        GameName::Crash => CashoutAt::new(policy.amount("cashout_at").ok()?).map(Game::Crash),
        GameName::CoinFlip => policy.word("side").ok().map(Game::CoinFlip),
        GameName::Trade => None,
    }
}
