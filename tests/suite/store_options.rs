//! What the command line says about an S3 store, seen on the wire; where credentials come from; limits of rate and memory; and
//! backups of many segments.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode};
use xbpipe::base::cancel::Cancel;
use xbpipe::base::monitor::Collector;
use xbpipe::base::run::Run;
use xbpipe::base::units::ByteCount;
use xbpipe::repository::cut::Shares;
use xbpipe::repository::{Repository, Writer};
use xbpipe::store::DirectoryStore;

use crate::archive_limits::{assert_peak, watch};
use crate::fault_proxy::{Action, FaultProxy};
use crate::http_server::HttpServer;
use crate::s3_server::{ACCESS_KEY, BUCKET, Ceph, LocalS3, SECRET_KEY};
use crate::store_backups::{Place, archive_of};
use crate::tool::{Chunks, Tree, assert_same, files, finish, noise, read_tree, scratch};

const MIB: u64 = 1 << 20;

/// What gives credentials to containers, to hosts and for web identities.
fn giver() -> HttpServer {
    HttpServer::start(hyper::service::service_fn(
        |request: Request<_>| async move { Ok::<_, Infallible>(give(&request)) },
    ))
}

fn give<B>(request: &Request<B>) -> Response<Full<Bytes>> {
    let json = format!(
        "{{\"Code\":\"Success\",\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\",\
         \"Token\":\"t\",\"Expiration\":\"2099-01-01T00:00:00Z\",\"LastUpdated\":\"2026-01-01T00:00:00Z\"}}"
    );
    let roles = "/latest/meta-data/iam/security-credentials";
    let path = request.uri().path().trim_end_matches('/');
    let text = match (request.method(), path) {
        (&Method::PUT, "/latest/api/token") => "token".to_owned(),
        (&Method::GET, path) if path == roles => "role".to_owned(),
        (&Method::GET, path) if path == format!("{roles}/role") || path == "/container" => json,
        // AssumeRoleWithWebIdentity.
        (&Method::POST, "") => format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>{ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey>\
             <SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
             </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        ),
        _ => {
            let mut none = Response::new(Full::default());
            *none.status_mut() = StatusCode::NOT_FOUND;
            return none;
        }
    };
    let mut given = Response::new(Full::new(Bytes::from(text)));
    let seconds = hyper::header::HeaderValue::from_static("21600");
    given
        .headers_mut()
        .insert("x-aws-ec2-metadata-token-ttl-seconds", seconds);
    given
}

#[test]
fn credentials_come_from_wherever_a_host_has_them() {
    let server = LocalS3::start();
    let giver = giver();
    let dir = scratch();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        OsString::from(path)
    };
    let keys = format!("aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    let process = format!(
        "{{\"Version\":1,\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\"}}"
    );
    let process = file("process.json", process);
    let config = file(
        "config",
        format!(
            "[profile other]\n{keys}\n[profile made]\ncredential_process = cat {}\n",
            process.to_str().unwrap()
        ),
    );
    let token = file("token", "a.b.c".to_owned());
    let url = format!("http://{}", giver.address());
    let from = |names: &[(&'static str, &str)]| {
        let mut place = Place::s3(&format!("http://{}", server.address()), BUCKET, "c");
        place.env.retain(|(name, _)| !name.contains("KEY"));
        place.env.push(("AWS_CONFIG_FILE", config.clone()));
        place
            .env
            .push(("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".into()));
        for (name, value) in names {
            place.env.retain(|(there, _)| there != name);
            place.env.push((name, value.into()));
        }
        place
    };
    let container = format!("{url}/container");
    let cases = [
        ("profile", from(&[]), &["--profile", "other"][..]),
        (
            "profile of the environment",
            from(&[("AWS_PROFILE", "other")]),
            &[],
        ),
        ("process", from(&[]), &["--profile", "made"]),
        (
            "container",
            from(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container)]),
            &[],
        ),
        (
            "host",
            from(&[
                ("AWS_EC2_METADATA_DISABLED", "false"),
                ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url),
            ]),
            &[],
        ),
        (
            "web identity",
            from(&[
                ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
                ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r"),
                ("AWS_ENDPOINT_URL_STS", &url),
            ]),
            &[],
        ),
    ];
    let archive = Chunks::new().file("x", b"y").0;
    for (i, (what, place, options)) in cases.iter().enumerate() {
        let done = place.put(&format!("b{i}"), &archive, options);
        assert_eq!(done.status, 0, "{what}: {}", done.err);
    }
    let nobody = from(&[]).put("never", &archive, &[]);
    assert_eq!(nobody.status, 5, "{}", nobody.err);
    assert!(
        nobody.last_line().contains("no usable credentials"),
        "{}",
        nobody.err
    );
}

