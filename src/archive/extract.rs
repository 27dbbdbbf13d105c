//! `extract`: archive to directory.

use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::{ReadOptions, read_archive};
use crate::base::error::Result;
use crate::base::run::Run;
use crate::pipeline::demux::Outcome;
use crate::pipeline::dir_sink::{DirOptions, DirSink};
use crate::pipeline::limit::LimitSink;
use crate::pipeline::select::{SelectSink, Selection};
use crate::pipeline::strip::StripSink;

/// What to extract, and where to.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// Where it comes from.
    pub read: ReadOptions,
    /// Existing or new directory.
    pub directory: PathBuf,
    /// What to take.
    pub selection: Selection,
    /// Components to take off the beginning of names.
    pub strip_components: usize,
    /// What happens to existing files, and durability.
    pub dir: DirOptions,
}

/// Extracts. A file appears under its name only when it is whole and verified.
pub fn extract(options: &ExtractOptions, run: &Run) -> Result<Outcome> {
    let target = DirSink::open(&options.directory, options.dir, Arc::clone(&run.monitor))?;
    let outcome = {
        let limit = LimitSink::new(&target, options.read.max_output);
        let strip = StripSink::new(&limit, options.strip_components);
        let select = SelectSink::new(&strip, &options.selection)?;
        let outcome = read_archive(&options.read, &select, run);
        if outcome.is_err() && options.read.keep_going && !run.cancel.is_cancelled() {
            // What was saved is to stay.
            target.settle()?;
        }
        let outcome = outcome?;
        select.check_found()?;
        outcome
    };
    target.finish()?;
    Ok(outcome)
}
