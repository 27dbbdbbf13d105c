//! Where an archive comes from: a descriptor read into pooled buffers, an outer compression taken off on the way.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use async_compression::tokio::bufread::{GzipDecoder, Lz4Decoder, XzDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use bytes::Bytes;
use crossbeam_channel::Sender;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, BufReader, ReadBuf};
use tokio::runtime::Runtime;

use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::File;
use crate::base::monitor::{Counters, Monitor};
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::pipeline::output::enlarge_pipe;
use crate::pipeline::source::{FileSource, ReadAt};

/// Bytes looked at to recognise an outer compression.
const MAGIC_LEN: usize = 6;

/// Buffer of the outer decoder for what it reads.
const OUTER_READ_LEN: usize = 256 << 10;

/// The window of an outer compression may be that long in any case: what RFC 8878 asks of every decoder, and `xz -6` makes.
pub const OUTER_MEMORY_MIN: u64 = 8 << 20;

/// The longest window that zstd can have, as a power of two.
const WINDOW_LOG_MAX: u32 = 31;

/// What a decoder of xz holds beside its dictionary.
const XZ_STATE_LEN: u64 = 1 << 20;

/// How libzstd and liblzma say that they would need more than they may.
const TOO_MUCH: [&str; 2] = ["requires too much memory", "memory limit"];

/// A compression around a whole archive, recognised by its first bytes. `r[codec.outer]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outer {
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
    /// LZ4 frame format.
    Lz4,
    /// xz.
    Xz,
}

impl Outer {
    /// Recognises the first bytes of a stream.
    #[must_use]
    pub fn sniff(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            // Skippable frames: pzstd begins with one, and so may lz4; only the former is ever seen.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some(Self::Lz4),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            _ => None,
        }
    }
}

/// An archive that comes from elsewhere than a descriptor, piece by piece.
pub trait Feed: Send {
    /// The next bytes, empty at the end; `None` once `stop` is set.
    fn next(&mut self, stop: &AtomicBool) -> Result<Option<Bytes>>;
}

/// How much of an archive is going to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Most of it.
    Whole,
    /// Little of it.
    Some,
}

/// A place that such an archive can be had from.
pub trait OpenFeed: Send + Sync + std::fmt::Debug {
    /// Reads it in order within `memory`, once the first bytes are asked for: all of it, or at least what holds the files `names` and what is below them.
    fn open(&self, names: &[OsString], memory: ByteCount, run: &Run) -> Result<Box<dyn Feed>>;

    /// The archive as something to read anywhere within `memory`, if it is that.
    fn source(
        &self,
        extent: Extent,
        memory: ByteCount,
        run: &Run,
    ) -> Result<Option<Arc<dyn ReadAt>>>;

    /// What to call it in messages.
    fn name(&self) -> String;

    /// What of `memory` is left for those who read.
    fn memory_for_pipeline(&self, memory: ByteCount) -> Result<ByteCount>;
}

/// Reads an archive front to back.
pub struct Input {
    reader: Reader,
    name: String,
    /// Bytes read while looking for an outer compression.
    head: Vec<u8>,
    /// An error that waits until the bytes read before it are delivered.
    failed: Option<Error>,
    pool: BufPool,
    cancel: Cancel,
    monitor: Arc<dyn Monitor>,
    /// Who else gets every byte.
    tap: Option<Sender<Bytes>>,
}

enum Reader {
    /// A regular file.
    Ranges(Ranges),
    Stream(Stream),
    /// From elsewhere.
    Feed(Box<dyn Feed>),
}

/// What is only there once, in its order.
enum Stream {
    /// A pipe, a socket, a device: reading may block for long.
    Plain(File),
    Outer(OuterReader),
}

/// Reads a source front to back, except for what others read themselves.
struct Ranges {
    source: Arc<dyn ReadAt>,
    position: u64,
    /// Bytes to read at once: few while only heads of chunks are wanted, more and more while everything is.
    window: usize,
}

/// Bytes read where nothing but the head of a chunk is expected; four times as many each time that was wrong.
const WINDOW_LEN_MIN: usize = 4 << 10;

