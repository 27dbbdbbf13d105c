//! The backup engine: a hot physical backup of a running MariaDB.
//!
//! What makes it correct (`format-spec/redo-mariadb.md`): the checkpoint is read before any tablespace is opened; the redo log is
//! followed from that checkpoint to an LSN taken after the last page was copied; under the server's backup lock the copied
//! files are reconciled by tablespace id with what is there; everything that is not InnoDB is copied under that lock; and
//! the lock must still be ours when it is released.

mod ahead;
mod aside;
mod copy_pages;
mod copying;
mod damage;
mod engine;
mod follow_redo;
mod inventory;
mod ledger;
mod reading;
mod reconcile;
mod write_metadata;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::run::Run;
use crate::base::units::{ByteCount, Lsn};
use crate::codec::{Encoder, Encoders};
use crate::pipeline::archive_sink::ArchiveSink;
use crate::pipeline::budget::Budget;
use crate::pipeline::dir_sink::{DirOptions, DirSink, find_partial};
use crate::pipeline::encode::{encode_through, is_read_in_stream};
use crate::pipeline::output::{OpenSink, Output, Target};
use crate::pipeline::sink::Sink;
use crate::server::session::Server;
use crate::xbstream::ArchivePath;

/// Where a backup goes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// One stream that goes to a place of its own kind.
    Sink(Arc<dyn OpenSink>),
    /// One stream on standard output.
    Stdout,
    /// One stream in a file that gets its name when it is whole.
    File(PathBuf),
    /// A directory that is empty or not there yet.
    Directory(PathBuf),
}

/// How to back up.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Where the backup goes.
    pub destination: Destination,
    /// What its files pass through, in this order.
    pub encoders: Encoders,
    /// Buffers altogether.
    pub memory: ByteCount,
    /// Lanes that copy tablespaces.
    pub parallel: usize,
    /// Most payload of one chunk of the archive, if asked for.
    pub chunk_len: Option<usize>,
    /// Directory for the redo log until it is sent; `None`: the target directory, or the system's.
    pub tmpdir: Option<PathBuf>,
    /// Write down where a new replica would continue.
    pub slave_info: bool,
    /// Go on with a server version that this program does not know.
    pub allow_unknown_version: bool,
    /// Have everything on stable storage at the end (directories and files).
    pub sync: bool,
    /// The command line for the metadata, without secrets.
    pub command: String,
}

/// A finished backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSummary {
    /// What the server says it is.
    pub server_version: String,
    /// Checkpoint the backup's redo log begins with.
    pub checkpoint_lsn: Lsn,
    /// Newest checkpoint of the server at the end.
    pub to_lsn: Lsn,
    /// Where the redo log ends: the state the backup will have.
    pub last_lsn: Lsn,
    /// `FILE, position N, GTID ...` when the server writes a binary log.
    pub binlog: Option<crate::metadata::binlog::BinlogPosition>,
    /// Files in the backup.
    pub files: u64,
    /// Bytes of redo log copied.
    pub redo_bytes: u64,
    /// How long DDL was blocked.
    pub ddl_blocked: Duration,
    /// How long commits were blocked.
    pub commits_blocked: Duration,
}

/// Backs up `server`. On any error nothing is left that could be taken for a whole backup.
pub fn backup(server: &Server, options: &BackupOptions, run: &Run) -> Result<BackupSummary> {
    let mut budget = Budget::encode(options.memory, options.parallel, &options.encoders)?;
    if let Some(len) = options.chunk_len {
        budget = budget.with_chunk_len(len);
    }
    let prepared = engine::connect(server, options, run)?;
    match &options.destination {
        Destination::Stdout => to_archive(
            prepared,
            Target::Stdout { terminal: false },
            options,
            &budget,
            run,
        ),
        Destination::Sink(place) => {
            let target = Target::Sink(place.open(run)?);
            to_archive(prepared, target, options, &budget, run)
        }
        Destination::File(path) => {
            to_archive(prepared, Target::File(path.clone()), options, &budget, run)
        }
        Destination::Directory(path) => {
            if fsx::exists(path)? && !fsx::list_dir(path)?.is_empty() {
                let hint = match find_partial(path)? {
                    None => "a backup needs a directory of its own".to_owned(),
                    Some(file) => format!(
                        "with {file:?} in it, it is what a run left that did not come to its end, and may be removed"
                    ),
                };
                return Err(Error::new(Kind::Failed, "target directory is not empty")
                    .path(path)
                    .hint(hint));
            }
            let dir_options = DirOptions {
                resume: false,
                overwrite: false,
                sync: options.sync,
            };
            let sink = DirSink::open(path, dir_options, Arc::clone(&run.monitor))?;
            let tmpdir = options.tmpdir.clone().unwrap_or_else(|| path.clone());
            let settle = || sink.settle();
            let summary = encoded(&sink, options, &budget, run, |sink| {
                prepared.run(sink, &settle, &budget, &tmpdir)
            })?;
            sink.finish()?;
            Ok(summary)
        }
    }
}

fn to_archive(
    prepared: engine::Connected<'_>,
    target: Target,
    options: &BackupOptions,
    budget: &Budget,
    run: &Run,
) -> Result<BackupSummary> {
    let tmpdir = options.tmpdir.clone().unwrap_or_else(std::env::temp_dir);
    let output = Output::open(target, &run.cancel, Arc::clone(&run.monitor))?;
    let sink = ArchiveSink::new(output, budget.chunk)?;
    let settle = || sink.settle();
    let summary = encoded(&sink, options, budget, run, |sink| {
        prepared.run(sink, &settle, budget, &tmpdir)
    })?;
    sink.finish()?;
    Ok(summary)
}

/// Puts the encoders before `sink`, all but for what others read out of a stream.
fn encoded(
    sink: &dyn Sink,
    options: &BackupOptions,
    budget: &Budget,
    run: &Run,
    copy: impl FnOnce(&dyn Sink) -> Result<BackupSummary>,
) -> Result<BackupSummary> {
    let plain = &|path: &ArchivePath, _: &dyn Encoder| is_read_in_stream(path);
    encode_through(sink, &options.encoders, budget, plain, &run.cancel, copy)
}
