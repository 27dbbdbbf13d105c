//! What a data directory holds: tablespaces, and everything that is not InnoDB.
//!
//! Only names and stat results are looked at; nothing is opened but the small `.isl` files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::backup::reading;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::{self, EntryKind, Identity};
use crate::server::variables::Variables;
use crate::xbstream::ArchivePath;

/// The control file of the Aria engine.
pub(crate) const ARIA_CONTROL: &str = "aria_log_control";

/// Longest content of an `.isl` file: one path.
const ISL_LEN_MAX: u64 = 4096;

/// Extensions of files beside tables and databases that belong into a backup
/// (what the storage engines MyISAM, MERGE, ARCHIVE, CSV, Aria and Mroonga and the server itself write).
const COPIED: [&str; 17] = [
    "frm", "par", "opt", "TRG", "TRN", "isl", "MYD", "MYI", "MRG", "ARM", "ARZ", "CSM", "CSV",
    "MAD", "MAI", "mrn", "SEQ",
];

/// Extensions and names in a database directory that are known not to belong into one.
const LEFT_OUT: [&str; 6] = ["ibd", "ren", "del", "new", "delta", "meta"];

/// Tables that are written past the backup lock's earlier stages: logs and statistics. Copied once commits are blocked.
const LATE_TABLES: [&str; 6] = [
    "general_log",
    "slow_log",
    "table_stats",
    "column_stats",
    "index_stats",
    "transaction_registry",
];

/// A file of InnoDB pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tablespace {
    /// Its name in the backup.
    pub(crate) name: ArchivePath,
    /// Where it is.
    pub(crate) place: PathBuf,
    /// Length when it was listed, in bytes.
    pub(crate) size: u64,
    /// Which file it is.
    pub(crate) identity: Identity,
    /// When it was written to last.
    pub(crate) modified_ns: i128,
}

/// A file that is copied as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlainFile {
    /// Its name in the backup.
    pub(crate) name: ArchivePath,
    /// Where it is.
    pub(crate) place: PathBuf,
    /// What it was when it was listed.
    pub(crate) stamp: Stamp,
}

/// Which file something is, and in which state. It tells whether anybody wrote to it, but for writes through a mapping,
/// and for those within the same tick of the file system's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which file it is.
    pub(crate) identity: Identity,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// When it was written to last, nanoseconds since the epoch.
    pub(crate) modified_ns: i128,
    /// When anything of it changed last.
    pub(crate) changed_ns: i128,
}

impl From<fsx::Stat> for Stamp {
    fn from(stat: fsx::Stat) -> Self {
        Self {
            identity: stat.identity,
            size: stat.size,
            modified_ns: stat.modified_ns,
            changed_ns: stat.changed_ns,
        }
    }
}

/// Everything that is not InnoDB.
#[derive(Debug, Default)]
pub(crate) struct OtherFiles {
    /// Copied while DDL is blocked.
    pub(crate) early: Vec<PlainFile>,
    /// Copied while commits are blocked.
    pub(crate) late: Vec<PlainFile>,
    /// Database directories without any file.
    pub(crate) empty_databases: Vec<String>,
    /// What is in the directories of databases and is no file of a storage engine that we know.
    pub(crate) left_out: Vec<PathBuf>,
}

/// Finds files by the server's variables.
#[derive(Debug)]
pub(crate) struct Inventory<'a> {
    variables: &'a Variables,
}

impl<'a> Inventory<'a> {
    pub(crate) const fn new(variables: &'a Variables) -> Self {
        Self { variables }
    }

    /// The files of the system tablespace in their order. Their page numbers run on from file to file.
    pub(crate) fn system(&self) -> Result<Vec<Tablespace>> {
        let home = self
            .variables
            .innodb_data_home_dir
            .as_ref()
            .unwrap_or(&self.variables.datadir);
        let mut files: Vec<Tablespace> = Vec::new();
        for entry in self.variables.innodb_data_file_path.split(';') {
            let name = entry.split(':').next().unwrap_or_default();
            if name.is_empty() {
                continue;
            }
            let place = home.join(name);
            let file = self.tablespace(top_name(&place)?, place)?;
            if files.iter().any(|f| f.name == file.name) {
                return Err(Error::new(
                    Kind::Server,
                    "two files of the system tablespace have the same base name",
                )
                .path(file.place));
            }
            files.push(file);
        }
        Ok(files)
    }

