//! The age format, version 1 (C2SP, c2sp.org/age): what we write when a backup is encrypted, and why is in
//! `format-spec/encryption.md`.
//!
//! A header wraps the file's own key for each recipient; behind it come chunks of ChaCha20-Poly1305 whose nonces tell their
//! place and which of them is the last. Chunks depend on nothing but the key and their number.

pub mod binding;
pub mod codec;
pub mod header;
pub mod keys;
pub mod payload;

pub use binding::Binding;
pub use codec::{AgeDecoder, AgeEncoder};
pub use header::{Header, HeaderScanner};
pub use keys::{Identities, Identity, Recipient, Recipients};
pub use payload::{CHUNK_LEN, PayloadKey, SEALED_LEN};

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::base::error::Result;
use crate::base::spec::{Limit, Tables};
use crate::crypt::random;

/// Suffix of encrypted members.
pub const SUFFIX: &str = ".age";

/// The key of one file, from which those of its header and its payload are derived. `r[encryption.file-key]`
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct FileKey([u8; FILE_KEY_LEN]);

/// Bytes of a file key.
pub const FILE_KEY_LEN: usize = 16;

impl FileKey {
    /// A new one.
    pub fn generate() -> Result<Self> {
        Ok(Self(random()?))
    }

    pub(super) const fn new(bytes: [u8; FILE_KEY_LEN]) -> Self {
        Self(bytes)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; FILE_KEY_LEN] {
        &self.0
    }
}

/// HKDF-SHA-256 (RFC 5869) with an output of 32 bytes, as age uses it everywhere.
pub(super) fn hkdf(input: &[u8], salt: &[u8], info: &[u8]) -> Option<zeroize::Zeroizing<[u8; 32]>> {
    use ring::hkdf::{HKDF_SHA256, Salt};
    let mut key = zeroize::Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, salt)
        .extract(input)
        .expand(&[info], HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut()))
        .ok()?;
    Some(key)
}

/// The tables of `format-spec/encryption.md`.
pub const SPEC: Tables = Tables {
    document: "encryption.md",
    layouts: &[],
    enums: &[],
    limits: &[
        Limit {
            name: "HEADER_LEN_MAX",
            value: header::HEADER_LEN_MAX as u64,
            unit: "bytes",
        },
        Limit {
            name: "CHUNK_LEN",
            value: CHUNK_LEN as u64,
            unit: "bytes",
        },
        Limit {
            name: "SEALED_LEN",
            value: SEALED_LEN as u64,
            unit: "bytes",
        },
        Limit {
            name: "NONCE_LEN",
            value: payload::NONCE_LEN as u64,
            unit: "bytes",
        },
        Limit {
            name: "RECIPIENTS_MAX",
            value: keys::RECIPIENTS_MAX as u64,
            unit: "recipients",
        },
        Limit {
            name: "KEY_FILE_LEN_MAX",
            value: keys::KEY_FILE_LEN_MAX,
            unit: "bytes",
        },
    ],
};
