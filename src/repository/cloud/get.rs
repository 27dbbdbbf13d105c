//! `get` and `delete`: a backup by what the store lists, fetched several chunks at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use md5::{Digest as _, Md5};

use super::digests::{self, Digest};
use super::layout::{
    chunk_key, digests_key, is_marker, is_small_metadata, parse, prefix, whole_file,
};
use super::{CLOUD_BUF_LEN, OBJECTS_MAX};
use crate::base::cancel::POLL_INTERVAL;
use crate::base::error::{Error, Kind, Result};
use crate::base::monitor::Counters;
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::pipeline::output::{Output, Target};
use crate::pipeline::source::DAMAGED_READS_MAX;
use crate::store::{self, Class, Shared};
use crate::xbstream::{Body, ChunkHead, Decoder, Event, Tracker};

/// Numbers and lengths of the chunks of each file.
type Found = BTreeMap<String, Vec<(u64, u64)>>;

/// A file in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
struct StoredFile {
    path: String,
    /// Bytes of each of its chunks.
    lens: Vec<u64>,
    /// The MD5 of each of its chunks, if they are to be compared.
    digests: Vec<Digest>,
}

/// A backup, or some files of one, that is whole by what the store lists.
#[derive(Debug, Clone)]
pub struct CloudBackup {
    store: Shared,
    name: String,
    /// One with content first, if there is one.
    files: Vec<StoredFile>,
    /// Only some files are wanted.
    partial: bool,
}

fn found(store: &Shared, name: &str) -> Result<Found> {
    let prefix = prefix(name);
    let mut found = Found::new();
    let mut count = 0_usize;
    store::for_each_object(store.as_ref(), &prefix, |object| {
        let chunk = object.key.strip_prefix(&prefix).and_then(parse);
        // r[cloud-layout.foreign]
        let Some((path, index)) = chunk else {
            return Ok(());
        };
        count += 1;
        // r[cloud-layout.objects-max]
        if count > OBJECTS_MAX {
            let what = format!("backup {name} has more than {OBJECTS_MAX} objects");
            return Err(Error::new(Kind::Failed, what));
        }
        match found.get_mut(path) {
            Some(chunks) => chunks.push((index, object.len)),
            None => drop(found.insert(path.to_owned(), vec![(index, object.len)])),
        }
        Ok(())
    })?;
    Ok(found)
}

/// Refuses names that are not in the backup.
fn check_wanted(found: &Found, name: &str, wanted: &[String]) -> Result<()> {
    match wanted.iter().find(|path| !found.contains_key(*path)) {
        Some(path) => {
            let what = format!("backup {name} has no file");
            Err(Error::new(Kind::Failed, what)
                .path(path)
                .hint("names are those in the archive, with suffixes such as .zst"))
        }
        None => Ok(()),
    }
}

impl CloudBackup {
    /// Looks at what is there of the backup `name`, or of its files `wanted`. What is not whole is an error.
    pub fn open(store: &Shared, name: &str, wanted: &[String]) -> Result<Self> {
        let found = found(store, name)?;
        if found.is_empty() {
            let what = format!("there is no backup named {name}");
            return Err(Error::new(Kind::Store, what));
        }
        check_wanted(&found, name, wanted)?;
        let incomplete = |what: String| {
            Error::new(
                Kind::Incomplete,
                format!("backup {name} is incomplete: {what}"),
            )
            .hint("its upload was cut short, or objects were removed; use another backup")
        };
        // r[cloud-layout.whole]
        let marked = found.keys().any(|path| is_marker(path));
        let alone = found.keys().all(|path| is_small_metadata(path.as_bytes()));
        if wanted.is_empty() && !marked && !alone {
            return Err(incomplete(
                "it has none of the files that are written last".to_owned(),
            ));
        }
        let mut files = VecDeque::with_capacity(found.len());
        for (path, chunks) in found {
            if !wanted.is_empty() && !wanted.contains(&path) {
                continue;
            }
            let lens = whole_file(&path, chunks).map_err(incomplete)?;
            // r[cloud-layout.get.held]
            let first = is_marker(&path) && lens.len() > 1;
            let digests = Vec::new();
            let file = StoredFile {
                path,
                lens,
                digests,
            };
            if first {
                files.push_front(file);
            } else {
                files.push_back(file);
            }
        }
        let mut files = Vec::from(files);
        if let Some(at) = files.iter().position(|file| file.lens.len() > 1) {
            files.swap(0, at);
        }
        Ok(Self {
            store: Arc::clone(store),
            name: name.to_owned(),
            files,
            partial: !wanted.is_empty(),
        })
    }

