//! `xtrabackup_slave_info`: the statements that make a new replica of the source's own source.

use crate::metadata::{MetadataError, text};

/// One replication connection of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its name; empty for the default connection.
    pub name: String,
    /// Where it continues.
    pub start: Start,
}

/// Where a replication connection continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// At the server's `gtid_slave_pos`.
    Gtid,
    /// At a place in its source's binary log.
    File {
        /// Name of the source's binary log file.
        file: String,
        /// Byte offset in it.
        position: u64,
    },
}

/// The file's content (`r[metadata.slave-info]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlaveInfo {
    /// Set first, if any connection uses GTIDs.
    pub gtid_slave_pos: Option<String>,
    /// In the order the server lists them.
    pub connections: Vec<Connection>,
}

const SET: &str = "SET GLOBAL gtid_slave_pos = '";
const CHANGE: &str = "CHANGE MASTER ";
const BY_GTID: &str = "TO master_use_gtid = slave_pos;";
const BY_FILE: &str = "TO MASTER_LOG_FILE='";
const BY_POSITION: &str = "', MASTER_LOG_POS=";

impl SlaveInfo {
    /// The file as SQL, one statement per line.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        if let Some(gtid) = &self.gtid_slave_pos {
            out += &format!("{SET}{}';\n", quoted(gtid));
        }
        for Connection { name, start } in &self.connections {
            out.push_str(CHANGE);
            if !name.is_empty() {
                out += &format!("'{}' ", quoted(name));
            }
            match start {
                Start::Gtid => out.push_str(BY_GTID),
                Start::File { file, position } => {
                    out += &format!("{BY_FILE}{}{BY_POSITION}{position};", quoted(file));
                }
            }
            out.push('\n');
        }
        out
    }

    /// Reads statements of exactly this grammar; other SQL is an error, because leaving it out would change its meaning.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        let mut info = Self {
            gtid_slave_pos: None,
            connections: Vec::new(),
        };
        for line in text(bytes)?
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
        {
            let set = line.strip_prefix(SET).and_then(unquoted);
            if let Some((gtid, "';")) = set {
                info.gtid_slave_pos = Some(gtid);
            } else if let Some(connection) = connection(line) {
                info.connections.push(connection);
            } else {
                return Err(MetadataError::Value {
                    key: "statement",
                    value: line.to_owned(),
                });
            }
        }
        Ok(info)
    }
}

fn connection(line: &str) -> Option<Connection> {
    let rest = line.strip_prefix(CHANGE)?;
    let (name, rest) = match rest.strip_prefix('\'') {
        Some(quoted) => {
            let (name, rest) = unquoted(quoted)?;
            (name, rest.strip_prefix("' ")?)
        }
        None => (String::new(), rest),
    };
    let start = if rest == BY_GTID {
        Start::Gtid
    } else {
        let (file, rest) = unquoted(rest.strip_prefix(BY_FILE)?)?;
        let position = rest.strip_prefix(BY_POSITION)?.strip_suffix(';')?;
        let position = position.parse().ok()?;
        Start::File { file, position }
    };
    Some(Connection { name, start })
}

/// The text between quotes of an SQL string.
fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\'', "''")
}

/// Undoes [`quoted`]: the value up to the quote that ends it, and the rest from that quote on.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let mut chars = rest.chars();
        match chars.next()? {
            '\'' if rest.starts_with("''") => {
                value.push('\'');
                chars.next();
            }
            '\'' => return Some((value, rest)),
            '\\' => value.push(chars.next()?),
            other => value.push(other),
        }
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_round_trip() {
        let text = "SET GLOBAL gtid_slave_pos = '0-1-5,1-2-9';\n\
                    CHANGE MASTER TO master_use_gtid = slave_pos;\n\
                    CHANGE MASTER 'it''s \\\\ here' TO master_use_gtid = slave_pos;\n\
                    CHANGE MASTER 'b' TO MASTER_LOG_FILE='m.000002', MASTER_LOG_POS=1234;\n";
        let parsed = SlaveInfo::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.connections[1].name, "it's \\ here");
        assert_eq!(parsed.render(), text);
    }

    #[test]
    fn other_statements_are_refused() {
        for bad in [
            "CHANGE MASTER 'b TO master_use_gtid = slave_pos;",
            "CHANGE MASTER TO MASTER_LOG_FILE='m', MASTER_LOG_POS=x;",
            "DROP DATABASE d;",
            "SET GLOBAL gtid_slave_pos = '0-1-5'; DROP DATABASE d;",
        ] {
            assert!(SlaveInfo::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
