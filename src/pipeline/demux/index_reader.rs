//! Follows the index member of an archive of ours (`r[xbstream.index.agrees]`).

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::outcome::{Content, Entry, Places, Results};
use crate::base::error::{Error, Kind, Result};
use crate::pipeline::sink::Sink;
use crate::xbstream::index::{IndexLine, IndexLineError, IndexLines, Place, TRAILER_LEN};
use crate::xbstream::limits::{INDEX_CHUNK_LEN_MAX, OPEN_FILES_MAX};
use crate::xbstream::{ArchivePath, ChunkHead};

#[derive(Debug)]
pub(super) struct IndexReader {
    chunk: Vec<u8>,
    lines: IndexLines,
    told: Told,
    ended: bool,
}

/// What the lines have told so far.
#[derive(Debug)]
struct Told {
    /// The index chunk being read began between two lines.
    begins_line: bool,
    /// Position of the index chunk being read.
    position: u64,
    /// Chunks of the index that its table must name.
    chunks: VecDeque<Place>,
    /// Position of the chunk that begins with the table.
    table: Option<u64>,
    /// Chunks of files that have not ended.
    places: HashMap<u64, Places>,
    /// How places are compared.
    fresh: Places,
    directories: u64,
    end: Option<(u64, u64)>,
}

impl IndexReader {
    /// `fresh` is a file of no chunks.
    pub(super) fn new(fresh: Places) -> Self {
        Self {
            chunk: Vec::new(),
            lines: IndexLines::default(),
            told: Told {
                begins_line: false,
                position: 0,
                chunks: VecDeque::new(),
                table: None,
                places: HashMap::new(),
                fresh,
                directories: 0,
                end: None,
            },
            ended: false,
        }
    }

    /// Whether the last line and the end of the member were there.
    pub(super) fn is_whole(&self) -> bool {
        self.ended
    }

    /// Empty directories so far.
    pub(super) fn directories(&self) -> u64 {
        self.told.directories
    }

    /// Members and payload bytes that the index states at its end.
    pub(super) fn end(&self) -> Option<(u64, u64)> {
        self.told.end
    }

    pub(super) fn chunk_begin(&mut self, head: &ChunkHead) -> Result<()> {
        let (position, len) = (head.position, head.payload_len());
        // r[xbstream.index.chunk-len]
        if len > INDEX_CHUNK_LEN_MAX {
            return Err(bad_index("a chunk of the index is too long").at(position));
        }
        self.chunk.clear();
        self.told.position = position;
        self.told.begins_line = self.lines.is_between_lines();
        if self.told.table.is_none() {
            self.told.chunks.push_back(Place { position, len });
        }
        Ok(())
    }

    pub(super) fn data(&mut self, bytes: &[u8]) {
        self.chunk.extend_from_slice(bytes);
    }

    pub(super) fn chunk_end(
        &mut self,
        head: &ChunkHead,
        results: &Mutex<Results>,
        sink: &dyn Sink,
    ) -> Result<()> {
        head.check_crc(crc32fast::hash(&self.chunk))?;
        let Self {
            chunk, lines, told, ..
        } = self;
        let mut first = true;
        let fed = lines.feed(chunk, |line| {
            let begins_chunk = std::mem::take(&mut first) && told.begins_line;
            told.line(line, begins_chunk, results, sink)
                .map_err(Stop::Error)
        });
        fed.map_err(|stop| match stop {
            Stop::Line(why) => bad_index("a line of the index is damaged").source(why),
            Stop::Error(error) => error,
        })
    }

    pub(super) fn close(&mut self) -> Result<()> {
        if !self.lines.is_complete() {
            return Err(bad_index("the index ends without its last line"));
        }
        self.ended = true;
        Ok(())
    }
}

/// Follows a member with the name of the index that does not begin the archive. Left by a reader that knows no index, it is a
/// file, and its trailer tells a place in another archive. If it is this archive's own index, chunks have changed places.
/// `r[xbstream.index.displaced]`
#[derive(Debug, Default)]
pub(super) struct Stray {
    /// Positions of the first and the last of its chunks that have no other member's chunk between them.
    run: Option<(u64, u64)>,
    /// Its last bytes.
    tail: Vec<u8>,
}

