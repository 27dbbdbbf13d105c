//! `xbcloud` of Percona XtraBackup: backups into an object store, an object for each chunk, and back.
//!
//! Rules: `format-spec/compat-xbcloud.md`; the layout: `format-spec/cloud-layout.md`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::optfile::{Choice, OptionFiles};
use crate::base::pool::BufPool;
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::compat::fifo::Fifos;
use crate::compat::grammar::{self, Action, Opt, Row, Show};
use crate::compat::hints::error_lines;
use crate::compat::voice::Voice;
use crate::compat::{Started, start};
use crate::front::lines::tell;
use crate::front::{self, Exit};
use crate::pipeline::budget::MEMORY_DEFAULT;
use crate::pipeline::input::Input;
use crate::repository::cloud::{self, CloudBackup, PutOptions};
use crate::store::s3::{AccessKey, Header, S3Options, S3Store, StorageClass};
use crate::store::{Policy, Retrying, Shared};

const NAME: &str = "xbcloud";

/// Groups of option files.
const GROUPS: &[&str] = &["xbcloud"];

/// Chunks in flight when nobody says how many.
const PARALLEL_DEFAULT: u64 = 4;

/// Most chunks in flight: each has a buffer.
const PARALLEL_MAX: i64 = 256;

/// Most streams of one run.
const FIFO_STREAMS_MAX: i64 = 256;

/// Seconds that a call may hear nothing from the store.
const TIMEOUT_DEFAULT: u64 = 120;

const MAX_RETRIES_DEFAULT: u64 = 10;

/// Milliseconds.
const MAX_BACKOFF_DEFAULT: u64 = 300_000;

const FIFO_TIMEOUT_DEFAULT: u64 = 60;

/// Longest wait before the second try. It doubles up to `--max-backoff`.
const FIRST_DELAY: Duration = Duration::from_secs(2);

/// Bytes read at once.
const INPUT_LEN: usize = 1 << 20;

/// Bytes read at once from each of several streams.
const STREAM_READ_LEN: usize = 256 << 10;

/// Buffers for what is read, for each stream.
const INPUT_BUFS: usize = 8;

const GOOGLE_ENDPOINT: &str = "https://storage.googleapis.com";
const GOOGLE_REGION: &str = "us-central-1";

/// What the environment variables of the three sets begin with; the first one that is set counts.
const S3_VARIABLES: &[&str] = &["S3_", "AWS_", ""];
const GOOGLE_VARIABLES: &[&str] = &[""];

const SWIFT: &str = "Swift is not supported; S3 and Google's storage are.";
const AZURE: &str = "Azure is not supported; S3 and Google's storage are.";

const STORAGES: &[&str] = &["swift", "s3", "google", "azure"];
const LOOKUPS: &[&str] = &["AUTO", "DNS", "PATH"];
const API_VERSIONS: &[&str] = &["AUTO", "2", "4"];

/// An option that takes a text or has a word or number.
const fn opt(long: &'static str, action: Action<Settings>, help: &'static str) -> Opt<Settings> {
    Opt {
        long,
        short: None,
        action,
        help,
    }
}

const fn swift(long: &'static str) -> Opt<Settings> {
    opt(long, Action::Refused, SWIFT)
}

const fn azure(long: &'static str) -> Opt<Settings> {
    opt(long, Action::Refused, AZURE)
}

const fn number(min: i64, max: i64, set: fn(&mut Settings, u64)) -> Action<Settings> {
    Action::Number { min, max, set }
}

