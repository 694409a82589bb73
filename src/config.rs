//! The settings: what each means, its default, its limits. Read from Spin variables or, in a build without the
//! `spin` feature, from the environment (the same names in capitals), and validated once, here.

use crate::{
    domain::{
        account::Api,
        amount::Amount,
        bet::{CashoutAt, GameName, Side},
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

/// A setting: its name and, where it has one, its default. An empty value counts as none.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name as a Spin variable; in capitals it is the environment's.
    pub name: &'static str,
    /// What it is when nobody sets it.
    pub default: &'static str,
    /// Whether it must never be shown.
    pub secret: bool,
}

const fn setting(name: &'static str, default: &'static str) -> Setting {
    Setting { name, default, secret: false }
}

const fn secret(name: &'static str) -> Setting {
    Setting { name, default: "", secret: true }
}

/// Purple Flea's base URL: an origin and, where a gateway needs one, a path prefix. `https`, or `http` to a
/// loopback host: the key travels in a header.
pub const PURPLE_FLEA_URL: Setting = setting("purple_flea_url", "https://api.purpleflea.com");
/// Everybody's key at Purple Flea, sent as a bearer: for the games, balances, escrows and the faucet. Required, but for a
/// ledger whose agents all have keys of their own.
pub const PURPLE_FLEA_KEY: Setting = secret("purple_flea_key");
/// Which of Purple Flea's two dialects is spoken: `gateway`, the documented paths and fields, or `live`, what its
/// released servers answer.
pub const PURPLE_FLEA_API: Setting = setting("purple_flea_api", "gateway");
/// How long a whole exchange with Purple Flea may take, in milliseconds: 100 to 13,000. Less than the 15 s that
/// the trigger waits for us, so that our reply says what happened before nobody listens any more.
pub const PURPLE_FLEA_TIMEOUT_MS: Setting = setting("purple_flea_timeout_ms", "8000");
/// Secrets that callers sign with: one or more `whsec_<base64>` (24 to 64 bytes each), separated by spaces or
/// commas; at most 8. This one or `webhook_token` is required.
pub const WEBHOOK_SECRETS: Setting = secret("webhook_secrets");
/// A bearer token for calls made by hand: at least 16 visible ASCII characters. Leave it empty where only signed
/// calls are to be let in.
pub const WEBHOOK_TOKEN: Setting = secret("webhook_token");
/// The operators: one to 8 `name:token` pairs, separated by spaces or commas. A name has 1 to 32 of `a-z 0-9 . _ -`; a
/// token has at least 128 random bits, as 32 hexadecimal digits or 22 base64url characters. Only these tokens open the
/// operator's routes. Empty: nothing opens them.
pub const OPERATOR_TOKENS: Setting = secret("operator_tokens");
/// Where escrows are, if not at `purple_flea_url`. In the `live` dialect every service has a host of its own.
pub const PURPLE_FLEA_ESCROW_URL: Setting = setting("purple_flea_escrow_url", "");
/// Where the faucet is, if not at `purple_flea_url`.
pub const PURPLE_FLEA_FAUCET_URL: Setting = setting("purple_flea_faucet_url", "");
/// Where trading is (in the `gateway` dialect: orders), if not at `purple_flea_url`.
pub const PURPLE_FLEA_TRADING_URL: Setting = setting("purple_flea_trading_url", "");
/// Our key for trading, where it is another: in the `live` dialect it is. Empty: `purple_flea_key`.
pub const PURPLE_FLEA_TRADING_KEY: Setting = secret("purple_flea_trading_key");
/// What deposits are bet on: `crash`, `coin-flip` or `trade`.
pub const GAME: Setting = setting("game", "crash");
/// The multiplier at which a crash bet cashes out: 1.01 to 100, at most 2 digits after the point.
pub const CASHOUT_AT: Setting = setting("cashout_at", "1.5");
/// The side of a coin-flip: `heads` or `tails`.
pub const SIDE: Setting = setting("side", "heads");
/// The market of a trade: `BTC`, `ETH-USD`, `TSLA`. Required where `game` is `trade`.
pub const MARKET: Setting = setting("market", "");
/// Which way a trade goes: `long` or `short`.
pub const DIRECTION: Setting = setting("direction", "long");
/// How much, in dollars, a trade opens: at least 0.01. Empty: as much as a wager would be.
pub const SIZE: Setting = setting("size", "");
/// `true` asks Purple Flea for the balance before anything is staked, so that nothing is sent that it would refuse.
pub const CHECK_BALANCE: Setting = setting("check_balance", "false");
/// The smallest balance, in dollars, that is bet from.
pub const MIN_BALANCE: Setting = setting("min_balance", "5");
/// The smallest deposit, in dollars, that leads to a bet.
pub const MIN_CHANGE: Setting = setting("min_change", "0");
/// The part of the balance that is bet: above 0, at most 1, at most 6 digits after the point.
pub const WAGER_FRACTION: Setting = setting("wager_fraction", "0.10");
/// The most, in dollars, that one bet may be: at least 0.01. Empty: no cap.
pub const MAX_WAGER: Setting = setting("max_wager", "");
/// `true` holds back every bet.
pub const PAUSED: Setting = setting("paused", "false");
/// Supabase's URL. With `supabase_key` it makes the function work by the ledger in that database, whose policies
/// then count instead of the settings from `game` to `max_wager`. `https`, or `http` to a loopback host.
pub const SUPABASE_URL: Setting = setting("supabase_url", "");
/// Who we are there: the token of `service_role` or, narrower, of `purple_flea_worker`.
pub const SUPABASE_KEY: Setting = secret("supabase_key");
/// What lets us through Supabase's gateway, where that is not `supabase_key` itself: with a token for
/// `purple_flea_worker` the project's `anon` key.
pub const SUPABASE_APIKEY: Setting = secret("supabase_apikey");
/// The key that the function shows Supabase when an operator calls: the token of `service_role` or, narrower, of
/// `purple_flea_operator`. Empty: `supabase_key`.
pub const SUPABASE_OPERATOR_KEY: Setting = secret("supabase_operator_key");
/// Most bets that are under way at once for one doorbell, and so the most that one claim takes: 1 to 100.
pub const BETS_AT_ONCE: Setting = setting("bets_at_once", "64");
/// `true` answers a doorbell that prefers it (`Prefer: respond-async`, as ours do) at once with 202, and goes on
/// afterwards. Only for hosts that do not cut work off after the reply: Spin and Wasmtime do not.
pub const AFTER_REPLY: Setting = setting("after_reply", "false");
/// How long, after the last job, a drain that goes on after the reply waits for the next one, in milliseconds: 0 to 3,000.
/// Meanwhile nobody has to ring. A little more than the second that pg_net sleeps after each batch, so that a steady
/// stream never waits for it; 0 never waits.
pub const LINGER_MS: Setting = setting("linger_ms", "1200");

/// All of them, in the order of the manifest.
pub const SETTINGS: [Setting; 30] = [
    PURPLE_FLEA_URL,
    PURPLE_FLEA_KEY,
    PURPLE_FLEA_API,
    PURPLE_FLEA_TIMEOUT_MS,
    PURPLE_FLEA_ESCROW_URL,
    PURPLE_FLEA_FAUCET_URL,
    PURPLE_FLEA_TRADING_URL,
    PURPLE_FLEA_TRADING_KEY,
    WEBHOOK_SECRETS,
    WEBHOOK_TOKEN,
    OPERATOR_TOKENS,
    GAME,
    CASHOUT_AT,
    SIDE,
    MARKET,
    DIRECTION,
    SIZE,
    CHECK_BALANCE,
    MIN_BALANCE,
    MIN_CHANGE,
    WAGER_FRACTION,
    MAX_WAGER,
    PAUSED,
    SUPABASE_URL,
    SUPABASE_KEY,
    SUPABASE_APIKEY,
    SUPABASE_OPERATOR_KEY,
    BETS_AT_ONCE,
    AFTER_REPLY,
    LINGER_MS,
];

/// Most secrets that are kept at once: each costs an HMAC for every refused call.
const SECRETS_LIMIT: usize = 8;

/// Most digits after the point of `wager_fraction`, so that its product with a balance is exact.
const FRACTION_SCALE: u32 = 6;

/// Shortest time for an exchange: below it no reply from another continent can arrive.
const TIMEOUT_MIN_MS: u64 = 100;

/// Most bets at once: what the database hands out in one claim.
const BETS_AT_ONCE_MAX: u32 = 100;

/// Longest wait for the next job: each holds one of PostgREST's connections.
const LINGER_MAX_MS: u64 = 3_000;

const A_URL: &str = "https://host[:port][/prefix], or http:// to a loopback host";

const A_KEY: &str = "set, to visible ASCII characters only";

/// The settings, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose calls are accepted.
    pub credentials: Credentials,
    /// The rules for bets.
    pub policy: Policy,
    /// Where and how bets are made.
    pub purple_flea: PurpleFlea,
    /// The ledger, in ledger mode.
    pub ledger: Option<Ledger>,
    /// Whether the host lets work go on after the reply.
    pub after_reply: bool,
    /// How long such work waits for the next job.
    pub linger: Duration,
}

