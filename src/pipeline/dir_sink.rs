//! A directory as a sink: files appear under their names only when they are whole.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::{Dir, File};
use crate::base::monitor::{Counters, Monitor};
use crate::pipeline::budget::ZEROS;
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::xbstream::{ArchivePath, RemovePattern};

/// Suffix of a file that is not whole yet. A name that stays so was never verified.
pub const PARTIAL_SUFFIX: &str = ".xbpipe-partial";

/// Content up to this length is kept until the file closes and then written at once under its final name.
const SMALL_LEN_MAX: usize = 32 << 10;

/// Bound of all content kept that way; beyond it files go to disk at once. Many members open at a time is what only a hostile
/// archive has.
const SMALL_TOTAL_MAX: usize = 8 << 20;

/// Zero runs shorter than this are written: holes cost the file system an extent each.
const HOLE_LEN_MIN: usize = 64 << 10;

/// Unit in which zeros are looked for; the block size of every common file system.
const BLOCK_LEN: usize = 4 << 10;

/// Permission bits of created files before the umask: what the server's own files have.
const FILE_MODE: u32 = 0o640;

/// What to do with names that exist, and what is promised at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirOptions {
    /// Replace existing files instead of failing.
    pub overwrite: bool,
    /// Have everything on stable storage when [`DirSink::finish`] returns.
    pub sync: bool,
}

/// Writes files beneath one directory.
pub struct DirSink {
    dir: Dir,
    options: DirOptions,
    /// It was empty when the run began, so that everything in it comes from this archive.
    fresh: bool,
    monitor: Arc<dyn Monitor>,
    small_total: AtomicUsize,
}

impl DirSink {
    /// Writes beneath `path`, which is created if it is missing.
    pub fn open(path: &Path, options: DirOptions, monitor: Arc<dyn Monitor>) -> Result<Self> {
        crate::base::fsx::create_dir_all(path)?;
        let dir = Dir::open(path)?;
        let fresh = dir.names_in(Path::new(""))?.is_empty();
        Ok(Self {
            dir,
            options,
            fresh,
            monitor,
            small_total: AtomicUsize::new(0),
        })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// An archive may rearrange what it has written, but not what was there before it came.
    fn check_fresh(&self, path: &Path) -> Result<()> {
        if self.fresh || self.options.overwrite {
            return Ok(());
        }
        let path = self.dir.path().join(path);
        Err(Error::new(
            Kind::Failed,
            "the archive renames or removes files, and the target directory was not empty:",
        )
        .path(path)
        .hint("extract into an empty directory, or use --overwrite"))
    }

    /// With [`DirOptions::sync`]: everything closed so far is on stable storage.
    pub fn settle(&self) -> Result<()> {
        if self.options.sync {
            self.dir.sync_file_system()
        } else {
            Ok(())
        }
    }

    /// Everything is written; with [`DirOptions::sync`] also durable.
    pub fn finish(self) -> Result<()> {
        self.settle()
    }
}

impl Sink for DirSink {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        let replace = self.options.overwrite || attributes.rewrite;
        let name = path.as_path().to_path_buf();
        if path.as_bytes().ends_with(PARTIAL_SUFFIX.as_bytes()) {
            // Beside `NAME`, which passes through that name on its way, one of the two would be lost.
            return Err(Error::new(
                Kind::Failed,
                "the name is reserved for files that are not whole:",
            )
            .path(name));
        }
        Ok(Box::new(DirFile {
            sink: self,
            name,
            replace,
            small: Small::new(&self.small_total),
            large: None,
            end: 0,
        }))
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        self.dir.create_dirs(path.as_path())
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        self.check_fresh(from.as_path())?;
        if !self.dir.exists(from.as_path())? {
            return Ok(());
        }
        if let Some(parent) = to.as_path().parent().filter(|p| !p.as_os_str().is_empty()) {
            self.dir.create_dirs(parent)?;
        }
        self.dir.rename(from.as_path(), to.as_path(), true)
    }

    fn distrust(&self, path: &ArchivePath) -> Result<()> {
        let name = path.as_path();
        if self.dir.exists(name)? {
            self.dir.rename(name, &partial_name(name), true)?;
        }
        Ok(())
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        let (RemovePattern::Exact(path) | RemovePattern::Prefix { stem: path }) = pattern;
        self.check_fresh(path.as_path())?;
        let stem = match pattern {
            RemovePattern::Exact(path) => return self.dir.remove_tree(path.as_path()),
            RemovePattern::Prefix { stem } => stem.as_path(),
        };
        let directory = stem.parent().unwrap_or(Path::new(""));
        let prefix = stem.file_name().unwrap_or_default().as_bytes();
        for name in self.dir.names_in(directory)? {
            if name.as_bytes().starts_with(prefix) {
                self.dir.remove_tree(&directory.join(&name))?;
            }
        }
        Ok(())
    }
}

