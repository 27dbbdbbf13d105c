//! `create`: files to archive.

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::monitor::Counters;
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::codec::{Encoder, Encoders};
use crate::pipeline::archive_sink::{ArchiveSink, ArchiveSummary};
use crate::pipeline::budget::{Budget, ChunkLimits, READ_LEN};
use crate::pipeline::dir_sink::PARTIAL_SUFFIX;
use crate::pipeline::encode::{encode_through, encoded_name};
use crate::pipeline::output::{Output, Target};
use crate::pipeline::sink::Sink;
use crate::pipeline::tree::{self, Found, TreeOptions, Walk};
use crate::xbstream::ArchivePath;
use crate::xbstream::index::INDEX_PATH;
use crate::xbstream::limits::CHUNK_PAYLOAD_LEN_DEFAULT;

/// What to store, and where to.
#[derive(Debug)]
pub struct CreateOptions {
    /// Directory that names are relative to.
    pub directory: PathBuf,
    /// Files and directories.
    pub names: Vec<PathBuf>,
    /// Where the archive goes.
    pub target: Target,
    /// What members pass through, in this order.
    pub encoders: Encoders,
    /// Buffers altogether.
    pub memory: ByteCount,
    /// Lanes.
    pub parallel: usize,
    /// Most payload of one chunk, if asked for.
    pub chunk_len: Option<usize>,
    /// Tell holes as such, for readers that know sparse chunks.
    pub sparse: bool,
    /// What cannot be stored as it is.
    pub tree: TreeOptions,
}

/// Creates an archive.
pub fn create(options: CreateOptions, run: &Run) -> Result<ArchiveSummary> {
    let monitor = run.monitor.as_ref();
    let mut budget = Budget::encode(options.memory, options.parallel, &options.encoders)?;
    if let Some(len) = options.chunk_len {
        budget = budget.with_chunk_len(len);
    }
    let walk = || Walk::new(&options.directory, &options.names, options.tree);
    let total = survey(walk()?, &options.encoders, run)?;
    Counters::set(&monitor.counters().total_bytes, total);
    let output = Output::open(options.target, &run.cancel, Arc::clone(&run.monitor))?;
    let archive = ArchiveSink::new(output, budget.chunk)?.with_sparse(options.sparse);
    let pool = BufPool::new(budget.input_bufs, budget.input_buf_len);
    let copy = |sink: &dyn Sink| {
        let (cancel, monitor) = (&run.cancel, &run.monitor);
        tree::copy_files(walk()?, sink, &pool, budget.lanes, cancel, monitor)
    };
    encode_through(
        &archive,
        &options.encoders,
        &budget,
        &|_, _| false,
        &run.cancel,
        copy,
    )?;
    archive.finish()
}

/// Writes `files`, each under the name given, as the programs before us did: one after another, without an index, in
/// chunks of the length that every known writer uses. Returns bytes written.
pub fn create_plain(
    files: &[(ArchivePath, PathBuf)],
    target: Target,
    memory: ByteCount,
    run: &Run,
) -> Result<u64> {
    const CHUNK: ChunkLimits = ChunkLimits {
        pieces: CHUNK_PAYLOAD_LEN_DEFAULT / READ_LEN,
        len: CHUNK_PAYLOAD_LEN_DEFAULT,
    };
    let budget = Budget::plain(memory, 1)?;
    let output = Output::open(target, &run.cancel, Arc::clone(&run.monitor))?;
    let archive = ArchiveSink::without_index(output, CHUNK)?;
    let pool = BufPool::new(budget.input_bufs, budget.input_buf_len);
    let found = files
        .iter()
        .map(|(name, place)| Ok(Found::File(name.clone(), place.clone())));
    tree::copy_files(found, &archive, &pool, 1, &run.cancel, &run.monitor)?;
    Ok(archive.finish()?.archive_bytes)
}

/// The first walk: adds sizes up, and finds a name that cannot be stored before the first byte is out.
fn survey(walk: Walk, encoders: &[Arc<dyn Encoder>], run: &Run) -> Result<u64> {
    let mut total: u64 = 0;
    for item in walk {
        run.cancel.check()?;
        match item? {
            Found::File(path, place) => {
                total = total.saturating_add(fsx::stat(&place)?.size);
                check_name(&path, encoders).map_err(|e| e.path(&place))?;
            }
            Found::EmptyDir(_) => {}
            Found::LeftOut(place) => {
                run.monitor
                    .warning(format!("left out {place:?}: not a regular file"));
            }
        }
    }
    Ok(total)
}

/// Names that have a meaning for us, and names that become too long.
fn check_name(path: &ArchivePath, encoders: &[Arc<dyn Encoder>]) -> Result<()> {
    if path.as_bytes() == INDEX_PATH {
        return Err(Error::new(Kind::Failed, "the name is reserved for the archive's own index:")
            .hint("remove or rename the file: it was left by a program that extracted one of our archives"));
    }
    if path.as_bytes().ends_with(PARTIAL_SUFFIX.as_bytes()) {
        return Err(Error::new(
            Kind::Failed,
            "the name is reserved for files that are not whole:",
        )
        .hint("remove the file: it was left by an extraction that did not complete"));
    }
    encoded_name(path, encoders).map(|_| ())
}
