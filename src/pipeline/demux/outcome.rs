//! What is known about an archive once it was gone through, and the sentence that says so.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, DefaultHasher, Hasher as _, RandomState};

use crate::base::error::{Error, Kind, Result};
use crate::xbstream::ArchivePath;
use crate::xbstream::index::Place;

/// A file that is not as it was written.
#[derive(Debug)]
pub struct Failure {
    /// Its name in the archive.
    pub path: ArchivePath,
    /// What is wrong with it.
    pub error: Error,
}

impl Failure {
    /// Whether it may be right, and cannot be told with what this run was given: a key, memory, a format that is not read.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.error.kind() == Kind::Failed
    }
}

/// What is known about the end of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The archive said how many files it holds, and all of them were there.
    Proven,
    /// The archive came from a program that writes no end; every file that began has ended.
    Unstated,
    /// The archive should say how many files it holds, and ends before it does.
    Missing,
    /// The archive was not read to its end: what is known is what its index says.
    Indexed,
}

impl End {
    /// The word for machine-readable output.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Unstated => "unstated",
            Self::Missing => "missing",
            Self::Indexed => "indexed",
        }
    }
}

/// One archive gone through.
#[derive(Debug)]
pub struct Outcome {
    /// Files that are whole and verified.
    pub files: u64,
    /// Their bytes as stored.
    pub payload_bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// What is known about the end.
    pub end: End,
    /// Files that were there and wrong.
    pub failures: Vec<Failure>,
    /// Files that began and did not end, or that nothing confirms in a damaged archive; in order of name.
    pub incomplete: Vec<ArchivePath>,
    /// What is wrong with the structure, first of all.
    pub stream_error: Option<Error>,
    /// What else is, if the reading did not end there.
    pub further: Vec<Error>,
}

/// How many names an error lists before it only counts; and how many bytes of them, since a line of a log has a limit.
const NAMES_SHOWN_MAX: usize = 20;
const NAMES_LEN_MAX: usize = 1200;

impl Outcome {
    /// Whether nothing is wrong with the archive.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.archive_bytes > 0
            && self.stream_error.is_none()
            && self.failures.is_empty()
            && self.incomplete.is_empty()
            && self.end != End::Missing
    }

    /// The archive as a success or as the one error that tells what is wrong with it, in one sentence that names the files.
    pub fn check(mut self, name: &str) -> Result<Self> {
        if self.is_whole() {
            return Ok(self);
        }
        let (kind, mut text, hint) = self.first_cause(name);
        text.push_str(&format!("; files whole and verified: {}", self.files));
        self.incomplete
            .retain(|path| self.failures.iter().all(|f| f.path != *path));
        let (refused, damaged): (Vec<&Failure>, Vec<&Failure>) =
            self.failures.iter().partition(|f| f.is_refused());
        for (what, list) in [
            ("damaged", listed(damaged.iter().map(|f| &f.path))),
            ("not decoded", listed(refused.iter().map(|f| &f.path))),
            ("not whole", listed(self.incomplete.iter())),
        ] {
            if let Some(list) = list {
                text.push_str(&format!("; {what}: {list}"));
            }
        }
        Err(Error::new(kind, text).hint(hint))
    }

    fn first_cause(&mut self, name: &str) -> (Kind, String, String) {
        let again = "use only the verified files, or take the archive from its source again";
        // Damage of a file comes before what it led to, such as a reader that stopped there.
        let error = match (self.stream_error.take(), self.failures.first()) {
            (Some(error), _) => Some(error),
            (None, Some(first)) => {
                let error = &first.error;
                let hint = error.hint_text().unwrap_or(again).to_owned();
                return (error.kind(), format!("archive {name}: {error}"), hint);
            }
            (None, None) => None,
        };
        if let Some(error) = error {
            let hint = error.hint_text().unwrap_or(again).to_owned();
            return (error.kind(), format!("archive {name}: {error}"), hint);
        }
        let what = if self.archive_bytes == 0 {
            "it is empty"
        } else if self.incomplete.is_empty() {
            "its end is missing, so files may be missing too"
        } else {
            "it ends before all of its files do"
        };
        (
            Kind::Incomplete,
            format!(
                "archive {name} is incomplete: {what}, at byte offset {}",
                self.archive_bytes
            ),
            "the program that wrote it did not finish, or the copy was cut: take it from its source again"
                .to_owned(),
        )
    }
}

fn listed<'a>(paths: impl ExactSizeIterator<Item = &'a ArchivePath>) -> Option<String> {
    let count = paths.len();
    if count == 0 {
        return None;
    }
    let mut text = String::new();
    let mut shown = 0;
    for path in paths.take(NAMES_SHOWN_MAX) {
        let path = path.to_string();
        if shown > 0 && text.len() + path.len() > NAMES_LEN_MAX {
            break;
        }
        if shown > 0 {
            text.push_str(", ");
        }
        text.push_str(&path);
        shown += 1;
    }
    if count > shown {
        text.push_str(&format!(" and {} more", count - shown));
    }
    Some(text)
}

