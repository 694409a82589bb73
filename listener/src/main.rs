//! `purple-flea-listener`: sends the events of the feed to webhook subscriptions, and connects the function to Realtime.
//!
//! The database decides what is due, in which order, and when it is tried again. The listener claims deliveries, sends
//! each to its receiver, and reports what became of it. A listener that is killed loses nothing: its claims run out, and
//! the deliveries come again.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod address;
mod admin;
mod cli;
mod deliver;
mod descriptors;
mod ledger;
mod log;
mod metrics;
mod realtime;
mod registration;
mod resolver;
mod runtime;
mod target;
mod work;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use cli::Cli;
use deliver::Sender;
use ledger::Ledger;
use log::{Level, Line};
use metrics::Metrics;
use realtime::{Parts, settings::Settings};
use resolver::Resolver;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, Semaphore, mpsc, watch},
};
use tokio_rustls::TlsConnector;
use work::Work;

/// Longest time for the last reports, after nothing is in flight.
const LAST_REPORTS: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("purple-flea-listener: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let most = descriptors::plan(cli.in_flight)?;
    // A name is looked up on a thread. With a thread for each delivery, names that hang delay no other delivery.
    let threads = usize::try_from(most)?;
    Builder::new_multi_thread().enable_all().max_blocking_threads(threads).build()?.block_on(serve(cli, most))
}

async fn serve(cli: Cli, most: u32) -> Result<()> {
    let ledger = Ledger::from_environment(|name| std::env::var(name).ok()).map_err(|wrong| anyhow!(wrong))?;
    let variable = |name: &str| std::env::var(name).ok();
    let settings =
        Settings::from_environment(variable, ledger.connection()).map_err(|wrong| anyhow!(wrong))?;
    let tls = tls(cli.trust_ca.as_deref())?;
    let work = Arc::new(Work {
        ledger,
        sender: Arc::new(Sender {
            resolver: Resolver::new(cli.hosts.as_deref(), cli.allowed.clone())?,
            tls: tls.clone(),
            answer_timeout: Duration::from_millis(cli.answer_ms),
        }),
        metrics: Arc::new(Metrics::default()),
        places: Arc::new(Semaphore::new(usize::try_from(most)?)),
        poll: Duration::from_millis(cli.poll_ms),
        due: Notify::new(),
    });
    if let Some(address) = cli.admin {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        eprintln!("purple-flea-listener: /metrics and /live at http://{}", listener.local_addr()?);
        tokio::spawn(admin::serve(listener, work.metrics.clone()));
    }
    if !cli.allowed.is_empty() {
        eprintln!("purple-flea-listener: sends to addresses that are not public (--unsafe-test-addresses)");
    }
    eprintln!("purple-flea-listener: claims deliveries, {most} in flight at most");
    let mut signals = Signals::new()?;
    let (stop, stopping) = watch::channel(false);
    let realtime = settings.map(|settings| {
        eprintln!("purple-flea-listener: joins Realtime, {} the doorbell", settings.doorbell_text());
        let parts = Parts {
            ledger: work.ledger.clone(),
            metrics: work.metrics.realtime.clone(),
            tls,
            stop: stopping.clone(),
        };
        tokio::spawn(realtime::run(settings, parts, cli.realtime))
    });
    let (report, outcomes) = mpsc::unbounded_channel();
    let reports = tokio::spawn(work.clone().report_all(outcomes));
    let claims = tokio::spawn({
        let work = work.clone();
        async move { work.claim_until(stopping, report).await }
    });
    signals.next().await;
    eprintln!("purple-flea-listener: ending; the deliveries in flight have {} s", cli.grace_s);
    let _ = stop.send(true);
    let end = async {
        let _ = claims.await;
        if let Some(realtime) = realtime {
            let _ = tokio::time::timeout(LAST_REPORTS, realtime).await;
        }
        let cut_off = work.drain(most, Duration::from_secs(cli.grace_s)).await;
        let _ = tokio::time::timeout(LAST_REPORTS, reports).await;
        cut_off
    };
    let cut_off = tokio::select! {
        cut_off = end => cut_off,
        () = signals.next() => usize::try_from(most)?.saturating_sub(work.places.available_permits()),
    };
    let mut line = Line::new(if cut_off == 0 { Level::Info } else { Level::Warn }, "end");
    line.deliveries = Some(cut_off);
    line.print();
    Ok(())
}

/// Makes the client's side of TLS: public roots, and an operator's own.
fn tls(own: Option<&Path>) -> Result<TlsConnector> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = own {
        let read = || format!("{} cannot be read as certificates", path.display());
        for certificate in CertificateDer::pem_file_iter(path).with_context(read)? {
            roots.add(certificate.with_context(read)?).with_context(read)?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The signals that tell the listener to end.
struct Signals(Signal, Signal);

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    /// Waits for one of them.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}