    /// From now on everything is compared with the list of digests: what that names must be there, and what is there must be
    /// named. Tells whether there is a list. `r[cloud-layout.get.md5]`
    pub fn compare_digests(&mut self) -> Result<bool> {
        let mut listed: HashMap<&str, Vec<Option<Digest>>> = (self.files.iter())
            .map(|file| (file.path.as_str(), vec![None; file.lens.len()]))
            .collect();
        let list = digests_key(&self.name);
        let incomplete = |what: String| {
            let what = format!("backup {} is not as {list} says: {what}", self.name);
            Error::new(Kind::Incomplete, what)
                .hint("objects were removed, or the list is of another backup of this name")
        };
        let found = digests::read(self.store.as_ref(), &self.name, |digest, path, index| {
            let at = usize::try_from(index).unwrap_or(usize::MAX);
            match listed.get_mut(path).map(|chunks| chunks.get_mut(at)) {
                Some(Some(chunk)) => *chunk = Some(digest),
                None if self.partial => {}
                _ => return Err(incomplete(format!("chunk {index} of {path:?} is missing"))),
            }
            Ok(())
        })?;
        if !found {
            return Ok(false);
        }
        let mut digests = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let chunks = listed.remove(file.path.as_str()).unwrap_or_default();
            let whole: Option<Vec<Digest>> = chunks.into_iter().collect();
            let unnamed = || incomplete(format!("it does not name all of {:?}", file.path));
            digests.push(whole.ok_or_else(unnamed)?);
        }
        for (file, digests) in self.files.iter_mut().zip(digests) {
            file.digests = digests;
        }
        Ok(true)
    }

    fn key(&self, piece: &Piece) -> Result<(String, &StoredFile)> {
        let file = self.files.get(piece.file);
        let file = file.ok_or_else(|| Error::new(Kind::Failed, "there is no such file"))?;
        Ok((chunk_key(&self.name, &file.path, piece.index), file))
    }

    fn fetch(&self, piece: &Piece, buf: &mut [u8]) -> Result<()> {
        let (key, _) = self.key(piece)?;
        let read = self.store.read(&key, piece.offset, buf, &mut 0, None);
        read.map_err(|fault| match fault.class {
            Class::NotFound | Class::Short => {
                let what = format!("backup {} is not whole any more", self.name);
                Error::new(Kind::Incomplete, what).source(fault)
            }
            _ => fault.into(),
        })
    }
}

/// Some bytes of a chunk; all of them, unless it is longer than a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    file: usize,
    index: u64,
    offset: u64,
    len: usize,
    /// Nothing of the chunk follows.
    ends: bool,
}

impl Piece {
    const fn is_whole(&self) -> bool {
        self.offset == 0 && self.ends
    }
}

/// What comes in which order: so many files by turns, a chunk of each, and the end of the first file behind everything else.
/// `r[cloud-layout.get.order]` `r[cloud-layout.get.held]`
#[derive(Debug, Default)]
struct Sequence {
    width: usize,
    next_file: usize,
    /// File, chunk and place in it.
    turns: VecDeque<(usize, usize, u64)>,
    held: Option<(usize, usize, u64)>,
}

impl Sequence {
    fn next(&mut self, files: &[StoredFile]) -> Option<Piece> {
        loop {
            while self.turns.len() < self.width.max(1) && self.next_file < files.len() {
                self.turns.push_back((self.next_file, 0, 0));
                self.next_file += 1;
            }
            let turn = self.turns.pop_front().or_else(|| self.held.take());
            let (file, index, offset) = turn?;
            let lens = files.get(file).map_or(&[][..], |file| &file.lens);
            let Some(len) = lens.get(index) else {
                continue;
            };
            let is_end = index > 0 && index + 1 == lens.len();
            if file == 0 && is_end && offset == 0 && self.held.is_none() && !self.is_over(files) {
                self.held = turn;
                continue;
            }
            let rest = len.saturating_sub(offset);
            let now = usize::try_from(rest).map_or(CLOUD_BUF_LEN, |rest| rest.min(CLOUD_BUF_LEN));
            let ends = now as u64 == rest;
            if ends {
                self.turns.push_back((file, index + 1, 0));
            } else {
                // A chunk is in one piece in the stream.
                self.turns.push_front((file, index, offset + now as u64));
            }
            return Some(Piece {
                file,
                index: index as u64,
                offset,
                len: now,
                ends,
            });
        }
    }

    /// Nothing is left but what was held.
    fn is_over(&self, files: &[StoredFile]) -> bool {
        self.turns.is_empty() && self.next_file >= files.len()
    }
}

/// What was fetched and not yet written.
#[derive(Debug, Default)]
struct Window {
    sequence: Sequence,
    next: u64,
    /// Number behind the last piece, once that is known.
    end: Option<u64>,
    ready: BTreeMap<u64, (Piece, Result<Bytes>)>,
}

