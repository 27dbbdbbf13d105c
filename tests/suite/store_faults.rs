//! What the retry policy makes of faults: scripted ones in front of a store in memory, and an HTTP proxy's in front of an S3
//! server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use xbpipe::base::cancel::Cancel;
use xbpipe::base::error::{Error, Kind};
use xbpipe::base::monitor::{Collector, Event};
use xbpipe::store::s3::{AccessKey, S3Options, S3Store};
use xbpipe::store::{Class, MemoryStore, Part, Policy, Retrying, Store, Upload, get_small};

use crate::fault_proxy::{Action, FaultProxy};
use crate::s3_server::{BUCKET, LocalS3};
use crate::store_conformance::options;
use crate::store_wrappers::{Mishap, Scripted};
use crate::tool::noise;

const PART_LEN: usize = 5 << 20;

/// Quick enough for tests; what is tested is that it tries and when it stops.
fn quick() -> Policy {
    Policy {
        first_delay: Duration::from_millis(2),
        max_delay: Duration::from_millis(40),
        window: Duration::from_secs(20),
        window_unproven: Duration::from_millis(300),
        window_expired: Duration::from_secs(20),
        retries_max: None,
        permits: 8,
    }
}

struct Rig {
    scripted: Arc<Scripted>,
    store: Retrying,
    cancel: Cancel,
    monitor: Arc<Collector>,
}

fn rig(policy: Policy) -> Rig {
    let scripted = Arc::new(Scripted::new(Arc::new(MemoryStore::default())));
    let (cancel, monitor) = (Cancel::new(), Arc::new(Collector::default()));
    let store = Retrying::new(
        Arc::<Scripted>::clone(&scripted),
        policy,
        cancel.clone(),
        Arc::<Collector>::clone(&monitor),
    );
    Rig {
        scripted,
        store,
        cancel,
        monitor,
    }
}

fn part(store: &dyn Store, upload: &Upload, data: &Bytes) -> Result<Part, xbpipe::store::Fault> {
    let part = Part {
        number: 1,
        offset: 0,
        len: data.len() as u64,
        crc32: crc32fast::hash(data),
        etag: String::new(),
    };
    store.put_part(upload, &part, data.clone())
}

// r[repository.retry]
#[test]
fn passing_faults_are_survived_and_told() {
    let rig = rig(quick());
    let upload = rig.store.create_upload("a").unwrap();
    let data = Bytes::from_static(b"data");
    for (class, times) in [
        (Class::Throttled, 6),
        (Class::Transient, 6),
        (Class::Unreachable, 3),
        (Class::Damaged, 3),
    ] {
        rig.scripted.on("put_part", 0, times, Mishap::Fails(class));
        part(&rig.store, &upload, &data).unwrap();
        if class == Class::Throttled {
            // Half of those under way, six times; and one more since it went well.
            assert_eq!(rig.store.permits(), 2);
        }
    }
    for _ in 0..100 {
        part(&rig.store, &upload, &data).unwrap();
    }
    assert_eq!(rig.store.permits(), 8);
    let told = rig.monitor.events();
    let warned =
        |e: &Event| matches!(e, Event::Warning(text) if text.contains("cannot put_part \"a\""));
    assert!(told.iter().any(warned), "{told:?}");
}

#[test]
fn expired_credentials_are_read_again() {
    let rig = rig(quick());
    rig.scripted.on("put", 0, 2, Mishap::Fails(Class::Expired));
    rig.store.put("a", Bytes::new(), false).unwrap();
    let calls = rig.scripted.take_calls();
    assert_eq!(calls, ["put a", "refresh ", "put a", "refresh ", "put a"]);
}

#[test]
fn what_cannot_work_is_tried_once_and_damage_a_few_times() {
    let rig = rig(quick());
    for (class, expected) in [
        (Class::Refused, 1),
        (Class::NotFound, 1),
        (Class::Changed, 1),
        (Class::Full, 1),
        (Class::Damaged, 5),
    ] {
        rig.scripted.take_calls();
        rig.scripted.on("put", 0, 5, Mishap::Fails(class));
        let fault = rig.store.put("a", Bytes::new(), false).unwrap_err();
        assert_eq!((fault.class, fault.attempts), (class, expected));
        let puts = rig.scripted.take_calls();
        assert_eq!(
            puts.iter().filter(|c| *c == "put a").count(),
            expected as usize
        );
        for _ in expected..5 {
            rig.store.put("b", Bytes::new(), false).ok();
        }
    }
}

