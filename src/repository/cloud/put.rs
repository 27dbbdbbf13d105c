//! `put`: an archive cut into its chunks, each an object, checked to its last byte on the way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};
use md5::{Digest as _, Md5};

use super::digests;
use super::layout::{chunk_key, chunk_name, digests_key, is_marker, parse, prefix};
use super::{CLOUD_BUF_LEN, KEPT_BACK_LEN_MAX};
use crate::base::error::{Error, Kind, Result};
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::pipeline::budget::{Budget, MEMORY_MIN};
use crate::pipeline::demux::{self, DemuxOptions, Outcome};
use crate::pipeline::input::Input;
use crate::pipeline::sink::NullSink;
use crate::repository::uploads::{ObjectWriter, Told, Uploads};
use crate::store::{self, PART_LEN_MIN, Shared};
use crate::xbstream::index::INDEX_PATH;
use crate::xbstream::{
    ArchivePath, Body, ChunkHead, CrcCheck, DecodeError, Decoder, Event, FLAG_REWRITE, Options,
};

/// Buffers between reading and storing.
const TAP_LEN: usize = 4;

/// Bytes of a part of the list of digests.
const DIGESTS_PART_LEN: usize = 5 << 20;

const _: () = assert!(DIGESTS_PART_LEN as u64 >= PART_LEN_MIN);
const _: () = assert!(CLOUD_BUF_LEN as u64 >= PART_LEN_MIN);

/// How to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutOptions {
    /// Chunks in flight.
    pub parallel: usize,
    /// Store a list of digests, too.
    pub md5: bool,
}

/// What was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// It has one of the files that are written last. If not, it is not a whole backup, yet everything that came is there.
    pub marked: bool,
    /// Objects, without the list of digests.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Fails if there is anything of a backup of that name. `r[cloud-layout.put.new]`
pub fn must_be_new(store: &Shared, name: &str) -> Result<()> {
    let page = store.list(&prefix(name), false, None)?;
    if page.objects.is_empty() {
        return Ok(());
    }
    let what = format!("backup named {name} already exists!");
    Err(Error::new(Kind::Store, what).hint("remove it with xbcloud delete, or give another name"))
}

/// Objects of a failed upload that are removed at once: each batch has a time limit of its own, a short one in a run that was ended.
const REMOVED_AT_ONCE: usize = 50;

/// Stores the archive that comes from `inputs` as the backup `name`, which must be new. Several inputs are one archive that was
/// dealt out file by file. Unless it is whole, what was sent is removed. `told` hears of every object.
pub fn put(
    store: &Shared,
    name: &str,
    inputs: Vec<Input>,
    options: PutOptions,
    told: Told,
    run: &Run,
) -> Result<Stored> {
    let uploads = Uploads::start_each(
        Shared::clone(store),
        options.parallel,
        Told::clone(&told),
        run,
    )?;
    let digests = options
        .md5
        .then(|| ObjectWriter::begin(&uploads, digests_key(name)));
    let mut putting = Putting {
        store: Shared::clone(store),
        name: name.to_owned(),
        // One fills for each input. r[cloud-layout.memory]
        pool: BufPool::new(options.parallel + inputs.len() + 1, CLOUD_BUF_LEN),
        digests_pool: BufPool::new(2, DIGESTS_PART_LEN),
        uploads,
        state: Mutex::new(State {
            digests,
            ..State::default()
        }),
        dealt: inputs.len() > 1,
        run: run.clone(),
    };
    let stored = putting
        .take_all(inputs)
        .and_then(|()| putting.finish(&told));
    stored.inspect_err(|error| putting.remove(error))
}

/// What is known of the archive so far.
#[derive(Debug, Default)]
struct State {
    /// How many chunks each file has.
    files: HashMap<ArchivePath, u64>,
    objects: u64,
    bytes: u64,
    marked: bool,
    /// Chunks that are stored when everything else is.
    kept_back: Vec<(String, Vec<u8>)>,
    kept_back_len: usize,
    digests: Option<ObjectWriter>,
}

struct Putting {
    store: Shared,
    name: String,
    pool: BufPool,
    digests_pool: BufPool,
    uploads: Uploads,
    state: Mutex<State>,
    /// There are several inputs, some of which may be empty.
    dealt: bool,
    run: Run,
}

