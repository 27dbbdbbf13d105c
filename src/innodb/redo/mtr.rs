//! Mini-transactions: where one ends, and whether it is whole.
//!
//! The walk reads nothing but record lengths, so it is as fast on encrypted logs and needs no key; the CRC-32C over the
//! records is the main cost. A window is a contiguous run of log bytes that starts at a mini-transaction's start.

use crate::base::units::Lsn;
use crate::innodb::be::u32_at;
use crate::innodb::redo::MTR_LEN_MAX;
use crate::innodb::redo::header::LogFormat;

/// Bytes of the checksum that ends a mini-transaction.
const CHECKSUM_LEN: usize = 4;
/// The highest byte that ends a mini-transaction; every record starts with a larger one (`r[redo.mtr.end-byte]`).
const END_BYTE_MAX: u8 = 1;
/// A record that does not tell its length in its first byte is at least this long behind it
/// (`r[redo.record.length]`).
const LONG_RECORD_LEN: u32 = 15;

/// One whole mini-transaction at the start of a window. Lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtr {
    /// The records: the window's bytes before the end byte.
    pub records_len: usize,
    /// Records, end byte, nonce and checksum.
    pub len: usize,
}

/// Why bytes are not a whole mini-transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MtrFault {
    /// The checksum does not fit the records.
    #[error("checksum of the mini-transaction is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// As stored.
        stored: u32,
        /// CRC-32C of records and nonce.
        computed: u32,
    },
    /// The end byte belongs to another lap of the ring.
    #[error("end byte of the mini-transaction is {found}, expected {expected}")]
    EndByte {
        /// What the position asks for.
        expected: u8,
        /// What is there.
        found: u8,
    },
    /// A record's length is coded in a way no server writes.
    #[error("a record of the mini-transaction has an impossible length")]
    Length,
    /// No end within the longest mini-transaction a server writes.
    #[error("the mini-transaction does not end within {MTR_LEN_MAX} bytes")]
    TooLong,
    /// The log ends here although it should not.
    #[error("the log ends here")]
    EndOfLog,
    /// The bytes end in the middle of the mini-transaction.
    #[error("the log is cut in the middle of a mini-transaction")]
    Cut,
}

/// What stands at the start of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A whole, valid mini-transaction.
    Mtr(Mtr),
    /// The window ends before the mini-transaction does (also: the window is empty).
    NeedMore,
    /// A byte of 0 or 1 where a record should start (`r[redo.log.end]`).
    EndOfLog,
}

/// Reads the mini-transaction at the start of `window`, whose first byte has LSN `start`. `sequence_bit` tells what the
/// end byte at an LSN must be: [`RingGeometry::sequence_bit`](super::header::RingGeometry::sequence_bit), or 1 in a
/// backup.
#[inline]
pub fn step(
    window: &[u8],
    start: Lsn,
    format: LogFormat,
    sequence_bit: impl Fn(Lsn) -> u8,
) -> Result<Step, MtrFault> {
    let mut rest = window;
    // r[redo.record.length]
    let found = loop {
        let Some((&head, after)) = rest.split_first() else {
            return need_more(window);
        };
        if head <= END_BYTE_MAX {
            break head;
        }
        let len = match head & 0x0f {
            0 => match long_record_len(after)? {
                Some(len) => len,
                None => return need_more(window),
            },
            short => usize::from(short),
        };
        match after.get(len..) {
            Some(next) => rest = next,
            None if len > MTR_LEN_MAX => return Err(MtrFault::TooLong),
            None => return need_more(window),
        }
    };
    let records_len = window.len().saturating_sub(rest.len());
    if records_len == 0 {
        return Ok(Step::EndOfLog);
    }
    // r[redo.mtr.length]
    if records_len > MTR_LEN_MAX {
        return Err(MtrFault::TooLong);
    }
    // r[redo.mtr.end-byte]
    let expected = sequence_bit(Lsn(start.0.saturating_add(records_len as u64)));
    if found != expected {
        return Err(MtrFault::EndByte { expected, found });
    }
    let nonce_len = format.nonce_len();
    let (Some(records), Some(after_end)) = (window.get(..records_len), rest.get(1..)) else {
        return need_more(window);
    };
    let (Some(nonce), Some(stored)) = (after_end.get(..nonce_len), u32_at(after_end, nonce_len))
    else {
        return need_more(window);
    };
    // r[redo.mtr.checksum]
    let computed = checksum(records, nonce);
    if stored != computed {
        return Err(MtrFault::Checksum { stored, computed });
    }
    let len = records_len
        .saturating_add(1)
        .saturating_add(nonce_len)
        .saturating_add(CHECKSUM_LEN);
    Ok(Step::Mtr(Mtr { records_len, len }))
}

