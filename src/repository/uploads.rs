//! Objects on their way into a store: several threads send parts, and what is begun is finished or removed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::monitor::{Counters, Monitor};
use crate::base::pool::{Buf, BufPool};
use crate::base::run::Run;
use crate::repository::manifest::Stored;
use crate::store::{self, Object, Part, Shared, Upload, whole_crc, whole_len};

/// An object that is being written.
#[derive(Debug, Default)]
struct Pending {
    key: String,
    upload: Option<Upload>,
    /// Those that the store has.
    parts: Vec<Part>,
    /// Parts that were handed over so far.
    sent: usize,
    /// No more will come.
    closed: bool,
    done: Option<Stored>,
}

type Shelf = Arc<Mutex<Pending>>;

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a thread does next.
struct Job {
    object: Shelf,
    part: Part,
    body: Bytes,
}

/// Hears of every object that is there: its key and its bytes.
pub(super) type Told = Arc<dyn Fn(&str, u64) + Send + Sync>;

/// The threads that send.
pub(super) struct Uploads {
    store: Shared,
    run: Run,
    queue: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    failed: Arc<Mutex<Option<Error>>>,
    objects: Mutex<Vec<Shelf>>,
    /// Objects that are there are looked after by somebody else.
    each: bool,
    committed: bool,
}

impl std::fmt::Debug for Uploads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uploads")
            .field("store", &self.store)
            .field("objects", &self.objects)
            .finish_non_exhaustive()
    }
}

impl Uploads {
    /// Starts `threads` of them. All objects belong together: without [`Uploads::keep`] they are removed in the end.
    pub(super) fn start(store: Shared, threads: usize, run: &Run) -> Result<Self> {
        Self::begin(store, threads, None, run)
    }

    /// The same where whoever is `told` that an object is there looks after it from then on.
    pub(super) fn start_each(store: Shared, threads: usize, told: Told, run: &Run) -> Result<Self> {
        Self::begin(store, threads, Some(told), run)
    }

    fn begin(store: Shared, threads: usize, told: Option<Told>, run: &Run) -> Result<Self> {
        // What waits is in a pooled buffer, of which there are as many as threads and one.
        let (queue, jobs) = bounded(0);
        let failed = Arc::new(Mutex::new(None));
        let mut uploads = Self {
            store: Arc::clone(&store),
            run: run.clone(),
            queue: Some(queue),
            threads: Vec::with_capacity(threads),
            failed: Arc::clone(&failed),
            objects: Mutex::default(),
            each: told.is_some(),
            committed: false,
        };
        for _ in 0..threads.max(1) {
            let worker = Worker {
                store: Arc::clone(&store),
                told: told.clone(),
                failed: Arc::clone(&failed),
                cancel: run.cancel.clone(),
                monitor: Arc::clone(&run.monitor),
            };
            let jobs = jobs.clone();
            let thread = std::thread::Builder::new()
                .name("upload".to_owned())
                .spawn(move || worker.run(&jobs))
                .map_err(|e| Error::new(Kind::Failed, "cannot start an upload thread").source(e))?;
            uploads.threads.push(thread);
        }
        Ok(uploads)
    }

    fn objects(&self) -> MutexGuard<'_, Vec<Shelf>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, object: &Shelf) {
        let mut objects = self.objects();
        // Twice as many as can be under way, so that looking through them costs little.
        if self.each && objects.len() >= 2 * (self.threads.len() + 2) {
            objects.retain(|object| lock(object).done.is_none());
        }
        objects.push(Arc::clone(object));
    }

    fn send(&self, object: &Shelf, part: Part, body: Bytes) -> Result<()> {
        self.check()?;
        let job = Job {
            object: Arc::clone(object),
            part,
            body,
        };
        let sent = self.queue.as_ref().map(|queue| queue.send(job));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => {
                self.check()?;
                Err(Error::new(Kind::Failed, "the upload threads are gone"))
            }
        }
    }

    /// The first failure of any thread.
    fn check(&self) -> Result<()> {
        let failed = self
            .failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match failed {
            Some(error) => Err(error),
            None => self.run.cancel.check(),
        }
    }

    /// Waits until everything is there.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                return Err(Error::new(Kind::Failed, "an upload thread panicked"));
            }
        }
        self.check()
    }

    /// What is there may stay: something refers to it now.
    pub(super) fn keep(&mut self) {
        self.committed = true;
    }
}

impl Drop for Uploads {
    /// Removes what was sent, unless it is kept. Errors are no news: something else failed before, and `gc` finds the rest.
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        // Whoever still sends or waits to try again need not.
        self.run
            .cancel
            .cancel(Kind::Failed, "the backup was given up");
        self.settle().ok();
        let mut there = Vec::new();
        for object in self.objects().iter() {
            let pending = lock(object);
            match (&pending.done, &pending.upload) {
                (None, Some(upload)) => drop(self.store.abort(upload)),
                // A complete one, or a single put, or one whose completion is in doubt.
                _ => there.push(pending.key.clone()),
            }
            // An abort may come too late.
            if pending.done.is_none() && pending.upload.is_some() && pending.closed {
                there.push(pending.key.clone());
            }
        }
        if self.each {
            return;
        }
        for batch in there.chunks(store::KEYS_MAX) {
            self.store.discard(batch).ok();
        }
    }
}

struct Worker {
    store: Shared,
    told: Option<Told>,
    failed: Arc<Mutex<Option<Error>>>,
    cancel: Cancel,
    monitor: Arc<dyn Monitor>,
}

