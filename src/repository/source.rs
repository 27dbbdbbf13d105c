//! The archive of a backup in a store as bytes with positions: what is going to be read is fetched ahead in blocks, by several
//! threads, and a block stays until all that was expected of it has been read. `r[repository.read]`

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::base::cancel::POLL_INTERVAL;
use crate::base::error::{Error, Kind, Result};
use crate::base::monitor::Counters;
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::base::units::{ByteCount, MIB};
use crate::pipeline::input::{Extent, Feed};
use crate::pipeline::source::ReadAt;
use crate::repository::cut::Shares;
use crate::repository::reader::{Range, StoredBackup};

/// Bytes fetched at once where less than the whole archive is wanted: whole parts would bring too much that is not.
const PIECE_LEN: u64 = 2 * MIB;

/// Most bytes between two wanted ranges that are fetched along: less than what another request costs.
const GAP_LEN_MAX: u64 = 64 << 10;

/// At most one in so many bytes is fetched though nobody wants it: between two ranges, so that they are one request, and in a
/// part, so that it is whole and has a checksum.
const WASTE: u64 = 32;

/// Most threads that fetch.
const THREADS_MAX: usize = 32;

/// How long nothing at all may move before a reader fetches what it waits for by itself: whatever readers wait for, it ends.
const PATIENCE: Duration = Duration::from_secs(2);

/// An archive in a store that can be read anywhere.
#[derive(Debug)]
pub(super) struct StoredSource {
    fetching: Arc<Fetching>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Fetching {
    backup: StoredBackup,
    /// Where each segment begins, and the end of the last one.
    borders: Vec<u64>,
    extent: Extent,
    pool: BufPool,
    /// CRC-32 of every part, in order, once whole parts are fetched.
    crcs: Mutex<Option<Vec<u32>>>,
    state: Mutex<State>,
    changed: Condvar,
    /// A damaged part is an error; otherwise it is told of, and read as what nobody has compared.
    strict: bool,
    /// A damaged part was told of.
    warned: AtomicBool,
    run: Run,
}

impl std::fmt::Debug for Fetching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Fetching").field(&self.backup).finish()
    }
}

#[derive(Default)]
struct State {
    /// Blocks of which something is still to be read, by their positions. They do not overlap.
    blocks: BTreeMap<u64, Block>,
    /// Positions of those that nobody fetches yet, in the order in which they will be read. Some may be gone.
    queue: VecDeque<u64>,
    /// Blocks that are being fetched.
    coming: usize,
    /// Changes whenever something moves.
    moves: u64,
    ended: bool,
}

struct Block {
    range: Range,
    /// Bytes that are expected to be read and were not yet.
    expected: u64,
    content: Content,
}

enum Content {
    Queued,
    Coming,
    Here(Bytes),
    Failed(Failure),
}

/// Why a block could not be fetched, for everybody who waits for it.
#[derive(Debug, Clone)]
struct Failure {
    kind: Kind,
    what: String,
    hint: Option<String>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            kind: error.kind(),
            what: error.to_string(),
            hint: error.hint_text().map(str::to_owned),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let error = Self::new(failure.kind, failure.what);
        match failure.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// What there is at a position.
enum Found {
    /// The block that begins there.
    Block(u64, Bytes),
    /// Nothing that would come, up to there.
    Nothing(u64),
    /// The caller was told to stop.
    Stopped,
}

impl StoredSource {
    /// Within `memory`, less what is left of it for the pipeline.
    pub(super) fn new(
        backup: &StoredBackup,
        extent: Extent,
        strict: bool,
        memory: ByteCount,
        run: &Run,
    ) -> Result<Self> {
        let shares = Shares::new(memory)?;
        let manifest = backup.manifest();
        let room = shares.part_len * shares.bufs as u64;
        // Somebody with more memory may have written larger parts.
        let buf_len = match extent {
            Extent::Whole => {
                let longest = manifest.segments.iter().map(|s| s.len).max().unwrap_or(1);
                manifest.part_len.min(longest)
            }
            Extent::Some => manifest.part_len.min(PIECE_LEN),
        };
        let bufs = usize::try_from(room / buf_len.max(1)).unwrap_or(usize::MAX);
        if bufs < 2 {
            let what = format!(
                "--memory {memory} is too little for a backup that was stored in parts of {}",
                ByteCount(buf_len)
            );
            return Err(Error::new(Kind::Usage, what).hint("give --memory 64M or more"));
        }
        let mut end = 0;
        let borders = std::iter::once(0).chain(manifest.segments.iter().map(|segment| {
            end += segment.len;
            end
        }));
        let buf_len = usize::try_from(buf_len).unwrap_or(usize::MAX);
        let fetching = Fetching {
            backup: backup.clone(),
            borders: borders.collect(),
            extent,
            pool: BufPool::new(bufs.min(THREADS_MAX), buf_len),
            crcs: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            strict,
            warned: AtomicBool::new(false),
            run: run.clone(),
        };
        Ok(Self {
            fetching: Arc::new(fetching),
            threads: Mutex::default(),
        })
    }

