//! What is fetched of a backup in a store, counted at a proxy in front of it: all of it once, some of it alone, the rest of what was
//! interrupted; and that one late range holds nothing else up.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::archive_limits::{assert_peak, watch};
use crate::fault_proxy::{Action, FaultProxy};
use crate::s3_server::{BUCKET, Ceph, LocalS3};
use crate::store_backups::{Place, archive_of};
use crate::tool::{Node, Tree, assert_same, files, finish, noise, read_tree, scratch, write_tree};

const MIB: u64 = 1 << 20;

/// As `--memory 32M` makes them.
const PART_LEN: u64 = 8 * MIB;

struct Net {
    proxy: FaultProxy,
    place: Place,
    _server: LocalS3,
}

fn net() -> Net {
    let server = LocalS3::start();
    let proxy = FaultProxy::start(server.address());
    let place = Place::s3(&proxy.url(), BUCKET, "r");
    Net {
        proxy,
        place,
        _server: server,
    }
}

/// What was asked of the store.
struct Asked {
    /// Ranges of segments, in order of their positions.
    ranges: Vec<(u64, u64)>,
    requests: usize,
}

impl Asked {
    fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(begin, end)| end - begin).sum()
    }
}

fn asked(proxy: &FaultProxy) -> Asked {
    let log = proxy.take_log();
    let mut ranges: Vec<(u64, u64)> = (log.iter())
        .filter(|line| line.starts_with("GET") && line.contains(".xbs"))
        .map(|line| {
            let range = line.split_once("bytes=").unwrap().1;
            let (first, last) = range.split_once('-').unwrap();
            (first.parse().unwrap(), last.parse::<u64>().unwrap() + 1)
        })
        .collect();
    ranges.sort_unstable();
    Asked {
        ranges,
        requests: log.len(),
    }
}

/// `count` files of about `mib` MiB each, and some that are small.
fn tree_of(count: u64, mib: u64) -> Tree {
    let mut tree = files([("empty", &b""[..]), ("xtrabackup_info", b"uuid = 1\n")]);
    for i in 0..count {
        let len = usize::try_from(mib * MIB + i * 1111).unwrap();
        let name = format!("db/t{i:02}.ibd");
        tree.extend(files([(name.as_str(), &noise(len, 100 + i)[..])]));
    }
    for i in 0..300 {
        let name = format!("small/{i}.frm");
        tree.extend(files([(name.as_str(), &noise(900, i)[..])]));
    }
    tree
}

// r[repository.read] r[repository.read.blocks]
#[test]
fn a_whole_restore_fetches_every_part_once() {
    let net = net();
    let tree = tree_of(12, 5);
    for compress in ["none", "zstd"] {
        let archive = archive_of(&tree, compress);
        net.place
            .put(compress, &archive, &["--memory", "32M"])
            .expect(0);
        for (parallel, memory) in [("4", "32M"), ("1", "64M"), ("3", "32M")] {
            net.proxy.take_log();
            let dir = scratch();
            let to = dir.path().join("to");
            let mut args = vec!["--parallel", parallel, "--memory", memory, "--no-sync"];
            args.extend(["--decompress", "-C", to.to_str().unwrap()]);
            let at = net.place.at(compress);
            args.push(&at);
            net.place.run("restore", &args).expect(0);
            assert_same(&read_tree(&to), &tree);
            let asked = asked(&net.proxy);
            let len = archive.len() as u64;
            let what = format!("{compress} {parallel}: {:?} of {len}", asked.ranges);
            assert!(asked.bytes() <= len + len / 50, "{what}");
            let mut parts = asked.ranges.clone();
            parts.retain(|(begin, end)| end - begin == PART_LEN && begin % PART_LEN == 0);
            assert_eq!(parts.len() as u64, len / PART_LEN, "{what}");
            parts.dedup();
            assert_eq!(parts.len() as u64, len / PART_LEN, "{what}");
        }
    }
}

