//! Child processes: found, started with nothing inherited by accident, always reaped.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the module that starts processes"
)]

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind, Result};

/// Bytes of a short answer ([`answer`]) that we take.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// The first executable file called one of `names` in `$PATH`, then in `more` directories.
#[must_use]
pub fn find_program(names: &[&str], more: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(more.iter().map(PathBuf::from))
        .collect();
    let candidates = names
        .iter()
        .flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
    candidates.into_iter().find(|path| is_executable(path))
}

/// Whether `path` is a file that we may run.
#[must_use]
pub fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Runs `program` for at most `time` and returns what it printed to standard output.
pub fn answer(program: &Path, args: &[&str], time: Duration, cancel: &Cancel) -> Result<String> {
    let fail = |e| Error::io("run", program, e);
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
    let mut child = Child::spawn(Spawn {
        program,
        args: args.iter().map(OsString::from).collect(),
        without_env: &[],
        run_as: None,
        output: writer,
        error: None,
    })?;
    let mut text = Vec::new();
    let begin = Instant::now();
    let pipe = crate::base::fsx::File::from_fd(reader, program);
    // The parent's copy of the pipe's write end is closed, so this ends with the child.
    let mut buf = [0; 4096];
    while text.len() < ANSWER_LEN_MAX {
        let left = time.saturating_sub(begin.elapsed()).as_millis();
        if !readable(&pipe, i64::try_from(left).unwrap_or(i64::MAX)).map_err(fail)? {
            child.stop(Duration::ZERO)?;
            return Err(Error::new(Kind::Failed, "no answer in time from").path(program));
        }
        match pipe.read(&mut buf)? {
            0 => break,
            n => text.extend_from_slice(&buf[..n]),
        }
    }
    while child.poll()?.is_none() {
        if begin.elapsed() > time {
            child.stop(Duration::ZERO)?;
            break;
        }
        cancel.sleep(POLL_INTERVAL / 10)?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn readable(pipe: &crate::base::fsx::File, millis: i64) -> std::io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec {
        tv_sec: millis / 1000,
        tv_nsec: (millis % 1000) * 1_000_000,
    };
    let n = poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout))?;
    Ok(n > 0)
}

/// What to start. Standard input is `/dev/null`.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// Its path.
    pub program: &'a Path,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Names of environment variables it must not see.
    pub without_env: &'a [&'a str],
    /// User and group to change to; no supplementary groups then.
    pub run_as: Option<(u32, u32)>,
    /// Standard output, and standard error too unless `error` is given. The child keeps it open, so a lock on it lasts as long as the child.
    pub output: OwnedFd,
    /// Standard error, if it goes elsewhere.
    pub error: Option<OwnedFd>,
}

/// A child process. It has a process group of its own, so that a key at the terminal reaches only us and we decide.
/// Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
    program: PathBuf,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts a process.
    pub fn spawn(spawn: Spawn<'_>) -> Result<Self> {
        let fail = |e| Error::io("run", spawn.program, e);
        let stderr = match spawn.error {
            Some(error) => error,
            None => spawn.output.try_clone().map_err(fail)?,
        };
        let mut command = Command::new(spawn.program);
        command
            .args(spawn.args)
            .stdin(Stdio::null())
            .stdout(Stdio::from(spawn.output))
            .stderr(Stdio::from(stderr))
            .process_group(0);
        for name in spawn.without_env {
            command.env_remove(name);
        }
        if let Some((uid, gid)) = spawn.run_as {
            command.uid(uid).gid(gid);
        }
        Ok(Self {
            inner: command.spawn().map_err(fail)?,
            program: spawn.program.to_path_buf(),
            ended: None,
        })
    }

    /// How it ended, once it has.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self
                .inner
                .try_wait()
                .map_err(|e| Error::io("wait for", &self.program, e))?;
        }
        Ok(self.ended)
    }

    /// Asks it to end (SIGTERM), kills it after `grace`, and reaps it.
    pub fn stop(&mut self, grace: Duration) -> Result<()> {
        let begin = Instant::now();
        if !grace.is_zero() && self.poll()?.is_none() {
            // An error here means that it has ended meanwhile.
            rustix::process::kill_process(Pid::from_child(&self.inner), Signal::TERM).ok();
            // No token of the run here: it is most likely the run's end that brought us here.
            let quiet = Cancel::new();
            while self.poll()?.is_none() && begin.elapsed() < grace {
                quiet.sleep(POLL_INTERVAL / 5)?;
            }
        }
        if self.poll()?.is_none() {
            self.inner.kill().ok();
            let status = self.inner.wait();
            self.ended = Some(status.map_err(|e| Error::io("wait for", &self.program, e))?);
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // A destructor has nobody to tell; the process is gone either way.
        self.stop(Duration::ZERO).ok();
    }
}

/// `exit status 1` or `signal 9`.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit status".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        crate::base::fsx::File::open("/dev/null").unwrap().into_fd()
    }

    #[test]
    fn answers_are_taken_and_the_silent_are_given_up() {
        let cancel = Cancel::new();
        let echo = find_program(&["no-such-program", "echo"], &[]).unwrap();
        let text = answer(&echo, &["a", "b"], Duration::from_secs(20), &cancel).unwrap();
        assert_eq!(text, "a b\n");
        let sleep = find_program(&["sleep"], &["/bin"]).unwrap();
        let begin = Instant::now();
        assert!(answer(&sleep, &["60"], Duration::from_millis(50), &cancel).is_err());
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert!(answer(Path::new("/no/such"), &[], Duration::ZERO, &cancel).is_err());
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let sleep = find_program(&["sleep"], &["/bin"]).unwrap();
        let child = Child::spawn(Spawn {
            program: &sleep,
            args: vec!["60".into()],
            without_env: &["HOME"],
            run_as: None,
            output: null(),
            error: None,
        })
        .unwrap();
        let pid = Pid::from_child(&child.inner);
        drop(child);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