    /// The undo tablespaces: `undo001` and so on.
    pub(crate) fn undo(&self) -> Result<Vec<Tablespace>> {
        let directory = &self.variables.innodb_undo_directory;
        let mut files = Vec::new();
        for entry in reading::list_dir(directory)? {
            let name = entry.name.as_bytes();
            let digits = name.strip_prefix(b"undo").unwrap_or_default();
            if digits.len() == 3 && digits.iter().all(u8::is_ascii_digit) {
                let place = directory.join(&entry.name);
                files.push(self.tablespace(top_name(&place)?, place)?);
            }
        }
        Ok(files)
    }

    /// Every file-per-table tablespace that is there now, those with a DATA DIRECTORY under their local names. A file
    /// that vanishes meanwhile is not listed.
    pub(crate) fn tables(&self) -> Result<Vec<Tablespace>> {
        let mut files = Vec::new();
        for (database, directory) in self.databases()? {
            for entry in list_if_there(&directory)? {
                let name = Path::new(&entry.name);
                let place = directory.join(name);
                let file = match name.extension().and_then(OsStr::to_str) {
                    Some("ibd") => (db_name(&database, name)?, place),
                    Some("isl") => {
                        let Some(target) = read_isl(&place)? else {
                            continue;
                        };
                        (db_name(&database, &name.with_extension("ibd"))?, target)
                    }
                    _ => continue,
                };
                if let Some(file) = if_there(self.tablespace(file.0, file.1))? {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }

    /// What the redo log calls a tablespace: relative to the data directory, or the whole path of one that is elsewhere.
    pub(crate) fn name_in_log(&self, space: &Tablespace) -> Vec<u8> {
        if space.place == self.variables.datadir.join(space.name.as_path()) {
            [b"./", space.name.as_bytes()].concat()
        } else {
            space.place.as_os_str().as_bytes().to_vec()
        }
    }

    /// Everything else that belongs into a backup.
    pub(crate) fn others(&self) -> Result<OtherFiles> {
        let mut found = OtherFiles::default();
        for (database, directory) in self.databases()? {
            let mut any = false;
            for entry in list_if_there(&directory)? {
                let name = Path::new(&entry.name);
                let extension = name.extension().and_then(OsStr::to_str).unwrap_or_default();
                any |= extension == "ibd";
                // What a running or dead ALTER TABLE left: recovery drops these tables.
                if entry.name.as_bytes().starts_with(b"#sql") || LEFT_OUT.contains(&extension) {
                    continue;
                }
                if entry.kind == EntryKind::Dir || !COPIED.contains(&extension) {
                    found.left_out.push(directory.join(name));
                    continue;
                }
                any = true;
                let place = directory.join(name);
                let Some(stat) = if_there(reading::stat(&place))? else {
                    continue;
                };
                let file = PlainFile {
                    name: db_name(&database, name)?,
                    place,
                    stamp: stat.into(),
                };
                let late = database.as_bytes() == b"mysql"
                    && extension != "frm"
                    && name
                        .file_stem()
                        .and_then(OsStr::to_str)
                        .is_some_and(|stem| LATE_TABLES.contains(&stem));
                if late {
                    found.late.push(file);
                } else {
                    found.early.push(file);
                }
            }
            if !any {
                found
                    .empty_databases
                    .push(database.to_string_lossy().into_owned());
            }
        }
        // The Amazon key management plugin keeps its keys at the top.
        for entry in reading::list_dir(&self.variables.datadir)? {
            if entry.name.as_bytes().starts_with(b"aws-kms-key") {
                found
                    .early
                    .push(self.plain(self.variables.datadir.join(&entry.name))?);
            }
        }
        Ok(found)
    }

    /// `aria_log_control`.
    pub(crate) fn aria_control(&self) -> Result<PlainFile> {
        self.plain(self.variables.aria_log_dir_path.join(ARIA_CONTROL))
    }

    /// The logs of the Aria engine.
    pub(crate) fn aria_logs(&self) -> Result<Vec<PlainFile>> {
        let directory = &self.variables.aria_log_dir_path;
        let mut files = Vec::new();
        for entry in reading::list_dir(directory)? {
            if entry.name.as_bytes().starts_with(b"aria_log.") {
                files.push(self.plain(directory.join(&entry.name))?);
            }
        }
        Ok(files)
    }

    /// Database directories: name and place.
    fn databases(&self) -> Result<Vec<(std::ffi::OsString, PathBuf)>> {
        let mut found = Vec::new();
        for entry in reading::list_dir(&self.variables.datadir)? {
            let name = entry.name.as_bytes();
            let place = self.variables.datadir.join(&entry.name);
            // A database may be a link to a directory elsewhere.
            let directory = match entry.kind {
                EntryKind::Dir => true,
                EntryKind::Link => if_there(reading::stat(&place))?
                    .is_some_and(|s| s.mode & 0o170_000 == 0o040_000),
                EntryKind::File | EntryKind::Other => false,
            };
            // Names of databases are encoded, so one with such a character is no database.
            let foreign = name.starts_with(b"#") || name.starts_with(b".") || name == b"lost+found";
            let ignored = self
                .variables
                .ignore_db_dirs
                .iter()
                .any(|d| d.as_bytes() == name);
            if directory && !foreign && !ignored && !self.is_server_dir(&place) {
                found.push((entry.name, place));
            }
        }
        Ok(found)
    }

    /// Directories of logs and undo tablespaces may lie in the data directory and are no databases.
    fn is_server_dir(&self, place: &Path) -> bool {
        let v = self.variables;
        let home = v.innodb_data_home_dir.as_ref().unwrap_or(&v.datadir);
        [
            &v.innodb_log_group_home_dir,
            &v.innodb_undo_directory,
            &v.aria_log_dir_path,
            home,
        ]
        .iter()
        .any(|directory| directory.as_path() == place)
            || v.tmpdir
                .split(':')
                .any(|directory| Path::new(directory) == place)
    }

    fn tablespace(&self, name: ArchivePath, place: PathBuf) -> Result<Tablespace> {
        let stat = reading::stat(&place)?;
        Ok(Tablespace {
            name,
            size: stat.size,
            identity: stat.identity,
            modified_ns: stat.modified_ns,
            place,
        })
    }

    fn plain(&self, place: PathBuf) -> Result<PlainFile> {
        let stamp = reading::stat(&place)?.into();
        Ok(PlainFile {
            name: top_name(&place)?,
            place,
            stamp,
        })
    }
}

/// The path an `.isl` file holds; `None` when the file vanished, or holds nothing yet.
pub(crate) fn read_isl(place: &Path) -> Result<Option<PathBuf>> {
    let Some(content) = if_there(reading::read_small(place, ISL_LEN_MAX))? else {
        return Ok(None);
    };
    let text = content.trim_ascii();
    if text.is_empty() {
        // CREATE TABLE is just about to write it.
        return Ok(None);
    }
    if !text.starts_with(b"/") || text.contains(&0) || text.contains(&b'\n') {
        return Err(
            Error::new(Kind::Failed, "link file does not hold an absolute path").path(place),
        );
    }
    Ok(Some(PathBuf::from(OsStr::from_bytes(text))))
}

/// A result that may say that there is no such file (any more).
pub(crate) fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn list_if_there(directory: &Path) -> Result<Vec<fsx::Entry>> {
    Ok(if_there(reading::list_dir(directory))?.unwrap_or_default())
}

/// The name in the backup of a file at its top.
fn top_name(place: &Path) -> Result<ArchivePath> {
    let name = place.file_name().unwrap_or_default();
    archive_name(name.as_bytes(), place)
}

fn db_name(database: &OsStr, name: &Path) -> Result<ArchivePath> {
    let joined = Path::new(database).join(name);
    archive_name(joined.as_os_str().as_bytes(), &joined)
}

fn archive_name(bytes: &[u8], place: &Path) -> Result<ArchivePath> {
    ArchivePath::new(bytes).map_err(|e| {
        Error::new(Kind::Failed, "no archive can hold the name")
            .path(place)
            .source(e)
    })
}
