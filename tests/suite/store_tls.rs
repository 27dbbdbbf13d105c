//! A real store that is reached over TLS, and what only that can be asked for.

use std::path::Path;
use std::process::Command;

use crate::certificate::authority;
use crate::cloud::{Cloud, sample};
use crate::s3_server::{Ceph, KMS_KEY};
use crate::store_backups::{Place, archive_of};
use crate::tool::{Done, assert_same, files, need, noise, read_tree, run, scratch};

/// Refused at once: no certificate gets better by waiting.
fn is_distrusted(done: &Done, status: i32) {
    assert_eq!(done.status, status, "{}", done.err);
    let sentence = "the store's certificate is not trusted: ";
    assert!(done.err.contains(sentence), "{}", done.err);
    assert!(
        done.err.contains("--ca-file") || done.err.contains("--cacert"),
        "{}",
        done.err
    );
    assert!(!done.err.contains("going on to try"), "{}", done.err);
}

#[test]
fn certificates_of_stores_are_verified() {
    let ceph = Ceph::shared();
    ceph.make_bucket("tls");
    let dir = scratch();
    let good = ceph.authority();
    let other = authority(dir.path(), "other");
    let tree = files([("d/t.ibd", &noise(12 << 20, 1)[..]), ("small", b"s")]);
    let archive = archive_of(&tree, "none");

    let place = |url: &str, ca: Option<&Path>| {
        let mut place = Place::s3(url, "tls", "p");
        // Set or not, the environment of the tests does not matter.
        let ca = ca.map_or_else(Default::default, |ca| ca.as_os_str().to_owned());
        place.env.push(("AWS_CA_BUNDLE", ca));
        place
    };
    let whole = place(&ceph.tls_url(), Some(&good));
    whole.put("a", &archive, &["--memory", "32M"]).expect(0);
    for level in ["1", "3"] {
        whole
            .run("verify", &["--level", level, &whole.at("a")])
            .expect(0);
    }
    let to = dir.path().join("to");
    let args = ["-C", to.to_str().unwrap(), &whole.at("a")];
    whole.run("restore", &args).expect(0);
    assert_same(&read_tree(&to), &tree);

    let elsewhere = ceph.tls_url().replace("127.0.0.1", "localhost");
    for distrusted in [
        place(&ceph.tls_url(), None),
        place(&ceph.tls_url(), Some(&other)),
        place(&elsewhere, Some(&good)),
    ] {
        is_distrusted(&distrusted.put("b", &archive, &[]), 5);
        is_distrusted(&distrusted.run("ls", &[&distrusted.url]), 5);
    }
    // The option wins over the environment.
    let other = place(&ceph.tls_url(), Some(&other));
    let args = ["--json", "--ca-file", good.to_str().unwrap(), &other.url];
    let listed = other.run("ls", &args).expect(0);
    assert!(
        listed.text().contains("\"name\":\"a\""),
        "{}",
        listed.text()
    );
}

// r[compat-xbcloud.insecure]
#[test]
fn xbcloud_takes_any_certificate_if_it_is_told_to() {
    let ceph = Ceph::shared();
    let (stream, _) = sample();
    let cloud = Cloud::at(&ceph.tls_url(), "xbcloud-tls");
    is_distrusted(&cloud.put("full", &stream, &[]), 1);
    let ca = format!("--cacert={}", ceph.authority().display());
    let elsewhere = ceph.tls_url().replace("127.0.0.1", "localhost");
    let elsewhere = Cloud::at(&elsewhere, "xbcloud-tls");
    is_distrusted(&elsewhere.put("full", &stream, &[&ca]), 1);
    for (name, cloud, option) in [
        ("trusted", &cloud, ca.as_str()),
        ("any", &cloud, "--insecure"),
        ("anywhere", &elsewhere, "--insecure"),
    ] {
        cloud
            .put(name, &stream, &[option, "--md5", "--parallel=4"])
            .expect(0);
        let got = cloud.run(&["get", name, option]).expect(0);
        let dir = scratch();
        let mut real = Command::new(need("mbstream", "mariadb-backup"));
        real.arg("-x").arg("-C").arg(dir.path());
        run(real, &got.out).expect(0);
        assert_same(&read_tree(dir.path()), &sample().1);
        cloud.run(&["delete", name, option]).expect(0);
    }
}

