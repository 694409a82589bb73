//! A deposit: by its agent's policy it is bet on, traded with, or left.

use super::{Means, out_of_time};
use crate::{
    ending::{
        Ending, Wait,
        done::{Asked, Done},
    },
    money::Amount,
    outside::Outside,
    policy::{Decision, Policy, Spent},
    purple_flea::{Api, reply::Failure},
    skip::Skip,
    webhook::event::WalletChange,
};

/// A deposit and the rules it is judged by; in ledger mode both as the database froze them.
#[derive(Debug)]
pub struct Case {
    /// The deposit's row.
    pub row: WalletChange,
    /// Its agent's policy.
    pub policy: Policy,
    /// What the agent has spent today, where the policy limits that.
    pub spent: Option<Spent>,
}

impl Case {
    /// Decides about the row, and stakes on it what is to be staked.
    pub async fn run(&self, means: &Means<'_, impl Outside>) -> Ending {
        let agent_id = &self.row.agent_id;
        let decision = self.policy.decide(&self.row, self.spent.as_ref());
        let (stake, asked) = match &decision {
            Decision::Skip(skip) => return Ending::skipped(agent_id, *skip),
            Decision::Paused => return Ending::waiting(agent_id, Wait::Paused),
            Decision::DailyLimitOpen => return Ending::waiting(agent_id, Wait::DailyLimitOpen),
            Decision::Bet(bet) => (bet.wager, Asked::from(bet)),
            Decision::Open(order) => (order.size, Asked::from(order)),
        };
        // Live trading holds no balance that could be asked for.
        let in_balance = means.purple_flea.api == Api::Gateway || matches!(decision, Decision::Bet(_));
        if self.policy.check_balance
            && in_balance
            && let Err(ending) = covered(agent_id, stake, &asked, means).await
        {
            return ending;
        }
        if !means.in_time() {
            return out_of_time(agent_id);
        }
        let Means { purple_flea, account, bet_key, outside, .. } = *means;
        let done = match decision {
            Decision::Bet(bet) => {
                let outcome = purple_flea.play(&bet, account, bet_key, outside).await;
                outcome.map(|outcome| Done::bet(&bet, &outcome, None))
            }
            Decision::Open(order) => {
                let fill = purple_flea.open(&order, account, bet_key, outside).await;
                fill.map(|fill| Done::trade(order, fill))
            }
            // Returned above.
            Decision::Skip(_) | Decision::Paused | Decision::DailyLimitOpen => {
                return Ending::waiting(agent_id, Wait::Paused);
            }
        };
        match done {
            Ok(done) => Ending::executed(agent_id, done),
            Err(failure) => Ending::failed(agent_id, asked, failure),
        }
    }
}

/// Whether the wallet holds so much; if not, or if nobody says, how that ends it.
async fn covered(
    agent_id: &str,
    stake: Amount,
    asked: &Asked,
    means: &Means<'_, impl Outside>,
) -> Result<(), Ending> {
    if !means.in_time() {
        return Err(out_of_time(agent_id));
    }
    let balance = means.purple_flea.balance(means.account, means.outside).await;
    let balance = balance.map_err(|failure| match failure {
        // What was not answered is the balance; the stake itself met no limit.
        Failure::RateLimited { .. } | Failure::NoAnswer(_) => {
            Ending::waiting(agent_id, Wait::BalanceNotKnown)
        }
        failure => Ending::failed(agent_id, asked.clone(), failure),
    })?;
    if balance < stake {
        let (agent_id, skip) = (agent_id.to_owned(), Skip::InsufficientBalance);
        return Err(Ending::Skipped { agent_id, skip, balance: Some(balance) });
    }
    Ok(())
}
