//! What all parts of one run share.

use std::sync::Arc;

use crate::base::cancel::Cancel;
use crate::base::monitor::Monitor;

/// What a run shares: who watches it and what ends it.
#[derive(Clone)]
pub struct Run {
    /// Ends the run.
    pub cancel: Cancel,
    /// Watches it.
    pub monitor: Arc<dyn Monitor>,
}
