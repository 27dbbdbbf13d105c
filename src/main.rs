//! The one binary.

use std::process::ExitCode;

use xbpipe::{cli, compat};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let old = args.split_first().and_then(|(name, args)| {
        let program = compat::by_name(name)?;
        Some((program, args))
    });
    match old {
        Some((program, args)) => program.run(args).into(),
        None => cli::run(args).into(),
    }
}
