//! The one integration test binary; each area is a module.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests read the repository, and fail where they stand"
)]

#[path = "../support/backup.rs"]
mod backup_support;
#[path = "../support/certificate.rs"]
mod certificate;
#[path = "../support/client.rs"]
mod client;
#[path = "../support/cloud.rs"]
mod cloud;
#[path = "../support/compare.rs"]
mod compare;
#[path = "../support/ddl.rs"]
mod ddl;
#[path = "../support/fault_proxy.rs"]
mod fault_proxy;
#[path = "../support/http_server.rs"]
mod http_server;
#[path = "../support/job.rs"]
mod job;
#[path = "../support/raw_backup.rs"]
mod raw_backup;
#[path = "../support/replica.rs"]
mod replica;
#[path = "../support/s3_server.rs"]
mod s3_server;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/session.rs"]
mod session;
#[path = "../support/skip.rs"]
mod skip;
#[path = "../support/store_wrappers.rs"]
mod store_wrappers;
mod tool;
mod vec_file;
#[path = "../support/workload.rs"]
mod workload;

mod archive_damage;
mod archive_ddl;
mod archive_hostile;
mod archive_index;
mod archive_interop;
mod archive_limits;
mod archive_ranges;
mod archive_refused;
mod archive_roundtrip;
mod archive_salvage;
mod backup_ahead;
mod backup_ddl;
mod backup_ddl_kinds;
mod backup_failures;
mod backup_layouts;
mod backup_load;
mod backup_replica;
mod bad_input;
mod cli_contract;
mod cli_password;
mod cli_progress;
mod codec_parallel;
mod codecs;
mod compat_callers;
mod compat_mbstream;
mod compat_xbcloud;
mod compat_xbcloud_faults;
mod compat_xbcrypt;
mod convert;
mod crypt;
mod crypt_interop;
mod damage_matrix;
mod damage_samples;
mod fuzzed;
mod innodb_pages_real;
mod innodb_prepare_real;
mod innodb_real;
mod main_job;
mod option_files;
mod prepare_kills;
mod prepare_real;
mod prepare_refusals;
mod repository_vectors;
mod repository_writer;
mod restore_real;
mod server_locks;
mod server_session;
mod server_tls;
mod spec;
mod store_backups;
mod store_commits;
mod store_conformance;
mod store_faults;
mod store_live;
mod store_options;
mod store_outages;
mod store_ranges;
mod store_tls;
mod support_server;
mod tidy;
mod vectors;
mod xbstream_props;