impl Stray {
    /// A chunk begins: with payload of this member, or another member's.
    pub(super) fn chunk(&mut self, position: Option<u64>) {
        self.run = match (position, self.run) {
            (Some(position), Some((first, _))) => Some((first, position)),
            (Some(position), None) => Some((position, position)),
            (None, _) => None,
        };
    }

    pub(super) fn data(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(
            bytes
                .get(bytes.len().saturating_sub(TRAILER_LEN)..)
                .unwrap_or_default(),
        );
        self.tail
            .drain(..self.tail.len().saturating_sub(TRAILER_LEN));
    }

    /// Its end chunk is at `position`.
    pub(super) fn end(&self, position: u64) -> Result<()> {
        let line = self.tail.strip_suffix(b"\n").map(IndexLine::parse);
        match (line, self.run) {
            (Some(Ok(IndexLine::Trailer { table, .. })), Some((first, last)))
                if (first..=last).contains(&table) =>
            {
                Err(bad_index("the archive has chunks before its index").at(position))
            }
            _ => Ok(()),
        }
    }
}

/// Why the lines are not read on.
enum Stop {
    Line(IndexLineError),
    Error(Error),
}

impl From<IndexLineError> for Stop {
    fn from(why: IndexLineError) -> Self {
        Self::Line(why)
    }
}

impl Told {
    fn line(
        &mut self,
        line: IndexLine,
        begins_chunk: bool,
        results: &Mutex<Results>,
        sink: &dyn Sink,
    ) -> Result<()> {
        match line {
            // What frames say shows when they are used: each has a checksum of its own.
            IndexLine::Header | IndexLine::Frames { .. } | IndexLine::Sparse { .. } => {}
            IndexLine::Chunks { member, list } => {
                if self.places.len() >= OPEN_FILES_MAX {
                    return Err(bad_index("the index has too many files open"));
                }
                let places = self
                    .places
                    .entry(member)
                    .or_insert_with(|| self.fresh.clone());
                for place in list {
                    places.add(place);
                }
            }
            IndexLine::File {
                member,
                len,
                crc,
                path,
            } => {
                let places = self.places.remove(&member);
                let places = places.unwrap_or_else(|| self.fresh.clone());
                self.listed(&path, Content { len, crc, places }, results);
            }
            IndexLine::Directory { path } => {
                self.directories += 1;
                sink.directory(&path)?;
            }
            IndexLine::Table { list } => self.table(&list, begins_chunk, results),
            IndexLine::End { members, bytes } => {
                if !self.places.is_empty() {
                    displaced(results, "the index tells of chunks of files without a name");
                }
                if !self.chunks.is_empty() {
                    displaced(results, "the table of the index is not complete");
                }
                self.end = Some((members, bytes));
            }
            IndexLine::Trailer { table, .. } => {
                if self.table != Some(table) {
                    displaced(results, "the trailer of the index leads elsewhere");
                }
            }
        }
        Ok(())
    }

    fn listed(&self, path: &ArchivePath, content: Content, results: &Mutex<Results>) {
        results
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .meet(path, Entry::Listed(content));
    }

    // r[xbstream.index.table]
    fn table(&mut self, list: &[Place], begins_chunk: bool, results: &Mutex<Results>) {
        if self.table.is_none() {
            if !begins_chunk {
                displaced(results, "the table of the index does not begin a chunk");
            }
            self.table = Some(self.position);
            self.chunks.pop_back();
        }
        for place in list {
            if self.chunks.pop_front() != Some(*place) {
                displaced(results, "the table of the index leads elsewhere");
            }
        }
    }
}

/// What the index says about places is wrong. No file is the worse for it, but the archive is.
fn displaced(results: &Mutex<Results>, what: &str) {
    results
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .displaced
        .get_or_insert_with(|| bad_index(what));
}

fn bad_index(what: &str) -> Error {
    Error::new(Kind::Checksum, what).path("xbpipe_index")
}
