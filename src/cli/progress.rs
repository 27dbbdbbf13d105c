//! What a run tells on standard error while it goes on: a bar, plain lines or JSON events (`format-spec/events.md`).

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::base::error::Error;
use crate::base::monitor::{Counters, Event, Monitor};
use crate::base::units::ByteCount;
pub use crate::cli::common::Progress;
use crate::front::lines;

/// Events of `--progress json` and their fields in order: the table of `format-spec/events.md`. Every event begins with
/// `event` and `elapsed_ms`.
pub const EVENTS: &[(&str, &[&str])] = &[
    ("start", &["verb", "version"]),
    ("phase", &["text"]),
    ("info", &["text"]),
    ("warning", &["text"]),
    ("file", &["path"]),
    (
        "progress",
        &[
            "read_bytes",
            "total_bytes",
            "written_bytes",
            "done_files",
            "redo_bytes",
            "redo_lag_bytes",
        ],
    ),
    ("summary", &["files", "bytes", "bytes_per_second"]),
    ("error", &["kind", "status", "text", "hint"]),
];

const BAR_INTERVAL: Duration = Duration::from_millis(100);
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// How to watch a run.
#[derive(Debug, Clone, Copy)]
pub struct WatcherOptions {
    /// The verb, for the lines.
    pub verb: &'static str,
    /// What was asked for.
    pub progress: Progress,
    /// The result is on standard output and usually there at once; see [`WatcherOptions::style`].
    pub brief: bool,
    /// Tell each file.
    pub verbose: bool,
    /// Tell only warnings and errors.
    pub quiet: bool,
}

/// How progress is really told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Bar,
    Plain,
    Json,
    None,
}

impl WatcherOptions {
    /// Settles `auto` by where the two streams lead. A brief verb shows at most a bar, and none into its own result.
    fn style(self, stderr_is_terminal: bool, stdout_is_terminal: bool) -> Style {
        match self.progress {
            Progress::Bar => Style::Bar,
            Progress::Plain => Style::Plain,
            Progress::Json => Style::Json,
            Progress::None => Style::None,
            Progress::Auto if self.quiet => Style::None,
            Progress::Auto if self.brief && (stdout_is_terminal || !stderr_is_terminal) => {
                Style::None
            }
            Progress::Auto if stderr_is_terminal => Style::Bar,
            Progress::Auto => Style::Plain,
        }
    }
}

/// The one who watches a run of the command line.
#[derive(Debug)]
pub struct Watcher {
    counters: Counters,
    options: WatcherOptions,
    style: Style,
    begun: Instant,
    bar: Option<ProgressBar>,
    ticker: Mutex<Option<Ticker>>,
}

