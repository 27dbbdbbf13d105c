//! Backups in stores, through the command line: what is stored comes back, and what is not whole does not exist. The stores are a
//! directory, an S3 server in process behind the fault proxy, and a real Ceph gateway.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fault_proxy::{Action, FaultProxy};
use crate::s3_server::{ACCESS_KEY, BUCKET, Ceph, LocalS3, SECRET_KEY};
use crate::tool::{
    Chunks, Done, Node, Tree, assert_same, files, finish, need, noise, read_tree, run, scratch,
    write_tree, xbpipe,
};

/// A store as the command line names it, with what it takes to reach it.
pub(crate) struct Place {
    pub(crate) url: String,
    endpoint: Option<String>,
    pub(crate) env: Vec<(&'static str, OsString)>,
}

impl Place {
    pub(crate) fn directory(path: &Path) -> Self {
        Self {
            url: path.to_str().unwrap().to_owned(),
            endpoint: None,
            env: Vec::new(),
        }
    }

    pub(crate) fn s3(endpoint: &str, bucket: &str, prefix: &str) -> Self {
        Self {
            url: format!("s3://{bucket}/{prefix}"),
            endpoint: Some(endpoint.to_owned()),
            env: vec![
                ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
                ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
                ("AWS_REGION", "us-east-1".into()),
                ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ],
        }
    }

    pub(crate) fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// A command on this store. Options of stores go where every verb takes them: behind the verb.
    pub(crate) fn command(&self, verb: &str, args: &[&str]) -> Command {
        let mut words: Vec<&str> = vec![verb];
        if let Some(endpoint) = &self.endpoint {
            words.extend(["--endpoint-url", endpoint, "--stall-timeout", "2"]);
        }
        words.extend(args);
        let mut command = xbpipe(words);
        for name in ["AWS_PROFILE", "AWS_ENDPOINT_URL", "XBPIPE_STORE"] {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(k, v)| (*k, v.clone())));
        command
    }

    pub(crate) fn run(&self, verb: &str, args: &[&str]) -> Done {
        run(self.command(verb, args), b"")
    }

    pub(crate) fn put(&self, name: &str, archive: &[u8], options: &[&str]) -> Done {
        let at = self.at(name);
        let args: Vec<&str> = options.iter().copied().chain([at.as_str()]).collect();
        run(self.command("put", &args), archive)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let done = self.run("ls", &["--json", &self.url]).expect(0);
        let lines = done.text().lines().map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["name"].as_str().unwrap().to_owned()
        });
        lines.collect()
    }

    /// Objects and uploads that belong to no backup.
    pub(crate) fn leftovers(&self) -> String {
        let args = ["--older-than", "0", "--dry-run", &self.url];
        self.run("gc", &args).expect(0).text().to_owned()
    }
}

pub(crate) fn archive_of(tree: &Tree, compress: &str) -> Vec<u8> {
    let dir = scratch();
    write_tree(dir.path(), tree);
    let dir = dir.path().to_str().unwrap();
    let done = run(
        xbpipe(["create", "-C", dir, "--compress", compress, "."]),
        b"",
    );
    done.expect(0).out
}

/// Several segments' worth of parts is tested elsewhere; this is several parts.
pub(crate) fn sample() -> Tree {
    let big = noise(23 << 20, 11);
    let second = noise(3 << 20, 12);
    let checkpoints: &[u8] =
        b"backup_type = full-backuped\nfrom_lsn = 0\nto_lsn = 4711\nlast_lsn = 4800\n";
    files([
        ("db/big.ibd", &big[..]),
        ("db/second.ibd", &second),
        ("db/small.frm", b"small"),
        ("empty", b""),
        ("xtrabackup_checkpoints", checkpoints),
    ])
}

