//! `xbpipe copy-back` and `move-back`: a prepared backup becomes a data directory.
//!
//! The data directory must be empty. A marker is written into it first and removed last; the redo log comes first of all
//! files and the system tablespace last, and no server starts on one without the other, so that a copy that was broken off neither looks whole nor starts. The same command run
//! again finishes it: what is still in the source is brought again, over what is there.
//!
//! Moving removes a file from the source only by a rename, or after all copies are on stable storage; the marker says
//! when that is the case, and from then on nothing is copied any more.

mod owner;
mod plan;
mod transfer;

pub use owner::Owner;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::monitor::Counters;
use crate::base::run::Run;
use crate::prepare::LOCK_PATIENCE;
use crate::prepare::inventory::{Inventory, Metadata, check_preparable};
use crate::restore::plan::Plan;
use crate::restore::transfer::Transfer;

/// The marker of a data directory that is not whole yet.
pub const INCOMPLETE_MARKER: &str = "xbpipe_restore_incomplete";
/// Bytes of a marker that we read.
const MARKER_LEN_MAX: u64 = 64 << 10;
/// Mode of directories that have no example.
const DIR_MODE: u32 = 0o750;

/// What to restore, and where to.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The prepared backup.
    pub dir: PathBuf,
    /// The data directory: missing or empty.
    pub datadir: PathBuf,
    /// Owner of everything restored. When `None` and we are root: that of the existing data directory, else of the
    /// backup.
    pub owner: Option<Owner>,
    /// Files at a time.
    pub parallel: usize,
    /// Place of the system tablespace, if not the data directory.
    pub innodb_data_home_dir: Option<PathBuf>,
    /// Place of the redo log, if not the data directory.
    pub innodb_log_group_home_dir: Option<PathBuf>,
    /// Place of the undo tablespaces, if not the data directory.
    pub innodb_undo_directory: Option<PathBuf>,
    /// Place of Aria's logs, if not the data directory.
    pub aria_log_dir_path: Option<PathBuf>,
}

impl RestoreOptions {
    /// Everything into `datadir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, datadir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            datadir: datadir.into(),
            owner: None,
            parallel: 4,
            innodb_data_home_dir: None,
            innodb_log_group_home_dir: None,
            innodb_undo_directory: None,
            aria_log_dir_path: None,
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreSummary {
    /// Files brought by this run.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A run that had been broken off was finished.
    pub resumed: bool,
    /// Owner given to everything, if it was changed.
    pub owner: Option<Owner>,
}

/// Copy or move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verb {
    #[serde(rename = "copy-back")]
    Copy,
    #[serde(rename = "move-back")]
    Move,
}

impl Verb {
    const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy-back",
            Self::Move => "move-back",
        }
    }
}

/// Copies a prepared backup into an empty data directory.
pub fn copy_back(options: &RestoreOptions, run: &Run) -> Result<RestoreSummary> {
    restore(Verb::Copy, options, run)
}

/// Moves a prepared backup into an empty data directory, by renames where source and target are one file system.
pub fn move_back(options: &RestoreOptions, run: &Run) -> Result<RestoreSummary> {
    restore(Verb::Move, options, run)
}

/// Content of [`INCOMPLETE_MARKER`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    verb: Verb,
    source: PathBuf,
    /// Every file is at its place and durable; only the source remains to be cleared.
    complete: bool,
}

fn restore(verb: Verb, options: &RestoreOptions, run: &Run) -> Result<RestoreSummary> {
    let source = fsx::canonical(&options.dir)?;
    let Some(_lock) = fsx::Lock::take(&source, LOCK_PATIENCE, &run.cancel)? else {
        return Err(Error::new(Kind::Failed, "another xbpipe works on the backup").path(&source));
    };
    let found = Inventory::of(&source)?;
    let metadata = Metadata::read(&source, &found)?;
    if !metadata.is_prepared() {
        // What else is wrong with it comes first: preparing would not help.
        check_preparable(&source, &found, &metadata)?;
        return Err(Error::new(Kind::Usage, "the backup is not prepared")
            .path(&source)
            .hint(format!("run xbpipe prepare {} first", source.display())));
    }
    let existed = fsx::exists(&options.datadir)?;
    let owner = match options.owner {
        Some(owner) => Some(owner),
        None if rustix::process::geteuid().is_root() => {
            let example = if existed { &options.datadir } else { &source };
            let stat = fsx::stat(example)?;
            let (uid, gid) = (stat.uid, stat.gid);
            Some(Owner { uid, gid })
        }
        None => None,
    };
    let datadir = std::path::absolute(&options.datadir)
        .map_err(|e| Error::io("find", &options.datadir, e))?;
    let datadir = if existed {
        fsx::canonical(datadir)?
    } else {
        datadir
    };
    if datadir.starts_with(&source) || source.starts_with(&datadir) {
        return Err(
            Error::new(Kind::Usage, "backup and data directory lie in one another").path(&datadir),
        );
    }
    let old = if existed {
        judge_datadir(&datadir, verb, &source)?
    } else {
        None
    };
    let data_files = metadata.my_cnf.get("innodb_data_file_path");
    let plan = Plan::new(
        &source,
        &datadir,
        &found,
        data_files.unwrap_or("ibdata1"),
        options,
    )?;
    if old.is_none() {
        check_preparable(&source, &found, &metadata)?;
        plan.check_free()?;
    }
    let resumed = old.is_some();
    let job = Job {
        verb,
        source: &source,
        datadir: &datadir,
        plan: &plan,
        transfer: Transfer { verb, owner, run },
        run,
    };
    if !old.is_some_and(|marker| marker.complete) {
        job.bring(options.parallel, fsx::stat(&source)?.mode)?;
    }
    job.finish(&found)?;
    let counters = run.monitor.counters();
    Ok(RestoreSummary {
        files: Counters::get(&counters.done_files),
        bytes: Counters::get(&counters.written_bytes),
        resumed,
        owner,
    })
}

