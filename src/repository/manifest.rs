//! The manifest: what makes a backup exist. `r[repository.manifest]`

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Kind, Result};

/// Field `format`.
const FORMAT: &str = "xbpipe-repository";

/// Field `version`. `r[repository.manifest.version]`
const VERSION: u32 = 1;

/// Longest manifest, in bytes: a hundred for each segment. `r[repository.manifest.len]`
pub const MANIFEST_LEN_MAX: u64 = 16 << 20;

/// One object of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Bytes.
    pub len: u64,
    /// CRC-32 of all of them, eight hex digits.
    pub crc32: String,
    /// The store's name for this content.
    pub etag: String,
}

impl Stored {
    /// The CRC as a number.
    pub fn crc(&self) -> Result<u32> {
        let digits = self.crc32.bytes().all(|b| b.is_ascii_hexdigit());
        let parsed = (digits && self.crc32.len() == 8)
            .then(|| u32::from_str_radix(&self.crc32, 16).ok())
            .flatten();
        parsed.ok_or_else(|| bad("a checksum is no CRC-32"))
    }
}

/// What the archive is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveFacts {
    /// Bytes.
    pub bytes: u64,
    /// Files that have ended in it, the archive's own index not counted.
    pub files: u64,
    /// Bytes of their content as stored.
    pub payload_bytes: u64,
    /// `proven`: its own index says that it is whole; `unstated`: it has none, and every file has its end.
    pub end: String,
}

impl ArchiveFacts {
    /// Whether it ends with an index of its own.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.end == "proven"
    }
}

/// What the backup in the archive says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFacts {
    /// `full-backuped`, `incremental` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it starts.
    pub from_lsn: u64,
    /// Where the next increment starts.
    pub to_lsn: u64,
    /// End of the redo log in it.
    pub last_lsn: u64,
    /// Version of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Identifier of the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// The whole document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    version: u32,
    /// Directory of the objects.
    pub run: String,
    /// Program that wrote it.
    pub tool: String,
    /// Host it ran on.
    pub host: String,
    /// RFC 3339, UTC.
    pub started: String,
    /// RFC 3339, UTC.
    pub finished: String,
    /// The archive.
    pub archive: ArchiveFacts,
    /// The backup, if the archive is one whose metadata can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupFacts>,
    /// Bytes of every part but the last of a segment.
    pub part_len: u64,
    /// Segments in order.
    pub segments: Vec<Stored>,
    /// The index.
    pub index: Stored,
    /// CRC-32 of the document, once it is one; always the last field.
    #[serde(rename = "crc32")]
    seal: String,
}

/// What stands for the checksum while it is computed.
const NO_SEAL: &str = "00000000";

/// What is behind the checksum's digits in the document.
const END: &[u8] = b"\"\n}\n";

/// Where the digits of the checksum are, if the document ends like one. `r[repository.manifest.crc]`
fn seal_at(text: &[u8]) -> Option<std::ops::Range<usize>> {
    let end = text.len().checked_sub(END.len())?;
    let begin = end.checked_sub(NO_SEAL.len())?;
    let digits = text.get(begin..end)?;
    (text.ends_with(END) && digits.iter().all(u8::is_ascii_hexdigit)).then_some(begin..end)
}

/// CRC-32 of the document with zeros in place of the digits.
fn seal_of(text: &[u8], at: &std::ops::Range<usize>) -> String {
    let mut crc = crc32fast::Hasher::new();
    crc.update(text.get(..at.start).unwrap_or_default());
    crc.update(NO_SEAL.as_bytes());
    crc.update(text.get(at.end..).unwrap_or_default());
    format!("{:08x}", crc.finalize())
}

/// Puts the checksum where it belongs.
fn seal(text: &mut [u8]) {
    if let Some(at) = seal_at(text) {
        let digits = seal_of(text, &at);
        if let Some(room) = text.get_mut(at) {
            room.copy_from_slice(digits.as_bytes());
        }
    }
}

/// Whether the checksum is right; `None` if there is none.
fn is_sealed(text: &[u8]) -> Option<bool> {
    let at = seal_at(text)?;
    let digits = seal_of(text, &at);
    Some(text.get(at) == Some(digits.as_bytes()))
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::Checksum, what.into())
}