fn round_trip(place: &Place) {
    let tree = sample();
    let archive = archive_of(&tree, "none");
    place
        .put("monday", &archive, &["--memory", "32M"])
        .expect(0);
    assert_eq!(place.names(), ["monday"]);
    assert_eq!(place.leftovers(), "");

    let got = place.run("get", &[&place.at("monday")]).expect(0);
    assert!(got.out == archive);
    let listed = place.run("ls", &[&place.url]).expect(0);
    for word in [
        "full-backuped",
        "0..4800",
        "proven",
        "monday",
        &archive.len().to_string(),
    ] {
        assert!(listed.text().contains(word), "{word}: {}", listed.text());
    }

    let target = scratch();
    let to = target.path().join("all");
    let to = to.to_str().unwrap();
    place
        .run("extract", &["-C", to, &place.at("monday")])
        .expect(0);
    assert_same(&read_tree(Path::new(to)), &tree);

    let some = target.path().join("some");
    let some = some.to_str().unwrap();
    place
        .run(
            "restore",
            &["-C", some, &place.at("monday"), "db/small.frm", "empty"],
        )
        .expect(0);
    let expected = files([("db/small.frm", &b"small"[..]), ("empty", b"")]);
    assert_same(&read_tree(Path::new(some)), &expected);
    let cat = place
        .run("cat", &[&place.at("monday"), "xtrabackup_checkpoints"])
        .expect(0);
    assert!(cat.text().contains("to_lsn = 4711"));
    let listed = place.run("list", &[&place.at("monday")]).expect(0);
    assert_eq!(listed.text().lines().count(), tree.len());

    for level in ["0", "1", "2", "3"] {
        place
            .run("verify", &["--level", level, &place.at("monday")])
            .expect(0);
    }
    // r[repository.commit.conditional]
    let again = place.put("monday", &archive, &[]);
    assert_eq!(again.status, 5, "{}", again.err);
    assert!(again.last_line().contains("already"), "{}", again.err);

    place
        .run("copy", &[&place.at("monday"), &place.at("copied")])
        .expect(0);
    assert_eq!(place.names(), ["copied", "monday"]);
    place.run("rm", &[&place.at("monday")]).expect(0);
    assert_eq!(place.names(), ["copied"]);
    let got = place.run("get", &[&place.at("copied")]).expect(0);
    assert!(got.out == archive);
    place.run("rm", &[&place.at("copied")]).expect(0);
    assert_eq!(place.leftovers(), "");
    let gone = place.run("get", &[&place.at("copied")]);
    assert_eq!(gone.status, 5);
    assert!(
        gone.last_line().contains("there is no backup"),
        "{}",
        gone.err
    );
}

fn nothing_of_it(place: &Place, done: &Done, status: i32) {
    assert_eq!(done.status, status, "{}", done.err);
    assert_eq!(place.names(), [""; 0]);
    assert_eq!(place.leftovers(), "", "{}", done.err);
}

/// What is not whole, or whose producer fails, does not exist afterwards.
fn refusals(place: &Place) {
    let archive = archive_of(&sample(), "none");
    for (cut, status) in [(1, 3), (14 << 20, 3), (archive.len() - 60, 3)] {
        let done = place.put("cut", &archive[..archive.len() - cut], &[]);
        nothing_of_it(place, &done, status);
    }
    nothing_of_it(place, &place.put("empty", b"", &[]), 3);
    let mut damaged = archive.clone();
    damaged[20 << 20] ^= 1;
    nothing_of_it(place, &place.put("damaged", &damaged, &[]), 4);
    nothing_of_it(place, &place.put("junk", &noise(9 << 20, 3), &[]), 4);
    // r[repository.unfinished] Cut between two files, no format tells; what a backup has in the end does.
    let begun = Chunks::new().file("ibdata1.qp", b"i").file("d/t.ibd", b"t");
    let done = place.put("cut", &begun.0, &[]);
    nothing_of_it(place, &done, 3);
    assert!(done.err.contains("--allow-unfinished"), "{}", done.err);
    place
        .put("cut", &begun.0, &["--allow-unfinished"])
        .expect(0);
    place
        .run("copy", &[&place.at("cut"), &place.at("again")])
        .expect(0);
    place
        .run("rm", &[&place.at("cut"), &place.at("again")])
        .expect(0);
    let ended = begun.file("xtrabackup_info.qp", b"x");
    place.put("ended", &ended.0, &[]).expect(0);
    place.run("rm", &[&place.at("ended")]).expect(0);

    let dir = scratch();
    let file = dir.path().join("a.xb");
    std::fs::write(&file, &archive).unwrap();
    let file = file.to_str().unwrap();
    for (script, status, words) in [
        (format!("cat {file}; exit 7"), 1, "exit status 7"),
        (
            format!("head -c 15000000 {file}; exit 3"),
            1,
            "exit status 3",
        ),
        (
            format!("head -c 15000000 {file}; kill -9 $$"),
            1,
            "signal 9",
        ),
        (format!("head -c 15000000 {file}"), 3, "input ends"),
    ] {
        let done = place.run(
            "put",
            &["--name", &place.at("made"), "--", "sh", "-c", &script],
        );
        nothing_of_it(place, &done, status);
        assert!(done.last_line().contains(words), "{}", done.err);
    }
    let missing = place.run(
        "put",
        &["--name", &place.at("made"), "--", "no-such-program-here"],
    );
    nothing_of_it(place, &missing, 2);
    let script = format!("cat {file}");
    place
        .run(
            "put",
            &["--name", &place.at("made"), "--", "sh", "-c", &script],
        )
        .expect(0);
    assert_eq!(place.names(), ["made"]);
    place.run("rm", &[&place.at("made")]).expect(0);
}

