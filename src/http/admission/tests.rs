use super::*;
use crate::{config, domain::job::RequestKind, webhook::signature::TOLERANCE_S};
use http::HeaderValue;
use proptest::prelude::*;
use std::time::Duration;

const NOW_S: u64 = 1_614_265_330;
// The test vector of Standard Webhooks' own libraries.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const TOKEN: &str = "a-token-of-16-chars";
const OPERATORS_TOKEN: &str = "0123456789abcdef0123456789abcdef";

const API_KEY: &str = "ek_0123456789abcdefghij-_";

const ROUTES: [Route; 8] = [
    Route::ExecuteTrade,
    Route::RequestJob(RequestKind::Trade),
    Route::Reconcile,
    Route::OperatorStatus,
    Route::Operate,
    Route::Events,
    Route::Record,
    Route::Health,
];

fn settings(with_ledger: bool) -> Settings {
    let ledger = |value: &str| with_ledger.then(|| value.to_owned());
    let value = |name| match name {
        "purple_flea_key" => Some("key".to_owned()),
        "webhook_secrets" => Some(SECRET.to_owned()),
        "webhook_token" => Some(TOKEN.to_owned()),
        "operator_tokens" => Some(format!("ada:{OPERATORS_TOKEN}")),
        "supabase_url" => ledger("https://supabase.test"),
        "supabase_key" => ledger("key"),
        _ => None,
    };
    config::check(value).unwrap()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    map
}

fn signed(signature: &str) -> HeaderMap {
    headers(&[
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", signature),
    ])
}

fn bearer(token: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {token}")), ("webhook-id", "mine")])
}

/// Describes the admitted caller, or the reason for the refusal.
fn admitted(settings: &Settings, route: Route, headers: &HeaderMap) -> Result<String, String> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_S);
    match admit(settings, route, headers, BODY, now) {
        Ok(Caller::Trusted { webhook_id }) => Ok(format!("trusted {}", webhook_id.unwrap_or_default())),
        Ok(Caller::Owner { token, .. }) => Ok(format!("owner {}", token.expose())),
        Ok(Caller::Operator { name }) => Ok(format!("operator {name}")),
        Ok(Caller::Tenant { .. }) => Ok("tenant".to_owned()),
        Err(Problem::Unauthorized(refusal)) => Err(refusal.name().to_owned()),
        Err(problem) => Err(problem.code().to_owned()),
    }
}

#[test]
fn each_credential_opens_its_own_routes_and_is_refused_on_the_others() {
    let settings = settings(true);
    for route in ROUTES {
        let opens = |credential, caller: &str, otherwise: &str| {
            if credentials_for(route).contains(&credential) {
                Ok(caller.to_owned())
            } else {
                Err(otherwise.to_owned())
            }
        };
        let id = "trusted msg_p5jXN8AQM9LWM0D4loKWxJek";
        for (shown, expected) in [
            (signed(SIGNATURE), opens(Credential::Signature, id, "not_allowed")),
            (bearer(TOKEN), opens(Credential::WebhookToken, "trusted mine", "not_allowed")),
            (bearer("a.b.c"), opens(Credential::OwnersToken, "owner a.b.c", "not_for_owners")),
            (bearer(OPERATORS_TOKEN), opens(Credential::OperatorsToken, "operator ada", "not_allowed")),
            (bearer(API_KEY), opens(Credential::ApiKey, "tenant", "not_for_keys")),
        ] {
            assert_eq!(admitted(&settings, route, &shown), expected, "{route:?}");
        }
    }
}

#[test]
fn an_invalid_credential_is_refused_by_name_on_every_route() {
    let settings = settings(true);
    let basic = |value| headers(&[("authorization", value)]);
    let (late, early) = (NOW_S - TOLERANCE_S - 1, NOW_S + TOLERANCE_S + 1);
    let signed_at = |second: u64| {
        let mut shown = signed(SIGNATURE);
        shown.insert("webhook-timestamp", second.to_string().parse().unwrap());
        shown
    };
    for route in ROUTES {
        for (shown, reason) in [
            (headers(&[]), "no_signature"),
            (basic("Basic YWJjOmRlZg=="), "malformed_header"),
            (basic("Bearer"), "malformed_header"),
            (bearer("a-token-of-16-char"), "wrong_token"),
            (bearer("a-token-of-16-charss"), "wrong_token"),
            (bearer(&OPERATORS_TOKEN[1..]), "wrong_token"),
            (bearer("ada:0123456789abcdef0123456789abcdef"), "wrong_token"),
            (bearer("a.b"), "wrong_token"),
            (bearer("ek_short"), "wrong_token"),
            (signed("v1,AAAA"), "wrong_signature"),
            (signed_at(late), "too_old"),
            (signed_at(early), "from_the_future"),
        ] {
            assert_eq!(admitted(&settings, route, &shown), Err(reason.to_owned()), "{route:?} {shown:?}");
        }
    }
}

#[test]
fn a_correct_token_does_not_make_up_for_a_wrong_signature() {
    for token in [TOKEN, OPERATORS_TOKEN, API_KEY, "a.b.c"] {
        let mut shown = signed("v1,AAAA");
        shown.append("authorization", HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
        for route in ROUTES {
            assert_eq!(admitted(&settings(true), route, &shown), Err("wrong_signature".to_owned()));
        }
    }
}

#[test]
fn a_repeated_header_is_refused_even_if_both_values_are_correct() {
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature", "authorization"] {
        let mut shown = signed(SIGNATURE);
        shown.append("authorization", HeaderValue::from_static("Bearer a-token-of-16-chars"));
        let again = shown.get(name).unwrap().clone();
        shown.append(name, again);
        let refused = admitted(&settings(false), Route::ExecuteTrade, &shown);
        assert_eq!(refused, Err("repeated_header".to_owned()), "{name}");
    }
}

#[test]
fn a_scheme_may_have_any_case_and_owners_tokens_are_refused_without_a_ledger() {
    let shown = headers(&[("authorization", &format!("bEARER {TOKEN}"))]);
    assert_eq!(admitted(&settings(false), Route::ExecuteTrade, &shown), Ok("trusted ".to_owned()));
    let refused = admitted(&settings(false), Route::RequestJob(RequestKind::Trade), &bearer("a.b.c"));
    assert_eq!(refused, Err("wrong_token".to_owned()));
}

#[test]
fn only_an_operators_token_names_an_operator_on_a_route_without_credentials() {
    let settings = settings(true);
    assert_eq!(operator(&settings, &bearer(OPERATORS_TOKEN)), Some("ada"));
    let mut twice = bearer(OPERATORS_TOKEN);
    twice.append("authorization", HeaderValue::from_static("Bearer a-token-of-16-chars"));
    for other in [headers(&[]), bearer(TOKEN), bearer("a.b.c"), signed(SIGNATURE), twice] {
        assert_eq!(operator(&settings, &other), None);
    }
}

proptest! {
    #[test]
    fn any_authorization_is_answered_without_a_panic(authorization in "[ -~]{0,60}") {
        let shown = headers(&[("authorization", &authorization)]);
        for route in ROUTES {
            prop_assert!(admitted(&settings(false), route, &shown).is_err());
        }
    }
}