struct DirFile<'s> {
    sink: &'s DirSink,
    name: PathBuf,
    replace: bool,
    /// Content so far while the file is small and contiguous.
    small: Small<'s>,
    large: Option<Large>,
    /// Highest offset seen: the length of the file.
    end: u64,
}

/// The first bytes of a file, counted in the sink's total.
struct Small<'s> {
    bytes: Vec<u8>,
    total: &'s AtomicUsize,
}

impl<'s> Small<'s> {
    fn new(total: &'s AtomicUsize) -> Self {
        Self {
            bytes: Vec::new(),
            total,
        }
    }

    /// Keeps `data` if there is room for it.
    fn push(&mut self, data: &[u8]) -> bool {
        if self.bytes.len() + data.len() > SMALL_LEN_MAX {
            return false;
        }
        let total = self.total.fetch_add(data.len(), Ordering::Relaxed) + data.len();
        if total > SMALL_TOTAL_MAX {
            self.total.fetch_sub(data.len(), Ordering::Relaxed);
            return false;
        }
        self.bytes.extend_from_slice(data);
        true
    }

    fn take(&mut self) -> Vec<u8> {
        self.total.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        self.take();
    }
}

struct Large {
    file: File,
    partial: PathBuf,
    /// Length on disk; less than `DirFile::end` while the tail is a hole.
    written_end: u64,
}

impl Large {
    fn put(&mut self, bytes: &[u8], offset: u64, sink: &DirSink) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(bytes, offset)?;
        self.written_end = self.written_end.max(offset + bytes.len() as u64);
        Counters::add(&sink.monitor.counters().written_bytes, bytes.len() as u64);
        Ok(())
    }
}

impl DirFile<'_> {
    /// The open file, created now under its partial name if this is the first time.
    fn large(&mut self) -> Result<&mut Large> {
        if self.large.is_none() {
            let dir = &self.sink.dir;
            if !self.replace && dir.exists(&self.name)? {
                return Err(target_exists(&dir.path().join(&self.name)));
            }
            let partial = partial_name(&self.name);
            if dir.exists(&partial)? {
                // Left by a run that was killed: it was never whole.
                dir.remove_file(&partial)?;
            }
            let file = dir.create_file(&partial, FILE_MODE)?;
            self.large = Some(Large {
                file,
                partial,
                written_end: 0,
            });
            let small = self.small.take();
            self.write(&small, 0)?;
        }
        self.large
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Failed, "file is not open"))
    }

    /// Writes what is not a long run of zeros.
    fn write(&mut self, data: &[u8], offset: u64) -> Result<()> {
        let sink = self.sink;
        let large = self.large()?;
        // A patch (MariaDB's seek) may write zeros over data: they are taken literally.
        let literal = usize::try_from(large.written_end.saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(data.len());
        let (patch, rest) = data.split_at(literal);
        let border = offset + literal as u64;
        large.put(patch, offset, sink)?;
        for run in data_runs(rest, border) {
            let at = border + run.start as u64;
            large.put(rest.get(run).unwrap_or_default(), at, sink)?;
        }
        Ok(())
    }
}

impl FileSink for DirFile<'_> {
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()> {
        let contiguous = offset == self.small.bytes.len() as u64 && self.large.is_none();
        self.end = self.end.max(offset + data.len() as u64);
        if contiguous && self.small.push(&data) {
            return Ok(());
        }
        self.write(&data, offset)
    }

    fn hole(&mut self, mut offset: u64, len: u64) -> Result<()> {
        let end = offset + len;
        self.end = self.end.max(end);
        let sink = self.sink;
        let large = self.large()?;
        // Over what is there already, zeros must be written.
        let covered = end.min(large.written_end);
        while offset < covered {
            let n = usize::try_from(covered - offset)
                .unwrap_or(usize::MAX)
                .min(ZEROS.len());
            large.put(ZEROS.get(..n).unwrap_or_default(), offset, sink)?;
            offset += n as u64;
        }
        Ok(())
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        let dir = &self.sink.dir;
        if self.replace && dir.exists(&self.name)? {
            // The old file stays until the new one is whole.
            self.large()?;
        }
        let Some(large) = &self.large else {
            let file = dir.create_file(&self.name, FILE_MODE)?;
            let written = file.write_all_at(&self.small.bytes, 0);
            if written.is_err() {
                // Under its final name nothing may be less than whole.
                dir.remove_file(&self.name)?;
            }
            Counters::add(
                &self.sink.monitor.counters().written_bytes,
                self.small.bytes.len() as u64,
            );
            return written;
        };
        if large.written_end < self.end {
            large.file.set_len(self.end)?;
        }
        dir.rename(&large.partial, &self.name, self.replace)
    }
}

