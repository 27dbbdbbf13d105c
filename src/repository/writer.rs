//! An archive on its way into a store: cut into segments at chunk borders, indexed on the way, committed by its manifest.

use std::collections::{HashMap, VecDeque};

use bytes::{Buf as _, Bytes};

use crate::base::error::{Error, Kind, Result};
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::pipeline::output::ByteSink;
use crate::repository::catalog::{Repository, check_name};
use crate::repository::cut::{Cutter, SEGMENT_LEN, Shares};
use crate::repository::facts::Facts;
use crate::repository::index::Line;
use crate::repository::manifest::{MANIFEST_LEN_MAX, Manifest};
use crate::repository::uploads::{Closed, ObjectWriter, Uploads};
use crate::store::{self, Class, PART_LEN_MIN};
use crate::xbstream::{
    ArchivePath, Body, ChunkHead, CrcCheck, Decoder, Event, FLAG_REWRITE, Options,
};

/// Bytes of a part of the index.
const INDEX_PART_LEN: usize = 5 << 20;

const _: () = assert!(INDEX_PART_LEN as u64 >= PART_LEN_MIN);

/// Writes one backup. Dropped without [`Writer::commit`], it removes what it has sent.
#[derive(Debug)]
pub struct Writer {
    repository: Repository,
    name: String,
    manifest: Manifest,
    uploads: Uploads,
    pool: BufPool,
    index_pool: BufPool,
    index: ObjectWriter,
    index_parts: u64,
    segment: Option<ObjectWriter>,
    segments: Vec<Closed>,
    decoder: Decoder,
    cutter: Cutter,
    /// Bytes that were fed and not yet stored, from this position of the archive on.
    waiting: VecDeque<Bytes>,
    stored: u64,
    /// Positions where segments begin.
    cuts: VecDeque<u64>,
    /// Numbers of the open files. One that has ended costs nothing.
    files: HashMap<ArchivePath, u64>,
    next_file: u64,
    /// File and length of the run at hand.
    current: Option<(u64, u64)>,
    /// The chunk whose payload is passing.
    head: Option<ChunkHead>,
    entangled: bool,
    facts: Facts,
}

impl Writer {
    /// Begins the backup `name`, which must not exist. `memory` is what parts and whatever feeds them may take together.
    pub fn begin(repository: &Repository, name: &str, shares: Shares, run: &Run) -> Result<Self> {
        Self::with_segments(repository, name, shares, SEGMENT_LEN, run)
    }

    /// The same with segments of another length.
    pub fn with_segments(
        repository: &Repository,
        name: &str,
        shares: Shares,
        segment_len: u64,
        run: &Run,
    ) -> Result<Self> {
        check_name(name)?;
        repository.must_not_exist(name)?;
        let manifest = Manifest::new(
            uuid::Uuid::new_v4(),
            jiff::Timestamp::now(),
            shares.part_len,
        );
        let part_len = usize::try_from(shares.part_len).unwrap_or(usize::MAX);
        let store = repository.store();
        let uploads = Uploads::start(store, shares.bufs.saturating_sub(1), run)?;
        let index = ObjectWriter::begin(&uploads, repository.index_key(name, &manifest.run));
        let mut writer = Self {
            repository: repository.clone(),
            name: name.to_owned(),
            pool: BufPool::new(shares.bufs, part_len),
            index_pool: BufPool::new(2, INDEX_PART_LEN),
            index,
            index_parts: 0,
            segment: None,
            segments: Vec::new(),
            decoder: Decoder::new(Options {
                crc: CrcCheck::Caller,
                skip_ignorable: true,
            }),
            cutter: Cutter::new(shares.part_len, segment_len),
            waiting: VecDeque::new(),
            stored: 0,
            cuts: VecDeque::new(),
            files: HashMap::new(),
            next_file: 0,
            current: None,
            head: None,
            entangled: false,
            facts: Facts::default(),
            manifest,
            uploads,
        };
        writer.line(&Line::Header)?;
        Ok(writer)
    }

