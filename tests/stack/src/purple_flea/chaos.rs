//! Misbehaviour by chance, the same for the same seed and the same order of requests.

use super::{Fault, How};

/// How much goes wrong.
#[derive(Debug, Clone)]
pub struct Chaos {
    chance: fastrand::Rng,
    per_mille: u32,
}

/// What goes wrong with one request.
pub(super) struct Planned {
    pub(super) fault: Fault,
    /// Whether a bet that is taken all the same leaves no row in the history.
    pub(super) hidden: bool,
}

impl Chaos {
    /// So many of a thousand requests, by chance from a seed.
    pub fn new(seed: u64, per_mille: u32) -> Self {
        Self { chance: fastrand::Rng::with_seed(seed), per_mille }
    }

    /// What goes wrong with the next request for a bet, if anything does.
    pub(super) fn with_a_bet(&mut self) -> Option<Planned> {
        if self.chance.u32(0..1_000) >= self.per_mille {
            return None;
        }
        let before = |how| Planned { fault: Fault { after_the_bet: false, how }, hidden: false };
        let after = |how| Planned { fault: Fault { after_the_bet: true, how }, hidden: false };
        let failed = || How::answer(500, r#"{"error":"internal_error"}"#);
        Some(match self.chance.u32(0..26) {
            0..=2 => before(How::answer(400, r#"{"error":"insufficient_balance","required":1}"#)),
            3 => before(How::answer(401, r#"{"error":"unauthorized"}"#)),
            4..=6 => {
                let mut how = How::answer(429, r#"{"error":"rate_limited"}"#);
                if let How::Answer { headers, .. } = &mut how {
                    headers.push(("retry-after", "1".to_owned()));
                }
                before(how)
            }
            7 => before(How::Hang),
            8 => after(How::Hang),
            9 => after(How::Drip),
            10 => after(How::Stall),
            11..=12 => after(How::BreakOff),
            13..=14 => before(How::Reset),
            15..=16 => after(How::Reset),
            17..=18 => before(failed()),
            19..=20 => after(failed()),
            21..=22 => Planned { hidden: true, ..after(failed()) },
            23 => Planned { hidden: true, ..after(How::Reset) },
            _ => after(How::answer(200, "{\"ok\":true}")),
        })
    }

    /// What goes wrong with the next request for the history, if anything does.
    pub(super) fn with_the_history(&mut self) -> Option<Planned> {
        let how = match self.chance.u32(0..1_000) {
            n if n >= self.per_mille => return None,
            n if n % 2 == 0 => How::answer(500, "{}"),
            _ => How::Reset,
        };
        Some(Planned { fault: Fault { after_the_bet: false, how }, hidden: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_misbehaves_alike_and_about_as_often_as_it_is_told() {
        let plan = |seed| {
            let mut chaos = Chaos::new(seed, 200);
            (0..1_000).map(|_| chaos.with_a_bet().map(|p| format!("{:?}", p.fault))).collect::<Vec<_>>()
        };
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        let count = plan(7).into_iter().flatten().count();
        assert!((150..250).contains(&count), "{count}");
    }
}
