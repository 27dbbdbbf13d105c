//! An archive as a source: one reader takes the stream apart, lanes check and write the files.
//!
//! The reader follows structure only. Payload, checksums and closing belong to the lane of the file, so files proceed in
//! parallel while each stays in order. What was verified is told apart from what was not: a file counts only when its last
//! chunk was right and its sink closed it.
//!
//! Damage is not the run's end but a finding: it is collected in the [`Outcome`]. Only what is not the archive's fault (a
//! full disk, a signal) ends the run through its [`Cancel`] token.

mod dispatch;
mod far;
mod index_reader;
mod indexed;
mod lane;
mod outcome;
mod salvage;

pub use indexed::{IndexedOptions, run_indexed};
pub use outcome::{End, Failure, Outcome};

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::monitor::Monitor;
use crate::pipeline::input::Input;
use crate::pipeline::sink::{Attributes, Sink};
use crate::xbstream::index::INDEX_PATH;
use crate::xbstream::{
    ArchivePath, Body, ChunkHead, CrcCheck, DecodeError, Decoder, ErrorKind, Event, Options, Step,
    Tracker,
};
use dispatch::{Dispatch, Op, with_lanes};
use far::{FAR_LEN_MIN, FarChunk, Head};
use index_reader::{IndexReader, Stray};
use lane::Common;
use outcome::{Places, Results};
use salvage::{Doubt, Salvage};

/// How to go through an archive.
#[derive(Debug, Clone, Copy)]
pub struct DemuxOptions {
    /// Threads that check and write files.
    pub lanes: usize,
    /// Buffers of each lane for what it reads itself, and bytes of each.
    pub lane_bufs: (usize, usize),
    /// Go on after a bad file as far as the stream allows.
    pub keep_going: bool,
    /// Pass over large payload where that is possible: whether it is right is not asked.
    pub structure_only: bool,
    /// Whether an archive that consists of this chunk alone is one whole file.
    pub lone_chunk: Option<LoneChunk>,
}

/// Judges the head of the only chunk of an input.
pub type LoneChunk = fn(&ChunkHead) -> bool;

/// Goes through the archive; every file goes to `sink`.
///
/// Fails only for reasons outside the archive (a full disk, an interrupt); what is wrong with the archive is in the outcome.
pub fn run(
    input: &mut Input,
    sink: &dyn Sink,
    options: DemuxOptions,
    cancel: &Cancel,
    monitor: &Arc<dyn Monitor>,
) -> Result<Outcome> {
    let results = Mutex::new(Results::default());
    let stop = AtomicBool::new(false);
    let source = input.source();
    let far_end = source.as_ref().map(|source| source.len());
    let common = Common {
        sink,
        results: &results,
        stop: (!options.keep_going).then_some(&stop),
        source,
        places: Places::new(),
        idle: AtomicUsize::new(0),
        cancel: cancel.clone(),
        monitor: Arc::clone(monitor),
    };
    let (read, end) = with_lanes(&common, options, |dispatch| {
        let mut reader = Reader {
            dispatch,
            slots: HashMap::new(),
            far_end,
            structure_only: options.structure_only,
            keep_going: options.keep_going,
            salvage: Salvage::default(),
            incomplete: Vec::new(),
            index_lost: false,
            only_index_lost: false,
            doubt: Doubt::default(),
            current: None,
            tracker: Tracker::new(),
            index: None,
            stray: Stray::default(),
            places: common.places.clone(),
            lone: options.lone_chunk.map_or(Lone::No, Lone::Possible),
            sink,
            results: &results,
            stop: &stop,
            monitor: Arc::clone(monitor),
        };
        let read = reader.read(input);
        (read, reader.into_end())
    })?;
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    finish(results, read, end, sink, cancel)
}

/// How far the reader came.
struct Read {
    error: Option<Error>,
    /// Further damage, when it did not stop at the first.
    further: Vec<Error>,
    /// It stopped because a lane had found damage.
    stopped: bool,
    archive_bytes: u64,
}

/// What the reader knew when it stopped.
struct ReaderEnd {
    incomplete: Vec<ArchivePath>,
    index_lost: bool,
    /// The index is damaged, and nothing else is known to be.
    only_index_lost: bool,
    index: Option<IndexReader>,
    doubt: Doubt,
}

