//! A backup in a store, opened for reading: what its manifest and its index tell, and ranges of it, each checked.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use crate::base::error::{Error, Kind, Result};
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::pipeline::input::{Extent, Feed, OpenFeed};
use crate::pipeline::source::{DAMAGED_READS_MAX, ReadAt};
use crate::repository::catalog::Repository;
use crate::repository::cut::Shares;
use crate::repository::index::{Line, Reader as IndexReader};
use crate::repository::manifest::Manifest;
use crate::repository::source::{StoredFeed, StoredSource};
use crate::store::{Class, PART_LEN_MIN, Shared};

/// Bytes of the index that are read at once.
const INDEX_READ_LEN: u64 = PART_LEN_MIN;

/// A backup in a store, opened for reading.
#[derive(Debug, Clone)]
pub struct StoredBackup {
    repository: Repository,
    name: String,
    manifest: Manifest,
}

/// Bytes of one segment that are fetched at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Segment.
    pub segment: usize,
    /// Where in it.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Their CRC-32, where the range is a whole part.
    pub crc32: Option<u32>,
}

/// What the index says about the wanted files and about parts.
#[derive(Debug, Default)]
struct Plan {
    /// CRC-32 of every part, in order.
    parts: Vec<u32>,
    /// Runs of wanted files as ranges of the archive.
    runs: Vec<(u64, u64)>,
    entangled: bool,
}

