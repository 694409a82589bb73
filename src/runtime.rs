//! The runtime: the interface through which the core reaches the network, the clocks, randomness and the log.
//!
//! The component implements it with WASI. Tests implement it with failures of their choice.

use crate::log::Line;
use std::time::{Duration, SystemTime};

/// The environment of the core.
pub trait Runtime {
    /// Sends one request and reads the complete reply, within limits. Never sends the request twice.
    fn send(
        &self,
        request: http::Request<Vec<u8>>,
        limits: Limits,
    ) -> impl Future<Output = Result<Answer, SendError>>;

    /// Returns the wall-clock time, for signatures and logs.
    fn now(&self) -> SystemTime;

    /// Returns the time of a clock that never goes back, from an arbitrary start. It serves for measurements
    /// and deadlines.
    fn monotonic(&self) -> Duration;

    /// Waits for `time`.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;

    /// Returns a number that no attacker can guess.
    fn random(&self) -> u128;

    /// Writes a log line.
    fn log(&self, line: &Line);
}

/// The limits of an exchange.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest time of the whole exchange.
    pub timeout: Duration,
    /// How long the body is held back after the head. An error in that time proves that no byte of the body was sent,
    /// and no server executes half a request.
    pub hold: Duration,
    /// Most bytes of the reply's body that are read. The rest is cut off.
    pub reply_bytes: usize,
}

/// A reply that arrived.
#[derive(Debug)]
pub struct Answer {
    /// The status and headers.
    pub head: http::response::Parts,
    /// The body, or its first [`Limits::reply_bytes`].
    pub body: Vec<u8>,
    /// Whether the body is complete.
    pub whole: bool,
}

/// The reason why no reply arrived. A request that was certainly not sent may be sent again. After any other
/// error, Purple Flea may have executed the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// Certainly no byte of the request, or none of its body, was sent: the host refused it, did not resolve the name,
    /// did not connect in time, found a bad certificate, or lost the connection while the body was held back. The text
    /// names the cause, for the log.
    NotSent(&'static str),
    /// The time was over before a complete reply arrived.
    TimedOut,
    /// Any other error: a reset, an incomplete reply, a broken protocol. The text names the cause, for the
    /// log.
    Broken(&'static str),
}

impl SendError {
    /// Returns the cause, for the log.
    pub fn cause(self) -> &'static str {
        match self {
            Self::NotSent(cause) | Self::Broken(cause) => cause,
            Self::TimedOut => "timed_out",
        }
    }
}
