//! All file access. Every error names the verb and the path.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the module the rest of the crate goes through"
)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind, Result};

/// What a file is right now; two equal identities at two times mean: the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Birth time in nanoseconds since the epoch, where the file system knows one: inode numbers are used again.
    pub born_ns: Option<i128>,
}

/// Size, identity and times of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device and inode.
    pub identity: Identity,
    /// Length in bytes.
    pub size: u64,
    /// Bytes that take up room on the file system; less than `size` when there are holes.
    pub allocated: u64,
    /// Modification time, nanoseconds since the epoch.
    pub modified_ns: i128,
    /// Time of the last change to content or attributes, which no program can set; nanoseconds since the epoch.
    pub changed_ns: i128,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits and file type.
    pub mode: u32,
}

impl From<fs::Metadata> for Stat {
    fn from(meta: fs::Metadata) -> Self {
        let born = meta
            .created()
            .ok()
            .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        Self {
            identity: Identity {
                device: meta.dev(),
                inode: meta.ino(),
                born_ns: born.and_then(|t| i128::try_from(t.as_nanos()).ok()),
            },
            size: meta.len(),
            allocated: meta.blocks().saturating_mul(512),
            modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            changed_ns: i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()),
            uid: meta.uid(),
            gid: meta.gid(),
            mode: meta.mode(),
        }
    }
}

/// An open file that remembers its path for the story of its errors.
#[derive(Debug)]
pub struct File {
    inner: fs::File,
    path: PathBuf,
}

