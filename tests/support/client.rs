//! A blocking SQL session over a Unix socket, one per thread of a test.

use std::path::Path;

use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, OptsBuilder};
use tokio::runtime::Runtime;

/// Error numbers after which a transaction or statement is simply tried again: lock wait timeout, deadlock, changed
/// table definition.
const TRANSIENT: [u16; 3] = [1205, 1213, 1412];

/// One session as `root`.
#[derive(Debug)]
pub(crate) struct Client {
    runtime: Runtime,
    conn: Conn,
}

/// What went wrong, with the statement.
#[derive(Debug)]
pub(crate) struct Fault {
    statement: String,
    error: mysql_async::Error,
}

impl Fault {
    /// Trying again is the right answer.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(&self.error, mysql_async::Error::Server(e) if TRANSIENT.contains(&e.code))
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        let statement: Self = fault.statement.chars().take(300).collect();
        format!("{statement}: {}", fault.error)
    }
}

impl Client {
    /// Connects.
    pub(crate) fn connect(socket: &Path) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let options = OptsBuilder::default()
            .user(Some("root"))
            // The tables seq_1_to_N belong to whatever database is the current one.
            .db_name(Some("mysql"))
            .socket(Some(socket.display().to_string()));
        let conn = runtime
            .block_on(Conn::new(options))
            .map_err(|e| format!("cannot connect to {}: {e}", socket.display()))?;
        Ok(Self { runtime, conn })
    }

    /// Runs one statement for its effect.
    pub(crate) fn run(&mut self, statement: &str) -> Result<(), Fault> {
        let Self { runtime, conn } = self;
        runtime
            .block_on(conn.query_drop(statement))
            .map_err(|error| Fault {
                statement: statement.to_owned(),
                error,
            })
    }

    /// Runs one statement and returns its rows.
    pub(crate) fn rows<T>(&mut self, statement: &str) -> Result<Vec<T>, Fault>
    where
        T: FromRow + Send + 'static,
    {
        let Self { runtime, conn } = self;
        runtime
            .block_on(conn.query(statement))
            .map_err(|error| Fault {
                statement: statement.to_owned(),
                error,
            })
    }

    /// The first row, of a statement that always has one.
    pub(crate) fn row<T>(&mut self, statement: &str) -> Result<T, String>
    where
        T: FromRow + Send + 'static,
    {
        let rows = self.rows(statement)?;
        rows.into_iter()
            .next()
            .ok_or_else(|| format!("{statement}: no row"))
    }
}
