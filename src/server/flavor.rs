//! Which server this is, and by table what we can do with it.
//!
//! The table is the `versions:` table of `format-spec/servers.md`; a test compares both.

use std::fmt;

use crate::base::error::{Error, Kind, Result};
use crate::metadata::Names;

/// Who made the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// MariaDB Server.
    MariaDb,
    /// MySQL Server of Oracle.
    MySql,
    /// Percona Server.
    Percona,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 3] = [Self::MariaDb, Self::MySql, Self::Percona];

    /// The name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MariaDb => "MariaDB",
            Self::MySql => "MySQL",
            Self::Percona => "Percona Server",
        }
    }
}

/// Version number of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 10 in 10.11.19.
    pub major: u16,
    /// 11 in 10.11.19.
    pub minor: u16,
    /// 19 in 10.11.19.
    pub patch: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What we do with a server version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Support {
    /// Tested, backed up without a word.
    Supported,
    /// Not tested, but its files have the format of a supported one: backed up with a warning.
    SameFormat,
    /// Newer than this program: refused unless the user insists.
    Unknown,
    /// Its files have a format we cannot read.
    Refused,
    /// Planned.
    NotYet,
}

impl Support {
    /// The word of the `versions:` table.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::SameFormat => "same-format",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::NotYet => "not-yet",
        }
    }
}

/// One row: versions of a family from `first` (major, minor) up to the first of the next row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Maker.
    pub family: Family,
    /// First major and minor number of the row.
    pub first: (u16, u16),
    /// What we do with it.
    pub support: Support,
    /// Names of its metadata files.
    pub names: Names,
}

const fn row(family: Family, first: (u16, u16), support: Support, names: Names) -> Row {
    Row {
        family,
        first,
        support,
        names,
    }
}

/// The table, ordered by family and version.
pub const VERSIONS: &[Row] = {
    use Family::{MariaDb, MySql, Percona};
    const XTRABACKUP: Names = Names::XTRABACKUP;
    const MARIADB_BACKUP: Names = Names::MARIADB_BACKUP;
    use Support::{NotYet, Refused, SameFormat, Supported, Unknown};
    &[
        row(MariaDb, (0, 0), Refused, XTRABACKUP),
        row(MariaDb, (10, 8), SameFormat, XTRABACKUP),
        row(MariaDb, (10, 11), Supported, XTRABACKUP),
        row(MariaDb, (11, 0), SameFormat, MARIADB_BACKUP),
        row(MariaDb, (11, 9), Unknown, MARIADB_BACKUP),
        row(MySql, (0, 0), NotYet, XTRABACKUP),
        row(Percona, (0, 0), NotYet, XTRABACKUP),
    ]
};

/// What a server says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flavor {
    /// Maker.
    pub family: Family,
    /// Number.
    pub version: Version,
    /// `VERSION()` as the server gave it, such as `10.11.19-MariaDB-log`.
    pub text: String,
    /// `@@version_comment` as the server gave it.
    pub comment: String,
}