impl Manifest {
    /// A manifest of this version.
    #[must_use]
    pub fn new(run: uuid::Uuid, started: jiff::Timestamp, part_len: u64) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            run: run.to_string(),
            tool: concat!("xbpipe ", env!("CARGO_PKG_VERSION")).to_owned(),
            host: host(),
            started: started.to_string(),
            finished: started.to_string(),
            archive: ArchiveFacts {
                bytes: 0,
                files: 0,
                payload_bytes: 0,
                end: String::new(),
            },
            backup: None,
            part_len,
            segments: Vec::new(),
            index: Stored {
                len: 0,
                crc32: String::new(),
                etag: String::new(),
            },
            seal: NO_SEAL.to_owned(),
        }
    }

    /// The document as text.
    pub fn render(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::new(Kind::Failed, "cannot write the manifest").source(e))?;
        text.push(b'\n');
        seal(&mut text);
        if text.len() as u64 > MANIFEST_LEN_MAX {
            let what = format!("a manifest of {} bytes is too long", text.len());
            return Err(Error::new(Kind::Failed, what));
        }
        Ok(text)
    }

    /// Reads a document, and checks that it is whole and fits together.
    pub fn parse(text: &[u8]) -> Result<Self> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let damaged = || bad("the manifest is damaged: it has another checksum");
        // Whatever it says is not to be believed. r[repository.manifest.crc]
        let is_sealed = is_sealed(text);
        if is_sealed == Some(false) {
            return Err(damaged());
        }
        let not_ours = |e| bad("the manifest is none of ours").source(e);
        let head: Head = serde_json::from_slice(text).map_err(not_ours)?;
        if head.format != FORMAT {
            return Err(bad(format!(
                "the manifest is of the format {:?}",
                head.format
            )));
        }
        // r[repository.manifest.version]
        if head.version > VERSION {
            return Err(Error::new(
                Kind::Failed,
                format!(
                    "the backup is stored in version {} of the layout",
                    head.version
                ),
            )
            .hint("use a newer xbpipe"));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(not_ours)?;
        if is_sealed.is_none() {
            return Err(damaged());
        }
        manifest.check()?;
        let manifest = Self {
            seal: NO_SEAL.to_owned(),
            ..manifest
        };
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let run =
            uuid::Uuid::from_str(&self.run).map_err(|e| bad("its run is no UUID").source(e))?;
        if run.to_string() != self.run {
            return Err(bad("its run is no UUID"));
        }
        for time in [&self.started, &self.finished] {
            jiff::Timestamp::from_str(time).map_err(|e| bad("a time is none").source(e))?;
        }
        let sum = self
            .segments
            .iter()
            .try_fold(0_u64, |sum, segment| sum.checked_add(segment.len));
        if sum != Some(self.archive.bytes) || self.segments.iter().any(|s| s.len == 0) {
            return Err(bad(
                "the lengths of the segments do not make that of the archive",
            ));
        }
        if self.part_len == 0 {
            return Err(bad("parts have no length"));
        }
        for object in self.segments.iter().chain([&self.index]) {
            object.crc()?;
        }
        Ok(())
    }

    /// When it was committed.
    #[must_use]
    pub fn finished(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_str(&self.finished).unwrap_or_default()
    }

    /// Number of parts of all segments.
    #[must_use]
    pub fn parts(&self) -> u64 {
        let parts = self.segments.iter();
        parts.map(|s| s.len.div_ceil(self.part_len)).sum()
    }
}

fn host() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Manifest {
        let mut manifest = Manifest::new(uuid::Uuid::from_u128(7), jiff::Timestamp::UNIX_EPOCH, 8);
        let stored = |len| Stored {
            len,
            crc32: "0000abcd".to_owned(),
            etag: "\"e\"".to_owned(),
        };
        manifest.segments = vec![stored(9), stored(8)];
        manifest.index = stored(3);
        manifest.archive.bytes = 17;
        manifest
    }

    // r[repository.manifest]
    #[test]
    fn it_survives_and_unknown_fields_do_not_matter() {
        let manifest = example();
        assert_eq!(manifest.parts(), 3);
        let text = String::from_utf8(manifest.render().unwrap()).unwrap();
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest);
        let more = sealed(&text.replacen('{', "{\"color\": \"blue\",", 1));
        assert_eq!(Manifest::parse(&more).unwrap(), manifest);
    }

    fn sealed(text: &str) -> Vec<u8> {
        let mut text = text.as_bytes().to_vec();
        seal(&mut text);
        text
    }

    // r[repository.manifest.crc]
    #[test]
    fn any_other_byte_is_noticed() {
        let text = example().render().unwrap();
        for at in 0..text.len() {
            for bit in [1, 4, 0x20, 0x80] {
                let mut broken = text.clone();
                broken[at] ^= bit;
                let error = Manifest::parse(&broken).unwrap_err();
                assert_eq!(error.kind(), Kind::Checksum, "byte {at} bit {bit}: {error}");
            }
            let error = Manifest::parse(&text[..at]).unwrap_err();
            assert_eq!(error.kind(), Kind::Checksum, "{at} bytes: {error}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let text = String::from_utf8(example().render().unwrap()).unwrap();
        for (from, to) in [
            ("\"len\": 9", "\"len\": 10"),
            ("\"len\": 9", "\"len\": -9"),
            ("\"part_len\": 8", "\"part_len\": 0"),
            ("0000abcd", "abcd"),
            ("0000abcd", "+000abcd"),
            ("00000000-0000-0000-0000-000000000007", "../../x"),
            ("1970", "19x0"),
            ("xbpipe-repository", "other"),
            ("{", "["),
        ] {
            let broken = sealed(&text.replacen(from, to, 1));
            assert_ne!(broken, text.as_bytes());
            assert_eq!(
                Manifest::parse(&broken).unwrap_err().kind(),
                Kind::Checksum,
                "{to}"
            );
        }
        // Its checksum may be somewhere else.
        let newer = text.replacen("\"version\": 1", "\"version\": 2", 1);
        for newer in [sealed(&newer), [newer.as_bytes(), b"\n"].concat()] {
            let error = Manifest::parse(&newer).unwrap_err();
            assert_eq!(
                (error.kind(), error.hint_text()),
                (Kind::Failed, Some("use a newer xbpipe"))
            );
        }
    }
}
