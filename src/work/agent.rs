//! What is done for an agent beside its bets: its registration, its faucet claims, a look at its balance. Each may be
//! asked for again without harm.

use super::{Kind, Means, out_of_time};
use crate::{
    ending::{
        Ending,
        done::{Asked, Done},
    },
    outside::Outside,
    purple_flea::{AccountKey, Api, accounts::Registered},
    skip::Skip,
};
use serde::{Deserialize, Serialize};

/// What a caller names: an agent.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRow {
    /// Which.
    pub agent_id: String,
}

/// An errand for an agent.
#[derive(Debug)]
pub struct Errand {
    /// For whom.
    pub agent_id: String,
    /// Which: a registration, one of the faucet's claims or a look at the balance.
    pub kind: Kind,
    /// The code of who brought the agent in.
    pub referral_code: Option<String>,
    /// Whether all that the account can hold is what the faucet gave: we registered it, and nothing has come since.
    pub fresh: bool,
}

impl Errand {
    /// Runs it.
    pub async fn run(&self, means: &Means<'_, impl Outside>) -> Ending {
        let Self { agent_id, kind, referral_code, fresh } = self;
        if !means.in_time() {
            return out_of_time(agent_id);
        }
        let Means { purple_flea, account, bet_key, outside, .. } = *means;
        let referral_code = referral_code.as_deref();
        let mut secret = None;
        let done = match kind {
            Kind::Registration if matches!(account.key, AccountKey::Own(_)) => {
                // It came meanwhile. Another would take its place, and its account would be out of reach.
                return Ending::skipped(agent_id, Skip::KeyIsThere);
            }
            Kind::Registration => {
                let registered = purple_flea.register(account, referral_code, bet_key, outside).await;
                registered.map(|Registered { account, referral_code, key }| {
                    secret = Some(key);
                    Done::Registration { account, referral_code }
                })
            }
            Kind::Faucet => {
                let claimed =
                    purple_flea.claim_faucet(account, referral_code, *fresh, bet_key, outside).await;
                claimed.map(Done::Faucet)
            }
            Kind::DailyClaim if purple_flea.api == Api::Live => {
                return Ending::skipped(agent_id, Skip::NoDailyClaim);
            }
            Kind::DailyClaim => purple_flea.claim_daily(account, bet_key, outside).await.map(Done::Faucet),
            _ => purple_flea.balance(account, outside).await.map(|balance| Done::Balance { balance }),
        };
        match done {
            Ok(done) => Ending::Executed { agent_id: agent_id.clone(), done, secret },
            Err(failure) => Ending::failed(agent_id, Asked::Other {}, failure),
        }
    }
}
