//! Copies one file of pages, InnoDB's or Aria's, every page checked on the way.

use std::time::Duration;

use crate::backup::damage::Damage;
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::File;
use crate::base::monitor::{Counters, Monitor};
use crate::base::pool::BufPool;
use crate::base::units::{PageNo, SpaceId};
use crate::innodb::aria::{AriaCheck, AriaFile};
use crate::innodb::check::{BadPage, PageCheck};
use crate::innodb::tablespace::Page0;
use crate::pipeline::sink::FileSink;

/// How often a page that fails its check is read again. It may have been caught in the middle of a write.
const RETRIES_MAX: u32 = 10;

/// Pause between two reads of such a page.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How the pages of a file are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    /// A tablespace.
    InnoDb(PageCheck),
    /// A file of a transactional Aria table, which is copied while it changes.
    Aria(AriaCheck, AriaFile),
}

impl Check {
    const fn page_len(&self) -> usize {
        match self {
            Self::InnoDb(check) => check.page_len(),
            Self::Aria(check, _) => check.page_len(),
        }
    }

    /// The first bad page of a run of whole pages.
    fn run(&self, first: PageNo, pages: &[u8]) -> Result<(), BadPage> {
        match self {
            Self::InnoDb(check) => check.check_run(first, pages).map(|_| ()),
            Self::Aria(check, file) => {
                for (index, page) in pages.chunks_exact(check.page_len()).enumerate() {
                    let number = PageNo(first.0 + u32::try_from(index).unwrap_or(0));
                    check
                        .check(*file, number, page)
                        .map_err(|error| BadPage { index, error })?;
                }
                Ok(())
            }
        }
    }
}

/// What reading needs besides the file.
pub(crate) struct Copier<'a> {
    pub(crate) pool: &'a BufPool,
    pub(crate) cancel: &'a Cancel,
    pub(crate) monitor: &'a dyn Monitor,
    /// `innodb_page_size`: the length of page 0 where it does not say.
    pub(crate) page_len: usize,
    /// Who takes note of damaged pages so that copying goes on; without one the first is an error.
    pub(super) damage: Option<&'a Damage>,
}

/// Bytes that one file may leave in the page cache while it is read.
const CACHED_LEN_MAX: u64 = 32 << 20;

/// Bytes of an Aria index file that tell how its pages are checked.
const ARIA_HEAD_LEN: usize = 512;

/// What page 0 of a file said when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// The tablespace.
    Known(Page0),
    /// Page 0 was never written: the file was just made, and redo will make it again.
    Pending,
}

impl Head {
    /// The tablespace id, if it is known.
    pub(crate) fn space_id(&self) -> Option<SpaceId> {
        match self {
            Self::Known(page0) => Some(page0.space_id),
            Self::Pending => None,
        }
    }
}