const OPTIONS: &[Opt<Settings>] = &[
    Opt::HELP,
    Opt::VERSION,
    Opt {
        long: "defaults-file",
        short: Some('c'),
        action: Action::Text(|s, file| s.files.defaults_file = Some(file.into())),
        help: "Read options from this file only, group [xbcloud].",
    },
    opt(
        "defaults-extra-file",
        Action::Text(|s, file| s.files.defaults_extra_file = Some(file.into())),
        "Read this option file, too.",
    ),
    opt(
        "defaults-group-suffix",
        Action::Text(|s, suffix| {
            s.files.group_suffix = Some(suffix.to_string_lossy().into_owned());
        }),
        "Read the group with this suffix, too.",
    ),
    opt(
        "no-defaults",
        Action::Switch(|s| s.files.no_defaults = true),
        "Read no option files.",
    ),
    opt(
        "storage",
        Action::Word {
            words: STORAGES,
            set: |s, word| s.storage = Some(word),
        },
        "The kind of store; swift and azure are refused. Default: what the URI says, google with --google-bucket, else s3.",
    ),
    opt(
        "parallel",
        number(1, PARALLEL_MAX, |s, n| s.parallel = n),
        "Chunks in flight, also of one file; each takes 10 MiB of memory. Default: 4.",
    ),
    opt(
        "timeout",
        number(1, 86_400, |s, n| s.timeout = n),
        "Seconds that the store may be silent before a request is made again. Default: 120.",
    ),
    opt(
        "max-retries",
        number(1, u16::MAX as i64, |s, n| s.max_retries = n),
        "How often a request is made again. Default: 10.",
    ),
    opt(
        "max-backoff",
        number(1, i32::MAX as i64, |s, n| s.max_backoff = n),
        "Longest wait before that, in milliseconds. Default: 300000.",
    ),
    opt(
        "curl-retriable-errors",
        Action::IgnoredText,
        "Whatever the network does is a reason to try again.",
    ),
    opt(
        "http-retriable-errors",
        Action::Text(|s, list| s.http_retriable = Some(list)),
        "More HTTP statuses after which to try again, separated by commas. 408, 429, 500, 502, 503 and 504 always are.",
    ),
    opt(
        "md5",
        Action::Bool(|s, on| s.md5 = on),
        "put: store the MD5 of each chunk as NAME.md5. get: compare with it.",
    ),
    opt(
        "insecure",
        Action::Bool(|s, on| s.insecure = on),
        "Take any certificate: whoever answers may be anybody. --cacert is better.",
    ),
    opt(
        "cacert",
        Action::Text(|s, file| s.cacert = Some(file)),
        "File with certificates to trust instead of the system's.",
    ),
    opt(
        "header",
        Action::Text(|s, header| s.headers.push(header)),
        "Header to send with objects, NAME: VALUE; may be given more than once.",
    ),
    opt(
        "verbose",
        Action::Bool(|s, on| s.verbose = on),
        "Tell each chunk that was fetched or removed. Those that were stored are always told.",
    ),
    opt(
        "fifo-streams",
        number(1, FIFO_STREAMS_MAX, |s, n| s.fifo_streams = n),
        "With a number above 1 and --fifo-dir, put reads that many streams, one from each FIFO. get writes one stream and refuses it.",
    ),
    opt(
        "fifo-dir",
        Action::Text(|s, dir| s.fifo_dir = Some(dir)),
        "Directory of the FIFOs thread_0, thread_1 and so on, which the writer makes. They are removed at the end.",
    ),
    opt(
        "fifo-timeout",
        number(1, i32::MAX as i64, |s, n| s.fifo_timeout = n),
        "Seconds to wait for the FIFOs and their writers. Default: 60.",
    ),
    opt(
        "s3-region",
        Action::Text(|s, v| s.s3.region = Some(v)),
        "Region of the bucket. Default: what the bucket says, us-east-1 elsewhere than at Amazon.",
    ),
    opt(
        "s3-endpoint",
        Action::Text(|s, v| s.s3.endpoint = Some(v)),
        "Address of a store that is not Amazon's. Without http:// it is https://.",
    ),
    opt(
        "s3-access-key",
        Action::Text(|s, v| s.s3.access_key = Some(v)),
        "Access key. Default: the environment, a profile, a web identity, or the role of the host or container.",
    ),
    opt(
        "s3-secret-key",
        Action::Text(|s, v| s.s3.secret_key = Some(v)),
        "Its secret. Every user of the system can see it; use the environment or an option file instead.",
    ),
    opt(
        "s3-session-token",
        Action::Text(|s, v| s.s3.session_token = Some(v)),
        "Token of temporary credentials.",
    ),
    opt(
        "s3-storage-class",
        Action::Text(|s, v| s.s3.storage_class = Some(v)),
        "Storage class of the objects, such as STANDARD_IA.",
    ),
    opt(
        "s3-bucket",
        Action::Text(|s, v| s.s3.bucket = Some(v)),
        "Bucket. put makes it if it is not there.",
    ),
    opt(
        "s3-bucket-lookup",
        Action::Word {
            words: LOOKUPS,
            set: |s, word| s.lookup = word,
        },
        "Where the bucket stands in addresses: in the host name or in the path. AUTO: in the host name at Amazon's, in the path elsewhere.",
    ),
    opt(
        "s3-api-version",
        Action::Word {
            words: API_VERSIONS,
            set: |s, word| s.api_version = word,
        },
        "How requests are signed: version 4. Version 2 is refused.",
    ),
    opt(
        "google-region",
        Action::Text(|s, v| s.google.region = Some(v)),
        "Region of the bucket. Default: us-central-1.",
    ),
    opt(
        "google-endpoint",
        Action::Text(|s, v| s.google.endpoint = Some(v)),
        "Address of the store. Default: https://storage.googleapis.com.",
    ),
    opt(
        "google-access-key",
        Action::Text(|s, v| s.google.access_key = Some(v)),
        "Access key (HMAC). Default: the environment.",
    ),
    opt(
        "google-secret-key",
        Action::Text(|s, v| s.google.secret_key = Some(v)),
        "Its secret. Every user of the system can see it; use the environment or an option file instead.",
    ),
    opt(
        "google-session-token",
        Action::Text(|s, v| s.google.session_token = Some(v)),
        "Token of temporary credentials.",
    ),
    opt(
        "google-storage-class",
        Action::Text(|s, v| s.google.storage_class = Some(v)),
        "Storage class of the objects.",
    ),
    opt(
        "google-bucket",
        Action::Text(|s, v| s.google.bucket = Some(v)),
        "Bucket. put makes it if it is not there.",
    ),
    swift("swift-auth-version"),
    swift("swift-container"),
    swift("swift-user"),
    swift("swift-user-id"),
    swift("swift-auth-url"),
    swift("swift-storage-url"),
    swift("swift-key"),
    swift("swift-tenant"),
    swift("swift-tenant-id"),
    swift("swift-project"),
    swift("swift-project-id"),
    swift("swift-domain"),
    swift("swift-domain-id"),
    swift("swift-project-domain"),
    swift("swift-project-domain-id"),
    swift("swift-password"),
    swift("swift-region"),
    azure("azure-storage-account"),
    azure("azure-container-name"),
    azure("azure-access-key"),
    azure("azure-development-storage"),
    azure("azure-endpoint"),
    azure("azure-tier-class"),
];

