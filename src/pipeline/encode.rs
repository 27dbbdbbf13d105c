//! Encoding as a sink in front of a sink: a file is cut into pieces, which the codec threads encode in parallel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind, Result};
use crate::base::pool::{Buf, BufPool};
use crate::codec::{Contexts, Encoder, FileEncoder, Piece};
use crate::pipeline::budget::{Budget, StageBudget, ZEROS};
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::pipeline::workers::{InOrder, Stage, Workers, codec_error};
use crate::xbstream::{ArchivePath, RemovePattern};

/// Adds the suffix of an encoder to every file and encodes it. A chain (compress, then encrypt) is one in front of the other.
pub struct EncodeSink<'a> {
    inner: &'a dyn Sink,
    encoder: Arc<dyn Encoder>,
    stage: Stage<'a>,
    piece_len: usize,
    /// Buffers for pieces of an exact length.
    gather: Option<BufPool>,
    /// What stays as it is.
    plain: Plain<'a>,
    /// Parts of pieces that files hold between calls.
    parked: AtomicUsize,
    /// A piece of zeros in its encoded form, if that does not depend on its place: sparse files are mostly this.
    zeros: Option<(u64, Bytes)>,
    cancel: Cancel,
}

/// How long a file waits for a buffer while all of them are parked.
const PARKED_WAIT: Duration = Duration::from_secs(5);

/// Tells whether a file stays as it is, rather than pass through an encoder.
pub type Plain<'a> = &'a (dyn Fn(&ArchivePath, &dyn Encoder) -> bool + Sync);

/// Files that other programs read straight out of a stream are never encoded.
#[must_use]
pub fn is_read_in_stream(path: &ArchivePath) -> bool {
    [
        &b"xtrabackup_checkpoints"[..],
        b"mariadb_backup_checkpoints",
    ]
    .contains(&path.as_bytes())
}

impl<'a> EncodeSink<'a> {
    /// Encodes on `workers` within `budget`, all but the files that are `plain`.
    pub fn new(
        inner: &'a dyn Sink,
        encoder: Arc<dyn Encoder>,
        workers: &'a Workers,
        budget: StageBudget,
        plain: Plain<'a>,
        cancel: &Cancel,
    ) -> Result<Self> {
        let zeros = if encoder.repeats() {
            let zeros = ZEROS.get(..budget.piece_len).unwrap_or(&ZEROS);
            Some((zeros.len() as u64, encoded_zeros(encoder.as_ref(), zeros)?))
        } else {
            None
        };
        Ok(Self {
            inner,
            stage: Stage::new(workers, budget, cancel),
            piece_len: budget.piece_len,
            gather: (encoder.pieces().exact)
                .then(|| BufPool::new(budget.gather_bufs, budget.piece_len)),
            encoder,
            plain,
            parked: AtomicUsize::new(0),
            zeros,
            cancel: cancel.clone(),
        })
    }

    /// The name a file gets: with the suffix, unless it is one of those that stay plain.
    fn name_of(&self, path: &ArchivePath) -> Result<ArchivePath> {
        if (self.plain)(path, self.encoder.as_ref()) {
            return Ok(path.clone());
        }
        with_suffix(path, self.encoder.suffix())
    }
}

fn encoded_zeros(encoder: &dyn Encoder, zeros: &[u8]) -> Result<Bytes> {
    let failed = |e| Error::new(Kind::Failed, "cannot encode").source(e);
    let piece = Piece {
        index: 0,
        position: 0,
        last: false,
    };
    let mut encoded = vec![0; encoder.bound(zeros.len())];
    let file = encoder.begin(b"").map_err(failed)?;
    let n = file
        .piece(piece, zeros, &mut encoded, &mut Contexts::default())
        .map_err(failed)?;
    Ok(Bytes::copy_from_slice(encoded.get(..n).unwrap_or_default()))
}

fn with_suffix(path: &ArchivePath, suffix: &str) -> Result<ArchivePath> {
    let name = [path.as_bytes(), suffix.as_bytes()].concat();
    ArchivePath::new(&name).map_err(|e| {
        Error::new(Kind::Failed, format!("cannot add the suffix {suffix} to"))
            .path(path.as_path())
            .source(e)
    })
}

