//! The payload: chunks that are sealed and opened independently of each other.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use super::{FileKey, hkdf};
use crate::base::error::{Error, Kind, Result};
use crate::crypt::error::{CryptError, ErrorKind};

/// Plain bytes of every chunk but the last, which has from one to as many; none only in an empty file. `r[encryption.chunk.len]`
pub const CHUNK_LEN: usize = 64 << 10;

/// Bytes of a chunk's authentication tag.
pub const TAG_LEN: usize = 16;

/// Bytes of a full chunk in the file.
pub const SEALED_LEN: usize = CHUNK_LEN + TAG_LEN;

/// Bytes between header and chunks, from which the payload's key is derived.
pub const NONCE_LEN: usize = 16;

/// The key of one file's payload.
pub struct PayloadKey(LessSafeKey);

impl PayloadKey {
    /// `r[encryption.payload.key]`
    pub fn derive(file_key: &FileKey, nonce: &[u8; NONCE_LEN]) -> Result<Self> {
        hkdf(file_key.as_bytes(), nonce, b"payload")
            .and_then(|key| UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).ok())
            .map(|key| Self(LessSafeKey::new(key)))
            .ok_or_else(|| Error::new(Kind::Failed, "cannot derive the key of a file"))
    }

    /// Seals chunk `index` into `sealed`, which is [`TAG_LEN`] bytes longer than `plain`.
    pub fn seal(&self, index: u64, last: bool, plain: &[u8], sealed: &mut [u8]) -> Result<()> {
        let refused = || Error::new(Kind::Failed, "cannot encrypt a chunk");
        let (data, tag) = (sealed.split_at_mut_checked(plain.len()))
            .filter(|(_, tag)| tag.len() == TAG_LEN && plain.len() <= CHUNK_LEN)
            .ok_or_else(refused)?;
        data.copy_from_slice(plain);
        let made = self
            .0
            .seal_in_place_separate_tag(nonce(index, last), Aad::empty(), data)
            .map_err(|_| refused())?;
        tag.copy_from_slice(made.as_ref());
        Ok(())
    }

    /// Opens chunk `index` into `plain`, which is [`TAG_LEN`] bytes shorter than `sealed`. Positions of errors count from the
    /// chunk's first byte. After an error `plain` holds nothing of use.
    ///
    /// A chunk that would be right in the other role tells what happened to the file (`r[encryption.cut]`,
    /// `r[encryption.appended]`).
    pub fn open(
        &self,
        index: u64,
        last: bool,
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), CryptError> {
        if self.try_open(index, last, sealed, plain) {
            // r[encryption.chunk.empty]
            if last && index > 0 && plain.is_empty() {
                return Err(CryptError::new(ErrorKind::BadChunk, 0));
            }
            return Ok(());
        }
        let other_role = self.try_open(index, !last, sealed, plain);
        plain.fill(0);
        Err(match (other_role, last) {
            (true, true) => CryptError::new(
                ErrorKind::Truncated("before the last chunk"),
                sealed.len() as u64,
            ),
            (true, false) => CryptError::new(ErrorKind::AfterLast, sealed.len() as u64),
            (false, _) => CryptError::new(ErrorKind::BadChunk, 0),
        })
    }

    fn try_open(&self, index: u64, last: bool, sealed: &[u8], plain: &mut [u8]) -> bool {
        let Some((data, tag)) = sealed.split_at_checked(plain.len()) else {
            return false;
        };
        let Ok(tag) = Tag::try_from(tag) else {
            return false;
        };
        plain.copy_from_slice(data);
        self.0
            .open_in_place_separate_tag(nonce(index, last), Aad::empty(), tag, plain, 0..)
            .is_ok()
    }
}

/// Eleven bytes of the chunk's number, big-endian, and one that marks the last chunk. `r[encryption.chunk.nonce]`
fn nonce(index: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    let (_, number) = bytes.split_at_mut(3);
    let (number, flag) = number.split_at_mut(8);
    number.copy_from_slice(&index.to_be_bytes());
    flag.fill(u8::from(last));
    Nonce::assume_unique_for_key(bytes)
}
