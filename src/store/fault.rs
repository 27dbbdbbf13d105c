//! What can go wrong between us and a store, sorted by what to do about it.

use std::fmt;
use std::time::Duration;

use crate::base::error::{Error, Kind};

/// What a failure means for the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The object, or the upload, is not there.
    NotFound,
    /// There is an object of that name already.
    Exists,
    /// The object is not the one that was asked for.
    Changed,
    /// The object ends too early.
    Short,
    /// The store asks us to slow down.
    Throttled,
    /// May work when tried again.
    Transient,
    /// Nobody answers: the store may be away, or its address be wrong.
    Unreachable,
    /// The credentials have expired.
    Expired,
    /// The store got other bytes than we sent.
    Damaged,
    /// No room, or a quota is reached.
    Full,
    /// Will not work however often it is tried.
    Refused,
    /// The run was ended.
    Interrupted,
}

impl Class {
    /// Whether the same call may be made again.
    #[must_use]
    pub const fn is_worth_retrying(self) -> bool {
        matches!(
            self,
            Self::Throttled | Self::Transient | Self::Unreachable | Self::Expired | Self::Damaged
        )
    }
}

/// One failed call: what was tried, on what, why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it means.
    pub class: Class,
    /// What was tried: `put`, `read`, `list` ...
    pub method: &'static str,
    /// On which key.
    pub key: String,
    /// What the store, or the way to it, says.
    pub cause: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// How long that took altogether.
    pub elapsed: Duration,
    /// Why the run was ended, if that is it.
    ended: Option<Kind>,
}

impl Fault {
    /// A call that failed once.
    pub fn new(
        class: Class,
        method: &'static str,
        key: impl Into<String>,
        cause: impl Into<String>,
    ) -> Self {
        Self {
            class,
            method,
            key: key.into(),
            cause: cause.into(),
            hint: None,
            attempts: 1,
            elapsed: Duration::ZERO,
            ended: None,
        }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The error of a run that was ended by somebody.
    pub(super) fn interrupted(method: &'static str, key: &str, why: &Error) -> Self {
        let mut fault = Self::new(Class::Interrupted, method, key, why.to_string());
        fault.ended = Some(why.kind());
        fault.hint = why.hint_text().map(str::to_owned);
        fault
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {:?}", self.method, self.key)?;
        if self.attempts > 1 || !self.elapsed.is_zero() {
            let (attempts, seconds) = (self.attempts, self.elapsed.as_secs_f64());
            let s = if attempts == 1 { "" } else { "s" };
            write!(f, " ({attempts} attempt{s} in {seconds:.1} s)")?;
        }
        write!(f, ": {}", self.cause)
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let error = match (fault.ended, fault.class) {
            (Some(kind), _) => Self::new(kind, fault.cause),
            (None, Class::Full) => Self::new(Kind::NoSpace, fault.to_string()),
            (None, _) => Self::new(Kind::Store, fault.to_string()),
        };
        match fault.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_has_method_key_attempts_time_and_cause() {
        let mut fault = Fault::new(Class::Throttled, "put", "a/b", "SlowDown: reduce your rate");
        fault.attempts = 7;
        fault.elapsed = Duration::from_millis(12_340);
        let error = Error::from(fault.hint("wait"));
        assert_eq!(
            error.to_string(),
            "cannot put \"a/b\" (7 attempts in 12.3 s): SlowDown: reduce your rate"
        );
        assert_eq!(error.kind(), Kind::Store);
        assert_eq!(error.hint_text(), Some("wait"));
        let mut once = Fault::new(Class::Refused, "list", "a", "no");
        assert_eq!(once.to_string(), "cannot list \"a\": no");
        once.elapsed = Duration::from_millis(120);
        assert_eq!(
            once.to_string(),
            "cannot list \"a\" (1 attempt in 0.1 s): no"
        );
    }
}