impl StoredBackup {
    /// Reads the manifest.
    pub fn open(repository: &Repository, name: &str) -> Result<Self> {
        Ok(Self {
            repository: repository.clone(),
            name: name.to_owned(),
            manifest: repository.manifest(name)?,
        })
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What to call it in messages.
    #[must_use]
    pub fn describe(&self) -> String {
        self.repository.describe(&self.name)
    }

    pub(super) fn segment_key(&self, number: usize) -> String {
        self.repository
            .segment_key(&self.name, &self.manifest.run, number)
    }

    pub(super) fn index_key(&self) -> String {
        self.repository.index_key(&self.name, &self.manifest.run)
    }

    pub(super) fn store(&self) -> Shared {
        self.repository.store()
    }

    /// What the index says; one that seems damaged is read again, for it may have been so on its way only.
    fn plan(&self, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Plan> {
        let mut attempts = 1;
        loop {
            match self.read_plan(wanted) {
                Err(error) if error.kind() == Kind::Checksum && attempts < DAMAGED_READS_MAX => {
                    attempts += 1;
                }
                plan => return plan,
            }
        }
    }

    /// Reads the whole index, checks it, and keeps what concerns `wanted` files.
    fn read_plan(&self, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Plan> {
        let (key, index) = (self.index_key(), &self.manifest.index);
        let store = self.store();
        let mut plan = Plan::default();
        let mut reader = IndexReader::default();
        let mut crc = crc32fast::Hasher::new();
        let (mut position, mut at) = (0, 0_u64);
        // Files are numbered without gap.
        let mut is_wanted: Vec<bool> = Vec::new();
        let damaged = |e: Error| e.path(self.describe());
        while position < index.len {
            let len = (index.len - position).min(INDEX_READ_LEN);
            let mut buf = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
            // Its checksum is all that matters.
            store.read(&key, position, &mut buf, &mut 0, None)?;
            crc.update(&buf);
            reader
                .push(&buf, &mut |line| {
                    match line {
                        Line::File(path) => is_wanted.push(wanted(&path)),
                        Line::Run { file, len } => {
                            let file = usize::try_from(file).unwrap_or(usize::MAX);
                            if is_wanted.get(file).copied().unwrap_or(false) {
                                match plan.runs.last_mut() {
                                    Some((begin, have)) if *begin + *have == at => *have += len,
                                    _ => plan.runs.push((at, len)),
                                }
                            }
                            at += len;
                        }
                        Line::Part(crc) => plan.parts.push(crc),
                        Line::Entangled => plan.entangled = true,
                        Line::Header | Line::End { .. } => {}
                    }
                    Ok(())
                })
                .map_err(damaged)?;
            position += len;
        }
        reader.finish().map_err(damaged)?;
        let fits = crc.finalize() == index.crc()?
            && at == self.manifest.archive.bytes
            && plan.parts.len() as u64 == self.manifest.parts();
        if !fits {
            let what = "the index is not the one that the manifest describes";
            return Err(damaged(Error::new(Kind::Checksum, what)));
        }
        Ok(plan)
    }

    /// Every part, in order.
    pub fn parts(&self) -> Result<Vec<Range>> {
        let plan = self.plan(&|_| false)?;
        Ok(self.all_parts(&plan))
    }

    /// CRC-32 of every part, in order.
    pub(super) fn part_crcs(&self) -> Result<Vec<u32>> {
        Ok(self.plan(&|_| false)?.parts)
    }

    fn all_parts(&self, plan: &Plan) -> Vec<Range> {
        let mut crcs = plan.parts.iter().copied();
        let mut ranges = Vec::with_capacity(plan.parts.len());
        for (segment, stored) in self.manifest.segments.iter().enumerate() {
            let mut offset = 0;
            while offset < stored.len {
                let len = (stored.len - offset).min(self.manifest.part_len);
                ranges.push(Range {
                    segment,
                    offset,
                    len,
                    crc32: crcs.next(),
                });
                offset += len;
            }
        }
        ranges
    }

    /// Where in the archive `names` are and what is below them, by begin and length in bytes; all of it if there are none, if
    /// one of them is a pattern, or if files depend on each other.
    /// `r[repository.partial]`
    pub fn runs(&self, names: &[OsString]) -> Result<Vec<(u64, u64)>> {
        let all = vec![(0, self.manifest.archive.bytes)];
        let pattern = |name: &OsString| name.as_bytes().iter().any(|b| b"*?[".contains(b));
        if names.is_empty() || names.iter().any(pattern) {
            return Ok(all);
        }
        let wanted = |path: &[u8]| names.iter().any(|name| matches(path, name.as_bytes()));
        let plan = self.plan(&wanted)?;
        Ok(if plan.entangled { all } else { plan.runs })
    }

    /// Fetches one range into `buf`, which is as long as it, and checks it.
    pub fn fetch(&self, range: &Range, buf: &mut [u8]) -> Result<()> {
        let key = self.segment_key(range.segment);
        let mut etag = self
            .manifest
            .segments
            .get(range.segment)
            .map(|s| s.etag.as_str());
        let store = self.store();
        let mut attempts = 0;
        loop {
            let mut filled = 0;
            match store.read(&key, range.offset, buf, &mut filled, etag) {
                Ok(()) => {}
                // Whoever copies objects from store to store changes their tags. The checksums know better.
                Err(fault) if fault.class == Class::Changed && etag.is_some() => {
                    etag = None;
                    continue;
                }
                Err(fault) if matches!(fault.class, Class::NotFound | Class::Short) => {
                    let what = format!("backup {} is not whole any more", self.describe());
                    return Err(Error::new(Kind::Incomplete, what)
                        .source(fault)
                        .hint("something removed or replaced its objects; use another backup"));
                }
                Err(fault) => return Err(fault.into()),
            }
            let found = crc32fast::hash(buf);
            let Some(expected) = range.crc32.filter(|crc| *crc != found) else {
                return Ok(());
            };
            // On the way, most likely: then it is another one the next time.
            attempts += 1;
            if attempts >= DAMAGED_READS_MAX {
                let what = format!(
                    "{} bytes have CRC-32 {found:08x} instead of {expected:08x} in",
                    range.len
                );
                return Err(Error::new(Kind::Checksum, what)
                    .path(format!("{}/{key}", self.store().url()))
                    .at(range.offset)
                    .hint("the object is damaged in the store; use another backup"));
            }
        }
    }
}

/// Whether a stored path is what `name` asks for, with or without the suffixes of compression and encryption.
fn matches(path: &[u8], name: &[u8]) -> bool {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let rest = path.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || rest.starts_with(b"."))
}

impl OpenFeed for StoredBackup {
    fn open(&self, names: &[OsString], memory: ByteCount, run: &Run) -> Result<Box<dyn Feed>> {
        Ok(Box::new(StoredFeed::new(self, names, memory, run)?))
    }

    fn source(
        &self,
        extent: Extent,
        memory: ByteCount,
        run: &Run,
    ) -> Result<Option<Arc<dyn ReadAt>>> {
        // Without an index of its own nobody could say where to read.
        if !self.manifest.archive.is_proven() {
            return Ok(None);
        }
        let source = StoredSource::new(self, extent, false, memory, run)?;
        Ok(Some(Arc::new(source)))
    }

    fn name(&self) -> String {
        self.describe()
    }

    fn memory_for_pipeline(&self, memory: ByteCount) -> Result<ByteCount> {
        Ok(Shares::new(memory)?.pipeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // r[repository.partial]
    #[test]
    fn names_match_what_is_below_and_what_is_compressed() {
        for (path, name) in [
            ("db/t.ibd", "db/t.ibd"),
            ("db/t.ibd.zst", "db/t.ibd"),
            ("db/t.ibd", "db"),
            ("db/t.ibd", "./db/"),
        ] {
            assert!(matches(path.as_bytes(), name.as_bytes()), "{path} {name}");
        }
        for (path, name) in [("db2/t", "db"), ("db/t", "db/t.ibd"), ("xdb/t", "db")] {
            assert!(!matches(path.as_bytes(), name.as_bytes()), "{path} {name}");
        }
    }
}
