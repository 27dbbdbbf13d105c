//! Files named on a command line, and the names they get in an archive.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::xbstream::ArchivePath;

/// Names in the archive and where the files are; a file that cannot be stored is an error before anything is written.
/// `notice` is told what was cut off names.
pub(super) fn members(
    words: &[OsString],
    directory: &Path,
    mut notice: impl FnMut(String),
) -> Result<Vec<(ArchivePath, PathBuf)>> {
    let mut found = Vec::with_capacity(words.len());
    let mut names = HashSet::with_capacity(words.len());
    let mut told = HashSet::new();
    for word in words {
        let place = directory.join(word);
        // r[compat-xbstream.create.regular]
        if fsx::stat(&place)?.mode & 0o170_000 != 0o100_000 {
            return Err(Error::new(Kind::Failed, "not a regular file:").path(place));
        }
        let (cut, name) = split(Path::new(word));
        if !cut.as_os_str().is_empty() && told.insert(cut.clone()) {
            notice(format!(
                "removing leading '{}' from member names",
                cut.display()
            ));
        }
        let name = ArchivePath::new(name.as_os_str().as_bytes()).map_err(|e| {
            Error::new(Kind::Failed, "no archive can hold the name")
                .path(word)
                .source(e)
        })?;
        if !names.insert(name.clone()) {
            return Err(
                Error::new(Kind::Failed, "two files would have the same name:")
                    .path(name.as_path())
                    .hint("an archive with a name twice can be extracted by nobody"),
            );
        }
        found.push((name, place));
    }
    Ok(found)
}

/// Everything up to the last `..`, or a leading `/`, and the rest of a path. `.` and doubled slashes vanish.
///
/// r[compat-xbstream.create.names]
fn split(path: &Path) -> (PathBuf, PathBuf) {
    let (mut cut, mut name) = (PathBuf::new(), PathBuf::new());
    for part in path.components() {
        match part {
            Component::Normal(part) => name.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                cut.push(std::mem::take(&mut name));
                cut.push(part);
            }
        }
    }
    (cut, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_relative() {
        for (path, cut, name) in [
            ("a/b", "", "a/b"),
            ("./a//b/.", "", "a/b"),
            ("/a/b", "/", "a/b"),
            ("../a", "..", "a"),
            ("a/../b", "a/..", "b"),
            ("/x/../../a..b/c", "/x/../..", "a..b/c"),
            (".hidden", "", ".hidden"),
        ] {
            let expected = (PathBuf::from(cut), PathBuf::from(name));
            assert_eq!(split(Path::new(path)), expected, "{path}");
        }
    }
}
