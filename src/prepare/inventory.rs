//! What lies in a backup directory, and whether it is a backup that can be prepared at all.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::{self, EntryKind, Stat};
use crate::metadata::checkpoints::{BackupType, Checkpoints};
use crate::metadata::info::Info;
use crate::metadata::my_cnf::MyCnf;
use crate::metadata::{METADATA_LEN_MAX, MY_CNF, MetadataError, Names};
use crate::pipeline::dir_sink::is_partial;

/// The redo log of a backup.
pub(crate) const LOG_NAME: &str = "ib_logfile0";
/// Directories deeper than this are no backup of a server, which knows one level.
const DEPTH_MAX: usize = 16;
/// Endings of files that an extraction left compressed or encrypted.
const PACKED: [&str; 6] = ["zst", "qp", "lz4", "xbcrypt", "age", "gz"];

/// One file of the backup.
#[derive(Debug, Clone)]
pub(crate) struct FoundFile {
    /// Path within the directory.
    pub(crate) path: PathBuf,
    /// Size, owner, mode.
    pub(crate) stat: Stat,
}

/// Everything below a directory. Links and special files are refused: recovery would follow them out of it.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// Regular files in the order of their paths.
    pub(crate) files: Vec<FoundFile>,
    /// Directories, parents before children.
    pub(crate) dirs: Vec<FoundFile>,
    /// Paths of `.isl` files.
    pub(crate) links: BTreeSet<PathBuf>,
}

impl Inventory {
    /// Walks `root`.
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let mut found = Self::default();
        found.walk(root, Path::new(""), 0)?;
        found.links = found
            .with_extension("isl")
            .map(|file| file.path.clone())
            .collect();
        Ok(found)
    }

    fn walk(&mut self, root: &Path, below: &Path, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(
                Error::new(Kind::Usage, "not a backup: too many levels of directories")
                    .path(root.join(below)),
            );
        }
        for entry in fsx::list_dir(root.join(below))? {
            let path = below.join(&entry.name);
            let file = |path: &Path| -> Result<FoundFile> {
                Ok(FoundFile {
                    path: path.to_path_buf(),
                    stat: fsx::stat_nofollow(root.join(path))?,
                })
            };
            match entry.kind {
                EntryKind::File => self.files.push(file(&path)?),
                EntryKind::Dir => {
                    self.dirs.push(file(&path)?);
                    self.walk(root, &path, depth + 1)?;
                }
                EntryKind::Link | EntryKind::Other => {
                    return Err(Error::new(
                        Kind::Usage,
                        "a backup has only files and directories; this is neither",
                    )
                    .path(root.join(path))
                    .hint("put a file in the place of the link; recovery writes, and would leave the directory"));
                }
            }
        }
        Ok(())
    }

    /// Whether there is a file of that name at the top.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.path == Path::new(name))
    }

    /// Files whose last extension is `extension`.
    pub(crate) fn with_extension<'a>(
        &'a self,
        extension: &'a str,
    ) -> impl Iterator<Item = &'a FoundFile> {
        self.files
            .iter()
            .filter(move |file| file.path.extension() == Some(OsStr::new(extension)))
    }

    /// A file that was not written to its end.
    fn partial(&self) -> Option<&FoundFile> {
        self.files.iter().find(|file| is_partial(&file.path))
    }

    /// Undo tablespaces (`undo001`, `undo002`, ...) at the top.
    pub(crate) fn undo_files(&self) -> impl Iterator<Item = &FoundFile> {
        self.files.iter().filter(|file| is_undo(&file.path))
    }
}

/// Whether this is the name of an undo tablespace.
pub(crate) fn is_undo(path: &Path) -> bool {
    let digits = path.to_str().and_then(|name| name.strip_prefix("undo"));
    digits.is_some_and(|d| d.len() == 3 && d.bytes().all(|b| b.is_ascii_digit()))
}

/// The metadata of a backup.
#[derive(Debug)]
pub(crate) struct Metadata {
    /// Name of the checkpoints file.
    pub(crate) checkpoints_name: &'static str,
    /// Its content.
    pub(crate) checkpoints: Checkpoints,
    /// The backup's story.
    pub(crate) info: Info,
    /// Options of the server it was made of.
    pub(crate) my_cnf: MyCnf,
}

