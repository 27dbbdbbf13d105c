//! The installed server as a recovery program: found, compared with the backup's server, pinned inside the directory,
//! watched, and never left behind.
//!
//! It reads one option file that we write (keys do not belong on a command line) and nothing else. A killed prepare cannot
//! stop its server, but the server ends by itself when recovery is done: its standard input is empty. Until then it holds
//! the lock on the log that it writes to, and the next prepare waits for that lock.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::base::monitor::Monitor;
use crate::base::proc::{self, Child, Spawn};
use crate::base::units::{ByteCount, Lsn};
use crate::metadata::my_cnf::{MyCnf, strip_directories};
use crate::server::flavor::{Family, Flavor};

/// How long `--version` may take.
const VERSION_TIME: Duration = Duration::from_secs(30);
/// How long a server that was asked to end may take before it is killed; recovery can be repeated either way.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often the server's output is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Bytes of one line of the server's output that we keep.
const LINE_LEN_MAX: usize = 2000;
/// Last lines shown when the server ended without an `[ERROR]`.
const TAIL_LINES: usize = 5;
/// How a warning begins that every server tells whose limit of open files is below its own wish, and that means nothing here.
const NOISE: &str = "Could not increase number of max_open_files";
/// Where packages put the server beside `$PATH`.
const MORE_DIRS: [&str; 4] = [
    "/usr/sbin",
    "/usr/libexec",
    "/usr/local/sbin",
    "/usr/local/libexec",
];
/// What a service manager or a client's environment could say to the server.
const FOREIGN_ENV: [&str; 7] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MYSQL_HOME",
    "MYSQL_UNIX_PORT",
    "MYSQL_TCP_PORT",
    "MYSQL_GROUP_SUFFIX",
];

/// Options that load and unlock keys or codecs; nothing else of a backup's option file reaches the server.
const KEY_OPTIONS: [&str; 10] = [
    "plugin_load",
    "plugin_maturity",
    "file_key_management",
    "hashicorp_key_management",
    "aws_key_management",
    "innodb_encrypt",
    "innodb_default_encryption",
    "aria_encrypt",
    "encrypt_",
    "provider_",
];

/// A server program and what it says it is.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    /// Its version.
    pub(crate) flavor: Flavor,
}

impl Program {
    /// Finds the server: `given`, or by its names. `wanted` is the version for the message when there is none.
    pub(crate) fn find(given: Option<&Path>, wanted: &str, cancel: &Cancel) -> Result<Self> {
        let path = locate(given, "mariadbd", wanted)?;
        let args = ["--no-defaults", "--version"];
        let text = proc::answer(&path, &args, VERSION_TIME, cancel)?;
        let version = text.split_once(" Ver ").map(|(_, rest)| rest.trim_start());
        let version = version.and_then(|v| v.split_whitespace().next());
        let flavor = match version {
            Some(version) => Flavor::parse(version, &text)?,
            None => {
                let what = format!(
                    "not a MariaDB server, its version is {:?}",
                    first_line(&text)
                );
                return Err(Error::new(Kind::Server, what).path(path));
            }
        };
        Ok(Self { path, flavor })
    }

    /// Refuses a server that is not of the backup's major version, unless `insist`; then a warning comes back.
    pub(crate) fn check_version(&self, backup: &str, insist: bool) -> Result<Option<String>> {
        let source = Flavor::parse(backup, "")?;
        let series = |f: &Flavor| (f.version.major, f.version.minor);
        let why = if source.family != Family::MariaDb || self.flavor.family != Family::MariaDb {
            "only MariaDB recovers a MariaDB backup"
        } else if series(&self.flavor) > series(&source) {
            "a newer server upgrades the files for good, and the old one cannot read them any more"
        } else if series(&self.flavor) < series(&source) {
            "an older server does not know the format of the files and succeeds only in appearance"
        } else {
            return Ok(None);
        };
        let what = format!(
            "the backup is of {source}, the installed server is {}: {why}",
            self.flavor
        );
        if insist {
            return Ok(Some(what));
        }
        Err(Error::new(Kind::Server, what)
            .path(&self.path)
            .hint(format!(
                "install MariaDB {}.{}, or name such a program with --mariadbd PATH",
                source.version.major, source.version.minor
            )))
    }
}

/// The server program: `given`, or the first one called `name`.
fn locate(given: Option<&Path>, name: &str, wanted: &str) -> Result<PathBuf> {
    match given {
        Some(path) if proc::is_executable(path) => Ok(path.to_path_buf()),
        Some(path) => Err(Error::new(Kind::Server, "not a program that can be run").path(path)),
        None => proc::find_program(&[name], &MORE_DIRS).ok_or_else(|| {
            Error::new(
                Kind::Server,
                format!(
                    "{name} is not installed; the backup of MariaDB {wanted} is prepared by the server's own crash recovery"
                ),
            )
            .hint(
                "install that version's server (package mariadb-server-core in Debian), \
                 or name the program with --mariadbd PATH",
            )
        }),
    }
}

