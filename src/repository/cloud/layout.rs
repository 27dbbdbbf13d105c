//! Names of objects, and what makes them a whole backup. Arithmetic only, but for [`holds_chunks`].

use crate::base::error::{Error, Kind, Result};
use crate::store::Store;
use crate::xbstream::limits::HEAD_LEN;

/// Digits of a chunk's number.
pub(super) const DIGITS: usize = 20;

/// Files that are written last: whoever has one has the rest. `r[cloud-layout.marker]`
const MARKERS: &[&str] = &[
    "xtrabackup_tablespaces",
    "xtrabackup_info",
    "mariadb_backup_info",
];

/// Files that callers fetch as one object of a backup in a store, or store alone: the beginning of their names.
const SMALL_METADATA: &[&[u8]] = &[
    b"xtrabackup_info",
    b"xtrabackup_binlog_info",
    b"xtrabackup_slave_info",
    b"xtrabackup_galera_info",
    b"xtrabackup_checkpoints",
    b"mariadb_backup_info",
    b"mariadb_backup_binlog_info",
    b"mariadb_backup_slave_info",
    b"mariadb_backup_galera_info",
    b"mariadb_backup_checkpoints",
    b"sst_info",
    b"backup-my.cnf",
];

/// Whether a file, with or without suffixes, is one of the short ones about a backup that are also fetched or stored alone. No
/// writer begins a backup with them.
#[must_use]
pub fn is_small_metadata(path: &[u8]) -> bool {
    SMALL_METADATA.iter().any(|known| {
        path.strip_prefix(*known)
            .is_some_and(|suffix| suffix.is_empty() || suffix.starts_with(b"."))
    })
}

/// Whether a backup with this file is one whose writer came to its end.
pub(in crate::repository) fn is_marker(path: &str) -> bool {
    MARKERS.iter().any(|marker| path.starts_with(marker))
}

/// The name of a backup without slashes at its end. It may have slashes inside.
pub fn check_name(name: &str) -> Result<&str> {
    let name = name.trim_end_matches('/');
    let bad = |part: &str| part.is_empty() || part == "." || part == "..";
    if name.split('/').any(bad) || name.chars().any(char::is_control) {
        let what = format!("{name:?} is no name for a backup");
        return Err(
            Error::new(Kind::Usage, what).hint("a name is a/b/c, without a slash at its beginning")
        );
    }
    Ok(name)
}

/// What all keys of a backup begin with.
pub(super) fn prefix(backup: &str) -> String {
    format!("{backup}/")
}

/// The name of a chunk in its backup. `r[cloud-layout.key]`
pub(super) fn chunk_name(path: &str, index: u64) -> String {
    format!("{path}.{index:0width$}", width = DIGITS)
}

/// The key of a chunk.
pub(super) fn chunk_key(backup: &str, path: &str, index: u64) -> String {
    prefix(backup) + &chunk_name(path, index)
}

/// The key of the list of digests. `r[cloud-layout.md5]`
pub(super) fn digests_key(backup: &str) -> String {
    format!("{backup}.md5")
}

/// File and number of a chunk by its name; `None` for what is no chunk. `r[cloud-layout.foreign]`
pub(super) fn parse(name: &str) -> Option<(&str, u64)> {
    let (path, digits) = name.rsplit_once('.')?;
    let is_number = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    (is_number && !path.is_empty()).then_some(())?;
    Some((path, digits.parse().ok()?))
}

/// Lengths of a file's chunks in order, from their numbers and lengths in any; otherwise what is missing.
/// `r[cloud-layout.whole.file]`
pub(super) fn whole_file(path: &str, mut chunks: Vec<(u64, u64)>) -> Result<Vec<u64>, String> {
    chunks.sort_unstable();
    let gap = (0..).zip(&chunks).find(|(n, (index, _))| n != index);
    if let Some((missing, _)) = gap {
        return Err(format!("chunk {missing} of {path:?} is missing"));
    }
    // Only the end of a file is as short as this: a chunk's prefix and path, and nothing more.
    let end_len = (HEAD_LEN + path.len()) as u64;
    match chunks.last() {
        Some((_, len)) if *len == end_len => Ok(chunks.into_iter().map(|(_, len)| len).collect()),
        _ => Err(format!("the end of {path:?} is missing")),
    }
}

/// Whether there are objects of this layout below `name`.
pub fn holds_chunks(store: &dyn Store, name: &str) -> bool {
    let prefix = prefix(name);
    let page = store.list(&prefix, false, None).unwrap_or_default();
    let mut names = page
        .objects
        .iter()
        .filter_map(|o| o.key.strip_prefix(&prefix));
    names.any(|name| parse(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    // r[cloud-layout.key]
    #[test]
    fn keys_are_taken_apart_as_they_are_put_together() {
        assert_eq!(
            chunk_key("prod/monday", "db/t.ibd", 12),
            "prod/monday/db/t.ibd.00000000000000000012"
        );
        for (path, index) in [("db/t.ibd.zst", 0), ("a", u64::MAX), (".x", 7)] {
            assert_eq!(parse(&chunk_name(path, index)), Some((path, index)));
        }
        for foreign in [
            "",
            "a",
            ".00000000000000000000",
            "a.0000000000000000000",
            "a.000000000000000000000",
            "a.+0000000000000000000",
            "a.99999999999999999999",
            "manifest.json",
        ] {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }

    // r[cloud-layout.whole.file]
    #[test]
    fn a_gap_or_a_missing_end_is_told() {
        let end = 14 + 3;
        assert_eq!(whole_file("a/b", vec![(0, end)]), Ok(vec![end]));
        assert_eq!(
            whole_file("a/b", vec![(2, end), (0, 500), (1, 400)]),
            Ok(vec![500, 400, end])
        );
        for (chunks, what) in [
            (vec![(0, 500), (2, end)], "chunk 1 of \"a/b\" is missing"),
            (vec![(1, end)], "chunk 0 of \"a/b\" is missing"),
            (vec![(0, 500), (1, 400)], "the end of \"a/b\" is missing"),
            (vec![], "the end of \"a/b\" is missing"),
        ] {
            assert_eq!(whole_file("a/b", chunks).unwrap_err(), what);
        }
    }

    #[test]
    fn names_may_have_directories() {
        assert_eq!(check_name("a/b-c//").unwrap(), "a/b-c");
        for bad in ["", "/", "/a", "a//b", "a/../b", "a\nb"] {
            assert_eq!(check_name(bad).unwrap_err().kind(), Kind::Usage, "{bad:?}");
        }
    }
}