impl File {
    /// Opens for reading; links are followed (see [`Dir`] for names that come from an archive).
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        match fs::File::open(&path) {
            Ok(inner) => Ok(Self { inner, path }),
            Err(source) => Err(Error::io("open", path, source)),
        }
    }

    /// Opens a FIFO for reading without waiting for a writer; anything else is an error.
    pub fn open_fifo(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(source) => return Err(Error::io("open", path, source)),
        };
        let file = Self::from_fd(fd, path);
        if file.stat()?.mode & 0o170_000 != 0o010_000 {
            return Err(Error::new(Kind::Failed, "not a FIFO:").path(file.path));
        }
        // Reads wait from here on; whether there is something to read can be asked before.
        rustix::fs::fcntl_setfl(&file.inner, OFlags::empty())
            .map_err(|e| Error::io("set up", &file.path, e))?;
        Ok(file)
    }

    /// Creates for reading and writing; an existing file is an error.
    pub fn create_new(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        match fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
        {
            Ok(inner) => Ok(Self { inner, path }),
            Err(source) => Err(Error::io("create", path, source)),
        }
    }

    /// Opens for reading and for writing at the end; creates what is not there.
    pub fn open_append(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        match fs::File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
        {
            Ok(inner) => Ok(Self { inner, path }),
            Err(source) => Err(Error::io("open", path, source)),
        }
    }

    /// An unnamed file in `dir`, gone when closed. For spools.
    pub fn anonymous(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(dir, flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => fd,
            // Some file systems (overlay on old kernels, NFS) know no O_TMPFILE: create a name and remove it at once.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let path = dir.join(format!(".xbpipe-spool-{}", uuid::Uuid::new_v4()));
                let file = Self::create_new(&path)?;
                remove_file(&path)?;
                return Ok(Self {
                    inner: file.inner,
                    path: dir.join("(spool)"),
                });
            }
            Err(source) => return Err(Error::io("create a temporary file in", dir, source)),
        };
        Ok(Self {
            inner: fd.into(),
            path: dir.join("(spool)"),
        })
    }

    /// Takes over an open descriptor.
    pub fn from_fd(fd: OwnedFd, path: impl Into<PathBuf>) -> Self {
        Self {
            inner: fd.into(),
            path: path.into(),
        }
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives up the path and keeps the descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.inner.into()
    }

    /// Gives up the path for a runtime that has file handles of its own.
    #[must_use]
    pub fn into_std(self) -> fs::File {
        self.inner
    }

    /// Size, identity, times.
    pub fn stat(&self) -> Result<Stat> {
        self.inner
            .metadata()
            .map(Stat::from)
            .map_err(|e| Error::io("stat", &self.path, e))
    }

    /// Reads at `offset` until `buf` is full or the file ends; returns the bytes read.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.inner.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path, e).at(offset + done as u64)),
            }
        }
        Ok(done)
    }

    /// Reads exactly `buf.len()` bytes; an early end is [`Kind::Incomplete`].
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let n = self.read_at(buf, offset)?;
        if n == buf.len() {
            return Ok(());
        }
        Err(Error::new(Kind::Incomplete, "unexpected end of file")
            .path(&self.path)
            .at(offset + n as u64))
    }

    /// Reads from the current position; for pipes and other things without positions. 0 means end.
    pub fn read(&self, buf: &mut [u8]) -> Result<usize> {
        loop {
            match io::Read::read(&mut &self.inner, buf) {
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path, e)),
            }
        }
    }

    /// Where the next read without an offset begins, in bytes.
    pub fn position(&self) -> Result<u64> {
        rustix::fs::tell(&self.inner).map_err(|e| Error::io("seek in", &self.path, e))
    }

    /// Moves to where the next read without an offset begins; whoever shares the descriptor goes on from there.
    pub fn set_position(&self, position: u64) -> Result<()> {
        rustix::fs::seek(&self.inner, rustix::fs::SeekFrom::Start(position))
            .map(drop)
            .map_err(|e| Error::io("seek in", &self.path, e).at(position))
    }

    /// Waits until a read would not wait, for data, the end or an error, at most for `time` (below a second). Things that
    /// cannot be polled are always ready.
    #[must_use]
    pub fn is_readable_within(&self, time: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.inner, PollFlags::IN)];
        let time = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        !matches!(poll(&mut fds, Some(&time)), Ok(0) | Err(Errno::INTR))
    }

    /// Writes all of `buf` at `offset`.
    pub fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.inner
            .write_all_at(buf, offset)
            .map_err(|e| Error::io("write", &self.path, e).at(offset))
    }

    /// Sets the length.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.inner
            .set_len(len)
            .map_err(|e| Error::io("truncate", &self.path, e))
    }

    /// Data and length on stable storage.
    pub fn sync(&self) -> Result<()> {
        self.inner
            .sync_all()
            .map_err(|e| Error::io("sync", &self.path, e))
    }

    /// Sets owner and group.
    pub fn chown(&self, uid: u32, gid: u32) -> Result<()> {
        std::os::unix::fs::fchown(&self.inner, Some(uid), Some(gid))
            .map_err(|e| Error::io("change the owner of", &self.path, e))
    }

    /// Sets the permission bits.
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        rustix::fs::fchmod(&self.inner, Mode::from_raw_mode(mode & 0o7777))
            .map_err(|e| Error::io("change the mode of", &self.path, e))
    }

    /// Tries to become the only holder of this file's lock; `false` when somebody else holds it. The lock ends when
    /// the last copy of this descriptor is closed, also copies in child processes.
    pub fn try_lock(&self) -> Result<bool> {
        match rustix::fs::flock(
            &self.inner,
            rustix::fs::FlockOperation::NonBlockingLockExclusive,
        ) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(e) => Err(Error::io("lock", &self.path, e)),
        }
    }

    /// The same open file once more, for a child process.
    pub fn duplicate(&self) -> Result<OwnedFd> {
        self.inner
            .try_clone()
            .map(OwnedFd::from)
            .map_err(|e| Error::io("duplicate the descriptor of", &self.path, e))
    }

    /// Tells the kernel about coming reads; advice that it cannot take is no error.
    pub fn advise_sequential(&self) {
        self.advise(0, 0, Advice::Sequential);
    }

    /// Drops clean cached pages of a range, so that a backup does not evict what the server works with.
    pub fn advise_dontneed(&self, offset: u64, len: u64) {
        self.advise(offset, len, Advice::DontNeed);
    }

    /// Whether it lives in memory only (tmpfs, ramfs), where there is no cache to spare.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        const TMPFS_MAGIC: u32 = 0x0102_1994;
        const RAMFS_MAGIC: u32 = 0x8584_58f6;
        rustix::fs::fstatfs(&self.inner).is_ok_and(|s| {
            [TMPFS_MAGIC, RAMFS_MAGIC]
                .iter()
                .any(|magic| i64::from(*magic) == s.f_type)
        })
    }

    fn advise(&self, offset: u64, len: u64, advice: Advice) {
        // Advice has no result that could matter: the data is the same either way.
        rustix::fs::fadvise(&self.inner, offset, std::num::NonZeroU64::new(len), advice).ok();
    }

    /// Where the next data at or after `offset` begins; `None` when only a hole follows. File systems that know no
    /// holes report everything as data.
    pub fn next_data_begin(&self, offset: u64, size: u64) -> Result<Option<u64>> {
        use rustix::fs::{SeekFrom, seek};
        if offset >= size {
            return Ok(None);
        }
        match seek(&self.inner, SeekFrom::Data(offset)) {
            Ok(begin) => Ok((begin < size).then_some(begin)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
            Err(e) => Err(Error::io("seek in", &self.path, e).at(offset)),
        }
    }

    /// The next byte range at or after `offset` that is data and not a hole; `None` at the end of the file. The kernel
    /// looks through the whole range for its end: ask once per range.
    pub fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
        use rustix::fs::{SeekFrom, seek};
        let Some(begin) = self.next_data_begin(offset, size)? else {
            return Ok(None);
        };
        match seek(&self.inner, SeekFrom::Hole(begin)) {
            Ok(end) => Ok(Some((begin, end.min(size)))),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some((begin, size))),
            // It was cut meanwhile.
            Err(Errno::NXIO) => Ok(None),
            Err(e) => Err(Error::io("seek in", &self.path, e).at(begin)),
        }
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// The lock of a file or directory, held by this process until it is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock; `None` when somebody else holds it and does not let go within `patience`. Nothing is written.
    ///
    /// A little patience is always needed: a killed process may have been about to start another one, which holds
    /// a copy of the descriptor until its program is loaded.
    pub fn take(
        path: impl Into<PathBuf>,
        patience: Duration,
        cancel: &Cancel,
    ) -> Result<Option<Self>> {
        let file = File::open(path)?;
        let begin = Instant::now();
        while !file.try_lock()? {
            if begin.elapsed() >= patience {
                return Ok(None);
            }
            cancel.sleep(POLL_INTERVAL)?;
        }
        Ok(Some(Self(file)))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would not do: a process that another thread is about to start may hold a copy of the
        // descriptor for a moment. An error cannot matter, the descriptor is closed next.
        rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock).ok();
    }
}

