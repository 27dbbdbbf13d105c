//! The archive verbs.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::archive::cat::cat;
use crate::archive::create::{CreateOptions, create};
use crate::archive::extract::{ExtractOptions, extract};
use crate::archive::list::{Listing, Member, chain, list};
use crate::archive::quick::verify_quick;
use crate::archive::verify::verify;
use crate::archive::{Access, Examined, ReadOptions, Stored};
use crate::base::error::{Error, Kind, Result};
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::cli::common::{ChunkArgs, Common, CompressArgs};
use crate::cli::convert::ConvertArgs;
use crate::cli::crypt::{DecryptArgs, EncryptArgs};
use crate::cli::store::verify_stored;
use crate::cli::store_args::StoreArgs;
use crate::cli::{Summary, Verb};
use crate::codec::{Decoders, Encoders, decompressors};
use crate::pipeline::demux::End;
use crate::pipeline::dir_sink::DirOptions;
use crate::pipeline::output::Target;
use crate::pipeline::select::Selection;
use crate::pipeline::tree::TreeOptions;
use crate::xbstream::ArchivePath;

#[derive(Debug, Subcommand)]
pub(super) enum ArchiveVerbs {
    /// Store files and directories as one archive
    Create(CreateArgs),
    /// Take files out of an archive
    #[command(visible_alias = "restore")]
    Extract(ExtractArgs),
    /// Tell what an archive holds
    List(ListArgs),
    /// Check an archive without writing anything
    Verify(VerifyArgs),
    /// Write files of an archive to standard output
    Cat(CatArgs),
    /// Write an archive anew: plain, or compressed or encrypted in another way
    Convert(ConvertArgs),
}

