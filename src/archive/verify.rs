//! `verify`: everything `extract` checks, without writing.

use crate::archive::{Examined, ReadOptions, examine};
use crate::base::error::Result;
use crate::base::run::Run;
use crate::pipeline::sink::NullSink;

/// Checks structure, every checksum and the end of an archive. What is wrong with it is in the outcome; an error is what kept
/// us from looking.
pub fn verify(options: &ReadOptions, run: &Run) -> Result<Examined> {
    examine(options, &NullSink, run)
}
