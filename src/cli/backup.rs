//! The verb that talks to a server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::backup::{BackupOptions, Destination, backup};
use crate::base::error::Result;
use crate::base::monitor::Counters;
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::cli::common::{ChunkArgs, Common, CompressArgs};
use crate::cli::connect::ConnectArgs;
use crate::cli::crypt::EncryptArgs;
use crate::cli::store_args::StoreArgs;
use crate::cli::{Summary, Verb};
use crate::server::session::{Server, Waits};

#[derive(Debug, Args)]
#[command(after_long_help = "\
The backup is hot: the server goes on writing. DDL is blocked while those files are copied that are not InnoDB's and were
changed in the last moments, commits while the last of the logs is; both times are told at the end. The account needs RELOAD,
and BINLOG MONITOR when the server has a binary log. Only if somebody runs IMPORT TABLESPACE meanwhile it needs SUPER, too. The
files are read directly, so xbpipe runs on the server's host as the server's user or root.
The result must be prepared (xbpipe prepare) before a server can start on it.

When this returns with status 0, a file or directory that --to names is on stable storage, and a backup in a store is stored and
checked; what goes to standard output is its reader's to keep. With --no-sync a directory is complete, but a power failure may
still take it; a file is always synced before it gets its name.

Examples:
  xbpipe backup | ssh db2 xbpipe extract -C /restore
  xbpipe backup --compress zstd:3 --to /backup/monday.xb
  xbpipe backup --to /backup/monday
  xbpipe backup --compress zstd:3 --to s3://backups/db1/
  xbpipe backup --socket /run/mysqld/mysqld.sock --user backup --password-file /etc/backup.pw | zstd > full.xb.zst")]
pub(super) struct BackupArgs {
    /// `-` for standard output, a new file named *.xb, *.xbstream or *.mbstream, a name in a store (s3://BUCKET/PREFIX/NAME),
    /// a store itself (with a slash at the end; the name is the time then), or else an empty or new directory
    #[arg(long, value_name = "DEST", default_value = "-")]
    to: PathBuf,

    #[command(flatten)]
    compress: CompressArgs,

    #[command(flatten)]
    encrypt: EncryptArgs,

    #[command(flatten)]
    chunk: ChunkArgs,

    /// Write down where the server's own replication would continue on a new replica (needs SLAVE MONITOR)
    #[arg(long)]
    slave_info: bool,

    /// Give up when the server's backup lock is not to be had in this many seconds [default: wait]
    #[arg(long, value_name = "SECONDS")]
    lock_wait: Option<u32>,

    /// Directory for the redo log until it is sent [default: the target directory, or the system's]
    #[arg(long, value_name = "DIR")]
    tmpdir: Option<PathBuf>,

    /// Do not wait until everything in a target directory is on stable storage
    #[arg(long)]
    no_sync: bool,

    /// Back up a server that is newer than this program
    #[arg(long)]
    allow_unknown_version: bool,

    #[command(flatten)]
    connect: ConnectArgs,

    #[command(flatten)]
    store: Box<StoreArgs>,

    #[command(flatten)]
    common: Common,
}

/// Suffixes that make a target a file.
const ARCHIVE_SUFFIXES: [&str; 3] = ["xb", "xbstream", "mbstream"];

/// Where it goes, and what memory that leaves.
fn destination(
    to: PathBuf,
    store: &StoreArgs,
    common: &Common,
    run: &Run,
) -> Result<(Destination, ByteCount)> {
    let memory = common.memory();
    let suffix = to.extension().and_then(std::ffi::OsStr::to_str);
    if to.as_os_str() == "-" {
        return Ok((Destination::Stdout, memory));
    }
    if let Some((place, memory)) = store.new_backup(&to, common, run)? {
        return Ok((Destination::Sink(Arc::new(place)), memory));
    }
    let destination = if suffix.is_some_and(|s| ARCHIVE_SUFFIXES.contains(&s)) {
        Destination::File(to)
    } else {
        Destination::Directory(to)
    };
    Ok((destination, memory))
}

impl Verb for BackupArgs {
    fn name(&self) -> &'static str {
        "backup"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let monitor = run.monitor.as_ref();
        let waits = Waits {
            lock: self.lock_wait.map(|s| Duration::from_secs(u64::from(s))),
            ..Waits::default()
        };
        let mut encoders = self.compress.encoders()?;
        encoders.extend(self.encrypt.encoder(monitor)?);
        let connect = self.connect.resolve(monitor)?;
        let server = Server::new(connect, run.cancel.clone()).with_waits(waits);
        let (destination, memory) = destination(self.to, &self.store, &self.common, run)?;
        let options = BackupOptions {
            destination,
            encoders,
            memory,
            parallel: self.common.parallel(),
            chunk_len: self.chunk.len()?,
            tmpdir: self.tmpdir,
            slave_info: self.slave_info,
            allow_unknown_version: self.allow_unknown_version,
            sync: !self.no_sync,
            command: command_line(),
        };
        let done = backup(&server, &options, run)?;
        if let Some(binlog) = &done.binlog {
            monitor.info(binlog.sentence());
        }
        monitor.info(format!(
            "redo log from LSN {} to {} ({}), newest checkpoint {}",
            done.checkpoint_lsn,
            done.last_lsn,
            ByteCount(done.redo_bytes),
            done.to_lsn
        ));
        monitor.info(format!(
            "DDL was blocked for {} ms, commits for {} ms",
            done.ddl_blocked.as_millis(),
            done.commits_blocked.as_millis()
        ));
        Ok(Summary {
            files: done.files,
            bytes: Counters::get(&monitor.counters().written_bytes),
        })
    }
}

/// The arguments as they were given. No option takes a secret on the command line, so there is none to hide.
fn command_line() -> String {
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|w| w.to_string_lossy().into_owned())
        .collect();
    words.join(" ")
}
