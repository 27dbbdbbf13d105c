//! `xbcloud` when something is wrong: nothing that is not whole looks whole, and faults of the store are survived or told.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cloud::{Cloud, extracted, keys, lay_out, sample};
use crate::fault_proxy::{Action, FaultProxy};
use crate::s3_server::{BUCKET, LocalS3};
use crate::tool::{
    Chunks, assert_same, files, finish, noise, read_tree, run, scratch, split_chunks, xbpipe,
};

// r[cloud-layout.whole.file] r[cloud-layout.get.checked]
#[test]
fn what_is_not_whole_is_not_fetched() {
    let server = LocalS3::start();
    let cloud = Cloud::local(&server);
    let (stream, _) = sample();
    let refused = |name: &str, said: &str| {
        let done = cloud.run(&["get", name]).expect(1);
        assert!(done.out.is_empty(), "{name}");
        assert!(done.last_line().contains(said), "{name}: {}", done.err);
    };
    for (n, (gone, said)) in [
        (
            "db/a.ibd.00000000000000000001",
            "chunk 1 of \"db/a.ibd\" is missing",
        ),
        (
            "db/a.ibd.00000000000000000003",
            "the end of \"db/a.ibd\" is missing",
        ),
        (
            "db/b.ibd.00000000000000000000",
            "chunk 0 of \"db/b.ibd\" is missing",
        ),
        (
            "xtrabackup_info.00000000000000000001",
            "the end of \"xtrabackup_info\" is missing",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("gap{n}");
        lay_out(&server, &name, &stream);
        std::fs::remove_file(server.bucket().join(&name).join(gone)).unwrap();
        refused(&name, said);
        // Other files of it can be had.
        cloud
            .run(&["get", &name, "xtrabackup_checkpoints"])
            .expect(0);
    }
    // Files are whole, but those that are written last are not there.
    let unfinished = Chunks::new()
        .file("db/a.ibd", b"a")
        .file("xtrabackup_checkpoints", b"c");
    lay_out(&server, "unfinished", &unfinished.0);
    refused("unfinished", "none of the files that are written last");
    // Nothing but short files is what callers store alone.
    let sst = Chunks::new().file("sst_info", b"galera-gtid=1\n");
    lay_out(&server, "full.sst_info", &sst.0);
    assert!(cloud.run(&["get", "full.sst_info"]).expect(0).out == sst.0);

    // Bytes that are not those that were stored.
    for (n, (name, at, said)) in [
        ("db/a.ibd.00000000000000000001", 5000, "invalid checksum"),
        (
            "db/a.ibd.00000000000000000001",
            14,
            "belongs to another file",
        ),
        ("db/a.ibd.00000000000000000001", 3, "wrong chunk magic"),
        // Its place in the file.
        ("db/a.ibd.00000000000000000001", 32, "out-of-order"),
    ]
    .into_iter()
    .enumerate()
    {
        let backup = format!("flip{n}");
        lay_out(&server, &backup, &stream);
        let path = server.bucket().join(&backup).join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let done = cloud.run(&["get", &backup]).expect(1);
        assert!(done.last_line().contains(said), "{at}: {}", done.err);
        assert!(
            done.last_line().contains(&format!("{backup}/{name}")),
            "{}",
            done.err
        );
        // Whoever reads what came until then sees that it is not all, whatever the shell makes of our status.
        let target = scratch();
        let mut extract = xbpipe(["as", "xbstream", "-x", "-C"]);
        extract.arg(target.path());
        run(extract, &done.out).expect(1);
    }
}

/// However far the stream came, its reader knows that it was cut.
// r[cloud-layout.get.held]
#[test]
fn a_cut_download_is_noticed_behind_the_pipe() {
    let server = LocalS3::start();
    let (stream, _) = sample();
    lay_out(&server, "b", &stream);
    let got = Cloud::local(&server).run(&["get", "b"]).expect(0).out;
    let chunks = split_chunks(&got);
    for kept in 1..chunks.len() {
        let target = scratch();
        let mut extract = xbpipe(["as", "xbstream", "-x", "-C"]);
        extract.arg(target.path());
        run(extract, &chunks[..kept].concat()).expect(1);
    }
}

// r[cloud-layout.put.whole] r[cloud-layout.put.failed] r[cloud-layout.put.order] r[cloud-layout.put.left-out]
#[test]
fn what_is_not_whole_is_not_stored() {
    let server = LocalS3::start();
    let cloud = Cloud::local(&server);
    let (stream, _) = sample();
    let chunks = split_chunks(&stream);
    let cut_between = chunks[..chunks.len() - 1].concat();
    let mut flipped = stream.clone();
    flipped[500_000] ^= 1;
    let whole = || Chunks(stream.clone());
    for (stream, said) in [
        (vec![], "it is empty"),
        (stream[..stream.len() - 1].to_vec(), "input ends"),
        (stream[..2_000_000].to_vec(), "input ends"),
        (cut_between, "incomplete"),
        (chunks[..5].concat(), "incomplete"),
        (flipped, "invalid checksum"),
        (b"[00] Connecting to server\n".to_vec(), "wrong chunk magic"),
        (
            whole().rename("db/b.ibd", b"db/c.ibd").0,
            "renamed, removed or replaced",
        ),
        (
            whole().prefix(0, b'D', b"db/b.ibd").0,
            "renamed, removed or replaced",
        ),
        (whole().file("db/empty", b"").0, "after the end of its file"),
    ] {
        let done = cloud.put("b", &stream, &["--md5"]).expect(1);
        let line = done.last_line();
        assert!(
            line.starts_with("xbcloud: error: Upload failed: "),
            "{}",
            done.err
        );
        assert!(line.contains(said), "{said}: {}", done.err);
        assert_eq!(keys(&server), Vec::<String>::new(), "{said}");
    }
    // The index of our own archives is for them.
    let dir = scratch();
    std::fs::write(dir.path().join("xtrabackup_info"), b"i").unwrap();
    let mut create = xbpipe(["create", "."]);
    create.current_dir(dir.path());
    let archive = run(create, b"").expect(0).out;
    assert!(split_chunks(&archive).len() > 2);
    cloud.put("own", &archive, &[]).expect(0);
    assert_eq!(
        keys(&server),
        [
            "own/xtrabackup_info.00000000000000000000",
            "own/xtrabackup_info.00000000000000000001"
        ]
    );
    let got = cloud.run(&["get", "own"]).expect(0).out;
    assert_same(&extracted(&got), &files([("xtrabackup_info", &b"i"[..])]));
    let cut = &archive[..archive.len() - 1];
    cloud.put("cut", cut, &[]).expect(1);
    assert_eq!(keys(&server).len(), 2);
}

// r[compat-xbcloud.incomplete]
#[test]
fn a_stream_without_the_last_file_is_stored_and_fails() {
    let server = LocalS3::start();
    let cloud = Cloud::local(&server);
    let stream = Chunks::new().file("sst_info", b"[sst]\ngalera-gtid=1\n").0;
    let done = cloud.put("full.sst_info", &stream, &["--md5"]).expect(1);
    assert!(
        done.last_line()
            .starts_with("xbcloud: error: Upload failed: backup is incomplete"),
        "{}",
        done.err
    );
    assert_eq!(keys(&server).len(), 3);
    assert!(cloud.run(&["get", "full.sst_info"]).expect(0).out == stream);
}

// r[compat-xbcloud.retries]
#[test]
fn faults_of_the_store_are_survived_or_told() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let cloud = Cloud::at(&proxy.url(), BUCKET);
    let (stream, tree) = sample();
    // Each is tried three times by the client before it is ours.
    for action in [
        Action::Answer(503, "SlowDown"),
        Action::Answer(500, "InternalError"),
        Action::Lost,
        Action::CutRequest(100_000),
    ] {
        proxy.on("PUT", "db/a.ibd.", 1, 5, action.clone());
        let done = cloud.put("b", &stream, &["--max-retries=4", "--md5"]);
        assert_eq!(done.status, 0, "{action:?}: {}", done.err);
        proxy.heal();
        for (method, action) in [
            ("GET", Action::Answer(503, "SlowDown")),
            ("GET", Action::CutAnswer(200_000)),
            ("GET", Action::Stall(200_000)),
            ("GET", Action::Flip(200_000)),
        ] {
            proxy.on(method, "db/a.ibd.", 1, 2, action.clone());
            let got = cloud.run(&["get", "b"]);
            assert_eq!(got.status, 0, "{action:?}: {}", got.err);
            assert_same(&extracted(&got.out), &tree);
            proxy.heal();
        }
        cloud.run(&["delete", "b"]).expect(0);
        assert_eq!(keys(&server), Vec::<String>::new());
    }
    // A storm that does not end.
    proxy.on(
        "PUT",
        "db/a.ibd.",
        1,
        usize::MAX,
        Action::Answer(503, "SlowDown"),
    );
    let done = cloud
        .put("b", &stream, &["--max-retries=2", "--md5"])
        .expect(1);
    assert!(
        done.last_line()
            .contains("Upload failed: cannot put \"b/db/a.ibd.")
            && done.last_line().contains("3 attempts"),
        "{}",
        done.err
    );
    proxy.heal();
    assert_eq!(keys(&server), Vec::<String>::new());
    // A status of its own.
    proxy.on("PUT", "db/a.ibd.", 0, 2, Action::Answer(418, "Teapot"));
    cloud.put("b", &stream, &[]).expect(1);
    proxy.heal();
    proxy.on("PUT", "db/a.ibd.", 0, 2, Action::Answer(418, "Teapot"));
    cloud
        .put("b", &stream, &["--http-retriable-errors=417,418"])
        .expect(0);
    proxy.heal();
    cloud.run(&["delete", "b"]).expect(0);
    // Nobody answers at all.
    let gone = Cloud::at("http://127.0.0.1:9", BUCKET);
    let done = gone.put("b", &stream, &["--max-retries=1"]).expect(1);
    assert!(done.err.contains("--s3-endpoint"), "{}", done.err);
}

