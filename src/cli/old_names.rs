//! The way to the front ends under old names.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::base::error::{Kind, Result};
use crate::base::run::Run;
use crate::cli::common::Common;
use crate::cli::{Summary, Verb};
use crate::compat;
use crate::front::Exit;
use crate::front::lines::tell;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Names: xbstream, mbstream, xbcrypt, xbcloud. A link whose name is one of them behaves as that program; format-spec/ says what each option
does. Nothing that exists is replaced, except a link that leads to this program already.

Example:
  xbpipe links /usr/local/bin")]
pub(super) struct LinksArgs {
    /// Existing directory for the links
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    #[command(flatten)]
    common: Common,
}

impl Verb for LinksArgs {
    fn name(&self) -> &'static str {
        "links"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn is_brief(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, _: &Run) -> Result<Summary> {
        let files = compat::make_links(&self.directory)?;
        Ok(Summary { files, bytes: 0 })
    }
}

#[derive(Debug, Args)]
pub(super) struct AsArgs {
    #[command(subcommand)]
    program: Program,
}

/// What follows the name belongs to the old program's own grammar.
#[derive(Debug, Subcommand)]
enum Program {
    #[command(external_subcommand)]
    Words(Vec<OsString>),
}

impl AsArgs {
    /// Runs as the program named.
    pub(super) fn run(self) -> Exit {
        let Program::Words(words) = self.program;
        let (name, args) = match words.split_first() {
            Some((name, args)) => (name.as_os_str(), args),
            None => Default::default(),
        };
        match compat::by_name(name) {
            Some(program) => program.run(args),
            None => {
                let known: Vec<&str> = compat::FRONT_ENDS.iter().map(|f| f.name).collect();
                tell(&format!("xbpipe: hint: known are {}", known.join(", ")));
                tell(&format!("xbpipe: error: there is no old program {name:?}"));
                Kind::Usage.into()
            }
        }
    }
}
