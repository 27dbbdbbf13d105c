//! The copied log: proven whole before a server sees it, and kept from leading the server out of the directory.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::monitor::{Counters, Monitor};
use crate::base::units::Lsn;
use crate::innodb::redo::HEADER_LEN;
use crate::innodb::redo::file_records::{FileEvent, has_file_records};
use crate::innodb::redo::header::{Checkpoint, HeaderError, LogFormat, LogHeader};
use crate::innodb::redo::mtr::{MtrFault, Step, step};
use crate::innodb::redo::scan::{LogScan, ScanError};
use crate::innodb::redo::writer::localize;

/// Bytes read at a time.
const CHUNK_LEN: usize = 1 << 20;
/// Unchanged bytes between two changed ones that still make one patch.
const PATCH_GAP: usize = 16;

/// What the walk over the log found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proven {
    /// Plain or encrypted.
    pub(crate) format: LogFormat,
    /// Where it ends.
    pub(crate) end: Lsn,
    /// Whether a record names a file by an absolute path: a table with a DATA DIRECTORY.
    pub(crate) absolute: bool,
}

/// New bytes for a place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Patch {
    /// Byte offset in the file.
    offset: u64,
    /// What to write there.
    bytes: Vec<u8>,
}

/// Walks the log at `path` and proves that it is whole and ends at `last_lsn`.
pub(crate) fn prove(
    path: &Path,
    last_lsn: Lsn,
    cancel: &Cancel,
    monitor: &dyn Monitor,
) -> Result<Proven> {
    let file = fsx::File::open(path)?;
    file.advise_sequential();
    let fail = |e: ScanError| {
        Error::new(kind_of(&e), "the copied redo log is not whole")
            .path(path)
            .source(e)
            .hint("nothing was changed; extract or make the backup again")
    };
    let mut head = vec![0; HEADER_LEN];
    let n = file.read_at(&mut head, 0)?;
    let mut scan = LogScan::new(&head[..n]).map_err(fail)?;
    let format = scan.header().format();
    let mut absolute = false;
    let mut events = Vec::new();
    let mut chunk = vec![0; CHUNK_LEN];
    let mut offset = HEADER_LEN as u64;
    loop {
        cancel.check()?;
        let n = file.read_at(&mut chunk, offset)?;
        if n == 0 {
            break;
        }
        scan.feed(&chunk[..n], &mut events).map_err(fail)?;
        absolute |= events.drain(..).any(|event| is_absolute(&event));
        offset += n as u64;
        Counters::add(&monitor.counters().redo_bytes, n as u64);
    }
    let end = scan.finish(Some(last_lsn)).map_err(fail)?;
    Ok(Proven {
        format,
        end,
        absolute,
    })
}

/// Missing bytes are one thing, wrong bytes another.
fn kind_of(error: &ScanError) -> Kind {
    match error {
        ScanError::Header(HeaderError::Short { .. })
        | ScanError::Damaged {
            fault: MtrFault::Cut,
            ..
        } => Kind::Incomplete,
        ScanError::WrongEnd {
            expected, found, ..
        } if found < expected => Kind::Incomplete,
        _ => Kind::Checksum,
    }
}

fn is_absolute(event: &FileEvent) -> bool {
    let (first, second): (&[u8], &[u8]) = match event {
        FileEvent::Create { path, .. }
        | FileEvent::Delete { path, .. }
        | FileEvent::Modify { path, .. } => (path, b""),
        FileEvent::Rename { from, to, .. } => (from, to),
        FileEvent::Checkpoint { .. } | FileEvent::Opaque { .. } => return false,
    };
    first.starts_with(b"/") || second.starts_with(b"/")
}

