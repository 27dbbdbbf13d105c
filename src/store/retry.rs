//! The one retry policy: a store in front of a store that tries again, slows down when asked to, and finds out what became of
//! calls whose answer was lost.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fault::{Class, Fault};
use super::{
    Object, Page, Part, Result, SMALL_LEN_MAX, Shared, Store, Upload, UploadPage, get_small,
    whole_crc, whole_len,
};
use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::monitor::Monitor;

/// How long and how hard to try. `r[repository.retry]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Longest wait before the second try; it doubles with every further one. The waits are random between zero and that.
    pub first_delay: Duration,
    /// Where the doubling ends.
    pub max_delay: Duration,
    /// How long one call may fail before the run does, as long as it makes no progress.
    pub window: Duration,
    /// The same for a store that has not answered once: most likely its address is wrong.
    pub window_unproven: Duration,
    /// The same for credentials that have expired: somebody has to write new ones.
    pub window_expired: Duration,
    /// Most tries after the first that made no progress; `None`: as many as the time allows.
    pub retries_max: Option<u32>,
    /// Calls at the same time, as long as the store does not ask for fewer.
    pub permits: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(30),
            window: Duration::from_secs(15 * 60),
            window_unproven: Duration::from_secs(15),
            window_expired: Duration::from_secs(120),
            retries_max: None,
            permits: 64,
        }
    }
}

/// How often bytes are sent again that the store did not get as we sent them.
const DAMAGED_ATTEMPTS_MAX: u32 = 5;

/// Tries of an abort, which nobody may wait for long: it is what an interrupted run does last.
const ABORT_ATTEMPTS_MAX: u32 = 3;

/// Least time between two warnings of the same store.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// A store that does not give up at once.
pub struct Retrying {
    inner: Shared,
    policy: Policy,
    cancel: Cancel,
    monitor: Arc<dyn Monitor>,
    gate: Gate,
    /// It has answered at least once, if only to refuse something.
    proven: AtomicBool,
    warned: Mutex<Option<Instant>>,
    /// Reads that were asked for a second time, as last told.
    hedged: AtomicU64,
    random: RandomState,
}

