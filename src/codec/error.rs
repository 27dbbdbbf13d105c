//! What is wrong with an encoded file.

use std::borrow::Cow;
use std::fmt;

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The bytes are wrong: not of the format, or a checksum does not fit.
    Damage,
    /// The file ends before it is whole.
    Cut,
    /// The bytes may be right, but this program cannot or must not decode them: a feature it lacks, a limit, a wrong key.
    Refused,
}

/// An error of a codec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecError {
    fault: Fault,
    what: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    at: u64,
}

impl CodecError {
    /// The bytes are wrong, in the way that `what` says (`FORMAT: ...`).
    pub fn damage(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Fault::Damage, what)
    }

    /// The file ends too early.
    pub fn cut(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Fault::Cut, what)
    }

    /// The file is not decoded.
    pub fn refused(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Fault::Refused, what)
    }

    fn new(fault: Fault, what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            fault,
            what: what.into(),
            hint: None,
            at: 0,
        }
    }

    /// Offset of the fault from the first byte of its unit.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.at = offset;
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// Offset from the beginning of the unit.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// The remedy, if one is known.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for CodecError {}
