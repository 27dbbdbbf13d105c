//! What a run costs and how it ends when something around it does not go on: memory, slow and dead neighbours, full disks,
//! signals.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use xbpipe::pipeline::budget::OVERHEAD_MAX;

use crate::tool::{
    Chunks, Done, files, finish, need, noise, pipe, run, scratch, write_tree, xbpipe,
};

const MIB: u64 = 1 << 20;

/// Peak resident memory so far, in bytes; `None` once the process has ended.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

/// Looks at a process every few milliseconds until it ends; returns the highest peak seen.
pub(crate) fn watch(pid: u32) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut highest = 0;
        while let Some(now) = peak(pid) {
            highest = highest.max(now);
            std::thread::sleep(Duration::from_millis(3));
        }
        highest
    })
}

pub(crate) fn assert_peak(what: &str, found: u64, memory: u64) {
    assert!(found > 0, "{what}: never seen");
    assert!(
        found <= memory + OVERHEAD_MAX,
        "{what}: {} KiB with {} KiB of buffers",
        found / 1024,
        memory / 1024
    );
}

fn spawn(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn create(source: &Path, options: &[&str]) -> Command {
    let mut command = xbpipe(["create", "--progress", "none", "-C"]);
    command.arg(source).args(options).arg(".");
    command
}

fn extract(target: &Path, options: &[&str]) -> Command {
    let mut command = xbpipe(["extract", "--no-sync", "--progress", "none", "-C"]);
    command.arg(target).args(options);
    command
}

/// `create | extract`, both watched.
fn watched_round(
    source: &Path,
    target: &Path,
    creating: &[&str],
    extracting: &[&str],
) -> (u64, u64) {
    let mut one = spawn(create(source, creating));
    let first = watch(one.id());
    let mut second = extract(target, extracting);
    second.stdin(one.stdout.take().unwrap());
    let two = spawn(second);
    let second = watch(two.id());
    finish(two).expect(0);
    finish(one).expect(0);
    (first.join().unwrap(), second.join().unwrap())
}

#[test]
fn a_slow_reader_does_not_make_memory_grow() {
    let root = scratch();
    let source = root.path().join("source");
    let mut tree = files([("a", &noise(150 << 20, 1)[..])]);
    tree.extend(files([("b", &noise(60 << 20, 2)[..])]));
    for i in 0..2000 {
        let name = format!("small/{i}");
        tree.extend(files([(
            name.as_str(),
            &b"0123456789abcdef".repeat(1000)[..],
        )]));
    }
    write_tree(&source, &tree);
    drop(tree);
    for (memory, options) in [
        (8, &["--parallel", "4"][..]),
        (64, &["--parallel", "4"]),
        (16, &["--parallel", "2", "--compress", "zstd:1"]),
    ] {
        let size = format!("{memory}M");
        let mut child = spawn(create(&source, &[options, &["--memory", &size]].concat()));
        let watcher = watch(child.id());
        let mut stdout = child.stdout.take().unwrap();
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        let begun = Instant::now();
        // A megabyte every 40 ms for a while, which leaves time to read the whole source were it not held back.
        while begun.elapsed() < Duration::from_millis(1200) {
            stdout.read_exact(&mut buffer[..100_000]).unwrap();
            total += 100_000;
            std::thread::sleep(Duration::from_millis(4));
        }
        let slow = peak(child.id()).unwrap();
        assert_peak(&format!("slow reader, {options:?}"), slow, memory * MIB);
        loop {
            match stdout.read(&mut buffer).unwrap() {
                0 => break,
                n => total += n,
            }
        }
        assert!(total > 200 << 20);
        finish(child).expect(0);
        assert_peak(
            &format!("then a fast one, {options:?}"),
            watcher.join().unwrap(),
            memory * MIB,
        );
    }
}

#[test]
fn behind_pv_memory_stays_and_head_ends_it() {
    need("pv", "pv");
    let root = scratch();
    let source = root.path().join("source");
    let mut tree = files([("big", &noise(200 << 20, 1)[..])]);
    for i in 0..2000 {
        let name = format!("small/{i}");
        tree.extend(files([(name.as_str(), &noise(16_000, i)[..])]));
    }
    write_tree(&source, &tree);
    drop(tree);
    for (memory, options) in [
        (8, &["--parallel", "4"][..]),
        (16, &["--parallel", "2", "--compress", "zstd:1"]),
    ] {
        let size = format!("{memory}M");
        let mut child = spawn(create(&source, &[options, &["--memory", &size]].concat()));
        let watcher = watch(child.id());
        let mut slow = Command::new("pv");
        slow.args(["--quiet", "--rate-limit", "10M"])
            .stdin(child.stdout.take().unwrap());
        let mut slow = spawn(slow);
        let mut few = Command::new("head");
        few.args(["-c", "25M"]).stdin(slow.stdout.take().unwrap());
        let few = finish(spawn(few)).expect(0);
        assert_eq!(few.out.len(), 25 << 20);
        let done = finish(child).expect(1);
        assert!(
            done.last_line().contains("the reader went away"),
            "{}",
            done.err
        );
        // One sentence, and what to do.
        assert!(done.err.lines().count() <= 2, "{}", done.err);
        slow.wait().unwrap();
        assert_peak("behind pv", watcher.join().unwrap(), memory * MIB);
    }
}

#[test]
fn twenty_thousand_small_files() {
    let root = scratch();
    let source = root.path().join("source");
    for directory in 0..20 {
        let directory = source.join(format!("d{directory}"));
        std::fs::create_dir_all(&directory).unwrap();
        for i in 0..1000u64 {
            std::fs::write(directory.join(format!("table_{i}.ibd")), noise(4096, i)).unwrap();
        }
    }
    for (i, (creating, extracting)) in [
        (&["--memory", "8M"][..], &["--memory", "8M"][..]),
        (
            &["--memory", "16M", "--compress", "zstd"],
            &["--memory", "16M", "--decompress"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let target = root.path().join(format!("target{i}"));
        let (creator, extractor) = watched_round(&source, &target, creating, extracting);
        assert_peak("create of 20 000 files", creator, 16 * MIB);
        assert_peak("extract of 20 000 files", extractor, 16 * MIB);
        for directory in 0..20 {
            let directory = format!("d{directory}");
            let count = std::fs::read_dir(target.join(&directory)).unwrap().count();
            assert_eq!(count, 1000);
            let one = target.join(&directory).join("table_777.ibd");
            assert!(std::fs::read(one).unwrap() == noise(4096, 777));
        }
    }
}

#[test]
fn a_sparse_file_of_twenty_gigabytes() {
    let root = scratch();
    let source = root.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let file = std::fs::File::create(source.join("ibdata1")).unwrap();
    let size = 20 << 30;
    file.set_len(size).unwrap();
    file.write_all_at(b"in the middle", 10 << 30).unwrap();
    let target = root.path().join("target");
    let (creator, extractor) = watched_round(
        &source,
        &target,
        &["--memory", "16M", "--compress", "zstd"],
        &["--memory", "16M", "--decompress"],
    );
    assert_peak("create of a sparse file", creator, 16 * MIB);
    assert_peak("extract of a sparse file", extractor, 16 * MIB);
    let path = target.join("ibdata1");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
    assert!(crate::tool::allocated(&path) < MIB);
    let mut middle = [0; 13];
    std::fs::File::open(&path)
        .unwrap()
        .read_exact_at(&mut middle, 10 << 30)
        .unwrap();
    assert_eq!(&middle, b"in the middle");
    // Every zero is in the archive itself when it is not compressed.
    let mut child = spawn(create(&source, &["--memory", "8M"]));
    let watcher = watch(child.id());
    let mut verify = xbpipe(["verify", "--progress", "none", "--memory", "8M"]);
    verify.stdin(child.stdout.take().unwrap());
    finish(spawn(verify)).expect(0);
    finish(child).expect(0);
    assert_peak(
        "create without compression",
        watcher.join().unwrap(),
        8 * MIB,
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_run_at_once() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &files([("big", &noise(300 << 20, 1)[..])]));
    for options in [
        &[][..],
        &["--compress", "zstd:1"],
        &["--memory", "8M", "--parallel", "1"],
    ] {
        let mut head = Command::new("head");
        head.args(["-c", "1M"]);
        let begun = Instant::now();
        let (one, two) = pipe(create(&source, options), head);
        assert_eq!(two.expect(0).out.len(), 1 << 20);
        let one = one.expect(1);
        assert!(
            one.last_line().contains("the reader went away"),
            "{}",
            one.err
        );
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
    }
    let archive = root.path().join("a.xb");
    run(create(&source, &["--to", archive.to_str().unwrap()]), b"").expect(0);
    let mut cat = xbpipe(["cat"]);
    cat.arg(&archive).arg("big");
    let mut head = Command::new("head");
    head.args(["-c", "1M"]);
    let (cat, _) = pipe(cat, head);
    assert!(cat.expect(1).last_line().contains("the reader went away"));
}

/// Sends a signal once the process has settled; it must end soon and say which signal it was.
fn interrupt(child: Child, signal: Signal, name: &str) {
    std::thread::sleep(Duration::from_millis(400));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
    let begun = Instant::now();
    let done = finish(child).expect(9);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        done.last_line().contains(&format!("interrupted by {name}")),
        "{}",
        done.err
    );
}

/// Starts a program whose standard output nobody reads until it has ended.
fn unread(mut command: Command) -> (Child, std::process::ChildStdout) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    (child, stdout)
}

#[test]
fn signals_end_a_run_that_is_blocked_in_either_direction() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(
        &source,
        &files([("big", &noise(40 << 20, 1)[..]), ("s", b"s")]),
    );
    let archive = run(create(&source, &[]), b"").expect(0).out;
    for (signal, name) in [
        (Signal::TERM, "SIGTERM"),
        (Signal::INT, "SIGINT"),
        (Signal::HUP, "SIGHUP"),
    ] {
        // Nobody reads.
        let (child, stdout) = unread(create(&source, &["--memory", "8M"]));
        interrupt(child, signal, name);
        drop(stdout);
    }
    let (child, stdout) = unread(create(&source, &["--memory", "8M", "--compress", "zstd:1"]));
    interrupt(child, Signal::TERM, "SIGTERM");
    drop(stdout);
    // Nobody writes: nothing at all, the middle of an archive, the middle of a compressed one.
    let mut gzip = Command::new("gzip");
    gzip.args(["-1", "-c"]);
    let gzip = run(gzip, &archive).out;
    for begin in [&b""[..], &archive[..3_000_000], &gzip[..3_000_000]] {
        let target = root.path().join("target");
        let mut command = extract(&target, &["--overwrite"]);
        command.stdin(Stdio::piped());
        let mut child = spawn(command);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(begin).unwrap();
        interrupt(child, Signal::TERM, "SIGTERM");
        drop(stdin);
        assert!(!target.join("big").exists());
    }
    // A FIFO that nobody opens.
    let fifo = root.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    interrupt(
        spawn(create(&source, &["--to", fifo.to_str().unwrap()])),
        Signal::INT,
        "SIGINT",
    );
    // A result that nobody reads: the run is given up by a second signal.
    let mut names = Chunks::new();
    for i in 0..60_000 {
        names = names.file(&format!("a/name/of/some/length/{i}"), b"");
    }
    let path = root.path().join("names.xb");
    std::fs::write(&path, names.0).unwrap();
    let mut list = xbpipe(["list"]);
    list.arg(&path);
    let (child, stdout) = unread(list);
    std::thread::sleep(Duration::from_millis(600));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    interrupt(child, Signal::TERM, "SIGTERM");
    drop(stdout);
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &files([("big", &noise(40 << 20, 1)[..])]));
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" create -C \"$1\" ."]);
    nohup.arg(env!("CARGO_BIN_EXE_xbpipe")).arg(&source);
    let (mut child, mut stdout) = unread(nohup);
    std::thread::sleep(Duration::from_millis(300));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none());
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    finish(child).expect(0);
}