/// Every option about objects reaches the store in the requests that need it.
#[test]
fn what_is_asked_for_goes_along() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let place = Place::s3(&proxy.url(), BUCKET, "o");
    let archive = Chunks::new().file("x", &noise(9 << 20, 1)).0;
    let dir = scratch();
    let key = dir.path().join("key");
    std::fs::write(&key, [7; 32]).unwrap();
    let customer = format!("customer:{}", key.display());
    let payer = "x-amz-request-payer: requester";
    let owner = "x-amz-expected-bucket-owner: 123456789012";
    let tags = "x-amz-tagging: a=b%20c&d=";
    for (options, everywhere, of_the_first, of_parts) in [
        (
            &["--requester-pays"][..],
            &[payer][..],
            &[payer][..],
            &[payer][..],
        ),
        (
            &["--bucket-owner", "123456789012"],
            &[owner],
            &[owner],
            &[owner],
        ),
        (&["--tag", "a=b c", "--tag", "d="], &[], &[tags], &[]),
        (
            &["--storage-class", "STANDARD_IA"],
            &[],
            &["x-amz-storage-class: STANDARD_IA"],
            &[],
        ),
        (
            &["--sse", "s3"],
            &[],
            &["x-amz-server-side-encryption: AES256"],
            &[],
        ),
        (
            &["--sse", "kms:k1"],
            &[],
            &[
                "x-amz-server-side-encryption: aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id: k1",
            ],
            &[],
        ),
        (
            &["--sse", &customer],
            &[],
            &["x-amz-server-side-encryption-customer-algorithm: AES256"],
            &[
                "x-amz-server-side-encryption-customer-key: BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
            ],
        ),
        (
            &["--object-lock", "governance:2"],
            &[],
            &[
                "x-amz-object-lock-mode: GOVERNANCE",
                "x-amz-object-lock-retain-until-date: 20",
            ],
            &[],
        ),
    ] {
        // This server refuses some of it; what counts is what it was asked.
        let done = place.put("a", &archive, &[options, &["--memory", "24M"]].concat());
        let requests = proxy.take_requests();
        let told = |what: &str, is_one: &dyn Fn(&str) -> bool, wanted: &[&str]| {
            let those: Vec<_> = requests.iter().filter(|(line, _)| is_one(line)).collect();
            assert!(!those.is_empty(), "{options:?}: no {what}: {}", done.err);
            for (line, headers) in those {
                for header in wanted {
                    let there = headers.iter().any(|there| there.starts_with(header));
                    assert!(there, "{options:?}: {line} lacks {header}: {headers:?}");
                }
            }
        };
        told("request", &|_| true, everywhere);
        told(
            "create",
            &|line| line.starts_with("POST") && line.contains("uploads"),
            of_the_first,
        );
        if done.status == 0 {
            told("part", &|line| line.contains("partNumber="), of_parts);
            place.run("rm", &[&place.at("a")]).expect(0);
            proxy.take_requests();
        }
    }
}

/// Bytes take at least the time that the limit gives them. (They may take longer.)
#[test]
fn a_rate_is_kept() {
    let dir = scratch();
    let place = Place::directory(dir.path());
    let archive = Chunks::new()
        .file("x", &noise(9 << 20, 1))
        .file("y", &noise(9 << 20, 2))
        .0;
    let rate = ["--rate-limit", "6M", "--memory", "24M"];
    // What fits into one part goes out before anything is owed.
    let least =
        Duration::from_secs_f64((archive.len() as f64 - 6.0 * MIB as f64) / (6.0 * MIB as f64));
    let begin = Instant::now();
    place.put("a", &archive, &rate).expect(0);
    assert!(begin.elapsed() >= least, "put in {:?}", begin.elapsed());
    let begin = Instant::now();
    let at = place.at("a");
    let got = place.run("get", &[&rate[..], &[&at]].concat()).expect(0);
    assert!(got.out == archive);
    assert!(begin.elapsed() >= least, "got in {:?}", begin.elapsed());
}

/// Whatever the store does, memory is what was given.
#[test]
fn faults_cost_no_memory() {
    const MEMORY: u64 = 32 * MIB;
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let place = Place::s3(&proxy.url(), BUCKET, "m");
    let tree: Tree = files([
        ("d/a.ibd", &noise(70 << 20, 1)[..]),
        ("d/b.ibd", &noise(30 << 20, 2)),
    ]);
    let archive = archive_of(&tree, "none");
    let (part, lost) = ("partNumber=", Action::Lost);
    let puts = [
        ("storm", "PUT", part, Action::Answer(503, "SlowDown"), 20),
        ("reset", "PUT", part, Action::CutRequest(3_000_000), 8),
        ("lost", "PUT", part, lost.clone(), 6),
        ("late", "POST", "uploadId=", lost, 2),
    ];
    for (name, method, target, action, times) in puts {
        proxy.on(method, target, 1, times, action);
        let mut command = place.command("put", &["--memory", "32M", &place.at(name)]);
        let done = fed(&mut command, &archive, MEMORY, name).expect(0);
        proxy.heal();
        assert!(
            done.err.lines().all(|line| line.len() < 4096),
            "{}",
            done.err
        );
    }
    for (what, action, times) in [
        ("storm", Action::Answer(503, "SlowDown"), 20),
        ("reset", Action::CutAnswer(3_000_000), 8),
        ("stalled", Action::Stall(1_000_000), 2),
        ("flipped", Action::Flip(1_000_000), 2),
    ] {
        proxy.on("GET", ".xbs", 1, times, action);
        let dir = scratch();
        let to = dir.path().join("to");
        let args = [
            "--memory",
            "32M",
            "--no-sync",
            "-C",
            to.to_str().unwrap(),
            &place.at("storm"),
        ];
        fed(&mut place.command("restore", &args), b"", MEMORY, what).expect(0);
        proxy.heal();
        assert_same(&read_tree(&to), &tree);
    }
}

