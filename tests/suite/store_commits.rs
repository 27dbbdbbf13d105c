//! The moment from which a backup exists: faults around it, and somebody else in it.

use crate::fault_proxy::{Action, FaultProxy};
use crate::s3_server::{BUCKET, Ceph, LocalS3};
use crate::store_backups::{Place, archive_of, sample};
use crate::tool::{Chunks, noise, scratch};

/// Whatever happens to the manifest while it is put, a backup that is listed is whole.
// r[repository.commit.checked] r[repository.manifest.crc]
#[test]
fn a_commit_is_certain_or_leaves_everything() {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let place = Place::s3(&proxy.url(), BUCKET, "m");
    let archive = archive_of(&sample(), "none");
    let manifest = "manifest.json";
    let refused = || Action::Answer(403, "AccessDenied");
    let for_ever = usize::MAX;
    for (name, faults, status) in [
        ("flip", vec![("GET", 1, Action::Flip(100))], 0),
        ("flips", vec![("GET", for_ever, Action::Flip(100))], 5),
        // Done, but not answered, and refused when it is tried again.
        (
            "lost",
            vec![("PUT", 1, Action::Lost), ("PUT", for_ever, refused())],
            0,
        ),
        ("refused", vec![("PUT", for_ever, refused())], 5),
        ("silent", vec![("GET", for_ever, refused())], 5),
    ] {
        for (method, times, action) in faults {
            proxy.on(method, manifest, 0, times, action);
        }
        let done = place.put(name, &archive, &["--memory", "32M"]);
        assert_eq!(done.status, status, "{name}: {}", done.err);
        proxy.heal();
        let is_there = place.names().iter().any(|there| there == name);
        assert_eq!(is_there, name != "refused", "{name}: {}", done.err);
        if is_there {
            let got = place.run("get", &[&place.at(name)]).expect(0);
            assert!(got.out == archive, "{name}");
            let doubtful = done
                .err
                .contains("whether the backup was committed is not known");
            assert_eq!(doubtful, status != 0, "{}", done.err);
        }
    }
    // What is damaged on its way is read again.
    for (what, target) in [("manifest", manifest), ("index", "/index")] {
        proxy.on("GET", target, 0, 1, Action::Flip(100));
        let got = place.run("get", &[&place.at("flip")]).expect(0);
        assert!(got.out == archive, "{what}");
        proxy.heal();
        proxy.on("GET", target, 0, for_ever, Action::Flip(100));
        let got = place.run("get", &[&place.at("flip")]);
        assert_eq!(got.status, 4, "{what}: {}", got.err);
        proxy.heal();
    }
}

/// Stores two archives under one name at the same time; returns who was told that his one is stored. Whatever the store makes of
/// it, the name holds one of theirs, whole, and what is left of the other one goes.
fn rivals(place: &Place) -> usize {
    let one = Chunks::new().file("x", &noise(100_000, 1)).0;
    let two = Chunks::new().file("x", &noise(100_000, 2)).0;
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| place.put("a", &one, &[]));
        let second = scope.spawn(|| place.put("a", &two, &[]));
        (first.join().unwrap(), second.join().unwrap())
    });
    let (winners, losers): (Vec<_>, Vec<_>) = [(&first, &one), (&second, &two)]
        .into_iter()
        .partition(|(done, _)| done.status == 0);
    for (loser, _) in losers {
        assert_eq!(loser.status, 5, "{}", loser.err);
        let told = ["/a\" already", "backup \"a\" at the same time"];
        let is_told = told.iter().any(|told| loser.last_line().contains(told));
        assert!(is_told, "{}", loser.err);
    }
    assert_eq!(place.names(), ["a"], "{} {}", first.err, second.err);
    let got = place.run("get", &[&place.at("a")]).expect(0).out;
    assert!(winners.iter().any(|(_, archive)| got == **archive));
    if winners.len() == 1 {
        assert_eq!(place.leftovers(), "", "the loser has removed its objects");
    }
    place
        .run("gc", &["--older-than", "0", &place.url])
        .expect(0);
    assert_eq!(place.leftovers(), "");
    let again = place.run("get", &[&place.at("a")]).expect(0).out;
    assert!(again == got);
    winners.len()
}

// r[repository.commit.conditional] r[repository.commit.checked]
#[test]
fn two_uploaders_with_one_name() {
    let server = LocalS3::start();
    let place = Place::s3(&format!("http://{}", server.address()), BUCKET, "t");
    assert_eq!(rivals(&place), 1);
    let dir = scratch();
    assert_eq!(rivals(&Place::directory(dir.path())), 1);
    let ceph = Ceph::shared();
    ceph.make_bucket("rivals");
    let place = Place::s3(&format!("http://{}", ceph.address()), "rivals", "t");
    // It ignores the condition: who commits in the same moment is not told.
    assert!(rivals(&place) >= 1);
}
