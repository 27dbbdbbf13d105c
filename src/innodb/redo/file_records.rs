//! What a mini-transaction says about files: creations, deletions, renames, first changes, checkpoints.

use crate::base::units::{Lsn, SpaceId};
use crate::innodb::be::u64_at;
use crate::innodb::redo::RECORD_PATH_LEN_MAX;
use crate::innodb::redo::header::LogFormat;
use crate::innodb::redo::mtr::{Number, number};

/// A file was created.
pub const FILE_CREATE: u8 = 0x80;
/// A file was deleted.
pub const FILE_DELETE: u8 = 0x90;
/// A file was renamed.
pub const FILE_RENAME: u8 = 0xa0;
/// A file was changed for the first time since a checkpoint.
pub const FILE_MODIFY: u8 = 0xb0;
/// A checkpoint was made, or padding.
pub const FILE_CHECKPOINT: u8 = 0xf0;

/// Bytes behind the type byte of the record that names a checkpoint.
const CHECKPOINT_RECORD_LEN: usize = 10;

/// One thing the log says about a file. Paths are bytes as the server wrote them: `./db/t.ibd`, or absolute for
/// tables with a DATA DIRECTORY, in the server's file name encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// The file was created with this tablespace id.
    Create {
        /// Its id.
        space_id: SpaceId,
        /// Its path.
        path: Vec<u8>,
    },
    /// The file was deleted.
    Delete {
        /// Its id.
        space_id: SpaceId,
        /// Its path.
        path: Vec<u8>,
    },
    /// The file was renamed.
    Rename {
        /// Its id.
        space_id: SpaceId,
        /// Old path.
        from: Vec<u8>,
        /// New path.
        to: Vec<u8>,
    },
    /// The file is about to be changed.
    Modify {
        /// Its id.
        space_id: SpaceId,
        /// Its path.
        path: Vec<u8>,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// The checkpoint's LSN.
        lsn: Lsn,
    },
    /// A file record of an encrypted log: the kind is readable, the rest is not.
    Opaque {
        /// [`FILE_CREATE`], [`FILE_DELETE`], [`FILE_RENAME`], [`FILE_MODIFY`] or [`FILE_CHECKPOINT`].
        kind: u8,
    },
}

/// Where the path bytes of a file record stand within the records of its mini-transaction.
pub(crate) struct FileRecord<'a> {
    /// Type bits of the first byte.
    pub(crate) kind: u8,
    /// Everything behind the length.
    pub(crate) payload: &'a [u8],
    /// Offset of `payload` in the records.
    pub(crate) payload_at: usize,
}

impl<'a> FileRecord<'a> {
    /// Tablespace id, path bytes (both names of a rename), and the path's offset in the records.
    pub(crate) fn name(&self) -> Option<(SpaceId, &'a [u8], usize)> {
        // r[redo.file-record.payload]
        let Number::Value(id, id_len) = number(self.payload) else {
            return None;
        };
        let (zero, path) = self.payload.get(id_len..)?.split_first()?;
        if *zero != 0 || path.len() > RECORD_PATH_LEN_MAX.saturating_mul(2) {
            return None;
        }
        let path_at = self.payload_at.checked_add(id_len)?.checked_add(1)?;
        Some((SpaceId(id), path, path_at))
    }
}

/// The file records at the start of a whole mini-transaction's `records` (`r[redo.file-record.first]`).
pub(crate) fn file_records(records: &[u8]) -> impl Iterator<Item = FileRecord<'_>> {
    let mut at = 0_usize;
    std::iter::from_fn(move || {
        let (&head, after) = records.get(at..)?.split_first()?;
        // Behind the first page record the same bit means "the same page again".
        if head & 0x80 == 0 {
            return None;
        }
        let (number_len, len) = match head & 0x0f {
            0 => match number(after) {
                Number::Value(value, number_len) => (number_len, (value as usize).checked_add(15)?),
                _ => return None,
            },
            short => (0, usize::from(short)),
        };
        let payload = after.get(number_len..len)?;
        let payload_at = at.checked_add(1)?.checked_add(number_len)?;
        at = at.checked_add(1)?.checked_add(len)?;
        Some(FileRecord {
            kind: head & 0xf0,
            payload,
            payload_at,
        })
    })
}

