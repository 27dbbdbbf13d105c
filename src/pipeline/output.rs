//! The one writer of a byte stream: a thread that owns the descriptor, fed through a bounded channel.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use rustix::io::Errno;

use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::monitor::{Counters, Monitor};
use crate::base::run::Run;
use crate::pipeline::queue::{self, Found, SLICES_MAX};

/// What pipes are enlarged to; the kernel's default limit for unprivileged users is 1 MiB.
const PIPE_LEN: usize = 1 << 20;

/// How often an idle writer looks whether somebody still reads.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Takes a stream that goes elsewhere than to a descriptor. Dropped without [`ByteSink::commit`], it removes what it has taken.
pub trait ByteSink: Send + std::fmt::Debug {
    /// Takes the next bytes.
    fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// The stream is whole: what was taken may become visible.
    fn commit(self: Box<Self>) -> Result<()>;
}

/// A place that streams can go to.
pub trait OpenSink: Send + Sync + std::fmt::Debug {
    /// Begins to write there.
    fn open(&self, run: &Run) -> Result<Box<dyn ByteSink>>;
}

/// Where a stream goes.
#[derive(Debug)]
pub enum Target {
    /// Elsewhere.
    Sink(Box<dyn ByteSink>),
    /// Standard output.
    Stdout {
        /// Whether it may be a terminal.
        terminal: bool,
    },
    /// A file, written under a temporary name and renamed when it is whole and durable. A FIFO or device that is already
    /// there is written to as it is.
    File(PathBuf),
}

/// Sends byte runs to the writer thread in the order of the calls.
#[derive(Debug)]
pub struct Output {
    queue: queue::Sender,
    finished: Receiver<Result<Finished>>,
    cancel: Cancel,
    /// Disconnected when the writer thread has cleaned up.
    gone: Option<Receiver<()>>,
}

/// How long a run that fails waits for its target to be cleaned up.
const CLEAN_UP_TIME: Duration = Duration::from_secs(8);

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(gone) = self.gone.take() {
            // The thread ends when nobody sends any more.
            self.queue.hang_up();
            // What it has written and nobody takes is cleaned up by whoever drops it.
            drop(self.finished.recv_timeout(CLEAN_UP_TIME));
            gone.recv_timeout(CLEAN_UP_TIME).ok();
        }
    }
}

#[derive(Debug)]
struct Finished {
    end: End,
    bytes: u64,
    rename: Option<(PathBuf, PathBuf)>,
}

/// The end of the line.
#[derive(Debug)]
enum End {
    Fd(OwnedFd),
    Sink(Box<dyn ByteSink>),
}

impl Output {
    /// Opens the target and starts the writer. An existing file is an error.
    pub fn open(target: Target, cancel: &Cancel, monitor: Arc<dyn Monitor>) -> Result<Self> {
        let (fd, name, rename) = match target {
            Target::Sink(sink) => {
                return Self::start(End::Sink(sink), PathBuf::new(), None, cancel, monitor);
            }
            Target::Stdout { terminal } => {
                let fd = dup(rustix::stdio::stdout(), "(standard output)")?;
                if !terminal {
                    refuse_terminal(&fd)?;
                }
                (fd, PathBuf::from("(standard output)"), None)
            }
            Target::File(path) if is_special(&path)? => (open_special(&path, cancel)?, path, None),
            Target::File(path) => {
                if fsx::exists(&path)? {
                    return Err(Error::new(Kind::Failed, "target exists")
                        .path(&path)
                        .hint("choose another name, or remove that file first"));
                }
                let mut partial = path.as_os_str().to_owned();
                partial.push(".xbpipe-partial");
                let partial = PathBuf::from(partial);
                if fsx::exists(&partial)? {
                    // What a dead run left behind is worth nothing: it was never whole.
                    fsx::remove_file(&partial)?;
                }
                let file = fsx::File::create_new(&partial)?;
                (
                    dup(file.as_fd(), "(file)")?,
                    partial.clone(),
                    Some((partial, path)),
                )
            }
        };
        enlarge_pipe(&fd);
        Self::start(End::Fd(fd), name, rename, cancel, monitor)
    }

