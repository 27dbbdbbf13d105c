//! xbcrypt as one of the transforms that files pass through.

use std::sync::Arc;

use super::chunk::{CHUNK_LEN_MAX, CHUNK_LEN_MIN, Head, HeadBuf};
use super::{Decryptor, Key, SUFFIX, encrypt, encrypted_len_max};
use crate::codec::{
    CodecError, Contexts, Decoder, Encoder, FileEncoder, Piece, Pieces, Split, Splitter, Step,
    StreamDecoder, Unit, UnitDecoder,
};
use crate::crypt::error::{CryptError, ErrorKind};
use crate::crypt::random;

/// Encrypts files as version 3 chunks.
#[derive(Debug, Clone)]
pub struct XbcryptEncoder {
    key: Arc<Key>,
    chunk_len: usize,
}

impl XbcryptEncoder {
    /// Chunks of at most `chunk_len` bytes of content, within [`CHUNK_LEN_MIN`] and [`CHUNK_LEN_MAX`].
    #[must_use]
    pub fn new(key: Key, chunk_len: usize) -> Self {
        Self {
            key: Arc::new(key),
            chunk_len: chunk_len.clamp(CHUNK_LEN_MIN, CHUNK_LEN_MAX),
        }
    }
}

impl Encoder for XbcryptEncoder {
    fn suffix(&self) -> &'static str {
        SUFFIX
    }

    /// As the bytes come: short chunks may stand anywhere in a file.
    fn pieces(&self) -> Pieces {
        Pieces {
            len: CHUNK_LEN_MAX,
            exact: false,
        }
    }

    fn encrypts(&self) -> bool {
        true
    }

    fn bound(&self, plain_len: usize) -> usize {
        encrypted_len_max(plain_len, self.chunk_len)
    }

    fn begin(&self, _name: &[u8]) -> Result<Arc<dyn FileEncoder>, CodecError> {
        Ok(Arc::new(self.clone()))
    }
}

impl FileEncoder for XbcryptEncoder {
    fn piece(
        &self,
        _piece: Piece,
        plain: &[u8],
        encoded: &mut [u8],
        _contexts: &mut Contexts,
    ) -> Result<usize, CodecError> {
        encrypt(&self.key, self.chunk_len, plain, encoded, random)
            .map_err(|e| CodecError::refused(e.to_string()))
    }
}

/// Decrypts files of any version.
#[derive(Debug, Clone)]
pub struct XbcryptDecoder(Arc<Key>);

impl XbcryptDecoder {
    /// With the key that they were encrypted with.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self(Arc::new(key))
    }
}

impl Decoder for XbcryptDecoder {
    fn suffix(&self) -> &'static str {
        SUFFIX
    }

    fn begin(&self, _name: &[u8]) -> Box<dyn Splitter> {
        Box::new(XbcryptSplitter {
            key: Arc::clone(&self.0),
            buf: HeadBuf::default(),
            head: None,
        })
    }
}

/// Finds chunks without decrypting them.
struct XbcryptSplitter {
    key: Arc<Key>,
    buf: HeadBuf,
    /// The current chunk's head, and the bytes of payload that are still to come.
    head: Option<(Head, u64)>,
}

impl XbcryptSplitter {
    fn unit(&self, head: Head) -> Unit {
        Unit {
            encoded_len: Some(head.len as u64 + head.payload_len),
            plain_len: Some(head.content_len()),
            plain_bound: None,
            stream_memory: size_of::<Decryptor>() as u64,
            decoder: Box::new(Chunk(Arc::clone(&self.key))),
        }
    }
}

impl Splitter for XbcryptSplitter {
    fn feed(&mut self, bytes: &[u8]) -> Result<Split, CodecError> {
        let mut rest = bytes;
        let (head, left) = match self.head {
            Some(under_way) => under_way,
            None => match self.buf.take(&mut rest)? {
                Some(head) => (head, head.payload_len),
                None => return Ok(Split::More),
            },
        };
        let here = usize::try_from(left).unwrap_or(usize::MAX);
        match rest.get(here..) {
            Some(after) => {
                self.head = None;
                self.buf = HeadBuf::default();
                Ok(Split::Unit(bytes.len() - after.len(), self.unit(head)))
            }
            None => {
                self.head = Some((head, left - rest.len() as u64));
                Ok(Split::More)
            }
        }
    }

    fn under_way(&self) -> Option<Unit> {
        self.head.map(|(head, _)| self.unit(head))
    }

    fn finish(&mut self) -> Result<Option<Unit>, CodecError> {
        let (place, at) = match self.head {
            None if self.buf.is_empty() => return Ok(None),
            None => ("inside the head of an xbcrypt chunk", self.buf.len() as u64),
            Some((head, left)) => (
                "inside an xbcrypt chunk",
                head.len as u64 + head.payload_len - left,
            ),
        };
        Err(CryptError::new(ErrorKind::Truncated(place), at).into())
    }
}

/// One chunk, decrypted as a whole or as it comes.
struct Chunk(Arc<Key>);

impl UnitDecoder for Chunk {
    fn decode(
        &self,
        encoded: &[u8],
        plain: &mut [u8],
        _contexts: &mut Contexts,
    ) -> Result<usize, CodecError> {
        let mut decryptor = Decryptor::new(Arc::clone(&self.0));
        let step = decryptor.step(encoded, plain)?;
        decryptor.finish()?;
        Ok(step.produced)
    }

    fn stream(&self) -> Result<Box<dyn StreamDecoder>, CodecError> {
        Ok(Box::new(ChunkStream(Decryptor::new(Arc::clone(&self.0)))))
    }
}

struct ChunkStream(Decryptor);

impl StreamDecoder for ChunkStream {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, CodecError> {
        let step = self.0.step(input, output)?;
        Ok(Step {
            consumed: step.consumed,
            produced: step.produced,
            ended: self.0.is_between_chunks(),
        })
    }
}
