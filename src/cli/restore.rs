//! The verbs that put a prepared backup into place.

use std::path::PathBuf;

use clap::Args;

use crate::base::error::Result;
use crate::base::run::Run;
use crate::cli::common::Common;
use crate::cli::{Summary, Verb};
use crate::restore::{Owner, RestoreOptions, RestoreSummary, copy_back, move_back};

#[derive(Debug, Args)]
struct RestoreArgs {
    /// The prepared backup
    dir: PathBuf,

    /// The data directory: missing or empty
    #[arg(long, value_name = "DIR")]
    datadir: PathBuf,

    /// Owner of everything restored [default for root: that of the data directory, else of the backup]
    #[arg(long, value_name = "USER[:GROUP]", value_parser = Owner::parse)]
    owner: Option<Owner>,

    /// Place of the system tablespace [default: the data directory]
    #[arg(long, value_name = "DIR")]
    innodb_data_home_dir: Option<PathBuf>,

    /// Place of the redo log [default: the data directory]
    #[arg(long, value_name = "DIR")]
    innodb_log_group_home_dir: Option<PathBuf>,

    /// Place of the undo tablespaces [default: the data directory]
    #[arg(long, value_name = "DIR")]
    innodb_undo_directory: Option<PathBuf>,

    /// Place of Aria's logs [default: the data directory]
    #[arg(long, value_name = "DIR")]
    aria_log_dir_path: Option<PathBuf>,

    #[command(flatten)]
    common: Common,
}

impl RestoreArgs {
    fn run(
        self,
        run: &Run,
        restore: fn(&RestoreOptions, &Run) -> Result<RestoreSummary>,
    ) -> Result<Summary> {
        let options = RestoreOptions {
            parallel: self.common.parallel(),
            dir: self.dir,
            datadir: self.datadir,
            owner: self.owner,
            innodb_data_home_dir: self.innodb_data_home_dir,
            innodb_log_group_home_dir: self.innodb_log_group_home_dir,
            innodb_undo_directory: self.innodb_undo_directory,
            aria_log_dir_path: self.aria_log_dir_path,
        };
        let done = restore(&options, run)?;
        if done.resumed {
            run.monitor
                .info("finished a run that was broken off before".to_owned());
        }
        Ok(Summary {
            files: done.files,
            bytes: done.bytes,
        })
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
The backup stays as it is. Until everything is in place and durable, the data directory holds the file
xbpipe_restore_incomplete, and no server should be started on it; a run that was broken off is finished by running it again.

Example:
  xbpipe copy-back /restore --datadir /var/lib/mysql --owner mysql")]
pub(super) struct CopyBackArgs {
    #[command(flatten)]
    args: RestoreArgs,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
On one file system every file is renamed; elsewhere it is copied, and removed from the backup only when its copy is durable.
A run that was broken off is finished by running it again.

Example:
  xbpipe move-back /restore --datadir /var/lib/mysql --owner mysql")]
pub(super) struct MoveBackArgs {
    #[command(flatten)]
    args: RestoreArgs,
}

impl Verb for CopyBackArgs {
    fn name(&self) -> &'static str {
        "copy-back"
    }

    fn common(&self) -> &Common {
        &self.args.common
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        self.args.run(run, copy_back)
    }
}

impl Verb for MoveBackArgs {
    fn name(&self) -> &'static str {
        "move-back"
    }

    fn common(&self) -> &Common {
        &self.args.common
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        self.args.run(run, move_back)
    }
}
