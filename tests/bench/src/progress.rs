//! What is being done, how far it is, and how long it will yet take. On standard error.

use std::{
    io::{IsTerminal, Write, stderr},
    time::Instant,
};

/// How far we are.
pub struct Progress {
    done: usize,
    total: usize,
    started: Instant,
}

impl Progress {
    /// Nothing is done yet, of so many steps.
    pub fn new(total: usize) -> Self {
        Self { done: 0, total, started: Instant::now() }
    }

    /// The next step begins. On a terminal one line is written over and over.
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

    /// All is done.
    pub fn end(&self) {
        let after = if stderr().is_terminal() { "\r\x1b[K" } else { "" };
        eprintln!("{after}Measured in {:.0} s", self.started.elapsed().as_secs_f64());
    }
}
