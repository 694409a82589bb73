//! The settings. The function reads them from Spin variables or, without the feature `spin`, from environment
//! variables (the same names in capitals). This module validates them.

use crate::{
    domain::{
        account::{Api, DefaultAgent, check_wallet_address},
        amount::Amount,
        bet::{CashoutAt, GameName, Guess, Side},
        deposit::check_agent_id,
        order::{Direction, Leverage, Market},
        policy::Policy,
    },
    endpoint::{BaseUrl, Key},
    inngest::Inngest,
    ledger::{Ledger, rpc::Connection},
    purple_flea::{PurpleFlea, Service},
    time_budget,
    webhook::{
        credentials::{Credentials, Operators, Token},
        signature::Secret,
    },
};
use rust_decimal::Decimal;
use serde::de::DeserializeOwned;
use std::{str::FromStr, time::Duration};

mod inngest;
mod table;
mod workflows;

use table::*;
pub use table::{MEANINGS, SETTINGS, Setting};
pub use workflows::{Log, ScheduledBet, Workflows};

/// Most secrets. Each costs an HMAC for every refused call.
const SECRETS_LIMIT: usize = 8;

/// Most digits after the point of `wager_fraction` and `risk_factor`. With six digits the product with a balance is exact.
const FRACTION_SCALE: u32 = 6;

/// Smallest risk factor that Purple Flea accepts.
const RISK_FACTOR_MIN: Decimal = Decimal::from_parts(1, 0, 0, false, 1);

/// Shortest time for an exchange, in milliseconds. In less time no reply from another continent can arrive.
const TIMEOUT_MIN_MS: u64 = 100;

/// Most bets at once: the database's limit for one claim.
const BETS_AT_ONCE_MAX: u32 = 100;

/// Longest hold of a body, in milliseconds: the way to Purple Flea and back takes less, from anywhere.
const HOLD_MAX_MS: u64 = 1_000;

/// Longest long poll, in milliseconds. Each one occupies one of PostgREST's connections.
const LINGER_MAX_MS: u64 = 3_000;

/// The validated settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The accepted credentials.
    pub credentials: Credentials,
    /// The policy of standalone mode. Its pause counts in both modes.
    pub policy: Policy,
    /// Purple Flea's services.
    pub purple_flea: PurpleFlea,
    /// The agent of a request that names none. In ledger mode each request names its agent.
    pub default_agent: DefaultAgent,
    /// The ledger, in ledger mode.
    pub ledger: Option<Ledger>,
    /// Whether the function answers at once and works after the reply.
    pub after_reply: bool,
    /// The time for which the worker then long-polls after its last job.
    pub linger: Duration,
    /// The settings of the workflows that Inngest drives.
    pub workflows: Workflows,
    /// Inngest, if it drives workflows or gets events.
    pub inngest: Option<Inngest>,
}

/// A setting that is missing or wrong. The error names the setting and its limits, never its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` must be {limits}")]
pub struct SettingError {
    /// The setting's name.
    pub name: &'static str,
    /// The setting's limits.
    pub limits: &'static str,
}

/// The settings, or all errors in them.
pub type Checked = Result<Settings, Vec<SettingError>>;