/// Lanes have ended: puts together what they, the index and the reader know.
fn finish(
    mut results: Results,
    read: Read,
    mut at_end: ReaderEnd,
    sink: &dyn Sink,
    cancel: &Cancel,
) -> Result<Outcome> {
    if let Some(fatal) = results.fatal.take() {
        return Err(fatal);
    }
    cancel.check()?;
    let mut end = End::Unstated;
    if let Some(index) = &at_end.index {
        at_end.incomplete.retain(|p| p.as_bytes() != INDEX_PATH);
        end = if index.is_whole() && !at_end.index_lost {
            End::Proven
        } else {
            End::Missing
        };
        let (files, payload_bytes) = (results.files, results.payload_bytes);
        let readable = !at_end.index_lost && (read.error.is_none() || index.is_whole());
        if let (Some(stated), true, false) = (index.end(), readable, read.stopped) {
            results.settle(&at_end.incomplete);
            let found = (files + index.directories(), payload_bytes);
            let unharmed = results.failures.is_empty() && at_end.incomplete.is_empty();
            if unharmed && read.error.is_none() && stated != found {
                end = End::Missing;
            }
        }
        if read
            .error
            .as_ref()
            .is_some_and(|e| e.kind() == Kind::Checksum)
        {
            at_end
                .incomplete
                .extend(results.doubt(at_end.only_index_lost));
            at_end.incomplete.sort();
        }
    } else {
        let out_of_joint = is_out_of_joint(&read, &at_end.incomplete);
        at_end
            .incomplete
            .extend(results.distrust(at_end.doubt.files(out_of_joint)));
        at_end.incomplete.sort();
    }
    let nothing_else = results.failures.is_empty() && at_end.incomplete.is_empty();
    let displaced = results.displaced.take().filter(|_| nothing_else);
    for (path, len) in &results.distrusted {
        sink.distrust(path)?;
        results.files -= 1;
        results.payload_bytes -= len;
    }
    let mut failures = results.failures;
    failures.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Outcome {
        files: results.files,
        payload_bytes: results.payload_bytes,
        archive_bytes: read.archive_bytes,
        end,
        failures,
        incomplete: at_end.incomplete,
        stream_error: read.error.or(displaced),
        further: read.further,
    })
}

/// Whether a chunk may have come under a wrong name or type: where something else was expected, or where a file has no end
/// though the input ends between two chunks. A cut, or wrong payload, is no sign of that. `r[bad-input.bare-end]`
fn is_out_of_joint(read: &Read, incomplete: &[ArchivePath]) -> bool {
    match &read.error {
        Some(error) => error.kind() == Kind::Checksum,
        None => !incomplete.is_empty() && !read.stopped,
    }
}

/// The thread that takes the stream apart.
struct Reader<'s> {
    dispatch: Dispatch,
    /// Open files: slot and lane.
    slots: HashMap<ArchivePath, (u32, usize)>,
    /// Length of the archive if lanes can read it themselves.
    far_end: Option<u64>,
    /// Large payload is not read at all.
    structure_only: bool,
    /// Damage does not end the reading.
    keep_going: bool,
    salvage: Salvage,
    /// Files given up, once the reading has ended; and whether the index was lost, or nothing but the index.
    incomplete: Vec<ArchivePath>,
    index_lost: bool,
    only_index_lost: bool,
    doubt: Doubt,
    /// The file and head whose payload is passing.
    current: Option<(Current, Box<ChunkHead>)>,
    tracker: Tracker,
    index: Option<IndexReader>,
    /// A member of the index's name elsewhere.
    stray: Stray,
    /// The places of no chunks.
    places: Places,
    lone: Lone,
    sink: &'s dyn Sink,
    results: &'s Mutex<Results>,
    /// Set by a lane that found damage, when that is to end the reading.
    stop: &'s AtomicBool,
    monitor: Arc<dyn Monitor>,
}

/// Whether the input may be a single chunk that stands for a file.
#[derive(Debug)]
enum Lone {
    No,
    /// Nothing was read yet.
    Possible(LoneChunk),
    /// The first chunk is one, and nothing came behind it so far.
    Chunk(ArchivePath),
}

#[derive(Debug, Clone, Copy)]
enum Current {
    Slot(u32, usize),
    Index,
    Ignored,
}