/// What recovery is told.
#[derive(Debug)]
pub(crate) struct Recovery<'a> {
    /// The backup's directory, absolute.
    pub(crate) dir: &'a Path,
    /// A directory in it that is removed afterwards.
    pub(crate) work: &'a Path,
    /// Options of the server the backup was made of.
    pub(crate) my_cnf: &'a MyCnf,
    /// Options about keys that win over those of `my_cnf`.
    pub(crate) key_options: &'a [(String, Option<String>)],
    /// Undo tablespaces in the backup.
    pub(crate) undo_tablespaces: usize,
    /// Memory for pages.
    pub(crate) use_memory: ByteCount,
    /// Directory of the server's plugins.
    pub(crate) plugin_dir: Option<&'a Path>,
    /// User and group to run as.
    pub(crate) run_as: Option<(u32, u32)>,
}

/// What the server's output said.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Where the server found the end of the log, if it said so.
    pub(crate) log_end: Option<Lsn>,
    errors: Vec<String>,
    tail: Vec<String>,
}

impl Recovery<'_> {
    /// Writes the option file and makes the directory for temporary files.
    pub(crate) fn set_up(&self) -> Result<()> {
        let own = |path: &Path| match self.run_as {
            Some((uid, gid)) => fsx::chown(path, uid, gid),
            None => Ok(()),
        };
        fsx::create_dir(self.work, 0o700)?;
        own(self.work)?;
        let tmp = self.work.join("tmp");
        fsx::create_dir(&tmp, 0o700)?;
        own(&tmp)?;
        let path = self.work.join("my.cnf");
        let file = fsx::Dir::open(self.work)?.create_file(Path::new("my.cnf"), 0o600)?;
        file.write_all_at(self.option_file().render().as_bytes(), 0)?;
        own(&path)
    }

    fn option_file(&self) -> MyCnf {
        let mut options: Vec<(String, Option<String>)> = self
            .my_cnf
            .options
            .iter()
            .filter(|(name, _)| is_key_option(name))
            .cloned()
            .collect();
        options.extend(self.key_options.iter().cloned());
        MyCnf { options }
    }

    fn args(&self) -> Result<Vec<OsString>> {
        let need = |name: &str| {
            self.my_cnf.get(name).ok_or_else(|| {
                Error::new(
                    Kind::Checksum,
                    format!("damaged metadata file: no {name} in it"),
                )
                .path(self.dir.join(crate::metadata::MY_CNF))
            })
        };
        let mut args = Vec::new();
        let mut path = |name: &str, value: &Path| {
            let mut arg = OsString::from(name);
            arg.push("=");
            arg.push(value);
            args.push(arg);
        };
        // The option file must come first; with it the server reads no other.
        path("--defaults-file", &self.work.join("my.cnf"));
        path("--datadir", self.dir);
        path("--innodb-log-group-home-dir", self.dir);
        path("--innodb-data-home-dir", self.dir);
        path("--innodb-undo-directory", self.dir);
        path("--aria-log-dir-path", self.dir);
        path("--tmpdir", &self.work.join("tmp"));
        path("--innodb-tmpdir", &self.work.join("tmp"));
        path("--pid-file", &self.work.join("pid"));
        // A server that is killed may leave this log half written, and the next one takes that for an error. A backup has none.
        path("--log-ddl-recovery", &self.work.join("ddl_recovery.log"));
        path("--secure-file-priv", &self.work.join("tmp"));
        let source_plugins = self.my_cnf.get("plugin_dir").map(Path::new);
        let source_plugins = source_plugins.filter(|dir| dir.is_dir());
        if let Some(dir) = self.plugin_dir.or(source_plugins) {
            path("--plugin-dir", dir);
        }
        let data_files = strip_directories(need("innodb_data_file_path")?);
        let mut fixed = vec![
            "--bootstrap".to_owned(),
            "--socket=".to_owned(),
            "--skip-networking".to_owned(),
            "--skip-log-bin".to_owned(),
            "--skip-slave-start".to_owned(),
            "--skip-general-log".to_owned(),
            "--skip-slow-query-log".to_owned(),
            "--innodb-fast-shutdown=1".to_owned(),
            "--innodb-buffer-pool-dump-at-shutdown=0".to_owned(),
            "--innodb-buffer-pool-load-at-startup=0".to_owned(),
            format!("--innodb-buffer-pool-size={}", self.use_memory.0),
            format!("--innodb-data-file-path={data_files}"),
            format!("--innodb-page-size={}", need("innodb_page_size")?),
            format!("--innodb-undo-tablespaces={}", self.undo_tablespaces),
        ];
        if let Some(size) = self.my_cnf.get("innodb_log_file_size") {
            fixed.push(format!("--innodb-log-file-size={size}"));
        }
        // The server refuses to run as root unless told so.
        if rustix::process::geteuid().is_root() && self.run_as.is_none() {
            fixed.push("--user=root".to_owned());
        }
        args.extend(fixed.into_iter().map(OsString::from));
        Ok(args)
    }

    /// Runs the server until recovery is done and it has ended. Its output goes to the end of `log`, whose lock it holds.
    pub(crate) fn run(
        &self,
        program: &Program,
        log: &fsx::File,
        cancel: &Cancel,
        monitor: &dyn Monitor,
    ) -> Result<Report> {
        let mut output = Output {
            log,
            position: log.stat()?.size,
            unfinished: Vec::new(),
            report: Report::default(),
        };
        let mut child = Child::spawn(Spawn {
            program: &program.path,
            args: self.args()?,
            without_env: &FOREIGN_ENV,
            run_as: self.run_as,
            output: log.duplicate()?,
            error: None,
        })?;
        let status = loop {
            let status = child.poll()?;
            output.look(monitor)?;
            if let Some(status) = status {
                break status;
            }
            if let Err(reason) = cancel.sleep(LOOK_INTERVAL) {
                child.stop(STOP_GRACE)?;
                return Err(reason);
            }
        };
        output.look(monitor)?;
        output.end_line(monitor);
        let report = output.report;
        if !status.success() || !report.errors.is_empty() {
            return Err(report.failure(status, log.path()));
        }
        Ok(report)
    }
}