#[derive(Debug)]
struct Ticker {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watcher {
    /// Begins to watch; a bar or periodic lines need a thread.
    #[must_use]
    pub fn start(options: WatcherOptions) -> Arc<Self> {
        let style = options.style(
            std::io::stderr().is_terminal(),
            std::io::stdout().is_terminal(),
        );
        let bar = (style == Style::Bar).then(new_bar);
        let watcher = Arc::new(Self {
            counters: Counters::default(),
            options,
            style,
            begun: Instant::now(),
            bar,
            ticker: Mutex::new(None),
        });
        if style == Style::Json && !options.quiet {
            let version = env!("CARGO_PKG_VERSION");
            watcher.json("start", [json!(options.verb), json!(version)]);
        }
        let interval = match style {
            Style::None => return watcher,
            _ if options.quiet => return watcher,
            Style::Bar => BAR_INTERVAL,
            Style::Plain => PLAIN_INTERVAL,
            Style::Json => JSON_INTERVAL,
        };
        let (stop, stopped) = bounded(1);
        let weak = Arc::downgrade(&watcher);
        // Without the thread the run only tells less.
        if let Ok(thread) = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
                    let Some(watcher) = weak.upgrade() else { break };
                    watcher.tick();
                }
            })
        {
            *watcher.lock_ticker() = Some(Ticker { stop, thread });
        }
        watcher
    }

    /// The run is over and everything asked for is done.
    pub fn done(&self, files: u64, bytes: u64) {
        self.stop();
        if self.options.quiet || self.style == Style::None || self.options.brief {
            return;
        }
        let elapsed = self.begun.elapsed();
        // A rename takes no time, whatever it moves.
        let renamed = Counters::get(&self.counters.renamed_bytes);
        let carried = bytes.saturating_sub(renamed);
        match self.style {
            Style::Json => {
                let per_second = bytes_per_second(carried, elapsed);
                self.json("summary", [json!(files), json!(bytes), json!(per_second)]);
            }
            _ if files == 0 => lines::tell(&format!(
                "xbpipe: {} done in {:.1} s",
                self.options.verb,
                elapsed.as_secs_f64(),
            )),
            _ => {
                let rate = if renamed > carried {
                    "by renames".to_owned()
                } else {
                    rate(carried, elapsed)
                };
                lines::tell(&format!(
                    "xbpipe: {} done: {files} files, {bytes} bytes ({}) in {:.1} s, {rate}",
                    self.options.verb,
                    ByteCount(bytes),
                    elapsed.as_secs_f64(),
                ));
            }
        }
    }

    /// The run is over and failed.
    pub fn failed(&self, error: &Error) {
        self.stop();
        if self.style == Style::Json {
            let kind = error.kind();
            self.json(
                "error",
                [
                    json!(kind.word()),
                    json!(kind.exit_status()),
                    json!(error.to_string()),
                    json!(error.hint_text()),
                ],
            );
            return;
        }
        for line in lines::error_lines("xbpipe", error) {
            lines::tell(&line);
        }
    }

    fn lock_ticker(&self) -> MutexGuard<'_, Option<Ticker>> {
        self.ticker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let ticker = self.lock_ticker().take();
        if let Some(Ticker { stop, thread }) = ticker {
            drop(stop);
            // It only draws; a panic there has been told by the panic itself.
            thread.join().ok();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn tick(&self) {
        let counters = &self.counters;
        let (read, total) = (
            Counters::get(&counters.read_bytes),
            Counters::get(&counters.total_bytes),
        );
        match self.style {
            Style::None => {}
            Style::Bar => {
                if let Some(bar) = &self.bar {
                    // Each of these may draw.
                    bar.set_message(format!("{} files", Counters::get(&counters.done_files)));
                    if total > 0 && bar.length() != Some(total) {
                        bar.set_length(total);
                        bar.set_style(bar_style(true));
                    }
                    bar.set_position(read);
                }
            }
            Style::Plain => lines::tell(&self.plain_line(read, total)),
            Style::Json => {
                let values = [
                    &counters.read_bytes,
                    &counters.total_bytes,
                    &counters.written_bytes,
                    &counters.done_files,
                    &counters.redo_bytes,
                    &counters.redo_lag_bytes,
                ];
                self.json("progress", values.map(|c| json!(Counters::get(c))));
            }
        }
    }

    fn plain_line(&self, read: u64, total: u64) -> String {
        let elapsed = self.begun.elapsed();
        let mut line = format!("xbpipe: {}: {}", self.options.verb, ByteCount(read));
        if total > 0 {
            let percent = u128::from(read) * 100 / u128::from(total);
            line.push_str(&format!(" of {} ({percent}%)", ByteCount(total)));
        }
        line.push_str(&format!(
            ", {} files, {}",
            Counters::get(&self.counters.done_files),
            rate(read, elapsed)
        ));
        if let (Some(left), true) = (total.checked_sub(read), read > 0) {
            let seconds = u128::from(left) * elapsed.as_millis() / u128::from(read) / 1000;
            line.push_str(&format!(
                ", {}:{:02}:{:02} left",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60
            ));
        }
        line
    }

    fn json<const N: usize>(&self, event: &str, values: [Value; N]) {
        let names = EVENTS
            .iter()
            .find(|(name, _)| *name == event)
            .map_or(&[][..], |(_, fields)| *fields);
        lines::tell(&json_line(event, self.begun.elapsed(), names, values));
    }

    fn tell(&self, text: &str) {
        match &self.bar {
            Some(bar) if !bar.is_finished() => bar.suspend(|| lines::tell(text)),
            _ => lines::tell(text),
        }
    }
}

