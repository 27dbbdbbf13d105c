//! A limit in bytes per second, over all threads and both directions.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fault::Fault;
use super::{Object, Page, Part, Result, Shared, Store, Upload, UploadPage};
use crate::base::cancel::Cancel;

/// A store that moves no more than so many bytes per second.
#[derive(Debug)]
pub struct Rated {
    inner: Shared,
    bytes_per_second: u64,
    /// When the bytes that were let through so far are paid for.
    paid: Mutex<Instant>,
    cancel: Cancel,
}

impl Rated {
    /// Limits `inner`; at least one byte per second.
    pub fn new(inner: Shared, bytes_per_second: u64, cancel: Cancel) -> Self {
        Self {
            inner,
            bytes_per_second: bytes_per_second.max(1),
            paid: Mutex::new(Instant::now()),
            cancel,
        }
    }

    /// Waits for the turn of `len` bytes.
    fn pay(&self, method: &'static str, key: &str, len: usize) -> Result<()> {
        let nanos = (len as u128 * 1_000_000_000) / u128::from(self.bytes_per_second);
        let price = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = Instant::now();
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*paid).max(now);
        *paid = turn + price;
        drop(paid);
        self.cancel
            .sleep(turn.saturating_duration_since(now))
            .map_err(|e| Fault::interrupted(method, key, &e))
    }
}

impl Store for Rated {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn put(&self, key: &str, body: Bytes, only_new: bool) -> Result<Object> {
        self.pay("put", key, body.len())?;
        self.inner.put(key, body, only_new)
    }

    fn create_upload(&self, key: &str) -> Result<Upload> {
        self.inner.create_upload(key)
    }

    fn put_part(&self, upload: &Upload, part: &Part, body: Bytes) -> Result<Part> {
        self.pay("put", &upload.key, body.len())?;
        self.inner.put_part(upload, part, body)
    }

    fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Object> {
        self.inner.complete(upload, parts)
    }

    fn keep(&self, key: &str) -> Result<()> {
        self.inner.keep(key)
    }

    fn abort(&self, upload: &Upload) -> Result<()> {
        self.inner.abort(upload)
    }

    fn head(&self, key: &str) -> Result<Object> {
        self.inner.head(key)
    }

    fn read(
        &self,
        key: &str,
        offset: u64,
        buf: &mut [u8],
        filled: &mut usize,
        etag: Option<&str>,
    ) -> Result<()> {
        self.pay("read", key, buf.len().saturating_sub(*filled))?;
        self.inner.read(key, offset, buf, filled, etag)
    }

    fn list(&self, prefix: &str, by_directory: bool, from: Option<&str>) -> Result<Page> {
        self.inner.list(prefix, by_directory, from)
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        self.inner.delete(keys)
    }

    fn discard(&self, keys: &[String]) -> Result<()> {
        self.inner.discard(keys)
    }

    fn uploads(&self, prefix: &str, from: Option<&str>) -> Result<UploadPage> {
        self.inner.uploads(prefix, from)
    }

    fn hedged(&self) -> u64 {
        self.inner.hedged()
    }

    fn refresh(&self) -> Result<()> {
        self.inner.refresh()
    }
}