    /// As many threads as have something to fetch, and a buffer for it.
    fn start_threads(&self, jobs: usize) -> Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        while threads.len() < jobs.min(self.fetching.pool.count()) {
            let fetching = Arc::clone(&self.fetching);
            let thread = std::thread::Builder::new()
                .name("fetch".to_owned())
                .spawn(move || fetching.work())
                .map_err(|e| Error::new(Kind::Failed, "cannot start a fetch thread").source(e))?;
            threads.push(thread);
        }
        Ok(())
    }
}

impl Drop for StoredSource {
    fn drop(&mut self) {
        let mut state = self.fetching.lock();
        state.ended = true;
        // Those that wait for a buffer get these.
        state.blocks.clear();
        drop(state);
        self.fetching.changed.notify_all();
        let threads = std::mem::take(&mut self.threads);
        for thread in threads.into_inner().unwrap_or_else(PoisonError::into_inner) {
            thread.join().ok();
        }
    }
}

impl ReadAt for StoredSource {
    fn len(&self) -> u64 {
        self.fetching.len()
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> Result<usize> {
        let rest = self.len().saturating_sub(position);
        let len = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        let mut done = 0;
        while done < len {
            let at = position + done as u64;
            let room = buf.get_mut(done..len).unwrap_or_default();
            done += match self.fetching.block_at(at)? {
                Found::Block(begin, bytes) => {
                    let skip = usize::try_from(at - begin).unwrap_or(usize::MAX);
                    let bytes = bytes.get(skip..).unwrap_or_default();
                    let n = bytes.len().min(room.len());
                    room.get_mut(..n)
                        .unwrap_or_default()
                        .copy_from_slice(bytes.get(..n).unwrap_or_default());
                    n
                }
                Found::Nothing(end) => {
                    let n = usize::try_from(end - at).unwrap_or(usize::MAX);
                    let n = n.min(room.len());
                    let room = room.get_mut(..n).unwrap_or_default();
                    self.fetching.fetch_now(at, room)?;
                    n
                }
                Found::Stopped => return Ok(done),
            };
        }
        Counters::add(&self.fetching.run.monitor.counters().read_bytes, len as u64);
        Ok(len)
    }

    fn consumed(&self, _position: u64) -> Result<()> {
        Ok(())
    }

    fn crc32(&self, position: u64, len: u64, skip: u64) -> Result<Option<u32>> {
        self.fetching.crc32(position, len, skip)
    }

    fn again(&self, position: u64, len: u64) -> bool {
        self.fetching.again(position, len)
    }

    fn expect(&self, ranges: &[(u64, u64)]) -> Result<()> {
        self.start_threads(self.fetching.expect(ranges)?)
    }

    fn release(&self, position: u64, len: u64) {
        self.fetching.release(position, len);
    }

    fn is_near(&self, position: u64, len: u64) -> bool {
        self.fetching.is_near(position, len)
    }

    fn horizon(&self) -> u64 {
        self.fetching.horizon()
    }

    fn moves(&self) -> u64 {
        self.fetching.lock().moves
    }

    fn wait(&self, moves: u64) -> Result<()> {
        self.fetching.wait(moves)
    }
}

impl Fetching {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> u64 {
        self.borders.last().copied().unwrap_or(0)
    }