/// Reads a small file whole; longer than `limit` bytes is an error.
pub fn read_small(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let file = File::open(path)?;
    let size = file.stat()?.size;
    if size > limit {
        return Err(Error::new(
            Kind::Failed,
            format!("file of {size} bytes is longer than the limit of {limit}"),
        )
        .path(path));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// Writes a small file whole under a temporary name, syncs it and renames it into place.
pub fn write_small(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".xbpipe-new");
    let temporary = PathBuf::from(temporary);
    if exists(&temporary)? {
        remove_file(&temporary)?;
    }
    let file = File::create_new(&temporary)?;
    file.write_all_at(bytes, 0)?;
    file.sync()?;
    rename(&temporary, path)
}

/// `lstat`.
pub fn stat_nofollow(path: impl AsRef<Path>) -> Result<Stat> {
    let path = path.as_ref();
    fs::symlink_metadata(path)
        .map(Stat::from)
        .map_err(|e| Error::io("stat", path, e))
}

/// `stat`.
pub fn stat(path: impl AsRef<Path>) -> Result<Stat> {
    let path = path.as_ref();
    fs::metadata(path)
        .map(Stat::from)
        .map_err(|e| Error::io("stat", path, e))
}

/// Bytes that an unprivileged user may still write to the file system of `path`.
pub fn free_space(path: impl AsRef<Path>) -> Result<u64> {
    let path = path.as_ref();
    rustix::fs::statvfs(path)
        .map(|s| s.f_bavail.saturating_mul(s.f_frsize))
        .map_err(|e| Error::io("stat the file system of", path, e))
}

/// Whether something has that name (a dangling link counts).
pub fn exists(path: impl AsRef<Path>) -> Result<bool> {
    let path = path.as_ref();
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("stat", path, e)),
    }
}

/// What a directory entry is, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Link,
    /// Socket, FIFO or device.
    Other,
}

/// One entry of a directory.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Name within the directory.
    pub name: std::ffi::OsString,
    /// What it is.
    pub kind: EntryKind,
}

