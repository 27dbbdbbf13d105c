//! The archive as a sink: file events become xbstream chunks on an [`Output`], and the index member tells where everything is
//! and how it ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::base::error::{Error, Kind, Result};
use crate::pipeline::budget::{ChunkLimits, ZEROS};
use crate::pipeline::output::Output;
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::xbstream::index::{Frame, INDEX_PAIRS_MAX, IndexLine, Place};
use crate::xbstream::{ArchivePath, RemovePattern, SparseEntry, SparseMap, encode, index};

/// Index lines are sent as a chunk of their own when they reach this many bytes.
const INDEX_CHUNK_LEN: usize = 64 << 10;

/// Payload up to this length is copied beside its head, which returns the pooled buffer at once.
const COPY_LEN_MAX: usize = 32 << 10;

/// Pieces up to this length are copied, so that a chunk may have many of them: between the holes of a page-compressed table
/// there is little.
const SMALL_LEN_MAX: usize = 16 << 10;

/// Most bytes of such copies in a chunk.
const COPIED_LEN_MAX: usize = 256 << 10;

/// Most pieces of a chunk, and most entries of a sparse map.
const PIECES_MAX: usize = 1024;

/// Longest hole of one entry: whole blocks.
const SKIP_MAX: u32 = u32::MAX - (u32::MAX % (1 << 20));

/// Writes one archive. Members may be written from many threads; each chunk is written whole.
#[derive(Debug)]
pub struct ArchiveSink {
    output: Output,
    index: Mutex<Index>,
    /// Whether the index is a member of the archive.
    indexed: bool,
    chunk: ChunkLimits,
    /// Files begun so far.
    opened: AtomicU64,
    /// Holes are told as such, in chunks that not every reader knows.
    sparse: bool,
}

/// What waits to be written of the index. What grows with the archive is the list of the index's own chunks: 16 bytes for
/// every [`INDEX_CHUNK_LEN`] of it, which a million files are some thousand of.
#[derive(Debug)]
struct Index {
    path: ArchivePath,
    lines: Vec<u8>,
    offset: u64,
    /// CRC-32 of what was sent.
    sum: crc32fast::Hasher,
    chunks: Vec<Place>,
    members: u64,
    payload_bytes: u64,
}

/// The index member's name as a path.
pub fn index_path() -> Result<ArchivePath> {
    ArchivePath::new(index::INDEX_PATH)
        .map_err(|e| Error::new(Kind::Failed, "the index has no legal name").source(e))
}

/// What an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveSummary {
    /// Files and empty directories.
    pub members: u64,
    /// Sum of their sizes as stored.
    pub payload_bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
}

impl ArchiveSink {
    /// Begins an archive: the first chunk is the head of the index member (`r[xbstream.index.first]`).
    ///
    /// `chunk` bounds what one open member holds back.
    pub fn new(output: Output, chunk: ChunkLimits) -> Result<Self> {
        Self::begin(output, chunk, true)
    }

    /// Begins an archive as other programs write it, without an index: its end proves nothing.
    pub fn without_index(output: Output, chunk: ChunkLimits) -> Result<Self> {
        Self::begin(output, chunk, false)
    }

    fn begin(output: Output, chunk: ChunkLimits, indexed: bool) -> Result<Self> {
        let path = index_path()?;
        let mut lines = Vec::new();
        IndexLine::Header.append_to(&mut lines);
        let sink = Self {
            output,
            index: Mutex::new(Index {
                path,
                lines,
                offset: 0,
                sum: crc32fast::Hasher::new(),
                chunks: Vec::new(),
                members: 0,
                payload_bytes: 0,
            }),
            indexed,
            chunk,
            opened: AtomicU64::new(0),
            sparse: false,
        };
        {
            let mut index = sink.lock();
            sink.send_index_lines(&mut index)?;
        }
        Ok(sink)
    }

    /// With `sparse`, holes become sparse chunks instead of zeros. MariaDB's programs cannot read such an archive.
    /// `r[xbstream.writer.sparse]`
    #[must_use]
    pub fn with_sparse(self, sparse: bool) -> Self {
        Self { sparse, ..self }
    }

