//! The house: what is rolled, and the proof of it.

use hmac::{Hmac, KeyInit, Mac};
use rust_decimal::{Decimal, RoundingStrategy::MidpointAwayFromZero};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The house's part of a crash game, in thousandths.
const EDGE: Decimal = Decimal::from_parts(5, 0, 0, false, 3);

/// The most that the multiplier climbs to.
const CRASH_CAP: Decimal = Decimal::from_parts(10_000, 0, 0, false, 0);

/// From this roll on it does.
const CAPPED_FROM: Decimal = Decimal::from_parts(9_999, 0, 0, false, 2);

const SERVER_SEED: &str = "simulator";

/// Rolls by the real one's formula, HMAC-SHA256(server seed, client seed:nonce), but with a server seed that
/// is always the same and never revealed: a simulator's first roll is everybody's first roll.
#[derive(Default)]
pub(super) struct House {
    nonce: u64,
}

/// What a roll can be checked by, once the server seed is known.
pub(super) struct Proof {
    /// As the caller sent it: mostly a string.
    pub(super) client_seed: Value,
    pub(super) nonce: u64,
    pub(super) result_hash: String,
}

impl House {
    /// 0.00 to 99.99, and its proof.
    pub(super) fn roll(&mut self, client_seed: Value) -> (Decimal, Proof) {
        let nonce = self.nonce;
        self.nonce += 1;
        let mut mac =
            Hmac::<Sha256>::new_from_slice(SERVER_SEED.as_bytes()).unwrap_or_else(|never| panic!("{never}"));
        mac.update(format!("{}:{nonce}", text(&client_seed)).as_bytes());
        let digest = mac.finalize().into_bytes();
        let first = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        let roll = Decimal::new(i64::from(first % 10_000), 2);
        (roll, Proof { client_seed, nonce, result_hash: hex(&digest) })
    }
}

impl Proof {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "server_seed_hash": server_seed_hash(), "client_seed": self.client_seed, "nonce": self.nonce,
            "result_hash": self.result_hash,
        })
    }
}

/// The commitment to the server seed.
pub(super) fn server_seed_hash() -> String {
    hex(&Sha256::digest(SERVER_SEED))
}

/// Where the multiplier crashes at a roll.
pub(super) fn crash_point(roll: Decimal) -> Decimal {
    if roll >= CAPPED_FROM {
        return CRASH_CAP;
    }
    cents((Decimal::ONE - EDGE) / (Decimal::ONE - roll / Decimal::ONE_HUNDRED))
}

/// How likely it is that the multiplier gets so far.
pub(super) fn win_probability(cash_out_at: Decimal) -> Decimal {
    ((Decimal::ONE - EDGE) / cash_out_at).round_dp(4)
}

pub(super) fn cents(value: Decimal) -> Decimal {
    value.round_dp_with_strategy(2, MidpointAwayFromZero)
}

/// A string without its quotes, and anything else as JSON.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multiplier_crashes_where_the_real_one_does() {
        for (roll, point) in
            [("0", "1.00"), ("50", "1.99"), ("89.39", "9.38"), ("99.98", "4975"), ("99.99", "10000")]
        {
            let roll: Decimal = roll.parse().unwrap();
            assert_eq!(crash_point(roll), point.parse().unwrap(), "at {roll}");
        }
        assert_eq!(win_probability(Decimal::new(15, 1)).to_string(), "0.6633");
    }

    #[test]
    fn nonces_count_up_and_proofs_are_hashes() {
        let mut house = House::default();
        for nonce in 0..3 {
            let (roll, proof) = house.roll(json!("mine"));
            assert!(roll >= Decimal::ZERO && roll < Decimal::ONE_HUNDRED);
            assert_eq!((proof.nonce, proof.result_hash.len()), (nonce, 64));
        }
        assert_eq!(server_seed_hash().len(), 64);
    }
}
