//! Ctrl-C and its kin: the processes we started are ended, which makes the main thread fail and clean up.
#![expect(
    clippy::disallowed_methods,
    clippy::exit,
    reason = "the last resort removes the directory and ends the process itself"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// Exit status after an interrupt, as shells have it for SIGINT.
pub(crate) const STATUS: u8 = 130;

/// How long the main thread may take to clean up.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long processes may take to end by themselves.
const POLITE: Duration = Duration::from_secs(2);

static HAPPENED: AtomicBool = AtomicBool::new(false);
static RUNNING: Running = Running {
    pids: Mutex::new(BTreeSet::new()),
    dir: Mutex::new(None),
};

/// Processes we have started and a directory we have made.
#[derive(Debug)]
pub(crate) struct Running {
    pids: Mutex<BTreeSet<u32>>,
    dir: Mutex<Option<PathBuf>>,
}

impl Running {
    /// A process to end on an interrupt.
    pub(crate) fn add(&self, pid: u32) {
        self.pids().insert(pid);
    }

    /// It has ended, or is about to be by its owner.
    pub(crate) fn remove(&self, pid: u32) {
        self.pids().remove(&pid);
    }

    /// A directory to remove even if the main thread hangs.
    pub(crate) fn remove_at_last(&self, dir: &Path) {
        *self.dir.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir.to_owned());
    }

    fn pids(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal_all(&self, signal: Signal) {
        let pids: Vec<u32> = self.pids().iter().copied().collect();
        for pid in pids {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may just have ended.
                kill_process(pid, signal).ok();
            }
        }
    }
}

/// Somebody interrupted.
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::SeqCst)
}

/// Begins to watch for SIGINT, SIGTERM and SIGHUP.
pub(crate) fn watch() -> std::io::Result<&'static Running> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let [mut int, mut term, mut hup] = {
        let _context = runtime.enter();
        let [a, b, c] = kinds.map(signal);
        [a?, b?, c?]
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
                _ = hup.recv() => {}
            }
        });
        HAPPENED.store(true, Ordering::SeqCst);
        end_everything();
    });
    Ok(&RUNNING)
}

/// Ends our processes, also those that are started yet, until the main thread has ended this one.
fn end_everything() -> ! {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        // A polite word first: `xbpipe prepare` ends the server that recovers for it.
        RUNNING.signal_all(if begin.elapsed() < POLITE {
            Signal::TERM
        } else {
            Signal::KILL
        });
        std::thread::sleep(Duration::from_millis(100));
    }
    let dir = RUNNING.dir.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(dir) = dir.as_deref() {
        std::fs::remove_dir_all(dir).ok();
    }
    std::process::exit(i32::from(STATUS));
}
