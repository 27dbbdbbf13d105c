//! Compression as a sink in front of a sink: each piece of a file becomes one independent frame.

use bytes::Bytes;

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::pool::{Buf, BufPool};
use crate::codec::zstd;
use crate::pipeline::budget::{FRAME_LEN, ZEROS};
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::pipeline::workers::{Ordered, Workers};
use crate::xbstream::{ArchivePath, RemovePattern};

/// How members are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Zstandard of this level, 1 to [`zstd::LEVEL_MAX`].
    Zstd(i32),
}

impl Compression {
    /// Whether there is any.
    #[must_use]
    pub fn is_some(self) -> bool {
        self != Self::None
    }

    /// The level, if there is any compression.
    #[must_use]
    pub fn level(self) -> Option<i32> {
        match self {
            Self::None => None,
            Self::Zstd(level) => Some(level),
        }
    }
}

impl std::str::FromStr for Compression {
    type Err = Error;

    /// `none`, `zstd` or `zstd:LEVEL`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(Kind::Usage, format!("{text:?} is not a compression")).hint(format!(
                "use none, zstd or zstd:LEVEL with a level from 1 to {}",
                zstd::LEVEL_MAX
            ))
        };
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "zstd" => Ok(Self::Zstd(zstd::LEVEL_DEFAULT)),
            Some(("zstd", level)) => {
                let level = level.parse().map_err(|_| bad())?;
                if (1..=zstd::LEVEL_MAX).contains(&level) {
                    Ok(Self::Zstd(level))
                } else {
                    Err(bad())
                }
            }
            _ => Err(bad()),
        }
    }
}

/// Adds [`zstd::SUFFIX`] to every file and compresses it on the codec threads.
pub struct CompressSink<'a> {
    inner: &'a dyn Sink,
    workers: &'a Workers,
    output: BufPool,
    level: i32,
    /// Names that stay as they are because other programs read them straight out of a stream.
    plain: &'a [&'a str],
    /// The frame of a full buffer of zeros: sparse files are mostly this.
    zero_frame: Bytes,
    cancel: Cancel,
}

impl<'a> CompressSink<'a> {
    /// Frames of `level` made on `workers`, in `output_bufs` buffers.
    pub fn new(
        inner: &'a dyn Sink,
        workers: &'a Workers,
        output_bufs: usize,
        level: i32,
        plain: &'a [&'a str],
        cancel: &Cancel,
    ) -> Result<Self> {
        let mut frame = vec![0; zstd::bound(FRAME_LEN)];
        let n = zstd::Contexts::default()
            .compress(level, &ZEROS, &mut frame)
            .map_err(|e| Error::new(Kind::Failed, "cannot compress").source(e))?;
        Ok(Self {
            inner,
            workers,
            output: BufPool::new(output_bufs, zstd::bound(FRAME_LEN)),
            level,
            plain,
            zero_frame: Bytes::copy_from_slice(&frame[..n]),
            cancel: cancel.clone(),
        })
    }
}

impl CompressSink<'_> {
    /// The name a file gets: with the suffix, unless it is one of those that stay plain.
    fn name_of(&self, path: &ArchivePath) -> Result<ArchivePath> {
        if self
            .plain
            .iter()
            .any(|name| name.as_bytes() == path.as_bytes())
        {
            return Ok(path.clone());
        }
        compressed_name(path)
    }
}

/// The name of a compressed file.
pub fn compressed_name(path: &ArchivePath) -> Result<ArchivePath> {
    let name = [path.as_bytes(), zstd::SUFFIX.as_bytes()].concat();
    ArchivePath::new(&name).map_err(|e| {
        Error::new(Kind::Failed, "cannot add the suffix of compressed files to")
            .path(path.as_path())
            .source(e)
    })
}

impl Sink for CompressSink<'_> {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        let name = self.name_of(path)?;
        if name == *path {
            return self.inner.open(path, attributes);
        }
        Ok(Box::new(CompressFile {
            sink: self,
            path: path.clone(),
            inner: self.inner.open(&name, attributes)?,
            frames: Ordered::default(),
            written: 0,
            position: 0,
        }))
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        self.inner.directory(path)
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        self.inner.rename(&self.name_of(from)?, &self.name_of(to)?)
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        match pattern {
            RemovePattern::Exact(path) => self
                .inner
                .remove(&RemovePattern::Exact(self.name_of(path)?)),
            RemovePattern::Prefix { .. } => self.inner.remove(pattern),
        }
    }
}

struct CompressFile<'s> {
    sink: &'s CompressSink<'s>,
    path: ArchivePath,
    inner: Box<dyn FileSink + 's>,
    frames: Ordered<Bytes>,
    written: u64,
    position: u64,
}

impl CompressFile<'_> {
    fn write_oldest(&mut self) -> Result<bool> {
        let Some(frame) = self.frames.take_oldest() else {
            return Ok(false);
        };
        let frame = frame.map_err(|e| e.path(self.path.as_path()))?;
        self.write(frame)?;
        Ok(true)
    }

    fn write(&mut self, frame: Bytes) -> Result<()> {
        let len = frame.len() as u64;
        self.inner.data(self.written, frame)?;
        self.written += len;
        Ok(())
    }

    /// A buffer for the next frame. Whoever waits here holds no other: see the invariant in `base::pool`.
    fn buffer(&mut self) -> Result<Buf> {
        while self.frames.len() >= self.sink.workers.count() * 2 {
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

    fn compress(&mut self, plain: Bytes) -> Result<()> {
        let mut buf = self.buffer()?;
        let level = self.sink.level;
        self.sink.workers.submit(&mut self.frames, move |contexts| {
            let n = contexts
                .compress(level, &plain, &mut buf)
                .map_err(|e| Error::new(Kind::Failed, "cannot compress").source(e))?;
            Ok(buf.freeze(n))
        })
    }
}

impl FileSink for CompressFile<'_> {
    fn data(&mut self, offset: u64, mut data: Bytes) -> Result<()> {
        if offset != self.position {
            return Err(
                Error::new(Kind::Failed, "a compressed file is written in order")
                    .path(self.path.as_path())
                    .at(offset),
            );
        }
        self.position += data.len() as u64;
        while data.len() > FRAME_LEN {
            self.compress(data.split_to(FRAME_LEN))?;
        }
        if data.is_empty() {
            Ok(())
        } else {
            self.compress(data)
        }
    }

    fn hole(&mut self, offset: u64, len: u64) -> Result<()> {
        let mut left = len;
        while left >= FRAME_LEN as u64 {
            while self.write_oldest()? {}
            self.write(self.sink.zero_frame.clone())?;
            self.position += FRAME_LEN as u64;
            left -= FRAME_LEN as u64;
        }
        if left == 0 {
            return Ok(());
        }
        let zeros = ZEROS
            .get(..usize::try_from(left).unwrap_or(0))
            .unwrap_or_default();
        self.data(offset + (len - left), Bytes::from_static(zeros))
    }

    fn flush(&mut self) -> Result<()> {
        while self.write_oldest()? {}
        self.inner.flush()
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        if self.position == 0 {
            // An empty file is one empty frame: a file of no bytes is no zstd file.
            self.compress(Bytes::new())?;
        }
        while self.write_oldest()? {}
        self.inner.close()
    }
}
