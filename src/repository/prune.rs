//! Which backups to keep. Arithmetic only. `r[repository.prune]`

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::repository::manifest::Manifest;

/// What is to be kept; what none of these wants goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub last: usize,
    /// The newest of each of the last so many days (UTC) that have one.
    pub daily: usize,
    /// The same for weeks, which begin on Monday.
    pub weekly: usize,
    /// The same for months.
    pub monthly: usize,
    /// Everything younger than so many seconds.
    pub within_seconds: Option<i64>,
}

impl Keep {
    /// Whether nothing at all would be kept.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Numbers the period that a time lies in.
type Period = fn(Timestamp) -> i64;

/// One backup's fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// Why it stays; `None`: it goes.
    pub kept_for: Option<&'static str>,
}

/// Judges backups (names and manifests, in any order) at the time `now`; newest first.
#[must_use]
pub fn judge(backups: &[(String, Manifest)], keep: &Keep, now: Timestamp) -> Vec<Verdict> {
    let mut order: Vec<&(String, Manifest)> = backups.iter().collect();
    order.sort_by(|a, b| (b.1.finished(), &b.0).cmp(&(a.1.finished(), &a.0)));
    let mut reasons: Vec<Option<&'static str>> = vec![None; order.len()];
    let periods: [(&'static str, usize, Period); 3] = [
        ("daily", keep.daily, day),
        // The first of January 1970 was a Thursday.
        ("weekly", keep.weekly, |t| (day(t) + 3).div_euclid(7)),
        ("monthly", keep.monthly, month),
    ];
    for (name, most, period) in periods {
        let mut seen = BTreeSet::new();
        for (backup, reason) in order.iter().zip(&mut reasons) {
            if seen.len() < most && seen.insert(period(backup.1.finished())) {
                reason.get_or_insert(name);
            }
        }
    }
    for (place, (backup, reason)) in order.iter().zip(&mut reasons).enumerate() {
        let age = now.as_second() - backup.1.finished().as_second();
        if keep.within_seconds.is_some_and(|most| age < most) {
            *reason = Some("within");
        }
        if place < keep.last {
            *reason = Some("last");
        }
    }
    keep_bases(&order, &mut reasons);
    let names = order.iter().map(|(name, _)| name.clone());
    let verdicts = names.zip(reasons);
    verdicts
        .map(|(name, kept_for)| Verdict { name, kept_for })
        .collect()
}

/// An increment is worth nothing without what it builds on.
fn keep_bases(order: &[&(String, Manifest)], reasons: &mut [Option<&'static str>]) {
    loop {
        let needed: BTreeSet<u64> = order
            .iter()
            .zip(reasons.iter())
            .filter(|(_, reason)| reason.is_some())
            .filter_map(|(backup, _)| backup.1.backup.as_ref())
            .map(|facts| facts.from_lsn)
            .filter(|lsn| *lsn > 0)
            .collect();
        let mut changed = false;
        for (backup, reason) in order.iter().zip(reasons.iter_mut()) {
            let facts = backup.1.backup.as_ref();
            if reason.is_none() && facts.is_some_and(|facts| needed.contains(&facts.to_lsn)) {
                *reason = Some("base");
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

fn day(time: Timestamp) -> i64 {
    time.as_second().div_euclid(86_400)
}

fn month(time: Timestamp) -> i64 {
    let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
    i64::from(date.year()) * 12 + i64::from(date.month())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::manifest::BackupFacts;

    const DAY: i64 = 86_400;
    const NOW: i64 = 1_790_000_000;

    fn backup(name: &str, seconds_ago: i64, lsns: (u64, u64)) -> (String, Manifest) {
        let time = Timestamp::from_second(NOW - seconds_ago).unwrap();
        let mut manifest = Manifest::new(uuid::Uuid::nil(), time, 1);
        manifest.backup = Some(BackupFacts {
            from_lsn: lsns.0,
            to_lsn: lsns.1,
            ..BackupFacts::default()
        });
        (name.to_owned(), manifest)
    }

    fn kept(backups: &[(String, Manifest)], keep: &Keep) -> Vec<(String, &'static str)> {
        let now = Timestamp::from_second(NOW).unwrap();
        let verdicts = judge(backups, keep, now).into_iter();
        verdicts
            .filter_map(|v| Some((v.name, v.kept_for?)))
            .collect()
    }

    // r[repository.prune]
    #[test]
    fn the_newest_of_each_period_stay() {
        let backups: Vec<_> = (0..100)
            .map(|i| {
                backup(
                    &format!("b{i:02}"),
                    i * DAY / 2,
                    (0, 1000 - i.unsigned_abs()),
                )
            })
            .collect();
        let keep = |keep: Keep| kept(&backups, &keep);
        let last = keep(Keep {
            last: 3,
            ..Keep::default()
        });
        assert_eq!(
            last,
            [
                ("b00".into(), "last"),
                ("b01".into(), "last"),
                ("b02".into(), "last")
            ]
        );
        assert_eq!(
            keep(Keep {
                daily: 7,
                ..Keep::default()
            })
            .len(),
            7
        );
        assert_eq!(
            keep(Keep {
                weekly: 4,
                ..Keep::default()
            })
            .len(),
            4
        );
        assert_eq!(
            keep(Keep {
                monthly: 50,
                ..Keep::default()
            })
            .len(),
            2 + usize::from(
                month(Timestamp::from_second(NOW).unwrap())
                    - month(Timestamp::from_second(NOW - 99 * DAY / 2).unwrap())
                    > 1
            )
        );
        let within = keep(Keep {
            within_seconds: Some(2 * DAY),
            ..Keep::default()
        });
        assert_eq!(within.len(), 4);
        assert_eq!(keep(Keep::default()), []);
    }

    #[test]
    fn a_base_with_a_living_increment_stays() {
        let backups = [
            backup("full", 5 * DAY, (0, 100)),
            backup("inc1", 4 * DAY, (100, 200)),
            backup("inc2", 3 * DAY, (200, 300)),
            backup("other", 6 * DAY, (0, 50)),
        ];
        let keep = Keep {
            last: 1,
            ..Keep::default()
        };
        let expected = [("inc2", "last"), ("inc1", "base"), ("full", "base")];
        assert_eq!(
            kept(&backups, &keep),
            expected.map(|(n, r)| (n.to_owned(), r))
        );
    }
}
