//! The command lines with which other programs call `xbstream` and `mbstream`, and what they expect.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use xbpipe::compat::FRONT_ENDS;

use crate::cli_contract::table;
use crate::tool::{
    Chunks, assert_same, files, finish, need, noise, pipe, read_tree, run, scratch, split_chunks,
    write_tree, xbpipe,
};
use crate::vec_file::{files_below, root, text};

fn xbstream() -> Command {
    let mut command = xbpipe::<&str>([]);
    command.arg0("/usr/bin/xbstream");
    command.env_remove("UMASK").env_remove("UMASK_DIR");
    command
}

#[test]
fn option_tables_are_those_of_the_pages() {
    let mut pages = Vec::new();
    for path in files_below(&root().join("format-spec"), ".md") {
        let document = path.file_name().unwrap().to_str().unwrap().to_owned();
        for line in text(&path).lines() {
            if let Some(name) = line.strip_prefix("options: ") {
                pages.push((document.clone(), name.to_owned()));
            }
        }
    }
    let mut code: Vec<_> = FRONT_ENDS
        .iter()
        .map(|f| (f.document.to_owned(), f.name.to_owned()))
        .collect();
    pages.sort();
    code.sort();
    assert_eq!(pages, code);
    for front_end in FRONT_ENDS {
        let code: Vec<Vec<String>> = (front_end.rows)()
            .into_iter()
            .map(|r| {
                vec![
                    r.option,
                    r.short,
                    r.value,
                    r.status.to_owned(),
                    r.meaning.to_owned(),
                ]
            })
            .collect();
        let page: Vec<Vec<String>> =
            table(front_end.document, &format!("options: {}", front_end.name))
                .into_iter()
                .map(|row| row.iter().map(|c| c.trim_matches('`').to_owned()).collect())
                .collect();
        assert_eq!(page, code, "{}", front_end.name);
        let mut names: Vec<_> = code.iter().flat_map(|row| [&row[0], &row[1]]).collect();
        names.retain(|name| *name != "-");
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(
            names.len(),
            count,
            "{}: a name stands twice",
            front_end.name
        );
    }
}

/// r[compat-xbstream.silent] r[compat-xbstream.directory]
#[test]
fn callers_get_their_files_and_no_word() {
    let tree = files([
        ("ibdata1", &noise(300_000, 1)[..]),
        ("db/t.ibd", &[1; 50_000]),
        ("xtrabackup_info", b"i"),
    ]);
    let source = scratch();
    write_tree(source.path(), &tree);
    let mut create = xbstream();
    create
        .args(["-c", "ibdata1", "db/t.ibd", "xtrabackup_info"])
        .current_dir(source.path());
    let stream = run(create, b"").expect(0).out;
    // Vitess, PMM, the operators, the SST scripts, MyHoard, bitpoke, hosted databases.
    for (args, names) in [
        ("-C D -xv", true),
        ("-xv -C D --parallel=4", true),
        ("-x --directory=D --parallel=10 restore", false),
        ("restore -x --directory=D --parallel=10", false),
        ("--extract --directory=D", false),
        ("-x -C D --parallel=2 --decompress", false),
        ("--decompress -x -C D", false),
        ("-x -v -C D", true),
        ("-x --parallel=2 -C D", false),
        (
            "--directory D --extract --decompress --decompress-threads 2 --parallel 2 --verbose",
            true,
        ),
    ] {
        let cwd = scratch();
        std::fs::create_dir(cwd.path().join("D")).unwrap();
        let mut command = xbstream();
        command.args(args.split(' ')).current_dir(cwd.path());
        let done = run(command, &stream).expect(0);
        assert!(done.out.is_empty(), "{args}");
        let expected = if names {
            "ibdata1\ndb/t.ibd\nxtrabackup_info\n"
        } else {
            ""
        };
        assert_eq!(done.err, expected, "{args}");
        assert_same(&read_tree(&cwd.path().join("D")), &tree);
    }
    // mbstream would extract into the root directory for the empty name: a variable that is not set.
    for (name, missing) in [("xbstream", "D"), ("mbstream", "D/E"), ("mbstream", "")] {
        let cwd = scratch();
        let mut command = xbpipe(["-x", "-C", missing]);
        command.arg0(name).current_dir(cwd.path());
        run(command, &stream).expect(1);
        assert!(read_tree(cwd.path()).is_empty());
    }
    // The SST joiner and `cd D; xbstream -x < s`.
    for name in ["xbstream", "mbstream"] {
        let cwd = scratch();
        let mut command = xbpipe(["-x"]);
        command.arg0(name).current_dir(cwd.path());
        assert_eq!(run(command, &stream).expect(0).err, "");
        assert_same(&read_tree(cwd.path()), &tree);
    }
    // `xbstream -C A -c sst_info | xbstream -x -C B`
    let (from, to) = (scratch(), scratch());
    write_tree(from.path(), &files([("sst_info", &b"[sst]\n"[..])]));
    let mut first = xbstream();
    first.arg("-C").arg(from.path()).args(["-c", "sst_info"]);
    let mut second = xbstream();
    second.args(["-x", "-C"]).arg(to.path());
    let (one, two) = pipe(first, second);
    assert_eq!(
        (one.expect(0).err, two.expect(0).err),
        (String::new(), String::new())
    );
    assert_same(&read_tree(to.path()), &read_tree(from.path()));
}

