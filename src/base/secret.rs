//! Files that hold secrets.

use std::path::Path;

use zeroize::Zeroizing;

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::{self, Dir, File};

/// What a file of a secret held.
#[derive(Debug)]
pub struct Secret {
    /// Its bytes, cleared when dropped.
    pub bytes: Zeroizing<Vec<u8>>,
    /// It is a regular file that every user of the system may read.
    pub open_to_all: bool,
}

/// Reads a file, or a pipe, that holds a secret; longer than `limit` bytes is an error.
pub fn read(path: impl AsRef<Path>, limit: u64) -> Result<Secret> {
    let path = path.as_ref();
    let file = File::open(path)?;
    let stat = file.stat()?;
    // Full length from the start: a buffer that grows leaves copies behind.
    let len = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(vec![0; len.saturating_add(1)]);
    let mut filled = 0;
    loop {
        let n = file.read(bytes.get_mut(filled..).unwrap_or_default())?;
        if n == 0 {
            break;
        }
        filled += n;
    }
    if filled > len {
        let what = format!("file of keys is longer than {limit} bytes:");
        return Err(Error::new(Kind::Failed, what).path(path));
    }
    bytes.truncate(filled);
    Ok(Secret {
        bytes,
        open_to_all: stat.mode & 0o170_004 == 0o100_004,
    })
}

/// Creates a file that only its owner can read, and makes it durable; an existing file is an error.
pub fn write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let Some(name) = path.file_name() else {
        return Err(Error::new(Kind::Usage, "not the name of a file:").path(path));
    };
    let dir = Dir::open(parent.unwrap_or(Path::new(".")))?;
    let file = dir.create_file(Path::new(name), 0o600)?;
    let written = file.write_all_at(bytes, 0).and_then(|()| file.sync());
    if let Err(error) = written {
        // Half a key is of no use to anybody, and would be in the way.
        fsx::remove_file(path).ok();
        return Err(error);
    }
    dir.sync()
}
