//! What the server and the driver complain about, as sentences with a remedy.
//!
//! Error numbers are those of the MariaDB error list. 1040, 1045, 1205, 1227, 1698 and 4146 are
//! provoked by the tests on a real server; the others follow the list.

use std::io;
use std::time::Duration;

use mysql_async::{DriverError, Error as DbError, IoError, ServerError};
use rustls::CertificateError;

use crate::base::error::{Error, Kind};
use crate::server::connect::{ConnectOptions, DEFAULT_PORT, Endpoint};

/// Lock wait timeout exceeded.
const LOCK_WAIT_TIMEOUT: u16 = 1205;
/// Access denied (wrong password), and the same without a password.
const ACCESS_DENIED: [u16; 2] = [1045, 1698];
/// Too many connections; of the server, of this user, of this account by its limits.
const TOO_MANY: [u16; 3] = [1040, 1203, 1226];
/// This client's host may not connect at all.
const HOST_REFUSED: [u16; 2] = [1129, 1130];
/// Server shutdown in progress.
const SHUTDOWN: u16 = 1053;
/// Query or connection was killed.
const KILLED: [u16; 2] = [1317, 1927];
/// A privilege is missing.
const PRIVILEGE: u16 = 1227;
/// No such system variable.
pub(super) const UNKNOWN_VARIABLE: u16 = 1193;
/// A backup stage other than START while no stage is active.
pub(super) const NO_BACKUP_STAGE: u16 = 4146;

/// The server's own error number, if it is the server that complains.
pub(super) fn code(error: &DbError) -> Option<u16> {
    match error {
        DbError::Server(ServerError { code, .. }) => Some(*code),
        _ => None,
    }
}

/// Whether the error is about a privilege.
pub(super) fn is_privilege(error: &DbError) -> bool {
    code(error) == Some(PRIVILEGE)
}

/// Whether user or password is what the server complains about.
pub(super) fn is_denied(error: &DbError) -> bool {
    code(error).is_some_and(|code| ACCESS_DENIED.contains(&code))
}

/// Whether TLS is what failed: the server has none, or has a certificate we cannot work with.
pub(super) fn is_about_tls(error: &DbError) -> bool {
    match error {
        DbError::Driver(DriverError::NoClientSslFlagFromServer) => true,
        DbError::Io(IoError::Tls(_)) => true,
        DbError::Io(IoError::Io(cause)) => is_tls(cause),
        _ => false,
    }
}

/// A name of the server's certificate, if the name was all that was wrong with it: the chain is
/// verified first.
pub(super) fn name_in_certificate(error: &DbError) -> Option<String> {
    let DbError::Io(IoError::Io(cause)) = error else {
        return None;
    };
    let cause = cause.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
        presented,
        ..
    }) = cause
    else {
        return None;
    };
    // Each reads DnsName("db.example") or IpAddress(127.0.0.1).
    let name = presented.iter().find_map(|text| {
        let (kind, name) = text.strip_suffix(')')?.split_once('(')?;
        matches!(kind, "DnsName" | "IpAddress").then(|| name.trim_matches('"'))
    })?;
    // A wildcard stands for any one label.
    Some(name.replace('*', "any"))
}

/// Whether the connection can still be used after this error.
pub(super) fn leaves_connection(error: &DbError) -> bool {
    code(error).is_some_and(|code| code != SHUTDOWN && code != KILLED[1])
}

/// Why no connection came about.
pub(super) fn connecting(error: DbError, options: &ConnectOptions) -> Error {
    let place = &options.endpoint;
    let make = |what: String| Error::new(Kind::Server, what);
    match error {
        DbError::Server(ServerError { code, message, .. }) => {
            let error = make(format!("the server at {place} refuses the connection: {message}"));
            if ACCESS_DENIED.contains(&code) {
                error.hint(
                    "check user and password: option files, XBPIPE_PASSWORD, --password-file; \
                     an account of unix_socket needs the operating system's user of its name, \
                     one that requires TLS needs --ssl",
                )
            } else if TOO_MANY.contains(&code) {
                error.hint("raise max_connections, or end idle connections; a backup needs a few")
            } else if HOST_REFUSED.contains(&code) {
                error.hint("create an account for this client's host, or FLUSH HOSTS when it is blocked")
            } else if code == SHUTDOWN {
                error.hint("the server is shutting down")
            } else {
                error
            }
        }
        DbError::Driver(DriverError::NoClientSslFlagFromServer) => {
            make(format!("the server at {place} offers no TLS"))
                .hint("set ssl_cert and ssl_key on the server, or connect with --skip-ssl")
        }
        DbError::Driver(DriverError::UnknownAuthPlugin { name }) => {
            make(format!("the account's authentication plugin {name:?} is not supported")).hint(
                "use an account of mysql_native_password, ed25519, caching_sha2_password or unix_socket",
            )
        }
        DbError::Driver(
            DriverError::MysqlOldPasswordDisabled | DriverError::CleartextPluginDisabled,
        ) => make(format!("the server at {place} asks for the password in an insecure form"))
            .hint("use an account of mysql_native_password, ed25519 or unix_socket"),
        DbError::Io(IoError::Tls(cause)) => tls(place, cause),
        DbError::Io(IoError::Io(cause)) if is_tls(&cause) => tls(place, cause),
        DbError::Io(IoError::Io(cause)) => io_while_connecting(place, cause),
        other => make(format!("cannot connect to the server at {place}")).source(other),
    }
}

