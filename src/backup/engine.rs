//! The run itself, from the first question to the server to the last metadata file.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::backup::ahead::may_be_mapped;
use crate::backup::aside::Aside;
use crate::backup::copying::{Copy, SpaceKind, Work};
use crate::backup::damage::Damage;
use crate::backup::follow_redo::{LOG_NAME, LogStart, RedoFollower};
use crate::backup::inventory::{ARIA_CONTROL, Inventory};
use crate::backup::ledger::Ledger;
use crate::backup::reading;
use crate::backup::reconcile::Beginning;
use crate::backup::write_metadata::{self, Story};
use crate::backup::{BackupOptions, BackupSummary};
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::{self, Identity};
use crate::base::monitor::Counters;
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::base::units::Lsn;
use crate::pipeline::budget::Budget;
use crate::pipeline::sink::Sink;
use crate::server::flavor::Flavor;
use crate::server::privileges::Needs;
use crate::server::session::{Server, Session};
use crate::server::sql::Stage;
use crate::server::variables::Variables;

/// Rounds of copying what was created meanwhile, before DDL is blocked. Each is shorter than the one before.
const PRE_PASSES_MAX: usize = 10;

/// New files that may be left for the time DDL is blocked.
const LEFT_FOR_LOCK_MAX: u64 = 4 << 20;

/// Bytes in one buffer for what is read under the lock.
const ASIDE_BUF_LEN: usize = 128 << 10;

/// Their number.
const ASIDE_BUFS: usize = 8;

/// Most bytes that are kept aside while the server is locked. A server with more than this outside of InnoDB has to wait for
/// the target; the few files that are copied with commits blocked are kept aside in any case.
const ASIDE_LEN_MAX: u64 = 1 << 30;

/// Share of that for what is copied before the lock, one part of this many. It may have to be copied again under the lock.
const AHEAD_PART: u64 = 2;

/// Share of the free space in the spool's directory that may be used for that: one part of this many.
const ASIDE_SPACE_PART: u64 = 4;

/// A server that was asked everything and may be backed up.
pub(super) struct Connected<'a> {
    server: &'a Server,
    session: Session,
    flavor: Flavor,
    variables: Variables,
    options: &'a BackupOptions,
    run: &'a Run,
    started: jiff::Zoned,
}

/// Connects, and finds out everything that would make the backup fail later.
pub(super) fn connect<'a>(
    server: &'a Server,
    options: &'a BackupOptions,
    run: &'a Run,
) -> Result<Connected<'a>> {
    let mut session = server.connect()?;
    let flavor = session.identify()?;
    run.monitor
        .info(format!("server {flavor} at {}", server.options().endpoint));
    if let Some(warning) = flavor.check(options.allow_unknown_version)? {
        run.monitor.warning(warning);
    }
    let variables = session.variables()?;
    session.check_privileges(&Needs {
        binlog: variables.log_bin,
        slave_info: options.slave_info,
        checkpoint_now: false,
    })?;
    // Before the server is asked for a lock.
    let first = [
        variables.innodb_log_group_home_dir.join(LOG_NAME),
        variables.aria_log_dir_path.join(ARIA_CONTROL),
    ];
    reading::look_around(&variables.datadir, &first)?;
    let rocksdb = variables.datadir.join("#rocksdb");
    if reading::exists(&rocksdb)? {
        return Err(Error::new(
            Kind::Server,
            "tables of the engine MyRocks cannot be backed up:",
        )
        .path(rocksdb)
        .hint(
            "use mariadb-backup for this server, or remove the directory if the engine is not used",
        ));
    }
    let started = jiff::Zoned::now();
    Ok(Connected {
        server,
        session,
        flavor,
        variables,
        options,
        run,
        started,
    })
}

