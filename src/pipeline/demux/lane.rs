//! A thread that checks payload and feeds the sink.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError, select};

use super::dispatch::{FILE_WEIGHT, Op};
use super::far::{FarChunk, FileSum, Head, Pending, Shared, Task};
use super::outcome::{Content, Entry, Places, Results};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::monitor::{Counters, Monitor};
use crate::base::pool::{Buf, BufPool};
use crate::pipeline::sink::{FileSink, Sink};
use crate::pipeline::source::{ReadAt, once_more};
use crate::xbstream::index::Place;
use crate::xbstream::{ArchivePath, ChunkHead, encode};

/// What all lanes of a run share.
pub(super) struct Common<'s> {
    pub(super) sink: &'s dyn Sink,
    pub(super) results: &'s Mutex<Results>,
    /// Where to say that damage was found, if that is to end the reading.
    pub(super) stop: Option<&'s AtomicBool>,
    /// The archive, if lanes can read it themselves.
    pub(super) source: Option<Arc<dyn ReadAt>>,
    /// The places of no chunks.
    pub(super) places: Places,
    /// Lanes that have nothing to do.
    pub(super) idle: AtomicUsize,
    pub(super) cancel: Cancel,
    pub(super) monitor: Arc<dyn Monitor>,
}

pub(super) struct Lane<'s> {
    common: &'s Common<'s>,
    files: HashMap<u32, LaneFile<'s>>,
    /// Files whose sinks may hold pooled buffers back.
    unflushed: Vec<u32>,
    load: Arc<AtomicU64>,
    /// For what this lane reads itself. Its own, so that what it has just read is in the cache of its core.
    bufs: BufPool,
    /// Chunks given away by busy lanes.
    tasks: Receiver<Task>,
    /// Gone when this lane has nothing more to give away.
    give: Option<Sender<Task>>,
}

struct LaneFile<'s> {
    path: ArchivePath,
    /// Gone once the file has failed.
    sink: Option<Box<dyn FileSink + 's>>,
    chunk_crc: crc32fast::Hasher,
    initial_crc: u32,
    sum: FileSum,
    places: Places,
    /// Chunks with payload so far.
    chunks: u64,
    payload_bytes: u64,
    /// Highest file position reached.
    end: u64,
    /// There once a chunk was given away.
    shared: Option<Arc<Shared>>,
    unflushed: bool,
}

impl<'s> Lane<'s> {
    pub(super) fn new(
        common: &'s Common<'s>,
        load: Arc<AtomicU64>,
        bufs: BufPool,
        tasks: Receiver<Task>,
        give: Sender<Task>,
    ) -> Self {
        Self {
            common,
            files: HashMap::new(),
            unflushed: Vec::new(),
            load,
            bufs,
            tasks,
            give: Some(give),
        }
    }