/// A setting that is missing or wrong. Says which and what it must be, never what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` must be {must}")]
pub struct SettingError {
    /// The setting's name.
    pub name: &'static str,
    /// What it must be.
    pub must: &'static str,
}

/// The settings, or everything that is wrong with them.
pub type Checked = Result<Settings, Vec<SettingError>>;

/// Validates the settings. `value` gives a setting's text by its name, `None` or empty where it is not set.
/// Every error is found, not only the first.
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
        // Each part is read before any is given up on, so that the caller learns all errors at once.
        let credentials = self.credentials();
        let policy = self.policy();
        let ledger = self.ledger();
        let purple_flea = self.purple_flea(matches!(ledger, Some(Some(_))));
        let after_reply = self.required(AFTER_REPLY, "true or false", |text| bool::from_str(text).ok());
        let linger = self.required(LINGER_MS, "within 0 and 3000", |text| {
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
        let secrets = self.optional(
            WEBHOOK_SECRETS,
            "one to 8 secrets of the form whsec_<base64 of 24 to 64 bytes>",
            secrets,
        );
        let token =
            self.optional(WEBHOOK_TOKEN, "empty or at least 16 visible ASCII characters", Token::parse);
        let operators = self.optional(
            OPERATOR_TOKENS,
            "one to 8 name:token pairs with different names and tokens; a token is at least 32 hexadecimal digits or 22 base64url characters, at random",
            Operators::parse,
        );
        let (token, operators) = (token?, operators?.unwrap_or_default());
        if token.as_ref().is_some_and(|token| operators.name_of(token).is_some()) {
            self.wrong(OPERATOR_TOKENS, "other than `webhook_token`, which opens other routes");
            return None;
        }
        let credentials = Credentials { secrets: secrets?.unwrap_or_default(), token, operators };
        if credentials.secrets.is_empty() && credentials.token.is_none() {
            self.wrong(WEBHOOK_SECRETS, "set (or `webhook_token`): without either nobody may call");
            return None;
        }
        Some(credentials)
    }

    fn policy(&mut self) -> Option<Policy> {
        let not_negative = |text: &str| text.parse().ok().filter(|a: &Amount| !a.is_negative());
        let game = self.required(GAME, "crash, coin-flip or trade", word::<GameName>);
        let cashout_at =
            self.required(CASHOUT_AT, "within 1.01 and 100, with at most 2 digits after the point", |text| {
                CashoutAt::new(text.parse().ok()?)
            });
        let side = self.required(SIDE, "heads or tails", word::<Side>);
        let market = self.optional(MARKET, "1 to 20 characters of A-Z a-z 0-9 . _ : / -", Market::parse);
        if game == Some(GameName::Trade) && market == Some(None) {
            self.wrong(MARKET, "set, as `game` is trade");
            return None;
        }
        let direction = self.required(DIRECTION, "long or short", word::<Direction>);
        let a_cent = |text: &str| text.parse().ok().filter(|a: &Amount| a.decimal() >= Decimal::new(1, 2));
        let size = self.optional(SIZE, "empty or an amount, 0.01 or more", a_cent);
        let check_balance = self.required(CHECK_BALANCE, "true or false", |text| bool::from_str(text).ok());
        let min_balance = self.required(MIN_BALANCE, "an amount, 0 or more", not_negative);
        let min_change = self.required(MIN_CHANGE, "an amount, 0 or more", not_negative);
        let wager_fraction = self.required(
            WAGER_FRACTION,
            "above 0, at most 1, with at most 6 digits after the point",
            fraction,
        );
        let max_wager = self.optional(MAX_WAGER, "empty or an amount, 0.01 or more", a_cent);
        let paused = self.required(PAUSED, "true or false", |text| bool::from_str(text).ok());
        Some(Policy {
            game: game?,
            cashout_at: cashout_at?,
            side: side?,
            market: market?,
            direction: direction?,
            size: size?,
            check_balance: check_balance?,
            min_balance: min_balance?,
            min_change: min_change?,
            wager_fraction: wager_fraction?,
            max_wager: max_wager?,
            // Nothing here remembers a day.
            daily_wager_limit: None,
            daily_loss_limit: None,
            paused: paused?,
        })
    }

    fn purple_flea(&mut self, with_ledger: bool) -> Option<PurpleFlea> {
        let url = self.required(PURPLE_FLEA_URL, A_URL, BaseUrl::parse);
        let key = if with_ledger {
            self.optional(PURPLE_FLEA_KEY, A_KEY, Key::parse)
        } else {
            self.required(PURPLE_FLEA_KEY, A_KEY, Key::parse).map(Some)
        };
        let trading_key = self.optional(PURPLE_FLEA_TRADING_KEY, A_KEY, Key::parse);
        let [escrow, faucet, trading] =
            [PURPLE_FLEA_ESCROW_URL, PURPLE_FLEA_FAUCET_URL, PURPLE_FLEA_TRADING_URL]
                .map(|setting| self.optional(setting, A_URL, BaseUrl::parse));
        let api = self.required(PURPLE_FLEA_API, "gateway or live", word::<Api>);
        let timeout = self.required(PURPLE_FLEA_TIMEOUT_MS, "within 100 and 13000", |text| {
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

    /// Both or neither: with half of it a deposit that is safe in the ledger could be bet on without it.
    fn ledger(&mut self) -> Option<Option<Ledger>> {
        let url = self.optional(SUPABASE_URL, A_URL, BaseUrl::parse);
        let key = self.optional(SUPABASE_KEY, A_KEY, Key::parse);
        let apikey = self.optional(SUPABASE_APIKEY, A_KEY, Key::parse);
        let operator_key = self.optional(SUPABASE_OPERATOR_KEY, A_KEY, Key::parse);
        let bets_at_once = self.required(BETS_AT_ONCE, "within 1 and 100", |text| {
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
                    self.wrong(setting, "set, as the rest of the ledger's settings is (or none of them)");
                }
                None
            }
        }
    }

    fn required<T>(
        &mut self,
        setting: Setting,
        must: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.text(setting).as_deref().and_then(parse);
        if value.is_none() {
            self.wrong(setting, must);
        }
        value
    }

    /// The outer `None` is an error, the inner one a setting that is not set.
    fn optional<T>(
        &mut self,
        setting: Setting,
        must: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.text(setting) {
            None => Some(None),
            Some(_) => self.required(setting, must, parse).map(Some),
        }
    }

    fn text(&self, setting: Setting) -> Option<String> {
        (self.value)(setting.name)
            .filter(|value| !value.trim().is_empty())
            .or_else(|| (!setting.default.is_empty()).then(|| setting.default.to_owned()))
            .map(|value| value.trim().to_owned())
    }

    fn wrong(&mut self, setting: Setting, must: &'static str) {
        self.errors.push(SettingError { name: setting.name, must });
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

/// Reads one of an enum's words by the names that its JSON has.
fn word<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}

#[cfg(test)]
mod tests;
