//! `r[codec.memory]`: memory of decoders that no pool of buffers holds, counted for all open files together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::Result;

/// Memory that files may hold between calls, beside pooled buffers: units that came in part, and windows of stream decoders.
#[derive(Debug, Clone)]
pub(super) struct Allowance {
    left: Arc<Left>,
    total: u64,
    /// What is never lent for whole large units, which can be decoded in parts as well.
    reserve: u64,
    cancel: Cancel,
}

#[derive(Debug)]
struct Left {
    bytes: Mutex<u64>,
    returned: Condvar,
}

/// How long a file waits for others to give memory back. What would give it back may come behind what waits, so there is an end
/// to it; and another lane may only have fallen behind, so it is worth a while.
const ALLOWANCE_WAIT: Duration = Duration::from_secs(5);

impl Allowance {
    pub(super) fn new(total: u64, reserve: u64, cancel: &Cancel) -> Self {
        Self {
            left: Arc::new(Left {
                bytes: Mutex::new(total),
                returned: Condvar::new(),
            }),
            total,
            reserve,
            cancel: cancel.clone(),
        }
    }

    /// Bytes altogether.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// `bytes` if they are there.
    pub(super) fn take(&self, bytes: u64) -> Option<Held> {
        self.take_above(bytes, 0)
    }

    /// `bytes` for a large unit, if they are there beside what others may need to get on at all.
    pub(super) fn take_large(&self, bytes: u64) -> Option<Held> {
        self.take_above(bytes, self.reserve)
    }

    fn take_above(&self, bytes: u64, reserve: u64) -> Option<Held> {
        let mut left = self.left.lock();
        let rest = left.checked_sub(bytes)?;
        if rest < reserve {
            return None;
        }
        *left = rest;
        Some(self.held(bytes))
    }

    /// `bytes`, waited for while others give memory back, each for at most [`ALLOWANCE_WAIT`]; `None` if that does not help.
    pub(super) fn wait(&self, bytes: u64) -> Result<Option<Held>> {
        if bytes > self.total {
            return Ok(None);
        }
        let mut left = self.left.lock();
        let (mut seen, mut since) = (*left, Instant::now());
        loop {
            if let Some(rest) = left.checked_sub(bytes) {
                *left = rest;
                return Ok(Some(self.held(bytes)));
            }
            if *left > seen {
                since = Instant::now();
            }
            seen = *left;
            if since.elapsed() > ALLOWANCE_WAIT {
                return Ok(None);
            }
            self.cancel.check()?;
            left = (self.left.returned)
                .wait_timeout(left, POLL_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn held(&self, bytes: u64) -> Held {
        Held {
            left: Arc::clone(&self.left),
            bytes,
        }
    }
}

impl Left {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, bytes: u64) {
        *self.lock() += bytes;
        self.returned.notify_all();
    }
}

/// Part of an [`Allowance`]; given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    left: Arc<Left>,
    bytes: u64,
}

impl Held {
    /// How much it is.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes in another part of the same allowance.
    pub(super) fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back all but `bytes`.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.left.give(back);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.left.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_units_leave_the_reserve_to_others() {
        let all = Allowance::new(30, 18, &Cancel::new());
        let mut large = all.take_large(10).unwrap();
        assert!(all.take_large(3).is_none());
        large.join(all.take_large(2).unwrap());
        assert_eq!(large.bytes(), 12);
        let window = all.take(18).unwrap();
        assert!(all.take(1).is_none());
        large.shrink(4);
        assert!(all.take(8).is_some());
        drop((large, window));
        assert!(all.take(30).is_some());
    }
}
