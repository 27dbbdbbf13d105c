//! Names of archive members: bytes that are safe to open beneath a directory, once they are of this
//! type.

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::xbstream::limits::PATH_LEN_MAX;

/// A member's path: 1 to 511 bytes, relative, `/` between components, none of them empty, `.` or
/// `..`, no NUL. Other bytes are kept as found, UTF-8 or not. Cheap to clone.
///
/// Rules: `r[xbstream.path.len]` `r[xbstream.path.relative]` `r[xbstream.path.nul]`
/// `r[xbstream.path.component]` `r[xbstream.path.bytes]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchivePath(Arc<[u8]>);

/// Why bytes are not an [`ArchivePath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// No bytes at all.
    #[error("path is empty")]
    Empty,
    /// More than 511 bytes.
    #[error("path of {len} bytes is longer than {PATH_LEN_MAX}")]
    TooLong {
        /// Bytes found.
        len: usize,
    },
    /// Begins with `/`.
    #[error("path is absolute")]
    Absolute,
    /// Contains a zero byte.
    #[error("path contains a zero byte")]
    Nul,
    /// `a//b` or a trailing `/`.
    #[error("path has an empty component")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("path has a \".\" or \"..\" component")]
    DotComponent,
    /// A remove pattern with nothing before its star.
    #[error("pattern names every file of a directory")]
    EmptyPrefix,
}

impl ArchivePath {
    /// Validates `bytes` and copies them.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        Self::check(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// Whether `bytes` obey the rules, without a copy.
    pub fn check(bytes: &[u8]) -> Result<(), PathError> {
        // r[xbstream.path.len]
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        if bytes.len() > PATH_LEN_MAX {
            return Err(PathError::TooLong { len: bytes.len() });
        }
        // r[xbstream.path.relative]
        if bytes.starts_with(b"/") {
            return Err(PathError::Absolute);
        }
        // r[xbstream.path.nul]
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        // r[xbstream.path.component]
        for component in bytes.split(|b| *b == b'/') {
            match component {
                b"" => return Err(PathError::EmptyComponent),
                b"." | b".." => return Err(PathError::DotComponent),
                _ => {}
            }
        }
        Ok(())
    }

    /// The bytes as found.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same bytes as a relative path of the operating system.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Components, outermost first; at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// The directory part, `None` for a name at the top.
    #[must_use]
    pub fn parent(&self) -> Option<&[u8]> {
        let slash = self.0.iter().rposition(|b| *b == b'/')?;
        self.0.get(..slash)
    }

    /// Whether this path lies below the directory `directory`, at any depth.
    #[must_use]
    pub fn is_below(&self, directory: &[u8]) -> bool {
        self.0
            .strip_prefix(directory)
            .is_some_and(|rest| rest.starts_with(b"/"))
    }
}

impl Borrow<[u8]> for ArchivePath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<Path> for ArchivePath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

/// Replaces what is not UTF-8; escapes control and other unprintable characters, so that a hostile
/// name cannot drive a terminal.
impl fmt::Display for ArchivePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in String::from_utf8_lossy(&self.0).chars() {
            match c {
                '"' | '\'' | '\\' => f.write_char(c)?,
                _ => write!(f, "{}", c.escape_debug())?,
            }
        }
        Ok(())
    }
}

/// Quoted, as error messages show it.
impl fmt::Debug for ArchivePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_path().as_os_str(), f)
    }
}

/// What a remove chunk names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RemovePattern {
    /// A file, or a directory with everything below it. `r[xbstream.remove.exact]`
    Exact(ArchivePath),
    /// Every file directly inside one directory whose name begins with a prefix:
    /// `directory/prefix*`. `r[xbstream.remove.prefix]`
    Prefix {
        /// The path as found, without the star: `directory/prefix`, prefix at least one byte.
        stem: ArchivePath,
    },
}

impl RemovePattern {
    /// Reads the path of a remove chunk.
    ///
    /// A prefix of no bytes (`*`, `db/*`) is refused: it would remove every file of a directory,
    /// and no known writer asks for that. `r[xbstream.remove.empty-prefix]`
    pub fn new(path: &ArchivePath) -> Result<Self, PathError> {
        let Some(stem) = path.as_bytes().strip_suffix(b"*") else {
            return Ok(Self::Exact(path.clone()));
        };
        // The stem obeys the rules of paths although only names are compared with it: `..*` would
        // do no harm, but no writer emits it, and one rule for all names is easier to trust.
        match ArchivePath::new(stem) {
            Ok(stem) => Ok(Self::Prefix { stem }),
            Err(PathError::Empty | PathError::EmptyComponent) => Err(PathError::EmptyPrefix),
            Err(error) => Err(error),
        }
    }