/// r[compat-xbstream.extract.lone]
#[test]
fn one_object_of_a_store_gives_its_file_in_silence() {
    let extract = |chunks: &Chunks| {
        let cwd = scratch();
        let mut command = xbstream();
        command.args(["-x", "--decompress"]).current_dir(cwd.path());
        let done = run(command, &chunks.0);
        (done.status, done.err, read_tree(cwd.path()))
    };
    let packed = zstd::bulk::compress(b"binlog.000001\t4\t\n", 1).unwrap();
    for (name, content, file, plain) in [
        (
            "xtrabackup_info",
            &b"a = b\n"[..],
            "xtrabackup_info",
            &b"a = b\n"[..],
        ),
        ("sst_info", b"[sst]\n", "sst_info", b"[sst]\n"),
        (
            "xtrabackup_binlog_info.zst",
            &packed,
            "xtrabackup_binlog_info",
            b"binlog.000001\t4\t\n",
        ),
    ] {
        let (status, err, tree) = extract(&Chunks::new().payload(name, 0, content));
        assert_eq!((status, err.as_str()), (0, ""), "{name}");
        assert_same(&tree, &files([(file, plain)]));
    }
    let lone = || Chunks::new().payload("xtrabackup_info", 0, b"x");
    for (what, chunks) in [
        ("another name", Chunks::new().payload("ibdata1", 0, b"x")),
        (
            "a longer name",
            Chunks::new().payload("xtrabackup_information", 0, b"x"),
        ),
        (
            "more of the file",
            lone().payload("xtrabackup_info", 1, b"y"),
        ),
        ("another file", lone().file("t1", b"y")),
        (
            "not its beginning",
            Chunks::new().payload("xtrabackup_info", 5, b"y"),
        ),
        ("cut", lone().cut(1)),
        ("a seek", Chunks::new().seek("xtrabackup_info", 0)),
        (
            "a whole chunk",
            Chunks::new().payload("xtrabackup_info", 0, &vec![0; 10_485_760]),
        ),
    ] {
        let (status, err, tree) = extract(&chunks);
        assert_eq!(status, 1, "{what}: {err}");
        assert!(!tree.contains_key(&b"xtrabackup_info"[..]), "{what}");
    }
}

