//! `xbstream` of Percona XtraBackup and `mbstream` of MariaDB: files into a stream, and a stream into files.
//!
//! Rules: `format-spec/compat-xbstream.md`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::archive::create::create_plain;
use crate::archive::streams::{StreamOptions, Streams, extract_streams};
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::codec::{Decoders, decompressors};
use crate::compat::fifo::Fifos;
use crate::compat::grammar::{Action, Opt, Row, Show};
use crate::compat::hints::error_lines;
use crate::compat::key::{ALGORITHMS, KeySource};
use crate::compat::names;
use crate::compat::voice::{FileLine, Voice};
use crate::compat::{Started, start};
use crate::crypt::xbcrypt::XbcryptDecoder;
use crate::front::lines::tell;
use crate::front::{self, Exit};
use crate::pipeline::budget::{MEMORY_DEFAULT, default_lanes};
use crate::pipeline::dir_sink::{DirOptions, DirSink, Ways};
use crate::pipeline::output::Target;
use crate::repository::cloud::is_small_metadata;
use crate::xbstream::limits::CHUNK_PAYLOAD_LEN_DEFAULT;
use crate::xbstream::{Body, ChunkHead};

/// Most streams of one run; as many as there can be lanes.
const FIFO_STREAMS_MAX: i64 = 256;

/// How long the original waits for the other side of a FIFO.
const FIFO_TIMEOUT_SECONDS: u64 = 60;

/// What the two programs have in common, and what they do not.
#[derive(Debug)]
pub(super) struct Dialect {
    name: &'static str,
    version: fn() -> String,
    options: &'static [Opt<Settings>],
    file_line: FileLine,
    /// Permission bits of files and directories before the umask, when the environment has no others.
    modes: (u32, u32),
    /// Whether everything is on stable storage at the end.
    sync: bool,
}

pub(super) const XBSTREAM: Dialect = Dialect {
    name: "xbstream",
    version: || {
        format!(
            "xbstream  Ver {} for Linux ({}) (revision id: xbpipe)",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH
        )
    },
    options: &[
        Opt::HELP,
        Opt::VERSION,
        CREATE,
        EXTRACT,
        DIRECTORY,
        VERBOSE,
        Opt {
            short: None,
            ..PARALLEL
        },
        DECOMPRESS,
        DECOMPRESS_THREADS,
        DECRYPT,
        ENCRYPT_KEY,
        ENCRYPT_KEY_FILE,
        ENCRYPT_THREADS,
        FIFO_STREAMS,
        FIFO_DIR,
        FIFO_TIMEOUT,
        ABSOLUTE_NAMES,
    ],
    // r[compat-xbstream.verbose]
    file_line: str::to_owned,
    modes: (0o640, 0o750),
    sync: true,
};

pub(super) const MBSTREAM: Dialect = Dialect {
    name: "mbstream",
    version: || {
        format!(
            "mbstream  Ver 1.0 for Linux ({}), xbpipe {}",
            std::env::consts::ARCH,
            env!("CARGO_PKG_VERSION")
        )
    },
    options: &[Opt::HELP, CREATE, EXTRACT, DIRECTORY, VERBOSE, PARALLEL],
    file_line: |name| {
        let now = jiff::Zoned::now();
        format!("[00] {} {name}", now.strftime("%Y-%m-%d %H:%M:%S"))
    },
    modes: (0o660, 0o700),
    sync: false,
};

impl Dialect {
    pub(super) fn rows(&self) -> Vec<Row> {
        self.options.iter().map(Opt::row).collect()
    }
}

