//! What is told about an error: remedies that name options are of use only where there are such options.

use super::grammar::Row;
use crate::base::error::Error;
use crate::front::lines;

/// What stands between two remedies of which either will do.
const BETWEEN: [&str; 2] = [", or ", "; "];

/// The remedy for what only native verbs can be given more of.
const MEMORY: &str = "the verbs of xbpipe itself can be given more memory";

/// The lines about an error of `program`, which has these options; `names` are those that other parts of this program use, and
/// what they are called here.
pub(super) fn error_lines(
    program: &str,
    rows: &[Row],
    names: &[(&str, &str)],
    error: &Error,
) -> Vec<String> {
    let called = |text: &str| {
        (names.iter()).fold(text.to_owned(), |text, (native, here)| {
            text.replace(native, here)
        })
    };
    let hint = error
        .hint_text()
        .and_then(|hint| fitting(&called(hint), rows));
    let mut out: Vec<String> = hint
        .map(|hint| format!("{program}: hint: {hint}"))
        .into_iter()
        .collect();
    let told = lines::error_lines(program, error);
    out.extend(told.last().map(|line| called(line)));
    out
}

/// A remedy without the parts that name options which are not there.
fn fitting(hint: &str, rows: &[Row]) -> Option<String> {
    let mut kept = String::new();
    let (mut rest, mut separator) = (hint, "");
    loop {
        let next = (BETWEEN.iter())
            .filter_map(|between| Some((rest.find(between)?, *between)))
            .min();
        let (part, after) = match next {
            Some((at, between)) => (
                rest.get(..at).unwrap_or_default(),
                Some((rest.get(at + between.len()..).unwrap_or_default(), between)),
            ),
            None => (rest, None),
        };
        if unknown_option(part, rows).is_none() {
            if !kept.is_empty() {
                kept.push_str(separator);
            }
            kept.push_str(part);
        }
        match after {
            Some((after, between)) => (rest, separator) = (after, between),
            None => break,
        }
    }
    if kept.is_empty() {
        (unknown_option(hint, rows)? == "--memory").then(|| MEMORY.to_owned())
    } else {
        Some(kept)
    }
}

/// The first option that a text names and the table does not have. Those of programs that it names are theirs.
fn unknown_option<'t>(text: &'t str, rows: &[Row]) -> Option<&'t str> {
    if text.contains("xbpipe ") {
        return None;
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.match_indices("--").find_map(|(at, _)| {
        let option = text.get(at..)?;
        let end = option.find(|c| !is_part(c)).unwrap_or(option.len());
        let option = option.get(..end)?;
        (option.len() > 2 && rows.iter().all(|row| row.option != option)).then_some(option)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;
    use crate::compat::FRONT_ENDS;

    fn hint(front_end: &str, hint: &str) -> Option<String> {
        let front_end = FRONT_ENDS.iter().find(|f| f.name == front_end).unwrap();
        let error = Error::new(Kind::Failed, "it failed").hint(hint);
        let lines = error_lines(front_end.name, &(front_end.rows)(), &[], &error);
        assert_eq!(
            lines.last().unwrap(),
            &format!("{}: error: it failed", front_end.name)
        );
        let [hint, _] = &lines[..] else { return None };
        let begin = format!("{}: hint: ", front_end.name);
        Some(hint.strip_prefix(&begin).unwrap().to_owned())
    }

    #[test]
    fn remedies_name_only_options_that_are_there() {
        let existing = "extract into an empty directory, or use --overwrite to replace files";
        let key = "give --encrypt-key-file=FILE; its bytes are the key";
        for name in ["xbstream", "mbstream"] {
            assert_eq!(
                hint(name, existing).unwrap(),
                "extract into an empty directory"
            );
            assert_eq!(hint(name, "use --memory 200M").unwrap(), MEMORY);
            assert_eq!(hint(name, "use --no-such-thing"), None);
        }
        assert_eq!(hint("xbcrypt", key).unwrap(), key);
        assert_eq!(hint("mbstream", key).unwrap(), "its bytes are the key");
        let other = "take the file out as it is and use `age -d`";
        assert_eq!(hint("mbstream", other).unwrap(), other);
    }
}
