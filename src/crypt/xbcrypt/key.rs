//! The key of xbcrypt: as many bytes as AES takes, as they stand in a file.

use aes::{Aes128, Aes192, Aes256};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::chunk::IV_LEN;
use crate::base::error::{Error, Kind, Result};

/// Longest key file that is read, in bytes: more than any key, and enough to say what is wrong with it.
pub const KEY_FILE_LEN_MAX: u64 = 64 << 10;

/// An AES key; its length chooses between AES-128, AES-192 and AES-256. `r[xbcrypt.key.len]`
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key(Bytes);

#[derive(Clone, Zeroize)]
enum Bytes {
    Aes128([u8; 16]),
    Aes192([u8; 24]),
    Aes256([u8; 32]),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// The bytes of a key file, every one of them: 16, 24 or 32. `r[xbcrypt.key.file]`
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if let Ok(key) = bytes.try_into() {
            return Ok(Self(Bytes::Aes128(key)));
        }
        if let Ok(key) = bytes.try_into() {
            return Ok(Self(Bytes::Aes192(key)));
        }
        if let Ok(key) = bytes.try_into() {
            return Ok(Self(Bytes::Aes256(key)));
        }
        let len = bytes.len();
        let error = |what: String| Error::new(Kind::Usage, what);
        Err(match bytes {
            // r[xbcrypt.key.newline]
            [key @ .., b'\n'] if matches!(key.len(), 16 | 24 | 32) => error(format!(
                "the key is followed by a newline, which makes it {len} bytes long instead of {}:",
                key.len()
            ))
            .hint("write the file without the newline: printf %s KEY > FILE"),
            bytes
                if bytes.starts_with(b"AGE-SECRET-KEY-1") || bytes.starts_with(b"# created: ") =>
            {
                error("this is an identity of age, not a key of xbcrypt:".to_owned())
            }
            _ => error(format!(
                "a key of xbcrypt has 16, 24 or 32 bytes, not {len}:"
            ))
            .hint("the bytes are used as they are: no hexadecimal digits, no newline at the end"),
        })
    }

    /// The keystream that begins at this counter block.
    pub(super) fn keystream(&self, iv: &[u8; IV_LEN]) -> Keystream {
        match &self.0 {
            Bytes::Aes128(key) => Keystream::Aes128(Ctr128BE::new(key.into(), iv.into())),
            Bytes::Aes192(key) => Keystream::Aes192(Ctr128BE::new(key.into(), iv.into())),
            Bytes::Aes256(key) => Keystream::Aes256(Ctr128BE::new(key.into(), iv.into())),
        }
    }
}

/// AES in counter mode: one 128-bit big-endian counter, carried all the way. `r[xbcrypt.cipher.ctr]`
pub(super) enum Keystream {
    Aes128(Ctr128BE<Aes128>),
    Aes192(Ctr128BE<Aes192>),
    Aes256(Ctr128BE<Aes256>),
}

impl Keystream {
    /// Encrypts or decrypts `buf` in place.
    pub(super) fn apply(&mut self, buf: &mut [u8]) {
        match self {
            Self::Aes128(cipher) => cipher.apply_keystream(buf),
            Self::Aes192(cipher) => cipher.apply_keystream(buf),
            Self::Aes256(cipher) => cipher.apply_keystream(buf),
        }
    }
}
