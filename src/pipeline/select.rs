//! Choosing members: a sink in front of a sink that lets only named files through. The rest is still checked.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::error::{Error, Kind, Result};
use crate::pipeline::sink::{Attributes, FileSink, NullSink, Sink};
use crate::xbstream::{ArchivePath, RemovePattern};

/// Names asked for: a file, or a directory with everything below it. No names: everything.
pub struct SelectSink<'a> {
    inner: &'a dyn Sink,
    wanted: Vec<Wanted>,
}

struct Wanted {
    name: ArchivePath,
    found: AtomicBool,
}

impl<'a> SelectSink<'a> {
    /// Lets `names` through to `inner`. A trailing slash or leading `./` is how shells complete names, and dropped.
    pub fn new(inner: &'a dyn Sink, names: &[OsString]) -> Result<Self> {
        let mut wanted = Vec::with_capacity(names.len());
        for text in names {
            let name = ArchivePath::new(trim(text.as_bytes())).map_err(|e| {
                Error::new(Kind::Usage, "no archive can hold the name")
                    .path(text)
                    .source(e)
            })?;
            wanted.push(Wanted {
                name,
                found: AtomicBool::new(false),
            });
        }
        Ok(Self { inner, wanted })
    }

    /// An error that names what was asked for and not found.
    pub fn check_found(&self) -> Result<()> {
        let missing: Vec<String> = self
            .wanted
            .iter()
            .filter(|w| !w.found.load(Ordering::Relaxed))
            .map(|w| w.name.to_string())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Failed, format!("not found in the archive: {}", missing.join(", ")))
            .hint("xbpipe list shows the names; compressed members end in .zst unless --decompress is given"))
    }

    fn wants(&self, path: &ArchivePath) -> bool {
        let mut any = self.wanted.is_empty();
        for wanted in &self.wanted {
            if wanted.name == *path || path.is_below(wanted.name.as_bytes()) {
                wanted.found.store(true, Ordering::Relaxed);
                any = true;
            }
        }
        any
    }
}

impl Sink for SelectSink<'_> {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        if self.wants(path) {
            self.inner.open(path, attributes)
        } else {
            Ok(Box::new(NullSink))
        }
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        if self.wants(path) {
            self.inner.directory(path)
        } else {
            Ok(())
        }
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        match (self.wants(from), self.wants(to)) {
            (true, true) => self.inner.rename(from, to),
            (true, false) => self.inner.remove(&RemovePattern::Exact(from.clone())),
            (false, false) => Ok(()),
            (false, true) => Err(Error::new(
                Kind::Failed,
                "the archive renames a file that was not asked for to one that was",
            )
            .path(to.as_path())
            .hint(format!("ask for {from} as well"))),
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
        if self.wanted.is_empty() || self.wanted.iter().any(|w| touches(&w.name)) {
            self.inner.remove(pattern)
        } else {
            Ok(())
        }
    }

    fn distrust(&self, path: &ArchivePath) -> Result<()> {
        if self.wants(path) {
            self.inner.distrust(path)
        } else {
            Ok(())
        }
    }
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
