//! Reads what belongs to the server. Whoever may not is told where and as whom to run: the commonest mistake of all.

use std::path::{Path, PathBuf};

use crate::base::error::{Error, Result};
use crate::base::fsx::{self, Entry, File, Stat};

/// What to do about a file or directory of the server that cannot be read.
const REMEDY: &str = "xbpipe reads the files of the server: run it on the server's host, as the server's user or root";

/// Opens a file of the server's.
pub(crate) fn open(path: impl AsRef<Path>) -> Result<File> {
    File::open(path.as_ref()).map_err(told)
}

/// Lists a directory of the server's.
pub(crate) fn list_dir(path: impl AsRef<Path>) -> Result<Vec<Entry>> {
    fsx::list_dir(path).map_err(told)
}

/// `stat` of something of the server's.
pub(crate) fn stat(path: impl AsRef<Path>) -> Result<Stat> {
    fsx::stat(path).map_err(told)
}

/// Reads a small file of the server's whole.
pub(crate) fn read_small(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
    fsx::read_small(path, limit).map_err(told)
}

/// Looks whether `datadir` and the `files` that every server has are there and for us to read. Anything else means that this
/// is not where, or not as whom, a backup can be made.
pub(crate) fn look_around(datadir: &Path, files: &[PathBuf]) -> Result<()> {
    let told = |e: Error| e.hint(REMEDY);
    fsx::list_dir(datadir).map_err(told)?;
    for file in files {
        File::open(file).map_err(told)?;
    }
    Ok(())
}

/// Whether something of the server's has that name.
pub(crate) fn exists(path: impl AsRef<Path>) -> Result<bool> {
    fsx::exists(path).map_err(told)
}

fn told(error: Error) -> Error {
    if error.is_permission_denied() {
        error.hint(REMEDY)
    } else {
        error
    }
}