    /// Waits until all chunks handed over so far were taken by the reader of the archive.
    pub fn settle(&self) -> Result<()> {
        self.output.settle()
    }

    /// Ends the archive: table of the index, sums, trailer, `E` of the index member, everything written, the file durable and
    /// named.
    pub fn finish(self) -> Result<ArchiveSummary> {
        let (members, payload_bytes) = {
            let mut index = self.lock();
            // r[xbstream.index.table] It begins a chunk, and no other member's chunk comes any more.
            if !index.lines.is_empty() {
                self.send_index_lines(&mut index)?;
            }
            let chunks = std::mem::take(&mut index.chunks);
            let mut table = None;
            for list in chunks.chunks(INDEX_PAIRS_MAX) {
                let list = list.to_vec();
                IndexLine::Table { list }.append_to(&mut index.lines);
                if index.lines.len() >= INDEX_CHUNK_LEN {
                    let position = self.send_index_lines(&mut index)?;
                    table.get_or_insert(position);
                }
            }
            let end = IndexLine::End {
                members: index.members,
                bytes: index.payload_bytes,
            };
            end.append_to(&mut index.lines);
            let position = self.send_index_lines(&mut index)?;
            let trailer = IndexLine::Trailer {
                table: table.unwrap_or(position),
                crc: index.sum.clone().finalize(),
            };
            trailer.append_to(&mut index.lines);
            self.send_index_lines(&mut index)?;
            if self.indexed {
                let mut head = Vec::new();
                encode::end(&mut head, &index.path);
                self.output.send(vec![head.into()])?;
            }
            (index.members, index.payload_bytes)
        };
        let archive_bytes = self.output.finish()?;
        Ok(ArchiveSummary {
            members,
            payload_bytes,
            archive_bytes,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what waits as a chunk; returns its position.
    fn send_index_lines(&self, index: &mut Index) -> Result<u64> {
        let lines = std::mem::take(&mut index.lines);
        if !self.indexed {
            return Ok(0);
        }
        let len = lines.len() as u64;
        let mut run = Vec::with_capacity(lines.len() + 128);
        encode::payload_head(&mut run, &index.path, index.offset, crc(&lines), len);
        run.extend_from_slice(&lines);
        index.offset += len;
        index.sum.update(&lines);
        // Sent under the lock: index chunks must reach the stream in the order of their offsets.
        let position = self.output.send(vec![run.into()])?;
        index.chunks.push(Place { position, len });
        Ok(position)
    }

    /// Adds a line about a part of a member.
    fn note(&self, line: &IndexLine) -> Result<()> {
        let mut index = self.lock();
        line.append_to(&mut index.lines);
        if index.lines.len() >= INDEX_CHUNK_LEN {
            self.send_index_lines(&mut index)?;
        }
        Ok(())
    }

    fn member_done(&self, line: &IndexLine, payload_bytes: u64) -> Result<()> {
        let mut index = self.lock();
        line.append_to(&mut index.lines);
        index.members += 1;
        index.payload_bytes += payload_bytes;
        if index.lines.len() >= INDEX_CHUNK_LEN {
            self.send_index_lines(&mut index)?;
        }
        Ok(())
    }
}

/// Every version of every reader knows only whole files (`r[xbstream.writer.dialect]`).
fn no_restructuring(path: &ArchivePath) -> Error {
    Error::new(
        Kind::Failed,
        "an archive cannot rename or remove what it already holds",
    )
    .path(path.as_path())
}

fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

impl Sink for ArchiveSink {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        _attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        if self.indexed && *path == self.lock().path {
            return Err(Error::new(Kind::Failed, "the name is reserved for the archive's own index")
                .path(path.as_path())
                .hint("remove or rename that file: it was left by a program that extracted one of our archives"));
        }
        Ok(Box::new(Member {
            sink: self,
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            chunks: Vec::new(),
            frames: Vec::new(),
            path: path.clone(),
            offset: 0,
            pieces: Vec::new(),
            pooled: 0,
            copied: 0,
            piece_bytes: 0,
            map: Vec::new(),
            hole_bytes: 0,
            has_sparse: false,
            payload_bytes: 0,
            chunk_crc: crc32fast::Hasher::new(),
            member_crc: crc32fast::Hasher::new(),
        }))
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        self.member_done(&IndexLine::Directory { path: path.clone() }, 0)
    }

    fn rename(&self, from: &ArchivePath, _to: &ArchivePath) -> Result<()> {
        Err(no_restructuring(from))
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        let (RemovePattern::Exact(path) | RemovePattern::Prefix { stem: path }) = pattern;
        Err(no_restructuring(path))
    }
}

/// One open member: pieces wait here until they fill a chunk.
struct Member<'s> {
    sink: &'s ArchiveSink,
    number: u64,
    /// Chunks and frames that the index was not told of yet.
    chunks: Vec<Place>,
    frames: Vec<Frame>,
    path: ArchivePath,
    /// Where the chunk being gathered begins.
    offset: u64,
    pieces: Vec<Bytes>,
    /// Pieces that may hold a pooled buffer.
    pooled: usize,
    /// Bytes of the others that are copies.
    copied: usize,
    piece_bytes: usize,
    /// Holes of that chunk, and what follows each of them.
    map: Vec<SparseEntry>,
    hole_bytes: u64,
    /// A sparse chunk was sent.
    has_sparse: bool,
    /// Payload of all chunks that were sent.
    payload_bytes: u64,
    chunk_crc: crc32fast::Hasher,
    member_crc: crc32fast::Hasher,
}

impl Member<'_> {
    /// Sends the gathered chunk, the member's `E` right behind it when it is the last.
    fn send_chunk(&mut self, with_eof: bool) -> Result<()> {
        let mut run = Vec::with_capacity(128);
        let mut runs = Vec::with_capacity(self.pieces.len() + 2);
        let payload_len = self.piece_bytes as u64;
        let has_chunk = payload_len + self.hole_bytes > 0;
        if has_chunk {
            self.chunk_head(&mut run, payload_len)?;
            self.offset += payload_len + std::mem::take(&mut self.hole_bytes);
            self.payload_bytes += payload_len;
            (self.pooled, self.copied) = (0, 0);
            if self.piece_bytes <= COPY_LEN_MAX {
                for piece in self.pieces.drain(..) {
                    run.extend_from_slice(&piece);
                }
            } else {
                runs.push(std::mem::take(&mut run).into());
                runs.append(&mut self.pieces);
            }
            self.piece_bytes = 0;
        }
        if with_eof {
            encode::end(&mut run, &self.path);
        }
        if !run.is_empty() {
            runs.push(run.into());
        }
        if runs.is_empty() {
            return Ok(());
        }
        let position = self.sink.output.send(runs)?;
        if has_chunk {
            self.chunks.push(Place {
                position,
                len: payload_len,
            });
        }
        if self.chunks.len() >= INDEX_PAIRS_MAX {
            self.note_chunks()?;
        }
        Ok(())
    }

