//! Decides which caller may call which route.
//!
//! A caller shows one credential. [`credentials_for`] is the matrix of routes and credentials, and [`admit`]
//! is the only function that reads it. The reply does not reveal why a caller is refused. The log does, by
//! [`Refusal::name`].

use super::{problem::Problem, refusal::Refusal, route::Route};
use crate::{
    config::Settings,
    domain::{api_key::ApiKey, job::Subject},
    endpoint::Key,
    inngest::{Inngest, signing},
    ledger::{Ledger, rpc::LedgerError},
    runtime::Runtime,
    webhook::{
        credentials::{Credentials, Token, owners_token},
        signature,
    },
};
use http::{HeaderMap, HeaderName, Method, header::AUTHORIZATION, request::Parts};
use std::time::SystemTime;

/// A kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// A Standard Webhooks signature with one of `webhook_secrets`.
    Signature,
    /// The bearer token `webhook_token`.
    WebhookToken,
    /// The Supabase JWT of a signed-in user, the owner. Only the database can check it.
    OwnersToken,
    /// One of `operator_tokens`.
    OperatorsToken,
    /// The API key of a tenant. Only the ledger can check it, and does so with the call that it is shown for.
    ApiKey,
    /// Inngest's signature with `inngest_signing_key` or its fallback. A development server's calls have none, and a `PUT`
    /// needs none.
    InngestSignature,
    /// Purple Flea's signature with `purple_flea_signing_secret`.
    PurpleFleasSignature,
}

/// Returns the credentials that open a route. `/health` needs none.
pub fn credentials_for(route: Route) -> &'static [Credential] {
    use Credential::{
        ApiKey, InngestSignature, OperatorsToken, OwnersToken, PurpleFleasSignature, Signature, WebhookToken,
    };
    match route {
        Route::ExecuteTrade => &[Signature, WebhookToken],
        Route::RequestJob(_) | Route::Signals => &[Signature, WebhookToken, OwnersToken],
        Route::Heartbeat => &[OwnersToken],
        Route::Reconcile => &[Signature, WebhookToken],
        Route::OperatorStatus | Route::Operate => &[OperatorsToken],
        Route::Events | Route::Record => &[ApiKey],
        Route::Inngest => &[InngestSignature],
        Route::PurpleFleaWebhook => &[PurpleFleasSignature],
        Route::Health => &[],
    }
}

/// A caller whose credential opens the route.
#[derive(Debug)]
pub enum Caller<'a> {
    /// The caller shows a signature or the webhook token. It may act for every agent.
    Trusted {
        /// The `webhook-id` header. A signed request always has one.
        webhook_id: Option<String>,
    },
    /// The caller shows an owner's token. [`check_owner`] has to check it.
    Owner {
        /// The `webhook-id` header.
        webhook_id: Option<String>,
        /// The token.
        token: Key,
    },
    /// The caller shows an operator's token.
    Operator {
        /// The operator's name.
        name: &'a str,
    },
    /// The caller shows an API key. The ledger has to check it.
    Tenant {
        /// The key.
        key: ApiKey,
    },
}

/// Admits a caller, or refuses it: with 401 if the credential is not known, with 403 if it is known but does
/// not open this route.
///
/// Only the database can check an owner's token or an API key. A route that is not open to them refuses both with 401,
/// without a query.
pub fn admit<'a>(
    settings: &'a Settings,
    route: Route,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> Result<Caller<'a>, Problem> {
    let (credential, caller) = authenticate(settings, headers, body, now)?;
    if credentials_for(route).contains(&credential) {
        return Ok(caller);
    }
    Err(match credential {
        Credential::OwnersToken => Refusal::NotForOwners.into(),
        Credential::ApiKey => Refusal::NotForKeys.into(),
        _ => Problem::NotAllowed,
    })
}

/// Admits a request of Inngest's, or refuses it with 401. Returns the settings of Inngest, and whether the request is signed.
///
/// No other credential opens the route. A `PUT` asks the function to register what its settings name, where they say:
/// Inngest's own server sends it unsigned. A signature that is shown has to be right all the same.
pub fn inngest<'a>(
    settings: &'a Settings,
    head: &Parts,
    body: &[u8],
    now: SystemTime,
) -> Result<(&'a Inngest, bool), Refusal> {
    let inngest = settings.inngest.as_ref().filter(|inngest| inngest.may_call());
    let inngest = inngest.ok_or(Refusal::InngestNotConfigured)?;
    let headers = &head.headers;
    if headers.get_all(signing::SIGNATURE).iter().nth(1).is_some() {
        return Err(Refusal::RepeatedHeader);
    }
    let now_s = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match signing::verify(&inngest.keys, headers, body, now_s) {
        Ok(()) => Ok((inngest, true)),
        // A development server may send a signature that nothing here can check.
        Err(_) if inngest.is_dev && inngest.keys.is_empty() => Ok((inngest, false)),
        Err(signing::SignatureError::Missing) if inngest.is_dev || head.method == Method::PUT => {
            Ok((inngest, false))
        }
        Err(error) => Err(Refusal::Inngest(error)),
    }
}

