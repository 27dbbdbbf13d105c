//! The two traits of the house: where file events go.

use bytes::Bytes;

use crate::base::error::Result;
use crate::pipeline::budget::ZEROS;
use crate::xbstream::{ArchivePath, RemovePattern};

/// What is known about a file when it is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The file may already be there from earlier in the same stream and is to be replaced (MariaDB's rewrite flag).
    pub rewrite: bool,
}

/// Takes whole files. Called from many threads at once, each with files of its own.
pub trait Sink: Sync {
    /// Begins a file. Fails when the name is taken or cannot be created.
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>>;

    /// Whether it has any use for that file: a source that can leave it out need not read it.
    fn wants(&self, _path: &ArchivePath) -> bool {
        true
    }

    /// Whether it has that file already, with exactly that content: `len` bytes with that CRC-32.
    fn has(&self, _path: &ArchivePath, _len: u64, _crc: u32) -> Result<bool> {
        Ok(false)
    }

    /// An empty directory. Directories with files in them are implied by their files.
    fn directory(&self, path: &ArchivePath) -> Result<()>;

    /// A closed file has a new name (MariaDB's `R` chunk). A missing file is no error: the reference readers ignore it.
    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()>;

    /// A file that was closed has turned out to be wrong: it must not keep the name of a whole one.
    fn distrust(&self, _path: &ArchivePath) -> Result<()> {
        Ok(())
    }

    /// Closed files are gone (MariaDB's `D` chunk). Missing ones are no error.
    fn remove(&self, pattern: &RemovePattern) -> Result<()>;
}

/// Takes one file. Dropped without [`FileSink::close`], the file stays visibly incomplete.
pub trait FileSink: Send {
    /// Content at `offset`. Offsets ascend, except after MariaDB's seek chunk, which only a directory can follow.
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()>;

    /// `len` zero bytes at `offset` that need no room. A sink that cannot leave room out is given them as data.
    fn hole(&mut self, offset: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            let n = usize::try_from(len - done)
                .unwrap_or(usize::MAX)
                .min(ZEROS.len());
            let zeros = ZEROS.get(..n).unwrap_or_default();
            self.data(offset + done, Bytes::from_static(zeros))?;
            done += n as u64;
        }
        Ok(())
    }

    /// The right to write the `len` bytes at `offset`, which nothing was written to yet, from another thread; closed before this
    /// is. `None` if the file must be written in order.
    fn part(&mut self, _offset: u64, _len: u64) -> Result<Option<Box<dyn FileSink>>> {
        Ok(None)
    }

    /// What comes next is an independent frame of compressed data whose content begins at `plain` in the decompressed file; or
    /// nothing comes any more, and the decompressed file ends there.
    fn frame(&mut self, _plain: u64) -> Result<()> {
        Ok(())
    }

    /// Lets go of pooled buffers that are held back for larger units. Called by whoever is short of buffers.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// The file is whole.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Takes everything and keeps nothing: the sink of `verify`.
#[derive(Debug, Default, Clone, Copy)]
pub struct NullSink;

impl Sink for NullSink {
    fn open<'s>(&'s self, _: &ArchivePath, _: Attributes) -> Result<Box<dyn FileSink + 's>> {
        Ok(Box::new(Self))
    }

    fn directory(&self, _: &ArchivePath) -> Result<()> {
        Ok(())
    }

    fn rename(&self, _: &ArchivePath, _: &ArchivePath) -> Result<()> {
        Ok(())
    }

    fn remove(&self, _: &RemovePattern) -> Result<()> {
        Ok(())
    }
}

impl FileSink for NullSink {
    fn data(&mut self, _: u64, _: Bytes) -> Result<()> {
        Ok(())
    }

    fn hole(&mut self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    fn part(&mut self, _: u64, _: u64) -> Result<Option<Box<dyn FileSink>>> {
        Ok(Some(Box::new(Self)))
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
