//! Copies files into the sink on several lanes, and keeps the ledger of what was sent.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backup::ahead::Ahead;
use crate::backup::copy_pages::{Check, Copier, Head};
use crate::backup::damage::Damage;
use crate::backup::follow_redo::{CopiedLog, LOG_NAME};
use crate::backup::inventory::{PlainFile, Stamp, Tablespace, if_there};
use crate::backup::ledger::Ledger;
use crate::backup::reading;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::File;
use crate::base::monitor::Counters;
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::base::units::{PageNo, SpaceId};
use crate::innodb::aria::AriaFile;
use crate::innodb::check::PageCheck;
use crate::innodb::tablespace::SpaceFlags;
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::pipeline::tree::{copy_file, run_lanes};
use crate::xbstream::ArchivePath;

/// One file of pages to copy.
pub(super) struct Work {
    pub(super) space: Tablespace,
    pub(super) kind: SpaceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpaceKind {
    /// A file of the system tablespace, beginning with this page.
    System(PageNo),
    Undo,
    Table,
}

/// Everything that copies, shared by the lanes.
#[derive(Clone)]
pub(super) struct Copy<'a> {
    pub(super) sink: &'a dyn Sink,
    pub(super) pool: BufPool,
    pub(super) lanes: usize,
    pub(super) page_len: usize,
    /// `None` when Aria encrypts: its pages can then only be checked by somebody who has the key.
    pub(super) aria_block_len: Option<usize>,
    pub(super) ledger: &'a Mutex<Ledger>,
    /// Damaged pages of tablespaces.
    pub(super) damage: &'a Damage,
    /// The first file of the system tablespace says how the pages of all of them are summed.
    pub(super) system_flags: Option<SpaceFlags>,
    pub(super) run: &'a Run,
}

