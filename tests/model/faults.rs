//! Faults on the way from an instance to the ledger and to Purple Flea, and the chance that chooses them.

use std::fmt;

/// How often a message meets a fault, of a hundred.
const FAULTS_PERCENT: u32 = 18;

/// How often the next try of a claim fails as well after its answer got lost, of a hundred: an outage lasts.
const OUTAGE_PERCENT: u32 = 70;

/// How long a request is under way at most after its sender has given it up, in seconds: less than the ledger waits before
/// any look-up.
pub(super) const LATE_S: u64 = 60;

/// A fault that one message meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// The message certainly never leaves.
    NotSent,
    /// The message gets lost on its way there.
    LostBefore,
    /// The answer gets lost.
    LostAfter,
    /// The message arrives only after this many seconds. Its sender has given it up by then.
    Late(u64),
    /// The answer takes this many seconds.
    Slow(u64),
    /// The claim gets stuck in the database, and its connection breaks.
    Stalls,
    /// The instance dies before the message leaves.
    DiesBefore,
    /// The instance dies when the answer arrives.
    DiesAfter,
    /// The instance freezes for this many seconds, and then finds its answer there.
    Freezes(u64),
}

/// The circumstances of a message that decide which faults it may meet.
pub(super) struct Circumstances {
    pub(super) is_claim: bool,
    /// Whether the last try of the same claim got lost.
    pub(super) in_outage: bool,
    /// Whether the same claim is stuck in the database.
    pub(super) is_stuck: bool,
    /// Whether any claim of the instance is stuck in the database.
    pub(super) any_stuck: bool,
}

impl Circumstances {
    /// Chooses a fault for the message.
    pub(super) fn fault(&self, chance: &mut fastrand::Rng) -> Fault {
        if self.is_stuck {
            // Mostly the function abandons a stuck claim, and that call gets through.
            let tried_again = self.is_claim && chance.u32(0..4) > 0;
            return if tried_again { Fault::NotSent } else { Fault::None };
        }
        if chance.u32(0..100) >= if self.in_outage { OUTAGE_PERCENT } else { FAULTS_PERCENT } {
            return Fault::None;
        }
        if self.is_claim && !self.any_stuck && chance.u32(0..4) == 0 {
            return Fault::Stalls;
        }
        match chance.u32(0..if self.in_outage { 4 } else { 12 }) {
            0 => Fault::LostBefore,
            1 => Fault::LostAfter,
            2 => Fault::Late(chance.u64(1..=LATE_S)),
            3 | 4 => Fault::NotSent,
            5 => Fault::DiesBefore,
            6 => Fault::DiesAfter,
            7 | 8 => Fault::Slow(chance.u64(1..12)),
            n => Fault::Freezes([3, 25, 40][usize::try_from(n).unwrap() % 3]),
        }
    }
}

impl Fault {
    /// Tells whether a claim's sender gets no answer.
    pub(super) fn loses_the_answer(self) -> bool {
        !matches!(self, Self::None | Self::Slow(_) | Self::Freezes(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nothing goes wrong"),
            Self::NotSent => f.write_str("the message is not sent"),
            Self::LostBefore => f.write_str("the message gets lost on its way"),
            Self::LostAfter => f.write_str("the answer gets lost"),
            Self::Late(seconds) => write!(f, "the message arrives {seconds} s late"),
            Self::Slow(seconds) => write!(f, "the answer takes {seconds} s"),
            Self::Stalls => f.write_str("the claim gets stuck in the database"),
            Self::DiesBefore => f.write_str("the instance dies before the message leaves"),
            Self::DiesAfter => f.write_str("the instance dies when the answer arrives"),
            Self::Freezes(seconds) => {
                write!(f, "the instance freezes for {seconds} s when the answer arrives")
            }
        }
    }
}