/// Writes files to the sink it is given.
type Writing<'r, T> = Box<dyn FnOnce(&dyn Sink) -> Result<T> + 'r>;

/// Has `run` write to `sink` through all of `encoders`; files that are `plain` stay as they are.
pub fn encode_through<T>(
    sink: &dyn Sink,
    encoders: &[Arc<dyn Encoder>],
    budget: &Budget,
    plain: Plain<'_>,
    cancel: &Cancel,
    run: impl FnOnce(&dyn Sink) -> Result<T>,
) -> Result<T> {
    /// Puts the last encoder next to the sink, and so on.
    fn nest<T>(
        sink: &dyn Sink,
        encoders: &[Arc<dyn Encoder>],
        stages: &[StageBudget],
        workers: &Workers,
        plain: Plain<'_>,
        cancel: &Cancel,
        run: Writing<'_, T>,
    ) -> Result<T> {
        let (Some((encoder, encoders)), Some((stage, stages))) =
            (encoders.split_last(), stages.split_last())
        else {
            return run(sink);
        };
        let encoder = Arc::clone(encoder);
        let sink = EncodeSink::new(sink, encoder, workers, *stage, plain, cancel)?;
        nest(&sink, encoders, stages, workers, plain, cancel, run)
    }
    if encoders.is_empty() {
        return run(sink);
    }
    let workers = Workers::start(budget.codec_threads)?;
    let run = Box::new(run);
    nest(sink, encoders, &budget.stages, &workers, plain, cancel, run)
}

/// The name of a file that went through all of `encoders`.
pub fn encoded_name(path: &ArchivePath, encoders: &[Arc<dyn Encoder>]) -> Result<ArchivePath> {
    encoders.iter().try_fold(path.clone(), |name, encoder| {
        with_suffix(&name, encoder.suffix())
    })
}

impl Sink for EncodeSink<'_> {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        let name = self.name_of(path)?;
        if name == *path {
            return self.inner.open(path, attributes);
        }
        let encoder = self
            .encoder
            .begin(path.as_bytes())
            .map_err(|e| codec_error("cannot encode", path.as_path(), 0, e))?;
        let mut out = InOrder::new(self.inner.open(&name, attributes)?);
        out.write(encoder.header().into())?;
        Ok(Box::new(EncodeFile {
            stage: &self.stage,
            piece_len: self.piece_len,
            gather: self.gather.as_ref(),
            parked: &self.parked,
            zeros: self.zeros.as_ref(),
            cancel: &self.cancel,
            path: path.clone(),
            encoder,
            out,
            gathered: None,
            is_parked: None,
            next: Piece {
                index: 0,
                position: 0,
                last: false,
            },
            position: 0,
        }))
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        self.inner.directory(path)
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        self.inner.rename(&self.name_of(from)?, &self.name_of(to)?)
    }

    fn distrust(&self, path: &ArchivePath) -> Result<()> {
        self.inner.distrust(&self.name_of(path)?)
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

struct EncodeFile<'s> {
    stage: &'s Stage<'s>,
    piece_len: usize,
    gather: Option<&'s BufPool>,
    parked: &'s AtomicUsize,
    zeros: Option<&'s (u64, Bytes)>,
    cancel: &'s Cancel,
    path: ArchivePath,
    encoder: Arc<dyn FileEncoder>,
    out: InOrder<'s>,
    /// Part of a piece of exact length, and how much of the buffer it fills.
    gathered: Option<(Buf, usize)>,
    /// While nobody works on it.
    is_parked: Option<Parked<'s>>,
    /// The piece that is encoded next.
    next: Piece,
    /// Plain bytes taken so far.
    position: u64,
}

/// Counts a part of a piece while it lives.
struct Parked<'s>(&'s AtomicUsize);