/// Takes the outer compression off. The decoder is asynchronous; this thread is the only one that waits for it.
struct OuterReader {
    decoder: Box<dyn AsyncRead + Send + Unpin>,
    /// Most bytes for its window.
    memory: ByteCount,
    raw: Arc<RawState>,
    /// Only gone while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for OuterReader {
    fn drop(&mut self) {
        // A read of a pipe that nobody writes to may be under way; an ordinary shutdown would wait for it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Input {
    /// Opens `source`, or standard input when it is `None` or `-`, and looks at its first bytes. What takes an outer compression
    /// off may hold as much as `memory` beside `pool`.
    pub fn open(
        source: Option<&Path>,
        pool: BufPool,
        memory: ByteCount,
        run: &Run,
    ) -> Result<Self> {
        let (file, name) = match source.filter(|p| p.as_os_str() != "-") {
            Some(path) => (File::open(path)?, format!("{path:?}")),
            None => {
                let stdin = rustix::stdio::stdin();
                if rustix::termios::isatty(stdin) {
                    return Err(Error::new(
                        Kind::Usage,
                        "refusing to read an archive from a terminal",
                    )
                    .hint("redirect standard input, or name the archive"));
                }
                let fd = rustix::io::fcntl_dupfd_cloexec(stdin, 3)
                    .map_err(|e| Error::io("duplicate", "(standard input)", e))?;
                (
                    File::from_fd(fd, "(standard input)"),
                    "(standard input)".to_owned(),
                )
            }
        };
        Self::over(file, name, Vec::new(), pool, memory, run)
    }

    /// Takes over `file`; a pipe of which `head` was read already.
    pub fn over(
        file: File,
        name: String,
        mut head: Vec<u8>,
        pool: BufPool,
        memory: ByteCount,
        run: &Run,
    ) -> Result<Self> {
        let Run { cancel, monitor } = run;
        enlarge_pipe(file.as_fd());
        file.advise_sequential();
        let stat = file.stat()?;
        let mut have = head.len();
        head.resize(have.max(MAGIC_LEN), 0);
        let (reader, head) = if have == 0 && stat.mode & 0o170_000 == 0o100_000 {
            let source = FileSource::new(file, stat.size, Arc::clone(monitor))?;
            have = source.read_at(&mut head, 0)?;
            match head.get(..have).and_then(Outer::sniff) {
                None => {
                    Counters::set(&monitor.counters().total_bytes, source.len());
                    (Reader::Ranges(Ranges::new(Arc::new(source))), Vec::new())
                }
                // How much it will be is written nowhere.
                Some(outer) => {
                    let reader = OuterReader::new(outer, source.into_file(), Vec::new(), memory)?;
                    (Reader::Stream(Stream::Outer(reader)), Vec::new())
                }
            }
        } else {
            while have < head.len() {
                match read_stream(&file, &mut head[have..])? {
                    Some(0) => break,
                    Some(n) => have += n,
                    None => cancel.check()?,
                }
            }
            head.truncate(have);
            match Outer::sniff(&head) {
                None => (Reader::Stream(Stream::Plain(file)), head),
                Some(outer) => {
                    let reader = OuterReader::new(outer, file, head, memory)?;
                    (Reader::Stream(Stream::Outer(reader)), Vec::new())
                }
            }
        };
        Ok(Self {
            reader,
            name,
            head,
            failed: None,
            pool,
            cancel: cancel.clone(),
            monitor: Arc::clone(monitor),
            tap: None,
        })
    }

    /// Reads what comes from elsewhere.
    #[must_use]
    pub fn from_feed(feed: Box<dyn Feed>, name: String, run: &Run) -> Self {
        Self {
            reader: Reader::Feed(feed),
            name,
            head: Vec::new(),
            failed: None,
            // It brings its own buffers.
            pool: BufPool::new(1, 0),
            cancel: run.cancel.clone(),
            monitor: Arc::clone(&run.monitor),
            tap: None,
        }
    }

    /// Sends every byte that is read from now on to somebody else as well, in the same order.
    pub fn tap(&mut self, tap: Sender<Bytes>) {
        self.tap = Some(tap);
    }

    /// What to call this input in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The archive as something to read anywhere, if it is that.
    #[must_use]
    pub fn source(&self) -> Option<Arc<dyn ReadAt>> {
        match &self.reader {
            // Whoever taps the input must see all of it.
            Reader::Ranges(ranges) if self.tap.is_none() => Some(Arc::clone(&ranges.source)),
            Reader::Ranges(_) | Reader::Stream(_) | Reader::Feed(_) => None,
        }
    }

    /// Whether [`Input::next_unless`] may wait for others: for those who write the archive, or for those who hold buffers.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        !matches!(self.reader, Reader::Ranges(_)) || self.pool.available() == 0
    }

