//! Damaged pages found while tablespaces are copied. The first one is enough to fail the backup, but whoever repairs the
//! server wants to know of all of them: so the files are read to their ends before the run does (r[page.damage.all]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::error::{Error, Kind, Result};
use crate::base::monitor::Monitor;
use crate::innodb::check::DAMAGED_PAGES_MAX;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Damage(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    pages: usize,
    files: BTreeSet<PathBuf>,
    first: Option<Error>,
}

impl Damage {
    /// Takes note of a damaged page in `file`, and tells it. Gives up when there are too many.
    pub(super) fn note(&self, file: &Path, error: Error, monitor: &dyn Monitor) -> Result<()> {
        monitor.warning(error.to_string());
        let too_many = {
            let mut found = self.lock();
            found.pages += 1;
            found.files.insert(file.to_path_buf());
            found.first.get_or_insert(error);
            found.pages >= DAMAGED_PAGES_MAX
        };
        if too_many { self.verdict() } else { Ok(()) }
    }

    /// Whether a page of `file` is damaged.
    pub(super) fn is_in(&self, file: &Path) -> bool {
        self.lock().files.contains(file)
    }

    /// An error if anything was found: the page if it is one, else their number and the first of them.
    pub(super) fn verdict(&self) -> Result<()> {
        let mut found = self.lock();
        let Some(first) = found.first.take() else {
            return Ok(());
        };
        if found.pages == 1 {
            return Err(first);
        }
        let (pages, files) = (found.pages, found.files.len());
        let many = if pages >= DAMAGED_PAGES_MAX {
            "or more "
        } else {
            ""
        };
        let hint = first.hint_text().unwrap_or_default().to_owned();
        Err(Error::new(
            Kind::Checksum,
            format!(
                "{pages} {many}damaged pages in {files} files, each told above; the first: {first}"
            ),
        )
        .hint(hint))
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::monitor::Collector;

    fn page(n: usize) -> Error {
        Error::new(Kind::Checksum, format!("page {n} is damaged in"))
            .path("t")
            .hint("rebuild it")
    }

    #[test]
    fn one_is_told_as_it_is_and_many_are_counted() {
        let (damage, monitor) = (Damage::default(), Collector::default());
        damage.verdict().unwrap();
        damage.note(Path::new("t"), page(7), &monitor).unwrap();
        assert!(damage.is_in(Path::new("t")) && !damage.is_in(Path::new("u")));
        let error = damage.verdict().unwrap_err();
        assert_eq!(error.to_string(), r#"page 7 is damaged in "t""#);

        let damage = Damage::default();
        for (n, file) in (1..).zip(["t", "u", "t"]) {
            damage.note(Path::new(file), page(n), &monitor).unwrap();
        }
        let error = damage.verdict().unwrap_err();
        assert!(error.to_string().starts_with("3 damaged pages in 2 files"));
        assert_eq!(error.hint_text(), Some("rebuild it"));
        assert_eq!(monitor.events().len(), 4);
    }

    #[test]
    fn too_many_are_the_end() {
        let (damage, monitor) = (Damage::default(), Collector::default());
        for n in 1..DAMAGED_PAGES_MAX {
            damage.note(Path::new("t"), page(n), &monitor).unwrap();
        }
        let end = damage.note(Path::new("t"), page(0), &monitor).unwrap_err();
        assert!(end.to_string().contains("or more damaged pages"), "{end}");
        assert_eq!(end.kind(), Kind::Checksum);
    }
}
