//! Extraction as the programs before us do it: from standard input, or from several streams that are open already.

use crate::archive::{Examined, INPUT_LEN, LANE_BUFS_MAX, READ_AHEAD_LEN_MAX, decoding};
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::File;
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::codec::Decoders;
use crate::pipeline::budget::Budget;
use crate::pipeline::demux::{self, DemuxOptions, LoneChunk};
use crate::pipeline::dir_sink::DirSink;
use crate::pipeline::input::Input;

/// Bytes read at once when there are several streams.
const STREAM_READ_LEN: usize = 256 << 10;

/// Where archives come from.
#[derive(Debug)]
pub enum Streams {
    /// One, on standard input.
    Standard,
    /// These. Together they are one archive that was dealt out file by file; one of them may be empty.
    Open(Vec<Stream>),
}

/// One stream that is open.
#[derive(Debug)]
pub struct Stream {
    /// Read from where it stands.
    pub file: File,
    /// The first bytes, if they were read already.
    pub head: Vec<u8>,
}

/// How to read them.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Buffers altogether.
    pub memory: ByteCount,
    /// Lanes altogether; each stream has at least one.
    pub parallel: usize,
    /// What is taken off members by their suffixes.
    pub decoders: Decoders,
    /// Whether an input that consists of one chunk is one whole file.
    pub lone_chunk: Option<LoneChunk>,
}

/// Extracts into `target`. Streams that are not whole are an error, the first of them is told.
pub fn extract_streams(
    streams: Streams,
    options: &StreamOptions,
    target: DirSink,
    run: &Run,
) -> Result<()> {
    let budget = Budget::decode(options.memory, options.parallel, &options.decoders)?;
    let (dealt, sources) = match streams {
        Streams::Standard => (false, vec![None]),
        Streams::Open(streams) => (true, streams.into_iter().map(Some).collect()),
    };
    let (read_len, read_ahead) = match sources.len() {
        0 | 1 => (INPUT_LEN, READ_AHEAD_LEN_MAX / INPUT_LEN),
        // One buffer is filled while another is with the lanes.
        n => (
            STREAM_READ_LEN,
            (READ_AHEAD_LEN_MAX / STREAM_READ_LEN / n).max(2),
        ),
    };
    let lanes = (budget.lanes / sources.len().max(1)).max(1);
    let total = budget.input_bufs * budget.input_buf_len;
    // Only one that is a regular file is read by lanes themselves.
    let lane_bufs = total.saturating_sub(READ_AHEAD_LEN_MAX) / budget.input_buf_len / lanes;
    let demux_options = DemuxOptions {
        lanes,
        lane_bufs: (lane_bufs.clamp(1, LANE_BUFS_MAX), budget.input_buf_len),
        keep_going: false,
        structure_only: false,
        lone_chunk: options.lone_chunk,
    };
    let examined = decoding(&options.decoders, &budget, &target, run, |sink| {
        let read = |source: Option<Stream>| {
            let pool = BufPool::new(read_ahead, read_len);
            let mut input = open(source, pool, options.memory, run)?;
            let outcome = demux::run(&mut input, sink, demux_options, &run.cancel, &run.monitor)?;
            let name = input.name().to_owned();
            Ok(Examined { name, outcome })
        };
        read_each(sources, read, run)
    })?;
    let empty = examined.iter().all(|e| e.outcome.archive_bytes == 0);
    for Examined { name, outcome } in examined {
        // r[compat-xbstream.fifo.empty]
        if dealt && !empty && outcome.archive_bytes == 0 {
            continue;
        }
        outcome.check(&name)?;
    }
    target.finish()
}

/// Waits for the first bytes.
fn open(source: Option<Stream>, pool: BufPool, memory: ByteCount, run: &Run) -> Result<Input> {
    match source {
        None => Input::open(None, pool, memory, run),
        Some(Stream { file, head }) => {
            let name = format!("{:?}", file.path());
            Input::over(file, name, head, pool, memory, run)
        }
    }
}

/// All at the same time, each on a thread of its own: the writer of one stream may wait for the reader of another.
fn read_each(
    sources: Vec<Option<Stream>>,
    read: impl Fn(Option<Stream>) -> Result<Examined> + Sync,
    run: &Run,
) -> Result<Vec<Examined>> {
    let read = &read;
    std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(sources.len());
        let mut failed = None;
        for source in sources {
            let thread = std::thread::Builder::new()
                .name("stream".to_owned())
                .spawn_scoped(scope, move || {
                    // The others would wait for what this one does not read.
                    read(source).inspect_err(|error| run.cancel.fail(error))
                });
            match thread {
                Ok(thread) => threads.push(thread),
                Err(e) => {
                    let error = Error::new(Kind::Failed, "cannot start a thread").source(e);
                    run.cancel.fail(&error);
                    failed.get_or_insert(error);
                }
            }
        }
        let mut examined = Vec::with_capacity(threads.len());
        for thread in threads {
            match thread.join() {
                Ok(Ok(one)) => examined.push(one),
                Ok(Err(error)) => {
                    failed.get_or_insert(error);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        failed.map_or(Ok(examined), Err)
    })
}