    /// Goes on reading at `position` of a source: what is between was read by others, and heads of chunks are expected.
    pub fn skip_to(&mut self, position: u64) {
        if let Reader::Ranges(ranges) = &mut self.reader {
            ranges.position = position;
            ranges.window = WINDOW_LEN_MIN;
        }
    }

    /// The next bytes, empty at the end; `None` once `stop` is set. A stream fills a whole buffer unless it ends.
    pub fn next_unless(&mut self, stop: &AtomicBool) -> Result<Option<Bytes>> {
        let next = self.read_next(stop)?;
        if let (Some(tap), Some(bytes)) = (&self.tap, &next) {
            // Whoever listens no more has ended the run, or has failed and says so.
            if !bytes.is_empty() && tap.send(bytes.clone()).is_err() {
                self.cancel.check()?;
                return Ok(None);
            }
        }
        Ok(next)
    }

    fn read_next(&mut self, stop: &AtomicBool) -> Result<Option<Bytes>> {
        // It brings buffers of its own.
        if let Reader::Feed(feed) = &mut self.reader {
            return feed.next(stop);
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut buf = self.pool.get(&self.cancel)?;
        let stream = match &mut self.reader {
            Reader::Ranges(_) if stop.load(Ordering::Acquire) => return Ok(None),
            Reader::Ranges(ranges) => {
                self.cancel.check()?;
                let n = ranges.read(&mut buf)?;
                return Ok(Some(buf.freeze(n)));
            }
            Reader::Stream(stream) => stream,
            Reader::Feed(_) => return Ok(None),
        };
        // Looking for an outer compression has read a few bytes ahead.
        let mut have = self.head.len();
        if let Some(begin) = buf.get_mut(..have) {
            begin.copy_from_slice(&std::mem::take(&mut self.head));
        }
        Counters::add(&self.monitor.counters().read_bytes, have as u64);
        while have < buf.len() {
            self.cancel.check()?;
            if stop.load(Ordering::Acquire) {
                return Ok(None);
            }
            let free = buf.get_mut(have..).unwrap_or_default();
            let read = match stream {
                Stream::Plain(file) => read_stream(file, free),
                Stream::Outer(outer) => outer.read(free).map_err(|e| e.path(&self.name)),
            };
            match read {
                Ok(Some(0)) => break,
                Ok(Some(n)) => {
                    have += n;
                    Counters::add(&self.monitor.counters().read_bytes, n as u64);
                }
                Ok(None) => {}
                Err(error) if have == 0 => return Err(error),
                // What came before it may complete a file.
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        Ok(Some(buf.freeze(have)))
    }
}

/// What became of the bytes that an outer decoder reads.
#[derive(Debug, Default)]
struct RawState {
    /// The decoder asked for more and there was none.
    ended: AtomicBool,
    failed: AtomicBool,
}

/// Passes bytes on and notes how they end.
struct Raw<R> {
    inner: R,
    state: Arc<RawState>,
}

impl<R: AsyncBufRead + Unpin> AsyncRead for Raw<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let bytes = std::task::ready!(self.as_mut().poll_fill_buf(context))?;
        let n = bytes.len().min(buf.remaining());
        buf.put_slice(bytes.get(..n).unwrap_or_default());
        self.consume(n);
        Poll::Ready(Ok(()))
    }
}

impl<R: AsyncBufRead + Unpin> AsyncBufRead for Raw<R> {
    fn poll_fill_buf(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<&[u8]>> {
        let Self { inner, state } = self.get_mut();
        let filled = Pin::new(inner).poll_fill_buf(context);
        match &filled {
            Poll::Ready(Ok([])) => state.ended.store(true, Ordering::Release),
            Poll::Ready(Err(_)) => state.failed.store(true, Ordering::Release),
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
        filled
    }

    fn consume(mut self: Pin<&mut Self>, n: usize) {
        Pin::new(&mut self.inner).consume(n);
    }
}

/// Reads what there is; `None` when a pipe has had nothing for a while, so that the caller can look around.
fn read_stream(file: &File, buf: &mut [u8]) -> Result<Option<usize>> {
    if !file.is_readable_within(POLL_INTERVAL) {
        return Ok(None);
    }
    file.read(buf).map(Some)
}

impl Ranges {
    fn new(source: Arc<dyn ReadAt>) -> Self {
        Self {
            source,
            position: 0,
            window: WINDOW_LEN_MIN,
        }
    }

    /// Reads as much as seems worth it; 0 means the end.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let len = self.window.min(buf.len());
        self.window = self.window.saturating_mul(4).min(buf.len());
        let n = self
            .source
            .read_at(buf.get_mut(..len).unwrap_or_default(), self.position)?;
        self.position = self.position.saturating_add(n as u64);
        if n == 0 {
            self.source.consumed(self.position)?;
        }
        Ok(n)
    }
}

impl OuterReader {
    fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let Some(runtime) = &self.runtime else {
            return Ok(Some(0));
        };
        let decoder = &mut self.decoder;
        let read = runtime
            .block_on(async { tokio::time::timeout(POLL_INTERVAL, decoder.read(buf)).await });
        match read {
            Err(_elapsed) => Ok(None),
            Ok(Ok(n)) => Ok(Some(n)),
            // r[codec.outer.window] What both libraries say.
            Ok(Err(e)) if TOO_MUCH.iter().any(|said| e.to_string().contains(said)) => {
                let what = format!(
                    "the compression around the archive needs more than the {} of memory that it may take:",
                    self.memory
                );
                Err(Error::new(Kind::Failed, what).hint(
                    "use more --memory: what xz -9 makes needs 65M, what zstd --long makes 128M",
                ))
            }
            Ok(Err(e)) => {
                // The decoders have no one error for an early end.
                let ended = self.raw.ended.load(Ordering::Acquire);
                let kind = match e.kind() {
                    _ if self.raw.failed.load(Ordering::Acquire) => Kind::Failed,
                    std::io::ErrorKind::UnexpectedEof => Kind::Incomplete,
                    _ if ended => Kind::Incomplete,
                    _ => Kind::Checksum,
                };
                let what = match kind {
                    Kind::Failed => "cannot read",
                    Kind::Incomplete => "cannot decompress to the end: the input is cut off:",
                    _ => "cannot decompress",
                };
                Err(Error::new(kind, what).source(e))
            }
        }
    }