/// While one chunk of a file is stuck, later ones of it are fetched.
// r[cloud-layout.get.order]
#[test]
fn several_chunks_of_one_file_are_in_flight() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let cloud = Cloud::at(&proxy.url(), BUCKET);
    let content = noise(8 * 50_000, 4);
    let mut stream = Chunks::new();
    for (n, piece) in content.chunks(50_000).enumerate() {
        stream = stream.payload("big.ibd", n as u64 * 50_000, piece);
    }
    let stream = stream.end("big.ibd").file("xtrabackup_tablespaces", b"").0;
    lay_out(&server, "b", &stream);
    proxy.on(
        "GET",
        "big.ibd.00000000000000000000",
        0,
        1,
        Action::Stall(10),
    );
    let got = cloud
        .run(&["get", "b", "big.ibd", "--parallel=4"])
        .expect(0);
    assert_same(&extracted(&got.out), &files([("big.ibd", &content[..])]));
    let log = proxy.take_log();
    let chunk = |line: &String| {
        let (_, rest) = line.split_once("big.ibd.")?;
        rest[..20].parse::<u64>().ok()
    };
    let asked: Vec<u64> = log.iter().filter_map(chunk).collect();
    let again = asked.iter().rposition(|n| *n == 0).unwrap();
    assert!(again >= 4, "{asked:?}");
    for n in 1..4 {
        assert!(asked[..again].contains(&n), "{asked:?}");
    }
}