/// What was asked for shows in what is stored.
#[test]
fn a_real_store_keeps_objects_as_it_is_asked_to() {
    let ceph = Ceph::shared();
    ceph.ask(async |client| {
        let bucket = client.create_bucket().bucket("asked");
        bucket.object_lock_enabled_for_bucket(true).send().await
    })
    .unwrap();
    let mut place = Place::s3(&ceph.tls_url(), "asked", "p");
    place.env.push(("AWS_CA_BUNDLE", ceph.authority().into()));
    let archive = archive_of(&files([("t.ibd", &noise(12 << 20, 1)[..])]), "none");
    let dir = scratch();
    let key = |name: &str, byte: u8| {
        let path = dir.path().join(name);
        std::fs::write(&path, [byte; 32]).unwrap();
        format!("customer:{}", path.display())
    };
    let (right, wrong) = (key("right", 7), key("wrong", 8));
    let with = |sse: &str| {
        [
            "--memory".to_owned(),
            "32M".to_owned(),
            "--sse".to_owned(),
            sse.to_owned(),
        ]
    };
    let call = |verb: &str, options: &[String], name: &str| {
        let at = place.at(name);
        let args: Vec<&str> = options.iter().map(String::as_str).chain([&*at]).collect();
        let input: &[u8] = if verb == "put" { &archive } else { b"" };
        run(place.command(verb, &args), input)
    };
    call("put", &with(&right), "customer").expect(0);
    assert!(call("get", &with(&right), "customer").expect(0).out == archive);
    call("verify", &with(&right), "customer").expect(0);
    for refused in [
        call("get", &[], "customer"),
        call("get", &with(&wrong), "customer"),
    ] {
        assert_eq!(refused.status, 5, "{}", refused.err);
        assert!(refused.out.is_empty());
        assert!(refused.err.contains("hint: "), "{}", refused.err);
    }

    call("put", &with(&format!("kms:{KMS_KEY}")), "kms").expect(0);
    assert!(call("get", &[], "kms").expect(0).out == archive);
    let unknown = call("put", &with("kms:unknown"), "unknown");
    assert_eq!(unknown.status, 5, "{}", unknown.err);

    let options = ["--tag", "team=db a", "--object-lock", "governance:1"].map(str::to_owned);
    call("put", &options, "locked").expect(0);
    assert!(call("get", &[], "locked").expect(0).out == archive);

    let segments = |name: &str| -> Vec<String> {
        let prefix = format!("p/{name}/");
        let listed = ceph.ask(async |client| {
            client
                .list_objects_v2()
                .bucket("asked")
                .prefix(prefix)
                .send()
                .await
        });
        let keys = listed
            .unwrap()
            .contents()
            .iter()
            .map(|o| o.key().unwrap().to_owned())
            .collect::<Vec<_>>();
        keys.into_iter()
            .filter(|key| key.ends_with(".xbs"))
            .collect()
    };
    let head = |key: &str| {
        ceph.ask(async |client| client.head_object().bucket("asked").key(key).send().await)
            .unwrap()
    };
    for key in segments("kms") {
        let head = head(&key);
        assert_eq!(head.server_side_encryption().unwrap().as_str(), "aws:kms");
        assert_eq!(head.ssekms_key_id(), Some(KMS_KEY));
    }
    // r[repository.lock]
    for key in segments("locked") {
        assert_eq!(
            head(&key).object_lock_mode().unwrap().as_str(),
            "GOVERNANCE"
        );
        let tags = ceph.ask(async |client| {
            client
                .get_object_tagging()
                .bucket("asked")
                .key(&key)
                .send()
                .await
        });
        let tags = tags.unwrap();
        let [tag] = tags.tag_set() else {
            panic!("{tags:?}")
        };
        assert_eq!((tag.key(), tag.value()), ("team", "db a"));
    }
    assert_eq!(segments("unknown"), [""; 0]);
    assert!(!segments("kms").is_empty() && !segments("locked").is_empty());
}