pub(super) fn rows() -> Vec<Row> {
    OPTIONS.iter().map(Opt::row).collect()
}

/// What the options of one kind of store set.
#[derive(Debug, Default)]
struct Service {
    region: Option<OsString>,
    endpoint: Option<OsString>,
    access_key: Option<OsString>,
    secret_key: Option<OsString>,
    session_token: Option<OsString>,
    storage_class: Option<OsString>,
    bucket: Option<OsString>,
}

#[derive(Debug)]
struct Settings {
    files: Choice,
    storage: Option<usize>,
    parallel: u64,
    timeout: u64,
    max_retries: u64,
    max_backoff: u64,
    http_retriable: Option<OsString>,
    md5: bool,
    insecure: bool,
    cacert: Option<OsString>,
    headers: Vec<OsString>,
    verbose: bool,
    fifo_streams: u64,
    fifo_dir: Option<OsString>,
    fifo_timeout: u64,
    s3: Service,
    google: Service,
    lookup: usize,
    api_version: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            files: Choice {
                home: std::env::home_dir(),
                ..Choice::default()
            },
            storage: None,
            parallel: PARALLEL_DEFAULT,
            timeout: TIMEOUT_DEFAULT,
            max_retries: MAX_RETRIES_DEFAULT,
            max_backoff: MAX_BACKOFF_DEFAULT,
            http_retriable: None,
            md5: false,
            insecure: false,
            cacert: None,
            headers: Vec::new(),
            verbose: false,
            fifo_streams: 1,
            fifo_dir: None,
            fifo_timeout: FIFO_TIMEOUT_DEFAULT,
            s3: Service::default(),
            google: Service::default(),
            lookup: 0,
            api_version: 0,
        }
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Put,
    Get,
    Delete,
}

