//! Places that keep backups: objects with names, in a directory, in memory or behind the S3 protocol, through one interface.
//!
//! Calls block; whoever wants several at once makes them from several threads. Behind them tokio carries the network, and stays
//! in this room. An object is there whole or not at all: a small one comes with [`Store::put`], a large one as an upload in
//! parts that nobody sees before [`Store::complete`].
//!
//! [`Retrying`] is the one place that tries again, [`Rated`] the one that slows down; both are stores in front of a store.

mod directory;
mod fault;
mod hedge;
mod memory;
mod rate;
mod retry;
pub mod s3;

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;

pub use directory::DirectoryStore;
pub use fault::{Class, Fault};
pub use memory::MemoryStore;
pub use rate::Rated;
pub use retry::{Policy, Retrying};

/// Result of one call to a store.
pub type Result<T> = std::result::Result<T, Fault>;

/// A store that several threads use.
pub type Shared = Arc<dyn Store>;

/// Most parts of one upload, the S3 protocol's own limit. `r[repository.parts]`
pub const PARTS_MAX: u32 = 10_000;

/// Least bytes of a part that is not the last one, the S3 protocol's own limit. `r[repository.parts]`
pub const PART_LEN_MIN: u64 = 5 << 20;

/// Most keys of one [`Store::delete`], and of one page of a listing.
pub const KEYS_MAX: usize = 1000;

/// Most bytes of an object that is put or fetched whole.
pub const SMALL_LEN_MAX: u64 = 64 << 20;

/// What a store knows about an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Bytes.
    pub len: u64,
    /// Changes when the content does; the store's own text.
    pub etag: String,
    /// CRC-32 of the whole object, if the store keeps and tells it.
    pub crc32: Option<u32>,
}

/// One name of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub len: u64,
    /// Seconds since the epoch.
    pub modified: i64,
}

/// A part of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects, at most [`KEYS_MAX`].
    pub objects: Vec<Listed>,
    /// With a delimiter: what stands for everything below it, with the slash at the end.
    pub prefixes: Vec<String>,
    /// Where to go on; `None` at the end.
    pub next: Option<String>,
}

/// Names an open upload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upload {
    /// Key of the object to be.
    pub key: String,
    /// The store's own name for the upload.
    pub id: String,
}

/// An upload that somebody began and did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// Its names.
    pub upload: Upload,
    /// Seconds since the epoch.
    pub started: i64,
}

/// A part of the list of open uploads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadPage {
    /// Uploads.
    pub uploads: Vec<OpenUpload>,
    /// Where to go on; `None` at the end.
    pub next: Option<String>,
}

/// What a part is, before it is sent and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// From 1 to [`PARTS_MAX`].
    pub number: u32,
    /// Where it begins in the object; parts follow each other without gap.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// CRC-32 of its bytes; the store verifies it if it can.
    pub crc32: u32,
    /// The store's own name for it; empty before it was sent.
    pub etag: String,
}

/// A place that keeps objects. Keys are relative to the store's root, `/`-separated, without `.`, `..` or empty components.
pub trait Store: Send + Sync + Debug {
    /// What to call it in messages, such as `s3://bucket/prefix`.
    fn url(&self) -> &str;

    /// Stores a small object. With `only_new` an object of that name is [`Class::Exists`] where the store can tell in the same
    /// step; stores that cannot do so replace it.
    fn put(&self, key: &str, body: Bytes, only_new: bool) -> Result<Object>;

    /// Begins an upload.
    fn create_upload(&self, key: &str) -> Result<Upload>;

    /// Sends one part; a part of that number that was sent before is replaced. The store refuses bytes that do not have the
    /// stated checksum, if it can.
    fn put_part(&self, upload: &Upload, part: &Part, body: Bytes) -> Result<Part>;

    /// Makes the object of all its parts, in order of their numbers; the store verifies length and checksum, if it can.
    fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Object>;

    /// Sees to it that an object made of parts is kept as was asked when its upload began; not every store minds that.
    fn keep(&self, key: &str) -> Result<()>;

    /// Gives an upload up, also when the run was ended. One that is gone already is no error.
    fn abort(&self, upload: &Upload) -> Result<()>;

    /// What is known about an object; a missing one is [`Class::NotFound`].
    fn head(&self, key: &str) -> Result<Object>;

    /// Fills `buf` from `offset` on, beginning at `filled`, which says afterwards how far it came, also after a failure. An
    /// object that has another `etag` by now is [`Class::Changed`]; one that ends before `buf` is full [`Class::Short`].
    fn read(
        &self,
        key: &str,
        offset: u64,
        buf: &mut [u8],
        filled: &mut usize,
        etag: Option<&str>,
    ) -> Result<()>;

    /// Objects whose keys begin with `prefix`, in order of their bytes. With `by_directory` those that have a further slash are
    /// told as prefixes. `from` is what the page before said.
    fn list(&self, prefix: &str, by_directory: bool, from: Option<&str>) -> Result<Page>;

