//! Whether the account may do what a backup does, asked before the first byte is copied.
//!
//! Every statement is tried in a form that changes nothing and waits for nothing, because grants
//! can come by roles, by `ALL PRIVILEGES` or by names of other releases; reading them would only be
//! guessing.

use std::fmt;

use crate::base::error::{Error, Kind, Result};
use crate::server::session::Session;
use crate::server::sql::quoted;

/// What the planned backup is going to ask of the server, beside the backup stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// The binary log's position; when the server has `log_bin`.
    pub binlog: bool,
    /// The position as a replica.
    pub slave_info: bool,
    /// [`Session::checkpoint_now`].
    pub checkpoint_now: bool,
}

/// A privilege a backup may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// For `BACKUP STAGE`, `BACKUP LOCK`, `FLUSH ENGINE LOGS`.
    Reload,
    /// For `SHOW MASTER STATUS`.
    BinlogMonitor,
    /// For `SHOW ALL SLAVES STATUS`.
    SlaveMonitor,
    /// For `SET GLOBAL innodb_log_checkpoint_now`.
    Super,
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reload => "RELOAD",
            Self::BinlogMonitor => "BINLOG MONITOR",
            Self::SlaveMonitor => "SLAVE MONITOR",
            Self::Super => "SUPER",
        })
    }
}

impl Session {
    /// The privileges that `needs` asks for and the account lacks. Must not be called while a stage
    /// is held.
    pub fn missing_privileges(&mut self, needs: &Needs) -> Result<Vec<Privilege>> {
        let mut missing = Vec::new();
        if !self.may_use_backup_stages()? || !self.may_flush_engine_logs()? {
            missing.push(Privilege::Reload);
        }
        if needs.binlog && !self.may_show_binlog()? {
            missing.push(Privilege::BinlogMonitor);
        }
        if needs.slave_info && !self.may_show_slaves()? {
            missing.push(Privilege::SlaveMonitor);
        }
        if needs.checkpoint_now && !self.may_checkpoint()? {
            missing.push(Privilege::Super);
        }
        Ok(missing)
    }

    /// The same as one error that names all of them, with the GRANT statement as its hint.
    pub fn check_privileges(&mut self, needs: &Needs) -> Result<()> {
        let missing = self.missing_privileges(needs)?;
        if missing.is_empty() {
            return Ok(());
        }
        let account = self.account()?;
        let names: Vec<String> = missing.iter().map(Privilege::to_string).collect();
        let names = names.join(", ");
        // Host names have no @, user names may.
        let (user, host) = account
            .name
            .rsplit_once('@')
            .unwrap_or((&account.name, "%"));
        let grantee = format!("{}@{}", quoted(user), quoted(host));
        let mut hint = format!("GRANT {names} ON *.* TO {grantee}");
        if let Some(role) = account.idle_roles.first() {
            hint.push_str(&format!(
                "; or, if role {role} has it, SET DEFAULT ROLE {} FOR {grantee}",
                quoted(role)
            ));
        }
        Err(Error::new(Kind::Server, format!("account {grantee} lacks {names}")).hint(hint))
    }
}
