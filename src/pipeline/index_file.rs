//! Finds and reads the index of an archive that can be read anywhere, from its end. `r[xbstream.index.seek]`

use std::sync::Arc;

use bytes::Bytes;

use crate::base::error::{Error, Kind, Result};
use crate::pipeline::archive_sink::index_path;
use crate::pipeline::source::{Lease, ReadAt, undamaged};
use crate::xbstream::index::{IndexLine, IndexLineError, IndexLines, Place, TRAILER_LEN};
use crate::xbstream::limits::{INDEX_CHUNK_LEN_MAX, INDEX_TAIL_LEN_MAX};
use crate::xbstream::{ArchivePath, Body, Decoder, Event, encode};

/// Bytes read at the end of an archive to begin with: trailer and table of most archives.
const FIRST_READ_LEN: usize = 64 << 10;

/// The index of an archive that is not opened yet.
pub struct Indexed {
    source: Arc<dyn ReadAt>,
    path: ArchivePath,
    /// Chunks of the index before its table.
    table: Vec<Place>,
    /// Content of the index from the table on.
    tail: Bytes,
    /// Files and empty directories.
    members: u64,
    /// Bytes of the files as stored.
    payload_bytes: u64,
    /// Position of the chunk that begins with the table.
    table_position: u64,
}

/// Whether an error is the index's own, so that the archive had better be read from front to back.
#[must_use]
pub fn bad_index(error: &Error) -> bool {
    matches!(error.kind(), Kind::Checksum | Kind::Incomplete)
}

fn bad(what: &str, position: u64) -> Error {
    Error::new(Kind::Checksum, what).at(position)
}

impl Indexed {
    /// Looks at the end of the archive. `None` if there is no trailer there; an error that [`bad_index`] knows if it
    /// is not right.
    pub fn find(source: Arc<dyn ReadAt>) -> Result<Option<Self>> {
        let path = index_path()?;
        let mut end_chunk = Vec::new();
        encode::end(&mut end_chunk, &path);
        let len = source.len();
        let first_len = usize::try_from(len)
            .unwrap_or(usize::MAX)
            .min(FIRST_READ_LEN);
        let begin = len - first_len as u64;
        let first_read = || {
            let bytes = read(source.as_ref(), begin, first_len)?;
            let trailer = bytes.strip_suffix(&end_chunk[..]).and_then(|rest| {
                let line = rest.get(rest.len().checked_sub(TRAILER_LEN)?..)?;
                IndexLine::parse(line.strip_suffix(b"\n")?).ok()
            });
            match trailer {
                Some(IndexLine::Trailer { table, .. }) => Ok((bytes, table)),
                _ => Err(bad("the archive does not end with a trailer", len)),
            }
        };
        let (bytes, table) = match undamaged(source.as_ref(), begin, first_len as u64, first_read) {
            Err(error) if error.kind() == Kind::Checksum => return Ok(None),
            read => read?,
        };
        let tail_len = match len.checked_sub(table) {
            None | Some(0) => return Err(bad("the trailer leads out of the archive", len)),
            Some(tail_len) if tail_len > INDEX_TAIL_LEN_MAX => {
                return Err(bad("the table of the index is too long to be held", table));
            }
            Some(tail_len) => usize::try_from(tail_len).unwrap_or(usize::MAX),
        };
        let mut held = bytes.len().checked_sub(tail_len).map(|_| bytes);
        let found = undamaged(source.as_ref(), table, tail_len as u64, || {
            let tail = match held.take() {
                Some(bytes) => Bytes::from(bytes).slice(first_len - tail_len..),
                None => read(source.as_ref(), table, tail_len)?.into(),
            };
            let (offset, tail) = content(tail, &path, table, true)?;
            let mut found = Self {
                source: Arc::clone(&source),
                path: path.clone(),
                table: Vec::new(),
                tail: tail.into(),
                members: 0,
                payload_bytes: 0,
                table_position: table,
            };
            found.read_table(offset, table)?;
            Ok(found)
        });
        found.map(Some)
    }

    /// `offset`: bytes of the index before the table; `position`: where the chunk of the table is.
    fn read_table(&mut self, offset: u64, position: u64) -> Result<()> {
        let mut lines = IndexLines::at_table();
        let Self {
            table,
            tail,
            members,
            payload_bytes,
            ..
        } = self;
        lines
            .feed(tail, |line| {
                match line {
                    IndexLine::Table { list } => table.extend(list),
                    IndexLine::End { members: m, bytes } => (*members, *payload_bytes) = (m, bytes),
                    _ => {}
                }
                Ok::<_, IndexLineError>(())
            })
            .map_err(|e| bad("the end of the index is damaged", position).source(e))?;
        // r[xbstream.index.first] r[xbstream.index.table]
        let mut at = 0;
        let mut sum: u64 = 0;
        for place in table.iter() {
            let fits = place.position == 0 && at == 0 || place.position >= at && at > 0;
            if !fits || place.len > INDEX_CHUNK_LEN_MAX {
                return Err(bad("the table of the index is wrong", position));
            }
            let head_len = encode::payload_head_len(&self.path) as u64;
            at = place.position.saturating_add(head_len + place.len);
            sum = sum.saturating_add(place.len);
        }
        if !lines.is_complete() || sum != offset || at > position {
            return Err(bad("the table of the index is wrong", position));
        }
        Ok(())
    }

