//! What every layer stands on: errors, units, buffers, cancellation, the monitor, file access, option files,
//! child processes.

pub mod cancel;
pub mod dir;
pub mod error;
pub mod fsx;
pub mod monitor;
pub mod optfile;
pub mod pool;
pub mod proc;
pub mod run;
pub mod secret;
pub mod spec;
pub mod units;
