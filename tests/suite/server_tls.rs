//! TLS over loopback TCP with certificates made on the spot.

use std::path::Path;

use xbpipe::base::cancel::Cancel;
use xbpipe::base::error::{Kind, Result};
use xbpipe::server::connect::{Endpoint, Tls, TlsMode};
use xbpipe::server::session::{Server, Session};

use crate::certificate::{authority, certificate, path};
use crate::server::{TestServer, free_port, on_port};
use crate::session::options;

fn connect(host: &str, port: u16, user: &str, tls: Tls) -> Result<Session> {
    let mut options = options(Endpoint::Tcp(host.to_owned(), port), user, Some("pw"));
    options.tls = tls;
    Server::new(options, Cancel::new()).connect()
}

fn tls(mode: TlsMode, ca: Option<&Path>, verify_name: bool) -> Tls {
    Tls {
        mode,
        ca: ca.map(Path::to_path_buf),
        identity: None,
        verify_name,
    }
}

fn start_tcp(port: u16, options: &[String]) -> TestServer {
    let tcp = on_port(port);
    let options: Vec<&str> = tcp.iter().chain(options).map(String::as_str).collect();
    TestServer::start(&options)
}

fn create_users(server: &TestServer) {
    // REQUIRE lets the server itself testify that TLS is used.
    server.sql(
        "CREATE USER plain@'127.0.0.1' IDENTIFIED BY 'pw'; \
         CREATE USER secure@'127.0.0.1' IDENTIFIED BY 'pw' REQUIRE SSL; \
         CREATE USER known@'127.0.0.1' IDENTIFIED BY 'pw' REQUIRE X509",
    );
}

#[test]
fn certificates_are_verified() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (good, bad) = (authority(dir, "good"), authority(dir, "bad"));
    certificate(dir, "server", "good", "IP:127.0.0.1");
    certificate(dir, "client", "good", "DNS:client");
    let port = free_port();
    let tls_options = [
        format!("--ssl-ca={}", good.display()),
        format!("--ssl-cert={}", path(dir, "server.pem")),
        format!("--ssl-key={}", path(dir, "server.key")),
    ];
    let server = start_tcp(port, &tls_options);
    create_users(&server);
    let host = "127.0.0.1";
    let required = |ca, verify| tls(TlsMode::Required, ca, verify);

    connect(host, port, "secure", required(Some(&good), true))
        .unwrap()
        .identify()
        .unwrap();
    connect(host, port, "secure", required(Some(&good), false)).unwrap();
    connect(host, port, "secure", required(None, false)).unwrap();
    connect(host, port, "secure", tls(TlsMode::Preferred, None, false)).unwrap();
    connect(host, port, "plain", tls(TlsMode::Off, None, false)).unwrap();

    let error = connect(host, port, "secure", tls(TlsMode::Off, None, false)).unwrap_err();
    assert!(error.to_string().contains("Access denied"), "{error}");
    server.sql("SET GLOBAL require_secure_transport=1");
    let error = connect(host, port, "plain", tls(TlsMode::Off, None, false)).unwrap_err();
    assert!(
        error.hint_text().unwrap().contains("requires TLS"),
        "{error}"
    );
    server.sql("SET GLOBAL require_secure_transport=0");

    // A foreign authority, with and without the name; nobody's authority; a name the certificate
    // lacks.
    for (host, ca, verify) in [
        (host, Some(&*bad), false),
        (host, Some(&*bad), true),
        (host, None, true),
        ("localhost", Some(&*good), true),
    ] {
        let error = connect(host, port, "plain", required(ca, verify)).unwrap_err();
        assert_eq!(error.kind(), Kind::Server);
        assert!(
            error.to_string().starts_with("no trusted TLS connection"),
            "{error}"
        );
        assert!(error.hint_text().unwrap().contains("--ssl-ca"), "{error}");
    }
    connect("localhost", port, "plain", required(Some(&good), false)).unwrap();

    // Our own certificate.
    let mut identity = required(Some(&good), true);
    connect(host, port, "known", identity.clone()).unwrap_err();
    identity.identity = Some((dir.join("client.pem"), dir.join("client.key")));
    connect(host, port, "known", identity.clone()).unwrap();
    identity.identity = Some((dir.join("client.pem"), dir.join("missing.key")));
    let error = connect(host, port, "known", identity).unwrap_err();
    assert!(error.file().unwrap().ends_with("missing.key"), "{error}");

    // Without verifying the name, one of many hosts will do, and one of another authority still
    // will not.
    certificate(dir, "server", "good", "DNS:*.example.test");
    server.sql("FLUSH SSL");
    connect(host, port, "secure", required(Some(&good), false)).unwrap();
    connect(host, port, "secure", required(Some(&good), true)).unwrap_err();
    certificate(dir, "server", "bad", "DNS:*.example.test");
    server.sql("FLUSH SSL");
    connect(host, port, "secure", required(Some(&good), false)).unwrap_err();
    connect(host, port, "secure", required(None, false)).unwrap();

    // A certificate of X.509 version 1 is no obstacle while TLS is a wish only.
    certificate(dir, "server", "good", "");
    server.sql("FLUSH SSL");
    connect(host, port, "plain", tls(TlsMode::Preferred, None, false)).unwrap();
    let error = connect(host, port, "plain", required(None, false)).unwrap_err();
    assert!(
        error.to_string().starts_with("no trusted TLS connection"),
        "{error}"
    );
}

#[test]
fn a_server_without_tls() {
    let port = free_port();
    let server = start_tcp(port, &["--skip-ssl".to_owned()]);
    create_users(&server);
    connect(
        "127.0.0.1",
        port,
        "plain",
        tls(TlsMode::Preferred, None, false),
    )
    .unwrap();
    let error = connect(
        "127.0.0.1",
        port,
        "plain",
        tls(TlsMode::Required, None, false),
    )
    .unwrap_err();
    assert!(error.to_string().contains("offers no TLS"), "{error}");
    assert!(error.hint_text().unwrap().contains("--skip-ssl"), "{error}");
}
