//! Proves the log of a backup whole before anything is recovered from it: every mini-transaction is framed and summed,
//! and the end is the LSN the backup recorded. Neither the server nor its backup tool does this.

use crate::base::units::Lsn;
use crate::innodb::redo::HEADER_LEN;
use crate::innodb::redo::file_records::{
    FILE_CHECKPOINT, FileEvent, has_file_records, read_events,
};
use crate::innodb::redo::header::{Checkpoint, HeaderError, LogFormat, LogHeader};
use crate::innodb::redo::mtr::{MtrFault, Step, step};

/// What is wrong with the log of a backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The first [`HEADER_LEN`] bytes are wrong.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The log does not start at its checkpoint, so it is a server's ring and no copy.
    #[error(
        "the log starts at LSN {first_lsn}, not at its checkpoint {checkpoint}: not the log of a backup"
    )]
    NotABackup {
        /// First LSN of the header.
        first_lsn: Lsn,
        /// The newest checkpoint.
        checkpoint: Lsn,
    },
    /// A damaged or cut mini-transaction.
    #[error("redo log is damaged at LSN {lsn} (file offset {offset}): {fault}")]
    Damaged {
        /// Start of the mini-transaction.
        lsn: Lsn,
        /// The same as an offset in the file.
        offset: u64,
        /// What is wrong.
        fault: MtrFault,
    },
    /// The records of the checkpoint are missing; recovery would refuse the log.
    #[error("redo log has no record of its checkpoint {checkpoint} at or behind LSN {end_lsn}")]
    NoCheckpointRecord {
        /// The checkpoint's LSN.
        checkpoint: Lsn,
        /// Where the record should stand.
        end_lsn: Lsn,
    },
    /// The log ends at another LSN than the backup says.
    #[error(
        "redo log ends at LSN {found} (file offset {offset}), the backup was made up to {expected}"
    )]
    WrongEnd {
        /// Last LSN of the backup's metadata.
        expected: Lsn,
        /// End of the last whole mini-transaction.
        found: Lsn,
        /// The same as an offset in the file.
        offset: u64,
    },
}

/// Walks a backup's log in the order of its bytes. Memory: the unfinished mini-transaction and the chunk it is
/// joined with.
#[derive(Debug)]
pub struct LogScan {
    header: LogHeader,
    checkpoint: Checkpoint,
    position: Lsn,
    carry: Vec<u8>,
    ended: bool,
    checkpoint_seen: bool,
}

impl LogScan {
    /// Begins with the first [`HEADER_LEN`] bytes of the file.
    pub fn new(head: &[u8]) -> Result<Self, ScanError> {
        let header = LogHeader::parse(head)?;
        let checkpoint = Checkpoint::newest(head, header.first_lsn)?;
        // r[redo.backup.header]
        if checkpoint.lsn != header.first_lsn {
            return Err(ScanError::NotABackup {
                first_lsn: header.first_lsn,
                checkpoint: checkpoint.lsn,
            });
        }
        Ok(Self {
            header,
            checkpoint,
            position: checkpoint.lsn,
            carry: Vec::new(),
            ended: false,
            checkpoint_seen: false,
        })
    }

    /// The file's header.
    #[must_use]
    pub const fn header(&self) -> &LogHeader {
        &self.header
    }

