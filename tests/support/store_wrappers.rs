//! Stores in front of a store, for tests: one that fails as it is told, one that writes down what is asked of it.

use std::sync::Mutex;

use bytes::Bytes;
use xbpipe::store::{Class, Fault, Object, Page, Part, Result, Shared, Store, Upload, UploadPage};

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// It is not done.
    Fails(Class),
    /// It is done, and the answer is lost.
    Lost,
}

#[derive(Debug)]
struct Rule {
    method: &'static str,
    skip: usize,
    times: usize,
    mishap: Mishap,
}

/// Fails as it is told, has only so much room, and writes down every call as `method key`.
#[derive(Debug)]
pub(crate) struct Scripted {
    inner: Shared,
    rules: Mutex<Vec<Rule>>,
    calls: Mutex<Vec<String>>,
    /// Bytes that may still be put.
    room: Mutex<u64>,
    /// As stores do that know no conditions.
    unconditional: bool,
}

impl Scripted {
    pub(crate) fn new(inner: Shared) -> Self {
        Self {
            inner,
            rules: Mutex::new(Vec::new()),
            calls: Mutex::new(Vec::new()),
            room: Mutex::new(u64::MAX),
            unconditional: false,
        }
    }

    /// A store that ignores conditions.
    pub(crate) fn unconditional(inner: Shared) -> Self {
        Self {
            unconditional: true,
            ..Self::new(inner)
        }
    }

    /// After the first `skip` calls of `method`, the next `times` fare like this.
    pub(crate) fn on(&self, method: &'static str, skip: usize, times: usize, mishap: Mishap) {
        self.rules.lock().unwrap().push(Rule {
            method,
            skip,
            times,
            mishap,
        });
    }

    /// Takes so many more bytes.
    pub(crate) fn has_room_for(&self, bytes: u64) {
        *self.room.lock().unwrap() = bytes;
    }

    /// Calls since the last time.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn call<R>(
        &self,
        method: &'static str,
        key: &str,
        call: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        self.calls.lock().unwrap().push(format!("{method} {key}"));
        let mut rules = self.rules.lock().unwrap();
        let mishap = rules.iter_mut().find_map(|rule| {
            if rule.method != method || rule.times == 0 {
                return None;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                return None;
            }
            rule.times -= 1;
            Some(rule.mishap)
        });
        drop(rules);
        let fault = |class| Err(Fault::new(class, method, key, "made by a test"));
        match mishap {
            None => call(),
            Some(Mishap::Fails(class)) => fault(class),
            Some(Mishap::Lost) => {
                call()?;
                fault(Class::Transient)
            }
        }
    }

    fn take_room(&self, key: &str, len: usize) -> Result<()> {
        let mut room = self.room.lock().unwrap();
        match room.checked_sub(len as u64) {
            Some(left) => *room = left,
            None => return Err(Fault::new(Class::Full, "put", key, "QuotaExceeded")),
        }
        Ok(())
    }
}

impl Store for Scripted {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn put(&self, key: &str, body: Bytes, only_new: bool) -> Result<Object> {
        self.call("put", key, || {
            self.take_room(key, body.len())?;
            self.inner.put(key, body, only_new && !self.unconditional)
        })
    }

    fn create_upload(&self, key: &str) -> Result<Upload> {
        self.call("create_upload", key, || self.inner.create_upload(key))
    }

    fn put_part(&self, upload: &Upload, part: &Part, body: Bytes) -> Result<Part> {
        self.call("put_part", &upload.key, || {
            self.take_room(&upload.key, body.len())?;
            self.inner.put_part(upload, part, body)
        })
    }

    fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Object> {
        self.call("complete", &upload.key, || {
            self.inner.complete(upload, parts)
        })
    }

    fn keep(&self, key: &str) -> Result<()> {
        self.call("keep", key, || self.inner.keep(key))
    }

    fn abort(&self, upload: &Upload) -> Result<()> {
        self.call("abort", &upload.key, || self.inner.abort(upload))
    }

    fn head(&self, key: &str) -> Result<Object> {
        self.call("head", key, || self.inner.head(key))
    }

    fn read(
        &self,
        key: &str,
        offset: u64,
        buf: &mut [u8],
        filled: &mut usize,
        etag: Option<&str>,
    ) -> Result<()> {
        let asked = format!("{key} {offset}+{}", buf.len());
        self.call("read", &asked, || {
            self.inner.read(key, offset, buf, filled, etag)
        })
    }

    fn list(&self, prefix: &str, by_directory: bool, from: Option<&str>) -> Result<Page> {
        self.call("list", prefix, || {
            self.inner.list(prefix, by_directory, from)
        })
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        self.call("delete", "", || self.inner.delete(keys))
    }

    fn uploads(&self, prefix: &str, from: Option<&str>) -> Result<UploadPage> {
        self.call("uploads", prefix, || self.inner.uploads(prefix, from))
    }

    fn refresh(&self) -> Result<()> {
        self.call("refresh", "", || self.inner.refresh())
    }
}
