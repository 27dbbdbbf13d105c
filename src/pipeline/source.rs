//! An archive that can be read anywhere: a regular file, or whatever else has a length and ranges.

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::File;
use crate::base::monitor::{Counters, Monitor};
use std::cell::Cell;
use std::sync::Arc;

/// How often bytes are read, or fetched, that turn out to be damaged: from far away they may have been so on their way only.
pub const DAMAGED_READS_MAX: u32 = 3;

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

    /// These ranges of so many bytes at a position, none before the one it follows, are read soon, each once and about in this
    /// order: a source that is far away begins to fetch them. Whoever expects a range releases it.
    fn expect(&self, _ranges: &[(u64, u64)]) -> Result<()> {
        Ok(())
    }

    /// Nobody reads these bytes of an expected range any more.
    fn release(&self, _position: u64, _len: u64) {}

    /// CRC-32 of the bytes there but the first `skip`, where they had better be compared before they are passed on: they came
    /// from far away, and nobody has compared them. May wait as a read does.
    fn crc32(&self, _position: u64, _len: u64, _skip: u64) -> Result<Option<u32>> {
        Ok(None)
    }

    /// What was read there is damaged. Tells whether it will be other bytes the next time: those that come from far away are
    /// asked for again.
    fn again(&self, _position: u64, _len: u64) -> bool {
        false
    }

    /// Whether reading these bytes does not wait for anything that is expected to come.
    fn is_near(&self, _position: u64, _len: u64) -> bool {
        true
    }

    /// Where that begins of which nothing was asked for yet.
    fn horizon(&self) -> u64 {
        u64::MAX
    }

    /// A number that changes when something comes near.
    fn moves(&self) -> u64 {
        0
    }

    /// Waits a while for [`ReadAt::moves`] to become another one.
    fn wait(&self, _moves: u64) -> Result<()> {
        Ok(())
    }
}

/// Whether what turned out to be damaged after so many `reads` is worth another one. `error` must be about these bytes alone: what
/// was read before does not come again.
pub(super) fn once_more(
    source: &dyn ReadAt,
    (position, len): (u64, u64),
    reads: &mut u32,
    error: &Error,
) -> bool {
    let more =
        error.kind() == Kind::Checksum && *reads < DAMAGED_READS_MAX && source.again(position, len);
    *reads += u32::from(more);
    more
}

/// Does with bytes of `source` what finds out whether they are damaged, and once more with others where there are such.
pub(super) fn undamaged<T>(
    source: &dyn ReadAt,
    position: u64,
    len: u64,
    mut read: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut reads = 1;
    loop {
        match read() {
            Err(error) if once_more(source, (position, len), &mut reads, &error) => {}
            result => return result,
        }
    }
}

/// An expected range, released as it is read, and what is left of it when this is dropped.
pub(super) struct Lease {
    source: Arc<dyn ReadAt>,
    position: Cell<u64>,
    end: u64,
}

impl Lease {
    pub(super) fn new(source: &Arc<dyn ReadAt>, position: u64, len: u64) -> Self {
        Self {
            source: Arc::clone(source),
            position: Cell::new(position),
            end: position.saturating_add(len),
        }
    }

    /// Everything before `position` was read.
    pub(super) fn reach(&self, position: u64) {
        let (begin, end) = (self.position.get(), position.min(self.end));
        if begin < end {
            self.source.release(begin, end - begin);
            self.position.set(end);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.reach(self.end);
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({}..{})", self.position.get(), self.end)
    }
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