    fn start(
        end: End,
        name: PathBuf,
        rename: Option<(PathBuf, PathBuf)>,
        cancel: &Cancel,
        monitor: Arc<dyn Monitor>,
    ) -> Result<Self> {
        let (queue, messages) = queue::queue();
        let (done, finished) = bounded(1);
        let (here, gone) = bounded::<()>(0);
        let gone = matches!(end, End::Sink(_)).then_some(gone);
        let run_cancel = cancel.clone();
        // Not joined: a consumer that neither reads nor goes away must not keep an interrupted run from ending.
        std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || {
                let _here = here;
                let result = match end {
                    End::Fd(fd) => write_loop(fd, &name, rename, &messages, monitor.counters()),
                    End::Sink(sink) => feed_loop(sink, &messages, &run_cancel),
                };
                if let Err(error) = &result {
                    run_cancel.fail(error);
                }
                // Nobody waits for the result of a run that was given up.
                done.send(result).ok();
            })
            .map_err(|e| Error::new(Kind::Failed, "cannot start the writer thread").source(e))?;
        Ok(Self {
            queue,
            finished,
            cancel: cancel.clone(),
            gone,
        })
    }

    /// Queues byte runs to be written together, uninterrupted; returns how many bytes of the stream come before them. Waits while
    /// the queue is full.
    pub fn send(&self, runs: Vec<Bytes>) -> Result<u64> {
        self.queue.send(runs, &self.cancel)
    }

    /// Waits until the writer has nothing left to write.
    pub fn settle(&self) -> Result<()> {
        self.queue.settle(&self.cancel)
    }

    /// Waits until everything is written; a file is then synced and gets its name. Returns bytes written. `r[xbstream.writer.durable]`
    pub fn finish(self) -> Result<u64> {
        self.queue.hang_up();
        let finished = loop {
            match self.finished.recv_timeout(POLL_INTERVAL) {
                Ok(result) => break result?,
                Err(RecvTimeoutError::Timeout) => self.cancel.check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(Kind::Failed, "the writer thread panicked"));
                }
            }
        };
        let fd = match finished.end {
            End::Fd(fd) => fd,
            End::Sink(sink) => {
                self.cancel.check()?;
                sink.commit()?;
                return Ok(finished.bytes);
            }
        };
        if let Some((partial, path)) = &finished.rename {
            rustix::fs::fsync(&fd).map_err(|e| Error::io("sync", partial, e))?;
            self.cancel.check()?;
            fsx::rename(partial, path)?;
            if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                fsx::sync_dir(parent)?;
            }
        }
        Ok(finished.bytes)
    }
}

/// Whether something that is neither file nor directory has that name.
fn is_special(path: &Path) -> Result<bool> {
    const TYPES: [u32; 4] = [0o010_000, 0o020_000, 0o060_000, 0o140_000];
    Ok(fsx::exists(path)? && fsx::stat(path).is_ok_and(|s| TYPES.contains(&(s.mode & 0o170_000))))
}

/// Opens a FIFO once somebody reads it, or a device.
fn open_special(path: &Path, cancel: &Cancel) -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    loop {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => {
                // Only the opening must not block: the writer thread may wait.
                rustix::fs::fcntl_setfl(&fd, OFlags::empty())
                    .map_err(|e| Error::io("set up", path, e))?;
                return Ok(fd);
            }
            Err(Errno::NXIO) => cancel.sleep(POLL_INTERVAL)?,
            Err(e) => return Err(Error::io("open", path, e)),
        }
    }
}

fn dup(fd: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|e| Error::io("duplicate", name, e))
}

/// An archive on a terminal helps nobody and may upset it.
fn refuse_terminal(fd: &OwnedFd) -> Result<()> {
    if rustix::termios::isatty(fd) {
        return Err(
            Error::new(Kind::Usage, "refusing to write an archive to a terminal")
                .hint("redirect standard output to a file or a pipe, or name a target with --to"),
        );
    }
    Ok(())
}

