//! Archives made to do harm: nothing leaves the target, nothing that was there is lost, nothing is skipped in silence.

use std::path::Path;

use crate::tool::{
    Chunks, Done, Node, Tree, assert_same, files, index_of, noise, read_tree, run, scratch,
    write_tree, xbpipe,
};

/// Extracts into `root/target` beside `root/victim`; the victim must stay as it was.
fn attack(root: &Path, archive: &[u8], options: &[&str]) -> Done {
    let victim = root.join("victim");
    if !victim.exists() {
        write_tree(&victim, &files([("keep", &b"mine"[..])]));
    }
    let mut command = xbpipe(["extract", "--no-sync", "-C"]);
    command.arg(root.join("target")).args(options);
    let done = run(command, archive);
    assert_same(&read_tree(&victim), &files([("keep", &b"mine"[..])]));
    for entry in std::fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(name == "victim" || name == "target", "{name:?} appeared");
    }
    done
}

/// What follows the path of a sparse chunk that begins its file: bytes to leave out and to write, and those.
fn sparse_body(map: &[(u32, u32)], payload: &[u8]) -> Vec<u8> {
    let map: Vec<u8> = map
        .iter()
        .flat_map(|(skip, len)| [skip.to_le_bytes(), len.to_le_bytes()].concat())
        .collect();
    let crc = crc32fast::hash(&[&map[..], payload].concat());
    let entries = u32::try_from(map.len() / 8).unwrap();
    let mut body = entries.to_le_bytes().to_vec();
    body.extend((payload.len() as u64).to_le_bytes());
    body.extend([0; 8]);
    body.extend(crc.to_le_bytes());
    [&body, &map, payload].concat()
}

#[test]
fn names_that_lead_outside_are_errors_in_every_chunk() {
    for name in [
        &b""[..],
        b"/",
        b"/abs",
        b"//abs",
        b"..",
        b".",
        b"./t1",
        b"../victim/keep",
        b"a/../../victim/keep",
        b"a/..",
        b"a/./b",
        b"a//b",
        b"d/",
        b"ab\0cd",
        b"\0",
    ] {
        let data: &[u8] = b"evil";
        let crc = crc32fast::hash(data);
        let good = Chunks::new().file("good", b"g");
        for archive in [
            good.clone()
                .prefix(0, b'P', name)
                .body(4, 0, crc, data)
                .prefix(0, b'E', name),
            good.clone()
                .prefix(2, b'P', name)
                .body(4, 0, crc, data)
                .prefix(0, b'E', name),
            good.clone().prefix(0, b'E', name),
            good.clone()
                .prefix(0, b'S', name)
                .raw(&[0; 8])
                .prefix(0, b'E', name),
            good.clone()
                .prefix(0, b'S', name)
                .raw(&sparse_body(&[(3, 4)], data))
                .prefix(0, b'E', name),
            good.clone().prefix(0, b'D', name),
            good.clone().prefix(0, b'D', &[name, b"/x*"].concat()),
            good.clone().prefix(0, b'R', name).raw(&[1, 0, 0, 0, b'x']),
            good.clone().rename("good", name),
        ] {
            let root = scratch();
            let done = attack(root.path(), &archive.0, &[]).expect(4);
            assert!(
                done.last_line().contains("forbidden path"),
                "{name:?}: {}",
                done.err
            );
            // What came before is whole and stays.
            assert_same(
                &read_tree(&root.path().join("target")),
                &files([("good", &b"g"[..])]),
            );
        }
    }
}

