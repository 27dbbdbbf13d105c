//! The small files that tell what a backup is (`format-spec/metadata.md`).

use jiff::Zoned;

use crate::backup::engine::Locks;
use crate::backup::{BackupOptions, Destination};
use crate::base::error::{Error, Kind, Result};
use crate::base::units::Lsn;
use crate::metadata::MY_CNF;
use crate::metadata::binlog::BinlogPosition;
use crate::metadata::checkpoints::{BackupType, Checkpoints};
use crate::metadata::info::{Info, TOOL_NAME};
use crate::metadata::my_cnf::{Essentials, MyCnf};
use crate::metadata::slave::{Connection, SlaveInfo, Start};
use crate::server::flavor::Flavor;
use crate::server::sql::{self, GaleraState, ReplicaStatus};
use crate::server::variables::{Plugin, Variables};
use crate::xbstream::ArchivePath;

/// Time format of the info file: local time without zone, as its readers expect.
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// InnoDB's default where the server did not say.
const COMPRESSION_LEVEL_DEFAULT: u32 = 6;

/// Everything there is to tell.
pub(super) struct Story<'a> {
    pub(super) flavor: &'a Flavor,
    pub(super) variables: &'a Variables,
    pub(super) options: &'a BackupOptions,
    pub(super) started: &'a Zoned,
    pub(super) locks: Locks,
    pub(super) undo_files: u32,
    pub(super) to_lsn: Lsn,
    pub(super) last_lsn: Lsn,
    pub(super) binlog: Option<&'a sql::BinlogPosition>,
    pub(super) replica: Option<&'a ReplicaStatus>,
    pub(super) galera: Option<&'a GaleraState>,
}

/// Files to write: name and content.
pub(super) struct Files {
    /// In any order.
    pub(super) files: Vec<(ArchivePath, Vec<u8>)>,
    /// The one whose presence says that the backup is whole.
    pub(super) last: (ArchivePath, Vec<u8>),
    /// What was written about the binary log.
    pub(super) binlog: Option<BinlogPosition>,
}

/// Renders all metadata files.
pub(super) fn files(story: &Story<'_>) -> Result<Files> {
    let names = story.flavor.metadata_names();
    let binlog = story.binlog.map(|b| BinlogPosition {
        file: b.file.clone(),
        position: b.position,
        gtid: Some(b.gtid_current_pos.clone()),
    });
    let mut files = vec![
        (named(MY_CNF)?, my_cnf(story).render()),
        (named(names.info)?, info(story, binlog.as_ref()).render()),
    ];
    if let Some(binlog) = &binlog {
        files.push((named(names.binlog_info)?, binlog.render()));
    }
    if let Some(replica) = story.replica
        && !replica.connections.is_empty()
    {
        files.push((named(names.slave_info)?, slave_info(replica).render()));
    }
    // r[metadata.galera-info]
    if let Some(g) = story.galera {
        let text = format!(
            "{}:{} {}\n",
            g.state_uuid, g.last_committed, g.gtid_domain_id
        );
        files.push((named(names.galera_info)?, text));
    }
    let checkpoints = Checkpoints {
        backup_type: BackupType::Full,
        from_lsn: Lsn(0),
        to_lsn: story.to_lsn,
        last_lsn: story.last_lsn,
        recover_binlog_info: Some(false),
        other: Vec::new(),
    };
    Ok(Files {
        files: files
            .into_iter()
            .map(|(name, text)| (name, text.into_bytes()))
            .collect(),
        last: (named(names.checkpoints)?, checkpoints.render().into_bytes()),
        binlog,
    })
}

fn named(name: &str) -> Result<ArchivePath> {
    ArchivePath::new(name.as_bytes()).map_err(|e| {
        Error::new(Kind::Failed, "no archive can hold the name")
            .path(name)
            .source(e)
    })
}

