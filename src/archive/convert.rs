//! `convert`: archive to archive. `r[convert.members]`

use std::sync::{Arc, Mutex, PoisonError};

use crate::archive::list::chain;
use crate::archive::{Opened, ReadOptions, decoding};
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::monitor::{Monitor, Unwatched};
use crate::base::run::Run;
use crate::base::spec::{Limit, Tables};
use crate::codec::{Encoder, Encoders};
use crate::pipeline::archive_sink::{ArchiveSink, ArchiveSummary};
use crate::pipeline::budget::Budget;
use crate::pipeline::demux::{self, DemuxOptions};
use crate::pipeline::encode::{encode_through, is_read_in_stream};
use crate::pipeline::index_file::Indexed;
use crate::pipeline::limit::LimitSink;
use crate::pipeline::output::{Output, Target};
use crate::pipeline::select::{SelectSink, Selection};
use crate::pipeline::settle::{Names, PATCHES_LEN_MAX, Plan, SettledSink, Survey};
use crate::pipeline::sink::{Attributes, FileSink, NullSink, Sink};
use crate::xbstream::index::INDEX_PATH;
use crate::xbstream::{ArchivePath, RemovePattern};

/// Everything that `format-spec/convert.md` shares with the code.
pub const TABLES: Tables = Tables {
    document: "convert.md",
    layouts: &[],
    enums: &[],
    limits: &[Limit {
        name: "PATCHES_LEN_MAX",
        value: PATCHES_LEN_MAX as u64,
        unit: "bytes",
    }],
};

/// What to convert, and into what.
#[derive(Debug)]
pub struct ConvertOptions {
    /// Where it comes from, and what is taken off members.
    pub read: ReadOptions,
    /// What to take.
    pub selection: Selection,
    /// Where the archive goes.
    pub target: Target,
    /// What members pass through, in this order.
    pub encoders: Encoders,
    /// Most payload of one chunk, if asked for.
    pub chunk_len: Option<usize>,
    /// Tell holes as such, for readers that know sparse chunks.
    pub sparse: bool,
}

/// Converts. The archive is finished only if all that was read of the source was right.
pub fn convert(options: ConvertOptions, run: &Run) -> Result<ArchiveSummary> {
    let read = &options.read;
    let (decode, mut encode) = Budget::convert(
        read.memory_for_pipeline()?,
        read.parallel,
        &read.decoders,
        &options.encoders,
    )?;
    if let Some(len) = options.chunk_len {
        encode = encode.with_chunk_len(len);
    }
    let mut opened = Opened::within(decode.clone(), read, run)?;
    let plan = match plan(&mut opened, read, run)? {
        Planned::No => None,
        Planned::Here(plan) => {
            opened.input.skip_to(0);
            Some(plan)
        }
        Planned::ToTheEnd(plan) => {
            opened = Opened::within(decode.clone(), read, run)?;
            Some(plan)
        }
    };
    let output = Output::open(options.target, &run.cancel, Arc::clone(&run.monitor))?;
    let archive = ArchiveSink::new(output, encode.chunk)?.with_sparse(options.sparse);
    let named = NamedSink {
        inner: &archive,
        names: Mutex::default(),
        monitor: run.monitor.as_ref(),
    };
    let plain = |path: &ArchivePath, encoder: &dyn Encoder| {
        // r[convert.encoded]
        let is_encoded = || !encoder.encrypts() && !chain(path).is_empty();
        is_read_in_stream(path) || is_index(path) || is_encoded()
    };
    let (encoders, cancel) = (&options.encoders, &run.cancel);
    let outcome = encode_through(&named, encoders, &encode, &plain, cancel, |sink| {
        let limit = LimitSink::new(sink, read.max_output);
        let select = SelectSink::new(&limit, &options.selection)?;
        let outcome = decoding(&read.decoders, &decode, &select, run, |sink| {
            opened.read(read, &SettledSink::new(sink, plan), run)
        })?;
        outcome.check(opened.input.name())?;
        select.check_found()
    });
    outcome?;
    archive.finish()
}

/// What becomes of the members of an archive, as far as that can be known before it is converted.
enum Planned {
    /// It has an index, and so nothing of the kind, or it can be read only once.
    No,
    /// It was looked at, and is still where it was.
    Here(Plan),
    /// It was read to its end.
    ToTheEnd(Plan),
}

/// Goes through an archive that can be read twice. `r[convert.twice]`
fn plan(opened: &mut Opened, options: &ReadOptions, run: &Run) -> Result<Planned> {
    let here = match opened.input.source() {
        // What is wrong with an index is found when the archive is read.
        Some(source) if !matches!(Indexed::find(Arc::clone(&source)), Ok(None)) => {
            return Ok(Planned::No);
        }
        Some(_) => true,
        None if is_file(options)? => false,
        None => return Ok(Planned::No),
    };
    run.monitor.phase("looking for renamed and removed members");
    let survey = Survey::default();
    let how = DemuxOptions {
        structure_only: true,
        ..opened.demux_options(options)
    };
    let nobody: Arc<dyn Monitor> = Arc::new(Unwatched::default());
    let outcome = demux::run(&mut opened.input, &survey, how, &run.cancel, &nobody)?;
    outcome.check(opened.input.name())?;
    let plan = survey.into_plan();
    Ok(if here {
        Planned::Here(plan)
    } else {
        Planned::ToTheEnd(plan)
    })
}

/// Whether the source is a regular file that can be opened again.
fn is_file(options: &ReadOptions) -> Result<bool> {
    let path = options.source.as_ref().filter(|p| p.as_os_str() != "-");
    match (path, &options.stored) {
        (Some(path), None) => Ok(fsx::stat(path)?.mode & 0o170_000 == 0o100_000),
        _ => Ok(false),
    }
}

/// Left by a reader that knows no index. `r[xbstream.index.first]`
fn is_index(path: &ArchivePath) -> bool {
    path.as_bytes() == INDEX_PATH
}

/// Looks at the names that members get in the new archive.
struct NamedSink<'a> {
    inner: &'a ArchiveSink,
    names: Mutex<Names>,
    monitor: &'a dyn Monitor,
}

impl Sink for NamedSink<'_> {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        // r[convert.index]
        if is_index(path) {
            self.monitor.warning(format!(
                "left out {path}: the new archive has its own index"
            ));
            return Ok(Box::new(NullSink));
        }
        // r[convert.encrypted]
        let encryptions = chain(path)
            .into_iter()
            .filter(|how| ["age", "xbcrypt"].contains(how));
        if encryptions.count() > 1 {
            return Err(Error::new(Kind::Failed, "this would be encrypted twice:")
                .path(path.as_path())
                .hint("give --decrypt-key-file, so that its present encryption is taken off"));
        }
        // r[convert.names]
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.insert(path) {
            return Err(Error::new(Kind::Failed, "two members would have the name")
                .path(path.as_path())
                .hint("choose one of them with --exclude, or decompress with other options"));
        }
        self.inner.open(path, attributes)
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        self.inner.directory(path)
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        self.inner.remove(pattern)
    }
}