/// A signal in the middle leaves nothing, whether more of the archive waits to be read or not.
fn interrupted(place: &Place) {
    let archive = archive_of(&sample(), "none");
    for (options, at) in [
        (&["--memory", "32M"][..], 20 << 20),
        (&["--rate-limit", "4M"], archive.len()),
    ] {
        let late = place.at("late");
        let args: Vec<&str> = options.iter().copied().chain([late.as_str()]).collect();
        let mut command = place.command("put", &args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let done = std::thread::scope(|scope| {
            // It never gets an end of its input that it could take for that of the archive.
            let writing = scope.spawn(|| {
                stdin.write_all(&archive[..at]).ok();
                stdin
            });
            std::thread::sleep(Duration::from_millis(1500));
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            let begin = Instant::now();
            let done = finish(child);
            assert!(begin.elapsed() < Duration::from_secs(60));
            drop(writing.join().unwrap());
            done
        });
        nothing_of_it(place, &done, 9);
        assert_eq!(
            done.last_line(),
            "xbpipe: error: interrupted by SIGTERM",
            "{}",
            done.err
        );
    }
}

#[test]
fn in_a_directory() {
    let dir = scratch();
    let place = Place::directory(&dir.path().join("store"));
    std::fs::create_dir(dir.path().join("store")).unwrap();
    round_trip(&place);
    refusals(&place);
    interrupted(&place);
    assert_eq!(read_tree(&dir.path().join("store")), Tree::new());
}

#[test]
fn in_process_s3() {
    let server = LocalS3::start();
    let place = Place::s3(&format!("http://{}", server.address()), BUCKET, "p/q");
    let archive = archive_of(&sample(), "none");
    place
        .put("monday", &archive, &["--memory", "32M"])
        .expect(0);
    assert!(place.run("get", &[&place.at("monday")]).expect(0).out == archive);
    let verified = place
        .run("verify", &["--level", "0", "--json", &place.at("monday")])
        .expect(0);
    let report: serde_json::Value = serde_json::from_str(verified.text()).unwrap();
    assert_eq!(report["objects"], 2);
    let done = place.put("cut", &archive[..archive.len() - 1], &[]);
    assert_eq!(done.status, 3, "{}", done.err);
    assert_eq!(place.names(), ["monday"]);
    let there = std::fs::read_dir(server.bucket().join("p/q"))
        .unwrap()
        .count();
    assert_eq!(there, 1, "only the one backup");
}

#[test]
fn in_ceph() {
    let ceph = Ceph::shared();
    ceph.make_bucket("in-ceph");
    let endpoint = format!("http://{}", ceph.address());
    let place = Place::s3(&endpoint, "in-ceph", "p");
    round_trip(&place);
    refusals(&place);
    interrupted(&place);
}

// r[repository.segment.border]
#[test]
fn foreign_programs_read_the_segments() {
    let dir = scratch();
    let place = Place::directory(dir.path());
    let tree = files([("db/t.ibd", &noise(12 << 20, 4)[..]), ("x", b"y")]);
    let archive = archive_of(&tree, "none");
    place.put("a", &archive, &[]).expect(0);
    let mut whole = Vec::new();
    for (name, node) in read_tree(&dir.path().join("a")) {
        if let (true, Node::File(bytes)) = (name.ends_with(b".xbs"), node) {
            whole.extend(bytes);
        }
    }
    assert!(whole == archive);
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let mut mbstream = Command::new(need("mbstream", "mariadb-backup"));
    mbstream.arg("-x").arg("-C").arg(&out);
    run(mbstream, &whole).expect(0);
    std::fs::remove_file(out.join("xbpipe_index")).unwrap();
    assert_same(&read_tree(&out), &tree);
}

/// An archive as other programs write them: no index, files that interleave, renamed later.
#[test]
fn foreign_archives() {
    let dir = scratch();
    let place = Place::directory(dir.path());
    let data = noise(6 << 20, 9);
    let plain = Chunks::new()
        .payload("a", 0, &data)
        .payload("b/c", 0, b"12")
        .payload("a", data.len() as u64, b"tail")
        .end("a")
        .payload("b/c", 2, b"34")
        .end("b/c");
    place.put("plain", &plain.0, &[]).expect(0);
    let cat = place.run("cat", &[&place.at("plain"), "b/c"]).expect(0);
    assert_eq!(cat.out, b"1234");
    let listed = place.run("ls", &[&place.url]).expect(0);
    assert!(
        listed.text().contains("unstated plain"),
        "{}",
        listed.text()
    );
    // r[repository.partial]
    let renamed = Chunks::new()
        .file("old", b"content")
        .rename("old", b"new")
        .file("z", b"zz");
    place.put("renamed", &renamed.0, &[]).expect(0);
    let out = dir.path().join("out");
    let args = ["-C", out.to_str().unwrap(), &place.at("renamed")];
    place.run("extract", &args).expect(0);
    let expected = files([("new", &b"content"[..]), ("z", b"zz")]);
    assert_same(&read_tree(&out), &expected);
}

#[test]
fn what_is_damaged_in_the_store_is_found() {
    let dir = scratch();
    let place = Place::directory(dir.path());
    let archive = archive_of(&sample(), "zstd");
    place.put("a", &archive, &[]).expect(0);
    let objects: Vec<PathBuf> = read_tree(dir.path())
        .into_keys()
        .map(|name| dir.path().join(OsString::from_vec(name)))
        .collect();
    let find = |suffix: &str| objects.iter().find(|p| p.ends_with(suffix)).unwrap();
    let segment = find("00000000.xbs");
    let flip = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 4;
        std::fs::write(path, bytes).unwrap();
    };
    flip(segment, 9 << 20);
    place
        .run("verify", &["--level", "1", &place.at("a")])
        .expect(0);
    for (verb, args) in [
        ("verify", &["--level", "2"][..]),
        ("verify", &[]),
        ("get", &[]),
    ] {
        let at = place.at("a");
        let args: Vec<&str> = args.iter().copied().chain([at.as_str()]).collect();
        let done = place.run(verb, &args);
        assert_eq!(done.status, 4, "{verb}: {}", done.err);
        assert!(done.last_line().contains("00000000.xbs"), "{}", done.err);
    }
    // Extraction goes by the index, and the checksums of files tell whose damage it is.
    let target = scratch();
    let to = target.path().join("to");
    let args = ["--keep-going", "-C", to.to_str().unwrap(), &place.at("a")];
    let done = place.run("extract", &args);
    assert_eq!(done.status, 4, "{}", done.err);
    assert!(done.err.contains("00000000.xbs"), "{}", done.err);
    // Files share a segment in an order that nobody states.
    let (big, second) = ("db/big.ibd.zst", "db/second.ibd.zst");
    let (hit, spared) = match done.last_line().contains(big) {
        true => (big, second),
        false => (second, big),
    };
    assert!(done.last_line().contains(hit), "{}", done.err);
    assert!(!to.join(hit).exists(), "{}", done.err);
    assert!(to.join(spared).exists(), "{}", done.err);
    place.run("list", &[&place.at("a")]).expect(0);
    flip(segment, 9 << 20);
    place.run("verify", &[&place.at("a")]).expect(0);
    let index = find("index");
    flip(index, 40);
    assert_eq!(
        place
            .run("verify", &["--level", "1", &place.at("a")])
            .status,
        4
    );
    flip(index, 40);
    let manifest = find("manifest.json");
    let text = std::fs::read_to_string(manifest).unwrap();
    // A later layout may have its checksum elsewhere.
    let later = text.replace("\"version\": 1", "\"version\": 9") + "\n";
    std::fs::write(manifest, later).unwrap();
    let newer = place.run("get", &[&place.at("a")]);
    assert!(newer.err.contains("use a newer xbpipe"), "{}", newer.err);
    std::fs::write(manifest, "{").unwrap();
    assert_eq!(place.run("get", &[&place.at("a")]).status, 4);
    let listed = place.run("ls", &[&place.url]).expect(0);
    assert!(listed.text().contains("unreadable a"), "{}", listed.text());
    std::fs::write(manifest, text).unwrap();
    std::fs::remove_file(segment).unwrap();
    for level in ["0", "3"] {
        let done = place.run("verify", &["--level", level, &place.at("a")]);
        assert_eq!(done.status, 3, "{}", done.err);
    }
}

