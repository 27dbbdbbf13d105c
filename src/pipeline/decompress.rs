//! Decompression as a sink in front of a sink: whole frames go to the codec threads, the rest is decoded in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf as _, Bytes, BytesMut};

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::pool::{Buf, BufPool};
use crate::codec::zstd::{self, FrameScanner, Scanned, StreamDecoder};
use crate::pipeline::budget::FRAME_LEN;
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::pipeline::workers::{Ordered, Workers};
use crate::xbstream::{ArchivePath, RemovePattern};

/// Longest compressed frame that is gathered to be decoded elsewhere: what our own writer makes at most.
const GATHER_LEN_MAX: usize = FRAME_LEN + (FRAME_LEN >> 7);

/// Removes [`zstd::SUFFIX`] from names that have it and decompresses those files.
pub struct DecompressSink<'a> {
    inner: &'a dyn Sink,
    workers: &'a Workers,
    output: BufPool,
    /// How many more frames may be gathered from pieces now; a frame that finds none is decoded as a stream.
    gather_slots: Arc<AtomicUsize>,
    cancel: Cancel,
}

impl<'a> DecompressSink<'a> {
    /// Decodes on `workers` into `output_bufs` buffers, of which a quarter may gather frames that came in pieces.
    pub fn new(
        inner: &'a dyn Sink,
        workers: &'a Workers,
        output_bufs: usize,
        cancel: &Cancel,
    ) -> Self {
        let gather_slots = (output_bufs / 4).max(1);
        Self {
            inner,
            workers,
            output: BufPool::new(output_bufs.saturating_sub(gather_slots), FRAME_LEN),
            gather_slots: Arc::new(AtomicUsize::new(gather_slots)),
            cancel: cancel.clone(),
        }
    }

    fn take_slot(&self) -> Option<Slot> {
        self.gather_slots
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1))
            .is_ok()
            .then(|| Slot(Arc::clone(&self.gather_slots)))
    }
}

/// The right to hold one gathered frame; given back when the frame is decoded or given up.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl Sink for DecompressSink<'_> {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        let Some(name) = plain_name(path) else {
            return self.inner.open(path, attributes);
        };
        Ok(Box::new(DecompressFile {
            sink: self,
            path: path.clone(),
            inner: self.inner.open(&name, attributes)?,
            scanner: FrameScanner::default(),
            mode: Mode::Between,
            stream: None,
            plain: Ordered::default(),
            consumed: 0,
            written: 0,
        }))
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        self.inner.directory(path)
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        let plain = |path: &ArchivePath| plain_name(path).unwrap_or_else(|| path.clone());
        self.inner.rename(&plain(from), &plain(to))
    }

    fn distrust(&self, path: &ArchivePath) -> Result<()> {
        let plain = plain_name(path);
        self.inner.distrust(plain.as_ref().unwrap_or(path))
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        if let RemovePattern::Exact(path) = pattern
            && let Some(plain) = plain_name(path)
        {
            return self.inner.remove(&RemovePattern::Exact(plain));
        }
        self.inner.remove(pattern)
    }
}

/// The name without the suffix; `None` if it has none, or is nothing else (`d/.zst`).
fn plain_name(path: &ArchivePath) -> Option<ArchivePath> {
    ArchivePath::new(path.as_bytes().strip_suffix(zstd::SUFFIX.as_bytes())?).ok()
}

/// What is done with the bytes of the current frame.
enum Mode {
    /// No frame was begun.
    Between,
    /// Its first pieces wait here, in one of the sink's gather slots.
    Gather(BytesMut, Slot),
    /// It is decoded as it comes.
    Stream,
}

struct DecompressFile<'s> {
    sink: &'s DecompressSink<'s>,
    path: ArchivePath,
    inner: Box<dyn FileSink + 's>,
    scanner: FrameScanner,
    mode: Mode,
    stream: Option<StreamDecoder>,
    plain: Ordered<Bytes>,
    /// Compressed bytes taken so far.
    consumed: u64,
    /// Plain bytes given to the inner sink so far.
    written: u64,
}