impl ArchiveVerbs {
    pub(super) fn into_verb(self) -> Box<dyn Verb + Send> {
        match self {
            Self::Create(args) => Box::new(args),
            Self::Extract(args) => Box::new(args),
            Self::List(args) => Box::new(args),
            Self::Verify(args) => Box::new(args),
            Self::Cat(args) => Box::new(args),
            Self::Convert(args) => Box::new(args),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Directories are stored with everything in them, empty ones too, in sorted order. Owners, permissions and times are not
stored. Names are looked at before the first byte is written: what cannot be stored is an error, not a gap.

The archive ends with an index that proves it whole; mbstream and xbstream extract it as one more file, xbpipe_index.

When this returns with status 0, an archive that --to names is on stable storage under its name. What goes to standard output is
out of our hands: whoever reads it has to see to that, and tells by an exit status of its own.

Examples:
  xbpipe create -C /backup/full . | ssh db2 xbpipe extract -C /restore
  xbpipe create -C /backup/full --compress zstd:3 --to /archive/full.xb .
  xbpipe create --to full.xb sakila ibdata1")]
pub(super) struct CreateArgs {
    /// Directory that PATHs are relative to
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,

    /// Archive to write: a new file, or `-` for standard output
    #[arg(long, value_name = "DEST", default_value = "-")]
    to: PathBuf,

    #[command(flatten)]
    compress: CompressArgs,

    #[command(flatten)]
    encrypt: EncryptArgs,

    #[command(flatten)]
    chunk: ChunkArgs,

    /// Store what symbolic links point to
    #[arg(long)]
    dereference: bool,

    /// Leave out symbolic links, sockets, FIFOs and devices, each with a warning
    #[arg(long)]
    skip_special: bool,

    /// Store holes of files as sparse chunks instead of zeros: xbpipe and Percona's xbstream from 8.0.7 on read them, mbstream
    /// does not
    #[arg(long)]
    sparse: bool,

    /// Files and directories to store
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    common: Common,
}

impl Verb for CreateArgs {
    fn name(&self) -> &'static str {
        "create"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let target = if self.to.as_os_str() == "-" {
            Target::Stdout { terminal: false }
        } else {
            Target::File(self.to)
        };
        let mut encoders = self.compress.encoders()?;
        encoders.extend(self.encrypt.encoder(run.monitor.as_ref())?);
        check_sparse(self.sparse, &encoders)?;
        let options = CreateOptions {
            directory: self.directory,
            names: self.paths,
            target,
            encoders,
            memory: self.common.memory(),
            parallel: self.common.parallel(),
            chunk_len: self.chunk.len()?,
            sparse: self.sparse,
            tree: TreeOptions {
                dereference: self.dereference,
                skip_special: self.skip_special,
            },
        };
        let done = create(options, run)?;
        Ok(Summary {
            files: done.members,
            bytes: done.archive_bytes,
        })
    }
}

/// Holes of what is compressed or encrypted do not show.
pub(super) fn check_sparse(sparse: bool, encoders: &Encoders) -> Result<()> {
    if sparse && !encoders.is_empty() {
        return Err(Error::new(
            Kind::Usage,
            "--sparse cannot be combined with --compress or --encrypt",
        )
        .hint("compressed files have no holes, and get them back when they are extracted"));
    }
    Ok(())
}

/// Where an archive comes from.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// Archive to read: a file, or `-` for standard input. One that is compressed as a whole (gzip, zstd, lz4, xz) is
    /// recognised by its content. Or a backup in a store: s3://BUCKET/PREFIX/NAME, a name in the store that --store
    /// names, or its directory
    #[arg(value_name = "SOURCE", default_value = "-")]
    source: PathBuf,

    #[command(flatten)]
    pub(super) store: Box<StoreArgs>,
}

impl Source {
    pub(super) fn options(
        self,
        common: &Common,
        how: ReadHow,
        names: &[OsString],
        run: &Run,
    ) -> Result<ReadOptions> {
        let stored = self.store.stored(&self.source, run)?;
        let stored = stored.map(|backup| Stored {
            from: Arc::new(backup),
            names: names.to_vec(),
        });
        Ok(ReadOptions {
            access: how.access,
            source: Some(self.source),
            memory: match stored {
                Some(_) => common.memory_with_store(),
                None => common.memory(),
            },
            parallel: common.parallel(),
            decoders: how.decoders,
            keep_going: how.keep_going,
            stored,
            max_output: how.max_output,
        })
    }
}

/// What to do with what is read.
pub(super) struct ReadHow {
    pub(super) decoders: Decoders,
    pub(super) keep_going: bool,
    pub(super) access: Access,
    pub(super) max_output: Option<ByteCount>,
}

/// What is taken off members.
#[derive(Debug, Args)]
pub(super) struct Decode {
    /// Decompress files whose names end in .zst, .lz4 or .qp
    #[arg(long)]
    decompress: bool,

    #[command(flatten)]
    decrypt: DecryptArgs,
}

impl Decode {
    pub(super) fn decoders(&self, run: &Run) -> Result<Decoders> {
        let mut decoders = self.decrypt.decoders(run.monitor.as_ref())?;
        if self.decompress {
            decoders.extend(decompressors());
        }
        Ok(decoders)
    }
}

/// A bound on what comes out.
#[derive(Debug, Args)]
pub(super) struct MaxOutput {
    /// Fail rather than put out more bytes of content than this, all files together [default: any number]
    #[arg(long, value_name = "SIZE")]
    pub(super) max_output: Option<ByteCount>,
}

/// What of an archive is meant.
#[derive(Debug, Args)]
pub(super) struct Chosen {
    /// Leave out what matches; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<OsString>,

