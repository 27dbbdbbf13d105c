//! `xbpipe prepare DIR`: makes a raw backup startable, by the installed server's own crash recovery.
//!
//! The order is what makes it safe. First everything is judged and nothing touched: kind of backup, version of the server,
//! every byte of the copied log, the markers. Then a [`journal`] is written, and from there on a run that was
//! killed at any moment is finished by the next one. The server is [pinned](mariadbd) inside the directory; paths that would
//! lead it out (`.isl` files, absolute paths in the log, symbolic links) are set aside, rewritten or refused.
//!
//! As root, the server runs as the owner of the directory if everything in it belongs to that one user, else as root.
//! Two prepares of one directory exclude each other by a lock on it.

pub(crate) mod inventory;
mod journal;
pub(crate) mod links;
mod mariadbd;
mod markers;
mod redo;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::run::Run;
use crate::base::units::{ByteCount, Lsn};
use crate::innodb::redo::header::LogFormat;
use crate::metadata::checkpoints::BackupType;
use crate::prepare::inventory::{Inventory, LOG_NAME, Metadata, check_preparable};
use crate::prepare::journal::{Aside, JOURNAL_NAME, Journal, Step};
use crate::prepare::mariadbd::{Program, Recovery, parse_key_options};
use crate::prepare::markers::{MarkerPlan, text};

/// What the server said while it recovered; stays in the backup.
pub const PREPARE_LOG: &str = "xbpipe_prepare.log";
/// Memory for recovery unless asked otherwise.
pub const USE_MEMORY_DEFAULT: ByteCount = ByteCount(128 << 20);
/// The server does not start with less (`innodb_buffer_pool_size` of 5 MiB with small pages, more with large ones).
const USE_MEMORY_MIN: u64 = 24 << 20;
/// The server's option file and temporary files.
const WORK_DIR: &str = "xbpipe_prepare.tmp";
/// `.isl` files during recovery.
const LINKS_DIR: &str = "xbpipe_prepare.links";
/// How long another run may keep its lock on the directory before we give up.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How often the lock of a server left behind is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// What to prepare, and how.
#[derive(Debug, Clone)]
pub struct PrepareOptions {
    /// The backup's directory.
    pub dir: PathBuf,
    /// The server program; found by its name when `None`.
    pub mariadbd: Option<PathBuf>,
    /// Memory for pages during recovery.
    pub use_memory: ByteCount,
    /// The server's plugins, for backups with encryption; that of the backup's server when `None`.
    pub plugin_dir: Option<PathBuf>,
    /// `name=value` options that load and unlock keys here, where they differ from those of the backup's server.
    pub key_options: Vec<String>,
    /// Use a server of another major version all the same.
    pub any_version: bool,
}

impl PrepareOptions {
    /// Everything as usual for `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            mariadbd: None,
            use_memory: USE_MEMORY_DEFAULT,
            plugin_dir: None,
            key_options: Vec::new(),
            any_version: false,
        }
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrepareSummary {
    /// It had been prepared before; nothing was touched.
    pub already_prepared: bool,
    /// A prepare that had been broken off was finished.
    pub resumed: bool,
    /// The state of the data: end of the backup's log.
    pub last_lsn: Lsn,
    /// The backup's server.
    pub server_version: String,
    /// The binary log position the data belongs to, as the backup's metadata has it; empty without a binary log.
    pub binlog_position: String,
    /// Tables dropped, renamed or put in place after they had been copied.
    pub moved_files: usize,
}