const CREATE: Opt<Settings> = Opt {
    long: "create",
    short: Some('c'),
    action: Action::Switch(|s| s.create = true),
    help: "Write the files named as one stream to standard output.",
};
const EXTRACT: Opt<Settings> = Opt {
    long: "extract",
    short: Some('x'),
    action: Action::Switch(|s| s.extract = true),
    help: "Read a stream from standard input and write its files. Other words on the command line are ignored.",
};
const DIRECTORY: Opt<Settings> = Opt {
    long: "directory",
    short: Some('C'),
    action: Action::Text(|s, dir| s.directory = Some(dir)),
    help: "Existing directory that names are relative to. Default: the current one.",
};
const VERBOSE: Opt<Settings> = Opt {
    long: "verbose",
    short: Some('v'),
    action: Action::Bool(|s, on| s.verbose = on),
    help: "Tell each file on standard error when it begins.",
};
const PARALLEL: Opt<Settings> = Opt {
    long: "parallel",
    short: Some('p'),
    action: Action::Number {
        min: 1,
        max: i32::MAX as i64,
        set: |s, n| s.parallel = Some(n),
    },
    help: "Files written at the same time on extraction, at most 256. Default: by the processors.",
};
const DECOMPRESS: Opt<Settings> = Opt {
    long: "decompress",
    short: None,
    action: Action::Bool(|s, on| s.decompress = on),
    help: "Decompress files on extraction, by their suffixes, which are dropped.",
};
const DECOMPRESS_THREADS: Opt<Settings> = Opt {
    long: "decompress-threads",
    short: None,
    action: Action::IgnoredNumber,
    help: "There are as many threads as processors.",
};
const DECRYPT: Opt<Settings> = Opt {
    long: "decrypt",
    short: Some('d'),
    action: Action::Word {
        words: ALGORITHMS,
        set: |s, word| s.key.algorithm = Some(word),
    },
    help: "Unless it is NONE, decrypt files whose names end in .xbcrypt on extraction, and drop that suffix. The length of the key decides which AES it is; if that is not this one, a warning says so.",
};
const ENCRYPT_KEY: Opt<Settings> = Opt {
    long: "encrypt-key",
    short: Some('k'),
    action: Action::Text(|s, key| s.key.text = Some(key)),
    help: "The key itself: 16, 24 or 32 bytes. Every user of the system can see it; give a file instead.",
};
const ENCRYPT_KEY_FILE: Opt<Settings> = Opt {
    long: "encrypt-key-file",
    short: Some('f'),
    action: Action::Text(|s, file| s.key.file = Some(file)),
    help: "File whose 16, 24 or 32 bytes are the key, without a newline.",
};
const ENCRYPT_THREADS: Opt<Settings> = Opt {
    long: "encrypt-threads",
    short: None,
    action: Action::IgnoredNumber,
    help: "There are as many threads as processors.",
};
const FIFO_STREAMS: Opt<Settings> = Opt {
    long: "fifo-streams",
    short: None,
    action: Action::Number {
        min: 1,
        max: FIFO_STREAMS_MAX,
        set: |s, n| s.fifo_streams = n,
    },
    help: "With a number above 1 and --fifo-dir, extract that many streams at the same time, one from each FIFO.",
};
const FIFO_DIR: Opt<Settings> = Opt {
    long: "fifo-dir",
    short: None,
    action: Action::Text(|s, dir| s.fifo_dir = Some(dir)),
    help: "Directory of the FIFOs thread_0, thread_1 and so on, which the writer makes. They are removed at the end.",
};
const FIFO_TIMEOUT: Opt<Settings> = Opt {
    long: "fifo-timeout",
    short: None,
    action: Action::Number {
        min: 1,
        max: i32::MAX as i64,
        set: |s, n| s.fifo_timeout = n,
    },
    help: "Seconds to wait for the FIFOs and their writers. Default: 60.",
};
const ABSOLUTE_NAMES: Opt<Settings> = Opt {
    long: "absolute-names",
    short: Some('P'),
    action: Action::Refused,
    help: "Files are never written outside the target directory; use --directory=/ and relative names.",
};

/// What the options set.
#[derive(Debug)]
pub(super) struct Settings {
    create: bool,
    extract: bool,
    directory: Option<OsString>,
    verbose: bool,
    parallel: Option<u64>,
    decompress: bool,
    key: KeySource,
    fifo_streams: u64,
    fifo_dir: Option<OsString>,
    fifo_timeout: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            create: false,
            extract: false,
            directory: None,
            verbose: false,
            parallel: None,
            decompress: false,
            key: KeySource::default(),
            fifo_streams: 1,
            fifo_dir: None,
            fifo_timeout: FIFO_TIMEOUT_SECONDS,
        }
    }
}

/// Runs a command line, without the program's name.
pub(super) fn run(dialect: &'static Dialect, args: &[OsString]) -> Exit {
    let shown = |show| shown(dialect, show);
    let (settings, words) = match start(dialect.name, dialect.options, args, shown) {
        Started::Run(settings, words) => (settings, words),
        Started::Over(exit) => return exit,
    };
    // r[compat-xbstream.one-mode]
    let refused = match (settings.create, settings.extract) {
        (true, true) => Some("-c and -x exclude each other."),
        (false, false) => Some("either -c or -x must be specified."),
        (true, false) if words.is_empty() => Some("no files are specified."),
        _ => None,
    };
    if let Some(why) = refused {
        tell(&format!("{}: {why}", dialect.name));
        return Exit::FAILED;
    }
    front::raise_open_files();
    let voice = Voice::new(dialect.name, settings.verbose.then_some(dialect.file_line));
    let done = front::supervise(Arc::new(voice), move |run| {
        let directory = existing(settings.directory.as_ref())?;
        if settings.create {
            create(dialect, &words, &directory, run)
        } else {
            extract(dialect, &settings, &directory, run)
        }
    });
    match done {
        Ok(()) => Exit::DONE,
        Err(error) => {
            for line in error_lines(dialect.name, &dialect.rows(), &[], &error) {
                tell(&line);
            }
            Exit::FAILED
        }
    }
}

fn shown(dialect: &Dialect, show: Show) -> String {
    let (name, version) = (dialect.name, (dialect.version)());
    match show {
        Show::Version => format!("{version}\n"),
        Show::Help => format!(
            "{version}\nThis is xbpipe, which reads and writes what {name} does.\n\n\
             Usage:\n  {name} -c [OPTIONS...] FILES...  # write files as one stream to standard output\n  \
             {name} -x [OPTIONS...]           # write the files of a stream on standard input\n\n"
        ),
    }
}

