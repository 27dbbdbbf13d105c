//! A store that is reached over TLS.

use std::path::Path;
use std::process::Command;

use crate::certificate::authority;
use crate::cloud::{Cloud, sample};
use crate::s3_server::Ceph;
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