/// What the lanes and the index have found out so far; shared by all of them.
#[derive(Debug, Default)]
pub(super) struct Results {
    pub(super) files: u64,
    pub(super) payload_bytes: u64,
    pub(super) failures: Vec<Failure>,
    /// Closed files that turned out to be wrong afterwards, with their sizes: only the index could tell.
    pub(super) distrusted: Vec<(ArchivePath, u64)>,
    /// An error that is not the archive's fault.
    pub(super) fatal: Option<Error>,
    /// What is wrong with the places that the index states, first of all. The files themselves are not the worse for it.
    pub(super) displaced: Option<Error>,
    /// Files that the index or the stream has named and the other has not yet; entries leave when both agree.
    pub(super) ledger: HashMap<ArchivePath, Entry>,
    /// Whether the archive has an index to compare with.
    pub(super) indexed: bool,
}

/// What a file is.
#[derive(Debug, Clone)]
pub(super) struct Content {
    /// Bytes of payload.
    pub(super) len: u64,
    /// CRC-32 of all its payload.
    pub(super) crc: u32,
    /// Where its chunks are.
    pub(super) places: Places,
}

/// A keyed hash of the places of a file's chunks, so that they can be compared without being kept. Nobody can make two that
/// differ look the same on purpose: the key is random.
#[derive(Debug, Clone)]
pub(super) struct Places(DefaultHasher);

impl Places {
    /// A file of no chunks, under a new key.
    pub(super) fn new() -> Self {
        Self(RandomState::new().build_hasher())
    }

    /// The file's next chunk.
    pub(super) fn add(&mut self, place: Place) {
        self.0.write_u64(place.position);
        self.0.write_u64(place.len);
    }

    fn agree(&self, other: &Self) -> bool {
        self.0.finish() == other.0.finish()
    }
}

#[derive(Debug, Clone)]
pub(super) enum Entry {
    Listed(Content),
    Held(Content),
}

impl Results {
    pub(super) fn failed(&mut self, path: &ArchivePath, error: Error) {
        self.failures.push(Failure {
            path: path.clone(),
            error: error.path(path.as_path()),
        });
    }

    /// Compares what the index lists with what the archive holds as soon as both are known, so that the ledger stays small.
    pub(super) fn meet(&mut self, path: &ArchivePath, new: Entry) {
        match (self.ledger.remove(path), new) {
            (None, new) => {
                self.ledger.insert(path.clone(), new);
            }
            (Some(Entry::Listed(listed)), Entry::Held(held))
            | (Some(Entry::Held(held)), Entry::Listed(listed)) => {
                if (listed.len, listed.crc) != (held.len, held.crc) {
                    let what = format!(
                        "the index states {} bytes with CRC-32 {:08x}, found {} bytes with {:08x} in",
                        listed.len, listed.crc, held.len, held.crc
                    );
                    self.failed(path, Error::new(Kind::Checksum, what));
                    self.distrusted.push((path.clone(), held.len));
                } else if !listed.places.agree(&held.places) {
                    self.displaced.get_or_insert_with(|| {
                        let what = "the index states other positions for the chunks of";
                        Error::new(Kind::Checksum, what).path(path.as_path())
                    });
                }
            }
            (Some(_), new) => {
                self.failed(
                    path,
                    Error::new(Kind::Checksum, "named twice by the index:"),
                );
                self.ledger.insert(path.clone(), new);
            }
        }
    }

    /// What the index has not confirmed when the structure of the archive turns out to be damaged. Paths have no checksum but
    /// the index's: such a file may be another one, or not all of one.
    /// With `only_empty`, this is asked of files without content: what they should be is said by nothing else.
    pub(super) fn doubt(&mut self, only_empty: bool) -> Vec<ArchivePath> {
        let mut doubted = Vec::new();
        for (path, entry) in self.ledger.drain() {
            if let Entry::Held(content) = entry
                && (content.len == 0 || !only_empty)
            {
                self.distrusted.push((path.clone(), content.len));
                doubted.push(path);
            }
        }
        doubted
    }

    /// Takes back what was said of `files`, which no index knows; returns those that nothing worse is known of.
    pub(super) fn distrust(&mut self, mut files: Vec<ArchivePath>) -> Vec<ArchivePath> {
        files.retain(|path| self.failures.iter().all(|f| f.path != *path));
        let distrusted = files.iter().map(|path| (path.clone(), 0));
        self.distrusted.extend(distrusted);
        files
    }

    /// What is left in the ledger once the index has ended; `incomplete` files are told apart elsewhere.
    pub(super) fn settle(&mut self, incomplete: &[ArchivePath]) {
        let known: HashSet<ArchivePath> = self
            .failures
            .iter()
            .map(|f| f.path.clone())
            .chain(incomplete.iter().cloned())
            .collect();
        let left: Vec<_> = self.ledger.drain().collect();
        for (path, entry) in left {
            if known.contains(&path) {
                continue;
            }
            let what = match entry {
                Entry::Listed(_) => "the archive does not hold, but its index lists",
                Entry::Held(content) => {
                    self.distrusted.push((path.clone(), content.len));
                    "the archive holds, but its index does not list"
                }
            };
            self.failed(&path, Error::new(Kind::Incomplete, what));
        }
    }
}
