//! File header, checkpoint slots and the ring's geometry.

use crate::base::spec::{Field, Layout};
use crate::base::units::Lsn;
use crate::innodb::be::{array_at, field, put_at, u32_at, u64_at};
use crate::innodb::redo::HEADER_LEN;

/// Format word of a plain log.
pub const FORMAT_PLAIN: u32 = 0x5068_7973;
/// Format word of an encrypted log since 10.11.
pub const FORMAT_ENCRYPTED: u32 = 0xf09f_979d;

const FORMAT: Field = field(0, 4, "format", "u32be");
const ZERO: Field = field(4, 4, "zero", "u32be");
const FIRST_LSN: Field = field(8, 8, "first_lsn", "u64be");
const CREATOR: Field = field(16, 32, "creator", "bytes");
const KEY_ID: Field = field(48, 4, "key_id", "u32be");
const KEY_VERSION: Field = field(52, 4, "key_version", "u32be");
const KEY_MESSAGE: Field = field(56, 16, "key_message", "bytes");
const KEY_NONCE: Field = field(72, 4, "key_nonce", "bytes");
const RESERVED: Field = field(76, 432, "reserved", "bytes");
const HEADER_CHECKSUM: Field = field(508, 4, "checksum", "u32be");

/// The first 512 bytes of the file (`r[redo.header.layout]`).
pub const HEADER: Layout = Layout {
    name: "log file header",
    fields: &[
        FORMAT,
        ZERO,
        FIRST_LSN,
        CREATOR,
        KEY_ID,
        KEY_VERSION,
        KEY_MESSAGE,
        KEY_NONCE,
        RESERVED,
        HEADER_CHECKSUM,
    ],
};

const SLOT_LSN: Field = field(0, 8, "checkpoint_lsn", "u64be");
const SLOT_END_LSN: Field = field(8, 8, "end_lsn", "u64be");
const SLOT_ZERO: Field = field(16, 44, "zero", "bytes");
const SLOT_CHECKSUM: Field = field(60, 4, "checksum", "u32be");

/// One checkpoint slot (`r[redo.checkpoint.layout]`).
pub const SLOT: Layout = Layout {
    name: "checkpoint slot",
    fields: &[SLOT_LSN, SLOT_END_LSN, SLOT_ZERO, SLOT_CHECKSUM],
};

/// Byte offsets of the two checkpoint slots.
pub const SLOT_OFFSETS: [usize; 2] = [4096, 8192];

/// Bytes of the encryption block, header offset 48 to 75.
pub const ENCRYPTION_LEN: usize = 28;

/// What the log's LSNs can never be below: positions in the file's header (`r[redo.header.first-lsn]`).
const FIRST_LSN_MIN: u64 = HEADER_LEN as u64;

const _: () = assert!(HEADER.size() == 512 && SLOT.size() == 64);

/// Why the head of a log file is no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than the header takes.
    #[error("the log header needs {HEADER_LEN} bytes, there are {found}")]
    Short {
        /// Bytes given.
        found: usize,
    },
    /// A format word that we do not know: an older server, a newer one, or no log at all.
    #[error("unknown redo log format word {word:#010x}")]
    Format {
        /// The word at offset 0.
        word: u32,
    },
    /// The header's checksum is wrong.
    #[error("log header checksum is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// Stored at offset 508.
        stored: u32,
        /// CRC-32C of bytes 0 to 507.
        computed: u32,
    },
    /// The first LSN lies inside the header.
    #[error("first LSN {first_lsn} of the log header is below {FIRST_LSN_MIN}")]
    FirstLsn {
        /// The LSN found.
        first_lsn: Lsn,
    },
    /// Neither checkpoint slot is valid.
    #[error("neither checkpoint slot of the log is valid")]
    NoCheckpoint,
    /// No room for records behind the header.
    #[error("a log file of {file_len} bytes has no room for records")]
    NoCapacity {
        /// Length of the file in bytes.
        file_len: u64,
    },
}

/// Whether mini-transactions carry a nonce and unreadable payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Everything is readable.
    Plain,
    /// Payloads are encrypted; lengths, end bytes and checksums are not (`r[redo.encrypted.readable]`).
    Encrypted,
}

