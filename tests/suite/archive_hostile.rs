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
            good.clone().prefix(0, b'D', name),
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
        "D /tmp/xbpipe-evil\n",
        "F 0 0 00000000 ../x\n",
    ] {
        let archive = index_of(line, 1, 0);
        let root = scratch();
        let done = attack(root.path(), &archive, &[]).expect(4);
        assert!(done.last_line().contains("index"), "{}", done.err);
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