/// Runs a command line, without the program's name.
pub(super) fn run(args: &[OsString]) -> Exit {
    let args = match with_option_files(args) {
        Ok(args) => args,
        Err(error) => return failed(&error),
    };
    let (settings, words) = match start(NAME, OPTIONS, &args, shown) {
        Started::Run(settings, words) => (settings, words),
        Started::Over(exit) => return exit,
    };
    let mut words = words.iter().map(|word| word.to_string_lossy().into_owned());
    // r[compat-xbcloud.words]
    let verb = match words.next().as_deref() {
        Some("put") => Verb::Put,
        Some("get") => Verb::Get,
        Some("delete") => Verb::Delete,
        word => {
            let what = match word {
                Some(word) => format!("unknown action {word:?}"),
                None => "no action is given".to_owned(),
            };
            return failed(
                &usage(what).hint("it is put, get or delete, and the name of a backup follows"),
            );
        }
    };
    let Some(target) = words.next() else {
        return failed(&usage("no backup is named"));
    };
    let files: Vec<String> = words.collect();
    if let (Verb::Put, Some(file)) = (verb, files.first()) {
        return failed(&usage(format!("unexpected word {file:?} behind the name")));
    }
    front::raise_open_files();
    let voice = Arc::new(Voice::new(NAME, None));
    let done = front::supervise(voice, move |run| match verb {
        Verb::Put => put(&settings, &target, run),
        Verb::Get => get(&settings, &target, &files, run),
        Verb::Delete => delete(&settings, &target, &files, run),
    });
    match done {
        Ok(sentence) => {
            tell(&format!("{NAME}: {sentence}"));
            Exit::DONE
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> Exit {
    // The store's hints name the options of the native verbs.
    let names = [
        ("--endpoint-url", "--s3-endpoint"),
        ("--region", "--s3-region"),
        ("--ca-file", "--cacert"),
    ];
    for line in error_lines(NAME, &rows(), &names, error) {
        tell(&line);
    }
    Exit::FAILED
}

fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what)
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
                + "This is xbpipe, which stores and fetches what xbcloud does.\n\n\
                   Usage:\n  xbcloud put [OPTIONS...] NAME < STREAM         # store a backup\n  \
                   xbcloud get [OPTIONS...] NAME [FILES...]       # write it, or files of it, as one stream\n  \
                   xbcloud delete [OPTIONS...] NAME [FILES...]    # remove it, or files of it\n\n\
                   NAME may be s3://BUCKET/NAME or google://BUCKET/NAME.\n\n"
        }
    }
}

/// The command line behind the options of the option files that it asks for. r[compat-xbcloud.files]
fn with_option_files(args: &[OsString]) -> Result<Vec<OsString>> {
    let choice = match grammar::parse::<Settings>(NAME, OPTIONS, args) {
        Ok(parsed) if parsed.show.is_none() => parsed.settings.files,
        // What is wrong with it is said later.
        _ => return Ok(args.to_vec()),
    };
    let files = OptionFiles::load(&choice)?;
    for warning in files.warnings() {
        tell(&format!("{NAME}: warning: {warning}"));
    }
    let mut words = files.words(GROUPS);
    words.extend_from_slice(args);
    Ok(words)
}

