//! Names without their first components: a sink in front of a sink, as `tar --strip-components` has it.

use std::os::unix::ffi::OsStrExt as _;

use crate::base::error::Result;
use crate::pipeline::sink::{Attributes, FileSink, NullSink, Sink};
use crate::xbstream::{ArchivePath, RemovePattern};

/// Takes the first components off every name. What has no more than those is left out.
pub struct StripSink<'a> {
    inner: &'a dyn Sink,
    components: usize,
}

impl<'a> StripSink<'a> {
    /// Takes `components` off.
    pub fn new(inner: &'a dyn Sink, components: usize) -> Self {
        Self { inner, components }
    }

    fn strip(&self, path: &ArchivePath) -> Option<ArchivePath> {
        let rest: std::path::PathBuf = path.as_path().components().skip(self.components).collect();
        ArchivePath::new(rest.as_os_str().as_bytes()).ok()
    }
}

impl Sink for StripSink<'_> {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        match self.strip(path) {
            Some(path) => self.inner.open(&path, attributes),
            None => Ok(Box::new(NullSink)),
        }
    }

    fn wants(&self, path: &ArchivePath) -> bool {
        self.strip(path).is_some_and(|path| self.inner.wants(&path))
    }

    fn has(&self, path: &ArchivePath, len: u64, crc: u32) -> Result<bool> {
        self.strip(path)
            .map_or(Ok(false), |path| self.inner.has(&path, len, crc))
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        self.strip(path)
            .map_or(Ok(()), |path| self.inner.directory(&path))
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        match (self.strip(from), self.strip(to)) {
            (Some(from), Some(to)) => self.inner.rename(&from, &to),
            (Some(from), None) => self.inner.remove(&RemovePattern::Exact(from)),
            // It was left out and is so no longer, but its content has passed.
            (None, Some(to)) => Err(super::select::not_asked_for(from, &to)),
            (None, None) => Ok(()),
        }
    }

    fn distrust(&self, path: &ArchivePath) -> Result<()> {
        self.strip(path)
            .map_or(Ok(()), |path| self.inner.distrust(&path))
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        let stripped = match pattern {
            RemovePattern::Exact(path) => self.strip(path).map(RemovePattern::Exact),
            RemovePattern::Prefix { stem } => {
                self.strip(stem).map(|stem| RemovePattern::Prefix { stem })
            }
        };
        stripped.map_or(Ok(()), |pattern| self.inner.remove(&pattern))
    }
}
