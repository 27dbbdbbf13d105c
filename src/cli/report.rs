//! How lines on standard error look: each below 4 KiB, written at once, free of control characters, the last one
//! understandable alone.

use std::io::Write as _;

use crate::base::error::{Error, Kind};
use crate::cli::Exit;

/// Longest line in bytes, without its newline: what a pipe takes in one piece is 4 KiB.
pub(super) const LINE_LEN_MAX: usize = 4000;

/// One line as it is written.
pub(super) fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if out.len() + c.len_utf8() > LINE_LEN_MAX - 4 {
            out.push_str(" ...");
            break;
        }
        out.push(c);
    }
    out.push('\n');
    out
}

/// Writes one line to standard error. If that fails there is nowhere left to say so.
pub(super) fn tell(text: &str) {
    std::io::stderr().write_all(line(text).as_bytes()).ok();
}

/// An error: the remedy first, so that the last line says what happened.
pub(super) fn error_lines(error: &Error) -> Vec<String> {
    let mut lines = Vec::with_capacity(2);
    if let Some(hint) = error.hint_text() {
        lines.push(format!("xbpipe: hint: {hint}"));
    }
    lines.push(format!("xbpipe: error: {error}"));
    lines
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_short_and_harmless() {
        assert_eq!(line("a\u{1b}[2J\nb"), "a [2J b\n");
        let long = line(&"ü".repeat(5000));
        assert!(long.len() <= LINE_LEN_MAX + 1 && long.ends_with(" ...\n"));
    }

    #[test]
    fn the_last_line_is_the_error() {
        let error = Error::new(Kind::NoSpace, "full").hint("free some");
        assert_eq!(
            error_lines(&error),
            ["xbpipe: hint: free some", "xbpipe: error: full"]
        );
    }
}
