//! A blocking connection to the server that obeys cancellation.
//!
//! Each session has a small runtime of its own and is driven by the calling thread: no thread is
//! started, a session that waits for a lock cannot hold up another one, and dropping it closes the
//! socket there and then. The server notices a closed connection at once when it is idle, within
//! about a second when it waits for a backup lock, and releases everything the connection held.

use std::fmt;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, FromValueError, Row, Value, prelude::FromValue};
use tokio::runtime::Runtime;

use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind, Result};
use crate::server::connect::{Attempt, ConnectOptions};
use crate::server::{fault, sql};

/// Knows the server and makes sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server {
    options: ConnectOptions,
    cancel: Cancel,
    waits: Waits,
}

/// How long a session waits. All may be changed before connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// For a connection, from name resolution to the end of the first settings.
    pub connect: Duration,
    /// For an answer that needs no lock; `None` for ever.
    pub answer: Option<Duration>,
    /// For a lock, counted by the server in whole seconds; `None` for ever (a year, the server's
    /// maximum).
    pub lock: Option<Duration>,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            answer: Some(Duration::from_secs(60)),
            lock: None,
        }
    }
}

impl Server {
    /// A server at `options`; its sessions end when `cancel` is used.
    #[must_use]
    pub fn new(options: ConnectOptions, cancel: Cancel) -> Self {
        Self {
            options,
            cancel,
            waits: Waits::default(),
        }
    }

    /// Replaces the waiting times.
    #[must_use]
    pub fn with_waits(mut self, waits: Waits) -> Self {
        self.waits = waits;
        self
    }

    /// Where and as whom.
    #[must_use]
    pub fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// Connects and prepares the session (`sql::settings`).
    ///
    /// Not to be called from async code. Errors are [`Kind::Server`], or the reason of the
    /// cancellation.
    pub fn connect(&self) -> Result<Session> {
        let mut attempt = self.options.first_attempt();
        let mut link = self.link(&attempt)?;
        if let Err(error) = &link
            && let Some(second) = self.options.second_attempt(&attempt, error)
        {
            attempt = second;
            link = self.link(&attempt)?;
        }
        if let Err(error) = &link
            && self.options.may_be_denied_by_chance(error)
        {
            link = self.link(&attempt)?;
        }
        let link = link.map_err(|error| fault::connecting(error, &self.options))?;
        let mut session = Session {
            link: Some(link),
            cancel: self.cancel.clone(),
            waits: self.waits,
        };
        session.prepare()?;
        Ok(session)
    }

    /// One attempt; the driver's errors come back as they are.
    fn link(&self, attempt: &Attempt) -> Result<mysql_async::Result<Link>> {
        let options = self.options.driver_options(attempt)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::new(Kind::Failed, "cannot start the network runtime").source(e))?;
        let attempt = Conn::new(options);
        let failure = match drive(&runtime, &self.cancel, Some(self.waits.connect), attempt) {
            End::Done(Ok(conn)) => {
                return Ok(Ok(Link { conn, runtime }));
            }
            End::Done(Err(error)) => Ok(Err(error)),
            End::TimedOut(time) => Err(fault::connect_timeout(&self.options.endpoint, time)),
            End::Cancelled(error) => Err(error),
        };
        // Name resolution runs on a thread that cannot be stopped; nobody waits for it.
        runtime.shutdown_background();
        failure
    }
}

struct Link {
    // Dropped before its runtime and outside of it: the driver then closes the socket without a
    // farewell.
    conn: Conn,
    runtime: Runtime,
}

/// One connection. Holds whatever locks it took until it is closed, dropped or cancelled.
pub struct Session {
    link: Option<Link>,
    cancel: Cancel,
    waits: Waits,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The driver's own output would show the password.
        f.debug_struct("Session")
            .field("connection_id", &self.connection_id())
            .field("waits", &self.waits)
            .finish_non_exhaustive()
    }
}

/// Which waiting time holds for a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// [`Waits::answer`].
    Answer,
    /// The server counts [`Waits::lock`], or the work itself may take long: only cancellation ends
    /// it.
    Endless,
}

enum End<T> {
    Done(T),
    TimedOut(Duration),
    Cancelled(Error),
}

