//! Divides the file descriptors of this process among its parts.
//!
//! The parts together never need more than the process may open. So a flood of callers cannot keep the host from
//! reaching the ledger, and a flood of bets cannot keep the host from accepting callers.

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Inbound connections by default. The callers are a few proxies and pg_net, which sends at most 200 requests at once.
const CONNECTIONS_DEFAULT: usize = 1024;

/// Descriptors of the process itself: standard streams, listeners, signals, and files that are open for a moment.
const FILES: usize = 32;

/// Descriptors of one event loop: a selector, a waker and a signal pipe, and as many to spare.
const FILES_PER_THREAD: usize = 8;

/// Connections to the address of /metrics and /live: a Prometheus or two, and an operator.
pub const ADMIN_CONNECTIONS: usize = 16;

/// Accepted connections that wait for a slot: one for each of the two listeners.
const WAITING_CONNECTIONS: usize = 2;

/// Outbound connections for the ledger alone: claims, settlements, look-ups and the watch of a few notifications. The
/// outcome of a bet must reach the ledger, however many bets are in progress.
pub const LEDGER_CONNECTIONS: usize = 32;

/// Outbound connections for the bets of one claim: the most that `bets_at_once` allows.
const CLAIM_CONNECTIONS: usize = 100;

/// Descriptors of an inbound connection: its own, and one for the request that the function sends because of it.
const FILES_PER_CONNECTION: usize = 2;

/// Most descriptors that the plan uses. The kernel's own limit for a process is about as high.
const LIMIT: usize = 1024 * 1024;

/// Most connections at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Inbound connections.
    pub inbound: usize,
    /// Outbound connections, [`LEDGER_CONNECTIONS`] among them.
    pub outbound: usize,
}

/// Raises the limit of open files of this process as far as allowed, and gives the new limit.
pub fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // If that fails, the present limit has to do.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    limit.and_then(|limit| usize::try_from(limit).ok()).map_or(LIMIT, |limit| limit.min(LIMIT))
}

/// Divides `limit` descriptors among `threads` event loops and all connections. `asked` is the number of inbound connections
/// that the operator asks for. Fails if the limit is too small for it.
pub fn plan(limit: usize, threads: usize, asked: Option<usize>) -> Result<Plan> {
    let files = FILES + threads.saturating_mul(FILES_PER_THREAD) + ADMIN_CONNECTIONS + WAITING_CONNECTIONS;
    let reserve = files.saturating_add(LEDGER_CONNECTIONS + CLAIM_CONNECTIONS);
    let fit = limit.saturating_sub(reserve) / FILES_PER_CONNECTION;
    if fit == 0 {
        let least = reserve.saturating_add(FILES_PER_CONNECTION);
        bail!(
            "{limit} open files are too few: the host needs {least}. Raise the hard limit (ulimit -Hn, LimitNOFILE)"
        );
    }
    let inbound = asked.unwrap_or_else(|| CONNECTIONS_DEFAULT.min(fit));
    if inbound == 0 {
        bail!("--connections is 0: the host could take no caller");
    }
    if inbound > fit {
        bail!(
            "--connections {inbound} is too many: {limit} open files allow {fit}. Ask for fewer, or raise the hard limit (ulimit -Hn, LimitNOFILE)"
        );
    }
    Ok(Plan { inbound, outbound: limit.saturating_sub(files).saturating_sub(inbound) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planned_fits_and_leaves_the_ledger_and_a_claim_their_connections() -> Result<()> {
        for limit in [256, 1024, 4096, LIMIT] {
            let plan = plan(limit, 2, None)?;
            assert!(plan.inbound <= CONNECTIONS_DEFAULT);
            assert!(plan.inbound + plan.outbound < limit);
            assert!(plan.outbound >= plan.inbound + LEDGER_CONNECTIONS + CLAIM_CONNECTIONS, "{plan:?}");
        }
        assert_eq!(plan(LIMIT, 2, None)?.inbound, CONNECTIONS_DEFAULT);
        Ok(())
    }

    #[test]
    fn the_most_that_fits_may_be_asked_for_and_one_more_may_not() -> Result<()> {
        let most = (1024 - 32 - 2 * 8 - 16 - 2 - 32 - 100) / 2;
        assert_eq!(plan(1024, 2, Some(most))?.inbound, most);
        let refused = plan(1024, 2, Some(most + 1)).unwrap_err().to_string();
        assert!(refused.contains(&format!("1024 open files allow {most}")), "{refused}");
        Ok(())
    }

    #[test]
    fn with_too_few_open_files_the_least_is_named() {
        let refused = plan(100, 2, None).unwrap_err().to_string();
        assert!(refused.contains("100 open files are too few: the host needs 200"), "{refused}");
        assert!(plan(200, 2, None).is_ok());
        assert!(plan(1024, 2, Some(0)).is_err());
    }
}
