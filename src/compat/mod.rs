//! Front ends under the names of other programs: same options, same output, same ways; told in `format-spec/compat-*.md`.
//!
//! Each has one table of options ([`grammar::Opt`]); adding a program is one table, one run function and one line in
//! [`FRONT_ENDS`].

pub mod grammar;

mod fifo;
mod hints;
mod key;
mod names;
mod stream;
mod voice;
mod xbcloud;
mod xbcrypt;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::front::Exit;
use crate::front::lines::tell;
use grammar::{Opt, Parsed, Row, Show};

/// One program that we can be.
#[derive(Debug)]
pub struct FrontEnd {
    /// Its name, which is also that of its table in [`FrontEnd::document`].
    pub name: &'static str,
    /// The page in `format-spec/`.
    pub document: &'static str,
    /// Its options in the order of the help.
    pub rows: fn() -> Vec<Row>,
    run: fn(&[OsString]) -> Exit,
}

/// Every program that we can be.
pub const FRONT_ENDS: &[FrontEnd] = &[
    FrontEnd {
        name: "xbstream",
        document: "compat-xbstream.md",
        rows: || stream::XBSTREAM.rows(),
        run: |args| stream::run(&stream::XBSTREAM, args),
    },
    FrontEnd {
        name: "mbstream",
        document: "compat-xbstream.md",
        rows: || stream::MBSTREAM.rows(),
        run: |args| stream::run(&stream::MBSTREAM, args),
    },
    FrontEnd {
        name: "xbcrypt",
        document: "compat-xbcrypt.md",
        rows: xbcrypt::rows,
        run: xbcrypt::run,
    },
    FrontEnd {
        name: "xbcloud",
        document: "compat-xbcloud.md",
        rows: xbcloud::rows,
        run: xbcloud::run,
    },
];

impl FrontEnd {
    /// Runs a command line, without the program's name; returns when everything is done.
    #[must_use]
    pub fn run(&self, args: &[OsString]) -> Exit {
        (self.run)(args)
    }
}

/// What came of a command line.
enum Started<S> {
    /// Settings, and words that are no options.
    Run(S, Vec<OsString>),
    /// It was wrong, or asked for nothing but help: everything is said.
    Over(Exit),
}

/// Takes a command line apart and says what there is to say about it. `head` gives the version, and for the help what stands
/// before the options.
fn start<S: Default>(
    program: &'static str,
    options: &'static [Opt<S>],
    args: &[OsString],
    head: impl FnOnce(Show) -> String,
) -> Started<S> {
    let Parsed {
        settings,
        words,
        notes,
        show,
    } = match grammar::parse(program, options, args) {
        Ok(parsed) => parsed,
        Err(lines) => {
            lines.iter().for_each(|line| tell(line));
            return Started::Over(Exit::FAILED);
        }
    };
    notes.iter().for_each(|line| tell(line));
    let Some(show) = show else {
        return Started::Run(settings, words);
    };
    let mut text = head(show);
    if show == Show::Help {
        text.push_str(&grammar::help(options));
    }
    // Into a closed pipe (`| head`) it has been read as far as somebody wanted to.
    std::io::stdout().write_all(text.as_bytes()).ok();
    Started::Over(Exit::DONE)
}

/// The program that a name as it was called, with or without directories, stands for.
#[must_use]
pub fn by_name(name: &OsStr) -> Option<&'static FrontEnd> {
    let name = Path::new(name).file_name()?;
    FRONT_ENDS.iter().find(|f| name == f.name)
}

/// Makes a symbolic link to this program for each old name. Returns how many are there now.
pub fn make_links(directory: &Path) -> Result<u64> {
    let us = std::env::current_exe()
        .map_err(|e| Error::new(Kind::Failed, "cannot find this program's file").source(e))?;
    let mut count = 0;
    for front_end in FRONT_ENDS {
        let link = directory.join(front_end.name);
        if fsx::link_content(&link).as_ref() != Some(&us) {
            fsx::symlink(&us, &link)
                .map_err(|e| e.hint("choose another directory, or remove what is there"))?;
        }
        count += 1;
    }
    Ok(count)
}