#[test]
fn our_own_index_cannot_lead_outside_either() {
    for line in [
        "D ../victim/new\n",
        "D a/../../victim/new\n",
        "D %2E%2E/victim/new\n",
        "D /abs\n",
        "D a//b\n",
        "D a%00b\n",
        "D .\n",
        "F 0 0 00000000 ../x\n",
        "F 0 0 00000000 /abs\n",
    ] {
        let archive = index_of(line, 1, 0);
        let root = scratch();
        let done = attack(root.path(), &archive, &[]).expect(4);
        assert!(done.last_line().contains("index"), "{}", done.err);
        // By the index first, and then, since it is not to be believed, as a whole.
        let dir = scratch();
        let path = dir.path().join("a.xb");
        std::fs::write(&path, &archive).unwrap();
        for options in [&["new"][..], &["*"], &["--keep-going"], &["--resume"]] {
            let mut all = vec![path.to_str().unwrap()];
            all.extend(options);
            all.sort_by_key(|option| !option.starts_with('-'));
            let done = attack(root.path(), b"", &all);
            assert!(matches!(done.status, 2 | 4), "{options:?}: {}", done.err);
        }
        assert_eq!(read_tree(&root.path().join("target")), Tree::new());
    }
}

#[test]
fn links_in_the_target_are_not_followed() {
    for (link, to, member) in [
        ("target/d", "../victim", "d/keep"),
        ("target/d", "../victim", "d/new"),
        ("target/f", "../victim/keep", "f"),
        ("target/f", "../victim/new", "f"),
        ("target/d/e", "../../victim", "d/e/new"),
    ] {
        for options in [&[][..], &["--overwrite"]] {
            for size in [4, 200_000] {
                let root = scratch();
                let link = root.path().join(link);
                std::fs::create_dir_all(link.parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(to, &link).unwrap();
                let archive = Chunks::new().file(member, &noise(size, 1)).0;
                let done = attack(root.path(), &archive, options);
                // With --overwrite a link that has a file's name is replaced, as a file would be.
                let replaced = member == "f" && !options.is_empty();
                done.expect(i32::from(!replaced));
                assert_eq!(link.is_symlink(), !replaced);
            }
        }
    }
    // Renames and removes go through links as little as files do.
    for archive in [
        Chunks::new().prefix(0, b'D', b"d/keep"),
        Chunks::new().prefix(0, b'D', b"d/k*"),
        Chunks::new().prefix(0, b'D', b"d"),
        Chunks::new().file("x", b"1").rename("x", b"d/new"),
        Chunks::new().rename("d/keep", b"stolen"),
    ] {
        let root = scratch();
        std::fs::create_dir_all(root.path().join("target")).unwrap();
        std::os::unix::fs::symlink("../victim", root.path().join("target/d")).unwrap();
        attack(root.path(), &archive.0, &["--overwrite"]);
        assert!(!root.path().join("target/stolen").exists());
    }
}

#[test]
fn what_was_there_before_is_not_the_archives_to_change() {
    let before = files([("db/old", &b"mine"[..]), ("other", b"too")]);
    for (archive, status) in [
        (Chunks::new().prefix(0, b'D', b"db"), 1),
        (Chunks::new().prefix(0, b'D', b"db/o*"), 1),
        (Chunks::new().rename("other", b"moved"), 0),
        (Chunks::new().file("x", b"1").rename("x", b"other"), 1),
        (
            Chunks::new()
                .prefix(2, b'P', b"other")
                .body(1, 0, crc32fast::hash(b"1"), b"1")
                .end("other"),
            1,
        ),
        (Chunks::new().file("other", b"1"), 1),
        (Chunks::new().file("db", b"1"), 1),
        (Chunks::new().file("other/below", b"1"), 1),
    ] {
        let root = scratch();
        let target = root.path().join("target");
        write_tree(&target, &before);
        attack(root.path(), &archive.0, &[]).expect(status);
        let mut found = read_tree(&target);
        found.remove(&b"x"[..]);
        assert_same(&found, &before);
    }
}

#[test]
fn claimed_lengths_cost_nothing() {
    for (len, offset, word) in [
        (1u64 << 63, 0u64, "too long"),
        (u64::MAX, 0, "too long"),
        (i64::MAX as u64, 0, "input ends"),
        (5 << 30, 0, "input ends"),
        (4, u64::MAX, ""),
        (4, 1 << 62, ""),
    ] {
        let root = scratch();
        let archive = Chunks::new()
            .prefix(0, b'P', b"f")
            .body(len, offset, 0, b"four")
            .0;
        let done = attack(root.path(), &archive, &["--memory", "8M"]);
        assert!(matches!(done.status, 3 | 4), "{}", done.err);
        assert!(done.last_line().contains(word), "{}", done.err);
    }
    for len in [512u32, 600, u32::MAX] {
        let root = scratch();
        let archive = [&b"XBSTCK01\0P"[..], &len.to_le_bytes(), &[b'a'; 700]].concat();
        attack(root.path(), &archive, &[]).expect(4);
    }
    // A sparse map that claims 2^32 entries, and one whose lengths wrap around.
    let sparse = |entries: u32, len: u64, map: &[u8]| {
        Chunks::new()
            .prefix(0, b'S', b"f")
            .raw(&entries.to_le_bytes())
            .body(len, 0, 0, map)
            .0
    };
    for archive in [
        sparse(u32::MAX, 8, &[0; 64]),
        sparse(
            2,
            6,
            &[[0xff; 4], [0xff; 4], [0xff; 4], [7, 0, 0, 0]].concat(),
        ),
    ] {
        let root = scratch();
        assert!(matches!(attack(root.path(), &archive, &[]).status, 3 | 4));
    }
}

// r[xbstream.index.chunk-len]
#[test]
fn the_index_claims_no_memory_and_counts_only_when_it_is_right() {
    let root = scratch();
    let long = ["xbpipe-archive 2\n", &"x".repeat(2 << 20)].concat();
    let archive = Chunks::new().file("xbpipe_index", long.as_bytes());
    let done = attack(root.path(), &archive.0, &[]).expect(4);
    assert!(done.last_line().contains("too long"), "{}", done.err);
    // The directory is in a chunk with a wrong checksum: it is not made.
    let root = scratch();
    let good = index_of("D made\n", 1, 0);
    let mut bad = good.clone();
    let crc = 14 + "xbpipe_index".len() + 16;
    bad[crc] ^= 1;
    attack(root.path(), &bad, &[]).expect(4);
    assert_eq!(read_tree(&root.path().join("target")), Tree::new());
    attack(root.path(), &good, &[]).expect(0);
    assert!(root.path().join("target/made").is_dir());
}

#[test]
fn compressed_members_cannot_claim_memory_either() {
    let root = scratch();
    // A frame header that asks for a window of 2 GiB.
    let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8][..], &[1, 0, 0]].concat();
    let archive = Chunks::new().file("f.zst", &frame).0;
    let done = attack(root.path(), &archive, &["--decompress"]).expect(4);
    assert!(done.last_line().contains("f.zst"), "{}", done.err);
    // 1 GiB of zeros in a few kilobytes is a hole in the end, and right.
    let mut zeros = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    zeros = zeros.repeat(16);
    let root = scratch();
    let archive = Chunks::new().file("f.zst", &zeros).0;
    attack(root.path(), &archive, &["--decompress", "--memory", "8M"]).expect(0);
    let path = root.path().join("target/f");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 30);
    assert!(crate::tool::allocated(&path) < 1 << 20);
}