#[test]
fn the_last_error_says_everything() {
    let policy = Policy {
        window: Duration::from_millis(200),
        ..quick()
    };
    let rig = rig(policy);
    rig.store.list("", false, None).unwrap();
    rig.scripted
        .on("put", 0, usize::MAX, Mishap::Fails(Class::Throttled));
    let fault = rig.store.put("x/y", Bytes::new(), false).unwrap_err();
    assert!(
        fault.attempts > 2 && fault.elapsed >= policy.window,
        "{fault:?}"
    );
    let error = Error::from(fault);
    assert_eq!(error.kind(), Kind::Store);
    let text = error.to_string();
    for piece in ["cannot put \"x/y\"", " attempts in 0.", "made by a test"] {
        assert!(text.contains(piece), "{text}");
    }
    // A store that never answered is given up sooner than one that did.
    let rig = self::rig(Policy {
        window: Duration::from_secs(3600),
        ..quick()
    });
    rig.scripted
        .on("list", 0, usize::MAX, Mishap::Fails(Class::Unreachable));
    rig.store.list("", false, None).unwrap_err();
}

// r[repository.retry.lost]
#[test]
fn lost_answers_are_found_out() {
    let rig = rig(quick());
    let data = Bytes::from(noise(1000, 3));
    for times in [1, 3] {
        let upload = rig.store.create_upload("big").unwrap();
        let parts = [part(&rig.store, &upload, &data).unwrap()];
        rig.scripted.on("complete", 0, times, Mishap::Lost);
        let object = rig.store.complete(&upload, &parts).unwrap();
        assert_eq!(object.len, 1000);
        assert_eq!(get_small(&rig.store, "big", 1000).unwrap().0, data);
    }
    // Whoever completes what is not there is not told otherwise.
    let upload = rig.store.create_upload("gone").unwrap();
    let parts = [part(&rig.store, &upload, &data).unwrap()];
    rig.store.abort(&upload).unwrap();
    rig.store.complete(&upload, &parts).unwrap_err();

    rig.scripted.on("put", 0, 1, Mishap::Lost);
    rig.store.put("commit", data.clone(), true).unwrap();
    let other = rig.store.put("commit", Bytes::from_static(b"other"), true);
    assert_eq!(other.unwrap_err().class, Class::Exists);
}

#[test]
fn the_end_of_the_run_ends_the_waiting_but_not_the_cleaning() {
    let policy = Policy {
        first_delay: Duration::from_secs(3600),
        max_delay: Duration::from_secs(3600),
        window: Duration::from_secs(7200),
        ..quick()
    };
    let rig = rig(policy);
    let upload = rig.store.create_upload("a").unwrap();
    rig.scripted
        .on("put", 0, usize::MAX, Mishap::Fails(Class::Transient));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.store.put("a", Bytes::new(), false));
        std::thread::sleep(Duration::from_millis(50));
        rig.cancel
            .cancel(Kind::Interrupted, "interrupted by SIGTERM");
        let error = Error::from(waiting.join().unwrap().unwrap_err());
        assert_eq!(error.kind(), Kind::Interrupted);
        assert_eq!(error.to_string(), "interrupted by SIGTERM");
    });
    rig.store.abort(&upload).unwrap();
    rig.store.discard(&["a".to_owned()]).unwrap();
}

/// An S3 server behind the proxy, behind the policy.
struct Net {
    proxy: FaultProxy,
    store: Retrying,
    monitor: Arc<Collector>,
    _server: LocalS3,
}

fn net(stall: Duration) -> Net {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let options = S3Options {
        endpoint_url: Some(proxy.url()),
        stall,
        ..options("", "p")
    };
    let cancel = Cancel::new();
    let s3 = S3Store::open(options, &cancel).unwrap();
    let monitor = Arc::new(Collector::default());
    let told = Arc::<Collector>::clone(&monitor);
    let store = Retrying::new(Arc::new(s3), quick(), cancel, told);
    Net {
        proxy,
        store,
        monitor,
        _server: server,
    }
}

