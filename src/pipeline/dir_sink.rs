//! A directory as a sink: files appear under their names only when they are whole.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::{self, Dir, EntryKind, File};
use crate::base::monitor::{Counters, Monitor};
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::pipeline::sparse::SparseFile;
use crate::xbstream::{ArchivePath, RemovePattern};

/// Suffix of a file that is not whole yet. A name that stays so was never verified.
pub const PARTIAL_SUFFIX: &str = ".xbpipe-partial";

/// Whether `path` is the name of a file that is not whole.
#[must_use]
pub fn is_partial(path: &Path) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    name.ends_with(PARTIAL_SUFFIX.as_bytes())
}

/// A file in the directory `path`, or in a directory in it, that was not written to its end.
pub fn find_partial(path: &Path) -> Result<Option<PathBuf>> {
    let mut dirs = vec![path.to_path_buf()];
    for entry in fsx::list_dir(path)? {
        if entry.kind == EntryKind::Dir {
            dirs.push(path.join(entry.name));
        }
    }
    for dir in dirs {
        for entry in fsx::list_dir(&dir)? {
            let place = dir.join(entry.name);
            if entry.kind == EntryKind::File && is_partial(&place) {
                return Ok(Some(place));
            }
        }
    }
    Ok(None)
}

/// Content up to this length is kept until the file closes and then written at once under its final name.
const SMALL_LEN_MAX: usize = 32 << 10;

/// Bound of all content kept that way; beyond it files go to disk at once. Many members open at a time is what only a hostile
/// archive has.
const SMALL_TOTAL_MAX: usize = 8 << 20;

/// Bytes of an existing file that are read at once to see whether it is the right one.
const COMPARE_LEN: usize = 256 << 10;

/// Permission bits of created files before the umask: what the server's own files have.
const FILE_MODE: u32 = 0o640;

/// What to do with names that exist, and what is promised at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirOptions {
    /// Replace existing files instead of failing.
    pub overwrite: bool,
    /// Keep existing files that are exactly what should be written, and replace those that are not.
    pub resume: bool,
    /// Have everything on stable storage when [`DirSink::finish`] returns.
    pub sync: bool,
}

/// Ways of other programs, for front ends under their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// Permission bits of created files before the umask.
    pub file_mode: u32,
    /// Permission bits of created directories before the umask.
    pub dir_mode: u32,
    /// An archive may rename and remove files also in a directory that was not empty.
    pub rearrange: bool,
}

/// Writes files beneath one directory.
pub struct DirSink {
    dir: Dir,
    options: DirOptions,
    file_mode: u32,
    /// Everything in it comes from this archive, since it was empty when the run began, or may be taken as if.
    rearrange: bool,
    monitor: Arc<dyn Monitor>,
    small_total: AtomicUsize,
}

impl DirSink {
    /// Writes beneath `path`, which is created if it is missing.
    pub fn open(path: &Path, options: DirOptions, monitor: Arc<dyn Monitor>) -> Result<Self> {
        fsx::create_dir_all(path)?;
        let dir = Dir::open(path)?;
        let fresh = dir.names_in(Path::new(""))?.is_empty();
        Ok(Self {
            dir,
            options,
            file_mode: FILE_MODE,
            rearrange: fresh || options.overwrite,
            monitor,
            small_total: AtomicUsize::new(0),
        })
    }

