//! Ending a run from anywhere: the first reason wins, every loop looks.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};

/// How long a blocked stage sleeps before it looks at the token again.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Shared by all parts of a run. The first [`Cancel::cancel`] keeps its reason.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<State>);

#[derive(Debug, Default)]
struct State {
    flag: std::sync::atomic::AtomicBool,
    reason: Mutex<Option<Reason>>,
    woken: Condvar,
}

/// Why a run ended, as far as every part of it needs to know.
#[derive(Debug)]
struct Reason {
    kind: Kind,
    text: String,
    hint: Option<String>,
}

impl Cancel {
    /// A token nobody has used yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the run. Only the first reason is kept.
    pub fn cancel(&self, kind: Kind, reason: impl Into<String>) {
        self.end(Reason {
            kind,
            text: reason.into(),
            hint: None,
        });
    }

    /// Ends the run because of `error`: whoever looks at the token gets the same story and hint.
    pub fn fail(&self, error: &Error) {
        self.end(Reason {
            kind: error.kind(),
            text: error.to_string(),
            hint: error.hint_text().map(str::to_owned),
        });
    }

    fn end(&self, reason: Reason) {
        let mut slot = self.lock();
        slot.get_or_insert(reason);
        self.0
            .flag
            .store(true, std::sync::atomic::Ordering::Release);
        drop(slot);
        self.0.woken.notify_all();
    }

    /// Whether somebody ended the run.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.flag.load(std::sync::atomic::Ordering::Acquire)
    }

    /// The reason as an error once the run was ended.
    pub fn check(&self) -> Result<()> {
        if !self.is_cancelled() {
            return Ok(());
        }
        match &*self.lock() {
            Some(reason) => {
                let error = Error::new(reason.kind, reason.text.clone());
                Err(match &reason.hint {
                    Some(hint) => error.hint(hint.clone()),
                    None => error,
                })
            }
            None => Ok(()),
        }
    }

    /// Sleeps for `time`, or until the run is ended, which is an error.
    pub fn sleep(&self, time: Duration) -> Result<()> {
        let slot = self.lock();
        let (slot, _timeout) = self
            .0
            .woken
            .wait_timeout_while(slot, time, |reason| reason.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        drop(slot);
        self.check()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Reason>> {
        self.0.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_reason_wins_and_sleepers_wake() {
        let cancel = Cancel::new();
        cancel.check().unwrap();
        let other = cancel.clone();
        let sleeper = std::thread::spawn(move || other.sleep(Duration::from_secs(600)));
        cancel.cancel(Kind::Interrupted, "signal");
        cancel.cancel(Kind::Failed, "later");
        assert_eq!(
            sleeper.join().unwrap().unwrap_err().kind(),
            Kind::Interrupted
        );
        assert_eq!(cancel.check().unwrap_err().to_string(), "signal");
    }

    #[test]
    fn an_error_is_told_again_with_its_hint() {
        let cancel = Cancel::new();
        cancel.fail(
            &Error::new(Kind::NoSpace, "full")
                .path("x")
                .hint("free some"),
        );
        let error = cancel.check().unwrap_err();
        assert_eq!(error.to_string(), "full \"x\"");
        assert_eq!(error.hint_text(), Some("free some"));
    }
}
