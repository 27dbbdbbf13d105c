//! `xtrabackup_binlog_info`: where replication from this backup starts.

use crate::metadata::{MetadataError, text};

/// A binary log position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinlogPosition {
    /// Name of the binary log file.
    pub file: String,
    /// Byte offset in it.
    pub position: u64,
    /// GTID position; MariaDB always has one, perhaps empty.
    pub gtid: Option<String>,
}

impl BinlogPosition {
    /// The file as text: one line, fields separated by tabs (`r[metadata.binlog-info]`).
    #[must_use]
    pub fn render(&self) -> String {
        let Self { file, position, .. } = self;
        match &self.gtid {
            Some(gtid) => format!("{file}\t{position}\t{gtid}\n"),
            None => format!("{file}\t{position}\n"),
        }
    }

    /// How the info file says it (`r[metadata.info.binlog-pos]`).
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { file, position, .. } = self;
        let begin = format!("filename '{file}', position '{position}'");
        match &self.gtid {
            Some(gtid) => format!("{begin}, GTID of the last change '{gtid}'"),
            None => begin,
        }
    }

    /// Reads the file. A GTID set of MySQL may go on over several lines.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        let text = text(bytes)?;
        let line = text.trim_matches(['\n', '\r']);
        let bad = || MetadataError::Value {
            key: "binary log position",
            value: line.to_owned(),
        };
        let mut fields = line.splitn(3, '\t');
        let file = fields.next().filter(|f| !f.is_empty()).ok_or_else(bad)?;
        let position = fields.next().and_then(|p| p.trim().parse().ok());
        Ok(Self {
            file: file.to_owned(),
            position: position.ok_or_else(bad)?,
            gtid: fields.next().map(|g| g.replace(['\n', '\r'], "")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_and_three_fields_round_trip() {
        for text in [
            "b.000001\t325\t\n",
            "b.000001\t325\t0-71-10388\n",
            "b.000009\t4\n",
        ] {
            assert_eq!(
                BinlogPosition::parse(text.as_bytes()).unwrap().render(),
                text
            );
        }
        let set = BinlogPosition::parse(b"b.1\t4\ta:1-5,\nb:1-7\n").unwrap();
        assert_eq!(set.gtid.as_deref(), Some("a:1-5,b:1-7"));
        for bad in ["", "b.1", "\t4", "b.1\tx"] {
            assert!(BinlogPosition::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_sentence_names_the_gtid_only_if_there_is_one() {
        let mut at = BinlogPosition {
            file: "b.1".to_owned(),
            position: 4,
            gtid: Some(String::new()),
        };
        let with = "filename 'b.1', position '4', GTID of the last change ''";
        assert_eq!(at.sentence(), with);
        at.gtid = None;
        assert_eq!(at.sentence(), "filename 'b.1', position '4'");
    }
}
