//! MySQL option files: a pure parser (bytes in, lines out) and a loader that follows includes.
//!
//! The grammar was learnt by asking `my_print_defaults` (10.11.19); a test asks it again.
//! Values are bytes, because paths and passwords are. Names compare with `_` equal to `-`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::spec::Limit;

/// Longest option file that is read, in bytes: real ones have a few kilobytes.
pub const FILE_SIZE_MAX: u64 = 1 << 20;
/// How deep `!include` and `!includedir` may nest below a file, as in the server's own programs.
pub const INCLUDE_DEPTH_MAX: u64 = 10;
/// How many files one load may read in all, so that files which include each other come to an end.
pub const FILES_MAX: u64 = 1000;

/// The limits as `format-spec/servers.md` lists them.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "FILE_SIZE_MAX",
        value: FILE_SIZE_MAX,
        unit: "bytes",
    },
    Limit {
        name: "INCLUDE_DEPTH_MAX",
        value: INCLUDE_DEPTH_MAX,
        unit: "files",
    },
    Limit {
        name: "FILES_MAX",
        value: FILES_MAX,
        unit: "files",
    },
];

/// One line of an option file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// `[name]`
    Group(Vec<u8>),
    /// `key` or `key = value`, quotes and escapes resolved, the key as written.
    Set(Vec<u8>, Option<Vec<u8>>),
    /// `!include file`
    Include(PathBuf),
    /// `!includedir directory`
    IncludeDir(PathBuf),
}

/// Why a file is not an option file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// `[group` without the closing bracket; line number from 1.
    #[error("wrong group definition at line {0}")]
    Group(usize),
    /// An option before the first group; line number from 1.
    #[error("option without a preceding group at line {0}")]
    NoGroup(usize),
    /// `!include` or `!includedir` without a name; line number from 1.
    #[error("include without a name at line {0}")]
    Include(usize),
}

/// Reads the lines of one file. Those before a mistake stay valid, as they do for the server's
/// programs.
pub fn parse(bytes: &[u8]) -> (Vec<Line>, Option<ParseError>) {
    let mut lines = Vec::new();
    let mut in_group = false;
    for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.trim_ascii();
        match line.first() {
            None | Some(b'#' | b';') => {}
            Some(b'!') => match directive(&line[1..]) {
                Some(Line::Include(path) | Line::IncludeDir(path))
                    if path.as_os_str().is_empty() =>
                {
                    return (lines, Some(ParseError::Include(index + 1)));
                }
                directive => lines.extend(directive),
            },
            Some(b'[') => {
                let Some(end) = line.iter().position(|b| *b == b']') else {
                    return (lines, Some(ParseError::Group(index + 1)));
                };
                in_group = true;
                lines.push(Line::Group(line[1..end].trim_ascii_end().to_vec()));
            }
            Some(_) if !in_group => return (lines, Some(ParseError::NoGroup(index + 1))),
            Some(_) => lines.push(setting(without_comment(line))),
        }
    }
    (lines, None)
}

/// Unknown directives are passed over, as the server's programs do.
fn directive(text: &[u8]) -> Option<Line> {
    let word = text
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(text.len());
    let path = PathBuf::from(OsStr::from_bytes(text[word..].trim_ascii()));
    match &text[..word] {
        b"include" => Some(Line::Include(path)),
        b"includedir" => Some(Line::IncludeDir(path)),
        _ => None,
    }
}

/// Cuts at the first `#` outside quotes. A quote that never closes hides every `#` after it.
fn without_comment(line: &[u8]) -> &[u8] {
    let mut quote = None;
    let mut escaped = false;
    for (index, byte) in line.iter().enumerate() {
        match (quote, byte) {
            (None, b'#') => return &line[..index],
            (None, b'\'' | b'"') => quote = Some(*byte),
            (Some(open), byte) if open == *byte && !escaped => quote = None,
            _ => {}
        }
        escaped = quote.is_some() && *byte == b'\\' && !escaped;
    }
    line
}

fn setting(line: &[u8]) -> Line {
    let Some(equals) = line.iter().position(|b| *b == b'=') else {
        return Line::Set(line.trim_ascii().to_vec(), None);
    };
    let key = line[..equals].trim_ascii().to_vec();
    let value = line[equals + 1..].trim_ascii();
    let value = match value {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => value,
    };
    Line::Set(key, Some(unescape(value)))
}

