//! The record of a run: the parts that happened, a story of them in plain words, and the promises that were broken. The
//! record outlives the run, even if the run panics.

use super::parts::{Part, Parts};
use std::{cell::RefCell, fmt};

/// A promise that a run broke.
#[derive(Debug, Clone)]
pub(super) struct Violation {
    /// Says which promise was broken. Two violations are of the same kind if they say the same here.
    pub(super) promise: &'static str,
    /// Says which job, function or call it was.
    pub(super) about: String,
}

impl Violation {
    pub(super) fn new(promise: &'static str, about: impl Into<String>) -> Self {
        Self { promise, about: about.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.about)
    }
}

/// The record of one run.
#[derive(Default)]
pub(super) struct Record {
    /// The parts that may happen; `None` for all.
    kept: Option<Parts>,
    met: RefCell<Parts>,
    story: RefCell<Vec<String>>,
    violations: RefCell<Vec<Violation>>,
}

impl Record {
    pub(super) fn new(kept: Option<Parts>) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Tells whether a part happens, and records that it does. The model asks just before the part would happen.
    pub(super) fn keeps(&self, part: Part) -> bool {
        let kept = self.kept.as_ref().is_none_or(|kept| kept.contains(part));
        if kept {
            self.met.borrow_mut().insert(part);
        }
        kept
    }

    pub(super) fn tell(&self, line: String) {
        self.story.borrow_mut().push(line);
    }

    pub(super) fn accuse(&self, violation: Violation) {
        self.violations.borrow_mut().push(violation);
    }

    /// Gives the parts that happened.
    pub(super) fn met(&self) -> Parts {
        self.met.borrow().clone()
    }

    pub(super) fn story(&self) -> Vec<String> {
        self.story.borrow().clone()
    }

    /// Gives the violations, in the order in which the model found them.
    pub(super) fn violations(&self) -> Vec<Violation> {
        self.violations.borrow().clone()
    }
}
