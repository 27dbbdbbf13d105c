//! What the chunks of an archive mean for its files: which are open, where they continue, which
//! have ended.
//!
//! Memory: an open file costs its path and its position, and their number is limited. An ended file
//! costs a 128-bit keyed hash of its path and a generation (24 bytes, 28 to 57 with the table's
//! slack), so a million files cost some 50 MB at most. The chance that two of a million paths share
//! a hash is below 2^-88; the keys are random, so nobody can make them collide on purpose.
//!
//! Removes name directories and prefixes, which hashes cannot be searched for. So they are kept as
//! tombstones with a generation, and looked up when a path comes again: an ended file is there
//! unless a later tombstone covers it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;

use crate::xbstream::chunk::{Body, ChunkHead, FLAG_REWRITE};
use crate::xbstream::error::{DecodeError, ErrorKind};
use crate::xbstream::limits::OPEN_FILES_MAX;
use crate::xbstream::path::{ArchivePath, RemovePattern};

/// What a chunk did to the set of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The first chunk of a file.
    Opened {
        /// It takes the place of an ended file of that name.
        replaces: bool,
    },
    /// A further chunk of an open file.
    Continued,
    /// The end of an open file.
    Ended,
    /// An end without any chunk before: an empty file. `r[xbstream.end.empty-file]`
    Empty,
    /// An ended file has a new name.
    Renamed,
    /// A rename of a file that the archive does not contain; nothing to do.
    /// `r[xbstream.rename.unknown]`
    RenameUnknown,
    /// Files were removed; also when there were none. `r[xbstream.remove.missing]`
    Removed,
    /// A chunk that was passed over.
    Ignored,
}

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFile {
    /// Where the next payload belongs, in bytes.
    pub position: u64,
    /// Where the file's first chunk is, in bytes from the start of the archive.
    pub first_chunk: u64,
}

/// Follows the files of one archive. Feed it every [`ChunkHead`] in order.
#[derive(Debug, Default)]
pub struct Tracker {
    open: BTreeMap<ArchivePath, OpenFile>,
    ended: HashMap<Key, u64>,
    tombstones: Tombstones,
    keys: Keys,
}

/// Hash of a path under two random keys.
type Key = [u64; 2];

#[derive(Debug, Default)]
struct Keys(RandomState, RandomState);

impl Keys {
    fn key(&self, path: &[u8]) -> Key {
        [self.0.hash_one(path), self.1.hash_one(path)]
    }
}

/// Removes so far, each with the generation it began.
#[derive(Debug, Default)]
struct Tombstones {
    generation: u64,
    exact: HashMap<Key, u64>,
    prefix: HashMap<Key, u64>,
}

impl Tombstones {
    /// The generation of the last remove that covers `path`; 0 if none does.
    fn covering(&self, path: &[u8], keys: &Keys) -> u64 {
        let mut last = 0;
        let mut look = |map: &HashMap<Key, u64>, part: &[u8]| {
            if let Some(generation) = map.get(&keys.key(part)) {
                last = last.max(*generation);
            }
        };
        if !self.exact.is_empty() {
            look(&self.exact, path);
            for (at, byte) in path.iter().enumerate() {
                if *byte == b'/' {
                    look(&self.exact, path.get(..at).unwrap_or_default());
                }
            }
        }
        if !self.prefix.is_empty() {
            for (at, byte) in path.iter().enumerate().rev() {
                if *byte == b'/' {
                    break;
                }
                look(&self.prefix, path.get(..=at).unwrap_or_default());
            }
        }
        last
    }
}

impl Tracker {
    /// A tracker at the start of an archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one chunk, or says which rule it breaks; the tracker is then as before.
    pub fn chunk(&mut self, head: &ChunkHead) -> Result<Step, DecodeError> {
        match &head.body {
            Body::Payload { len, offset, .. } => {
                self.payload(head, *offset, offset.saturating_add(*len))
            }
            // r[xbstream.sparse.advance]
            Body::Sparse {
                map, len, offset, ..
            } => {
                let (holes, _) = map.sums();
                self.payload(
                    head,
                    *offset,
                    offset.saturating_add(holes).saturating_add(*len),
                )
            }
            // r[xbstream.seek.position]
            Body::Seek { offset } => {
                let step = self.step(head)?;
                self.place(head, *offset);
                Ok(step)
            }
            Body::End => self.end(head),
            Body::Rename { to } => self.rename(head, to),
            Body::Remove { pattern } => self.remove(head, pattern),
            Body::Ignored { .. } => Ok(Step::Ignored),
        }
    }

