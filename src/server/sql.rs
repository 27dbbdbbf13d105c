//! Every statement the server is ever sent, as named operations of [`Session`] with typed results.
//!
//! What each backup stage blocks, and which privilege each statement needs, was measured on
//! 10.11.19; `format-spec/servers.md` has the table of privileges.

use std::fmt;
use std::time::Duration;

use crate::base::error::Result;
use crate::base::units::Lsn;
use crate::server::fault;
use crate::server::flavor::Flavor;
use crate::server::session::{Patience, Session};
use crate::server::variables::{self, Plugin, Variables};

/// How long the server keeps a connection that says nothing: the longest it accepts.
pub(super) const WAIT_TIMEOUT_SECONDS: usize = 2_147_483;
/// For ever, as far as `lock_wait_timeout` can say it.
const LOCK_WAIT_SECONDS_MAX: u64 = 31_536_000;

/// The assignments every session begins with. A lock wait under a second counts as one second.
pub(super) fn settings(lock_wait: Option<Duration>) -> [String; 4] {
    let lock = lock_wait.map_or(LOCK_WAIT_SECONDS_MAX, |time| {
        let rounded_up = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        rounded_up.clamp(1, LOCK_WAIT_SECONDS_MAX)
    });
    [
        format!("wait_timeout={WAIT_TIMEOUT_SECONDS}"),
        format!("lock_wait_timeout={lock}"),
        "max_statement_time=0".to_owned(),
        // A desynchronised Galera node must still answer.
        "wsrep_sync_wait=0".to_owned(),
    ]
}

/// Stages of the server's backup lock, in their order. A stage may be skipped; the server walks
/// through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// One backup at a time, DDL is logged, Aria keeps its log. Blocks nothing. Waits for `LOCK
    /// TABLES ... WRITE`.
    Start,
    /// Blocks writes to tables without transactions.
    Flush,
    /// Also blocks DDL. Waits for running writes to tables without transactions.
    BlockDdl,
    /// Also blocks commits and writes to Aria tables.
    BlockCommit,
    /// Releases everything. An error here means that the locks were lost: the backup is not valid.
    End,
}

impl Stage {
    /// The whole statement.
    #[must_use]
    pub const fn statement(self) -> &'static str {
        match self {
            Self::Start => "BACKUP STAGE START",
            Self::Flush => "BACKUP STAGE FLUSH",
            Self::BlockDdl => "BACKUP STAGE BLOCK_DDL",
            Self::BlockCommit => "BACKUP STAGE BLOCK_COMMIT",
            Self::End => "BACKUP STAGE END",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.statement())
    }
}

/// Where the redo log is. `checkpoint <= flushed <= current`, each read at almost the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LsnStatus {
    /// End of the log in the server's memory.
    pub current: Lsn,
    /// Up to here the log file is written and durable; always a boundary between mini-transactions.
    pub flushed: Lsn,
    /// Begin of the log that recovery needs.
    pub last_checkpoint: Lsn,
}

/// Where the binary log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinlogPosition {
    /// Base name of the file.
    pub file: String,
    /// Byte position in it.
    pub position: u64,
    /// `@@gtid_current_pos`: last transactions written or replicated here; what the metadata files
    /// carry.
    pub gtid_current_pos: String,
    /// `@@gtid_binlog_pos`: last transactions in the binary log.
    pub gtid_binlog_pos: String,
}

/// How far this server has got as a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// `@@gtid_slave_pos`.
    pub gtid_slave_pos: String,
    /// One per connection to a primary; empty when the server is no replica.
    pub connections: Vec<ReplicaConnection>,
}

/// One replication connection, a row of `SHOW ALL SLAVES STATUS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaConnection {
    /// Name; empty for the default one.
    pub name: String,
    /// The primary's host.
    pub host: String,
    /// The primary's port.
    pub port: u16,
    /// The primary's binary log file up to which it was applied here.
    pub applied_file: String,
    /// Byte position in that file.
    pub applied_position: u64,
    /// `Using_Gtid` is not `No`.
    pub uses_gtid: bool,
    /// The thread that receives runs (or is connecting).
    pub receiver_runs: bool,
    /// The thread that applies runs.
    pub applier_runs: bool,
}

