//! The demonstration: what xbpipe is for, on a throw-away server, told step by step. `tests/demo.sh` builds and runs it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a demonstration talks to whoever started it, and starts programs itself"
)]

#[path = "../support/client.rs"]
mod client;
#[path = "../support/compare.rs"]
mod compare;
#[path = "../support/ddl.rs"]
mod ddl;
#[path = "../support/job.rs"]
mod job;
#[path = "../support/replica.rs"]
mod replica;
#[path = "../support/server.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod server;
#[path = "../support/workload.rs"]
mod workload;

mod interrupt;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use interrupt::Running;
use job::{Audience, Proof, Size};

/// Megabytes of generated data when the first argument does not say otherwise.
const MEGABYTES: u64 = 500;

fn main() -> ExitCode {
    let running = match interrupt::watch() {
        Ok(running) => running,
        Err(error) => {
            eprintln!("demo: cannot watch for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A server that does not start or a statement that fails is a panic in the support code.
    std::panic::set_hook(Box::new(|panic| {
        if !interrupt::happened() {
            eprintln!("demo: {panic}");
        }
    }));
    let begin = Instant::now();
    let result = std::panic::catch_unwind(|| demonstrate(running));
    let result = result.unwrap_or_else(|_| Err("the message above says why".to_owned()));
    let seconds = begin.elapsed().as_secs();
    match result {
        _ if interrupt::happened() => {
            eprintln!("demo: INTERRUPTED; the servers are stopped and their files removed");
            ExitCode::from(interrupt::STATUS)
        }
        Ok(proof) => {
            println!("\n{}", verdict(&proof, seconds));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\nFAILED after {seconds} s: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(running: &'static Running) -> Result<Proof, String> {
    let size = Size {
        megabytes: match std::env::args().nth(1) {
            Some(word) => word
                .parse()
                .map_err(|_| format!("{word:?} is not a number of megabytes"))?,
            None => MEGABYTES,
        },
        tellers: 2,
        margin: Duration::from_secs(2),
        link: None,
    };
    let xbpipe = beside_this_program("xbpipe")?;
    let dir = tempfile::Builder::new()
        .prefix("xbpipe-demo")
        .tempdir()
        .map_err(|e| format!("cannot make a temporary directory: {e}"))?;
    // Everything that the support code makes goes there, and away with it.
    tempfile::env::override_temp_dir(dir.path())
        .map_err(|_| "the directory for temporary files was chosen before".to_owned())?;
    running.remove_at_last(dir.path());
    println!(
        "xbpipe demonstration: everything happens in {}",
        dir.path().display()
    );
    println!(
        "It needs about {} MB there and stops its servers at the end.",
        600 + 4 * size.megabytes
    );
    run(&xbpipe, dir.path(), size, running)
}

fn run(xbpipe: &Path, dir: &Path, size: Size, running: &Running) -> Result<Proof, String> {
    let stage = Stage {
        begin: Instant::now(),
        running,
    };
    job::run(xbpipe, dir, size, &stage)
}

fn verdict(proof: &Proof, seconds: u64) -> String {
    format!(
        "PASSED in {seconds} s: a hot backup of {} at {:.0} MB/s, with {} transfers and {} DDL statements meanwhile; \
         prepared, started, caught up as a replica, {} tables with {} rows equal",
        job::megabytes(proof.bytes),
        proof.bytes as f64 / 1e6 / proof.duration.as_secs_f64(),
        proof.meanwhile.transfers,
        proof.meanwhile.ddl,
        proof.compared.tables,
        proof.compared.rows
    )
}

/// A program that cargo built beside the running one.
fn beside_this_program(name: &str) -> Result<PathBuf, String> {
    let here = std::env::current_exe().map_err(|e| e.to_string())?;
    let directories = here.ancestors().skip(1).take(2);
    let mut places = directories.map(|d| d.join(name));
    places
        .find(|p| p.is_file())
        .ok_or_else(|| format!("{name} is not built: run tests/demo.sh, which does that first"))
}

/// Tells it on standard output.
struct Stage<'a> {
    begin: Instant,
    running: &'a Running,
}

impl Audience for Stage<'_> {
    fn part(&self, title: &str) {
        println!("\n[{:>3} s] {title}", self.begin.elapsed().as_secs());
    }

    fn command(&self, command: &str) {
        println!("  $ {command}");
    }

    fn line(&self, line: &str) {
        println!("    {line}");
    }

    fn started(&self, pid: u32) {
        self.running.add(pid);
    }

    fn ended(&self, pid: u32) {
        self.running.remove(pid);
    }
}