    /// Files begun and not ended, in order of path.
    pub fn open_files(&self) -> impl ExactSizeIterator<Item = (&ArchivePath, &OpenFile)> {
        self.open.iter()
    }

    /// An open file is as if it had never been there: the reader has given it up, and passes over what comes of it.
    pub fn forget(&mut self, path: &ArchivePath) {
        self.open.remove(path);
    }

    /// Whether all files have ended, once the archive has; `position` is its length in bytes.
    /// `r[xbstream.file.left-open]`
    pub fn finish(&self, position: u64) -> Result<(), DecodeError> {
        match self.open.first_key_value() {
            None => Ok(()),
            Some((path, _)) => Err(DecodeError::new(
                ErrorKind::LeftOpen {
                    files: self.open.len(),
                },
                position,
            )
            .path(Some(path.clone()))),
        }
    }

    fn payload(&mut self, head: &ChunkHead, offset: u64, end: u64) -> Result<Step, DecodeError> {
        let step = self.step(head)?;
        // r[xbstream.file.contiguous]
        let expected = self.open.get(&head.path).map_or(0, |file| file.position);
        if offset != expected {
            let kind = ErrorKind::OutOfOrder {
                expected,
                found: offset,
            };
            return Err(head.error(kind, head.offset_position()));
        }
        self.place(head, end);
        Ok(step)
    }

    /// What a chunk for the inside of a file does to it, without doing it.
    fn step(&self, head: &ChunkHead) -> Result<Step, DecodeError> {
        if self.open.contains_key(&head.path) {
            return Ok(Step::Continued);
        }
        let replaces = self.has_ended(&head.path);
        // r[xbstream.file.rewrite] The whole byte counts, and only on the chunk that opens.
        let rewrites = head.flags == FLAG_REWRITE && matches!(head.body, Body::Payload { .. });
        // r[xbstream.file.after-end]
        if replaces && !rewrites {
            return Err(head.error(ErrorKind::AfterEnd, head.position));
        }
        // r[xbstream.file.open-limit]
        if self.open.len() >= OPEN_FILES_MAX {
            return Err(head.error(ErrorKind::TooManyOpen, head.position));
        }
        Ok(Step::Opened { replaces })
    }

    /// Moves the file to `position`, opening it if need be.
    fn place(&mut self, head: &ChunkHead, position: u64) {
        if let Some(file) = self.open.get_mut(&head.path) {
            file.position = position;
            return;
        }
        self.ended.remove(&self.keys.key(head.path.as_bytes()));
        let file = OpenFile {
            position,
            first_chunk: head.position,
        };
        self.open.insert(head.path.clone(), file);
    }

    fn end(&mut self, head: &ChunkHead) -> Result<Step, DecodeError> {
        let step = if self.open.remove(&head.path).is_some() {
            Step::Ended
        } else if self.has_ended(&head.path) {
            // r[xbstream.file.after-end]
            return Err(head.error(ErrorKind::AfterEnd, head.position));
        } else {
            // r[xbstream.end.empty-file]
            Step::Empty
        };
        self.set_ended(&head.path);
        Ok(step)
    }

    fn rename(&mut self, head: &ChunkHead, to: &ArchivePath) -> Result<Step, DecodeError> {
        // r[xbstream.rename.ended]
        if self.is_open_at_or_below(&head.path) || self.is_open_at_or_below(to) {
            return Err(head.error(ErrorKind::OpenRenamed, head.position));
        }
        // r[xbstream.rename.unknown]
        if !self.has_ended(&head.path) {
            return Ok(Step::RenameUnknown);
        }
        self.ended.remove(&self.keys.key(head.path.as_bytes()));
        self.set_ended(to);
        Ok(Step::Renamed)
    }

