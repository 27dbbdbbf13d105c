//! A thread that checks payload and feeds the sink.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use crossbeam_channel::{Receiver, TryRecvError};

use super::outcome::{Entry, Results};
use super::{FILE_WEIGHT, Op};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind};
use crate::base::monitor::{Counters, Monitor};
use crate::pipeline::sink::{FileSink, Sink};
use crate::xbstream::{ArchivePath, ChunkHead};

pub(super) struct Lane<'s> {
    sink: &'s dyn Sink,
    files: HashMap<u32, LaneFile<'s>>,
    /// Files whose sinks may hold pooled buffers back.
    unflushed: Vec<u32>,
    load: Arc<AtomicU64>,
    results: &'s Mutex<Results>,
    /// Where to say that damage was found, if that is to end the reading.
    stop: Option<&'s AtomicBool>,
    cancel: Cancel,
    monitor: Arc<dyn Monitor>,
}

struct LaneFile<'s> {
    path: ArchivePath,
    /// Gone once the file has failed.
    sink: Option<Box<dyn FileSink + 's>>,
    chunk_crc: crc32fast::Hasher,
    initial_crc: u32,
    file_crc: crc32fast::Hasher,
    payload_bytes: u64,
    unflushed: bool,
}

impl<'s> Lane<'s> {
    pub(super) fn new(
        sink: &'s dyn Sink,
        load: Arc<AtomicU64>,
        results: &'s Mutex<Results>,
        stop: Option<&'s AtomicBool>,
        cancel: Cancel,
        monitor: Arc<dyn Monitor>,
    ) -> Self {
        Self {
            sink,
            files: HashMap::new(),
            unflushed: Vec::new(),
            load,
            results,
            stop,
            cancel,
            monitor,
        }
    }

    pub(super) fn run(mut self, batches: &Receiver<Vec<Op>>) {
        loop {
            let batch = match batches.try_recv() {
                Ok(batch) => batch,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    // About to sleep: give back every buffer, or the reader may wait for them for ever.
                    self.flush();
                    match batches.recv() {
                        Ok(batch) => batch,
                        Err(_) => return,
                    }
                }
            };
            for op in batch {
                self.op(op);
            }
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
        // Whoever hears of a run that was ended must not take it for a fault of the file.
        let damaged = matches!(error.kind(), Kind::Checksum | Kind::Incomplete)
            && !self.cancel.is_cancelled();
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged {
            results.failed(&file.path, error);
            if let Some(stop) = self.stop {
                stop.store(true, Ordering::Release);
            }
        } else if results.fatal.is_none() {
            self.cancel.fail(&error);
            results.fatal = Some(error);
        }
    }

    fn op(&mut self, op: Op) {
        match op {
            Op::Open(slot, path, attributes) => {
                let opened = self.sink.open(&path, attributes);
                let mut file = LaneFile {
                    path,
                    sink: None,
                    chunk_crc: crc32fast::Hasher::new(),
                    initial_crc: 0,
                    file_crc: crc32fast::Hasher::new(),
                    payload_bytes: 0,
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
            Op::Hole(slot, offset, len) => {
                let sink = self.files.get_mut(&slot).and_then(|f| f.sink.as_mut());
                if let Some(Err(error)) = sink.map(|sink| sink.hole(offset, len)) {
                    self.fail(slot, error);
                }
            }
            Op::ChunkEnd(slot, head) => self.chunk_end(slot, &head),
            Op::Close(slot) => {
                self.close(slot);
                self.load.fetch_sub(FILE_WEIGHT, Ordering::Relaxed);
            }
            Op::Barrier(_) => self.flush(),
        }
    }

    fn data(&mut self, slot: u32, offset: u64, bytes: Bytes) {
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
        file.file_crc.combine(&payload);
        let found = if file.initial_crc == 0 {
            payload.finalize()
        } else {
            // A sparse chunk's CRC begins with its map.
            let mut whole = crc32fast::Hasher::new_with_initial(file.initial_crc);
            whole.combine(&payload);
            whole.finalize()
        };
        if let Err(error) = head.check_crc(found) {
            self.fail(slot, error.into());
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
        Counters::add(&self.monitor.counters().done_files, 1);
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.files += 1;
        results.payload_bytes += file.payload_bytes;
        if results.indexed {
            let held = Entry::Held((file.payload_bytes, file.file_crc.finalize()));
            results.meet(&file.path, held);
        }
    }
}
