//! Keeps the lines that a program prints, so that tests can read them and wait for them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Most lines that are kept. Older ones are dropped.
const LINES_LIMIT: usize = 100_000;

/// A shared list of lines.
#[derive(Clone)]
pub struct Log {
    state: Arc<Mutex<State>>,
    written: watch::Sender<u64>,
    print: bool,
}

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    partial: Vec<u8>,
    total: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self { state: Arc::default(), written: watch::channel(0).0, print: false }
    }
}

impl Log {
    /// Makes a log that also prints its lines.
    pub fn printing() -> Self {
        Self { print: true, ..Self::default() }
    }

    /// Gives all lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.state().lines.iter().cloned().collect()
    }

    /// Waits for the first line that `wanted` accepts, without a limit: bound it from outside.
    pub async fn find(&self, wanted: impl Fn(&str) -> bool) -> String {
        self.wait(|lines| lines.iter().find(|line| wanted(line)).cloned()).await
    }

    /// Waits for a line by its number, from 0, without a limit: bound it from outside.
    pub async fn nth(&self, number: usize) -> String {
        self.wait(|lines| lines.get(number).cloned()).await
    }

    async fn wait(&self, found: impl Fn(&VecDeque<String>) -> Option<String>) -> String {
        let mut written = self.written.subscribe();
        loop {
            if let Some(line) = found(&self.state().lines) {
                return line;
            }
            // The sender lives as long as `self`.
            let _ = written.changed().await;
        }
    }

    /// Adds bytes; whole lines become visible.
    pub fn write(&self, bytes: &[u8]) {
        let mut state = self.state();
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&state.partial).into_owned();
                state.partial.clear();
                if self.print {
                    println!("{line}");
                }
                state.lines.push_back(line);
                state.total += 1;
                if state.lines.len() > LINES_LIMIT {
                    state.lines.pop_front();
                }
            } else {
                state.partial.push(*byte);
            }
        }
        self.written.send_replace(state.total);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