#[test]
fn names_that_collide_are_errors() {
    for archive in [
        Chunks::new().file("a", b"1").file("a/b", b"2"),
        Chunks::new().file("a/b", b"2").file("a", b"1"),
        Chunks::new()
            .file("a", &noise(100_000, 1))
            .file("a.xbpipe-partial", b"2"),
        Chunks::new().file("a", b"1").file("a", b"2"),
    ] {
        let root = scratch();
        let done = attack(root.path(), &archive.0, &["--parallel", "1"]);
        assert!(matches!(done.status, 1 | 4), "{}", done.err);
    }
    // The plain and the compressed name are one when both are decompressed.
    let frame = zstd::bulk::compress(b"2", 1).unwrap();
    let root = scratch();
    let archive = Chunks::new().file("a", b"1").file("a.zst", &frame).0;
    attack(root.path(), &archive, &["--decompress", "--parallel", "1"]).expect(1);
}

#[test]
fn many_open_files_are_bounded() {
    let root = scratch();
    let mut archive = Chunks::new();
    for i in 0..70_000 {
        archive = archive.payload(&format!("f{i}"), 0, b"x");
    }
    let done = attack(root.path(), &archive.0, &["--memory", "8M"]).expect(4);
    assert!(
        done.last_line().contains("too many open files"),
        "{}",
        done.err
    );
    assert_eq!(read_tree(&root.path().join("target")), Tree::new());
}

