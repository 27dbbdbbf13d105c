//! An archive as a source by its index: only the files that the sink wants are read. `r[xbstream.index.seek]`

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::dispatch::{Dispatch, Op, with_lanes};
use super::far::{FarChunk, Head};
use super::lane::Common;
use super::outcome::{Content, Entry, Places, Results};
use super::{DemuxOptions, End, Outcome};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::monitor::{Counters, Monitor};
use crate::pipeline::index_file::{Indexed, bad_index};
use crate::pipeline::sink::{Attributes, Sink};
use crate::pipeline::source::{Lease, ReadAt};
use crate::xbstream::index::{IndexLine, Place};
use crate::xbstream::limits::OPEN_FILES_MAX;
use crate::xbstream::{ArchivePath, encode};

/// How to read by the index.
#[derive(Debug, Clone, Copy)]
pub struct IndexedOptions {
    /// As for any other way to read.
    pub demux: DemuxOptions,
    /// Begin all files before the first byte of any, in the order in which the archive does: for a sink that puts one behind
    /// the other.
    pub in_order: bool,
}

/// A file that the sink wants.
struct Wanted {
    path: ArchivePath,
    len: u64,
    crc: u32,
    /// Position of its first chunk.
    first: u64,
    /// Chunks that were not sent to its lane yet.
    left: u64,
    /// Slot and lane once it was begun.
    at: Option<(u32, usize)>,
    /// File position of its next chunk.
    offset: u64,
    places: Places,
}

impl Wanted {
    /// Bytes of one of its chunks in the archive.
    fn whole_len(&self, chunk: &Chunk) -> u64 {
        let head_len = encode::payload_head_len(&self.path) as u64;
        chunk.len.saturating_add(head_len)
    }
}

/// A chunk of a wanted file. They are read in the order in which they lie in the archive, so that what is read once is near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Chunk {
    position: u64,
    /// Bytes of payload.
    len: u64,
    member: u64,
}

/// Most chunks that are put in order at once, 3 MiB of memory. Of an archive with more of them the index is read once for each so
/// many.
const CHUNKS_MAX: usize = 1 << 17;

/// What the index says about what the sink wants.
#[derive(Default)]
struct Found {
    files: HashMap<u64, Wanted>,
    /// Their chunks in order, if those of the whole archive are few enough.
    chunks: Option<Vec<Chunk>>,
    directories: Vec<ArchivePath>,
    /// Number and bytes of files that the sink has already.
    kept: (u64, u64),
}

