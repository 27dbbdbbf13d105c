//! The codec pool: threads that do nothing but encode and decode, and how a file's pieces pass through them in order.

use std::collections::VecDeque;
use std::path::Path;
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::pool::{Buf, BufPool};
use crate::codec::{CodecError, Content, ContentEnd, Contexts, Fault};
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

    /// Hands a job to the pool; what it makes, at most so many messages, comes out of the channel.
    fn submit(
        &self,
        messages: usize,
        job: impl FnOnce(&mut Contexts, &Sender<Made>) + Send + 'static,
    ) -> Result<Receiver<Made>> {
        let gone = || Error::new(Kind::Failed, "the codec threads are gone");
        let (reply, result) = bounded(messages);
        let job: Job = Box::new(move |contexts| job(contexts, &reply));
        self.jobs
            .as_ref()
            .ok_or_else(gone)?
            .send(job)
            .map_err(|_| gone())?;
        Ok(result)
    }
}

/// What a job makes. Nobody waits for it any more once its file was given up, so that it cannot be sent is no error.
enum Made {
    /// More will follow.
    Part(Bytes),
    /// The last of it, or why there is no more.
    Last(Result<Bytes>),
    /// The job found no buffer for the rest.
    Rest(Rest),
}

/// Makes the next bytes: fills a buffer and says how far, and whether that was all. A job that was begun by a codec thread is done
/// to its end by whoever waits for it if there are no buffers: that one may use a spare one.
pub(super) type Rest = Box<dyn FnMut(&mut [u8]) -> Result<(usize, bool)> + Send>;

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
        let result = (self.workers).submit(1, move |contexts, reply| {
            reply.send(Made::Last(job(contexts, buf))).ok();
        })?;
        let frame = file.frame.take();
        file.queue.push_back(Queued::Job(frame, result));
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

    /// Whether there are buffers for results that wait for their turn.
    pub(super) fn has_output(&self) -> bool {
        self.output.is_some()
    }

    /// Sends a job of `file` through the codec threads that makes as many buffers as there are, one after another.
    pub(super) fn run_parts(&self, file: &mut InOrder<'_>, mut make: Rest) -> Result<()> {
        self.make_room(file)?;
        let Some(output) = self.output.clone() else {
            let failed = "no buffers for a job of several parts";
            return Err(Error::new(Kind::Failed, failed));
        };
        let bufs = Bufs {
            output: output.clone(),
            spare: self.spare.clone(),
            cancel: self.cancel.clone(),
        };
        // All buffers may become parts, and one message is the last.
        let messages = output.count() + 1;
        let result = self.workers.submit(messages, move |_, reply| {
            for _ in 1..messages {
                let Some(mut buf) = output.try_get() else {
                    break;
                };
                let last = match make(&mut buf) {
                    Ok((n, false)) => match reply.send(Made::Part(buf.freeze(n))) {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    Ok((n, true)) => Ok(buf.freeze(n)),
                    Err(error) => Err(error),
                };
                // What it holds is given back before anybody hears that it is done.
                drop(make);
                reply.send(Made::Last(last)).ok();
                return;
            }
            reply.send(Made::Rest(make)).ok();
        })?;
        let frame = file.frame.take();
        file.queue.push_back(Queued::Parts(frame, result, bufs));
        Ok(())
    }

    fn make_room(&self, file: &mut InOrder<'_>) -> Result<()> {
        while file.queue.len() >= self.workers.threads.len() * 2 {
            file.write_oldest()?;
        }
        Ok(())
    }

    /// An output buffer, and whether it is a spare one.
    fn buffer(&self, file: &mut InOrder<'_>) -> Result<(Buf, bool)> {
        self.make_room(file)?;
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

/// What stands in the way of a file, in its order.
enum Queued {
    /// A job, and where the content of the independent frame that it makes begins.
    Job(Option<u64>, Receiver<Made>),
    /// The same of several parts, and where whoever goes on with it takes buffers from.
    Parts(Option<u64>, Receiver<Made>, Bufs),
    Begin(Content),
    End(ContentEnd, Refuse),
}

/// The buffers of a stage.
struct Bufs {
    output: BufPool,
    spare: BufPool,
    cancel: Cancel,
}

/// Tells what content that is not as it should be means for its file.
type Refuse = Box<dyn FnOnce(CodecError) -> Error + Send>;

/// One file on its way: results of its jobs, in the order in which they were handed in, and where they go.
pub(super) struct InOrder<'s> {
    pub(super) inner: Box<dyn FileSink + 's>,
    queue: VecDeque<Queued>,
    /// The next job makes an independent frame, whose content begins here in the file.
    frame: Option<u64>,
    written: u64,
    /// What passes is counted.
    content: Option<Content>,
}

impl<'s> InOrder<'s> {
    pub(super) fn new(inner: Box<dyn FileSink + 's>) -> Self {
        Self {
            inner,
            queue: VecDeque::new(),
            frame: None,
            written: 0,
            content: None,
        }
    }

    /// Passes the oldest result on, however long that takes; `false` when there is none.
    pub(super) fn write_oldest(&mut self) -> Result<bool> {
        let Some(oldest) = self.queue.pop_front() else {
            return Ok(false);
        };
        match oldest {
            Queued::Job(frame, result) => {
                self.frame_at(frame)?;
                self.take(&result, None)
            }
            Queued::Parts(frame, result, bufs) => {
                self.frame_at(frame)?;
                self.take(&result, Some(bufs))
            }
            Queued::Begin(content) => {
                self.content = Some(content);
                Ok(true)
            }
            Queued::End(end, refuse) => {
                let content = self.content.take();
                let checked = content.map_or(Ok(()), |content| end.check(&content));
                checked.map(|()| true).map_err(refuse)
            }
        }
    }

    fn frame_at(&mut self, frame: Option<u64>) -> Result<()> {
        match frame {
            Some(plain) => self.inner.frame(plain),
            None => Ok(()),
        }
    }

    /// Passes on all that one job makes.
    fn take(&mut self, result: &Receiver<Made>, bufs: Option<Bufs>) -> Result<bool> {
        loop {
            match (result.recv(), &bufs) {
                (Ok(Made::Part(part)), _) => self.write(part)?,
                (Ok(Made::Last(last)), _) => {
                    self.write(last?)?;
                    return Ok(true);
                }
                (Ok(Made::Rest(rest)), Some(bufs)) => {
                    self.go_on(rest, bufs)?;
                    return Ok(true);
                }
                (Ok(Made::Rest(_)) | Err(_), _) => return Err(panicked()),
            }
        }
    }

    /// Does the rest of a job that found no buffers.
    fn go_on(&mut self, mut make: Rest, bufs: &Bufs) -> Result<()> {
        loop {
            let (mut buf, spare) = match bufs.output.try_get() {
                Some(buf) => (buf, false),
                None => {
                    self.inner.flush()?;
                    match bufs.output.try_get() {
                        Some(buf) => (buf, false),
                        None => (bufs.spare.get(&bufs.cancel)?, true),
                    }
                }
            };
            let (n, ended) = make(&mut buf)?;
            self.write(buf.freeze(n))?;
            if spare {
                self.inner.flush()?;
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// What comes from the next jobs is counted as `content`.
    pub(super) fn content_begins(&mut self, content: Content) {
        self.queue.push_back(Queued::Begin(content));
    }

    /// What was counted must be this.
    pub(super) fn content_ends(
        &mut self,
        end: ContentEnd,
        refuse: impl FnOnce(CodecError) -> Error + Send + 'static,
    ) {
        self.queue.push_back(Queued::End(end, Box::new(refuse)));
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
        if let Some(content) = &mut self.content {
            content.update(&bytes);
        }
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

fn panicked() -> Error {
    Error::new(
        Kind::Failed,
        "a codec thread panicked while it worked on this file",
    )
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
