//! Runs `xbpipe backup` against test servers, stops its reader at a chosen place, restores and compares.
use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::server::{TestServer, run};

/// How long a backup may take to get from one step to the next.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) fn xbpipe() -> Command {
    Command::new(env!("CARGO_BIN_EXE_xbpipe"))
}

/// `xbpipe backup` of `server` with the least memory, so that little is under way when the reader stops.
pub(crate) fn backup(server: &TestServer) -> Command {
    let mut command = xbpipe();
    command
        .args(["backup", "--no-defaults", "--user=root", "--memory=8M"])
        .args(["--no-sync", "--progress=plain"])
        .arg(format!("--socket={}", server.socket().display()))
        .stdin(Stdio::null());
    command
}

/// What a finished process said on standard error.
pub(crate) fn story(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Insists on an exit status and on parts of the last story; returns the story.
pub(crate) fn fails(output: &Output, status: i32, parts: &[&str]) -> String {
    let story = story(output);
    assert_eq!(output.status.code(), Some(status), "{story}");
    for part in parts {
        assert!(story.contains(part), "no {part:?} in: {story}");
    }
    assert!(!story.contains("panicked"), "{story}");
    story
}

/// Backs up into `name` in the server's scratch directory.
pub(crate) fn backup_to_dir(server: &TestServer, name: &str) -> PathBuf {
    let target = server.scratch().join(name);
    run(backup(server).arg("--to").arg(&target));
    target
}

/// A backup to a pipe whose reader can stop.
pub(crate) struct Streamed {
    child: Child,
    pipe: ChildStdout,
    stream: Vec<u8>,
    said: Arc<Mutex<Vec<u8>>>,
    listener: JoinHandle<()>,
}

impl Streamed {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pipe = child.stdout.take().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(Vec::new()));
        let listener = {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in stderr.split(b'\n').map_while(Result::ok) {
                    let mut said = said.lock().unwrap();
                    said.extend_from_slice(&line);
                    said.push(b'\n');
                }
            })
        };
        Self {
            child,
            pipe,
            stream: Vec::new(),
            said,
            listener,
        }
    }

    /// Whether it has said these words.
    pub(crate) fn has_said(&self, words: &str) -> bool {
        contains(&self.said.lock().unwrap(), words.as_bytes())
    }

    /// Waits, without reading, until it says these words.
    pub(crate) fn rest_until_said(&self, words: &str) {
        let begin = Instant::now();
        while !self.has_said(words) {
            assert!(begin.elapsed() < PATIENCE, "it does not say {words:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Reads, slowly, until it says these words. Most of its buffers still wait for the reader then.
    pub(crate) fn read_until_said(&mut self, words: &str) {
        while !self.has_said(words) {
            assert!(self.read_some() > 0, "the stream ended before {words:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads until the file `name` begins in the stream.
    pub(crate) fn read_until(&mut self, name: &str) {
        let head = head(name);
        loop {
            let begin = self.stream.len().saturating_sub(head.len());
            assert!(self.read_some() > 0, "the stream ended before {name:?}");
            if contains(&self.stream[begin..], &head) {
                return;
            }
        }
    }

    /// Whether the file `name` began in the stream so far.
    pub(crate) fn has(&self, name: &str) -> bool {
        contains(&self.stream, &head(name))
    }

    fn read_some(&mut self) -> usize {
        let mut buf = [0; 16 << 10];
        let n = self.pipe.read(&mut buf).unwrap();
        self.stream.extend_from_slice(&buf[..n]);
        n
    }

    /// Reads the rest, however the backup ends.
    pub(crate) fn end(mut self) -> (Output, Vec<u8>) {
        self.pipe.read_to_end(&mut self.stream).unwrap();
        let status = self.child.wait().unwrap();
        self.listener.join().unwrap();
        let output = Output {
            status,
            stdout: Vec::new(),
            stderr: self.said.lock().unwrap().clone(),
        };
        (output, self.stream)
    }

    /// Reads the rest of a backup that must succeed, and extracts it.
    pub(crate) fn extract(self, target: &Path) -> String {
        let (output, stream) = self.end();
        assert!(output.status.success(), "{}", story(&output));
        extract(&stream, target);
        story(&output)
    }
}

/// How a payload chunk begins. The names alone are in the system tablespace too.
fn head(name: &str) -> Vec<u8> {
    let len = u32::try_from(name.len()).unwrap();
    let parts: [&[u8]; 3] = [b"XBSTCK01\0P", &len.to_le_bytes(), name.as_bytes()];
    parts.concat()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}

/// `xbpipe extract`.
pub(crate) fn extract(stream: &[u8], target: &Path) {
    let mut child = xbpipe()
        .args(["extract", "--progress=none", "-C"])
        .arg(target)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stream).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", story(&output));
}

/// Makes a backup startable; returns what was told.
pub(crate) fn prepare(target: &Path) -> String {
    let mut command = xbpipe();
    story(&run(command
        .arg("prepare")
        .arg(target)
        .stdin(Stdio::null())))
}

/// The reference program prepares what we made too; it gets a copy.
pub(crate) fn reference_prepares(target: &Path) {
    let copy = target.with_extension("reference");
    run(Command::new("cp").arg("-a").arg(target).arg(&copy));
    let output = Command::new("mariadb-backup")
        .arg(format!("--defaults-file={}/backup-my.cnf", copy.display()))
        .arg("--prepare")
        .arg(format!("--target-dir={}", copy.display()))
        .arg(format!("--tmpdir={}", copy.display()))
        .output()
        .unwrap_or_else(|e| panic!("this test needs mariadb-backup: {e}"));
    assert!(output.status.success(), "{}", story(&output));
}

/// Prepares `target`, starts a server on it, checks all its tables, and insists on the content `server` has.
pub(crate) fn restores(server: &TestServer, target: &Path, options: &[&str]) -> TestServer {
    let expected = Content::of(server);
    prepare(target);
    let restored = TestServer::start_on(target, options);
    expected.assert_same(&Content::of(&restored));
    check_tables(&restored);
    restored
}

/// Insists on whole tables everywhere.
pub(crate) fn check_tables(server: &TestServer) {
    let options = ["--extended", "--all-databases"];
    let checked = run(&mut client(server, "mariadb-check", &options));
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    for line in checked.lines() {
        let bad = ["error", "Error", "warning", "Warning", "status"];
        assert!(!bad.iter().any(|word| line.starts_with(word)), "{checked}");
    }
}

/// Everything users have on a server, as text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) databases: Vec<String>,
    dump: String,
}

impl Content {
    pub(crate) fn of(server: &TestServer) -> Self {
        let own = ["information_schema", "performance_schema", "mysql", "sys"];
        let databases: Vec<String> = server
            .sql("SHOW DATABASES")
            .lines()
            .filter(|name| !own.contains(name))
            .map(str::to_owned)
            .collect();
        let dump = if databases.is_empty() {
            String::new()
        } else {
            dump(server, &databases)
        };
        Self { databases, dump }
    }

    /// Takes an option of tables out of what is compared.
    pub(crate) fn forget(&mut self, option: &str) {
        self.dump = self.dump.replace(&format!(" {option}"), "");
    }

    pub(crate) fn assert_same(&self, restored: &Self) {
        for (a, b) in self.dump.lines().zip(restored.dump.lines()) {
            assert!(a == b, "source {a:.200}\nrestored {b:.200}");
        }
        assert_eq!(self.databases, restored.databases);
        assert_eq!(self.dump.len(), restored.dump.len());
    }
}

fn dump(server: &TestServer, databases: &[String]) -> String {
    let mut command = client(
        server,
        "mariadb-dump",
        &[
            "--skip-comments",
            "--routines",
            "--events",
            "--order-by-primary",
            "--hex-blob",
        ],
    );
    let output = run(command.arg("--databases").args(databases));
    let text = String::from_utf8(output.stdout).unwrap();
    // Counters are kept in memory and may lead.
    text.lines()
        .filter(|line| !line.starts_with("/*M!") && !line.starts_with("-- "))
        .map(|line| match line.split_once(" AUTO_INCREMENT=") {
            Some((head, tail)) if head.starts_with(") ENGINE") => {
                format!("{head} {}", tail.split_once(' ').map_or("", |(_, t)| t))
            }
            _ => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn client(server: &TestServer, program: &str, options: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--no-defaults", "--user=root"])
        .arg(format!("--socket={}", server.socket().display()))
        .args(options);
    command
}
