//! Choosing members: a sink in front of a sink that lets only some files through. The rest is checked where it has to be read.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::error::{Error, Kind, Result};
use crate::pipeline::glob::Glob;
use crate::pipeline::sink::{Attributes, FileSink, NullSink, Sink};
use crate::xbstream::{ArchivePath, RemovePattern};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Files, directories with everything in them, and patterns ([`Glob`]); empty for everything.
    pub names: Vec<OsString>,
    /// Patterns of what is left out all the same, matched from the beginning of any component on.
    pub exclude: Vec<OsString>,
}

impl Selection {
    /// Whether that is everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.names.is_empty() && self.exclude.is_empty()
    }
}

/// Lets only what is asked for through.
pub struct SelectSink<'a> {
    inner: &'a dyn Sink,
    wanted: Vec<Wanted>,
    exclude: Vec<Glob>,
}

struct Wanted {
    /// As it was given, for messages.
    text: OsString,
    /// The name itself, which no pattern may hide.
    name: Option<ArchivePath>,
    pattern: Option<Glob>,
    found: AtomicBool,
}

impl Wanted {
    fn matches(&self, path: &ArchivePath) -> bool {
        let by_name = self
            .name
            .as_ref()
            .is_some_and(|name| name == path || path.is_below(name.as_bytes()));
        by_name
            || self
                .pattern
                .as_ref()
                .is_some_and(|pattern| pattern.matches(path.as_bytes()))
    }
}

impl<'a> SelectSink<'a> {
    /// Lets what is selected through to `inner`. A trailing slash or leading `./` is how shells complete names, and dropped.
    pub fn new(inner: &'a dyn Sink, selection: &Selection) -> Result<Self> {
        let mut wanted = Vec::with_capacity(selection.names.len());
        for text in &selection.names {
            let bytes = trim(text.as_bytes());
            let pattern = Glob::is_pattern(bytes).then(|| Glob::new(bytes));
            let name = match (ArchivePath::new(bytes), &pattern) {
                (Ok(name), _) => Some(name),
                (Err(_), Some(_)) => None,
                (Err(e), None) => {
                    return Err(Error::new(Kind::Usage, "no archive can hold the name")
                        .path(text)
                        .source(e));
                }
            };
            wanted.push(Wanted {
                text: text.clone(),
                name,
                pattern,
                found: AtomicBool::new(false),
            });
        }
        let exclude = selection
            .exclude
            .iter()
            .map(|text| Glob::new(trim(text.as_bytes())))
            .collect();
        Ok(Self {
            inner,
            wanted,
            exclude,
        })
    }

    /// An error that names what was asked for and not found.
    pub fn check_found(&self) -> Result<()> {
        let missing: Vec<String> = self
            .wanted
            .iter()
            .filter(|w| !w.found.load(Ordering::Relaxed))
            .map(|w| match &w.name {
                Some(name) => name.to_string(),
                None => format!("{:?}", w.text),
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Failed, format!("not found in the archive: {}", missing.join(", ")))
            .hint("xbpipe list shows the names; compressed members end in .zst unless --decompress is given"))
    }

    /// Whether a path is asked for.
    pub fn selects(&self, path: &ArchivePath) -> bool {
        let mut any = self.wanted.is_empty();
        for wanted in &self.wanted {
            if wanted.matches(path) {
                wanted.found.store(true, Ordering::Relaxed);
                any = true;
            }
        }
        any && !self
            .exclude
            .iter()
            .any(|pattern| pattern.matches_anywhere(path.as_bytes()))
    }
}

impl Sink for SelectSink<'_> {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        if self.selects(path) {
            self.inner.open(path, attributes)
        } else {
            Ok(Box::new(NullSink))
        }
    }

    fn wants(&self, path: &ArchivePath) -> bool {
        self.selects(path) && self.inner.wants(path)
    }

    fn has(&self, path: &ArchivePath, len: u64, crc: u32) -> Result<bool> {
        self.inner.has(path, len, crc)
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        if self.selects(path) {
            self.inner.directory(path)
        } else {
            Ok(())
        }
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        match (self.selects(from), self.selects(to)) {
            (true, true) => self.inner.rename(from, to),
            (true, false) => self.inner.remove(&RemovePattern::Exact(from.clone())),
            (false, false) => Ok(()),
            (false, true) => Err(not_asked_for(from, to)),
        }
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        let touches = |name: &ArchivePath| match pattern {
            RemovePattern::Exact(path) => {
                name == path || name.is_below(path.as_bytes()) || path.is_below(name.as_bytes())
            }
            RemovePattern::Prefix { stem } => {
                name.as_bytes().starts_with(stem.as_bytes()) || stem.is_below(name.as_bytes())
            }
        };
        // A pattern may match anything below; removing what was never let through has no effect.
        let concerns = |w: &Wanted| w.pattern.is_some() || w.name.as_ref().is_some_and(touches);
        if self.wanted.is_empty() || self.wanted.iter().any(concerns) {
            self.inner.remove(pattern)
        } else {
            Ok(())
        }
    }

    fn distrust(&self, path: &ArchivePath) -> Result<()> {
        if self.selects(path) {
            self.inner.distrust(path)
        } else {
            Ok(())
        }
    }
}

/// A rename that would bring in what has already passed by.
pub(super) fn not_asked_for(from: &ArchivePath, to: &ArchivePath) -> Error {
    Error::new(
        Kind::Failed,
        "the archive renames a file that was not asked for to one that was",
    )
    .path(to.as_path())
    .hint(format!("ask for {from} as well"))
}

/// A name as archives spell it: without leading `./` and trailing `/`.
fn trim(mut name: &[u8]) -> &[u8] {
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    while let Some(rest) = name.strip_suffix(b"/") {
        name = rest;
    }
    name
}
