//! Writes frames that every reader takes (`r[codec.lz4.writer]`).

use std::sync::Arc;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use twox_hash::XxHash32;

use super::super::{CodecError, Contexts, Encoder, FileEncoder, Piece, Pieces};
use super::{MAGIC, STORED, SUFFIX};

/// Plain bytes of a block: a class that every reader knows, long enough that the window's start costs little.
const BLOCK_LEN: usize = 256 << 10;
/// Version 1, independent blocks, content size, content checksum.
const FLAGS: u8 = 0x6c;
/// Blocks of at most 256 KiB.
const CLASS: u8 = 0x50;
/// Magic number, flags, class, content size, checksum.
const HEAD_LEN: usize = 4 + 2 + 8 + 1;
/// End mark and content checksum.
const TAIL_LEN: usize = 4 + 4;

/// Writes one frame for each piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lz4Encoder {
    frame_len: usize,
}

impl Lz4Encoder {
    /// Frames of at most `frame_len` plain bytes.
    #[must_use]
    pub fn new(frame_len: usize) -> Self {
        Self {
            frame_len: frame_len.max(1),
        }
    }
}

impl Encoder for Lz4Encoder {
    fn suffix(&self) -> &'static str {
        SUFFIX
    }

    fn pieces(&self) -> Pieces {
        Pieces {
            len: self.frame_len,
            exact: false,
        }
    }

    fn bound(&self, plain_len: usize) -> usize {
        // Blocks that grow are stored, but need room to find out.
        let growth = get_maximum_output_size(BLOCK_LEN) - BLOCK_LEN;
        HEAD_LEN + plain_len + 4 * plain_len.div_ceil(BLOCK_LEN) + growth + TAIL_LEN
    }

    fn repeats(&self) -> bool {
        true
    }

    fn begin(&self, _name: &[u8]) -> Result<Arc<dyn FileEncoder>, CodecError> {
        Ok(Arc::new(*self))
    }
}

impl FileEncoder for Lz4Encoder {
    fn piece(
        &self,
        _piece: Piece,
        plain: &[u8],
        encoded: &mut [u8],
        contexts: &mut Contexts,
    ) -> Result<usize, CodecError> {
        let table = contexts.lz4.get_or_insert_with(CompressTable::large);
        let mut frame = Out { encoded, len: 0 };
        frame.put(&MAGIC.to_le_bytes())?;
        let mut descriptor = [0; 10];
        let [flags, class, size @ ..] = &mut descriptor;
        (*flags, *class) = (FLAGS, CLASS);
        size.copy_from_slice(&(plain.len() as u64).to_le_bytes());
        frame.put(&descriptor)?;
        let [_, checksum, ..] = XxHash32::oneshot(0, &descriptor).to_le_bytes();
        frame.put(&[checksum])?;
        for block in plain.chunks(BLOCK_LEN) {
            frame.block(block, table)?;
        }
        frame.put(&[0; 4])?;
        frame.put(&XxHash32::oneshot(0, plain).to_le_bytes())?;
        Ok(frame.len)
    }
}

/// A buffer and how much of it is filled.
struct Out<'a> {
    encoded: &'a mut [u8],
    len: usize,
}

impl Out<'_> {
    fn room(&mut self) -> Result<&mut [u8], CodecError> {
        self.encoded.get_mut(self.len..).ok_or_else(too_small)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), CodecError> {
        let room = self.room()?;
        let room = room.get_mut(..bytes.len()).ok_or_else(too_small)?;
        room.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    fn block(&mut self, plain: &[u8], table: &mut CompressTable) -> Result<(), CodecError> {
        let room = self.room()?.get_mut(4..).ok_or_else(too_small)?;
        let n = compress_into_with_table(plain, room, table).map_err(|_| too_small())?;
        if n < plain.len() {
            let word = u32::try_from(n).map_err(|_| too_small())?;
            self.put(&word.to_le_bytes())?;
            self.len += n;
            return Ok(());
        }
        let word = u32::try_from(plain.len()).map_err(|_| too_small())? | STORED;
        self.put(&word.to_le_bytes())?;
        self.put(plain)
    }
}

fn too_small() -> CodecError {
    CodecError::refused("lz4: the buffer for a frame is too small")
}