/// An empty directory, or one in which the same command was broken off.
fn judge_datadir(datadir: &Path, verb: Verb, source: &Path) -> Result<Option<Marker>> {
    let marker_path = datadir.join(INCOMPLETE_MARKER);
    if fsx::exists(&marker_path)? {
        let bytes = fsx::read_small(&marker_path, MARKER_LEN_MAX)?;
        let marker: Option<Marker> = serde_json::from_slice(&bytes).ok();
        return match marker {
            Some(marker) if marker.verb == verb && marker.source == source => Ok(Some(marker)),
            other => {
                let hint = match other {
                    Some(m) => format!(
                        "finish it with xbpipe {} {}, or empty the directory",
                        m.verb.name(),
                        m.source.display()
                    ),
                    None => "empty the directory".to_owned(),
                };
                let what = "another restore into the data directory was broken off";
                Err(Error::new(Kind::Usage, what).path(datadir).hint(hint))
            }
        };
    }
    let entries = fsx::list_dir(datadir)?;
    // A marker that did not get its name, from a run that ended before it did anything else.
    let unborn = format!("{INCOMPLETE_MARKER}.xbpipe-new");
    let counts = |entry: &&fsx::Entry| entry.name != "lost+found" && entry.name != *unborn;
    match entries.iter().find(counts) {
        None => Ok(None),
        Some(entry) => Err(Error::new(Kind::Usage, "the data directory is not empty")
            .path(datadir.join(&entry.name))
            .hint("stop the server, move its old data away, and run this again")),
    }
}

struct Job<'a> {
    verb: Verb,
    source: &'a Path,
    datadir: &'a Path,
    plan: &'a Plan,
    transfer: Transfer<'a>,
    run: &'a Run,
}

impl Job<'_> {
    /// Every file to its place, durably.
    fn bring(&self, parallel: usize, mode: u32) -> Result<()> {
        self.make_dir(self.datadir, mode)?;
        if let Some(owner) = self.transfer.owner {
            fsx::chown(self.datadir, owner.uid, owner.gid)?;
        }
        self.mark(false)?;
        for (dir, mode) in &self.plan.dirs {
            self.make_dir(dir, *mode)?;
        }
        for dir in &self.plan.outside {
            self.make_dir(dir, DIR_MODE)?;
        }
        let monitor = &self.run.monitor;
        monitor.phase(match self.verb {
            Verb::Copy => "copying files",
            Verb::Move => "moving files",
        });
        let total = self.plan.items().map(|item| item.size).sum();
        Counters::set(&monitor.counters().total_bytes, total);
        // First and last ones in order and alone.
        self.transfer.all(&self.plan.first, 1)?;
        self.transfer.all(&self.plan.files, parallel)?;
        self.transfer.all(&self.plan.last, 1)?;
        monitor.phase("syncing");
        let mut synced = BTreeSet::new();
        for dir in
            std::iter::once(self.datadir).chain(self.plan.outside.iter().map(PathBuf::as_path))
        {
            if synced.insert(fsx::stat(dir)?.identity.device) {
                fsx::Dir::open(dir)?.sync_file_system()?;
            }
        }
        self.run.cancel.check()?;
        self.mark(true)
    }

    /// Creates a directory that is not there, and missing parents, and gives them to the owner.
    fn make_dir(&self, dir: &Path, mode: u32) -> Result<()> {
        if fsx::exists(dir)? {
            return Ok(());
        }
        if let Some(parent) = dir.parent() {
            self.make_dir(parent, DIR_MODE)?;
        }
        fsx::create_dir(dir, mode)?;
        match self.transfer.owner {
            Some(owner) => fsx::chown(dir, owner.uid, owner.gid),
            None => Ok(()),
        }
    }

    fn mark(&self, complete: bool) -> Result<()> {
        let marker = Marker {
            verb: self.verb,
            source: self.source.to_path_buf(),
            complete,
        };
        let path = self.datadir.join(INCOMPLETE_MARKER);
        let bytes = serde_json::to_vec(&marker).map_err(|e| {
            Error::new(Kind::Failed, "cannot write")
                .path(&path)
                .source(e)
        })?;
        fsx::write_small(&path, &bytes)?;
        fsx::sync_dir(self.datadir)
    }

    /// Clears the source of what was moved, then says that the data directory is whole.
    fn finish(&self, found: &Inventory) -> Result<()> {
        if self.verb == Verb::Move {
            for item in self.plan.items().filter(|item| !item.stays) {
                if fsx::exists(&item.source)? {
                    fsx::remove_file(&item.source)?;
                }
            }
            for dir in found.dirs.iter().rev() {
                let path = self.source.join(&dir.path);
                if fsx::list_dir(&path)?.is_empty() {
                    fsx::remove_dir(&path)?;
                }
            }
        }
        fsx::remove_file(self.datadir.join(INCOMPLETE_MARKER))?;
        fsx::sync_dir(self.datadir)
    }
}
