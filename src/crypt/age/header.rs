//! The header: text lines that wrap the file key once for each recipient, and an authentication code over them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use ring::hmac;

use super::binding::{self, Binding};
use super::keys::{self, Identities};
use super::payload::NONCE_LEN;
use super::{FileKey, hkdf};
use crate::base::error::{Error, Kind, Result};
use crate::crypt::error::{CryptError, ErrorKind};

/// Longest header, in bytes. Ours take 120 for each recipient, and the path. `r[encryption.header.len]`
pub const HEADER_LEN_MAX: usize = 64 << 10;

/// The first line.
const VERSION_LINE: &[u8] = b"age-encryption.org/v1\n";

/// How the text armour of the age tool begins.
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";

/// Begins the last line, and ends what the authentication code covers.
const MAC_MARK: &[u8] = b"---";

/// Characters of a full line of a stanza's body.
const BODY_LINE_LEN: usize = 64;

/// Bytes of the authentication code.
const MAC_LEN: usize = 32;

/// One recipient's section, or one that means something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stanza {
    /// Its type.
    pub kind: String,
    /// Arguments behind the type.
    pub args: Vec<String>,
    /// What it carries.
    pub body: Vec<u8>,
}

impl Stanza {
    fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"-> ");
        out.extend_from_slice(self.kind.as_bytes());
        for arg in &self.args {
            out.push(b' ');
            out.extend_from_slice(arg.as_bytes());
        }
        out.push(b'\n');
        let body = BASE64_STANDARD_NO_PAD.encode(&self.body);
        let mut lines = body.as_bytes().chunks(BODY_LINE_LEN).peekable();
        let mut last_len = BODY_LINE_LEN;
        while let Some(line) = lines.next() {
            out.extend_from_slice(line);
            out.push(b'\n');
            if lines.peek().is_none() {
                last_len = line.len();
            }
        }
        // A body ends with a line that is not full, were it an empty one.
        if last_len == BODY_LINE_LEN {
            out.push(b'\n');
        }
    }
}

/// A header of these stanzas, with its authentication code and line end. `r[encryption.header.mac]`
pub(super) fn write(stanzas: &[Stanza], file_key: &FileKey) -> Result<Vec<u8>> {
    let mut out = VERSION_LINE.to_vec();
    for stanza in stanzas {
        stanza.append_to(&mut out);
    }
    out.extend_from_slice(MAC_MARK);
    let key = mac_key(file_key)
        .ok_or_else(|| Error::new(Kind::Failed, "cannot derive the key of a header"))?;
    let code = BASE64_STANDARD_NO_PAD.encode(hmac::sign(&key, &out));
    out.push(b' ');
    out.extend_from_slice(code.as_bytes());
    out.push(b'\n');
    if out.len() > HEADER_LEN_MAX {
        return Err(Error::new(
            Kind::Usage,
            "too many recipients for one header",
        ));
    }
    Ok(out)
}

fn mac_key(file_key: &FileKey) -> Option<hmac::Key> {
    let key = hkdf(file_key.as_bytes(), b"", b"header")?;
    Some(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()))
}

/// A header as it was read.
#[derive(Debug)]
pub struct Header {
    bytes: Vec<u8>,
    covered_len: usize,
    stanzas: Vec<Stanza>,
    mac: [u8; MAC_LEN],
    /// The bytes behind the header.
    pub nonce: [u8; NONCE_LEN],
}

impl Header {
    /// The file key, unwrapped with one of `identities`, and what the file is bound to; the whole header is then known to be
    /// as it was written.
    pub fn open(&self, identities: &Identities) -> Result<(FileKey, Option<Binding>), CryptError> {
        let fail = |kind| Err(CryptError::new(kind, 0));
        // r[encryption.passphrase]
        if self.stanzas.iter().any(|s| s.kind == "scrypt") {
            return fail(ErrorKind::Passphrase);
        }
        let Some(file_key) = keys::unwrap(&self.stanzas, identities)? else {
            return fail(ErrorKind::NoIdentity);
        };
        let covered = self.bytes.get(..self.covered_len).unwrap_or_default();
        let good =
            mac_key(&file_key).is_some_and(|key| hmac::verify(&key, covered, &self.mac).is_ok());
        if !good {
            return fail(ErrorKind::HeaderForged);
        }
        let mut bindings = self.stanzas.iter().filter(|s| s.kind == binding::STANZA);
        Ok((file_key, bindings.next().and_then(Binding::of)))
    }
}

/// Collects a header, and the nonce behind it, from pieces of any size.
#[derive(Debug, Default)]
pub struct HeaderScanner {
    bytes: Vec<u8>,
    /// Where the current line begins.
    line: usize,
    /// Length of the header, once its last line was seen.
    header_len: Option<usize>,
}

