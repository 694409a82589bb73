//! The settings of the workflows that Inngest drives.

use super::{Reader, table::*, variant};
use crate::{
    domain::{
        account::{DefaultAgent, check_wallet_address},
        amount::Amount,
        bet::Side,
        deposit::check_agent_id,
    },
    endpoint::BaseUrl,
    webhook::{purple_flea::SigningSecret, signature::Secret},
};

/// The settings of the workflows.
#[derive(Debug, Clone, Default)]
pub struct Workflows {
    /// The agent whose money they move, and its wallet.
    pub agent: DefaultAgent,
    /// Where `log-trade` posts each trade to.
    pub log: Option<Log>,
    /// The bet of `scheduled-bet`.
    pub bet: Option<ScheduledBet>,
    /// The secret of Purple Flea's own webhooks.
    pub signing_secret: Option<SigningSecret>,
}

/// The receiver of `log-trade`.
#[derive(Debug, Clone)]
pub struct Log {
    /// The address.
    pub url: BaseUrl,
    /// The secret that signs the posts.
    pub secret: Option<Secret>,
}

/// The bet of `scheduled-bet`.
#[derive(Debug, Clone)]
pub struct ScheduledBet {
    /// When: a cron expression.
    pub cron: String,
    /// The side of the coin.
    pub side: Side,
    /// The wager, in US dollars.
    pub wager: Amount,
}

impl<F: Fn(&'static str) -> Option<String>> Reader<F> {
    /// Reads the workflows' settings. `need_an_agent` says that Inngest calls workflows that move money.
    /// `can_forward` says that there are a ledger and Inngest.
    pub(super) fn workflows(&mut self, need_an_agent: bool, can_forward: bool) -> Option<Workflows> {
        let agent_id = |text: &str| check_agent_id(text.to_owned()).ok();
        let wallet = |text: &str| check_wallet_address(text.to_owned()).ok();
        // `default_agent` refuses wrong aliases.
        let alias = self.text(AGENT_ID).as_deref().and_then(agent_id);
        let address_alias = self.text(AGENT_WALLET).as_deref().and_then(wallet);
        let id = self.optional(INNGEST_AGENT_ID, agent_id);
        let address = self.optional(INNGEST_AGENT_WALLET, wallet);
        let url = self.optional(INNGEST_LOG_URL, BaseUrl::parse);
        let secret = self.optional(INNGEST_LOG_SECRET, Secret::parse);
        let bet = self.scheduled_bet();
        let signing_secret = self.optional(PURPLE_FLEA_SIGNING_SECRET, SigningSecret::parse);
        let agent = DefaultAgent { id: id?.or(alias), wallet_address: address?.or(address_alias) };
        if need_an_agent && agent.id.is_none() {
            self.refuse(INNGEST_AGENT_ID, "set, because Inngest drives workflows that move an agent's money");
            return None;
        }
        let (secret, signing_secret) = (secret?, signing_secret?);
        if signing_secret.is_some() && !can_forward {
            self.refuse(
                PURPLE_FLEA_SIGNING_SECRET,
                "empty without a ledger and Inngest: a confirmation would have nowhere to go",
            );
            return None;
        }
        let log = url?.map(|url| Log { url, secret });
        Some(Workflows { agent, log, bet: bet?, signing_secret })
    }

    fn scheduled_bet(&mut self) -> Option<Option<ScheduledBet>> {
        let cron = self.optional(INNGEST_BET_CRON, cron);
        let side = self.required(INNGEST_BET_SIDE, variant::<Side>);
        let wager = self.optional(INNGEST_BET_WAGER, |text| {
            text.parse().ok().filter(|wager: &Amount| *wager > Amount::ZERO && wager.is_whole_cents())
        });
        match (cron?, side?, wager?) {
            (None, ..) => Some(None),
            (Some(cron), side, Some(wager)) => Some(Some(ScheduledBet { cron, side, wager })),
            (Some(_), _, None) => {
                self.refuse(INNGEST_BET_WAGER, "set, because `inngest_bet_cron` is set");
                None
            }
        }
    }
}

/// Reads a cron expression of five fields. Inngest checks their values.
fn cron(text: &str) -> Option<String> {
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let plain = |field: &&str| field.bytes().all(|b| b.is_ascii_alphanumeric() || b"*,-/".contains(&b));
    (fields.len() == 5 && fields.iter().all(plain)).then(|| fields.join(" "))
}
