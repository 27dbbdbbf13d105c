//! When a read takes so much longer than its peers that it is asked for a second time. Most slow answers are slow because of
//! the one server or connection that gives them; another one is quicker than waiting. `r[repository.hedge]`

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Reads of about one length whose times are remembered.
const PEERS_MAX: usize = 32;

/// Fewer than these tell nothing.
const PEERS_MIN: usize = 4;

/// So many times as long as half of its peers is too long.
const FACTOR: u32 = 4;

/// What is never too long.
const FLOOR: Duration = Duration::from_secs(1);

/// One in so many reads may be asked for again: a store that is slow as a whole needs no more to do.
const SHARE: u64 = 10;

/// The times of recent reads, and how many of all were asked for again.
#[derive(Debug, Default)]
pub(super) struct Hedges(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By the logarithm of the length.
    peers: BTreeMap<u32, VecDeque<Duration>>,
    reads: u64,
    hedged: u64,
}

impl Hedges {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a read of `len` bytes may take; `None` as long as its peers are too few.
    pub(super) fn patience(&self, len: u64) -> Option<Duration> {
        let state = self.lock();
        let peers = state
            .peers
            .get(&class(len))
            .filter(|p| p.len() >= PEERS_MIN)?;
        let mut times: Vec<Duration> = peers.iter().copied().collect();
        times.sort_unstable();
        let median = times.get(times.len() / 2)?;
        Some(median.saturating_mul(FACTOR).max(FLOOR))
    }

    /// Whether one more read may be asked for again; it counts as asked.
    pub(super) fn begin(&self) -> bool {
        let mut state = self.lock();
        let free = state.hedged * SHARE <= state.reads;
        state.hedged += u64::from(free);
        free
    }

    /// A read of `len` bytes took so long.
    pub(super) fn done(&self, len: u64, time: Duration) {
        let mut state = self.lock();
        state.reads += 1;
        let peers = state.peers.entry(class(len)).or_default();
        if peers.len() >= PEERS_MAX {
            peers.pop_front();
        }
        peers.push_back(time);
    }

    /// Reads that were asked for again.
    pub(super) fn count(&self) -> u64 {
        self.lock().hedged
    }
}

fn class(len: u64) -> u32 {
    len.checked_ilog2().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    // r[repository.hedge]
    #[test]
    fn few_reads_that_are_slow_among_their_peers_are_asked_for_again() {
        let hedges = Hedges::default();
        let ms = Duration::from_millis;
        for _ in 0..3 {
            hedges.done(1 << 20, ms(400));
        }
        assert_eq!(hedges.patience(1 << 20), None);
        // One that was slow does not make the others look quick.
        hedges.done((1 << 20) + 1, ms(60_000));
        assert_eq!(hedges.patience(1 << 20), Some(ms(1600)));
        assert_eq!(hedges.patience(1 << 24), None);
        for _ in 0..PEERS_MAX {
            hedges.done(1 << 10, ms(3));
        }
        assert_eq!(hedges.patience(1 << 10), Some(FLOOR));
        let begun = (0..100).filter(|_| hedges.begin()).count() as u64;
        assert_eq!((begun, hedges.count()), (4, 4), "of 36 reads");
    }
}
