//! A restored backup proves itself as a replica: it can only follow the source if it is, to the row, what the source was at
//! the recorded position.
#![expect(
    clippy::disallowed_methods,
    reason = "test support handles files with plain std"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use xbpipe::metadata::Names;
use xbpipe::metadata::binlog::BinlogPosition;

use crate::client::Client;

/// The account that replicates; [`grant`] makes it on the source before the backup.
const ACCOUNT: &str = "'xbreplica'@'127.0.0.1'";
const PASSWORD: &str = "only-for-this-test";

/// Makes the account on the source.
pub(crate) fn grant(source: &mut Client) -> Result<(), String> {
    source.run(&format!("CREATE USER {ACCOUNT} IDENTIFIED BY '{PASSWORD}'"))?;
    source.run(&format!("GRANT REPLICATION SLAVE ON *.* TO {ACCOUNT}"))?;
    Ok(())
}

/// The account as options of `CHANGE MASTER`.
pub(crate) fn login() -> String {
    format!("MASTER_USER='xbreplica', MASTER_PASSWORD='{PASSWORD}'")
}

/// The GTID position that the backup in `dir` recorded.
pub(crate) fn recorded_gtid(dir: &Path) -> Result<String, String> {
    let names = [Names::XTRABACKUP, Names::MARIADB_BACKUP];
    let path = names
        .iter()
        .map(|n| dir.join(n.binlog_info))
        .find(|p| p.exists());
    let path = path.ok_or_else(|| format!("no binary log position in {}", dir.display()))?;
    let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let position = BinlogPosition::parse(&bytes).map_err(|e| e.to_string())?;
    position
        .gtid
        .filter(|gtid| !gtid.is_empty())
        .ok_or_else(|| format!("{} has no GTID", path.display()))
}

/// Attaches `replica` at `gtid` to the source that listens on `port`, and waits until it has everything that the source
/// has written. The source must not be written to any more.
pub(crate) fn catch_up(
    replica: &Path,
    source: &Path,
    port: u16,
    gtid: &str,
    patience: Duration,
) -> Result<String, String> {
    let mut source = Client::connect(source)?;
    let end: String = source.row("SELECT @@GLOBAL.gtid_binlog_pos")?;
    let mut replica = Client::connect(replica)?;
    replica.run(&format!("SET GLOBAL gtid_slave_pos = '{gtid}'"))?;
    replica.run(&format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, {}, \
         MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1",
        login()
    ))?;
    // The default, but the proof rests on it: a row that is not there, or there already, ends replication.
    replica.run("SET GLOBAL slave_exec_mode = 'STRICT'")?;
    replica.run("START SLAVE")?;
    let begin = Instant::now();
    while begin.elapsed() < patience {
        let reached: i64 = replica.row(&format!("SELECT MASTER_GTID_WAIT('{end}', 0.5)"))?;
        if reached == 0 {
            replica.run("STOP SLAVE")?;
            return Ok(end);
        }
        let status: mysql_async::Row = replica.row("SHOW SLAVE STATUS")?;
        for column in ["Last_SQL_Error", "Last_IO_Error"] {
            let error: Option<String> = status.get(column);
            if let Some(error) = error.filter(|e| !e.is_empty()) {
                return Err(format!("replication stopped, {column}: {error}"));
            }
        }
    }
    let at: String = replica.row("SELECT @@GLOBAL.gtid_slave_pos")?;
    Err(format!(
        "the replica is at {at} and has not reached {end} in {} s",
        patience.as_secs()
    ))
}
