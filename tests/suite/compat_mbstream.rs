//! `mbstream` against the real one: the same command line, input and directory for both, and the outcomes compared.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::tool::{Chunks, Done, Tree, files, need, read_tree, run, scratch, write_tree, xbpipe};

/// Ours under that name.
fn ours() -> Command {
    let mut command = xbpipe::<&str>([]);
    command.arg0("mbstream");
    command
}

/// MariaDB's.
fn real() -> Command {
    let mut command = Command::new(need("mbstream", "mariadb-backup"));
    command.arg0("mbstream");
    command
}

/// How ours compares with the real one.
#[derive(Debug, Clone, Copy)]
enum As {
    /// Status, standard output, standard error but for time stamps, and the tree are equal.
    Same,
    /// Standard error has other words: these of the real one, these of ours. The rest is equal.
    Words(&'static str, &'static str),
    /// A deliberate difference of `compat-xbstream.md`: the real one's status and words; then our status and words, and the
    /// files of ours afterwards.
    Differs(
        (i32, &'static str),
        (i32, &'static str),
        &'static [&'static str],
    ),
}

use As::{Differs, Same, Words};

/// What both find in their directory.
fn before() -> Tree {
    files([
        ("a", &b"hello"[..]),
        ("sub/b", b"x"),
        ("sub/empty", b""),
        (".hidden", b"h"),
        ("data", &[7; 70_000][..]),
    ])
}

/// Names of [`before`].
const BEFORE: &[&str] = &[".hidden", "a", "data", "sub/b", "sub/empty"];

/// Runs both and compares; `input` is on standard input.
fn compare(args: &str, input: &[u8], how: As) {
    compare_in(&before(), args, input, how);
}

fn compare_in(before: &Tree, args: &str, input: &[u8], how: As) {
    let outcome = |mut command: Command| -> (Done, Tree) {
        let root = scratch();
        write_tree(root.path(), before);
        command
            .args(args.split_whitespace())
            .current_dir(root.path());
        // Messages of the C library come in the user's language.
        command
            .env("LC_ALL", "C")
            .env_remove("UMASK")
            .env_remove("UMASK_DIR");
        let done = run(command, input);
        (done, read_tree(root.path()))
    };
    let (theirs, their_tree) = outcome(real());
    let (mine, my_tree) = outcome(ours());
    let what = format!("mbstream {args}\nreal: {}ours: {}", theirs.err, mine.err);
    if let Differs((status, words), (my_status, my_words), names) = how {
        assert_eq!((theirs.status, mine.status), (status, my_status), "{what}");
        assert!(
            theirs.err.contains(words) && mine.err.contains(my_words),
            "{what}"
        );
        let found: Vec<_> = my_tree.keys().map(|n| String::from_utf8_lossy(n)).collect();
        assert_eq!(found, names, "{what}");
        return;
    }
    assert_eq!(theirs.status, mine.status, "{what}");
    assert!(theirs.out == mine.out, "{what}");
    assert!(their_tree == my_tree, "{what}");
    match how {
        Words(theirs_has, mine_has) => {
            assert!(
                theirs.err.contains(theirs_has) && mine.err.contains(mine_has),
                "{what}"
            );
        }
        _ => assert_eq!(unstamped(&theirs.err), unstamped(&mine.err), "{what}"),
    }
}

/// Without `[00] YYYY-MM-DD hh:mm:ss ` at the begin of lines.
fn unstamped(text: &str) -> Vec<&str> {
    let line = |line| match str::strip_prefix(line, "[00] ") {
        Some(rest) => rest.get(20..).unwrap_or(line),
        None => line,
    };
    text.lines().map(line).collect()
}

/// Nothing that [`before`] has.
fn stream() -> Vec<u8> {
    Chunks::new()
        .file("t1", b"one")
        .file("d/t2", b"two")
        .end("nil")
        .0
}

/// r[compat-options.status] r[compat-options.no-files] r[compat-xbstream.one-mode]
#[test]
fn options_are_taken_and_refused_alike() {
    for (args, how) in [
        ("", Same),
        ("-c", Same),
        (
            "-x -c",
            Words(
                "can't set specify both -c and -x",
                "-c and -x exclude each other",
            ),
        ),
        ("--version", Same),
        ("-q -x", Same),
        ("-xvq", Same),
        ("--extract=1", Same),
        ("--extract=0", Same),
        ("--skip-extract", Same),
        ("-x -p", Same),
        ("-x --directory", Same),
        ("--no-defaults -x", Same),
        ("--defaults-file=/dev/null -x", Same),
        ("--skip-foo -x", Same),
        ("--maximum-foo=2 -x", Same),
        ("--decompress -x", Same),
        ("-p x -x", Same),
        ("-x --parallel=1.5", Same),
        ("-x --parallel=3Q", Same),
        ("-x -p=2", Same),
        ("-x -v1", Same),
        ("--p", Same),
        (
            "-C nowhere -x",
            Words("Can't change dir to 'nowhere'", "cannot stat \"nowhere\""),
        ),
        (
            "-C a -x",
            Words("Can't change dir to 'a'", "not a directory: \"a\""),
        ),
    ] {
        compare(args, b"", how);
    }
    for args in [
        "-x",
        "-x -v",
        "-xv",
        "-vx stray words",
        "-x -p2",
        "-xp 2",
        "--par=2 -x",
        "--ex",
        "--PARALLEL=2k -x",
        "--parallel=0 -x",
        "--parallel=-1 -x",
        "--parallel= -x",
        "-x --skip-parallel",
        "--loose-foo -x",
        "--loose-foo=3 -x",
        "--loose-parallel=3 -x",
        "--loose-verb -x",
        "-x --verbose=on",
        "-x --verbose=TRUE",
        "-x --verbose=yes",
        "-v -x --verbose=0",
        "-x --disable-verbose=0",
        "-x --enable-verbose",
        "-x --skip-verb",
        "-xC sub",
        "-Csub -x",
        "-C sub -xv",
        "--directory=sub --extract",
        "--dir sub -x",
        "-x -- -c",
        "-x -",
    ] {
        compare(args, &stream(), Same);
    }
}

/// r[compat-xbstream.create.plain] r[compat-xbstream.create.regular] r[compat-xbstream.create.names]
#[test]
fn streams_are_written_alike() {
    for args in [
        "-c a",
        "-c a sub/b data sub/empty",
        "-cv sub/empty a",
        "-c -p 4 a data",
        "-C sub -c b empty",
        "a -c -- data",
        "-c .hidden",
        "--crea a",
    ] {
        compare(args, b"", Same);
    }
    for (args, how) in [
        (
            "-c missing",
            Words("Can't get stat of 'missing'", "cannot stat \"./missing\""),
        ),
        (
            "-c -",
            Words("Can't get stat of '-'", "cannot stat \"./-\""),
        ),
        (
            "-c -- -x",
            Words("Can't get stat of '-x'", "cannot stat \"./-x\""),
        ),
        (
            "-c sub",
            Words("is not a regular file", "not a regular file: \"./sub\""),
        ),
        // Ours has written nothing by then, and makes other names of these.
        (
            "-c a missing",
            Differs((1, "Can't get stat"), (1, "cannot stat"), BEFORE),
        ),
        (
            "-c a a",
            Differs((0, ""), (1, "two files would have the same name"), BEFORE),
        ),
        ("-c ./a", Differs((0, ""), (0, ""), BEFORE)),
        (
            "-c sub/../a",
            Differs(
                (0, ""),
                (0, "removing leading 'sub/..' from member names"),
                BEFORE,
            ),
        ),
        (
            "-c /etc/passwd",
            Differs(
                (0, ""),
                (0, "removing leading '/' from member names"),
                BEFORE,
            ),
        ),
    ] {
        compare(args, b"", how);
    }
    // Long files make chunks of the same length.
    let large = files([("large", &[1; 26_000_000][..])]);
    compare_in(&large, "-c large", b"", Same);
}

/// r[compat-xbstream.extract.exists] r[compat-xbstream.extract.rearrange] r[compat-xbstream.extract.whole]
#[test]
fn streams_are_extracted_alike_except_where_the_page_says_so() {
    let good = || Chunks::new().file("t1", b"one");
    let same: &[Chunks] = &[
        good().file("t2", b"").file("d/t3", &[1; 100_000]),
        good().rename("t1", b"t2"),
        good().prefix(0, b'D', b"t1"),
        good().prefix(0, b'D', b"nowhere"),
        good().file("e/t", b"1").prefix(0, b'D', b"e"),
        good()
            .prefix(2, b'P', b"t1")
            .body(2, 0, crc32fast::hash(b"ok"), b"ok")
            .end("t1"),
        good().seek("s", 3).payload("s", 3, b"x").end("s"),
        good()
            .payload("xtrabackup_info", 0, b"info")
            .end("xtrabackup_info"),
    ];
    for chunks in same {
        compare("-x", &chunks.0, Same);
    }
    let damaged: &[(Chunks, &str, &str)] = &[
        (
            Chunks::new().raw(b"garbage garbage"),
            "wrong chunk magic",
            "wrong chunk magic",
        ),
        (
            good().raw(b"\0"),
            "unexpected end of stream",
            "wrong chunk magic",
        ),
        (
            good().prefix(0, b'X', b"t2"),
            "unknown chunk type",
            "unknown chunk type",
        ),
        (
            Chunks::new().raw(b"XBST"),
            "unexpected end of stream",
            "input ends",
        ),
    ];
    for (chunks, theirs, mine) in damaged {
        compare("-x", &chunks.0, Words(theirs, mine));
    }
    let with = |names: &[&'static str]| -> &'static [&'static str] {
        let mut all = [BEFORE, names].concat();
        all.sort_unstable();
        all.leak()
    };
    let partial = "t2.xbpipe-partial";
    let rows: Vec<(Chunks, As)> = vec![
        (Chunks::new(), Differs((0, ""), (1, "it is empty"), BEFORE)),
        (
            good().payload("t2", 0, &[2; 100_000]),
            Differs(
                (0, ""),
                (1, "it ends before all of its files do"),
                with(&["t1", partial]),
            ),
        ),
        (
            good().payload("t2", 0, &[2; 100_000]).end("t2").cut(200),
            Differs(
                (1, "my_read() failed"),
                (1, "input ends inside payload chunk of \"t2\""),
                with(&["t1", partial]),
            ),
        ),
        (
            good().prefix(0, b'P', b"t2").body(2, 0, 1, b"xx").end("t2"),
            Differs(
                (1, "invalid checksum"),
                (1, "invalid checksum"),
                with(&["t1"]),
            ),
        ),
        (
            good()
                .payload("t2", 0, b"x")
                .payload("t2", 5, b"y")
                .end("t2"),
            Differs(
                (1, "out-of-order chunk"),
                (1, "out-of-order chunk (gap)"),
                with(&["t1"]),
            ),
        ),
        (
            good().end("t1"),
            Differs(
                (0, "File exists"),
                (1, "chunk after the end of its file"),
                with(&["t1"]),
            ),
        ),
        (
            Chunks::new().file("a", b"new"),
            Differs((0, "File exists"), (1, "\"./a\""), BEFORE),
        ),
        (
            Chunks::new()
                .prefix(2, b'P', b"a")
                .body(2, 0, crc32fast::hash(b"ok"), b"ok")
                .end("a"),
            Differs((0, ""), (1, "\"./a\""), BEFORE),
        ),
        (
            Chunks::new().file("x/y/z", b"deep"),
            Differs((0, "Can't create directory"), (0, ""), with(&["x/y/z"])),
        ),
        (
            Chunks::new().file(".new", b"dot"),
            Differs((0, "invalid filename"), (0, ""), with(&[".new"])),
        ),
        (
            good().prefix(0, b'E', b"/abs"),
            Differs(
                (0, "invalid filename"),
                (1, "forbidden path"),
                with(&["t1"]),
            ),
        ),
        (
            good().prefix(0, b'E', b"../up"),
            Differs(
                (0, "invalid filename"),
                (1, "forbidden path"),
                with(&["t1"]),
            ),
        ),
    ];
    for (chunks, how) in rows {
        compare("-x", &chunks.0, how);
    }
}

/// r[compat-xbstream.extract.modes]
#[test]
fn modes_follow_umask_and_environment_alike() {
    let modes = |program: &str, file: &Path, umask: &str, env: &[(&str, &str)]| -> Vec<u32> {
        let root = scratch();
        let mut command = Command::new("bash");
        command
            .arg("-c")
            .arg(format!("umask {umask}; exec -a \"$1\" \"$0\" -x"))
            .arg(file)
            .arg(program)
            .current_dir(root.path())
            .env_remove("UMASK")
            .env_remove("UMASK_DIR")
            .envs(env.iter().copied());
        run(command, &stream()).expect(0);
        ["t1", "d", "d/t2", "nil"]
            .map(|name| {
                let meta = std::fs::metadata(root.path().join(name)).unwrap();
                meta.permissions().mode() & 0o7777
            })
            .to_vec()
    };
    let real = need("mbstream", "mariadb-backup");
    let ours = Path::new(env!("CARGO_BIN_EXE_xbpipe"));
    for umask in ["0", "022", "077", "027"] {
        for env in [
            &[][..],
            &[("UMASK", "0600")],
            &[("UMASK", "0644"), ("UMASK_DIR", "0755")],
            &[("UMASK", "420"), ("UMASK_DIR", "493")],
            &[("UMASK", "0007"), ("UMASK_DIR", "07")],
            &[("UMASK", "x"), ("UMASK_DIR", " 0711")],
        ] {
            assert_eq!(
                modes("mbstream", ours, umask, env),
                modes("mbstream", &real, umask, env),
                "umask {umask} {env:?}"
            );
        }
    }
    assert_eq!(
        modes("xbstream", ours, "0", &[]),
        [0o640, 0o750, 0o640, 0o640]
    );
    assert_eq!(
        modes("xbstream", ours, "077", &[]),
        [0o600, 0o700, 0o600, 0o600]
    );
    let env = [("UMASK", "0664"), ("UMASK_DIR", "0770")];
    assert_eq!(
        modes("xbstream", ours, "0", &env),
        [0o664, 0o770, 0o664, 0o664]
    );
}

/// r[compat-xbstream.verbose]
#[test]
fn the_stamp_of_names_is_that_of_the_real_one() {
    for mut command in [real(), ours()] {
        let root = scratch();
        command.arg("-xv").current_dir(root.path());
        let done = run(command, &stream()).expect(0);
        let line = done.err.lines().next().unwrap();
        let shape: String = line
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        assert_eq!(shape, "[00] 0000-00-00 00:00:00 t0");
    }
}