    /// Files, directories with everything in them, and patterns; everything if none is named
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

impl Chosen {
    pub(super) fn selection(self) -> Selection {
        Selection {
            names: self.paths,
            exclude: self.exclude,
        }
    }
}

/// What the help says about patterns.
macro_rules! patterns {
    () => {
        "\
In a PATH, `*` stands for any characters, also `/`, `?` for one, and `[a-z]` or `[!a-z]` for one of a set, as tar --wildcards has
it: `*.ibd` means all tablespaces, wherever they are, and `sakila/*` everything in that directory. Quote it, or the shell
expands it. A PATH that is a name as it stands means that, too. Every PATH must be found. The PATTERN of --exclude may match from the
beginning of any part of a name on: `--exclude 'tmp*'` also leaves out `db/tmp1`, and everything in it if it is a
directory."
    };
}
pub(super) use patterns;

#[derive(Debug, Args)]
#[command(after_long_help = concat!("\
A file appears under its name only when it is whole and its checksums are right; before that it is called
NAME.xbpipe-partial, and what is not whole at the end keeps that name. An archive that is cut anywhere, also between two
files, is an error that names the files. Nothing is ever written outside DIR, links are not followed.

When this returns with status 0, all files and directories are on stable storage: the target's file system was synced as a whole,
which may take a while. With --no-sync they are complete and under their names, but a power failure may still take them.

--keep-going does not stop at damage: every file that is whole is saved, what is not stays NAME.xbpipe-partial and is named,
and the exit status is 0 only if every file was saved. Where the structure of an archive is damaged, reading goes on at the next chunk, or an
archive file of xbpipe is read by its index. If neither tells whether a file is whole, it is not.

--resume needs an archive with an index, as xbpipe writes it, in a file or in a store. A file that is there and has the length and
checksum of the index is kept and not read from the archive; one that is decompressed or decrypted is read and compared, and kept if it is the
same. Everything else is written again, also a large file of which only the end is missing.

When some files are asked for and the archive is one that xbpipe has written, in a file or in a store, only those are read, and only
they are vouched for; `verify` checks all.

", patterns!(), "

Examples:
  ssh db1 xbpipe create -C /backup/full . | xbpipe extract -C /restore
  xbpipe extract -C /restore --decompress full.xb
  xbpipe extract -C /restore --decompress --max-output 500G from-somebody.xb
  xbpipe extract -C /restore --decompress s3://backups/db1/monday sakila
  xbpipe extract -C /tmp/x full.xb.gz sakila xtrabackup_info
  xbpipe extract -C /tmp/x --strip-components 1 --exclude '*.frm' full.xb 'sakila/*'"))]
pub(super) struct ExtractArgs {
    /// Directory to write to; made if it is missing
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,

    /// Replace files that exist
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    decode: Decode,

    #[command(flatten)]
    limit: MaxOutput,

    /// Go on after damage and save every good file; the exit status is as without it
    #[arg(long)]
    keep_going: bool,

    /// Continue an extraction that was killed: keep files that are already there and right, and write the others
    #[arg(long, conflicts_with_all = ["overwrite", "keep_going"])]
    resume: bool,

    /// Do not wait until everything is on stable storage
    #[arg(long)]
    no_sync: bool,

    /// Take so many directories off the beginning of each name; what has no more parts is left out
    #[arg(long, value_name = "N", default_value_t = 0)]
    strip_components: usize,

    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    chosen: Chosen,