/// r[compat-xbstream.extract.whole]
#[test]
fn a_cut_is_never_a_success() {
    let stream = Chunks::new()
        .file("a", b"first")
        .payload("b", 0, b"second")
        .payload("b", 6, b"more")
        .end("b")
        .0;
    let ends: Vec<usize> = split_chunks(&stream)
        .iter()
        .scan(0, |at, chunk| {
            *at += chunk.len();
            Some(*at)
        })
        .collect();
    for len in 0..=stream.len() {
        let cwd = scratch();
        let mut command = xbstream();
        command.arg("-x").current_dir(cwd.path());
        let done = run(command, &stream[..len]);
        // A stream of other programs does not say where it ends: behind an `E` it may.
        let whole = len == ends[1] || len == stream.len();
        assert_eq!(done.status, i32::from(!whole), "{len}: {}", done.err);
        assert_eq!(done.err.is_empty(), whole);
    }
    // With our index every cut is one.
    let source = scratch();
    write_tree(source.path(), &files([("a", &b"1"[..]), ("b", b"2")]));
    let mut create = xbpipe(["create", "-q", "."]);
    create.current_dir(source.path());
    let ours = run(create, b"").expect(0).out;
    for (len, status) in (0..ours.len()).map(|len| (len, 1)).chain([(ours.len(), 0)]) {
        let cwd = scratch();
        let mut command = xbstream();
        command.arg("-x").current_dir(cwd.path());
        let done = run(command, &ours[..len]).expect(status);
        if status == 0 {
            assert_eq!(done.err, "");
            assert_same(&read_tree(cwd.path()), &read_tree(source.path()));
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_a_failure() {
    let root = scratch();
    write_tree(root.path(), &files([("large", &vec![1; 30_000_000][..])]));
    let mut command = xbstream();
    command.args(["-c", "large"]).current_dir(root.path());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = finish(child).expect(1);
    assert!(
        done.last_line().starts_with("xbstream: error: "),
        "{}",
        done.err
    );
}

#[test]
fn versions_have_the_shape_that_callers_look_for() {
    let ask = |name: &str, option: &str| {
        let mut command = xbpipe([option]);
        command.arg0(name);
        let done = run(command, b"").expect(0);
        assert_eq!(done.err, "");
        done.text().lines().next().unwrap().to_owned()
    };
    for option in ["--version", "-V", "--help", "-?"] {
        let line = ask("xbstream", option);
        assert!(line.starts_with("xbstream  Ver "), "{line}");
        assert!(
            line.contains(" for Linux (") && line.contains("(revision id: "),
            "{line}"
        );
    }
    assert!(ask("mbstream", "--help").starts_with("mbstream  Ver 1.0 for "));
}

#[test]
fn links_and_as_lead_to_the_same_program() {
    let root = scratch();
    let bin = root.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for _ in 0..2 {
        run(
            {
                let mut command = xbpipe(["links"]);
                command.arg(&bin);
                command
            },
            b"",
        )
        .expect(0);
    }
    for front_end in FRONT_ENDS {
        let help = run(
            {
                let mut command = Command::new(bin.join(front_end.name));
                command.arg("--help");
                command
            },
            b"",
        )
        .expect(0);
        let other = run(xbpipe(["as", front_end.name, "--help"]), b"").expect(0);
        assert_eq!(help.text(), other.text());
        for row in (front_end.rows)() {
            assert!(help.text().contains(&row.option), "{}", row.option);
        }
    }
    std::fs::remove_file(bin.join("mbstream")).unwrap();
    std::fs::write(bin.join("mbstream"), b"the real one").unwrap();
    let mut command = xbpipe(["links"]);
    command.arg(&bin);
    run(command, b"").expect(1);
    assert_eq!(
        std::fs::read(bin.join("mbstream")).unwrap(),
        b"the real one"
    );
    let done = run(xbpipe(["as", "tar"]), b"").expect(2);
    assert!(
        done.err.contains("xbstream, mbstream, xbcrypt, xbcloud"),
        "{}",
        done.err
    );
}

fn make_fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// r[compat-xbstream.fifo.names] r[compat-xbstream.fifo.wait] r[compat-xbstream.fifo.control] r[compat-xbstream.fifo.empty]
#[test]
fn streams_come_through_fifos() {
    let root = scratch();
    let (fifos, target) = (root.path().join("fifos"), root.path().join("target"));
    std::fs::create_dir(&fifos).unwrap();
    std::fs::create_dir(&target).unwrap();
    let mut command = xbstream();
    command
        .args(["-x", "--fifo-streams=4", "--parallel=2", "--fifo-dir"])
        .arg(&fifos)
        .arg("-C")
        .arg(&target);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let large = noise(5_000_000, 3);
    let parts = [
        Chunks::new().raw(b"\x01").file("a", &large).file("b", b"b"),
        // Without the byte that says ready.
        Chunks::new().file("c/d", &large),
        Chunks::new().raw(b"\x01"),
        Chunks::new().raw(b"\x01").file("e", b""),
    ];
    let writers: Vec<_> = parts
        .into_iter()
        .enumerate()
        .map(|(i, part)| {
            let path = fifos.join(format!("thread_{i}"));
            make_fifo(&path);
            std::thread::spawn(move || {
                let mut fifo = std::fs::File::options().write(true).open(path).unwrap();
                fifo.write_all(&part.0).unwrap();
            })
        })
        .collect();
    let done = finish(child).expect(0);
    assert_eq!(done.err, "");
    for writer in writers {
        writer.join().unwrap();
    }
    let expected = files([("a", &large[..]), ("b", b"b"), ("c/d", &large), ("e", b"")]);
    assert_same(&read_tree(&target), &expected);
    assert!(read_tree(&fifos).is_empty());
}

#[test]
fn a_fifo_that_fails_fails_the_run() {
    let extract = |parts: &[Option<Chunks>]| {
        let root = scratch();
        let (fifos, target) = (root.path().join("fifos"), root.path().join("target"));
        std::fs::create_dir(&fifos).unwrap();
        std::fs::create_dir(&target).unwrap();
        let mut command = xbstream();
        command
            .args(["-x", "--fifo-streams=2", "--fifo-timeout=1", "--fifo-dir"])
            .arg(&fifos)
            .arg("-C")
            .arg(&target);
        let mut writers = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let path = fifos.join(format!("thread_{i}"));
            make_fifo(&path);
            if let Some(part) = part.clone() {
                writers.push(std::thread::spawn(move || {
                    let mut fifo = std::fs::File::options().write(true).open(path).unwrap();
                    // The reader may have had enough.
                    fifo.write_all(&part.0).ok();
                }));
            }
        }
        let done = run(command, b"");
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(done.status, 1, "{}", done.err);
        done.last_line().to_owned()
    };
    let good = || Some(Chunks::new().raw(b"\x01").file("a", b"a"));
    let cut = Some(
        Chunks::new()
            .raw(b"\x01")
            .file("b", &[1; 60_000])
            .cut(40_000),
    );
    for (parts, said) in [
        (
            vec![good(), None],
            "nobody has begun to write to the FIFO within 1 s",
        ),
        (vec![good()], "nobody has made the FIFO within 1 s"),
        (
            vec![good(), cut],
            "input ends inside payload chunk of \"b\"",
        ),
        (
            vec![good(), Some(Chunks::new())],
            "the writer went away from the FIFO",
        ),
        (
            vec![
                Some(Chunks::new().raw(b"\x01")),
                Some(Chunks::new().raw(b"\x01")),
            ],
            "it is empty",
        ),
    ] {
        let line = extract(&parts);
        assert!(line.contains(said), "{line}");
    }
}

/// A remedy is of use only where its options exist: every failure of every front end that comes with one.
#[test]
fn hints_name_only_options_of_that_program() {
    let root = scratch();
    let dir = root.path();
    write_tree(
        dir,
        &files([("t1", &b"here already"[..]), ("key", b"0123456789abcdef")]),
    );
    let archive = Chunks::new().file("t1", b"hello").0;
    let wide = {
        // A window that no old name has memory for.
        let mut zstd = Command::new(need("zstd", "zstd"));
        zstd.args(["-q", "-c", "--long=27", "--no-content-size"]);
        let long = noise(1 << 20, 3).repeat(130);
        let packed = run(zstd, &long).expect(0).out;
        Chunks::new().file("w.zst", &packed).0
    };
    let cases: [(&str, &[&str], &[u8], &str); 7] = [
        (
            "mbstream",
            &["-x"],
            &archive,
            "choose an empty target directory",
        ),
        (
            "xbstream",
            &["-x"],
            &archive,
            "choose an empty target directory",
        ),
        ("xbstream", &["-x", "--decompress"], &wide, "memory"),
        (
            "xbstream",
            &["-x", "--decrypt=AES128"],
            &archive,
            "--encrypt-key-file",
        ),
        (
            "xbcrypt",
            &["-f", "key", "-o", "t1"],
            b"x",
            "remove that file first",
        ),
        ("xbcrypt", &["-a", "AES128"], b"x", "--encrypt-key-file"),
        ("xbcloud", &["put", "x"], &archive, "--s3-bucket"),
    ];
    for (name, args, input, expected) in cases {
        let front_end = FRONT_ENDS.iter().find(|f| f.name == name).unwrap();
        let mut command = xbpipe::<&str>([]);
        command.arg0(name).args(args).current_dir(dir);
        command.env_clear();
        let done = run(command, input).expect(1);
        let hint = (done.err.lines())
            .find_map(|line| line.strip_prefix(&format!("{name}: hint: ")))
            .unwrap_or_else(|| panic!("{name} {args:?}: {}", done.err));
        assert!(hint.contains(expected), "{name} {args:?}: {hint}");
        let rows = (front_end.rows)();
        for word in hint.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
            let known = !word.starts_with("--") || rows.iter().any(|row| row.option == word);
            assert!(known, "{name} has no {word}: {hint}");
        }
        assert!(!hint.contains("archive first"), "{hint}");
    }
}