    /// Takes the next bytes of the archive.
    pub fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.waiting.push_back(bytes.clone());
        self.decoder.feed(bytes);
        while let Some(event) = self.decoder.next()? {
            self.event(event)?;
        }
        self.store_until(self.decoder.position())
    }

    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Chunk(head) => self.chunk(head),
            Event::Data { file_offset, bytes } => {
                if let Some(head) = &self.head {
                    self.facts.data(&head.path, file_offset, &bytes);
                }
                Ok(())
            }
            Event::Hole { .. } | Event::ChunkEnd(_) => Ok(()),
        }
    }

    fn chunk(&mut self, head: ChunkHead) -> Result<()> {
        let head_len = self.decoder.position().saturating_sub(head.position);
        let len = head_len + head.payload_len();
        // r[repository.segment.border]
        if self.cutter.chunk(len, head.position)? {
            self.cuts.push_back(head.position);
        }
        let restructures = matches!(head.body, Body::Rename { .. } | Body::Remove { .. });
        if (restructures || head.flags == FLAG_REWRITE) && !self.entangled {
            self.entangled = true;
            self.line(&Line::Entangled)?;
        }
        let file = match self.files.get(&head.path) {
            Some(file) => *file,
            None => {
                let file = self.next_file;
                self.next_file += 1;
                self.end_run()?;
                self.line(&Line::File(head.path.as_bytes().to_vec()))?;
                self.files.insert(head.path.clone(), file);
                file
            }
        };
        match &mut self.current {
            Some((current, bytes)) if *current == file => *bytes += len,
            _ => {
                self.end_run()?;
                self.current = Some((file, len));
            }
        }
        if matches!(
            head.body,
            Body::End | Body::Rename { .. } | Body::Remove { .. }
        ) {
            self.files.remove(&head.path);
        }
        self.facts.chunk(&head);
        self.head = Some(head);
        Ok(())
    }

    fn end_run(&mut self) -> Result<()> {
        match self.current.take() {
            Some((file, len)) => self.line(&Line::Run { file, len }),
            None => Ok(()),
        }
    }

    fn line(&mut self, line: &Line) -> Result<()> {
        let mut text = Vec::new();
        line.append_to(&mut text);
        self.index
            .write(&text, &self.index_pool, &self.uploads, &mut |_| {})
    }

    /// Hands over what is known to belong to whole heads.
    fn store_until(&mut self, end: u64) -> Result<()> {
        while self.stored < end {
            let Some(mut front) = self.waiting.pop_front() else {
                break;
            };
            if self.cuts.front() == Some(&self.stored) {
                self.cuts.pop_front();
                self.end_segment()?;
            }
            let until = self.cuts.front().copied().unwrap_or(end).min(end);
            let room = usize::try_from(until - self.stored).unwrap_or(usize::MAX);
            let now = front.split_to(front.len().min(room));
            if front.has_remaining() {
                self.waiting.push_front(front);
            }
            self.stored += now.len() as u64;
            self.store(&now)?;
        }
        Ok(())
    }

    fn store(&mut self, bytes: &[u8]) -> Result<()> {
        let mut crcs = Vec::new();
        if self.segment.is_none() {
            let number = self.segments.len();
            let key = self
                .repository
                .segment_key(&self.name, &self.manifest.run, number);
            self.segment = Some(ObjectWriter::begin(&self.uploads, key));
        }
        if let Some(segment) = &mut self.segment {
            segment.write(bytes, &self.pool, &self.uploads, &mut |crc| crcs.push(crc))?;
        }
        self.part_lines(&crcs)
    }

    fn part_lines(&mut self, crcs: &[u32]) -> Result<()> {
        for crc in crcs {
            self.index_parts += 1;
            self.line(&Line::Part(*crc))?;
        }
        Ok(())
    }

    fn end_segment(&mut self) -> Result<()> {
        let Some(segment) = self.segment.take() else {
            return Ok(());
        };
        let mut crcs = Vec::new();
        let closed = segment.close(&self.uploads, &mut |crc| crcs.push(crc))?;
        self.segments.push(closed);
        self.part_lines(&crcs)
    }

    /// Fails if what was written is a backup of another program that has not come to its end. `r[repository.unfinished]`
    pub fn must_be_finished(&mut self) -> Result<()> {
        self.take_last()?;
        if !self.facts.is_unfinished() {
            return Ok(());
        }
        let what = "the archive is a backup that ends before its last file (xtrabackup_info, \
                    mariadb_backup_info or xtrabackup_tablespaces)";
        Err(Error::new(Kind::Incomplete, what).hint(
            "its producer was ended, or says so above; --allow-unfinished stores it all the same",
        ))
    }

    fn take_last(&mut self) -> Result<()> {
        while let Some(event) = self.decoder.finish()? {
            self.event(event)?;
        }
        Ok(())
    }

    /// Everything was written and is right: sends the rest and makes the backup exist.
    pub fn commit(mut self) -> Result<Manifest> {
        self.take_last()?;
        self.store_until(self.decoder.position())?;
        if self.stored == 0 {
            return Err(Error::new(Kind::Incomplete, "the archive is empty"));
        }
        self.end_segment()?;
        self.end_run()?;
        self.line(&Line::End {
            bytes: self.stored,
            parts: self.index_parts,
        })?;
        let Self {
            repository,
            name,
            mut manifest,
            mut uploads,
            index,
            segments,
            stored,
            facts,
            ..
        } = self;
        let index = index.close(&uploads, &mut |_| {})?;
        uploads.settle()?;
        manifest.index = index.stored()?;
        for segment in &segments {
            manifest.segments.push(segment.stored()?);
        }
        manifest.archive = facts.archive(stored);
        manifest.backup = facts.backup();
        manifest.finished = jiff::Timestamp::now().to_string();
        // r[repository.commit]
        let published = publish(&repository, &name, &manifest);
        match published {
            Ok(()) => uploads.keep(),
            // Whether the manifest is there nobody knows, and what it refers to must be there then.
            Err(Unpublished::Doubtful(_)) => uploads.keep(),
            Err(Unpublished::Surely(_)) => {}
        }
        published.map_err(Unpublished::into_error)?;
        Ok(manifest)
    }
}

