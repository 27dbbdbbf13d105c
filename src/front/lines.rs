//! How lines on standard error look: each below 4 KiB, written at once, free of control characters, the last one
//! understandable alone.

use std::io::Write as _;

use crate::base::error::Error;

/// Longest line in bytes, without its newline: what a pipe takes in one piece is 4 KiB.
pub const LINE_LEN_MAX: usize = 4000;

/// One line as it is written.
#[must_use]
pub fn line(text: &str) -> String {
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
pub fn tell(text: &str) {
    std::io::stderr().write_all(line(text).as_bytes()).ok();
}

/// An error of `program`: the remedy first, so that the last line says what happened.
#[must_use]
pub fn error_lines(program: &str, error: &Error) -> Vec<String> {
    let mut lines = Vec::with_capacity(2);
    if let Some(hint) = error.hint_text() {
        lines.push(format!("{program}: hint: {hint}"));
    }
    lines.push(format!("{program}: error: {error}"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;

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
            error_lines("xbpipe", &error),
            ["xbpipe: hint: free some", "xbpipe: error: full"]
        );
    }
}
