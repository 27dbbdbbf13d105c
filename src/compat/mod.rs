//! Front ends under the names of other programs: same options, same output, same ways; told in `format-spec/compat-*.md`.
//!
//! Each has one table of options ([`grammar::Opt`]); adding a program is one table, one run function and one line in
//! [`FRONT_ENDS`].

pub mod grammar;

mod fifo;
mod names;
mod stream;
mod voice;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::front::Exit;
use grammar::Row;

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
];

impl FrontEnd {
    /// Runs a command line, without the program's name; returns when everything is done.
    #[must_use]
    pub fn run(&self, args: &[OsString]) -> Exit {
        (self.run)(args)
    }
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
