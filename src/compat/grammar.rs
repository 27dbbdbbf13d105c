//! The option grammar of the MySQL family: one table per program gives parser, help and the page in `format-spec/`.
//!
//! Observed on mbstream 10.11.19: names may be cut to a unique prefix (which is told), `_` is as good as `-` and upper case as
//! lower case; short options are bundled; values follow `=` or are the next word; `--skip-`, `--disable-`, `--enable-` and
//! `--loose-` stand before a name; words and options mix, `--` ends options. Rules: `compat-options.md`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

/// One option of a program with the settings `S`.
#[derive(Debug)]
pub struct Opt<S: 'static> {
    /// Name without dashes.
    pub long: &'static str,
    /// Letter, if it has one.
    pub short: Option<char>,
    /// What it takes and does.
    pub action: Action<S>,
    /// One or two sentences for the help and the page.
    pub help: &'static str,
}

impl<S> Opt<S> {
    /// What every program calls it.
    pub const HELP: Self = Self {
        long: "help",
        short: Some('?'),
        action: Action::Help,
        help: "Show this help.",
    };

    /// What those that have it call it.
    pub const VERSION: Self = Self {
        long: "version",
        short: Some('V'),
        action: Action::Version,
        help: "Show the version.",
    };
}

/// What an option takes and does.
#[derive(Debug)]
pub enum Action<S: 'static> {
    /// Shows the help.
    Help,
    /// Shows the version.
    Version,
    /// Takes no value.
    Switch(fn(&mut S)),
    /// May have a truth value behind `=`, and `--skip-` before it.
    Bool(fn(&mut S, bool)),
    /// A whole number, K, M, G, T, P, E for powers of 1024; what is out of bounds is moved to the bound and told.
    Number {
        /// Least.
        min: i64,
        /// Largest.
        max: i64,
        /// Takes it.
        set: fn(&mut S, u64),
    },
    /// Any text.
    Text(fn(&mut S, OsString)),
    /// One of these words, in any case, a unique prefix of one, or its number from 0.
    Word {
        /// The words.
        words: &'static [&'static str],
        /// Takes its number.
        set: fn(&mut S, usize),
    },
    /// A number that is read and has no effect.
    IgnoredNumber,
    /// Any text, without effect.
    IgnoredText,
    /// Known and refused.
    Refused,
}

impl<S> Clone for Action<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Action<S> {}

/// An option as the page in `format-spec/` writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// With its dashes.
    pub option: String,
    /// With its dash, or `-`.
    pub short: String,
    /// What it takes.
    pub value: String,
    /// `works`, `no effect` or `refused`.
    pub status: &'static str,
    /// The sentence.
    pub meaning: &'static str,
}

impl<S> Opt<S> {
    /// The row of the page.
    #[must_use]
    pub fn row(&self) -> Row {
        let status = match self.action {
            Action::IgnoredNumber | Action::IgnoredText => "no effect",
            Action::Refused => "refused",
            _ => "works",
        };
        Row {
            option: format!("--{}", self.long),
            short: self
                .short
                .map_or_else(|| "-".to_owned(), |c| format!("-{c}")),
            value: self.value(),
            status,
            meaning: self.help,
        }
    }

    fn value(&self) -> String {
        match &self.action {
            Action::Help | Action::Version | Action::Switch(_) | Action::Refused => "-".to_owned(),
            Action::Bool(_) => "on, off".to_owned(),
            Action::Number { .. } | Action::IgnoredNumber => "number".to_owned(),
            Action::Text(_) | Action::IgnoredText => "text".to_owned(),
            Action::Word { words, .. } => words.join(", "),
        }
    }

    /// As the help shows it.
    fn usage(&self) -> String {
        let value = match &self.action {
            Action::Number { .. } | Action::IgnoredNumber => "=#",
            Action::Text(_) | Action::IgnoredText | Action::Word { .. } => "=name",
            _ => "",
        };
        match self.short {
            Some(short) => format!("-{short}, --{}{value}", self.long),
            None => format!("    --{}{value}", self.long),
        }
    }
}

