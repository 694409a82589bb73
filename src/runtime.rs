//! What the core needs from outside: to send one request, the time, chance, and a place for its log.
//!
//! The component implements it with WASI; tests implement it with whatever they want to see go wrong.

use crate::log::Line;
use std::time::{Duration, SystemTime};

/// The world around the core.
pub trait Runtime {
    /// Sends one request and reads the whole reply, within limits. Never sends it twice.
    fn send(
        &self,
        request: http::Request<Vec<u8>>,
        limits: Limits,
    ) -> impl Future<Output = Result<Answer, SendError>>;

    /// The wall clock, for signatures and logs.
    fn now(&self) -> SystemTime;

    /// A clock that only goes forward, from an arbitrary start: for measuring, and for deadlines.
    fn monotonic(&self) -> Duration;

    /// Lets time pass.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;

    /// A number that nobody can guess.
    fn random(&self) -> u128;

    /// Writes a line of the log.
    fn log(&self, line: &Line);
}

/// How long and how large an exchange may become.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the whole exchange, from now.
    pub timeout: Duration,
    /// Most that is read of the reply's body, in bytes; the rest is cut off.
    pub reply_bytes: usize,
}

/// A reply that came in.
#[derive(Debug)]
pub struct Answer {
    /// Its status and headers.
    pub head: http::response::Parts,
    /// Its body, or the first [`Limits::reply_bytes`] of it.
    pub body: Vec<u8>,
    /// Whether that is all of it.
    pub whole: bool,
}

/// Why no reply came in. The difference between the first variant and the others is money: a request that was
/// certainly not sent may be made again, any other may have been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// It is proven that not a byte of the request left: refused, not resolved, not allowed, not connected in
    /// time, a bad certificate. The text says which, for the log.
    NotSent(&'static str),
    /// The time was over before the reply was complete.
    TimedOut,
    /// Anything else: a reset, a reply cut off in the middle, a broken protocol. The text is for the log.
    Broken(&'static str),
}