impl Putting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All inputs at the same time: the writer of one may wait for the reader of another.
    fn take_all(&self, inputs: Vec<Input>) -> Result<()> {
        let outcomes = std::thread::scope(|scope| {
            let mut threads = Vec::with_capacity(inputs.len());
            for input in inputs {
                let thread = std::thread::Builder::new()
                    .name("read".to_owned())
                    .spawn_scoped(scope, move || {
                        let taken = self.take(input);
                        // The others would wait for what this one does not read.
                        taken.inspect_err(|error| {
                            if self.dealt {
                                self.run.cancel.fail(error);
                            }
                        })
                    });
                match thread {
                    Ok(thread) => threads.push(thread),
                    Err(e) => {
                        let error = Error::new(Kind::Failed, "cannot start a thread").source(e);
                        self.run.cancel.fail(&error);
                        return Err(error);
                    }
                }
            }
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Outcome>>| {
                let panicked = |_| Err(Error::new(Kind::Failed, "a reading thread panicked"));
                thread.join().unwrap_or_else(panicked)
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        });
        // r[cloud-layout.put.fifo]
        match outcomes?.iter().all(|outcome| outcome.archive_bytes == 0) {
            true if self.dealt => Err(Error::new(Kind::Incomplete, "all streams are empty")),
            _ => Ok(()),
        }
    }

    /// Takes one input, and checks it as `verify` does. r[cloud-layout.put.whole]
    fn take(&self, mut input: Input) -> Result<Outcome> {
        let budget = Budget::plain(ByteCount(MEMORY_MIN), 2)?;
        let options = DemuxOptions {
            lanes: budget.lanes,
            lane_bufs: (1, budget.input_buf_len),
            structure_only: false,
            lone_chunk: None,
            keep_going: false,
        };
        let (tap, taken) = bounded(TAP_LEN);
        input.tap(tap);
        let run = &self.run;
        let (outcome, stored) = std::thread::scope(|scope| {
            let storing = std::thread::Builder::new()
                .name("store".to_owned())
                .spawn_scoped(scope, move || {
                    // The tap ends with this: nobody waits for a thread that has failed.
                    let taken = taken;
                    let stored = Cutter::new(self).take(&taken);
                    stored.inspect_err(|error| run.cancel.fail(error))
                });
            let storing = match storing {
                Ok(storing) => storing,
                Err(e) => {
                    let error = Error::new(Kind::Failed, "cannot start a thread").source(e);
                    return (Err(error), Ok(None));
                }
            };
            let outcome = demux::run(&mut input, &NullSink, options, &run.cancel, &run.monitor);
            let name = input.name().to_owned();
            // The tap is closed with the input.
            drop(input);
            let panicked = |_| Err(Error::new(Kind::Failed, "the storing thread panicked"));
            let stored = storing.join().unwrap_or_else(panicked);
            (outcome.map(|outcome| (name, outcome)), stored)
        });
        // What went wrong in the store comes first: the rest follows from it.
        let undecoded = stored?;
        let (name, outcome) = outcome?;
        let outcome = match outcome.archive_bytes {
            0 if self.dealt => outcome,
            _ => outcome.check(&name)?,
        };
        match undecoded {
            Some(error) => Err(error.into()),
            None => Ok(outcome),
        }
    }

    /// Everything came and is right: what is kept back may follow.
    fn finish(&mut self, told: &Told) -> Result<Stored> {
        let digests = self.lock().digests.take();
        if let Some(digests) = digests {
            digests.close(&self.uploads, &mut |_| {})?;
        }
        self.uploads.settle()?;
        let (kept_back, expected, stored) = {
            let mut state = self.lock();
            let stored = Stored {
                marked: state.marked,
                objects: state.objects,
                bytes: state.bytes,
            };
            let kept_back = std::mem::take(&mut state.kept_back);
            let kept_bytes: usize = kept_back.iter().map(|(_, bytes)| bytes.len()).sum();
            let expected = (
                state.objects - kept_back.len() as u64,
                state.bytes - kept_bytes as u64,
            );
            (kept_back, expected, stored)
        };
        self.check(expected)?;
        // r[cloud-layout.put.marker-last]
        for (key, bytes) in kept_back {
            self.run.cancel.check()?;
            let len = bytes.len() as u64;
            self.store.put(&key, bytes.into(), false)?;
            told(&key, len);
        }
        Ok(stored)
    }

    /// Whether the store lists what was sent to it, and nothing else. r[cloud-layout.put.listed]
    fn check(&self, expected: (u64, u64)) -> Result<()> {
        let prefix = prefix(&self.name);
        let mut found = (0, 0);
        store::for_each_object(self.store.as_ref(), &prefix, |object| {
            if object.key.strip_prefix(&prefix).and_then(parse).is_some() {
                found.0 += 1;
                found.1 += object.len;
            }
            Ok(())
        })?;
        if found == expected {
            return Ok(());
        }
        let what = format!(
            "the store lists {} objects of {} bytes below {prefix} instead of {} of {}",
            found.0, found.1, expected.0, expected.1
        );
        Err(Error::new(Kind::Store, what)
            .hint("somebody else writes there, too: give every backup a name of its own"))
    }

    /// Removes what was sent, as far as the store lets us. r[cloud-layout.put.failed]
    fn remove(&mut self, cause: &Error) {
        // What is on its way arrives first: a request that is given up may still be carried out by the store, after the removal.
        // In a run that was ended it is given up.
        if cause.kind() == Kind::Store {
            // But nobody needs to wait and try again.
            self.run
                .cancel
                .cancel(Kind::Failed, "the upload was given up");
        }
        self.uploads.settle().ok();
        let files = std::mem::take(&mut self.lock().files);
        // What makes it look whole goes first.
        let (marks, others): (Vec<_>, Vec<_>) = files
            .iter()
            .filter_map(|(path, count)| Some((std::str::from_utf8(path.as_bytes()).ok()?, *count)))
            .partition(|(path, _)| is_marker(path));
        let chunks = marks
            .into_iter()
            .chain(others)
            .flat_map(|(path, count)| (0..count).map(move |index| (path, index)));
        let keys = chunks.map(|(path, index)| chunk_key(&self.name, path, index));
        let mut keys = keys.chain([digests_key(&self.name)]).peekable();
        while keys.peek().is_some() {
            let batch: Vec<String> = keys.by_ref().take(REMOVED_AT_ONCE).collect();
            let remove = || match self.run.cancel.is_cancelled() {
                true => self.store.discard(&batch),
                false => self.store.delete(&batch),
            };
            // A store that is slow goes on removing after the time is over, and has less left to do the next time.
            if let Err(fault) = remove().or_else(|_| remove()).or_else(|_| remove()) {
                let what = format!("what was sent could not be removed: {fault}");
                self.run.monitor.warning(what);
                break;
            }
        }
    }
}

