//! A directory whose names cannot lead out of it: the part of [`crate::base::fsx`] for names that others have chosen.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::File;

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
#[expect(clippy::disallowed_methods, reason = "tests look at what is there")]
mod tests {
    use std::fs;

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
}
