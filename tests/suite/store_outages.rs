//! Stores that go away under a run, let it down at any byte, or have no more room. After each the exit status is right, nothing is
//! listed that is not whole, and the next run works.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::fault_proxy::{Action, FaultProxy};
use crate::s3_server::{ACCESS_KEY, BUCKET, Ceph, LocalS3, SECRET_KEY};
use crate::store_backups::{Place, archive_of};
use crate::tool::{Tree, assert_same, files, finish, noise, read_tree, scratch};

fn tree() -> Tree {
    let mut tree = Tree::new();
    for i in 0..8 {
        let name = format!("db/t{i}.ibd");
        tree.extend(files([(name.as_str(), &noise(4 << 20, 30 + i)[..])]));
    }
    tree
}

/// Two minutes without a store, in the middle of a put and of a restore. They fail a little longer than most outages last.
// r[repository.retry]
#[test]
fn two_minutes_without_a_store_cost_two_minutes() {
    const OUTAGE: Duration = Duration::from_secs(125);
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let place = Place::s3(&proxy.url(), BUCKET, "o");
    let tree = tree();
    let archive = archive_of(&tree, "none");
    place.put("a", &archive, &[]).expect(0);
    let dir = scratch();
    let to = dir.path().join("to");
    let at = place.at("a");
    let mut args = vec!["--memory", "32M", "--rate-limit", "4M", "--no-sync"];
    args.extend(["-C", to.to_str().unwrap(), &at]);
    let mut restore = place.command("restore", &args);
    restore.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut restore = restore.spawn().unwrap();
    let mut put = place.command("put", &["--memory", "24M", &place.at("b")]);
    put.stdin(Stdio::piped());
    put.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut put = put.spawn().unwrap();
    let mut stdin = put.stdin.take().unwrap();
    stdin.write_all(&archive[..14 << 20]).unwrap();
    while !to.join("db/t0.ibd").exists() {
        assert!(restore.try_wait().unwrap().is_none(), "it was too quick");
        std::thread::sleep(Duration::from_millis(10));
    }
    proxy.set_down(true);
    let (written, put, restore) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let written = stdin.write_all(&archive[14 << 20..]);
            drop(stdin);
            written
        });
        std::thread::sleep(OUTAGE);
        assert!(restore.try_wait().unwrap().is_none(), "it did not wait");
        assert!(put.try_wait().unwrap().is_none(), "it did not wait");
        proxy.set_down(false);
        (writing.join().unwrap(), finish(put), finish(restore))
    });
    written.unwrap();
    for done in [put, restore] {
        let done = done.expect(0);
        assert!(done.err.contains("going on to try"), "{}", done.err);
    }
    assert_same(&read_tree(&to), &tree);
    assert_eq!(place.names(), ["a", "b"]);
    assert!(place.run("get", &[&place.at("b")]).expect(0).out == archive);
}

fn restore(place: &Place, name: &str, to: &Path) {
    let (to, at) = (to.to_str().unwrap(), place.at(name));
    let args = ["--memory", "24M", "--no-sync", "-C", to, &at];
    place.run("restore", &args).expect(0);
}

#[test]
fn connections_may_break_at_any_byte() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let place = Place::s3(&proxy.url(), BUCKET, "c");
    let tree = tree();
    let archive = archive_of(&tree, "none");
    let small = ["--memory", "24M"];
    for (i, at) in [0, 1, 100, 65_536, 1 << 20, 4_000_000, 5_242_879]
        .into_iter()
        .enumerate()
    {
        let name = format!("n{i}");
        proxy.on("PUT", "partNumber=", i, 2, Action::CutRequest(at));
        place.put(&name, &archive, &small).expect(0);
        proxy.heal();
        let dir = scratch();
        let to = dir.path().join("to");
        proxy.on("GET", ".xbs", i, 2, Action::CutAnswer(at));
        restore(&place, &name, &to);
        proxy.heal();
        assert_same(&read_tree(&to), &tree);
    }
}

#[test]
fn a_token_that_expires_in_the_middle_is_read_again() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let dir = scratch();
    let credentials = dir.path().join("credentials");
    let mut place = Place::s3(&proxy.url(), BUCKET, "x");
    place.env.retain(|(name, _)| !name.contains("KEY"));
    place
        .env
        .push(("AWS_SHARED_CREDENTIALS_FILE", credentials.clone().into()));
    place.env.push(("AWS_CONFIG_FILE", "/dev/null".into()));
    let write = |token: &str| {
        let text = format!(
            "[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n\
             aws_session_token = {token}\n"
        );
        std::fs::write(&credentials, text).unwrap();
    };
    let tree = tree();
    let archive = archive_of(&tree, "none");
    let to = dir.path().join("to");
    for (method, work) in [
        (
            "PUT",
            &(|| drop(place.put("a", &archive, &["--memory", "24M"]).expect(0))) as &dyn Fn(),
        ),
        ("GET", &|| restore(&place, "a", &to)),
    ] {
        write("first-token");
        // From the fourth request on it has expired for good; somebody writes the next one a little later.
        let expired = Action::Answer(400, "ExpiredToken");
        proxy.on(method, "first-token", 3, usize::MAX, expired);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(700));
                write("second-token");
            });
            work();
        });
        proxy.heal();
    }
    assert_same(&read_tree(&to), &tree);
    assert_eq!(place.names(), ["a"]);
}

/// A real quota of a real store.
#[test]
fn a_full_bucket_is_told_and_left_as_it_was() {
    let ceph = Ceph::shared();
    ceph.make_bucket("full");
    let admin = |words: &[&str]| {
        let tail = ["--quota-scope=bucket", "--bucket=full"];
        ceph.run("radosgw-admin", &[words, &tail].concat());
    };
    admin(&["quota", "set", "--max-size=12M"]);
    admin(&["quota", "enable"]);
    let place = Place::s3(&format!("http://{}", ceph.address()), "full", "q");
    let archive = archive_of(&tree(), "none");
    let done = place.put("a", &archive, &["--memory", "24M"]);
    assert_eq!(done.status, 8, "{}", done.err);
    assert!(done.last_line().contains("QuotaExceeded"), "{}", done.err);
    assert_eq!(place.names(), [""; 0]);
    assert_eq!(place.leftovers(), "");
    admin(&["quota", "disable"]);
    let tiny = archive_of(&files([("a", &b"a"[..])]), "none");
    place.put("b", &tiny, &[]).expect(0);
    assert!(place.run("get", &[&place.at("b")]).expect(0).out == tiny);
}