fn parts(net: &Net, upload: &Upload, data: &Bytes) -> Vec<Part> {
    let mut offset = 0;
    let mut parts = Vec::new();
    while offset < data.len() {
        let piece = data.slice(offset..data.len().min(offset + PART_LEN));
        let part = Part {
            number: u32::try_from(parts.len() + 1).unwrap(),
            offset: offset as u64,
            len: piece.len() as u64,
            crc32: crc32fast::hash(&piece),
            etag: String::new(),
        };
        offset += piece.len();
        parts.push(net.store.put_part(upload, &part, piece).unwrap());
    }
    parts
}

#[test]
fn uploads_survive_what_networks_do() {
    let net = net(Duration::from_secs(20));
    let data = Bytes::from(noise(2 * PART_LEN + 1000, 5));
    for (name, method, target, action, times) in [
        (
            "storm",
            "PUT",
            "partNumber=",
            Action::Answer(503, "SlowDown"),
            9,
        ),
        (
            "error",
            "PUT",
            "partNumber=",
            Action::Answer(500, "InternalError"),
            4,
        ),
        ("cut0", "PUT", "partNumber=", Action::CutRequest(0), 2),
        (
            "cut1",
            "PUT",
            "partNumber=",
            Action::CutRequest(3_000_000),
            2,
        ),
        (
            "cut2",
            "PUT",
            "partNumber=",
            Action::CutRequest(5_242_879),
            2,
        ),
        ("lostpart", "PUT", "partNumber=", Action::Lost, 2),
        ("lost", "POST", "uploadId=", Action::Lost, 1),
        ("lost3", "POST", "uploadId=", Action::Lost, 3),
        (
            "ok200",
            "POST",
            "uploadId=",
            Action::Answer(200, "InternalError"),
            2,
        ),
        (
            "create",
            "POST",
            "uploads",
            Action::Answer(503, "SlowDown"),
            4,
        ),
    ] {
        net.proxy.on(method, target, 0, times, action);
        let upload = net.store.create_upload(name).unwrap();
        let parts = parts(&net, &upload, &data);
        let object = net.store.complete(&upload, &parts).unwrap();
        assert_eq!(object.len, data.len() as u64, "{name}");
        net.proxy.heal();
        let (there, _) = get_small(&net.store, name, 1 << 30).unwrap();
        assert!(there == data, "{name}");
    }
}

// r[repository.crc.declared]
#[test]
fn every_part_and_every_whole_goes_with_its_checksum() {
    let net = net(Duration::from_secs(20));
    let data = Bytes::from(noise(2 * PART_LEN + 1000, 5));
    let upload = net.store.create_upload("a").unwrap();
    let parts = parts(&net, &upload, &data);
    net.store.complete(&upload, &parts).unwrap();
    net.store.put("b", data.slice(..10), true).unwrap();
    let declared: Vec<String> = net
        .proxy
        .take_log()
        .into_iter()
        .filter_map(|line| Some(line.split_once("crc32=")?.1.to_owned()))
        .collect();
    let crcs = [
        &data[..PART_LEN],
        &data[PART_LEN..2 * PART_LEN],
        &data[2 * PART_LEN..],
        &data,
        &data[..10],
    ];
    let expected = crcs.map(|bytes| base64(crc32fast::hash(bytes)));
    assert_eq!(declared, expected);
}

fn base64(crc: u32) -> String {
    aws_smithy_types::base64::encode(crc.to_be_bytes())
}

#[test]
fn reads_go_on_where_they_broke_off() {
    let net = net(Duration::from_millis(1500));
    let data = Bytes::from(noise(3_000_000, 6));
    net.store.put("a", data.clone(), true).unwrap();
    let etag = net.store.head("a").unwrap().etag;
    let read = |what: &str| {
        let mut buf = vec![0; data.len()];
        let mut filled = 0;
        net.store
            .read("a", 0, &mut buf, &mut filled, Some(&etag))
            .unwrap();
        assert!(buf == data, "{what}");
    };
    for at in [0, 1, 65_536, 1 << 20, 2_999_999] {
        net.proxy.on("GET", "/p/a", 0, 1, Action::CutAnswer(at));
        net.proxy.on("GET", "/p/a", 0, 1, Action::CutAnswer(at / 2));
        read(&format!("cut at {at}"));
    }
    net.proxy.take_log();
    net.proxy.on("GET", "/p/a", 0, 1, Action::Stall(1_000_000));
    read("stall");
    let gets = net.proxy.take_log();
    assert_eq!(
        gets.iter().filter(|l| l.starts_with("GET")).count(),
        2,
        "{gets:?}"
    );
    net.proxy
        .on("GET", "/p/a", 0, 3, Action::Answer(503, "SlowDown"));
    read("storm");
}

