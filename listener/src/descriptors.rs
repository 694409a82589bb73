//! How many deliveries may be in flight: as many as there are file descriptors for.

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Deliveries in flight by default: four of each of a thousand receivers that hang.
const DEFAULT: u32 = 4096;

/// Descriptors of the process itself: standard streams, the resolver's, calls of the ledger and of the function, operators'
/// connections, and the sockets of Realtime (at most 41).
const RESERVE: u64 = 160;

/// Raises the limit of open files as far as allowed, and gives how many deliveries may be in flight. Fails if an operator
/// asks for more than there are descriptors for.
pub(crate) fn plan(asked: Option<u32>) -> Result<u32> {
    divide(raise(), asked)
}

fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // If that fails, the present limit has to do.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    (if raised.is_ok() { maximum } else { current }).unwrap_or(u64::MAX)
}

fn divide(limit: u64, asked: Option<u32>) -> Result<u32> {
    // A name that is being looked up needs a descriptor as well, before the connection does.
    let fit = u32::try_from(limit.saturating_sub(RESERVE)).unwrap_or(u32::MAX);
    match asked {
        _ if fit == 0 => bail!(
            "{limit} open files are too few: the listener needs {}. Raise the hard limit (ulimit -Hn, LimitNOFILE)",
            RESERVE.saturating_add(1)
        ),
        Some(asked) if asked > fit => bail!(
            "--in-flight {asked} is too many: {limit} open files allow {fit}. Ask for fewer, or raise the hard limit (ulimit -Hn, LimitNOFILE)"
        ),
        Some(asked) => Ok(asked),
        None => Ok(DEFAULT.min(fit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_deliveries_are_in_flight_as_fit_and_no_more_may_be_asked_for() {
        assert_eq!(divide(1_048_576, None).unwrap(), DEFAULT);
        assert_eq!(divide(1024, None).unwrap(), 864);
        assert_eq!(divide(1024, Some(864)).unwrap(), 864);
        assert!(divide(1024, Some(865)).unwrap_err().to_string().contains("1024 open files allow 864"));
        assert!(divide(160, None).unwrap_err().to_string().contains("needs 161"));
    }
}
