//! `xbcloud`: what lies in the store is what the page says, what comes back is what was stored, and callers get what they expect.
//! The stores are `s3s-fs` in process and a real Ceph gateway.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use md5::{Digest as _, Md5};

use crate::cloud::{Cloud, clean, extracted, keys, laid_out, objects, sample, xbcloud};
use crate::fault_proxy::{Action, FaultProxy};
use crate::s3_server::{ACCESS_KEY, BUCKET, Ceph, LocalS3, SECRET_KEY};
use crate::server::TestServer;
use crate::tool::{
    Chunks, Node, Tree, assert_same, files, need, noise, pipe, read_tree, run, scratch,
    split_chunks, xbpipe,
};

/// The list of digests tells what nothing else does: that a file is not there at all, and that an object is another whole chunk.
// r[cloud-layout.get.md5]
#[test]
fn a_backup_is_compared_with_its_list_of_digests() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let cloud = Cloud::at(&proxy.url(), BUCKET);
    let (stream, tree) = sample();
    let get = |more: &[&str]| cloud.run(&[&["get", "a", "--md5"], more].concat());
    let object = |name: &str| server.bucket().join("a").join(name);
    cloud.put("a", &stream, &[]).expect(0);
    let done = get(&[]).expect(0);
    assert!(done.err.contains("there is no a.md5"), "{}", done.err);
    cloud.run(&["delete", "a"]).expect(0);

    cloud.put("a", &stream, &["--md5"]).expect(0);
    for more in [&[][..], &["--parallel=1"]] {
        let done = get(more).expect(0);
        assert_same(&extracted(&done.out), &tree);
        assert_eq!(done.err, "xbcloud: Download completed.\n");
    }
    assert_eq!(split_chunks(&get(&["db/empty"]).expect(0).out).len(), 1);
    // A list that was damaged on its way, or that is no list.
    proxy.on("GET", "a.md5", 0, 1, Action::Flip(40));
    get(&[]).expect(1);
    proxy.heal();

    // Another version of a chunk, with all that belongs to a chunk.
    let name = "xtrabackup_checkpoints.00000000000000000000";
    let kept = std::fs::read(object(name)).unwrap();
    let text = String::from_utf8_lossy(&kept).into_owned();
    let content = text.split_once("backup_type").unwrap().1;
    let other = format!("backup_type{content}").replace("4711", "4712");
    let other = Chunks::new()
        .payload("xtrabackup_checkpoints", 0, other.as_bytes())
        .0;
    assert_eq!(other.len(), kept.len());
    std::fs::write(object(name), &other).unwrap();
    cloud.run(&["get", "a"]).expect(0);
    let done = get(&[]).expect(1);
    assert!(
        done.last_line().contains("MD5") && done.err.contains(name),
        "{}",
        done.err
    );
    get(&["db/empty"]).expect(0);
    std::fs::write(object(name), &kept).unwrap();
    get(&[]).expect(0);

    // A file that is not there at all.
    cloud.run(&["delete", "a", "db/a.ibd"]).expect(0);
    cloud.run(&["get", "a"]).expect(0);
    let done = get(&[]).expect(1);
    assert!(
        done.last_line().contains("of \"db/a.ibd\" is missing"),
        "{}",
        done.err
    );
    assert!(done.out.is_empty());
    get(&["db/empty"]).expect(0);
}