fn target_exists(path: &Path) -> Error {
    Error::new(Kind::Failed, "target exists")
        .path(path)
        .hint("extract into an empty directory, or use --overwrite to replace files")
}

/// `NAME.xbpipe-partial`; a name too long for that is cut and told apart by its hash.
pub(crate) fn partial_name(name: &Path) -> PathBuf {
    /// Longest file name component of Linux file systems.
    const NAME_LEN_MAX: usize = 255;
    let leaf = name.file_name().unwrap_or_default().as_bytes();
    let mut partial = leaf.to_vec();
    if leaf.len() + PARTIAL_SUFFIX.len() > NAME_LEN_MAX {
        let tag = format!("~{:08x}", crc32fast::hash(leaf));
        partial.truncate(NAME_LEN_MAX - PARTIAL_SUFFIX.len() - tag.len());
        partial.extend_from_slice(tag.as_bytes());
    }
    partial.extend_from_slice(PARTIAL_SUFFIX.as_bytes());
    name.with_file_name(std::ffi::OsString::from_vec(partial))
}

/// Ranges of `data` to write: everything but zero runs of at least [`HOLE_LEN_MIN`] bytes in whole file blocks. Where such a run
/// reaches an end of `data`, which cuts blocks anywhere, it takes the part of a block there with it.
fn data_runs(data: &[u8], offset: u64) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::with_capacity(1);
    // First block border at or after `offset`.
    let to_border = usize::try_from(offset.next_multiple_of(BLOCK_LEN as u64) - offset)
        .unwrap_or(data.len())
        .min(data.len());
    let (mut begin, mut at) = (0, to_border);
    while let Some(block) = data.get(at..at + BLOCK_LEN) {
        if !is_zero(block) {
            at += BLOCK_LEN;
            continue;
        }
        let zeros = data
            .get(at..)
            .unwrap_or_default()
            .chunks_exact(BLOCK_LEN)
            .take_while(|b| is_zero(b))
            .count()
            * BLOCK_LEN;
        let after = at + zeros;
        if zeros >= HOLE_LEN_MIN {
            let before = data.get(begin..at).unwrap_or_default();
            if at > begin && !(begin == 0 && at == to_border && is_zero(before)) {
                runs.push(begin..at);
            }
            let tail = data.get(after..).unwrap_or_default();
            begin = if tail.len() < BLOCK_LEN && is_zero(tail) {
                data.len()
            } else {
                after
            };
        }
        at = after;
    }
    if begin < data.len() {
        runs.push(begin..data.len());
    }
    runs
}

/// Looks at the first word before the rest: nearly every block that is not zero shows it there.
fn is_zero(block: &[u8]) -> bool {
    let (head, rest) = block.split_at(block.len().min(16));
    head.iter().all(|b| *b == 0)
        && rest
            .chunks(512)
            .all(|c| c.iter().fold(0, |sum, b| sum | b) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_zero_runs_in_whole_blocks_are_left_out() {
        let mut data = vec![1; 300 << 10];
        data[10_000..200_000].fill(0);
        assert_eq!(data_runs(&data, 0), vec![0..12_288, 196_608..300 << 10]);
        assert_eq!(data_runs(&data, 4096), vec![0..12_288, 196_608..300 << 10]);
        assert_eq!(data_runs(&data, 100), vec![0..12_188, 196_508..300 << 10]);
        data[100_000] = 1;
        let runs = data_runs(&data, 0);
        assert_eq!(runs.first(), Some(&(0..12_288)));
        let covered: usize = runs.iter().map(ExactSizeIterator::len).sum();
        assert!(covered < data.len());
        assert_eq!(
            data_runs(&vec![0; 128 << 10], 0),
            Vec::<std::ops::Range<usize>>::new()
        );
        assert!(data_runs(&vec![0; 128 << 10], 100).is_empty());
        assert_eq!(data_runs(&vec![0; 60 << 10], 0), vec![0..60 << 10]);
    }

    #[test]
    fn partial_names_stay_within_the_limit_and_apart() {
        let (a, b) = ("a".repeat(254), format!("{}b", "a".repeat(253)));
        let (pa, pb) = (partial_name(Path::new(&a)), partial_name(Path::new(&b)));
        assert_eq!(pa.as_os_str().len(), 255);
        assert_ne!(pa, pb);
        assert_eq!(
            partial_name(Path::new("d/t.ibd")),
            Path::new("d/t.ibd.xbpipe-partial")
        );
    }
}
