//! Files outside of InnoDB that are copied before DDL is blocked, so that under the lock only those are copied that changed.
//!
//! They wait aside and not in the stream, from which nothing can be taken back. What is the same file, of the same size and
//! with the same times under the lock as when it was opened for copying has the content that was copied: every write moves
//! the times. There are two exceptions, and neither is copied ahead:
//!
//! - The clock of a file system ticks every few milliseconds. A second write in the same tick leaves the times as they are,
//!   so a file must be left alone for a while before it is copied ([`SETTLED_NS`]).
//! - A write through a shared mapping moves the times when the page becomes dirty, not with every change. MyISAM maps its
//!   data files with `myisam_use_mmap`, Mroonga always ([`may_be_mapped`]).
//!
//! Aria's transactional tables need no more than that: their log is copied from before the first of these copies on.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;

use jiff::Timestamp;

use crate::backup::inventory::{PlainFile, Stamp};
use crate::server::variables::Variables;
use crate::xbstream::ArchivePath;

/// How long nobody must have written to a file, in nanoseconds: many ticks of any file system's clock.
const SETTLED_NS: i128 = 2_000_000_000;

/// What was copied ahead, and what it was then.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    stamps: HashMap<ArchivePath, Stamp>,
}

impl Ahead {
    /// A file was copied as it was listed.
    pub(super) fn add(&mut self, file: PlainFile) {
        self.stamps.insert(file.name, file.stamp);
    }

    /// Takes those out of `files` whose copies are still right; returns the names whose copies are not.
    pub(super) fn reconcile(mut self, files: &mut Vec<PlainFile>) -> HashSet<ArchivePath> {
        files.retain(|file| {
            let same = self.stamps.get(&file.name) == Some(&file.stamp);
            if same {
                self.stamps.remove(&file.name);
            }
            !same
        });
        self.stamps.into_keys().collect()
    }
}

impl Stamp {
    /// Nobody has written to the file for a while.
    pub(super) fn is_settled(&self) -> bool {
        self.was_settled_at(Timestamp::now().as_nanosecond())
    }

    fn was_settled_at(&self, now_ns: i128) -> bool {
        now_ns - self.modified_ns.max(self.changed_ns) >= SETTLED_NS
    }
}

/// Whether the server may change the file without moving its times.
pub(super) fn may_be_mapped(file: &PlainFile, variables: &Variables) -> bool {
    match file.place.extension().and_then(OsStr::to_str) {
        Some("mrn") => true,
        Some("MYD") => variables.myisam_use_mmap,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::base::fsx::Identity;

    fn file(name: &str, inode: u64) -> PlainFile {
        PlainFile {
            name: ArchivePath::new(name.as_bytes()).unwrap(),
            place: PathBuf::from("/data").join(name),
            stamp: Stamp {
                identity: Identity {
                    device: 1,
                    inode,
                    born_ns: None,
                },
                size: 10,
                modified_ns: 100,
                changed_ns: 100,
            },
        }
    }

    #[test]
    fn only_what_is_the_same_is_not_copied_again() {
        let mut ahead = Ahead::default();
        let names = [
            "d/same",
            "d/longer",
            "d/chmod",
            "d/written",
            "d/gone",
            "d/swapped",
        ];
        for (inode, name) in (1..).zip(names) {
            ahead.add(file(name, inode));
        }
        let mut now: Vec<PlainFile> = (1..).zip(&names[..4]).map(|(i, n)| file(n, i)).collect();
        now[1].stamp.size += 1;
        now[2].stamp.changed_ns += 1;
        now[3].stamp.modified_ns += 1;
        now.push(file("d/swapped", 5));
        now.push(file("d/new", 7));
        let forgotten = ahead.reconcile(&mut now);
        let left: Vec<String> = now.iter().map(|f| f.name.to_string()).collect();
        assert_eq!(
            left,
            ["d/longer", "d/chmod", "d/written", "d/swapped", "d/new"]
        );
        let mut forgotten: Vec<String> = forgotten.iter().map(ToString::to_string).collect();
        forgotten.sort();
        assert_eq!(
            forgotten,
            ["d/chmod", "d/gone", "d/longer", "d/swapped", "d/written"]
        );
    }

    #[test]
    fn a_file_settles_after_the_later_of_its_times() {
        let mut stamp = file("d/t.frm", 1).stamp;
        assert!(stamp.was_settled_at(100 + SETTLED_NS));
        assert!(!stamp.was_settled_at(99 + SETTLED_NS));
        stamp.changed_ns = 200;
        assert!(!stamp.was_settled_at(100 + SETTLED_NS));
        stamp.modified_ns = i128::MAX / 2;
        assert!(!stamp.was_settled_at(100 + SETTLED_NS));
    }
}