/// The entries of a directory, sorted by name; an entry that vanishes meanwhile is simply not there.
pub fn list_dir(path: impl AsRef<Path>) -> Result<Vec<Entry>> {
    let path = path.as_ref();
    let fail = |e| Error::io("list", path, e);
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let kind = match entry.file_type() {
            Ok(t) if t.is_file() => EntryKind::File,
            Ok(t) if t.is_dir() => EntryKind::Dir,
            Ok(t) if t.is_symlink() => EntryKind::Link,
            Ok(_) => EntryKind::Other,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(fail(e)),
        };
        entries.push(Entry {
            name: entry.file_name(),
            kind,
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Removes a file.
pub fn remove_file(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::remove_file(path).map_err(|e| Error::io("remove", path, e))
}

/// Removes an empty directory.
pub fn remove_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::remove_dir(path).map_err(|e| Error::io("remove", path, e))
}

/// Renames within one file system, replacing the target.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    fs::rename(from, to).map_err(|e| Error::io(&format!("rename to {to:?}"), from, e))
}

/// Renames, replacing the target, unless the two names lie on different file systems: then nothing happens and `false`
/// comes back.
pub fn rename_within(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<bool> {
    let (from, to) = (from.as_ref(), to.as_ref());
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => Ok(false),
        Err(e) => Err(Error::io(&format!("rename to {to:?}"), from, e)),
    }
}

/// Creates a directory and its missing parents.
pub fn create_dir_all(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).map_err(|e| Error::io("create directory", path, e))
}

/// Creates one directory with `mode`; an existing one is an error.
pub fn create_dir(path: impl AsRef<Path>, mode: u32) -> Result<()> {
    let path = path.as_ref();
    rustix::fs::mkdir(path, Mode::from_raw_mode(mode & 0o7777))
        .map_err(|e| Error::io("create directory", path, e))
}

/// Makes a symbolic link with the content `target`; an existing name is an error.
pub fn symlink(target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    std::os::unix::fs::symlink(target, path).map_err(|e| Error::io("make the link", path, e))
}

/// What a symbolic link contains; `None` for anything else, and for a name that does not exist.
pub fn link_content(path: impl AsRef<Path>) -> Option<PathBuf> {
    fs::read_link(path).ok()
}

/// The path without links, `.` and `..`.
pub fn canonical(path: impl AsRef<Path>) -> Result<PathBuf> {
    let path = path.as_ref();
    fs::canonicalize(path).map_err(|e| Error::io("find", path, e))
}

/// Sets owner and group of what has that name; a link is not followed.
pub fn chown(path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
    let path = path.as_ref();
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        .map_err(|e| Error::io("change the owner of", path, e))
}

/// Makes names of a directory durable.
pub fn sync_dir(path: impl AsRef<Path>) -> Result<()> {
    File::open(path.as_ref())?.sync()
}

/// A directory that names are resolved beneath: no component may be a link, nothing can leave it.
///
/// Paths are relative, `/`-separated and validated by the caller; the kernel checks again.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    /// Permission bits of directories made beneath it, before the umask.
    dir_mode: u32,
}

/// Permission bits of new directories before the umask: what the server's own have.
const DIR_MODE: u32 = 0o750;

