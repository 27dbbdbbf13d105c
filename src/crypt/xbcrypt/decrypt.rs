//! Decryption: pushed bytes in, content out, every chunk checked at its end.

use std::sync::Arc;

use crc32fast::Hasher;
use ring::digest::{Context, SHA256};

use super::chunk::{HASH_LEN, HeadBuf, Scheme};
use super::key::{Key, Keystream};
use crate::crypt::error::{CryptError, ErrorKind};

/// Bytes that are checked, decrypted and hashed in turn while they are in the core's own cache.
const BLOCK_LEN: usize = 16 << 10;

/// Decrypts chunks of any version, in pieces of any size.
///
/// Content comes out before its chunk has been checked: an error at the chunk's end is about what came out before.
pub struct Decryptor {
    key: Arc<Key>,
    head: HeadBuf,
    chunk: Option<Chunk>,
    /// Where the current chunk began.
    begin: u64,
    position: u64,
}

/// The chunk under way.
struct Chunk {
    keystream: Option<Keystream>,
    content_left: u64,
    /// The hash as far as it has come, decrypted at the chunk's end.
    hash: [u8; HASH_LEN],
    hash_len: usize,
    hash_read: usize,
    digest: Context,
    crc: Hasher,
    checksum: u32,
    /// Whether the hash says something about the key (`r[xbcrypt.v3.none]`: not in the clear).
    check_hash: bool,
}

/// What one call of [`Decryptor::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes taken from the input.
    pub consumed: usize,
    /// Bytes put into the output.
    pub produced: usize,
}

impl Decryptor {
    /// A decryptor for bytes from the start of a file, or from the start of any of its chunks.
    #[must_use]
    pub fn new(key: Arc<Key>) -> Self {
        Self {
            key,
            head: HeadBuf::default(),
            chunk: None,
            begin: 0,
            position: 0,
        }
    }

    /// Decrypts from `input` into `output` until one of them is used up. What is consumed and fits no output is head or hash.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, CryptError> {
        let mut rest = input;
        let mut produced = 0;
        loop {
            let Some(chunk) = &mut self.chunk else {
                if rest.is_empty() {
                    break;
                }
                let before = rest.len();
                let head = self.head.take(&mut rest).map_err(|e| e.after(self.begin))?;
                self.position += (before - rest.len()) as u64;
                let Some(head) = head else { break };
                self.head = HeadBuf::default();
                let (iv, hash_len) = match head.scheme {
                    Scheme::Bare(iv) => (Some(iv), 0),
                    Scheme::Hashed(iv) => (Some(iv), HASH_LEN),
                    Scheme::Clear => (None, HASH_LEN),
                };
                self.chunk = Some(Chunk {
                    keystream: iv.map(|iv| self.key.keystream(&iv)),
                    content_left: head.content_len(),
                    hash: [0; HASH_LEN],
                    hash_len,
                    hash_read: 0,
                    digest: Context::new(&SHA256),
                    crc: Hasher::new(),
                    checksum: head.checksum,
                    check_hash: matches!(head.scheme, Scheme::Hashed(_)),
                });
                continue;
            };
            if chunk.content_left > 0 {
                let room = output.get_mut(produced..).unwrap_or_default();
                let len = usize::try_from(chunk.content_left)
                    .unwrap_or(usize::MAX)
                    .min(BLOCK_LEN)
                    .min(rest.len())
                    .min(room.len());
                if len == 0 {
                    break;
                }
                let (block, after) = rest.split_at(len);
                let out = room.get_mut(..len).unwrap_or_default();
                chunk.content(block, out);
                rest = after;
                produced += len;
                self.position += len as u64;
                continue;
            }
            let want = chunk.hash_len - chunk.hash_read;
            let (now, after) = rest.split_at(want.min(rest.len()));
            let to = chunk.hash_read..chunk.hash_read + now.len();
            if let Some(room) = chunk.hash.get_mut(to) {
                room.copy_from_slice(now);
            }
            chunk.crc.update(now);
            chunk.hash_read += now.len();
            rest = after;
            self.position += now.len() as u64;
            if chunk.hash_read < chunk.hash_len {
                break;
            }
            if let Some(chunk) = self.chunk.take() {
                chunk
                    .check()
                    .map_err(|kind| CryptError::new(kind, self.begin))?;
            }
            self.begin = self.position;
        }
        Ok(Step {
            consumed: input.len() - rest.len(),
            produced,
        })
    }

    /// Whether the input so far ends with a chunk.
    #[must_use]
    pub fn is_between_chunks(&self) -> bool {
        self.chunk.is_none() && self.head.is_empty()
    }

    /// Fails unless the input ended with a chunk. `r[xbcrypt.end]` `r[xbcrypt.empty]`
    pub fn finish(&self) -> Result<(), CryptError> {
        let place = match (&self.chunk, self.head.is_empty()) {
            (None, true) => return Ok(()),
            (None, false) => "inside the head of an xbcrypt chunk",
            (Some(_), _) => "inside an xbcrypt chunk",
        };
        Err(CryptError::new(ErrorKind::Truncated(place), self.position))
    }
}

impl Chunk {
    fn content(&mut self, block: &[u8], out: &mut [u8]) {
        self.crc.update(block);
        out.copy_from_slice(block);
        if let Some(keystream) = &mut self.keystream {
            keystream.apply(out);
        }
        if self.check_hash {
            self.digest.update(out);
        }
        self.content_left -= block.len() as u64;
    }

    /// The checksum tells damage (`r[xbcrypt.chunk.checksum]`); if it is right, the hash tells the key (`r[xbcrypt.v3.hash]`).
    fn check(mut self) -> Result<(), ErrorKind> {
        let found = self.crc.finalize();
        if found != self.checksum {
            return Err(ErrorKind::BadChecksum {
                expected: self.checksum,
                found,
            });
        }
        if let (true, Some(keystream)) = (self.check_hash, &mut self.keystream) {
            keystream.apply(&mut self.hash);
            if self.digest.finish().as_ref() != self.hash {
                return Err(ErrorKind::WrongKey);
            }
        }
        Ok(())
    }
}