/// CRC-32C over the records and the nonce, not over the end byte between them (`r[redo.mtr.checksum]`).
pub(crate) fn checksum(records: &[u8], nonce: &[u8]) -> u32 {
    let crc = crc32c::crc32c(records);
    if nonce.is_empty() {
        crc
    } else {
        crc32c::crc32c_append(crc, nonce)
    }
}

fn need_more(window: &[u8]) -> Result<Step, MtrFault> {
    // A longer window could not help: without this a derailed reader would wait for ever.
    if window.len() > MTR_LEN_MAX.saturating_add(64) {
        Err(MtrFault::TooLong)
    } else {
        Ok(Step::NeedMore)
    }
}

/// Bytes behind the type byte, the number's own included; `None` when the number is cut.
fn long_record_len(after: &[u8]) -> Result<Option<usize>, MtrFault> {
    let (number, _) = match number(after) {
        Number::Value(value, len) if len <= 3 => (value, len),
        Number::Cut => return Ok(None),
        Number::Value(..) | Number::Invalid => return Err(MtrFault::Length),
    };
    Ok(Some(number.saturating_add(LONG_RECORD_LEN) as usize))
}

/// A number in the log's variable-length code (`r[redo.number]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    /// The value and the bytes it took.
    Value(u32, usize),
    /// The bytes end within it.
    Cut,
    /// No number starts with this byte, or it is beyond 32 bits.
    Invalid,
}

/// The least value that takes two, three, four and five bytes.
const NUMBER_MIN: [u32; 4] = [0x80, 0x4080, 0x20_4080, 0x1020_4080];

/// Reads the number at the start of `bytes`.
#[inline]
pub(crate) fn number(bytes: &[u8]) -> Number {
    let [min2, min3, min4, min5] = NUMBER_MIN;
    let (value, min, len) = match *bytes {
        [a, ..] if a < 0x80 => (u32::from(a), 0, 1),
        [a, b, ..] if a < 0xc0 => (u32::from_be_bytes([0, 0, a & 0x3f, b]), min2, 2),
        [a, b, c, ..] if (0xc0..0xe0).contains(&a) => {
            (u32::from_be_bytes([0, a & 0x1f, b, c]), min3, 3)
        }
        [a, b, c, d, ..] if (0xe0..0xf0).contains(&a) => {
            (u32::from_be_bytes([a & 0x0f, b, c, d]), min4, 4)
        }
        [0xf0, b, c, d, e, ..] => (u32::from_be_bytes([b, c, d, e]), min5, 5),
        [a, ..] if a > 0xf0 => return Number::Invalid,
        _ => return Number::Cut,
    };
    match value.checked_add(min) {
        Some(value) => Number::Value(value, len),
        None => Number::Invalid,
    }
}