impl std::fmt::Debug for Retrying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retrying")
            .field("inner", &self.inner)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Retrying {
    /// Puts the policy before `inner`.
    pub fn new(inner: Shared, policy: Policy, cancel: Cancel, monitor: Arc<dyn Monitor>) -> Self {
        Self {
            inner,
            policy,
            cancel,
            monitor,
            gate: Gate::new(policy.permits),
            proven: AtomicBool::new(false),
            warned: Mutex::new(None),
            hedged: AtomicU64::new(0),
            random: RandomState::new(),
        }
    }

    /// Calls at the same time that the store takes at present.
    #[must_use]
    pub fn permits(&self) -> usize {
        self.gate.limit()
    }

    /// Makes one call until it works, cannot work, or the time is over. `progress` is any number that grows while it gets on.
    fn call<R>(
        &self,
        method: &'static str,
        key: &str,
        mut attempt: impl FnMut(u32, &mut u64) -> Result<R>,
    ) -> Result<R> {
        let ended = |cancel: &Cancel| {
            cancel
                .check()
                .map_err(|e| Fault::interrupted(method, key, &e))
        };
        let begin = Instant::now();
        // When it last got on, and how often it failed since.
        let (mut since, mut failed) = (begin, 0_u32);
        let (mut progress, mut attempts) = (0, 0_u32);
        loop {
            ended(&self.cancel)?;
            self.gate
                .enter(&self.cancel)
                .map_err(|e| Fault::interrupted(method, key, &e))?;
            let before = progress;
            let result = attempt(attempts, &mut progress);
            attempts += 1;
            self.gate.leave();
            let mut fault = match result {
                Ok(value) => {
                    self.proven.store(true, Ordering::Relaxed);
                    self.gate.grow();
                    return Ok(value);
                }
                Err(fault) => fault,
            };
            ended(&self.cancel)?;
            if progress > before {
                (since, failed) = (Instant::now(), 0);
            }
            failed += 1;
            fault.attempts = attempts;
            fault.elapsed = begin.elapsed();
            if fault.class != Class::Unreachable {
                self.proven.store(true, Ordering::Relaxed);
            }
            let window = match fault.class {
                Class::Expired => self.policy.window_expired.min(self.policy.window),
                _ if self.proven.load(Ordering::Relaxed) => self.policy.window,
                _ => self.policy.window_unproven.min(self.policy.window),
            };
            let hopeless = fault.class == Class::Damaged && failed >= DAMAGED_ATTEMPTS_MAX
                || self.policy.retries_max.is_some_and(|most| failed > most);
            if !fault.class.is_worth_retrying() || hopeless || since.elapsed() >= window {
                return Err(fault);
            }
            self.warn(&fault, failed, window.saturating_sub(since.elapsed()));
            match fault.class {
                Class::Throttled => self.gate.shed(),
                // Why the new ones cannot be had is in the next failure.
                Class::Expired => drop(self.inner.refresh()),
                _ => {}
            }
            self.cancel
                .sleep(self.delay(failed))
                .map_err(|e| Fault::interrupted(method, key, &e))?;
        }
    }

    /// Full jitter: anything up to the doubled delay, so that those who failed together do not come back together.
    fn delay(&self, failed: u32) -> Duration {
        let doubled = self
            .policy
            .first_delay
            .saturating_mul(1 << failed.saturating_sub(1).min(16));
        let most = doubled.min(self.policy.max_delay);
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        let random = self.random.hash_one((Instant::now(), failed));
        Duration::from_nanos(random % nanos.max(1))
    }

    fn warn(&self, fault: &Fault, failed: u32, left: Duration) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_some_and(|at| at.elapsed() < WARNING_INTERVAL) {
            return;
        }
        *warned = Some(Instant::now());
        drop(warned);
        let left = match self.policy.retries_max {
            Some(most) => format!("{} times", most.saturating_sub(failed) + 1),
            None => format!("for {} s", left.as_secs().max(1)),
        };
        self.monitor
            .warning(format!("{fault}; going on to try {left}"));
    }

    /// Says how many reads were asked for a second time, each time their number has doubled.
    fn tell_hedged(&self) {
        let hedged = self.inner.hedged();
        let told = self.hedged.load(Ordering::Relaxed);
        if hedged >= (2 * told).max(1) {
            let swap =
                self.hedged
                    .compare_exchange(told, hedged, Ordering::Relaxed, Ordering::Relaxed);
            if swap.is_ok() {
                let what = format!("slow reads that were asked for a second time: {hedged} so far");
                self.monitor.info(what);
            }
        }
    }

    /// The object if it is the one that `parts` make.
    fn completed(&self, upload: &Upload, parts: &[Part]) -> Option<Object> {
        let object = self.inner.head(&upload.key).ok()?;
        let same = object.len == whole_len(parts)
            && object.crc32.is_none_or(|crc| crc == whole_crc(parts));
        same.then_some(object)
    }
}

impl Store for Retrying {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn put(&self, key: &str, body: Bytes, only_new: bool) -> Result<Object> {
        let put = self.call("put", key, |_, _| {
            self.inner.put(key, body.clone(), only_new)
        });
        match put {
            // A try whose answer was lost may have put it there: then it has exactly our bytes.
            Err(fault) if fault.class == Class::Exists => {
                match get_small(self.inner.as_ref(), key, SMALL_LEN_MAX) {
                    Ok((there, object)) if there == body => Ok(object),
                    _ => Err(fault),
                }
            }
            other => other,
        }
    }

    fn create_upload(&self, key: &str) -> Result<Upload> {
        self.call("begin the upload of", key, |_, _| {
            self.inner.create_upload(key)
        })
    }

    fn put_part(&self, upload: &Upload, part: &Part, body: Bytes) -> Result<Part> {
        self.call("put", &upload.key, |_, _| {
            self.inner.put_part(upload, part, body.clone())
        })
    }

    fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Object> {
        let done = self.call("complete", &upload.key, |attempt, _| {
            // The answer may have been lost, not the call. Stores differ in what they say to a second one.
            let there = (attempt > 0).then(|| self.completed(upload, parts));
            match there.flatten() {
                Some(object) => Ok(object),
                None => self.inner.complete(upload, parts),
            }
        });
        done.or_else(|fault| {
            let lost = fault.class != Class::Interrupted;
            let there = lost.then(|| self.completed(upload, parts)).flatten();
            there.ok_or(fault)
        })
    }

