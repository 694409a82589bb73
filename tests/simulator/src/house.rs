//! Rolls for the house, and proves each roll (purple-flea.md, section 10).

use super::{
    LIVE_AGENT,
    money::{double, reported},
};
use fastrand::Rng;
use hmac::{Hmac, KeyInit, Mac};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// The house's edge in a crash game: five thousandths.
const EDGE: Decimal = Decimal::from_parts(5, 0, 0, false, 3);

/// The highest multiplier.
const CRASH_CAP: Decimal = Decimal::from_parts(10_000, 0, 0, false, 0);

/// The roll from which on the multiplier reaches its highest value.
const CAPPED_FROM: Decimal = Decimal::from_parts(9_999, 0, 0, false, 2);

/// [`LIVE_AGENT`]'s first server seed. So every simulator's first roll is the same.
const FIRST_SEED: &str = "simulator";

/// The seed from which all further server seeds are drawn, so that every run has the same ones.
const SEED_OF_SEEDS: u64 = 0x5EED;

/// The number of bets after which a seed is revealed and replaced.
const BETS_OF_A_SEED: u64 = 1_000;

/// Rolls by the real formula, HMAC-SHA256(server seed, client seed:nonce). Every agent has seeds of its own.
pub(super) struct House {
    /// Each agent's seeds. The last one is active.
    seeds: HashMap<String, Vec<Seed>>,
    chance: Rng,
}

/// A server seed, which decides an agent's bets until it is revealed.
#[derive(Debug, Clone)]
pub(super) struct Seed {
    pub(super) server_seed: String,
    /// The commitment to the seed.
    pub(super) hash: String,
    /// The number of bets that it has decided, which is the next bet's nonce.
    pub(super) bets: u64,
}

/// The proof of a roll. A caller can verify it once the server seed is revealed.
#[derive(Debug, Clone)]
pub(super) struct Proof {
    pub(super) server_seed_hash: String,
    /// The client seed in the caller's form: mostly a string.
    pub(super) client_seed: Value,
    pub(super) nonce: u64,
    pub(super) result_hash: String,
}

impl Default for House {
    fn default() -> Self {
        let first = HashMap::from([(LIVE_AGENT.to_owned(), vec![Seed::new(FIRST_SEED.to_owned())])]);
        Self { seeds: first, chance: Rng::with_seed(SEED_OF_SEEDS) }
    }
}

impl Seed {
    fn new(server_seed: String) -> Self {
        let hash = hex(&Sha256::digest(&server_seed));
        Self { server_seed, hash, bets: 0 }
    }

    /// Computes the hash that decides a bet.
    pub(super) fn result(&self, client_seed: &Value, nonce: u64) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.server_seed.as_bytes())
            .unwrap_or_else(|never| panic!("{never}"));
        mac.update(format!("{}:{nonce}", text(client_seed)).as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// Rolls by the next nonce. Gives the nonce, the roll and its hash.
    fn roll(&mut self, client_seed: &Value) -> (u64, Decimal, [u8; 32]) {
        let nonce = self.bets;
        self.bets += 1;
        let digest = self.result(client_seed, nonce);
        (nonce, roll_of(&digest), digest)
    }
}

impl House {
    /// Rolls 0.00 to 99.99 by an agent's seed, and gives the proof.
    pub(super) fn roll(&mut self, agent_id: &str, client_seed: Value) -> (Decimal, Proof) {
        if self.active(agent_id).bets >= BETS_OF_A_SEED {
            self.rotate(agent_id);
        }
        let seed = self.active(agent_id);
        let (nonce, roll, digest) = seed.roll(&client_seed);
        (roll, Proof { server_seed_hash: seed.hash.clone(), client_seed, nonce, result_hash: hex(&digest) })
    }

    /// Rolls once more for the same bet, by the next nonce of the same seed. No proof names this roll.
    pub(super) fn roll_again(&mut self, agent_id: &str, client_seed: &Value) -> Decimal {
        self.active(agent_id).roll(client_seed).1
    }

    /// Gives the seed that decides an agent's next bet.
    pub(super) fn active(&mut self, agent_id: &str) -> &mut Seed {
        let Self { seeds, chance } = self;
        let seeds = seeds.entry(agent_id.to_owned()).or_default();
        if seeds.is_empty() {
            seeds.push(drawn(chance));
        }
        let last = seeds.len() - 1;
        &mut seeds[last]
    }

    /// Reveals an agent's seed and takes another.
    pub(super) fn rotate(&mut self, agent_id: &str) -> Seed {
        let revealed = self.active(agent_id).clone();
        let next = drawn(&mut self.chance);
        self.seeds.entry(agent_id.to_owned()).or_default().push(next);
        revealed
    }

    /// Lists an agent's revealed seeds, in order.
    pub(super) fn revealed(&self, agent_id: &str) -> &[Seed] {
        let seeds = self.seeds.get(agent_id).map(Vec::as_slice).unwrap_or_default();
        seeds.split_last().map(|(_, revealed)| revealed).unwrap_or_default()
    }
}