impl<'s> Parked<'s> {
    fn new(count: &'s AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl EncodeFile<'_> {
    fn encode(&mut self, plain: Bytes, last: bool) -> Result<()> {
        let piece = Piece { last, ..self.next };
        self.next.index += 1;
        self.next.position += plain.len() as u64;
        let encoder = Arc::clone(&self.encoder);
        let path = self.path.clone();
        self.out.frame_begins(piece.position);
        self.stage.run(&mut self.out, move |contexts, mut buf| {
            let n = encoder
                .piece(piece, &plain, &mut buf, contexts)
                .map_err(|e| codec_error("cannot encode", path.as_path(), piece.position, e))?;
            Ok(buf.freeze(n))
        })
    }

    /// Copies into pieces of exact length. A full one waits until it is known whether it is the last.
    fn gather(&mut self, pool: &BufPool, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            if self.gathered.as_ref().is_some_and(|(b, n)| *n == b.len()) {
                self.encode_gathered(false)?;
            }
            let (mut buf, have) = match self.gathered.take() {
                Some(part) => part,
                None => (self.room(pool)?, 0),
            };
            let free = buf.get_mut(have..).unwrap_or_default();
            let n = free.len().min(data.len());
            let (now, later) = data.split_at(n);
            if let Some(free) = free.get_mut(..n) {
                free.copy_from_slice(now);
            }
            data = later;
            self.gathered = Some((buf, have + n));
        }
        Ok(())
    }

    /// A buffer for a part of a piece. Of an archive so many files may be open at once that all are in their hands, and whoever
    /// would go on with them waits behind this one.
    fn room(&self, pool: &BufPool) -> Result<Buf> {
        let mut since = Instant::now();
        loop {
            if let Some(buf) = pool.get_within(POLL_INTERVAL, self.cancel)? {
                return Ok(buf);
            }
            if self.parked.load(Ordering::Acquire) < pool.count() {
                since = Instant::now();
            }
            if since.elapsed() > PARKED_WAIT {
                let what = format!(
                    "no memory left to encode, beside {} other files that are open at the same time,",
                    pool.count()
                );
                return Err(Error::new(Kind::Failed, what)
                    .path(self.path.as_path())
                    .hint("use more --memory"));
            }
        }
    }

    fn encode_gathered(&mut self, last: bool) -> Result<()> {
        let plain = match self.gathered.take() {
            Some((buf, len)) => buf.freeze(len),
            None => Bytes::new(),
        };
        self.encode(plain, last)
    }
}

impl FileSink for EncodeFile<'_> {
    fn data(&mut self, offset: u64, mut data: Bytes) -> Result<()> {
        if offset != self.position {
            return Err(
                Error::new(Kind::Failed, "an encoded file is written in order")
                    .path(self.path.as_path())
                    .at(offset),
            );
        }
        self.position += data.len() as u64;
        if let Some(pool) = self.gather {
            self.is_parked = None;
            self.gather(pool, &data)?;
            self.is_parked = Some(Parked::new(self.parked));
            return Ok(());
        }
        while data.len() > self.piece_len {
            self.encode(data.split_to(self.piece_len), false)?;
        }
        if data.is_empty() {
            Ok(())
        } else {
            self.encode(data, false)
        }
    }

    fn hole(&mut self, offset: u64, len: u64) -> Result<()> {
        let mut left = len;
        if let Some((zeros_len, zeros)) = self.zeros {
            while left >= *zeros_len {
                self.out.drain()?;
                self.out.inner.frame(self.next.position)?;
                self.out.write(zeros.clone())?;
                self.position += zeros_len;
                self.next.position += zeros_len;
                self.next.index += 1;
                left -= zeros_len;
            }
        }
        while left > 0 {
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            let zeros = ZEROS.get(..n).unwrap_or_default();
            self.data(offset + (len - left), Bytes::from_static(zeros))?;
            left -= n as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        if self.gather.is_some() {
            self.is_parked = None;
            self.encode_gathered(true)?;
        } else if self.position == 0 {
            self.encode(Bytes::new(), true)?;
        }
        self.out.drain()?;
        self.out.inner.frame(self.position)?;
        let trailer = self.encoder.trailer(self.position);
        self.out.write(trailer.into())?;
        self.out.close()
    }
}
