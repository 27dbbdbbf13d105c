//! The one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    xbpipe::cli::run(std::env::args_os()).into()
}