#[test]
fn a_fifo_or_device_is_written_as_it_is() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &files([("big", &noise(3 << 20, 1)[..])]));
    let fifo = root.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let writer = spawn(create(&source, &["--to", fifo.to_str().unwrap()]));
    std::thread::sleep(Duration::from_millis(100));
    let archive = std::fs::read(&fifo).unwrap();
    finish(writer).expect(0);
    run(xbpipe(["verify"]), &archive).expect(0);
    let done = run(create(&source, &["--to", "/dev/full"]), b"").expect(8);
    assert!(
        done.last_line().contains("No space left on device"),
        "{}",
        done.err
    );
    assert!(
        done.err.contains("xbpipe: hint: free space"),
        "{}",
        done.err
    );
    run(
        create(&source, &["--to", root.path().to_str().unwrap()]),
        b"",
    )
    .expect(1);
}

/// A file system of 8 MiB, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "xbpipe-test"])
            .arg(&at)
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|s| s.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing_that_looks_whole() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(
        &source,
        &files([("a", &b"small"[..]), ("big", &noise(20 << 20, 1)[..])]),
    );
    let archive = run(create(&source, &["--parallel", "1"]), b"")
        .expect(0)
        .out;
    let check = |target: &Path, done: &Done| {
        assert!(!target.join("big").exists(), "{}", done.err);
        assert!(target.join("big.xbpipe-partial").exists(), "{}", done.err);
    };
    if let Some(disk) = SmallDisk::mount(root.path().join("disk")) {
        let target = disk.0.join("target");
        let done = run(extract(&target, &[]), &archive).expect(8);
        check(&target, &done);
        assert!(
            done.last_line().contains("big.xbpipe-partial"),
            "{}",
            done.err
        );
        assert_eq!(std::fs::read(target.join("a")).unwrap(), b"small");
        std::fs::remove_dir_all(&target).unwrap();
        let to = disk.0.join("a.xb");
        let done = run(create(&source, &["--to", to.to_str().unwrap()]), b"").expect(8);
        assert!(
            done.last_line().contains("No space left on device"),
            "{}",
            done.err
        );
        assert!(!to.exists() && disk.0.join("a.xb.xbpipe-partial").exists());
        // Very many small ones, until nothing goes in any more.
        std::fs::remove_file(disk.0.join("a.xb.xbpipe-partial")).unwrap();
        let mut many = Chunks::new();
        for i in 0..4000 {
            many = many.file(&format!("f{i}"), &[7; 4096]);
        }
        let target = disk.0.join("many");
        run(extract(&target, &[]), &many.0).expect(8);
        let whole = std::fs::read_dir(&target).unwrap().filter(|entry| {
            let entry = entry.as_ref().unwrap();
            let name = entry.file_name();
            !name.to_string_lossy().ends_with("partial") && entry.metadata().unwrap().len() != 4096
        });
        assert_eq!(whole.count(), 0);
    } else {
        // Without the right to mount: a limit on file sizes stands in for the full disk. It ends the process by a signal.
        let target = root.path().join("target");
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "ulimit -f 8192; exec \"$0\" extract --no-sync -C \"$1\"",
        ]);
        command.arg(env!("CARGO_BIN_EXE_xbpipe")).arg(&target);
        let done = run(command, &archive);
        assert_ne!(done.status, 0);
        check(&target, &done);
    }
}

