//! A sink for files that are read while the server is locked: they wait in an unnamed file, and reach the real sink when the
//! lock is released. So neither a slow consumer of the backup nor a compressor holds the server up.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::File;
use crate::base::pool::BufPool;
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::xbstream::{ArchivePath, RemovePattern};

/// A run of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// In the spool, from `at` on.
    Data { at: u64, len: u64 },
    /// Zeros that are nowhere.
    Hole { len: u64 },
}

/// One closed file.
#[derive(Debug)]
struct Kept {
    name: ArchivePath,
    attributes: Attributes,
    pieces: Vec<Piece>,
}

#[derive(Debug, Default)]
struct State {
    len: u64,
    kept: Vec<Kept>,
}

/// Files kept for later, and the space they may take.
#[derive(Debug)]
pub(super) struct Aside {
    spool: File,
    limit: u64,
    state: Mutex<State>,
}

impl Aside {
    /// Keeps files in `dir`, at most `limit` bytes of what callers ask [`Aside::has_room`] for.
    pub(super) fn new(dir: &Path, limit: u64) -> Result<Self> {
        Ok(Self {
            spool: File::anonymous(dir)?,
            limit,
            state: Mutex::new(State::default()),
        })
    }

    /// Bytes that it may take.
    pub(super) const fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether `bytes` more stay within the limit.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.lock().len.saturating_add(bytes) <= self.limit
    }

    /// Drops the files of these names; returns how many there were. Their space is not used again.
    pub(super) fn forget(&self, names: &HashSet<ArchivePath>) -> usize {
        let mut state = self.lock();
        let before = state.kept.len();
        state.kept.retain(|file| !names.contains(&file.name));
        before - state.kept.len()
    }

    /// Hands everything on, file by file, in the order in which the files were closed.
    pub(super) fn replay(self, sink: &dyn Sink, pool: &BufPool, cancel: &Cancel) -> Result<()> {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for file in state.kept {
            let mut out = sink.open(&file.name, file.attributes)?;
            let mut offset = 0;
            for piece in file.pieces {
                match piece {
                    Piece::Hole { len } => {
                        out.hole(offset, len)?;
                        offset += len;
                    }
                    Piece::Data { at, len } => {
                        offset = send(&self.spool, at, len, offset, out.as_mut(), pool, cancel)?;
                    }
                }
            }
            out.close()?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends `len` bytes of the spool as the file's bytes from `offset` on; returns where they end.
fn send(
    spool: &File,
    at: u64,
    len: u64,
    offset: u64,
    out: &mut dyn FileSink,
    pool: &BufPool,
    cancel: &Cancel,
) -> Result<u64> {
    let mut done = 0;
    while done < len {
        cancel.check()?;
        let mut buf = pool.get(cancel)?;
        let want = usize::try_from(len - done)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        spool.read_exact_at(buf.get_mut(..want).unwrap_or_default(), at + done)?;
        out.data(offset + done, buf.freeze(want))?;
        done += want as u64;
    }
    Ok(offset + len)
}

fn whole_files_only(path: &ArchivePath) -> Error {
    Error::new(Kind::Failed, "only whole files are kept aside").path(path.as_path())
}

impl Sink for Aside {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        Ok(Box::new(AsideFile {
            aside: self,
            file: Kept {
                name: path.clone(),
                attributes,
                pieces: Vec::new(),
            },
            end: 0,
        }))
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        Err(whole_files_only(path))
    }

    fn rename(&self, from: &ArchivePath, _: &ArchivePath) -> Result<()> {
        Err(whole_files_only(from))
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        let (RemovePattern::Exact(path) | RemovePattern::Prefix { stem: path }) = pattern;
        Err(whole_files_only(path))
    }
}

struct AsideFile<'s> {
    aside: &'s Aside,
    file: Kept,
    end: u64,
}

impl AsideFile<'_> {
    fn expect(&mut self, offset: u64, len: u64) -> Result<()> {
        if offset != self.end {
            return Err(Error::new(
                Kind::Failed,
                "a file kept aside is written in order, not at",
            )
            .path(self.file.name.as_path())
            .at(offset));
        }
        self.end += len;
        Ok(())
    }
}

impl FileSink for AsideFile<'_> {
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()> {
        let len = data.len() as u64;
        self.expect(offset, len)?;
        let at = {
            let mut state = self.aside.lock();
            let at = state.len;
            state.len += len;
            at
        };
        self.aside.spool.write_all_at(&data, at)?;
        match self.file.pieces.last_mut() {
            Some(Piece::Data { at: begin, len: n }) if *begin + *n == at => *n += len,
            _ => self.file.pieces.push(Piece::Data { at, len }),
        }
        Ok(())
    }

    fn hole(&mut self, offset: u64, len: u64) -> Result<()> {
        self.expect(offset, len)?;
        self.file.pieces.push(Piece::Hole { len });
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.aside.lock().kept.push(self.file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ArchivePath {
        ArchivePath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn files_written_side_by_side_come_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (
            Aside::new(dir.path(), 100).unwrap(),
            Aside::new(dir.path(), 0).unwrap(),
        );
        {
            let mut a = first.open(&name("a"), Attributes::default()).unwrap();
            let mut b = first.open(&name("b"), Attributes::default()).unwrap();
            a.data(0, Bytes::from_static(b"aaaa")).unwrap();
            a.data(4, Bytes::from_static(b"AA")).unwrap();
            b.data(0, Bytes::from_static(b"bb")).unwrap();
            a.data(6, Bytes::from_static(b"a")).unwrap();
            b.hole(2, 9).unwrap();
            b.data(11, Bytes::from_static(b"b")).unwrap();
            assert!(b.data(11, Bytes::from_static(b"b")).is_err());
            a.close().unwrap();
            first
                .open(&name("empty"), Attributes::default())
                .unwrap()
                .close()
                .unwrap();
            // `b` is never closed: it was not whole.
        }
        assert!(first.has_room(90) && !first.has_room(95));
        let gone = HashSet::from([name("gone"), name("never there")]);
        for file in &gone {
            first.open(file, Attributes::default()).unwrap();
        }
        assert_eq!(first.forget(&gone), 0, "they were never closed");
        let file = first.open(&name("gone"), Attributes::default()).unwrap();
        file.close().unwrap();
        assert_eq!(first.forget(&gone), 1);
        let pool = BufPool::new(1, 3);
        first.replay(&second, &pool, &Cancel::new()).unwrap();
        let state = second.lock();
        assert_eq!(state.len, 7);
        let names: Vec<_> = state.kept.iter().map(|k| k.name.to_string()).collect();
        assert_eq!(names, ["a", "empty"]);
        let mut bytes = [0; 7];
        second.spool.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"aaaaAAa");
        assert_eq!(state.kept[0].pieces, [Piece::Data { at: 0, len: 7 }]);
    }
}
