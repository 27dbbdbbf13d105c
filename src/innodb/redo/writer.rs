//! Makes the log of a backup: its header, the records we add, the paths we change. Everything else of it is the
//! server's bytes, copied by [`follower`](super::follower).

use crate::base::units::SpaceId;
use crate::innodb::be::put_at;
use crate::innodb::redo::file_records::{FILE_DELETE, file_records, is_named};
use crate::innodb::redo::header::{Checkpoint, LogFormat, LogHeader};
use crate::innodb::redo::mtr::{Mtr, checksum, put_number};
use crate::innodb::redo::{HEADER_LEN, RECORD_PATH_LEN_MAX};

/// What the creator of a backup's log begins with; servers then drop leftover intermediate tables
/// (`r[redo.backup.creator]`).
const CREATOR_PREFIX: &str = "Backup xbpipe ";

/// The first [`HEADER_LEN`] bytes of a backup's `ib_logfile0`: the source's format word and encryption block,
/// `checkpoint` as first LSN and in the first slot, our creator with `version` (`r[redo.backup.header]`).
#[must_use]
pub fn backup_header(
    source: &LogHeader,
    checkpoint: Checkpoint,
    version: &str,
) -> Box<[u8; HEADER_LEN]> {
    let mut creator = [0; 32];
    // The last byte stays zero for readers that want a terminated text.
    let text = CREATOR_PREFIX.bytes().chain(version.bytes());
    for (target, byte) in creator.iter_mut().take(31).zip(text) {
        *target = byte;
    }
    let mut head = Box::new([0; HEADER_LEN]);
    LogHeader {
        format_word: source.format_word,
        first_lsn: checkpoint.lsn,
        creator,
        encryption: source.encryption,
    }
    .write(&mut head);
    checkpoint.write(&mut head);
    head
}

/// A path that a record cannot carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a path of {len} bytes is empty or too long for a file record, or has a zero byte")]
pub struct BadRecordPath {
    /// Its length in bytes.
    pub len: usize,
}

