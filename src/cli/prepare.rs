//! The verb that makes a backup startable.

use std::path::PathBuf;

use clap::Args;

use crate::base::error::Result;
use crate::base::monitor::Counters;
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::cli::common::Common;
use crate::cli::{Summary, Verb};
use crate::prepare::{PrepareOptions, prepare};

#[derive(Debug, Args)]
#[command(after_long_help = "\
The copied redo log is checked from its first to its last byte before anything is touched. Then the installed server of the
same major version recovers the directory, pinned inside it: it opens no socket, reads no option file and follows no path
that leads out. Preparing again is harmless; a prepare that was killed is finished by the next one.

Examples:
  xbpipe prepare /restore
  xbpipe prepare --use-memory 4G --mariadbd /opt/mariadb/bin/mariadbd /restore")]
pub(super) struct PrepareArgs {
    /// The backup: a directory made by `backup --to DIR` or by `extract`
    dir: PathBuf,

    /// The server program [default: found on the PATH]
    #[arg(long, value_name = "FILE")]
    mariadbd: Option<PathBuf>,

    /// Memory for pages during recovery
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    use_memory: ByteCount,

    /// The server's plugins, for encrypted backups [default: as on the source]
    #[arg(long, value_name = "DIR")]
    plugin_dir: Option<PathBuf>,

    /// Server option that loads or unlocks encryption keys here, where it differs from the source's; may be repeated
    #[arg(long = "key-option", value_name = "NAME=VALUE")]
    key_options: Vec<String>,

    /// Use a server of another major version: what an older one leaves is damaged, what a newer one leaves cannot go back
    #[arg(long)]
    any_version: bool,

    #[command(flatten)]
    common: Common,
}

impl Verb for PrepareArgs {
    fn name(&self) -> &'static str {
        "prepare"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let options = PrepareOptions {
            dir: self.dir,
            mariadbd: self.mariadbd,
            use_memory: self.use_memory,
            plugin_dir: self.plugin_dir,
            key_options: self.key_options,
            any_version: self.any_version,
        };
        let done = prepare(&options, run)?;
        let monitor = &run.monitor;
        if done.already_prepared {
            monitor.info("the backup was prepared before, nothing was done".to_owned());
        } else {
            monitor.info(format!(
                "recovered to LSN {}, {} tables were dropped, renamed or put in place",
                done.last_lsn, done.moved_files
            ));
        }
        if !done.binlog_position.is_empty() {
            monitor.info(format!("binary log position: {}", done.binlog_position));
        }
        Ok(Summary {
            files: Counters::get(&monitor.counters().done_files),
            bytes: Counters::get(&monitor.counters().read_bytes),
        })
    }
}