/// Prepares a backup, or finds that it is prepared.
pub fn prepare(options: &PrepareOptions, run: &Run) -> Result<PrepareSummary> {
    let key_options = parse_key_options(&options.key_options)?;
    if options.use_memory.0 < USE_MEMORY_MIN {
        let what = format!(
            "{} of memory is too little for recovery",
            options.use_memory
        );
        let hint = format!("give it {} or more", ByteCount(USE_MEMORY_MIN));
        return Err(Error::new(Kind::Usage, what).hint(hint));
    }
    // Absolute, because the server changes its directory.
    let dir = fsx::canonical(&options.dir)?;
    let Some(_lock) = fsx::Lock::take(&dir, LOCK_PATIENCE, &run.cancel)? else {
        return Err(Error::new(Kind::Failed, "another xbpipe works on the backup").path(&dir));
    };
    let log_path = dir.join(PREPARE_LOG);
    if fsx::exists(&log_path)? {
        // A prepare was here before. If it was killed, its server may still be at work.
        drop(lock_log(&log_path, run)?);
    }
    let found = Inventory::of(&dir)?;
    let metadata = Metadata::read(&dir, &found)?;
    let journal = Journal::read(&dir)?;
    let mut summary = PrepareSummary {
        already_prepared: metadata.is_prepared(),
        resumed: journal.is_some(),
        last_lsn: metadata.checkpoints.last_lsn,
        server_version: metadata.info.server_version.clone(),
        binlog_position: metadata.info.binlog_pos.clone(),
        moved_files: 0,
    };
    if summary.already_prepared {
        summary.resumed = false;
        if journal.is_some() {
            // Killed after its last step but one.
            tidy(&dir)?;
        }
        links::warn(&dir, found.links.iter().map(PathBuf::as_path), run);
        return Ok(summary);
    }
    check_preparable(&dir, &found, &metadata)?;
    let backup_version = &metadata.info.server_version;
    let program = Program::find(options.mariadbd.as_deref(), backup_version, &run.cancel)?;
    if let Some(warning) = program.check_version(backup_version, options.any_version)? {
        run.monitor.warning(warning);
    }
    if metadata.info.partial {
        run.monitor
            .info("the backup is partial: tables left out of it will have no data".to_owned());
    }
    let mut journal = match journal {
        Some(journal) => {
            check_same(&journal, &metadata, &dir)?;
            run.monitor
                .info("finishing a prepare that was broken off".to_owned());
            journal
        }
        None => {
            let journal = judge(&dir, &found, &metadata, run)?;
            journal.write(&dir)?;
            journal
        }
    };
    summary.moved_files = journal.markers.len();
    let job = Job {
        dir: &dir,
        root: fsx::Dir::open(&dir)?,
        found: &found,
        metadata: &metadata,
        run,
    };
    job.put_in_place(&mut journal)?;
    job.recover(&mut journal, &program, options, &key_options)?;
    job.finish(&journal)?;
    let links = journal.links.iter().map(|link| Path::new(&link.path));
    links::warn(&dir, links, run);
    Ok(summary)
}

/// Judges the log, the markers and the links, and changes nothing.
fn judge(dir: &Path, found: &Inventory, metadata: &Metadata, run: &Run) -> Result<Journal> {
    run.monitor.phase("verifying the redo log");
    let log = dir.join(LOG_NAME);
    let last_lsn = metadata.checkpoints.last_lsn;
    let proven = redo::prove(&log, last_lsn, &run.cancel, &*run.monitor)?;
    run.monitor.info(format!(
        "the redo log is whole and ends at LSN {}",
        proven.end
    ));
    let mut aside = Vec::new();
    for link in found.with_extension("isl") {
        if proven.format == LogFormat::Encrypted {
            links::check_away(&dir.join(&link.path))?;
        }
        aside.push(Aside {
            path: text(dir, &link.path)?,
            via: format!("{LINKS_DIR}/{}", aside.len()),
        });
    }
    let patches = if proven.absolute {
        redo::local_patches(&log, &run.cancel)?
    } else {
        Vec::new()
    };
    let markers = MarkerPlan::of(dir, found)?;
    let backup = metadata.info.uuid.clone();
    Ok(Journal::new(backup, last_lsn.0, markers, patches, aside))
}

fn check_same(journal: &Journal, metadata: &Metadata, dir: &Path) -> Result<()> {
    if journal.backup == metadata.info.uuid && journal.last_lsn == metadata.checkpoints.last_lsn.0 {
        return Ok(());
    }
    Err(Error::new(
        Kind::Checksum,
        "a prepare of another backup was broken off in this directory",
    )
    .path(dir.join(JOURNAL_NAME))
    .hint("extract the backup into an empty directory"))
}

/// Opens the log and waits until nobody else holds its lock.
fn lock_log(path: &Path, run: &Run) -> Result<fsx::File> {
    let log = fsx::File::open_append(path)?;
    let mut told = false;
    while !log.try_lock()? {
        if !told {
            told = true;
            run.monitor
                .info("waiting for the server of an earlier prepare to end".to_owned());
        }
        run.cancel.sleep(LOCK_INTERVAL)?;
    }
    Ok(log)
}

/// One prepare after everything was judged.
struct Job<'a> {
    dir: &'a Path,
    root: fsx::Dir,
    found: &'a Inventory,
    metadata: &'a Metadata,
    run: &'a Run,
}

