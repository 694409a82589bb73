//! What the core needs from outside: to send one request, and the time.
//!
//! The component implements it with WASI; tests implement it with whatever they want to see go wrong.

use std::time::{Duration, SystemTime};

/// Most that is read of a reply's body. Purple Flea's game replies are under 1 KiB; the rest of a longer one
/// is cut off.
pub const REPLY_LIMIT_BYTES: usize = 64 * 1024;

/// The world around the core.
pub trait Outside {
    /// Sends one request and reads the whole reply, up to [`REPLY_LIMIT_BYTES`], within `timeout` from now.
    /// Never sends it twice.
    fn send(
        &self,
        request: http::Request<Vec<u8>>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Answer, SendError>>;

    /// The wall clock, for signatures and logs.
    fn now(&self) -> SystemTime;

    /// A clock that only goes forward, from an arbitrary start, for measuring.
    fn monotonic(&self) -> Duration;
}

/// A reply that came in.
#[derive(Debug)]
pub struct Answer {
    /// Its status and headers.
    pub head: http::response::Parts,
    /// Its body, or the first [`REPLY_LIMIT_BYTES`] of it.
    pub body: Vec<u8>,
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
