//! The archive verbs: each is one sentence of source, transforms and sink.

pub mod cat;
pub mod convert;
pub mod create;
pub mod extract;
pub mod list;
pub mod quick;
pub mod streams;
pub mod verify;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::error::{Error, Kind, Result};
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::codec::Decoders;
use crate::pipeline::budget::Budget;
use crate::pipeline::decode::DecodeSink;
use crate::pipeline::demux::{self, DemuxOptions, IndexedOptions, Outcome};
use crate::pipeline::index_file::{Indexed, bad_index};
use crate::pipeline::input::{Extent, Input, OpenFeed};
use crate::pipeline::sink::Sink;
use crate::pipeline::source::ReadAt;
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
    /// How much of it is wanted.
    pub access: Access,
    /// Where it comes from instead, if that is no file.
    pub stored: Option<Stored>,
    /// Most bytes of content to put out.
    pub max_output: Option<ByteCount>,
}

/// An archive that is kept elsewhere than in a file.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The place.
    pub from: Arc<dyn OpenFeed>,
    /// Files and directories that are needed of it; empty for all.
    pub names: Vec<OsString>,
}

/// How much of an archive is wanted: where less than all is, and the archive has an index and can be read anywhere, nothing else
/// is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// All, checked from front to back.
    Whole,
    /// Some members.
    Members,
    /// All, by the index where there is one: what it tells of is found behind damage, too, and nothing waits for what comes late.
    Listed,
    /// What is missing of it in a directory: without an index nobody can tell.
    Resume,
    /// Some members, one behind the other.
    InOrder,
    /// What it holds, and not whether that is right.
    Structure,
}

impl Access {
    fn extent(self) -> Extent {
        match self {
            Self::Whole | Self::Listed | Self::Resume => Extent::Whole,
            Self::Members | Self::InOrder | Self::Structure => Extent::Some,
        }
    }
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

/// An open archive, and the memory to read it with.
pub(crate) struct Opened {
    pub(crate) input: Input,
    /// The archive as something to read anywhere, if it is that.
    source: Option<Arc<dyn ReadAt>>,
    budget: Budget,
    lane_bufs: usize,
}

impl ReadOptions {
    /// What of the memory is left beside what the place of the archive takes.
    fn memory_for_pipeline(&self) -> Result<ByteCount> {
        match &self.stored {
            Some(stored) => stored.from.memory_for_pipeline(self.memory),
            None => Ok(self.memory),
        }
    }
}

impl Opened {
    pub(crate) fn new(options: &ReadOptions, run: &Run) -> Result<Self> {
        let memory = options.memory_for_pipeline()?;
        let budget = Budget::decode(memory, options.parallel, &options.decoders)?;
        Self::within(budget, options, run)
    }

    /// Opens it, to be read within `budget`.
    fn within(budget: Budget, options: &ReadOptions, run: &Run) -> Result<Self> {
        let total = budget.input_bufs * budget.input_buf_len;
        let read_ahead = (total / 2).min(READ_AHEAD_LEN_MAX);
        let pool = BufPool::new(read_ahead / INPUT_LEN, INPUT_LEN);
        let lane_bufs = (total - read_ahead) / budget.input_buf_len / budget.lanes;
        let source: Option<&Path> = options.source.as_deref();
        let (input, source) = match &options.stored {
            Some(Stored { from, names }) => {
                let feed = from.open(names, options.memory, run)?;
                let source = from.source(options.access.extent(), options.memory, run)?;
                (Input::from_feed(feed, from.name(), run), source)
            }
            None => {
                let input = Input::open(source, pool, options.memory, run)?;
                let source = input.source();
                (input, source)
            }
        };
        Ok(Self {
            input,
            source,
            budget,
            lane_bufs: lane_bufs.clamp(1, LANE_BUFS_MAX),
        })
    }

    fn demux_options(&self, options: &ReadOptions) -> DemuxOptions {
        DemuxOptions {
            lanes: self.budget.lanes,
            lane_bufs: (self.lane_bufs, self.budget.input_buf_len),
            keep_going: options.keep_going,
            structure_only: options.access == Access::Structure,
            lone_chunk: None,
        }
    }

    /// Sends the members to `sink` as they are stored.
    fn read(&mut self, options: &ReadOptions, sink: &dyn Sink, run: &Run) -> Result<Outcome> {
        let demux = self.demux_options(options);
        let indexed = match options.access {
            Access::Whole | Access::Structure => None,
            Access::Members | Access::InOrder | Access::Listed => self.index(run)?,
            Access::Resume => Some(self.index(run)?.ok_or_else(|| no_index(self))?),
        };
        if let Some(indexed) = &indexed {
            let in_order = options.access == Access::InOrder;
            let by_index = IndexedOptions { demux, in_order };
            if let Some(outcome) =
                demux::run_indexed(indexed, sink, by_index, &run.cancel, &run.monitor)?
            {
                return Ok(outcome);
            }
            if options.access == Access::Resume {
                return Err(no_index(self));
            }
        }
        demux::run(&mut self.input, sink, demux, &run.cancel, &run.monitor)
    }

    /// The index, if the archive can be read anywhere and has one that is right at its end.
    pub(crate) fn index(&self, run: &Run) -> Result<Option<Indexed>> {
        let Some(source) = &self.source else {
            return Ok(None);
        };
        match Indexed::find(Arc::clone(source)) {
            Err(error) if bad_index(&error) => {
                let error = error.path(self.input.name());
                run.monitor
                    .warning(format!("{error}; reading the whole archive instead"));
                Ok(None)
            }
            found => found,
        }
    }
}

fn no_index(opened: &Opened) -> Error {
    let what =
        "to resume, an archive with an index is needed, in a file or a store, which this is not:";
    Error::new(Kind::Usage, what)
        .path(opened.input.name())
        .hint("extract everything again with --overwrite")
}

/// Sends the members of an archive to `sink`. Fails only for reasons outside the archive.
pub(crate) fn examine(options: &ReadOptions, sink: &dyn Sink, run: &Run) -> Result<Examined> {
    examine_opened(Opened::new(options, run)?, options, sink, run)
}

pub(crate) fn examine_opened(
    mut opened: Opened,
    options: &ReadOptions,
    sink: &dyn Sink,
    run: &Run,
) -> Result<Examined> {
    let budget = opened.budget.clone();
    let outcome = decoding(&options.decoders, &budget, sink, run, |sink| {
        opened.read(options, sink, run)
    })?;
    let name = opened.input.name().to_owned();
    Ok(Examined { name, outcome })
}

/// Does `work` with what takes `decoders` off members in front of `sink`.
pub(crate) fn decoding<T>(
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