    /// Does as another program does.
    #[must_use]
    pub fn with_ways(self, ways: Ways) -> Self {
        Self {
            dir: self.dir.with_dir_mode(ways.dir_mode),
            file_mode: ways.file_mode,
            rearrange: self.rearrange || ways.rearrange,
            ..self
        }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    fn count(&self, written: u64) {
        Counters::add(&self.monitor.counters().written_bytes, written);
    }

    /// An archive may rearrange what it has written, but not what was there before it came.
    fn check_fresh(&self, path: &Path) -> Result<()> {
        if self.rearrange {
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
        let DirOptions {
            overwrite, resume, ..
        } = self.options;
        let replace = overwrite || resume || attributes.rewrite;
        let name = path.as_path().to_path_buf();
        if is_partial(path.as_path()) {
            // Beside `NAME`, which passes through that name on its way, one of the two would be lost.
            return Err(Error::new(
                Kind::Failed,
                "the name is reserved for files that are not whole:",
            )
            .path(name));
        }
        let kept = if resume && !attributes.rewrite {
            Kept::open(&self.dir, &name)?
        } else {
            None
        };
        Ok(Box::new(DirFile {
            sink: self,
            name,
            replace,
            kept,
            small: Small::new(&self.small_total),
            large: None,
        }))
    }

    fn has(&self, path: &ArchivePath, len: u64, crc: u32) -> Result<bool> {
        let name = path.as_path();
        if !self.options.resume {
            return Ok(false);
        }
        let file = match Kept::open(&self.dir, name)? {
            Some(kept) if kept.len == len => kept.file,
            _ => return Ok(false),
        };
        let mut sum = crc32fast::Hasher::new();
        let mut buf = vec![0; COMPARE_LEN];
        let mut position = 0;
        loop {
            let n = file.read_at(&mut buf, position)?;
            sum.update(buf.get(..n).unwrap_or_default());
            position += n as u64;
            if n < buf.len() {
                return Ok(position == len && sum.finalize() == crc);
            }
        }
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
    /// What is there already, while it is the same as what comes.
    kept: Option<Kept>,
    /// Content so far while the file is small and contiguous.
    small: Small<'s>,
    large: Option<Large>,
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
    file: SparseFile,
    partial: PathBuf,
}

/// A file that an earlier run has left. What it should be is known only as it comes, so it is compared, and written again only from
/// where it differs. `r[bad-input.resume]`
struct Kept {
    file: File,
    len: u64,
    /// So many of its first bytes are right.
    same: u64,
}

impl Kept {
    /// The regular file of that name, if there is one.
    fn open(dir: &Dir, name: &Path) -> Result<Option<Self>> {
        if !dir.exists(name)? {
            return Ok(None);
        }
        let file = dir.open_file(name)?;
        let stat = file.stat()?;
        let regular = stat.mode & 0o170_000 == 0o100_000;
        Ok(regular.then_some(Self {
            file,
            len: stat.size,
            same: 0,
        }))
    }

    /// Whether its next bytes are these.
    fn goes_on(&mut self, offset: u64, data: &[u8]) -> Result<bool> {
        if offset != self.same || self.len - self.same < data.len() as u64 {
            return Ok(false);
        }
        let mut buf = vec![0; data.len().min(COMPARE_LEN)];
        for piece in data.chunks(COMPARE_LEN) {
            let found = buf.get_mut(..piece.len()).unwrap_or_default();
            let n = self.file.read_at(found, self.same)?;
            if n < piece.len() || found != piece {
                return Ok(false);
            }
            self.same += piece.len() as u64;
        }
        Ok(true)
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
            let file = dir.create_file(&partial, self.sink.file_mode)?;
            let mut file = SparseFile::new(file);
            let small = self.small.take();
            self.sink.count(file.data(&small, 0)?);
            self.large = Some(Large { file, partial });
        }
        self.large
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Failed, "file is not open"))
    }
}

impl DirFile<'_> {
    /// What is there is not what should be: the new file begins with what is right of it.
    fn differ(&mut self) -> Result<()> {
        let Some(kept) = self.kept.take() else {
            return Ok(());
        };
        let mut buf = vec![0; COMPARE_LEN];
        let mut done = 0;
        while done < kept.same {
            let n = usize::try_from(kept.same - done)
                .unwrap_or(usize::MAX)
                .min(buf.len());
            let piece = buf.get_mut(..n).unwrap_or_default();
            kept.file.read_exact_at(piece, done)?;
            let sink = self.sink;
            sink.count(self.large()?.file.data(piece, done)?);
            done += n as u64;
        }
        Ok(())
    }
}

impl FileSink for DirFile<'_> {
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()> {
        if let Some(kept) = &mut self.kept {
            let before = kept.same;
            if kept.goes_on(offset, &data)? {
                return Ok(());
            }
            kept.same = before;
            self.differ()?;
        }
        let contiguous = offset == self.small.bytes.len() as u64 && self.large.is_none();
        if contiguous && self.small.push(&data) {
            return Ok(());
        }
        let sink = self.sink;
        sink.count(self.large()?.file.data(&data, offset)?);
        Ok(())
    }

    fn hole(&mut self, offset: u64, len: u64) -> Result<()> {
        self.differ()?;
        let sink = self.sink;
        sink.count(self.large()?.file.hole(offset, len)?);
        Ok(())
    }

    fn part(&mut self, offset: u64, len: u64) -> Result<Option<Box<dyn FileSink>>> {
        self.differ()?;
        let monitor = Arc::clone(&self.sink.monitor);
        let file = &mut self.large()?.file;
        if !file.knows_its_holes() {
            return Ok(None);
        }
        let file = file.part(offset, len);
        Ok(Some(Box::new(DirPart { file, monitor })))
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        match &self.kept {
            Some(kept) if kept.same == kept.len => return Ok(()),
            _ => self.differ()?,
        }
        let dir = &self.sink.dir;
        if self.replace && dir.exists(&self.name)? {
            // The old file stays until the new one is whole.
            self.large()?;
        }
        let Some(large) = self.large else {
            let file = dir.create_file(&self.name, self.sink.file_mode)?;
            let written = file.write_all_at(&self.small.bytes, 0);
            if written.is_err() {
                // Under its final name nothing may be less than whole.
                dir.remove_file(&self.name)?;
            }
            self.sink.count(self.small.bytes.len() as u64);
            return written;
        };
        self.sink.count(large.file.finish()?);
        dir.rename(&large.partial, &self.name, self.replace)
    }
}

/// A range of a large file, written by another thread.
struct DirPart {
    file: SparseFile,
    monitor: Arc<dyn Monitor>,
}

impl FileSink for DirPart {
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()> {
        let written = self.file.data(&data, offset)?;
        Counters::add(&self.monitor.counters().written_bytes, written);
        Ok(())
    }

    fn hole(&mut self, offset: u64, len: u64) -> Result<()> {
        self.file.hole(offset, len).map(drop)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.file.finish().map(drop)
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

#[cfg(test)]
mod tests {
    use super::*;

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
