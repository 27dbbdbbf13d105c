//! Follows the live ring: the pure half. The caller reads bytes and asks the server how far the log is flushed; this
//! decides what of them is log.

use std::ops::Range;

use crate::base::units::Lsn;
use crate::innodb::be::put_at;
use crate::innodb::redo::file_records::{FileEvent, has_file_records, read_events};
use crate::innodb::redo::header::{LogFormat, RingGeometry};
use crate::innodb::redo::mtr::{MtrFault, Step, step};
use crate::innodb::redo::writer::{PathTooShort, localize};

/// Why the follower cannot go on with these bytes. What was consumed before is kept: [`Follower::position`] is the LSN
/// to read from next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// The window starts behind the position.
    #[error("log bytes from LSN {position} are missing, the window starts at {window}")]
    Gap {
        /// Where the follower is.
        position: Lsn,
        /// LSN of the window's first byte.
        window: Lsn,
    },
    /// Below the fence, where the log must be whole, it is not: a stale page cache, a replaced or overwritten file, or
    /// damage (`r[redo.follow.stale]`). Read again from `lsn` before giving up.
    #[error("redo log at LSN {lsn} is not readable: {fault}")]
    Stale {
        /// Start of the mini-transaction.
        lsn: Lsn,
        /// What is wrong with it.
        fault: MtrFault,
    },
    /// A path outside the data directory that cannot be rewritten.
    #[error("redo log at LSN {lsn}: {source}")]
    Path {
        /// Start of the mini-transaction.
        lsn: Lsn,
        /// Which path.
        source: PathTooShort,
    },
}

/// Position in a ring, and what has to be known to go on from there.
#[derive(Debug, Clone)]
pub struct Follower {
    ring: RingGeometry,
    format: LogFormat,
    position: Lsn,
    localize: bool,
}

impl Follower {
    /// Starts at `checkpoint_lsn`, the start of a mini-transaction. With `localize`, absolute paths of a plain log are
    /// rewritten on the way ([`localize`]).
    #[must_use]
    pub const fn new(
        ring: RingGeometry,
        format: LogFormat,
        checkpoint_lsn: Lsn,
        localize: bool,
    ) -> Self {
        Self {
            ring,
            format,
            position: checkpoint_lsn,
            localize,
        }
    }

