//! age as one of the transforms that files pass through.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::binding::RUN_LEN;
use super::payload::TAG_LEN;
use super::{
    Binding, CHUNK_LEN, Header, HeaderScanner, Identities, PayloadKey, Recipients, SEALED_LEN,
    SUFFIX,
};
use crate::base::error::{Error, Result};
use crate::codec::{
    CodecError, Contexts, Decoder, Encoder, FileEncoder, Piece, Pieces, Split, Splitter,
    StreamDecoder, Unit, UnitDecoder,
};
use crate::crypt::error::{CryptError, ErrorKind};
use crate::crypt::random;

/// Plain bytes that are sealed by one job.
const PIECE_LEN: usize = 4 * CHUNK_LEN;

/// Encrypts files to recipients, each with a key of its own.
#[derive(Debug)]
pub struct AgeEncoder {
    recipients: Recipients,
    run: [u8; RUN_LEN],
}

impl AgeEncoder {
    /// For the files of one run.
    pub fn new(recipients: Recipients) -> Result<Self> {
        Ok(Self {
            recipients,
            run: random()?,
        })
    }
}

fn refused(error: Error) -> CodecError {
    CodecError::refused(error.to_string())
}

impl Encoder for AgeEncoder {
    fn suffix(&self) -> &'static str {
        SUFFIX
    }

    /// Chunks are counted, and the last one is marked.
    fn pieces(&self) -> Pieces {
        Pieces {
            len: PIECE_LEN,
            exact: true,
        }
    }

    fn encrypts(&self) -> bool {
        true
    }

    fn bound(&self, plain_len: usize) -> usize {
        plain_len + plain_len.div_ceil(CHUNK_LEN).max(1) * TAG_LEN
    }

    fn begin(&self, name: &[u8]) -> Result<Arc<dyn FileEncoder>, CodecError> {
        let binding = Binding {
            run: self.run,
            path: name.to_vec(),
        };
        let (key, header) = self.recipients.begin_file(&binding).map_err(refused)?;
        Ok(Arc::new(AgeFile { key, header }))
    }
}

struct AgeFile {
    key: PayloadKey,
    header: Vec<u8>,
}

impl FileEncoder for AgeFile {
    fn header(&self) -> Vec<u8> {
        self.header.clone()
    }

    fn piece(
        &self,
        piece: Piece,
        plain: &[u8],
        encoded: &mut [u8],
        _contexts: &mut Contexts,
    ) -> Result<usize, CodecError> {
        let mut index = piece.position / CHUNK_LEN as u64;
        let mut rest = plain;
        let mut filled = 0;
        loop {
            let (chunk, after) = rest.split_at(rest.len().min(CHUNK_LEN));
            let end = filled + chunk.len() + TAG_LEN;
            let room = encoded.get_mut(filled..end).unwrap_or_default();
            let last = piece.last && after.is_empty();
            self.key.seal(index, last, chunk, room).map_err(refused)?;
            (filled, rest, index) = (end, after, index + 1);
            if rest.is_empty() {
                return Ok(filled);
            }
        }
    }
}

/// Decrypts files with whichever of its identities fits.
pub struct AgeDecoder(Arc<Opener>);

impl fmt::Debug for AgeDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgeDecoder")
    }
}

struct Opener {
    identities: Identities,
    /// The run of the first file that names one; all others must come from it, too.
    run: OnceLock<[u8; RUN_LEN]>,
}

impl AgeDecoder {
    /// For the files of one archive.
    #[must_use]
    pub fn new(identities: Identities) -> Self {
        Self(Arc::new(Opener {
            identities,
            run: OnceLock::new(),
        }))
    }
}

impl Decoder for AgeDecoder {
    fn suffix(&self) -> &'static str {
        SUFFIX
    }

    fn begin(&self, name: &[u8]) -> Box<dyn Splitter> {
        Box::new(AgeSplitter {
            opener: Arc::clone(&self.0),
            name: name.to_vec(),
            state: State::Header(HeaderScanner::default()),
        })
    }
}

