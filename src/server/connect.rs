//! Where the server is and who we are: command line over environment over option files over
//! defaults.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mysql_async::{ClientIdentity, OptsBuilder, SslOpts};

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::optfile::OptionFiles;
use crate::server::fault;

/// Where the server listens when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/mysqld/mysqld.sock";
/// TCP port when nobody says otherwise.
pub const DEFAULT_PORT: u16 = 3306;
/// Longest password file that is read, in bytes.
pub const PASSWORD_FILE_SIZE_MAX: u64 = 4096;
/// Environment variables that give a password, the first one set wins.
pub const PASSWORD_VARIABLES: [&str; 2] = ["XBPIPE_PASSWORD", "MYSQL_PWD"];

/// Groups that give connection options.
pub const CLIENT_GROUPS: &[&str] = &[
    "client",
    "client-server",
    "client-mariadb",
    "mariadb-backup",
    "mariabackup",
    "xtrabackup",
    "xbpipe",
];
/// Groups the server itself reads; asked for the data directory and the socket.
pub const SERVER_GROUPS: &[&str] = &["mysqld", "server", "mariadb", "mariadbd"];

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; not for messages.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Asks at the terminal, without echo.
    pub fn ask(prompt: &str) -> Result<Self> {
        rpassword::prompt_password(prompt).map(Self).map_err(|e| {
            Error::new(Kind::Usage, "cannot ask for the password")
                .source(e)
                .hint("without a terminal, give it in an option file or in a password file")
        })
    }

    /// Reads a password file: its content without the line end.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = fsx::read_small(path, PASSWORD_FILE_SIZE_MAX)?;
        let text = utf8(bytes, "the password file")?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Self(text.strip_suffix('\r').unwrap_or(text).to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

fn utf8(bytes: Vec<u8>, what: &str) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| Error::new(Kind::Usage, format!("{what} is not valid UTF-8")))
}

/// How to reach the server, as `--protocol` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, even to this host.
    Tcp,
    /// Unix socket.
    Socket,
}

impl std::str::FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "socket" => Ok(Self::Socket),
            _ => Err(
                Error::new(Kind::Usage, format!("{text:?} is not a protocol"))
                    .hint("the protocols are tcp and socket"),
            ),
        }
    }
}