    /// The segment that holds a position inside the archive, and where it begins and ends.
    fn segment_at(&self, position: u64) -> (usize, u64, u64) {
        let segment = self.borders.partition_point(|border| *border <= position);
        let segment = segment.saturating_sub(1);
        let begin = self.borders.get(segment).copied().unwrap_or(0);
        let end = self.borders.get(segment + 1).copied();
        (segment, begin, end.unwrap_or(begin))
    }

    /// The part that holds a position: where it begins and ends.
    fn part_at(&self, position: u64) -> (u64, u64) {
        let part_len = self.backup.manifest().part_len;
        let (_, begin, end) = self.segment_at(position);
        let part = begin + (position - begin) / part_len * part_len;
        (part, end.min(part.saturating_add(part_len)))
    }

    /// Notes what is going to be read; returns the number of blocks to fetch.
    fn expect(&self, ranges: &[(u64, u64)]) -> Result<usize> {
        let whole = self.len();
        let clipped = ranges.iter().filter_map(|(position, len)| {
            let end = position.saturating_add(*len).min(whole);
            (*position < end).then_some((*position, end))
        });
        let clipped: Vec<(u64, u64)> = clipped.collect();
        let ranges = self.ranges(&clipped)?;
        let mut state = self.lock();
        for (position, range) in ranges {
            state.add(position, range);
        }
        for (begin, end) in clipped {
            state.each_overlap(begin, end, |block, len| block.expected += len);
        }
        state.blocks.retain(|_, block| block.expected > 0);
        let jobs = state.queue.len();
        drop(state);
        self.changed.notify_all();
        Ok(jobs)
    }

    /// What to fetch for these ranges, given by begin and end in ascending order. `r[repository.read.blocks]`
    fn ranges(&self, wanted: &[(u64, u64)]) -> Result<Vec<(u64, Range)>> {
        // Whole ranges, cut at the borders of parts.
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for (begin, end) in wanted.iter().copied() {
            let mut at = begin;
            if let Some(last) = pieces.last_mut()
                && begin - last.1.min(begin) <= GAP_LEN_MAX.min((last.1 - last.0) / WASTE)
            {
                at = last.1;
            }
            while at < end {
                let (part, part_end) = self.part_at(at);
                let until = end.min(part_end);
                match pieces.last_mut() {
                    Some(last) if last.1 == at && last.0 >= part => last.1 = until,
                    _ => pieces.push((at, until)),
                }
                at = until;
            }
        }
        let mut ranges = Vec::with_capacity(pieces.len());
        let mut pieces = pieces.as_slice();
        while let Some((first, _)) = pieces.first() {
            let (part, part_end) = self.part_at(*first);
            let (of_part, rest) = pieces.split_at(pieces.partition_point(|p| p.0 < part_end));
            pieces = rest;
            let part_len = part_end - part;
            let len: u64 = of_part.iter().map(|(begin, end)| end - begin).sum();
            if self.extent == Extent::Whole && part_len - len <= part_len / WASTE {
                ranges.push((part, self.range(part, part_end, Some(self.part_crc(part)?))));
                continue;
            }
            for (begin, end) in of_part.iter().copied() {
                let mut at = begin;
                while at < end {
                    let until = end.min(at.saturating_add(self.pool.buf_size() as u64));
                    ranges.push((at, self.range(at, until, None)));
                    at = until;
                }
            }
        }
        Ok(ranges)
    }

    fn range(&self, begin: u64, end: u64, crc32: Option<u32>) -> Range {
        let (segment, segment_begin, _) = self.segment_at(begin);
        Range {
            segment,
            offset: begin - segment_begin,
            len: end - begin,
            crc32,
        }
    }