impl Report {
    fn failure(&self, status: std::process::ExitStatus, log: &Path) -> Error {
        let told = match self.errors.split_first() {
            Some((first, [])) => first.clone(),
            Some((first, more)) => format!("{first} (and {} more errors)", more.len()),
            None => self.tail.join(" / "),
        };
        let ended = if status.success() {
            String::new()
        } else {
            format!(" ({})", proc::describe(status))
        };
        Error::new(
            Kind::Server,
            format!("the server could not recover the backup{ended}: {told}"),
        )
        .hint(format!(
            "everything it said is in {}; the backup is not prepared, prepare can be run again",
            log.display()
        ))
    }

    fn take(&mut self, line: &str, monitor: &dyn Monitor) {
        // What stands before the level is time and thread.
        let told = ["[ERROR] ", "[Warning] ", "[Note] "]
            .iter()
            .find_map(|level| line.split_once(level).map(|(_, text)| (*level, text)));
        match told {
            Some(("[ERROR] ", text)) => {
                monitor.warning(format!("mariadbd: {text}"));
                self.errors.push(text.to_owned());
            }
            Some((level, text)) => {
                if let Some((_, lsn)) = text.split_once("End of log at LSN=") {
                    self.log_end = lsn.trim().parse().ok().map(Lsn);
                }
                // Its notes are many and stay in the log; whoever wants every file told wants them too.
                let is_news = level == "[Warning] " && !text.starts_with(NOISE);
                if is_news || monitor.wants_files() {
                    monitor.info(format!("mariadbd: {text}"));
                }
            }
            None => {}
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.remove(0);
        }
        self.tail.push(line.to_owned());
    }
}

/// Reads what the server appends to its log.
struct Output<'a> {
    log: &'a fsx::File,
    position: u64,
    unfinished: Vec<u8>,
    report: Report,
}

impl Output<'_> {
    fn look(&mut self, monitor: &dyn Monitor) -> Result<()> {
        let mut buf = [0; 16 << 10];
        loop {
            let n = self.log.read_at(&mut buf, self.position)?;
            if n == 0 {
                return Ok(());
            }
            self.position += n as u64;
            for byte in &buf[..n] {
                if *byte == b'\n' {
                    self.end_line(monitor);
                } else if self.unfinished.len() < LINE_LEN_MAX {
                    self.unfinished.push(*byte);
                }
            }
        }
    }

    fn end_line(&mut self, monitor: &dyn Monitor) {
        let line = std::mem::take(&mut self.unfinished);
        let line = String::from_utf8_lossy(&line);
        // Control characters of names in messages must not reach a terminal.
        let line: String = line.trim().chars().filter(|c| !c.is_control()).collect();
        if !line.is_empty() {
            self.report.take(&line, monitor);
        }
    }
}

