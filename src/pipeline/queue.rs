//! The queue in front of a writer, bounded in bytes: what waits there should still be in the processor's cache when its turn
//! comes, and many small messages should not wait for each other as few large ones do.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind, Result};

/// A sender waits while this many bytes are queued.
const QUEUED_LEN_MAX: usize = 2 << 20;

/// Slices handed to the kernel in one call.
pub(super) const SLICES_MAX: usize = 256;

/// Bytes of small messages that are gathered for one call.
const GATHER_LEN_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    room: Condvar,
    filled: Condvar,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Vec<Bytes>>,
    bytes: usize,
    /// All bytes that were ever queued.
    sent: u64,
    /// The writer has taken something and not come back yet.
    writing: bool,
    /// One of the ends is gone.
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
        self.filled.notify_all();
        self.idle.notify_all();
    }
}

/// The end that many threads send to.
#[derive(Debug)]
pub(super) struct Sender(Arc<Shared>);

/// The writer's end.
#[derive(Debug)]
pub(super) struct Receiver(Arc<Shared>);

/// What a writer finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Bytes,
    NothingYet,
    End,
}

pub(super) fn queue() -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl Sender {
    /// Queues byte runs to be written together, uninterrupted; returns how many bytes come before them. Waits while the queue is
    /// full.
    pub(super) fn send(&self, runs: Vec<Bytes>, cancel: &Cancel) -> Result<u64> {
        let shared = &*self.0;
        let mut state = shared.lock();
        while state.bytes >= QUEUED_LEN_MAX && !state.closed {
            cancel.check()?;
            let (next, _timeout) = shared
                .room
                .wait_timeout(state, POLL_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
        if state.closed {
            drop(state);
            // The writer failed and has told the token why.
            cancel.check()?;
            return Err(Error::new(Kind::Failed, "the writer thread is gone"));
        }
        let len = runs.iter().map(Bytes::len).sum::<usize>();
        let position = state.sent;
        state.bytes += len;
        state.sent += len as u64;
        state.messages.push_back(runs);
        if state.messages.len() == 1 {
            shared.filled.notify_one();
        }
        Ok(position)
    }
}

impl Sender {
    /// Waits until the writer has written everything that was queued.
    pub(super) fn settle(&self, cancel: &Cancel) -> Result<()> {
        let shared = &*self.0;
        let mut state = shared.lock();
        while (state.writing || !state.messages.is_empty()) && !state.closed {
            cancel.check()?;
            let (next, _timeout) = shared
                .idle
                .wait_timeout(state, POLL_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
        drop(state);
        cancel.check()
    }
}

impl Sender {
    /// No more will come.
    pub(super) fn hang_up(&self) {
        self.0.close();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Receiver {
    /// Moves the oldest message to `batch`, and those behind it as far as they go into one call with it.
    pub(super) fn take(&self, batch: &mut Vec<Bytes>, patience: Duration) -> Found {
        let shared = &*self.0;
        let mut state = shared.lock();
        state.writing = false;
        if state.messages.is_empty() && !state.closed {
            shared.idle.notify_all();
            let (next, _timeout) = shared
                .filled
                .wait_timeout_while(state, patience, |s| s.messages.is_empty() && !s.closed)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
        let mut gathered = 0;
        while batch.len() < SLICES_MAX && gathered < GATHER_LEN_MAX {
            let Some(message) = state.messages.pop_front() else {
                break;
            };
            gathered += message.iter().map(Bytes::len).sum::<usize>();
            batch.extend(message);
        }
        state.writing = !batch.is_empty();
        let was_full = state.bytes >= QUEUED_LEN_MAX;
        state.bytes -= gathered;
        let closed = state.closed;
        if was_full && state.bytes < QUEUED_LEN_MAX {
            drop(state);
            shared.room.notify_all();
        }
        match (batch.is_empty(), closed) {
            (false, _) => Found::Bytes,
            (true, true) => Found::End,
            (true, false) => Found::NothingYet,
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.close();
        // Buffers that nobody will write go back to their pools now.
        let messages = std::mem::take(&mut self.0.lock().messages);
        drop(messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_small_messages_gather_and_the_end_comes_last() {
        let (sender, receiver) = queue();
        let cancel = Cancel::new();
        for byte in 0..4u8 {
            let sent = sender.send(vec![Bytes::from(vec![byte])], &cancel);
            assert_eq!(sent.unwrap(), u64::from(byte));
        }
        drop(sender);
        let mut batch = Vec::new();
        assert_eq!(receiver.take(&mut batch, Duration::ZERO), Found::Bytes);
        assert_eq!(batch.concat(), [0, 1, 2, 3]);
        batch.clear();
        assert_eq!(receiver.take(&mut batch, Duration::ZERO), Found::End);
    }

    #[test]
    fn a_full_queue_waits_and_hears_of_the_end_of_the_run() {
        let (sender, receiver) = queue();
        let cancel = Cancel::new();
        let big = Bytes::from(vec![0; QUEUED_LEN_MAX]);
        sender.send(vec![big.clone()], &cancel).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sender.send(vec![big.clone()], &cancel));
            let mut batch = Vec::new();
            assert_eq!(receiver.take(&mut batch, Duration::ZERO), Found::Bytes);
            waiting.join().unwrap().unwrap();
        });
        cancel.cancel(Kind::Interrupted, "stop");
        let error = sender.send(vec![big.clone()], &cancel).unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted);
        drop(receiver);
        let fresh = Cancel::new();
        assert!(sender.send(vec![big], &fresh).is_err());
    }
}
