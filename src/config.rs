//! The settings: what each means, its default, its limits. Read from Spin variables or, in a build without the
//! `spin` feature, from the environment (the same names in capitals), and validated once, here.

use crate::{
    game::{CashoutAt, GameName, Side},
    money::Amount,
    policy::Policy,
    purple_flea::{Api, BaseUrl, Key, PurpleFlea},
    webhook::signature::{Callers, Secret, Token},
};
use rust_decimal::Decimal;
use serde::de::DeserializeOwned;
use std::{fmt, str::FromStr, time::Duration};

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
/// Our key at Purple Flea, sent as a bearer. Required.
pub const PURPLE_FLEA_KEY: Setting = secret("purple_flea_key");
/// Which of Purple Flea's two dialects is spoken: `gateway`, the documented paths and fields.
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
/// The game that deposits are bet on: `crash` or `coin-flip`.
pub const GAME: Setting = setting("game", "crash");
/// The multiplier at which a crash bet cashes out: 1.01 to 100, at most 2 digits after the point.
pub const CASHOUT_AT: Setting = setting("cashout_at", "1.5");
/// The side of a coin-flip: `heads` or `tails`.
pub const SIDE: Setting = setting("side", "heads");
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

/// All of them, in the order of the manifest.
pub const SETTINGS: [Setting; 14] = [
    PURPLE_FLEA_URL,
    PURPLE_FLEA_KEY,
    PURPLE_FLEA_API,
    PURPLE_FLEA_TIMEOUT_MS,
    WEBHOOK_SECRETS,
    WEBHOOK_TOKEN,
    GAME,
    CASHOUT_AT,
    SIDE,
    MIN_BALANCE,
    MIN_CHANGE,
    WAGER_FRACTION,
    MAX_WAGER,
    PAUSED,
];

/// Most secrets that are kept at once: each costs an HMAC for every refused call.
const SECRETS_LIMIT: usize = 8;

/// Most digits after the point of `wager_fraction`, so that its product with a balance is exact.
const FRACTION_SCALE: u32 = 6;

/// Shortest time for an exchange: below it no reply from another continent can arrive.
const TIMEOUT_MIN_MS: u64 = 100;

/// Longest time for an exchange: the trigger's 15 s, less two for the way there and back.
const TIMEOUT_MAX_MS: u64 = 13_000;

/// The settings, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose calls are accepted.
    pub callers: Callers,
    /// The rules for bets.
    pub policy: Policy,
    /// Where and how bets are made.
    pub purple_flea: PurpleFlea,
}

