//! Encryption formats: xbcrypt, which other programs write (`format-spec/xbcrypt.md`), and age, which is ours
//! (`format-spec/encryption.md`). Both are chunked, so that one file keeps every core busy.
//!
//! Keys come in as bytes and are cleared when dropped; who read them from where is for others to say.

pub mod age;
pub mod error;
pub mod xbcrypt;

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::base::error::{Error, Kind, Result};

/// `N` bytes from the system's generator, for keys and nonces.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::new(Kind::Failed, "the system's random generator failed"))?;
    Ok(bytes)
}
