//! The streams of `--fifo-streams`: named pipes `thread_0`, `thread_1`, ... in one directory, made by the writer.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::archive::streams::Stream;
use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::{self, File};

/// First byte of an archive.
const MAGIC_BEGIN: u8 = b'X';

/// The named pipes of one run; what is still there of them is removed when the run ends.
#[derive(Debug)]
pub(super) struct Fifos(Vec<PathBuf>);

impl Fifos {
    /// The names; nothing is opened yet. r[compat-xbstream.fifo.names]
    pub(super) fn new(directory: &Path, count: usize) -> Self {
        Self(
            (0..count)
                .map(|i| directory.join(format!("thread_{i}")))
                .collect(),
        )
    }

    /// Opens all of them, waiting up to `patience` until they are there and their writers have said that they are ready.
    /// r[compat-xbstream.fifo.wait]
    pub(super) fn open(&self, patience: Duration, cancel: &Cancel) -> Result<Vec<Stream>> {
        let begun = Instant::now();
        let late = |path: &Path, what: &str| {
            let text = format!("{what} within {} s:", patience.as_secs());
            Error::new(Kind::Incomplete, text)
                .path(path)
                .hint("start the writer with the same number of streams and the same directory, or raise --fifo-timeout")
        };
        let mut streams = Vec::with_capacity(self.0.len());
        for path in &self.0 {
            let file = loop {
                match File::open_fifo(path) {
                    Ok(file) => break file,
                    Err(error) if !error.is_not_found() => return Err(error),
                    Err(_) if begun.elapsed() >= patience => {
                        return Err(late(path, "nobody has made the FIFO"));
                    }
                    Err(_) => cancel.sleep(POLL_INTERVAL)?,
                }
            };
            while !file.is_readable_within(POLL_INTERVAL) {
                cancel.check()?;
                if begun.elapsed() >= patience {
                    return Err(late(path, "nobody has begun to write to the FIFO"));
                }
            }
            // r[compat-xbstream.fifo.control]
            let mut control = [0];
            if file.read(&mut control)? == 0 {
                return Err(
                    Error::new(Kind::Incomplete, "the writer went away from the FIFO").path(path),
                );
            }
            let head = match control {
                [MAGIC_BEGIN] => control.to_vec(),
                _ => Vec::new(),
            };
            streams.push(Stream { file, head });
        }
        Ok(streams)
    }

    /// Removes them.
    pub(super) fn remove(&self) -> Result<()> {
        for path in &self.0 {
            if fsx::exists(path)? {
                fsx::remove_file(path)?;
            }
        }
        Ok(())
    }
}
