//! Who is to own the restored files.

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;

/// Bytes of an account file that we read.
const ACCOUNTS_LEN_MAX: u64 = 64 << 20;

/// A user and a group, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// Reads `USER[:GROUP]`, names of this host or numbers. Without a group it is the user's own; a number
    /// that is no account has the group of the same number.
    pub fn parse(text: &str) -> Result<Self> {
        let passwd = fsx::read_small("/etc/passwd", ACCOUNTS_LEN_MAX)?;
        let group = fsx::read_small("/etc/group", ACCOUNTS_LEN_MAX)?;
        let (passwd, group) = (
            String::from_utf8_lossy(&passwd),
            String::from_utf8_lossy(&group),
        );
        Self::look_up(text, &passwd, &group)
    }

    fn look_up(text: &str, passwd: &str, groups: &str) -> Result<Self> {
        let unknown = |what: &str, name: &str| {
            Error::new(Kind::Usage, format!("no {what} {name:?} on this host"))
                .hint("write USER, USER:GROUP or their numbers")
        };
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let number = |fields: &[&str], i: usize| fields.get(i).and_then(|f| f.parse::<u32>().ok());
        let account = line_of(passwd, user);
        let uid = match &account {
            Some(fields) => number(fields, 2),
            None => user.parse().ok(),
        }
        .ok_or_else(|| unknown("user", user))?;
        let gid = match (group, &account) {
            (Some(group), _) => match line_of(groups, group) {
                Some(fields) => number(&fields, 2),
                None => group.parse().ok(),
            }
            .ok_or_else(|| unknown("group", group))?,
            (None, Some(fields)) => number(fields, 3).ok_or_else(|| unknown("user", user))?,
            (None, None) => uid,
        };
        Ok(Self { uid, gid })
    }
}

/// Fields of the line for `name` in an account file.
fn line_of<'a>(accounts: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let lines = accounts.lines().map(|line| line.split(':').collect());
    lines
        .into_iter()
        .find(|fields: &Vec<&str>| fields.first() == Some(&name) && !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nmysql:x:101:102::/nonexistent:/bin/false\n";
        let groups = "root:x:0:\nmysql:x:102:\nbackup:x:34:a,b\n";
        let look_up = |text| Owner::look_up(text, passwd, groups).map(|o| (o.uid, o.gid));
        assert_eq!(look_up("mysql").unwrap(), (101, 102));
        assert_eq!(look_up("mysql:backup").unwrap(), (101, 34));
        assert_eq!(look_up("101:34").unwrap(), (101, 34));
        assert_eq!(look_up("4000").unwrap(), (4000, 4000));
        for bad in ["", "nobody-such", "mysql:nobody-such", ":mysql", "mysql:"] {
            assert_eq!(look_up(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }
}