/// A real server answers other things than one that is made for tests.
// r[repository.read.blocks]
#[test]
fn ceph_is_asked_for_every_part_once() {
    let ceph = Ceph::shared();
    ceph.make_bucket("ranges");
    let proxy = FaultProxy::start(&ceph.address());
    let place = Place::s3(&proxy.url(), "ranges", "r");
    let tree = tree_of(4, 5);
    let archive = archive_of(&tree, "none");
    place.put("a", &archive, &["--memory", "32M"]).expect(0);
    let listed = place.run("ls", &["--json", &place.url]).expect(0);
    let manifest: serde_json::Value = serde_json::from_str(listed.text()).unwrap();
    assert_ne!(manifest["segments"][0]["etag"], "");
    proxy.take_log();
    let dir = scratch();
    let to = dir.path().join("to");
    let args = [
        "--memory",
        "32M",
        "-C",
        to.to_str().unwrap(),
        &place.at("a"),
    ];
    place.run("restore", &args).expect(0);
    assert_same(&read_tree(&to), &tree);
    let asked = asked(&proxy);
    let len = archive.len() as u64;
    assert!(
        asked.bytes() <= len + len / 50,
        "{:?} of {len}",
        asked.ranges
    );
}

// r[repository.read.blocks]
#[test]
fn some_files_cost_little_more_than_they_are_long() {
    let net = net();
    let mut tree = tree_of(20, 9);
    let table = noise(10 << 20, 7);
    tree.extend(files([("db/t11a.ibd", &table[..])]));
    let archive = archive_of(&tree, "none");
    net.place.put("a", &archive, &[]).expect(0);
    let at = net.place.at("a");
    let dir = scratch();
    let to = dir.path().join("to");
    let to = to.to_str().unwrap();
    let extract = |paths: &[&str]| {
        net.proxy.take_log();
        let args = [&["-C", to, &at], paths].concat();
        net.place.run("extract", &args).expect(0);
        asked(&net.proxy)
    };
    let found = extract(&["db/t11a.ibd"]);
    let len = table.len() as u64;
    assert!(found.bytes() <= len + len / 10, "{:?}", found.ranges);
    let expected = files([("db/t11a.ibd", &table[..])]);
    assert_same(&read_tree(Path::new(to)), &expected);
    // The bucket, the manifest, the index, the file.
    let found = extract(&["xtrabackup_info"]);
    assert!(found.requests <= 8, "{} requests", found.requests);
    assert!(found.bytes() <= 256 << 10, "{:?}", found.ranges);
    for (verb, path) in [
        ("list", None),
        ("cat", Some("xtrabackup_info")),
        ("verify", Some("xtrabackup_info")),
        ("list", Some("db")),
    ] {
        net.proxy.take_log();
        let mut args = vec![at.as_str()];
        args.extend(path);
        net.place.run(verb, &args).expect(0);
        let found = asked(&net.proxy);
        assert!(found.requests <= 8, "{verb}: {} requests", found.requests);
        assert!(found.bytes() <= 256 << 10, "{verb}: {:?}", found.ranges);
    }
}

/// Nothing that a wire does to a range reaches anybody, though ranges that are not whole parts have no checksum of their own.
// r[repository.read.checked]
#[test]
fn ranges_of_some_files_that_were_damaged_on_their_way_are_fetched_again() {
    let net = net();
    let mut tree = tree_of(4, 9);
    let table = noise(11 << 20, 7);
    let short = noise(70_000, 8);
    tree.extend(files([
        ("db/t01a.ibd", &table[..]),
        ("db/short.ibd", &short[..]),
    ]));
    let archive = archive_of(&tree, "none");
    net.place.put("a", &archive, &[]).expect(0);
    let at = net.place.at("a");
    let wanted = [("db/t01a.ibd", &table), ("db/short.ibd", &short)];
    for (name, content) in wanted {
        net.proxy.take_log();
        net.place.run("cat", &[at.as_str(), name]).expect(0);
        let undamaged = asked(&net.proxy).ranges;
        for (n, (begin, end)) in undamaged.iter().enumerate() {
            for place in [0, 40, (end - begin) / 2, end - begin - 1] {
                // Of the end of the archive only the trailer is looked at.
                if *end == archive.len() as u64 && begin + place != end - 1 {
                    continue;
                }
                let range = format!("bytes={begin}-{}", end - 1);
                net.proxy.on("GET", &range, 0, 1, Action::Flip(place));
                let what = format!("byte {place} of range {n} of {name}");
                let done = net.place.run("cat", &[at.as_str(), name]).expect(0);
                assert!(done.out == **content, "{what}");
                assert_eq!(done.err, "", "{what}");
                net.proxy.heal();
                let asked = asked(&net.proxy).ranges;
                // A chunk may lie in two ranges.
                let more = asked.len() - undamaged.len();
                assert!((1..=2).contains(&more), "{what}: {asked:?}");
            }
        }
        // Who stays damaged is told.
        let (begin, end) = undamaged[1];
        let middle = Action::Flip((end - begin) / 2);
        let range = format!("bytes={begin}-{}", end - 1);
        net.proxy.on("GET", &range, 0, usize::MAX, middle);
        let dir = scratch();
        let to = dir.path().join("to");
        let args = ["-C", to.to_str().unwrap(), at.as_str(), name];
        let done = net.place.run("extract", &args).expect(4);
        assert!(done.err.contains(name), "{}", done.err);
        assert!(!to.join(name).exists());
        net.proxy.heal();
        let asked = asked(&net.proxy).ranges;
        assert_eq!(asked.iter().filter(|range| range.0 == begin).count(), 3);
    }
}