/// Reads the files that `sink` wants. `None` when the index turns out to be damaged before anything was given to the sink.
///
/// Fails only for reasons outside the archive; what is wrong with those files is in the outcome.
pub fn run_indexed(
    indexed: &Indexed,
    sink: &dyn Sink,
    options: IndexedOptions,
    cancel: &Cancel,
    monitor: &Arc<dyn Monitor>,
) -> Result<Option<Outcome>> {
    let places = Places::new();
    let mut found = match find(indexed, sink, &places) {
        Ok(found) => found,
        Err(error) if bad_index(&error) => {
            monitor.warning(format!("{error}; reading the whole archive instead"));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let total = found.files.values().map(|w| w.len).sum();
    Counters::set(&monitor.counters().total_bytes, total);
    let results = Mutex::new(Results {
        indexed: true,
        ..Results::default()
    });
    let stop = AtomicBool::new(false);
    let common = Common {
        sink,
        results: &results,
        stop: (!options.demux.keep_going).then_some(&stop),
        source: Some(Arc::clone(indexed.source())),
        places,
        idle: AtomicUsize::new(0),
        cancel: cancel.clone(),
        monitor: Arc::clone(monitor),
    };
    let fed = with_lanes(&common, options.demux, |dispatch| {
        let mut feeder = Feeder {
            dispatch,
            sink,
            results: &results,
            stop: &stop,
            monitor,
        };
        feeder.feed(indexed, &mut found, options.in_order)
    })?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(fatal) = results.fatal.take() {
        return Err(fatal);
    }
    cancel.check()?;
    fed?;
    results.settle(&[]);
    for (path, len) in &results.distrusted {
        sink.distrust(path)?;
        results.files -= 1;
        results.payload_bytes -= len;
    }
    let mut failures = results.failures;
    failures.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(Outcome {
        files: results.files + found.kept.0,
        payload_bytes: results.payload_bytes + found.kept.1,
        archive_bytes: indexed.source().len(),
        end: End::Indexed,
        failures,
        incomplete: Vec::new(),
        stream_error: None,
        further: Vec::new(),
    }))
}

/// A file whose chunks the index has told of, but not yet its name.
#[derive(Default)]
struct Begun {
    /// Position of the first chunk and of the last one.
    first: Option<u64>,
    last: u64,
    /// Sum of the lengths.
    len: u64,
    chunks: u64,
}

/// Goes through the whole index: checks it, and collects what is wanted by number.
fn find(indexed: &Indexed, sink: &dyn Sink, places: &Places) -> Result<Found> {
    let mut found = Found {
        chunks: Some(Vec::new()),
        ..Found::default()
    };
    let mut begun: HashMap<u64, Begun> = HashMap::new();
    let whole = indexed.source().len();
    indexed.lines(|line| {
        match line {
            IndexLine::Chunks { member, list } => {
                if begun.len() >= OPEN_FILES_MAX {
                    return Err(wrong("the index has too many files open"));
                }
                let file = begun.entry(member).or_default();
                let few = (found.chunks.as_ref())
                    .is_some_and(|chunks| chunks.len() + list.len() <= CHUNKS_MAX);
                if !few {
                    found.chunks = None;
                }
                for Place { position, len } in list {
                    if position.saturating_add(len) > whole {
                        return Err(wrong("the index tells of chunks behind the end"));
                    }
                    if file.first.is_some() && position <= file.last {
                        return Err(wrong("the index has the chunks of a file out of order"));
                    }
                    file.first.get_or_insert(position);
                    file.last = position;
                    file.len = file.len.saturating_add(len);
                    file.chunks += 1;
                    if let Some(chunks) = &mut found.chunks {
                        chunks.push(Chunk {
                            position,
                            len,
                            member,
                        });
                    }
                }
            }
            // r[xbstream.index.sparse]
            IndexLine::Sparse { .. } => {
                return Err(wrong(
                    "the archive has sparse chunks, which its index does not locate",
                ));
            }
            IndexLine::File {
                member,
                len,
                crc,
                path,
            } => {
                let file = begun.remove(&member).unwrap_or_default();
                if file.len != len {
                    return Err(
                        wrong("lengths in the index do not add up for").path(path.as_path())
                    );
                }
                if !sink.wants(&path) {
                    return Ok(());
                }
                if sink.has(&path, len, crc)? {
                    found.kept.0 += 1;
                    found.kept.1 += len;
                    return Ok(());
                }
                let file = Wanted {
                    path,
                    len,
                    crc,
                    first: file.first.unwrap_or(0),
                    left: file.chunks,
                    at: None,
                    offset: 0,
                    places: places.clone(),
                };
                if found.files.insert(member, file).is_some() {
                    return Err(wrong("the index uses a number twice"));
                }
            }
            IndexLine::Directory { path } => found.directories.push(path),
            _ => {}
        }
        Ok(())
    })?;
    if let Some(chunks) = &mut found.chunks {
        chunks.retain(|chunk| found.files.contains_key(&chunk.member));
        chunks.sort_unstable();
    }
    Ok(found)
}

/// The next chunks of wanted files behind `from`, in order, [`CHUNKS_MAX`] at most.
fn next_chunks(
    indexed: &Indexed,
    files: &HashMap<u64, Wanted>,
    from: Option<Chunk>,
) -> Result<Vec<Chunk>> {
    let mut nearest = BinaryHeap::new();
    indexed.lines(|line| {
        if let IndexLine::Chunks { member, list } = line
            && files.contains_key(&member)
        {
            for Place { position, len } in list {
                let chunk = Chunk {
                    position,
                    len,
                    member,
                };
                if from.is_none_or(|from| from < chunk) {
                    nearest.push(chunk);
                }
                if nearest.len() > CHUNKS_MAX {
                    nearest.pop();
                }
            }
        }
        Ok(())
    })?;
    Ok(nearest.into_sorted_vec())
}

fn wrong(what: &str) -> Error {
    Error::new(Kind::Checksum, what)
}

struct Feeder<'s> {
    dispatch: Dispatch,
    sink: &'s dyn Sink,
    results: &'s Mutex<Results>,
    stop: &'s AtomicBool,
    monitor: &'s Arc<dyn Monitor>,
}