fn info(story: &Story<'_>, binlog: Option<&BinlogPosition>) -> Info {
    let time = |t: &Zoned| t.strftime(TIME_FORMAT).to_string();
    let encoders = &story.options.encoders;
    let stream = !matches!(story.options.destination, Destination::Directory(_));
    Info {
        uuid: uuid::Uuid::new_v4().to_string(),
        name: String::new(),
        tool_name: TOOL_NAME.to_owned(),
        tool_command: story.options.command.clone(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        ibbackup_version: env!("CARGO_PKG_VERSION").to_owned(),
        server_version: story.flavor.text.clone(),
        start_time: time(story.started),
        end_time: time(&Zoned::now()),
        lock_time: story.locks.commits.as_secs(),
        binlog_pos: binlog.map(BinlogPosition::sentence).unwrap_or_default(),
        innodb_from_lsn: Lsn(0),
        innodb_to_lsn: story.to_lsn,
        partial: false,
        incremental: false,
        format: if stream { "mbstream" } else { "file" }.to_owned(),
        compressed: if encoders.iter().any(|e| !e.encrypts()) {
            "compressed"
        } else {
            "N"
        }
        .to_owned(),
        // Percona's line; MariaDB's programs write none.
        other: if encoders.iter().any(|e| e.encrypts()) {
            vec![("encrypted".to_owned(), "Y".to_owned())]
        } else {
            Vec::new()
        },
    }
}

fn my_cnf(story: &Story<'_>) -> MyCnf {
    let v = story.variables;
    let mut more = Vec::new();
    // The reference program's prepare knows these two names only.
    let plugins: Vec<String> = v.plugins.iter().filter_map(plugin_load).collect();
    if !plugins.is_empty() {
        let dir = v.plugin_dir.as_ref().map(|d| d.to_string_lossy().into());
        more.extend(dir.map(|dir| ("plugin_dir".to_owned(), Some(dir))));
        more.push(("plugin_load".to_owned(), Some(plugins.join(";"))));
    }
    for option in &v.plugin_options {
        more.push((option.name.clone(), Some(option.value.clone())));
    }
    for (name, on) in [
        ("innodb_encrypt_log", v.innodb_encrypt_log),
        ("innodb_encrypt_tables", v.innodb_encrypt_tables),
        ("aria_encrypt_tables", v.aria_encrypt_tables),
    ] {
        if on {
            more.push((name.to_owned(), Some("ON".to_owned())));
        }
    }
    MyCnf::new(
        &Essentials {
            innodb_checksum_algorithm: v.innodb_checksum_algorithm.clone(),
            innodb_data_file_path: v.innodb_data_file_path.clone(),
            innodb_log_file_size: v.innodb_log_file_size.0,
            innodb_page_size: v.innodb_page_size,
            innodb_undo_tablespaces: story.undo_files,
            innodb_compression_level: v
                .innodb_compression_level
                .unwrap_or(COMPRESSION_LEVEL_DEFAULT),
            innodb_buffer_pool_filename: None,
        },
        more,
    )
}

/// `NAME=LIBRARY`; nothing for a plugin that is part of the server.
fn plugin_load(plugin: &Plugin) -> Option<String> {
    let library = plugin.library.as_ref()?;
    let stem = library.strip_suffix(".so").unwrap_or(library);
    Some(format!("{}={stem}", plugin.name))
}

fn slave_info(replica: &ReplicaStatus) -> SlaveInfo {
    let by_gtid = replica.connections.iter().any(|c| c.uses_gtid);
    SlaveInfo {
        gtid_slave_pos: by_gtid.then(|| replica.gtid_slave_pos.clone()),
        connections: replica
            .connections
            .iter()
            .map(|c| Connection {
                name: c.name.clone(),
                start: if c.uses_gtid {
                    Start::Gtid
                } else {
                    Start::File {
                        file: c.applied_file.clone(),
                        position: c.applied_position,
                    }
                },
            })
            .collect(),
    }
}
