//! Backups in a store: each is an archive in segments, with an index, and exists by its manifest, which is written last.
//! Normative text: `format-spec/repository.md`. [`cloud`] is another program's layout, an object for each chunk.

mod catalog;
pub mod cloud;
pub mod cut;
mod facts;
pub mod index;
pub mod manifest;
mod prune;
mod put;
mod reader;
mod source;
mod uploads;
mod verify;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::run::Run;
use crate::base::spec::{Limit, Tables};
use crate::base::units::ByteCount;
use crate::pipeline::input::OpenFeed as _;
use crate::pipeline::output::{ByteSink, OpenSink, Output, Target};

pub use catalog::{Backup, Leftovers, NAME_LEN_MAX, Repository, check_name};
pub use prune::{Keep, Verdict, judge};
pub use put::{Origin, put};
pub use reader::{Range, StoredBackup};
pub use verify::{Level, Report, verify};
pub use writer::Writer;

/// The tables of `format-spec/repository.md`.
pub const TABLES: Tables = Tables {
    document: "repository.md",
    layouts: &[],
    enums: &[],
    limits: &[
        Limit {
            name: "NAME_LEN_MAX",
            value: NAME_LEN_MAX as u64,
            unit: "bytes",
        },
        Limit {
            name: "PARTS_MAX",
            value: crate::store::PARTS_MAX as u64,
            unit: "parts",
        },
        Limit {
            name: "PART_LEN_MIN",
            value: crate::store::PART_LEN_MIN,
            unit: "bytes",
        },
        Limit {
            name: "SEGMENT_LEN",
            value: cut::SEGMENT_LEN,
            unit: "bytes",
        },
        Limit {
            name: "MANIFEST_LEN_MAX",
            value: manifest::MANIFEST_LEN_MAX,
            unit: "bytes",
        },
        Limit {
            name: "INDEX_LINE_LEN_MAX",
            value: index::INDEX_LINE_LEN_MAX as u64,
            unit: "bytes",
        },
    ],
};

/// Where a new backup goes.
#[derive(Debug, Clone)]
pub struct NewBackup {
    /// The place.
    pub repository: Repository,
    /// Its name.
    pub name: String,
    /// What parts and whoever feeds them may take together.
    pub memory: ByteCount,
}

impl OpenSink for NewBackup {
    fn open(&self, run: &Run) -> Result<Box<dyn ByteSink>> {
        let shares = cut::Shares::new(self.memory)?;
        let writer = Writer::begin(&self.repository, &self.name, shares, run)?;
        Ok(Box::new(writer))
    }
}

/// Writes the archive of a backup to standard output. Every part is checked.
pub fn get(backup: &StoredBackup, memory: ByteCount, run: &Run) -> Result<u64> {
    let target = Target::Stdout { terminal: false };
    let output = Output::open(target, &run.cancel, Arc::clone(&run.monitor))?;
    let mut feed = backup.open(&[], memory, run)?;
    let never = std::sync::atomic::AtomicBool::new(false);
    while let Some(bytes) = feed.next(&never)? {
        if bytes.is_empty() {
            break;
        }
        output.send(vec![bytes])?;
    }
    output.finish()
}

/// A name for a backup that was given none: the time, in UTC.
#[must_use]
pub fn name_of_now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H-%M-%SZ")
        .to_string()
}

/// Where backups are, and the name of one of them, as the command line writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// `s3://BUCKET[/PREFIX]`, or a directory.
    pub store: String,
    /// Name; empty where it ends with a slash.
    pub name: String,
}

impl Location {
    /// Takes `STORE/NAME` apart; a text without a slash is a name in `store`.
    #[must_use]
    pub fn parse(text: &str, store: &str) -> Self {
        let (at, name) = match text.strip_prefix("s3://") {
            // The bucket alone is no name.
            Some(rest) if !rest.contains('/') => (text, ""),
            _ => match text.rsplit_once('/') {
                Some(("", name)) => ("/", name),
                Some((at, name)) => (at, name),
                None => (store, text),
            },
        };
        Self {
            store: at.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Whether a path is a backup in a local store: a directory with a manifest.
    #[must_use]
    pub fn is_stored(path: &Path) -> bool {
        path.join("manifest.json").is_file()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store.trim_end_matches('/'), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_taken_apart() {
        for (text, store, name) in [
            ("monday", "/b", "monday"),
            ("s3://b/p/q/monday", "s3://b/p/q", "monday"),
            ("s3://b/monday", "s3://b", "monday"),
            ("s3://b/p/", "s3://b/p", ""),
            ("s3://b", "s3://b", ""),
            ("/backups/monday", "/backups", "monday"),
            ("/backups/", "/backups", ""),
            ("./monday", ".", "monday"),
            ("/monday", "/", "monday"),
        ] {
            let location = Location::parse(text, "/b");
            assert_eq!(
                (location.store.as_str(), location.name.as_str()),
                (store, name),
                "{text}"
            );
        }
    }
}