/// What is wrong in a file is nothing that the store could give once more, and stays an error however often it is asked.
#[test]
fn damage_from_before_the_archive_was_made_is_no_damage_on_the_way() {
    let net = net();
    let text: Vec<u8> = (0..1_500_000)
        .flat_map(|i| format!("{i:07}\n").into_bytes())
        .collect();
    let tree = files([
        ("db/t.ibd", &text[..]),
        ("db/u.ibd", &noise(5 << 20, 3)[..]),
    ]);
    let dir = scratch();
    let packed = dir.path().join("packed");
    let archive = archive_of(&tree, "zstd");
    let mut unpack = crate::tool::xbpipe(["extract", "--no-sync", "-C"]);
    unpack.arg(&packed);
    crate::tool::run(unpack, &archive).expect(0);
    let good = read_tree(&packed);
    for (n, part) in [20, 2, 1].into_iter().enumerate() {
        let mut bad = good.clone();
        for name in ["db/t.ibd.zst", "db/u.ibd.zst"] {
            let Some(Node::File(bytes)) = bad.get_mut(name.as_bytes()) else {
                panic!("no {name}");
            };
            let at = (bytes.len() - 1) / part;
            bytes[at] ^= 0x20;
        }
        let archive = archive_of(&bad, "none");
        let place = n.to_string();
        net.place.put(&place, &archive, &[]).expect(0);
        let at = net.place.at(&place);
        for (memory, parallel) in [("64M", "1"), ("64M", "4"), ("256M", "2")] {
            let to = dir.path().join(format!("{n}-{memory}-{parallel}"));
            let mut args = vec!["--decompress", "--keep-going", "--memory", memory];
            args.extend(["--parallel", parallel, "-C", to.to_str().unwrap()]);
            args.extend([at.as_str(), "db/t.ibd", "db/u.ibd"]);
            let done = net.place.run("extract", &args).expect(4);
            for name in ["db/t.ibd", "db/u.ibd"] {
                assert!(!to.join(name).exists(), "{name}: {}", done.err);
                assert!(done.err.contains(name), "{name}: {}", done.err);
            }
        }
        let args = ["--decompress", at.as_str(), "db/t.ibd"];
        net.place.run("cat", &args).expect(4);
    }
}

/// A part that stays damaged spoils the files that have the damage, and no others.
// r[repository.read.checked]
#[test]
fn files_beside_the_damage_of_a_part_are_saved() {
    let net = net();
    let tree = tree_of(6, 5);
    let archive = archive_of(&tree, "none");
    net.place.put("a", &archive, &["--memory", "32M"]).expect(0);
    let range = format!("bytes={}-", PART_LEN);
    net.proxy
        .on("GET", &range, 0, usize::MAX, Action::Flip(PART_LEN / 2));
    let dir = scratch();
    let to = dir.path().join("to");
    let at = net.place.at("a");
    let args = [
        "--keep-going",
        "--memory",
        "32M",
        "-C",
        to.to_str().unwrap(),
        &at,
    ];
    let done = net.place.run("extract", &args).expect(4);
    let saved = read_tree(&to);
    let whole = tree
        .iter()
        .filter(|(name, node)| saved.get(*name) == Some(*node));
    assert_eq!(whole.count(), tree.len() - 1, "{}", done.err);
    assert!(done.err.contains("have CRC-32"), "{}", done.err);
}

