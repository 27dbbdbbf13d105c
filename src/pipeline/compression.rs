//! What can be asked for as `--compress`.

use std::sync::Arc;

use crate::base::error::{Error, Kind, Result};
use crate::codec::{Encoder, lz4, qpress, zstd};

/// How members are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Zstandard of this level, 1 to [`zstd::LEVEL_MAX`].
    Zstd(i32),
    /// LZ4 frames.
    Lz4,
    /// QuickLZ in qpress archives, for programs that know nothing else.
    Qpress,
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
            Self::Lz4 => Some(Arc::new(lz4::Lz4Encoder::new(frame_len))),
            Self::Qpress => Some(Arc::new(qpress::QpressEncoder::new(frame_len))),
        })
    }
}

impl std::str::FromStr for Compression {
    type Err = Error;

    /// `none`, `zstd`, `zstd:LEVEL`, `lz4`, `qpress` or, which is the same, `quicklz`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(Kind::Usage, format!("{text:?} is not a compression")).hint(format!(
                "use none, lz4, qpress, zstd or zstd:LEVEL with a level from 1 to {}",
                zstd::LEVEL_MAX
            ))
        };
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "zstd" => Ok(Self::Zstd(zstd::LEVEL_DEFAULT)),
            None if text == "lz4" => Ok(Self::Lz4),
            // As xtrabackup and mariadb-backup call it.
            None if text == "qpress" || text == "quicklz" => Ok(Self::Qpress),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_programs_are_known() {
        let parse = |text: &str| text.parse::<Compression>().ok();
        assert_eq!(parse("quicklz"), Some(Compression::Qpress));
        assert_eq!(parse("qpress"), parse("quicklz"));
        assert_eq!(parse("quicklz:1"), None);
    }
}