impl DecompressFile<'_> {
    fn damaged(&self, cause: zstd::CodecError) -> Error {
        Error::new(Kind::Checksum, "cannot decompress")
            .path(self.path.as_path())
            .at(self.consumed)
            .source(cause)
    }

    fn write_oldest(&mut self) -> Result<bool> {
        let Some(plain) = self.plain.take_oldest() else {
            return Ok(false);
        };
        let plain = plain.map_err(|e| e.path(self.path.as_path()))?;
        self.write(plain)?;
        Ok(true)
    }

    fn write(&mut self, plain: Bytes) -> Result<()> {
        let len = plain.len() as u64;
        self.inner.data(self.written, plain)?;
        self.written += len;
        Ok(())
    }

    /// A buffer for plain bytes. Whoever waits here holds no other: see the invariant in `base::pool`.
    fn buffer(&mut self) -> Result<Buf> {
        while self.plain.len() >= self.sink.workers.count() * 2 {
            self.write_oldest()?;
        }
        loop {
            if let Some(buf) = self.sink.output.try_get() {
                return Ok(buf);
            }
            if !self.write_oldest()? {
                self.inner.flush()?;
                return self.sink.output.get(&self.sink.cancel);
            }
        }
    }

    /// A whole frame in one piece; `slot` is held until it is decoded.
    fn decode_frame(
        &mut self,
        frame: Bytes,
        content_size: Option<u64>,
        slot: Option<Slot>,
    ) -> Result<()> {
        if content_size.is_none_or(|n| n > FRAME_LEN as u64) {
            return self.decode_stream(frame);
        }
        let mut buf = self.buffer()?;
        let position = self.consumed;
        self.sink.workers.submit(&mut self.plain, move |contexts| {
            let n = contexts.decompress(&frame, &mut buf).map_err(|e| {
                Error::new(Kind::Checksum, "cannot decompress")
                    .at(position)
                    .source(e)
            })?;
            drop(slot);
            Ok(buf.freeze(n))
        })
    }

    /// A piece of a frame, decoded on this thread.
    fn decode_stream(&mut self, mut piece: Bytes) -> Result<()> {
        while self.write_oldest()? {}
        let mut decoder = match self.stream.take() {
            Some(decoder) => decoder,
            None => StreamDecoder::new().map_err(|e| self.damaged(e))?,
        };
        loop {
            let mut buf = self.buffer()?;
            let step = decoder
                .step(&piece, &mut buf)
                .map_err(|e| self.damaged(e))?;
            let full = step.produced == buf.len();
            piece.advance(step.consumed);
            if step.produced > 0 {
                self.write(buf.freeze(step.produced))?;
            }
            if piece.is_empty() && !full {
                break;
            }
            if step.consumed == 0 && step.produced == 0 {
                break;
            }
        }
        self.stream = Some(decoder);
        Ok(())
    }

    /// Part of the current frame that does not end it.
    fn hold(&mut self, piece: Bytes) -> Result<()> {
        match std::mem::replace(&mut self.mode, Mode::Stream) {
            Mode::Stream => self.decode_stream(piece),
            Mode::Between => match self.sink.take_slot() {
                Some(slot) if piece.len() <= GATHER_LEN_MAX => {
                    let mut gathered = BytesMut::with_capacity(GATHER_LEN_MAX);
                    gathered.extend_from_slice(&piece);
                    self.mode = Mode::Gather(gathered, slot);
                    Ok(())
                }
                _ => self.decode_stream(piece),
            },
            Mode::Gather(mut gathered, slot) => {
                if gathered.len() + piece.len() <= GATHER_LEN_MAX {
                    gathered.extend_from_slice(&piece);
                    self.mode = Mode::Gather(gathered, slot);
                    return Ok(());
                }
                self.decode_stream(gathered.freeze())?;
                drop(slot);
                self.decode_stream(piece)
            }
        }
    }

    /// The last part of the current frame.
    fn end_frame(&mut self, piece: Bytes, content_size: Option<u64>) -> Result<()> {
        match std::mem::replace(&mut self.mode, Mode::Between) {
            Mode::Between => self.decode_frame(piece, content_size, None),
            Mode::Stream => self.decode_stream(piece),
            Mode::Gather(mut gathered, slot) => {
                if gathered.len() + piece.len() > GATHER_LEN_MAX {
                    self.decode_stream(gathered.freeze())?;
                    return self.decode_stream(piece);
                }
                gathered.extend_from_slice(&piece);
                self.decode_frame(gathered.freeze(), content_size, Some(slot))
            }
        }
    }
}

impl FileSink for DecompressFile<'_> {
    fn data(&mut self, offset: u64, mut data: Bytes) -> Result<()> {
        if offset != self.consumed {
            return Err(Error::new(
                Kind::Checksum,
                "a compressed file cannot be patched in place",
            )
            .path(self.path.as_path())
            .at(offset));
        }
        while !data.is_empty() {
            match self.scanner.feed(&data).map_err(|e| self.damaged(e))? {
                Scanned::More => {
                    let len = data.len() as u64;
                    self.hold(std::mem::take(&mut data))?;
                    self.consumed += len;
                }
                Scanned::End(n, content_size) => {
                    let piece = data.split_to(n);
                    self.end_frame(piece, content_size)?;
                    self.consumed += n as u64;
                }
            }
        }
        Ok(())
    }

    fn hole(&mut self, offset: u64, _len: u64) -> Result<()> {
        Err(
            Error::new(Kind::Checksum, "a hole inside a compressed file")
                .path(self.path.as_path())
                .at(offset),
        )
    }

    fn flush(&mut self) -> Result<()> {
        while self.write_oldest()? {}
        self.inner.flush()
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        while self.write_oldest()? {}
        if self.scanner.is_inside() {
            return Err(Error::new(
                Kind::Incomplete,
                "the compressed file ends inside a zstd frame",
            )
            .path(self.path.as_path())
            .at(self.consumed));
        }
        self.inner.close()
    }
}
