//! xbpipe: hot physical backup of MariaDB and MySQL as one stream, and the way back.
//!
//! `ARCHITECTURE.md` draws the house: layers, rooms and invariants.

pub mod archive;
pub mod backup;
pub mod base;
pub mod cli;
pub mod codec;
pub mod compat;
pub mod crypt;
pub mod front;
pub mod innodb;
pub mod metadata;
pub mod pipeline;
pub mod prepare;
pub mod repository;
pub mod restore;
pub mod server;
pub mod store;
pub mod xbstream;

/// Every table that `format-spec/` and the code share.
pub const SPEC_TABLES: &[base::spec::Tables] = &[
    archive::convert::TABLES,
    codec::TABLES,
    crypt::xbcrypt::SPEC,
    crypt::age::SPEC,
    innodb::TABLES,
    innodb::redo::TABLES,
    metadata::TABLES,
    repository::TABLES,
    repository::cloud::TABLES,
    server::TABLES,
    xbstream::SPEC,
];
