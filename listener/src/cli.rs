//! The command line of `purple-flea-listener`.

use crate::address::Network;
use clap::{Args, Parser};
use std::{net::SocketAddr, path::PathBuf};

/// Sends the events of the feed to webhook subscriptions, as Standard Webhooks, and connects the function to Realtime.
///
/// The environment names the database, as it does for the function: SUPABASE_URL, SUPABASE_KEY and, where a gateway needs
/// another key, SUPABASE_APIKEY. With FUNCTION_URL and WEBHOOK_SECRET the listener joins the doorbell on Realtime and calls
/// the function; with them or REALTIME_URL it brings in signals and presence. It joins with SUPABASE_KEY if that is a token,
/// or as the user REALTIME_EMAIL with REALTIME_PASSWORD. Several listeners may run side by side. After SIGTERM or SIGINT the listener claims
/// nothing more and finishes what it sends. A second signal ends it at once; what it sent then comes again.
#[derive(Debug, Parser)]
#[command(name = "purple-flea-listener", version)]
pub(crate) struct Cli {
    /// The address of /metrics (OpenMetrics) and /live. Without it the listener serves neither. Keep it private.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// How often the listener looks for new events while nothing is due, in milliseconds.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=60_000), value_name = "MS")]
    pub(crate) poll_ms: u64,
    /// Most deliveries in flight at once. By default 4096, or as many as the limit of open files allows. (The listener
    /// raises its limit of open files to the hard limit.)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536), value_name = "N")]
    pub(crate) in_flight: Option<u32>,
    /// Longest time from a request to the head of its answer, in milliseconds.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=30_000), value_name = "MS")]
    pub(crate) answer_ms: u64,
    /// A file of certificates (PEM) to trust beside the public ones, for receivers with certificates of your own.
    #[arg(long, value_name = "FILE")]
    pub(crate) trust_ca: Option<PathBuf>,
    /// A file in the form of /etc/hosts. Its names are not asked for elsewhere; their addresses are checked all the same.
    #[arg(long, value_name = "FILE")]
    pub(crate) hosts: Option<PathBuf>,
    /// For tests only: an address or a range (127.0.0.0/8) that is not public, and that the listener sends to all the same.
    /// A user who can make a subscription can then reach it. Repeat it for each.
    #[arg(long = "unsafe-test-addresses", value_name = "RANGE")]
    pub(crate) allowed: Vec<Network>,
    /// Longest time for the deliveries in flight when the listener is told to end, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=3_600), value_name = "SECONDS")]
    pub(crate) grace_s: u64,
    #[command(flatten)]
    pub(crate) realtime: RealtimeFlags,
}

/// How the listener uses Realtime.
#[derive(Debug, Args)]
pub(crate) struct RealtimeFlags {
    /// Joins the public topic trade-signals too, where anybody with the project's public key can send. The database takes its
    /// signals only if its own setting accept_public_signals says so as well.
    #[arg(long)]
    pub(crate) accept_public_signals: bool,
    /// How often the listener sends a heartbeat to Realtime, in milliseconds.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=25_000), value_name = "MS")]
    pub(crate) heartbeat_ms: u64,
    /// After so long without a word from Realtime a socket is dead, in milliseconds: more than two heartbeats.
    #[arg(long, default_value_t = 25_000, value_parser = clap::value_parser!(u64).range(300..=30_000), value_name = "MS")]
    pub(crate) silence_ms: u64,
    /// How often the listener asks the database whose topics to join, in milliseconds.
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(100..=600_000), value_name = "MS")]
    pub(crate) topics_ms: u64,
    /// How often the listener reports agents that are tracked, in milliseconds. An agent is offline after 30 seconds.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1_000..=15_000), value_name = "MS")]
    pub(crate) presence_ms: u64,
}
