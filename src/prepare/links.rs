//! Tables that lie outside of the data directory: an `.isl` file stands in the table's place and holds the path.
//!
//! The backup has the table beside its `.isl` file. Recovery must not follow the path, which may lead to the live file of
//! the server the backup was made of; and whoever starts a server on the prepared backup must know that it would.

use std::path::{Path, PathBuf};

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::run::Run;

/// Bytes of an `.isl` file: one path.
const LINK_LEN_MAX: u64 = 4096;
/// Tables named in the warning; a line has room for no more, and a partitioned table may have thousands.
const NAMED_MAX: usize = 8;

/// In an encrypted log the paths cannot be seen and so not rewritten: the server would follow one that exists here.
pub(super) fn check_away(link: &Path) -> Result<()> {
    let target = link_target(link)?;
    if !fsx::exists(&target)? {
        return Ok(());
    }
    Err(Error::new(
        Kind::Failed,
        format!(
            "the backup's encrypted log may lead the server to {}, which exists on this host",
            target.display()
        ),
    )
    .path(link)
    .hint("that may be the live table; prepare the backup on another host, or in a container without that path"))
}

/// The path in an `.isl` file.
pub(crate) fn link_target(link: &Path) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = fsx::read_small(link, LINK_LEN_MAX)?;
    let path = bytes.trim_ascii();
    if path.first() != Some(&b'/') || path.contains(&0) || !path.ends_with(b".ibd") {
        return Err(Error::new(Kind::Checksum, "no path of a tablespace in this file").path(link));
    }
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(path)))
}

/// Warns of the `.isl` files in the backup `dir` (r[servers.elsewhere]): a server that is started on it follows them, away from
/// the tables beside them.
pub(super) fn warn<'a>(dir: &Path, links: impl IntoIterator<Item = &'a Path>, run: &Run) {
    let links: Vec<&Path> = links.into_iter().collect();
    let mut named: Vec<String> = links
        .iter()
        .take(NAMED_MAX)
        .map(|link| match link_target(&dir.join(link)) {
            Ok(target) => format!("{link:?} leads to {target:?}"),
            // `copy-back` tells what is wrong with it.
            Err(_) => format!("{link:?} leads nowhere"),
        })
        .collect();
    if named.is_empty() {
        return;
    }
    if links.len() > NAMED_MAX {
        named.push(format!("and {} more", links.len() - NAMED_MAX));
    }
    run.monitor.warning(format!(
        "tables that lie outside of the data directory: {}",
        named.join(", ")
    ));
    run.monitor.warning(
        "copy-back and move-back put these tables where the .isl files lead; to start a server on the backup where it is, \
         or to restore it beside the server it is of, remove the .isl files first: the tables beside them are complete"
            .to_owned(),
    );
    run.monitor.warning(
        "of a table without its .isl file the first change must be ALTER TABLE ... FORCE, ALGORITHM=COPY, or ALTER TABLE ... \
         REBUILD PARTITION ALL if it has partitions: MariaDB crashes in others"
            .to_owned(),
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::cancel::Cancel;
    use crate::base::monitor::{Collector, Event};

    #[test]
    fn the_warning_is_of_bounded_length() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<PathBuf> = (0..20)
            .map(|n| PathBuf::from(format!("t{n}.isl")))
            .collect();
        fsx::write_small(dir.path().join("t0.isl"), b"/away/d/t0.ibd").unwrap();
        let monitor = Arc::new(Collector::default());
        let run = Run {
            cancel: Cancel::new(),
            monitor: Arc::<Collector>::clone(&monitor),
        };
        warn(dir.path(), [], &run);
        assert_eq!(monitor.events(), []);
        warn(dir.path(), names.iter().map(PathBuf::as_path), &run);
        let events = monitor.events();
        let Event::Warning(text) = &events[0] else {
            panic!("{events:?}")
        };
        for part in [
            r#""t0.isl" leads to "/away/d/t0.ibd", "#,
            r#""t7.isl" leads nowhere, and 12 more"#,
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
