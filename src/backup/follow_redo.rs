//! Follows the redo log while everything else is copied: a thread that does nothing else (invariant 9).
//!
//! The log goes to a spool first. Its ring does not wait for a slow consumer of the backup.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::backup::reading;
use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::{self, File};
use crate::base::monitor::{Counters, Monitor};
use crate::base::units::{ByteCount, Lsn, SpaceId};
use crate::innodb::redo::HEADER_LEN;
use crate::innodb::redo::file_records::FileEvent;
use crate::innodb::redo::follower::{FollowError, Follower};
use crate::innodb::redo::header::{Checkpoint, LogFormat, LogHeader, RingGeometry};
use crate::innodb::redo::writer;
use crate::server::session::Session;
use crate::server::sql::LsnStatus;

/// Bytes read from the ring at once. More than the longest mini-transaction (1 MiB), so that every read makes progress.
const WINDOW_LEN: usize = 4 << 20;

/// Pause after everything flushed was read; doubles up to [`IDLE_INTERVAL_MAX`] while nothing is written.
const IDLE_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Longest pause.
const IDLE_INTERVAL_MAX: Duration = Duration::from_millis(100);

/// How often unreadable log below the fence is read again.
const STALE_RETRIES_MAX: u32 = 20;

/// Lag in percent of the ring at which a warning is due.
const LAG_WARNING_PERCENT: u64 = 50;

/// Name of the log in data directory and backup.
pub(crate) const LOG_NAME: &str = "ib_logfile0";

/// The live log before it is followed: header and checkpoint, read before any tablespace is opened.
#[derive(Debug)]
pub(crate) struct LogStart {
    path: PathBuf,
    file: File,
    header: LogHeader,
    ring: RingGeometry,
    checkpoint: Checkpoint,
}

impl LogStart {
    /// Opens the log in `directory` and reads its newest checkpoint.
    pub(crate) fn open(directory: &Path, cancel: &Cancel) -> Result<Self> {
        let path = directory.join(LOG_NAME);
        let mut tries = 0;
        loop {
            let (file, header, ring, head) = open_log(&path)?;
            match Checkpoint::newest(&head, header.first_lsn) {
                Ok(checkpoint) => {
                    return Ok(Self {
                        path,
                        file,
                        header,
                        ring,
                        checkpoint,
                    });
                }
                // The server may just be writing one of the two slots while it resizes the log.
                Err(_) if tries < STALE_RETRIES_MAX => tries += 1,
                Err(e) => {
                    return Err(Error::new(Kind::Checksum, "no valid checkpoint in")
                        .path(path)
                        .source(e));
                }
            }
            cancel.sleep(IDLE_INTERVAL_MIN)?;
        }
    }

    /// Where recovery of the backup will begin.
    pub(crate) const fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    /// Whether records can be read.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.header.format() == LogFormat::Encrypted
    }
}

fn open_log(path: &Path) -> Result<(File, LogHeader, RingGeometry, Vec<u8>)> {
    let file = reading::open(path)?;
    let mut head = vec![0; HEADER_LEN];
    file.read_exact_at(&mut head, 0)?;
    let bad = |e: crate::innodb::redo::header::HeaderError| {
        Error::new(Kind::Checksum, "cannot use the redo log")
            .path(path)
            .source(e)
    };
    let header = LogHeader::parse(&head).map_err(bad)?;
    let ring = RingGeometry::new(&header, file.stat()?.size).map_err(bad)?;
    Ok((file, header, ring, head))
}

/// What the copied log says about tablespaces; empty for an encrypted log.
#[derive(Debug, Clone, Default)]
pub(crate) struct NamedSpaces {
    /// Last path of every id that was named.
    pub(crate) paths: HashMap<SpaceId, Vec<u8>>,
    /// Ids that were created.
    pub(crate) created: HashSet<SpaceId>,
    /// Ids that got another path.
    pub(crate) renamed: HashSet<SpaceId>,
    /// Ids that were deleted.
    pub(crate) deleted: HashSet<SpaceId>,
}