fn unescape(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'r') => out.push(b'\r'),
            Some(b'b') => out.push(8),
            Some(b's') => out.push(b' '),
            Some(same @ (b'\\' | b'"' | b'\'')) => out.push(same),
            Some(other) => out.extend([b'\\', other]),
            None => out.push(b'\\'),
        }
    }
    out
}

/// One option with the group it stood in.
#[derive(Clone, PartialEq, Eq)]
pub struct FileOption {
    /// Group as written, without the group suffix logic applied.
    pub group: Vec<u8>,
    /// Key as written.
    pub key: Vec<u8>,
    /// Value; `None` for a key without `=`.
    pub value: Option<Vec<u8>>,
}

impl FileOption {
    /// Whether the key names option `name` (`_` equals `-`, a `loose` prefix is dropped).
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        let key = match self.key.get(..6) {
            Some(b"loose_" | b"loose-") => &self.key[6..],
            _ => &self.key[..],
        };
        let dash = |b: &u8| if *b == b'_' { b'-' } else { *b };
        key.iter().map(dash).eq(name.bytes().map(|b| dash(&b)))
    }
}

impl fmt::Debug for FileOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = String::from_utf8_lossy(&self.key).contains("pass");
        let group = String::from_utf8_lossy(&self.group);
        write!(f, "[{group}] {}", String::from_utf8_lossy(&self.key))?;
        match &self.value {
            Some(_) if secret => f.write_str("=..."),
            Some(value) => write!(f, "={:?}", String::from_utf8_lossy(value)),
            None => Ok(()),
        }
    }
}

/// Which option files to read; the command line's `--defaults-*` options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Read no file at all.
    pub no_defaults: bool,
    /// Read this file only.
    pub defaults_file: Option<PathBuf>,
    /// Read this one too, after the system's files and before the user's.
    pub defaults_extra_file: Option<PathBuf>,
    /// Also read groups of this suffix: `_2` adds `[client_2]` to `[client]`.
    pub group_suffix: Option<String>,
    /// Home directory, for `~/.my.cnf`.
    pub home: Option<PathBuf>,
}

/// Everything the option files say, in reading order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptionFiles {
    options: Vec<FileOption>,
    warnings: Vec<String>,
    suffix: Option<String>,
}

impl OptionFiles {
    /// Reads the files of `choice`. A file named by the user must exist; the usual ones need not.
    pub fn load(choice: &Choice) -> Result<Self> {
        let mut loader = Loader::default();
        if !choice.no_defaults {
            if let Some(file) = &choice.defaults_file {
                loader.file(file, true)?;
            } else {
                loader.file(Path::new("/etc/my.cnf"), false)?;
                loader.file(Path::new("/etc/mysql/my.cnf"), false)?;
                if let Some(file) = &choice.defaults_extra_file {
                    loader.file(file, true)?;
                }
                if let Some(home) = &choice.home {
                    loader.file(&home.join(".my.cnf"), false)?;
                }
            }
        }
        Ok(Self {
            options: loader.options,
            warnings: loader.warnings,
            suffix: choice.group_suffix.clone(),
        })
    }

    /// The options of `groups` (and of the same with the group suffix), in reading order.
    pub fn of<'a>(&'a self, groups: &'a [&str]) -> impl DoubleEndedIterator<Item = &'a FileOption> {
        self.options.iter().filter(move |option| {
            groups.iter().any(|name| {
                let group = &option.group;
                let plain = group.eq_ignore_ascii_case(name.as_bytes());
                plain
                    || self.suffix.as_ref().is_some_and(|suffix| {
                        let full = [name.as_bytes(), suffix.as_bytes()].concat();
                        group.eq_ignore_ascii_case(&full)
                    })
            })
        })
    }

    /// The options of `groups` as words of a command line, in reading order: whatever takes options from there takes these.
    #[must_use]
    pub fn words(&self, groups: &[&str]) -> Vec<OsString> {
        let word = |option: &FileOption| {
            let mut word = [b"--", &option.key[..]].concat();
            if let Some(value) = &option.value {
                word.push(b'=');
                word.extend_from_slice(value);
            }
            OsString::from_vec(word)
        };
        self.of(groups).map(word).collect()
    }