#[test]
fn a_patch_is_taken_literally() {
    let data = noise(300_000, 4);
    for size in [100, 20_000, 300_000] {
        let root = scratch();
        let zeros = vec![0; 150_000];
        let archive = Chunks::new()
            .payload("f", 0, &data[..size])
            .seek("f", 10)
            .payload("f", 10, &zeros)
            .seek("f", 4)
            .payload("f", 4, b"abc")
            .end("f")
            .0;
        attack(root.path(), &archive, &[]).expect(0);
        let mut expected = data[..size].to_vec();
        expected.resize(size.max(150_010), 0);
        expected[10..150_010].fill(0);
        expected[4..7].copy_from_slice(b"abc");
        let tree = read_tree(&root.path().join("target"));
        assert!(tree[&b"f"[..]] == Node::File(expected), "{size}");
    }
}

/// Every byte that a name can have, alone and among others.
#[test]
fn names_of_every_byte() {
    let mut tree = Tree::new();
    for byte in 1..=255_u8 {
        if byte == b'/' {
            continue;
        }
        if byte != b'.' {
            tree.insert(vec![byte], Node::File(vec![byte]));
        }
        let inside = [&b"in/a"[..], &[byte], b"z"].concat();
        tree.insert(inside, Node::File(vec![byte; 2]));
        tree.insert(
            [&b"dir"[..], &[byte], b"/x"].concat(),
            Node::File(Vec::new()),
        );
    }
    let source = scratch();
    write_tree(source.path(), &tree);
    let mut command = xbpipe(["create", "-C"]);
    command.arg(source.path()).arg(".");
    let ours = run(command, b"").expect(0).out;
    let theirs = crate::tool::index_free(&ours);
    let dir = scratch();
    let file = dir.path().join("a.xb");
    std::fs::write(&file, &ours).unwrap();
    for (archive, source) in [
        (&ours, "-"),
        (&theirs, "-"),
        (&Vec::new(), file.to_str().unwrap()),
    ] {
        let root = scratch();
        attack(root.path(), archive, &[source]).expect(0);
        assert_same(&read_tree(&root.path().join("target")), &tree);
        // No terminal obeys a name, and no line is broken by one.
        for args in [&["list", source][..], &["list", "--long", source]] {
            let listed = run(xbpipe(args), archive).expect(0);
            let text = String::from_utf8_lossy(&listed.out);
            let lines = text.lines().count();
            assert!((tree.len()..=tree.len() + 1).contains(&lines), "{text}");
            let bad = |c: char| c.is_control() && c != '\n';
            assert!(!text.contains(bad), "{text:?}");
        }
        let listed = run(xbpipe(["list", "--json", source]), archive).expect(0);
        let mut files = 0;
        for line in listed.text().lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            files += usize::from(value["type"] == "file");
        }
        assert_eq!(files, tree.len());
    }
    // One that is damaged tells them all on standard error.
    for name in tree.keys() {
        let root = scratch();
        let archive = Chunks::new().prefix(0, b'P', name).body(1, 0, 7, b"x");
        let done = attack(root.path(), &archive.0, &["-v"]).expect(4);
        let bad = |c: char| c.is_control() && c != '\n';
        assert!(!done.err.contains(bad), "{:?}", done.err);
    }
}