impl NamedSpaces {
    fn apply(&mut self, event: FileEvent) {
        match event {
            FileEvent::Create { space_id, path } => {
                self.paths.insert(space_id, path);
                self.created.insert(space_id);
            }
            FileEvent::Modify { space_id, path } => {
                self.paths.insert(space_id, path);
            }
            FileEvent::Rename { space_id, to, .. } => {
                self.paths.insert(space_id, to);
                self.renamed.insert(space_id);
            }
            FileEvent::Delete { space_id, path } => {
                self.paths.insert(space_id, path);
                self.deleted.insert(space_id);
            }
            FileEvent::Checkpoint { .. } | FileEvent::Opaque { .. } => {}
        }
    }
}

/// The copied log: a spool that holds header and mini-transactions.
#[derive(Debug)]
pub(crate) struct CopiedLog {
    /// The file as it goes into the backup.
    pub(crate) spool: File,
    /// Its length in bytes.
    pub(crate) len: u64,
    /// Where it ends.
    pub(crate) last_lsn: Lsn,
    /// What it says about files.
    pub(crate) spaces: NamedSpaces,
}

impl CopiedLog {
    /// Appends records of our own at the end (`r[redo.backup.append]`).
    pub(crate) fn append(&mut self, records: &[u8]) -> Result<()> {
        self.spool.write_all_at(records, self.len)?;
        self.len += records.len() as u64;
        self.last_lsn = Lsn(self.last_lsn.0 + records.len() as u64);
        Ok(())
    }
}