/// A setting that is missing or wrong. Says which and what it must be, never what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingError {
    /// The setting's name.
    pub name: &'static str,
    /// What it must be.
    pub must: &'static str,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` must be {}", self.name, self.must)
    }
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
        let callers = self.callers();
        let policy = self.policy();
        let purple_flea = self.purple_flea();
        Some(Settings { callers: callers?, policy: policy?, purple_flea: purple_flea? })
    }

    fn callers(&mut self) -> Option<Callers> {
        let secrets = self.optional(
            WEBHOOK_SECRETS,
            "one to 8 secrets of the form whsec_<base64 of 24 to 64 bytes>",
            secrets,
        );
        let token =
            self.optional(WEBHOOK_TOKEN, "empty or at least 16 visible ASCII characters", Token::parse);
        let callers = Callers { secrets: secrets?.unwrap_or_default(), token: token? };
        if callers.secrets.is_empty() && callers.token.is_none() {
            self.wrong(WEBHOOK_SECRETS, "set (or `webhook_token`): without either nobody may call");
            return None;
        }
        Some(callers)
    }

    fn policy(&mut self) -> Option<Policy> {
        let not_negative = |text: &str| text.parse().ok().filter(|a: &Amount| !a.is_negative());
        let game = self.required(GAME, "crash or coin-flip", word::<GameName>);
        let cashout_at =
            self.required(CASHOUT_AT, "within 1.01 and 100, with at most 2 digits after the point", |text| {
                CashoutAt::new(text.parse().ok()?)
            });
        let side = self.required(SIDE, "heads or tails", word::<Side>);
        let min_balance = self.required(MIN_BALANCE, "an amount, 0 or more", not_negative);
        let min_change = self.required(MIN_CHANGE, "an amount, 0 or more", not_negative);
        let wager_fraction = self.required(
            WAGER_FRACTION,
            "above 0, at most 1, with at most 6 digits after the point",
            fraction,
        );
        let max_wager = self.optional(MAX_WAGER, "empty or an amount, 0.01 or more", |text| {
            text.parse().ok().filter(|a: &Amount| a.decimal() >= Decimal::new(1, 2))
        });
        let paused = self.required(PAUSED, "true or false", |text| bool::from_str(text).ok());
        Some(Policy {
            game: game?,
            cashout_at: cashout_at?,
            side: side?,
            min_balance: min_balance?,
            min_change: min_change?,
            wager_fraction: wager_fraction?,
            max_wager: max_wager?,
            paused: paused?,
        })
    }

    fn purple_flea(&mut self) -> Option<PurpleFlea> {
        let url = self.required(
            PURPLE_FLEA_URL,
            "https://host[:port][/prefix], or http:// to a loopback host",
            BaseUrl::parse,
        );
        let key = self.required(PURPLE_FLEA_KEY, "set, to visible ASCII characters only", Key::parse);
        let api = self.required(PURPLE_FLEA_API, "gateway (the other dialect is not built yet)", word::<Api>);
        let timeout = self.required(PURPLE_FLEA_TIMEOUT_MS, "within 100 and 13000", |text| {
            let range = TIMEOUT_MIN_MS..=TIMEOUT_MAX_MS;
            text.parse().ok().filter(|ms| range.contains(ms)).map(Duration::from_millis)
        });
        Some(PurpleFlea { url: url?, key: key?, api: api?, timeout: timeout? })
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
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const COMPLETE: [(&str, &str); 2] = [
        ("purple_flea_key", "pf_live_0123456789"),
        ("webhook_secrets", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ];

    fn with(changes: &[(&'static str, &str)]) -> Checked {
        let mut values: BTreeMap<_, _> = COMPLETE.into_iter().collect();
        values.extend(changes.iter().copied());
        check(|name| values.get(name).map(|v| (*v).to_owned()))
    }

    fn names(checked: Checked) -> Vec<&'static str> {
        checked.unwrap_err().into_iter().map(|error| error.name).collect()
    }

    #[test]
    fn the_defaults_are_the_specifications() {
        let policy = with(&[]).unwrap().policy;
        assert_eq!(policy.game, GameName::Crash);
        assert_eq!(policy.min_balance, "5".parse().unwrap());
        assert_eq!(policy.min_change, Amount::ZERO);
        assert_eq!(policy.wager_fraction, Decimal::new(1, 1));
        assert_eq!((policy.max_wager, policy.paused), (None, false));
        let purple_flea = with(&[]).unwrap().purple_flea;
        assert_eq!(purple_flea.timeout, Duration::from_secs(8));
        assert_eq!(
            purple_flea.url.join("/casino/crash").as_deref(),
            Some("https://api.purpleflea.com/casino/crash")
        );
    }

    #[test]
    fn every_setting_that_is_missing_is_named_at_once() {
        let nothing = names(check(|_| None));
        assert_eq!(nothing, ["webhook_secrets", "purple_flea_key"]);
        let blank = names(with(&[("purple_flea_key", "  "), ("webhook_secrets", ""), ("game", "poker")]));
        assert_eq!(blank, ["webhook_secrets", "game", "purple_flea_key"]);
    }

    #[test]
    fn every_setting_refuses_what_it_cannot_be() {
        for (name, values) in [
            (
                "purple_flea_url",
                &[
                    "api.purpleflea.com",
                    "ftp://x",
                    "http://api.purpleflea.com",
                    "https://",
                    "https://u:p@x",
                    "https://x/?q=1",
                    "https://x/#f",
                    "https://x/a b",
                    "http://127.evil.com",
                    "http://localhost.evil.com",
                ][..],
            ),
            ("purple_flea_key", &["two words", "line\nbreak", "schlüssel"][..]),
            ("purple_flea_api", &["live", "Gateway"][..]),
            ("purple_flea_timeout_ms", &["99", "13001", "8s", "-1", "1e3"][..]),
            (
                "webhook_secrets",
                &["secret", "whsec_c2hvcnQ=", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, whsec_?"][..],
            ),
            ("webhook_token", &["short", "has a space in it...."][..]),
            ("game", &["Crash", "hi-lo"][..]),
            ("cashout_at", &["1", "1.00", "1.0149", "100.01", "NaN"][..]),
            ("side", &["Heads", "edge"][..]),
            ("min_balance", &["-1", "five", "1e400", "0.00001"][..]),
            ("min_change", &["-0.01", "NaN"][..]),
            ("wager_fraction", &["0", "-0.1", "1.01", "0.0000001", "10%", "NaN"][..]),
            ("max_wager", &["0", "0.009", "-5", "none"][..]),
            ("paused", &["yes", "1", "TRUE"][..]),
        ] {
            for value in values {
                assert_eq!(names(with(&[(name, value)])), [name], "{name} = {value}");
            }
        }
    }

    #[test]
    fn secrets_may_be_separated_by_spaces_or_commas() {
        let two = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, whsec_bmV3IHNlY3JldCBuZXcgc2VjcmV0IG5ldyE=\n";
        assert_eq!(with(&[("webhook_secrets", two)]).unwrap().callers.secrets.len(), 2);
        let nine = [two; 5].join(" ");
        assert_eq!(names(with(&[("webhook_secrets", &nine)])), ["webhook_secrets"]);
    }

    #[test]
    fn a_token_alone_lets_callers_in() {
        let only = with(&[("webhook_secrets", ""), ("webhook_token", "0123456789abcdef")]);
        assert!(only.unwrap().callers.secrets.is_empty());
    }

    #[test]
    fn a_base_url_keeps_its_prefix_and_http_reaches_loopback_only() {
        for (url, joined) in [
            ("https://pf.example/v2/", "https://pf.example/v2/casino/crash"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/casino/crash"),
            ("http://[::1]:8080/x", "http://[::1]:8080/x/casino/crash"),
            ("http://localhost", "http://localhost/casino/crash"),
        ] {
            let settings = with(&[("purple_flea_url", url)]).unwrap();
            assert_eq!(settings.purple_flea.url.join("/casino/crash").as_deref(), Some(joined));
        }
    }

    #[test]
    fn no_debug_and_no_error_shows_a_secret() {
        let settings = with(&[("webhook_token", "t0ken-t0ken-t0ken")]).unwrap();
        let shown = format!("{settings:?}");
        for secret in ["pf_live", "MfKQ9r8", "t0ken"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        let errors = with(&[("purple_flea_key", "k e y"), ("webhook_secrets", "hunter2")]).unwrap_err();
        let shown: String = errors.iter().map(ToString::to_string).collect();
        assert!(!shown.contains("k e y") && !shown.contains("hunter2"));
    }

    #[test]
    fn the_list_of_settings_is_whole() {
        let mut asked = std::cell::RefCell::new(Vec::new());
        let _ = check(|name| {
            asked.borrow_mut().push(name);
            None
        });
        let mut asked = std::mem::take(asked.get_mut());
        asked.sort_unstable();
        asked.dedup();
        let mut listed: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        listed.sort_unstable();
        assert_eq!(asked, listed);
    }
}