impl LogFormat {
    /// Bytes between the end byte and the checksum of a mini-transaction.
    #[must_use]
    pub const fn nonce_len(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Encrypted => 8,
        }
    }
}

/// The first 512 bytes of `ib_logfile0`, as they stood in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHeader {
    /// The format word as found.
    pub format_word: u32,
    /// LSN of file offset [`HEADER_LEN`].
    pub first_lsn: Lsn,
    /// Who made the file, padded with zeros; servers compare a prefix of it.
    pub creator: [u8; 32],
    /// The encryption block, verbatim; all zero in plain logs.
    pub encryption: [u8; ENCRYPTION_LEN],
}

impl LogHeader {
    /// Reads and checks the header at the start of `head` (at least 512 bytes).
    pub fn parse(head: &[u8]) -> Result<Self, HeaderError> {
        Self::fields(head).ok_or(HeaderError::Short { found: head.len() })?
    }

    fn fields(head: &[u8]) -> Option<Result<Self, HeaderError>> {
        // r[redo.header.format]: the word is judged first, because other formats have their checksum elsewhere.
        let format_word = u32_at(head, FORMAT.offset)?;
        if format_word != FORMAT_PLAIN && format_word != FORMAT_ENCRYPTED {
            return Some(Err(HeaderError::Format { word: format_word }));
        }
        // r[redo.header.checksum]
        let stored = u32_at(head, HEADER_CHECKSUM.offset)?;
        let computed = crc32c::crc32c(head.get(..HEADER_CHECKSUM.offset)?);
        if stored != computed {
            return Some(Err(HeaderError::Checksum { stored, computed }));
        }
        let first_lsn = Lsn(u64_at(head, FIRST_LSN.offset)?);
        // r[redo.header.first-lsn]
        if first_lsn.0 < FIRST_LSN_MIN {
            return Some(Err(HeaderError::FirstLsn { first_lsn }));
        }
        Some(Ok(Self {
            format_word,
            first_lsn,
            creator: array_at(head, CREATOR.offset)?,
            encryption: array_at(head, KEY_ID.offset)?,
        }))
    }

    /// Plain or encrypted: by the word, or in the older encrypted format by a key id (`r[redo.header.encrypted]`).
    #[must_use]
    pub fn format(&self) -> LogFormat {
        let key_id = self.encryption.first_chunk::<4>();
        if self.format_word == FORMAT_ENCRYPTED || key_id.is_some_and(|id| *id != [0; 4]) {
            LogFormat::Encrypted
        } else {
            LogFormat::Plain
        }
    }

    /// The creator without its padding, for people.
    #[must_use]
    pub fn creator_text(&self) -> String {
        let text = self.creator.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// Writes the 512 bytes with a new checksum to the start of `head`, which has [`HEADER_LEN`] bytes.
    pub(crate) fn write(&self, head: &mut [u8; HEADER_LEN]) {
        put_at(head, FORMAT.offset, &self.format_word.to_be_bytes());
        put_at(head, FIRST_LSN.offset, &self.first_lsn.0.to_be_bytes());
        put_at(head, CREATOR.offset, &self.creator);
        put_at(head, KEY_ID.offset, &self.encryption);
        let (covered, _) = head.split_at(HEADER_CHECKSUM.offset);
        let checksum = crc32c::crc32c(covered);
        put_at(head, HEADER_CHECKSUM.offset, &checksum.to_be_bytes());
    }
}

/// A checkpoint: everything before `lsn` is in the data files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where recovery starts.
    pub lsn: Lsn,
    /// Where the log was when the checkpoint was written: the checkpoint's file records stand there
    /// (`r[redo.checkpoint.end-lsn]`).
    pub end_lsn: Lsn,
}

impl Checkpoint {
    /// Reads one slot of 64 bytes; `None` when it is not valid.
    fn parse(slot: &[u8]) -> Option<Self> {
        let stored = u32_at(slot, SLOT_CHECKSUM.offset)?;
        // r[redo.checkpoint.checksum]
        if crc32c::crc32c(slot.get(..SLOT_CHECKSUM.offset)?) != stored {
            return None;
        }
        Some(Self {
            lsn: Lsn(u64_at(slot, SLOT_LSN.offset)?),
            end_lsn: Lsn(u64_at(slot, SLOT_END_LSN.offset)?),
        })
    }