// r[repository.gc]
#[test]
fn what_failed_runs_have_left_is_removed_and_nothing_else() {
    let dir = scratch();
    let place = Place::directory(dir.path());
    place
        .put("a", &Chunks::new().file("x", b"y").0, &[])
        .expect(0);
    let run_id = "01234567-89ab-4cde-8f01-23456789abcd";
    let other = dir.path().join("b").join(run_id);
    std::fs::create_dir_all(&other).unwrap();
    std::fs::create_dir_all(dir.path().join("a").join(run_id)).unwrap();
    for path in [
        other.join("00000000.xbs"),
        other.join("index"),
        other.join("00000001.xbs.xbpipe-upload-1"),
        dir.path().join("a").join(run_id).join("00000000.xbs"),
    ] {
        std::fs::write(path, b"left over").unwrap();
    }
    // Not ours.
    for name in ["b/keep.txt", "c.txt", "a/notes"] {
        std::fs::write(dir.path().join(name), b"mine").unwrap();
    }
    assert_eq!(place.names(), ["a"]);
    // Young ones may belong to somebody.
    assert_eq!(place.run("gc", &[&place.url]).expect(0).text(), "");
    assert_eq!(place.leftovers().lines().count(), 4);
    let removed = place
        .run("gc", &["--older-than", "0", &place.url])
        .expect(0);
    assert_eq!(removed.text().lines().count(), 4);
    assert_eq!(place.leftovers(), "");
    place.run("verify", &[&place.at("a")]).expect(0);
    for name in ["b/keep.txt", "c.txt", "a/notes"] {
        assert!(dir.path().join(name).exists(), "{name}");
    }
}