    #[command(flatten)]
    common: Common,
}

impl Verb for ExtractArgs {
    fn name(&self) -> &'static str {
        "extract"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let selection = self.chosen.selection();
        let access = match selection.is_everything() {
            _ if self.resume => Access::Resume,
            true if self.keep_going => Access::Listed,
            true => Access::Whole,
            false => Access::Members,
        };
        let how = ReadHow {
            decoders: self.decode.decoders(run)?,
            keep_going: self.keep_going,
            access,
            max_output: self.limit.max_output,
        };
        let mut read = self
            .source
            .options(&self.common, how, &selection.names, run)?;
        if read.stored.is_some() && access == Access::Whole {
            // In order, one slow range would hold up all behind it.
            read.access = Access::Listed;
        }
        let options = ExtractOptions {
            read,
            directory: self.directory,
            selection,
            strip_components: self.strip_components,
            dir: DirOptions {
                overwrite: self.overwrite,
                resume: self.resume,
                sync: !self.no_sync,
            },
        };
        let done = extract(&options, run)?;
        Ok(Summary {
            files: done.files,
            bytes: done.payload_bytes,
        })
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = concat!("\
Of an archive that xbpipe has written, in a file or in a store, only the index is read; of another file, only the structure. So this tells what should be in
the archive: `verify` tells whether it is. What comes through a pipe, or is compressed as a whole, is read and checked.

Names are in order of their bytes; what is not printable in them is escaped. With
--long each line is: kind, size as stored, name; the kind is `f` for a file, `d` for an empty directory, `!` for a file that
is not whole. With --json each line is an object with the fields type (file or directory), size, whole, path, when the name is
not UTF-8 path_hex, chain (how it is compressed and encrypted, by its suffixes), and where the index tells it plain_size, the
size after decompression; the last line has the field archive.

", patterns!(), "

Examples:
  xbpipe list full.xb
  zcat full.xb.gz | xbpipe list --long
  xbpipe list --json full.xb | jq -r 'select(.size > 1e9) | .path'"))]
pub(super) struct ListArgs {
    /// Tell kind and size as well
    #[arg(short, long, conflicts_with = "json")]
    long: bool,

    /// One JSON object per line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    decode: Decode,

    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    chosen: Chosen,

    #[command(flatten)]
    common: Common,
}

impl Verb for ListArgs {
    fn name(&self) -> &'static str {
        "list"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn is_brief(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let selection = self.chosen.selection();
        let how = ReadHow {
            decoders: self.decode.decoders(run)?,
            keep_going: true,
            access: Access::Structure,
            max_output: None,
        };
        let options = self
            .source
            .options(&self.common, how, &selection.names, run)?;
        let Listing { members, examined } = list(&options, &selection, run)?;
        let Examined { name, outcome } = examined;
        let mut out = Vec::new();
        let mut bytes = 0;
        for (path, member) in &members {
            bytes += member.size;
            let line = match (self.json, self.long) {
                (true, _) => json_member(path, member).to_string(),
                (false, true) => format!("{} {:>16} {path}", letter(member), member.size),
                (false, false) => path.to_string(),
            };
            out.extend_from_slice(line.as_bytes());
            out.push(b'\n');
        }
        if self.json {
            let line = json!({ "archive": {
                "whole": outcome.is_whole(),
                "end": outcome.end.word(),
                "files": outcome.files,
                "payload_bytes": outcome.payload_bytes,
                "archive_bytes": outcome.archive_bytes,
            }});
            out.extend_from_slice(line.to_string().as_bytes());
            out.push(b'\n');
        }
        print(&out)?;
        outcome.check(&name)?;
        let files = u64::try_from(members.len()).unwrap_or(u64::MAX);
        Ok(Summary { files, bytes })
    }
}

fn letter(member: &Member) -> char {
    match (member.whole, member.directory) {
        (false, _) => '!',
        (true, true) => 'd',
        (true, false) => 'f',
    }
}

fn json_member(path: &ArchivePath, member: &Member) -> Value {
    let kind = if member.directory {
        "directory"
    } else {
        "file"
    };
    let mut value = json!({
        "type": kind,
        "size": member.size,
        "whole": member.whole,
        "path": String::from_utf8_lossy(path.as_bytes()),
        "chain": chain(path),
    });
    if let (Some(size), Some(object)) = (member.plain_size, value.as_object_mut()) {
        object.insert("plain_size".to_owned(), json!(size));
    }
    if let (Err(_), Some(object)) = (std::str::from_utf8(path.as_bytes()), value.as_object_mut()) {
        let hex: String = path.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        object.insert("path_hex".to_owned(), json!(hex));
    }
    value
}

#[derive(Debug, Args)]
#[command(after_long_help = concat!("\
Everything that extract checks: structure, the checksum of every chunk, the end of every file, and the end of the archive
where it states one (archives of xbpipe do; those of other programs end wherever they end). All damage is told, not only
the first. With --decompress the compressed files are decompressed and their own checksums checked as well. With PATHs, of an
archive that xbpipe has written, in a file or in a store, only those are read.

With --quick only the structure is checked. Of an archive file that xbpipe has written: trailer, checksums of the index, the head of
every chunk and all sizes. That finds a copy that was cut or mixed up, but not a wrong byte inside a file. Any other archive is
followed from chunk to chunk; in a file, large content is passed over. What comes through a pipe, or is compressed as a whole, is read
to its end all the same.

Each damaged file is named with the reason and the byte offset, then what is wrong with the structure. The last line on
standard output is the verdict. With --json it is one object with the fields whole, end (proven, unstated,
missing, or indexed where not all was read), files, payload_bytes, archive_bytes, damaged, refused and incomplete (names), findings (each with path, kind,
offset, reason and hint; the path is null for the structure), error. Refused is what cannot be decoded and may be right all the same: no key fits, or it is of a format that is not read.

", patterns!(), "

Examples:
  xbpipe verify full.xb
  xbpipe verify --quick full.xb
  xbpipe verify --decompress --json - < full.xb"))]
pub(super) struct VerifyArgs {
    /// The result as a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    decode: Decode,

    #[command(flatten)]
    limit: MaxOutput,

    /// Check the structure only
    #[arg(long, conflicts_with_all = ["decompress", "exclude", "paths"])]
    quick: bool,

    /// Of a backup in a store: 0 looks at its objects, 1 reads its index, 2 some of it, 3 all
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u8).range(0..=3))]
    level: u8,

    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    chosen: Chosen,

