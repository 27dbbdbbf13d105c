//! Where an archive is cut into segments and parts. Arithmetic only.

use crate::base::error::{Error, Kind, Result};
use crate::base::units::{ByteCount, MIB};
use crate::store::{PART_LEN_MIN, PARTS_MAX};

/// Bytes of a segment, unless a single chunk is longer. `r[repository.segment.len]`
pub const SEGMENT_LEN: u64 = 8 << 30;

/// Bytes of a part where memory is plenty: what a connection carries well, and little to send again.
const PART_LEN: u64 = 16 * MIB;

/// Bytes of a part where 16 MiB ones would be too few.
const PART_LEN_TIGHT: u64 = 8 * MIB;

/// Parts in memory beyond which larger ones serve better than more of them.
const BUFS_PLENTY: u64 = 32;

/// `--memory` with a store when not given. A store that is far away gives a connection 20 to 90 MB/s: to fill a line it takes many at a
/// time, each with a part.
pub const STORE_MEMORY_DEFAULT: u64 = 256 * MIB;

/// One part is filled while another one is sent.
const BUFS_MIN: u64 = 2;

/// Least `--memory` of a pipeline next to the parts.
const PIPELINE_MEMORY_MIN: u64 = 8 * MIB;

/// How `--memory` is divided between a pipeline and the parts on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// For the pipeline.
    pub pipeline: ByteCount,
    /// Bytes of a part.
    pub part_len: u64,
    /// Parts in memory.
    pub bufs: usize,
}

impl Shares {
    /// A quarter for the pipeline, the rest for parts.
    pub fn new(memory: ByteCount) -> Result<Self> {
        let pipeline = (memory.0 / 4).max(PIPELINE_MEMORY_MIN);
        let rest = memory.0.saturating_sub(pipeline);
        let floor = PIPELINE_MEMORY_MIN + BUFS_MIN * PART_LEN_MIN;
        if rest < BUFS_MIN * PART_LEN_MIN {
            let what = format!(
                "--memory {memory} is below the floor of {} for backups in a store",
                ByteCount(floor)
            );
            return Err(Error::new(Kind::Usage, what));
        }
        let part_len = [(PART_LEN, BUFS_PLENTY), (PART_LEN_TIGHT, BUFS_MIN + 1)]
            .into_iter()
            .find(|(len, bufs)| rest / len >= *bufs)
            .map_or(PART_LEN_MIN, |(len, _)| len);
        Ok(Self {
            pipeline: ByteCount(pipeline),
            part_len,
            bufs: usize::try_from(rest / part_len).unwrap_or(usize::MAX),
        })
    }
}

/// Decides before which chunks a new segment begins.
#[derive(Debug, Clone, Copy)]
pub struct Cutter {
    part_len: u64,
    segment_len: u64,
    /// Bytes of the segment at hand.
    filled: u64,
}

impl Cutter {
    /// Segments of about `segment_len` bytes in parts of `part_len`.
    #[must_use]
    pub fn new(part_len: u64, segment_len: u64) -> Self {
        let most = part_len.saturating_mul(u64::from(PARTS_MAX));
        Self {
            part_len,
            segment_len: segment_len.clamp(1, most),
            filled: 0,
        }
    }

    /// Takes the next chunk of `len` bytes, at `position` of the archive; tells whether a new segment begins with it.
    ///
    /// Fails for a chunk that no object can hold. `r[repository.segment.border]`
    pub fn chunk(&mut self, len: u64, position: u64) -> Result<bool> {
        let most = self.part_len.saturating_mul(u64::from(PARTS_MAX));
        if len > most {
            let what = format!(
                "a chunk of {len} bytes is longer than an object of {PARTS_MAX} parts of {}",
                ByteCount(self.part_len)
            );
            return Err(Error::new(Kind::Failed, what).at(position).hint(
                "give more --memory, so that parts are larger, or have smaller chunks written",
            ));
        }
        let cut = self.filled > 0 && self.filled.saturating_add(len) > self.segment_len;
        self.filled = if cut { len } else { self.filled + len };
        Ok(cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIB: u64 = 1 << 40;

    // r[repository.parts]
    #[test]
    fn never_too_many_parts_up_to_48_tib() {
        for (part_len, segment_len, chunk_len) in [
            (PART_LEN, SEGMENT_LEN, 10 * MIB + 57),
            (PART_LEN_MIN, SEGMENT_LEN, MIB + 31),
            (PART_LEN_MIN, u64::MAX, 10 * MIB + 57),
            (PART_LEN, 1, 10 * MIB),
            (PART_LEN, SEGMENT_LEN, 9 << 30),
            (PART_LEN_MIN, SEGMENT_LEN, PART_LEN_MIN * 10_000),
        ] {
            let mut cutter = Cutter::new(part_len, segment_len);
            let (mut total, mut segment, mut segments) = (0_u64, 0_u64, 1_u64);
            while total < 48 * TIB {
                if cutter.chunk(chunk_len, total).unwrap() {
                    assert!(segment.div_ceil(part_len) <= u64::from(PARTS_MAX));
                    assert!(segment <= segment_len.max(chunk_len));
                    (segment, segments) = (0, segments + 1);
                }
                segment += chunk_len;
                total += chunk_len;
            }
            // Names have eight digits.
            assert!(segments <= 100_000_000, "{segments}");
        }
        let too_long = PART_LEN_MIN * 10_000 + 1;
        let error = Cutter::new(PART_LEN_MIN, SEGMENT_LEN)
            .chunk(too_long, 7)
            .unwrap_err();
        assert!(error.to_string().contains("52428800001 bytes"), "{error}");
    }

    #[test]
    fn memory_is_divided_and_never_exceeded() {
        for mib in [18, 20, 32, 64, 100, 256, 4096] {
            let shares = Shares::new(ByteCount(mib * MIB)).unwrap();
            let parts = shares.part_len * shares.bufs as u64;
            assert!(shares.pipeline.0 + parts <= mib * MIB, "{shares:?}");
            assert!(shares.bufs >= 2 && shares.part_len >= PART_LEN_MIN);
        }
        for (memory, part_len, bufs) in [
            (64 * MIB, 8 * MIB, 6),
            (STORE_MEMORY_DEFAULT, 8 * MIB, 24),
            (1024 * MIB, 16 * MIB, 48),
        ] {
            let shares = Shares::new(ByteCount(memory)).unwrap();
            assert_eq!((shares.part_len, shares.bufs), (part_len, bufs));
        }
        let error = Shares::new(ByteCount(17 * MIB)).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }
}
