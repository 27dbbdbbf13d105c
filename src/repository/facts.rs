//! What an archive says about itself while it passes: how many files, whether it proves its end, and its backup's metadata.

use std::collections::HashMap;

use crate::codec::{Split, Unit, decompressors};
use crate::metadata::checkpoints::Checkpoints;
use crate::metadata::info::Info;
use crate::metadata::{METADATA_LEN_MAX, Names};
use crate::repository::cloud::is_marker;
use crate::repository::manifest::{ArchiveFacts, BackupFacts};
use crate::xbstream::index::INDEX_PATH;
use crate::xbstream::{ArchivePath, Body, ChunkHead};

/// What a member may be called for its content to be kept.
const KEPT: [&str; 4] = [
    Names::XTRABACKUP.checkpoints,
    Names::MARIADB_BACKUP.checkpoints,
    Names::XTRABACKUP.info,
    Names::MARIADB_BACKUP.info,
];

/// Collects them.
#[derive(Debug, Default)]
pub(super) struct Facts {
    files: u64,
    payload_bytes: u64,
    /// The archive has an index of its own, and whether that has ended.
    index: Option<bool>,
    /// It has the system tablespace, which every physical backup has.
    has_system_tablespace: bool,
    /// It has one of the files that are written last.
    has_marker: bool,
    kept: HashMap<&'static str, Kept>,
}

/// Content of a member.
#[derive(Debug)]
struct Kept {
    /// Behind the plain name.
    suffix: Vec<u8>,
    bytes: Vec<u8>,
}

impl Facts {
    pub(super) fn chunk(&mut self, head: &ChunkHead) {
        let is_index = head.path.as_bytes() == INDEX_PATH;
        if is_index && head.position == 0 {
            self.index = Some(false);
        }
        let of_index = is_index && self.index.is_some();
        match head.body {
            Body::End if of_index => self.index = Some(true),
            Body::End => {
                self.files += 1;
                self.note(head.path.as_bytes());
            }
            Body::Payload { len, .. } | Body::Sparse { len, .. } if !of_index => {
                self.payload_bytes += len;
            }
            _ => {}
        }
    }

    pub(super) fn data(&mut self, path: &ArchivePath, offset: u64, bytes: &[u8]) {
        let path = path.as_bytes();
        let found = KEPT.iter().find_map(|name| {
            let rest = path.strip_prefix(name.as_bytes())?;
            (rest.is_empty() || rest.starts_with(b".")).then_some((name, rest))
        });
        let Some((name, suffix)) = found else {
            return;
        };
        let kept = self.kept.entry(name).or_insert_with(|| Kept {
            suffix: suffix.to_vec(),
            bytes: Vec::new(),
        });
        let goes_on = kept.suffix == suffix && kept.bytes.len() as u64 == offset;
        if goes_on && kept.bytes.len() + bytes.len() <= METADATA_LEN_MAX {
            kept.bytes.extend_from_slice(bytes);
        }
    }

    fn note(&mut self, path: &[u8]) {
        let system = path.strip_prefix(b"ibdata1");
        self.has_system_tablespace |=
            system.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with(b"."));
        self.has_marker |= std::str::from_utf8(path).is_ok_and(is_marker);
    }

    /// Whether it is a backup of another program that has not come to its end: it does not prove its end, and has the files that
    /// are written first but none of those that are written last. `r[repository.unfinished]`
    pub(super) fn is_unfinished(&self) -> bool {
        self.index != Some(true) && self.has_system_tablespace && !self.has_marker
    }

    /// About the archive of `bytes` bytes.
    pub(super) fn archive(&self, bytes: u64) -> ArchiveFacts {
        let proven = self.index == Some(true);
        ArchiveFacts {
            bytes,
            files: self.files,
            payload_bytes: self.payload_bytes,
            end: if proven { "proven" } else { "unstated" }.to_owned(),
        }
    }

    /// About the backup, as far as its metadata can be read.
    pub(super) fn backup(&self) -> Option<BackupFacts> {
        let text = |names: [&str; 2]| {
            let kept = names.iter().find_map(|name| self.kept.get(name))?;
            plain(names[0], kept)
        };
        let [a, b, c, d] = KEPT;
        let checkpoints = Checkpoints::parse(&text([a, b])?).ok()?;
        let info = text([c, d]).and_then(|text| Info::parse(&text).ok());
        Some(BackupFacts {
            kind: checkpoints.backup_type.word().to_owned(),
            from_lsn: checkpoints.from_lsn.0,
            to_lsn: checkpoints.to_lsn.0,
            last_lsn: checkpoints.last_lsn.0,
            server: info.as_ref().map(|i| i.server_version.clone()),
            uuid: info.map(|i| i.uuid),
        })
    }
}

/// The content without its compression; `None` if that is none we know.
fn plain(name: &str, kept: &Kept) -> Option<Vec<u8>> {
    if kept.suffix.is_empty() {
        return Some(kept.bytes.clone());
    }
    let decoders = decompressors();
    let decoder = decoders
        .iter()
        .find(|d| d.suffix().as_bytes() == kept.suffix)?;
    let mut splitter = decoder.begin(name.as_bytes());
    let mut out = Vec::new();
    // Where the unit at hand begins, and how far it was looked at.
    let (mut begin, mut seen) = (0, 0);
    // What is counted, and where it begins in `out`.
    let mut counted = None;
    while seen < kept.bytes.len() {
        match splitter.feed(kept.bytes.get(seen..)?).ok()? {
            Split::More => seen = kept.bytes.len(),
            Split::Unit(len, unit) => {
                seen += len;
                decode(&unit, kept.bytes.get(begin..seen)?, &mut out)?;
                begin = seen;
            }
            Split::Skip(len) => {
                seen += len;
                begin = seen;
            }
            Split::Begin(len, content) => {
                counted = Some((content, out.len()));
                seen += len;
                begin = seen;
            }
            Split::End(len, end) => {
                let (mut content, from) = counted.take()?;
                content.update(out.get(from..)?);
                end.check(&content).ok()?;
                seen += len;
                begin = seen;
            }
        }
    }
    if let Some(unit) = splitter.finish().ok()? {
        decode(&unit, kept.bytes.get(begin..)?, &mut out)?;
    }
    Some(out)
}

/// Appends what a unit holds, as long as that is little.
fn decode(unit: &Unit, encoded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut stream = unit.decoder.stream().ok()?;
    let mut buf = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let step = stream.step(encoded.get(at..)?, &mut buf).ok()?;
        at += step.consumed;
        out.extend_from_slice(buf.get(..step.produced)?);
        if out.len() > METADATA_LEN_MAX || step.consumed == 0 && step.produced == 0 {
            return None;
        }
        if step.ended {
            return Some(());
        }
    }
}