    /// CRC-32 of the part that begins there.
    fn part_crc(&self, position: u64) -> Result<u32> {
        let mut crcs = self.crcs.lock().unwrap_or_else(PoisonError::into_inner);
        let crcs = match &mut *crcs {
            Some(crcs) => crcs,
            none => none.insert(self.backup.part_crcs()?),
        };
        let manifest = self.backup.manifest();
        let (segment, begin, _) = self.segment_at(position);
        let before = manifest.segments.iter().take(segment);
        let before: u64 = before.map(|s| s.len.div_ceil(manifest.part_len)).sum();
        let number = before + (position - begin) / manifest.part_len;
        let crc = usize::try_from(number).ok().and_then(|n| crcs.get(n));
        let none = || Error::new(Kind::Checksum, "the index lacks a part of the archive");
        crc.copied().ok_or_else(none)
    }

    /// Whoever has a buffer takes the next block, so the one that is read next always has one.
    fn work(&self) {
        while let Ok(mut buf) = self.pool.get(&self.run.cancel) {
            let Some((position, range)) = self.next_job() else {
                return;
            };
            let len = usize::try_from(range.len).unwrap_or(usize::MAX);
            let fetched = match buf.get_mut(..len) {
                Some(room) => self.backup.fetch(&range, room),
                None => Err(Error::new(Kind::Failed, "a range is longer than a buffer")),
            };
            Counters::add(&self.run.monitor.counters().reads, 1);
            let (content, crc32) = match fetched {
                Ok(()) => (Content::Here(buf.freeze(len)), range.crc32),
                // Whether the damage is where somebody reads, checksums of chunks tell.
                Err(error) if error.kind() == Kind::Checksum && !self.strict => {
                    self.warn(&error);
                    (Content::Here(buf.freeze(len)), None)
                }
                Err(error) => (Content::Failed(error.into()), None),
            };
            let mut state = self.lock();
            state.coming -= 1;
            state.moves += 1;
            // Perhaps nobody wants it any more.
            if let Some(block) = state.blocks.get_mut(&position) {
                block.content = content;
                block.range.crc32 = crc32;
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn next_job(&self) -> Option<(u64, Range)> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            while let Some(position) = state.queue.pop_front() {
                let block = state.blocks.get_mut(&position);
                if let Some(block) = block.filter(|b| matches!(b.content, Content::Queued)) {
                    block.content = Content::Coming;
                    let range = block.range;
                    state.coming += 1;
                    state.moves += 1;
                    return Some((position, range));
                }
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for what is at a position, if it is expected to come.
    fn block_at(&self, position: u64) -> Result<Found> {
        self.wait_for(position, Some(PATIENCE), &AtomicBool::new(false))
    }

    fn wait_for(
        &self,
        position: u64,
        patience: Option<Duration>,
        stop: &AtomicBool,
    ) -> Result<Found> {
        let (_, _, segment_end) = self.segment_at(position);
        let mut state = self.lock();
        let (mut moves, mut since) = (state.moves, Instant::now());
        loop {
            let Some((begin, block)) = state.block_at(position) else {
                let next = state.blocks.range(position..).next();
                let end = next.map_or(segment_end, |(next, _)| segment_end.min(*next));
                return Ok(Found::Nothing(end));
            };
            let end = begin + block.range.len;
            match &block.content {
                Content::Here(bytes) => return Ok(Found::Block(begin, bytes.clone())),
                Content::Failed(failure) => return Err(failure.clone().into()),
                Content::Queued | Content::Coming => {}
            }
            self.run.cancel.check()?;
            if stop.load(Ordering::Acquire) {
                return Ok(Found::Stopped);
            }
            if state.moves != moves || state.coming > 0 {
                (moves, since) = (state.moves, Instant::now());
            } else if patience.is_some_and(|patience| since.elapsed() >= patience) {
                return Ok(Found::Nothing(end));
            }
            let (next, _timeout) = self
                .changed
                .wait_timeout(state, POLL_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
    }

    /// CRC-32 of what is or comes there, unless all of it was compared when it was fetched. `r[repository.read.checked]`
    fn crc32(&self, position: u64, len: u64, skip: u64) -> Result<Option<u32>> {
        let end = position.saturating_add(len).min(self.len());
        let mut is_checked = true;
        self.lock().each_overlap(position, end, |block, _| {
            is_checked &= block.range.crc32.is_some();
        });
        if is_checked || !self.fits(len) {
            return Ok(None);
        }
        let mut sum = crc32fast::Hasher::new();
        let mut at = position.saturating_add(skip);
        while at < end {
            let Found::Block(begin, bytes) = self.block_at(at)? else {
                return Ok(None);
            };
            let index = |position: u64| usize::try_from(position - begin).unwrap_or(usize::MAX);
            let until = end.min(begin + bytes.len() as u64);
            sum.update(bytes.get(index(at)..index(until)).unwrap_or_default());
            at = until;
        }
        Ok(Some(sum.finalize()))
    }

    /// Asks again for what is there and was not compared when it was fetched; what is not held is fetched again anyhow.
    fn again(&self, position: u64, len: u64) -> bool {
        let end = position.saturating_add(len).min(self.len());
        let mut state = self.lock();
        let (mut held, mut checked, mut refused) = (0, 0, Vec::new());
        state.each_overlap(position, end, |block, len| {
            held += len;
            match block.content {
                Content::Here(_) if block.range.crc32.is_none() => {
                    block.content = Content::Queued;
                    refused.push(block.range);
                }
                Content::Here(_) | Content::Failed(_) => checked += len,
                Content::Queued | Content::Coming => {}
            }
        });
        for range in refused.iter().rev() {
            let begin = self.begin_of(range);
            state.queue.push_front(begin);
        }
        state.moves += 1;
        drop(state);
        self.changed.notify_all();
        checked < held || held < end - position.min(end)
    }

    /// Whether so many bytes can be held at once whatever else is.
    fn fits(&self, len: u64) -> bool {
        len <= (self.pool.count() * self.pool.buf_size()) as u64 / 2
    }

    /// Where in the archive a range begins.
    fn begin_of(&self, range: &Range) -> u64 {
        let segment = self.borders.get(range.segment).copied();
        segment.unwrap_or(0) + range.offset
    }

    /// Tells of the first part that is damaged in the store.
    fn warn(&self, error: &Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            self.run.monitor.warning(error.to_string());
        }
    }

    /// Fetches what nobody expected; all of it lies in one segment.
    fn fetch_now(&self, position: u64, buf: &mut [u8]) -> Result<()> {
        let range = self.range(position, position + buf.len() as u64, None);
        Counters::add(&self.run.monitor.counters().reads, 1);
        self.backup.fetch(&range, buf)
    }

    fn release(&self, position: u64, len: u64) {
        let end = position.saturating_add(len).min(self.len());
        let mut state = self.lock();
        let mut done = Vec::new();
        state.each_overlap(position, end, |block, len| {
            block.expected = block.expected.saturating_sub(len);
            if block.expected == 0 {
                done.push(block.range);
            }
        });
        if done.is_empty() {
            return;
        }
        for range in done {
            state.blocks.remove(&self.begin_of(&range));
        }
        state.moves += 1;
        drop(state);
        self.changed.notify_all();
    }

    fn is_near(&self, position: u64, len: u64) -> bool {
        let state = self.lock();
        let mut end = position.saturating_add(len).min(self.len());
        if !self.fits(len) {
            // It might never be there as a whole; whoever reads it releases what it has read.
            end = end.min(position + 1);
        }
        let mut at = position;
        while at < end {
            match state.block_at(at) {
                Some((_, block)) if block.is_on_its_way() => return false,
                Some((begin, block)) => at = begin + block.range.len,
                None => {
                    let next = state.blocks.range(at..).next();
                    at = next.map_or(end, |(next, _)| *next);
                }
            }
        }
        true
    }

    fn horizon(&self) -> u64 {
        let state = self.lock();
        let queued = |position: &&u64| {
            let block = state.blocks.get(*position);
            block.is_some_and(|block| matches!(block.content, Content::Queued))
        };
        state.queue.iter().find(queued).copied().unwrap_or(u64::MAX)
    }

    /// Waits until something has moved, but not for long.
    fn wait(&self, moves: u64) -> Result<()> {
        self.run.cancel.check()?;
        let state = self.lock();
        drop(
            self.changed
                .wait_timeout_while(state, POLL_INTERVAL, |state| state.moves == moves)
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.run.cancel.check()
    }
}

impl Block {
    fn is_on_its_way(&self) -> bool {
        matches!(self.content, Content::Queued | Content::Coming)
    }
}

impl State {
    /// The block that holds a position.
    fn block_at(&self, position: u64) -> Option<(u64, &Block)> {
        let (begin, block) = self.blocks.range(..=position).next_back()?;
        (position - begin < block.range.len).then_some((*begin, block))
    }

    /// Adds a block, less what others hold already.
    fn add(&mut self, position: u64, range: Range) {
        let end = position + range.len;
        let mut gaps = Vec::new();
        let mut at = position;
        while at < end {
            if let Some((begin, block)) = self.block_at(at) {
                at = begin + block.range.len;
                continue;
            }
            let next = self.blocks.range(at..end).next();
            let until = next.map_or(end, |(next, _)| *next);
            gaps.push((at, until));
            at = until;
        }
        for (begin, until) in gaps {
            let part = until - begin < range.len;
            let range = Range {
                offset: range.offset + (begin - position),
                len: until - begin,
                crc32: range.crc32.filter(|_| !part),
                ..range
            };
            let block = Block {
                range,
                expected: 0,
                content: Content::Queued,
            };
            self.blocks.insert(begin, block);
            self.queue.push_back(begin);
        }
    }

    /// Every block that holds something between two positions, and how much.
    fn each_overlap(&mut self, begin: u64, end: u64, mut each: impl FnMut(&mut Block, u64)) {
        let first = self.block_at(begin).map_or(begin, |(first, _)| first);
        for (at, block) in self.blocks.range_mut(first..end.max(first)) {
            let len = end.min(at + block.range.len) - begin.max(*at);
            each(block, len);
        }
    }
}

/// The archive, or those ranges of it that matter, in order.
pub(super) struct StoredFeed {
    backup: StoredBackup,
    names: Vec<std::ffi::OsString>,
    source: StoredSource,
    /// What is still to be delivered, by begin and length; nothing before the first bytes were asked for.
    runs: Option<VecDeque<(u64, u64)>>,
}

impl StoredFeed {
    /// Fetches nothing before it is asked.
    pub(super) fn new(
        backup: &StoredBackup,
        names: &[std::ffi::OsString],
        memory: ByteCount,
        run: &Run,
    ) -> Result<Self> {
        Ok(Self {
            backup: backup.clone(),
            names: names.to_vec(),
            source: StoredSource::new(backup, Extent::Whole, true, memory, run)?,
            runs: None,
        })
    }

    fn begin(&self) -> Result<VecDeque<(u64, u64)>> {
        let runs = self.backup.runs(&self.names)?;
        let total = runs.iter().map(|(_, len)| len).sum();
        let counters = self.source.fetching.run.monitor.counters();
        Counters::set(&counters.total_bytes, total);
        self.source.expect(&runs)?;
        Ok(runs.into())
    }
}

impl Feed for StoredFeed {
    fn next(&mut self, stop: &AtomicBool) -> Result<Option<Bytes>> {
        if self.runs.is_none() {
            self.runs = Some(self.begin()?);
        }
        let fetching = &self.source.fetching;
        let Some((position, len)) = self.runs.as_mut().and_then(VecDeque::pop_front) else {
            return Ok(Some(Bytes::new()));
        };
        let (begin, bytes) = match fetching.wait_for(position, None, stop)? {
            Found::Block(begin, bytes) => (begin, bytes),
            Found::Nothing(_) => {
                return Err(Error::new(Kind::Failed, "a range was not expected").at(position));
            }
            Found::Stopped => {
                if let Some(runs) = &mut self.runs {
                    runs.push_front((position, len));
                }
                return Ok(None);
            }
        };
        let skip = position - begin;
        let n = len.min(bytes.len() as u64 - skip);
        let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let bytes = bytes.slice(index(skip)..index(skip + n));
        fetching.release(position, n);
        if let (Some(runs), true) = (&mut self.runs, n < len) {
            runs.push_front((position + n, len - n));
        }
        Counters::add(&fetching.run.monitor.counters().read_bytes, n);
        Ok(Some(bytes))
    }
}
