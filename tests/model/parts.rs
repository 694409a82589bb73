//! The parts of a sequence: its steps, and within them the requests, deposits and faults. A run can leave each part out
//! without changing any other, because every part has chance of its own, which follows from the seed and the part's place.
//!
//! A part has a name, which `MODEL_KEEP` takes: `4/request-0/claim_jobs-2/fault` is the fault that the third claim of the
//! first request of step 4 meets. A list of names keeps the parts named, the parts that contain them, and no other.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// A part of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    /// Several calls of the database may be under way at once.
    Concurrency,
    /// A second function, with settings of its own.
    SecondFunction,
    /// The policy for all agents makes jobs without a request: the faucet, the daily claim, the balance.
    AutomaticJobs,
    /// An agent beside the plain one, by its place in the list of agents.
    Agent(usize),
    Step(usize),
    /// A row that a depositor inserts.
    Deposit(usize, usize),
    Request(RequestId),
    /// A fault on the way of a message.
    Fault(MessageId),
    /// A failure of Purple Flea's own when it gets a message.
    Failure(MessageId),
}

/// A request to a function: its step, and its place in the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RequestId {
    pub(super) step: usize,
    pub(super) place: usize,
}

/// A message that a function sends for a request: its kind, and its place among the messages of this kind. So the name stays
/// the same if messages of other kinds are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MessageId {
    pub(super) request: RequestId,
    /// The place in [`MESSAGES`].
    pub(super) kind: usize,
    pub(super) place: usize,
}

/// The kinds of messages: calls of the ledger by their names, and operations of Purple Flea. All others share the last name.
const MESSAGES: [&str; 17] = [
    "abandon_claim",
    "await_jobs",
    "claim_jobs",
    "end_watch",
    "request_job",
    "settle_jobs",
    "balance",
    "bet",
    "daily-claim",
    "escrow",
    "escrow-end",
    "escrow-status",
    "faucet",
    "history",
    "position",
    "registration",
    "other",
];

/// Gives the place of a kind in [`MESSAGES`].
pub(super) fn message_kind(name: &str) -> usize {
    MESSAGES.iter().position(|known| *known == name).unwrap_or(MESSAGES.len() - 1)
}

/// Parts of a sequence, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Parts(pub(super) BTreeSet<Part>);

/// A kind of part. The shrinker leaves out parts of one kind at a time, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Concurrency,
    Step,
    Fault,
    Request,
    Deposit,
    /// Agents, functions, and jobs that the policy makes.
    Surroundings,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Concurrency, Self::Step, Self::Fault, Self::Request, Self::Deposit, Self::Surroundings];
}

impl Part {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Concurrency => Kind::Concurrency,
            Self::SecondFunction | Self::AutomaticJobs | Self::Agent(_) => Kind::Surroundings,
            Self::Step(_) => Kind::Step,
            Self::Deposit(..) => Kind::Deposit,
            Self::Request(_) => Kind::Request,
            Self::Fault(..) | Self::Failure(..) => Kind::Fault,
        }
    }

    /// Names the part that contains this one.
    fn container(self) -> Option<Self> {
        match self {
            Self::Deposit(step, _) | Self::Request(RequestId { step, .. }) => Some(Self::Step(step)),
            Self::Fault(message) | Self::Failure(message) => Some(Self::Request(message.request)),
            _ => None,
        }
    }
}

impl Parts {
    pub(super) fn contains(&self, part: Part) -> bool {
        self.0.contains(&part)
    }

    pub(super) fn insert(&mut self, part: Part) {
        self.0.insert(part);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        self.of(kind).len()
    }

    /// Lists the parts of one kind.
    pub(super) fn of(&self, kind: Kind) -> Vec<Part> {
        self.0.iter().copied().filter(|part| part.kind() == kind).collect()
    }