impl Reader<'_> {
    /// Reads to the end, to the first error of the stream, or until told to stop.
    fn read(&mut self, input: &mut Input) -> Read {
        let mut archive_bytes = 0;
        let result = self.read_all(input, &mut archive_bytes);
        let (error, stopped) = match result {
            Ok(stopped) => (None, stopped),
            Err(error) => (Some(error), false),
        };
        // What could not be sent belongs to lanes that have ended, and they have said why.
        let sent = self.dispatch.send_all();
        self.index_lost = self.salvage.index_lost;
        self.only_index_lost = self.index_lost && !self.salvage.structure_lost;
        let (mut findings, incomplete) = std::mem::take(&mut self.salvage).into_findings();
        self.incomplete = incomplete;
        findings.extend(error.or(sent.err()));
        let mut findings = findings.into_iter();
        Read {
            error: findings.next(),
            further: findings.collect(),
            stopped,
            archive_bytes,
        }
    }

    fn read_all(&mut self, input: &mut Input, total: &mut u64) -> Result<bool> {
        // Lanes check payload; see `Lane`.
        let mut decoder = Decoder::new(Options {
            crc: CrcCheck::Caller,
            ..Options::default()
        });
        loop {
            loop {
                match decoder.next() {
                    Ok(None) => break,
                    Ok(Some(event)) => {
                        let begins = matches!(event, Event::Chunk(_));
                        self.event(event)?;
                        if begins && self.skip_far(&mut decoder)? {
                            input.skip_to(decoder.position());
                        }
                    }
                    Err(error) => self.recover(&mut decoder, error)?,
                }
            }
            // Waiting for input may take long, and for a buffer for ever if we held some back.
            if input.may_wait() {
                self.dispatch.send_all()?;
            }
            let Some(bytes) = input.next_unless(self.stop)? else {
                return Ok(true);
            };
            if bytes.is_empty() {
                break;
            }
            decoder.feed(bytes);
            *total = decoder.fed_end();
        }
        while let Some(event) = decoder.finish()? {
            self.event(event)?;
        }
        if let Lone::Chunk(path) = std::mem::replace(&mut self.lone, Lone::No) {
            self.chunk(ChunkHead {
                position: *total,
                flags: 0,
                letter: b'E',
                path,
                body: Body::End,
            })?;
        }
        Ok(false)
    }

    /// Goes on behind damage in the structure, if that is wanted and this has been an archive.
    fn recover(&mut self, decoder: &mut Decoder, error: DecodeError) -> Result<()> {
        use crate::xbstream::Foreign;
        let foreign = matches!(
            error.kind(),
            ErrorKind::BadMagic { looks_like } if *looks_like != Foreign::Unknown
        );
        if !self.keep_going || (foreign && decoder.position() == 0) {
            return Err(error.into());
        }
        self.salvage.find(error.into());
        self.current = None;
        self.salvage.structure_lost = true;
        self.give_up_open()?;
        decoder.resync();
        Ok(())
    }

    /// Any open file may have lost a part, and only an index could tell.
    fn give_up_open(&mut self) -> Result<()> {
        if self.has_index() {
            return Ok(());
        }
        for (path, (slot, lane)) in std::mem::take(&mut self.slots) {
            self.dispatch.send(lane, Op::Abandon(slot))?;
            self.tracker.forget(&path);
            self.salvage.incomplete.push(path.clone());
            self.salvage.pass_over(path);
        }
        Ok(())
    }

    /// A chunk that does not fit to what came before. If that is not the end of the reading, it is that of its file.
    fn misfit(&mut self, head: ChunkHead, error: DecodeError) -> Result<()> {
        // r[bad-input.payload-after-end]
        if matches!(error.kind(), ErrorKind::AfterEnd) && head.payload_crc().is_some() {
            self.doubt.goes_on(head.path.clone());
        }
        if !self.keep_going {
            return Err(error.into());
        }
        let (path, is_end) = (head.path.clone(), matches!(head.body, Body::End));
        let about_a_file = matches!(error.kind(), ErrorKind::OutOfOrder { .. });
        if path.as_bytes() == INDEX_PATH && self.index.is_some() {
            self.salvage.structure_lost = true;
            self.lose_index(error.into());
        } else if about_a_file {
            self.results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .failed(&path, error.into());
            match self.slots.remove(&path) {
                Some((slot, lane)) => self.dispatch.send(lane, Op::Abandon(slot))?,
                // r[bad-input.payload-of-none]
                None => self.give_up_open()?,
            }
            self.tracker.forget(&path);
        } else {
            self.salvage.find(error.into());
        }
        if head.payload_crc().is_some() {
            if about_a_file && !is_end {
                self.salvage.pass_over(path);
            }
            self.current = Some((Current::Ignored, Box::new(head)));
        }
        Ok(())
    }

    /// Whether there is an index that will tell what should have been there.
    fn has_index(&self) -> bool {
        self.index.is_some() && !self.salvage.index_lost
    }

    /// The index is damaged: what it would say is not known.
    fn lose_index(&mut self, error: Error) {
        self.salvage.find(error);
        self.salvage.index_lost = true;
    }

    /// Leaves the chunk that has just begun to its lane if that can read it. Tells whether the input must skip.
    fn skip_far(&mut self, decoder: &mut Decoder) -> Result<bool> {
        let (Some(far_end), Some((Current::Slot(..), head))) = (self.far_end, &self.current) else {
            return Ok(false);
        };
        let Body::Payload { len, offset, .. } = head.body else {
            return Ok(false);
        };
        // What is in the buffer goes as it is; and what the source does not have is for the decoder to find missing.
        let is_far = len >= FAR_LEN_MIN
            && head.path.as_bytes() != INDEX_PATH
            && len > decoder.buffered() as u64
            && decoder.position().saturating_add(len) <= far_end;
        if !is_far {
            return Ok(false);
        }
        let Some(begin) = decoder.skip_payload() else {
            return Ok(false);
        };
        let Some((Current::Slot(slot, lane), head)) = self.current.take() else {
            return Ok(false);
        };
        if self.structure_only && self.index.is_none() {
            self.dispatch.send(lane, Op::Passed(slot, offset, len))?;
            return Ok(true);
        }
        let head = Head::Read { head: *head, begin };
        self.dispatch
            .far(slot, lane, FarChunk { head, len, offset })?;
        Ok(true)
    }

    /// Files left open, and the index if there was one. Lanes end when their queues are dropped.
    fn into_end(self) -> ReaderEnd {
        let mut incomplete = self.incomplete;
        incomplete.extend(self.tracker.open_files().map(|(p, _)| p.clone()));
        incomplete.sort();
        incomplete.dedup();
        ReaderEnd {
            incomplete,
            index_lost: self.index_lost,
            only_index_lost: self.only_index_lost,
            index: self.index,
            doubt: self.doubt,
        }
    }

    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Chunk(head) => self.chunk(head),
            Event::Data { file_offset, bytes } => match &self.current {
                Some((Current::Slot(slot, lane), head)) => {
                    let (slot, lane) = (*slot, *lane);
                    if head.path.as_bytes() == INDEX_PATH {
                        self.stray.data(&bytes);
                    }
                    self.dispatch.weigh(lane, bytes.len() as u64);
                    self.dispatch.send(lane, Op::Data(slot, file_offset, bytes))
                }
                Some((Current::Index, _)) => {
                    if let Some(index) = &mut self.index {
                        index.data(&bytes);
                    }
                    Ok(())
                }
                Some((Current::Ignored, _)) | None => Ok(()),
            },
            Event::Hole { file_offset, len } => match self.current {
                Some((Current::Slot(slot, lane), _)) => {
                    self.dispatch.send(lane, Op::Hole(slot, file_offset, len))
                }
                _ => Ok(()),
            },
            Event::ChunkEnd(_) => match self.current.take() {
                Some((Current::Slot(slot, lane), head)) => {
                    self.dispatch.send(lane, Op::ChunkEnd(slot, head))
                }
                Some((Current::Index, head)) => {
                    let ended = match &mut self.index {
                        Some(index) => index.chunk_end(&head, self.results, self.sink),
                        None => Ok(()),
                    };
                    self.index_step(ended)
                }
                Some((Current::Ignored, _)) | None => Ok(()),
            },
        }
    }

    /// Damage of the index ends the reading, or the index.
    fn index_step(&mut self, step: Result<()>) -> Result<()> {
        match step {
            Err(error) if self.keep_going && error.kind() == Kind::Checksum => {
                self.lose_index(error);
                Ok(())
            }
            other => other,
        }
    }

    fn chunk(&mut self, head: ChunkHead) -> Result<()> {
        self.lone = match self.lone {
            Lone::Possible(judge) if judge(&head) => Lone::Chunk(head.path.clone()),
            _ => Lone::No,
        };
        if self
            .salvage
            .passes_over(&head.path, matches!(head.body, Body::End))
        {
            if head.payload_crc().is_some() {
                self.current = Some((Current::Ignored, Box::new(head)));
            }
            return Ok(());
        }
        // r[xbstream.index.last]
        if self.index.as_ref().is_some_and(IndexReader::is_whole) {
            return Err(Error::new(
                Kind::Checksum,
                "the archive goes on after the end of its index with a chunk of",
            )
            .path(head.path.as_path())
            .at(head.position));
        }
        let step = match self.tracker.chunk(&head) {
            Ok(step) => step,
            Err(error) => return self.misfit(head, error),
        };
        let named_index = head.path.as_bytes() == INDEX_PATH;
        if head.position == 0 && named_index && head.payload_len() > 0 {
            // r[xbstream.index.first]
            self.index = Some(IndexReader::new(self.places.clone()));
            self.results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .indexed = true;
        }
        if named_index && self.index.is_none() && matches!(step, Step::Opened { .. }) {
            self.monitor.warning(format!(
                "{} is not at the beginning of this archive and taken for an ordinary file",
                head.path
            ));
        }
        if self.index.is_none() && !matches!(head.body, Body::End) {
            self.stray.chunk(named_index.then_some(head.position));
        }
        if let (Some(index), true) = (&mut self.index, named_index) {
            return match head.body {
                Body::Payload { .. } if self.salvage.index_lost => {
                    self.current = Some((Current::Ignored, Box::new(head)));
                    Ok(())
                }
                Body::Payload { .. } => {
                    let begun = index.chunk_begin(&head);
                    let current = if begun.is_ok() {
                        Current::Index
                    } else {
                        Current::Ignored
                    };
                    self.current = Some((current, Box::new(head)));
                    self.index_step(begun)
                }
                Body::End if self.salvage.index_lost => Ok(()),
                Body::End => {
                    let closed = index.close();
                    self.index_step(closed)
                }
                _ => Err(Error::new(
                    Kind::Checksum,
                    "the index member has a chunk of a wrong type",
                )
                .at(head.position)),
            };
        }
        match step {
            Step::Opened { replaces } => {
                if replaces {
                    self.dispatch.barrier()?;
                    self.doubt.begins_anew(&head.path);
                }
                let (slot, lane) = self.open(&head.path, replaces)?;
                self.payload(slot, lane, head)
            }
            Step::Continued => {
                let (slot, lane) = self
                    .slots
                    .get(&head.path)
                    .copied()
                    .ok_or_else(|| lost(&head))?;
                self.payload(slot, lane, head)
            }
            Step::Ended => {
                if named_index {
                    self.stray.end(head.position)?;
                }
                let (slot, lane) = self.slots.remove(&head.path).ok_or_else(|| lost(&head))?;
                self.dispatch.send(lane, Op::Close(slot))
            }
            Step::Empty if self.salvage.any() && !self.has_index() => {
                // Its beginning may be what is missing.
                self.salvage.incomplete.push(head.path);
                Ok(())
            }
            Step::Empty => {
                let (slot, lane) = self.open(&head.path, false)?;
                self.slots.remove(&head.path);
                self.doubt.bare_end(head.path);
                self.dispatch.send(lane, Op::Close(slot))
            }
            Step::Renamed => {
                let Body::Rename { to } = &head.body else {
                    return Ok(());
                };
                self.dispatch.barrier()?;
                self.doubt.renamed(&head.path, to);
                self.sink.rename(&head.path, to)
            }
            Step::Removed => {
                let Body::Remove { pattern } = &head.body else {
                    return Ok(());
                };
                self.dispatch.barrier()?;
                self.sink.remove(pattern)
            }
            // Nothing of this archive has that name, and what else has it is not the archive's to move.
            Step::RenameUnknown => Ok(()),
            Step::Ignored => {
                self.current = Some((Current::Ignored, Box::new(head)));
                Ok(())
            }
        }
    }

    fn open(&mut self, path: &ArchivePath, rewrite: bool) -> Result<(u32, usize)> {
        self.monitor.file(path);
        let at = self.dispatch.open(path, Attributes { rewrite })?;
        self.slots.insert(path.clone(), at);
        Ok(at)
    }

    fn payload(&mut self, slot: u32, lane: usize, head: ChunkHead) -> Result<()> {
        let Some(crc) = head.payload_crc() else {
            return Ok(());
        };
        self.current = Some((Current::Slot(slot, lane), Box::new(head)));
        self.dispatch.send(lane, Op::Chunk(slot, crc.initial))
    }
}

fn lost(head: &ChunkHead) -> Error {
    Error::new(Kind::Failed, "open file without a slot").path(head.path.as_path())
}