// r[cloud-layout.key] r[cloud-layout.md5] r[compat-xbcloud.lines]
#[test]
fn each_chunk_is_an_object_and_comes_back() {
    let server = LocalS3::start();
    let cloud = Cloud::local(&server);
    let (stream, tree) = sample();
    let done = cloud.put("prod/monday//", &stream, &["--md5", "--parallel=3"]);
    let done = done.expect(0);
    assert!(done.out.is_empty());
    let mut expected: Tree = laid_out(&stream)
        .into_iter()
        .map(|(name, chunk)| {
            (
                format!("prod/monday/{name}").into_bytes(),
                Node::File(chunk),
            )
        })
        .collect();
    let mut digests: Vec<String> = laid_out(&stream)
        .into_iter()
        .map(|(name, chunk)| {
            let digest = Md5::digest(&chunk);
            let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
            format!("{hex}  {name}")
        })
        .collect();
    let found = objects(&server);
    let Some(Node::File(list)) = found.get(&b"prod/monday.md5"[..]) else {
        panic!("no list of digests: {:?}", keys(&server));
    };
    let mut list: Vec<_> = std::str::from_utf8(list).unwrap().lines().collect();
    list.sort_unstable();
    digests.sort_unstable();
    assert_eq!(list, digests);
    expected.insert(
        b"prod/monday.md5".to_vec(),
        found[&b"prod/monday.md5"[..]].clone(),
    );
    assert_same(&found, &expected);
    for line in [
        "xbcloud: successfully uploaded chunk: prod/monday/db/empty.00000000000000000000, size: 22",
        "xbcloud: Uploading md5: prod/monday.md5, size: ",
        "xbcloud: Upload completed.",
    ] {
        assert!(done.err.contains(line), "{line}: {}", done.err);
    }
    assert_eq!(done.last_line(), "xbcloud: Upload completed.");
    // Files that are written last come last.
    let told: Vec<_> = done.err.lines().filter(|l| l.contains("chunk:")).collect();
    let last = told[told.len() - 4..].iter();
    assert!(
        last.clone()
            .all(|l| l.contains("xtrabackup_info") || l.contains("xtrabackup_tablespaces")),
        "{told:#?}"
    );

    for options in [&[][..], &["--parallel=1"], &["--parallel=9", "--verbose"]] {
        let args = [&["get", "prod/monday"][..], options].concat();
        let got = cloud.run(&args).expect(0);
        assert_eq!(got.out.len(), stream.len());
        assert_same(&extracted(&got.out), &tree);
        assert_eq!(got.last_line(), "xbcloud: Download completed.");
        assert_eq!(
            got.err.contains("successfully downloaded chunk"),
            options.contains(&"--verbose")
        );
    }
    // Some files, as they are in the stream.
    let got = cloud.run(&["get", "prod/monday", "xtrabackup_checkpoints"]);
    let got = got.expect(0);
    assert!(String::from_utf8_lossy(&got.out).contains("to_lsn = 4711\n"));
    assert_eq!(split_chunks(&got.out).len(), 2);
    let got = cloud.run(&["get", "prod/monday", "db/empty", "db/b.ibd"]);
    let names: Vec<_> = extracted(&got.expect(0).out).into_keys().collect();
    assert_eq!(names, [b"db/b.ibd".to_vec(), b"db/empty".to_vec()]);
    let done = cloud.run(&["get", "prod/monday", "db/none"]).expect(1);
    assert!(
        done.last_line().contains("no file \"db/none\""),
        "{}",
        done.err
    );

    // r[cloud-layout.put.new]
    let done = cloud.put("prod/monday", &stream, &[]).expect(1);
    assert_eq!(
        done.last_line(),
        "xbcloud: error: backup named prod/monday already exists!"
    );
    assert_same(&objects(&server), &expected);
    // A name that another one begins with is another one.
    cloud.put("prod/mon", &stream, &[]).expect(0);

    // r[cloud-layout.delete]
    let done = cloud.run(&["delete", "prod/monday", "db/a.ibd"]).expect(0);
    assert_eq!(done.last_line(), "xbcloud: Delete completed.");
    let left = keys(&server);
    assert!(
        left.iter()
            .any(|k| k.starts_with("prod/monday/db/a.ibd.0.0"))
    );
    assert!(
        !left
            .iter()
            .any(|k| k.starts_with("prod/monday/db/a.ibd.0000"))
    );
    let done = cloud.run(&["delete", "prod/monday", "--verbose"]).expect(0);
    assert!(
        done.err.contains("Deleting prod/monday.md5"),
        "{}",
        done.err
    );
    assert!(keys(&server).iter().all(|k| k.starts_with("prod/mon/")));
    cloud.run(&["delete", "prod/mon"]).expect(0);
    assert_eq!(keys(&server), Vec::<String>::new());
    let done = cloud.run(&["delete", "prod/mon"]).expect(0);
    assert!(
        done.err.contains("there is no backup named prod/mon"),
        "{}",
        done.err
    );
    let done = cloud.run(&["get", "prod/mon"]).expect(1);
    assert!(
        done.last_line()
            .contains("there is no backup named prod/mon")
    );
}

