//! The one error type of the program: a kind to branch on, a story to report.
//!
//! A story reads `VERB PATH at offset N: WHAT: CAUSE`; the remedy follows as a hint on its own line.
//! Messages are lower case without a full stop. Format modules have small error enums of their own
//! and are folded into this one where their bytes met a file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result of everything above the formats layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What went wrong, as far as a caller may want to branch on it. Each kind is one exit status
/// (`format-spec/exit-status.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Anything without a number of its own.
    Failed,
    /// The command line or an option file asks for something impossible.
    Usage,
    /// The input ends before it is whole, or lacks something it announced.
    Incomplete,
    /// Bytes are there but wrong: a checksum, a malformed chunk, a damaged page.
    Checksum,
    /// The place that keeps backups failed.
    Store,
    /// The database server refused, failed or went away.
    Server,
    /// The server overwrote redo log that was not copied yet.
    RedoOverrun,
    /// No room at the target.
    NoSpace,
    /// A signal or a caller ended the run.
    Interrupted,
}

impl Kind {
    /// Every kind, in the order of the exit status table.
    pub const ALL: [Self; 9] = [
        Self::Failed,
        Self::Usage,
        Self::Incomplete,
        Self::Checksum,
        Self::Store,
        Self::Server,
        Self::RedoOverrun,
        Self::NoSpace,
        Self::Interrupted,
    ];

    /// The process exit status of the native command line.
    #[must_use]
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Incomplete => 3,
            Self::Checksum => 4,
            Self::Store => 5,
            Self::Server => 6,
            Self::RedoOverrun => 7,
            Self::NoSpace => 8,
            Self::Interrupted => 9,
        }
    }

    /// The word for this kind in machine-readable output.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Incomplete => "incomplete",
            Self::Checksum => "checksum",
            Self::Store => "store",
            Self::Server => "server",
            Self::RedoOverrun => "redo-overrun",
            Self::NoSpace => "no-space",
            Self::Interrupted => "interrupted",
        }
    }
}

/// An error with its story. Cheap to move: one pointer.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    what: String,
    path: Option<PathBuf>,
    position: Option<u64>,
    hint: Option<String>,
    source: Option<Source>,
    of_content: bool,
}

impl Error {
    /// An error of `kind` that says `what` went wrong (lower case, no full stop).
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            what: what.into(),
            path: None,
            position: None,
            hint: None,
            source: None,
            of_content: false,
        }))
    }

    /// A failed system call: `verb` is what was tried (`open`, `write`), `path` on what. A full disk or quota
    /// becomes [`Kind::NoSpace`].
    pub fn io(verb: &str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let no_space = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        let mut error = Self::new(
            if no_space {
                Kind::NoSpace
            } else {
                Kind::Failed
            },
            format!("cannot {verb}"),
        )
        .path(path);
        if no_space {
            error = error.hint("free space on that file system, or choose another target");
        }
        error.0.source = Some(Box::new(source));
        error
    }

    /// Names the file.
    #[must_use]
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_path_buf());
        self
    }

    /// Names the byte offset in the file or stream.
    #[must_use]
    pub fn at(mut self, position: u64) -> Self {
        self.0.position = Some(position);
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says that it is about what one file of the input holds, though its kind does not tell: others may be good all the same.
    #[must_use]
    pub fn of_content(mut self) -> Self {
        self.0.of_content = true;
        self
    }

    /// Whether that was said.
    #[must_use]
    pub fn is_of_content(&self) -> bool {
        self.0.of_content
    }

    /// What to branch on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether a system call failed because the name does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::NotFound)
    }

    /// Whether a system call failed because we may not.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::PermissionDenied)
    }

    fn io_kind(&self) -> Option<io::ErrorKind> {
        let source = self.0.source.as_ref()?;
        source.downcast_ref::<io::Error>().map(io::Error::kind)
    }

    /// The byte offset in the file or stream, if one is known.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.0.position
    }

    /// The remedy, if one is known.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The file the error is about, if any.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        f.write_str(&inner.what)?;
        if let Some(path) = &inner.path {
            // Debug quoting keeps control characters of hostile names off the terminal.
            write!(f, " {:?}", path.as_os_str())?;
        }
        if let Some(position) = inner.position {
            write!(f, " at byte offset {position}")?;
        }
        let mut source = inner.source.as_deref().map(|s| s as &dyn std::error::Error);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

// The chain is already told by Display, so `source()` stays empty: a reporter that walks it would repeat it.
impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn story_names_verb_file_position_and_cause() {
        let error = Error::io("read", "db/t.ibd", io::Error::other("boom")).at(16384);
        assert_eq!(
            error.to_string(),
            r#"cannot read "db/t.ibd" at byte offset 16384: boom"#
        );
        assert_eq!(error.kind(), Kind::Failed);
    }

    #[test]
    fn full_disk_is_its_own_kind() {
        let error = Error::io("write", "x", rustix::io::Errno::NOSPC);
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(error.hint_text().is_some());
    }

    #[test]
    fn control_characters_of_names_are_quoted() {
        let error = Error::new(Kind::Failed, "bad name").path("a\u{1b}[2J");
        assert!(!error.to_string().contains('\u{1b}'));
    }

    #[test]
    fn exit_statuses_are_distinct() {
        let mut seen: Vec<u8> = Kind::ALL.iter().map(|k| k.exit_status()).collect();
        seen.dedup();
        assert_eq!(seen, (1..=9).collect::<Vec<u8>>());
    }
}
