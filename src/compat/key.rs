//! Keys of xbcrypt as the old programs take them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use crate::base::error::{Error, Kind, Result};
use crate::base::secret;
use crate::crypt::xbcrypt::Key;
use crate::crypt::xbcrypt::key::KEY_FILE_LEN_MAX;

/// What `--decrypt` and `--encrypt-algo` may be. The key's length decides which AES it really is.
pub(super) const ALGORITHMS: &[&str] = &["NONE", "AES128", "AES192", "AES256"];

/// Where a key comes from, as the options said.
#[derive(Debug, Default)]
pub(super) struct KeySource {
    /// The algorithm, a number in [`ALGORITHMS`].
    pub(super) algorithm: Option<usize>,
    pub(super) text: Option<OsString>,
    pub(super) file: Option<OsString>,
}

impl KeySource {
    /// The key, and a remark if it is not what the algorithm says. `environment` is a key from there, which counts if no option
    /// gives one. r[compat-xbcrypt.key]
    pub(super) fn key(&self, environment: Option<&OsStr>) -> Result<(Key, Option<String>)> {
        let (key, len) = match (self.text.as_deref(), self.file.as_deref(), environment) {
            (Some(_), Some(_), _) => {
                return Err(Error::new(
                    Kind::Usage,
                    "--encrypt-key and --encrypt-key-file exclude each other",
                ));
            }
            (None, Some(file), _) => {
                // Who may read the file is not looked at: callers want no line about it.
                let bytes = secret::read(file, KEY_FILE_LEN_MAX)?.bytes;
                let key = Key::new(&bytes).map_err(|e| e.path(file))?;
                (key, bytes.len())
            }
            (Some(text), None, _) | (None, None, Some(text)) => (of_text(text)?, text.len()),
            (None, None, None) => {
                return Err(Error::new(Kind::Usage, "no key is given")
                    .hint("give --encrypt-key-file=FILE; its bytes are the key"));
            }
        };
        let remark = self
            .algorithm
            .and_then(|i| ALGORITHMS.get(i))
            .filter(|name| **name != "NONE" && **name != name_of(len))
            .map(|name| {
                let is = name_of(len);
                format!("the key has {len} bytes, so that the algorithm is {is}, not {name}")
            });
        Ok((key, remark))
    }
}

fn of_text(text: &OsStr) -> Result<Key> {
    // The text must not be told.
    Key::new(text.as_bytes()).map_err(|e| e.path("(the key given as text)"))
}

/// r[compat-xbcrypt.algorithm]
fn name_of(key_len: usize) -> &'static str {
    match key_len {
        16 => "AES128",
        24 => "AES192",
        _ => "AES256",
    }
}