/// Admits one of Purple Flea's own webhooks, or refuses it with 401. No other credential opens the route.
pub fn purple_flea(
    settings: &Settings,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> Result<(), Refusal> {
    let now_s = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let secret = settings.workflows.signing_secret.as_ref().ok_or(Refusal::PurpleFlea)?;
    if secret.verifies(headers, body, now_s) { Ok(()) } else { Err(Refusal::PurpleFlea) }
}

/// Returns the operator whose token a request shows, on a route that needs no credential.
pub fn operator<'a>(settings: &'a Settings, headers: &HeaderMap) -> Option<&'a str> {
    refuse_repeated_headers(headers).ok()?;
    settings.credentials.operators.name_of(&Token::digest(bearer(headers).ok()?))
}

/// Queries the database once whether the token's owner may act for the agent.
pub async fn check_owner(
    ledger: &Ledger,
    token: &Key,
    subject: &Subject,
    runtime: &impl Runtime,
) -> Result<(), Problem> {
    match ledger.may_act_for(token, subject, runtime).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Problem::NotYours),
        Err(error) => Err(of_owners_call(error)),
    }
}

/// Returns the problem of a call that the database refused with an owner's token.
pub fn of_owners_call(error: LedgerError) -> Problem {
    match error {
        // The token's role may not call the function, or the agent is another owner's.
        LedgerError::RefusedUs(403) => Problem::NotYours,
        LedgerError::RefusedUs(401) | LedgerError::TokenRefused(_) => Refusal::TokenRefused.into(),
        error => error.into(),
    }
}

/// Recognises the caller by its `webhook-signature` or, without that header, by its bearer token.
fn authenticate<'a>(
    settings: &'a Settings,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> Result<(Credential, Caller<'a>), Refusal> {
    refuse_repeated_headers(headers)?;
    let Credentials { secrets, token: webhook_token, operators } = &settings.credentials;
    let webhook_id = signature::webhook_id(headers);
    if headers.contains_key(signature::SIGNATURE) {
        let now_s = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        signature::verify(secrets, headers, body, now_s)?;
        return Ok((Credential::Signature, Caller::Trusted { webhook_id }));
    }
    let shown = bearer(headers)?;
    let digest = Token::digest(shown);
    if webhook_token.as_ref().is_some_and(|token| token.equals(&digest)) {
        return Ok((Credential::WebhookToken, Caller::Trusted { webhook_id }));
    }
    if let Some(name) = operators.name_of(&digest) {
        return Ok((Credential::OperatorsToken, Caller::Operator { name }));
    }
    if let Some(key) = ApiKey::parse(shown) {
        return Ok((Credential::ApiKey, Caller::Tenant { key }));
    }
    match owners_token(shown) {
        // Without a ledger nothing can check the token.
        Some(token) if settings.ledger.is_some() => {
            Ok((Credential::OwnersToken, Caller::Owner { webhook_id, token }))
        }
        _ => Err(Refusal::WrongToken),
    }
}

fn refuse_repeated_headers(headers: &HeaderMap) -> Result<(), Refusal> {
    let repeated = |name: &HeaderName| headers.get_all(name).iter().nth(1).is_some();
    let names = [signature::ID, signature::TIMESTAMP, signature::SIGNATURE, AUTHORIZATION];
    if names.iter().any(repeated) { Err(Refusal::RepeatedHeader) } else { Ok(()) }
}

fn bearer(headers: &HeaderMap) -> Result<&[u8], Refusal> {
    let authorization = headers.get(AUTHORIZATION).ok_or(Refusal::Missing)?;
    let (scheme, token) = authorization.as_bytes().split_at_checked(7).ok_or(Refusal::MalformedHeader)?;
    if scheme.eq_ignore_ascii_case(b"bearer ") {
        Ok(token.trim_ascii())
    } else {
        Err(Refusal::MalformedHeader)
    }
}

#[cfg(test)]
mod tests;
