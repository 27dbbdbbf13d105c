//! What every front end needs: how a run is supervised, how it ends, and what its lines look like.

pub mod lines;

mod signals;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;

use crossbeam_channel::bounded;

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::monitor::Monitor;
use crate::base::run::Run;

/// How the process ends: a status of `format-spec/exit-status.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// Everything that was asked for is done.
    pub const DONE: Self = Self(0);

    /// It is not: all that the old names tell.
    pub const FAILED: Self = Self(1);

    /// The number.
    #[must_use]
    pub const fn status(self) -> u8 {
        self.0
    }
}

impl From<Kind> for Exit {
    fn from(kind: Kind) -> Self {
        Self(kind.exit_status())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.0.into()
    }
}

/// Does `work` on a thread of its own, so that this one can return even while that one is stuck in a system call. A signal
/// cancels the run; a second one, or a run that does not end, gives it up.
pub fn supervise<T: Send + 'static>(
    monitor: Arc<dyn Monitor>,
    work: impl FnOnce(&Run) -> Result<T> + Send + 'static,
) -> Result<T> {
    let cancel = Cancel::new();
    let (sender, outcome) = bounded(2);
    signals::watch(&cancel, sender.clone())?;
    let run = Run { cancel, monitor };
    std::thread::Builder::new()
        .name("verb".to_owned())
        .spawn(move || {
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| work(&run)));
            let result = result.unwrap_or_else(|_| {
                Err(Error::new(Kind::Failed, "xbpipe panicked: this is a bug")
                    .hint("report it with the lines above"))
            });
            // Nobody waits for it once the run was given up.
            sender.send(result).ok();
        })
        .map_err(|e| Error::new(Kind::Failed, "cannot start a thread").source(e))?;
    outcome
        .recv()
        .unwrap_or_else(|_| Err(Error::new(Kind::Failed, "the run ended without a result")))
}

/// As many open files as the system allows: every member under way is one.
pub fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // The old limit suffices for most runs; if it does not, the error names the file.
    setrlimit(Resource::Nofile, limit).ok();
}