    /// Everything before this LSN was consumed.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.position
    }

    /// The ring being read.
    #[must_use]
    pub const fn ring(&self) -> RingGeometry {
        self.ring
    }

    /// Goes on in another file: the server replaced the log by one of another size (`r[redo.follow.resize]`). LSNs
    /// stay what they were.
    pub const fn switch(&mut self, ring: RingGeometry, format: LogFormat) {
        self.ring = ring;
        self.format = format;
    }

    /// Consumes the whole mini-transactions of `window` that end at or below `fence`, and makes them what a backup's log
    /// wants, in place: end bytes 1 (`r[redo.backup.end-bytes]`), paths relative if so asked. `window` is a contiguous
    /// run of log bytes (a read across the ring's end joined) whose first byte has LSN `window_lsn`, at or before the
    /// position. `fence` is what the server had flushed before the bytes were read, always the end of a
    /// mini-transaction (`r[redo.follow.fence]`).
    ///
    /// Returns where in `window` the consumed bytes are, and appends what they say about files to `events` (paths as
    /// the server wrote them). An empty range means that the window ends within a mini-transaction, or that nothing
    /// new is below the fence. Bytes before a fault are consumed first; the fault is the next call's error, unless the
    /// bytes read for that call are better.
    pub fn feed(
        &mut self,
        window_lsn: Lsn,
        window: &mut [u8],
        fence: Lsn,
        events: &mut Vec<FileEvent>,
    ) -> Result<Range<usize>, FollowError> {
        let begin = self.position;
        if window_lsn > begin {
            return Err(FollowError::Gap {
                position: begin,
                window: window_lsn,
            });
        }
        let window_len = window.len();
        let offset = |lsn: Lsn| usize::try_from(lsn.since(window_lsn)).unwrap_or(usize::MAX);
        let fenced_len = offset(fence).min(window_len);
        let start = offset(begin).min(fenced_len);
        let mut at = start;
        let outcome = loop {
            let rest = window.get_mut(at..fenced_len).unwrap_or_default();
            if rest.is_empty() {
                break Ok(());
            }
            match self.one(rest, events) {
                Ok(Some(len)) => {
                    at = at.saturating_add(len);
                    self.position = Lsn(self.position.0.saturating_add(len as u64));
                }
                // The fence ends a mini-transaction, so a cut there is not a matter of reading more.
                Ok(None) if fenced_len == offset(fence) => {
                    break Err(FollowError::Stale {
                        lsn: self.position,
                        fault: MtrFault::Cut,
                    });
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        match outcome {
            Err(error) if at == start => Err(error),
            _ => Ok(start..at),
        }
    }

    /// Normalises the mini-transaction at the start of `rest`; its length, or `None` when it is cut.
    fn one(
        &self,
        rest: &mut [u8],
        events: &mut Vec<FileEvent>,
    ) -> Result<Option<usize>, FollowError> {
        let lsn = self.position;
        let stale = |fault| FollowError::Stale { lsn, fault };
        let mtr = match step(rest, lsn, self.format, |at| self.ring.sequence_bit(at)) {
            Ok(Step::Mtr(mtr)) => mtr,
            Ok(Step::NeedMore) => return Ok(None),
            Ok(Step::EndOfLog) => return Err(stale(MtrFault::EndOfLog)),
            Err(fault) => return Err(stale(fault)),
        };
        let records = rest.get(..mtr.records_len).unwrap_or_default();
        if has_file_records(records) {
            read_events(records, self.format, events);
            if self.localize {
                localize(rest, mtr, self.format)
                    .map_err(|source| FollowError::Path { lsn, source })?;
            }
        }
        put_at(rest, mtr.records_len, &[1]);
        Ok(Some(mtr.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::SpaceId;
    use crate::innodb::redo::HEADER_LEN;
    use crate::innodb::redo::header::{ENCRYPTION_LEN, FORMAT_PLAIN, LogHeader};
    use crate::innodb::redo::mtr::tests::{mtr, record};
    use crate::innodb::redo::writer::append_file_delete;

    const FIRST: u64 = 20_000;
    const CAPACITY: u64 = 500;

    fn ring() -> RingGeometry {
        let header = LogHeader {
            format_word: FORMAT_PLAIN,
            first_lsn: Lsn(FIRST),
            creator: [0; 32],
            encryption: [0; ENCRYPTION_LEN],
        };
        RingGeometry::new(&header, HEADER_LEN as u64 + CAPACITY).unwrap()
    }

    /// Mini-transactions over three laps: bytes as in the ring, bytes as in a backup, ends as LSNs.
    fn log() -> (Vec<u8>, Vec<u8>, Vec<u64>) {
        let (mut live, mut backup, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        let mut len = 1;
        while live.len() < 3 * 500 {
            let records = [record(len % 70 + 1), record(3)].concat();
            let end_at = Lsn(FIRST + (live.len() + records.len()) as u64);
            live.extend(mtr(&records, ring().sequence_bit(end_at), b""));
            backup.extend(mtr(&records, 1, b""));
            ends.push(FIRST + live.len() as u64);
            len += 13;
        }
        (live, backup, ends)
    }

    #[test]
    fn any_window_size_and_any_fence_give_the_same_bytes() {
        let (live, backup, ends) = log();
        for window_len in [90, 91, 100, 333, 5000] {
            let mut follower = Follower::new(ring(), LogFormat::Plain, Lsn(FIRST), false);
            let (mut out, mut events) = (Vec::new(), Vec::new());
            for fence in &ends {
                loop {
                    let at = follower.position();
                    let start = usize::try_from(at.0 - FIRST).unwrap();
                    let end = live.len().min(start + window_len);
                    let mut window = live[start..end].to_vec();
                    let fed = follower.feed(at, &mut window, Lsn(*fence), &mut events);
                    let fed = fed.unwrap();
                    if fed.is_empty() {
                        break;
                    }
                    out.extend_from_slice(&window[fed]);
                }
                assert_eq!(follower.position(), Lsn(*fence));
            }
            assert_eq!(out, backup);
            assert_eq!(events, []);
        }
    }

    /// Feeds `bytes` of the log's beginning until nothing more comes, and appends what comes to `out`.
    fn take(
        follower: &mut Follower,
        bytes: &[u8],
        fence: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), FollowError> {
        let mut events = Vec::new();
        loop {
            let mut window = bytes.to_vec();
            let fed = follower.feed(Lsn(FIRST), &mut window, Lsn(fence), &mut events)?;
            if fed.is_empty() {
                return Ok(());
            }
            out.extend_from_slice(&window[fed]);
        }
    }

    fn follower() -> Follower {
        Follower::new(ring(), LogFormat::Plain, Lsn(FIRST), false)
    }

    #[test]
    fn windows_may_overlap_but_not_leave_gaps() {
        let (live, backup, ends) = log();
        let mut follower = follower();
        let mut out = Vec::new();
        for fence in [ends[0], ends[0], ends[5], *ends.last().unwrap()] {
            take(&mut follower, &live, fence, &mut out).unwrap();
        }
        assert_eq!(out, backup);
        let at = Lsn(follower.position().0 + 1);
        let gap = follower.feed(at, &mut [1], Lsn(u64::MAX), &mut Vec::new());
        assert!(matches!(gap, Err(FollowError::Gap { .. })));
    }

    #[test]
    fn damage_below_the_fence_is_stale_and_a_second_read_goes_on() {
        let (live, backup, ends) = log();
        let fence = *ends.last().unwrap();
        for (at, value) in [(ends[3] - FIRST, 0), (ends[7] - FIRST + 2, 0x5a)] {
            let mut bad = live.clone();
            bad[usize::try_from(at).unwrap()] = value;
            let (mut follower, mut out) = (follower(), Vec::new());
            let found = take(&mut follower, &bad, fence, &mut out);
            let lsn = follower.position();
            assert!(matches!(found, Err(FollowError::Stale { lsn: l, .. }) if l == lsn));
            assert!(ends.contains(&lsn.0) && lsn.0 <= FIRST + at);
            take(&mut follower, &live, fence, &mut out).unwrap();
            assert_eq!(out, backup);
        }
    }

    #[test]
    fn bytes_above_the_fence_are_never_looked_at() {
        let (live, backup, ends) = log();
        let fence = ends[4];
        let len = usize::try_from(fence - FIRST).unwrap();
        let mut torn = live;
        torn[len..].fill(0x37);
        let mut out = Vec::new();
        take(&mut follower(), &torn, fence, &mut out).unwrap();
        assert_eq!(out, backup[..len]);
        // A fence within a mini-transaction contradicts itself.
        let found = take(&mut follower(), &torn, fence - 1, &mut Vec::new());
        let lsn = Lsn(ends[3]);
        let fault = MtrFault::Cut;
        assert_eq!(found, Err(FollowError::Stale { lsn, fault }));
    }

    #[test]
    fn paths_are_made_relative_on_the_way_if_so_asked() {
        let mut log = Vec::new();
        append_file_delete(&mut log, SpaceId(3), b"/far/away/d/t.ibd").unwrap();
        let fence = Lsn(FIRST + log.len() as u64);
        for (asked, path) in [(true, &b"././././././"[..10]), (false, b"/far/away/")] {
            let mut follower = Follower::new(ring(), LogFormat::Plain, Lsn(FIRST), asked);
            let (mut window, mut events) = (log.clone(), Vec::new());
            let fed = follower.feed(Lsn(FIRST), &mut window, fence, &mut events);
            assert_eq!(fed, Ok(0..log.len()));
            assert_eq!(&window[4..14], path);
            let path = b"/far/away/d/t.ibd".to_vec();
            let space_id = SpaceId(3);
            assert_eq!(events, [FileEvent::Delete { space_id, path }]);
        }
    }
}