    #[command(flatten)]
    common: Common,
}

impl Verb for VerifyArgs {
    fn name(&self) -> &'static str {
        "verify"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn is_brief(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        if self.level < 3 {
            let found = self.source.store.stored(&self.source.source, run)?;
            let Some(backup) = found else {
                return Err(Error::new(Kind::Usage, "--level is for backups in a store"));
            };
            let memory = self.common.memory_with_store();
            return verify_stored(&backup, self.level, memory, self.json, run);
        }
        let selection = self.chosen.selection();
        let access = if selection.is_everything() {
            Access::Whole
        } else {
            Access::Members
        };
        let how = ReadHow {
            decoders: self.decode.decoders(run)?,
            keep_going: true,
            access,
            max_output: self.limit.max_output,
        };
        let options = self
            .source
            .options(&self.common, how, &selection.names, run)?;
        let Examined { name, outcome } = if self.quick {
            verify_quick(&options, run)?
        } else {
            verify(&options, &selection, run)?
        };
        let failed = |refused: bool| -> Vec<String> {
            (outcome.failures.iter())
                .filter(|f| f.is_refused() == refused)
                .map(|f| f.path.to_string())
                .collect()
        };
        let (damaged, refused) = (failed(false), failed(true));
        let structure = outcome.stream_error.iter().chain(&outcome.further);
        let mut findings: Vec<(String, Value)> = structure
            .map(|error| finding(None, error))
            .chain(
                outcome
                    .failures
                    .iter()
                    .map(|f| finding(Some(&f.path), &f.error)),
            )
            .collect();
        let told = |path: &ArchivePath| outcome.failures.iter().any(|f| f.path == *path);
        findings.extend(
            outcome
                .incomplete
                .iter()
                .filter(|path| !told(path))
                .map(|path| {
                    let reason =
                        Error::new(Kind::Incomplete, "the archive does not hold all of it");
                    finding(Some(path), &reason)
                }),
        );
        let incomplete: Vec<String> = outcome.incomplete.iter().map(ToString::to_string).collect();
        let mut result = json!({
            "whole": outcome.is_whole(),
            "end": outcome.end.word(),
            "files": outcome.files,
            "payload_bytes": outcome.payload_bytes,
            "archive_bytes": outcome.archive_bytes,
            "damaged": damaged,
            "refused": refused,
            "incomplete": incomplete,
            "findings": findings.iter().map(|(_, json)| json).collect::<Vec<_>>(),
            "error": null,
        });
        let mut verdict = format!(
            "{name}: not right: {} files verified, {} damaged, {} not whole",
            outcome.files,
            damaged.len(),
            incomplete.len()
        );
        if !refused.is_empty() {
            verdict.push_str(&format!(", {} not decoded", refused.len()));
        }
        let summary = Summary {
            files: outcome.files,
            bytes: outcome.archive_bytes,
        };
        let (whole, verified, end) = match (self.quick, outcome.end) {
            (true, End::Unstated | End::Missing) => (
                "whole as far as its structure tells",
                "in place",
                ", the archive does not state its end",
            ),
            (true, _) => ("whole as far as its structure tells", "in place", ""),
            (false, End::Proven) => ("whole", "verified", ", end proven"),
            (false, End::Indexed) => ("right where it was read", "verified", ""),
            (false, End::Unstated | End::Missing) => {
                ("whole", "verified", ", the archive does not state its end")
            }
        };
        let sentence = format!(
            "{name}: {whole}: {} files, {} bytes {verified}{end}",
            outcome.files, outcome.payload_bytes,
        );
        let checked = outcome.check(&name);
        if let (Err(error), Some(slot)) = (&checked, result.get_mut("error")) {
            *slot = json!(error.to_string());
        }
        if self.json {
            print(format!("{result}\n").as_bytes())?;
        } else if checked.is_ok() {
            print(format!("{sentence}\n").as_bytes())?;
        } else {
            let lines: String = findings.into_iter().map(|(line, _)| line).collect();
            print(format!("{lines}{verdict}\n").as_bytes())?;
        }
        checked.map(|_| summary)
    }
}

/// Something that is wrong, as a line and as JSON.
fn finding(path: Option<&ArchivePath>, error: &Error) -> (String, Value) {
    let (what, name) = match path {
        Some(path) => (path.to_string(), json!(path.to_string())),
        None => ("(structure)".to_owned(), Value::Null),
    };
    let value = json!({
        "path": name,
        "kind": error.kind().word(),
        "offset": error.position(),
        "reason": error.to_string(),
        "hint": error.hint_text(),
    });
    let hint = error.hint_text().map(|hint| format!(" ({hint})"));
    (
        format!("{what}: {error}{}\n", hint.unwrap_or_default()),
        value,
    )
}

#[derive(Debug, Args)]
#[command(after_long_help = concat!("\
Files come one after another in the order in which they begin in the archive. Of an archive that xbpipe has written, in a file or in
a store, only they are read; any other archive is read and checked to its end. What is on standard output can be trusted only when the exit
status is 0.

", patterns!(), "

Examples:
  xbpipe cat full.xb xtrabackup_info
  xbpipe cat --decompress - xtrabackup_checkpoints < full.xb"))]
pub(super) struct CatArgs {
    #[command(flatten)]
    decode: Decode,