/// A few bytes that become gigabytes, made by the programs that people use.
// r[bad-input.max-output]
#[test]
fn a_decompression_bomb_ends_at_the_limit() {
    const BOMB: u64 = 1 << 30;
    let root = scratch();
    let zeros = root.path().join("zeros");
    std::fs::File::create(&zeros)
        .unwrap()
        .set_len(BOMB)
        .unwrap();
    let made = |tool: &str, options: &[&str]| {
        let mut command = Command::new(need(tool, tool));
        command.args(options);
        command.stdin(std::fs::File::open(&zeros).unwrap());
        let done = command.output().unwrap();
        assert!(done.status.success());
        done.stdout
    };
    let mut archive = xbpipe(["create", "--compress", "qpress", "-C"]);
    archive.arg(root.path()).arg("zeros");
    let qpress = run(archive, b"").expect(0).out;
    let mut plain = xbpipe(["create", "-C"]);
    plain.arg(root.path()).arg("zeros").stdout(Stdio::piped());
    let mut plain = plain.spawn().unwrap();
    let mut gzip = Command::new(need("gzip", "gzip"));
    gzip.arg("-1").stdin(plain.stdout.take().unwrap());
    let gzip = gzip.output().unwrap().stdout;
    plain.wait().unwrap();
    let member = |name: &str, bytes: &[u8]| Chunks::new().file(name, bytes).0;
    for (name, bomb) in [
        ("zstd", member("zeros.zst", &made("zstd", &["-c", "-1"]))),
        ("lz4", member("zeros.lz4", &made("lz4", &["-c", "-1"]))),
        ("qpress", qpress),
        ("gzip", gzip),
    ] {
        assert!((bomb.len() as u64) < BOMB / 10, "{name}: {}", bomb.len());
        let file = root.path().join("bomb");
        std::fs::write(&file, &bomb).unwrap();
        let target = root.path().join("target");
        let new = root.path().join("new.xb");
        let verbs = [
            vec!["extract", "--no-sync", "-C", target.to_str().unwrap()],
            vec!["verify"],
            vec!["convert", "--to", new.to_str().unwrap()],
            vec!["cat"],
        ];
        for verb in verbs {
            let mut command = xbpipe(&verb);
            command.args(["--decompress", "--max-output", "100M", "--memory", "16M"]);
            command.args(["--progress", "none"]).arg(&file);
            if verb[0] == "cat" {
                command.arg("zeros");
            }
            let child = spawn(command);
            let watcher = watch(child.id());
            let done = finish(child).expect(1);
            assert!(
                done.last_line().contains("--max-output 100 MiB"),
                "{}",
                done.err
            );
            assert_peak(name, watcher.join().unwrap(), 16 * MIB);
            assert!(done.out.len() as u64 <= 100 * MIB);
            assert!(!target.join("zeros").exists() && !new.exists());
            std::fs::remove_dir_all(&target).ok();
            std::fs::remove_file(root.path().join("new.xb.xbpipe-partial")).ok();
        }
    }
    // Exactly as much as is allowed.
    let small = member("a", &[7; 1000]);
    run(xbpipe(["verify", "--max-output", "1000"]), &small).expect(0);
    run(xbpipe(["verify", "--max-output", "999"]), &small).expect(1);
}

