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

use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::Errno;

use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind, Result};

pub use crate::base::dir::Dir;

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

#[cfg(test)]
mod tests {
    use super::*;

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