impl Feeder<'_> {
    fn feed(&mut self, indexed: &Indexed, found: &mut Found, in_order: bool) -> Result<()> {
        let fed = self.feed_all(indexed, found, in_order);
        let sent = self.dispatch.send_all();
        fed.and(sent)
    }

    fn feed_all(&mut self, indexed: &Indexed, found: &mut Found, in_order: bool) -> Result<()> {
        for path in &found.directories {
            self.sink.directory(path)?;
        }
        if in_order {
            let mut order: Vec<&mut Wanted> = found.files.values_mut().collect();
            order.sort_by_key(|file| file.first);
            for file in order {
                self.open(file)?;
            }
        }
        for (_, file) in found.files.extract_if(|_, file| file.left == 0) {
            self.close(file)?;
        }
        let mut from = None;
        while !found.files.is_empty() {
            let chunks = match found.chunks.take() {
                Some(all) => all,
                None => next_chunks(indexed, &found.files, from)?,
            };
            if chunks.is_empty() {
                return Err(wrong("the index does not tell the same twice"));
            }
            from = chunks.last().copied();
            if self.chunks(indexed, &mut found.files, &chunks)? {
                break;
            }
        }
        Ok(())
    }

    /// Sends chunks to their lanes as they come near, so that no lane waits for one that comes late; those of one file in their
    /// order. Tells whether to stop.
    fn chunks(
        &mut self,
        indexed: &Indexed,
        files: &mut HashMap<u64, Wanted>,
        chunks: &[Chunk],
    ) -> Result<bool> {
        let source = indexed.source();
        let expected: Vec<(u64, u64)> = (chunks.iter())
            .filter_map(|chunk| Some((chunk.position, files.get(&chunk.member)?.whole_len(chunk))))
            .collect();
        source.expect(&expected)?;
        drop(expected);
        let mut rest = chunks.iter().copied().peekable();
        // Chunks that are asked for and not there, or behind such of their files.
        let mut late: Vec<Chunk> = Vec::new();
        while rest.peek().is_some() || !late.is_empty() {
            let moves = source.moves();
            let horizon = source.horizon();
            let mut waiting = HashSet::new();
            let mut still = Vec::new();
            let asked = std::iter::from_fn(|| rest.next_if(|chunk| chunk.position <= horizon));
            for chunk in std::mem::take(&mut late).into_iter().chain(asked) {
                if self.stop.load(Ordering::Acquire) {
                    return Ok(true);
                }
                let Some(file) = files.get_mut(&chunk.member) else {
                    continue;
                };
                let near = !waiting.contains(&chunk.member)
                    && source.is_near(chunk.position, file.whole_len(&chunk));
                if !near {
                    waiting.insert(chunk.member);
                    still.push(chunk);
                    continue;
                }
                self.chunk(source, file, chunk)?;
                if file.left == 0
                    && let Some(file) = files.remove(&chunk.member)
                {
                    self.close(file)?;
                }
            }
            late = still;
            if source.moves() == moves && (rest.peek().is_some() || !late.is_empty()) {
                self.dispatch.send_all()?;
                source.wait(moves)?;
            }
        }
        Ok(false)
    }

    fn chunk(&mut self, source: &Arc<dyn ReadAt>, file: &mut Wanted, chunk: Chunk) -> Result<()> {
        let (slot, lane) = self.open(file)?;
        let head = Head::Indexed {
            path: file.path.clone(),
            position: chunk.position,
            lease: Lease::new(source, chunk.position, file.whole_len(&chunk)),
        };
        let (len, offset) = (chunk.len, file.offset);
        file.offset = offset.saturating_add(len);
        file.left = file.left.saturating_sub(1);
        file.places.add(Place {
            position: chunk.position,
            len,
        });
        self.dispatch
            .far(slot, lane, FarChunk { head, len, offset })
    }

    fn open(&mut self, file: &mut Wanted) -> Result<(u32, usize)> {
        if let Some(at) = file.at {
            return Ok(at);
        }
        self.monitor.file(&file.path);
        let at = self.dispatch.open(&file.path, Attributes::default())?;
        file.at = Some(at);
        Ok(at)
    }

    fn close(&mut self, mut file: Wanted) -> Result<()> {
        let (slot, lane) = self.open(&mut file)?;
        let content = Content {
            len: file.len,
            crc: file.crc,
            places: file.places,
        };
        self.results
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .meet(&file.path, Entry::Listed(content));
        self.dispatch.send(lane, Op::Close(slot))
    }
}