/// What a Galera node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GaleraState {
    /// `wsrep_local_state_uuid`
    pub state_uuid: String,
    /// `wsrep_last_committed`
    pub last_committed: u64,
    /// `wsrep_local_state_comment`, such as `Synced`.
    pub state: String,
    /// `@@wsrep_gtid_domain_id`
    pub gtid_domain_id: u32,
}

/// What the account may do, as far as a hint needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    /// `user@host` as the server matched it.
    pub(super) name: String,
    /// Roles that are granted but do not hold unless they are made default.
    pub(super) idle_roles: Vec<String>,
}

impl Session {
    /// What the server says it is.
    pub fn identify(&mut self) -> Result<Flavor> {
        let doing = "the question for its version";
        let rows = self.rows(doing, "SELECT VERSION(), @@version_comment")?;
        let row = rows
            .first()
            .ok_or_else(|| fault::odd_answer(doing, "version"))?;
        let text = row
            .text_at(0)
            .ok_or_else(|| fault::odd_answer(doing, "version"))?;
        Flavor::parse(&text, &row.text_at(1).unwrap_or_default())
    }

    /// The variables a backup needs, and the plugins that encrypt or compress. Needs no privilege.
    pub fn variables(&mut self) -> Result<Variables> {
        let mut values = Vec::new();
        for row in self.rows("SHOW VARIABLES", &variables_statement())? {
            let name: String = row.get("Variable_name")?;
            values.push((name, row.optional("Value")?.unwrap_or_default()));
        }
        let mut plugins = Vec::new();
        let statement = "SELECT PLUGIN_NAME, PLUGIN_TYPE, PLUGIN_LIBRARY \
            FROM information_schema.PLUGINS WHERE PLUGIN_STATUS='ACTIVE' \
            AND (PLUGIN_TYPE='ENCRYPTION' OR PLUGIN_NAME LIKE 'provider\\_%') ORDER BY PLUGIN_NAME";
        for row in self.rows("the question for its plugins", statement)? {
            plugins.push(Plugin {
                name: row.get("PLUGIN_NAME")?,
                encrypts: row.get::<String>("PLUGIN_TYPE")? == "ENCRYPTION",
                library: row.optional("PLUGIN_LIBRARY")?,
            });
        }
        Variables::parse(values, plugins)
    }

    /// Where the redo log is. Needs no privilege; meant to be asked several times a second.
    pub fn lsn_status(&mut self) -> Result<LsnStatus> {
        let doing = "SHOW STATUS LIKE 'Innodb_lsn%'";
        let rows = self.rows(doing, "SHOW GLOBAL STATUS LIKE 'Innodb_lsn%'")?;
        let find = |name: &str| {
            let row = rows
                .iter()
                .find(|row| row.text_at(0).is_some_and(|n| n == name));
            let value = row
                .and_then(|row| row.text_at(1))
                .and_then(|value| value.parse().ok());
            value.map(Lsn).ok_or_else(|| fault::odd_answer(doing, name))
        };
        Ok(LsnStatus {
            current: find("Innodb_lsn_current")?,
            flushed: find("Innodb_lsn_flushed")?,
            last_checkpoint: find("Innodb_lsn_last_checkpoint")?,
        })
    }

    /// Goes to `stage`; waits for it up to the session's lock wait. After a timeout in
    /// [`Stage::BlockDdl`] the stage before it still holds and the call may be repeated.
    pub fn backup_stage(&mut self, stage: Stage) -> Result<()> {
        self.execute(stage.statement(), Patience::Endless)
    }

    /// Keeps DDL away from one table, so that its files can be opened together. Names are SQL
    /// names, not file names; a table that does not exist can be locked too. One at a time per
    /// session.
    pub fn backup_lock(&mut self, db: &str, table: &str) -> Result<()> {
        let statement = format!("BACKUP LOCK {}.{}", quoted(db), quoted(table));
        self.execute(&statement, Patience::Endless)
    }