/// Appends `value` in the log's variable-length code.
pub(crate) fn put_number(out: &mut Vec<u8>, value: u32) {
    let [min2, min3, min4, min5] = NUMBER_MIN;
    let (min, len, mark) = match value {
        v if v < min2 => (0, 1, 0),
        v if v < min3 => (min2, 2, 0x80),
        v if v < min4 => (min3, 3, 0xc0),
        v if v < min5 => (min4, 4, 0xe0),
        _ => (min5, 5, 0xf0),
    };
    let [a, b, c, d] = value.saturating_sub(min).to_be_bytes();
    let wide = [0, a, b, c, d];
    let mut number = wide.iter().skip(5_usize.saturating_sub(len));
    out.extend(number.next().map(|first| first | mark));
    out.extend(number);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A mini-transaction of `records` as a server would write it.
    pub(crate) fn mtr(records: &[u8], end_byte: u8, nonce: &[u8]) -> Vec<u8> {
        let mut bytes = records.to_vec();
        bytes.push(end_byte);
        bytes.extend_from_slice(nonce);
        bytes.extend_from_slice(&checksum(records, nonce).to_be_bytes());
        bytes
    }

    /// A WRITE record whose payload has `len` bytes and needs no sense.
    pub(crate) fn record(len: usize) -> Vec<u8> {
        if len <= 15 {
            let mut bytes = vec![0x30 | u8::try_from(len).unwrap()];
            bytes.resize(1 + len, 0xab);
            return bytes;
        }
        let mut bytes = vec![0x30];
        put_number(&mut bytes, u32::try_from(len - 15).unwrap());
        bytes.resize(1 + len, 0xab);
        bytes
    }

    fn one(_: Lsn) -> u8 {
        1
    }

    #[test]
    fn numbers_round_trip_at_every_edge() {
        for edge in [0, 0x80, 0x4080, 0x20_4080, 0x1020_4080, u32::MAX] {
            for value in [edge.saturating_sub(1), edge, edge.saturating_add(1)] {
                let mut bytes = Vec::new();
                put_number(&mut bytes, value);
                assert_eq!(number(&bytes), Number::Value(value, bytes.len()));
                for cut in 0..bytes.len() {
                    assert_eq!(number(&bytes[..cut]), Number::Cut, "{value} cut at {cut}");
                }
            }
        }
        assert_eq!(number(&[0xf1, 0, 0, 0, 0]), Number::Invalid);
        assert_eq!(number(&[0xf0, 0xff, 0xff, 0xff, 0xff]), Number::Invalid);
        assert_eq!(number(&[0x80, 0x00]), Number::Value(128, 2));
        assert_eq!(number(&[0xc0, 0, 0]), Number::Value(16512, 3));
    }

    #[test]
    fn a_mini_transaction_is_found_and_every_cut_asks_for_more() {
        let records: Vec<u8> = [1, 15, 16, 142, 143, 16_525, 16_527, 40_000]
            .into_iter()
            .flat_map(record)
            .collect();
        for (format, nonce) in [
            (LogFormat::Plain, &b""[..]),
            (LogFormat::Encrypted, &b"12345678"[..]),
        ] {
            let mut bytes = mtr(&records, 1, nonce);
            let len = bytes.len();
            bytes.extend_from_slice(b"more");
            let found = step(&bytes, Lsn(5), format, one);
            let records_len = records.len();
            assert_eq!(found, Ok(Step::Mtr(Mtr { records_len, len })));
            for cut in (0..200).chain(len - 20..len) {
                assert_eq!(step(&bytes[..cut], Lsn(5), format, one), Ok(Step::NeedMore));
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let records: Vec<u8> = [3, 15, 20].into_iter().flat_map(record).collect();
        let good = mtr(&records, 1, b"");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // More bytes follow, as they do in a log.
            bad.extend_from_slice(&good);
            bad.extend_from_slice(&vec![0x37; MTR_LEN_MAX + 100]);
            assert!(
                !matches!(step(&bad, Lsn(0), LogFormat::Plain, one), Ok(Step::Mtr(_))),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn ends_and_laps_are_told_apart() {
        let format = LogFormat::Plain;
        assert_eq!(step(&[0, 9], Lsn(0), format, one), Ok(Step::EndOfLog));
        assert_eq!(step(&[1, 9], Lsn(0), format, one), Ok(Step::EndOfLog));
        assert_eq!(step(&[], Lsn(0), format, one), Ok(Step::NeedMore));
        let old_lap = mtr(&record(9), 0, b"");
        assert_eq!(
            step(&old_lap, Lsn(0), format, one),
            Err(MtrFault::EndByte {
                expected: 1,
                found: 0
            })
        );
        assert_eq!(
            step(&[0x30, 0xe0, 0, 0, 0], Lsn(0), format, one),
            Err(MtrFault::Length)
        );
        // The bit is asked for at the end byte's own LSN.
        let bit = |lsn: Lsn| u8::from(lsn.0 == 107);
        let bytes = mtr(&record(6), 1, b"");
        assert!(matches!(
            step(&bytes, Lsn(100), format, bit),
            Ok(Step::Mtr(_))
        ));
    }

    #[test]
    fn endless_records_are_an_error_not_a_wait() {
        let long = vec![0x37; MTR_LEN_MAX + 100];
        let found = step(&long, Lsn(0), LogFormat::Plain, one);
        assert_eq!(found, Err(MtrFault::TooLong));
        // One record longer than any mini-transaction is known to be wrong at once.
        let record = [0x30, 0xdf, 0xff, 0xff];
        let found = step(&record, Lsn(0), LogFormat::Plain, one);
        assert_eq!(found, Err(MtrFault::TooLong));
    }
}