    /// Appends the head of the gathered chunk.
    fn chunk_head(&mut self, run: &mut Vec<u8>, payload_len: u64) -> Result<()> {
        let crc = std::mem::take(&mut self.chunk_crc);
        self.member_crc.combine(&crc);
        let (path, offset) = (&self.path, self.offset);
        if self.map.is_empty() {
            encode::payload_head(run, path, offset, crc.finalize(), payload_len);
            return Ok(());
        }
        let map = SparseMap::new(&std::mem::take(&mut self.map));
        // r[xbstream.sparse.crc]
        let mut whole = crc32fast::Hasher::new();
        whole.update(map.as_bytes());
        whole.combine(&crc);
        encode::sparse_head(run, path, offset, whole.finalize(), &map, payload_len);
        if !std::mem::replace(&mut self.has_sparse, true) {
            let member = self.number;
            self.sink.note(&IndexLine::Sparse { member })?;
        }
        Ok(())
    }

    /// Adds payload to the gathered chunk and sends it when it is full.
    fn push(&mut self, data: Bytes, pooled: bool) -> Result<()> {
        let ChunkLimits { pieces, len } = self.sink.chunk;
        if self.piece_bytes + data.len() > len {
            self.send_chunk(false)?;
        }
        self.chunk_crc.update(&data);
        self.piece_bytes += data.len();
        if let Some(entry) = self.map.last_mut() {
            // Bounded by the limit of chunks, which is far below 4 GiB.
            entry.len += u32::try_from(data.len()).unwrap_or(u32::MAX);
        }
        self.pieces.push(data);
        self.pooled += usize::from(pooled);
        if self.pooled >= pieces
            || self.piece_bytes >= len
            || self.pieces.len() >= PIECES_MAX
            || self.copied >= COPIED_LEN_MAX
        {
            self.send_chunk(false)?;
        }
        Ok(())
    }