/// A neighbour who may write in the target changes a directory of it into a link and back, all the time.
#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::sync::atomic::{AtomicBool, Ordering};
    let root = scratch();
    let (target, victim) = (root.path().join("target"), root.path().join("victim"));
    let kept = files([("keep", &b"mine"[..]), ("sub/keep", b"too")]);
    write_tree(&victim, &kept);
    let mut archive = Chunks::new();
    for i in 0..200 {
        let small = format!("d/f{i}");
        let large = format!("d/sub/l{i}");
        archive = archive
            .file(&small, b"evil")
            .file(&large, &noise(40_000, 1))
            .rename(&small, format!("d/sub/r{i}").as_bytes())
            .prefix(0, b'D', b"d/keep")
            .prefix(0, b'D', b"d/sub/k*");
        if i % 20 == 19 {
            archive = archive.prefix(0, b'D', b"d/sub").prefix(0, b'D', b"d");
        }
    }
    let done = AtomicBool::new(false);
    let mut swaps = 0_u64;
    let mut stopped = 0;
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let (real, link) = (target.join("d"), target.join("l"));
            let mut swaps = 0_u64;
            while !done.load(Ordering::Relaxed) {
                std::fs::create_dir_all(target.join("d/sub")).ok();
                if !link.is_symlink() && !real.is_symlink() {
                    std::os::unix::fs::symlink(&victim, &link).ok();
                }
                for _ in 0..50 {
                    let swapped = renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE);
                    swaps += u64::from(swapped.is_ok());
                }
            }
            swaps
        });
        for round in 0..40 {
            let mut command = xbpipe(["extract", "--no-sync", "--overwrite", "-C"]);
            command.arg(&target);
            command.args(["--parallel", if round % 2 == 0 { "1" } else { "3" }]);
            stopped += u32::from(run(command, &archive.0).status != 0);
            assert_same(&read_tree(&victim), &kept);
        }
        done.store(true, Ordering::Relaxed);
        swaps = swapper.join().unwrap();
    });
    // There was a race, and it was lost often enough to be worth something.
    assert!(swaps > 1000 && stopped > 0, "{swaps} {stopped}");
    assert_same(&read_tree(&victim), &kept);
    let mut names: Vec<_> = std::fs::read_dir(root.path()).unwrap().collect();
    assert_eq!(names.drain(..).count(), 2);
}