struct Fetching<'b> {
    backup: &'b CloudBackup,
    pool: BufPool,
    window: Mutex<Window>,
    filled: Condvar,
    over: AtomicBool,
    run: &'b Run,
}

impl Fetching<'_> {
    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever has a buffer takes the next piece, so the piece that everybody waits for always has one.
    fn work(&self) {
        while !self.over.load(Ordering::Acquire) {
            let Ok(mut buf) = self.pool.get(&self.run.cancel) else {
                return;
            };
            let (number, piece) = {
                let mut window = self.lock();
                let Some(piece) = window.sequence.next(&self.backup.files) else {
                    window.end = Some(window.next);
                    self.filled.notify_all();
                    return;
                };
                window.next += 1;
                (window.next - 1, piece)
            };
            let fetched = match buf.get_mut(..piece.len) {
                Some(room) => self.backup.fetch(&piece, room),
                None => Err(Error::new(Kind::Failed, "a piece is longer than a buffer")),
            };
            let failed = fetched.is_err();
            let fetched = fetched.map(|()| buf.freeze(piece.len));
            self.lock().ready.insert(number, (piece, fetched));
            self.filled.notify_all();
            if failed {
                return;
            }
        }
    }

    fn take(&self, number: u64) -> Result<Option<(Piece, Bytes)>> {
        let mut window = self.lock();
        loop {
            if let Some((piece, fetched)) = window.ready.remove(&number) {
                return Ok(Some((piece, fetched?)));
            }
            if window.end == Some(number) {
                return Ok(None);
            }
            self.run.cancel.check()?;
            let (next, _timeout) = self
                .filled
                .wait_timeout(window, POLL_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner);
            window = next;
        }
    }

    /// Checks and writes everything, in order.
    fn write(&self, output: &Output, told: &dyn Fn(&str, u64)) -> Result<()> {
        let mut check = Check::default();
        let mut number = 0;
        while let Some((piece, mut bytes)) = self.take(number)? {
            number += 1;
            let (key, file) = self.backup.key(&piece)?;
            let damaged = |e: Error| {
                e.path(format!("{}/{key}", self.backup.store.url()))
                    .hint("the object is damaged in the store; use another backup")
            };
            let mut reads = 1;
            // r[cloud-layout.get.checked] On the way, most likely: then it is right the next time.
            let head = loop {
                let head = check.examine(file, &piece, bytes.clone());
                if head.is_ok() || !piece.is_whole() || reads >= DAMAGED_READS_MAX {
                    break head;
                }
                reads += 1;
                let mut again = vec![0; piece.len];
                self.backup.fetch(&piece, &mut again)?;
                bytes = again.into();
            };
            if let Some(head) = head.map_err(damaged)? {
                let followed = check.tracker.chunk(&head);
                followed.map_err(|e| damaged(e.into()))?;
                told(&key, piece.offset + piece.len as u64);
            }
            let counters = self.run.monitor.counters();
            Counters::add(&counters.read_bytes, bytes.len() as u64);
            output.send(vec![bytes])?;
        }
        check.tracker.finish(0)?;
        Ok(())
    }
}

/// Whether the objects are the chunks that they should be.
#[derive(Default)]
struct Check {
    tracker: Tracker,
    /// The chunk at hand.
    decoder: Decoder,
    head: Option<ChunkHead>,
    digest: Md5,
}

impl Check {
    /// Takes some bytes of a chunk; its head at its end.
    fn examine(
        &mut self,
        file: &StoredFile,
        piece: &Piece,
        bytes: Bytes,
    ) -> Result<Option<ChunkHead>> {
        if piece.offset == 0 {
            self.decoder = Decoder::default();
            self.head = None;
            self.digest = Md5::new();
        }
        let at = usize::try_from(piece.index).unwrap_or(usize::MAX);
        let expected = file.digests.get(at);
        if expected.is_some() {
            self.digest.update(&bytes);
        }
        let wrong = |what: &str| Err(Error::new(Kind::Checksum, what));
        self.decoder.feed(bytes);
        loop {
            let event = match self.decoder.next()? {
                None if piece.ends => self.decoder.finish()?,
                event => event,
            };
            match event {
                None if !piece.ends => return Ok(None),
                None => break,
                Some(Event::Chunk(head)) if self.head.is_none() => self.head = Some(head),
                Some(Event::Chunk(_)) => return wrong("more than one chunk is in one object:"),
                Some(_) => {}
            }
        }
        let Some(head) = self.head.take() else {
            return wrong("an object is empty:");
        };
        if head.path.as_bytes() != file.path.as_bytes() {
            return wrong("the chunk belongs to another file than its object:");
        }
        let is_last = piece.index + 1 == file.lens.len() as u64;
        if matches!(head.body, Body::End) != is_last {
            return wrong("the end of the file is in the wrong object:");
        }
        if let Some(expected) = expected {
            let found: Digest = self.digest.finalize_reset().into();
            if found != *expected {
                return wrong("the MD5 is not that of the list:");
            }
        }
        Ok(Some(head))
    }
}