/// Appends a mini-transaction that deletes the file `path` (`./db/t.ibd`) of tablespace `space_id`, in the form for
/// backups, to a plain log (`r[redo.backup.append]`). Recovery then neither misses nor makes the file.
pub fn append_file_delete(
    out: &mut Vec<u8>,
    space_id: SpaceId,
    path: &[u8],
) -> Result<(), BadRecordPath> {
    if path.is_empty() || path.len() > RECORD_PATH_LEN_MAX || path.contains(&0) {
        return Err(BadRecordPath { len: path.len() });
    }
    let mut payload = Vec::new();
    put_number(&mut payload, space_id.0);
    payload.push(0);
    payload.extend_from_slice(path);
    let mut records = Vec::new();
    match u8::try_from(payload.len()) {
        Ok(len) if len <= 15 => records.push(FILE_DELETE | len),
        _ => {
            records.push(FILE_DELETE);
            records.extend(long_length(payload.len()));
        }
    }
    records.append(&mut payload);
    let checksum = checksum(&records, &[]);
    out.append(&mut records);
    out.push(1);
    out.extend_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// The number that tells the length of a payload of more than 15 bytes: it counts its own bytes
/// (`r[redo.record.length]`).
fn long_length(payload_len: usize) -> Vec<u8> {
    let mut number = Vec::new();
    for number_len in 1_usize..=3 {
        number.clear();
        let value = payload_len.saturating_add(number_len).saturating_sub(15);
        put_number(&mut number, u32::try_from(value).unwrap_or(u32::MAX));
        if number.len() == number_len {
            break;
        }
    }
    number
}

/// An absolute path with too few bytes before `db/t.ibd` to become a relative one of the same length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {} of a tablespace cannot be made relative in place", String::from_utf8_lossy(.path).escape_debug())]
pub struct PathTooShort {
    /// The path.
    pub path: Vec<u8>,
}

/// Rewrites the absolute paths in the file records of one whole mini-transaction, same length, new checksum:
/// `/data/x/db/t.ibd` becomes `././././db/t.ibd` (`r[redo.backup.localize]`). Without it a server that recovers the backup
/// on the source's machine would open, and change, the live file. Returns whether anything was changed.
///
/// Does nothing to an encrypted log, whose paths cannot be seen.
pub fn localize(mtr_bytes: &mut [u8], mtr: Mtr, format: LogFormat) -> Result<bool, PathTooShort> {
    if format == LogFormat::Encrypted {
        return Ok(false);
    }
    let mut patches = Vec::new();
    let records = mtr_bytes.get(..mtr.records_len).unwrap_or_default();
    for record in file_records(records) {
        if !is_named(record.kind) {
            continue;
        }
        let Some((_, names, mut at)) = record.name() else {
            continue;
        };
        for path in names.split(|b| *b == 0) {
            if path.starts_with(b"/") {
                patches.push((at, local_prefix(path)?));
            }
            at = at.saturating_add(path.len()).saturating_add(1);
        }
    }
    for (at, prefix) in &patches {
        put_at(mtr_bytes, *at, prefix);
    }
    if !patches.is_empty() {
        let checksum = checksum(mtr_bytes.get(..mtr.records_len).unwrap_or_default(), &[]);
        put_at(
            mtr_bytes,
            mtr.records_len.saturating_add(1),
            &checksum.to_be_bytes(),
        );
    }
    Ok(!patches.is_empty())
}

/// What replaces the bytes before `db/t.ibd`: as many bytes of `./`, and one more slash if that leaves one over.
fn local_prefix(path: &[u8]) -> Result<Vec<u8>, PathTooShort> {
    let from_end = |rest: &[u8]| rest.iter().rposition(|b| *b == b'/');
    let prefix_len = from_end(path)
        .and_then(|last| path.get(..last))
        .and_then(from_end)
        .map(|slash| slash.saturating_add(1))
        .filter(|len| *len >= 2)
        .ok_or_else(|| PathTooShort {
            path: path.to_vec(),
        })?;
    let mut prefix = b"./".repeat(prefix_len >> 1);
    prefix.resize(prefix_len, b'/');
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::Lsn;
    use crate::innodb::redo::file_records::{FILE_RENAME, FileEvent, read_events};
    use crate::innodb::redo::header::{ENCRYPTION_LEN, FORMAT_ENCRYPTED};
    use crate::innodb::redo::mtr::tests::{mtr, record};
    use crate::innodb::redo::mtr::{Step, step};

    fn whole(bytes: &[u8]) -> Mtr {
        match step(bytes, Lsn(0), LogFormat::Plain, |_| 1) {
            Ok(Step::Mtr(mtr)) if mtr.len == bytes.len() => mtr,
            other => panic!("{other:?}"),
        }
    }

    fn events(bytes: &[u8]) -> Vec<FileEvent> {
        let mut events = Vec::new();
        let records = &bytes[..whole(bytes).records_len];
        read_events(records, LogFormat::Plain, &mut events);
        events
    }

    #[test]
    fn the_header_keeps_format_and_key_and_names_us() {
        let source = LogHeader {
            format_word: FORMAT_ENCRYPTED,
            first_lsn: Lsn(12288),
            creator: [7; 32],
            encryption: [3; ENCRYPTION_LEN],
        };
        let checkpoint = Checkpoint {
            lsn: Lsn(777_777),
            end_lsn: Lsn(888_888),
        };
        let head = backup_header(&source, checkpoint, "0.1.0-a-very-long-version-number");
        let header = LogHeader::parse(&head[..]).unwrap();
        assert_eq!(header.creator_text(), "Backup xbpipe 0.1.0-a-very-long");
        assert_eq!(header.first_lsn, checkpoint.lsn);
        assert_eq!(header.encryption, source.encryption);
        assert_eq!(header.format(), LogFormat::Encrypted);
        assert_eq!(
            Checkpoint::newest(&head[..], header.first_lsn),
            Ok(checkpoint)
        );
        assert!(head[8192..].iter().all(|b| *b == 0));
    }

    #[test]
    fn deletions_of_every_length_read_back() {
        for id in [0, 5, 127, 128, 70_000, 3_000_000, u32::MAX - 1] {
            for len in (5..300).chain([4000, RECORD_PATH_LEN_MAX]) {
                let mut path = vec![b'x'; len];
                path[len - 4..].copy_from_slice(b".ibd");
                let mut out = Vec::new();
                append_file_delete(&mut out, SpaceId(id), &path).unwrap();
                let space_id = SpaceId(id);
                assert_eq!(events(&out), [FileEvent::Delete { space_id, path }]);
            }
        }
        for path in [&b""[..], b"a\0b", &[b'x'; RECORD_PATH_LEN_MAX + 1]] {
            assert!(append_file_delete(&mut Vec::new(), SpaceId(1), path).is_err());
        }
    }

    #[test]
    fn absolute_paths_become_relative_in_place() {
        for (before, after) in [
            ("/data/x/db/t.ibd", "././././db/t.ibd"),
            ("/data/xy/db/t.ibd", "././././/db/t.ibd"),
            ("/a/db/t.ibd", ".//db/t.ibd"),
            ("./db/t.ibd", "./db/t.ibd"),
        ] {
            let mut out = Vec::new();
            append_file_delete(&mut out, SpaceId(9), before.as_bytes()).unwrap();
            let mtr = whole(&out);
            let changed = localize(&mut out, mtr, LogFormat::Plain).unwrap();
            assert_eq!(changed, before != after);
            let (space_id, path) = (SpaceId(9), after.as_bytes().to_vec());
            assert_eq!(events(&out), [FileEvent::Delete { space_id, path }]);
        }
    }

    #[test]
    fn both_names_of_a_rename_are_rewritten_and_page_records_are_not() {
        let names = b"/far/db/t.ibd\0/far/db/u.ibd";
        let mut records = vec![FILE_RENAME];
        records.extend(long_length(names.len() + 2));
        records.extend_from_slice(&[4, 0]);
        records.extend_from_slice(names);
        records.extend(record(9));
        let mut bytes = mtr(&records, 1, b"");
        let found = whole(&bytes);
        assert_eq!(localize(&mut bytes, found, LogFormat::Plain), Ok(true));
        assert_eq!(
            events(&bytes),
            [FileEvent::Rename {
                space_id: SpaceId(4),
                from: b"././/db/t.ibd".to_vec(),
                to: b"././/db/u.ibd".to_vec(),
            }]
        );
        assert!(bytes[..found.records_len].ends_with(&record(9)));
    }

    #[test]
    fn a_path_without_room_is_named() {
        let mut out = Vec::new();
        append_file_delete(&mut out, SpaceId(9), b"/db/t.ibd").unwrap();
        let mtr = whole(&out);
        let error = localize(&mut out, mtr, LogFormat::Plain).unwrap_err();
        assert!(error.to_string().contains("/db/t.ibd"));
    }
}