/// Every length and position of every chunk, and those of the formats inside members, with values that no file can have.
#[test]
fn claims_in_every_field_cost_nothing_and_are_refused() {
    let file = |name: &str| Chunks::new().file(name, b"content");
    let base = [
        file("p"),
        Chunks::new()
            .prefix(0, b'S', b"s")
            .raw(&sparse_body(&[(3, 4)], b"data"))
            .end("s"),
        Chunks::new().seek("k", 3).payload("k", 3, b"x").end("k"),
        file("r").rename("r", b"r2"),
    ];
    let claims: [u64; 6] = [
        1 << 63,
        (1 << 63) - 1,
        u64::MAX,
        1 << 62,
        0xffff_ffff,
        0x8000_0000,
    ];
    let mut cases = Vec::new();
    for archive in &base {
        let mut at = 0;
        for chunk in crate::tool::split_chunks(&archive.0) {
            for (field, len) in crate::tool::chunk_fields(&chunk) {
                let is_number =
                    field.ends_with("_len") || matches!(field, "file_offset" | "entries");
                for claim in claims.iter().filter(|_| is_number) {
                    let mut bytes = archive.0.clone();
                    bytes[at..at + len].copy_from_slice(&claim.to_le_bytes()[..len]);
                    cases.push((format!("{field} = {claim:#x}"), bytes));
                }
                if field == "map" {
                    for i in 0..2 {
                        let mut bytes = archive.0.clone();
                        bytes[at + 4 * i..at + 4 * i + 4].fill(0xff);
                        cases.push((format!("map entry {i}"), bytes));
                    }
                }
                at += len;
            }
        }
    }
    // Inside members: fields of a compressed or encrypted file, at these positions.
    let zstd = zstd::bulk::compress(&[7; 3000], 1).unwrap();
    let mut qpress = b"qpress10".to_vec();
    qpress.extend((1_u64 << 16).to_le_bytes());
    qpress.extend(b"F\x01\0\0\0t\0NEWBNEWB");
    let xbcrypt = [&b"XBCRYP03"[..], &[0; 60]].concat();
    let lz4 = b"\x04\x22\x4d\x18\x4c\x40".to_vec();
    for (name, bytes, at) in [
        ("t.zst", &zstd, &[5_usize, 6][..]),
        ("t.qp", &qpress, &[8, 17]),
        ("t.xbcrypt", &xbcrypt, &[16, 24, 36]),
        ("t.lz4", &lz4, &[6]),
    ] {
        for (at, claim) in at.iter().flat_map(|at| claims.map(|claim| (*at, claim))) {
            let mut member = bytes.clone();
            member.resize(member.len().max(at + 64), 0);
            member[at..at + 8].copy_from_slice(&claim.to_le_bytes());
            let archive = Chunks::new().file(name, &member);
            cases.push((format!("{name}, {claim:#x} at {at}"), archive.0));
        }
    }
    // Lines of the index.
    for claim in claims {
        for lines in [
            format!("C 0 {claim}+1\nF 0 1 00000000 f\n"),
            format!("C 0 1+{claim}\nF 0 {claim} 00000000 f\n"),
            format!("C 0 1+{claim},{claim}+{claim}\nF 0 1 00000000 f\n"),
            format!("C {claim} 1+1\nF 0 {claim} 00000000 f\n"),
            format!("Z 0 {claim}+{claim}\nF 0 1 00000000 f\n"),
        ] {
            cases.push((lines.clone(), index_of(&lines, 1, claim)));
        }
        cases.push((format!("END {claim}"), index_of("", claim, claim)));
        let mut moved = index_of("D d\n", 1, 0);
        let trailer = moved.windows(8).position(|w| w == b"TRAILER ").unwrap();
        moved[trailer + 8..trailer + 24].copy_from_slice(format!("{claim:016x}").as_bytes());
        cases.push((format!("TRAILER {claim:x}"), moved));
    }
    let key = scratch();
    let key_file = key.path().join("key");
    std::fs::write(&key_file, [b'k'; 32]).unwrap();
    let archive_file = key.path().join("a.xb");
    for (what, bytes) in &cases {
        std::fs::write(&archive_file, bytes).unwrap();
        for source in [&[][..], &["--keep-going"], &["f"]] {
            let root = scratch();
            let mut options = vec!["--memory", "8M", "--decompress", "--decrypt-key-file"];
            options.push(key_file.to_str().unwrap());
            if !source.is_empty() {
                options.extend(source.iter().filter(|o| o.starts_with('-')));
                options.push(archive_file.to_str().unwrap());
                options.extend(source.iter().filter(|o| !o.starts_with('-')));
            }
            let done = attack(
                root.path(),
                if source.is_empty() { bytes } else { b"" },
                &options,
            );
            assert!(
                matches!(done.status, 1 | 3 | 4),
                "{what}: {source:?}: {} {}",
                done.status,
                done.err
            );
            assert!(!done.err.contains("panicked"), "{what}: {}", done.err);
        }
    }
}