/// A put that is fed half of the stream, and then waits for more.
fn half_fed(cloud: &Cloud, stream: &[u8], server: &LocalS3) -> std::process::Child {
    let mut command = cloud.command(&["put", "b", "--md5"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.as_mut().unwrap();
    stdin.write_all(&stream[..stream.len() - 100]).unwrap();
    let begin = Instant::now();
    while keys(server).is_empty() {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "nothing was stored"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

// r[cloud-layout.put.marker-last]
#[test]
fn an_ended_put_leaves_nothing_that_looks_whole() {
    let server = LocalS3::start();
    let cloud = Cloud::local(&server);
    let (stream, _) = sample();
    let mut child = half_fed(&cloud, &stream, &server);
    let stdin = child.stdin.take();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let done = finish(child).expect(1);
    drop(stdin);
    assert!(
        done.last_line().contains("interrupted by SIGTERM"),
        "{}",
        done.err
    );
    assert_eq!(keys(&server), Vec::<String>::new());

    let mut child = half_fed(&cloud, &stream, &server);
    let stdin = child.stdin.take();
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    finish(child).expect(137);
    drop(stdin);
    assert!(!keys(&server).is_empty());
    let done = cloud.run(&["get", "b"]).expect(1);
    assert!(
        done.last_line().contains("backup b is incomplete"),
        "{}",
        done.err
    );
    cloud.put("b", &stream, &[]).expect(1);
    cloud.run(&["delete", "b"]).expect(0);
    cloud.put("b", &stream, &[]).expect(0);
    cloud.run(&["get", "b"]).expect(0);
}

// r[cloud-layout.put.fifo]
#[test]
fn put_reads_fifos() {
    let server = LocalS3::start();
    let cloud = Cloud::local(&server);
    let large = noise(3_000_000, 3);
    let put = |parts: [Chunks; 3]| {
        let root = scratch();
        let mut writers = Vec::new();
        for (i, part) in parts.into_iter().enumerate() {
            let path = root.path().join(format!("thread_{i}"));
            assert!(
                Command::new("mkfifo")
                    .arg(&path)
                    .status()
                    .unwrap()
                    .success()
            );
            writers.push(std::thread::spawn(move || {
                let mut fifo = std::fs::File::options().write(true).open(path).unwrap();
                // The reader may have had enough.
                fifo.write_all(&part.0).ok();
            }));
        }
        let mut command = cloud.command(&["put", "b", "--fifo-streams=3", "--md5"]);
        command.arg("--fifo-dir").arg(root.path());
        let done = run(command, b"");
        for writer in writers {
            writer.join().unwrap();
        }
        assert!(read_tree(root.path()).is_empty());
        done
    };
    let ready = || Chunks::new().raw(b"\x01");
    let info = || ready().file("xtrabackup_info", b"i").file("c", b"");
    put([ready().file("d/a", &large).file("b", b"b"), ready(), info()]).expect(0);
    let got = cloud.run(&["get", "b"]).expect(0);
    let tree = files([
        ("d/a", &large[..]),
        ("b", b"b"),
        ("c", b""),
        ("xtrabackup_info", b"i"),
    ]);
    assert_same(&extracted(&got.out), &tree);
    cloud.run(&["delete", "b"]).expect(0);
    let done = put([ready().file("d/a", &large).cut(10), ready(), info()]).expect(1);
    assert!(done.last_line().contains("thread_0"), "{}", done.err);
    put([ready(), ready(), ready()]).expect(1);
    assert_eq!(keys(&server), Vec::<String>::new());
}