    fn keep(&self, key: &str) -> Result<()> {
        self.call("lock or tag", key, |_, _| self.inner.keep(key))
    }

    fn abort(&self, upload: &Upload) -> Result<()> {
        // Neither the end of the run nor its policy counts here.
        let quiet = Cancel::new();
        let mut attempts = 1;
        loop {
            let aborted = self.inner.abort(upload);
            match aborted {
                Err(fault) if fault.class.is_worth_retrying() && attempts < ABORT_ATTEMPTS_MAX => {
                    attempts += 1;
                    quiet.sleep(self.delay(attempts)).ok();
                }
                other => return other,
            }
        }
    }

    fn head(&self, key: &str) -> Result<Object> {
        self.call("look at", key, |_, _| self.inner.head(key))
    }

    fn read(
        &self,
        key: &str,
        offset: u64,
        buf: &mut [u8],
        filled: &mut usize,
        etag: Option<&str>,
    ) -> Result<()> {
        let read = self.call("read", key, |_, progress| {
            let read = self.inner.read(key, offset, buf, filled, etag);
            *progress = *filled as u64;
            read
        });
        self.tell_hedged();
        read
    }

    fn list(&self, prefix: &str, by_directory: bool, from: Option<&str>) -> Result<Page> {
        self.call("list", prefix, |_, _| {
            self.inner.list(prefix, by_directory, from)
        })
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        let first = keys.first().map_or("", String::as_str);
        self.call("remove", first, |_, _| self.inner.delete(keys))
    }

    fn discard(&self, keys: &[String]) -> Result<()> {
        self.inner.discard(keys)
    }

    fn uploads(&self, prefix: &str, from: Option<&str>) -> Result<UploadPage> {
        self.call("list the uploads of", prefix, |_, _| {
            self.inner.uploads(prefix, from)
        })
    }

    fn hedged(&self) -> u64 {
        self.inner.hedged()
    }

    fn refresh(&self) -> Result<()> {
        self.inner.refresh()
    }
}

/// Lets so many calls through at a time: half as many after the store has asked for less, one more for every round that went
/// well.
#[derive(Debug)]
struct Gate {
    state: Mutex<GateState>,
    freed: Condvar,
    most: usize,
}

#[derive(Debug)]
struct GateState {
    inside: usize,
    limit: usize,
    /// Calls that went well since the limit was last changed.
    good: usize,
}

impl Gate {
    fn new(most: usize) -> Self {
        let most = most.max(1);
        Self {
            state: Mutex::new(GateState {
                inside: 0,
                limit: most,
                good: 0,
            }),
            freed: Condvar::new(),
            most,
        }
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limit(&self) -> usize {
        self.lock().limit
    }

    fn enter(&self, cancel: &Cancel) -> crate::base::error::Result<()> {
        let mut state = self.lock();
        while state.inside >= state.limit {
            cancel.check()?;
            let (next, _timeout) = self
                .freed
                .wait_timeout(state, POLL_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
        state.inside += 1;
        Ok(())
    }

    fn leave(&self) {
        self.lock().inside -= 1;
        self.freed.notify_one();
    }

    /// Those that were under way together and are told so together count once.
    fn shed(&self) {
        let mut state = self.lock();
        if state.inside < state.limit {
            let busy = state.limit.min(state.inside + 1);
            state.limit = (busy / 2).max(1);
        }
        state.good = 0;
    }

    fn grow(&self) {
        let mut state = self.lock();
        state.good += 1;
        if state.limit < self.most && state.good >= state.limit {
            state.limit += 1;
            state.good = 0;
            drop(state);
            self.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_halves_and_grows_again() {
        let gate = Gate::new(8);
        let cancel = Cancel::new();
        for _ in 0..8 {
            gate.enter(&cancel).unwrap();
        }
        gate.leave();
        gate.shed();
        assert_eq!(gate.limit(), 4);
        // The other seven are told the same: they were under way already.
        for _ in 0..7 {
            gate.leave();
        }
        gate.shed();
        gate.shed();
        assert_eq!(gate.limit(), 1);
        for _ in 0..200 {
            gate.grow();
        }
        assert_eq!(gate.limit(), 8);
        cancel.cancel(crate::base::error::Kind::Interrupted, "stop");
        gate.enter(&cancel).unwrap();
    }
}