/// Where the bytes of a chunk go.
enum Place {
    /// Nowhere.
    Nowhere,
    /// Into an object.
    Object(Box<ObjectWriter>),
    /// Aside.
    Aside(Vec<u8>),
}

/// A chunk whose bytes are passing.
struct Passing {
    /// In the backup.
    name: String,
    place: Place,
    digest: Option<Md5>,
}

/// Cuts one input.
struct Cutter<'p> {
    putting: &'p Putting,
    decoder: Decoder,
    /// Bytes that were fed and not yet stored, from this position of the archive on.
    waiting: VecDeque<Bytes>,
    stored: u64,
    /// Where chunks begin, and what to do with them.
    begins: VecDeque<(u64, Passing)>,
    passing: Option<Passing>,
}

impl<'p> Cutter<'p> {
    fn new(putting: &'p Putting) -> Self {
        Self {
            putting,
            decoder: Decoder::new(Options {
                crc: CrcCheck::Caller,
                skip_ignorable: true,
            }),
            waiting: VecDeque::new(),
            stored: 0,
            begins: VecDeque::new(),
            passing: None,
        }
    }

    /// Stores everything. What is no archive is returned: the other reader tells it better.
    fn take(mut self, taken: &Receiver<Bytes>) -> Result<Option<DecodeError>> {
        for bytes in taken {
            self.waiting.push_back(bytes.clone());
            self.decoder.feed(bytes);
            loop {
                match self.decoder.next() {
                    Ok(None) => break,
                    Ok(Some(event)) => self.event(event)?,
                    Err(error) => return Ok(Some(error)),
                }
            }
            self.store_until(self.decoder.position())?;
        }
        loop {
            match self.decoder.finish() {
                Ok(None) => break,
                Ok(Some(event)) => self.event(event)?,
                Err(error) => return Ok(Some(error)),
            }
        }
        self.store_until(self.decoder.position())?;
        self.end()?;
        Ok(None)
    }

    fn event(&mut self, event: Event) -> Result<()> {
        if let Event::Chunk(head) = event {
            let passing = self.chunk(&head)?;
            self.begins.push_back((head.position, passing));
        }
        Ok(())
    }