    pub(super) fn run(mut self, batches: &Receiver<Vec<Op>>) {
        loop {
            match batches.try_recv() {
                Ok(batch) => self.batch(batch),
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    // About to sleep: give back every buffer, or the reader may wait for them for ever.
                    self.flush();
                    let idle = Idle::new(&self.common.idle);
                    select! {
                        recv(batches) -> batch => {
                            drop(idle);
                            let Ok(batch) = batch else { break };
                            self.batch(batch);
                        }
                        recv(self.tasks) -> task => {
                            drop(idle);
                            if let Ok(task) = task {
                                self.help(task);
                            }
                        }
                    }
                }
            }
        }
        // Nothing of its own will come, but the others may be busy for long.
        self.give = None;
        loop {
            let idle = Idle::new(&self.common.idle);
            let task = self.tasks.recv();
            drop(idle);
            let Ok(task) = task else { return };
            self.help(task);
        }
    }

    fn batch(&mut self, batch: Vec<Op>) {
        for op in batch {
            self.op(op);
        }
    }

    fn flush(&mut self) {
        for slot in std::mem::take(&mut self.unflushed) {
            let Some(file) = self.files.get_mut(&slot) else {
                continue;
            };
            file.unflushed = false;
            if let Some(sink) = &mut file.sink
                && let Err(error) = sink.flush()
            {
                self.fail(slot, error);
            }
        }
    }

    /// Takes a file out of the running. Whether the run goes on is decided by whose fault it was.
    fn fail(&mut self, slot: u32, error: Error) {
        let Some(file) = self.files.get_mut(&slot) else {
            return;
        };
        file.sink = None;
        let common = self.common;
        // What is refused may be right: it is the end of the run unless that is to go on.
        let goes_on = common.stop.is_none() && error.is_of_content();
        // Whoever hears of a run that was ended must not take it for a fault of the file.
        let finding = (goes_on || matches!(error.kind(), Kind::Checksum | Kind::Incomplete))
            && !common.cancel.is_cancelled();
        let mut results = common
            .results
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if finding {
            results.failed(&file.path, error);
            if let Some(stop) = common.stop {
                stop.store(true, Ordering::Release);
            }
        } else if results.fatal.is_none() {
            common.cancel.fail(&error);
            results.fatal = Some(error);
        }
    }

    fn op(&mut self, op: Op) {
        match op {
            Op::Open(slot, path, attributes) => {
                let opened = self.common.sink.open(&path, attributes);
                let mut file = LaneFile {
                    path,
                    sink: None,
                    chunk_crc: crc32fast::Hasher::new(),
                    initial_crc: 0,
                    sum: FileSum::default(),
                    places: self.common.places.clone(),
                    chunks: 0,
                    payload_bytes: 0,
                    end: 0,
                    shared: None,
                    unflushed: false,
                };
                let error = match opened {
                    Ok(sink) => {
                        file.sink = Some(sink);
                        None
                    }
                    Err(error) => Some(error),
                };
                self.files.insert(slot, file);
                if let Some(error) = error {
                    self.fail(slot, error);
                }
            }
            Op::Chunk(slot, initial) => {
                if let Some(file) = self.files.get_mut(&slot) {
                    file.initial_crc = initial;
                    file.chunk_crc = crc32fast::Hasher::new();
                }
            }
            Op::Data(slot, offset, bytes) => {
                let len = bytes.len() as u64;
                self.data(slot, offset, bytes);
                self.load.fetch_sub(len, Ordering::Relaxed);
            }
            Op::Hole(slot, offset, len) => self.hole(slot, offset, len),
            Op::Passed(slot, offset, len) => {
                if let Some(file) = self.files.get_mut(&slot) {
                    file.payload_bytes += len;
                }
                self.hole(slot, offset, len);
            }
            Op::ChunkEnd(slot, head) => self.chunk_end(slot, &head),
            Op::Far(slot, chunk) => {
                let len = chunk.len;
                self.far(slot, chunk);
                self.load.fetch_sub(len, Ordering::Relaxed);
            }
            Op::Close(slot) => {
                self.settle(slot);
                self.close(slot);
                self.load.fetch_sub(FILE_WEIGHT, Ordering::Relaxed);
            }
            Op::Abandon(slot) => {
                self.settle(slot);
                self.files.remove(&slot);
                self.load.fetch_sub(FILE_WEIGHT, Ordering::Relaxed);
            }
            Op::Barrier(_) => self.flush(),
        }
    }

    fn hole(&mut self, slot: u32, offset: u64, len: u64) {
        self.reach(slot, offset, len);
        let sink = self.files.get_mut(&slot).and_then(|f| f.sink.as_mut());
        if let Some(Err(error)) = sink.map(|sink| sink.hole(offset, len)) {
            self.fail(slot, error);
        }
    }

    /// Content at `offset` comes next. If some was there before, nobody may be writing it any more.
    fn reach(&mut self, slot: u32, offset: u64, len: u64) {
        let patch = self
            .files
            .get(&slot)
            .is_some_and(|file| offset < file.end && file.shared.is_some());
        if patch {
            self.settle(slot);
        }
        if let Some(file) = self.files.get_mut(&slot) {
            file.end = file.end.max(offset + len);
        }
    }

    fn data(&mut self, slot: u32, offset: u64, bytes: Bytes) {
        self.reach(slot, offset, bytes.len() as u64);
        let Some(file) = self.files.get_mut(&slot) else {
            return;
        };
        let Some(sink) = &mut file.sink else { return };
        file.chunk_crc.update(&bytes);
        file.payload_bytes += bytes.len() as u64;
        if !file.unflushed {
            file.unflushed = true;
            self.unflushed.push(slot);
        }
        if let Err(error) = sink.data(offset, bytes) {
            self.fail(slot, error);
        }
    }

    fn chunk_end(&mut self, slot: u32, head: &ChunkHead) {
        let Some(file) = self.files.get_mut(&slot) else {
            return;
        };
        if file.sink.is_none() {
            return;
        }
        let payload = std::mem::take(&mut file.chunk_crc);
        let found = if file.initial_crc == 0 {
            payload.clone().finalize()
        } else {
            // A sparse chunk's CRC begins with its map.
            let mut whole = crc32fast::Hasher::new_with_initial(file.initial_crc);
            whole.combine(&payload);
            whole.finalize()
        };
        file.sum.add(file.chunks, payload);
        file.chunks += 1;
        file.places.add(Place {
            position: head.position,
            len: head.payload_len(),
        });
        if let Err(error) = head.check_crc(found) {
            self.fail(slot, error.into());
        }
    }

    /// A chunk whose payload is still in the source: gives it away if somebody has nothing to do.
    fn far(&mut self, slot: u32, chunk: Box<FarChunk>) {
        let appends = self
            .files
            .get(&slot)
            .is_some_and(|file| chunk.offset >= file.end);
        self.reach(slot, chunk.offset, chunk.len);
        let Some(file) = self.files.get_mut(&slot) else {
            return;
        };
        let Some(mut sink) = file.sink.take() else {
            return;
        };
        let number = file.chunks;
        file.chunks += 1;
        file.payload_bytes += chunk.len;
        file.places.add(chunk.place());
        let wanted = appends && self.tasks.len() < self.common.idle.load(Ordering::Relaxed);
        let part = if wanted {
            sink.part(chunk.offset, chunk.len)
        } else {
            Ok(None)
        };
        let result = match part {
            Ok(Some(part)) => {
                let shared = file.shared.get_or_insert_default();
                let task = Task {
                    pending: Pending::new(shared, number),
                    chunk,
                    part,
                };
                file.sink = Some(sink);
                self.give(task);
                return;
            }
            Ok(None) => self.pump(&chunk, sink.as_mut()),
            Err(error) => Err(error),
        };
        let Some(file) = self.files.get_mut(&slot) else {
            return;
        };
        file.sink = Some(sink);
        if !file.unflushed {
            file.unflushed = true;
            self.unflushed.push(slot);
        }
        match result {
            Ok(sum) => file.sum.add(number, sum),
            Err(error) => self.fail(slot, error),
        }
    }

    fn give(&mut self, task: Task) {
        let refused = match &self.give {
            Some(give) => give.try_send(task).map_err(|e| e.into_inner()),
            None => Err(task),
        };
        if let Err(task) = refused {
            self.help(task);
        }
    }

    /// Does a chunk that was given away.
    fn help(&mut self, task: Task) {
        let Task {
            pending,
            chunk,
            mut part,
        } = task;
        let result = self
            .pump(&chunk, part.as_mut())
            .and_then(|sum| part.close().map(|()| sum));
        pending.end(result);
    }

    /// Reads the payload of a chunk in pieces that stay in the processor's cache until they are written, and checks it.
    fn pump(&mut self, chunk: &FarChunk, sink: &mut dyn FileSink) -> Result<crc32fast::Hasher> {
        let mut sum = crc32fast::Hasher::new();
        let mut done = 0;
        let read;
        let (head, begin, lease) = match &chunk.head {
            Head::Read { head, begin } => (head, *begin, None),
            Head::Indexed {
                path,
                position,
                lease,
            } => {
                let head_len = encode::payload_head_len(path);
                let (found, payload, payload_sum) = self.begin(chunk, path, *position, sink)?;
                read = found;
                if !payload.is_empty() {
                    sum = payload_sum;
                    sink.data(chunk.offset, payload)?;
                    done = chunk.len;
                }
                (&read, position + head_len as u64, Some(lease))
            }
        };
        while done < chunk.len {
            self.common.cancel.check()?;
            let mut buf = self.buffer(sink)?;
            let len = usize::try_from(chunk.len - done)
                .unwrap_or(usize::MAX)
                .min(buf.len());
            self.let_go_if_far(sink, begin + done, len as u64)?;
            let piece = buf.get_mut(..len).unwrap_or_default();
            self.read(piece, begin + done)?;
            if let Some(lease) = lease {
                lease.reach(begin + done + len as u64);
            }
            sum.update(piece);
            sink.data(chunk.offset + done, buf.freeze(len))?;
            done += len as u64;
        }
        head.check_crc(sum.clone().finalize())?;
        Ok(sum)
    }

    /// Reads the head of a chunk that the index tells of, with its payload if that is short, and its checksum. Payload that
    /// stays where it is has been compared if it can come from there once more: the sink cannot give anything back.
    fn begin(
        &mut self,
        chunk: &FarChunk,
        path: &ArchivePath,
        position: u64,
        sink: &mut dyn FileSink,
    ) -> Result<(ChunkHead, Bytes, crc32fast::Hasher)> {
        let head_len = encode::payload_head_len(path);
        let mut buf = self.buffer(sink)?;
        // A small chunk comes with its head; of a large one all pieces begin at block borders of the file.
        let payload_len = usize::try_from(chunk.len)
            .ok()
            .filter(|len| head_len + len <= buf.len())
            .unwrap_or(0);
        let len = head_len + payload_len;
        let whole_len = head_len as u64 + chunk.len;
        let mut reads = 1;
        let (head, sum) = loop {
            self.let_go_if_far(sink, position, whole_len)?;
            let room = buf.get_mut(..len).unwrap_or_default();
            match self.compare(chunk, path, position, room) {
                Err(error)
                    if once_more(
                        self.source()?.as_ref(),
                        (position, whole_len),
                        &mut reads,
                        &error,
                    ) => {}
                compared => break compared?,
            }
        };
        Ok((head, buf.freeze(len).slice(head_len..), sum))
    }

    /// Reads the beginning of a chunk into `room`, and compares all of it as far as that can be done now. Gives the sum of the
    /// payload in `room`.
    fn compare(
        &self,
        chunk: &FarChunk,
        path: &ArchivePath,
        position: u64,
        room: &mut [u8],
    ) -> Result<(ChunkHead, crc32fast::Hasher)> {
        self.read(room, position)?;
        let (head, payload) = room.split_at(encode::payload_head_len(path).min(room.len()));
        let head_len = head.len() as u64;
        let head = chunk.compare(Bytes::copy_from_slice(head), path, position)?;
        let mut sum = crc32fast::Hasher::new();
        sum.update(payload);
        let found = if payload.is_empty() {
            let len = head_len + chunk.len;
            self.source()?.crc32(position, len, head_len)?
        } else {
            Some(sum.clone().finalize())
        };
        if let Some(found) = found {
            head.check_crc(found)?;
        }
        Ok((head, sum))
    }

    /// A buffer of this lane; if all are held back somewhere, they are asked for.
    fn buffer(&mut self, sink: &mut dyn FileSink) -> Result<Buf> {
        if let Some(buf) = self.bufs.try_get() {
            return Ok(buf);
        }
        sink.flush()?;
        self.flush();
        self.bufs.get(&self.common.cancel)
    }

    /// About to wait for the source: gives back every buffer that is held somewhere, or the others may wait for them for ever.
    fn let_go_if_far(&mut self, sink: &mut dyn FileSink, position: u64, len: u64) -> Result<()> {
        let near = (self.common.source.as_ref()).is_none_or(|s| s.is_near(position, len));
        if !near {
            sink.flush()?;
            self.flush();
        }
        Ok(())
    }

    fn source(&self) -> Result<&Arc<dyn ReadAt>> {
        let source = self.common.source.as_ref();
        source.ok_or_else(|| Error::new(Kind::Failed, "the archive can only be read in order"))
    }

    /// Fills `buf` from `position` of the source.
    fn read(&self, buf: &mut [u8], position: u64) -> Result<()> {
        let n = self.source()?.read_at(buf, position)?;
        if n < buf.len() {
            let what = "the archive ends, where more must be, inside";
            return Err(Error::new(Kind::Incomplete, what).at(position + n as u64));
        }
        Ok(())
    }

    /// Waits until nobody else works on a file, and takes over what they have found.
    fn settle(&mut self, slot: u32) {
        let Some(shared) = self.files.get(&slot).and_then(|f| f.shared.clone()) else {
            return;
        };
        while let Ok(task) = self.tasks.try_recv() {
            self.help(task);
        }
        shared.wait();
        let Some(file) = self.files.get_mut(&slot) else {
            return;
        };
        let collected = shared.collect(&mut file.sum);
        if let (Err(error), true) = (collected, file.sink.is_some()) {
            self.fail(slot, error);
        }
    }

    fn close(&mut self, slot: u32) {
        let Some(sink) = self.files.get_mut(&slot).and_then(|f| f.sink.take()) else {
            self.files.remove(&slot);
            return;
        };
        let closed = sink.close();
        if let Err(error) = closed {
            self.fail(slot, error);
            self.files.remove(&slot);
            return;
        }
        let Some(file) = self.files.remove(&slot) else {
            return;
        };
        Counters::add(&self.common.monitor.counters().done_files, 1);
        let mut results = self
            .common
            .results
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        results.files += 1;
        results.payload_bytes += file.payload_bytes;
        if results.indexed {
            let content = Content {
                len: file.payload_bytes,
                crc: file.sum.finalize(),
                places: file.places,
            };
            results.meet(&file.path, Entry::Held(content));
        }
    }
}

/// Counts a lane as idle while it lives.
struct Idle<'s>(&'s AtomicUsize);

impl<'s> Idle<'s> {
    fn new(idle: &'s AtomicUsize) -> Self {
        idle.fetch_add(1, Ordering::Relaxed);
        Self(idle)
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