#[test]
fn pruning_keeps_what_it_is_told_to() {
    let dir = scratch();
    let place = Place::directory(dir.path());
    let backup = |from: u64, to: u64| {
        let text = format!(
            "backup_type = incremental\nfrom_lsn = {from}\nto_lsn = {to}\nlast_lsn = {to}\n"
        );
        Chunks::new()
            .file("xtrabackup_checkpoints", text.as_bytes())
            .0
    };
    for (name, from, to) in [("1full", 0, 10), ("2other", 0, 15), ("3inc", 10, 20)] {
        place.put(name, &backup(from, to), &[]).expect(0);
    }
    place
        .put("archive", &Chunks::new().file("x", b"y").0, &[])
        .expect(0);
    let store = ["--store", place.url.as_str()];
    assert_eq!(place.run("prune", &store).status, 2);
    let rules = ["--keep-last", "1", "--store", &place.url];
    let dry = [&rules[..], &["--dry-run"]].concat();
    let told = place.run("prune", &dry).expect(0).text().to_owned();
    assert_eq!(
        told,
        "keep last     3inc\nremove        2other\nkeep base     1full\n"
    );
    assert_eq!(place.names().len(), 4);
    assert_eq!(place.run("prune", &rules).expect(0).text(), told);
    assert_eq!(place.names(), ["1full", "3inc", "archive"]);
    // Nothing that was asked for by name in the store of the environment is found elsewhere.
    let mut command = place.command("get", &["1full"]);
    command.env("XBPIPE_STORE", &place.url);
    assert_eq!(run(command, b"").expect(0).out, backup(0, 10));
}

