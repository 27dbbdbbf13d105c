//! `xbcrypt` of Percona XtraBackup: one file, encrypted or decrypted.
//!
//! Rules: `format-spec/compat-xbcrypt.md`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::archive::decoding;
use crate::base::cancel::POLL_INTERVAL;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::File;
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::codec::{Decoders, Encoders};
use crate::compat::grammar::{Action, Opt, Row, Show};
use crate::compat::hints::error_lines;
use crate::compat::key::{ALGORITHMS, KeySource};
use crate::compat::voice::Voice;
use crate::compat::{Started, start};
use crate::crypt::xbcrypt::chunk::{CHUNK_LEN_DEFAULT, CHUNK_LEN_MAX, CHUNK_LEN_MIN};
use crate::crypt::xbcrypt::{SUFFIX, XbcryptDecoder, XbcryptEncoder};
use crate::front::lines::tell;
use crate::front::{self, Exit};
use crate::pipeline::budget::{Budget, MEMORY_DEFAULT};
use crate::pipeline::encode::encode_through;
use crate::pipeline::output::{Output, Target};
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::xbstream::{ArchivePath, RemovePattern};

const NAME: &str = "xbcrypt";

/// A key for programs that want to keep it out of `ps`.
const KEY_VARIABLE: &str = "XBCRYPT_ENCRYPTION_KEY";

/// What the file is called between source and target; encrypted, with the suffix.
const PLAIN_NAME: &str = "content";

const OPTIONS: &[Opt<Settings>] = &[
    Opt::HELP,
    Opt::VERSION,
    Opt {
        long: "decrypt",
        short: Some('d'),
        action: Action::Bool(|s, on| s.decrypt = on),
        help: "Decrypt. Without this option the input is encrypted.",
    },
    Opt {
        long: "input",
        short: Some('i'),
        action: Action::Text(|s, file| s.input = Some(file)),
        help: "File to read. Default: standard input.",
    },
    Opt {
        long: "output",
        short: Some('o'),
        action: Action::Text(|s, file| s.output = Some(file)),
        help: "File to write, which must not exist. Default: standard output.",
    },
    Opt {
        long: "encrypt-algo",
        short: Some('a'),
        action: Action::Word {
            words: ALGORITHMS,
            set: |s, word| s.key.algorithm = Some(word),
        },
        help: "The length of the key decides which AES it is; if that is not this one, a warning says so. NONE is refused for writing.",
    },
    Opt {
        long: "encrypt-key",
        short: Some('k'),
        action: Action::Text(|s, key| s.key.text = Some(key)),
        help: "The key itself: 16, 24 or 32 bytes. Every user of the system can see it; give a file instead.",
    },
    Opt {
        long: "encrypt-key-file",
        short: Some('f'),
        action: Action::Text(|s, file| s.key.file = Some(file)),
        help: "File whose 16, 24 or 32 bytes are the key, without a newline.",
    },
    Opt {
        long: "encrypt-chunk-size",
        short: Some('s'),
        action: Action::Number {
            min: CHUNK_LEN_MIN as i64,
            max: CHUNK_LEN_MAX as i64,
            set: |s, n| s.chunk_len = Some(n),
        },
        help: "Plain bytes of a chunk, 1K to 1M. Default: 64K.",
    },
    Opt {
        long: "encrypt-threads",
        short: Some('t'),
        action: Action::IgnoredNumber,
        help: "There are as many threads as processors.",
    },
    Opt {
        long: "read-buffer-size",
        short: Some('r'),
        action: Action::IgnoredNumber,
        help: "Buffers have a fixed size.",
    },
    Opt {
        long: "verbose",
        short: Some('v'),
        action: Action::Bool(|s, on| s.verbose = on),
        help: "Tell on standard error how many bytes were read and written.",
    },
];

pub(super) fn rows() -> Vec<Row> {
    OPTIONS.iter().map(Opt::row).collect()
}

#[derive(Debug, Default)]
struct Settings {
    decrypt: bool,
    input: Option<OsString>,
    output: Option<OsString>,
    key: KeySource,
    chunk_len: Option<u64>,
    verbose: bool,
}

/// Runs a command line, without the program's name.
pub(super) fn run(args: &[OsString]) -> Exit {
    let (settings, words) = match start(NAME, OPTIONS, args, shown) {
        Started::Run(settings, words) => (settings, words),
        Started::Over(exit) => return exit,
    };
    // r[compat-xbcrypt.words]
    if let Some(word) = words.first() {
        tell(&format!(
            "{NAME}: unexpected word {word:?}; files are named by -i and -o"
        ));
        return Exit::FAILED;
    }
    let verbose = settings.verbose;
    let voice = Voice::new(NAME, None);
    match front::supervise(Arc::new(voice), move |run| crypt(&settings, run)) {
        Ok((read, written)) => {
            if verbose {
                tell(&format!(
                    "{NAME}: {read} bytes read, {written} bytes written"
                ));
            }
            Exit::DONE
        }
        Err(error) => {
            for line in error_lines(NAME, &rows(), &[], &error) {
                tell(&line);
            }
            Exit::FAILED
        }
    }
}