    /// The valid slot with the larger LSN in the first [`HEADER_LEN`] bytes of the file
    /// (`r[redo.checkpoint.newest]`). A slot is not valid either if its LSNs run backwards or precede `first_lsn`.
    pub fn newest(head: &[u8], first_lsn: Lsn) -> Result<Self, HeaderError> {
        if head.len() < HEADER_LEN {
            return Err(HeaderError::Short { found: head.len() });
        }
        SLOT_OFFSETS
            .iter()
            .filter_map(|offset| head.get(*offset..).and_then(Self::parse))
            .filter(|c| c.lsn >= first_lsn && c.end_lsn >= c.lsn)
            .max_by_key(|c| c.lsn)
            .ok_or(HeaderError::NoCheckpoint)
    }

    /// Writes this checkpoint into the first slot of `head`.
    pub(crate) fn write(&self, head: &mut [u8; HEADER_LEN]) {
        let mut slot = [0; SLOT.size()];
        put_at(&mut slot, SLOT_LSN.offset, &self.lsn.0.to_be_bytes());
        put_at(
            &mut slot,
            SLOT_END_LSN.offset,
            &self.end_lsn.0.to_be_bytes(),
        );
        let (covered, _) = slot.split_at(SLOT_CHECKSUM.offset);
        let checksum = crc32c::crc32c(covered);
        put_at(&mut slot, SLOT_CHECKSUM.offset, &checksum.to_be_bytes());
        let [first, _] = SLOT_OFFSETS;
        put_at(head, first, &slot);
    }
}

/// Where an LSN lies in the ring file of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingGeometry {
    first_lsn: Lsn,
    capacity: u64,
}

impl RingGeometry {
    /// Geometry of a log file with this header and length in bytes (`r[redo.ring.capacity]`).
    pub fn new(header: &LogHeader, file_len: u64) -> Result<Self, HeaderError> {
        match file_len.checked_sub(HEADER_LEN as u64) {
            Some(capacity) if capacity > 0 => Ok(Self {
                first_lsn: header.first_lsn,
                capacity,
            }),
            _ => Err(HeaderError::NoCapacity { file_len }),
        }
    }

    /// LSN of file offset [`HEADER_LEN`] in the first lap.
    #[must_use]
    pub const fn first_lsn(&self) -> Lsn {
        self.first_lsn
    }