/// A store that refuses ends the run, however much is still to be read.
#[test]
fn a_refusal_ends_the_run() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let place = Place::s3(&proxy.url(), BUCKET, "n");
    let archive = (0..8).fold(Chunks::new(), |chunks, i| {
        chunks.file(&format!("d/t{i}.ibd"), &noise(9 << 20, i))
    });
    for (method, target) in [("POST", "uploads"), ("PUT", "partNumber=")] {
        for memory in ["24M", "64M", "256M"] {
            let refused = Action::Answer(403, "AccessDenied");
            proxy.on(method, target, 0, usize::MAX, refused);
            let done = place.put("a", &archive.0, &["--memory", memory]);
            assert_eq!(done.status, 5, "{method} {memory}: {}", done.err);
            assert!(done.last_line().contains("access denied"), "{}", done.err);
            proxy.heal();
            assert_eq!(place.names(), [""; 0]);
        }
    }
}

/// One backup that cannot be read is no reason not to look at the others, and nothing of it is removed.
// r[repository.gc]
#[test]
fn one_odd_backup_hides_no_other() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let place = Place::s3(&proxy.url(), BUCKET, "h");
    for name in ["a", "b", "c"] {
        place
            .put(name, &Chunks::new().file("x", b"y").0, &[])
            .expect(0);
    }
    std::fs::write(server.bucket().join("h/b/manifest.json"), b"{").unwrap();
    for method in ["GET", "HEAD"] {
        proxy.on(
            method,
            "/c/manifest.json",
            0,
            usize::MAX,
            Action::Answer(403, "AccessDenied"),
        );
    }
    let listed = place.run("ls", &[&place.url]).expect(0);
    assert!(listed.text().contains("unreadable b"), "{}", listed.text());
    assert!(listed.text().contains("unreadable c"), "{}", listed.text());
    assert!(listed.text().contains("unstated a"), "{}", listed.text());
    // This server does not list uploads, which is told, too.
    let gc = place
        .run("gc", &["--older-than", "0", &place.url])
        .expect(0);
    assert_eq!(gc.text(), "");
    for words in ["h/b is left as it is", "h/c is left as it is", "uploads"] {
        assert!(gc.err.contains(words), "{words}: {}", gc.err);
    }
    proxy.heal();
    place.run("verify", &[&place.at("c")]).expect(0);
}

