//! Numbers that must not be mixed up, each a type with one `Display`; and the grammar of sizes.

use std::fmt;
use std::str::FromStr;

use crate::base::error::{Error, Kind};

/// Log sequence number: a byte position in the redo log since the data directory was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// Tablespace number, as page headers and redo records carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u32);

/// Page number within a tablespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(pub u32);

impl Lsn {
    /// `self + bytes`, or `None` beyond 2^64.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(v) => Some(Self(v)),
            None => None,
        }
    }

    /// Bytes from `earlier` to `self`; zero when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One kibibyte, mebibyte, gibibyte in bytes.
pub const KIB: u64 = 1 << 10;
/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;

/// A number of bytes from the command line: digits with an optional K, M, G or T (powers of 1024, any case,
/// an optional `iB` or `B` after it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

impl FromStr for ByteCount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::new(Kind::Usage, format!("{text:?} is not a size"))
                .hint("write a whole number of bytes, or one with K, M, G or T, such as 64M")
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, suffix) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let shift = match suffix.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for ByteCount {
    /// For people: three significant digits and a binary unit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let (mut whole, mut rest, mut unit) = (self.0, 0, 0);
        while whole >= 1024 && unit + 1 < UNITS.len() {
            rest = whole % 1024;
            whole /= 1024;
            unit += 1;
        }
        if unit == 0 || whole >= 100 {
            write!(f, "{whole} {}", UNITS[unit])
        } else {
            write!(f, "{whole}.{} {}", rest * 10 / 1024, UNITS[unit])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_print() {
        for (text, bytes) in [("0", 0), ("64M", 64 * MIB), ("1k", 1024), ("3GiB", 3 * GIB)] {
            assert_eq!(text.parse::<ByteCount>().unwrap().0, bytes, "{text}");
        }
        for text in [
            "",
            "M",
            "1.5G",
            "-1",
            "1X",
            "99999999999T",
            "18446744073709551616",
        ] {
            assert!(text.parse::<ByteCount>().is_err(), "{text}");
        }
        assert_eq!(ByteCount(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteCount(200 * MIB).to_string(), "200 MiB");
    }
}
