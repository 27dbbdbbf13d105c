//! The verb that writes an archive anew.

use std::path::PathBuf;

use clap::Args;

use crate::archive::Access;
use crate::archive::convert::{ConvertOptions, convert};
use crate::base::error::Result;
use crate::base::run::Run;
use crate::cli::archive::{Chosen, Decode, MaxOutput, ReadHow, Source, check_sparse, patterns};
use crate::cli::common::{ChunkArgs, Common, CompressArgs};
use crate::cli::crypt::EncryptArgs;
use crate::cli::{Summary, Verb};
use crate::pipeline::output::{OpenSink as _, Target};

#[derive(Debug, Args)]
#[command(after_long_help = concat!("\
The archive goes through memory, never over a disk. What comes out is read by every version of xbstream and mbstream, and has an
index: chunks of one vendor only (sparse ones, seeks, renames, removals, replacements) are carried out. Members that are
compressed already are not compressed again; to change how, take that off with --decompress. So it is with encryption.

An archive file without an index is read twice, the first time its structure only, or all of it if it is compressed as a whole. What
comes through a pipe or out of a store is read once: if it renames, removes or changes a member that has been passed
on, as mariadb-backup does when there was DDL, the conversion fails and says so.

The target appears under its name only if all of the source that was read is right, and it is on stable storage when this returns with status
0; what goes to standard output is its reader's to keep. What an archive of another program does not tell,
its end, cannot be checked.

With --compress or --encrypt the least --memory is 16M.

", patterns!(), "

Examples:
  xbpipe convert --decompress --compress zstd:3 --to new.xb old.xb
  xbpipe convert --decompress --compress zstd --to s3://backups/db1/monday monday.xb.gz
  xbpipe convert --decrypt-key-file xbcrypt.key --encrypt age --encrypt-recipient age1... --to new.xb old.xb
  xbpipe convert --exclude 'test/*' full.xb | mbstream -x -C /restore"))]
pub(super) struct ConvertArgs {
    /// `-` for standard output, a new file, a name in a store (s3://BUCKET/PREFIX/NAME), or a store itself (with a slash at the
    /// end; the name is the time then)
    #[arg(long, value_name = "DEST", default_value = "-")]
    to: PathBuf,

    #[command(flatten)]
    decode: Decode,

    #[command(flatten)]
    limit: MaxOutput,

    #[command(flatten)]
    compress: CompressArgs,

    #[command(flatten)]
    encrypt: EncryptArgs,

    #[command(flatten)]
    chunk: ChunkArgs,

    /// Store holes that the archive tells of as sparse chunks instead of zeros: xbpipe and Percona's xbstream from 8.0.7 on read
    /// them, mbstream does not
    #[arg(long)]
    sparse: bool,

    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    chosen: Chosen,

    #[command(flatten)]
    common: Common,
}

impl Verb for ConvertArgs {
    fn name(&self) -> &'static str {
        "convert"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let mut encoders = self.compress.encoders()?;
        encoders.extend(self.encrypt.encoder(run.monitor.as_ref())?);
        check_sparse(self.sparse, &encoders)?;
        let store = &self.source.store;
        let place = store.new_backup(&self.to, &self.common, run)?;
        let selection = self.chosen.selection();
        let how = ReadHow {
            decoders: self.decode.decoders(run)?,
            keep_going: false,
            max_output: self.limit.max_output,
            access: if selection.is_everything() {
                Access::Whole
            } else {
                Access::Members
            },
        };
        let mut read = self
            .source
            .options(&self.common, how, &selection.names, run)?;
        let target = match place {
            Some((place, left)) => {
                read.memory = left;
                Target::Sink(place.open(run)?)
            }
            None if self.to.as_os_str() == "-" => Target::Stdout { terminal: false },
            None => Target::File(self.to),
        };
        let options = ConvertOptions {
            read,
            selection,
            target,
            encoders,
            chunk_len: self.chunk.len()?,
            sparse: self.sparse,
        };
        let done = convert(options, run)?;
        Ok(Summary {
            files: done.members,
            bytes: done.archive_bytes,
        })
    }
}
