//! Shows on standard error the current step, the progress, and the remaining time.

use std::{
    io::{IsTerminal, Write, stderr},
    time::Instant,
};

/// The progress of a run.
pub struct Progress {
    done: usize,
    total: usize,
    started: Instant,
}

impl Progress {
    /// Starts the progress of `total` steps.
    pub fn new(total: usize) -> Self {
        Self { done: 0, total, started: Instant::now() }
    }

    /// Begins the next step. A terminal shows one line, which each step overwrites.
    pub fn step(&mut self, what: &str) {
        let left = match self.done {
            0 => String::new(),
            done => {
                let left_s = self.started.elapsed().as_secs_f64() / done as f64 * (self.total - done) as f64;
                format!(", about {:.0} s left", left_s)
            }
        };
        let (before, after) = if stderr().is_terminal() { ("\r\x1b[K", "") } else { ("", "\n") };
        let mut out = stderr().lock();
        let _ = write!(out, "{before}[{}/{}{left}] {what}{after}", self.done, self.total);
        let _ = out.flush();
        self.done += 1;
    }

    /// Ends the progress.
    pub fn end(&self) {
        let after = if stderr().is_terminal() { "\r\x1b[K" } else { "" };
        eprintln!("{after}Measured in {:.0} s", self.started.elapsed().as_secs_f64());
    }
}