/// The changes that make every absolute path of a proven, plain log lead into the backup's directory.
pub(crate) fn local_patches(path: &Path, cancel: &Cancel) -> Result<Vec<Patch>> {
    let file = fsx::File::open(path)?;
    let mut patches = Vec::new();
    let mut window = Vec::new();
    let mut window_at = HEADER_LEN as u64;
    loop {
        cancel.check()?;
        let kept = window.len();
        window.resize(kept + CHUNK_LEN, 0);
        let n = file.read_at(&mut window[kept..], window_at + kept as u64)?;
        window.truncate(kept + n);
        let mut done = 0;
        // The LSN matters only for a ring's end bytes; those of a backup are all 1.
        while let Ok(Step::Mtr(mtr)) = step(&window[done..], Lsn(0), LogFormat::Plain, |_| 1) {
            let old = &window[done..done + mtr.len];
            if has_file_records(&old[..mtr.records_len]) {
                let mut new = old.to_vec();
                let changed = localize(&mut new, mtr, LogFormat::Plain).map_err(|e| {
                    Error::new(Kind::Failed, "cannot keep recovery inside the directory")
                        .path(path)
                        .at(window_at + done as u64)
                        .source(e)
                })?;
                if changed {
                    differences(old, &new, window_at + done as u64, &mut patches);
                }
            }
            done += mtr.len;
        }
        window.drain(..done);
        window_at += done as u64;
        if n == 0 {
            return Ok(patches);
        }
    }
}

/// Appends the runs of bytes in which `new` differs from `old`, which begin at file offset `at`.
fn differences(old: &[u8], new: &[u8], at: u64, patches: &mut Vec<Patch>) {
    let changed = (0..new.len()).filter(|i| old[*i] != new[*i]);
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for i in changed {
        match runs.last_mut() {
            Some((_, end)) if i - *end <= PATCH_GAP => *end = i + 1,
            _ => runs.push((i, i + 1)),
        }
    }
    patches.extend(runs.into_iter().map(|(begin, end)| Patch {
        offset: at + begin as u64,
        bytes: new[begin..end].to_vec(),
    }));
}

/// Writes `patches` to the log, durably. Doing it twice gives the same bytes.
pub(crate) fn apply(root: &fsx::Dir, name: &Path, patches: &[Patch]) -> Result<()> {
    if patches.is_empty() {
        return Ok(());
    }
    let file = root.open_file(name)?;
    for patch in patches {
        file.write_all_at(&patch.bytes, patch.offset)?;
    }
    file.sync()
}

/// The newest checkpoint of a server's log: after recovery it must not lie before the end of the backup's log.
pub(crate) fn newest_checkpoint(path: &Path) -> Result<Lsn> {
    let mut head = vec![0; HEADER_LEN];
    fsx::File::open(path)?.read_exact_at(&mut head, 0)?;
    LogHeader::parse(&head)
        .and_then(|header| Checkpoint::newest(&head, header.first_lsn))
        .map(|checkpoint| checkpoint.lsn)
        .map_err(|e| {
            Error::new(Kind::Server, "the server left a log that makes no sense")
                .path(path)
                .source(e)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::SpaceId;
    use crate::innodb::redo::writer::append_file_delete;

    #[test]
    fn patches_make_paths_local_and_can_be_written_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = vec![0; HEADER_LEN];
        for i in 0..40_000 {
            let path = format!("./db/table{i}.ibd");
            append_file_delete(&mut log, SpaceId(i), path.as_bytes()).unwrap();
        }
        let plain = log.len();
        append_file_delete(&mut log, SpaceId(7), b"/elsewhere/far/db/t.ibd").unwrap();
        let file = fsx::File::create_new(dir.path().join(LOG)).unwrap();
        file.write_all_at(&log, 0).unwrap();
        let patches = local_patches(file.path(), &Cancel::new()).unwrap();
        assert!(patches.iter().all(|p| p.offset >= plain as u64));
        let root = fsx::Dir::open(dir.path()).unwrap();
        for _ in 0..2 {
            apply(&root, Path::new(LOG), &patches).unwrap();
            let mut after = vec![0; log.len()];
            file.read_exact_at(&mut after, 0).unwrap();
            assert_eq!(after[..plain], log[..plain]);
            let text = String::from_utf8_lossy(&after[plain..]).into_owned();
            assert!(text.contains("./././././././/db/t.ibd"), "{text}");
        }
        assert_eq!(local_patches(file.path(), &Cancel::new()).unwrap(), []);
    }

    const LOG: &str = "log";
}
