//! Keys from files: what encrypts, and what can decrypt. No key is ever taken from the command line here; front ends that must
//! take one pass its bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::monitor::Monitor;
use crate::base::secret;
use crate::codec::{Decoders, Encoder};
use crate::crypt::age::keys::KEY_FILE_LEN_MAX;
use crate::crypt::age::{AgeDecoder, AgeEncoder, Identities, Identity, Recipient, Recipients};
use crate::crypt::xbcrypt::{Key, XbcryptDecoder, XbcryptEncoder};

/// What age files are encrypted to, as it was asked for.
#[derive(Debug, Clone, Default)]
pub struct RecipientSources {
    /// `age1...`
    pub recipients: Vec<Recipient>,
    /// Files of such lines.
    pub files: Vec<PathBuf>,
    /// Identity files, whose public halves are meant.
    pub identity_files: Vec<PathBuf>,
}

/// Encrypts with age to everybody in `sources`.
pub fn age_encoder(sources: &RecipientSources, monitor: &dyn Monitor) -> Result<Arc<dyn Encoder>> {
    let mut all = sources.recipients.clone();
    for file in &sources.files {
        let text = fsx::read_small(file, KEY_FILE_LEN_MAX)?;
        let found = Recipients::parse(&text).map_err(|e| e.path(file))?;
        if found.is_empty() {
            return Err(Error::new(Kind::Usage, "no recipient in").path(file));
        }
        all.extend(found);
    }
    for file in &sources.identity_files {
        let text = read_key(file, monitor)?;
        let identities = Identities::parse(&text).map_err(|e| e.path(file))?;
        all.extend(identities.recipients());
    }
    if all.is_empty() {
        return Err(Error::new(Kind::Usage, "age needs to know whom to encrypt to").hint(
            "give --encrypt-recipient, --encrypt-recipients-file or --encrypt-key-file; `xbpipe keygen` makes a key",
        ));
    }
    Ok(Arc::new(AgeEncoder::new(Recipients::new(all)?)?))
}

/// Encrypts as xbcrypt with the key in `file`.
pub fn xbcrypt_encoder(
    file: &Path,
    chunk_len: usize,
    monitor: &dyn Monitor,
) -> Result<Arc<dyn Encoder>> {
    let key = Key::new(&read_key(file, monitor)?).map_err(|e| e.path(file))?;
    Ok(Arc::new(XbcryptEncoder::new(key, chunk_len)))
}

/// What decrypts with the keys in `files`, each an identity file of age or a key of xbcrypt; at most one of the latter, since
/// an xbcrypt file does not tell which key it wants.
pub fn decryptors(files: &[PathBuf], monitor: &dyn Monitor) -> Result<Decoders> {
    let mut identities = Vec::<Identity>::new();
    let mut key = None;
    for file in files {
        let bytes = read_key(file, monitor)?;
        if is_identity_file(&bytes) {
            identities.extend(Identities::parse(&bytes).map_err(|e| e.path(file))?);
            continue;
        }
        let found = Key::new(&bytes).map_err(|e| e.path(file))?;
        if key.replace(found).is_some() {
            return Err(Error::new(Kind::Usage, "a second key of xbcrypt:")
                .path(file)
                .hint("an archive has one; identity files of age may be several"));
        }
    }
    let mut decoders = Decoders::new();
    if !identities.is_empty() {
        decoders.push(Arc::new(AgeDecoder::new(identities.into())));
    }
    if let Some(key) = key {
        decoders.push(Arc::new(XbcryptDecoder::new(key)));
    }
    Ok(decoders)
}

/// Text of age is longer than any key of xbcrypt, and begins in one of these ways.
fn is_identity_file(bytes: &[u8]) -> bool {
    let begins = |with: &[u8]| bytes.trim_ascii_start().starts_with(with);
    bytes.len() > 33
        && [
            b"#".as_slice(),
            b"AGE-SECRET-KEY-",
            b"age1",
            b"age-encryption.org/",
            b"-----BEGIN AGE",
        ]
        .iter()
        .any(|with| begins(with))
}

fn read_key(file: &Path, monitor: &dyn Monitor) -> Result<Zeroizing<Vec<u8>>> {
    let secret = secret::read(file, KEY_FILE_LEN_MAX)?;
    if secret.open_to_all {
        monitor.warning(format!(
            "the key file {file:?} can be read by every user of this system: chmod 600"
        ));
    }
    if secret.bytes.is_empty() {
        return Err(Error::new(Kind::Usage, "the key file is empty:").path(file));
    }
    Ok(secret.bytes)
}
