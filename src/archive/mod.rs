//! The archive verbs: each is one sentence of source, transforms and sink.

pub mod cat;
pub mod create;
pub mod extract;
pub mod list;
pub mod streams;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::codec::Decoders;
use crate::pipeline::budget::Budget;
use crate::pipeline::decode::DecodeSink;
use crate::pipeline::demux::{self, DemuxOptions, Outcome};
use crate::pipeline::input::Input;
use crate::pipeline::sink::Sink;
use crate::pipeline::workers::Workers;

/// How an archive is read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// A file; standard input when `None` or `-`.
    pub source: Option<PathBuf>,
    /// Buffers altogether.
    pub memory: ByteCount,
    /// Lanes.
    pub parallel: usize,
    /// What is taken off members by their suffixes.
    pub decoders: Decoders,
    /// Go on after a damaged file.
    pub keep_going: bool,
}

/// Most bytes between reader and lanes: what is read further ahead has left the processor's cache when its turn comes.
const READ_AHEAD_LEN_MAX: usize = 4 << 20;

/// Bytes read from an archive at once: each is handed to another thread, so few large ones.
const INPUT_LEN: usize = 1 << 20;

/// Most buffers of one lane: one is read while the codec threads work on the others.
const LANE_BUFS_MAX: usize = 4;

/// Sends every member of an archive to `sink`; an archive that is not whole is an error.
pub(crate) fn read_archive(options: &ReadOptions, sink: &dyn Sink, run: &Run) -> Result<Outcome> {
    let examined = examine(options, sink, run)?;
    examined.outcome.check(&examined.name)
}

/// An archive gone through, whole or not.
#[derive(Debug)]
pub struct Examined {
    /// What to call it in messages.
    pub name: String,
    /// What was found out.
    pub outcome: Outcome,
}

/// Sends every member of an archive to `sink`. Fails only for reasons outside the archive.
pub(crate) fn examine(options: &ReadOptions, sink: &dyn Sink, run: &Run) -> Result<Examined> {
    let budget = Budget::decode(options.memory, options.parallel, &options.decoders)?;
    let total = budget.input_bufs * budget.input_buf_len;
    let read_ahead = (total / 2).min(READ_AHEAD_LEN_MAX);
    let pool = BufPool::new(read_ahead / INPUT_LEN, INPUT_LEN);
    let lane_bufs = (total - read_ahead) / budget.input_buf_len / budget.lanes;
    let source: Option<&Path> = options.source.as_deref();
    let mut input = Input::open(source, pool, &run.cancel, Arc::clone(&run.monitor))?;
    let demux_options = DemuxOptions {
        lanes: budget.lanes,
        lane_bufs: (lane_bufs.clamp(1, LANE_BUFS_MAX), budget.input_buf_len),
        keep_going: options.keep_going,
        lone_chunk: None,
    };
    let outcome = decoding(&options.decoders, &budget, sink, run, |sink| {
        demux::run(&mut input, sink, demux_options, &run.cancel, &run.monitor)
    })?;
    let name = input.name().to_owned();
    Ok(Examined { name, outcome })
}

/// Does `work` with what takes `decoders` off members in front of `sink`.
fn decoding<T>(
    decoders: &Decoders,
    budget: &Budget,
    sink: &dyn Sink,
    run: &Run,
    work: impl FnOnce(&dyn Sink) -> Result<T>,
) -> Result<T> {
    if decoders.is_empty() {
        return work(sink);
    }
    let workers = Workers::start(budget.codec_threads)?;
    let sink = DecodeSink::new(sink, decoders.clone(), &workers, budget, &run.cancel);
    work(&sink)
}
