//! `put`: an archive that another program makes, checked to its last byte on its way into a store.

use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};

use crate::base::cancel::POLL_INTERVAL;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::File;
use crate::base::pool::BufPool;
use crate::base::proc::{Child, Spawn, describe, find_program};
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::pipeline::budget::Budget;
use crate::pipeline::demux::{self, DemuxOptions};
use crate::pipeline::input::{Input, OpenFeed as _};
use crate::pipeline::sink::NullSink;
use crate::repository::catalog::Repository;
use crate::repository::cut::Shares;
use crate::repository::manifest::Manifest;
use crate::repository::reader::StoredBackup;
use crate::repository::writer::Writer;

/// Bytes read at once.
const INPUT_LEN: usize = 1 << 20;

/// Buffers between reading and storing.
const TAP_LEN: usize = 4;

/// How long a command may take to end after it has closed its output, and when it is told to end.
const COMMAND_GRACE: Duration = Duration::from_secs(5);

/// Where the archive comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// Standard input.
    Stdin,
    /// The standard output of a command that must succeed.
    Command(Vec<OsString>),
    /// A backup in a store.
    Stored(Box<StoredBackup>),
}

/// Stores one archive as the backup `name`. Nothing of it stays if it is not whole, or its producer fails; nor, unless
/// `unfinished` ones are welcome, if it is a backup without its last file.
pub fn put(
    repository: &Repository,
    name: &str,
    origin: &Origin,
    unfinished: bool,
    memory: ByteCount,
    run: &Run,
) -> Result<Manifest> {
    // A copy reads parts as well as it writes them.
    let share = match origin {
        Origin::Stored(_) => ByteCount(memory.0 / 2),
        _ => memory,
    };
    let shares = Shares::new(share)?;
    let mut writer = Writer::begin(repository, name, shares, run)?;
    let budget = Budget::plain(shares.pipeline, 2)?;
    let bufs = (budget.input_bufs * budget.input_buf_len / INPUT_LEN).max(2);
    let pool = BufPool::new(bufs, INPUT_LEN);
    let mut command = None;
    let mut input = match origin {
        Origin::Stdin => Input::open(None, pool, shares.pipeline, run)?,
        Origin::Command(words) => {
            let (child, output) = start(words)?;
            let program = command.insert(child).name.clone();
            let input = Input::over(
                output,
                format!("of {program}"),
                Vec::new(),
                pool,
                shares.pipeline,
                run,
            );
            match input {
                Ok(input) => input,
                Err(error) => return Err(blame(command, error)),
            }
        }
        Origin::Stored(backup) => {
            let feed = backup.open(&[], share, run)?;
            Input::from_feed(feed, backup.describe(), run)
        }
    };
    let (tap, taken) = bounded(TAP_LEN);
    input.tap(tap);
    let options = DemuxOptions {
        lanes: budget.lanes,
        lane_bufs: (1, budget.input_buf_len),
        structure_only: false,
        lone_chunk: None,
        keep_going: false,
    };
    let (outcome, stored) = std::thread::scope(|scope| {
        let writer = &mut writer;
        let storing = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn_scoped(scope, move || store_all(writer, taken, run));
        let storing = match storing {
            Ok(storing) => storing,
            Err(e) => {
                let error = Error::new(Kind::Failed, "cannot start a thread").source(e);
                return (Err(error), Ok(()));
            }
        };
        let outcome = demux::run(&mut input, &NullSink, options, &run.cancel, &run.monitor);
        let outcome = outcome.and_then(|outcome| outcome.check(input.name()));
        // The tap is closed with the input.
        drop(input);
        let stored = storing
            .join()
            .unwrap_or_else(|_| Err(Error::new(Kind::Failed, "the storing thread panicked")));
        (outcome, stored)
    });
    // What went wrong in the store comes first: the rest follows from it.
    stored?;
    match outcome {
        Ok(_) => {}
        Err(error) => return Err(blame(command, error)),
    }
    if let Some(mut command) = command {
        command.must_succeed(run)?;
    }
    run.cancel.check()?;
    if !unfinished {
        writer.must_be_finished()?;
    }
    writer.commit()
}

/// What comes through the tap, which ends with this: nobody waits for a thread that has failed.
fn store_all(writer: &mut Writer, taken: Receiver<Bytes>, run: &Run) -> Result<()> {
    for bytes in taken {
        writer
            .write(bytes)
            .inspect_err(|error| run.cancel.fail(error))?;
    }
    Ok(())
}

/// A producer.
struct Producer {
    child: Child,
    name: String,
}

fn start(words: &[OsString]) -> Result<(Producer, File)> {
    let Some((program, args)) = words.split_first() else {
        return Err(Error::new(Kind::Usage, "no command is given"));
    };
    let name = program.to_string_lossy().into_owned();
    let path = if name.contains('/') {
        Some(program.into())
    } else {
        find_program(&[&name], &[])
    };
    let path =
        path.ok_or_else(|| Error::new(Kind::Usage, "no such program in PATH:").path(program))?;
    let fail = |e: rustix::io::Errno| Error::io("make a pipe for", program, e);
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(fail)?;
    let stderr = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).map_err(fail)?;
    let child = Child::spawn(Spawn {
        program: &path,
        args: args.to_vec(),
        without_env: &[],
        run_as: None,
        output: writer,
        error: Some(stderr),
    })?;
    let output = File::from_fd(reader, format!("(output of {name})"));
    Ok((Producer { child, name }, output))
}

impl Producer {
    /// Waits for its end a while.
    fn end(&mut self, run: Option<&Run>) -> Result<Option<std::process::ExitStatus>> {
        let quiet = crate::base::cancel::Cancel::new();
        let begin = std::time::Instant::now();
        loop {
            let status = self.child.poll()?;
            if status.is_some() || begin.elapsed() > COMMAND_GRACE && run.is_none() {
                return Ok(status);
            }
            let cancel = run.map_or(&quiet, |run| &run.cancel);
            cancel.sleep(POLL_INTERVAL / 5)?;
        }
    }

    fn must_succeed(&mut self, run: &Run) -> Result<()> {
        match self.end(Some(run))? {
            Some(status) if !status.success() => Err(self.failed(status)),
            _ => Ok(()),
        }
    }

    fn failed(&self, status: std::process::ExitStatus) -> Error {
        Error::new(
            Kind::Failed,
            format!(
                "{} failed ({}), nothing was stored",
                self.name,
                describe(status)
            ),
        )
        .hint("its own messages stand above")
    }
}

/// An archive that is not whole because its producer failed is the producer's failure.
fn blame(producer: Option<Producer>, error: Error) -> Error {
    let Some(mut producer) = producer else {
        return error;
    };
    if error.kind() == Kind::Interrupted {
        producer.child.stop(COMMAND_GRACE).ok();
        return error;
    }
    match producer.end(None) {
        Ok(Some(status)) if !status.success() => producer.failed(status).source(error),
        _ => error,
    }
}