/// Why a backup was not committed, and whether that is certain.
#[derive(Debug)]
enum Unpublished {
    Surely(Error),
    Doubtful(Error),
}

impl Unpublished {
    fn into_error(self) -> Error {
        match self {
            Self::Surely(error) => error,
            Self::Doubtful(error) => Error::new(
                error.kind(),
                format!("whether the backup was committed is not known: {error}"),
            )
            .hint("look with xbpipe ls when the store answers again; xbpipe gc removes what is left over"),
        }
    }
}

/// How often a manifest is looked at that is neither ours nor another one: it may have been damaged on its way only.
const LOOKS_MAX: u32 = 3;

/// What there is where our manifest should be.
enum There {
    Ours,
    Anothers,
    Nothing,
    /// Nobody can tell.
    Unknown(Error),
}

fn look(store: &dyn store::Store, key: &str, text: &Bytes, run: &str) -> There {
    let mut looks = 0;
    loop {
        looks += 1;
        let there = match store::get_small(store, key, MANIFEST_LEN_MAX) {
            Ok((there, _)) => there,
            Err(fault) if fault.class == Class::NotFound => return There::Nothing,
            Err(fault) => return There::Unknown(fault.into()),
        };
        if there == text {
            return There::Ours;
        }
        match Manifest::parse(&there) {
            Ok(other) if other.run != run => return There::Anothers,
            _ if looks < LOOKS_MAX => {}
            _ => {
                let what = "the manifest is not read as it was put";
                return There::Unknown(Error::new(Kind::Store, what).path(key));
            }
        }
    }
}

/// Puts the manifest where no other one is.
fn publish(
    repository: &Repository,
    name: &str,
    manifest: &Manifest,
) -> std::result::Result<(), Unpublished> {
    let text = manifest.render().map(Bytes::from);
    let text = text.map_err(Unpublished::Surely)?;
    let key = repository.manifest_key(name);
    // r[repository.commit.checked] Not every store minds the condition, so look before and after.
    repository
        .must_not_exist(name)
        .map_err(Unpublished::Surely)?;
    let store = repository.store();
    let put = store.put(&key, text.clone(), true);
    if let Err(fault) = &put
        && (fault.class.is_worth_retrying() || fault.class == Class::Interrupted)
    {
        // It may still be carried out.
        return Err(Unpublished::Doubtful(fault.clone().into()));
    }
    match (look(store.as_ref(), &key, &text, &manifest.run), put) {
        // Also when only the answer to an earlier try was lost, and the store refuses another one.
        (There::Ours, _) => Ok(()),
        (There::Anothers, Err(fault)) if fault.class == Class::Exists => {
            Err(Unpublished::Surely(repository.exists(name)))
        }
        (There::Anothers, Ok(_)) => {
            let what = format!("somebody else has stored a backup {name:?} at the same time");
            let error = Error::new(Kind::Store, what);
            let hint = "this one was removed again; use another name";
            Err(Unpublished::Surely(error.hint(hint)))
        }
        (There::Nothing | There::Anothers, Err(fault)) => Err(Unpublished::Surely(fault.into())),
        (There::Nothing, Ok(_)) => {
            let what = format!("the store has taken the manifest of {name:?} and does not have it");
            Err(Unpublished::Doubtful(Error::new(Kind::Store, what)))
        }
        (There::Unknown(error), _) => Err(Unpublished::Doubtful(error)),
    }
}

impl ByteSink for Writer {
    fn write(&mut self, bytes: Bytes) -> Result<()> {
        Self::write(self, bytes)
    }

    fn commit(self: Box<Self>) -> Result<()> {
        Self::commit(*self).map(drop)
    }
}
