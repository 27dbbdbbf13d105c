//! The seam between the engine and whoever watches it. The engine counts and tells; a bar, plain lines, JSON lines, the
//! old tools' log lines and test collectors are implementations.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

/// Running totals of one verb; units in the names. All but the total and the gauge only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes the verb expects to read, zero while unknown; corrected when files turn out to be shorter, longer or gone.
    pub total_bytes: AtomicU64,
    /// Payload bytes read from the source so far.
    pub read_bytes: AtomicU64,
    /// Read operations on an archive that can be read anywhere.
    pub reads: AtomicU64,
    /// Bytes handed to the sink so far.
    pub written_bytes: AtomicU64,
    /// Those among them that only got another name.
    pub renamed_bytes: AtomicU64,
    /// Files whose end was reached.
    pub done_files: AtomicU64,
    /// Bytes of redo log copied.
    pub redo_bytes: AtomicU64,
    /// Bytes of redo log the server has written and the follower has not read yet (a gauge, not monotonic).
    pub redo_lag_bytes: AtomicU64,
}

impl Counters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// `expected` was added to a counter for something that turned out to be `actual`.
    pub fn correct(counter: &AtomicU64, expected: u64, actual: u64) {
        // Both in one step of wrapping arithmetic: in between the counter might be below zero.
        counter.fetch_add(actual.wrapping_sub(expected), Ordering::Relaxed);
    }

    /// Reads a counter.
    #[must_use]
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Sets a gauge.
    pub fn set(counter: &AtomicU64, n: u64) {
        counter.store(n, Ordering::Relaxed);
    }
}

/// Something worth telling. Texts are lower case without a full stop, one line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A new phase of the run began, such as `copying tablespaces`.
    Phase(String),
    /// A fact a person may want, such as the server's version.
    Info(String),
    /// Something is wrong but the run goes on and its result is still whole.
    Warning(String),
    /// A file was begun (only told to monitors that ask for verbosity).
    File(String),
}

/// Receives events and owns the counters. Called from many threads; must not block for long.
pub trait Monitor: Send + Sync {
    /// The totals of this run.
    fn counters(&self) -> &Counters;
    /// Takes one event.
    fn event(&self, event: Event);

    /// Whether [`Event::File`] is of any use: making a text for each of a million files costs time.
    fn wants_files(&self) -> bool {
        true
    }

    /// Tells [`Event::File`] if somebody wants it.
    fn file(&self, name: &dyn std::fmt::Display) {
        if self.wants_files() {
            self.event(Event::File(name.to_string()));
        }
    }

    /// Shorthand for [`Event::Phase`].
    fn phase(&self, text: &str) {
        self.event(Event::Phase(text.to_owned()));
    }
    /// Shorthand for [`Event::Info`].
    fn info(&self, text: String) {
        self.event(Event::Info(text));
    }
    /// Shorthand for [`Event::Warning`].
    fn warning(&self, text: String) {
        self.event(Event::Warning(text));
    }
}

/// Tells nobody: for a pass over the input that another one follows.
#[derive(Debug, Default)]
pub struct Unwatched(Counters);

impl Monitor for Unwatched {
    fn counters(&self) -> &Counters {
        &self.0
    }

    fn event(&self, _: Event) {}

    fn wants_files(&self) -> bool {
        false
    }
}

/// Keeps everything, for tests and for callers that want the story afterwards.
#[derive(Debug, Default)]
pub struct Collector {
    counters: Counters,
    events: Mutex<Vec<Event>>,
}

impl Collector {
    /// What was told so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Monitor for Collector {
    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn event(&self, event: Event) {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event);
    }
}