/// Runs `work` on this thread until it is done, `limit` is over, or the run is cancelled.
fn drive<T>(
    runtime: &Runtime,
    cancel: &Cancel,
    limit: Option<Duration>,
    work: impl Future<Output = T>,
) -> End<T> {
    let watch = async {
        loop {
            if let Err(reason) = cancel.check() {
                return reason;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let alarm = async {
        match limit {
            Some(limit) => {
                tokio::time::sleep(limit).await;
                limit
            }
            None => std::future::pending().await,
        }
    };
    runtime.block_on(async {
        tokio::select! {
            biased;
            reason = watch => End::Cancelled(reason),
            done = work => End::Done(done),
            limit = alarm => End::TimedOut(limit),
        }
    })
}

impl Session {
    /// The server's number of this connection, as in `SHOW PROCESSLIST`; `None` once it is lost.
    #[must_use]
    pub fn connection_id(&self) -> Option<u32> {
        self.link.as_ref().map(|link| link.conn.id())
    }

    /// The waiting times it was made with.
    #[must_use]
    pub fn waits(&self) -> Waits {
        self.waits
    }

    /// Asks the server for a sign of life. An error means that every lock of this session is gone.
    pub fn check_alive(&mut self) -> Result<()> {
        self.run("a sign of life", Patience::Answer, async |conn| {
            conn.ping().await
        })?
        .map_err(|error| fault::running(error, "a sign of life", self.waits.lock))
    }

    /// Says farewell, so that the server's log has no aborted connection. Dropping the session does
    /// without.
    pub fn close(mut self) -> Result<()> {
        let Some(link) = self.link.take() else {
            return Err(fault::gone("the farewell"));
        };
        let farewell = link.conn.disconnect();
        match drive(&link.runtime, &self.cancel, self.waits.answer, farewell) {
            End::Done(done) => done.map_err(|e| fault::running(e, "the farewell", None)),
            End::TimedOut(time) => Err(fault::timeout("the farewell", time)),
            End::Cancelled(error) => Err(error),
        }
    }

    /// Runs a statement that answers nothing.
    pub(super) fn execute(&mut self, statement: &str, patience: Patience) -> Result<()> {
        self.attempt(statement, patience)?
            .map_err(|error| fault::running(error, statement, self.waits.lock))
    }

    /// The same, the server's own complaint handed back for the caller to judge.
    pub(super) fn attempt(
        &mut self,
        statement: &str,
        patience: Patience,
    ) -> Result<mysql_async::Result<()>> {
        self.run(statement, patience, async |conn| {
            conn.query_drop(statement).await
        })
    }

    /// Runs a statement that answers rows. `doing` names it in errors.
    pub(super) fn rows(&mut self, doing: &'static str, statement: &str) -> Result<Vec<Record>> {
        let rows: Vec<Row> = self
            .run(doing, Patience::Answer, async |conn| {
                conn.query(statement).await
            })?
            .map_err(|error| fault::running(error, doing, self.waits.lock))?;
        Ok(rows.into_iter().map(|row| Record { row, doing }).collect())
    }

    fn run<T>(
        &mut self,
        doing: &str,
        patience: Patience,
        work: impl AsyncFnOnce(&mut Conn) -> mysql_async::Result<T>,
    ) -> Result<mysql_async::Result<T>> {
        // Taken out first: whatever goes wrong below, the connection is closed unless it is put
        // back.
        let Some(mut link) = self.link.take() else {
            return Err(fault::gone(doing));
        };
        let limit = match patience {
            Patience::Answer => self.waits.answer,
            Patience::Endless => None,
        };
        match drive(&link.runtime, &self.cancel, limit, work(&mut link.conn)) {
            End::Done(done) => {
                if done.as_ref().err().is_none_or(fault::leaves_connection) {
                    self.link = Some(link);
                }
                Ok(done)
            }
            End::TimedOut(time) => Err(fault::timeout(doing, time)),
            End::Cancelled(error) => Err(error),
        }
    }

    /// Settings every session starts with; servers that lack one of the variables do without it.
    fn prepare(&mut self) -> Result<()> {
        let settings = sql::settings(self.waits.lock);
        let all = format!("SET SESSION {}", settings.join(", "));
        match self.attempt(&all, Patience::Answer)? {
            Err(error) if fault::code(&error) == Some(fault::UNKNOWN_VARIABLE) => {}
            other => return other.map_err(|e| fault::running(e, "SET SESSION", None)),
        }
        for setting in settings {
            match self.attempt(&format!("SET SESSION {setting}"), Patience::Answer)? {
                Err(error) if fault::code(&error) == Some(fault::UNKNOWN_VARIABLE) => {}
                other => other.map_err(|e| fault::running(e, "SET SESSION", None))?,
            }
        }
        Ok(())
    }
}

/// One row of an answer, read by column name.
#[derive(Debug)]
pub(super) struct Record {
    row: Row,
    doing: &'static str,
}

impl Record {
    /// A column that may be NULL or absent.
    pub(super) fn optional<T: FromValue>(&self, column: &str) -> Result<Option<T>> {
        let found = self.row.columns_ref().iter().position(|c| {
            // The server's releases do not agree on the case of column names.
            c.name_str().eq_ignore_ascii_case(column)
        });
        let value = found.and_then(|index| self.row.as_ref(index));
        match value {
            None | Some(Value::NULL) => Ok(None),
            Some(value) => mysql_async::from_value_opt(value.clone())
                .map(Some)
                .map_err(|FromValueError(_)| fault::odd_answer(self.doing, column)),
        }
    }

    /// A column that must be there.
    pub(super) fn get<T: FromValue>(&self, column: &str) -> Result<T> {
        self.optional(column)?
            .ok_or_else(|| fault::odd_answer(self.doing, column))
    }

    /// The column with this number, from 0, as text; NULL as nothing.
    pub(super) fn text_at(&self, index: usize) -> Option<String> {
        match self.row.as_ref(index) {
            Some(Value::Bytes(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }
}