impl Metadata {
    /// Reads the metadata files in `root`, or says what makes the directory no whole backup.
    pub(crate) fn read(root: &Path, found: &Inventory) -> Result<Self> {
        let both = [Names::XTRABACKUP, Names::MARIADB_BACKUP];
        let Some(names) = both.into_iter().find(|n| found.has(n.checkpoints)) else {
            return Err(no_checkpoints(root, found, &both));
        };
        let read = |name: &str| -> Result<Vec<u8>> {
            if !found.has(name) {
                return Err(incomplete(
                    root,
                    format!("the backup is incomplete: {name} is missing"),
                ));
            }
            fsx::read_small(root.join(name), METADATA_LEN_MAX as u64)
        };
        let damaged = |name: &str, e: MetadataError| {
            Error::new(Kind::Checksum, "damaged metadata file")
                .path(root.join(name))
                .source(e)
        };
        // An incremental one has no use for the other files' story, so it is named first.
        let checkpoints = Checkpoints::parse(&read(names.checkpoints)?)
            .map_err(|e| damaged(names.checkpoints, e))?;
        let info_name = both.iter().map(|n| n.info).find(|name| found.has(name));
        let info_name = info_name.unwrap_or(names.info);
        let info = Info::parse(&read(info_name)?).map_err(|e| damaged(info_name, e))?;
        let my_cnf = MyCnf::parse(&read(MY_CNF)?).map_err(|e| damaged(MY_CNF, e))?;
        Ok(Self {
            checkpoints_name: names.checkpoints,
            checkpoints,
            info,
            my_cnf,
        })
    }

    /// Whether recovery was done already.
    pub(crate) fn is_prepared(&self) -> bool {
        matches!(
            self.checkpoints.backup_type,
            BackupType::LogApplied | BackupType::Prepared
        )
    }
}

/// Why a directory without a checkpoints file is no use.
fn no_checkpoints(root: &Path, found: &Inventory, both: &[Names; 2]) -> Error {
    let traces = both.iter().flat_map(|n| [n.info, n.binlog_info]);
    let packed = both.iter().any(|n| {
        PACKED
            .iter()
            .any(|ending| found.has(&format!("{}.{ending}", n.checkpoints)))
    });
    if packed {
        return still_packed(root.to_path_buf());
    }
    if found.has(MY_CNF) || traces.into_iter().any(|name| found.has(name)) {
        return incomplete(
            root,
            format!(
                "the backup is incomplete: it has neither {} nor {}, which are written last",
                both[0].checkpoints, both[1].checkpoints
            ),
        );
    }
    if let Some(file) = found.partial() {
        return Error::new(
            Kind::Incomplete,
            "this is what a backup or an extraction left that did not come to its end: beside others there is",
        )
        .path(root.join(&file.path))
        .hint("remove the directory, and make or extract the backup again; xbpipe extract --resume continues an extraction");
    }
    Error::new(
        Kind::Usage,
        format!("not a backup: no {} in it", both[0].checkpoints),
    )
    .path(root)
    .hint("give the directory that a backup was made in or extracted to")
}

fn incomplete(root: &Path, what: String) -> Error {
    Error::new(Kind::Incomplete, what)
        .path(root)
        .hint("extract or make the backup again; this one cannot be trusted")
}

fn still_packed(path: PathBuf) -> Error {
    Error::new(Kind::Usage, "the backup is still compressed or encrypted")
        .path(path)
        .hint("extract it with --decompress and --decrypt-key-file; MariaDB's server cannot read these files")
}

/// Refuses what cannot be prepared. `Metadata::is_prepared` must have been asked before.
pub(crate) fn check_preparable(root: &Path, found: &Inventory, metadata: &Metadata) -> Result<()> {
    if let Some(file) = found.partial() {
        return Err(Error::new(
            Kind::Incomplete,
            "the backup is incomplete: a file in it was not written to its end",
        )
        .path(root.join(&file.path))
        .hint("extract or make the backup again"));
    }
    if let Some(file) = PACKED.iter().find_map(|e| found.with_extension(e).next()) {
        return Err(still_packed(root.join(&file.path)));
    }
    if metadata.checkpoints.backup_type == BackupType::Incremental
        || metadata.info.incremental
        || found.with_extension("delta").next().is_some()
    {
        return Err(Error::new(
            Kind::Usage,
            "this is an incremental backup, which is nothing without its base",
        )
        .path(root)
        .hint("prepare the full backup it is based on, with the program that made both"));
    }
    if !found.has(LOG_NAME) {
        return Err(incomplete(
            root,
            format!("the backup is incomplete: the redo log {LOG_NAME} is missing"),
        ));
    }
    let data_files = metadata
        .my_cnf
        .get("innodb_data_file_path")
        .unwrap_or("ibdata1");
    for name in data_file_names(data_files) {
        if !found.has(&name) {
            return Err(incomplete(
                root,
                format!("the backup is incomplete: the system tablespace {name} is missing"),
            ));
        }
    }
    Ok(())
}

/// File names in a value of `innodb_data_file_path`, without directories.
pub(crate) fn data_file_names(path: &str) -> Vec<String> {
    crate::metadata::my_cnf::strip_directories(path)
        .split(';')
        .map(|file| file.split(':').next().unwrap_or_default().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised() {
        assert!(is_undo(Path::new("undo001")) && !is_undo(Path::new("db/undo001")));
        assert!(!is_undo(Path::new("undo1")) && !is_undo(Path::new("undo001.ibd")));
        assert_eq!(
            data_file_names("/x/ibdata1:12M;ibdata2:1M:autoextend"),
            ["ibdata1", "ibdata2"]
        );
    }
}
