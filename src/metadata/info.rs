//! `xtrabackup_info`: the backup's story for people and for tools that list backups.

use crate::base::units::Lsn;
use crate::metadata::{MetadataError, Pairs, push_pair};

/// What we write as `tool_name`.
pub const TOOL_NAME: &str = "xbpipe";

/// The file's content, in the file's order (`r[metadata.info.order]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Identifier of this backup.
    pub uuid: String,
    /// Name given by the user, often empty.
    pub name: String,
    /// Who made it; [`TOOL_NAME`] in ours.
    pub tool_name: String,
    /// Command line without secrets.
    pub tool_command: String,
    /// Version of the tool.
    pub tool_version: String,
    /// The same, kept for readers of old.
    pub ibbackup_version: String,
    /// `SELECT VERSION()`.
    pub server_version: String,
    /// `YYYY-MM-DD HH:MM:SS`, local time.
    pub start_time: String,
    /// The same at the end.
    pub end_time: String,
    /// Seconds during which writes were blocked.
    pub lock_time: u64,
    /// [`BinlogPosition::sentence`](crate::metadata::binlog::BinlogPosition::sentence), or empty.
    pub binlog_pos: String,
    /// As in the checkpoints file.
    pub innodb_from_lsn: Lsn,
    /// As in the checkpoints file.
    pub innodb_to_lsn: Lsn,
    /// Not all databases are in it.
    pub partial: bool,
    /// It is an increment.
    pub incremental: bool,
    /// `file`, `mbstream`, `xbstream` or `tar`.
    pub format: String,
    /// `compressed` or `N`.
    pub compressed: String,
    /// Keys we do not know, in their order.
    pub other: Vec<(String, String)>,
}

const fn yes_no(value: bool) -> &'static str {
    if value { "Y" } else { "N" }
}

impl Info {
    /// The file as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (key, value) in [
            ("uuid", self.uuid.as_str()),
            ("name", &self.name),
            ("tool_name", &self.tool_name),
            ("tool_command", &self.tool_command),
            ("tool_version", &self.tool_version),
            ("ibbackup_version", &self.ibbackup_version),
            ("server_version", &self.server_version),
            ("start_time", &self.start_time),
            ("end_time", &self.end_time),
            ("lock_time", &self.lock_time.to_string()),
            ("binlog_pos", &self.binlog_pos),
            ("innodb_from_lsn", &self.innodb_from_lsn.to_string()),
            ("innodb_to_lsn", &self.innodb_to_lsn.to_string()),
            ("partial", yes_no(self.partial)),
            ("incremental", yes_no(self.incremental)),
            ("format", &self.format),
            ("compressed", &self.compressed),
        ] {
            push_pair(&mut out, key, value);
        }
        for (key, value) in &self.other {
            push_pair(&mut out, key, value);
        }
        out
    }

    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        let mut pairs = Pairs::parse(bytes)?;
        let mut text = |key| pairs.need(key);
        Ok(Self {
            uuid: text("uuid")?,
            name: text("name")?,
            tool_name: text("tool_name")?,
            tool_command: text("tool_command")?,
            tool_version: text("tool_version")?,
            ibbackup_version: text("ibbackup_version")?,
            server_version: text("server_version")?,
            start_time: text("start_time")?,
            end_time: text("end_time")?,
            binlog_pos: text("binlog_pos")?,
            partial: text("partial")? == "Y",
            incremental: text("incremental")? == "Y",
            format: text("format")?,
            compressed: text("compressed")?,
            lock_time: pairs.number("lock_time")?,
            innodb_from_lsn: Lsn(pairs.number("innodb_from_lsn")?),
            innodb_to_lsn: Lsn(pairs.number("innodb_to_lsn")?),
            other: pairs.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = "\
uuid = 7b115147-e53d-11f1-98a4-02fc00000001
name = 
tool_name = mariadb-backup
tool_command = --no-defaults --backup --password=... --socket=s
tool_version = 10.11.19-MariaDB
ibbackup_version = 10.11.19-MariaDB
server_version = 10.11.19-MariaDB-0+deb12u1-log
start_time = 2026-11-20 23:52:42
end_time = 2026-11-20 23:52:44
lock_time = 0
binlog_pos = filename 'binlog.000001', position '29451165', GTID of the last change '0-71-10388'
innodb_from_lsn = 0
innodb_to_lsn = 228843729
partial = N
incremental = N
format = file
compressed = N
";

    #[test]
    fn a_real_file_round_trips() {
        let parsed = Info::parse(REAL.as_bytes()).unwrap();
        assert_eq!(parsed.name, "");
        assert_eq!(
            parsed.tool_command,
            "--no-defaults --backup --password=... --socket=s"
        );
        assert_eq!(parsed.render(), REAL);
    }

    #[test]
    fn unknown_keys_and_values_over_several_lines_are_kept() {
        let text = REAL.replace("'0-71-10388'", "'a:1-5,\nb:1-7'") + "encrypted = Y\n";
        let parsed = Info::parse(text.as_bytes()).unwrap();
        assert!(parsed.binlog_pos.ends_with("'a:1-5,b:1-7'"));
        assert_eq!(parsed.other, [("encrypted".to_owned(), "Y".to_owned())]);
        assert_eq!(Info::parse(parsed.render().as_bytes()), Ok(parsed));
    }
}