/// Gives the roll that a hash decides: its first 8 hexadecimal digits, as hundredths.
pub(super) fn roll_of(digest: &[u8; 32]) -> Decimal {
    let first = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    Decimal::new(i64::from(first % 10_000), 2)
}

/// Draws 32 random bytes, as hexadecimal digits.
fn drawn(chance: &mut Rng) -> Seed {
    let mut bytes = [0; 32];
    chance.fill(&mut bytes);
    Seed::new(hex(&bytes))
}

impl Proof {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "server_seed_hash": self.server_seed_hash, "client_seed": self.client_seed, "nonce": self.nonce,
            "result_hash": self.result_hash,
        })
    }
}

/// Computes the multiplier of the crash from a roll.
pub(super) fn crash_point(roll: Decimal) -> Decimal {
    if roll >= CAPPED_FROM {
        return CRASH_CAP;
    }
    reported((1.0 - double(EDGE)) / (1.0 - double(roll) / 100.0))
}

/// Deals a card by a roll, in doubles as the released servers do: 1, the ace, to 13, the king.
pub(super) fn card(roll: Decimal) -> i64 {
    (double(roll) * 100_000.0).floor() as i64 % 13 + 1
}

/// Computes what a right guess pays per dollar, by the first card and the number of the cards that would be right.
pub(super) fn hi_lo_multiplier(right_cards: i64) -> f64 {
    let probability = (right_cards as f64 / 12.0).clamp(0.01, 0.99);
    (1.0 / probability * (1.0 - 0.04)).clamp(1.05, 12.0)
}

/// Computes the probability that the multiplier reaches a cash-out.
pub(super) fn win_probability(cash_out_at: Decimal) -> Decimal {
    (Decimal::ONE - EDGE) / cash_out_at
}

/// Writes a value as JavaScript does in a text: a string without its quotes, a list without its brackets.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multiplier_crashes_where_the_real_one_does() {
        for (roll, point) in [
            ("0", "1.00"),
            ("50", "1.99"),
            ("89.39", "9.38"),
            ("96.00", "24.87"),
            ("99.20", "124.37"),
            ("99.98", "4975"),
            ("99.99", "10000"),
        ] {
            let roll: Decimal = roll.parse().unwrap();
            assert_eq!(crash_point(roll), point.parse().unwrap(), "at {roll}");
        }
        assert_eq!(win_probability(Decimal::new(15, 1)).round_dp(4).to_string(), "0.6633");
    }

    #[test]
    fn cards_and_their_multipliers_are_those_of_the_real_server() {
        // The double of 0.29 is a little less, and so is the number of the card.
        for (roll, dealt) in [("0", 1), ("0.01", 13), ("0.29", 10), ("50", 6), ("99.99", 12)] {
            assert_eq!(card(roll.parse().unwrap()), dealt, "at {roll}");
        }
        for (right, pays) in [(12, "1.05"), (11, "1.05"), (7, "1.6457142857142855"), (1, "11.52"), (0, "12")]
        {
            assert_eq!(hi_lo_multiplier(right).to_string(), pays, "{right} cards");
        }
    }

    #[test]
    fn nonces_count_up_and_proofs_are_hashes() {
        let mut house = House::default();
        for nonce in 0..3 {
            let (roll, proof) = house.roll(LIVE_AGENT, json!("mine"));
            assert!(roll >= Decimal::ZERO && roll < Decimal::ONE_HUNDRED);
            assert_eq!((proof.nonce, proof.result_hash.len()), (nonce, 64));
            assert_eq!(proof.server_seed_hash, hex(&Sha256::digest("simulator")));
        }
    }

    #[test]
    fn a_seed_decides_a_thousand_bets_and_is_revealed() {
        let mut house = House::default();
        for nonce in 0..BETS_OF_A_SEED {
            assert_eq!(house.roll("ag_1", json!("mine")).1.nonce, nonce);
        }
        assert!(house.revealed("ag_1").is_empty());
        let (_, proof) = house.roll("ag_1", json!("mine"));
        assert_eq!(proof.nonce, 0);
        let [revealed] = house.revealed("ag_1") else { panic!() };
        assert_eq!((revealed.bets, revealed.server_seed.len()), (BETS_OF_A_SEED, 64));
        assert_ne!(proof.server_seed_hash, revealed.hash);
    }

    #[test]
    fn the_same_run_draws_the_same_seeds_and_every_agent_its_own() {
        let (mut one, mut other) = (House::default(), House::default());
        let first = one.active("a").server_seed.clone();
        assert_eq!(first, other.active("a").server_seed);
        assert_ne!(first, one.active("b").server_seed);
        assert_eq!(one.rotate("a").server_seed, first);
        assert_ne!(one.active("a").server_seed, first);
    }
}