    /// The last value of option `name` in `groups`; a key without value gives an empty one.
    #[must_use]
    pub fn value(&self, groups: &[&str], name: &str) -> Option<OsString> {
        let option = self.of(groups).rfind(|option| option.is(name))?;
        Some(OsString::from_vec(option.value.clone().unwrap_or_default()))
    }

    /// The last word on the switch `name` in `groups`: `name`, `name=1|on|true|yes`,
    /// `name=0|off|false|no`, `skip-name`, `disable-name`, `enable-name`.
    pub fn switch(&self, groups: &[&str], name: &str) -> Result<Option<bool>> {
        let spoken = [
            (name.to_owned(), false),
            (format!("skip-{name}"), true),
            (format!("disable-{name}"), true),
            (format!("enable-{name}"), false),
        ];
        for option in self.of(groups).rev() {
            let Some((_, negated)) = spoken.iter().find(|(word, _)| option.is(word)) else {
                continue;
            };
            let on = match option
                .value
                .as_deref()
                .map(<[u8]>::to_ascii_lowercase)
                .as_deref()
            {
                None | Some(b"" | b"1" | b"on" | b"true" | b"yes") => true,
                Some(b"0" | b"off" | b"false" | b"no") => false,
                Some(_) => {
                    return Err(Error::new(
                        Kind::Usage,
                        format!("option {name} of the option files is neither on nor off"),
                    ));
                }
            };
            return Ok(Some(on != *negated));
        }
        Ok(None)
    }

    /// Files that were passed over, and why; one sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

#[derive(Default)]
struct Loader {
    options: Vec<FileOption>,
    warnings: Vec<String>,
    files: u64,
}

impl Loader {
    fn file(&mut self, path: &Path, required: bool) -> Result<()> {
        if !required && !fsx::exists(path).unwrap_or(false) {
            return Ok(());
        }
        match self.read(path, 0) {
            Err(error) if required => {
                Err(error.hint("correct the file, or name another one with --defaults-file"))
            }
            other => other,
        }
    }

    /// Reads one file into `options`. `depth` counts the includes above it.
    fn read(&mut self, path: &Path, depth: u64) -> Result<()> {
        const REGULAR: u32 = 0o100_000;
        const TYPE_MASK: u32 = 0o170_000;
        const WORLD_WRITABLE: u32 = 0o002;
        self.files += 1;
        if self.files > FILES_MAX {
            return Err(Error::new(
                Kind::Usage,
                format!("more than {FILES_MAX} option files include each other"),
            )
            .path(path));
        }
        let stat = fsx::stat(path)?;
        if stat.mode & TYPE_MASK == REGULAR && stat.mode & WORLD_WRITABLE != 0 {
            self.warn("world-writable option file is ignored:", path);
            return Ok(());
        }
        let (lines, mistake) = parse(&fsx::read_small(path, FILE_SIZE_MAX)?);
        // An included file begins outside every group, and its groups end with it.
        let mut group = Vec::new();
        for line in lines {
            match line {
                Line::Group(name) => group = name,
                Line::Set(key, value) => self.options.push(FileOption {
                    group: group.clone(),
                    key,
                    value,
                }),
                Line::Include(_) | Line::IncludeDir(_) if depth >= INCLUDE_DEPTH_MAX => {
                    self.warn("include is ignored, too many inside each other, in", path);
                }
                Line::Include(file) => {
                    if fsx::exists(&file).unwrap_or(false) {
                        self.read(&file, depth + 1)?;
                    } else {
                        self.warn("included option file does not exist:", &file);
                    }
                }
                Line::IncludeDir(dir) => {
                    for entry in fsx::list_dir(&dir)? {
                        let file = dir.join(&entry.name);
                        let is_option_file = file.as_os_str().as_bytes().ends_with(b".cnf");
                        if is_option_file && entry.kind != fsx::EntryKind::Dir {
                            self.read(&file, depth + 1)?;
                        }
                    }
                }
            }
        }
        match mistake {
            // The server's programs say it and go on when the mistake is in an included file.
            Some(mistake) if depth > 0 => {
                self.warnings
                    .push(format!("{mistake} of {path:?}; the rest of it is ignored"));
                Ok(())
            }
            Some(mistake) => Err(Error::new(Kind::Usage, "malformed option file")
                .path(path)
                .source(mistake)),
            None => Ok(()),
        }
    }

