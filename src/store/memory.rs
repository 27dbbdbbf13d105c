//! A store in memory: the model that the others are compared with.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::fault::{Class, Fault};
use super::{
    KEYS_MAX, Listed, Object, OpenUpload, PART_LEN_MIN, Page, Part, Result, Store, Upload,
    UploadPage, check_key, check_parts, whole_crc, whole_len,
};

/// Keeps everything until it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Kept>,
    uploads: BTreeMap<Upload, Pending>,
    /// Makes ids and etags.
    counter: u64,
}

#[derive(Debug)]
struct Kept {
    bytes: Bytes,
    object: Object,
    modified: i64,
}

#[derive(Debug)]
struct Pending {
    started: i64,
    parts: BTreeMap<u32, (Part, Bytes)>,
}

/// Seconds since the epoch.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> String {
        self.counter += 1;
        self.counter.to_string()
    }

    fn keep(&mut self, key: &str, bytes: Bytes) -> Object {
        let object = Object {
            len: bytes.len() as u64,
            etag: self.next(),
            crc32: Some(crc32fast::hash(&bytes)),
        };
        let kept = Kept {
            bytes,
            object: object.clone(),
            modified: now(),
        };
        self.objects.insert(key.to_owned(), kept);
        object
    }
}

/// What every store says about a key that it does not have.
pub(super) fn not_found(method: &'static str, key: &str) -> Fault {
    Fault::new(Class::NotFound, method, key, "there is no such object")
}

pub(super) fn no_upload(method: &'static str, upload: &Upload) -> Fault {
    Fault::new(
        Class::NotFound,
        method,
        &upload.key,
        "there is no such upload",
    )
}

/// Refuses bytes that are not the stated ones, and parts that no S3 store takes.
pub(super) fn check_part(part: &Part, body: &Bytes, key: &str) -> Result<()> {
    if body.len() as u64 != part.len || crc32fast::hash(body) != part.crc32 {
        let what = format!(
            "the bytes of part {} are not those that were announced",
            part.number
        );
        return Err(Fault::new(Class::Damaged, "put", key, what));
    }
    Ok(())
}

/// Refuses a list of parts that no S3 store takes.
pub(super) fn check_complete(key: &str, parts: &[Part]) -> Result<()> {
    let short = parts
        .split_last()
        .and_then(|(_, rest)| rest.iter().find(|p| p.len < PART_LEN_MIN));
    let wrong = match short {
        Some(part) => Some(format!(
            "part {} of {} bytes is too small",
            part.number, part.len
        )),
        None => check_parts(parts).err(),
    };
    match wrong {
        Some(what) => Err(Fault::new(Class::Refused, "complete", key, what)),
        None => Ok(()),
    }
}

/// One page of sorted keys.
pub(super) fn page(
    sorted: impl Iterator<Item = Listed>,
    prefix: &str,
    by_directory: bool,
    from: Option<&str>,
) -> Page {
    let mut page = Page::default();
    let mut last: Option<String> = None;
    for listed in sorted {
        let directory = listed
            .key
            .get(prefix.len()..)
            .and_then(|rest| rest.find('/'))
            .filter(|_| by_directory)
            .and_then(|at| listed.key.get(..=prefix.len() + at));
        let name = directory.unwrap_or(&listed.key);
        if from.is_some_and(|from| name <= from) || page.prefixes.last().is_some_and(|p| p == name)
        {
            continue;
        }
        if page.objects.len() + page.prefixes.len() >= KEYS_MAX {
            page.next = last;
            break;
        }
        last = Some(name.to_owned());
        match directory {
            Some(directory) => page.prefixes.push(directory.to_owned()),
            None => page.objects.push(listed),
        }
    }
    page
}

impl Store for MemoryStore {
    fn url(&self) -> &str {
        "memory:"
    }

    fn put(&self, key: &str, body: Bytes, only_new: bool) -> Result<Object> {
        check_key(key).map_err(|e| Fault::new(Class::Refused, "put", key, e))?;
        let mut state = self.lock();
        if only_new && state.objects.contains_key(key) {
            return Err(Fault::new(
                Class::Exists,
                "put",
                key,
                "there is an object of that name",
            ));
        }
        // A copy: the buffer may be one that somebody waits for.
        Ok(state.keep(key, Bytes::copy_from_slice(&body)))
    }

