//! What can be asked for as `--compress`.

use std::sync::Arc;

use crate::base::error::{Error, Kind, Result};
use crate::codec::{Encoder, zstd};

/// How members are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Zstandard of this level, 1 to [`zstd::LEVEL_MAX`].
    Zstd(i32),
}

impl Compression {
    /// What does it, in pieces of at most `frame_len` plain bytes where the format has such.
    pub fn encoder(self, frame_len: usize) -> Result<Option<Arc<dyn Encoder>>> {
        Ok(match self {
            Self::None => None,
            Self::Zstd(level) => {
                let encoder = zstd::ZstdEncoder::new(level, frame_len)
                    .map_err(|e| Error::new(Kind::Failed, "cannot compress").source(e))?;
                Some(Arc::new(encoder))
            }
        })
    }
}

impl std::str::FromStr for Compression {
    type Err = Error;

    /// `none`, `zstd` or `zstd:LEVEL`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(Kind::Usage, format!("{text:?} is not a compression")).hint(format!(
                "use none, zstd or zstd:LEVEL with a level from 1 to {}",
                zstd::LEVEL_MAX
            ))
        };
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "zstd" => Ok(Self::Zstd(zstd::LEVEL_DEFAULT)),
            Some(("zstd", level)) => {
                let level = level.parse().map_err(|_| bad())?;
                if (1..=zstd::LEVEL_MAX).contains(&level) {
                    Ok(Self::Zstd(level))
                } else {
                    Err(bad())
                }
            }
            _ => Err(bad()),
        }
    }
}