/// What the command line says; everything may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// `--host`
    pub host: Option<String>,
    /// `--port`
    pub port: Option<u16>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--protocol`
    pub protocol: Option<Protocol>,
    /// `--user`
    pub user: Option<String>,
    /// A password, however the front end came by it.
    pub password: Option<Secret>,
    /// `--password-file`
    pub password_file: Option<PathBuf>,
    /// `--ssl`
    pub ssl: Option<bool>,
    /// `--ssl-ca`
    pub ssl_ca: Option<PathBuf>,
    /// `--ssl-cert`
    pub ssl_cert: Option<PathBuf>,
    /// `--ssl-key`
    pub ssl_key: Option<PathBuf>,
    /// `--ssl-verify-server-cert`
    pub ssl_verify_server_cert: Option<bool>,
}

/// Reads one environment variable; a function, so that tests bring their own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Path of its Unix socket.
    Socket(PathBuf),
    /// Host name or address, and port.
    Tcp(String, u16),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "socket {:?}", path.as_os_str()),
            Self::Tcp(host, port) => write!(f, "{host} port {port}"),
        }
    }
}

/// Whether a TCP connection is encrypted. A Unix socket never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Off,
    /// If the server and we can agree on it.
    Preferred,
    /// Always; a server that cannot is an error.
    Required,
}

/// TLS over TCP.
///
/// The certificate chain is verified when `ca` or `verify_name` is given, against `ca` or else the
/// public authorities; the host name is verified only with `verify_name`. Otherwise TLS merely
/// keeps listeners out. With `ca` alone the certificate still must have a name (subjectAltName),
/// though any will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// When to use it.
    pub mode: TlsMode,
    /// PEM file of the certificate authorities to trust instead of the public ones.
    pub ca: Option<PathBuf>,
    /// PEM files of our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether the certificate must name the host we asked for.
    pub verify_name: bool,
}

/// Everything needed to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Where.
    pub endpoint: Endpoint,
    /// Account name.
    pub user: String,
    /// Its password; none is not the same as an empty one only for the server's message.
    pub password: Option<Secret>,
    /// TLS over TCP.
    pub tls: Tls,
}

impl ConnectOptions {
    /// Merges what was given with environment, option files and defaults, in this order of
    /// precedence.
    ///
    /// A host other than `localhost` means TCP, as does a port on the command line or
    /// `--protocol=tcp`; otherwise it is the Unix socket: of the client groups, else of the
    /// server's own groups, else [`DEFAULT_SOCKET`].
    pub fn resolve(given: &Given, env: Environment<'_>, files: &OptionFiles) -> Result<Self> {
        let text = |name: &str| -> Result<Option<String>> {
            let value = files.value(CLIENT_GROUPS, name);
            value
                .map(|v| utf8(v.into_encoded_bytes(), &format!("option {name}")))
                .transpose()
        };
        let path = |name: &str| {
            files
                .value(CLIENT_GROUPS, name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let host = or(given.host.clone(), || text("host"))?.filter(|host| !host.is_empty());
        let protocol = or(given.protocol, || {
            text("protocol")?.map(|word| word.parse()).transpose()
        })?;
        let local = host
            .as_deref()
            .is_none_or(|host| host.eq_ignore_ascii_case("localhost"));
        let tcp = match protocol {
            Some(protocol) => protocol == Protocol::Tcp,
            None => !local || (given.port.is_some() && given.socket.is_none()),
        };
        let endpoint = if tcp {
            let port = or(given.port, || port_of(text("port")?))?.unwrap_or(DEFAULT_PORT);
            Endpoint::Tcp(host.unwrap_or_else(|| "localhost".to_owned()), port)
        } else {
            let server = || files.value(SERVER_GROUPS, "socket").map(PathBuf::from);
            let socket = given
                .socket
                .clone()
                .or_else(|| path("socket"))
                .or_else(server);
            Endpoint::Socket(socket.unwrap_or_else(|| DEFAULT_SOCKET.into()))
        };
        let user = or(given.user.clone(), || text("user"))?;
        let user = match user {
            Some(user) => user,
            None => login_name(env)?,
        };
        let cert = given.ssl_cert.clone().or_else(|| path("ssl-cert"));
        let key = given.ssl_key.clone().or_else(|| path("ssl-key"));
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                return Err(
                    Error::new(Kind::Usage, "ssl-cert and ssl-key belong together")
                        .hint("give both files or none"),
                );
            }
        };
        let ca = given.ssl_ca.clone().or_else(|| path("ssl-ca"));
        let verify_name = or(given.ssl_verify_server_cert, || {
            files.switch(CLIENT_GROUPS, "ssl-verify-server-cert")
        })?
        .unwrap_or(false);
        let mode = match or(given.ssl, || files.switch(CLIENT_GROUPS, "ssl"))? {
            Some(true) => TlsMode::Required,
            Some(false) => TlsMode::Off,
            // Who names certificates means it: a server without TLS must not get by.
            None if ca.is_some() || identity.is_some() || verify_name => TlsMode::Required,
            None => TlsMode::Preferred,
        };
        Ok(Self {
            endpoint,
            user,
            password: password(given, env, files)?,
            tls: Tls {
                mode,
                ca,
                identity,
                verify_name,
            },
        })
    }

    /// The driver's form of it for one attempt.
    pub(super) fn driver_options(&self, attempt: &Attempt) -> Result<OptsBuilder> {
        let mut options = OptsBuilder::default()
            .user(Some(self.user.clone()))
            .pass(self.password.as_ref().map(|p| p.reveal().to_owned()))
            // Known values spare the driver a query of its own.
            .max_allowed_packet(Some(1 << 24))
            .wait_timeout(Some(crate::server::sql::WAIT_TIMEOUT_SECONDS))
            .prefer_socket(false)
            .stmt_cache_size(0)
            .tcp_nodelay(true);
        options = match &self.endpoint {
            Endpoint::Socket(path) => {
                let path = path.to_str().ok_or_else(|| {
                    Error::new(Kind::Usage, "the socket's path is not valid UTF-8").path(path)
                })?;
                options.socket(Some(path))
            }
            Endpoint::Tcp(host, port) => options.ip_or_hostname(host.clone()).tcp_port(*port),
        };
        match attempt {
            Attempt::Plain => {}
            Attempt::Tls => options = options.ssl_opts(self.tls.driver_options()?),
            Attempt::TlsNamed(name) => {
                let tls = self.tls.driver_options()?;
                options =
                    options.ssl_opts(tls.with_danger_tls_hostname_override(Some(name.clone())));
            }
        }
        Ok(options)
    }

    /// How to connect at first.
    pub(super) fn first_attempt(&self) -> Attempt {
        match self.endpoint {
            Endpoint::Tcp(..) if self.tls.mode != TlsMode::Off => Attempt::Tls,
            _ => Attempt::Plain,
        }
    }

    /// What else to try after `first` failed with `error`, if anything.
    pub(super) fn second_attempt(
        &self,
        first: &Attempt,
        error: &mysql_async::Error,
    ) -> Option<Attempt> {
        if *first != Attempt::Tls {
            return None;
        }
        // Nothing is verified then, so going on without TLS gives nothing away; some old
        // certificates (X.509 version 1) are beyond our TLS library.
        if self.tls.mode == TlsMode::Preferred && fault::is_about_tls(error) {
            return Some(Attempt::Plain);
        }
        if self.tls.verify_name {
            return None;
        }
        fault::name_in_certificate(error).map(Attempt::TlsNamed)
    }

    /// Whether another login with the same password may succeed. mysql_common (0.37) takes a zero at the end of the scramble for a
    /// terminator, which ed25519 has none of: the server refuses the signature of one login in 256.
    pub(super) fn may_be_denied_by_chance(&self, error: &mysql_async::Error) -> bool {
        self.password.is_some() && fault::is_denied(error)
    }
}

/// One try at connecting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Without TLS.
    Plain,
    /// With TLS.
    Tls,
    /// With TLS, expecting this name in the certificate instead of the host's. The driver's own
    /// switch to verify the chain but not the name has no effect, so the name the certificate has
    /// is expected.
    TlsNamed(String),
}

impl Tls {
    fn driver_options(&self) -> Result<SslOpts> {
        install_crypto_provider();
        let mut options = SslOpts::default();
        if let Some(ca) = &self.ca {
            options = options
                .with_root_certs(vec![pem(ca)?.into()])
                .with_disable_built_in_roots(true);
        }
        if let Some((cert, key)) = &self.identity {
            let identity = ClientIdentity::new(pem(cert)?.into(), pem(key)?.into());
            options = options.with_client_identity(Some(identity));
        }
        let verify = self.verify_name || self.ca.is_some();
        Ok(options.with_danger_accept_invalid_certs(!verify))
    }
}

/// Longest certificate or key file that is read, in bytes: a bundle of all public authorities has
/// 250 kB.
const PEM_FILE_SIZE_MAX: u64 = 4 << 20;

fn pem(path: &Path) -> Result<Vec<u8>> {
    fsx::read_small(path, PEM_FILE_SIZE_MAX)
}

/// Two TLS libraries in one program may each bring a provider; then rustls wants to be told which
/// one.
fn install_crypto_provider() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        // An error means that somebody else has chosen already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
}

fn or<T>(first: Option<T>, second: impl FnOnce() -> Result<Option<T>>) -> Result<Option<T>> {
    match first {
        Some(value) => Ok(Some(value)),
        None => second(),
    }
}

fn port_of(text: Option<String>) -> Result<Option<u16>> {
    let Some(text) = text else { return Ok(None) };
    match text.parse() {
        // Zero means the default, as for the server's own programs.
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(Error::new(
            Kind::Usage,
            format!("option port: {text:?} is not a port"),
        )),
    }
}

fn password(given: &Given, env: Environment<'_>, files: &OptionFiles) -> Result<Option<Secret>> {
    if let Some(password) = &given.password {
        return Ok(Some(password.clone()));
    }
    if let Some(file) = &given.password_file {
        return Secret::from_file(file).map(Some);
    }
    for name in PASSWORD_VARIABLES {
        if let Some(value) = env(name) {
            return utf8(value.into_encoded_bytes(), name).map(|text| Some(Secret(text)));
        }
    }
    let value = files.value(CLIENT_GROUPS, "password");
    value
        .map(|v| utf8(v.into_encoded_bytes(), "option password").map(Secret))
        .transpose()
}

/// The name of the account this process runs under, from the password file, else from the
/// environment.
fn login_name(env: Environment<'_>) -> Result<String> {
    const PASSWD_SIZE_MAX: u64 = 16 << 20;
    let uid = rustix::process::geteuid().as_raw();
    let passwd = fsx::read_small("/etc/passwd", PASSWD_SIZE_MAX).unwrap_or_default();
    let known = String::from_utf8_lossy(&passwd).lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    let from_env = || {
        ["USER", "LOGNAME"]
            .iter()
            .find_map(|name| env(name)?.into_string().ok())
    };
    known.or_else(from_env).ok_or_else(|| {
        Error::new(Kind::Usage, "no user name to connect with").hint("name one with --user")
    })
}

/// The data directory the server's own groups name, for when there is no server to ask.
#[must_use]
pub fn datadir_of(files: &OptionFiles) -> Option<PathBuf> {
    files
        .value(SERVER_GROUPS, "datadir")
        .filter(|dir| dir != OsStr::new(""))
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::optfile::Choice;

    fn files(text: &str) -> OptionFiles {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.cnf");
        fsx::write_small(&path, text.as_bytes()).unwrap();
        OptionFiles::load(&Choice {
            defaults_file: Some(path),
            ..Choice::default()
        })
        .unwrap()
    }

    const FILE: &str = "[client]\nuser=u\npassword=\"p#w\"\nport=3307\nsocket=/c\n[mysqld]\n\
                        socket=/s\ndatadir=/d\n";

    fn resolve(given: &Given, env: &[(&str, &str)], text: &str) -> Result<ConnectOptions> {
        let env = |name: &str| {
            env.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| OsString::from(value))
        };
        ConnectOptions::resolve(given, &env, &files(text))
    }

    #[test]
    fn precedence() {
        let none = Given::default();
        let got = resolve(&none, &[], FILE).unwrap();
        assert_eq!(got.endpoint, Endpoint::Socket("/c".into()));
        assert_eq!(
            (got.user.as_str(), got.password.unwrap().reveal()),
            ("u", "p#w")
        );
        let got = resolve(&none, &[("MYSQL_PWD", "e"), ("XBPIPE_PASSWORD", "x")], FILE).unwrap();
        assert_eq!(got.password.unwrap().reveal(), "x");
        let got = resolve(&none, &[("MYSQL_PWD", "e")], FILE).unwrap();
        assert_eq!(got.password.unwrap().reveal(), "e");
        let given = Given {
            password: Some(Secret::new("c")),
            user: Some("v".to_owned()),
            ..Given::default()
        };
        let got = resolve(&given, &[("MYSQL_PWD", "e")], FILE).unwrap();
        assert_eq!(
            (got.user.as_str(), got.password.unwrap().reveal()),
            ("v", "c")
        );
        let got = resolve(&none, &[], "[mysqld]\nsocket=/s\n").unwrap();
        assert_eq!(got.endpoint, Endpoint::Socket("/s".into()));
        assert!(!got.user.is_empty());
        let got = resolve(&none, &[], "").unwrap();
        assert_eq!(got.endpoint, Endpoint::Socket(DEFAULT_SOCKET.into()));
        assert_eq!(datadir_of(&files(FILE)), Some("/d".into()));
    }

    #[test]
    fn socket_or_tcp() {
        let endpoint = |host: Option<&str>, port, socket: Option<&str>, protocol| {
            let given = Given {
                host: host.map(str::to_owned),
                port,
                socket: socket.map(PathBuf::from),
                protocol,
                ..Given::default()
            };
            resolve(&given, &[], FILE).unwrap().endpoint.to_string()
        };
        assert_eq!(endpoint(Some("db"), None, None, None), "db port 3307");
        assert_eq!(
            endpoint(Some("localhost"), None, None, None),
            r#"socket "/c""#
        );
        assert_eq!(endpoint(None, Some(1), None, None), "localhost port 1");
        assert_eq!(endpoint(None, Some(1), Some("/x"), None), r#"socket "/x""#);
        assert_eq!(
            endpoint(None, None, None, Some(Protocol::Tcp)),
            "localhost port 3307"
        );
        assert_eq!(
            endpoint(Some("db"), None, None, Some(Protocol::Socket)),
            r#"socket "/c""#
        );
    }

    #[test]
    fn naming_certificates_requires_tls() {
        let mode = |text: &str| resolve(&Given::default(), &[], text).map(|o| o.tls.mode);
        assert_eq!(mode("").unwrap(), TlsMode::Preferred);
        assert_eq!(mode("[client]\nssl-ca=/x\n").unwrap(), TlsMode::Required);
        assert_eq!(
            mode("[client]\nssl-ca=/x\nskip-ssl\n").unwrap(),
            TlsMode::Off
        );
        assert_eq!(mode("[client]\nssl\n").unwrap(), TlsMode::Required);
        assert_eq!(
            mode("[client]\nssl_verify_server_cert\n").unwrap(),
            TlsMode::Required
        );
        assert!(mode("[client]\nssl-key=/x\n").is_err());
    }

    #[test]
    fn debug_output_hides_the_password() {
        let got = resolve(&Given::default(), &[], FILE).unwrap();
        assert!(!format!("{got:?}").contains("p#w"));
        let given = Given {
            password: Some(Secret::new("hush")),
            ..Given::default()
        };
        assert!(!format!("{given:?}").contains("hush"));
    }

    #[test]
    fn password_file_loses_its_line_end_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pw");
        fsx::write_small(&path, b" a b \r\n").unwrap();
        assert_eq!(Secret::from_file(&path).unwrap().reveal(), " a b ");
    }
}