    /// Undoes [`Session::backup_lock`].
    pub fn backup_unlock(&mut self) -> Result<()> {
        self.execute("BACKUP UNLOCK", Patience::Endless)
    }

    /// Makes the log of every engine durable up to now.
    pub fn flush_engine_logs(&mut self) -> Result<()> {
        self.execute(FLUSH_ENGINE_LOGS, Patience::Endless)
    }

    /// Makes InnoDB write out every dirty page and a checkpoint. Needs SUPER; may take minutes.
    pub fn checkpoint_now(&mut self) -> Result<()> {
        self.execute("SET GLOBAL innodb_log_checkpoint_now=ON", Patience::Endless)
    }

    /// Where the binary log is; `None` when the server writes none.
    pub fn binlog_position(&mut self) -> Result<Option<BinlogPosition>> {
        let rows = self.rows(SHOW_MASTER_STATUS, SHOW_MASTER_STATUS)?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let doing = "the question for its GTID position";
        let gtids = self.rows(doing, "SELECT @@gtid_current_pos, @@gtid_binlog_pos")?;
        let gtid = |index| {
            let text = gtids.first().and_then(|row| row.text_at(index));
            text.ok_or_else(|| fault::odd_answer(doing, "position"))
        };
        Ok(Some(BinlogPosition {
            file: row.get("File")?,
            position: row.get("Position")?,
            gtid_current_pos: gtid(0)?,
            gtid_binlog_pos: gtid(1)?,
        }))
    }

    /// How far this server has got as a replica.
    pub fn slave_status(&mut self) -> Result<ReplicaStatus> {
        let mut connections = Vec::new();
        for row in self.rows(SHOW_SLAVES, SHOW_SLAVES)? {
            let says = |column: &str, word: &str| {
                row.get::<String>(column)
                    .map(|text| text.eq_ignore_ascii_case(word))
            };
            connections.push(ReplicaConnection {
                name: row.get("Connection_name")?,
                host: row.optional("Master_Host")?.unwrap_or_default(),
                port: row.get("Master_Port")?,
                applied_file: row.get("Relay_Master_Log_File")?,
                applied_position: row.get("Exec_Master_Log_Pos")?,
                uses_gtid: !says("Using_Gtid", "No")?,
                receiver_runs: !says("Slave_IO_Running", "No")?,
                applier_runs: !says("Slave_SQL_Running", "No")?,
            });
        }
        let doing = "the question for its GTID position";
        let rows = self.rows(doing, "SELECT @@gtid_slave_pos")?;
        let gtid = rows.first().and_then(|row| row.text_at(0));
        Ok(ReplicaStatus {
            gtid_slave_pos: gtid.ok_or_else(|| fault::odd_answer(doing, "position"))?,
            connections,
        })
    }

    /// What the Galera node says of itself; `None` when no provider is loaded.
    pub fn galera_state(&mut self) -> Result<Option<GaleraState>> {
        let doing = "SHOW STATUS LIKE 'wsrep%'";
        let rows = self.rows(
            doing,
            "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_local_state_uuid', \
             'wsrep_last_committed', 'wsrep_local_state_comment')",
        )?;
        let find = |name: &str| {
            let row = rows
                .iter()
                .find(|row| row.text_at(0).is_some_and(|n| n == name));
            row.and_then(|row| row.text_at(1))
                .filter(|value| !value.is_empty())
        };
        let Some(state_uuid) = find("wsrep_local_state_uuid") else {
            return Ok(None);
        };
        let domain = self.rows(doing, "SELECT @@wsrep_gtid_domain_id")?;
        let domain = domain.first().and_then(|row| row.text_at(0)?.parse().ok());
        let committed = find("wsrep_last_committed").and_then(|value| value.parse().ok());
        Ok(Some(GaleraState {
            state_uuid,
            last_committed: committed
                .ok_or_else(|| fault::odd_answer(doing, "wsrep_last_committed"))?,
            state: find("wsrep_local_state_comment").unwrap_or_default(),
            gtid_domain_id: domain
                .ok_or_else(|| fault::odd_answer(doing, "wsrep_gtid_domain_id"))?,
        }))
    }