impl Copy<'_> {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(self.ledger)
    }

    pub(super) fn copier(&self) -> Copier<'_> {
        Copier {
            pool: &self.pool,
            cancel: &self.run.cancel,
            monitor: self.run.monitor.as_ref(),
            page_len: self.page_len,
            damage: None,
        }
    }

    /// One that goes on behind damaged pages; [`Copy::tablespaces`] ends with them.
    fn collector(&self) -> Copier<'_> {
        Copier {
            damage: Some(self.damage),
            ..self.copier()
        }
    }

    /// The same with another sink and other buffers.
    pub(super) fn redirected<'b>(&'b self, sink: &'b dyn Sink, pool: &BufPool) -> Copy<'b> {
        Copy {
            sink,
            pool: pool.clone(),
            ..self.clone()
        }
    }

    /// The system tablespace's files with the numbers of their first pages.
    pub(super) fn system_work(&mut self, files: &[Tablespace]) -> Result<Vec<Work>> {
        let Some(first) = files.first() else {
            return Err(Error::new(
                Kind::Server,
                "the server has no system tablespace",
            ));
        };
        self.system_flags = match self.copier().head(&reading::open(&first.place)?)? {
            Head::Known(page0) => Some(page0.flags),
            Head::Pending => {
                return Err(Error::new(
                    Kind::Checksum,
                    "the system tablespace begins with a page of zeros",
                )
                .path(&first.place));
            }
        };
        let mut page: u64 = 0;
        let mut work = Vec::new();
        for file in files {
            let number = u32::try_from(page).map_err(|e| {
                Error::new(Kind::Server, "the system tablespace is too long")
                    .path(&file.place)
                    .source(e)
            })?;
            work.push(Work {
                space: file.clone(),
                kind: SpaceKind::System(PageNo(number)),
            });
            page += file.size / self.page_len as u64;
        }
        Ok(work)
    }

    /// Copies files of pages on all lanes, the largest first so that the lanes end together. All are read to their ends
    /// before damaged pages are an error.
    pub(super) fn tablespaces(&self, mut work: Vec<Work>) -> Result<()> {
        let total = work.iter().map(|w| w.space.size).sum();
        Counters::add(&self.run.monitor.counters().total_bytes, total);
        work.sort_by_key(|w| std::cmp::Reverse(w.space.size));
        self.on_lanes(work, |work| {
            let read = self.tablespace(&work)?;
            self.read_instead(work.space.size, read);
            Ok(())
        })?;
        self.damage.verdict()
    }

    /// Something was counted on with `expected` bytes and had `read`.
    fn read_instead(&self, expected: u64, read: u64) {
        let total = &self.run.monitor.counters().total_bytes;
        Counters::correct(total, expected, read);
    }

    fn on_lanes<T: Send>(&self, items: Vec<T>, f: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
        let lanes = self.lanes.min(items.len()).max(1);
        let queue = Mutex::new(VecDeque::from(items));
        let next = || {
            queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front()
        };
        run_lanes(lanes, &self.run.cancel, || {
            while let Some(item) = next() {
                self.run.cancel.check()?;
                f(item)?;
            }
            Ok(())
        })
    }

    /// Copies one tablespace file unless it is gone or in the backup already. Returns the bytes read.
    fn tablespace(&self, work: &Work) -> Result<u64> {
        // By the time it is opened the name may belong to another table: the open file is what counts.
        let Some(file) = if_there(reading::open(&work.space.place))? else {
            return Ok(0);
        };
        let stat = file.stat()?;
        let fixed = work.kind != SpaceKind::Table;
        let claimed = self.ledger().claim(&work.space.name, &stat, fixed)?;
        let Some((at, name)) = claimed else {
            return Ok(0);
        };
        self.copy_pages(&file, &name, work.kind, at)
    }

    fn copy_pages(
        &self,
        file: &File,
        name: &ArchivePath,
        kind: SpaceKind,
        at: usize,
    ) -> Result<u64> {
        self.run.monitor.file(name);
        let copier = self.collector();
        let (check, first_page, space_id) = match kind {
            SpaceKind::System(first_page) => (
                self.system_flags
                    .map(|f| Check::InnoDb(PageCheck::system(f))),
                first_page,
                Some(SpaceId(0)),
            ),
            SpaceKind::Undo | SpaceKind::Table => match copier.head(file) {
                Ok(Head::Known(page0)) => (
                    Some(Check::InnoDb(PageCheck::new(page0.flags))),
                    PageNo(0),
                    Some(page0.space_id),
                ),
                Ok(Head::Pending) => (None, PageNo(0), None),
                // How the others are to be checked is written on this page, so they are not.
                Err(error) if error.kind() == Kind::Checksum => {
                    self.damage
                        .note(file.path(), error, self.run.monitor.as_ref())?;
                    return Ok(0);
                }
                Err(error) => return Err(error),
            },
        };
        self.ledger().set_space_id(at, space_id);
        let mut out = self.sink.open(name, Attributes::default())?;
        let read = copier.copy(file, out.as_mut(), check.as_ref(), first_page)?;
        // A damaged file is not closed: it must not look whole.
        if !self.damage.is_in(file.path()) {
            out.close()?;
            self.file_done();
        }
        Ok(read)
    }

    fn file_done(&self) {
        Counters::add(&self.run.monitor.counters().done_files, 1);
    }

    pub(super) fn plain_files(&self, files: Vec<PlainFile>) -> Result<()> {
        let total = files.iter().map(|f| f.stamp.size).sum();
        Counters::add(&self.run.monitor.counters().total_bytes, total);
        self.on_lanes(files, |file| {
            let read = self.plain_file(&file)?;
            self.read_instead(file.stamp.size, read);
            Ok(())
        })
    }

    /// Copies those of `files` that nobody seems to write to, as they are now, at most `room` bytes.
    pub(super) fn ahead(&self, mut files: Vec<PlainFile>, mut room: u64) -> Result<Ahead> {
        // Of tables in use as many as possible: small ones first.
        files.sort_by_key(|f| f.stamp.size);
        files.retain(|f| {
            let left = room.checked_sub(f.stamp.size);
            room = left.unwrap_or(room);
            left.is_some() && f.stamp.is_settled()
        });
        let total = files.iter().map(|f| f.stamp.size).sum();
        Counters::add(&self.run.monitor.counters().total_bytes, total);
        let ahead = Mutex::new(Ahead::default());
        self.on_lanes(files, |file| {
            let size = file.stamp.size;
            let mut read = 0;
            // The file may be another one by now, and its index file yet another: then it is left for the lock, too.
            if let Some(source) = if_there(reading::open(&file.place))?
                && Stamp::from(source.stat()?) == file.stamp
            {
                match self.opened_file(&source, &file) {
                    Ok(len) => {
                        read = len;
                        lock(&ahead).add(file);
                    }
                    Err(error) if error.is_not_found() || error.kind() == Kind::Checksum => {}
                    Err(error) => return Err(error),
                }
            }
            self.read_instead(size, read);
            Ok(())
        })?;
        Ok(ahead.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Copies a file as it is; returns the bytes read.
    fn plain_file(&self, file: &PlainFile) -> Result<u64> {
        self.opened_file(&reading::open(&file.place)?, file)
    }

    fn opened_file(&self, source: &File, file: &PlainFile) -> Result<u64> {
        self.run.monitor.file(&file.name);
        let check = self.aria_check(file)?;
        let mut out = self.sink.open(&file.name, Attributes::default())?;
        let read = if check.is_some() {
            self.copier()
                .copy(source, out.as_mut(), check.as_ref(), PageNo(0))?
        } else {
            self.copy_whole(source, out.as_mut())?
        };
        out.close()?;
        self.file_done();
        Ok(read)
    }

    /// Copies a file that has nothing to check on the way.
    fn copy_whole(&self, source: &File, out: &mut dyn FileSink) -> Result<u64> {
        let monitor = self.run.monitor.as_ref();
        copy_file(source, out, &self.pool, &self.run.cancel, monitor)
    }

    /// Aria's transactional tables change until commits are blocked; its log repairs what is old, but not what is torn.
    fn aria_check(&self, file: &PlainFile) -> Result<Option<Check>> {
        let kind = match file.place.extension().and_then(std::ffi::OsStr::to_str) {
            Some("MAD") => AriaFile::Data,
            Some("MAI") => AriaFile::Index,
            _ => return Ok(None),
        };
        let Some(block_len) = self.aria_block_len else {
            return Ok(None);
        };
        let Some(index) = if_there(reading::open(file.place.with_extension("MAI")))? else {
            return Ok(None);
        };
        let check = self.copier().aria_check(&index, block_len)?;
        Ok(check.map(|check| Check::Aria(check, kind)))
    }

    pub(super) fn small_file(&self, name: &ArchivePath, content: Vec<u8>) -> Result<()> {
        let mut out = self.sink.open(name, Attributes::default())?;
        if !content.is_empty() {
            out.data(0, content.into())?;
        }
        out.close()?;
        self.file_done();
        Ok(())
    }

    /// An empty `db.opt` keeps a database without tables alive where directories alone do not travel.
    pub(super) fn empty_database(&self, database: &str) -> Result<()> {
        let name = format!("{database}/db.opt");
        let path = ArchivePath::new(name.as_bytes()).map_err(|e| {
            Error::new(Kind::Failed, "no archive can hold the name")
                .path(&name)
                .source(e)
        })?;
        self.small_file(&path, Vec::new())
    }

    pub(super) fn redo_log(&self, log: &CopiedLog) -> Result<()> {
        let name = ArchivePath::new(LOG_NAME.as_bytes()).map_err(|e| {
            Error::new(Kind::Failed, "no archive can hold the name")
                .path(LOG_NAME)
                .source(e)
        })?;
        Counters::add(&self.run.monitor.counters().total_bytes, log.len);
        let mut out = self.sink.open(&name, Attributes::default())?;
        self.copy_whole(&log.spool, out.as_mut())?;
        out.close()?;
        self.file_done();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