    /// Whether the chunk removes `path`.
    #[must_use]
    pub fn matches(&self, path: &ArchivePath) -> bool {
        match self {
            Self::Exact(exact) => path == exact || path.is_below(exact.as_bytes()),
            Self::Prefix { stem } => {
                path.parent() == stem.parent() && path.as_bytes().starts_with(stem.as_bytes())
            }
        }
    }

    /// The path of the chunk: the pattern with its star.
    #[must_use]
    pub fn to_path_bytes(&self) -> Vec<u8> {
        match self {
            Self::Exact(path) => path.as_bytes().to_vec(),
            Self::Prefix { stem } => [stem.as_bytes(), b"*"].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> ArchivePath {
        ArchivePath::new(bytes).unwrap()
    }

    #[test]
    fn accepts_what_the_rules_allow() {
        let longest = [b'x'; PATH_LEN_MAX];
        for good in [
            &b"t1"[..],
            b".hidden",
            b"...",
            b"ab../c",
            b"a/..b/c",
            b"~/t1",
            b"d\\e",
            b"a b\nc",
            b"\xff\xfe/\x80",
            &longest,
        ] {
            assert_eq!(path(good).as_bytes(), good);
        }
    }

    #[test]
    fn refuses_what_could_leave_the_root_or_mean_two_things() {
        for (bad, why) in [
            (&b""[..], PathError::Empty),
            (b"/abs", PathError::Absolute),
            (b"//abs", PathError::Absolute),
            (b"ab\0cd", PathError::Nul),
            (b"a//b", PathError::EmptyComponent),
            (b"d/", PathError::EmptyComponent),
            (b".", PathError::DotComponent),
            (b"..", PathError::DotComponent),
            (b"./t1", PathError::DotComponent),
            (b"../evil", PathError::DotComponent),
            (b"a/../evil", PathError::DotComponent),
            (b"a/..", PathError::DotComponent),
            (b"a/./b", PathError::DotComponent),
        ] {
            assert_eq!(ArchivePath::new(bad), Err(why), "{bad:?}");
        }
        let long = [b'x'; PATH_LEN_MAX + 1];
        assert_eq!(
            ArchivePath::new(&long),
            Err(PathError::TooLong { len: 512 })
        );
    }

    #[test]
    fn display_keeps_control_characters_off_the_terminal() {
        assert_eq!(
            path(b"a\x1b[2J\"\xff\n").to_string(),
            "a\\u{1b}[2J\"\u{fffd}\\n"
        );
        assert_eq!(format!("{:?}", path(b"a\x1b/b")), r#""a\u{1b}/b""#);
    }

    #[test]
    fn relations() {
        assert_eq!(path(b"a/b/c").parent(), Some(&b"a/b"[..]));
        assert_eq!(path(b"a").parent(), None);
        assert!(path(b"a/b/c").is_below(b"a"));
        assert!(!path(b"ab/c").is_below(b"a"));
        assert!(!path(b"a").is_below(b"a"));
        assert_eq!(path(b"a/b").components().count(), 2);
    }

    #[test]
    fn remove_patterns() {
        let exact = RemovePattern::new(&path(b"db")).unwrap();
        assert!(exact.matches(&path(b"db")) && exact.matches(&path(b"db/a/b")));
        assert!(!exact.matches(&path(b"db2")));
        let star = RemovePattern::new(&path(b"d1/t#P#*")).unwrap();
        assert!(star.matches(&path(b"d1/t#P#p0.ibd")));
        assert!(!star.matches(&path(b"d1/t.frm")));
        assert!(!star.matches(&path(b"d1/t#P#x/y")));
        assert_eq!(star.to_path_bytes(), b"d1/t#P#*");
        for bad in [&b"*"[..], b"db/*"] {
            assert_eq!(RemovePattern::new(&path(bad)), Err(PathError::EmptyPrefix));
        }
        assert_eq!(
            RemovePattern::new(&path(b"a/..*")),
            Err(PathError::DotComponent)
        );
    }
}