fn shown(show: Show) -> String {
    let version = format!(
        "{NAME}  Ver {} for Linux ({}) (revision id: xbpipe)\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    match show {
        Show::Version => version,
        Show::Help => {
            version
                + "This is xbpipe, which encrypts and decrypts what xbcrypt does.\n\n\
                   Usage:\n  xbcrypt [OPTIONS...] < FILE > FILE.xbcrypt\n  \
                   xbcrypt -d [OPTIONS...] < FILE.xbcrypt > FILE\n\n"
        }
    }
}

/// Bytes read and written.
fn crypt(settings: &Settings, run: &Run) -> Result<(u64, u64)> {
    let environment = std::env::var_os(KEY_VARIABLE);
    let (key, remark) = settings.key.key(environment.as_deref())?;
    // r[compat-xbcrypt.none]
    if !settings.decrypt && settings.key.algorithm == Some(0) {
        return Err(
            Error::new(Kind::Usage, "the algorithm NONE does not encrypt")
                .hint("name another one, or copy the file as it is"),
        );
    }
    if let Some(remark) = remark {
        run.monitor.warning(remark);
    }
    let source = match &settings.input {
        Some(path) => File::open(path)?,
        None => {
            let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
                .map_err(|e| Error::io("duplicate", "(standard input)", e))?;
            File::from_fd(fd, "(standard input)")
        }
    };
    let target = match &settings.output {
        Some(path) => Target::File(PathBuf::from(path)),
        None => Target::Stdout {
            terminal: settings.decrypt,
        },
    };
    let sink = OneFile {
        output: Output::open(target, &run.cancel, Arc::clone(&run.monitor))?,
    };
    let memory = ByteCount(MEMORY_DEFAULT);
    let read = if settings.decrypt {
        let decoders: Decoders = vec![Arc::new(XbcryptDecoder::new(key))];
        let budget = Budget::decode(memory, 1, &decoders)?;
        let name = format!("{PLAIN_NAME}{SUFFIX}");
        decoding(&decoders, &budget, &sink, run, |sink| {
            copy(&source, sink, &name, &budget, run)
        })
    } else {
        let chunk_len = settings
            .chunk_len
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(CHUNK_LEN_DEFAULT);
        let encoders: Encoders = vec![Arc::new(XbcryptEncoder::new(key, chunk_len))];
        let budget = Budget::encode(memory, 1, &encoders)?;
        encode_through(
            &sink,
            &encoders,
            &budget,
            &|_, _| false,
            &run.cancel,
            |sink| copy(&source, sink, PLAIN_NAME, &budget, run),
        )
    }
    // The file has a name of its own.
    .map_err(|e| match e.file() {
        Some(file)
            if file.starts_with(PLAIN_NAME) || file.ends_with(PLAIN_NAME.to_owned() + SUFFIX) =>
        {
            e.path(source.path())
        }
        _ => e,
    })?;
    let written = sink.output.finish()?;
    Ok((read, written))
}

/// The whole source as one file of `sink`. Returns its bytes.
fn copy(source: &File, sink: &dyn Sink, name: &str, budget: &Budget, run: &Run) -> Result<u64> {
    let name = ArchivePath::new(name.as_bytes())
        .map_err(|e| Error::new(Kind::Failed, "the file has no legal name").source(e))?;
    let pool = BufPool::new(budget.input_bufs, budget.input_buf_len);
    let mut file = sink.open(&name, Attributes::default())?;
    let mut position = 0;
    loop {
        let mut buf = pool.get(&run.cancel)?;
        let mut have = 0;
        while have < buf.len() {
            run.cancel.check()?;
            if !source.is_readable_within(POLL_INTERVAL) {
                continue;
            }
            match source.read(buf.get_mut(have..).unwrap_or_default())? {
                0 => break,
                n => have += n,
            }
        }
        if have == 0 {
            file.close()?;
            return Ok(position);
        }
        file.data(position, buf.freeze(have))?;
        // Nobody else gives buffers back.
        file.flush()?;
        position += have as u64;
    }
}

/// A sink for a single file, which becomes the output.
struct OneFile {
    output: Output,
}

impl Sink for OneFile {
    fn open<'s>(&'s self, _: &ArchivePath, _: Attributes) -> Result<Box<dyn FileSink + 's>> {
        Ok(Box::new(Content {
            output: &self.output,
            position: 0,
        }))
    }

    fn directory(&self, _: &ArchivePath) -> Result<()> {
        Ok(())
    }

    fn rename(&self, _: &ArchivePath, _: &ArchivePath) -> Result<()> {
        Ok(())
    }

    fn remove(&self, _: &RemovePattern) -> Result<()> {
        Ok(())
    }
}

struct Content<'s> {
    output: &'s Output,
    position: u64,
}

impl FileSink for Content<'_> {
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()> {
        if offset != self.position {
            return Err(Error::new(Kind::Failed, "output is written in order, not").at(offset));
        }
        self.position += data.len() as u64;
        self.output.send(vec![data])?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