    fn chunk(&mut self, head: &ChunkHead) -> Result<Passing> {
        let nowhere = Passing {
            name: String::new(),
            place: Place::Nowhere,
            digest: None,
        };
        // r[cloud-layout.put.left-out]
        if head.path.as_bytes() == INDEX_PATH || matches!(head.body, Body::Ignored { .. }) {
            return Ok(nowhere);
        }
        let Ok(path) = std::str::from_utf8(head.path.as_bytes()) else {
            let what = "no key of a store can have the bytes of the name";
            return Err(Error::new(Kind::Failed, what).path(head.path.as_path()));
        };
        let head_len = self.decoder.position().saturating_sub(head.position);
        let len = head_len.saturating_add(head.payload_len());
        let mut state = self.putting.lock();
        let chunks = state.files.entry(head.path.clone()).or_default();
        let index = *chunks;
        // r[cloud-layout.put.order]
        let restructures = matches!(head.body, Body::Rename { .. } | Body::Remove { .. })
            || head.flags == FLAG_REWRITE && index > 0;
        if restructures {
            let what = "a file was renamed, removed or replaced while the backup ran, which objects without order cannot tell:";
            return Err(Error::new(Kind::Failed, what)
                .path(head.path.as_path())
                .hint("take the backup again, or store it with xbpipe put"));
        }
        *chunks += 1;
        state.objects += 1;
        state.bytes = state.bytes.saturating_add(len);
        let is_marker = is_marker(path);
        state.marked |= is_marker;
        let key = chunk_key(&self.putting.name, path, index);
        // r[cloud-layout.put.marker-last]
        let kept_back_len = usize::try_from(len)
            .ok()
            .and_then(|len| state.kept_back_len.checked_add(len))
            .filter(|len| is_marker && *len <= KEPT_BACK_LEN_MAX);
        let place = match kept_back_len {
            Some(len) => {
                state.kept_back_len = len;
                Place::Aside(Vec::new())
            }
            None => Place::Object(Box::new(ObjectWriter::begin(&self.putting.uploads, key))),
        };
        Ok(Passing {
            name: chunk_name(path, index),
            place,
            digest: state.digests.is_some().then(Md5::new),
        })
    }

    /// Hands over what is known to belong to whole heads.
    fn store_until(&mut self, end: u64) -> Result<()> {
        while self.stored < end {
            let Some(mut front) = self.waiting.pop_front() else {
                break;
            };
            if self
                .begins
                .front()
                .is_some_and(|(at, _)| *at == self.stored)
            {
                self.end()?;
                self.passing = self.begins.pop_front().map(|(_, passing)| passing);
            }
            let until = self.begins.front().map_or(end, |(at, _)| *at).min(end);
            let room = usize::try_from(until - self.stored).unwrap_or(usize::MAX);
            let now = front.split_to(front.len().min(room));
            if !front.is_empty() {
                self.waiting.push_front(front);
            }
            self.stored += now.len() as u64;
            self.store(&now)?;
        }
        Ok(())
    }

    fn store(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(passing) = &mut self.passing else {
            return Ok(());
        };
        if let Some(digest) = &mut passing.digest {
            digest.update(bytes);
        }
        match &mut passing.place {
            Place::Nowhere => Ok(()),
            Place::Aside(aside) => {
                aside.extend_from_slice(bytes);
                Ok(())
            }
            Place::Object(object) => {
                let putting = self.putting;
                object.write(bytes, &putting.pool, &putting.uploads, &mut |_| {})
            }
        }
    }

    /// The chunk at hand is complete.
    fn end(&mut self) -> Result<()> {
        let Some(passing) = self.passing.take() else {
            return Ok(());
        };
        let putting = self.putting;
        match passing.place {
            Place::Nowhere => {}
            Place::Aside(bytes) => {
                let key = prefix(&putting.name) + &passing.name;
                putting.lock().kept_back.push((key, bytes));
            }
            Place::Object(object) => {
                object.close(&putting.uploads, &mut |_| {})?;
            }
        }
        // r[cloud-layout.md5]
        let Some(digest) = passing.digest else {
            return Ok(());
        };
        let line = digests::line(digest.finalize().into(), &passing.name);
        match &mut putting.lock().digests {
            Some(digests) => digests.write(
                line.as_bytes(),
                &putting.digests_pool,
                &putting.uploads,
                &mut |_| {},
            ),
            None => Ok(()),
        }
    }
}
