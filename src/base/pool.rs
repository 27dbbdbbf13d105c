//! The fixed buffer pool. Memory of a run is what its pools hold: a stage that finds none waits,
//! and that is the back-pressure.
//!
//! A buffer becomes [`Bytes`] without a copy; it returns to its pool when the last slice is gone.
//!
//! Invariant against deadlock: whoever waits for a buffer of a pool must not hold what the holders of its buffers
//! need to give them back. So stages that produce from what they consume (compressors, decompressors)
//! take their output from a pool of their own, which the writers drain without needing any buffer.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::Result;

/// `count` buffers of `size` bytes each, allocated as they are first used and never more of them.
#[derive(Debug, Clone)]
pub struct BufPool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    size: usize,
    count: usize,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    idle: Vec<Vec<u8>>,
    unborn: usize,
}

impl State {
    fn take(&mut self, size: usize) -> Option<Vec<u8>> {
        if let Some(bytes) = self.idle.pop() {
            return Some(bytes);
        }
        self.unborn = self.unborn.checked_sub(1)?;
        Some(vec![0; size])
    }
}

impl BufPool {
    /// A pool of `count` (at least one) buffers of `size` bytes.
    #[must_use]
    pub fn new(count: usize, size: usize) -> Self {
        let count = count.max(1);
        Self(Arc::new(Shared {
            size,
            count,
            state: Mutex::new(State {
                idle: Vec::with_capacity(count),
                unborn: count,
            }),
            returned: Condvar::new(),
        }))
    }

    /// Bytes in one buffer.
    #[must_use]
    pub fn buf_size(&self) -> usize {
        self.0.size
    }

    /// Number of buffers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// Waits for a buffer of [`BufPool::buf_size`] bytes. Its content is whatever was in it before.
    pub fn get(&self, cancel: &Cancel) -> Result<Buf> {
        loop {
            if let Some(buf) = self.get_within(POLL_INTERVAL, cancel)? {
                return Ok(buf);
            }
        }
    }

    /// The same, but at most about that long.
    pub fn get_within(&self, time: Duration, cancel: &Cancel) -> Result<Option<Buf>> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = if state.idle.is_empty() && state.unborn == 0 {
            cancel.check()?;
            (self.0.returned)
                .wait_timeout(state, time)
                .unwrap_or_else(PoisonError::into_inner)
                .0
        } else {
            state
        };
        Ok(state.take(self.0.size).map(|bytes| Buf {
            bytes,
            pool: Arc::clone(&self.0),
        }))
    }

    /// A buffer if one is idle; never waits.
    #[must_use]
    pub fn try_get(&self) -> Option<Buf> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = state.take(self.0.size)?;
        Some(Buf {
            bytes,
            pool: Arc::clone(&self.0),
        })
    }

    /// Buffers that are not lent out now.
    #[must_use]
    pub fn available(&self) -> usize {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.idle.len() + state.unborn
    }
}

/// One buffer on loan; always [`BufPool::buf_size`] bytes long.
#[derive(Debug)]
pub struct Buf {
    bytes: Vec<u8>,
    pool: Arc<Shared>,
}

impl Buf {
    /// The first `len` bytes as shared, immutable bytes. The buffer goes home when the last clone or slice is dropped.
    #[must_use]
    pub fn freeze(self, len: usize) -> Bytes {
        let len = len.min(self.bytes.len());
        Bytes::from_owner(self).slice(..len)
    }
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = self
            .pool
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.idle.push(bytes);
        drop(state);
        self.pool.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;

    #[test]
    fn frozen_slices_keep_the_buffer_out_until_the_last_is_dropped() {
        let pool = BufPool::new(1, 8);
        let cancel = Cancel::new();
        let mut buf = pool.get(&cancel).unwrap();
        buf[..3].copy_from_slice(b"abc");
        let bytes = buf.freeze(3);
        let tail = bytes.slice(1..);
        drop(bytes);
        assert_eq!(pool.available(), 0);
        assert_eq!(&tail[..], b"bc");
        drop(tail);
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn an_empty_pool_waits_and_a_cancelled_run_does_not() {
        let pool = BufPool::new(1, 8);
        let cancel = Cancel::new();
        let held = pool.get(&cancel).unwrap();
        let (p, c) = (pool.clone(), cancel.clone());
        let waiter = std::thread::spawn(move || p.get(&c).map(|b| b.len()));
        drop(held);
        assert_eq!(waiter.join().unwrap().unwrap(), 8);
        let _held = pool.get(&cancel).unwrap();
        cancel.cancel(Kind::Interrupted, "stop");
        assert_eq!(pool.get(&cancel).unwrap_err().kind(), Kind::Interrupted);
    }
}
