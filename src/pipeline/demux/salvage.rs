//! What a reader that goes on knows about the damage behind it. `r[xbstream.reader.resync]`
//!
//! After damage in the structure nobody knows what was lost: chunks of open files, or whole files. With the archive's own index
//! that shows when its lines are compared with what was found. Without one, every file that was open then is given up, because its
//! last chunk may be what is missing, and an end without a beginning is no empty file. A file that begins at its beginning after
//! the damage and goes on without a gap is as good as any. So are all files when only the content of the index is damaged, except
//! empty ones, which nothing but a name says are that.

use std::collections::HashSet;

use crate::base::error::{Error, Kind};
use crate::xbstream::ArchivePath;
use crate::xbstream::limits::OPEN_FILES_MAX;

/// Findings about the structure that are kept; more are only counted.
const FINDINGS_MAX: usize = 100;

/// Files of an archive without an index that were closed and may be wrong all the same, as far as they are remembered.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// Nothing was there of them but the end chunk.
    bare: HashSet<ArchivePath>,
    /// They had payload behind their end.
    going_on: HashSet<ArchivePath>,
}

/// Files that are remembered of each kind: no more than can be open.
const DOUBTED_MAX: usize = OPEN_FILES_MAX;

impl Doubt {
    /// An end chunk without a beginning made an empty file. `r[bad-input.bare-end]`
    pub(super) fn bare_end(&mut self, path: ArchivePath) {
        if self.bare.len() < DOUBTED_MAX {
            self.bare.insert(path);
        }
    }

    /// An ended file comes again from its beginning.
    pub(super) fn begins_anew(&mut self, path: &ArchivePath) {
        self.bare.remove(path);
    }

    /// An ended file has another name.
    pub(super) fn renamed(&mut self, from: &ArchivePath, to: &ArchivePath) {
        if self.bare.remove(from) {
            self.bare.insert(to.clone());
        } else {
            self.bare.remove(to);
        }
    }

    /// Payload of an ended file came. `r[bad-input.payload-after-end]`
    pub(super) fn goes_on(&mut self, path: ArchivePath) {
        if self.going_on.len() < DOUBTED_MAX {
            self.going_on.insert(path);
        }
    }

    /// All of them; those of end chunks only if chunks turned out to be other than they were written.
    pub(super) fn files(self, out_of_joint: bool) -> Vec<ArchivePath> {
        let mut files = self.going_on;
        if out_of_joint {
            files.extend(self.bare);
        }
        files.into_iter().collect()
    }
}

/// Damage so far, and what it costs.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    findings: Vec<Error>,
    more: u64,
    /// Files of which further chunks are passed over.
    passed: HashSet<ArchivePath>,
    /// Files that were given up and named by no other finding.
    pub(super) incomplete: Vec<ArchivePath>,
    /// The index was damaged and says nothing any more.
    pub(super) index_lost: bool,
    /// Something was found where a chunk should be, or a chunk of the index was not found.
    pub(super) structure_lost: bool,
}

impl Salvage {
    /// Something is wrong with the structure.
    pub(super) fn find(&mut self, error: Error) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(error);
        } else {
            self.more += 1;
        }
    }

    /// Whether anything was found.
    pub(super) fn any(&self) -> bool {
        !self.findings.is_empty()
    }

    /// All findings, the first one first.
    pub(super) fn into_findings(mut self) -> (Vec<Error>, Vec<ArchivePath>) {
        if self.more > 0 {
            let what = format!("{} more places of damage, not listed", self.more);
            self.findings.push(Error::new(Kind::Checksum, what));
        }
        (self.findings, self.incomplete)
    }

    /// What comes of a file is passed over until its end.
    pub(super) fn pass_over(&mut self, path: ArchivePath) {
        self.passed.insert(path);
    }

    /// Whether a chunk is one of those; its end is the last.
    pub(super) fn passes_over(&mut self, path: &ArchivePath, is_end: bool) -> bool {
        if is_end {
            self.passed.remove(path)
        } else {
            self.passed.contains(path)
        }
    }
}
