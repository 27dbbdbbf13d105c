//! Recipients, who can be encrypted to, and identities, which can decrypt: X25519, the native type of age.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize as _, Zeroizing};

use super::header::{self, Stanza};
use super::payload::NONCE_LEN;
use super::{Binding, FILE_KEY_LEN, FileKey, PayloadKey, hkdf};
use crate::base::error::{Error, Kind, Result};
use crate::crypt::error::{CryptError, ErrorKind};
use crate::crypt::random;

/// Most recipients of a backup: a header for all of them stays far below its limit.
pub const RECIPIENTS_MAX: usize = 256;

/// Longest file of identities or recipients that is read, in bytes.
pub const KEY_FILE_LEN_MAX: u64 = 64 << 10;

/// Human-readable parts of the two texts.
const RECIPIENT_PREFIX: Hrp = Hrp::parse_unchecked("age");
const IDENTITY_PREFIX: Hrp = Hrp::parse_unchecked("age-secret-key-");

/// How the text of an identity begins, upper case only.
const IDENTITY_TEXT: &str = "AGE-SECRET-KEY-1";

/// Type of the stanza.
const STANZA: &str = "X25519";

/// What the wrapping key is for.
const INFO: &[u8] = b"age-encryption.org/v1/X25519";

/// Bytes of a key, either half.
const KEY_LEN: usize = 32;

/// Bytes of a wrapped file key.
const WRAPPED_LEN: usize = FILE_KEY_LEN + 16;

/// Whom a file is encrypted to. Public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient(PublicKey);

impl std::str::FromStr for Recipient {
    type Err = Error;

    /// `age1...`
    fn from_str(text: &str) -> Result<Self> {
        // Neither of these may be told back: somebody has mixed up the halves.
        if text
            .get(..IDENTITY_TEXT.len())
            .is_some_and(|t| t.eq_ignore_ascii_case(IDENTITY_TEXT))
        {
            return Err(Error::new(
                Kind::Usage,
                "an identity (a secret) was given where a recipient (age1...) belongs",
            )
            .hint(
                "give its file with --encrypt-key-file; if others can have seen it, make a new one",
            ));
        }
        let bad = || {
            Error::new(Kind::Usage, format!("{text:?} is not a recipient of age"))
                .hint("native recipients begin with age1; those of SSH keys and plugins are not supported")
        };
        let key = decode(text, RECIPIENT_PREFIX).ok_or_else(bad)?;
        Ok(Self(PublicKey::from(*key)))
    }
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        bech32::encode_to_fmt::<Bech32, _>(f, RECIPIENT_PREFIX, self.0.as_bytes())
            .map_err(|_| std::fmt::Error)
    }
}

/// Who can decrypt. Secret, and cleared when dropped.
#[derive(Clone)]
pub struct Identity(StaticSecret);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity of {}", self.recipient())
    }
}

impl Identity {
    /// A new one.
    pub fn generate() -> Result<Self> {
        let bytes = Zeroizing::new(random::<KEY_LEN>()?);
        Ok(Self(StaticSecret::from(*bytes)))
    }

    /// Its public half.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        Recipient(PublicKey::from(&self.0))
    }

    /// `AGE-SECRET-KEY-1...`
    pub fn to_text(&self) -> Result<Zeroizing<String>> {
        let bytes = Zeroizing::new(self.0.to_bytes());
        bech32::encode_upper::<Bech32>(IDENTITY_PREFIX, bytes.as_ref())
            .map(Zeroizing::new)
            .map_err(|e| Error::new(Kind::Failed, "cannot write an identity as text").source(e))
    }
}

/// The bytes of a key written as Bech32 with this prefix.
fn decode(text: &str, prefix: Hrp) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let checked = CheckedHrpstring::new::<Bech32>(text).ok()?;
    if checked.hrp() != prefix || checked.byte_iter().len() != KEY_LEN {
        return None;
    }
    let mut key = Zeroizing::new([0; KEY_LEN]);
    for (to, from) in key.iter_mut().zip(checked.byte_iter()) {
        *to = from;
    }
    Some(key)
}

/// The lines of a key file that say something, with their numbers.
fn lines(text: &[u8]) -> Result<Vec<(usize, &str)>> {
    let text = std::str::from_utf8(text).map_err(|_| not_text())?;
    if text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE") {
        return Err(
            Error::new(Kind::Usage, "the key file is itself encrypted with age:")
                .hint("decrypt it first: age -d FILE"),
        );
    }
    Ok(text
        .lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect())
}

fn not_text() -> Error {
    Error::new(Kind::Usage, "the file of keys is not text:")
        .hint("`xbpipe keygen` or `age-keygen` makes an identity file")
}

/// All identities of a key file; at least one. `r[encryption.identity-file]`
#[derive(Debug, Clone)]
pub struct Identities(Vec<Identity>);

impl Identities {
    /// The content of an identity file, as `age-keygen` writes it. What is wrong is told by line number, never by content.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let bad = |number: usize, why: &str| {
            Error::new(
                Kind::Usage,
                format!("line {number} {why} in the identity file"),
            )
            .hint("it has lines that begin with AGE-SECRET-KEY-1; `xbpipe keygen` makes one")
        };
        let mut identities = Vec::new();
        for (number, line) in lines(text)? {
            if line.starts_with("age1") {
                return Err(bad(number, "is a recipient, not an identity,"));
            }
            let upper = !line.bytes().any(|b| b.is_ascii_lowercase());
            let key = decode(line, IDENTITY_PREFIX)
                .filter(|_| upper)
                .ok_or_else(|| bad(number, "is not an identity"))?;
            identities.push(Identity(StaticSecret::from(*key)));
        }
        if identities.is_empty() {
            return Err(Error::new(Kind::Usage, "there is no identity in the file:")
                .hint("`xbpipe keygen` or `age-keygen` makes an identity file"));
        }
        Ok(Self(identities))
    }

    /// The public halves.
    #[must_use]
    pub fn recipients(&self) -> Vec<Recipient> {
        self.0.iter().map(Identity::recipient).collect()
    }
}

