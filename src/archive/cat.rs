//! `cat`: members of an archive on standard output, one after another in the order in which they begin.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::archive::{Access, ReadOptions, read_archive};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::File;
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::pipeline::demux::Outcome;
use crate::pipeline::limit::LimitSink;
use crate::pipeline::output::{Output, Target};
use crate::pipeline::select::{SelectSink, Selection};
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::xbstream::{ArchivePath, RemovePattern};

/// Buffer for reading spooled members back.
const SPOOL_READ_LEN: usize = 256 << 10;

/// Writes what is selected to standard output; one lane, so that members come in the order of the archive. Members that interleave with an earlier one wait in a temporary file in `spool_dir`.
pub fn cat(
    options: &ReadOptions,
    selection: &Selection,
    spool_dir: PathBuf,
    run: &Run,
) -> Result<Outcome> {
    let output = Output::open(
        Target::Stdout { terminal: true },
        &run.cancel,
        Arc::clone(&run.monitor),
    )?;
    let sink = CatSink {
        output,
        turns: Mutex::new(VecDeque::new()),
        begun: Mutex::new(HashSet::new()),
        spool_dir,
        spool_pool: BufPool::new(2, SPOOL_READ_LEN),
        cancel: run.cancel.clone(),
    };
    let outcome = {
        let limit = LimitSink::new(&sink, options.max_output);
        let select = SelectSink::new(&limit, selection)?;
        let options = ReadOptions {
            parallel: 1,
            access: Access::InOrder,
            ..options.clone()
        };
        let outcome = read_archive(&options, &select, run)?;
        select.check_found()?;
        outcome
    };
    sink.output.finish()?;
    Ok(outcome)
}

struct CatSink {
    output: Output,
    /// Open members in the order in which they began; the first one writes straight through.
    turns: Mutex<VecDeque<Turn>>,
    /// Members that are on standard output, or on their way.
    begun: Mutex<HashSet<ArchivePath>>,
    spool_dir: PathBuf,
    spool_pool: BufPool,
    cancel: Cancel,
}

struct Turn {
    path: ArchivePath,
    spool: Option<File>,
    spooled: u64,
    closed: bool,
}

impl CatSink {
    /// Takes data of one member while the lock is held, so that output never mixes.
    fn take(&self, path: &ArchivePath, data: Bytes) -> Result<()> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let first = turns.front().is_some_and(|t| t.path == *path);
        if first {
            return self.output.send(vec![data]).map(drop);
        }
        let turn = turns
            .iter_mut()
            .find(|t| t.path == *path)
            .ok_or_else(|| Error::new(Kind::Failed, "member is not open").path(path.as_path()))?;
        let spool = match &mut turn.spool {
            Some(spool) => spool,
            none => none.insert(File::anonymous(&self.spool_dir)?),
        };
        spool.write_all_at(&data, turn.spooled)?;
        turn.spooled += data.len() as u64;
        Ok(())
    }

    fn begun(&self) -> MutexGuard<'_, HashSet<ArchivePath>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, path: &ArchivePath) -> Result<()> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.iter_mut().find(|t| t.path == *path) {
            turn.closed = true;
        }
        // Whoever is first now writes what it has; if it is whole already, the next one follows.
        while turns.front().is_some_and(|t| t.closed) {
            turns.pop_front();
            let Some(next) = turns.front_mut() else { break };
            let (spool, spooled) = (next.spool.take(), std::mem::take(&mut next.spooled));
            if let Some(spool) = spool {
                self.unspool(&spool, spooled)?;
            }
        }
        Ok(())
    }

    fn unspool(&self, spool: &File, len: u64) -> Result<()> {
        let mut position = 0;
        while position < len {
            let mut buf = self.spool_pool.get(&self.cancel)?;
            let n = spool.read_at(&mut buf, position)?;
            if n == 0 {
                return Err(
                    Error::new(Kind::Failed, "temporary file is too short").path(spool.path())
                );
            }
            self.output.send(vec![buf.freeze(n)])?;
            position += n as u64;
        }
        Ok(())
    }
}

impl Sink for CatSink {
    fn open<'s>(&'s self, path: &ArchivePath, _: Attributes) -> Result<Box<dyn FileSink + 's>> {
        let turn = Turn {
            path: path.clone(),
            spool: None,
            spooled: 0,
            closed: false,
        };
        if !self.begun().insert(path.clone()) {
            return Err(changed(path));
        }
        self.turns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(turn);
        Ok(Box::new(CatFile {
            sink: self,
            path: path.clone(),
            position: 0,
        }))
    }

    fn directory(&self, _: &ArchivePath) -> Result<()> {
        Ok(())
    }

    fn rename(&self, from: &ArchivePath, _: &ArchivePath) -> Result<()> {
        if self.begun().contains(from) {
            Err(changed(from))
        } else {
            Ok(())
        }
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        match self.begun().iter().find(|path| pattern.matches(path)) {
            Some(path) => Err(changed(path)),
            None => Ok(()),
        }
    }
}

fn changed(path: &ArchivePath) -> Error {
    Error::new(
        Kind::Failed,
        "the archive renames, removes or replaces a member that is already on standard output:",
    )
    .path(path.as_path())
    .hint("extract the archive into a directory instead")
}

struct CatFile<'s> {
    sink: &'s CatSink,
    path: ArchivePath,
    position: u64,
}

impl FileSink for CatFile<'_> {
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()> {
        if offset != self.position {
            return Err(Error::new(
                Kind::Failed,
                "the member is patched in place, which standard output cannot follow",
            )
            .path(self.path.as_path())
            .at(offset));
        }
        self.position += data.len() as u64;
        self.sink.take(&self.path, data)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sink.close(&self.path)
    }
}
