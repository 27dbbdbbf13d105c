//! Payload that a lane reads from the source itself, and that idle lanes take over from busy ones.
//!
//! The lane of a file is its owner: it alone opens and closes it. It may give chunks away to lanes that have nothing to do,
//! each with a part of the file to write; before it closes the file it waits for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::base::error::{Error, Kind, Result};
use crate::pipeline::sink::FileSink;
use crate::pipeline::source::Lease;
use crate::xbstream::index::Place;
use crate::xbstream::{ArchivePath, Body, ChunkHead, CrcCheck, Decoder, Event, Options};

/// Shorter payload goes with its head: a read of its own would cost more than handing it over.
pub(super) const FAR_LEN_MIN: u64 = 256 << 10;

/// A payload chunk whose payload is still in the source.
#[derive(Debug)]
pub(super) struct FarChunk {
    pub(super) head: Head,
    /// Bytes of payload.
    pub(super) len: u64,
    /// Where it belongs in the file.
    pub(super) offset: u64,
}

/// What is known about the head of such a chunk.
#[derive(Debug)]
pub(super) enum Head {
    /// All: it was read, and the payload begins at `begin` in the archive.
    Read { head: ChunkHead, begin: u64 },
    /// What the index says: a chunk of `path` begins at `position`. It must be compared.
    Indexed {
        path: ArchivePath,
        position: u64,
        /// The source keeps it until then.
        lease: Lease,
    },
}

impl FarChunk {
    /// Where it is.
    pub(super) fn place(&self) -> Place {
        let position = match &self.head {
            Head::Read { head, .. } => head.position,
            Head::Indexed { position, .. } => *position,
        };
        Place {
            position,
            len: self.len,
        }
    }

    /// Compares the bytes found at `position` with the head that the index tells of. `r[xbstream.index.seek]`
    pub(super) fn compare(
        &self,
        bytes: Bytes,
        path: &ArchivePath,
        position: u64,
    ) -> Result<ChunkHead> {
        let wrong = || {
            let what = "the index tells of a chunk that is not there:";
            Error::new(Kind::Checksum, what).at(position)
        };
        let mut decoder = Decoder::new(Options {
            crc: CrcCheck::Caller,
            ..Options::default()
        });
        decoder.feed(bytes);
        let Some(Event::Chunk(mut head)) = decoder.next().map_err(|e| wrong().source(e))? else {
            return Err(wrong());
        };
        head.position = position;
        match head.body {
            Body::Payload { len, offset, .. }
                if head.path == *path && len == self.len && offset == self.offset =>
            {
                Ok(head)
            }
            _ => Err(wrong()),
        }
    }
}

/// A chunk given away.
pub(super) struct Task {
    pub(super) pending: Pending,
    pub(super) chunk: Box<FarChunk>,
    pub(super) part: Box<dyn FileSink>,
}

/// The promise to say what became of a chunk given away. Dropped, it says that the chunk was lost.
pub(super) struct Pending {
    file: Arc<Shared>,
    /// Number of the chunk in its file.
    number: u64,
    kept: bool,
}

impl Pending {
    pub(super) fn new(file: &Arc<Shared>, number: u64) -> Self {
        file.lock().pending += 1;
        Self {
            file: Arc::clone(file),
            number,
            kept: false,
        }
    }

    pub(super) fn end(mut self, result: Result<crc32fast::Hasher>) {
        self.kept = true;
        self.file.end(self.number, result);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.kept {
            let lost = Error::new(Kind::Failed, "a lane thread panicked while it worked on");
            self.file.end(self.number, Err(lost));
        }
    }
}

/// A file of which chunks were given away.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: usize,
    sums: Vec<(u64, crc32fast::Hasher)>,
    error: Option<Error>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chunk that was given away is done.
    fn end(&self, number: u64, result: Result<crc32fast::Hasher>) {
        let mut state = self.lock();
        state.pending -= 1;
        match result {
            Ok(sum) => state.sums.push((number, sum)),
            Err(error) if state.error.is_none() => state.error = Some(error),
            Err(_) => {}
        }
        drop(state);
        self.done.notify_all();
    }

    /// Waits for all that was given away.
    pub(super) fn wait(&self) {
        drop(
            self.done
                .wait_while(self.lock(), |state| state.pending > 0)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// What has come back so far.
    pub(super) fn collect(&self, sum: &mut FileSum) -> Result<()> {
        let mut state = self.lock();
        for (number, chunk) in state.sums.drain(..) {
            sum.add(number, chunk);
        }
        state.error.take().map_or(Ok(()), Err)
    }
}

/// The checksum of a whole file from those of its chunks, which may come in any order.
#[derive(Debug, Default)]
pub(super) struct FileSum {
    sum: crc32fast::Hasher,
    /// Number of the first chunk that is not in `sum`.
    next: u64,
    early: BTreeMap<u64, crc32fast::Hasher>,
}

impl FileSum {
    pub(super) fn add(&mut self, number: u64, chunk: crc32fast::Hasher) {
        if number != self.next {
            self.early.insert(number, chunk);
            return;
        }
        self.sum.combine(&chunk);
        self.next += 1;
        while let Some(chunk) = self.early.remove(&self.next) {
            self.sum.combine(&chunk);
            self.next += 1;
        }
    }

    pub(super) fn finalize(self) -> u32 {
        self.sum.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_chunks_does_not_matter() {
        let chunk = |bytes: &[u8]| {
            let mut sum = crc32fast::Hasher::new();
            sum.update(bytes);
            sum
        };
        let mut sum = FileSum::default();
        for (number, bytes) in [(2, &b"fg"[..]), (0, b"ab"), (3, b"h"), (1, b"cde")] {
            sum.add(number, chunk(bytes));
        }
        assert_eq!(sum.finalize(), crc32fast::hash(b"abcdefgh"));
    }
}