    fn create_upload(&self, key: &str) -> Result<Upload> {
        check_key(key).map_err(|e| Fault::new(Class::Refused, "begin the upload of", key, e))?;
        let mut state = self.lock();
        let upload = Upload {
            key: key.to_owned(),
            id: state.next(),
        };
        let pending = Pending {
            started: now(),
            parts: BTreeMap::new(),
        };
        state.uploads.insert(upload.clone(), pending);
        Ok(upload)
    }

    fn put_part(&self, upload: &Upload, part: &Part, body: Bytes) -> Result<Part> {
        check_part(part, &body, &upload.key)?;
        let mut state = self.lock();
        let etag = state.next();
        let pending = state
            .uploads
            .get_mut(upload)
            .ok_or_else(|| no_upload("put", upload))?;
        let part = Part {
            etag,
            ..part.clone()
        };
        let kept = Bytes::copy_from_slice(&body);
        pending.parts.insert(part.number, (part.clone(), kept));
        Ok(part)
    }

    fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Object> {
        check_complete(&upload.key, parts)?;
        let mut state = self.lock();
        let pending = state
            .uploads
            .get(upload)
            .ok_or_else(|| no_upload("complete", upload))?;
        let mut whole = Vec::new();
        for part in parts {
            match pending.parts.get(&part.number) {
                Some((kept, bytes)) if kept == part => whole.extend_from_slice(bytes),
                _ => {
                    let what = format!("part {} is not the one that was sent", part.number);
                    return Err(Fault::new(Class::Refused, "complete", &upload.key, what));
                }
            }
        }
        if crc32fast::hash(&whole) != whole_crc(parts) || whole.len() as u64 != whole_len(parts) {
            let what = "the parts do not make the announced object";
            return Err(Fault::new(Class::Damaged, "complete", &upload.key, what));
        }
        state.uploads.remove(upload);
        Ok(state.keep(&upload.key, whole.into()))
    }

    fn keep(&self, _key: &str) -> Result<()> {
        Ok(())
    }

    fn abort(&self, upload: &Upload) -> Result<()> {
        self.lock().uploads.remove(upload);
        Ok(())
    }

    fn head(&self, key: &str) -> Result<Object> {
        let state = self.lock();
        let kept = state
            .objects
            .get(key)
            .ok_or_else(|| not_found("look at", key))?;
        Ok(kept.object.clone())
    }

    fn read(
        &self,
        key: &str,
        offset: u64,
        buf: &mut [u8],
        filled: &mut usize,
        etag: Option<&str>,
    ) -> Result<()> {
        let state = self.lock();
        let kept = state
            .objects
            .get(key)
            .ok_or_else(|| not_found("read", key))?;
        if etag.is_some_and(|etag| etag != kept.object.etag) {
            return Err(Fault::new(
                Class::Changed,
                "read",
                key,
                "it has changed meanwhile",
            ));
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = kept.bytes.get(from..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        if let (Some(to), Some(bytes)) = (buf.get_mut(*filled..n), rest.get(*filled..n)) {
            to.copy_from_slice(bytes);
            *filled = n;
        }
        if n < buf.len() {
            return Err(Fault::new(Class::Short, "read", key, "it ends too early"));
        }
        Ok(())
    }

    fn list(&self, prefix: &str, by_directory: bool, from: Option<&str>) -> Result<Page> {
        let state = self.lock();
        let sorted = state
            .objects
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, kept)| Listed {
                key: key.clone(),
                len: kept.object.len,
                modified: kept.modified,
            });
        Ok(page(sorted, prefix, by_directory, from))
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        let mut state = self.lock();
        for key in keys {
            state.objects.remove(key);
        }
        Ok(())
    }

    fn uploads(&self, prefix: &str, _from: Option<&str>) -> Result<UploadPage> {
        let state = self.lock();
        let uploads = state
            .uploads
            .iter()
            .filter(|(upload, _)| upload.key.starts_with(prefix))
            .map(|(upload, pending)| OpenUpload {
                upload: upload.clone(),
                started: pending.started,
            });
        Ok(UploadPage {
            uploads: uploads.collect(),
            next: None,
        })
    }
}
