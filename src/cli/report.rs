//! What the parser of the command line has to say.

use std::io::Write as _;

use crate::base::error::Kind;
use crate::front::Exit;
use crate::front::lines::tell;

/// What the parser of the command line has to say: help on standard output, anything else as an error.
pub(super) fn command_line(error: &clap::Error) -> Exit {
    let text = error.render().to_string();
    if !error.use_stderr() {
        // Help into a closed pipe (`| head`) has been read as far as somebody wanted to.
        std::io::stdout().write_all(text.as_bytes()).ok();
        return Exit::DONE;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        std::io::stderr().write_all(text.as_bytes()).ok();
        tell("xbpipe: error: no verb given; the lines above name them");
        return Exit::from(Kind::Usage);
    }
    let (first, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    for line in rest.lines().map(str::trim).filter(|l| !l.is_empty()) {
        tell(&format!("xbpipe: hint: {line}"));
    }
    let first: Vec<&str> = first.lines().map(str::trim).collect();
    let first = first.join(" ");
    let what = first.strip_prefix("error: ").unwrap_or(&first);
    tell(&format!("xbpipe: error: {what}"));
    Exit::from(Kind::Usage)
}