/// Validates the settings. `value` returns a setting's text by its name, `None` or empty if it is not set.
/// Returns all errors, not only the first.
pub fn check(value: impl Fn(&'static str) -> Option<String>) -> Checked {
    let mut reader = Reader { value, errors: Vec::new() };
    let settings = reader.settings();
    match settings {
        Some(settings) if reader.errors.is_empty() => Ok(settings),
        _ => Err(reader.errors),
    }
}

struct Reader<F> {
    value: F,
    errors: Vec<SettingError>,
}

impl<F: Fn(&'static str) -> Option<String>> Reader<F> {
    fn settings(&mut self) -> Option<Settings> {
        // Each part is read before the first `?`, so the caller gets all errors at once.
        let credentials = self.credentials();
        let policy = self.policy();
        let ledger = self.ledger();
        let with_ledger = matches!(ledger, Some(Some(_)));
        let purple_flea = self.purple_flea(with_ledger);
        let default_agent = self.default_agent(with_ledger);
        let database = ledger.as_ref().and_then(Option::as_ref).map(|ledger| &ledger.connection.url);
        let inngest = self.inngest(purple_flea.as_ref(), database);
        let is_called = with_ledger && matches!(&inngest, Some(Some(inngest)) if inngest.may_call());
        let sends = |inngest: &Inngest| inngest.event_key.is_some() || inngest.is_dev;
        // Inngest's own settings may be wrong, too. They are refused by themselves.
        let can_forward =
            with_ledger && inngest.as_ref().is_none_or(|inngest| inngest.as_ref().is_some_and(sends));
        let workflows = self.workflows(is_called, can_forward);
        let after_reply = self.required(AFTER_REPLY, |text| bool::from_str(text).ok());
        let linger = self.required(LINGER_MS, |text| {
            text.parse().ok().filter(|ms| *ms <= LINGER_MAX_MS).map(Duration::from_millis)
        });
        let mut ledger = ledger?;
        if let (Some(ledger), Some(after_reply)) = (&mut ledger, after_reply) {
            ledger.answers_at_once = after_reply;
        }
        Some(Settings {
            credentials: credentials?,
            policy: policy?,
            purple_flea: purple_flea?,
            default_agent: default_agent?,
            ledger,
            after_reply: after_reply?,
            linger: linger?,
            workflows: workflows?,
            inngest: inngest?,
        })
    }

    fn credentials(&mut self) -> Option<Credentials> {
        let secrets = self.optional(WEBHOOK_SECRETS, secrets);
        let token = self.optional(WEBHOOK_TOKEN, Token::parse);
        let operators = self.optional(OPERATOR_TOKENS, Operators::parse);
        let (token, operators) = (token?, operators?.unwrap_or_default());
        if token.as_ref().is_some_and(|token| operators.name_of(token).is_some()) {
            self.refuse(OPERATOR_TOKENS, "other than `webhook_token`, which opens other routes");
            return None;
        }
        let credentials = Credentials { secrets: secrets?.unwrap_or_default(), token, operators };
        if credentials.secrets.is_empty() && credentials.token.is_none() {
            self.refuse(
                WEBHOOK_SECRETS,
                "set, or `webhook_token` must be set: otherwise no caller is accepted",
            );
            return None;
        }
        Some(credentials)
    }

    fn policy(&mut self) -> Option<Policy> {
        let not_negative = |text: &str| text.parse().ok().filter(|a: &Amount| !a.is_negative());
        let game = self.required(GAME, variant::<GameName>);
        let cashout_at = self.required(CASHOUT_AT, |text| CashoutAt::new(text.parse().ok()?));
        let side = self.required(SIDE, variant::<Side>);
        let guess = self.required(GUESS, variant::<Guess>);
        let market = self.optional(MARKET, Market::parse);
        if game == Some(GameName::Trade) && market == Some(None) {
            self.refuse(MARKET, "set, because `game` is trade");
            return None;
        }
        let direction = self.optional(DIRECTION, variant::<Direction>);
        let leverage = self.optional(LEVERAGE, |text| Leverage::new(text.parse().ok()?));
        let at_least_a_cent =
            |text: &str| text.parse().ok().filter(|a: &Amount| a.decimal() >= Decimal::new(1, 2));
        let size = self.optional(SIZE, at_least_a_cent);
        let check_balance = self.required(CHECK_BALANCE, |text| bool::from_str(text).ok());
        let min_balance = self.required(MIN_BALANCE, not_negative);
        let min_change = self.required(MIN_CHANGE, not_negative);
        let wager_fraction = self.required(WAGER_FRACTION, fraction);
        let max_wager = self.optional(MAX_WAGER, at_least_a_cent);
        let risk_factor = self.required(RISK_FACTOR, risk_factor);
        let paused = self.required(PAUSED, |text| bool::from_str(text).ok());
        Some(Policy {
            game: game?,
            cashout_at: cashout_at?,
            side: side?,
            guess: guess?,
            market: market?,
            direction: direction?,
            leverage: leverage?,
            size: size?,
            check_balance: check_balance?,
            min_balance: min_balance?,
            min_change: min_change?,
            wager_fraction: wager_fraction?,
            max_wager: max_wager?,
            risk_factor: risk_factor?,
            // Standalone mode keeps no record of a day.
            daily_wager_limit: None,
            daily_loss_limit: None,
            paused: paused?,
        })
    }

    fn purple_flea(&mut self, with_ledger: bool) -> Option<PurpleFlea> {
        let url = self.required(PURPLE_FLEA_URL, BaseUrl::parse);
        let key = self.shared_key(with_ledger);
        let trading_key = self.optional(PURPLE_FLEA_TRADING_KEY, Key::parse);
        let [escrow, faucet, trading] =
            [PURPLE_FLEA_ESCROW_URL, PURPLE_FLEA_FAUCET_URL, PURPLE_FLEA_TRADING_URL]
                .map(|setting| self.optional(setting, BaseUrl::parse));
        // The two defaults belong to the documented API. They must not send the key of another one there.
        let elsewhere = !self.is_default(PURPLE_FLEA_URL);
        let workflow = self.documented(PURPLE_FLEA_WORKFLOW_URL, elsewhere);
        let daily =
            self.documented(PURPLE_FLEA_DAILY_URL, elsewhere || !self.is_default(PURPLE_FLEA_FAUCET_URL));
        let api = self.required(PURPLE_FLEA_API, variant::<Api>);
        let timeout = self.required(PURPLE_FLEA_TIMEOUT_MS, |text| {
            let range = TIMEOUT_MIN_MS..=time_budget::EXCHANGE_MAX_MS;
            text.parse().ok().filter(|ms| range.contains(ms)).map(Duration::from_millis)
        });
        let hold = self.required(PURPLE_FLEA_HOLD_MS, |text| {
            text.parse().ok().filter(|ms| *ms <= HOLD_MAX_MS).map(Duration::from_millis)
        });
        if let (Some(hold), Some(timeout)) = (hold, timeout)
            && hold.saturating_mul(2) > timeout
        {
            self.refuse(PURPLE_FLEA_HOLD_MS, PURPLE_FLEA_HOLD_MS.limits);
            return None;
        }
        let (url, key, trading_key, api, faucet) = (url?, key?, trading_key?, api?, faucet?);
        let (workflow, daily) = match (api, workflow?, daily?) {
            (Api::Gateway, workflow, daily) => (workflow, daily.or_else(|| faucet.clone())),
            (Api::Live, ..) => (None, None),
        };
        let service = |own: Option<BaseUrl>, key: &Option<Key>| Service {
            url: own.unwrap_or_else(|| url.clone()),
            key: key.clone(),
        };
        Some(PurpleFlea {
            api,
            timeout: timeout?,
            hold: hold?,
            casino: service(None, &key),
            wallet: service(workflow.clone(), &key),
            escrow: service(escrow?.or_else(|| workflow.clone()), &key),
            faucet: service(faucet, &key),
            daily: service(daily, &key),
            trading: service(trading?.or(workflow), &trading_key.or_else(|| key.clone())),
        })
    }

    /// Reads the shared key by the first of its names that is set. Standalone mode requires it.
    fn shared_key(&mut self, with_ledger: bool) -> Option<Option<Key>> {
        let [own, api, agent] = [PURPLE_FLEA_KEY, PURPLE_FLEA_API_KEY, PF_AGENT_KEY]
            .map(|setting| self.optional(setting, Key::parse));
        let key = own?.or(api?).or(agent?);
        if key.is_none() && !with_ledger {
            self.refuse(PURPLE_FLEA_KEY, PURPLE_FLEA_KEY.limits);
            return None;
        }
        Some(key)
    }

    /// Reads the agent of requests that name none.
    fn default_agent(&mut self, with_ledger: bool) -> Option<DefaultAgent> {
        let id = self.optional(AGENT_ID, |text| check_agent_id(text.to_owned()).ok());
        let wallet_address = self.optional(AGENT_WALLET, |text| check_wallet_address(text.to_owned()).ok());
        let agent = DefaultAgent { id: id?, wallet_address: wallet_address? };
        Some(if with_ledger { DefaultAgent::default() } else { agent })
    }

    /// Reads a base URL with a default that does not count beside a URL of another API. The inner `None`
    /// stands for that default.
    fn documented(&mut self, setting: Setting, elsewhere: bool) -> Option<Option<BaseUrl>> {
        let url = self.required(setting, BaseUrl::parse)?;
        Some((!elsewhere || !self.is_default(setting)).then_some(url))
    }

    fn is_default(&self, setting: Setting) -> bool {
        self.text(setting).unwrap_or_default() == setting.default
    }

    /// Reads the ledger's settings: all or none. With half of them the function could bet on a ledger's
    /// deposit in standalone mode.
    fn ledger(&mut self) -> Option<Option<Ledger>> {
        let url = self.optional(SUPABASE_URL, BaseUrl::parse);
        let key = self.optional(SUPABASE_KEY, Key::parse);
        let apikey = self.optional(SUPABASE_APIKEY, Key::parse);
        let operator_key = self.optional(SUPABASE_OPERATOR_KEY, Key::parse);
        let bets_at_once = self.required(BETS_AT_ONCE, |text| {
            text.parse().ok().filter(|bets| (1..=BETS_AT_ONCE_MAX).contains(bets))
        });
        let (url, key, apikey, operator_key) = (url?, key?, apikey?, operator_key?);
        let bets_at_once = bets_at_once?;
        match (url, key) {
            (None, None) if apikey.is_none() && operator_key.is_none() => Some(None),
            (Some(url), Some(key)) => {
                let or_key = |other: Option<Key>| other.unwrap_or_else(|| key.clone());
                let (apikey, operator_key) = (or_key(apikey), or_key(operator_key));
                let connection = Connection { url, key, apikey };
                Some(Some(Ledger { connection, operator_key, bets_at_once, answers_at_once: false }))
            }
            (url, key) => {
                let missing = [(SUPABASE_URL, url.is_none()), (SUPABASE_KEY, key.is_none())];
                for (setting, _) in missing.into_iter().filter(|(_, missing)| *missing) {
                    self.refuse(setting, "set, because another setting of the ledger is set");
                }
                None
            }
        }
    }

    fn required<T>(&mut self, setting: Setting, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.text(setting).as_deref().and_then(parse);
        if value.is_none() {
            self.refuse(setting, setting.limits);
        }
        value
    }

    /// Reads an optional setting. The outer `None` is an error, the inner one a setting that is not set.
    fn optional<T>(&mut self, setting: Setting, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
        match self.text(setting) {
            None => Some(None),
            Some(_) => self.required(setting, parse).map(Some),
        }
    }

    fn text(&self, setting: Setting) -> Option<String> {
        (self.value)(setting.name)
            .filter(|value| !value.trim().is_empty())
            .or_else(|| (!setting.default.is_empty()).then(|| setting.default.to_owned()))
            .map(|value| value.trim().to_owned())
    }

    fn refuse(&mut self, setting: Setting, limits: &'static str) {
        self.errors.push(SettingError { name: setting.name, limits });
    }
}

fn secrets(text: &str) -> Option<Vec<Secret>> {
    let secrets: Option<Vec<Secret>> =
        text.split([',', ' ', '\t', '\n', '\r']).filter(|part| !part.is_empty()).map(Secret::parse).collect();
    secrets.filter(|list| (1..=SECRETS_LIMIT).contains(&list.len()))
}

fn fraction(text: &str) -> Option<Decimal> {
    let value = Decimal::from_str_exact(text).ok()?;
    (value > Decimal::ZERO && value <= Decimal::ONE && value.normalize().scale() <= FRACTION_SCALE)
        .then_some(value)
}

/// Reads a risk factor. The inner `None` is the word `none`, because an empty value counts as not set.
fn risk_factor(text: &str) -> Option<Option<Decimal>> {
    match text {
        "none" => Some(None),
        _ => fraction(text).filter(|factor| *factor >= RISK_FACTOR_MIN).map(Some),
    }
}

/// Reads a variant of an enum by its JSON name.
fn variant<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}

#[cfg(test)]
mod tests;