/// The running follower.
pub(crate) struct RedoFollower {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<CopiedLog>>,
    cancel: Cancel,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    position: Lsn,
    spaces: NamedSpaces,
    /// Where to stop, once known.
    target: Option<Lsn>,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RedoFollower {
    /// Starts the thread. `session` is its own; `spool_dir` takes the log until it is sent.
    pub(crate) fn start(
        start: LogStart,
        session: Session,
        spool_dir: &Path,
        cancel: &Cancel,
        monitor: Arc<dyn Monitor>,
    ) -> Result<Self> {
        let spool = File::anonymous(spool_dir)?;
        let head =
            writer::backup_header(&start.header, start.checkpoint, env!("CARGO_PKG_VERSION"));
        spool.write_all_at(head.as_slice(), 0)?;
        let shared = Arc::new(Shared::default());
        shared.lock().position = start.checkpoint.lsn;
        let follower = Follower::new(
            start.ring,
            start.header.format(),
            start.checkpoint.lsn,
            true,
        );
        let worker = Worker {
            path: start.path,
            file: start.file,
            follower,
            session,
            spool,
            spool_len: HEADER_LEN as u64,
            window: vec![0; WINDOW_LEN],
            shared: Arc::clone(&shared),
            cancel: cancel.clone(),
            monitor,
            first_lag: None,
            warned: false,
        };
        let thread_cancel = cancel.clone();
        let thread_shared = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("redo".to_owned())
            .spawn(move || {
                // A panic must not leave the others waiting for a thread that is gone.
                let result = catch_unwind(AssertUnwindSafe(|| worker.run()));
                let result = result.unwrap_or_else(|_| {
                    Err(Error::new(
                        Kind::Failed,
                        "the redo thread panicked: this is a bug",
                    ))
                });
                if let Err(error) = &result {
                    // Everything else stops at once: without the log the rest is worthless.
                    thread_cancel.fail(error);
                }
                thread_shared.lock().ended = true;
                thread_shared.moved.notify_all();
                result
            })
            .map_err(|e| Error::new(Kind::Failed, "cannot start the redo thread").source(e))?;
        Ok(Self {
            shared,
            thread,
            cancel: cancel.clone(),
        })
    }

    /// Waits until the log up to `lsn` is copied.
    pub(crate) fn wait_for(&self, lsn: Lsn) -> Result<()> {
        let mut state = self.shared.lock();
        while state.position < lsn {
            if state.ended {
                drop(state);
                self.cancel.check()?;
                return Err(Error::new(Kind::Failed, "the redo thread ended early"));
            }
            self.cancel.check()?;
            let waited = self.shared.moved.wait_timeout(state, POLL_INTERVAL);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// What the log said about files so far.
    pub(crate) fn spaces(&self) -> NamedSpaces {
        self.shared.lock().spaces.clone()
    }

    /// Copies up to `lsn` and ends. The log may then be a little longer, so the locks that make `lsn` a consistent point
    /// must still be held: what is committed after them must not get into the log.
    pub(crate) fn finish(self, lsn: Lsn) -> Result<CopiedLog> {
        self.shared.lock().target = Some(lsn);
        self.wait_for(lsn)?;
        self.thread
            .join()
            .map_err(|_| Error::new(Kind::Failed, "the redo thread panicked"))?
    }
}

struct Worker {
    path: PathBuf,
    file: File,
    follower: Follower,
    session: Session,
    spool: File,
    spool_len: u64,
    window: Vec<u8>,
    shared: Arc<Shared>,
    cancel: Cancel,
    monitor: Arc<dyn Monitor>,
    /// What was there to copy at the beginning: the age of the checkpoint.
    first_lag: Option<u64>,
    warned: bool,
}

impl Worker {
    fn run(mut self) -> Result<CopiedLog> {
        let mut pause = IDLE_INTERVAL_MIN;
        let mut status = self.session.lsn_status()?;
        let mut stale = 0;
        loop {
            self.cancel.check()?;
            if self.is_done() {
                break;
            }
            // r[redo.follow.fence]: asked for before the bytes are read.
            let fence = status.flushed;
            let begin = self.follower.position();
            let read = self.read_window(fence)?;
            // Asked for after the read: tells whether the bytes may have been overwritten under it, and is the next fence.
            status = self.session.lsn_status()?;
            if self.is_overrun(begin, &status)? {
                continue;
            }
            match self.consume(begin, read, fence) {
                Ok(0) => {
                    stale = 0;
                    self.follow_resize()?;
                    // Also after a read that gave nothing although there should be something: the file is being replaced.
                    if status.flushed <= self.follower.position() || read == 0 {
                        self.cancel.sleep(pause)?;
                        pause = (pause * 2).min(IDLE_INTERVAL_MAX);
                        status = self.session.lsn_status()?;
                    }
                }
                Ok(_) => {
                    stale = 0;
                    pause = IDLE_INTERVAL_MIN;
                }
                Err(Consumed::Stale(error)) => {
                    stale += 1;
                    if self.follow_resize()? {
                        continue;
                    }
                    if stale > STALE_RETRIES_MAX {
                        return Err(Error::new(Kind::Checksum, "cannot follow the redo log")
                            .path(&self.path)
                            .at(self.follower.ring().offset(self.follower.position()))
                            .source(error));
                    }
                    self.file.advise_dontneed(0, 0);
                    self.cancel.sleep(IDLE_INTERVAL_MIN * stale)?;
                }
                Err(Consumed::Failed(error)) => return Err(error),
            }
        }
        let spaces = self.shared.lock().spaces.clone();
        let last_lsn = self.follower.position();
        self.session.close()?;
        Ok(CopiedLog {
            spool: self.spool,
            len: self.spool_len,
            last_lsn,
            spaces,
        })
    }

    fn is_done(&self) -> bool {
        self.shared
            .lock()
            .target
            .is_some_and(|target| self.follower.position() >= target)
    }

    /// Reads from the position up to the fence, across the end of the ring; returns the bytes read.
    fn read_window(&mut self, fence: Lsn) -> Result<usize> {
        let begin = self.follower.position();
        let ring = self.follower.ring();
        let want = usize::try_from(fence.since(begin))
            .unwrap_or(usize::MAX)
            .min(self.window.len());
        let mut have = 0;
        while have < want {
            let lsn = Lsn(begin.0 + have as u64);
            let here = usize::try_from(ring.contiguous(lsn))
                .unwrap_or(usize::MAX)
                .min(want - have);
            let part = self.window.get_mut(have..have + here).unwrap_or_default();
            let n = self.file.read_at(part, ring.offset(lsn))?;
            have += n;
            if n < here {
                break;
            }
        }
        Ok(have)
    }

    /// Takes what is whole out of the window into the spool; returns the bytes taken.
    fn consume(&mut self, begin: Lsn, read: usize, fence: Lsn) -> Result<u64, Consumed> {
        let mut events = Vec::new();
        let window = self.window.get_mut(..read).unwrap_or_default();
        let taken = self
            .follower
            .feed(begin, window, fence, &mut events)
            .map_err(|e| match e {
                FollowError::Stale { .. } | FollowError::Gap { .. } => Consumed::Stale(e),
                FollowError::Path { .. } => {
                    Consumed::Failed(Error::new(Kind::Failed, "cannot copy the redo log").source(e))
                }
            })?;
        let bytes = window.get(taken).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(0);
        }
        self.spool
            .write_all_at(bytes, self.spool_len)
            .map_err(Consumed::Failed)?;
        let len = bytes.len() as u64;
        self.spool_len += len;
        Counters::add(&self.monitor.counters().redo_bytes, len);
        let mut state = self.shared.lock();
        state.position = self.follower.position();
        for event in events {
            state.spaces.apply(event);
        }
        drop(state);
        self.shared.moved.notify_all();
        Ok(len)
    }

    /// r[redo.ring.overrun]: an error, unless the log was replaced by a larger one, which is then read from the same LSN.
    fn is_overrun(&mut self, begin: Lsn, status: &LsnStatus) -> Result<bool> {
        let ring = self.follower.ring();
        let lag = status.current.since(begin);
        Counters::set(&self.monitor.counters().redo_lag_bytes, lag);
        if ring.is_overrun(begin, status.current) {
            if self.follow_resize()? {
                return Ok(true);
            }
            return Err(Error::new(
                Kind::RedoOverrun,
                format!(
                    "the server overwrote redo log before it was copied: server at LSN {}, copied to {begin}, log capacity {}",
                    status.current,
                    ByteCount(ring.capacity())
                ),
            )
            .hint("raise innodb_log_file_size, back up at a quieter time, or put --tmpdir on faster storage"));
        }
        // A checkpoint may be old; what is new is to fall behind.
        let falls_behind = lag > *self.first_lag.get_or_insert(lag);
        let is_much = lag > ring.capacity() / 100 * LAG_WARNING_PERCENT;
        if falls_behind && is_much && !self.warned {
            self.warned = true;
            self.monitor.warning(format!(
                "copying the redo log lags {} behind the server, more than {LAG_WARNING_PERCENT} % of its capacity",
                ByteCount(lag)
            ));
        }
        Ok(false)
    }

    /// The server replaced the log by one of another size (`r[redo.follow.resize]`): goes on there as soon as that file
    /// holds the position. Returns whether it did.
    fn follow_resize(&mut self) -> Result<bool> {
        let Some(now) = super::inventory::if_there(fsx::stat(&self.path))? else {
            return Ok(false);
        };
        if now.identity == self.file.stat()?.identity {
            return Ok(false);
        }
        let (file, header, ring, _) = open_log(&self.path)?;
        if self.follower.position() < header.first_lsn {
            return Ok(false);
        }
        self.monitor.info(format!(
            "the server resized its redo log to {}",
            ByteCount(ring.capacity())
        ));
        self.follower.switch(ring, header.format());
        self.file = file;
        Ok(true)
    }
}

/// Why a window was not consumed whole.
enum Consumed {
    /// Perhaps only for now.
    Stale(FollowError),
    /// For good.
    Failed(Error),
}