/// What many names cost is written down in `bad-input.md`.
// r[bad-input.many-files]
#[test]
fn a_million_tiny_files() {
    use crate::archive_limits::watch;
    use std::io::Write as _;
    use std::process::Stdio;
    use xbpipe::pipeline::budget::OVERHEAD_MAX;
    const MIB: u64 = 1 << 20;
    let stream = |count: u32, out: &mut dyn std::io::Write| {
        for i in 0..count {
            let (d, name) = (i / 1000, format!("d{}/t{i}", i / 1000));
            let archive = if i % 2 == 0 {
                Chunks::new().file(&name, &d.to_le_bytes())
            } else {
                Chunks::new().end(&name)
            };
            if out.write_all(&archive.0).is_err() {
                return;
            }
        }
    };
    let root = scratch();
    let target = root.path().join("t");
    let target = target.to_str().unwrap();
    for (count, args) in [
        (1_000_000_u32, &["verify"][..]),
        (100_000, &["extract", "--no-sync", "-C", target]),
    ] {
        let mut command = xbpipe(args);
        command.args(["--memory", "8M", "--progress", "none"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let watcher = watch(child.id());
        let mut stdin = std::io::BufWriter::new(child.stdin.take().unwrap());
        let feeder = std::thread::spawn(move || {
            stream(count, &mut stdin);
            stdin.flush().ok();
        });
        crate::tool::finish(child).expect(0);
        feeder.join().unwrap();
        let peak = watcher.join().unwrap();
        let bound = 8 * MIB + OVERHEAD_MAX + 100 * u64::from(count);
        assert!(peak <= bound, "{args:?}: {peak} > {bound}");
    }
    let files: usize = (0..100)
        .map(|d| {
            std::fs::read_dir(root.path().join(format!("t/d{d}")))
                .unwrap()
                .count()
        })
        .sum();
    assert_eq!(files, 100_000);
}

#[test]
fn deep_directories_and_long_names() {
    // 511 bytes of path are 256 levels.
    let deep = vec!["a"; 256].join("/");
    let long = "n".repeat(255);
    let tree = files([
        (deep.as_str(), &b"deep"[..]),
        (long.as_str(), b"long"),
        (&format!("{long}/x")[1..], b"below"),
    ]);
    let mut archive = Chunks::new();
    for (name, node) in &tree {
        let Node::File(content) = node else { continue };
        archive = archive.file(std::str::from_utf8(name).unwrap(), content);
    }
    let removed = archive.clone().prefix(0, b'D', b"a");
    let root = scratch();
    attack(root.path(), &archive.0, &[]).expect(0);
    assert_same(&read_tree(&root.path().join("target")), &tree);
    let root = scratch();
    attack(root.path(), &removed.0, &[]).expect(0);
    let found = read_tree(&root.path().join("target"));
    assert_eq!(found.len(), 2);
    // No file system has this one.
    let root = scratch();
    let archive = Chunks::new().file(&"n".repeat(256), b"x");
    let done = attack(root.path(), &archive.0, &[]).expect(1);
    assert!(done.last_line().contains("too long"), "{}", done.err);
}

#[test]
fn chains_and_circles_of_renames() {
    let mut archive = Chunks::new().file("f0", b"content");
    for i in 0..3000 {
        archive = archive.rename(&format!("f{i}"), format!("f{}", i + 1).as_bytes());
    }
    let archive = archive
        .file("b", b"other")
        .rename("f3000", b"c")
        .rename("b", b"f3000")
        .rename("c", b"b")
        // To itself; and to where it came from, over what is there by now.
        .rename("b", b"b")
        .file("f0", b"new")
        .rename("b", b"f0");
    let root = scratch();
    attack(root.path(), &archive.0, &[]).expect(0);
    let expected = files([("f0", &b"content"[..]), ("f3000", b"other")]);
    assert_same(&read_tree(&root.path().join("target")), &expected);
    // A file is no directory, not even for itself.
    for archive in [
        Chunks::new().file("a", b"1").rename("a", b"a/b"),
        Chunks::new().file("a/b", b"1").rename("a/b", b"a"),
        Chunks::new()
            .file("a", b"1")
            .file("d/x", b"2")
            .rename("a", b"d"),
    ] {
        let root = scratch();
        let done = attack(root.path(), &archive.0, &[]).expect(1);
        assert!(done.last_line().contains("error"), "{}", done.err);
    }
}
