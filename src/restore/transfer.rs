//! Files on their way: renamed where that is possible, copied by several threads where not.

use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::monitor::Counters;
use crate::base::run::Run;
use crate::pipeline::dir_sink::partial_name;
use crate::restore::Verb;
use crate::restore::owner::Owner;
use crate::restore::plan::Item;

/// Bytes read and written at a time, per thread.
const CHUNK_LEN: usize = 1 << 20;

/// How files are brought to their places.
pub(crate) struct Transfer<'a> {
    pub(crate) verb: Verb,
    pub(crate) owner: Option<Owner>,
    pub(crate) run: &'a Run,
}

impl Transfer<'_> {
    /// Brings all `items`, several at a time. The first error ends it.
    pub(crate) fn all(&self, items: &[Item], threads: usize) -> Result<()> {
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let error = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, items.len().max(1)) {
                scope.spawn(|| {
                    let mut buf = vec![0; CHUNK_LEN];
                    while !failed.load(Ordering::Acquire) {
                        let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else {
                            return;
                        };
                        if let Err(e) = self.one(item, &mut buf) {
                            failed.store(true, Ordering::Release);
                            let mut slot = error.lock().unwrap_or_else(PoisonError::into_inner);
                            slot.get_or_insert(e);
                        }
                    }
                });
            }
        });
        let error = error.into_inner().unwrap_or_else(PoisonError::into_inner);
        error.map_or(Ok(()), Err)
    }

    fn one(&self, item: &Item, buf: &mut [u8]) -> Result<()> {
        self.run.cancel.check()?;
        let counters = self.run.monitor.counters();
        let moves = self.verb == Verb::Move && !item.stays;
        if moves && fsx::rename_within(&item.source, &item.target)? {
            if let Some(owner) = self.owner {
                fsx::chown(&item.target, owner.uid, owner.gid)?;
            }
            Counters::add(&counters.read_bytes, item.size);
            Counters::add(&counters.written_bytes, item.size);
            Counters::add(&counters.renamed_bytes, item.size);
        } else {
            self.copy(item, buf)?;
        }
        Counters::add(&counters.done_files, 1);
        Ok(())
    }

    /// Copies under a partial name, holes as holes.
    fn copy(&self, item: &Item, buf: &mut [u8]) -> Result<()> {
        let counters = self.run.monitor.counters();
        let source = fsx::File::open(&item.source)?;
        source.advise_sequential();
        let partial = partial_name(&item.target);
        if fsx::exists(&partial)? {
            fsx::remove_file(&partial)?;
        }
        let (Some(parent), Some(name)) = (partial.parent(), partial.file_name()) else {
            return Err(Error::new(Kind::Failed, "not a file name").path(&partial));
        };
        let target = fsx::Dir::open(parent)?.create_file(Path::new(name), 0o600)?;
        let size = source.stat()?.size;
        let mut position = 0;
        while let Some((begin, end)) = source.next_data(position, size)? {
            Counters::add(&counters.read_bytes, begin - position);
            position = begin;
            while position < end {
                self.run.cancel.check()?;
                let want = usize::try_from(end - position).unwrap_or(usize::MAX);
                let want = want.min(buf.len());
                let chunk = &mut buf[..want];
                source.read_exact_at(chunk, position)?;
                target.write_all_at(chunk, position)?;
                position += want as u64;
                Counters::add(&counters.read_bytes, want as u64);
                Counters::add(&counters.written_bytes, want as u64);
            }
        }
        target.set_len(size)?;
        if let Some(owner) = self.owner {
            target.chown(owner.uid, owner.gid)?;
        }
        target.set_mode(item.mode)?;
        fsx::rename(&partial, &item.target)
    }
}
