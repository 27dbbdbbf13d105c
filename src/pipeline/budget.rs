//! How `--memory` becomes buffers: the one place that does this arithmetic.

use std::sync::Arc;

use crate::base::error::{Error, Kind, Result};
use crate::base::units::{ByteCount, MIB};
use crate::codec::{CHAIN_MAX, Decoders, Encoder};
use crate::xbstream::limits::CHUNK_PAYLOAD_LEN_DEFAULT;

/// Plain bytes of one compressed frame, and what is then read at once: large enough that independent frames compress as
/// well as one long one.
pub const FRAME_LEN: usize = 1 << 20;

/// Bytes read at once when nothing is compressed. They are checked and summed while they are still in the core's own cache.
pub const READ_LEN: usize = 256 << 10;

/// Payload of a chunk when nothing is compressed. Its CRC stands before it, so it has to be gathered: chunks of the
/// greatest length every reader knows would push it out of the cache before it is written.
pub const CHUNK_LEN: usize = 1 << 20;

/// A buffer of zeros for whoever has to spell out a hole.
pub static ZEROS: [u8; FRAME_LEN] = [0; FRAME_LEN];

/// Least `--memory`: below this two lanes could not each hold a buffer at every stage.
pub const MEMORY_MIN: u64 = 8 * MIB;

/// `--memory` when not given and no store is at hand.
pub const MEMORY_DEFAULT: u64 = 64 * MIB;

/// Most compressed pieces in one chunk.
const CODEC_CHUNK_PIECES_MAX: usize = 4;

/// What a run takes at most besides the buffers that `--memory` counts: code, stacks, codec contexts, small members on
/// their way, the names of one directory. Peak resident memory stays below the sum of the two, which tests measure.
pub const OVERHEAD_MAX: u64 = 24 * MIB;

/// Most lanes (`--parallel`) that are ever useful, and a bound for per-lane state.
pub const LANES_MAX: usize = 256;

/// What one open file of an archive may hold back to form a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Pooled buffers.
    pub pieces: usize,
    /// Bytes of payload.
    pub len: usize,
}

/// Most buffers between the reader of an archive and the lanes that decode.
const READ_AHEAD_BUFS_MAX: usize = 4;

/// Least memory for units that came in part and for stream decoders, part of the overhead where `--memory` has no room for
/// it: two windows of any zstd level up to 19. What there is beyond it may be lent for whole large units.
pub const ALLOWANCE_MIN: u64 = 18 * MIB;

/// What one transform may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageBudget {
    /// Bytes of an output buffer.
    pub buf_len: usize,
    /// Output buffers that may be on their way; may be zero.
    pub bufs: usize,
    /// Output buffers beside them that are given back at once.
    pub spare_bufs: usize,
    /// Encoding: plain bytes of a piece.
    pub piece_len: usize,
    /// Encoding: buffers of `piece_len` for pieces of exact length.
    pub gather_bufs: usize,
}

/// How a run divides its memory. The sum of all buffers never exceeds `--memory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Threads that read files, or that write them on extraction.
    pub lanes: usize,
    /// Threads that encode or decode; zero without a codec.
    pub codec_threads: usize,
    /// Bytes of a buffer for what is read.
    pub input_buf_len: usize,
    /// Buffers for what is read.
    pub input_bufs: usize,
    /// One for each transform: of encoders in their order, of decoders the last one first.
    pub stages: Vec<StageBudget>,
    /// Bytes for decoders beside their output: units that came in part, windows.
    pub allowance: u64,
    /// What one open file of an archive may hold back to form a chunk.
    pub chunk: ChunkLimits,
}

impl Budget {
    /// Divides `memory` between `lanes` lanes that read or write files as they are.
    ///
    /// Fails below [`MEMORY_MIN`], naming the floor. Lanes beyond what the memory can feed are left out.
    pub fn plain(memory: ByteCount, lanes: usize) -> Result<Self> {
        let memory = checked(memory)?;
        let input_bufs = memory / READ_LEN;
        let lanes = lanes.clamp(1, LANES_MAX).min(input_bufs / 2);
        Ok(Self {
            lanes,
            codec_threads: 0,
            input_buf_len: READ_LEN,
            input_bufs,
            stages: Vec::new(),
            allowance: 0,
            chunk: chunk(input_bufs, lanes, CHUNK_LEN, CHUNK_LEN / READ_LEN),
        })
    }