    /// Gives the parts without some of them.
    pub(super) fn without(&self, left_out: &[Part]) -> Self {
        Self(self.0.iter().copied().filter(|part| !left_out.contains(part)).collect())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Concurrency => f.write_str("concurrency"),
            Self::SecondFunction => f.write_str("second-function"),
            Self::AutomaticJobs => f.write_str("automatic-jobs"),
            Self::Agent(place) => write!(f, "agent-{place}"),
            Self::Step(step) => write!(f, "{step}"),
            Self::Deposit(step, place) => write!(f, "{step}/deposit-{place}"),
            Self::Request(RequestId { step, place }) => write!(f, "{step}/request-{place}"),
            Self::Fault(message) => write!(f, "{message}/fault"),
            Self::Failure(message) => write!(f, "{message}/failure"),
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", Part::Request(self.request), MESSAGES[self.kind], self.place)
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = || format!("{name}: no part of a sequence");
        let number = |text: &str, before: &str| -> Result<usize, String> {
            text.strip_prefix(before).and_then(|number| number.parse().ok()).ok_or_else(unknown)
        };
        let request = |step: &str, place: &str| -> Result<RequestId, String> {
            Ok(RequestId { step: number(step, "")?, place: number(place, "request-")? })
        };
        let message_id = |request, message: &str| -> Result<MessageId, String> {
            let (kind, place) = message.rsplit_once('-').ok_or_else(unknown)?;
            let kind = MESSAGES.iter().position(|known| *known == kind).ok_or_else(unknown)?;
            Ok(MessageId { request, kind, place: number(place, "")? })
        };
        Ok(match name.split('/').collect::<Vec<_>>().as_slice() {
            ["concurrency"] => Self::Concurrency,
            ["second-function"] => Self::SecondFunction,
            ["automatic-jobs"] => Self::AutomaticJobs,
            [agent] if agent.starts_with("agent-") => Self::Agent(number(agent, "agent-")?),
            [step] => Self::Step(number(step, "")?),
            [step, place] if place.starts_with("deposit-") => {
                Self::Deposit(number(step, "")?, number(place, "deposit-")?)
            }
            [step, place] => Self::Request(request(step, place)?),
            [step, place, message, "fault"] => Self::Fault(message_id(request(step, place)?, message)?),
            [step, place, message, "failure"] => Self::Failure(message_id(request(step, place)?, message)?),
            _ => return Err(unknown()),
        })
    }
}

impl fmt::Display for Parts {
    /// Names the parts. A part that another one needs goes without saying.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let implied: BTreeSet<Part> = self.0.iter().filter_map(|part| part.container()).collect();
        let named: Vec<String> =
            self.0.iter().filter(|part| !implied.contains(*part)).map(ToString::to_string).collect();
        f.write_str(&named.join(","))
    }
}

impl FromStr for Parts {
    type Err = String;

    fn from_str(names: &str) -> Result<Self, String> {
        let mut parts = Self::default();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let mut part = Some(name.parse::<Part>()?);
            while let Some(one) = part {
                parts.insert(one);
                part = one.container();
            }
        }
        Ok(parts)
    }
}

/// Derives the chance of a part from the seed and the part's place, whatever other parts there are.
pub(super) fn chance(seed: u64, place: &[usize]) -> fastrand::Rng {
    place.iter().fold(fastrand::Rng::with_seed(seed), |mut chance, number| {
        let number = u64::try_from(*number).expect("a usize has 64 bits at most");
        fastrand::Rng::with_seed(chance.u64(..) ^ number)
    })
}

#[cfg(test)]
mod tests {
    use super::{MessageId, Part, Parts, RequestId, message_kind};

    #[test]
    fn parts_are_read_as_they_are_written() {
        let request = RequestId { step: 4, place: 1 };
        let message = |name, place| MessageId { request, kind: message_kind(name), place };
        let mut parts = Parts::default();
        for part in [
            Part::Concurrency,
            Part::SecondFunction,
            Part::AutomaticJobs,
            Part::Agent(3),
            Part::Step(4),
            Part::Step(12),
            Part::Deposit(12, 0),
            Part::Request(request),
            Part::Fault(message("claim_jobs", 2)),
            Part::Failure(message("daily-claim", 5)),
            Part::Fault(message("a call of a later version", 0)),
        ] {
            parts.insert(part);
        }
        let names = parts.to_string();
        assert_eq!(
            names,
            "concurrency,second-function,automatic-jobs,agent-3,12/deposit-0,\
             4/request-1/claim_jobs-2/fault,4/request-1/other-0/fault,4/request-1/daily-claim-5/failure"
        );
        assert_eq!(names.parse(), Ok(parts));
    }

    #[test]
    fn a_name_of_no_part_is_refused() {
        for name in [
            "",
            "four",
            "4/",
            "4/request",
            "4/request-0/",
            "4/request-0/bet/fault",
            "4/request-0/bet-0",
            "agent-",
        ] {
            assert_eq!(name.parse::<Part>(), Err(format!("{name}: no part of a sequence")));
        }
    }
}