/// Chunks longer than a buffer are sent in parts, fetched in pieces, and are the same objects.
#[test]
fn chunks_of_any_length_are_one_object_each() {
    let server = LocalS3::start();
    let cloud = Cloud::local(&server);
    let big = noise(25_000_000, 5);
    let stream = Chunks::new()
        .payload("big.ibd", 0, &big[..24_000_000])
        .payload("big.ibd", 24_000_000, &big[24_000_000..])
        .end("big.ibd")
        .file("xtrabackup_tablespaces", b"{}")
        .0;
    cloud
        .put("long", &stream, &["--parallel=2", "--md5"])
        .expect(0);
    let mut expected: Tree = Tree::new();
    for (name, chunk) in laid_out(&stream) {
        expected.insert(format!("long/{name}").into_bytes(), Node::File(chunk));
    }
    let mut found = objects(&server);
    found.remove(&b"long.md5"[..]).unwrap();
    assert_same(&found, &expected);
    let got = cloud.run(&["get", "long"]).expect(0);
    let tree = files([("big.ibd", &big[..]), ("xtrabackup_tablespaces", b"{}")]);
    assert_same(&extracted(&got.out), &tree);
}

/// Bytes as the layout's description has them, none of them made by this program.
// r[cloud-layout.whole] r[cloud-layout.foreign]
#[test]
fn a_backup_laid_out_by_hand_is_read() {
    let server = LocalS3::start();
    let cloud = Cloud::local(&server);
    // "123456789", whose CRC-32 is cbf43926, in the file `f`, and its end.
    let payload = b"XBSTCK01\x00P\x01\x00\x00\x00f\x09\x00\x00\x00\x00\x00\x00\x00\
                    \x00\x00\x00\x00\x00\x00\x00\x00\x26\x39\xf4\xcb123456789";
    let sparse =
        b"XBSTCK01\x00S\x05\x00\x00\x00s.ibd\x03\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\
                   \x00\x00\x00\x00\x00\x00\x00\x00\x82\x56\xb2\x73\x00\x00\x00\x00\x03\x00\x00\x00\
                   \x05\x00\x00\x00\x02\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00ABCDE";
    let dir = server.bucket().join("old");
    std::fs::create_dir(&dir).unwrap();
    for (name, bytes) in [
        ("f.00000000000000000000", &payload[..]),
        ("f.00000000000000000001", b"XBSTCK01\x00E\x01\x00\x00\x00f"),
        ("s.ibd.00000000000000000000", sparse),
        (
            "s.ibd.00000000000000000001",
            b"XBSTCK01\x00E\x05\x00\x00\x00s.ibd",
        ),
        (
            "xtrabackup_tablespaces.zst.00000000000000000000",
            b"XBSTCK01\x00E\x1a\x00\x00\x00xtrabackup_tablespaces.zst",
        ),
        ("f.1", b"this is foreign"),
        ("notes", b"and so is this"),
    ] {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    let got = cloud.run(&["get", "old"]).expect(0);
    let target = scratch();
    let mut extract = xbpipe(["as", "xbstream", "-x", "-C"]);
    extract.arg(target.path());
    run(extract, &got.out).expect(0);
    let tree = files([
        ("f", &b"123456789"[..]),
        ("s.ibd", b"ABC\0\0\0\0\0DE\0\0\0\0\0\0"),
        ("xtrabackup_tablespaces.zst", b""),
    ]);
    assert_same(&read_tree(target.path()), &tree);

    // r[cloud-layout.detect]
    for verb in ["extract", "list", "verify"] {
        let mut command = clean(xbpipe([verb]));
        command
            .args(["--endpoint-url", &format!("http://{}", server.address())])
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("AWS_REGION", "us-east-1");
        if verb == "extract" {
            command.arg("-C").arg(target.path().join("x"));
        }
        command.arg(format!("s3://{BUCKET}/old"));
        let done = run(command, b"").expect(5);
        assert!(
            done.err.contains(&format!(
                "xbpipe as xbcloud get s3://{BUCKET}/old | xbpipe extract"
            )),
            "{verb}: {}",
            done.err
        );
    }
    // What does not belong to it stays.
    cloud.run(&["delete", "old"]).expect(0);
    assert_eq!(keys(&server), ["old/f.1", "old/notes"]);
}

// r[compat-xbcloud.refused] r[compat-xbcloud.words]
#[test]
fn what_is_not_supported_is_refused_by_name() {
    let keys = ["--no-defaults", "--s3-access-key=a", "--s3-secret-key=s"];
    for (args, said) in [
        ("put b --storage=swift", "storage swift is refused"),
        ("put b --storage=Azure", "storage azure is refused"),
        ("get swift://c/b", "storage swift is refused"),
        ("get azure://c/b", "storage azure is refused"),
        ("get ftp://c/b", "\"ftp\" is no kind of store"),
        (
            "put b --storage=swift --swift-auth-url=u",
            "'--swift-auth-url' is refused",
        ),
        (
            "put b --azure-storage-account=u",
            "'--azure-storage-account' is refused",
        ),
        (
            "put b --s3-bucket=b --s3-api-version=2",
            "--s3-api-version=2 is refused",
        ),
        ("put b", "no bucket is named"),
        ("put s3://b", "is no name for a backup"),
        ("put s3://b/../c", "is no name for a backup"),
        ("put b file --s3-bucket=b", "unexpected word \"file\""),
        ("put --s3-bucket=b", "no backup is named"),
        ("list b", "unknown action \"list\""),
        ("", "no action is given"),
        ("put google://b/n", "an access key needs its secret"),
        ("put s3://b/n --header=x", "not of the form NAME: VALUE"),
        (
            "put s3://b/n --http-retriable-errors=4x4",
            "\"4x4\" is no status",
        ),
        (
            "put s3://b/n --fifo-streams=2",
            "--fifo-streams needs --fifo-dir",
        ),
        (
            "get s3://b/n --fifo-streams=2 --fifo-dir=d",
            "--fifo-streams is for put",
        ),
        ("put s3://b/n --frobnicate", "unknown option '--frobnicate'"),
    ] {
        let mut command = xbcloud(&keys);
        command.args(args.split_whitespace());
        let done = run(command, b"").expect(1);
        assert!(done.last_line().contains(said), "{args}: {}", done.err);
        assert!(done.out.is_empty());
    }
    let version = run(xbcloud(&["--version"]), b"").expect(0);
    assert!(version.text().starts_with("xbcloud  Ver "));
    let help = run(xbcloud(&["--help"]), b"").expect(0);
    assert!(help.text().contains("--s3-bucket-lookup"));
}

// r[compat-xbcloud.environment] r[compat-xbcloud.files] r[compat-xbcloud.uri]
#[test]
fn options_come_from_the_line_the_file_and_the_environment() {
    let server = LocalS3::start();
    let url = format!("http://{}", server.address());
    let stream = Chunks::new().file("xtrabackup_tablespaces", b"{}").0;
    let put = |name: &str, set: &dyn Fn(&mut Command)| {
        let mut command = xbcloud(&["put", &format!("s3://{BUCKET}/{name}")]);
        command.arg("--timeout=2");
        set(&mut command);
        run(command, &stream)
    };
    let env = |command: &mut Command, set: &str, secret: &str| {
        command
            .env(format!("{set}ACCESS_KEY_ID"), ACCESS_KEY)
            .env(format!("{set}SECRET_ACCESS_KEY"), secret)
            .env(format!("{set}ENDPOINT"), &url);
    };
    for set in ["S3_", "AWS_", ""] {
        let name = format!("env-{set}x");
        put(&name, &|c| {
            c.arg("--no-defaults");
            env(c, set, SECRET_KEY);
        })
        .expect(0);
    }
    // The first set counts.
    put("first", &|c| {
        c.arg("--no-defaults");
        env(c, "S3_", SECRET_KEY);
        env(c, "AWS_", "wrong");
        env(c, "", "wrong");
    })
    .expect(0);
    let done = put("second", &|c| {
        c.arg("--no-defaults");
        env(c, "S3_", "wrong");
        env(c, "AWS_", SECRET_KEY);
    });
    assert_eq!(done.status, 1);
    assert!(
        done.last_line().contains("signature is wrong"),
        "{}",
        done.err
    );
    // A file counts more than the environment, the command line more than both.
    let dir = scratch();
    let file = dir.path().join("my.cnf");
    let write = |secret: &str, more: &str| {
        let text = format!(
            "[mysqld]\nfrobnicate=1\n[xbcloud]\nstorage=s3\ns3_access_key={ACCESS_KEY}\n\
             s3-secret-key={secret}\ns3-endpoint={url}\nmd5\n{more}"
        );
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let option = format!("--defaults-file={}", file.display());
    write(SECRET_KEY, "");
    put("file", &|c| {
        c.arg(&option);
        env(c, "S3_", "wrong");
    })
    .expect(0);
    assert!(keys(&server).contains(&"file.md5".to_owned()));
    write("wrong", "");
    put("line", &|c| {
        c.arg("-c").arg(&file);
        c.args(["--skip-md5", &format!("--s3-secret-key={SECRET_KEY}")]);
    })
    .expect(0);
    assert!(!keys(&server).contains(&"line.md5".to_owned()));
    write(SECRET_KEY, "swift-container=c\n");
    let done = put("other", &|c| {
        c.arg(&option);
    });
    assert_eq!(done.status, 1);
    assert!(
        done.last_line().contains("'--swift-container' is refused"),
        "{}",
        done.err
    );
    write(
        "wrong",
        &format!("[xbcloud_night]\ns3_secret_key={SECRET_KEY}\n"),
    );
    put("suffix", &|c| {
        c.args([&option, "--defaults-group-suffix=_night"]);
    })
    .expect(0);
    let done = put("none", &|c| {
        c.arg("--defaults-file=/nowhere/my.cnf");
    });
    assert_eq!(done.status, 1);
}

/// Google's own store cannot be reached from here: this is about how ours is called.
#[test]
fn googles_interface_is_called_its_own_way() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let (stream, tree) = sample();
    let google = |args: &[&str], input: &[u8]| {
        let mut command = xbcloud(args);
        command.args([
            "--no-defaults",
            "--storage=google",
            &format!("--google-bucket={BUCKET}"),
            &format!("--google-access-key={ACCESS_KEY}"),
            &format!("--google-secret-key={SECRET_KEY}"),
            &format!("--google-endpoint={}", proxy.url()),
        ]);
        run(command, input)
    };
    google(&["put", "b", "--md5"], &stream).expect(0);
    let got = google(&["get", "b"], b"").expect(0);
    assert_same(&extracted(&got.out), &tree);
    google(&["delete", "b"], b"").expect(0);
    assert_eq!(keys(&server), Vec::<String>::new());
    let log = proxy.take_log();
    assert!(log.iter().all(|l| !l.contains("crc32=")), "{log:#?}");
    let removed = log.iter().filter(|l| l.starts_with("DELETE "));
    assert_eq!(removed.count(), split_chunks(&stream).len() + 1);
}

/// Links to our program, as whoever installs it has them.
fn with_links(dir: &Path) -> String {
    run(xbpipe(["links", dir.to_str().unwrap()]), b"").expect(0);
    let path = std::env::var("PATH").unwrap();
    format!("{}:{path}", dir.display())
}

/// The lines of operators and agents, with our links first in the path.
#[test]
fn callers_run_it_as_they_do() {
    let server = LocalS3::start();
    let root = scratch();
    let path = with_links(root.path());
    let (stream, tree) = sample();
    let input = root.path().join("stream");
    std::fs::write(&input, &stream).unwrap();
    let shell = |script: &str| {
        let mut command = clean(Command::new("bash"));
        command
            .args(["-c", script])
            .current_dir(root.path())
            .env("PATH", &path)
            .env("B", BUCKET)
            .env("K", ACCESS_KEY)
            .env("S", SECRET_KEY)
            .env("E", format!("http://{}", server.address()));
        run(command, b"")
    };
    let s3 = "--storage=s3 --s3-bucket=$B --s3-region=us-east-1 --s3-access-key=$K --s3-secret-key=$S --s3-endpoint=$E";
    // The operator for Percona Server.
    shell(&format!(
        "set -e; xbcloud put --parallel=10 --curl-retriable-errors=7 --insecure --md5 {s3} ps/2026-11-21-full < stream"
    ))
    .expect(0);
    let line = shell(&format!(
        "xbcloud get --parallel=10 --curl-retriable-errors=7 --insecure {s3} ps/2026-11-21-full xtrabackup_checkpoints | strings"
    ));
    assert!(line.expect(0).text().contains("to_lsn = 4711"));
    shell(&format!(
        "set -o errexit; mkdir t1; xbcloud get --curl-retriable-errors=7 --parallel=4 ps/2026-11-21-full {s3} \
         | xbstream -xv -C t1 --parallel=4"
    ))
    .expect(0);
    assert_same(&read_tree(&root.path().join("t1")), &tree);
    shell(&format!(
        "xbcloud delete --parallel=10 --curl-retriable-errors=7 {s3} ps/2026-11-21-full"
    ))
    .expect(0);
    assert_eq!(keys(&server), Vec::<String>::new());
    // The operator for XtraDB Cluster: a lone file, which is expected to be called incomplete, and a backup.
    let credentials =
        "export ACCESS_KEY_ID=$K SECRET_ACCESS_KEY=$S ENDPOINT=$E DEFAULT_REGION=us-east-1";
    std::fs::write(root.path().join("sst_info"), b"[sst]\n").unwrap();
    let grep = "(grep -v \"error: http request failed: Couldn't resolve host name\" || exit 1)";
    let sst = shell(&format!(
        "{credentials}; xbstream -C . -c sst_info | xbcloud put --storage=s3 --md5 --parallel=4 \
         --curl-retriable-errors=7 --s3-bucket=$B pxc/full.sst_info 2>&1 | {grep}"
    ))
    .expect(0);
    assert!(
        sst.text().contains("Upload failed: backup is incomplete"),
        "{}",
        sst.text()
    );
    let put = shell(&format!(
        "{credentials}; xbcloud put --storage=s3 --parallel=4 --curl-retriable-errors=7 --md5 --s3-bucket=$B pxc/full < stream 2>&1 | {grep}"
    ));
    assert!(put.expect(0).text().contains("Upload completed."));
    shell(&format!(
        "set -o pipefail; {credentials}; mkdir t2 t3; \
         xbcloud get --parallel=4 --curl-retriable-errors=7 s3://$B/pxc/full.sst_info | xbstream -x -C t2 --parallel=4 \
         && xbcloud get --parallel=4 --curl-retriable-errors=7 s3://$B/pxc/full | xbstream -x -C t3 --parallel=4 --decompress"
    ))
    .expect(0);
    assert_same(
        &read_tree(&root.path().join("t2")),
        &files([("sst_info", &b"[sst]\n"[..])]),
    );
    assert_same(&read_tree(&root.path().join("t3")), &tree);
    // Recovery to a point in time: one object, not a byte on standard error.
    let object = server
        .bucket()
        .join("pxc/full/xtrabackup_info.00000000000000000000");
    let one = shell(&format!(
        "mkdir t4; cd t4; xbstream -x --decompress < {}",
        object.display()
    ));
    assert_eq!(one.expect(0).err, "");
    assert!(root.path().join("t4/xtrabackup_info").is_file());
    shell(&format!(
        "{credentials}; xbcloud get s3://$B/pxc/full xtrabackup_info > /dev/null"
    ))
    .expect(0);
    shell(&format!(
        "{credentials}; xbcloud get s3://$B/pxc/none xtrabackup_info > /dev/null"
    ))
    .expect(1);
    // Monitoring agents.
    let version = shell("xbcloud --version | head -1 | grep -E '^xbcloud[ ][ ]Ver ([!-~]*)'");
    version.expect(0);
    shell(
        "xbcloud put --storage=s3 --s3-endpoint=$E --s3-access-key=$K --s3-secret-key=$S --s3-bucket=$B \
         --s3-region=us-east-1 --parallel=10 pmm < stream && mkdir t5 && \
         xbcloud get --storage=s3 --s3-endpoint=$E --s3-access-key=$K --s3-secret-key=$S --s3-bucket=$B \
         --s3-region=us-east-1 --parallel=10 pmm | xbstream restore -x --directory=t5 --parallel=10",
    )
    .expect(0);
    assert_same(&read_tree(&root.path().join("t5")), &tree);
}

/// A live server, the real engine and the real extractor at both ends, a real store between.
#[test]
fn a_real_backup_through_ceph() {
    let ceph = Ceph::shared();
    let server = TestServer::start(&["--innodb-file-per-table=1"]);
    server.sql(
        "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, pad VARBINARY(8000)); \
         INSERT INTO shop.t SELECT seq, RANDOM_BYTES(1000) FROM shop.seq_1_to_30000; \
         CREATE TABLE shop.m (id INT) ENGINE=MyISAM; INSERT INTO shop.m VALUES (1);",
    );
    let mut backup = Command::new("mariadb-backup");
    backup
        .args([
            "--no-defaults",
            "--backup",
            "--user=root",
            "--stream=xbstream",
        ])
        .arg(format!("--socket={}", server.socket().display()))
        .arg(format!(
            "--target-dir={}",
            server.scratch().join("tmp").display()
        ));
    let stream = run(backup, b"").expect(0).out;
    let plain = |stream: &[u8]| -> (PathBuf, tempfile::TempDir) {
        let dir = scratch();
        let mut real = Command::new(need("mbstream", "mariadb-backup"));
        real.arg("-x").arg("-C").arg(dir.path());
        run(real, stream).expect(0);
        (dir.path().to_owned(), dir)
    };
    // The bucket is not there yet.
    let cloud = Cloud::at(&format!("http://{}", ceph.address()), "cloud-live");
    let done = cloud.run(&["get", "monday"]).expect(1);
    assert!(
        done.last_line().contains("there is no bucket"),
        "{}",
        done.err
    );
    cloud
        .put("db1/monday", &stream, &["--md5", "--parallel=8"])
        .expect(0);
    let got = cloud.run(&["get", "db1/monday", "--parallel=8"]).expect(0);
    let (before, _dir) = plain(&stream);
    let (after, _dir2) = plain(&got.out);
    assert_same(&read_tree(&after), &read_tree(&before));
    // Straight through, into the extractor.
    let dir = scratch();
    let mut extract = Command::new(need("mbstream", "mariadb-backup"));
    extract.arg("-x").arg("-C").arg(dir.path());
    let (get, extracted) = pipe(cloud.command(&["get", "db1/monday"]), extract);
    get.expect(0);
    extracted.expect(0);
    assert_same(&read_tree(dir.path()), &read_tree(&before));

    let done = cloud.put("db1/monday", &stream, &[]).expect(1);
    assert!(done.last_line().contains("already exists!"));
    // Cut in the middle: nothing of it stays, and the name is free.
    let cut = cloud
        .put("db1/tuesday", &stream[..stream.len() / 2], &["--md5"])
        .expect(1);
    let done = cloud.run(&["get", "db1/tuesday"]).expect(1);
    assert!(
        done.last_line().contains("there is no backup named"),
        "{}{}",
        cut.err,
        done.err
    );
    // The customer's key goes with every object, and without it there is none.
    let key = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU=";
    let digest = "GAOkzT7rsdElAo2zGgrSgQ==";
    let customer = [
        "--header=x-amz-server-side-encryption-customer-algorithm: AES256".to_owned(),
        format!("--header=x-amz-server-side-encryption-customer-key: {key}"),
        format!("--header=x-amz-server-side-encryption-customer-key-MD5: {digest}"),
    ];
    let with_key = |args: &[&str], input: &[u8]| {
        let mut command = cloud.command(args);
        command.args(&customer);
        run(command, input)
    };
    with_key(&["put", "db1/secret", "--md5"], &stream).expect(0);
    let got = with_key(&["get", "db1/secret"], b"").expect(0);
    assert_eq!(got.out.len(), stream.len());
    cloud.run(&["get", "db1/secret"]).expect(1);
    for name in ["db1/monday", "db1/secret"] {
        cloud.run(&["delete", name]).expect(0);
        let done = cloud.run(&["get", name]).expect(1);
        assert!(
            done.last_line().contains("there is no backup named"),
            "{}",
            done.err
        );
    }
}