impl Copier<'_> {
    /// Reads and checks page 0. A torn one is read again.
    pub(crate) fn head(&self, file: &File) -> Result<Head> {
        let mut buf = vec![0; self.page_len];
        let mut tries = 0;
        loop {
            let n = file.read_at(&mut buf, 0)?;
            let page = buf.get(..n).unwrap_or_default();
            if n == 0 || page.iter().all(|b| *b == 0) {
                return Ok(Head::Pending);
            }
            let verdict = Page0::parse(page)
                .map_err(|e| e.to_string())
                .and_then(|parsed| {
                    let Some(page0) = parsed else {
                        return Ok(Head::Pending);
                    };
                    let check = PageCheck::new(page0.flags);
                    let whole = page.get(..check.page_len()).ok_or("page 0 is cut")?;
                    check.check(PageNo(0), whole).map_err(|e| e.to_string())?;
                    Ok(Head::Known(page0))
                });
            match verdict {
                Ok(head) => return Ok(head),
                Err(why) if tries == RETRIES_MAX => {
                    return Err(damaged(file, PageNo(0), 0, &why));
                }
                Err(_) => tries += 1,
            }
            self.pause_before_retry(file, 0, buf.len())?;
        }
    }

    /// How to check the files of an Aria table by the header of its index file; `None` when they have nothing to check.
    pub(crate) fn aria_check(&self, index: &File, block_len: usize) -> Result<Option<AriaCheck>> {
        let mut head = [0; ARIA_HEAD_LEN];
        let n = index.read_at(&mut head, 0)?;
        Ok(AriaCheck::new(head.get(..n).unwrap_or_default(), block_len))
    }

    /// Copies the whole pages of `file` up to the length it has now. What is appended later is in the redo log.
    ///
    /// `first_page` is the number of the file's first page: not zero for the later files of the system tablespace.
    /// Without a `check` (nothing is known about the file yet) the bytes are copied as they are.
    pub(crate) fn copy(
        &self,
        file: &File,
        sink: &mut dyn FileSink,
        check: Option<&Check>,
        first_page: PageNo,
    ) -> Result<u64> {
        file.advise_sequential();
        // Of a file without a check not even the length of its pages is known.
        let page_len = check.map_or(1, Check::page_len) as u64;
        let stat = file.stat()?;
        let (size, sparse) = (stat.size, stat.allocated < stat.size);
        // A file that is just being extended may end in part of a page.
        let size = size - size % page_len;
        let mut position = 0;
        // Behind us the cache is given back, or a backup would push out what the machine works with. In steps: the call is dear.
        let mut cached = if file.is_in_memory() { u64::MAX } else { 0 };
        while position < size {
            self.cancel.check()?;
            let block_len = self.pool.buf_size() as u64;
            if sparse && let Some(len) = hole_at(file, position, size, block_len)? {
                sink.hole(position, len)?;
                Counters::add(&self.monitor.counters().read_bytes, len);
                position += len;
                continue;
            }
            let mut buf = self.pool.get(self.cancel)?;
            let want = usize::try_from((size - position).min(block_len)).unwrap_or(buf.len());
            let n = file.read_at(&mut buf[..want], position)?;
            // Undo tablespaces shrink; the log says so and the copy is cut by recovery as the file was.
            let n = n - n % usize::try_from(page_len).unwrap_or(1);
            if n == 0 {
                break;
            }
            if let Some(check) = check {
                self.check(file, check, first_page, position, &mut buf[..n])?;
            }
            sink.data(position, buf.freeze(n))?;
            position += n as u64;
            if position.saturating_sub(cached) >= CACHED_LEN_MAX {
                file.advise_dontneed(cached, position - cached);
                cached = position;
            }
            Counters::add(&self.monitor.counters().read_bytes, n as u64);
        }
        if cached < position {
            file.advise_dontneed(cached, position - cached);
        }
        Ok(position)
    }

    /// Checks the pages in `bytes`; those that fail are read again in place until they are whole.
    fn check(
        &self,
        file: &File,
        check: &Check,
        first_page: PageNo,
        position: u64,
        bytes: &mut [u8],
    ) -> Result<()> {
        let page_len = check.page_len();
        let first = u32::try_from(position / page_len as u64)
            .ok()
            .and_then(|n| n.checked_add(first_page.0))
            .ok_or_else(|| {
                Error::new(Kind::Checksum, "too long for a tablespace").path(file.path())
            })?;
        let (mut done, mut tries) = (0, 0);
        loop {
            let rest = bytes.get_mut(done..).unwrap_or_default();
            let number = PageNo(first + u32::try_from(done / page_len).unwrap_or(0));
            let Err(BadPage { index, error }) = check.run(number, rest) else {
                return Ok(());
            };
            if index > 0 {
                tries = 0;
            }
            done += index * page_len;
            let page = PageNo(number.0 + u32::try_from(index).unwrap_or(0));
            let at = position + done as u64;
            if tries == RETRIES_MAX {
                let error = damaged(file, page, at, &error.to_string());
                let Some(damage) = self.damage else {
                    return Err(error);
                };
                damage.note(file.path(), error, self.monitor)?;
                (done, tries) = (done + page_len, 0);
                continue;
            }
            tries += 1;
            self.pause_before_retry(file, at, page_len)?;
            let again = bytes.get_mut(done..done + page_len).unwrap_or_default();
            let n = file.read_at(again, at)?;
            if n < page_len {
                // It was cut off meanwhile: an undo tablespace that was truncated. Redo knows.
                bytes.get_mut(done..).unwrap_or_default().fill(0);
                return Ok(());
            }
        }
    }

    fn pause_before_retry(&self, file: &File, at: u64, len: usize) -> Result<()> {
        // The first look may have met stale cached pages: make the next one go to the disk.
        file.advise_dontneed(at, len as u64);
        self.cancel.sleep(RETRY_INTERVAL)
    }
}

/// Whole blocks of hole at `position`, if there are any.
fn hole_at(file: &File, position: u64, size: u64, block: u64) -> Result<Option<u64>> {
    let data = file.next_data_begin(position, size)?.unwrap_or(size);
    let len = data.saturating_sub(position);
    let whole = if data == size { len } else { len - len % block };
    Ok((whole >= block).then_some(whole))
}

fn damaged(file: &File, page: PageNo, at: u64, why: &str) -> Error {
    Error::new(Kind::Checksum, format!("page {page} is damaged ({why}, {RETRIES_MAX} rereads) in"))
        .path(file.path())
        .at(at)
        .hint("the server would fail on this page too: restore the table from an older backup, or rebuild it, then back up again")
}
