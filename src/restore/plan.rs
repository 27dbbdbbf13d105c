//! Which file of a prepared backup goes where.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::metadata::{MY_CNF, Names};
use crate::prepare::inventory::{FoundFile, Inventory, LOG_NAME, data_file_names, is_undo};
use crate::prepare::links::link_target;
use crate::restore::RestoreOptions;

/// What all our own files in a backup begin with.
const OWN_PREFIX: &str = "xbpipe_";

/// One file's way.
#[derive(Debug)]
pub(crate) struct Item {
    /// Where it is.
    pub(crate) source: PathBuf,
    /// Where it shall be, absolute.
    pub(crate) target: PathBuf,
    /// Bytes.
    pub(crate) size: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    /// The source keeps it even when all else is moved: without it a move that was broken off could not be
    /// recognised.
    pub(crate) stays: bool,
    /// The `.isl` file that says where it shall be.
    pub(crate) link: Option<PathBuf>,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Directories to make in the data directory, parents first, with their modes.
    pub(crate) dirs: Vec<(PathBuf, u32)>,
    /// The redo log. A server refuses to make a new system tablespace beside it, so from here on no server starts before
    /// the last file is there.
    pub(crate) first: Vec<Item>,
    /// Files in any order.
    pub(crate) files: Vec<Item>,
    /// Files that come after all others: `.isl` files, which tell where tables belong until these are there, and then the
    /// system tablespace, without which no server starts on a copy that is not whole.
    pub(crate) last: Vec<Item>,
    /// Directories outside the data directory.
    pub(crate) outside: BTreeSet<PathBuf>,
}

impl Plan {
    /// `data_files` is the backup's `innodb_data_file_path`.
    pub(crate) fn new(
        source: &Path,
        datadir: &Path,
        found: &Inventory,
        data_files: &str,
        options: &RestoreOptions,
    ) -> Result<Self> {
        let mut plan = Self::default();
        let system = data_file_names(data_files);
        for dir in found.dirs.iter().filter(|dir| !is_left_out(&dir.path)) {
            plan.dirs.push((datadir.join(&dir.path), dir.stat.mode));
        }
        let mut system_items = Vec::new();
        for file in found.files.iter().filter(|file| !is_left_out(&file.path)) {
            let name = file.path.to_str().unwrap_or_default();
            let is_system = system.iter().any(|s| s == name);
            let elsewhere = if is_system {
                options.innodb_data_home_dir.as_deref()
            } else if is_undo(&file.path) {
                options.innodb_undo_directory.as_deref()
            } else if name == LOG_NAME {
                options.innodb_log_group_home_dir.as_deref()
            } else if name.starts_with("aria_log") {
                options.aria_log_dir_path.as_deref()
            } else {
                None
            };
            let linked = linked(source, found, file)?;
            let link = linked
                .is_some()
                .then(|| source.join(file.path.with_extension("isl")));
            let target = match (elsewhere, linked) {
                (Some(dir), _) => {
                    let dir = absolute(dir)?;
                    plan.outside.insert(dir.clone());
                    dir.join(&file.path)
                }
                (None, Some(target)) => {
                    plan.outside.extend(target.parent().map(Path::to_path_buf));
                    target
                }
                (None, None) => datadir.join(&file.path),
            };
            let item = Item {
                source: source.join(&file.path),
                target,
                size: file.stat.size,
                mode: file.stat.mode,
                stays: [Names::XTRABACKUP.info, Names::MARIADB_BACKUP.info].contains(&name),
                link,
            };
            if is_system {
                system_items.push(item);
            } else if name == LOG_NAME {
                plan.first.push(item);
            } else if file.path.extension().is_some_and(|e| e == "isl") {
                plan.last.push(item);
            } else {
                plan.files.push(item);
            }
        }
        // Large ones first, so that no thread is left alone with one at the end.
        plan.files.sort_by_key(|item| std::cmp::Reverse(item.size));
        plan.last.extend(system_items);
        Ok(plan)
    }

    /// Every file.
    pub(crate) fn items(&self) -> impl Iterator<Item = &Item> {
        self.first.iter().chain(&self.files).chain(&self.last)
    }

    /// Refuses targets that exist.
    pub(crate) fn check_free(&self) -> Result<()> {
        for item in self.items() {
            if fsx::exists(&item.target)? {
                let hint = match &item.link {
                    None => "it may be a live file; move it away first".to_owned(),
                    Some(link) => format!(
                        "it may be a live table: leave it, and remove {link:?} to have this table in the data \
                         directory, as prepare told; or move it away first"
                    ),
                };
                return Err(Error::new(
                    Kind::Usage,
                    "a file of the backup belongs where one exists",
                )
                .path(&item.target)
                .hint(hint));
            }
        }
        Ok(())
    }
}

fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))
}

/// Metadata of the backup, which is none of the server's business.
fn is_left_out(path: &Path) -> bool {
    let name = path.to_str().unwrap_or_default();
    let metadata = [Names::XTRABACKUP, Names::MARIADB_BACKUP];
    name == MY_CNF
        || name.starts_with(OWN_PREFIX)
        || path.starts_with("lost+found")
        || path.extension().is_some_and(|e| e == "qp")
        || metadata
            .iter()
            .any(|n| name == n.checkpoints || name == n.binlog_info)
}

/// The path of a table with a DATA DIRECTORY, as its `.isl` file has it.
fn linked(source: &Path, found: &Inventory, file: &FoundFile) -> Result<Option<PathBuf>> {
    if file.path.extension().is_none_or(|e| e != "ibd") {
        return Ok(None);
    }
    let link = file.path.with_extension("isl");
    if !found.links.contains(&link) {
        return Ok(None);
    }
    let link = source.join(link);
    let target = link_target(&link)?;
    // The server keeps `db/table.ibd` below any such directory; anything else did not come from one.
    if target.ends_with(&file.path) && !has_parent_steps(&target) {
        return Ok(Some(target));
    }
    Err(Error::new(
        Kind::Checksum,
        format!("the path {} is not that of this table", target.display()),
    )
    .path(link))
}

fn has_parent_steps(path: &Path) -> bool {
    path.components()
        .any(|part| part == std::path::Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_stays_behind() {
        for name in [
            "backup-my.cnf",
            "xtrabackup_checkpoints",
            "mariadb_backup_binlog_info",
            "xbpipe_prepare.log",
            "xbpipe_index",
            "d/t.ibd.qp",
        ] {
            assert!(is_left_out(Path::new(name)), "{name}");
        }
        for name in [
            "xtrabackup_info",
            "ibdata1",
            "d/xbpipe_t.ibd",
            "xtrabackup_galera_info",
        ] {
            assert!(!is_left_out(Path::new(name)), "{name}");
        }
    }
}
