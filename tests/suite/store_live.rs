//! A live MariaDB backed up straight into stores and restored from them.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::backup_support::restores;
use crate::s3_server::{ACCESS_KEY, Ceph, SECRET_KEY};
use crate::server::TestServer;
use crate::tool::{finish, run, scratch, xbpipe};

fn with_data() -> TestServer {
    let server = TestServer::start(&["--innodb-file-per-table=1"]);
    server.sql(
        "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, pad VARBINARY(8000)); \
         CREATE TABLE shop.small (id INT PRIMARY KEY) ENGINE=MyISAM; INSERT INTO shop.small VALUES (1),(2); \
         INSERT INTO shop.t SELECT seq, RANDOM_BYTES(1000) FROM shop.seq_1_to_20000;",
    );
    server
}

fn into_s3(mut command: Command, endpoint: &str) -> Command {
    command
        .args(["--endpoint-url", endpoint])
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// `xbpipe backup` of `server`.
fn backup(server: &TestServer) -> Command {
    let socket = format!("--socket={}", server.socket().display());
    let mut command = xbpipe(["backup", "--no-defaults", "--user=root", "--memory=32M"]);
    command.arg(socket);
    command
}

#[test]
fn to_ceph_and_back() {
    let ceph = Ceph::shared();
    ceph.make_bucket("live");
    let endpoint = format!("http://{}", ceph.address());
    let server = with_data();
    let mut command = into_s3(backup(&server), &endpoint);
    command.args(["--compress=zstd", "--to", "s3://live/db1/"]);
    run(command, b"").expect(0);
    let ls = into_s3(xbpipe(["ls", "--json", "s3://live/db1"]), &endpoint);
    let listed = run(ls, b"").expect(0);
    let entry: serde_json::Value = serde_json::from_str(listed.text().trim()).unwrap();
    assert_eq!(entry["state"], "proven");
    assert_eq!(entry["backup"]["type"], "full-backuped");
    let version = server.sql("SELECT VERSION()");
    assert_eq!(entry["backup"]["server"], version.trim());
    let at = format!("s3://live/db1/{}", entry["name"].as_str().unwrap());
    for verb in ["verify", "list"] {
        run(into_s3(xbpipe([verb, &at]), &endpoint), b"").expect(0);
    }
    let dir = scratch();
    let target = dir.path().join("restored");
    let mut command = into_s3(xbpipe(["restore", "--decompress"]), &endpoint);
    command.arg("-C").arg(&target).arg(&at);
    run(command, b"").expect(0);
    restores(&server, &target, &[]);

    // Ended in the middle: nothing of it is there.
    let mut command = into_s3(backup(&server), &endpoint);
    command.args(["--rate-limit=4M", "--to", "s3://live/db1/never"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let done = finish(child);
    assert_eq!(done.status, 9, "{}", done.err);
    let again = run(
        into_s3(xbpipe(["ls", "--json", "s3://live/db1"]), &endpoint),
        b"",
    );
    assert_eq!(again.expect(0).text(), listed.text());
    let gc = ["gc", "--older-than", "0", "--dry-run", "s3://live/db1"];
    assert_eq!(
        run(into_s3(xbpipe(gc), &endpoint), b"").expect(0).text(),
        ""
    );
}

#[test]
fn a_server_that_dies_leaves_no_backup() {
    let ceph = Ceph::shared();
    ceph.make_bucket("dies");
    let endpoint = format!("http://{}", ceph.address());
    let mut server = with_data();
    let mut command = into_s3(backup(&server), &endpoint);
    command.args(["--rate-limit=4M", "--to", "s3://dies/db1/never"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    server.kill();
    let done = finish(child);
    assert_eq!(done.status, 6, "{}", done.err);
    for args in [
        &["ls", "s3://dies/db1"][..],
        &["gc", "--older-than", "0", "--dry-run", "s3://dies/db1"],
    ] {
        let listed = run(into_s3(xbpipe(args), &endpoint), b"");
        assert_eq!(listed.expect(0).text(), "", "{}", done.err);
    }
    server.start_again();
    let mut command = into_s3(backup(&server), &endpoint);
    command.args(["--to", "s3://dies/db1/again"]);
    run(command, b"").expect(0);
}

#[test]
fn to_a_directory_and_back() {
    let server = with_data();
    let dir = scratch();
    let store = format!("{}/store/", dir.path().display());
    let mut command = backup(&server);
    command.args(["--to", &store]);
    run(command, b"").expect(0);
    let names: Vec<_> = std::fs::read_dir(dir.path().join("store"))
        .unwrap()
        .collect();
    assert_eq!(names.len(), 1);
    let at = names[0].as_ref().unwrap().path();
    let target = dir.path().join("restored");
    let mut command = xbpipe(["restore", "-C"]);
    command.arg(&target).arg(&at);
    run(command, b"").expect(0);
    restores(&server, &target, &[]);
}
