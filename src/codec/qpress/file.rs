//! Writes archives of one file (`r[codec.qp.writer]`).

use std::sync::Arc;

use super::super::{CodecError, Contexts, Encoder, FileEncoder, Piece, Pieces};
use super::quicklz;
use super::{
    BLOCK_HEAD, BLOCK_MAGIC, END_MAGIC, FILE_MARK, HEAD, MAGIC, NAME_LEN_MAX, SUFFIX, TRAILER,
};

/// Plain bytes of a block, what every writer makes unless told otherwise.
const BLOCK_LEN: usize = 64 << 10;

/// Compresses files as `--compress=quicklz` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QpressEncoder {
    piece_len: usize,
}

impl QpressEncoder {
    /// Encodes up to `piece_len` plain bytes at once; blocks in the file are 64 KiB.
    #[must_use]
    pub fn new(piece_len: usize) -> Self {
        Self {
            piece_len: piece_len.max(BLOCK_LEN),
        }
    }
}

impl Encoder for QpressEncoder {
    fn suffix(&self) -> &'static str {
        SUFFIX
    }

    fn pieces(&self) -> Pieces {
        Pieces {
            len: self.piece_len,
            exact: false,
        }
    }

    fn bound(&self, plain_len: usize) -> usize {
        let blocks = plain_len.div_ceil(BLOCK_LEN);
        plain_len + blocks * (BLOCK_HEAD.size() + quicklz::bound(0))
    }

    fn begin(&self, name: &[u8]) -> Result<Arc<dyn FileEncoder>, CodecError> {
        // r[codec.qp.name]
        let name = name.rsplit(|b| *b == b'/').next().unwrap_or_default();
        if name.len() > NAME_LEN_MAX as usize {
            return Err(CodecError::refused("qpress: the name is too long"));
        }
        Ok(Arc::new(QpressFile {
            name: name.to_vec(),
        }))
    }
}

struct QpressFile {
    name: Vec<u8>,
}

impl FileEncoder for QpressFile {
    fn header(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(HEAD.size() + self.name.len() + 1);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&(BLOCK_LEN as u64).to_le_bytes());
        head.push(FILE_MARK);
        let name_len = u32::try_from(self.name.len()).unwrap_or_default();
        head.extend_from_slice(&name_len.to_le_bytes());
        head.extend_from_slice(&self.name);
        head.push(0);
        head
    }

    fn piece(
        &self,
        piece: Piece,
        plain: &[u8],
        encoded: &mut [u8],
        _contexts: &mut Contexts,
    ) -> Result<usize, CodecError> {
        let too_small = || CodecError::refused("qpress: the buffer for a block is too small");
        let (mut position, mut len) = (piece.position, 0);
        for block in plain.chunks(BLOCK_LEN) {
            let room = encoded.get_mut(len..).ok_or_else(too_small)?;
            let (head, room) = room
                .split_at_mut_checked(BLOCK_HEAD.size())
                .ok_or_else(too_small)?;
            let n = quicklz::encode(block, room).ok_or_else(too_small)?;
            let adler = simd_adler32::adler32(&room.get(..n).unwrap_or_default());
            let fields = [
                BLOCK_MAGIC.as_slice(),
                &position.to_le_bytes(),
                &adler.to_le_bytes(),
            ];
            head.copy_from_slice(&fields.concat());
            len += head.len() + n;
            position += block.len() as u64;
        }
        Ok(len)
    }

    fn trailer(&self, _plain_len: u64) -> Vec<u8> {
        let mut trailer = vec![0; TRAILER.size()];
        if let Some(magic) = trailer.get_mut(..END_MAGIC.len()) {
            magic.copy_from_slice(END_MAGIC);
        }
        trailer
    }
}