// r[repository.hedge]
#[test]
fn a_read_that_is_slow_among_its_peers_is_asked_for_again() {
    // Nothing but a second request helps within the test's patience.
    let net = net(Duration::from_secs(3600));
    let data = Bytes::from(noise(3_000_000, 7));
    net.store.put("a", data.clone(), true).unwrap();
    let etag = net.store.head("a").unwrap().etag;
    let read = || {
        let mut buf = vec![0; data.len()];
        let mut filled = 0;
        let read = net.store.read("a", 0, &mut buf, &mut filled, Some(&etag));
        read.unwrap();
        assert!(buf == data);
    };
    for _ in 0..8 {
        read();
    }
    for at in [0, 1_000_000, 2_999_999] {
        net.proxy.take_log();
        net.proxy.on("GET", "/p/a", 0, 1, Action::Stall(at));
        // More of them than one in ten would wait.
        for _ in 0..10 {
            read();
        }
        let gets = net.proxy.take_log();
        assert_eq!(gets.len(), 11, "{gets:?}");
        let second = gets.iter().find(|line| !line.contains("bytes=0-"));
        assert_eq!(second.is_some(), at > 0, "only what is missing: {gets:?}");
    }
    assert_eq!(net.store.hedged(), 3);
    let told = |e: &Event| matches!(e, Event::Info(text) if text.contains("a second time"));
    assert!(net.monitor.events().iter().any(told));
}

fn open_error(options: S3Options) -> Error {
    let error = S3Store::open(options, &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Store, "{error}");
    error
}

#[test]
fn every_wrong_address_has_its_own_sentence() {
    let server = LocalS3::start();
    let good = || options(server.address(), "");
    let key = |id: &str, secret: &str| {
        Some(AccessKey {
            id: id.to_owned(),
            secret: secret.to_owned(),
            session_token: None,
        })
    };
    let right = good().access_key.unwrap();
    let wrong_bucket = S3Options {
        bucket: "no-such-bucket".to_owned(),
        ..good()
    };
    let wrong_secret = S3Options {
        access_key: key(&right.id, "wrong"),
        ..good()
    };
    let wrong_key = S3Options {
        access_key: key("NOBODY", &right.secret),
        ..good()
    };
    for (options, sentence) in [
        (wrong_bucket, "there is no bucket \"no-such-bucket\""),
        (
            wrong_secret,
            "the secret key does not belong to the access key",
        ),
    ] {
        let error = open_error(options);
        assert!(error.to_string().contains(sentence), "{error}");
        assert!(error.hint_text().is_some());
    }
    // s3s has no code for it.
    open_error(wrong_key);
    let proxy = FaultProxy::start(server.address());
    let through = S3Options {
        endpoint_url: Some(proxy.url()),
        ..good()
    };
    for (status, code, sentence) in [
        (403, "InvalidAccessKeyId", "does not know this access key"),
        (403, "AccessDenied", "access denied"),
        (403, "RequestTimeTooSkewed", "the clock of this host"),
    ] {
        proxy.on("GET", BUCKET, 0, 1, Action::Answer(status, code));
        let error = open_error(through.clone());
        assert!(error.to_string().contains(sentence), "{error}");
    }
}

#[test]
fn the_bucket_says_where_it_is() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    // Whoever signs for another region is told so.
    proxy.on(
        "GET",
        "/us-east-1/s3/",
        0,
        usize::MAX,
        Action::OtherRegion("eu-north-1"),
    );
    let told = S3Options {
        endpoint_url: Some(proxy.url()),
        ..options("", "")
    };
    let error = open_error(told.clone());
    assert!(
        error
            .to_string()
            .contains("is in region eu-north-1, not in us-east-1"),
        "{error}"
    );
    assert!(error.hint_text().unwrap().contains("--region eu-north-1"));
    let guessed = S3Options {
        region: None,
        ..told
    };
    let store = S3Store::open(guessed, &Cancel::new()).unwrap();
    store.put("a", Bytes::from_static(b"x"), true).unwrap();
    assert_eq!(get_small(&store, "a", 9).unwrap().0, &b"x"[..]);
}
