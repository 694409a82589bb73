//! Keeps an account's statement, and serves it as `GET /api/v1/auth/ledger` (purple-flea.md, section 2). A caller finds
//! there an escrow whose reply was lost, and the earnings that no reply tells.

use super::{
    State,
    answer::{Said, iso_seconds, ok},
    call::Call,
    money::plain,
};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

/// The most lines that an account keeps, and that a reply lists.
const LINES_LIMIT: usize = 50;

/// The most lines that a balance's reply lists.
pub(super) const ACTIVITY_LIMIT: usize = 10;

/// The cause of a movement of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Deposit,
    Stake,
    Win,
    Faucet,
    Daily,
    EscrowLock,
    /// The record of an escrow could not be written, so its creator was paid back.
    EscrowFailed,
    EscrowRelease,
    EscrowTimeout,
    /// The gateway's cancellation. The real servers have none.
    EscrowCancel,
    EscrowReferral,
    /// A referred agent has lost a bet. The number is the referrer's distance from that agent.
    Referral(u8),
}

impl Why {
    /// Gives the reason, the end of the reference and the service of a line.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Deposit => ("deposit", "", "deposit"),
            Self::Stake => ("reservation", "", "casino"),
            Self::Win => ("reservation_release", "", "casino"),
            Self::Faucet => ("faucet_claim: $1 free credits", "", "faucet"),
            Self::Daily => ("daily_bonus", "", "casino"),
            Self::EscrowLock => ("escrow_lock: ", "", "escrow"),
            Self::EscrowFailed => ("escrow_create_failed_refund: ", "_refund", "escrow"),
            Self::EscrowRelease => ("escrow_release: ", "_release", "escrow"),
            Self::EscrowTimeout => ("escrow_timeout_refund: ", "_timeout", "escrow"),
            Self::EscrowCancel => ("escrow_cancel_refund: ", "_cancel", "escrow"),
            Self::EscrowReferral => ("escrow_referral_commission: ", "_refcom", "escrow"),
            Self::Referral(1) => ("referral_commission_l1:", "", "casino"),
            Self::Referral(2) => ("referral_commission_l2:", "", "casino"),
            Self::Referral(_) => ("referral_commission_l3:", "", "casino"),
        }
    }
}

/// A movement of money.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// The number of the movement on this account.
    number: u64,
    amount: Decimal,
    balance_after: Decimal,
    why: Why,
    /// The id of the bet, the escrow or the claim.
    subject: String,
    at: SystemTime,
}

impl Line {
    fn direction(&self) -> &'static str {
        if self.amount < Decimal::ZERO { "debit" } else { "credit" }
    }

    /// Gives the reason. Some reasons contain the subject's id.
    fn reason(&self) -> String {
        let (reason, ..) = self.why.words();
        if reason.ends_with([' ', ':']) { format!("{reason}{}", self.subject) } else { reason.to_owned() }
    }

    /// Gives the reference: the subject's id with an ending. A commission of the casino has none.
    fn reference(&self) -> Option<String> {
        let (_, ending, _) = self.why.words();
        (!matches!(self.why, Why::Referral(_))).then(|| format!("{}{ending}", self.subject))
    }

    /// Gives the line's id: the reference with an ending, or else a number.
    fn id(&self) -> String {
        let (.., service) = self.why.words();
        match (service, self.reference()) {
            ("escrow", Some(reference)) => format!("{reference}_{}", self.direction()),
            ("faucet", Some(reference)) => format!("{reference}_ledger"),
            _ => format!("00000000-0000-4000-9000-{:012x}", self.number),
        }
    }
}

/// An account's last movements, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Statement {
    lines: VecDeque<Line>,
    count: u64,
}

impl Statement {
    pub(super) fn add(
        &mut self,
        (amount, balance_after): (Decimal, Decimal),
        why: Why,
        subject: &str,
        at: SystemTime,
    ) {
        self.count += 1;
        self.lines.truncate(LINES_LIMIT - 1);
        let line = Line { number: self.count, amount, balance_after, why, subject: subject.to_owned(), at };
        self.lines.push_front(line);
    }

    /// Lists the last movements as a balance's reply does, without their references.
    pub(super) fn activity(&self) -> Vec<Value> {
        let shown = |line: &Line| {
            json!({
                "type": line.direction(), "amount": plain(line.amount.abs()),
                "balance_after": plain(line.balance_after), "reason": line.reason(),
                "service": line.why.words().2, "at": iso_seconds(line.at),
            })
        };
        self.lines.iter().take(ACTIVITY_LIMIT).map(shown).collect()
    }

    /// Lists the last movements as the ledger's reply does.
    fn entries(&self, agent_id: &str) -> Vec<Value> {
        let shown = |line: &Line| {
            let since = line.at.duration_since(UNIX_EPOCH).unwrap_or_default();
            json!({
                "id": line.id(), "agentId": agent_id, "type": line.direction(),
                "amount": plain(line.amount.abs()), "balanceAfter": plain(line.balance_after),
                "reason": line.reason(), "reference": line.reference(), "service": line.why.words().2,
                "createdAt": since.as_secs(), "at": iso_seconds(line.at),
            })
        };
        self.lines.iter().map(shown).collect()
    }
}

/// Serves `GET /api/v1/auth/ledger`: the last 50 movements of the key's owner, newest first. The real server orders the
/// movements of one second arbitrarily.
pub(super) fn ledger(state: &mut State, call: &Call<'_>) -> Said {
    let account = state.accounts.open(&call.agent_id);
    ok(json!({ "entries": account.statement.entries(&account.agent_id) }))
}

#[cfg(test)]
mod tests {
    use crate::{
        LIVE_AGENT, State,
        testing::{THEM, as_agent, funded, get, last, post},
    };
    use http::Method;
    use serde_json::{Value, json};
    use std::time::Duration;

