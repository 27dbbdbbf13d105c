//! What the programs tell while they run: nothing but warnings, and each file with `--verbose`.

use crate::base::monitor::{Counters, Event, Monitor};
use crate::front::lines::tell;

/// How the line for a file looks.
pub(super) type FileLine = fn(&str) -> String;

pub(super) struct Voice {
    counters: Counters,
    program: &'static str,
    files: Option<FileLine>,
}

impl Voice {
    pub(super) fn new(program: &'static str, files: Option<FileLine>) -> Self {
        Self {
            counters: Counters::default(),
            program,
            files,
        }
    }
}

impl Monitor for Voice {
    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn wants_files(&self) -> bool {
        self.files.is_some()
    }

    fn event(&self, event: Event) {
        match (event, self.files) {
            (Event::Warning(text), _) => tell(&format!("{}: warning: {text}", self.program)),
            (Event::File(name), Some(line)) => tell(&line(&name)),
            _ => {}
        }
    }
}
