//! The native front end: arguments in, exit status out. One file per group of verbs; each verb is a [`Verb`].
//!
//! Standard output carries data and results only. Everything else goes to standard error through [`progress::Watcher`].

pub mod progress;

mod archive;
mod backup;
mod common;
mod connect;
mod crypt;
mod prepare;
mod report;
mod restore;
mod signals;

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use crossbeam_channel::bounded;

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::run::Run;
use common::Common;
use progress::{Watcher, WatcherOptions};

/// How the process ends: a status of `format-spec/exit-status.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// Everything that was asked for is done.
    pub const DONE: Self = Self(0);

    /// The number.
    #[must_use]
    pub const fn status(self) -> u8 {
        self.0
    }
}

impl From<Kind> for Exit {
    fn from(kind: Kind) -> Self {
        Self(kind.exit_status())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.0.into()
    }
}

/// Hot physical backups of MariaDB as one stream, and everything about such archives.
#[derive(Debug, Parser)]
#[command(
    name = "xbpipe",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(
    after_help = "Exit status: 0 done, 1 failed, 2 usage, 3 incomplete input, 4 damaged input, 5 store, \
    6 server,\n7 redo overrun, 8 no space, 9 interrupted. `xbpipe help VERB` tells everything about a verb."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verbs,
}

#[derive(Debug, Subcommand)]
enum Verbs {
    /// Back up a running server, as one stream or into a directory
    Backup(backup::BackupArgs),
    /// Make a backup startable, by the installed server's own crash recovery
    Prepare(prepare::PrepareArgs),
    /// Copy a prepared backup into an empty data directory
    CopyBack(restore::CopyBackArgs),
    /// Move a prepared backup into an empty data directory
    MoveBack(restore::MoveBackArgs),
    #[command(flatten)]
    Archive(archive::ArchiveVerbs),
    /// Make a key pair for encrypted backups
    Keygen(crypt::KeygenArgs),
}

impl Verbs {
    fn into_verb(self) -> Box<dyn Verb + Send> {
        match self {
            Self::Backup(args) => Box::new(args),
            Self::Prepare(args) => Box::new(args),
            Self::CopyBack(args) => Box::new(args),
            Self::MoveBack(args) => Box::new(args),
            Self::Archive(verb) => verb.into_verb(),
            Self::Keygen(args) => Box::new(args),
        }
    }
}

/// What the command line asked for, ready to run.
trait Verb {
    /// The word on the command line.
    fn name(&self) -> &'static str;

    /// Options that every verb has.
    fn common(&self) -> &Common;

    /// Its result is on standard output and usually there at once, so that progress is only shown to somebody who sits in
    /// front of a terminal and has to wait.
    fn is_brief(&self) -> bool {
        false
    }

    /// Does it.
    fn run(self: Box<Self>, run: &Run) -> Result<Summary>;
}

/// What a verb has done, for the last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Summary {
    files: u64,
    bytes: u64,
}

/// Runs one command line; returns when everything is done, or when a signal leaves no more time.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    raise_open_files();
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    let verb = cli.verb.into_verb();
    let watcher = Watcher::start(WatcherOptions {
        verb: verb.name(),
        progress: verb.common().progress,
        brief: verb.is_brief(),
        verbose: verb.common().verbose,
        quiet: verb.common().quiet,
    });
    let result = run_verb(verb, &watcher);
    match result {
        Ok(summary) => {
            watcher.done(summary.files, summary.bytes);
            Exit::DONE
        }
        Err(error) => {
            watcher.failed(&error);
            error.kind().into()
        }
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    let mut command = Cli::command();
    command
        .try_get_matches_from_mut(args)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches))
        .map_err(|error| report::command_line(&error))
}

/// The verb has a thread of its own, so that this one can end the process even while that one is stuck in a system call.
fn run_verb(verb: Box<dyn Verb + Send>, watcher: &Arc<Watcher>) -> Result<Summary> {
    let cancel = Cancel::new();
    let (sender, outcome) = bounded(2);
    signals::watch(&cancel, sender.clone())?;
    let run = Run {
        cancel,
        monitor: Arc::<Watcher>::clone(watcher),
    };
    std::thread::Builder::new()
        .name("verb".to_owned())
        .spawn(move || {
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| verb.run(&run)));
            let result = result.unwrap_or_else(|_| {
                Err(Error::new(Kind::Failed, "xbpipe panicked: this is a bug")
                    .hint("report it with the lines above"))
            });
            // Nobody waits for it once the run was given up.
            sender.send(result).ok();
        })
        .map_err(|e| Error::new(Kind::Failed, "cannot start a thread").source(e))?;
    outcome
        .recv()
        .unwrap_or_else(|_| Err(Error::new(Kind::Failed, "the run ended without a result")))
}

/// As many open files as the system allows: every member under way is one.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // The old limit suffices for most runs; if it does not, the error names the file.
    setrlimit(Resource::Nofile, limit).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