#[test]
fn a_restore_that_was_killed_goes_on_with_what_is_missing() {
    let net = net();
    let tree = tree_of(12, 4);
    let archive = archive_of(&tree, "none");
    net.place.put("a", &archive, &[]).expect(0);
    let at = net.place.at("a");
    let dir = scratch();
    let to = dir.path().join("to");
    let args = ["--no-sync", "-C", to.to_str().unwrap()];
    let slow = ["--rate-limit", "12M", "--memory", "32M", at.as_str()];
    let mut command = net.place.command("restore", &[&args[..], &slow].concat());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let there = || {
        let tables = (0..12).filter(|i| to.join(format!("db/t{i:02}.ibd")).exists());
        tables.count() as u64
    };
    while there() < 4 {
        assert!(child.try_wait().unwrap().is_none(), "it was too quick");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    finish(child);
    let kept = there();
    assert!(kept < 12, "nothing is missing");
    net.proxy.take_log();
    let args = [&args[..], &["--resume", &at]].concat();
    net.place.run("restore", &args).expect(0);
    assert_same(&read_tree(&to), &tree);
    let asked = asked(&net.proxy);
    let missing = archive.len() as u64 - kept * 4 * MIB;
    assert!(
        asked.bytes() <= missing + missing / 10,
        "{kept} of 12 were there, {:?}",
        asked.ranges
    );
}

/// A range that does not come holds up the files in it, and no others.
#[test]
fn one_late_range_delays_only_its_files() {
    let net = net();
    let tree = tree_of(12, 5);
    let archive = archive_of(&tree, "none");
    net.place.put("a", &archive, &["--memory", "32M"]).expect(0);
    // The second part, however often it is asked for.
    let range = format!("bytes={PART_LEN}-");
    net.proxy
        .on("GET", &range, 0, usize::MAX, Action::Stall(1 << 20));
    net.proxy.on(
        "GET",
        &format!("bytes={}-", PART_LEN + MIB),
        0,
        usize::MAX,
        Action::Stall(0),
    );
    let dir = scratch();
    let to = dir.path().join("to");
    let at = net.place.at("a");
    let mut args = vec!["--memory", "64M", "--parallel", "2", "--no-sync"];
    args.extend(["-C", to.to_str().unwrap(), &at]);
    let mut command = net.place.command("restore", &args);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let is_there = |i: u64| to.join(format!("db/t{i:02}.ibd")).exists();
    // 5 MiB each, two of them side by side: what is from 8 to 16 MiB is of the first five.
    while !(5..12).all(is_there) {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!(0..5).all(is_there), "the range was not late");
    net.proxy.heal();
    finish(child).expect(0);
    assert_same(&read_tree(&to), &tree);
}

/// A gibibyte through a store and back in the memory that was given.
#[test]
fn memory_stays_what_was_given_both_ways() {
    let server = LocalS3::start();
    let place = Place::s3(&format!("http://{}", server.address()), BUCKET, "m");
    let dir = scratch();
    let source = dir.path().join("source");
    write_tree(&source, &tree_of(4, 16));
    // Zeros cost nothing here, and are as long as anything else in the store.
    let zeros = std::fs::File::create(source.join("zeros.ibd")).unwrap();
    zeros.set_len(960 * MIB).unwrap();
    drop(zeros);
    let memory = 64 * MIB;
    let at = place.at("a");
    let mut create = crate::tool::xbpipe(["create", "--progress", "none", "-C"]);
    create.arg(&source).arg(".");
    create.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut creating = create.spawn().unwrap();
    let mut put = place.command("put", &["--memory", "64M", &at]);
    put.stdin(creating.stdout.take().unwrap());
    put.stdout(Stdio::piped()).stderr(Stdio::piped());
    let put = put.spawn().unwrap();
    let watcher = watch(put.id());
    finish(put).expect(0);
    finish(creating).expect(0);
    assert_peak("put", watcher.join().unwrap(), memory);
    for parallel in ["1", "4"] {
        let to = dir.path().join(parallel);
        let mut args = vec!["--memory", "64M", "--parallel", parallel, "--no-sync"];
        args.extend(["-C", to.to_str().unwrap(), &at]);
        let mut command = place.command("restore", &args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let watcher = watch(child.id());
        finish(child).expect(0);
        assert_peak("restore", watcher.join().unwrap(), memory);
        std::fs::remove_file(to.join("zeros.ibd")).unwrap();
        assert_same(&read_tree(&to), &tree_of(4, 16));
    }
}
