//! The settings: their meanings, defaults and limits.
//!
//! The function reads them from Spin variables or, without the feature `spin`, from environment variables
//! (the same names in capitals). This module validates them.

use crate::{
    domain::{
        account::Api,
        amount::Amount,
        bet::{CashoutAt, GameName, Guess, Side},
        order::{Direction, Market},
        policy::Policy,
    },
    endpoint::{BaseUrl, Key},
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

/// A setting. An empty value counts as not set.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The name of the Spin variable. The environment variable has the same name in capitals.
    pub name: &'static str,
    /// The default; empty: the setting has no default.
    pub default: &'static str,
    /// The end of the sentence "It must be …".
    pub limits: &'static str,
    /// Whether the value must never be shown.
    pub secret: bool,
}

/// Defines a constant for each setting, and the lists of all of them. The meanings have a list of their own,
/// so the component does not contain them. A test writes docs/configuration.md from them.
macro_rules! settings {
    ($($(#[doc = $meaning:literal])+ $constant:ident = $kind:ident($name:literal, $default:literal, $limits:expr);)+) => {
        $($(#[doc = $meaning])+ const $constant: Setting =
            Setting { name: $name, default: $default, limits: $limits, secret: settings!(@$kind) };)+

        /// All settings, in the order of the manifest.
        pub const SETTINGS: [Setting; [$($name),+].len()] = [$($constant),+];

        /// The meaning of each setting, in the same order.
        pub const MEANINGS: [&str; SETTINGS.len()] = [$(concat!($($meaning),+)),+];
    };
    (@setting) => { false };
    (@secret) => { true };
}

const A_URL: &str = "https://host[:port][/prefix], or http:// to a loopback host";

const A_KEY: &str = "set, to visible ASCII characters only";

settings! {
    /// Purple Flea's origin and, outside Spin, a path prefix.
    PURPLE_FLEA_URL = setting("purple_flea_url", "https://api.purpleflea.com", A_URL);
    /// The shared key at Purple Flea, sent as a bearer token: for the games, balances, escrows and the faucet. Required, unless
    /// every agent of the ledger has a key of its own.
    PURPLE_FLEA_KEY = secret("purple_flea_key", "", A_KEY);
    /// The dialect: `gateway` is the documented API, `live` is what the released servers answer. Unknown bets can be looked up
    /// in `live` only.
    PURPLE_FLEA_API = setting("purple_flea_api", "gateway", "gateway or live");
    /// The longest time for one exchange with Purple Flea, in milliseconds. It is less than the 15 s that the trigger waits, so
    /// that the reply comes while the trigger listens.
    PURPLE_FLEA_TIMEOUT_MS = setting("purple_flea_timeout_ms", "8000", "within 100 and 13000");
    /// The origin of escrows, if it is not `purple_flea_url`. In the `live` dialect each service has a host of its own.
    PURPLE_FLEA_ESCROW_URL = setting("purple_flea_escrow_url", "", A_URL);
    /// The origin of the faucet, if it is not `purple_flea_url`.
    PURPLE_FLEA_FAUCET_URL = setting("purple_flea_faucet_url", "", A_URL);
    /// The origin of trading (in the `gateway` dialect: of orders), if it is not `purple_flea_url`.
    PURPLE_FLEA_TRADING_URL = setting("purple_flea_trading_url", "", A_URL);
    /// The shared key for trading. In the `live` dialect it is another key. Empty: `purple_flea_key`.
    PURPLE_FLEA_TRADING_KEY = secret("purple_flea_trading_key", "", A_KEY);
    /// The secrets that callers sign with, separated by spaces or commas. This setting or `webhook_token` is required.
    WEBHOOK_SECRETS = secret("webhook_secrets", "", "one to 8 secrets of the form whsec_ and the base64 of 24 to 64 bytes");
    /// A bearer token for requests. It differs from every operator's token. Empty: only signed calls are accepted.
    WEBHOOK_TOKEN = secret("webhook_token", "", "empty or at least 16 visible ASCII characters");
    /// The operators' tokens, separated by spaces or commas. A name has 1 to 32 of `a-z 0-9 . _ -`. A token has at least 128
    /// random bits: `openssl rand -hex 32`. Only these tokens open the operator's paths.
    OPERATOR_TOKENS = secret("operator_tokens", "", "one to 8 name:token pairs with different names and tokens; a token is at least 32 hexadecimal digits or 22 base64url characters, at random");
    /// The game that a deposit leads to.
    GAME = setting("game", "crash", "crash, coin-flip, hi-lo or trade");
    /// The multiplier at which a crash bet cashes out.
    CASHOUT_AT = setting("cashout_at", "1.5", "within 1.01 and 100, with at most 2 digits after the point");
    /// The side of a coin-flip.
    SIDE = setting("side", "heads", "heads or tails");
    /// The guess of a hi-lo bet: whether the second card is higher or lower than the first. Only the `live` dialect has hi-lo.
    GUESS = setting("guess", "higher", "higher or lower");
    /// The market of a trade, such as `BTC`, `ETH-USD` or `TSLA`. Required where `game` is `trade`.
    MARKET = setting("market", "", "1 to 20 characters of A-Z a-z 0-9 . _ : / -");
    /// The direction of a trade.
    DIRECTION = setting("direction", "long", "long or short");
    /// The size of a trade, in US dollars. Empty: as much as a wager would be.
    SIZE = setting("size", "", "empty or an amount, 0.01 or more");
    /// Whether the function asks Purple Flea for the balance before it stakes, and skips a stake that the balance does not cover.
    CHECK_BALANCE = setting("check_balance", "false", "true or false");
    /// The smallest balance that is bet from, in US dollars.
    MIN_BALANCE = setting("min_balance", "5", "an amount, 0 or more");
    /// The smallest deposit that leads to a bet, in US dollars.
    MIN_CHANGE = setting("min_change", "0", "an amount, 0 or more");
    /// The part of the balance that is bet.
    WAGER_FRACTION = setting("wager_fraction", "0.10", "above 0, at most 1, with at most 6 digits after the point");
    /// The most that one bet may be, in US dollars. Empty: no limit.
    MAX_WAGER = setting("max_wager", "", "empty or an amount, 0.01 or more");
    /// The fraction of Kelly's bet that one bet may stake, in the `live` dialect. A bet above `balance × risk_factor × probability
    /// of a win` is skipped, and the reply names the limit. The default is what Purple Flea gives a new agent.
    RISK_FACTOR = setting("risk_factor", "0.25", "none, or within 0.1 and 1, with at most 6 digits after the point");
    /// Whether every bet is held back.
    PAUSED = setting("paused", "false", "true or false");
    /// Supabase's URL. Together with `supabase_key` it switches ledger mode on; one without the other is an error.
    SUPABASE_URL = setting("supabase_url", "", A_URL);
    /// The token of `service_role` or, narrower, of `purple_flea_worker`.
    SUPABASE_KEY = secret("supabase_key", "", A_KEY);
    /// The key for Supabase's gateway, if it is not `supabase_key`: the `anon` key, beside a worker's token.
    SUPABASE_APIKEY = secret("supabase_apikey", "", A_KEY);
    /// The key for operators' calls: the token of `service_role` or, narrower, of `purple_flea_operator`. Empty: `supabase_key`,
    /// which must then be the token of `service_role`.
    SUPABASE_OPERATOR_KEY = secret("supabase_operator_key", "", A_KEY);
    /// The most bets that are under way for one notification, and the most jobs of one claim.
    BETS_AT_ONCE = setting("bets_at_once", "64", "within 1 and 100");
    /// Whether the function answers a notification that prefers it (`Prefer: respond-async`) at once with 202, and works
    /// afterwards. Only for hosts that let work go on after the reply: ours, Spin and Wasmtime do.
    AFTER_REPLY = setting("after_reply", "false", "true or false");
    /// How long the worker then long-polls for the next job after the last one, in milliseconds. The default is a little more
    /// than the second that pg_net sleeps after each batch. 0: never.
    LINGER_MS = setting("linger_ms", "1200", "within 0 and 3000");
}

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
    /// The ledger, in ledger mode.
    pub ledger: Option<Ledger>,
    /// Whether the function answers at once and works after the reply.
    pub after_reply: bool,
    /// The time for which the worker then long-polls after its last job.
    pub linger: Duration,
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
        let purple_flea = self.purple_flea(matches!(ledger, Some(Some(_))));
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
            ledger,
            after_reply: after_reply?,
            linger: linger?,
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
        let direction = self.required(DIRECTION, variant::<Direction>);
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
        let key = if with_ledger {
            self.optional(PURPLE_FLEA_KEY, Key::parse)
        } else {
            self.required(PURPLE_FLEA_KEY, Key::parse).map(Some)
        };
        let trading_key = self.optional(PURPLE_FLEA_TRADING_KEY, Key::parse);
        let [escrow, faucet, trading] =
            [PURPLE_FLEA_ESCROW_URL, PURPLE_FLEA_FAUCET_URL, PURPLE_FLEA_TRADING_URL]
                .map(|setting| self.optional(setting, BaseUrl::parse));
        let api = self.required(PURPLE_FLEA_API, variant::<Api>);
        let timeout = self.required(PURPLE_FLEA_TIMEOUT_MS, |text| {
            let range = TIMEOUT_MIN_MS..=time_budget::EXCHANGE_MAX_MS;
            text.parse().ok().filter(|ms| range.contains(ms)).map(Duration::from_millis)
        });
        let (url, key, trading_key) = (url?, key?, trading_key?);
        let service = |own: Option<BaseUrl>, key: &Option<Key>| Service {
            url: own.unwrap_or_else(|| url.clone()),
            key: key.clone(),
        };
        Some(PurpleFlea {
            api: api?,
            timeout: timeout?,
            casino: service(None, &key),
            escrow: service(escrow?, &key),
            faucet: service(faucet?, &key),
            trading: service(trading?, &trading_key.or_else(|| key.clone())),
        })
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