impl Worker {
    fn run(&self, jobs: &Receiver<Job>) {
        for job in jobs {
            if self.cancel.is_cancelled() {
                continue;
            }
            if let Err(error) = self.work(job) {
                self.cancel.fail(&error);
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
            }
        }
    }

    fn work(&self, job: Job) -> Result<()> {
        let Job { object, part, body } = job;
        let len = body.len() as u64;
        let (upload, key) = {
            let pending = lock(&object);
            (pending.upload.clone(), pending.key.clone())
        };
        let Some(upload) = upload else {
            // All of it in one piece.
            let put = self.store.put(&key, body, false)?;
            Counters::add(&self.monitor.counters().written_bytes, len);
            lock(&object).done = Some(stored(&put, len, part.crc32));
            self.tell(&key, len);
            return Ok(());
        };
        let part = self.store.put_part(&upload, &part, body)?;
        Counters::add(&self.monitor.counters().written_bytes, len);
        let complete = {
            let mut pending = lock(&object);
            pending.parts.push(part);
            (pending.closed && pending.parts.len() == pending.sent).then(|| {
                let mut parts = pending.parts.clone();
                parts.sort_by_key(|p| p.number);
                parts
            })
        };
        match complete {
            Some(parts) => {
                complete_upload(self.store.as_ref(), &object, &upload, &parts)?;
                self.tell(&key, whole_len(&parts));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn tell(&self, key: &str, len: u64) {
        if let Some(told) = &self.told {
            told(key, len);
        }
    }
}

fn stored(object: &Object, len: u64, crc32: u32) -> Stored {
    Stored {
        len,
        crc32: format!("{crc32:08x}"),
        etag: object.etag.clone(),
    }
}

fn complete_upload(
    store: &dyn store::Store,
    object: &Mutex<Pending>,
    upload: &Upload,
    parts: &[Part],
) -> Result<()> {
    let done = store.complete(upload, parts)?;
    let mut pending = lock(object);
    pending.done = Some(stored(&done, whole_len(parts), whole_crc(parts)));
    // There may be many objects, and nobody asks for their parts again.
    pending.parts = Vec::new();
    drop(pending);
    Ok(store.keep(&upload.key)?)
}

/// One object that is written from front to back.
#[derive(Debug)]
pub(super) struct ObjectWriter {
    object: Shelf,
    buf: Option<Buf>,
    filled: usize,
    /// Bytes of the parts that were handed over.
    offset: u64,
}

impl ObjectWriter {
    /// Begins the object `key`. Nothing is sent before there is a full part.
    pub(super) fn begin(uploads: &Uploads, key: String) -> Self {
        let object = Arc::new(Mutex::new(Pending {
            key,
            ..Pending::default()
        }));
        uploads.add(&object);
        Self {
            object,
            buf: None,
            filled: 0,
            offset: 0,
        }
    }

    /// Appends; `sent` hears of the CRC of every part that is full.
    pub(super) fn write(
        &mut self,
        mut bytes: &[u8],
        pool: &BufPool,
        uploads: &Uploads,
        sent: &mut dyn FnMut(u32),
    ) -> Result<()> {
        while !bytes.is_empty() {
            if self.filled == pool.buf_size() {
                sent(self.send(uploads, false)?);
            }
            let buf = match &mut self.buf {
                Some(buf) => buf,
                none => none.insert(pool.get(&uploads.run.cancel)?),
            };
            let room = buf.get_mut(self.filled..).unwrap_or_default();
            let n = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(n);
            if let Some(room) = room.get_mut(..n) {
                room.copy_from_slice(now);
            }
            self.filled += n;
            bytes = later;
        }
        Ok(())
    }

    /// Hands the filled buffer over; returns its CRC.
    fn send(&mut self, uploads: &Uploads, last: bool) -> Result<u32> {
        let body = match self.buf.take() {
            Some(buf) => buf.freeze(self.filled),
            None => Bytes::new(),
        };
        self.filled = 0;
        let crc32 = crc32fast::hash(&body);
        let mut pending = lock(&self.object);
        let number = u32::try_from(pending.sent + 1).unwrap_or(u32::MAX);
        if number > store::PARTS_MAX {
            return Err(Error::new(Kind::Failed, "an object has too many parts").path(&pending.key));
        }
        let single = last && number == 1;
        if pending.upload.is_none() && !single {
            let key = pending.key.clone();
            drop(pending);
            let upload = uploads.store.create_upload(&key)?;
            pending = lock(&self.object);
            pending.upload = Some(upload);
        }
        pending.sent += 1;
        pending.closed = last;
        drop(pending);
        let part = Part {
            number,
            offset: self.offset,
            len: body.len() as u64,
            crc32,
            etag: String::new(),
        };
        self.offset += part.len;
        uploads.send(&self.object, part, body)?;
        Ok(crc32)
    }

    /// Sends the rest. The object is complete when the threads have settled; what it is then is in the answer.
    pub(super) fn close(mut self, uploads: &Uploads, sent: &mut dyn FnMut(u32)) -> Result<Closed> {
        sent(self.send(uploads, true)?);
        Ok(Closed(self.object))
    }
}

/// An object of which everything was handed over.
#[derive(Debug)]
pub(super) struct Closed(Shelf);

impl Closed {
    /// What the store made of it.
    pub(super) fn stored(&self) -> Result<Stored> {
        let pending = lock(&self.0);
        pending.done.clone().ok_or_else(|| {
            Error::new(Kind::Failed, "an object was not completed").path(&pending.key)
        })
    }
}
