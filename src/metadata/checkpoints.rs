//! `xtrabackup_checkpoints`: what kind of backup this is and which LSNs it spans.

use crate::base::units::Lsn;
use crate::metadata::{MetadataError, Pairs, push_pair};

/// What was made, and what was done with it since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupType {
    /// A whole backup, not prepared.
    Full,
    /// Changes since another backup.
    Incremental,
    /// The log was applied; more increments may follow.
    LogApplied,
    /// Prepared for good.
    Prepared,
}

/// The words for the types (`r[metadata.checkpoints.type]`).
pub const BACKUP_TYPES: [(u64, &str); 4] = [
    (0, "full-backuped"),
    (1, "incremental"),
    (2, "log-applied"),
    (3, "full-prepared"),
];

impl BackupType {
    const ALL: [Self; 4] = [
        Self::Full,
        Self::Incremental,
        Self::LogApplied,
        Self::Prepared,
    ];

    /// The word in the file.
    #[must_use]
    pub const fn word(self) -> &'static str {
        BACKUP_TYPES[self as usize].1
    }
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoints {
    /// What this is.
    pub backup_type: BackupType,
    /// Where it starts: zero, or the `to_lsn` of the backup an increment is based on.
    pub from_lsn: Lsn,
    /// The newest checkpoint when the backup ended: where the next increment starts.
    pub to_lsn: Lsn,
    /// End of the copied log (`r[metadata.checkpoints.last-lsn]`).
    pub last_lsn: Lsn,
    /// Whether the binary log position comes from the log; `None` in files of tools without the key.
    pub recover_binlog_info: Option<bool>,
    /// Keys we do not know, in their order.
    pub other: Vec<(String, String)>,
}

impl Checkpoints {
    /// The file as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        push_pair(&mut out, "backup_type", self.backup_type.word());
        push_pair(&mut out, "from_lsn", &self.from_lsn.to_string());
        push_pair(&mut out, "to_lsn", &self.to_lsn.to_string());
        push_pair(&mut out, "last_lsn", &self.last_lsn.to_string());
        if let Some(recover) = self.recover_binlog_info {
            let value = if recover { "1" } else { "0" };
            push_pair(&mut out, "recover_binlog_info", value);
        }
        for (key, value) in &self.other {
            push_pair(&mut out, key, value);
        }
        out
    }

    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        let mut pairs = Pairs::parse(bytes)?;
        let word = pairs.need("backup_type")?;
        let backup_type = BackupType::ALL.into_iter().find(|t| t.word() == word);
        Ok(Self {
            backup_type: backup_type.ok_or(MetadataError::Value {
                key: "backup_type",
                value: word,
            })?,
            from_lsn: Lsn(pairs.number("from_lsn")?),
            to_lsn: Lsn(pairs.number("to_lsn")?),
            last_lsn: Lsn(pairs.number("last_lsn")?),
            recover_binlog_info: pairs.take("recover_binlog_info").map(|v| v != "0"),
            other: pairs.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_both_families_round_trip() {
        for text in [
            "backup_type = incremental\nfrom_lsn = 6060834\nto_lsn = 6063190\n\
             last_lsn = 6063292\nrecover_binlog_info = 0\n",
            "backup_type = full-backuped\nfrom_lsn = 0\nto_lsn = 20328125\nlast_lsn = 20328125\n\
             flushed_lsn = 20328125\nredo_memory = 0\nredo_frames = 0\n",
        ] {
            let parsed = Checkpoints::parse(text.as_bytes()).unwrap();
            assert_eq!(parsed.render(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let missing = Checkpoints::parse(b"backup_type = incremental\nfrom_lsn = 1\n");
        assert_eq!(missing, Err(MetadataError::Missing { key: "to_lsn" }));
        let (key, value) = ("backup_type", "half".to_owned());
        let wrong = Checkpoints::parse(b"backup_type = half\n");
        assert_eq!(wrong, Err(MetadataError::Value { key, value }));
        let (key, value) = ("from_lsn", "-1".to_owned());
        let wrong = Checkpoints::parse(b"backup_type = log-applied\nfrom_lsn = -1\n");
        assert_eq!(wrong, Err(MetadataError::Value { key, value }));
    }
}