    /// Bytes of log the file holds.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    const fn lap_and_rest(&self, lsn: Lsn) -> (u64, u64) {
        let distance = lsn.since(self.first_lsn);
        match (
            distance.checked_div(self.capacity),
            distance.checked_rem(self.capacity),
        ) {
            (Some(lap), Some(rest)) => (lap, rest),
            // `new` admits no zero capacity.
            _ => (0, 0),
        }
    }

    /// File offset of `lsn` in bytes (`r[redo.ring.offset]`).
    #[must_use]
    pub const fn offset(&self, lsn: Lsn) -> u64 {
        let (_, rest) = self.lap_and_rest(lsn);
        rest.saturating_add(HEADER_LEN as u64)
    }

    /// Bytes from `lsn` to the end of the file, at least one: what one read can take before it must go on at
    /// [`HEADER_LEN`].
    #[must_use]
    pub const fn contiguous(&self, lsn: Lsn) -> u64 {
        let (_, rest) = self.lap_and_rest(lsn);
        self.capacity.saturating_sub(rest)
    }

    /// What the end byte at `lsn` must be: 1 in even laps, 0 in odd ones (`r[redo.mtr.end-byte]`).
    #[must_use]
    pub const fn sequence_bit(&self, lsn: Lsn) -> u8 {
        let (lap, _) = self.lap_and_rest(lsn);
        if lap & 1 == 0 { 1 } else { 0 }
    }

    /// Whether bytes at `position` may be overwritten when the server is at `current`
    /// (`r[redo.ring.overrun]`). Ask after the read, with an LSN asked for after the read.
    #[must_use]
    pub const fn is_overrun(&self, position: Lsn, current: Lsn) -> bool {
        current.since(position) > self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(slots: [Option<(u64, u64)>; 2]) -> Box<[u8; HEADER_LEN]> {
        let mut head = Box::new([0; HEADER_LEN]);
        LogHeader {
            format_word: FORMAT_PLAIN,
            first_lsn: Lsn(12288),
            creator: *b"MariaDB 10.11.19\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            encryption: [0; ENCRYPTION_LEN],
        }
        .write(&mut head);
        let mut second = Box::new([0; HEADER_LEN]);
        if let Some((lsn, end)) = slots[1] {
            let (lsn, end_lsn) = (Lsn(lsn), Lsn(end));
            Checkpoint { lsn, end_lsn }.write(&mut second);
            head[8192..8256].copy_from_slice(&second[4096..4160]);
        }
        if let Some((lsn, end)) = slots[0] {
            let (lsn, end_lsn) = (Lsn(lsn), Lsn(end));
            Checkpoint { lsn, end_lsn }.write(&mut head);
        }
        head
    }

    #[test]
    fn a_header_reads_back_as_written() {
        let head = head([None, None]);
        let header = LogHeader::parse(&head[..]).unwrap();
        assert_eq!(header.creator_text(), "MariaDB 10.11.19");
        assert_eq!(header.format(), LogFormat::Plain);
        assert_eq!(header.first_lsn, Lsn(12288));
    }

    #[test]
    fn every_flipped_bit_of_the_header_is_noticed() {
        let good = head([None, None]);
        for bit in 0..512 * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(LogHeader::parse(&bad[..]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_newest_valid_checkpoint_wins() {
        let first = Lsn(12288);
        let newest = |slots| Checkpoint::newest(&head(slots)[..], first).map(|c| c.lsn.0);
        assert_eq!(
            newest([Some((20000, 20001)), Some((30000, 30016))]),
            Ok(30000)
        );
        assert_eq!(
            newest([Some((40000, 40001)), Some((30000, 30016))]),
            Ok(40000)
        );
        assert_eq!(newest([None, Some((30000, 30000))]), Ok(30000));
        // Backwards, and before the file's beginning.
        assert_eq!(
            newest([Some((50000, 49999)), Some((30000, 30000))]),
            Ok(30000)
        );
        assert_eq!(
            newest([Some((12287, 12288)), None]),
            Err(HeaderError::NoCheckpoint)
        );
        let mut torn = head([Some((40000, 40001)), Some((30000, 30016))]);
        torn[4096 + 3] ^= 1;
        assert_eq!(Checkpoint::newest(&torn[..], first).unwrap().lsn.0, 30000);
    }

    #[test]
    fn short_heads_are_errors() {
        let head = head([Some((20000, 20001)), None]);
        for len in 0..512 {
            assert_eq!(
                LogHeader::parse(&head[..len]),
                Err(HeaderError::Short { found: len })
            );
        }
        assert!(Checkpoint::newest(&head[..HEADER_LEN - 1], Lsn(12288)).is_err());
    }

    #[test]
    fn the_ring_wraps_and_its_bit_alternates() {
        let header = LogHeader::parse(&head([None, None])[..]).unwrap();
        let ring = RingGeometry::new(&header, HEADER_LEN as u64 + 1000).unwrap();
        for (lsn, offset, contiguous, bit) in [
            (12288, 12288, 1000, 1),
            (13287, 13287, 1, 1),
            (13288, 12288, 1000, 0),
            (14287, 13287, 1, 0),
            (14288, 12288, 1000, 1),
        ] {
            let lsn = Lsn(lsn);
            assert_eq!(
                (
                    ring.offset(lsn),
                    ring.contiguous(lsn),
                    ring.sequence_bit(lsn)
                ),
                (offset, contiguous, bit),
                "{lsn}"
            );
        }
        assert!(!ring.is_overrun(Lsn(12288), Lsn(13288)));
        assert!(ring.is_overrun(Lsn(12288), Lsn(13289)));
        assert!(RingGeometry::new(&header, HEADER_LEN as u64).is_err());
    }
}
