//! xbcrypt: a file is a sequence of chunks, each with its own head, checksum and (version 3) hash
//! (`format-spec/xbcrypt.md`).

pub mod chunk;
pub mod codec;
pub mod decrypt;
pub mod encrypt;
pub mod key;

pub use chunk::{IV_LEN, PAYLOAD_LEN_MAX, SPEC};
pub use codec::{XbcryptDecoder, XbcryptEncoder};
pub use decrypt::{Decryptor, Step};
pub use encrypt::{encrypt, encrypted_len_max};
pub use key::Key;

/// Suffix of encrypted members.
pub const SUFFIX: &str = ".xbcrypt";