    /// The checkpoint the log starts at.
    #[must_use]
    pub const fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    /// End of the last whole mini-transaction so far.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.position
    }

    /// File offset of an LSN: the log is a line (`r[redo.backup.line]`).
    const fn offset(&self, lsn: Lsn) -> u64 {
        lsn.since(self.header.first_lsn)
            .saturating_add(HEADER_LEN as u64)
    }

    fn damaged(&self, fault: MtrFault) -> ScanError {
        ScanError::Damaged {
            lsn: self.position,
            offset: self.offset(self.position),
            fault,
        }
    }

    /// Takes the next bytes of the file, any number of them, and appends what they say about files to `events`.
    pub fn feed(&mut self, bytes: &[u8], events: &mut Vec<FileEvent>) -> Result<(), ScanError> {
        let joined;
        let mut rest = bytes;
        if !self.carry.is_empty() {
            let mut carry = std::mem::take(&mut self.carry);
            carry.extend_from_slice(bytes);
            joined = carry;
            rest = &joined;
        }
        while !rest.is_empty() && !self.ended {
            match step(rest, self.position, self.header.format(), |_| 1) {
                Ok(Step::Mtr(mtr)) => {
                    let (own, next) = rest.split_at_checked(mtr.len).unwrap_or((rest, &[]));
                    let records = own.get(..mtr.records_len).unwrap_or_default();
                    if has_file_records(records) {
                        self.file_events(records, events);
                    }
                    self.position = Lsn(self.position.0.saturating_add(mtr.len as u64));
                    rest = next;
                }
                Ok(Step::NeedMore) => {
                    self.carry = rest.to_vec();
                    break;
                }
                Ok(Step::EndOfLog) => self.ended = true,
                Err(fault) => return Err(self.damaged(fault)),
            }
        }
        // r[redo.backup.line]: nothing follows the last mini-transaction; zeros are harmless.
        if self.ended && rest.iter().any(|byte| *byte != 0) {
            return Err(self.damaged(MtrFault::EndOfLog));
        }
        Ok(())
    }

    fn file_events(&mut self, records: &[u8], events: &mut Vec<FileEvent>) {
        let first_new = events.len();
        read_events(records, self.header.format(), events);
        // In an encrypted log its LSN cannot be read, only that it is a checkpoint's record.
        let marker = match self.header.format() {
            LogFormat::Plain => FileEvent::Checkpoint {
                lsn: self.checkpoint.lsn,
            },
            LogFormat::Encrypted => FileEvent::Opaque {
                kind: FILE_CHECKPOINT,
            },
        };
        // r[redo.checkpoint.end-lsn]
        if self.position >= self.checkpoint.end_lsn
            && events.iter().skip(first_new).any(|event| *event == marker)
        {
            self.checkpoint_seen = true;
        }
    }

    /// The file is at its end. Checks that the log is whole, and ends at `last_lsn` if the backup recorded one
    /// (`r[redo.backup.last-lsn]`). Returns the LSN where it ends.
    pub fn finish(self, last_lsn: Option<Lsn>) -> Result<Lsn, ScanError> {
        if !self.carry.is_empty() {
            return Err(self.damaged(MtrFault::Cut));
        }
        if let Some(expected) = last_lsn
            && expected != self.position
        {
            return Err(ScanError::WrongEnd {
                expected,
                found: self.position,
                offset: self.offset(self.position),
            });
        }
        if !self.checkpoint_seen {
            return Err(ScanError::NoCheckpointRecord {
                checkpoint: self.checkpoint.lsn,
                end_lsn: self.checkpoint.end_lsn,
            });
        }
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::SpaceId;
    use crate::innodb::redo::header::{ENCRYPTION_LEN, FORMAT_PLAIN};
    use crate::innodb::redo::mtr::tests::{mtr, record};
    use crate::innodb::redo::writer::{append_file_delete, backup_header};

    const START: Lsn = Lsn(50_000);

    /// A log of ten mini-transactions, the checkpoint's record and a deletion.
    fn log() -> (Vec<u8>, Lsn) {
        let source = LogHeader {
            format_word: FORMAT_PLAIN,
            first_lsn: Lsn(12288),
            creator: [0; 32],
            encryption: [0; ENCRYPTION_LEN],
        };
        let mut body = Vec::new();
        for len in 1..=10 {
            body.extend(mtr(&record(len * 7), 1, b""));
        }
        let checkpoint = Checkpoint {
            lsn: START,
            end_lsn: Lsn(START.0 + body.len() as u64),
        };
        let mut marker = vec![0xfa, 0, 0];
        marker.extend_from_slice(&START.0.to_be_bytes());
        body.extend(mtr(&marker, 1, b""));
        append_file_delete(&mut body, SpaceId(77), b"./d/gone.ibd").unwrap();
        let last_lsn = Lsn(START.0 + body.len() as u64);
        let mut file = backup_header(&source, checkpoint, "1").to_vec();
        file.append(&mut body);
        (file, last_lsn)
    }

    fn scan(file: &[u8], chunk: usize, last: Lsn) -> Result<(Lsn, Vec<FileEvent>), ScanError> {
        let mut events = Vec::new();
        let mut scan = LogScan::new(&file[..HEADER_LEN])?;
        for bytes in file[HEADER_LEN..].chunks(chunk) {
            scan.feed(bytes, &mut events)?;
        }
        Ok((scan.finish(Some(last))?, events))
    }

    #[test]
    fn any_split_gives_the_same_end_and_events() {
        let (file, last_lsn) = log();
        let path = b"./d/gone.ibd".to_vec();
        let space_id = SpaceId(77);
        let events = vec![
            FileEvent::Checkpoint { lsn: START },
            FileEvent::Delete { space_id, path },
        ];
        for chunk in (1..60).chain([1000, 1 << 20]) {
            assert_eq!(scan(&file, chunk, last_lsn), Ok((last_lsn, events.clone())));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let (file, last_lsn) = log();
        for bit in HEADER_LEN * 8..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(scan(&bad, 4096, last_lsn).is_err(), "bit {bit}");
        }
        for len in HEADER_LEN..file.len() {
            assert!(scan(&file[..len], 4096, last_lsn).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn damage_is_named_by_lsn_and_offset() {
        let (mut file, last_lsn) = log();
        let third = HEADER_LEN + (8 + 15 + 5) + 5;
        file[third + 3] ^= 4;
        match scan(&file, 50, last_lsn) {
            Err(ScanError::Damaged { lsn, offset, fault }) => {
                assert_eq!(lsn.0 - START.0, 8 + 15 + 5 + 5);
                assert_eq!(offset, third as u64);
                assert!(matches!(fault, MtrFault::Checksum { .. }));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_ring_and_a_log_without_its_checkpoint_are_refused() {
        let (file, last_lsn) = log();
        let at = file.len() - 16 - 20;
        let at = file[..at + 16]
            .windows(3)
            .rposition(|w| w == [0xfa, 0, 0])
            .unwrap();
        let without = [&file[..at], &file[at + 16..]].concat();
        assert!(matches!(
            scan(&without, 4096, Lsn(last_lsn.0 - 16)),
            Err(ScanError::NoCheckpointRecord { .. })
        ));
        let mut ring = file;
        let mut head = [0; HEADER_LEN];
        head.copy_from_slice(&ring[..HEADER_LEN]);
        let header = LogHeader {
            first_lsn: Lsn(START.0 - 1),
            ..LogHeader::parse(&head).unwrap()
        };
        header.write(&mut head);
        ring[..HEADER_LEN].copy_from_slice(&head);
        assert!(matches!(
            scan(&ring, 4096, last_lsn),
            Err(ScanError::NotABackup { .. })
        ));
    }
}