    fn remove(&mut self, head: &ChunkHead, pattern: &RemovePattern) -> Result<Step, DecodeError> {
        // r[xbstream.remove.ended]
        let touches_open = match pattern {
            RemovePattern::Exact(path) => self.is_open_at_or_below(path),
            RemovePattern::Prefix { stem } => self
                .open_from(stem.as_bytes())
                .take_while(|path| path.as_bytes().starts_with(stem.as_bytes()))
                .any(|path| pattern.matches(path)),
        };
        if touches_open {
            return Err(head.error(ErrorKind::OpenRemoved, head.position));
        }
        let generation = self.tombstones.generation.saturating_add(1);
        self.tombstones.generation = generation;
        match pattern {
            // r[xbstream.remove.exact]
            RemovePattern::Exact(path) => {
                let key = self.keys.key(path.as_bytes());
                self.tombstones.exact.insert(key, generation);
            }
            // r[xbstream.remove.prefix]
            RemovePattern::Prefix { stem } => {
                let key = self.keys.key(stem.as_bytes());
                self.tombstones.prefix.insert(key, generation);
            }
        }
        Ok(Step::Removed)
    }

    fn has_ended(&self, path: &ArchivePath) -> bool {
        let path = path.as_bytes();
        self.ended
            .get(&self.keys.key(path))
            .is_some_and(|ended| *ended >= self.tombstones.covering(path, &self.keys))
    }

    fn set_ended(&mut self, path: &ArchivePath) {
        let key = self.keys.key(path.as_bytes());
        self.ended.insert(key, self.tombstones.generation);
    }

    fn is_open_at_or_below(&self, path: &ArchivePath) -> bool {
        let inside = [path.as_bytes(), b"/"].concat();
        self.open.contains_key(path)
            || self
                .open_from(&inside)
                .next()
                .is_some_and(|open| open.as_bytes().starts_with(&inside))
    }

    /// Open files in order of path, from the first that is not before `from`.
    fn open_from(&self, from: &[u8]) -> impl Iterator<Item = &ArchivePath> {
        self.open
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
            .map(|(path, _)| path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> ArchivePath {
        ArchivePath::new(bytes).unwrap()
    }

    fn head(name: &[u8], flags: u8, body: Body) -> ChunkHead {
        ChunkHead {
            position: 7,
            flags,
            letter: b'?',
            path: path(name),
            body,
        }
    }

    fn payload(name: &[u8], offset: u64, len: u64) -> ChunkHead {
        let crc = 0;
        head(name, 0, Body::Payload { len, offset, crc })
    }

    fn end(name: &[u8]) -> ChunkHead {
        head(name, 0, Body::End)
    }

    fn rename(name: &[u8], to: &[u8]) -> ChunkHead {
        head(name, 0, Body::Rename { to: path(to) })
    }

    fn remove(name: &[u8]) -> ChunkHead {
        let pattern = RemovePattern::new(&path(name)).unwrap();
        head(name, 0, Body::Remove { pattern })
    }

    fn word(result: Result<Step, DecodeError>) -> &'static str {
        result.unwrap_err().kind().word()
    }

    #[test]
    fn files_interleave_and_each_continues_where_it_was() {
        let mut t = Tracker::new();
        let opened = Ok(Step::Opened { replaces: false });
        assert_eq!(t.chunk(&payload(b"a", 0, 5)), opened);
        assert_eq!(t.chunk(&payload(b"b", 0, 3)), opened);
        assert_eq!(t.chunk(&payload(b"a", 5, 5)), Ok(Step::Continued));
        assert_eq!(word(t.chunk(&payload(b"a", 5, 5))), "OutOfOrder");
        assert_eq!(t.chunk(&end(b"b")), Ok(Step::Ended));
        assert_eq!(t.chunk(&end(b"c")), Ok(Step::Empty));
        let open: Vec<_> = t.open_files().map(|(p, f)| (p.clone(), *f)).collect();
        let file = OpenFile {
            position: 10,
            first_chunk: 7,
        };
        assert_eq!(open, [(path(b"a"), file)]);
        let error = t.finish(99).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::LeftOpen { files: 1 });
        assert_eq!(error.position(), 99);
        assert_eq!(t.chunk(&end(b"a")), Ok(Step::Ended));
        assert_eq!(t.finish(99), Ok(()));
    }

