//! How much of a backup is checked, and what that tells. `r[repository.verify]`

use std::sync::Arc;

use crate::base::error::{Error, Kind, Result};
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::pipeline::budget::Budget;
use crate::pipeline::demux::{self, DemuxOptions};
use crate::pipeline::input::{Input, OpenFeed as _};
use crate::pipeline::sink::NullSink;
use crate::repository::cut::Shares;
use crate::repository::manifest::Stored;
use crate::repository::reader::{Range, StoredBackup};
use crate::store::Class;

/// Parts that [`Level::Sample`] reads at least.
const SAMPLE_MIN: usize = 16;

/// One part in so many is read.
const SAMPLE_SHARE: usize = 100;

/// How thoroughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every object is there, as long and, where the store tells, with the checksum that it should have. Nothing is fetched.
    Objects,
    /// And the index is whole and agrees with the manifest.
    Index,
    /// And a random hundredth of the parts, sixteen at least, has its checksums.
    Sample,
    /// And all parts have, and the archive is whole.
    Everything,
}

impl Level {
    /// Of a number from 0 to 3.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Objects, Self::Index, Self::Sample, Self::Everything]
            .into_iter()
            .find(|level| *level as u8 == number)
    }
}

/// What was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects looked at.
    pub objects: u64,
    /// Those whose checksum the store told.
    pub told_checksums: u64,
    /// Those that the store calls by another tag than when they were stored, and whose checksum it does not tell.
    pub other_tags: u64,
    /// Parts read.
    pub parts: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Files found whole; at [`Level::Everything`].
    pub files: u64,
}

/// Checks a backup; what is wrong with it is the error.
pub fn verify(backup: &StoredBackup, level: Level, memory: ByteCount, run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let manifest = backup.manifest();
    for (number, segment) in manifest.segments.iter().enumerate() {
        look_at(backup, &backup.segment_key(number), segment, &mut report)?;
    }
    look_at(backup, &backup.index_key(), &manifest.index, &mut report)?;
    if level == Level::Objects {
        return Ok(report);
    }
    let parts = backup.parts()?;
    match level {
        Level::Sample => {
            let sample = sample(&parts);
            for range in &sample {
                run.cancel.check()?;
                let mut buf = vec![0; usize::try_from(range.len).unwrap_or(usize::MAX)];
                backup.fetch(range, &mut buf)?;
                report.parts += 1;
                report.bytes += range.len;
            }
        }
        Level::Everything => {
            let outcome = read_all(backup, memory, run)?;
            report.parts = parts.len() as u64;
            report.bytes = outcome.archive_bytes;
            report.files = outcome.files;
        }
        Level::Objects | Level::Index => {}
    }
    Ok(report)
}

fn look_at(backup: &StoredBackup, key: &str, stored: &Stored, report: &mut Report) -> Result<()> {
    let store = backup.store();
    let object = match store.head(key) {
        Ok(object) => object,
        Err(fault) if fault.class == Class::NotFound => {
            let what = format!("backup {} lacks its object {key:?}", backup.describe());
            return Err(Error::new(Kind::Incomplete, what)
                .hint("something removed it from the store; use another backup"));
        }
        Err(fault) => return Err(fault.into()),
    };
    report.objects += 1;
    report.told_checksums += u64::from(object.crc32.is_some());
    let known = !stored.etag.is_empty() && !object.etag.is_empty();
    report.other_tags += u64::from(known && object.crc32.is_none() && object.etag != stored.etag);
    let crc = stored.crc()?;
    if object.len != stored.len || object.crc32.is_some_and(|told| told != crc) {
        let told = object
            .crc32
            .map_or("none told".to_owned(), |c| format!("{c:08x}"));
        let what = format!(
            "{} bytes with CRC-32 {told} instead of {} bytes with {crc:08x} in object",
            object.len, stored.len
        );
        return Err(Error::new(Kind::Checksum, what)
            .path(format!("{}/{key}", store.url()))
            .hint("something replaced it in the store; use another backup"));
    }
    Ok(())
}

/// Parts in random places, without repetition, in order.
fn sample(parts: &[Range]) -> Vec<Range> {
    let wanted = (parts.len() / SAMPLE_SHARE)
        .max(SAMPLE_MIN)
        .min(parts.len());
    let mut chosen = std::collections::BTreeSet::new();
    while chosen.len() < wanted {
        let random = uuid::Uuid::new_v4().as_u128() % (parts.len() as u128);
        chosen.insert(usize::try_from(random).unwrap_or(0));
    }
    chosen
        .iter()
        .filter_map(|i| parts.get(*i).copied())
        .collect()
}

fn read_all(backup: &StoredBackup, memory: ByteCount, run: &Run) -> Result<demux::Outcome> {
    let budget = Budget::plain(Shares::new(memory)?.pipeline, 2)?;
    let feed = backup.open(&[], memory, run)?;
    let mut input = Input::from_feed(feed, backup.describe(), run);
    let options = DemuxOptions {
        lanes: budget.lanes,
        lane_bufs: (1, budget.input_buf_len),
        structure_only: false,
        lone_chunk: None,
        keep_going: false,
    };
    let monitor = Arc::clone(&run.monitor);
    let outcome = demux::run(&mut input, &NullSink, options, &run.cancel, &monitor)?;
    outcome.check(input.name())
}
