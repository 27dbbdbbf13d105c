//! A directory tree as a source: finds files, and reads them on lanes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::{self, Entry, EntryKind, File};
use crate::base::monitor::{Counters, Monitor};
use crate::base::pool::BufPool;
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::xbstream::ArchivePath;

/// What to do with things that an archive cannot hold as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeOptions {
    /// Store what symbolic links point to.
    pub dereference: bool,
    /// Leave out symbolic links, sockets, FIFOs and devices instead of failing.
    pub skip_special: bool,
}

/// Something found in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A regular file: its name in the archive and where it is.
    File(ArchivePath, PathBuf),
    /// An empty directory.
    EmptyDir(ArchivePath),
    /// Something left out as [`TreeOptions::skip_special`] asks for: where it is.
    LeftOut(PathBuf),
}

/// Finds files one after another: the names given in their order, each directory depth first and sorted. Holds the names of
/// the directories on the way to the current file, never those of the whole tree.
#[derive(Debug)]
pub struct Walk {
    base: PathBuf,
    options: TreeOptions,
    /// Directories being listed, outermost first; the first stands for the names given.
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    /// Relative to the base.
    directory: PathBuf,
    entries: std::vec::IntoIter<Entry>,
}

impl Walk {
    /// Walks `names`, which are relative to `base`. Links among the names themselves are followed: who names one means
    /// what it points to. Names that overlap are an error, since an archive holds each file once.
    pub fn new(base: &Path, names: &[PathBuf], options: TreeOptions) -> Result<Self> {
        check_overlap(names)?;
        let entries: Result<Vec<Entry>> = names
            .iter()
            .map(|name| {
                Ok(Entry {
                    name: OsString::from(name),
                    kind: kind_of(&base.join(name))?,
                })
            })
            .collect();
        Ok(Self {
            base: base.to_path_buf(),
            options,
            levels: vec![Level {
                directory: PathBuf::new(),
                entries: entries?.into_iter(),
            }],
        })
    }

    fn visit(&mut self, name: PathBuf, mut kind: EntryKind) -> Result<Option<Found>> {
        let place = self.base.join(&name);
        if kind == EntryKind::Link && self.options.dereference {
            kind = kind_of(&place)?;
        }
        match kind {
            EntryKind::File => Ok(Some(Found::File(archive_path(&name)?, place))),
            EntryKind::Dir => {
                let entries = fsx::list_dir(&place)?;
                if entries.is_empty() && has_name(&name) {
                    return Ok(Some(Found::EmptyDir(archive_path(&name)?)));
                }
                self.levels.push(Level {
                    directory: name,
                    entries: entries.into_iter(),
                });
                Ok(None)
            }
            EntryKind::Link | EntryKind::Other if self.options.skip_special => {
                Ok(Some(Found::LeftOut(place)))
            }
            EntryKind::Link => Err(Error::new(
                Kind::Failed,
                "an archive cannot hold the symbolic link",
            )
            .path(place)
            .hint(
                "use --dereference to store what it points to, or --skip-special to leave it out",
            )),
            EntryKind::Other => Err(Error::new(
                Kind::Failed,
                "an archive cannot hold the socket, FIFO or device",
            )
            .path(place)
            .hint("use --skip-special to leave it out")),
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let level = self.levels.last_mut()?;
            let Some(entry) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            let name = level.directory.join(entry.name);
            if let Some(item) = self.visit(name, entry.kind).transpose() {
                return Some(item);
            }
        }
    }
}

/// What a name stands for, links followed.
fn kind_of(path: &Path) -> Result<EntryKind> {
    Ok(match fsx::stat(path)?.mode & 0o170_000 {
        0o100_000 => EntryKind::File,
        0o040_000 => EntryKind::Dir,
        _ => EntryKind::Other,
    })
}

fn has_name(name: &Path) -> bool {
    name.components().any(|c| matches!(c, Component::Normal(_)))
}

fn check_overlap(names: &[PathBuf]) -> Result<()> {
    let mut plain: Vec<PathBuf> = names
        .iter()
        .map(|name| {
            name.components()
                .filter(|c| *c != Component::CurDir)
                .collect()
        })
        .collect();
    // By components, so that everything below a directory stands right behind it.
    plain.sort();
    for pair in plain.windows(2) {
        if let [outer, inner] = pair
            && inner.starts_with(outer)
        {
            return Err(Error::new(Kind::Usage, "named twice:")
                .path(inner)
                .hint("name each file once; a directory stands for everything in it"));
        }
    }
    Ok(())
}