    #[test]
    fn an_ended_file_comes_again_only_by_rewrite() {
        let mut t = Tracker::new();
        t.chunk(&end(b"a")).unwrap();
        for again in [payload(b"a", 0, 1), end(b"a")] {
            assert_eq!(word(t.chunk(&again)), "AfterEnd");
        }
        for flags in [1, 3, 0x82] {
            let mut again = payload(b"a", 0, 1);
            again.flags = flags;
            assert_eq!(word(t.chunk(&again)), "AfterEnd");
        }
        let mut seek = head(b"a", FLAG_REWRITE, Body::Seek { offset: 0 });
        assert_eq!(word(t.chunk(&seek)), "AfterEnd");
        seek.path = path(b"new");
        assert_eq!(t.chunk(&seek), Ok(Step::Opened { replaces: false }));
        let mut again = payload(b"a", 0, 1);
        again.flags = FLAG_REWRITE;
        assert_eq!(t.chunk(&again), Ok(Step::Opened { replaces: true }));
        assert_eq!(t.chunk(&end(b"a")), Ok(Step::Ended));
        assert_eq!(word(t.chunk(&end(b"a"))), "AfterEnd");
    }

    #[test]
    fn a_failed_chunk_changes_nothing() {
        let mut t = Tracker::new();
        assert_eq!(word(t.chunk(&payload(b"a", 1, 1))), "OutOfOrder");
        assert_eq!(t.open_files().len(), 0);
    }

    #[test]
    fn renames_move_the_name() {
        let mut t = Tracker::new();
        t.chunk(&end(b"a")).unwrap();
        assert_eq!(t.chunk(&rename(b"a", b"b")), Ok(Step::Renamed));
        assert_eq!(t.chunk(&rename(b"a", b"c")), Ok(Step::RenameUnknown));
        assert_eq!(word(t.chunk(&end(b"b"))), "AfterEnd");
        assert_eq!(
            t.chunk(&payload(b"a", 0, 1)),
            Ok(Step::Opened { replaces: false })
        );
        for open in [rename(b"a", b"x"), rename(b"b", b"a")] {
            assert_eq!(word(t.chunk(&open)), "OpenRenamed");
        }
    }

    #[test]
    fn removes_forget_files_directories_and_prefixes() {
        let mut t = Tracker::new();
        let names: [&[u8]; 6] = [b"f", b"d/x", b"d/e/y", b"p/t#1", b"p/t#1/z", b"p/u"];
        for name in names {
            t.chunk(&end(name)).unwrap();
        }
        for name in [&b"f"[..], b"d", b"p/t#*", b"missing"] {
            assert_eq!(t.chunk(&remove(name)), Ok(Step::Removed));
        }
        for name in [&b"f"[..], b"d/x", b"d/e/y", b"p/t#1"] {
            assert_eq!(t.chunk(&end(name)), Ok(Step::Empty), "{name:?}");
            assert_eq!(word(t.chunk(&end(name))), "AfterEnd", "{name:?}");
        }
        for name in [&b"p/t#1/z"[..], b"p/u"] {
            assert_eq!(word(t.chunk(&end(name))), "AfterEnd", "{name:?}");
        }
        // A prefix may be a whole name.
        t.chunk(&remove(b"p/t#1*")).unwrap();
        assert_eq!(t.chunk(&end(b"p/t#1")), Ok(Step::Empty));
        // A prefix at the top does not reach into directories that begin with it.
        t.chunk(&remove(b"p*")).unwrap();
        assert_eq!(word(t.chunk(&end(b"p/u"))), "AfterEnd");
    }

    #[test]
    fn open_files_are_not_removed() {
        let mut t = Tracker::new();
        t.chunk(&payload(b"d/e/f", 0, 1)).unwrap();
        t.chunk(&payload(b"d!", 0, 1)).unwrap();
        for name in [&b"d"[..], b"d/e", b"d/e/f", b"d/e/f*"] {
            assert_eq!(word(t.chunk(&remove(name))), "OpenRemoved", "{name:?}");
        }
        for name in [&b"d/e/g*"[..], b"d/e*", b"d/e/f/g"] {
            assert_eq!(t.chunk(&remove(name)), Ok(Step::Removed), "{name:?}");
        }
    }

    #[test]
    fn open_files_are_limited() {
        let mut t = Tracker::new();
        for i in 0..OPEN_FILES_MAX {
            t.chunk(&payload(i.to_string().as_bytes(), 0, 1)).unwrap();
        }
        assert_eq!(word(t.chunk(&payload(b"more", 0, 1))), "TooManyOpen");
        assert_eq!(t.chunk(&payload(b"0", 1, 1)), Ok(Step::Continued));
        assert_eq!(t.chunk(&end(b"empty")), Ok(Step::Empty));
    }
}