    /// `r[xbstream.sparse.entry]`: tells a hole as such.
    fn push_hole(&mut self, len: u64) -> Result<()> {
        if self.map.len() >= PIECES_MAX {
            self.send_chunk(false)?;
        }
        if self.map.is_empty() {
            // What came before the first hole.
            self.map.push(SparseEntry {
                skip: 0,
                len: u32::try_from(self.piece_bytes).unwrap_or(u32::MAX),
            });
        }
        let mut left = len;
        while left > 0 {
            let skip = u32::try_from(left).unwrap_or(SKIP_MAX);
            self.map.push(SparseEntry { skip, len: 0 });
            left -= u64::from(skip);
        }
        self.hole_bytes += len;
        Ok(())
    }

    /// Tells the index of the chunks that were sent. `r[xbstream.index.chunks]`
    fn note_chunks(&mut self) -> Result<()> {
        let list = std::mem::take(&mut self.chunks);
        if list.is_empty() {
            return Ok(());
        }
        let member = self.number;
        self.sink.note(&IndexLine::Chunks { member, list })
    }

    /// Tells the index of frames. `r[xbstream.index.frames]`
    fn note_frames(&mut self) -> Result<()> {
        let list = std::mem::take(&mut self.frames);
        if list.is_empty() {
            return Ok(());
        }
        let member = self.number;
        self.sink.note(&IndexLine::Frames { member, list })
    }
}

impl FileSink for Member<'_> {
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()> {
        let expected = self.offset + self.piece_bytes as u64 + self.hole_bytes;
        if offset != expected {
            return Err(Error::new(
                Kind::Failed,
                format!("an archive member is written in order, expected offset {expected}, got"),
            )
            .path(self.path.as_path())
            .at(offset));
        }
        if data.is_empty() {
            return Ok(());
        }
        if data.len() <= SMALL_LEN_MAX {
            // A copy gives the pooled buffer back: there may be many such pieces in a chunk.
            self.copied += data.len();
            return self.push(Bytes::copy_from_slice(&data), false);
        }
        self.push(data, true)
    }

    /// Unless asked otherwise an archive says a hole in the one way that every reader knows.
    fn hole(&mut self, offset: u64, len: u64) -> Result<()> {
        let expected = self.offset + self.piece_bytes as u64 + self.hole_bytes;
        if self.sink.sparse && offset == expected {
            return self.push_hole(len);
        }
        let mut done = 0;
        while done < len {
            let n = usize::try_from(len - done)
                .unwrap_or(usize::MAX)
                .min(ZEROS.len());
            let zeros = Bytes::from_static(ZEROS.get(..n).unwrap_or_default());
            if offset + done == self.offset + self.piece_bytes as u64 {
                self.push(zeros, false)?;
            } else {
                self.data(offset + done, zeros)?;
            }
            done += n as u64;
        }
        Ok(())
    }

    fn frame(&mut self, plain: u64) -> Result<()> {
        let stored = self.offset + self.piece_bytes as u64;
        self.frames.push(Frame { stored, plain });
        if self.frames.len() >= INDEX_PAIRS_MAX {
            self.note_frames()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.send_chunk(false)
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        self.send_chunk(true)?;
        self.note_chunks()?;
        self.note_frames()?;
        let crc = self.member_crc.clone().finalize();
        let line = IndexLine::File {
            member: self.number,
            len: self.payload_bytes,
            crc,
            path: self.path.clone(),
        };
        self.sink.member_done(&line, self.payload_bytes)
    }
}