    /// Removes up to [`KEYS_MAX`] objects; missing ones are no error.
    fn delete(&self, keys: &[String]) -> Result<()>;

    /// Like [`Store::delete`], also when the run was ended.
    fn discard(&self, keys: &[String]) -> Result<()> {
        self.delete(keys)
    }

    /// Uploads whose keys begin with `prefix` that were begun and neither completed nor aborted.
    fn uploads(&self, prefix: &str, from: Option<&str>) -> Result<UploadPage>;

    /// Reads so far that were slow and asked for a second time.
    fn hedged(&self) -> u64 {
        0
    }

    /// Reads the credentials again.
    fn refresh(&self) -> Result<()> {
        Ok(())
    }
}

/// Reads a small object whole, and what it is.
pub fn get_small(store: &dyn Store, key: &str, limit: u64) -> Result<(Bytes, Object)> {
    let object = store.head(key)?;
    if object.len > limit.min(SMALL_LEN_MAX) {
        let what = format!("{} bytes are too many, the limit is {limit}", object.len);
        return Err(Fault::new(Class::Refused, "read", key, what));
    }
    let mut buf = vec![0; usize::try_from(object.len).unwrap_or(0)];
    let mut filled = 0;
    if !buf.is_empty() {
        store.read(key, 0, &mut buf, &mut filled, Some(&object.etag))?;
    }
    Ok((buf.into(), object))
}

/// Calls `each` for every object below `prefix`, page by page.
pub fn for_each_object(
    store: &dyn Store,
    prefix: &str,
    mut each: impl FnMut(Listed) -> crate::base::error::Result<()>,
) -> crate::base::error::Result<()> {
    let mut from: Option<String> = None;
    loop {
        let page = store.list(prefix, false, from.as_deref())?;
        page.objects.into_iter().try_for_each(&mut each)?;
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(()),
        }
    }
}

/// Every open upload below `prefix`.
pub fn all_uploads(store: &dyn Store, prefix: &str) -> Result<Vec<OpenUpload>> {
    let mut all = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let page = store.uploads(prefix, from.as_deref())?;
        all.extend(page.uploads);
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(all),
        }
    }
}

/// CRC-32 of the object that `parts` make, from theirs. `r[repository.crc.combined]`
#[must_use]
pub fn whole_crc(parts: &[Part]) -> u32 {
    let mut whole = crc32fast::Hasher::new();
    for part in parts {
        whole.combine(&crc32fast::Hasher::new_with_initial_len(
            part.crc32, part.len,
        ));
    }
    whole.finalize()
}

/// Bytes of the object that `parts` make.
#[must_use]
pub fn whole_len(parts: &[Part]) -> u64 {
    parts.iter().map(|p| p.len).sum()
}

/// Whether numbers ascend from 1 and offsets leave no gap; otherwise what is wrong.
fn check_parts(parts: &[Part]) -> std::result::Result<(), String> {
    let mut offset = 0;
    for (part, number) in parts.iter().zip(1..) {
        if part.number != number || part.offset != offset || number > PARTS_MAX {
            return Err(format!(
                "part {} at offset {} does not follow part {} ending at {offset}",
                part.number,
                part.offset,
                number - 1
            ));
        }
        offset += part.len;
    }
    if parts.is_empty() {
        return Err("no parts".to_owned());
    }
    Ok(())
}

/// Whether a key is one that every store takes.
fn check_key(key: &str) -> std::result::Result<(), String> {
    /// Bytes, the S3 protocol's own limit; a root takes some of them.
    const KEY_LEN_MAX: usize = 1024;
    let bad = |part: &str| part.is_empty() || part == "." || part == "..";
    if key.len() > KEY_LEN_MAX || key.split('/').any(bad) || key.chars().any(char::is_control) {
        return Err(format!("{key:?} is no key"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // r[repository.crc.combined]
    #[test]
    fn crcs_of_parts_make_the_crc_of_the_whole() {
        let data: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
        for len in [1, 7, 4096, 39_999, 40_000, 50_000] {
            let mut offset = 0;
            let parts: Vec<Part> = data
                .chunks(len)
                .zip(1..)
                .map(|(chunk, number)| {
                    let part = Part {
                        number,
                        offset,
                        len: chunk.len() as u64,
                        crc32: crc32fast::hash(chunk),
                        etag: String::new(),
                    };
                    offset += part.len;
                    part
                })
                .collect();
            assert_eq!(whole_crc(&parts), crc32fast::hash(&data), "{len}");
            assert_eq!(whole_len(&parts), 40_000);
            let ordered = check_parts(&parts);
            assert_eq!(ordered.is_ok(), parts.len() <= PARTS_MAX as usize, "{len}");
        }
        assert!(check_parts(&[]).is_err());
    }

    #[test]
    fn keys_are_checked() {
        for good in ["a", "a/b", "a b/ü+%&.x"] {
            assert!(check_key(good).is_ok(), "{good}");
        }
        let long = "x".repeat(1025);
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\n", &long] {
            assert!(check_key(bad).is_err(), "{bad}");
        }
    }
}