/// Writes the archive to standard output, with `parallel` chunks in flight. `told` hears of each chunk. Returns its bytes.
pub fn get(
    backup: &CloudBackup,
    parallel: usize,
    told: &dyn Fn(&str, u64),
    run: &Run,
) -> Result<u64> {
    let target = Target::Stdout { terminal: false };
    let output = Output::open(target, &run.cancel, Arc::clone(&run.monitor))?;
    let fetching = Fetching {
        backup,
        // r[cloud-layout.memory]
        pool: BufPool::new(parallel + 2, CLOUD_BUF_LEN),
        window: Mutex::new(Window {
            sequence: Sequence {
                width: parallel,
                ..Sequence::default()
            },
            ..Window::default()
        }),
        filled: Condvar::new(),
        over: AtomicBool::new(false),
        run,
    };
    let written = std::thread::scope(|scope| {
        for _ in 0..parallel.max(1) {
            let worker = std::thread::Builder::new()
                .name("fetch".to_owned())
                .spawn_scoped(scope, || fetching.work());
            if let Err(e) = worker {
                let error = Error::new(Kind::Failed, "cannot start a fetch thread").source(e);
                fetching.over.store(true, Ordering::Release);
                run.cancel.fail(&error);
                return Err(error);
            }
        }
        let written = fetching.write(&output, told);
        fetching.over.store(true, Ordering::Release);
        // Whoever still fetches need not.
        written.inspect_err(|error| run.cancel.fail(error))
    });
    written?;
    output.finish()
}

/// Removes a backup, or its files `wanted`: what makes it look whole comes first. `told` hears of each object. Returns how many
/// there were. `r[cloud-layout.delete]`
pub fn delete(store: &Shared, name: &str, wanted: &[String], told: &dyn Fn(&str)) -> Result<usize> {
    let found = found(store, name)?;
    check_wanted(&found, name, wanted)?;
    let mut keys = Vec::new();
    for marks in [true, false] {
        let files = found.iter().filter(|(path, _)| is_marker(path) == marks);
        for (path, chunks) in files.filter(|(p, _)| wanted.is_empty() || wanted.contains(p)) {
            keys.extend(chunks.iter().map(|(i, _)| chunk_key(name, path, *i)));
        }
    }
    let count = keys.len();
    if wanted.is_empty() {
        keys.push(digests_key(name));
    }
    for batch in keys.chunks(store::KEYS_MAX) {
        batch.iter().for_each(|key| told(key));
        store.delete(batch)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, lens: &[u64]) -> StoredFile {
        StoredFile {
            path: path.to_owned(),
            lens: lens.to_vec(),
            digests: Vec::new(),
        }
    }

    fn sequence(files: &[StoredFile], width: usize) -> Vec<(usize, u64, u64)> {
        let mut sequence = Sequence {
            width,
            ..Sequence::default()
        };
        std::iter::from_fn(|| sequence.next(files))
            .map(|p| (p.file, p.index, p.offset))
            .collect()
    }

    // r[cloud-layout.get.order] r[cloud-layout.get.held]
    #[test]
    fn files_take_turns_and_the_first_one_ends_last() {
        let files = [
            file("a", &[99, 15]),
            file("b", &[99, 99, 15]),
            file("c", &[15]),
        ];
        assert_eq!(
            sequence(&files, 2),
            [
                (0, 0, 0),
                (1, 0, 0),
                (1, 1, 0),
                (2, 0, 0),
                (1, 2, 0),
                (0, 1, 0)
            ]
        );
        assert_eq!(sequence(&files[..1], 4), [(0, 0, 0), (0, 1, 0)]);
        assert_eq!(sequence(&[], 4), []);
        assert_eq!(sequence(&files[2..], 4), [(0, 0, 0)]);
        // A chunk that is longer than a buffer stays in one piece.
        let long = CLOUD_BUF_LEN as u64 + 1;
        let files = [file("a", &[long, 15]), file("b", &[15])];
        assert_eq!(
            sequence(&files, 2),
            [
                (0, 0, 0),
                (0, 0, CLOUD_BUF_LEN as u64),
                (1, 0, 0),
                (0, 1, 0)
            ]
        );
    }
}