fn tls(place: &Endpoint, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(
        Kind::Server,
        format!("no trusted TLS connection to the server at {place}"),
    )
    .source(cause)
    .hint(
        "give the authority that signed the server's certificate as --ssl-ca, and as --host a \
             name the certificate has",
    )
}

fn is_tls(cause: &io::Error) -> bool {
    cause
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

fn io_while_connecting(place: &Endpoint, cause: io::Error) -> Error {
    let (what, hint) = match (place, cause.kind()) {
        (Endpoint::Socket(_), io::ErrorKind::NotFound) => (
            format!("there is no server at {place}"),
            "start the server, or name its socket with --socket (SELECT @@socket tells it)"
                .to_owned(),
        ),
        (Endpoint::Socket(_), io::ErrorKind::ConnectionRefused) => (
            format!("no server listens at {place}"),
            "the server seems to have stopped without removing its socket".to_owned(),
        ),
        (_, io::ErrorKind::PermissionDenied) => (
            format!("may not open {place}"),
            "run as a user who may reach the server's socket, such as mysql or root".to_owned(),
        ),
        (Endpoint::Tcp(..), io::ErrorKind::ConnectionRefused) => (
            format!("no server listens at {place}"),
            format!(
                "check host and port (default {DEFAULT_PORT}), bind_address and skip_networking"
            ),
        ),
        (_, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => (
            format!("the server at {place} closed the connection before it was made"),
            "look into the server's error log; is it a MariaDB server that listens there"
                .to_owned(),
        ),
        _ => (
            format!("cannot reach the server at {place}"),
            "check the host name, the network and firewalls".to_owned(),
        ),
    };
    Error::new(Kind::Server, what).source(cause).hint(hint)
}

/// Nobody answered for `time` while connecting.
pub(super) fn connect_timeout(place: &Endpoint, time: Duration) -> Error {
    Error::new(
        Kind::Server,
        format!("no answer from the server at {place} within {time:?}"),
    )
    .hint("check host, port and firewalls, and whether the server hangs")
}

/// Why the statement `doing` failed.
pub(super) fn running(error: DbError, doing: &str, lock_wait: Option<Duration>) -> Error {
    match error {
        DbError::Server(ServerError { code, message, .. }) => {
            let plain = || {
                Error::new(
                    Kind::Server,
                    format!("the server refused {doing}: {message}"),
                )
            };
            if code == LOCK_WAIT_TIMEOUT {
                let time = lock_wait.map_or(String::new(), |t| format!(" within {t:?}"));
                Error::new(Kind::Server, format!("{doing} got no lock{time}")).hint(
                    "look at SHOW PROCESSLIST for LOCK TABLES ... WRITE, long writes to tables that are \
                     not of InnoDB, or another backup; or wait longer with --lock-wait",
                )
            } else if code == NO_BACKUP_STAGE {
                Error::new(
                    Kind::Server,
                    format!("{doing} came while this connection held no backup stage"),
                )
                .hint("the locks were lost on the way, so this backup is not valid; run it again")
            } else if code == PRIVILEGE {
                plain().hint("grant the privilege the server names to the backup's account")
            } else if code == SHUTDOWN {
                gone(doing)
                    .hint("the server is shutting down; start it again and run the backup again")
            } else if KILLED.contains(&code) {
                Error::new(
                    Kind::Server,
                    format!("somebody killed the connection during {doing}"),
                )
                .hint("find out who uses KILL or limits on statements, and run the backup again")
            } else {
                plain()
            }
        }
        DbError::Io(IoError::Io(cause)) => gone(doing).source(cause),
        DbError::Io(IoError::Tls(cause)) => gone(doing).source(cause),
        DbError::Driver(DriverError::ConnectionClosed) => gone(doing),
        other => Error::new(Kind::Server, format!("{doing} failed")).source(other),
    }
}

/// The connection broke during `doing`.
pub(super) fn gone(doing: &str) -> Error {
    Error::new(
        Kind::Server,
        format!("the server stopped or closed the connection during {doing}"),
    )
    .hint("look into the server's error log; the backup must be started again")
}

/// The server did not answer `doing` for `time`.
pub(super) fn timeout(doing: &str, time: Duration) -> Error {
    Error::new(
        Kind::Server,
        format!("the server did not answer {doing} within {time:?}"),
    )
    .hint("the server hangs or is overloaded; the connection was closed and its locks released")
}

/// The server answered `doing` with something else than expected.
pub(super) fn odd_answer(doing: &str, what: &str) -> Error {
    Error::new(
        Kind::Server,
        format!("the server's answer to {doing} has no usable {what}"),
    )
}
