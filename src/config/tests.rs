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
fn the_defaults_are_those_of_the_specification() {
    let policy = with(&[]).unwrap().policy;
    assert_eq!(policy.game, GameName::Crash);
    assert_eq!(policy.min_balance, "5".parse().unwrap());
    assert_eq!(policy.min_change, Amount::ZERO);
    assert_eq!(policy.wager_fraction, Decimal::new(1, 1));
    assert_eq!((policy.max_wager, policy.paused), (None, false));
    assert_eq!(policy.risk_factor, Some(Decimal::new(25, 2)));
    assert_eq!(with(&[("risk_factor", "none")]).unwrap().policy.risk_factor, None);
    let purple_flea = with(&[]).unwrap().purple_flea;
    assert_eq!(purple_flea.timeout, Duration::from_secs(8));
    assert_eq!(
        purple_flea.casino.url.join("/casino/crash").as_deref(),
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
fn every_setting_refuses_values_outside_its_limits() {
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
        ("purple_flea_api", &["Live", "Gateway"][..]),
        ("purple_flea_timeout_ms", &["99", "13001", "8s", "-1", "1e3"][..]),
        ("purple_flea_hold_ms", &["1001", "0.1", "-1", "100ms"][..]),
        (
            "webhook_secrets",
            &["secret", "whsec_c2hvcnQ=", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, whsec_?"][..],
        ),
        ("webhook_token", &["short", "has a space in it...."][..]),
        (
            "operator_tokens",
            &[
                "0123456789abcdef0123456789abcdef",
                "ada:0123456789abcdef",
                "ada:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "Ada:0123456789abcdef0123456789abcdef",
            ][..],
        ),
        ("game", &["Crash", "hilo"][..]),
        ("cashout_at", &["1", "1.00", "1.0149", "100.01", "NaN"][..]),
        ("side", &["Heads", "edge"][..]),
        ("guess", &["Higher", "equal"][..]),
        ("min_balance", &["-1", "five", "1e400", "0.00001"][..]),
        ("min_change", &["-0.01", "NaN"][..]),
        ("wager_fraction", &["0", "-0.1", "1.01", "0.0000001", "10%", "NaN"][..]),
        ("max_wager", &["0", "0.009", "-5", "none"][..]),
        ("risk_factor", &["0", "0.09", "1.01", "0.2500001", "25%", "None"][..]),
        ("paused", &["yes", "1", "TRUE"][..]),
        ("bets_at_once", &["0", "101", "many"][..]),
        ("after_reply", &["yes", "1"][..]),
        ("linger_ms", &["3001", "-1", "a second"][..]),
    ] {
        for value in values {
            assert_eq!(names(with(&[(name, value)])), [name], "{name} = {value}");
        }
    }
}

#[test]
fn secrets_may_be_separated_by_spaces_or_commas() {
    let two = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, whsec_bmV3IHNlY3JldCBuZXcgc2VjcmV0IG5ldyE=\n";
    assert_eq!(with(&[("webhook_secrets", two)]).unwrap().credentials.secrets.len(), 2);
    let nine = [two; 5].join(" ");
    assert_eq!(names(with(&[("webhook_secrets", &nine)])), ["webhook_secrets"]);
}

#[test]
fn a_token_alone_is_enough_for_callers() {
    let only = with(&[("webhook_secrets", ""), ("webhook_token", "0123456789abcdef")]);
    assert!(only.unwrap().credentials.secrets.is_empty());
}

#[test]
fn an_operators_token_must_differ_from_the_webhook_token() {
    let token = "0123456789abcdef0123456789abcdef";
    let operators = format!("ada:{token},grace:{}", &token.replace('0', "9"));
    assert!(with(&[("operator_tokens", &operators)]).is_ok());
    let shared = with(&[("operator_tokens", &operators), ("webhook_token", token)]);
    assert_eq!(names(shared), ["operator_tokens"]);
}

#[test]
fn the_shared_key_has_the_specifications_names_and_its_own_name_wins() {
    let with_keys = |keys: [&str; 3]| {
        let all = ["purple_flea_key", "purple_flea_api_key", "pf_agent_key"];
        let changes: Vec<_> = all.into_iter().zip(keys).collect();
        with(&changes).map(|settings| settings.purple_flea.casino.key.unwrap().expose().to_owned())
    };
    for (keys, winner) in [
        (["own", "", ""], "own"),
        (["", "api", ""], "api"),
        (["", "", "agent"], "agent"),
        (["own", "api", "agent"], "own"),
        ([" ", "api", "agent"], "api"),
    ] {
        assert_eq!(with_keys(keys).unwrap(), winner);
    }
    assert_eq!(names(with(&[("purple_flea_key", "")])), ["purple_flea_key"]);
    assert_eq!(names(with(&[("pf_agent_key", "two words")])), ["pf_agent_key"]);
}

#[test]
fn agent_id_and_agent_wallet_name_the_agent_of_standalone_mode_alone() {
    let agent = [("agent_id", "agent-001"), ("agent_wallet", "0xabc")];
    let default = with(&agent).unwrap().default_agent;
    assert_eq!(
        (default.id.as_deref(), default.wallet_address.as_deref()),
        (Some("agent-001"), Some("0xabc"))
    );
    let ledger = [agent[0], ("supabase_url", "https://project.supabase.co"), ("supabase_key", "a.b.c")];
    assert_eq!(with(&ledger).unwrap().default_agent.id, None);
    let long = "x".repeat(129);
    for name in ["agent_id", "agent_wallet"] {
        assert_eq!(names(with(&[(name, &long)])), [name]);
    }
}

#[test]
fn the_documented_base_urls_count_only_beside_the_documented_origin() {
    let urls = |changes: &[(&'static str, &str)]| {
        let purple_flea = with(changes).unwrap().purple_flea;
        [
            purple_flea.casino.url.join("/trade").unwrap(),
            purple_flea.wallet.url.join("/wallet/balance").unwrap(),
            purple_flea.trading.url.join("/trading/order").unwrap(),
            purple_flea.escrow.url.join("/escrow/create").unwrap(),
            purple_flea.faucet.url.join("/faucet/claim").unwrap(),
            purple_flea.daily.url.join("/api/claim").unwrap(),
        ]
    };
    let documented = [
        "https://api.purpleflea.com/trade",
        "https://purpleflea.com/api/wallet/balance",
        "https://purpleflea.com/api/trading/order",
        "https://purpleflea.com/api/escrow/create",
        "https://api.purpleflea.com/faucet/claim",
        "https://faucet.purpleflea.com/api/claim",
    ];
    assert_eq!(urls(&[]), documented);
    let routes =
        ["/trade", "/wallet/balance", "/trading/order", "/escrow/create", "/faucet/claim", "/api/claim"];
    let at_home = |origins: [&str; 6]| {
        let mut urls = origins.map(str::to_owned);
        urls.iter_mut().zip(routes).for_each(|(url, route)| url.push_str(route));
        urls
    };
    let (pf, x, y) = ("https://pf.test", "https://x.test/p", "https://y.test");
    let home = ("purple_flea_url", pf);
    assert_eq!(urls(&[home]), at_home([pf; 6]));
    assert_eq!(urls(&[home, ("purple_flea_api", "live")]), at_home([pf; 6]));
    assert_eq!(urls(&[home, ("purple_flea_workflow_url", x)]), at_home([pf, x, x, x, pf, pf]));
    let own = [home, ("purple_flea_workflow_url", x), ("purple_flea_escrow_url", y)];
    assert_eq!(urls(&own), at_home([pf, x, x, y, pf, pf]));
    assert_eq!(urls(&[home, ("purple_flea_faucet_url", y)]), at_home([pf, pf, pf, pf, y, y]));
    assert_eq!(urls(&[home, ("purple_flea_daily_url", y)]), at_home([pf, pf, pf, pf, pf, y]));
    assert_eq!(urls(&[("purple_flea_faucet_url", y)])[4..], at_home([pf, pf, pf, pf, y, y])[4..]);
}

#[test]
fn a_base_url_keeps_its_prefix_and_http_is_accepted_for_loopback_only() {
    for (url, joined) in [
        ("https://pf.example/v2/", "https://pf.example/v2/casino/crash"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/casino/crash"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x/casino/crash"),
        ("http://localhost", "http://localhost/casino/crash"),
    ] {
        let settings = with(&[("purple_flea_url", url)]).unwrap();
        assert_eq!(settings.purple_flea.casino.url.join("/casino/crash").as_deref(), Some(joined));
    }
}

#[test]
fn no_debug_and_no_error_shows_a_secret() {
    let operators = "ada:feedfacefeedface0123456789abcdef";
    let settings = with(&[("webhook_token", "t0ken-t0ken-t0ken"), ("operator_tokens", operators)]).unwrap();
    let shown = format!("{settings:?}");
    for secret in ["pf_live", "MfKQ9r8", "t0ken", "feedface"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let errors = with(&[("purple_flea_key", "k e y"), ("webhook_secrets", "hunter2")]).unwrap_err();
    let shown: String = errors.iter().map(ToString::to_string).collect();
    assert!(!shown.contains("k e y") && !shown.contains("hunter2"));
}

#[test]
fn the_list_of_settings_is_complete() {
    let mut requested = std::cell::RefCell::new(Vec::new());
    let _ = check(|name| {
        requested.borrow_mut().push(name);
        None
    });
    let mut requested = std::mem::take(requested.get_mut());
    requested.sort_unstable();
    requested.dedup();
    let mut listed: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    listed.sort_unstable();
    assert_eq!(requested, listed);
}

#[test]
fn the_ledgers_settings_are_set_together_or_not_at_all() {
    let (url, key) = (("supabase_url", "https://project.supabase.co"), ("supabase_key", "a.b.c"));
    assert!(with(&[]).unwrap().ledger.is_none());
    assert_eq!(with(&[url, key]).unwrap().ledger.unwrap().bets_at_once, 64);
    assert_eq!(names(with(&[url])), ["supabase_key"]);
    assert_eq!(names(with(&[key])), ["supabase_url"]);
    for alone in ["supabase_apikey", "supabase_operator_key"] {
        assert_eq!(names(with(&[(alone, "anon")])), ["supabase_url", "supabase_key"]);
    }
    let ledger = with(&[url, key, ("supabase_operator_key", "d.e.f")]).unwrap().ledger.unwrap();
    assert_eq!((ledger.connection.key.expose(), ledger.operator_key.expose()), ("a.b.c", "d.e.f"));
    assert_eq!(with(&[url, key]).unwrap().ledger.unwrap().operator_key.expose(), "a.b.c");
    assert_eq!(names(with(&[("supabase_url", "http://project.supabase.co"), key])), ["supabase_url"]);
    assert_eq!(names(with(&[url, ("supabase_key", "two words")])), ["supabase_key"]);
    let shown = format!("{:?}", with(&[url, key]).unwrap().ledger);
    assert!(!shown.contains("a.b.c"), "{shown}");
}

const SIGNING_KEY: &str = "signkey-prod-0123456789abcdef0123456789abcdef";

#[test]
fn without_a_key_and_outside_dev_mode_the_function_has_nothing_to_do_with_inngest() {
    assert!(with(&[]).unwrap().inngest.is_none());
    let inngest = with(&[("inngest_event_key", "k")]).unwrap().inngest.unwrap();
    assert!(!inngest.may_call());
    assert_eq!(inngest.events.to_string(), "https://inn.gs");
}

#[test]
fn inngest_may_call_only_where_its_url_for_us_is_a_setting() {
    assert_eq!(names(with(&[("inngest_signing_key", SIGNING_KEY)])), ["inngest_serve_url"]);
    let serve = ("inngest_serve_url", "https://app.example/api/inngest");
    let own = ("inngest_api_url", "https://inngest.example");
    let inngest = with(&[("inngest_signing_key", SIGNING_KEY), serve, own]).unwrap().inngest.unwrap();
    assert!(inngest.may_call() && !inngest.is_dev);
    // A server of your own takes the events, too.
    assert_eq!(inngest.events.to_string(), "https://inngest.example");
    assert_eq!(names(with(&[("inngest_signing_key_fallback", SIGNING_KEY), serve])), ["inngest_signing_key"]);
}

#[test]
fn dev_mode_is_refused_unless_everything_that_it_reaches_is_on_this_machine() {
    let local = "http://127.0.0.1:8288";
    let dev = [
        ("inngest_dev", "true"),
        ("inngest_api_url", local),
        ("inngest_event_url", local),
        ("inngest_serve_url", "http://localhost:3000/api/inngest"),
        ("purple_flea_url", local),
    ];
    let inngest = with(&dev).unwrap().inngest.unwrap();
    assert!(inngest.is_dev && inngest.may_call());
    let ledger = [("supabase_url", local), ("supabase_key", "a.b.c"), ("inngest_agent_id", "agent-001")];
    let dev_with_ledger = [&dev[..], &ledger].concat();
    assert!(with(&dev_with_ledger).is_ok());
    let elsewhere = ("supabase_url", "https://project.supabase.co");
    assert_eq!(names(with(&[&dev_with_ledger[..], &[elsewhere]].concat())), ["inngest_dev"]);
    for elsewhere in [
        ("inngest_api_url", "https://api.inngest.com"),
        ("inngest_event_url", "https://127.0.0.1.example"),
        ("purple_flea_url", "https://api.purpleflea.com"),
        ("purple_flea_escrow_url", "https://escrow.example"),
        ("purple_flea_trading_url", "https://trading.example"),
    ] {
        assert_eq!(names(with(&[&dev[..], &[elsewhere]].concat())), ["inngest_dev"], "{elsewhere:?}");
    }
    assert_eq!(names(with(&dev[..3])), ["inngest_serve_url"]);
}

#[test]
fn inngests_settings_refuse_values_outside_their_limits() {
    for (name, values) in [
        (
            "inngest_signing_key",
            &["signkey-prod-", "0123", "signkey-prod-xyz", "0123456789abcdef0123456789abcdef0"][..],
        ),
        ("inngest_event_key", &["a/b", "..", "a b", "ü"][..]),
        (
            "inngest_serve_url",
            &["https://app.example", "https://app.example/", "http://app.example/x", "/api/inngest"][..],
        ),
        ("inngest_dev", &["yes", "1"][..]),
        ("inngest_env", &["a b", "ä"][..]),
    ] {
        for value in values {
            assert_eq!(names(with(&[(name, value)])), [name], "{value}");
        }
    }
}