impl Opener {
    /// The payload's key, if the header is good and belongs to a file of this name. `r[encryption.binding.check]`
    fn open(&self, header: &Header, name: &[u8]) -> Result<PayloadKey, CodecError> {
        let (file_key, binding) = header.open(&self.identities)?;
        if let Some(binding) = binding {
            if binding.path != name {
                let sealed = String::from_utf8_lossy(&binding.path).into_owned();
                return Err(CryptError::new(ErrorKind::OtherName { sealed }, 0).into());
            }
            if *self.run.get_or_init(|| binding.run) != binding.run {
                return Err(CryptError::new(ErrorKind::OtherRun, 0).into());
            }
        }
        PayloadKey::derive(&file_key, &header.nonce).map_err(refused)
    }
}

/// Finds chunks. A full one is known not to be the last when something follows.
struct AgeSplitter {
    opener: Arc<Opener>,
    name: Vec<u8>,
    state: State,
}

enum State {
    Header(HeaderScanner),
    Chunks {
        key: Arc<PayloadKey>,
        index: u64,
        /// Bytes of the current chunk so far.
        seen: usize,
    },
}

impl AgeSplitter {
    fn unit(key: &Arc<PayloadKey>, index: u64, last: bool, len: usize) -> Unit {
        Unit {
            encoded_len: Some(len as u64),
            plain_len: Some(len.saturating_sub(TAG_LEN) as u64),
            plain_bound: None,
            stream_memory: SEALED_LEN as u64,
            decoder: Box::new(Chunk {
                key: Arc::clone(key),
                index,
                last,
            }),
        }
    }
}

impl Splitter for AgeSplitter {
    fn feed(&mut self, bytes: &[u8]) -> Result<Split, CodecError> {
        match &mut self.state {
            State::Header(scanner) => {
                let Some((len, header)) = scanner.feed(bytes)? else {
                    return Ok(Split::More);
                };
                let key = self.opener.open(&header, &self.name)?;
                self.state = State::Chunks {
                    key: Arc::new(key),
                    index: 0,
                    seen: 0,
                };
                Ok(Split::Skip(len))
            }
            State::Chunks { key, index, seen } => {
                let want = SEALED_LEN - *seen;
                if bytes.len() <= want {
                    *seen += bytes.len();
                    return Ok(Split::More);
                }
                let unit = Self::unit(key, *index, false, SEALED_LEN);
                *seen = 0;
                *index += 1;
                Ok(Split::Unit(want, unit))
            }
        }
    }

    fn under_way(&self) -> Option<Unit> {
        match &self.state {
            State::Chunks { key, index, seen } if *seen > 0 => {
                Some(Self::unit(key, *index, false, SEALED_LEN))
            }
            _ => None,
        }
    }

    fn finish(&mut self) -> Result<Option<Unit>, CodecError> {
        match &self.state {
            State::Header(scanner) => Err(scanner.cut().into()),
            // r[encryption.cut]: no file ends without its last chunk, and none is shorter than a tag.
            State::Chunks { seen, .. } if *seen < TAG_LEN => Err(CryptError::new(
                ErrorKind::Truncated("before the last chunk"),
                *seen as u64,
            )
            .into()),
            State::Chunks { key, index, seen } => Ok(Some(Self::unit(key, *index, true, *seen))),
        }
    }
}

struct Chunk {
    key: Arc<PayloadKey>,
    index: u64,
    last: bool,
}

impl UnitDecoder for Chunk {
    fn decode(
        &self,
        encoded: &[u8],
        plain: &mut [u8],
        _contexts: &mut Contexts,
    ) -> Result<usize, CodecError> {
        let len = encoded.len().saturating_sub(TAG_LEN);
        let plain = plain.get_mut(..len).unwrap_or_default();
        self.key.open(self.index, self.last, encoded, plain)?;
        Ok(len)
    }

    /// Nothing of a chunk may be used before all of it was authenticated, so a chunk that cannot be held cannot be decrypted.
    fn stream(&self) -> Result<Box<dyn StreamDecoder>, CodecError> {
        Err(
            CodecError::refused("no memory left to hold a chunk, beside the other open files")
                .hint("use a larger --memory"),
        )
    }
}