impl Connected<'_> {
    /// Copies everything to `sink`. `settle` returns when all that was handed over has reached its target.
    pub(super) fn run(
        mut self,
        sink: &dyn Sink,
        settle: &dyn Fn() -> Result<()>,
        budget: &Budget,
        tmpdir: &Path,
    ) -> Result<BackupSummary> {
        let monitor = &self.run.monitor;
        let inventory = Inventory::new(&self.variables);
        // The checkpoint before the files: pages that were flushed before it are in the files we open after it.
        let before = self.session.lsn_status()?.last_checkpoint;
        let log = LogStart::open(&self.variables.innodb_log_group_home_dir, &self.run.cancel)?;
        let checkpoint_lsn = log.checkpoint().lsn;
        let after = self.session.lsn_status()?.current;
        self.check_whose_log(before, checkpoint_lsn, after)?;
        let encrypted_log = log.is_encrypted();
        let follower_session = self.server.connect()?;
        let follower = RedoFollower::start(
            log,
            follower_session,
            tmpdir,
            &self.run.cancel,
            Arc::clone(monitor),
        )?;

        monitor.phase("waiting for BACKUP STAGE START");
        self.session.backup_stage(Stage::Start)?;
        let aside_share = (ASIDE_BUFS * ASIDE_BUF_LEN).div_ceil(budget.input_buf_len);
        let ledger = Mutex::new(Ledger::default());
        let damage = Damage::default();
        let mut copy = Copy {
            sink,
            pool: BufPool::new(
                budget.input_bufs.saturating_sub(aside_share),
                budget.input_buf_len,
            ),
            lanes: budget.lanes,
            page_len: usize::try_from(self.variables.innodb_page_size).unwrap_or(16 << 10),
            aria_block_len: (!self.variables.aria_encrypt_tables)
                .then(|| usize::try_from(self.variables.aria_block_size).ok())
                .flatten(),
            ledger: &ledger,
            damage: &damage,
            system_flags: None,
            run: self.run,
        };
        // The control file before the logs it points into; the server purges no Aria log from here on.
        copy.plain_files(vec![inventory.aria_control()?])?;

        monitor.phase("copying tablespaces");
        let begun = self.copy_tablespaces(&mut copy, &inventory)?;
        let room = fsx::free_space(tmpdir)? / ASIDE_SPACE_PART;
        let aside = Aside::new(tmpdir, ASIDE_LEN_MAX.min(room))?;
        // In the memory that the other pool does without.
        let aside_pool = BufPool::new(ASIDE_BUFS, ASIDE_BUF_LEN);
        let locked = copy.redirected(&aside, &aside_pool);
        let with_room = |bytes| {
            if aside.has_room(bytes) {
                &locked
            } else {
                &copy
            }
        };

        monitor.phase("copying other files");
        let mut early = inventory.others()?.early;
        early.retain(|file| !may_be_mapped(file, &self.variables));
        let ahead = locked.ahead(early, aside.limit() / AHEAD_PART)?;

        monitor.phase("waiting for the redo log and the target");
        // What is still on its way would be waited for with DDL blocked.
        settle()?;
        follower.wait_for(self.session.lsn_status()?.flushed)?;

        monitor.phase("waiting for BACKUP STAGE BLOCK_DDL");
        self.session.backup_stage(Stage::BlockDdl)?;
        let ddl_blocked = Instant::now();
        monitor.phase("copying what changed, DDL is blocked");
        let lsn = self.session.lsn_status()?.current;
        self.session.flush_engine_logs()?;
        follower.wait_for(lsn)?;
        let beginning = Beginning {
            listed: &begun.listed,
            encrypted_log,
        };
        let (reconciled, fresh) = copy.reconcile(&inventory, &follower.spaces(), &beginning)?;
        with_room(fresh.iter().map(|w| w.space.size).sum()).tablespaces(fresh)?;
        let mut others = inventory.others()?;
        let outdated = ahead.reconcile(&mut others.early);
        let forgotten = aside.forget(&outdated);
        with_room(others.early.iter().map(|f| f.stamp.size).sum()).plain_files(others.early)?;
        for database in &others.empty_databases {
            locked.empty_database(database)?;
        }
        if reconciled.has_imported() {
            // Most of what has to be written is written before commits wait for it.
            reconciled.flush_imported(&mut self.session)?;
        }

        monitor.phase("waiting for BACKUP STAGE BLOCK_COMMIT");
        self.session.backup_stage(Stage::BlockCommit)?;
        let commits_blocked = Instant::now();
        monitor.phase("finishing, commits are blocked");
        locked.plain_files(others.late)?;
        locked.plain_files(inventory.aria_logs()?)?;
        if reconciled.has_imported() {
            reconciled.flush_imported(&mut self.session)?;
            let work = reconciled.imported_work(&copy);
            with_room(work.iter().map(|w| w.space.size).sum()).tablespaces(work)?;
        }
        let binlog = if self.variables.log_bin {
            self.session.binlog_position()?
        } else {
            None
        };
        let replica = if self.options.slave_info {
            Some(self.session.slave_status()?)
        } else {
            None
        };
        let galera = if self.variables.wsrep_on {
            self.session.galera_state()?
        } else {
            None
        };
        // Both in one answer: a checkpoint asked for later might lie behind the end of the copied log.
        let end = self.session.lsn_status()?;
        self.session.flush_engine_logs()?;
        // Ended under the lock: what is committed after it is not in the position above and must not be in the log.
        let mut log = follower.finish(end.current)?;
        // An error here means that the locks were lost at some time: then nothing of the above can be trusted.
        self.session.backup_stage(Stage::End)?;
        let locks = Locks {
            ddl: ddl_blocked.elapsed(),
            commits: commits_blocked.elapsed(),
        };
        if let Err(error) = self.session.close() {
            // Nothing hangs on it any more.
            monitor.warning(error.to_string());
        }

        for place in others.left_out {
            monitor.warning(format!(
                "left out {place:?}: not a file of a storage engine that this version knows"
            ));
        }

        monitor.phase("copying the redo log");
        drop(locked);
        aside.replay(sink, &copy.pool, &self.run.cancel)?;
        let redo_bytes = log.len;
        if !encrypted_log {
            reconciled.bury_orphans(&mut log)?;
        }
        copy.redo_log(&log)?;
        for marker in copy.ledger().markers(&reconciled.present)? {
            copy.small_file(&marker.name, marker.content)?;
        }

        monitor.phase("writing metadata");
        let story = Story {
            flavor: &self.flavor,
            variables: &self.variables,
            options: self.options,
            started: &self.started,
            locks,
            undo_files: begun.undo_files,
            to_lsn: end.last_checkpoint,
            last_lsn: log.last_lsn,
            binlog: binlog.as_ref(),
            replica: replica.as_ref(),
            galera: galera.as_ref(),
        };
        let metadata = write_metadata::files(&story)?;
        for (name, content) in metadata.files {
            copy.small_file(&name, content)?;
        }
        // The last file makes a directory a backup: everything else must be there before it.
        settle()?;
        copy.small_file(&metadata.last.0, metadata.last.1)?;
        Ok(BackupSummary {
            server_version: self.flavor.text,
            checkpoint_lsn,
            to_lsn: end.last_checkpoint,
            last_lsn: log.last_lsn,
            binlog: metadata.binlog,
            files: Counters::get(&monitor.counters().done_files) - forgotten as u64,
            redo_bytes,
            ddl_blocked: locks.ddl,
            commits_blocked: locks.commits,
        })
    }

    /// The server may run on another host, or in a container, where the same path means other files.
    fn check_whose_log(&self, before: Lsn, found: Lsn, after: Lsn) -> Result<()> {
        if before <= found && found <= after {
            return Ok(());
        }
        Err(Error::new(
            Kind::Server,
            format!("the redo log here is not that of the server: its checkpoint is at LSN {found}, the server's between {before} and {after}, in"),
        )
        .path(&self.variables.innodb_log_group_home_dir)
        .hint("xbpipe reads the files of the server: run it on the server's host, in the server's file system"))
    }

    /// System and undo tablespaces and all tables, until almost nothing new turns up.
    fn copy_tablespaces(&self, copy: &mut Copy<'_>, inventory: &Inventory<'_>) -> Result<Begun> {
        let system = inventory.system()?;
        let undo = inventory.undo()?;
        let tables = inventory.tables()?;
        let listed = tables.iter().map(|t| t.identity).collect();
        let mut work = copy.system_work(&system)?;
        work.extend(undo.iter().cloned().map(|space| Work {
            space,
            kind: SpaceKind::Undo,
        }));
        work.extend(tables.into_iter().map(|space| Work {
            space,
            kind: SpaceKind::Table,
        }));
        copy.tablespaces(work)?;
        for _ in 0..PRE_PASSES_MAX {
            let fresh: Vec<Work> = {
                let ledger = copy.ledger();
                let fresh = inventory
                    .tables()?
                    .into_iter()
                    .filter(|t| !ledger.holds(t.identity));
                fresh
                    .map(|space| Work {
                        space,
                        kind: SpaceKind::Table,
                    })
                    .collect()
            };
            if fresh.iter().map(|w| w.space.size).sum::<u64>() <= LEFT_FOR_LOCK_MAX {
                break;
            }
            copy.tablespaces(fresh)?;
        }
        Ok(Begun {
            undo_files: u32::try_from(undo.len()).unwrap_or(u32::MAX),
            listed,
        })
    }
}

/// What there was when copying began.
struct Begun {
    undo_files: u32,
    listed: HashSet<Identity>,
}

/// How long the server's locks were held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Locks {
    pub(super) ddl: Duration,
    pub(super) commits: Duration,
}