    const LEDGER: &str = "/api/v1/auth/ledger";

    /// Gives some fields of every line on an agent's ledger, newest first.
    fn lines(state: &mut State, agent: &str, fields: &[&str]) -> Vec<Vec<Value>> {
        let key = state.accounts.give_key(agent, "sk_live_");
        let (status, reply) = as_agent(state, &key, Method::GET, LEDGER, "");
        assert_eq!(status, 200, "{reply}");
        let entries = reply["entries"].as_array().unwrap();
        entries.iter().map(|entry| fields.iter().map(|name| entry[*name].clone()).collect()).collect()
    }

    #[test]
    fn a_line_has_the_real_ledgers_fields_and_a_positive_amount() {
        let mut state = funded();
        let bet = r#"{"side":"heads","amount":1.5,"client_seed":"x"}"#;
        assert_eq!(post(&mut state, "/api/v1/games/coin-flip", bet).0, 200);
        let bet_id = last(&mut state).bet.bet_id.clone();
        let (_, reply) = get(&mut state, LEDGER);
        let entries = reply["entries"].as_array().unwrap();
        let stake = entries.iter().find(|entry| entry["reason"] == "reservation").unwrap();
        let names: Vec<_> = stake.as_object().unwrap().keys().map(String::as_str).collect();
        let documented = [
            "agentId",
            "amount",
            "at",
            "balanceAfter",
            "createdAt",
            "id",
            "reason",
            "reference",
            "service",
            "type",
        ];
        assert_eq!(names, documented);
        assert_eq!((&stake["agentId"], &stake["reference"]), (&json!(LIVE_AGENT), &json!(bet_id)));
        assert_eq!((&stake["type"], &stake["service"]), (&json!("debit"), &json!("casino")));
        let money = (stake["amount"].to_string(), stake["balanceAfter"].to_string());
        assert_eq!(money, ("1.5".to_owned(), "998.5".to_owned()));
        let at = stake["at"].as_str().unwrap();
        assert!(stake["createdAt"].is_u64() && at.ends_with(".000Z"), "{stake}");
        let (status, refused) = as_agent(&mut state, "", Method::GET, LEDGER, "");
        assert_eq!((status, &refused["error"]), (401, &json!("unauthorized")));
    }

    #[test]
    fn an_escrow_is_found_by_the_line_of_its_money_and_its_end_by_another() {
        let mut state = funded();
        let boss = state.accounts.open("boss").referral_code.clone();
        let made = |state: &mut State| {
            let body = json!({
                "amount_usd": 10, "description": "A logo", "counterparty_agent_id": THEM,
                "referral_code": boss, "timeout_hours": 1,
            });
            let (_, reply) = post(state, "/escrow/create", &body.to_string());
            reply["escrow_id"].as_str().unwrap().to_owned()
        };
        let (released, refunded) = (made(&mut state), made(&mut state));
        assert_eq!(post(&mut state, &format!("/escrow/release/{released}"), "").0, 200);
        state.clock_ahead += Duration::from_secs(3_600);
        let fields = ["reason", "reference", "type", "service"];
        let ours = lines(&mut state, LIVE_AGENT, &fields);
        let line = |reason: &str, id: &str, ending: &str, kind: &str| {
            let words =
                [format!("{reason}: {id}"), format!("{id}{ending}"), kind.to_owned(), "escrow".to_owned()];
            words.map(Value::from).to_vec()
        };
        let refund = line("escrow_timeout_refund", &refunded, "_timeout", "credit");
        let locks = [&refunded, &released].map(|id| line("escrow_lock", id, "", "debit"));
        assert_eq!(ours[..3], [&[refund], &locks[..]].concat());
        let theirs = lines(&mut state, THEM, &fields);
        assert_eq!(theirs[0], line("escrow_release", &released, "_release", "credit"));
        let earned = lines(&mut state, "boss", &fields);
        let commission = |id| line("escrow_referral_commission", id, "_refcom", "credit");
        assert_eq!(earned, [commission(&refunded), commission(&released)]);
    }

    #[test]
    fn an_internal_error_over_an_escrows_record_leaves_two_lines() {
        let mut state = funded();
        let body = r#"{"amount_usd":5,"description":"abc","counterparty_agent_id":"ag_them","timeout_hours":"soon"}"#;
        assert_eq!(post(&mut state, "/escrow/create", body).0, 500);
        let lines = lines(&mut state, LIVE_AGENT, &["type", "amount", "id"]);
        let id = |ending: &str| json!(format!("esc_0000000000000001{ending}"));
        assert_eq!(lines[0], [json!("credit"), json!(5), id("_refund_credit")]);
        assert_eq!(lines[1], [json!("debit"), json!(5), id("_debit")]);
    }

    #[test]
    fn the_faucets_line_names_the_claim() {
        let mut state = funded();
        state.accounts.open("ag_new");
        let (_, reply) = post(&mut state, "/faucet/claim", r#"{"agent_casino_id":"ag_new"}"#);
        let lines = lines(&mut state, "ag_new", &["reason", "reference", "service"]);
        let expected = [json!("faucet_claim: $1 free credits"), reply["claim_id"].clone(), json!("faucet")];
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn a_reply_lists_the_last_fifty_lines() {
        let mut state = funded();
        for _ in 0..60 {
            post(&mut state, "/api/v1/games/coin-flip", r#"{"side":"heads","amount":1}"#);
        }
        let lines = lines(&mut state, LIVE_AGENT, &["reference", "id"]);
        assert_eq!((lines.len(), &lines[0][0]), (50, &json!(last(&mut state).bet.bet_id)));
        assert_ne!(lines[0][1], lines[1][1]);
    }
}
