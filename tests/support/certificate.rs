//! Certificates made on the spot.

use std::path::{Path, PathBuf};
use std::process::Command;

use xbpipe::base::fsx;

use crate::server::run;

pub(crate) fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

fn new_key(dir: &Path, name: &str) -> String {
    let key = path(dir, name);
    run(Command::new("openssl").args([
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        &key,
    ]));
    key
}

/// A certificate authority: NAME.pem and NAME.key.
pub(crate) fn authority(dir: &Path, name: &str) -> PathBuf {
    let (cert, key) = (format!("{name}.pem"), new_key(dir, &format!("{name}.key")));
    run(Command::new("openssl").args([
        "req",
        "-x509",
        "-new",
        "-key",
        &key,
        "-subj",
        &format!("/CN={name}"),
        "-days",
        "3",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-out",
        &path(dir, &cert),
    ]));
    dir.join(cert)
}

/// A certificate for `name`, signed by the authority `ca`: WHO.pem and WHO.key. Without a name it
/// has no extensions at all and thus is of version 1.
pub(crate) fn certificate(dir: &Path, who: &str, ca: &str, name: &str) {
    let key = new_key(dir, &format!("{who}.key"));
    let request = path(dir, "request");
    run(Command::new("openssl").args([
        "req",
        "-new",
        "-key",
        &key,
        "-subj",
        &format!("/CN={who}"),
        "-out",
        &request,
    ]));
    let extensions = dir.join("extensions");
    let extension = if name.is_empty() {
        String::new()
    } else {
        format!("subjectAltName={name}\n")
    };
    fsx::write_small(&extensions, extension.as_bytes()).unwrap();
    run(Command::new("openssl").args([
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &path(dir, &format!("{ca}.pem")),
        "-CAkey",
        &path(dir, &format!("{ca}.key")),
        "-CAcreateserial",
        "-days",
        "3",
        "-extfile",
        extensions.to_str().unwrap(),
        "-out",
        &path(dir, &format!("{who}.pem")),
    ]));
}