    /// What the archive can be read from.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn ReadAt> {
        &self.source
    }

    /// Bytes of the archive that the index takes up itself.
    #[must_use]
    pub fn own_bytes(&self) -> u64 {
        let head_len = encode::payload_head_len(&self.path) as u64;
        let chunks = self.table.iter().map(|place| head_len + place.len);
        let tail = self.source.len() - self.table_position;
        chunks.sum::<u64>().saturating_add(tail)
    }

    /// Goes through all lines. What was passed on is right only if this returns without an error.
    pub fn lines(&self, mut each: impl FnMut(IndexLine) -> Result<()>) -> Result<()> {
        let mut lines = IndexLines::default();
        let mut offset = 0;
        let (mut members, mut payload_bytes) = (0_u64, 0_u64);
        let mut feed = |bytes: &[u8], position: u64| {
            let fed = lines.feed(bytes, |line| {
                match &line {
                    IndexLine::File { len, .. } => {
                        members += 1;
                        payload_bytes = payload_bytes.saturating_add(*len);
                    }
                    IndexLine::Directory { .. } => members += 1,
                    _ => {}
                }
                each(line).map_err(Stop::Error)
            });
            fed.map_err(|stop| match stop {
                Stop::Line(why) => bad("a line of the index is damaged", position).source(why),
                Stop::Error(error) => error,
            })
        };
        let head_len = encode::payload_head_len(&self.path);
        let whole_len = |place: &Place| place.len.saturating_add(head_len as u64);
        let expected: Vec<(u64, u64)> = (self.table.iter())
            .map(|place| (place.position, whole_len(place)))
            .collect();
        self.source.expect(&expected)?;
        let mut position = 0;
        for place in &self.table {
            position = place.position;
            let len = whole_len(place);
            let lease = Lease::new(&self.source, position, len);
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let bytes = undamaged(self.source.as_ref(), position, len as u64, || {
                let bytes = read(self.source.as_ref(), position, len)?;
                let (found, bytes) = content(bytes.into(), &self.path, position, false)?;
                if found != offset || bytes.len() as u64 != place.len {
                    return Err(bad("the table of the index leads elsewhere", position));
                }
                Ok(bytes)
            })?;
            drop(lease);
            offset += place.len;
            feed(&bytes, position)?;
        }
        feed(&self.tail, position)?;
        if !lines.is_complete() {
            return Err(bad("the index ends without its last line", position));
        }
        // r[xbstream.index.agrees]
        if (members, payload_bytes) != (self.members, self.payload_bytes) {
            return Err(bad("the sums at the end of the index are wrong", position));
        }
        Ok(())
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

fn read(source: &dyn ReadAt, position: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let n = source.read_at(&mut bytes, position)?;
    if n < len {
        return Err(Error::new(Kind::Incomplete, "the archive became shorter")
            .at(position.saturating_add(n as u64)));
    }
    Ok(bytes)
}

/// The payload of the index chunks that `bytes`, from `position` of the archive, are, and the file position of its first byte.
/// With `ends`, the end chunk comes last.
fn content(bytes: Bytes, path: &ArchivePath, position: u64, ends: bool) -> Result<(u64, Vec<u8>)> {
    let wrong = || bad("something else is where the index should be", position);
    let mut decoder = Decoder::default();
    decoder.feed(bytes);
    let (mut begin, mut content, mut ended) = (None, Vec::new(), false);
    loop {
        let event = match decoder.next().map_err(|e| wrong().source(e))? {
            Some(event) => Some(event),
            None => decoder.finish().map_err(|e| wrong().source(e))?,
        };
        match event {
            None => break,
            Some(Event::Chunk(head)) => {
                if head.path != *path || ended {
                    return Err(wrong());
                }
                match head.body {
                    Body::Payload { offset, .. } => {
                        let begin = *begin.get_or_insert(offset);
                        if offset != begin.saturating_add(content.len() as u64) {
                            return Err(wrong());
                        }
                    }
                    Body::End => ended = true,
                    _ => return Err(wrong()),
                }
            }
            Some(Event::Data { bytes, .. }) => content.extend_from_slice(&bytes),
            Some(Event::Hole { .. } | Event::ChunkEnd(_)) => {}
        }
    }
    match begin {
        Some(begin) if ended == ends => Ok((begin, content)),
        _ => Err(wrong()),
    }
}
