//! The machinery every verb is made of: sources produce file events, transforms map them, sinks consume them.
//!
//! A source pushes: it opens a file on a [`sink::Sink`], hands it data in order, closes it. A transform is a sink in front of
//! a sink. Threads belong to sources (lanes), to the codec pool and to the one writer of an archive; everything between is
//! plain calls. Order is kept within a file; files interleave.

mod allowance;
pub mod archive_sink;
pub mod budget;
pub mod compression;
pub mod decode;
pub mod demux;
pub mod dir_sink;
pub mod encode;
pub mod glob;
pub mod index_file;
pub mod input;
pub mod keys;
pub mod limit;
pub mod output;
mod queue;
pub mod select;
pub mod settle;
pub mod sink;
pub mod source;
mod sparse;
pub mod strip;
pub mod tree;
pub mod workers;