/// Text of an option, or of the first of the environment variables that is set. r[compat-xbcloud.environment]
fn text(
    option: Option<&OsString>,
    sets: &[&str],
    name: &str,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Option<String> {
    let variables = || {
        let mut names = sets.iter().map(|set| format!("{set}{name}"));
        names.find_map(|name| environment(&name).filter(|value| !value.is_empty()))
    };
    let found = option.cloned().or_else(variables)?;
    Some(found.to_string_lossy().into_owned())
}

impl Settings {
    /// Where a name leads to: the store, and the name in it. r[compat-xbcloud.uri]
    fn place(
        &self,
        target: &str,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<(S3Options, String)> {
        let (scheme, bucket, name) = match target.split_once("://") {
            Some((scheme, rest)) => {
                let storage = STORAGES.iter().position(|s| *s == scheme);
                let storage =
                    storage.ok_or_else(|| usage(format!("{scheme:?} is no kind of store")))?;
                let (bucket, name) = rest.split_once('/').unwrap_or((rest, ""));
                (Some(storage), Some(bucket), name)
            }
            None => (None, None, target),
        };
        let default = if self.google.bucket.is_some() { 2 } else { 1 };
        let storage = scheme.or(self.storage).unwrap_or(default);
        let (service, sets) = match STORAGES.get(storage).copied() {
            Some("s3") => (&self.s3, S3_VARIABLES),
            Some("google") => (&self.google, GOOGLE_VARIABLES),
            // r[compat-xbcloud.refused]
            Some("swift") => return Err(usage("storage swift is refused").hint(SWIFT)),
            _ => return Err(usage("storage azure is refused").hint(AZURE)),
        };
        let is_google = sets == GOOGLE_VARIABLES;
        let name = cloud::check_name(name)?.to_owned();
        let get = |option: &Option<OsString>, variable: &str| {
            text(option.as_ref(), sets, variable, environment)
        };
        let named = || {
            service
                .bucket
                .as_ref()
                .map(|b| b.to_string_lossy().into_owned())
        };
        let bucket = bucket.map(str::to_owned).or_else(named);
        let bucket = bucket.filter(|bucket| !bucket.is_empty()).ok_or_else(|| {
            let option = STORAGES.get(storage).copied().unwrap_or_default();
            usage("no bucket is named").hint(format!("give --{option}-bucket, or a URI"))
        })?;
        if API_VERSIONS.get(self.api_version) == Some(&"2") {
            return Err(usage(
                "--s3-api-version=2 is refused: requests are signed by version 4",
            ));
        }
        let endpoint = get(&service.endpoint, "ENDPOINT").map(|endpoint| {
            let scheme = if endpoint.contains("://") {
                ""
            } else {
                "https://"
            };
            format!("{scheme}{}", endpoint.trim_end_matches('/'))
        });
        let key = (
            get(&service.access_key, "ACCESS_KEY_ID"),
            get(&service.secret_key, "SECRET_ACCESS_KEY"),
        );
        let access_key = match key {
            (Some(id), Some(secret)) => Some(AccessKey {
                id,
                secret,
                session_token: get(&service.session_token, "SESSION_TOKEN"),
            }),
            (None, None) if !is_google => None,
            _ => {
                return Err(
                    usage("an access key needs its secret, and a secret its key")
                        .hint("give both as options, in an option file or in the environment"),
                );
            }
        };
        let class = get(&service.storage_class, "STORAGE_CLASS");
        let class = class.as_deref().map(StorageClass::from);
        let headers = self
            .headers
            .iter()
            .map(|h| Header::parse(&h.to_string_lossy()));
        let options = S3Options {
            endpoint_url: match endpoint {
                None if is_google => Some(GOOGLE_ENDPOINT.to_owned()),
                endpoint => endpoint,
            },
            path_style: match LOOKUPS.get(self.lookup).copied() {
                Some("DNS") => Some(false),
                Some("PATH") => Some(true),
                // Google's knows both, and any other stands for it in a test.
                _ => None,
            },
            region: match get(&service.region, "DEFAULT_REGION") {
                None if is_google => Some(GOOGLE_REGION.to_owned()),
                region => region,
            },
            access_key,
            ca_file: text(self.cacert.as_ref(), sets, "CA_BUNDLE", environment).map(PathBuf::from),
            any_certificate: self.insecure,
            storage_class: class.clone(),
            small_storage_class: class,
            headers: headers.collect::<Result<_>>()?,
            // Neither is documented to work there.
            checksums: !is_google,
            single_deletes: is_google,
            retry_statuses: self.retry_statuses()?,
            stall: Duration::from_secs(self.timeout),
            ..S3Options::new(&bucket, "")
        };
        Ok((options, name))
    }

    fn retry_statuses(&self) -> Result<Vec<u16>> {
        let list = self.http_retriable.clone().unwrap_or_default();
        let list = list.to_string_lossy();
        let numbers = list.split(',').map(str::trim).filter(|n| !n.is_empty());
        numbers
            .map(|n| {
                n.parse()
                    .map_err(|_| usage(format!("--http-retriable-errors: {n:?} is no status")))
            })
            .collect()
    }

    /// The store and the name in it. r[compat-xbcloud.retries]
    fn open(&self, target: &str, create_bucket: bool, run: &Run) -> Result<(Shared, String)> {
        let (mut options, name) = self.place(target, &|name| std::env::var_os(name))?;
        options.create_bucket = create_bucket;
        let store: Shared = Arc::new(S3Store::open(options, &run.cancel)?);
        let max_delay = Duration::from_millis(self.max_backoff);
        let policy = Policy {
            first_delay: FIRST_DELAY.min(max_delay),
            max_delay,
            window: Duration::MAX,
            retries_max: u32::try_from(self.max_retries).ok(),
            permits: self.parallel().max(Policy::default().permits),
            ..Policy::default()
        };
        let monitor = Arc::clone(&run.monitor);
        let store = Retrying::new(store, policy, run.cancel.clone(), monitor);
        Ok((Arc::new(store), name))
    }

    fn parallel(&self) -> usize {
        usize::try_from(self.parallel).unwrap_or(1)
    }

    /// The FIFOs, if they are to be used.
    fn fifos(&self) -> Result<Option<Fifos>> {
        match &self.fifo_dir {
            _ if self.fifo_streams <= 1 => Ok(None),
            None => Err(usage("--fifo-streams needs --fifo-dir")),
            Some(dir) => {
                let count = usize::try_from(self.fifo_streams).unwrap_or(1);
                Ok(Some(Fifos::new(Path::new(dir), count)))
            }
        }
    }
}

/// Stores what comes. Returns the last line.
fn put(settings: &Settings, target: &str, run: &Run) -> Result<&'static str> {
    let fifos = settings.fifos()?;
    let (store, name) = settings.open(target, true, run)?;
    cloud::must_be_new(&store, &name)?;
    let stored = inputs(settings, fifos.as_ref(), run).and_then(|inputs| {
        let options = PutOptions {
            parallel: settings.parallel(),
            md5: settings.md5,
        };
        // r[compat-xbcloud.lines]
        let told = |key: &str, len: u64| {
            // A chunk's key ends with a number.
            let what = match key.ends_with(".md5") {
                true => "Uploading md5",
                false => "successfully uploaded chunk",
            };
            tell(&format!("{NAME}: {what}: {key}, size: {len}"));
        };
        cloud::put(&store, &name, inputs, options, Arc::new(told), run)
    });
    let removed = fifos.map_or(Ok(()), |fifos| fifos.remove());
    let stored = stored.map_err(|e| {
        let failed = Error::new(e.kind(), format!("Upload failed: {e}"));
        match e.hint_text() {
            Some(hint) => failed.hint(hint),
            None => failed,
        }
    })?;
    removed?;
    // r[compat-xbcloud.incomplete]
    if !stored.marked {
        return Err(Error::new(
            Kind::Incomplete,
            "Upload failed: backup is incomplete: it has none of the files that are written last \
             (xtrabackup_tablespaces, xtrabackup_info, mariadb_backup_info)",
        ));
    }
    Ok("Upload completed.")
}

fn inputs(settings: &Settings, fifos: Option<&Fifos>, run: &Run) -> Result<Vec<Input>> {
    let Some(fifos) = fifos else {
        let pool = BufPool::new(INPUT_BUFS, INPUT_LEN);
        let input = Input::open(None, pool, ByteCount(MEMORY_DEFAULT), run)?;
        return Ok(vec![input]);
    };
    let patience = Duration::from_secs(settings.fifo_timeout);
    let streams = fifos.open(patience, &run.cancel)?;
    let inputs = streams.into_iter().map(|stream| {
        let name = format!("{:?}", stream.file.path());
        let pool = BufPool::new(INPUT_BUFS, STREAM_READ_LEN);
        let memory = ByteCount(MEMORY_DEFAULT);
        Input::over(stream.file, name, stream.head, pool, memory, run)
    });
    inputs.collect()
}

/// Fetches what is there. Returns the last line.
fn get(settings: &Settings, target: &str, files: &[String], run: &Run) -> Result<&'static str> {
    if settings.fifos()?.is_some() {
        return Err(usage("--fifo-streams is for put: get writes one stream"));
    }
    let (store, name) = settings.open(target, false, run)?;
    let mut backup = CloudBackup::open(&store, &name, files)?;
    if settings.md5 && !backup.compare_digests()? {
        run.monitor.warning(format!(
            "there is no {name}.md5: chunks are compared with their own checksums only"
        ));
    }
    let told = |key: &str, len: u64| {
        if settings.verbose {
            tell(&format!(
                "{NAME}: successfully downloaded chunk: {key}, size: {len}"
            ));
        }
    };
    cloud::get(&backup, settings.parallel(), &told, run)?;
    Ok("Download completed.")
}

/// Removes what is there. Returns the last line.
fn delete(settings: &Settings, target: &str, files: &[String], run: &Run) -> Result<&'static str> {
    let (store, name) = settings.open(target, false, run)?;
    let told = |key: &str| {
        if settings.verbose {
            tell(&format!("{NAME}: Deleting {key}"));
        }
    };
    if cloud::delete(&store, &name, files, &told)? == 0 {
        run.monitor
            .warning(format!("there is no backup named {name}"));
    }
    Ok("Delete completed.")
}
