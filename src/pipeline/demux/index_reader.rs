//! Follows the index member of an archive of ours (`r[xbstream.index.agrees]`).

use std::sync::{Mutex, PoisonError};

use super::outcome::{Entry, Results};
use crate::base::error::{Error, Kind, Result};
use crate::pipeline::sink::Sink;
use crate::xbstream::ChunkHead;
use crate::xbstream::index::{INDEX_LINE_LEN_MAX, IndexLine};
use crate::xbstream::limits::INDEX_CHUNK_LEN_MAX;

#[derive(Debug, Default)]
pub(super) struct IndexReader {
    chunk: Vec<u8>,
    line: Vec<u8>,
    header_seen: bool,
    ended: bool,
    pub(super) directories: u64,
    /// Members and payload bytes of the last line.
    pub(super) end: Option<(u64, u64)>,
}

impl IndexReader {
    /// Whether the last line and the end of the member were there.
    pub(super) fn is_whole(&self) -> bool {
        self.ended
    }

    pub(super) fn chunk_begin(&mut self, len: u64) -> Result<()> {
        // r[xbstream.index.chunk-len]
        if len > INDEX_CHUNK_LEN_MAX {
            return Err(bad_index("a chunk of the index is too long"));
        }
        self.chunk.clear();
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
        let chunk = std::mem::take(&mut self.chunk);
        for piece in chunk.split_inclusive(|b| *b == b'\n') {
            if self.line.len() + piece.len() > INDEX_LINE_LEN_MAX + 1 {
                return Err(bad_index("a line of the index is too long"));
            }
            let Some(end) = piece.strip_suffix(b"\n") else {
                self.line.extend_from_slice(piece);
                continue;
            };
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(end);
            self.line(&line, results, sink)?;
        }
        self.chunk = chunk;
        Ok(())
    }

    fn line(&mut self, line: &[u8], results: &Mutex<Results>, sink: &dyn Sink) -> Result<()> {
        if self.end.is_some() {
            return Err(bad_index("the index goes on after its last line"));
        }
        let parsed = IndexLine::parse(line)
            .map_err(|e| bad_index("a line of the index is damaged").source(e))?;
        if self.header_seen == matches!(parsed, IndexLine::Header) {
            return Err(bad_index("the index does not begin with its one head"));
        }
        match parsed {
            IndexLine::Header => self.header_seen = true,
            IndexLine::File { len, crc, path } => results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .meet(&path, Entry::Listed((len, crc))),
            IndexLine::Directory { path } => {
                self.directories += 1;
                sink.directory(&path)?;
            }
            IndexLine::End { members, bytes } => self.end = Some((members, bytes)),
        }
        Ok(())
    }

    pub(super) fn close(&mut self) -> Result<()> {
        if self.end.is_none() || !self.line.is_empty() {
            return Err(bad_index("the index ends without its last line"));
        }
        self.ended = true;
        Ok(())
    }
}

fn bad_index(what: &str) -> Error {
    Error::new(Kind::Checksum, what).path("xbpipe_index")
}
