//! Signals end a run in order: the first cancels it, a second one, or a run that does not end, ends the process.

use std::time::Duration;

use crossbeam_channel::Sender;
use tokio::signal::unix::{SignalKind, signal};

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::File;

/// How long a cancelled run may take to end before the process ends without it. What keeps it is a system call on a dead
/// file server or the like; a cancelled run leaves nothing half-done under a final name.
const GRACE: Duration = Duration::from_secs(10);

const SIGNALS: [(&str, SignalKind); 3] = [
    ("SIGINT", SignalKind::interrupt()),
    ("SIGTERM", SignalKind::terminate()),
    ("SIGHUP", SignalKind::hangup()),
];

/// Starts watching. The first signal cancels; if the run outlives that, its outcome is sent in its place.
pub(super) fn watch<T: Send + 'static>(cancel: &Cancel, abandon: Sender<Result<T>>) -> Result<()> {
    let failed = |e| Error::new(Kind::Failed, "cannot watch signals").source(e);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(failed)?;
    let ignored = ignored_signals();
    let mut streams = Vec::new();
    {
        let _entered = runtime.enter();
        for (name, kind) in SIGNALS {
            // Ignored from the start means: by nohup, or by a shell that put us into the background.
            if ignored & (1 << (kind.as_raw_value() - 1)) == 0 {
                streams.push((name, signal(kind).map_err(failed)?));
            }
        }
    }
    let cancel = cancel.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let first = any(&mut streams).await;
                let sentence = format!("interrupted by {first}");
                cancel.cancel(Kind::Interrupted, sentence.clone());
                // A second signal or too long a wait: either way the run is given up.
                tokio::time::timeout(GRACE, any(&mut streams)).await.ok();
                let error = Error::new(
                    Kind::Interrupted,
                    format!("{sentence} before it could end in order"),
                );
                abandon.send(Err(error)).ok();
            });
        })
        .map_err(failed)?;
    Ok(())
}

/// The name of the next signal.
async fn any(streams: &mut [(&'static str, tokio::signal::unix::Signal)]) -> &'static str {
    std::future::poll_fn(|context| {
        for (name, stream) in streams.iter_mut() {
            if stream.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(*name);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// The set of signals that this process was started to ignore; empty where the system does not say.
fn ignored_signals() -> u64 {
    let Ok(file) = File::open("/proc/self/status") else {
        return 0;
    };
    let mut status = [0; 4096];
    let n = file.read_at(&mut status, 0).unwrap_or(0);
    let status = String::from_utf8_lossy(status.get(..n).unwrap_or_default());
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