    /// The same when files pass through `encoders`: equal parts for reading and for what each of them makes. Pieces become
    /// shorter than an encoder wants them when memory is short.
    pub fn encode(memory: ByteCount, lanes: usize, encoders: &[Arc<dyn Encoder>]) -> Result<Self> {
        let Some(first) = encoders.first() else {
            return Self::plain(memory, lanes);
        };
        let memory = checked(memory)?;
        let thread_memory: usize = encoders.iter().map(|e| e.thread_memory()).sum();
        // What the contexts of the first thread take beyond their half is part of the overhead.
        let codec_threads = (memory / 2 / thread_memory.max(1)).clamp(1, available_cpus());
        let share =
            (memory - (thread_memory * codec_threads).min(memory / 2)) / (encoders.len() + 1);
        let mut input_buf_len = match first.pieces() {
            pieces if pieces.exact => FRAME_LEN,
            pieces => pieces.len,
        };
        while input_buf_len > READ_LEN && input_buf_len * 3 > share {
            input_buf_len /= 2;
        }
        let input_bufs = share / input_buf_len;
        let lanes = lanes.clamp(1, LANES_MAX).min(input_bufs / 2).max(1);
        let mut piece_len = input_buf_len;
        let mut stages = Vec::with_capacity(encoders.len());
        for encoder in encoders {
            let pieces = encoder.pieces();
            let (len, gather_bufs) = if pieces.exact {
                // One in each lane's hands, and one that is encoded.
                (pieces.len, lanes + 1)
            } else {
                (piece_len.min(pieces.len), 0)
            };
            let buf_len = encoder.bound(len);
            let bufs = share.saturating_sub(gather_bufs * len) / buf_len;
            stages.push(stage(buf_len, bufs, lanes, len, gather_bufs));
            piece_len = buf_len;
        }
        let held = stages.last().map_or(0, |s| s.bufs);
        let chunk_len = CHUNK_PAYLOAD_LEN_DEFAULT.max(piece_len);
        Ok(Self {
            lanes,
            codec_threads,
            input_buf_len,
            input_bufs,
            stages,
            allowance: 0,
            chunk: chunk(held, lanes, chunk_len, CODEC_CHUNK_PIECES_MAX),
        })
    }

    /// The same when files pass through `decoders`: a half for what is decoded, the rest for reading, units that came in part,
    /// and windows.
    pub fn decode(memory: ByteCount, lanes: usize, decoders: &Decoders) -> Result<Self> {
        if decoders.is_empty() {
            return Self::plain(memory, lanes);
        }
        let bytes = checked(memory)?;
        // Each lane may read for itself, too. Half of the buffers are the reader's, which needs two at least: it may hold part of
        // a chunk's head in one while it waits for the other.
        let lanes = lanes.clamp(1, LANES_MAX);
        let input_bufs = (bytes / 2 / FRAME_LEN).min(READ_AHEAD_BUFS_MAX + lanes);
        let lanes = lanes.min(input_bufs - (input_bufs / 2).min(READ_AHEAD_BUFS_MAX));
        let output_bufs = bytes / 2 / FRAME_LEN;
        // Files that were encoded twice are many or none, three times nearly never; large units wait for nothing but memory.
        let second = (output_bufs / 8).max(1);
        let large = output_bufs / 8;
        let bufs: [usize; CHAIN_MAX] = [output_bufs - second - 1 - large, second, 1];
        let stages = bufs
            .map(|bufs| stage(FRAME_LEN, bufs, lanes, 0, 0))
            .to_vec();
        let held = stages.first().map_or(0, |s| s.bufs);
        Ok(Self {
            lanes,
            codec_threads: available_cpus(),
            input_buf_len: FRAME_LEN,
            input_bufs,
            stages,
            allowance: (memory.0 / 2 - (input_bufs * FRAME_LEN) as u64
                + (large * FRAME_LEN) as u64)
                .max(ALLOWANCE_MIN),
            chunk: chunk(
                held,
                lanes,
                CHUNK_PAYLOAD_LEN_DEFAULT,
                CODEC_CHUNK_PIECES_MAX,
            ),
        })
    }

    /// With chunks of up to `len` bytes of payload where there is memory for that; a piece that an encoder made is not divided.
    #[must_use]
    pub fn with_chunk_len(mut self, len: usize) -> Self {
        let (held, piece_len) = match self.stages.last() {
            Some(stage) => (stage.bufs, stage.buf_len),
            None => (self.input_bufs, self.input_buf_len),
        };
        self.chunk = chunk(held, self.lanes, len.max(piece_len), len / piece_len);
        self
    }

    /// Two budgets for files that pass through `decoders`, then through `encoders`, side by side within `memory`: for reading
    /// and decoding, and for encoding and writing. Each must have the least there is.
    pub fn convert(
        memory: ByteCount,
        lanes: usize,
        decoders: &Decoders,
        encoders: &[Arc<dyn Encoder>],
    ) -> Result<(Self, Self)> {
        if encoders.is_empty() {
            let read = Self::decode(memory, lanes, decoders)?;
            return Ok((read.clone(), read));
        }
        at_least(memory, 2 * MEMORY_MIN)?;
        let half = ByteCount(memory.0 / 2);
        let mut write = Self::encode(half, lanes, encoders)?;
        // Nothing is read into these.
        let mut left = write.input_bufs * write.input_buf_len;
        write.input_bufs = 0;
        // Of an archive many files may be open at once, each with a part of a piece.
        for stage in write.stages.iter_mut().filter(|s| s.gather_bufs > 0) {
            stage.gather_bufs += left / stage.piece_len;
            left %= stage.piece_len;
        }
        let read = Self::decode(ByteCount(half.0 + left as u64), lanes, decoders)?;
        Ok((read, write))
    }
}