/// The archive name of a relative path: `./a/b` becomes `a/b`; a path that leads outside is an error.
fn archive_path(name: &Path) -> Result<ArchivePath> {
    let mut bytes = Vec::new();
    for part in name.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => {
                if !bytes.is_empty() {
                    bytes.push(b'/');
                }
                bytes.extend_from_slice(part.as_bytes());
            }
            _ => {
                return Err(Error::new(
                    Kind::Usage,
                    "an archive holds only names below its root, not",
                )
                .path(name)
                .hint("use -C DIR and a name relative to it"));
            }
        }
    }
    ArchivePath::new(&bytes).map_err(|e| {
        Error::new(Kind::Failed, "no archive can hold the name")
            .path(name)
            .source(e)
    })
}

/// Reads whole files into `sink` on `lanes` threads, in the order of `found`; files interleave.
pub fn copy_files(
    found: impl Iterator<Item = Result<Found>> + Send,
    sink: &dyn Sink,
    pool: &BufPool,
    lanes: usize,
    cancel: &Cancel,
    monitor: &Arc<dyn Monitor>,
) -> Result<()> {
    let found = Mutex::new(found);
    let next = || {
        found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
            .transpose()
    };
    let lane = || -> Result<()> {
        while let Some(item) = next()? {
            cancel.check()?;
            match item {
                Found::LeftOut(_) => {}
                Found::EmptyDir(path) => sink.directory(&path)?,
                Found::File(path, place) => {
                    monitor.file(&path);
                    let mut file = sink.open(&path, Attributes::default())?;
                    let source = File::open(place)?;
                    copy_file(&source, file.as_mut(), pool, cancel, monitor.as_ref())?;
                    file.close()?;
                    Counters::add(&monitor.counters().done_files, 1);
                }
            }
        }
        Ok(())
    };
    run_lanes(lanes, cancel, lane)
}

/// Runs `lane` on `count` threads; the first error ends the others and is returned.
pub fn run_lanes(
    count: usize,
    cancel: &Cancel,
    lane: impl Fn() -> Result<()> + Sync,
) -> Result<()> {
    // The lane that failed first has the full story; the others only heard of it.
    let first = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..count {
            std::thread::Builder::new()
                .name("lane".to_owned())
                .spawn_scoped(scope, || {
                    if let Err(error) = lane() {
                        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                        cancel.fail(&error);
                        first.get_or_insert(error);
                    }
                })
                .map_err(|e| Error::new(Kind::Failed, "cannot start a lane thread").source(e))?;
        }
        Ok::<_, Error>(())
    })?;
    first
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .map_or(Ok(()), Err)
}

/// Copies one file from its first to its last byte; holes are not read. Returns the bytes stored: a file that grows meanwhile
/// is stored as long as it was at first, one that shrinks as far as it goes, both with a warning.
pub fn copy_file(
    file: &File,
    sink: &mut dyn FileSink,
    pool: &BufPool,
    cancel: &Cancel,
    monitor: &dyn Monitor,
) -> Result<u64> {
    let stat = file.stat()?;
    let size = stat.size;
    // Small files without holes are most files: they are spared the calls that find holes and prepare for a long read.
    let plain = size <= pool.buf_size() as u64 && stat.allocated >= size;
    if !plain {
        file.advise_sequential();
    }
    let mut position = 0;
    while let Some((begin, end)) = next_data(file, plain, position, size)? {
        hole(sink, position, begin, cancel, monitor)?;
        position = begin;
        while position < end {
            cancel.check()?;
            let mut buf = pool.get(cancel)?;
            let want = usize::try_from(end - position)
                .unwrap_or(usize::MAX)
                .min(buf.len());
            let n = file.read_at(buf.get_mut(..want).unwrap_or_default(), position)?;
            if n == 0 {
                monitor.warning(format!(
                    "{:?} became shorter while it was read: {position} of {size} bytes were stored",
                    file.path()
                ));
                return Ok(position);
            }
            sink.data(position, buf.freeze(n))?;
            position += n as u64;
            Counters::add(&monitor.counters().read_bytes, n as u64);
        }
    }
    hole(sink, position, size, cancel, monitor)?;
    if !plain && file.stat()?.size > size {
        monitor.warning(format!(
            "{:?} became longer while it was read: its first {size} bytes were stored",
            file.path()
        ));
    }
    Ok(size)
}

fn next_data(file: &File, plain: bool, position: u64, size: u64) -> Result<Option<(u64, u64)>> {
    if plain {
        Ok((position < size).then_some((position, size)))
    } else {
        file.next_data(position, size)
    }
}

/// Passes a hole on in steps, so that a huge one can be interrupted.
fn hole(
    sink: &mut dyn FileSink,
    mut begin: u64,
    end: u64,
    cancel: &Cancel,
    monitor: &dyn Monitor,
) -> Result<()> {
    const STEP_LEN: u64 = 64 << 20;
    while begin < end {
        cancel.check()?;
        let len = (end - begin).min(STEP_LEN);
        sink.hole(begin, len)?;
        Counters::add(&monitor.counters().read_bytes, len);
        begin += len;
    }
    Ok(())
}