/// Whether an option is about keys or codecs.
fn is_key_option(name: &str) -> bool {
    let name = name.replace('-', "_");
    let name = name.strip_prefix("loose_").unwrap_or(&name);
    // Background threads that encrypt more have no place in recovery.
    KEY_OPTIONS.iter().any(|prefix| name.starts_with(prefix)) && name != "innodb_encryption_threads"
}

/// Splits `name=value` texts, and refuses options that are not about keys: they could lead the server out of the
/// directory.
pub(crate) fn parse_key_options(texts: &[String]) -> Result<Vec<(String, Option<String>)>> {
    let parse = |text: &String| {
        let text = text.trim_start_matches("--");
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if is_key_option(name) && !name.contains(char::is_whitespace) {
            return Ok((name.to_owned(), value));
        }
        Err(Error::new(
            Kind::Usage,
            format!("option {name:?} cannot be given to the recovering server"),
        )
        .hint("only options that load and unlock encryption keys or compression can"))
    };
    texts.iter().map(parse).collect()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::monitor::Collector;

    fn program(version: &str) -> Program {
        Program {
            path: "/x/mariadbd".into(),
            flavor: Flavor::parse(version, "").unwrap(),
        }
    }

    #[test]
    fn only_the_same_series_recovers() {
        let own = program("10.11.19-MariaDB-0+deb12u1");
        assert_eq!(
            own.check_version("10.11.6-MariaDB-log", false).unwrap(),
            None
        );
        for (backup, reason) in [
            ("11.8.6-MariaDB", "older server"),
            ("10.6.22-MariaDB", "newer server"),
            ("8.4.3", "only MariaDB"),
        ] {
            let error = own.check_version(backup, false).unwrap_err();
            assert_eq!(error.kind(), Kind::Server);
            assert!(error.to_string().contains(reason), "{error}");
            assert!(own.check_version(backup, true).unwrap().is_some());
        }
    }

    #[test]
    fn a_missing_server_is_named_with_its_version() {
        let error = locate(None, "no-such-mariadbd", "10.11.19").unwrap_err();
        assert_eq!(error.kind(), Kind::Server);
        let story = error.to_string();
        assert!(story.contains("no-such-mariadbd is not installed") && story.contains("10.11.19"));
        let hint = error.hint_text().unwrap();
        assert!(hint.contains("mariadb-server-core") && hint.contains("--mariadbd"));
    }

    #[test]
    fn only_options_about_keys_pass() {
        let texts = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let good = texts(&["--file-key-management-filename=/k", "plugin_load_add=x"]);
        let parsed = parse_key_options(&good).unwrap();
        let name = "file-key-management-filename".to_owned();
        assert_eq!(parsed[0], (name, Some("/k".to_owned())));
        for bad in [
            "--datadir=/x",
            "innodb_encryption_threads=4",
            "plugin load=x",
        ] {
            assert!(parse_key_options(&texts(&[bad])).is_err(), "{bad}");
        }
    }

    #[test]
    fn output_is_judged_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = fsx::File::create_new(dir.path().join("log")).unwrap();
        let monitor = Collector::default();
        let mut output = Output {
            log: &log,
            position: 0,
            unfinished: Vec::new(),
            report: Report::default(),
        };
        let text = "2026-11-21  4:27:13 0 [Note] InnoDB: End of log at LSN=4297374\n\
                    2026-11-21  4:27:13 0 [ERROR] InnoDB: bad\u{1b}[2J\nno level";
        for (i, byte) in text.bytes().enumerate() {
            log.write_all_at(&[byte], i as u64).unwrap();
            output.look(&monitor).unwrap();
        }
        output.end_line(&monitor);
        assert_eq!(output.report.log_end, Some(Lsn(4_297_374)));
        assert_eq!(output.report.errors, ["InnoDB: bad[2J"]);
        assert_eq!(output.report.tail.last().unwrap(), "no level");
    }

    #[test]
    fn what_every_server_tells_is_no_news() {
        let monitor = Collector::default();
        let mut report = Report::default();
        for text in [
            "Could not increase number of max_open_files to more than 20000 (request: 32184)",
            "InnoDB: something else",
        ] {
            let line = format!("2026-11-21  4:27:13 0 [Warning] {text}");
            report.take(&line, &Silent(&monitor));
        }
        let told = crate::base::monitor::Event::Info("mariadbd: InnoDB: something else".to_owned());
        assert_eq!(monitor.events(), [told]);
        assert_eq!(report.tail.len(), 2);
    }

    /// One who does not want to be told every file.
    struct Silent<'a>(&'a Collector);

    impl Monitor for Silent<'_> {
        fn counters(&self) -> &crate::base::monitor::Counters {
            self.0.counters()
        }
        fn event(&self, event: crate::base::monitor::Event) {
            self.0.event(event);
        }
        fn wants_files(&self) -> bool {
            false
        }
    }
}
