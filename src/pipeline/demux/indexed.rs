//! An archive as a source by its index: only the files that the sink wants are read. `r[xbstream.index.seek]`

use std::collections::HashMap;
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
use crate::xbstream::ArchivePath;
use crate::xbstream::index::{IndexLine, Place};
use crate::xbstream::limits::OPEN_FILES_MAX;

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
    /// Slot and lane once it was begun.
    at: Option<(u32, usize)>,
    /// File position of its next chunk.
    offset: u64,
    places: Places,
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
    let mut kept = (0, 0);
    let mut wanted = match find_wanted(indexed, sink, &places, &mut kept) {
        Ok(wanted) => wanted,
        Err(error) if bad_index(&error) => {
            monitor.warning(format!("{error}; reading the whole archive instead"));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let total = wanted.values().map(|w| w.len).sum();
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
        feeder.feed(indexed, &mut wanted, options.in_order)
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
        files: results.files + kept.0,
        payload_bytes: results.payload_bytes + kept.1,
        archive_bytes: indexed.source().len(),
        end: End::Indexed,
        failures,
        incomplete: Vec::new(),
        stream_error: None,
        further: Vec::new(),
    }))
}

/// Goes through the whole index: checks it, and collects what is wanted by number. `kept` becomes the number and the bytes of
/// files that the sink has already.
fn find_wanted(
    indexed: &Indexed,
    sink: &dyn Sink,
    places: &Places,
    kept: &mut (u64, u64),
) -> Result<HashMap<u64, Wanted>> {
    let mut wanted = HashMap::new();
    // First position and sum of the lengths of files that have not ended.
    let mut begun: HashMap<u64, (u64, u64)> = HashMap::new();
    indexed.lines(|line| {
        match line {
            IndexLine::Chunks { member, list } => {
                if begun.len() >= OPEN_FILES_MAX {
                    return Err(wrong("the index has too many files open"));
                }
                for Place { position, len } in list {
                    let file = begun.entry(member).or_insert((position, 0));
                    file.1 = file.1.saturating_add(len);
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
                let (first, sum) = begun.remove(&member).unwrap_or((0, 0));
                if sum != len {
                    return Err(
                        wrong("lengths in the index do not add up for").path(path.as_path())
                    );
                }
                if !sink.wants(&path) {
                    return Ok(());
                }
                if sink.has(&path, len, crc)? {
                    kept.0 += 1;
                    kept.1 += len;
                    return Ok(());
                }
                let file = Wanted {
                    path,
                    len,
                    crc,
                    first,
                    at: None,
                    offset: 0,
                    places: places.clone(),
                };
                if wanted.insert(member, file).is_some() {
                    return Err(wrong("the index uses a number twice"));
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(wanted)
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
    fn feed(
        &mut self,
        indexed: &Indexed,
        wanted: &mut HashMap<u64, Wanted>,
        in_order: bool,
    ) -> Result<()> {
        if in_order {
            let mut order: Vec<&mut Wanted> = wanted.values_mut().collect();
            order.sort_by_key(|file| file.first);
            for file in order {
                self.open(file)?;
            }
        }
        let read = indexed.lines(|line| {
            match line {
                // Everything else was looked at when the index was read the first time.
                _ if self.stop.load(Ordering::Acquire) => {}
                IndexLine::Chunks { member, list } => {
                    if let Some(file) = wanted.get_mut(&member) {
                        self.chunks(file, &list)?;
                    }
                }
                IndexLine::File { member, .. } => {
                    if let Some(file) = wanted.remove(&member) {
                        self.close(file)?;
                    }
                }
                IndexLine::Directory { path } => self.sink.directory(&path)?,
                _ => {}
            }
            Ok(())
        });
        let sent = self.dispatch.send_all();
        read.and(sent)
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

    fn chunks(&mut self, file: &mut Wanted, list: &[Place]) -> Result<()> {
        let (slot, lane) = self.open(file)?;
        for place in list {
            let head = Head::Indexed {
                path: file.path.clone(),
                position: place.position,
            };
            let (len, offset) = (place.len, file.offset);
            file.offset = offset.saturating_add(len);
            file.places.add(*place);
            let chunk = FarChunk { head, len, offset };
            self.dispatch.far(slot, lane, chunk)?;
        }
        Ok(())
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