impl Dir {
    /// Opens an existing directory (links in `path` itself are the user's own and followed).
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self {
                fd,
                path,
                dir_mode: DIR_MODE,
            }),
            Err(e) => Err(Error::io("open directory", path, e)),
        }
    }

    /// Makes directories with these permission bits, before the umask.
    #[must_use]
    pub fn with_dir_mode(self, dir_mode: u32) -> Self {
        Self { dir_mode, ..self }
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a file for writing with `mode`; an existing one is an error.
    pub fn create_file(&self, name: &Path, mode: u32) -> Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let mode = Mode::from_raw_mode(mode);
        match self.open_beneath(name, flags, mode) {
            Err(Errno::NOENT) => {
                if let Some(parent) = name.parent() {
                    self.create_dirs(parent)?;
                }
                self.open_beneath(name, flags, mode)
            }
            other => other,
        }
        .map(|fd| File::from_fd(fd, self.path.join(name)))
        .map_err(|e| self.fail("create", name, e))
    }

    /// Opens a file for reading and writing.
    pub fn open_file(&self, name: &Path) -> Result<File> {
        self.open_beneath(name, OFlags::RDWR, Mode::empty())
            .map(|fd| File::from_fd(fd, self.path.join(name)))
            .map_err(|e| self.fail("open", name, e))
    }

    /// Opens a file for reading.
    pub fn open_for_reading(&self, name: &Path) -> Result<File> {
        self.open_beneath(name, OFlags::RDONLY, Mode::empty())
            .map(|fd| File::from_fd(fd, self.path.join(name)))
            .map_err(|e| self.fail("open", name, e))
    }

    /// Creates a directory and its missing parents; existing ones are fine.
    pub fn create_dirs(&self, name: &Path) -> Result<()> {
        let mut so_far = PathBuf::new();
        for part in name.components() {
            so_far.push(part);
            let (parent, leaf) = self.parent_of(&so_far)?;
            match rustix::fs::mkdirat(&parent, leaf, Mode::from_raw_mode(self.dir_mode)) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    // It must be a directory and no link; opening says so.
                    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
                    self.open_beneath(&so_far, flags, Mode::empty())
                        .map_err(|e| self.fail("open directory", &so_far, e))?;
                }
                Err(e) => return Err(self.fail("create directory", &so_far, e)),
            }
        }
        Ok(())
    }

    /// Whether something has that name.
    pub fn exists(&self, name: &Path) -> Result<bool> {
        // A missing parent, or one that is a link, holds no such name beneath us.
        let Ok((parent, leaf)) = self.parent_of(name) else {
            return Ok(false);
        };
        match rustix::fs::statat(&parent, leaf, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(self.fail("stat", name, e)),
        }
    }

    /// Renames; `replace` allows an existing target.
    pub fn rename(&self, from: &Path, to: &Path, replace: bool) -> Result<()> {
        let (from_dir, from_leaf) = self.parent_of(from)?;
        let (to_dir, to_leaf) = self.parent_of(to)?;
        let verb = || format!("rename to {:?}", to.as_os_str());
        if replace {
            return rustix::fs::renameat(&from_dir, from_leaf, &to_dir, to_leaf)
                .map_err(|e| self.fail(&verb(), from, e));
        }
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&from_dir, from_leaf, &to_dir, to_leaf, flags) {
            // File systems without RENAME_NOREPLACE: link refuses an existing name as well.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(&from_dir, from_leaf, &to_dir, to_leaf, AtFlags::empty())
                    .and_then(|()| rustix::fs::unlinkat(&from_dir, from_leaf, AtFlags::empty()))
            }
            other => other,
        }
        .map_err(|e| self.fail(&verb(), from, e))
    }

    /// Removes a file.
    pub fn remove_file(&self, name: &Path) -> Result<()> {
        let (parent, leaf) = self.parent_of(name)?;
        rustix::fs::unlinkat(&parent, leaf, AtFlags::empty())
            .map_err(|e| self.fail("remove", name, e))
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: &Path) -> Result<()> {
        let (parent, leaf) = self.parent_of(name)?;
        rustix::fs::unlinkat(&parent, leaf, AtFlags::REMOVEDIR)
            .map_err(|e| self.fail("remove directory", name, e))
    }

    /// Removes a file, or a directory with everything in it, following no link; a missing one is fine.
    pub fn remove_tree(&self, name: &Path) -> Result<()> {
        let Ok((parent, leaf)) = self.parent_of(name) else {
            return Ok(());
        };
        match rustix::fs::unlinkat(&parent, leaf, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(self.fail("remove", name, e)),
        }
        for inner in self.names_in(name)? {
            self.remove_tree(&name.join(inner))?;
        }
        self.remove_dir(name)
    }

    /// Names in a subdirectory (empty path: in this one), in no order; a missing one has none.
    pub fn names_in(&self, name: &Path) -> Result<Vec<std::ffi::OsString>> {
        use std::os::unix::ffi::OsStringExt as _;
        let fail = |e| self.fail("list", name, e);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let target = if name.as_os_str().is_empty() {
            Path::new(".")
        } else {
            name
        };
        let fd = match self.open_beneath(target, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(e) => return Err(fail(e)),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let bytes = entry.file_name().to_bytes();
            if bytes != b"." && bytes != b".." {
                names.push(std::ffi::OsString::from_vec(bytes.to_vec()));
            }
        }
        Ok(names)
    }

    /// Opens a subdirectory.
    pub fn open_dir(&self, name: &Path) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        self.open_beneath(name, flags, Mode::empty())
            .map(|fd| Self {
                fd,
                path: self.path.join(name),
                dir_mode: self.dir_mode,
            })
            .map_err(|e| self.fail("open directory", name, e))
    }

    /// Makes the names in this directory durable.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd).map_err(|e| Error::io("sync", &self.path, e))
    }

    /// Everything written to the file system that holds this directory, on stable storage.
    pub fn sync_file_system(&self) -> Result<()> {
        rustix::fs::syncfs(&self.fd)
            .map_err(|e| Error::io("sync the file system of", &self.path, e))
    }

    fn fail(&self, verb: &str, name: &Path, errno: Errno) -> Error {
        let error = Error::io(verb, self.path.join(name), errno);
        match errno {
            Errno::LOOP | Errno::XDEV => {
                error.hint("a symbolic link stands in the way; names are never followed out of the target directory")
            }
            Errno::EXIST => error.hint("choose an empty target directory, or use --overwrite where there is such an option"),
            _ => error,
        }
    }

    /// The open parent directory of `name` and its last component.
    fn parent_of<'a>(&self, name: &'a Path) -> Result<(OwnedFd, &'a Path)> {
        let leaf = name
            .file_name()
            .ok_or_else(|| Error::new(Kind::Failed, "not a file name").path(name))?;
        let parent = match name.parent() {
            Some(p) if !p.as_os_str().is_empty() => {
                self.open_beneath(p, OFlags::DIRECTORY | OFlags::PATH, Mode::empty())
            }
            _ => rustix::io::fcntl_dupfd_cloexec(&self.fd, 0),
        }
        .map_err(|e| self.fail("open the parent directory of", name, e))?;
        Ok((parent, Path::new(leaf)))
    }

    fn open_beneath(&self, name: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.fd, name, flags, mode, resolve) {
            // Before Linux 5.6, or where a sandbox refuses the call: walk the components ourselves.
            Err(Errno::NOSYS | Errno::PERM) => self.walk_beneath(name, flags, mode),
            // A concurrent rename elsewhere makes the kernel unsure; it asks to be called again.
            Err(Errno::AGAIN) => self.walk_beneath(name, flags, mode),
            other => other,
        }
    }

    fn walk_beneath(&self, name: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let mut parts = name.components().peekable();
        let mut dir = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?;
        while let Some(part) = parts.next() {
            let std::path::Component::Normal(part) = part else {
                return Err(Errno::XDEV);
            };
            if parts.peek().is_none() {
                return rustix::fs::openat(&dir, part, flags, mode);
            }
            let step = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            dir = rustix::fs::openat(&dir, part, step, Mode::empty())?;
        }
        Err(Errno::NOENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_the_directory() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        let dir = Dir::open(root.path()).unwrap();
        for name in ["link/x", "../x", "/tmp/x"] {
            assert!(dir.create_file(Path::new(name), 0o640).is_err(), "{name}");
            assert!(
                dir.walk_beneath(Path::new(name), OFlags::CREATE | OFlags::RDWR, Mode::RWXU)
                    .is_err(),
                "{name}"
            );
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        dir.create_file(Path::new("a/b/c/d"), 0o640)
            .unwrap()
            .write_all_at(b"x", 3)
            .unwrap();
        assert_eq!(fs::read(root.path().join("a/b/c/d")).unwrap(), b"\0\0\0x");
        assert!(
            dir.rename(Path::new("a/b/c/d"), Path::new("a/b"), false)
                .is_err()
        );
        dir.rename(Path::new("a/b/c/d"), Path::new("e"), false)
            .unwrap();
        assert!(dir.exists(Path::new("e")).unwrap() && !dir.exists(Path::new("a/b/c/d")).unwrap());
    }

    #[test]
    fn holes_are_found() {
        let root = tempfile::tempdir().unwrap();
        let file = File::create_new(root.path().join("sparse")).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[1; 4096], 4 << 20).unwrap();
        let (begin, end) = file.next_data(0, 8 << 20).unwrap().unwrap();
        assert!(begin <= 4 << 20 && end >= (4 << 20) + 4096);
    }
}