/// A larger pipe means fewer switches between the two ends. Whatever the kernel grants is fine.
pub fn enlarge_pipe(fd: impl AsFd) {
    if rustix::pipe::fcntl_getpipe_size(&fd).is_ok_and(|len| len < PIPE_LEN) {
        rustix::pipe::fcntl_setpipe_size(&fd, PIPE_LEN).ok();
    }
}

fn write_loop(
    fd: OwnedFd,
    name: &Path,
    rename: Option<(PathBuf, PathBuf)>,
    messages: &queue::Receiver,
    counters: &Counters,
) -> Result<Finished> {
    let mut bytes = 0;
    let mut batch: Vec<Bytes> = Vec::with_capacity(SLICES_MAX);
    loop {
        match messages.take(&mut batch, IDLE_POLL_INTERVAL) {
            Found::Bytes => {}
            Found::NothingYet if reader_is_gone(&fd) => return Err(gone(name, bytes)),
            Found::NothingYet => continue,
            Found::End => {
                let end = End::Fd(fd);
                return Ok(Finished { end, bytes, rename });
            }
        }
        bytes += write_all(&fd, name, &mut batch, bytes, counters)?;
    }
}

fn feed_loop(
    mut sink: Box<dyn ByteSink>,
    messages: &queue::Receiver,
    cancel: &Cancel,
) -> Result<Finished> {
    let mut bytes = 0;
    let mut batch: Vec<Bytes> = Vec::with_capacity(SLICES_MAX);
    loop {
        match messages.take(&mut batch, IDLE_POLL_INTERVAL) {
            Found::Bytes => {}
            Found::NothingYet => continue,
            Found::End => {
                return Ok(Finished {
                    end: End::Sink(sink),
                    bytes,
                    rename: None,
                });
            }
        }
        for piece in batch.drain(..) {
            bytes += piece.len() as u64;
            // Everybody hears of the cause before the sink takes its time to clean up.
            sink.write(piece).inspect_err(|error| cancel.fail(error))?;
        }
    }
}

fn gone(name: &Path, position: u64) -> Error {
    Error::new(
        Kind::Failed,
        "the reader went away before it had everything:",
    )
    .path(name)
    .at(position)
    .hint("look at the messages and the exit status of the program behind the pipe")
}

/// Whether the other end of a pipe or socket was closed: known at once, even while there is nothing to write.
fn reader_is_gone(fd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0) && fds[0].revents().contains(PollFlags::ERR)
}

/// Writes and empties `batch`; each buffer goes back to its pool as soon as its last byte is out.
fn write_all(
    fd: &OwnedFd,
    name: &Path,
    batch: &mut Vec<Bytes>,
    position: u64,
    counters: &Counters,
) -> Result<u64> {
    let mut done = 0;
    let mut first = 0;
    while first < batch.len() {
        let slices: Vec<IoSlice<'_>> = batch[first..]
            .iter()
            .take(SLICES_MAX)
            .map(|b| IoSlice::new(b))
            .collect();
        let mut n = match rustix::io::writev(fd, &slices) {
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {
                wait_writable(fd, name)?;
                continue;
            }
            Err(Errno::PIPE) => return Err(gone(name, position + done)),
            Err(e) => return Err(Error::io("write", name, e).at(position + done)),
        };
        done += n as u64;
        Counters::add(&counters.written_bytes, n as u64);
        while first < batch.len() && n >= batch[first].len() {
            n -= batch[first].len();
            batch[first] = Bytes::new();
            first += 1;
        }
        if n > 0 {
            batch[first].advance(n);
        }
    }
    batch.clear();
    Ok(done)
}

/// Somebody gave us a non-blocking descriptor (an ssh channel does): wait instead of spinning.
fn wait_writable(fd: &OwnedFd, name: &Path) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(fd, PollFlags::OUT)];
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(Error::io("wait for", name, e)),
    }
}
