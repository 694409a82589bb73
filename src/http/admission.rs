//! Decides which caller may call which route.
//!
//! A caller shows one credential. [`opened_by`] is the matrix: it names the credentials that open each route, and
//! [`admit`] is the only function that reads it. The reply to a refused caller never says what was wrong; the log
//! does, by [`Refusal::name`].

use super::{problem::Problem, refusal::Refusal, route::Route};
use crate::{
    config::Settings,
    domain::job::Subject,
    endpoint::Key,
    ledger::{Ledger, rpc::LedgerError},
    runtime::Runtime,
    webhook::{
        credentials::{Credentials, Token, owners_token},
        signature,
    },
};
use http::{HeaderMap, HeaderName, header::AUTHORIZATION};
use std::time::SystemTime;

/// What a caller can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// A Standard Webhooks signature with one of `webhook_secrets`.
    Signature,
    /// The bearer token `webhook_token`.
    WebhookToken,
    /// The Supabase JWT of a signed-in user. Only the database can check it.
    OwnersToken,
    /// One of `operator_tokens`.
    OperatorsToken,
}

/// The matrix: the credentials that open a route. `/health` needs none.
pub fn opened_by(route: Route) -> &'static [Credential] {
    use Credential::{OperatorsToken, OwnersToken, Signature, WebhookToken};
    match route {
        Route::ExecuteTrade => &[Signature, WebhookToken],
        Route::RequestJob(_) => &[Signature, WebhookToken, OwnersToken],
        Route::Reconcile => &[Signature, WebhookToken],
        Route::OperatorStatus | Route::Operate => &[OperatorsToken],
        Route::Health => &[],
    }
}

/// A caller with a credential that opens the route.
#[derive(Debug)]
pub enum Caller<'a> {
    /// Shows a signature or the webhook token, and may act for every agent.
    Trusted {
        /// The `webhook-id` that was sent; always there when the call is signed.
        webhook_id: Option<String>,
    },
    /// Shows a user's token, which [`check_owner`] has to check.
    Owner {
        /// The `webhook-id` that was sent.
        webhook_id: Option<String>,
        /// The token.
        token: Key,
    },
    /// Shows an operator's token.
    Operator {
        /// The operator's name.
        name: &'a str,
    },
}

/// Lets a caller in, or says why not: 401 for a credential that is not known, 403 for one that is, but does not open
/// this route. A user's token can only be known by asking the database, so on a route that is not for users it gets
/// 401 without a question.
pub fn admit<'a>(
    settings: &'a Settings,
    route: Route,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> Result<Caller<'a>, Problem> {
    let (credential, caller) = recognise(settings, headers, body, now)?;
    if opened_by(route).contains(&credential) {
        Ok(caller)
    } else if credential == Credential::OwnersToken {
        Err(Refusal::NotForOwners.into())
    } else {
        Err(Problem::NotAllowed)
    }
}

/// The operator whose token a request shows, on a route that is open to everybody.
pub fn operator<'a>(settings: &'a Settings, headers: &HeaderMap) -> Option<&'a str> {
    refuse_repeated(headers).ok()?;
    settings.credentials.operators.name_of(&Token::shown(bearer(headers).ok()?))
}

/// Asks the database, once, whether the user whose token this is may act for the agent.
pub async fn check_owner(
    ledger: &Ledger,
    token: &Key,
    subject: &Subject,
    runtime: &impl Runtime,
) -> Result<(), Problem> {
    match ledger.may_act_for(token, subject, runtime).await {
        Ok(true) => Ok(()),
        // Of a role that may not even ask.
        Ok(false) | Err(LedgerError::RefusedUs(403)) => Err(Problem::NotYours),
        Err(LedgerError::RefusedUs(401)) => Err(Refusal::TokenRefused.into()),
        Err(error) => Err(error.into()),
    }
}

/// A `webhook-signature` decides, where there is one; only without it is a bearer token looked at.
fn recognise<'a>(
    settings: &'a Settings,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> Result<(Credential, Caller<'a>), Refusal> {
    refuse_repeated(headers)?;
    let Credentials { secrets, token: ours, operators } = &settings.credentials;
    let webhook_id = signature::webhook_id(headers);
    if headers.contains_key(signature::SIGNATURE) {
        let now_s = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        signature::verify(secrets, headers, body, now_s)?;
        return Ok((Credential::Signature, Caller::Trusted { webhook_id }));
    }
    let shown = bearer(headers)?;
    let digest = Token::shown(shown);
    if ours.as_ref().is_some_and(|ours| ours.is(&digest)) {
        return Ok((Credential::WebhookToken, Caller::Trusted { webhook_id }));
    }
    if let Some(name) = operators.name_of(&digest) {
        return Ok((Credential::OperatorsToken, Caller::Operator { name }));
    }
    match owners_token(shown) {
        // Without a ledger nothing could check it.
        Some(token) if settings.ledger.is_some() => {
            Ok((Credential::OwnersToken, Caller::Owner { webhook_id, token }))
        }
        _ => Err(Refusal::WrongToken),
    }
}

fn refuse_repeated(headers: &HeaderMap) -> Result<(), Refusal> {
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
