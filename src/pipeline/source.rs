//! An archive that can be read anywhere: a regular file, or whatever else has a length and ranges.

use crate::base::error::Result;
use crate::base::fsx::File;
use crate::base::monitor::{Counters, Monitor};
use std::sync::Arc;

/// Bytes with positions. Any number of reads may be under way at once, from any number of threads.
pub trait ReadAt: Send + Sync {
    /// Length in bytes when it was opened.
    fn len(&self) -> u64;

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads at `position` until `buf` is full or the source ends; returns the bytes read.
    fn read_at(&self, buf: &mut [u8], position: u64) -> Result<usize>;

    /// Everything before `position` was consumed: whoever shares the descriptor goes on from there.
    fn consumed(&self, position: u64) -> Result<()>;
}

/// A regular file, from where its descriptor stands. Counts what it reads.
pub(super) struct FileSource {
    file: File,
    /// Position of the archive in the file.
    base: u64,
    len: u64,
    monitor: Arc<dyn Monitor>,
}

impl FileSource {
    /// `size` is the file's.
    pub(super) fn new(file: File, size: u64, monitor: Arc<dyn Monitor>) -> Result<Self> {
        let base = file.position()?;
        Ok(Self {
            file,
            base,
            len: size.saturating_sub(base),
            monitor,
        })
    }

    /// Gives the file back, standing at the beginning of the archive.
    pub(super) fn into_file(self) -> File {
        self.file
    }
}

impl ReadAt for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> Result<usize> {
        let n = self.file.read_at(buf, self.base.saturating_add(position))?;
        let counters = self.monitor.counters();
        Counters::add(&counters.reads, 1);
        Counters::add(&counters.read_bytes, n as u64);
        Ok(n)
    }

    fn consumed(&self, position: u64) -> Result<()> {
        self.file.set_position(self.base.saturating_add(position))
    }
}
