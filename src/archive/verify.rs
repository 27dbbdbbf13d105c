//! `verify`: everything `extract` checks, without writing.

use crate::archive::{Examined, ReadOptions, examine};
use crate::base::error::Result;
use crate::base::run::Run;
use crate::pipeline::limit::LimitSink;
use crate::pipeline::select::{SelectSink, Selection};
use crate::pipeline::sink::NullSink;

/// Checks structure, every checksum and the end of an archive. What is wrong with it is in the outcome; an error is what kept
/// us from looking, or that something asked for is not there.
pub fn verify(options: &ReadOptions, selection: &Selection, run: &Run) -> Result<Examined> {
    let limit = LimitSink::new(&NullSink, options.max_output);
    let select = SelectSink::new(&limit, selection)?;
    let examined = examine(options, &select, run)?;
    if examined.outcome.is_whole() {
        select.check_found()?;
    }
    Ok(examined)
}
