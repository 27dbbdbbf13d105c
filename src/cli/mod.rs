//! The native front end: arguments in, exit status out. One file per group of verbs; each verb is a [`Verb`].
//!
//! Standard output carries data and results only. Everything else goes to standard error through [`progress::Watcher`].

pub mod progress;

mod archive;
mod backup;
mod common;
mod connect;
mod convert;
mod crypt;
mod old_names;
mod prepare;
mod report;
mod restore;
mod store;
mod store_args;

use std::ffi::OsString;
use std::sync::Arc;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::base::error::Result;
use crate::base::run::Run;
use crate::front::{self, Exit};
use common::Common;
use progress::{Watcher, WatcherOptions};

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
    Backup(Box<backup::BackupArgs>),
    /// Make a backup startable, by the installed server's own crash recovery
    Prepare(prepare::PrepareArgs),
    /// Copy a prepared backup into an empty data directory
    CopyBack(restore::CopyBackArgs),
    /// Move a prepared backup into an empty data directory
    MoveBack(restore::MoveBackArgs),
    #[command(flatten)]
    Archive(archive::ArchiveVerbs),
    #[command(flatten)]
    Store(store::StoreVerbs),
    /// Make a key pair for encrypted backups
    Keygen(crypt::KeygenArgs),
    /// Make symbolic links to this program under the old names
    Links(old_names::LinksArgs),
    /// Be one of the old programs: `xbpipe as xbstream -x -C DIR`
    As(old_names::AsArgs),
}

impl Verbs {
    /// A verb of ours, or the command line of an old program.
    fn split(self) -> Result<Box<dyn Verb + Send>, old_names::AsArgs> {
        Ok(match self {
            Self::Backup(args) => args,
            Self::Prepare(args) => Box::new(args),
            Self::CopyBack(args) => Box::new(args),
            Self::MoveBack(args) => Box::new(args),
            Self::Archive(verb) => verb.into_verb(),
            Self::Store(verb) => verb.into_verb(),
            Self::Keygen(args) => Box::new(args),
            Self::Links(args) => Box::new(args),
            Self::As(args) => return Err(args),
        })
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
    front::raise_open_files();
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    let verb = match cli.verb.split() {
        Ok(verb) => verb,
        Err(old) => return old.run(),
    };
    let watcher = Watcher::start(WatcherOptions {
        verb: verb.name(),
        progress: verb.common().progress,
        brief: verb.is_brief(),
        verbose: verb.common().verbose,
        quiet: verb.common().quiet,
    });
    let monitor = Arc::<Watcher>::clone(&watcher);
    match front::supervise(monitor, |run| verb.run(run)) {
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
    let mut command = command();
    command
        .try_get_matches_from_mut(args)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches))
        .map_err(|error| report::command_line(&error))
}

/// The command line, its texts without the line ends of the source: they are wrapped as wide as the terminal is.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|verb| match verb.get_after_long_help() {
        Some(text) => {
            let text = paragraphs(&text.to_string());
            verb.after_long_help(text)
        }
        None => verb,
    })
}

/// Each paragraph on one line; indented lines stay as they are.
fn paragraphs(text: &str) -> String {
    let is_prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
    let mut out = String::with_capacity(text.len());
    let mut goes_on = false;
    for line in text.lines() {
        if !out.is_empty() {
            out.push(if goes_on && is_prose(line) { ' ' } else { '\n' });
        }
        out.push_str(line);
        goes_on = is_prose(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_whole_and_examples_stay_apart() {
        let text = "One goes\non.\n\nAnother.\n\nExamples:\n  xbpipe a\n  xbpipe b";
        let whole = "One goes on.\n\nAnother.\n\nExamples:\n  xbpipe a\n  xbpipe b";
        assert_eq!(paragraphs(text), whole);
        let help = command();
        let verb = help.find_subcommand("copy-back").unwrap();
        let text = verb.get_after_long_help().unwrap().to_string();
        assert!(text.contains("broken off is finished by running it again.\n\nExample:\n  xbpipe"));
        assert!(
            !text.lines().next().unwrap().is_empty() && text.lines().count() == 4,
            "{text}"
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