    fn warn(&mut self, text: &str, path: &Path) {
        self.warnings.push(format!("{text} {:?}", path.as_os_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT_GROUPS: &[&str] = &["client", "xbpipe"];
    const SERVER_GROUPS: &[&str] = &["mysqld"];

    fn values(text: &str) -> Vec<(String, Option<String>)> {
        let (lines, mistake) = parse(text.as_bytes());
        assert_eq!(mistake, None);
        let string = |b: Vec<u8>| String::from_utf8(b).unwrap();
        lines
            .into_iter()
            .filter_map(|line| match line {
                Line::Set(key, value) => Some((string(key), value.map(string))),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn comments_quotes_and_escapes() {
        let text = "[g] junk\n#c\n;c\n\r\na=b#c\nb = \"x#y\" # z\nc='it''s'\nd='open # x\ne=\nf\n\
                    g=\\s\\t\\\\\\q\\\nh=\"\ni = a  b \n";
        let want = [
            ("a", Some("b")),
            ("b", Some("x#y")),
            ("c", Some("it''s")),
            ("d", Some("'open # x")),
            ("e", Some("")),
            ("f", None),
            ("g", Some(" \t\\\\q\\")),
            ("h", Some("\"")),
            ("i", Some("a  b")),
        ];
        let want: Vec<_> = want
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned)))
            .collect();
        assert_eq!(values(text), want);
    }

    #[test]
    fn mistakes_have_line_numbers() {
        assert_eq!(parse(b"\nx=1\n").1, Some(ParseError::NoGroup(2)));
        assert_eq!(parse(b"[a]\n[b\n").1, Some(ParseError::Group(2)));
        assert_eq!(parse(b"!includedir \n").1, Some(ParseError::Include(1)));
    }

    #[test]
    fn later_wins_groups_and_suffix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.cnf");
        let text = "[Client]\nuser=a\nmax_x=1\n[other]\nuser=no\n[xbpipe]\nuser=b\n\
                    loose-ssl_ca=/ca\nskip-ssl\n[client_2]\nuser=c\n";
        fsx::write_small(&path, text.as_bytes()).unwrap();
        let mut choice = Choice {
            defaults_file: Some(path),
            ..Choice::default()
        };
        let files = OptionFiles::load(&choice).unwrap();
        assert_eq!(files.value(CLIENT_GROUPS, "user"), Some("b".into()));
        assert_eq!(files.value(CLIENT_GROUPS, "max-x"), Some("1".into()));
        assert_eq!(files.value(CLIENT_GROUPS, "ssl-ca"), Some("/ca".into()));
        assert_eq!(files.switch(CLIENT_GROUPS, "ssl").unwrap(), Some(false));
        assert_eq!(files.value(SERVER_GROUPS, "user"), None);
        choice.group_suffix = Some("_2".to_owned());
        let files = OptionFiles::load(&choice).unwrap();
        assert_eq!(files.value(CLIENT_GROUPS, "user"), Some("c".into()));
    }

    #[test]
    fn passwords_stay_out_of_debug_output() {
        let option = FileOption {
            group: b"client".to_vec(),
            key: b"password".to_vec(),
            value: Some(b"hush".to_vec()),
        };
        assert!(!format!("{option:?}").contains("hush"));
    }

    #[test]
    fn files_that_include_each_other_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.cnf");
        let include = format!("[client]\n!includedir {}\nx=1\n", dir.path().display());
        for name in ["a.cnf", "b.cnf", "c.cnf"] {
            fsx::write_small(dir.path().join(name), include.as_bytes()).unwrap();
        }
        let choice = Choice {
            defaults_file: Some(path),
            ..Choice::default()
        };
        assert_eq!(OptionFiles::load(&choice).unwrap_err().kind(), Kind::Usage);
    }
}