/// Whether a mini-transaction with these `records` begins with a file record: the cheap test before [`read_events`].
#[must_use]
pub fn has_file_records(records: &[u8]) -> bool {
    records.first().is_some_and(|head| head & 0x80 != 0)
}

/// Appends what the `records` of a whole mini-transaction say about files. Records that make no sense are left out:
/// the checksum has vouched for them, so they are of a kind we do not know.
pub fn read_events(records: &[u8], format: LogFormat, events: &mut Vec<FileEvent>) {
    events.extend(file_records(records).filter_map(|record| event(&record, format)));
}

/// Whether a file record of this kind has an id and a path.
pub(crate) const fn is_named(kind: u8) -> bool {
    matches!(kind, FILE_CREATE | FILE_DELETE | FILE_RENAME | FILE_MODIFY)
}

fn event(record: &FileRecord<'_>, format: LogFormat) -> Option<FileEvent> {
    let checkpoint = record.kind == FILE_CHECKPOINT;
    // r[redo.file-record.checkpoint]: records of this kind with another length are padding.
    if checkpoint && record.payload.len() != CHECKPOINT_RECORD_LEN {
        return None;
    }
    if !checkpoint && !is_named(record.kind) {
        return None;
    }
    // r[redo.encrypted.readable]
    if format == LogFormat::Encrypted {
        return Some(FileEvent::Opaque { kind: record.kind });
    }
    if checkpoint {
        let lsn = u64_at(record.payload.strip_prefix(&[0, 0])?, 0)?;
        return Some(FileEvent::Checkpoint { lsn: Lsn(lsn) });
    }
    let (space_id, path, _) = record.name()?;
    let event = match record.kind {
        FILE_CREATE => FileEvent::Create {
            space_id,
            path: path.to_vec(),
        },
        FILE_DELETE => FileEvent::Delete {
            space_id,
            path: path.to_vec(),
        },
        FILE_MODIFY => FileEvent::Modify {
            space_id,
            path: path.to_vec(),
        },
        _ => {
            // r[redo.file-record.rename]
            let mut names = path.split(|b| *b == 0);
            let (from, to) = (names.next()?.to_vec(), names.next()?.to_vec());
            FileEvent::Rename { space_id, from, to }
        }
    };
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_plain_mini_transaction() {
        let mut records = vec![0x80 | 11, 7, 0];
        records.extend_from_slice(b"./d/t.ibd");
        let names = b"./d/t.ibd\0./d/u.ibd";
        records.extend_from_slice(&[0xa0, u8::try_from(names.len() + 3 - 15).unwrap(), 7, 0]);
        records.extend_from_slice(names);
        records.extend_from_slice(&[0xfa, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);
        records.extend_from_slice(&[0xf3, 0, 0, 0]);
        // A page record, then one more for the same page: the bit no longer means a file.
        records.extend_from_slice(&[0x33, 1, 2, 3, 0x83, 1, 2, 3]);
        let mut events = Vec::new();
        read_events(&records, LogFormat::Plain, &mut events);
        let space_id = SpaceId(7);
        assert_eq!(
            events,
            [
                FileEvent::Create {
                    space_id,
                    path: b"./d/t.ibd".to_vec()
                },
                FileEvent::Rename {
                    space_id,
                    from: b"./d/t.ibd".to_vec(),
                    to: b"./d/u.ibd".to_vec()
                },
                FileEvent::Checkpoint { lsn: Lsn(65538) },
            ]
        );
        assert!(has_file_records(&records));
        assert!(!has_file_records(&[0x33, 1, 2, 3]));
    }

    #[test]
    fn encrypted_records_tell_only_their_kind() {
        let mut events = Vec::new();
        read_events(&[0x93, 9, 9, 9], LogFormat::Encrypted, &mut events);
        assert_eq!(events, [FileEvent::Opaque { kind: FILE_DELETE }]);
    }
}