impl IntoIterator for Identities {
    type Item = Identity;
    type IntoIter = std::vec::IntoIter<Identity>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<Vec<Identity>> for Identities {
    fn from(identities: Vec<Identity>) -> Self {
        Self(identities)
    }
}

/// Whom a backup is encrypted to; at least one.
#[derive(Debug, Clone)]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Each of them once.
    pub fn new(all: impl IntoIterator<Item = Recipient>) -> Result<Self> {
        let mut recipients: Vec<Recipient> = Vec::new();
        for recipient in all {
            if !recipients.contains(&recipient) {
                recipients.push(recipient);
            }
        }
        if recipients.is_empty() || recipients.len() > RECIPIENTS_MAX {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "a backup is encrypted to 1 to {RECIPIENTS_MAX} recipients, not {}",
                    recipients.len()
                ),
            ));
        }
        Ok(Self(recipients))
    }

    /// The content of a file of recipients, one in a line.
    pub fn parse(text: &[u8]) -> Result<Vec<Recipient>> {
        lines(text)?
            .into_iter()
            .map(|(number, line)| {
                line.parse().map_err(|e: Error| {
                    let out = Error::new(
                        Kind::Usage,
                        format!("line {number} of the file of recipients: {e}"),
                    );
                    match e.hint_text() {
                        Some(hint) => out.hint(hint),
                        None => out,
                    }
                })
            })
            .collect()
    }

    /// Begins a file: a key of its own, and the bytes that come before the first chunk.
    pub fn begin_file(&self, binding: &Binding) -> Result<(PayloadKey, Vec<u8>)> {
        let file_key = FileKey::generate()?;
        let mut stanzas = self
            .0
            .iter()
            .map(|recipient| wrap(&file_key, recipient))
            .collect::<Result<Vec<_>>>()?;
        stanzas.push(binding.stanza());
        let mut head = header::write(&stanzas, &file_key)?;
        let nonce: [u8; NONCE_LEN] = random()?;
        head.extend_from_slice(&nonce);
        Ok((PayloadKey::derive(&file_key, &nonce)?, head))
    }
}

/// The key that wraps a file key between these halves. `r[encryption.x25519]`
fn wrapping_key(
    share: &PublicKey,
    recipient: &PublicKey,
    secret: &StaticSecret,
    peer: &PublicKey,
) -> Option<LessSafeKey> {
    let shared = secret.diffie_hellman(peer);
    // A point of low order gives a key that everybody knows.
    if !shared.was_contributory() {
        return None;
    }
    let salt = [share.as_bytes().as_slice(), recipient.as_bytes()].concat();
    let key = hkdf(shared.as_bytes(), &salt, INFO)?;
    let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).ok()?;
    Some(LessSafeKey::new(key))
}

/// Each wrapping key is used once, so its nonce is zero.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn wrap(file_key: &FileKey, recipient: &Recipient) -> Result<Stanza> {
    let secret = StaticSecret::from(*Zeroizing::new(random::<KEY_LEN>()?));
    let share = PublicKey::from(&secret);
    let mut body = file_key.as_bytes().to_vec();
    wrapping_key(&share, &recipient.0, &secret, &recipient.0)
        .and_then(|key| {
            key.seal_in_place_append_tag(zero_nonce(), Aad::empty(), &mut body)
                .ok()
        })
        .ok_or_else(|| {
            body.zeroize();
            Error::new(
                Kind::Usage,
                format!("cannot encrypt to {recipient}: it is no key of anybody"),
            )
        })?;
    Ok(Stanza {
        kind: STANZA.to_owned(),
        args: vec![BASE64_STANDARD_NO_PAD.encode(share.as_bytes())],
        body,
    })
}

/// The file key, if one of the stanzas was made for one of the identities.
pub(super) fn unwrap(
    stanzas: &[Stanza],
    identities: &Identities,
) -> Result<Option<FileKey>, CryptError> {
    let malformed = || {
        CryptError::new(
            ErrorKind::BadHeader("a recipient of type X25519 is none"),
            0,
        )
    };
    for stanza in stanzas.iter().filter(|s| s.kind == STANZA) {
        let mut share = [0; KEY_LEN];
        let [arg] = stanza.args.as_slice() else {
            return Err(malformed());
        };
        if BASE64_STANDARD_NO_PAD.decode_slice(arg, &mut share) != Ok(KEY_LEN)
            || stanza.body.len() != WRAPPED_LEN
        {
            return Err(malformed());
        }
        let share = PublicKey::from(share);
        for identity in &identities.0 {
            let own = PublicKey::from(&identity.0);
            let key = wrapping_key(&share, &own, &identity.0, &share).ok_or_else(malformed)?;
            let mut body = Zeroizing::new(stanza.body.clone());
            if let Ok(plain) = key.open_in_place(zero_nonce(), Aad::empty(), &mut body)
                && let Ok(bytes) = <[u8; FILE_KEY_LEN]>::try_from(&*plain)
            {
                return Ok(Some(FileKey::new(bytes)));
            }
        }
    }
    Ok(None)
}