impl Monitor for Watcher {
    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn wants_files(&self) -> bool {
        self.options.verbose
    }

    fn event(&self, event: Event) {
        let quiet = self.options.quiet || self.style == Style::None;
        let (word, text) = match event {
            Event::Warning(text) => ("warning", text),
            Event::File(path) if self.options.verbose => ("file", path),
            Event::Phase(text) if !quiet => ("phase", text),
            Event::Info(text) if !quiet => ("info", text),
            Event::File(_) | Event::Phase(_) | Event::Info(_) => return,
        };
        match (self.style, word) {
            (Style::Json, _) => self.json(word, [json!(text)]),
            (_, "warning") => self.tell(&format!("xbpipe: warning: {text}")),
            (_, _) => self.tell(&format!("xbpipe: {text}")),
        }
    }
}

/// One event on one line; texts are cut so that the line stays below its limit and remains JSON.
fn json_line<const N: usize>(
    event: &str,
    elapsed: Duration,
    names: &[&str],
    values: [Value; N],
) -> String {
    /// Room that quotes and escapes may take at most: six bytes for one (`\u0000`).
    const TEXT_LEN_MAX: usize = 3000;
    let mut object = Map::new();
    object.insert("event".to_owned(), json!(event));
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    object.insert("elapsed_ms".to_owned(), json!(millis));
    for (name, value) in names.iter().zip(values) {
        let value = match value {
            Value::String(mut text) => {
                while json!(text).to_string().len() > TEXT_LEN_MAX {
                    text = text.chars().take(text.chars().count() * 3 / 4).collect();
                }
                Value::String(text)
            }
            other => other,
        };
        object.insert((*name).to_owned(), value);
    }
    Value::Object(object).to_string()
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(bar_style(false));
    bar
}

const BAR_WITH_TOTAL: &str = "{percent:>3}% [{bar:30}] {binary_bytes}/{binary_total_bytes} {decimal_bytes_per_sec} eta {eta} {msg}";
const BAR_WITHOUT_TOTAL: &str = "{spinner} {binary_bytes} {decimal_bytes_per_sec} {elapsed} {msg}";

fn bar_style(total_known: bool) -> ProgressStyle {
    let template = if total_known {
        BAR_WITH_TOTAL
    } else {
        BAR_WITHOUT_TOTAL
    };
    // A test parses them.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn bytes_per_second(bytes: u64, elapsed: Duration) -> u64 {
    let millis = elapsed.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

/// Megabytes per second.
fn rate(bytes: u64, elapsed: Duration) -> String {
    let tenths = bytes_per_second(bytes, elapsed) / 100_000;
    format!("{}.{} MB/s", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_looks_where_the_streams_lead() {
        let options = |progress, brief, quiet| WatcherOptions {
            verb: "x",
            progress,
            brief,
            verbose: false,
            quiet,
        };
        for (brief, quiet, stderr, stdout, style) in [
            (false, false, true, true, Style::Bar),
            (false, false, true, false, Style::Bar),
            (false, false, false, false, Style::Plain),
            (false, true, true, false, Style::None),
            (true, false, true, true, Style::None),
            (true, false, true, false, Style::Bar),
            (true, false, false, false, Style::None),
        ] {
            let options = options(Progress::Auto, brief, quiet);
            assert_eq!(options.style(stderr, stdout), style, "{options:?}");
        }
    }

    #[test]
    fn bar_templates_parse() {
        for template in [BAR_WITH_TOTAL, BAR_WITHOUT_TOTAL] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
        assert_eq!(rate(123_456_789, Duration::from_secs(10)), "12.3 MB/s");
    }

    #[test]
    fn long_texts_stay_json_below_the_limit() {
        for text in ["\u{1}".repeat(5000), "ü".repeat(5000)] {
            let line = json_line("info", Duration::ZERO, &["text"], [json!(text)]);
            assert!(line.len() < lines::LINE_LEN_MAX);
            let value: Value = serde_json::from_str(&line).unwrap();
            assert!(value["text"].as_str().unwrap().len() > 100);
        }
    }
}