/// Faults that a proxy makes while the whole program runs.
#[test]
fn faults_on_the_way() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let place = Place::s3(&proxy.url(), BUCKET, "f");
    let archive = archive_of(&sample(), "none");
    let small = ["--memory", "32M"];
    for (name, method, target, skip, times, action) in [
        (
            "storm",
            "PUT",
            "partNumber=",
            0,
            12,
            Action::Answer(503, "SlowDown"),
        ),
        (
            "resets",
            "PUT",
            "partNumber=",
            1,
            5,
            Action::CutRequest(2_000_000),
        ),
        ("lost", "POST", "uploadId=", 0, 2, Action::Lost),
        ("manifest", "PUT", "manifest.json", 0, 1, Action::Lost),
        (
            "ok200",
            "POST",
            "uploadId=",
            0,
            1,
            Action::Answer(200, "InternalError"),
        ),
    ] {
        proxy.on(method, target, skip, times, action);
        place.put(name, &archive, &small).expect(0);
        proxy.heal();
        assert!(
            place.run("get", &[&place.at(name)]).expect(0).out == archive,
            "{name}"
        );
    }
    for (what, action) in [
        ("flipped", Action::Flip(1_000_000)),
        ("cut", Action::CutAnswer(3_000_000)),
        ("stalled", Action::Stall(3_000_000)),
        ("error", Action::Answer(500, "InternalError")),
    ] {
        proxy.on("GET", ".xbs", 1, 1, action);
        let got = place.run("get", &[&place.at("storm")]).expect(0);
        assert!(got.out == archive, "{what}");
        proxy.heal();
    }
    // What does not pass.
    proxy.on("GET", ".xbs", 0, 1000, Action::Flip(5));
    let done = place.run("get", &[&place.at("storm")]);
    assert_eq!(done.status, 4, "{}", done.err);
    proxy.heal();
    let count = place.names().len();
    let window = ["--retry-window", "2", "--memory", "32M"];
    proxy.on(
        "PUT",
        "partNumber=",
        2,
        usize::MAX,
        Action::Answer(503, "SlowDown"),
    );
    let done = place.put("never", &archive, &window);
    assert_eq!(done.status, 5, "{}", done.err);
    let last = done.last_line();
    assert!(
        last.contains(" attempts in ") && last.contains("SlowDown"),
        "{last}"
    );
    proxy.heal();
    proxy.on(
        "PUT",
        "partNumber=",
        1,
        1,
        Action::Answer(403, "QuotaExceeded"),
    );
    let done = place.put("full", &archive, &window);
    assert_eq!(done.status, 8, "{}", done.err);
    proxy.heal();
    assert_eq!(place.names().len(), count);
    for name in ["never", "full"] {
        assert!(
            !server
                .bucket()
                .join("f")
                .join(name)
                .join("manifest.json")
                .exists()
        );
        place.put(name, &archive, &small).expect(0);
    }
}

/// The store goes away in the middle of an upload and comes back.
#[test]
fn a_store_that_is_gone_for_a_while() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let place = Place::s3(&proxy.url(), BUCKET, "g");
    let archive = archive_of(&sample(), "none");
    let mut command = place.command("put", &["--memory", "32M", &place.at("a")]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&archive[..12 << 20]).unwrap();
    proxy.set_down(true);
    let (rest, done) = std::thread::scope(|scope| {
        let rest = scope.spawn(|| {
            let written = stdin.write_all(&archive[12 << 20..]);
            drop(stdin);
            written
        });
        std::thread::sleep(Duration::from_secs(4));
        proxy.set_down(false);
        (rest.join().unwrap(), finish(child))
    });
    rest.unwrap();
    let done = done.expect(0);
    assert!(done.err.contains("going on to try"), "{}", done.err);
    assert!(place.run("get", &[&place.at("a")]).expect(0).out == archive);
}

// r[repository.retry]
#[test]
fn expired_credentials_are_read_again() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let dir = scratch();
    let credentials = dir.path().join("credentials");
    let write = |key: &str| {
        let text =
            format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET_KEY}\n");
        std::fs::write(&credentials, text).unwrap();
    };
    write(ACCESS_KEY);
    let mut place = Place::s3(&proxy.url(), BUCKET, "e");
    place.env.retain(|(name, _)| !name.contains("KEY"));
    place
        .env
        .push(("AWS_SHARED_CREDENTIALS_FILE", credentials.clone().into()));
    place.env.push(("AWS_CONFIG_FILE", "/dev/null".into()));
    place
        .put("before", &Chunks::new().file("x", b"y").0, &[])
        .expect(0);
    // From here on the old key has expired; somebody writes the new one a little later.
    write("OLDKEY");
    proxy.on(
        "GET",
        "Credential=OLDKEY/",
        0,
        usize::MAX,
        Action::Answer(400, "ExpiredToken"),
    );
    proxy.on(
        "HEAD",
        "Credential=OLDKEY/",
        0,
        usize::MAX,
        Action::Answer(400, "ExpiredToken"),
    );
    let got = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(700));
            write(ACCESS_KEY);
        });
        place.run("ls", &[&place.url])
    });
    assert!(got.expect(0).text().contains("before"));
}