/// Runs a command with this input, and insists on its peak.
fn fed(
    command: &mut std::process::Command,
    input: &[u8],
    memory: u64,
    what: &str,
) -> crate::tool::Done {
    use std::io::Write as _;
    use std::process::Stdio;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let peak = watch(child.id());
    let mut stdin = child.stdin.take().unwrap();
    let done = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).ok());
        finish(child)
    });
    assert_peak(what, peak.join().unwrap(), memory);
    done
}

// r[repository.segment.border] r[repository.segment.len]
#[test]
fn many_segments_are_one_archive() {
    let tree: Tree = (0..9_u64)
        .flat_map(|i| {
            let name = format!("d/t{i}.ibd");
            files([(
                name.as_str(),
                &noise(3_000_000 + usize::try_from(i).unwrap() * 77, i)[..],
            )])
        })
        .collect();
    for compress in ["none", "zstd"] {
        let archive = archive_of(&tree, compress);
        let dir = scratch();
        let place = Place::directory(dir.path());
        let store = DirectoryStore::open(dir.path(), false).unwrap();
        let run = Run {
            cancel: Cancel::new(),
            monitor: Arc::new(Collector::default()),
        };
        let shares = Shares {
            pipeline: ByteCount(8 << 20),
            part_len: 5 << 20,
            bufs: 3,
        };
        let repository = Repository::new(Arc::new(store));
        let mut writer = Writer::with_segments(&repository, "a", shares, 7 << 20, &run).unwrap();
        for piece in archive.chunks(1_000_003) {
            writer.write(Bytes::copy_from_slice(piece)).unwrap();
        }
        assert!(writer.commit().unwrap().segments.len() >= 4);
        let at = place.at("a");
        for level in ["0", "1", "2", "3"] {
            place.run("verify", &["--level", level, &at]).expect(0);
        }
        place.run("verify", &[&at]).expect(0);
        assert!(place.run("get", &[&at]).expect(0).out == archive);
        let names: BTreeSet<_> = tree.keys().cloned().collect();
        let listed = place.run("list", &[&at]).expect(0);
        assert!(names.len() <= listed.text().lines().count());
        let to = dir.path().join("to");
        let to = to.to_str().unwrap();
        for memory in ["24M", "64M"] {
            let args = [
                "--memory",
                memory,
                "--decompress",
                "--no-sync",
                "--overwrite",
                "-C",
                to,
                &at,
            ];
            place.run("extract", &args).expect(0);
            assert_same(&read_tree(std::path::Path::new(to)), &tree);
        }
        let some = dir.path().join("some");
        let args = [
            "--decompress",
            "-C",
            some.to_str().unwrap(),
            &at,
            "d/t4.ibd",
            "d/t7.ibd",
        ];
        place.run("extract", &args).expect(0);
        let wanted = |name: &Vec<u8>| name == b"d/t4.ibd" || name == b"d/t7.ibd";
        let mut expected = tree.clone();
        expected.retain(|name, _| wanted(name) || name == b"d");
        assert_same(&read_tree(&some), &expected);
    }
}

/// Real refusals of a real server: each is told in a sentence, with a hint, and the status of stores.
#[test]
fn every_wrong_word_is_told() {
    let ceph = Ceph::shared();
    ceph.make_bucket("words");
    let endpoint = format!("http://{}", ceph.address());
    let archive = Chunks::new().file("x", b"y").0;
    let set = |name: &'static str, value: &str| {
        let mut place = Place::s3(&endpoint, "words", "w");
        place.env.retain(|(have, _)| *have != name);
        place.env.push((name, value.into()));
        place
    };
    for (place, sentence) in [
        (
            Place::s3(&endpoint, "no-such-bucket", "w"),
            "there is no bucket \"no-such-bucket\"",
        ),
        (
            set("AWS_ACCESS_KEY_ID", "NOBODY"),
            "the store does not know this access key",
        ),
        (
            set("AWS_SECRET_ACCESS_KEY", "wrong"),
            "the secret key does not belong to the access key",
        ),
    ] {
        for done in [
            place.put("a", &archive, &[]),
            place.run("ls", &[&place.url]),
            place.run("get", &[&place.at("a")]),
        ] {
            assert_eq!(done.status, 5, "{}", done.err);
            assert!(done.err.contains(sentence), "{}", done.err);
            assert!(done.err.contains("hint: "), "{}", done.err);
            assert!(done.out.is_empty());
        }
    }
    // Ceph takes every region for its own.
    set("AWS_REGION", "eu-north-1")
        .put("a", &archive, &[])
        .expect(0);
}
