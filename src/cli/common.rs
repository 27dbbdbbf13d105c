//! Options that every verb has.

use clap::{Args, ValueEnum};

use crate::base::error::{Error, Kind, Result};
use crate::base::units::ByteCount;
use crate::codec::{Encoders, FRAME_LEN_MAX, FRAME_LEN_MIN};
use crate::pipeline::budget::{MEMORY_DEFAULT, READ_LEN, default_lanes};
use crate::pipeline::compression::Compression;
use crate::repository::cut::STORE_MEMORY_DEFAULT;
use crate::xbstream::limits::CHUNK_PAYLOAD_LEN_DEFAULT;

/// Options that every verb has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub(super) struct Common {
    /// Memory for buffers: at least 8M, fixed for the whole run [default: 64M, with a store 256M]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteCount>,

    /// Files worked on at the same time [default: by the processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: Option<u16>,

    /// How progress is told on standard error
    #[arg(long, value_name = "HOW", value_enum, default_value = "auto")]
    pub(super) progress: Progress,

    /// Tell each file
    #[arg(short, long)]
    pub(super) verbose: bool,

    /// Tell only warnings and errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub(super) quiet: bool,
}

impl Common {
    /// Where no store is written or read.
    pub(super) fn memory(&self) -> ByteCount {
        self.memory.unwrap_or(ByteCount(MEMORY_DEFAULT))
    }

    pub(super) fn memory_with_store(&self) -> ByteCount {
        self.memory.unwrap_or(ByteCount(STORE_MEMORY_DEFAULT))
    }

    pub(super) fn parallel(&self) -> usize {
        self.parallel.map_or_else(default_lanes, usize::from)
    }
}

/// How progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// A bar on a terminal, plain lines elsewhere.
    Auto,
    /// One line that is drawn again and again.
    Bar,
    /// A line every few seconds.
    Plain,
    /// JSON objects, one per line.
    Json,
    /// Nothing but warnings and errors.
    None,
}

/// What the chunks of an archive look like.
#[derive(Debug, Clone, Args)]
pub(super) struct ChunkArgs {
    /// Most payload of one chunk, 256K to 10M [default: 1M; 10M with --compress or --encrypt]
    #[arg(long, value_name = "SIZE")]
    chunk_size: Option<ByteCount>,
}

impl ChunkArgs {
    /// Bytes, if it was given.
    pub(super) fn len(&self) -> Result<Option<usize>> {
        let Some(size) = self.chunk_size else {
            return Ok(None);
        };
        let len = usize::try_from(size.0).unwrap_or(usize::MAX);
        if (READ_LEN..=CHUNK_PAYLOAD_LEN_DEFAULT).contains(&len) {
            return Ok(Some(len));
        }
        Err(Error::new(
            Kind::Usage,
            format!(
                "--chunk-size {size} is not between {} and {}",
                ByteCount(READ_LEN as u64),
                ByteCount(CHUNK_PAYLOAD_LEN_DEFAULT as u64)
            ),
        ))
    }
}

/// How files are compressed on their way into an archive.
#[derive(Debug, Clone, Args)]
pub(super) struct CompressArgs {
    /// Compress each file: none, zstd, zstd:LEVEL, lz4 or qpress (also called quicklz); names get the suffix .zst, .lz4 or .qp
    #[arg(long, value_name = "HOW", default_value = "none")]
    compress: Compression,

    /// Plain bytes that are compressed together, 64K to 8M: larger compresses better, smaller is decompressed with less memory
    #[arg(long, value_name = "SIZE", default_value = "1M")]
    compress_frame_size: ByteCount,
}

impl CompressArgs {
    /// What does it.
    pub(super) fn encoders(&self) -> Result<Encoders> {
        let len = usize::try_from(self.compress_frame_size.0).unwrap_or(usize::MAX);
        if !(FRAME_LEN_MIN..=FRAME_LEN_MAX).contains(&len) {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "--compress-frame-size {} is not between {} and {}",
                    self.compress_frame_size,
                    ByteCount(FRAME_LEN_MIN as u64),
                    ByteCount(FRAME_LEN_MAX as u64)
                ),
            ));
        }
        Ok(self.compress.encoder(len)?.into_iter().collect())
    }
}