/// The options as `--help` shows them.
#[must_use]
pub fn help<S>(options: &[Opt<S>]) -> String {
    const COLUMN: usize = 26;
    const WIDTH: usize = 78;
    let mut text = String::from("Options:\n");
    for option in options {
        let mut line = format!("  {}", option.usage());
        if line.len() >= COLUMN {
            text.push_str(&line);
            text.push('\n');
            line.clear();
        }
        for word in option.help.split(' ') {
            if line.len() + 1 + word.len() > WIDTH {
                text.push_str(&line);
                text.push('\n');
                line.clear();
            }
            if line.len() < COLUMN {
                line.push_str(&" ".repeat(COLUMN - line.len()));
            } else {
                line.push(' ');
            }
            line.push_str(word);
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// What was asked to be shown instead of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// The help.
    Help,
    /// The version.
    Version,
}

/// A command line taken apart.
#[derive(Debug)]
pub struct Parsed<S> {
    /// What the options set.
    pub settings: S,
    /// What is no option, in order.
    pub words: Vec<OsString>,
    /// Lines for standard error: a prefix that was used, a value that was moved.
    pub notes: Vec<String>,
    /// Nothing else is wanted.
    pub show: Option<Show>,
}

/// A command line that cannot be: what was noted before, and the last lines.
pub type Unusable = Vec<String>;

/// Takes a command line of `program` apart. Has no effects.
pub fn parse<S: Default>(
    program: &'static str,
    options: &'static [Opt<S>],
    args: &[OsString],
) -> Result<Parsed<S>, Unusable> {
    let mut parser = Parser {
        program,
        options,
        args,
        next: 0,
        parsed: Parsed {
            settings: S::default(),
            words: Vec::new(),
            notes: Vec::new(),
            show: None,
        },
    };
    match parser.all() {
        Ok(()) => Ok(parser.parsed),
        Err(lines) => {
            let mut all = parser.parsed.notes;
            all.extend(lines);
            Err(all)
        }
    }
}

struct Parser<'a, S: 'static> {
    program: &'static str,
    options: &'static [Opt<S>],
    args: &'a [OsString],
    next: usize,
    parsed: Parsed<S>,
}

/// A prefix before the name of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    None,
    /// `--skip-` and `--disable-`: off, or the opposite of the value.
    Off,
    /// `--enable-`.
    On,
    /// `--loose-`: an unknown name is a warning only.
    Loose,
}

const PREFIXES: &[(&str, Prefix)] = &[
    ("skip-", Prefix::Off),
    ("disable-", Prefix::Off),
    ("enable-", Prefix::On),
    ("loose-", Prefix::Loose),
];

/// Lower case, `-` for `_`. r[compat-options.names]
fn normal(name: &[u8]) -> Vec<u8> {
    let byte = |b: &u8| if *b == b'_' { b'-' } else { *b };
    name.iter()
        .map(byte)
        .map(|b| b.to_ascii_lowercase())
        .collect()
}

impl<'a, S> Parser<'a, S> {
    fn all(&mut self) -> Result<(), Vec<String>> {
        while let Some(arg) = self.take() {
            match arg.as_bytes() {
                // r[compat-options.end]
                b"--" => {
                    self.parsed
                        .words
                        .extend_from_slice(self.args.get(self.next..).unwrap_or_default());
                    return Ok(());
                }
                [b'-', b'-', long @ ..] => self.long(long)?,
                [b'-', letters @ ..] if !letters.is_empty() => self.letters(letters)?,
                // r[compat-options.words]
                _ => self.parsed.words.push(arg.clone()),
            }
            if self.parsed.show.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Option<&'a OsString> {
        let arg = self.args.get(self.next)?;
        self.next += 1;
        Some(arg)
    }

    fn error<T>(&self, text: &str) -> Result<T, Vec<String>> {
        Err(vec![format!("{}: {text}", self.program)])
    }

    fn long(&mut self, text: &[u8]) -> Result<(), Vec<String>> {
        let (name, value) = match text.iter().position(|b| *b == b'=') {
            Some(at) => (
                text.get(..at).unwrap_or_default(),
                text.get(at + 1..).map(OsStr::from_bytes),
            ),
            None => (text, None),
        };
        let shown = String::from_utf8_lossy(text).into_owned();
        let unknown = match value {
            Some(_) => format!("unknown variable '{shown}'"),
            None => format!("unknown option '--{shown}'"),
        };
        let name = normal(name);
        if let Some(option) = self.find(&name)? {
            return self.give(option, Prefix::None, value, &format!("--{}", option.long));
        }
        // r[compat-options.prefixes]
        for (word, prefix) in PREFIXES {
            let Some(rest) = name.strip_prefix(word.as_bytes()) else {
                continue;
            };
            if let Some(option) = self.find(rest)? {
                return self.give(option, *prefix, value, &format!("--{}", option.long));
            }
            if *prefix == Prefix::Loose {
                let line = format!("Warning: {}: {unknown}", self.program);
                self.parsed.notes.push(line);
                return Ok(());
            }
        }
        self.error(&unknown)
    }

    /// The option of that name, or of the only name that begins so.
    fn find(&mut self, name: &[u8]) -> Result<Option<&'static Opt<S>>, Vec<String>> {
        if let Some(exact) = self.options.iter().find(|o| o.long.as_bytes() == name) {
            return Ok(Some(exact));
        }
        let mut begins = self
            .options
            .iter()
            .filter(|o| !name.is_empty() && o.long.as_bytes().starts_with(name));
        let Some(first) = begins.next() else {
            return Ok(None);
        };
        let name = String::from_utf8_lossy(name);
        if let Some(second) = begins.next() {
            let text = format!(
                "ambiguous option '--{name}' ({}, {})",
                first.long, second.long
            );
            return self.error(&text);
        }
        // r[compat-options.unique-prefix]
        self.parsed.notes.push(format!(
            "Info: Using unique option prefix '{name}' is error-prone and can break in the future. \
             Please use the full name '{}' instead.",
            first.long
        ));
        Ok(Some(first))
    }

    /// r[compat-options.letters]
    fn letters(&mut self, letters: &[u8]) -> Result<(), Vec<String>> {
        let mut rest = letters;
        while let [letter, behind @ ..] = rest {
            rest = behind;
            let letter = char::from(*letter);
            let Some(option) = self.options.iter().find(|o| o.short == Some(letter)) else {
                return self.error(&format!("unknown option '-{letter}'"));
            };
            let takes_value = matches!(
                option.action,
                Action::Number { .. }
                    | Action::IgnoredNumber
                    | Action::Text(_)
                    | Action::IgnoredText
                    | Action::Word { .. }
            );
            let mut value = None;
            if takes_value && !rest.is_empty() {
                value = Some(OsStr::from_bytes(rest));
                rest = &[];
            }
            self.give(option, Prefix::None, value, &format!("-{letter}"))?;
        }
        Ok(())
    }

    fn give(
        &mut self,
        option: &'static Opt<S>,
        prefix: Prefix,
        value: Option<&OsStr>,
        shown: &str,
    ) -> Result<(), Vec<String>> {
        let settings = &mut self.parsed.settings;
        match option.action {
            Action::Refused => {
                return self.error(&format!("option '{shown}' is refused: {}", option.help));
            }
            Action::Help | Action::Version | Action::Switch(_)
                if value.is_some() || prefix == Prefix::Off =>
            {
                return self.error(&format!("option '{shown}' cannot take an argument"));
            }
            Action::Help => self.parsed.show = Some(Show::Help),
            Action::Version => self.parsed.show = Some(Show::Version),
            Action::Switch(set) => set(settings),
            Action::Bool(set) => {
                // r[compat-options.truth]
                let text = value.map(|v| v.as_bytes().to_ascii_lowercase());
                let on = match text.as_deref() {
                    None | Some(b"1" | b"on" | b"true") => true,
                    Some(b"0" | b"off" | b"false") => false,
                    Some(_) => {
                        self.parsed.notes.push(format!(
                            "Warning: {}: ignoring option '{shown}' due to invalid value '{}'",
                            self.program,
                            value.unwrap_or_default().to_string_lossy()
                        ));
                        return Ok(());
                    }
                };
                set(settings, on == (prefix != Prefix::Off));
            }
            Action::Number { min, max, set } => {
                let value = self.value(prefix, value, shown)?;
                let number = self.number(option, &value, min, max)?;
                set(&mut self.parsed.settings, number);
            }
            Action::IgnoredNumber => {
                let value = self.value(prefix, value, shown)?;
                self.number(option, &value, 0, i64::MAX)?;
            }
            Action::Text(set) => {
                let value = self.value(prefix, value, shown)?;
                set(&mut self.parsed.settings, value);
            }
            Action::IgnoredText => drop(self.value(prefix, value, shown)?),
            Action::Word { words, set } => {
                let value = self.value(prefix, value, shown)?;
                let word = self.word(shown, &value, words)?;
                set(&mut self.parsed.settings, word);
            }
        }
        Ok(())
    }

    /// The value of an option that needs one: behind `=`, or the next word, whatever it looks like.
    /// r[compat-options.values]
    fn value(
        &mut self,
        prefix: Prefix,
        value: Option<&OsStr>,
        shown: &str,
    ) -> Result<OsString, Vec<String>> {
        if let Some(value) = value {
            return Ok(value.to_owned());
        }
        if prefix == Prefix::Off {
            return Ok(OsString::from("0"));
        }
        match self.take().cloned() {
            Some(value) => Ok(value),
            None => self.error(&format!("option '{shown}' requires an argument")),
        }
    }

    /// r[compat-options.numbers]
    fn number(
        &mut self,
        option: &Opt<S>,
        value: &OsStr,
        min: i64,
        max: i64,
    ) -> Result<u64, Vec<String>> {
        let text = value.to_string_lossy().into_owned();
        let name = option.long;
        let trimmed = text.trim_start();
        let (negative, digits) = match trimmed.strip_prefix('-') {
            Some(digits) if digits.starts_with(|c: char| c.is_ascii_digit()) => (true, digits),
            _ => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
        };
        let end = digits
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        let (digits, suffix) = digits.split_at(end);
        let shift = match suffix {
            "" => 0,
            "k" | "K" => 10,
            "m" | "M" => 20,
            "g" | "G" => 30,
            "t" | "T" => 40,
            "p" | "P" => 50,
            "e" | "E" => 60,
            other => {
                let first = other.chars().next().unwrap_or(' ');
                return Err(vec![
                    format!(
                        "Unknown suffix '{first}' used for variable '{name}' (value '{text}'). \
                         Legal suffix characters are: K, M, G, T, P, E"
                    ),
                    format!(
                        "{}: Error while setting value '{text}' to '{name}'",
                        self.program
                    ),
                ]);
            }
        };
        // No digits at all count as zero, as in `--parallel=`.
        let size = digits.bytes().fold(0_i128, |n, d| {
            n.saturating_mul(10)
                .saturating_add(i128::from(d.wrapping_sub(b'0')))
        });
        let size = size.saturating_mul(1 << shift);
        let size = if negative { -size } else { size };
        let moved = size.clamp(i128::from(min), i128::from(max));
        if moved != size {
            self.parsed.notes.push(format!(
                "Warning: option '{name}': signed value {size} adjusted to {moved}"
            ));
        }
        Ok(u64::try_from(moved).unwrap_or(0))
    }

    fn word(
        &self,
        shown: &str,
        value: &OsStr,
        words: &'static [&'static str],
    ) -> Result<usize, Vec<String>> {
        let text = value.to_string_lossy().to_ascii_lowercase();
        let exact = words.iter().position(|w| w.to_ascii_lowercase() == text);
        let number = text.parse().ok().filter(|n| *n < words.len());
        let mut begins = (0..words.len()).filter(|i| {
            words
                .get(*i)
                .is_some_and(|w| w.to_ascii_lowercase().starts_with(&text))
        });
        let unique = match (begins.next(), begins.next()) {
            (only, None) => only.filter(|_| !text.is_empty()),
            _ => None,
        };
        match exact.or(number).or(unique) {
            Some(word) => Ok(word),
            None => self.error(&format!(
                "option '{shown}' cannot be '{}'; it is one of {}",
                value.to_string_lossy(),
                words.join(", ")
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Set {
        extract: bool,
        verbose: bool,
        parallel: u64,
        directory: OsString,
        algorithm: usize,
    }

    const OPTIONS: &[Opt<Set>] = &[
        Opt {
            long: "help",
            short: Some('?'),
            action: Action::Help,
            help: "Help.",
        },
        Opt {
            long: "extract",
            short: Some('x'),
            action: Action::Switch(|s| s.extract = true),
            help: "Extract.",
        },
        Opt {
            long: "verbose",
            short: Some('v'),
            action: Action::Bool(|s, on| s.verbose = on),
            help: "Tell.",
        },
        Opt {
            long: "parallel",
            short: Some('p'),
            action: Action::Number {
                min: 1,
                max: i32::MAX as i64,
                set: |s, n| s.parallel = n,
            },
            help: "Lanes.",
        },
        Opt {
            long: "directory",
            short: Some('C'),
            action: Action::Text(|s, v| s.directory = v),
            help: "Where.",
        },
        Opt {
            long: "decrypt",
            short: None,
            action: Action::Word {
                words: &["NONE", "AES128", "AES192"],
                set: |s, w| s.algorithm = w,
            },
            help: "How.",
        },
        Opt {
            long: "absolute",
            short: Some('P'),
            action: Action::Refused,
            help: "names are relative",
        },
    ];

    fn of(line: &str) -> Result<Parsed<Set>, Vec<String>> {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        parse("p", OPTIONS, &args)
    }

    #[test]
    fn one_meaning_has_many_spellings() {
        let want = Set {
            extract: true,
            verbose: true,
            parallel: 2048,
            directory: "d".into(),
            algorithm: 1,
        };
        for line in [
            "-x -v -p 2048 -C d --decrypt AES128",
            "-xvp2K -Cd --decrypt=aes128",
            "word -xvC d other --PARALLEL=2k --decrypt=1",
            "--extract --verbose --parallel 2K --directory=d --decrypt AES12",
            "--loose-extract --enable_verbose --loose_parallel=2k --directory d --decrypt=1 -- -q",
            "-x --skip-verbose=0 --parallel=+2048 --directory=e --directory=d --decrypt=1",
        ] {
            let parsed = of(line).unwrap();
            assert_eq!(parsed.settings, want, "{line}");
            assert!(parsed.notes.is_empty(), "{line}");
        }
        assert_eq!(of("a -x b -- -c --").unwrap().words, ["a", "b", "-c", "--"]);
        assert_eq!(of("- -x").unwrap().words, ["-"]);
    }

    #[test]
    fn what_mbstream_says_is_said() {
        // Each line was seen from mbstream 10.11.19 with its own name for `p`.
        for (line, said) in [
            ("--version", "p: unknown option '--version'"),
            ("-xvq", "p: unknown option '-q'"),
            (
                "--extract=1",
                "p: option '--extract' cannot take an argument",
            ),
            (
                "--skip-extract",
                "p: option '--extract' cannot take an argument",
            ),
            ("--parallel", "p: option '--parallel' requires an argument"),
            ("-x -C", "p: option '-C' requires an argument"),
            ("--defaults-file=x", "p: unknown variable 'defaults-file=x'"),
            ("-p=2", "p: Error while setting value '=2' to 'parallel'"),
            ("--skip-foo", "p: unknown option '--skip-foo'"),
        ] {
            assert_eq!(of(line).unwrap_err().last().unwrap(), said, "{line}");
        }
        for (line, said) in [
            ("--loose-foo", "Warning: p: unknown option '--loose-foo'"),
            (
                "--loose-a-foo=3",
                "Warning: p: unknown variable 'loose-a-foo=3'",
            ),
            (
                "--parallel=-1",
                "Warning: option 'parallel': signed value -1 adjusted to 1",
            ),
            (
                "--skip-parallel",
                "Warning: option 'parallel': signed value 0 adjusted to 1",
            ),
            (
                "--verb",
                "Info: Using unique option prefix 'verb' is error-prone and can break in the future. \
                 Please use the full name 'verbose' instead.",
            ),
            (
                "--verbose=yes",
                "Warning: p: ignoring option '--verbose' due to invalid value 'yes'",
            ),
        ] {
            assert_eq!(of(line).unwrap().notes, [said], "{line}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (line, said) in [
            ("--d", "p: ambiguous option '--d' (directory, decrypt)"),
            ("-P", "p: option '-P' is refused: names are relative"),
            (
                "--decrypt=AES",
                "p: option '--decrypt' cannot be 'AES'; it is one of NONE, AES128, AES192",
            ),
            ("--=3", "p: unknown variable '=3'"),
        ] {
            assert_eq!(of(line).unwrap_err(), [said], "{line}");
        }
        let huge = of("--parallel=999999999999999999999999999999E").unwrap();
        assert_eq!(huge.settings.parallel, i32::MAX as u64);
    }
}
