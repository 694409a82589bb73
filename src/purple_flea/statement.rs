//! The statement of an account in the `live` dialect: its last 50 movements of money, newest first. It proves
//! a credit whose reply the function did not get. A credit that is missing there proves nothing.

use super::{
    Call, PurpleFlea,
    reply::{ALREADY_CLAIMED, Field, amount},
};
use crate::{
    domain::{
        account::{Account, Credit},
        amount::Amount,
        failure::{Doubt, Failure},
    },
    runtime::Runtime,
};
use serde_json::Value;

/// The cause of a credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The faucet's first credit.
    Faucet,
    /// The casino's daily bonus.
    DailyBonus,
}

impl Cause {
    /// Returns the beginning of the reason that Purple Flea gives the movement.
    fn word(self) -> &'static str {
        match self {
            Self::Faucet => "faucet_claim",
            Self::DailyBonus => "daily_bonus",
        }
    }
}

impl PurpleFlea {
    /// Finds the newest credit of a cause in the statement of the key's account, and reads the balance if
    /// Purple Flea reports it.
    pub(super) async fn find_credit(
        &self,
        cause: Cause,
        account: &Account,
        runtime: &impl Runtime,
    ) -> Result<Option<Credit>, Failure> {
        let lines = self.statement(account, runtime).await?;
        let Some(credit) = lines.iter().find_map(|line| read_credit(cause, line)) else {
            return Ok(None);
        };
        Ok(Some(Credit { balance: self.balance(account, runtime).await.ok(), ..credit }))
    }

    /// Reads the lines of the statement of the key's account, newest first.
    pub(super) async fn statement(
        &self,
        account: &Account,
        runtime: &impl Runtime,
    ) -> Result<Vec<Value>, Failure> {
        let call = Call::get("/api/v1/auth/ledger".to_owned());
        let mut reply = self.call(&self.casino, account, call, runtime).await.map_err(Failure::retryable)?;
        match reply.get_mut("entries").map(Value::take) {
            Some(Value::Array(lines)) => Ok(lines),
            _ => Err(Failure::NoAnswer(Some(Doubt::Unrecognised))),
        }
    }
}

/// Reads a line, if it is a credit of the cause.
fn read_credit(cause: Cause, line: &Value) -> Option<Credit> {
    let text = |name: &str| line.get(name).and_then(Value::as_str);
    let is_credit = text("type") == Some("credit") && text("reason")?.starts_with(cause.word());
    let credited = line.get("amount").and_then(amount).filter(|credited| *credited > Amount::ZERO)?;
    is_credit.then(|| Credit {
        credited: Some(credited),
        claim_id: line.identifier(&["reference"]),
        reason: Some(ALREADY_CLAIMED),
        ..Credit::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_credit_of_the_cause_is_read_and_never_another_partys_money() {
        let line = |kind: &str, amount: i64, reason: &str| json!({"type": kind, "amount": amount, "reason": reason, "reference": "0b9d", "service": "x"});
        for other in [
            line("credit", 495, "escrow_release: esc_1"),
            line("credit", 1, "deposit"),
            line("debit", 1, "faucet_claim: $1 free credits"),
            line("credit", 0, "faucet_claim: $1 free credits"),
            line("credit", 1, "daily_bonus"),
            json!({"type": "credit", "amount": null, "reason": "faucet_claim"}),
            json!("faucet_claim"),
        ] {
            assert_eq!(read_credit(Cause::Faucet, &other), None, "{other}");
        }
        let credit = read_credit(Cause::Faucet, &line("credit", 1, "faucet_claim: $1 free credits"));
        assert_eq!(credit.and_then(|credit| credit.credited), Some(Amount::ONE));
        let bonus = read_credit(Cause::DailyBonus, &line("credit", 5, "daily_bonus")).unwrap();
        assert_eq!((bonus.claim_id.as_deref(), bonus.reason), (Some("0b9d"), Some("already_claimed")));
    }
}
