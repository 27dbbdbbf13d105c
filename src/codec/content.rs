//! What several units decode to, seen in its order: some formats have one checksum for all of them.

use std::fmt;
use std::hash::Hasher as _;

use twox_hash::XxHash32;

use super::CodecError;

/// Counts content, and hashes it where a checksum will come.
#[derive(Clone)]
pub struct Content {
    hash: Option<XxHash32>,
    len: u64,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("hashed", &self.hash.is_some())
            .field("len", &self.len)
            .finish()
    }
}

impl Content {
    /// Nothing yet, to be `hashed` or only counted.
    #[must_use]
    pub fn new(hashed: bool) -> Self {
        Self {
            hash: hashed.then(|| XxHash32::with_seed(0)),
            len: 0,
        }
    }

    /// What comes next.
    pub fn update(&mut self, plain: &[u8]) {
        self.len += plain.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.write(plain);
        }
    }
}

/// What content must turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentEnd {
    /// What is read, as messages begin with it.
    pub format: &'static str,
    /// Its length in bytes, if stated.
    pub size: Option<u64>,
    /// Its XXH32 with seed 0, if stated.
    pub checksum: Option<u32>,
}

impl ContentEnd {
    /// Compares.
    pub fn check(&self, content: &Content) -> Result<(), CodecError> {
        let wrong = |what| CodecError::damage(format!("{}: {what} does not fit", self.format));
        if self.size.is_some_and(|size| size != content.len) {
            return Err(wrong("content size"));
        }
        let found = content.hash.as_ref().map(XxHash32::finish_32);
        if self.checksum.is_some() && self.checksum != found {
            return Err(wrong("content checksum"));
        }
        Ok(())
    }
}
