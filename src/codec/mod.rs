//! Codecs: buffers in, buffers out, no I/O.

pub mod zstd;