    /// Whether `BACKUP STAGE` and `BACKUP LOCK` are allowed. `END` without a stage cannot wait and
    /// changes nothing: it fails for lack of the privilege or for lack of a stage. Must not be
    /// asked while holding one.
    pub(super) fn may_use_backup_stages(&mut self) -> Result<bool> {
        let statement = Stage::End.statement();
        match self.attempt(statement, Patience::Answer)? {
            Err(error) if fault::code(&error) == Some(fault::NO_BACKUP_STAGE) => Ok(true),
            other => self.allowed(statement, other),
        }
    }

    /// Whether [`Session::flush_engine_logs`] is allowed; it is simply done.
    pub(super) fn may_flush_engine_logs(&mut self) -> Result<bool> {
        self.may(FLUSH_ENGINE_LOGS)
    }

    /// Whether [`Session::binlog_position`] is allowed.
    pub(super) fn may_show_binlog(&mut self) -> Result<bool> {
        self.may(SHOW_MASTER_STATUS)
    }

    /// Whether [`Session::slave_status`] is allowed.
    pub(super) fn may_show_slaves(&mut self) -> Result<bool> {
        self.may(SHOW_SLAVES)
    }

    /// Whether [`Session::checkpoint_now`] is allowed; `OFF` is checked alike and does nothing.
    pub(super) fn may_checkpoint(&mut self) -> Result<bool> {
        self.may("SET GLOBAL innodb_log_checkpoint_now=OFF")
    }

    /// Who the account is, for a hint.
    pub(super) fn account(&mut self) -> Result<Account> {
        let doing = "the question for the account";
        let rows = self.rows(doing, "SELECT CURRENT_USER()")?;
        let name = rows.first().and_then(|row| row.text_at(0));
        let roles = self.rows(
            doing,
            "SELECT ROLE_NAME FROM information_schema.APPLICABLE_ROLES \
             WHERE COALESCE(IS_DEFAULT, 'NO')='NO' AND GRANTEE=CURRENT_USER()",
        )?;
        Ok(Account {
            name: name.ok_or_else(|| fault::odd_answer(doing, "name"))?,
            idle_roles: roles.iter().filter_map(|row| row.text_at(0)).collect(),
        })
    }

    fn may(&mut self, statement: &str) -> Result<bool> {
        let answer = self.attempt(statement, Patience::Answer)?;
        self.allowed(statement, answer)
    }

    fn allowed(&self, statement: &str, answer: mysql_async::Result<()>) -> Result<bool> {
        match answer {
            Ok(()) => Ok(true),
            Err(error) if fault::is_privilege(&error) => Ok(false),
            Err(error) => Err(fault::running(error, statement, self.waits().lock)),
        }
    }
}

const FLUSH_ENGINE_LOGS: &str = "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS";
const SHOW_MASTER_STATUS: &str = "SHOW MASTER STATUS";
const SHOW_SLAVES: &str = "SHOW ALL SLAVES STATUS";

fn variables_statement() -> String {
    let names: Vec<String> = variables::NAMES
        .iter()
        .map(|name| format!("'{name}'"))
        .collect();
    let patterns: Vec<String> = variables::PLUGIN_OPTION_PREFIXES
        .iter()
        .map(|prefix| format!("Variable_name LIKE '{}%'", prefix.replace('_', "\\_")))
        .collect();
    format!(
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ({}) OR {}",
        names.join(","),
        patterns.join(" OR ")
    )
}

/// An SQL identifier in backquotes.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_cannot_break_out() {
        assert_eq!(quoted("a`; DROP"), "`a``; DROP`");
    }

    #[test]
    fn lock_waits_are_whole_seconds_and_never_zero() {
        let lock = |time| settings(time)[1].clone();
        assert_eq!(lock(None), "lock_wait_timeout=31536000");
        assert_eq!(lock(Some(Duration::ZERO)), "lock_wait_timeout=1");
        assert_eq!(
            lock(Some(Duration::from_millis(1500))),
            "lock_wait_timeout=2"
        );
    }
}