    fn new(outer: Outer, file: File, head: Vec<u8>, memory: ByteCount) -> Result<Self> {
        let memory = ByteCount(memory.0.max(OUTER_MEMORY_MIN));
        let failed = |e: std::io::Error| Error::io("read", "(the archive)", e);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(failed)?;
        let file = tokio::fs::File::from_std(file.into_std());
        let source = std::io::Cursor::new(head).chain(file);
        let raw = Arc::new(RawState::default());
        let source = Raw {
            inner: BufReader::with_capacity(OUTER_READ_LEN, source),
            state: Arc::clone(&raw),
        };
        // Each of them may be a concatenation: `cat a.gz b.gz` is a legal gzip file, and pzstd and pigz write such.
        macro_rules! many {
            ($decoder:expr) => {{
                let mut decoder = $decoder;
                decoder.multiple_members(true);
                Box::new(decoder)
            }};
        }
        let decoder: Box<dyn AsyncRead + Send + Unpin> = match outer {
            Outer::Gzip => many!(GzipDecoder::new(source)),
            Outer::Zstd => {
                let log = memory.0.ilog2().min(WINDOW_LOG_MAX);
                many!(ZstdDecoder::with_params(
                    source,
                    &[DParameter::window_log_max(log)]
                ))
            }
            Outer::Lz4 => many!(Lz4Decoder::new(source)),
            Outer::Xz => many!(XzDecoder::with_mem_limit(source, memory.0 + XZ_STATE_LEN)),
        };
        Ok(Self {
            decoder,
            memory,
            raw,
            runtime: Some(runtime),
        })
    }
}