    #[command(flatten)]
    limit: MaxOutput,

    /// Archive to read: a file, `-` for standard input, or a backup in a store as for extract
    #[arg(value_name = "SOURCE")]
    source: PathBuf,

    #[command(flatten)]
    store: Box<StoreArgs>,

    /// Leave out what matches; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<OsString>,

    /// Files to write, patterns of them, or directories with everything in them
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,

    #[command(flatten)]
    common: Common,
}

impl Verb for CatArgs {
    fn name(&self) -> &'static str {
        "cat"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn is_brief(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let source = Source {
            source: self.source,
            store: self.store,
        };
        let how = ReadHow {
            decoders: self.decode.decoders(run)?,
            keep_going: false,
            access: Access::InOrder,
            max_output: self.limit.max_output,
        };
        let selection = Selection {
            names: self.paths,
            exclude: self.exclude,
        };
        let options = source.options(&self.common, how, &selection.names, run)?;
        let done = cat(&options, &selection, std::env::temp_dir(), run)?;
        Ok(Summary {
            files: done.files,
            bytes: done.payload_bytes,
        })
    }
}

/// Writes a result. A reader that has seen enough (`| head`) is no failure: everything was checked before this is called.
pub(super) fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::io("write", "(standard output)", e)),
        Ok(()) => Ok(()),
    }
}