/// r[compat-xbstream.directory]
fn existing(directory: Option<&OsString>) -> Result<PathBuf> {
    let directory = directory.map_or_else(|| PathBuf::from("."), PathBuf::from);
    if directory.as_os_str().is_empty() {
        return Err(
            Error::new(Kind::Usage, "the name of the directory is empty").hint(
                "mbstream would take the root directory; write --directory=/ if you mean that",
            ),
        );
    }
    if fsx::stat(&directory)?.mode & 0o170_000 != 0o040_000 {
        return Err(Error::new(Kind::Failed, "not a directory:").path(directory));
    }
    Ok(directory)
}

/// r[compat-xbstream.create.plain]
fn create(dialect: &Dialect, words: &[OsString], directory: &Path, run: &Run) -> Result<()> {
    let notice = |text| tell(&format!("{}: {text}", dialect.name));
    let files = names::members(words, directory, notice)?;
    let target = Target::Stdout { terminal: false };
    create_plain(&files, target, ByteCount(MEMORY_DEFAULT), run)?;
    Ok(())
}

/// What is taken off files. r[compat-xbstream.extract.suffixes]
fn decoders(settings: &Settings, run: &Run) -> Result<Decoders> {
    let mut decoders = Decoders::new();
    if settings.decompress {
        decoders.extend(decompressors());
    }
    if settings.key.algorithm.is_some_and(|word| word > 0) {
        let (key, remark) = settings.key.key(None)?;
        if let Some(remark) = remark {
            run.monitor.warning(remark);
        }
        decoders.push(Arc::new(XbcryptDecoder::new(key)));
    }
    Ok(decoders)
}

fn extract(dialect: &Dialect, settings: &Settings, directory: &Path, run: &Run) -> Result<()> {
    let (file_mode, dir_mode) = dialect.modes;
    let options = DirOptions {
        resume: false,
        overwrite: false,
        // r[compat-xbstream.extract.exists] r[compat-xbstream.extract.sync]
        sync: dialect.sync,
    };
    let target = DirSink::open(directory, options, Arc::clone(&run.monitor))?.with_ways(Ways {
        file_mode: mode_or("UMASK", file_mode, 0o600),
        dir_mode: mode_or("UMASK_DIR", dir_mode, 0o700),
        // r[compat-xbstream.extract.rearrange]
        rearrange: true,
    });
    let options = StreamOptions {
        memory: ByteCount(MEMORY_DEFAULT),
        parallel: settings
            .parallel
            .map_or_else(default_lanes, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        decoders: decoders(settings, run)?,
        lone_chunk: Some(is_lone_object),
    };
    let (Some(fifo_dir), count) = (&settings.fifo_dir, settings.fifo_streams) else {
        return if settings.fifo_streams > 1 {
            Err(Error::new(Kind::Usage, "--fifo-streams needs --fifo-dir"))
        } else {
            extract_streams(Streams::Standard, &options, target, run)
        };
    };
    if count <= 1 {
        return extract_streams(Streams::Standard, &options, target, run);
    }
    let fifos = Fifos::new(Path::new(fifo_dir), usize::try_from(count).unwrap_or(1));
    let done = fifos
        .open(Duration::from_secs(settings.fifo_timeout), &run.cancel)
        .and_then(|streams| extract_streams(Streams::Open(streams), &options, target, run));
    let removed = fifos.remove();
    done.and(removed)
}

/// Permission bits from an environment variable, as the servers read it: octal with a leading zero, else decimal; bits that
/// the owner needs are always there. r[compat-xbstream.extract.modes]
fn mode_or(variable: &str, default: u32, least: u32) -> u32 {
    match std::env::var(variable) {
        Ok(text) => mode(&text) | least,
        Err(_) => default,
    }
}

fn mode(text: &str) -> u32 {
    let text = text.trim_start();
    let radix = if text.starts_with('0') { 8 } else { 10 };
    let end = text
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(text.len());
    let digits = text.get(..end).unwrap_or_default();
    u32::from_str_radix(digits, radix).unwrap_or(0) & 0o777
}

/// Whether a stream of nothing but this chunk is one object that xbcloud has stored: r[compat-xbstream.extract.lone].
fn is_lone_object(head: &ChunkHead) -> bool {
    let Body::Payload { len, .. } = head.body else {
        return false;
    };
    is_small_metadata(head.path.as_bytes()) && len < CHUNK_PAYLOAD_LEN_DEFAULT as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_the_servers_do() {
        // Seen from mbstream 10.11.19.
        for (text, bits) in [
            ("0600", 0o600),
            ("420", 0o644),
            ("493", 0o755),
            ("0007", 0o007),
            (" 0604", 0o604),
            ("x", 0),
            ("", 0),
            ("0648", 0o64),
        ] {
            assert_eq!(mode(text), bits, "{text:?}");
        }
    }
}
