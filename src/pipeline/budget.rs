//! How `--memory` becomes buffers: the one place that does this arithmetic.

use crate::base::error::{Error, Kind, Result};
use crate::base::units::{ByteCount, MIB};
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

/// `--memory` when not given.
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

/// How a run divides its memory. The sum of all buffers never exceeds `--memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Threads that read files, or that write them on extraction.
    pub lanes: usize,
    /// Threads that compress or decompress; zero without a codec.
    pub codec_threads: usize,
    /// Bytes of a buffer for what is read.
    pub input_buf_len: usize,
    /// Buffers for what is read.
    pub input_bufs: usize,
    /// Buffers for what codecs produce; zero without a codec.
    pub output_bufs: usize,
    /// What one open file of an archive may hold back to form a chunk.
    pub chunk: ChunkLimits,
}

impl Budget {
    /// Divides `memory` between `lanes` lanes; with a codec, half of it holds codec output.
    ///
    /// Fails below [`MEMORY_MIN`], naming the floor. Lanes beyond what the memory can feed are left out.
    pub fn new(memory: ByteCount, lanes: usize, codec: bool) -> Result<Self> {
        if memory.0 < MEMORY_MIN {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "--memory {memory} is below the floor of {}",
                    ByteCount(MEMORY_MIN)
                ),
            ));
        }
        let memory = usize::try_from(memory.0).unwrap_or(usize::MAX);
        let (input_buf_len, chunk_len, pieces_max) = if codec {
            (FRAME_LEN, CHUNK_PAYLOAD_LEN_DEFAULT, CODEC_CHUNK_PIECES_MAX)
        } else {
            (READ_LEN, CHUNK_LEN, CHUNK_LEN / READ_LEN)
        };
        let bufs = memory / input_buf_len;
        let (input_bufs, output_bufs) = if codec {
            (bufs / 2, bufs / 2)
        } else {
            (bufs, 0)
        };
        let held = if codec { output_bufs } else { input_bufs };
        let lanes = lanes.clamp(1, LANES_MAX).min(input_bufs / 2);
        // Half of the buffers may wait in unfinished chunks; the other half is in motion.
        let pieces = (held / 2 / lanes).clamp(1, pieces_max);
        let codec_threads = if codec { available_cpus() } else { 0 };
        Ok(Self {
            lanes,
            codec_threads,
            input_buf_len,
            input_bufs,
            output_bufs,
            chunk: ChunkLimits {
                pieces,
                len: chunk_len,
            },
        })
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

    #[test]
    fn the_sum_stays_within_memory_and_unfinished_chunks_within_half() {
        for mib in [8, 9, 16, 64, 100, 1024] {
            for lanes in [1, 2, 8, 300] {
                for codec in [false, true] {
                    let b = Budget::new(ByteCount(mib * MIB), lanes, codec).unwrap();
                    let held = if codec { b.output_bufs } else { b.input_bufs };
                    let bytes = (b.input_bufs + b.output_bufs) * b.input_buf_len;
                    assert!(bytes as u64 <= mib * MIB);
                    assert!(b.lanes >= 1 && b.chunk.pieces >= 1 && b.chunk.len >= 1);
                    assert!(b.lanes * b.chunk.pieces <= held, "{b:?}");
                }
            }
        }
        assert_eq!(
            Budget::new(ByteCount(MIB), 1, false).unwrap_err().kind(),
            Kind::Usage
        );
    }

    #[test]
    fn the_default_makes_full_chunks() {
        let b = Budget::new(ByteCount(MEMORY_DEFAULT), 2, false).unwrap();
        assert_eq!(b.chunk.len, CHUNK_LEN);
    }
}