impl HeaderScanner {
    /// Looks at the next bytes: how many of them complete header and nonce, or `None` if more are needed. Called no more after that.
    pub fn feed(&mut self, input: &[u8]) -> Result<Option<(usize, Header)>, CryptError> {
        for (i, byte) in input.iter().enumerate() {
            self.bytes.push(*byte);
            match self.header_len {
                None => self.look()?,
                Some(len) if self.bytes.len() == len + NONCE_LEN => {
                    return Ok(Some((i + 1, parse(&self.bytes, len)?)));
                }
                Some(_) => {}
            }
        }
        Ok(None)
    }

    /// The file ends inside what was fed.
    #[must_use]
    pub fn cut(&self) -> CryptError {
        CryptError::new(
            ErrorKind::Truncated("inside the age header"),
            self.bytes.len() as u64,
        )
    }

    /// After each byte: something else is told at the first byte that shows it.
    fn look(&mut self) -> Result<(), CryptError> {
        let len = self.bytes.len();
        if len <= VERSION_LINE.len() && !VERSION_LINE.starts_with(&self.bytes) {
            return if !ARMOR.starts_with(&self.bytes) {
                Err(CryptError::new(ErrorKind::NotAge, 0))
            } else if len >= VERSION_LINE.len() {
                // r[encryption.armour]
                Err(CryptError::new(ErrorKind::Armored, 0))
            } else {
                Ok(())
            };
        }
        if len > HEADER_LEN_MAX {
            return Err(CryptError::new(ErrorKind::HeaderTooLong, len as u64));
        }
        if self.bytes.last() == Some(&b'\n') {
            let line = self.bytes.get(self.line..).unwrap_or_default();
            if line.starts_with(MAC_MARK) {
                self.header_len = Some(len);
            }
            self.line = len;
        }
        Ok(())
    }
}

/// Walks through lines and knows where it is.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn peek(&self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let end = rest.iter().position(|b| *b == b'\n')?;
        rest.get(..end)
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.peek()?;
        self.at += line.len() + 1;
        Some(line)
    }

    fn malformed<T>(&self, why: &'static str) -> Result<T, CryptError> {
        Err(CryptError::new(ErrorKind::BadHeader(why), self.at as u64))
    }
}

/// `bytes` are a header of `header_len` bytes and the nonce. The grammar of c2sp.org/age is kept strictly: what has two
/// spellings is refused (`r[encryption.header.strict]`).
fn parse(bytes: &[u8], header_len: usize) -> Result<Header, CryptError> {
    let (text, rest) = bytes.split_at_checked(header_len).unwrap_or_default();
    let mut lines = Lines { bytes: text, at: 0 };
    lines.next();
    let mut stanzas = Vec::new();
    loop {
        let begin = lines.at;
        let Some(line) = lines.peek() else {
            return lines.malformed("it has no last line");
        };
        if let Some(words) = line.strip_prefix(b"-> ") {
            stanzas.push(stanza(words, &mut lines)?);
            continue;
        }
        let Some(code) = line.strip_prefix(b"--- ") else {
            return lines.malformed("a line is neither a recipient's nor the last");
        };
        let mut mac = [0; MAC_LEN];
        if BASE64_STANDARD_NO_PAD.decode_slice(code, &mut mac) != Ok(MAC_LEN) {
            return lines.malformed("the authentication code is none");
        }
        if stanzas.is_empty() {
            return lines.malformed("it has no recipient");
        }
        if stanzas.len() > 1 && stanzas.iter().any(|s: &Stanza| s.kind == "scrypt") {
            return lines.malformed("a passphrase beside other recipients");
        }
        return Ok(Header {
            covered_len: begin + MAC_MARK.len(),
            bytes: text.to_vec(),
            stanzas,
            mac,
            nonce: rest.try_into().unwrap_or_default(),
        });
    }
}

/// The stanza whose first line has these words behind the arrow.
fn stanza(words: &[u8], lines: &mut Lines<'_>) -> Result<Stanza, CryptError> {
    let mut strings = Vec::new();
    for word in words.split(|b| *b == b' ') {
        match std::str::from_utf8(word) {
            Ok(word) if !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic()) => {
                strings.push(word.to_owned());
            }
            _ => return lines.malformed("a recipient's first line has words that are none"),
        }
    }
    lines.next();
    let mut text = Vec::new();
    loop {
        let Some(line) = lines.peek().filter(|line| line.len() <= BODY_LINE_LEN) else {
            return lines.malformed("a recipient's line is too long");
        };
        text.extend_from_slice(line);
        lines.next();
        if line.len() < BODY_LINE_LEN {
            break;
        }
    }
    let Ok(body) = BASE64_STANDARD_NO_PAD.decode(text) else {
        return lines.malformed("a recipient's lines are not base64");
    };
    let kind = strings.remove(0);
    Ok(Stanza {
        kind,
        args: strings,
        body,
    })
}
