//! The small text files of a backup: pure writers and parsers, in the grammar that MariaDB's own backup tool uses, so that
//! either tool can prepare and restore what the other made. Normative text: `format-spec/metadata.md`.
//!
//! Parsers tolerate keys they do not know and keep them (`r[metadata.unknown]`); every size has a limit.

pub mod binlog;
pub mod checkpoints;
pub mod info;
pub mod my_cnf;
pub mod slave;

use crate::base::spec::{Enum, Limit, Tables};

/// Bytes of a metadata file that we read; real ones have a few hundred, GTID sets a few thousand
/// (`r[metadata.length]`).
pub const METADATA_LEN_MAX: usize = 1 << 20;

/// The tables of `format-spec/metadata.md`.
pub const TABLES: Tables = Tables {
    document: "metadata.md",
    layouts: &[],
    enums: &[Enum {
        name: "backup type",
        values: &checkpoints::BACKUP_TYPES,
    }],
    limits: &[Limit {
        name: "METADATA_LEN_MAX",
        value: METADATA_LEN_MAX as u64,
        unit: "bytes",
    }],
};

/// The file names, which changed with MariaDB 11 (`r[metadata.names]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// Kind of backup and its LSNs: [`checkpoints::Checkpoints`].
    pub checkpoints: &'static str,
    /// The backup's story: [`info::Info`].
    pub info: &'static str,
    /// Binary log position: [`binlog::BinlogPosition`].
    pub binlog_info: &'static str,
    /// How to make a replica of the source's source: [`slave::SlaveInfo`].
    pub slave_info: &'static str,
    /// Galera position.
    pub galera_info: &'static str,
}

impl Names {
    /// The names that every tool reads; MySQL's and those of MariaDB before 11.
    pub const XTRABACKUP: Self = Self {
        checkpoints: "xtrabackup_checkpoints",
        info: "xtrabackup_info",
        binlog_info: "xtrabackup_binlog_info",
        slave_info: "xtrabackup_slave_info",
        galera_info: "xtrabackup_galera_info",
    };
    /// MariaDB 11 and later.
    pub const MARIADB_BACKUP: Self = Self {
        checkpoints: "mariadb_backup_checkpoints",
        info: "mariadb_backup_info",
        binlog_info: "mariadb_backup_binlog_info",
        slave_info: "mariadb_backup_slave_info",
        galera_info: "mariadb_backup_galera_info",
    };
}

/// Name of the option file, the same everywhere.
pub const MY_CNF: &str = "backup-my.cnf";

/// What is wrong with a metadata file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Longer than any such file.
    #[error("{found} bytes are too many for a metadata file, the limit is {METADATA_LEN_MAX}")]
    Length {
        /// Bytes given.
        found: usize,
    },
    /// Not text.
    #[error("not UTF-8 at byte {at}")]
    NotText {
        /// Offset of the first bad byte.
        at: usize,
    },
    /// A key that must be there is not.
    #[error("key {key} is missing")]
    Missing {
        /// Its name.
        key: &'static str,
    },
    /// A value or line that makes no sense.
    #[error("{key} has the value {value:?}")]
    Value {
        /// The key, or what the line should be.
        key: &'static str,
        /// What stands there.
        value: String,
    },
}

/// The text of a file within the limit.
fn text(bytes: &[u8]) -> Result<&str, MetadataError> {
    if bytes.len() > METADATA_LEN_MAX {
        let found = bytes.len();
        return Err(MetadataError::Length { found });
    }
    std::str::from_utf8(bytes).map_err(|e| MetadataError::NotText {
        at: e.valid_up_to(),
    })
}

/// Keys and values of `key = value` lines (`r[metadata.pairs]`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Splits lines at their first `=`. A line without one goes on with the value before it: sets of GTIDs have line
    /// ends in them.
    fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for line in text(bytes)?.lines() {
            let trimmed = line.trim();
            match (trimmed.split_once('='), pairs.last_mut()) {
                (Some((key, value)), _) => {
                    pairs.push((key.trim().to_owned(), value.trim().to_owned()));
                }
                (None, Some((_, value))) if !trimmed.is_empty() => value.push_str(trimmed),
                (None, None) if !trimmed.is_empty() => {
                    let (key, value) = ("line", trimmed.to_owned());
                    return Err(MetadataError::Value { key, value });
                }
                (None, _) => {}
            }
        }
        Ok(Self(pairs))
    }

    /// Takes the last value of `key` and all others of that name with it.
    fn take(&mut self, key: &str) -> Option<String> {
        let mut found = None;
        self.0.retain_mut(|(name, value)| {
            let own = name == key;
            if own {
                found = Some(std::mem::take(value));
            }
            !own
        });
        found
    }

    fn need(&mut self, key: &'static str) -> Result<String, MetadataError> {
        self.take(key).ok_or(MetadataError::Missing { key })
    }

    fn number<T: std::str::FromStr>(&mut self, key: &'static str) -> Result<T, MetadataError> {
        let value = self.need(key)?;
        value
            .parse()
            .map_err(|_| MetadataError::Value { key, value })
    }
}

/// Appends `key = value` with a line end; line ends in the value become spaces, so that it stays one line.
fn push_pair(out: &mut String, key: &str, value: &str) {
    out.push_str(key);
    out.push_str(" = ");
    out.extend(
        value
            .chars()
            .map(|c| if c == '\n' || c == '\r' { ' ' } else { c }),
    );
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_beyond_the_limit_and_binary_ones_are_refused() {
        let found = METADATA_LEN_MAX + 1;
        assert_eq!(
            text(&vec![b' '; found]),
            Err(MetadataError::Length { found })
        );
        assert_eq!(text(b"ab\xff"), Err(MetadataError::NotText { at: 2 }));
        assert!(Pairs::parse(b"no pair\n").is_err());
    }
}