fn checked(memory: ByteCount) -> Result<usize> {
    at_least(memory, MEMORY_MIN)
}

fn at_least(memory: ByteCount, floor: u64) -> Result<usize> {
    if memory.0 < floor {
        let floor = ByteCount(floor);
        return Err(Error::new(
            Kind::Usage,
            format!("--memory {memory} is below the floor of {floor}"),
        ));
    }
    Ok(usize::try_from(memory.0).unwrap_or(usize::MAX))
}

/// A stage of `bufs` buffers altogether, at least one, of which up to a quarter are spare ones.
fn stage(
    buf_len: usize,
    bufs: usize,
    lanes: usize,
    piece_len: usize,
    gather_bufs: usize,
) -> StageBudget {
    let bufs = bufs.max(1);
    let spare_bufs = (bufs / 4).clamp(1, lanes);
    StageBudget {
        buf_len,
        bufs: bufs - spare_bufs,
        spare_bufs,
        piece_len,
        gather_bufs,
    }
}

/// Half of the buffers may wait in unfinished chunks; the other half is in motion.
fn chunk(bufs: usize, lanes: usize, len: usize, pieces_max: usize) -> ChunkLimits {
    ChunkLimits {
        pieces: (bufs / 2 / lanes).min(pieces_max).max(1),
        len,
    }
}

/// Processors this process may use.
#[must_use]
pub fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// `--parallel` when not given: enough lanes to keep the processors and a disk queue busy.
#[must_use]
pub fn default_lanes() -> usize {
    available_cpus().clamp(2, 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decompressors, zstd::ZstdEncoder};

    fn bytes(s: &StageBudget) -> usize {
        (s.bufs + s.spare_bufs) * s.buf_len + s.gather_bufs * s.piece_len
    }

    #[test]
    fn the_sum_stays_within_memory_and_unfinished_chunks_within_half() {
        let zstd = |len| -> Arc<dyn Encoder> { Arc::new(ZstdEncoder::new(1, len).unwrap()) };
        let encoders = [
            vec![],
            vec![zstd(1 << 20)],
            vec![zstd(8 << 20), zstd(1 << 20)],
        ];
        for mib in [8, 9, 16, 64, 100, 1024] {
            let memory = ByteCount(mib * MIB);
            for lanes in [1, 2, 8, 300] {
                let mut budgets = vec![Budget::decode(memory, lanes, &decompressors()).unwrap()];
                for encoders in &encoders {
                    budgets.push(Budget::encode(memory, lanes, encoders).unwrap());
                }
                for encoders in encoders.iter().filter(|_| mib >= 16) {
                    let both = Budget::convert(memory, lanes, &decompressors(), encoders).unwrap();
                    if !encoders.is_empty() {
                        let sum = [&both.0, &both.1].map(|b| {
                            let stages: usize = b.stages.iter().map(bytes).sum();
                            b.input_bufs * b.input_buf_len + stages
                        });
                        assert!(
                            sum[0] + sum[1] <= usize::try_from(memory.0).unwrap(),
                            "{both:?}"
                        );
                    }
                    budgets.push(both.0);
                }
                for b in budgets {
                    let stages: usize = b.stages.iter().map(bytes).sum();
                    let bytes = b.input_bufs * b.input_buf_len + stages;
                    let allowance = if b.allowance > ALLOWANCE_MIN {
                        b.allowance
                    } else {
                        0
                    };
                    assert!(bytes as u64 + allowance <= mib * MIB, "{mib} {b:?}");
                    assert!(b.lanes >= 1 && b.chunk.pieces >= 1 && b.chunk.len >= 1);
                    assert!(b.input_bufs >= if b.allowance > 0 { 4 } else { 2 }, "{b:?}");
                    assert!(b.stages.iter().all(|s| s.spare_bufs > 0), "{b:?}");
                }
            }
        }
        let floor = Budget::plain(ByteCount(MIB), 1).unwrap_err();
        assert_eq!(floor.kind(), Kind::Usage);
    }

    #[test]
    fn the_default_makes_full_chunks() {
        let b = Budget::plain(ByteCount(MEMORY_DEFAULT), 2).unwrap();
        assert_eq!(b.chunk.len, CHUNK_LEN);
        assert_eq!(b.chunk.pieces * READ_LEN, CHUNK_LEN);
        let b = b.with_chunk_len(CHUNK_PAYLOAD_LEN_DEFAULT);
        assert_eq!(b.chunk.len, CHUNK_PAYLOAD_LEN_DEFAULT);
        assert_eq!(b.chunk.pieces * READ_LEN, CHUNK_PAYLOAD_LEN_DEFAULT);
    }
}