impl Job<'_> {
    /// Everything gets the name and the bytes it must have before a server looks at it.
    fn put_in_place(&self, journal: &mut Journal) -> Result<()> {
        if journal.step == Step::Park {
            redo::apply(&self.root, Path::new(LOG_NAME), &journal.patches)?;
            journal.markers.park(&self.root)?;
            self.root.sync_file_system()?;
            journal.advance(self.dir, Step::Place)?;
        }
        if journal.step == Step::Place {
            journal.markers.place(&self.root)?;
            self.root.sync_file_system()?;
            journal.advance(self.dir, Step::Recover)?;
        }
        if !journal.links.is_empty() {
            self.root.create_dirs(Path::new(LINKS_DIR))?;
        }
        for link in &journal.links {
            if self.root.exists(Path::new(&link.path))? {
                self.root
                    .rename(Path::new(&link.path), Path::new(&link.via), true)?;
            }
        }
        Ok(())
    }

    fn recover(
        &self,
        journal: &mut Journal,
        program: &Program,
        options: &PrepareOptions,
        key_options: &[(String, Option<String>)],
    ) -> Result<()> {
        let run = self.run;
        run.monitor
            .phase(&format!("recovering with {}", program.flavor));
        let log = lock_log(&self.dir.join(PREPARE_LOG), run)?;
        self.root.remove_tree(Path::new(WORK_DIR))?;
        let work = self.dir.join(WORK_DIR);
        let recovery = Recovery {
            dir: self.dir,
            work: &work,
            my_cnf: &self.metadata.my_cnf,
            key_options,
            undo_tablespaces: self.found.undo_files().count(),
            use_memory: options.use_memory,
            plugin_dir: options.plugin_dir.as_deref(),
            run_as: self.run_as()?,
        };
        recovery.set_up()?;
        let first_time = !journal.server_started;
        journal.server_started = true;
        journal.write(self.dir)?;
        let report = recovery.run(program, &log, &run.cancel, &*run.monitor)?;
        let expected = Lsn(journal.last_lsn);
        let wrong_end = report
            .log_end
            .filter(|end| *end < expected || (first_time && *end != expected));
        if let Some(end) = wrong_end {
            return Err(Error::new(
                Kind::Server,
                format!("the server applied the log up to LSN {end}, it ends at {expected}"),
            )
            .path(log.path())
            .hint("the data is not that of the backup's end; extract the backup again"));
        }
        let checkpoint = redo::newest_checkpoint(&self.dir.join(LOG_NAME))?;
        if checkpoint < expected {
            return Err(Error::new(
                Kind::Server,
                format!("the server left a checkpoint at LSN {checkpoint}, before {expected}"),
            )
            .path(log.path()));
        }
        run.cancel.check()
    }

    /// As whom the server runs; `None`: as we do.
    fn run_as(&self) -> Result<Option<(u32, u32)>> {
        let owner = fsx::stat(self.dir)?;
        let everything = self.found.files.iter().chain(&self.found.dirs);
        // What an earlier prepare of root's made is no reason to stay root.
        let backup = everything.filter(|f| {
            !f.path
                .as_os_str()
                .as_encoded_bytes()
                .starts_with(b"xbpipe_")
        });
        let one_owner = backup.into_iter().all(|f| f.stat.uid == owner.uid);
        let root = rustix::process::geteuid().is_root();
        Ok((root && owner.uid != 0 && one_owner).then_some((owner.uid, owner.gid)))
    }

    /// Links back, metadata, and nothing of ours left but the log.
    fn finish(&self, journal: &Journal) -> Result<()> {
        for link in &journal.links {
            if self.root.exists(Path::new(&link.via))? {
                self.root
                    .rename(Path::new(&link.via), Path::new(&link.path), true)?;
            }
        }
        self.root.sync_file_system()?;
        let mut checkpoints = self.metadata.checkpoints.clone();
        checkpoints.backup_type = BackupType::LogApplied;
        let path = self.dir.join(self.metadata.checkpoints_name);
        let before = fsx::stat(&path)?;
        fsx::write_small(&path, checkpoints.render().as_bytes())?;
        let file = fsx::File::open(&path)?;
        file.set_mode(before.mode)?;
        if rustix::process::geteuid().is_root() {
            file.chown(before.uid, before.gid)?;
        }
        fsx::sync_dir(self.dir)?;
        tidy(self.dir)
    }
}

/// Removes what a finished prepare has no use for; the journal last.
fn tidy(dir: &Path) -> Result<()> {
    let root = fsx::Dir::open(dir)?;
    root.remove_tree(Path::new(WORK_DIR))?;
    for name in [LINKS_DIR, JOURNAL_NAME] {
        root.remove_tree(Path::new(name))?;
    }
    root.sync()
}