/// The window of what is around an archive is bounded by `--memory`, and told.
// r[codec.outer.window]
#[test]
fn an_outer_window_is_as_long_as_memory_allows() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &files([("a", &noise(9 << 20, 1)[..])]));
    let archive = run(create(&source, &[]), b"").expect(0).out;
    for (tool, package, options, memory) in [
        ("zstd", "zstd", &["-19", "-c"][..], 8),
        ("zstd", "zstd", &["--long=26", "-c"], 64),
        ("zstd", "zstd", &["--long=27", "-c"], 128),
        ("xz", "xz-utils", &["-6", "-c"], 8),
        ("xz", "xz-utils", &["-9", "-c"], 64),
    ] {
        let mut command = Command::new(need(tool, package));
        command.args(options);
        let packed = run(command, &archive).expect(0).out;
        let file = root.path().join("packed");
        std::fs::write(&file, &packed).unwrap();
        let mut command = xbpipe(["verify", "--memory", &format!("{memory}M")]);
        command.arg(&file);
        let child = spawn(command);
        let watcher = watch(child.id());
        finish(child).expect(0);
        // What it may take is as much again.
        assert_peak(tool, watcher.join().unwrap(), 2 * memory * MIB);
        if memory > 8 {
            let less = format!("{}M", memory / 2);
            let done = run(xbpipe(["verify", "--memory", &less]), &packed).expect(1);
            assert!(
                done.last_line().contains("around the archive"),
                "{}",
                done.err
            );
            assert!(done.err.contains("use more --memory"), "{}", done.err);
        }
    }
}