impl Flavor {
    /// Reads `VERSION()` and `@@version_comment`; a text without a number is [`Kind::Server`].
    pub fn parse(text: &str, comment: &str) -> Result<Self> {
        // Old replication protocols need a leading 5.5.5-; some proxies hand it on.
        let number = match text.strip_prefix("5.5.5-") {
            Some(rest) if text.contains("MariaDB") => rest,
            _ => text,
        };
        let digits = number
            .find(|c: char| c != '.' && !c.is_ascii_digit())
            .unwrap_or(number.len());
        let mut parts = number[..digits].split('.').map(str::parse::<u16>);
        let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::new(
                Kind::Server,
                format!("the server's version {text:?} has no number of three parts"),
            ));
        };
        let says = |word: &str| {
            let both = format!("{text} {comment}").to_ascii_lowercase();
            both.contains(word)
        };
        let family = if says("mariadb") {
            Family::MariaDb
        } else if says("percona") {
            Family::Percona
        } else {
            Family::MySql
        };
        Ok(Self {
            family,
            version: Version {
                major,
                minor,
                patch,
            },
            text: text.to_owned(),
            comment: comment.to_owned(),
        })
    }

    /// The row of [`VERSIONS`] this server falls under.
    #[must_use]
    pub fn row(&self) -> &'static Row {
        let number = (self.version.major, self.version.minor);
        VERSIONS
            .iter()
            .rfind(|row| row.family == self.family && row.first <= number)
            .unwrap_or(&VERSIONS[0])
    }

    /// Names of the metadata files of its backups.
    #[must_use]
    pub fn metadata_names(&self) -> Names {
        self.row().names
    }

    /// Refuses a server we cannot back up. `allow_unknown` lets one through that is newer than this
    /// program. A warning to show comes back for versions that no test runs with.
    pub fn check(&self, allow_unknown: bool) -> Result<Option<String>> {
        let refuse = |why: &str, hint: &str| {
            Err(Error::new(Kind::Server, format!("{self} {why}")).hint(hint))
        };
        match self.row().support {
            Support::Supported => Ok(None),
            Support::SameFormat => Ok(Some(format!(
                "no test runs with {self}; its files have the format of a tested version: try a restore before you rely on it"
            ))),
            Support::Unknown if allow_unknown => Ok(Some(format!(
                "{self} is newer than this program; restore and check this backup before you trust it"
            ))),
            Support::Unknown => refuse(
                "is newer than this program and its file formats are not known",
                "upgrade xbpipe, or insist with --allow-unknown-version and test the restore",
            ),
            Support::Refused => refuse(
                "has an old redo log format that is not supported",
                "MariaDB 10.8 and later are supported; use that server's own mariadb-backup",
            ),
            Support::NotYet => refuse(
                "is not yet supported",
                "use that server's own backup program for now; archives made by it can be read",
            ),
        }
    }
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family.name(), self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_recognised() {
        let cases = [
            (
                "10.11.19-MariaDB-0+deb12u1-log",
                "Debian 12",
                Family::MariaDb,
                Support::Supported,
            ),
            (
                "5.5.5-11.4.2-MariaDB",
                "",
                Family::MariaDb,
                Support::SameFormat,
            ),
            ("11.8.6-MariaDB", "", Family::MariaDb, Support::SameFormat),
            ("11.2.1-MariaDB", "", Family::MariaDb, Support::SameFormat),
            ("10.9.1-MariaDB", "", Family::MariaDb, Support::SameFormat),
            ("10.6.22-MariaDB", "", Family::MariaDb, Support::Refused),
            ("12.0.2-MariaDB", "", Family::MariaDb, Support::Unknown),
            (
                "8.4.3",
                "MySQL Community Server - GPL",
                Family::MySql,
                Support::NotYet,
            ),
            (
                "8.0.36-28",
                "Percona Server (GPL)",
                Family::Percona,
                Support::NotYet,
            ),
        ];
        for (text, comment, family, support) in cases {
            let flavor = Flavor::parse(text, comment).unwrap();
            assert_eq!(
                (flavor.family, flavor.row().support),
                (family, support),
                "{text}"
            );
            assert_eq!(
                flavor.check(false).is_ok(),
                matches!(support, Support::Supported | Support::SameFormat),
                "{text}"
            );
            assert_eq!(
                flavor.check(true).is_ok(),
                !matches!(support, Support::Refused | Support::NotYet),
                "{text}"
            );
        }
        let style = |text| Flavor::parse(text, "").unwrap().metadata_names().info;
        assert_eq!(style("10.11.1-MariaDB"), "xtrabackup_info");
        assert_eq!(style("11.0.1-MariaDB"), "mariadb_backup_info");
        for bad in ["", "x", "10", "10.11", "10.11.x", "99999.1.1"] {
            assert!(Flavor::parse(bad, "").is_err(), "{bad}");
        }
    }

    fn rows_of<'a>(document: &'a str, marker: &str) -> Vec<Vec<&'a str>> {
        document
            .split_once(marker)
            .unwrap()
            .1
            .lines()
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'))
            .skip(2)
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect()
    }

    #[test]
    fn document_and_tables_agree() {
        let document = include_str!("../../format-spec/servers.md");
        let code: Vec<Vec<String>> = VERSIONS
            .iter()
            .map(|row| {
                vec![
                    row.family.name().to_owned(),
                    format!("{}.{}", row.first.0, row.first.1),
                    row.support.word().to_owned(),
                    row.names.info.trim_end_matches("info").to_owned(),
                ]
            })
            .collect();
        let written: Vec<_> = rows_of(document, "versions: servers")
            .into_iter()
            .map(|r| r[..4].to_vec())
            .collect();
        assert_eq!(written, code);
    }
}
