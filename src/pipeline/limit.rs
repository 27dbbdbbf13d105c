//! A bound on what a run puts out: a sink in front of a sink. A few bytes may decompress to any number. `r[bad-input.max-output]`

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::base::error::{Error, Kind, Result};
use crate::base::units::ByteCount;
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::xbstream::{ArchivePath, RemovePattern};

/// Lets so many bytes through, of all files together.
pub struct LimitSink<'a> {
    inner: &'a dyn Sink,
    most: Option<ByteCount>,
    passed: AtomicU64,
}

impl<'a> LimitSink<'a> {
    /// At most `most` bytes, holes counted; any number without it.
    pub fn new(inner: &'a dyn Sink, most: Option<ByteCount>) -> Self {
        Self {
            inner,
            most,
            passed: AtomicU64::new(0),
        }
    }
}

impl Sink for LimitSink<'_> {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        let inner = self.inner.open(path, attributes)?;
        Ok(match self.most {
            None => inner,
            Some(most) => Box::new(Limited {
                inner,
                passed: &self.passed,
                most,
                path: path.clone(),
            }),
        })
    }

    fn wants(&self, path: &ArchivePath) -> bool {
        self.inner.wants(path)
    }

    fn has(&self, path: &ArchivePath, len: u64, crc: u32) -> Result<bool> {
        self.inner.has(path, len, crc)
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        self.inner.directory(path)
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        self.inner.rename(from, to)
    }

    fn distrust(&self, path: &ArchivePath) -> Result<()> {
        self.inner.distrust(path)
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        self.inner.remove(pattern)
    }
}

struct Limited<'s> {
    inner: Box<dyn FileSink + 's>,
    passed: &'s AtomicU64,
    most: ByteCount,
    path: ArchivePath,
}

impl Limited<'_> {
    /// Counts what is about to pass.
    fn count(&self, offset: u64, len: u64) -> Result<()> {
        let before = self.passed.fetch_add(len, Ordering::Relaxed);
        if before.saturating_add(len) <= self.most.0 {
            return Ok(());
        }
        let what = format!(
            "the content is longer than --max-output {} allows, at",
            self.most
        );
        Err(Error::new(Kind::Failed, what)
            .path(self.path.as_path())
            .at(offset)
            .hint("nobody should trust an archive that decompresses to more than was expected; if it is right, allow more"))
    }
}

impl FileSink for Limited<'_> {
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.count(offset, data.len() as u64)?;
        self.inner.data(offset, data)
    }

    fn hole(&mut self, offset: u64, len: u64) -> Result<()> {
        self.count(offset, len)?;
        self.inner.hole(offset, len)
    }

    /// A part is counted as a whole: it is as long as it is said to be.
    fn part(&mut self, offset: u64, len: u64) -> Result<Option<Box<dyn FileSink>>> {
        let part = self.inner.part(offset, len)?;
        if part.is_some() {
            self.count(offset, len)?;
        }
        Ok(part)
    }

    fn frame(&mut self, plain: u64) -> Result<()> {
        self.inner.frame(plain)
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.flush()
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.inner.close()
    }
}
