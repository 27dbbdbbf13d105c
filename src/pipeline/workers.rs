//! The codec pool: threads that do nothing but encode and decode, and how a file's pieces pass through them in order.

use std::collections::VecDeque;
use std::path::Path;
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::pool::{Buf, BufPool};
use crate::codec::{CodecError, Contexts, Fault};
use crate::pipeline::budget::StageBudget;
use crate::pipeline::sink::FileSink;

type Job = Box<dyn FnOnce(&mut Contexts) + Send>;

/// A fixed number of codec threads. They end when the pool is dropped. A job never waits for anything.
#[derive(Debug)]
pub struct Workers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` (at least one) threads.
    pub fn start(count: usize) -> Result<Self> {
        let count = count.max(1);
        let (jobs, queue) = bounded::<Job>(count * 2);
        let mut threads = Vec::with_capacity(count);
        for _ in 0..count {
            let queue: Receiver<Job> = queue.clone();
            let thread = std::thread::Builder::new()
                .name("codec".to_owned())
                .spawn(move || {
                    let mut contexts = Contexts::default();
                    for job in queue {
                        job(&mut contexts);
                    }
                })
                .map_err(|e| Error::new(Kind::Failed, "cannot start a codec thread").source(e))?;
            threads.push(thread);
        }
        Ok(Self {
            jobs: Some(jobs),
            threads,
        })
    }

    /// Hands a job to the pool; its result comes out of the channel.
    fn submit(
        &self,
        job: impl FnOnce(&mut Contexts) -> Result<Bytes> + Send + 'static,
    ) -> Result<Receiver<Result<Bytes>>> {
        let gone = || Error::new(Kind::Failed, "the codec threads are gone");
        let (reply, result) = bounded(1);
        let job: Job = Box::new(move |contexts| {
            // Nobody waits for the result any more once its file was given up.
            reply.send(job(contexts)).ok();
        });
        self.jobs
            .as_ref()
            .ok_or_else(gone)?
            .send(job)
            .map_err(|_| gone())?;
        Ok(result)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic in a codec thread already reached its file as a lost result.
            thread.join().ok();
        }
    }
}

/// One transform of a run: the codec threads, and the buffers for what they make.
///
/// Two transforms in a row are two stages with buffers of their own: see the invariant in [`crate::base::pool`].
#[derive(Debug)]
pub struct Stage<'a> {
    workers: &'a Workers,
    output: Option<BufPool>,
    /// Lent only to whoever gives it back before doing anything else. So nobody waits for ever, however many files hold
    /// results back that the thread which is to take them cannot turn to now.
    spare: BufPool,
    cancel: Cancel,
}

impl<'a> Stage<'a> {
    /// A stage on `workers`.
    #[must_use]
    pub fn new(workers: &'a Workers, budget: StageBudget, cancel: &Cancel) -> Self {
        Self {
            workers,
            output: (budget.bufs > 0).then(|| BufPool::new(budget.bufs, budget.buf_len)),
            spare: BufPool::new(budget.spare_bufs, budget.buf_len),
            cancel: cancel.clone(),
        }
    }

    /// Bytes of an output buffer.
    #[must_use]
    pub fn buf_len(&self) -> usize {
        self.spare.buf_size()
    }

    /// Sends a job of `file` through the codec threads; what it makes goes to `file.inner` in the order of the calls.
    pub(super) fn run(
        &self,
        file: &mut InOrder<'_>,
        job: impl FnOnce(&mut Contexts, Buf) -> Result<Bytes> + Send + 'static,
    ) -> Result<()> {
        let (buf, spare) = self.buffer(file)?;
        let result = self.workers.submit(move |contexts| job(contexts, buf))?;
        file.results.push_back((file.frame.take(), result));
        if spare { file.flush() } else { Ok(()) }
    }

    /// Has this thread make the next bytes of `file`: `make` fills a buffer and says how far.
    pub(super) fn run_here(
        &self,
        file: &mut InOrder<'_>,
        make: impl FnOnce(&mut [u8]) -> Result<usize>,
    ) -> Result<()> {
        file.drain()?;
        let (mut buf, spare) = self.buffer(file)?;
        let n = make(&mut buf)?;
        if n > 0 {
            file.write(buf.freeze(n))?;
        }
        if spare { file.flush() } else { Ok(()) }
    }

    /// An output buffer, and whether it is a spare one.
    fn buffer(&self, file: &mut InOrder<'_>) -> Result<(Buf, bool)> {
        while file.results.len() >= self.workers.threads.len() * 2 {
            file.write_oldest()?;
        }
        let shared = || self.output.as_ref().and_then(BufPool::try_get);
        loop {
            if let Some(buf) = shared() {
                return Ok((buf, false));
            }
            if !file.write_oldest()? {
                file.inner.flush()?;
                return match shared() {
                    Some(buf) => Ok((buf, false)),
                    None => Ok((self.spare.get(&self.cancel)?, true)),
                };
            }
        }
    }
}

/// One file on its way: results of its jobs, in the order in which they were handed in, and where they go.
pub(super) struct InOrder<'s> {
    pub(super) inner: Box<dyn FileSink + 's>,
    results: VecDeque<(Option<u64>, Receiver<Result<Bytes>>)>,
    /// The next job makes an independent frame, whose content begins here in the file.
    frame: Option<u64>,
    written: u64,
}

impl<'s> InOrder<'s> {
    pub(super) fn new(inner: Box<dyn FileSink + 's>) -> Self {
        Self {
            inner,
            results: VecDeque::new(),
            frame: None,
            written: 0,
        }
    }

    /// Passes the oldest result on; `false` when there is none.
    fn write_oldest(&mut self) -> Result<bool> {
        let Some((frame, result)) = self.results.pop_front() else {
            return Ok(false);
        };
        if let Some(plain) = frame {
            self.inner.frame(plain)?;
        }
        let bytes = result.recv().unwrap_or_else(|_| {
            Err(Error::new(
                Kind::Failed,
                "a codec thread panicked while it worked on this file",
            ))
        })?;
        self.write(bytes)?;
        Ok(true)
    }

    /// What the next job makes is an independent frame, whose content begins at `plain` in the file.
    pub(super) fn frame_begins(&mut self, plain: u64) {
        self.frame = Some(plain);
    }

    /// Passes all results on.
    pub(super) fn drain(&mut self) -> Result<()> {
        while self.write_oldest()? {}
        Ok(())
    }

    /// Passes all results on, and has the inner sink let go of them.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.drain()?;
        self.inner.flush()
    }

    /// Bytes that are ready, behind all results that were passed on.
    pub(super) fn write(&mut self, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        if len > 0 {
            self.inner.data(self.written, bytes)?;
        }
        self.written += len;
        Ok(())
    }

    /// The file is whole.
    pub(super) fn close(mut self) -> Result<()> {
        self.drain()?;
        self.inner.close()
    }
}

/// Folds an error of a codec about `path`; `base` is where its unit begins in the encoded file.
pub(super) fn codec_error(what: &str, path: &Path, base: u64, cause: CodecError) -> Error {
    let kind = match cause.fault() {
        Fault::Damage => Kind::Checksum,
        Fault::Cut => Kind::Incomplete,
        Fault::Refused => Kind::Failed,
    };
    let hint = cause.hint_text().map(ToOwned::to_owned);
    let error = Error::new(kind, what)
        .path(path)
        .at(base.saturating_add(cause.offset()))
        .source(cause);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
