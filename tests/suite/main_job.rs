//! The job that xbpipe is for, as the demonstration shows it, in small.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::job::{self, Audience, Size};

/// What was told and when, for the message of a failure.
struct Story(Instant, Mutex<String>);

impl Story {
    fn add(&self, text: &str) {
        let at = self.0.elapsed().as_secs_f64();
        self.1
            .lock()
            .unwrap()
            .push_str(&format!("{at:6.1} s {text}\n"));
    }
}

impl Audience for Story {
    fn part(&self, title: &str) {
        self.add(title);
    }

    fn command(&self, command: &str) {
        self.add(&format!("$ {command}"));
    }

    fn line(&self, line: &str) {
        self.add(line);
    }

    fn started(&self, _pid: u32) {}

    fn ended(&self, _pid: u32) {}
}

#[test]
fn a_server_under_load_comes_up_again_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let size = Size {
        megabytes: 15,
        tellers: 2,
        margin: Duration::from_millis(500),
        link: Some(30 << 20),
    };
    let xbpipe = Path::new(env!("CARGO_BIN_EXE_xbpipe"));
    let story = Story(Instant::now(), Mutex::default());
    let proof = job::run(xbpipe, dir.path(), size, &story)
        .unwrap_or_else(|error| panic!("{error}\n{}", story.1.lock().unwrap()));
    println!("{}", story.1.lock().unwrap());
    assert!(proof.compared.tables > 50, "{proof:?}");
    assert!(proof.compared.rows > 50_000, "{proof:?}");
    assert!(proof.bytes > 50 << 20, "{proof:?}");
    // The connection is the bound: the backup waits for it and does nothing else wrong.
    assert!(proof.duration < Duration::from_secs(60), "{proof:?}");
    assert!(proof.meanwhile.ddl > 20, "{proof:?}");
}
