//! The server's variables, as far as a backup needs them.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Kind, Result};
use crate::base::units::ByteCount;
use crate::server::fault;

/// What is asked for. Names a server does not know are simply not in the answer.
pub(super) const NAMES: &[&str] = &[
    "aria_encrypt_tables",
    "aria_log_dir_path",
    "datadir",
    "gtid_domain_id",
    "gtid_slave_pos",
    "gtid_strict_mode",
    "hostname",
    "ignore_db_dirs",
    "innodb_buffer_pool_filename",
    "innodb_checksum_algorithm",
    "innodb_compression_level",
    "innodb_data_file_path",
    "innodb_data_home_dir",
    "innodb_encrypt_log",
    "innodb_encrypt_tables",
    "innodb_log_archive",
    "innodb_log_file_size",
    "innodb_log_group_home_dir",
    "innodb_page_size",
    "aria_block_size",
    "innodb_undo_directory",
    "innodb_undo_tablespaces",
    "log_bin",
    "log_bin_basename",
    "lower_case_table_names",
    "myisam_use_mmap",
    "pid_file",
    "plugin_dir",
    "port",
    "secure_file_priv",
    "server_id",
    "socket",
    "tmpdir",
    "wsrep_on",
];

/// Variables of the encryption plugins begin so.
pub(super) const PLUGIN_OPTION_PREFIXES: &[&str] = &[
    "file_key_management_",
    "hashicorp_key_management_",
    "aws_key_management_",
];

/// A plugin that a restore needs as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// Name, such as `file_key_management`.
    pub name: String,
    /// It encrypts (the others compress pages).
    pub encrypts: bool,
    /// File in the plugin directory; `None` for a built-in one.
    pub library: Option<String>,
}

/// One variable of a plugin. Its value may be a secret and is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PluginOption {
    /// Name of the variable.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl fmt::Debug for PluginOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=...", self.name)
    }
}

/// The server's variables. Directories are absolute; relative ones are resolved against `datadir`,
/// where the server's working directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variables {
    /// `datadir`
    pub datadir: PathBuf,
    /// `innodb_data_home_dir`; `None` when empty, which lets `innodb_data_file_path` have absolute
    /// names.
    pub innodb_data_home_dir: Option<PathBuf>,
    /// `innodb_data_file_path`, as configured.
    pub innodb_data_file_path: String,
    /// `innodb_log_group_home_dir`
    pub innodb_log_group_home_dir: PathBuf,
    /// `innodb_log_file_size`
    pub innodb_log_file_size: ByteCount,
    /// `innodb_undo_directory`
    pub innodb_undo_directory: PathBuf,
    /// `innodb_undo_tablespaces`, as configured (not the number of files).
    pub innodb_undo_tablespaces: u32,
    /// `innodb_page_size` in bytes.
    pub innodb_page_size: u32,
    /// `aria_block_size` in bytes.
    pub aria_block_size: u32,
    /// `innodb_checksum_algorithm`
    pub innodb_checksum_algorithm: String,
    /// `innodb_compression_level`
    pub innodb_compression_level: Option<u32>,
    /// `innodb_buffer_pool_filename`
    pub innodb_buffer_pool_filename: Option<String>,
    /// `innodb_encrypt_log`
    pub innodb_encrypt_log: bool,
    /// `innodb_encrypt_tables` is not `OFF`.
    pub innodb_encrypt_tables: bool,
    /// `aria_log_dir_path`
    pub aria_log_dir_path: PathBuf,
    /// `aria_encrypt_tables`
    pub aria_encrypt_tables: bool,
    /// `log_bin`
    pub log_bin: bool,
    /// `log_bin_basename`
    pub log_bin_basename: Option<PathBuf>,
    /// `gtid_domain_id`
    pub gtid_domain_id: u32,
    /// `gtid_slave_pos`
    pub gtid_slave_pos: String,
    /// `gtid_strict_mode`
    pub gtid_strict_mode: bool,
    /// `wsrep_on`
    pub wsrep_on: bool,
    /// `ignore_db_dirs`: directories of the data directory that are no databases.
    pub ignore_db_dirs: Vec<String>,
    /// `lower_case_table_names`
    pub lower_case_table_names: u8,
    /// `myisam_use_mmap`
    pub myisam_use_mmap: bool,
    /// `secure_file_priv`; `None` when empty (no restriction).
    pub secure_file_priv: Option<PathBuf>,
    /// `pid_file`
    pub pid_file: Option<PathBuf>,
    /// `plugin_dir`
    pub plugin_dir: Option<PathBuf>,
    /// `socket`
    pub socket: Option<PathBuf>,
    /// `port`
    pub port: u16,
    /// `tmpdir`: one or several directories, separated by colons.
    pub tmpdir: String,
    /// `server_id`
    pub server_id: u32,
    /// `hostname`
    pub hostname: String,
    /// Active plugins that encrypt or compress.
    pub plugins: Vec<Plugin>,
    /// Variables of the encryption plugins.
    pub plugin_options: Vec<PluginOption>,
}

impl Variables {
    /// Types what the server answered. A variable that is missing or no number is [`Kind::Server`];
    /// a server with a kind of redo log we cannot follow is refused here.
    pub(super) fn parse(values: Vec<(String, String)>, plugins: Vec<Plugin>) -> Result<Self> {
        let mut plugin_options = Vec::new();
        let mut map = HashMap::new();
        for (name, value) in values {
            let name = name.to_ascii_lowercase();
            if PLUGIN_OPTION_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                plugin_options.push(PluginOption { name, value });
            } else {
                map.insert(name, value);
            }
        }
        let values = Values(map);
        if values.switch("innodb_log_archive") {
            return Err(Error::new(
                Kind::Server,
                "the server writes an archived redo log (innodb_log_archive=ON)",
            )
            .hint("SET GLOBAL innodb_log_archive=OFF for the time of the backup"));
        }
        let datadir = PathBuf::from(values.text("datadir")?);
        if !datadir.is_absolute() {
            return Err(
                Error::new(Kind::Server, "the server's datadir is not absolute").path(datadir),
            );
        }
        let dir = |name: &str| -> Result<PathBuf> {
            // Empty and ./ both mean the data directory itself.
            let value = values.text(name)?;
            let value = Path::new(if value == "./" { "" } else { value });
            Ok(if value.as_os_str().is_empty() {
                datadir.clone()
            } else {
                datadir.join(value)
            })
        };
        let optional_dir = |name: &str| values.optional(name).map(|value| datadir.join(value));
        Ok(Self {
            innodb_data_home_dir: optional_dir("innodb_data_home_dir"),
            innodb_data_file_path: values.text("innodb_data_file_path")?.to_owned(),
            innodb_log_group_home_dir: dir("innodb_log_group_home_dir")?,
            innodb_log_file_size: ByteCount(values.number("innodb_log_file_size")?),
            innodb_undo_directory: dir("innodb_undo_directory")?,
            innodb_undo_tablespaces: values.number("innodb_undo_tablespaces")?,
            innodb_page_size: values.number("innodb_page_size")?,
            aria_block_size: values.number("aria_block_size")?,
            innodb_checksum_algorithm: values.text("innodb_checksum_algorithm")?.to_owned(),
            innodb_compression_level: values.number("innodb_compression_level").ok(),
            innodb_buffer_pool_filename: values
                .optional("innodb_buffer_pool_filename")
                .map(str::to_owned),
            innodb_encrypt_log: values.switch("innodb_encrypt_log"),
            innodb_encrypt_tables: values
                .optional("innodb_encrypt_tables")
                .is_some_and(|value| !value.eq_ignore_ascii_case("OFF")),
            aria_log_dir_path: dir("aria_log_dir_path")?,
            aria_encrypt_tables: values.switch("aria_encrypt_tables"),
            log_bin: values.switch("log_bin"),
            log_bin_basename: optional_dir("log_bin_basename"),
            gtid_domain_id: values.number("gtid_domain_id")?,
            gtid_slave_pos: values.text("gtid_slave_pos")?.to_owned(),
            gtid_strict_mode: values.switch("gtid_strict_mode"),
            wsrep_on: values.switch("wsrep_on"),
            ignore_db_dirs: values
                .optional("ignore_db_dirs")
                .map(|list| list.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            lower_case_table_names: values.number("lower_case_table_names")?,
            myisam_use_mmap: values.switch("myisam_use_mmap"),
            secure_file_priv: values.optional("secure_file_priv").map(PathBuf::from),
            pid_file: optional_dir("pid_file"),
            plugin_dir: optional_dir("plugin_dir"),
            socket: optional_dir("socket"),
            port: values.number("port")?,
            tmpdir: values.text("tmpdir")?.to_owned(),
            server_id: values.number("server_id")?,
            hostname: values.text("hostname")?.to_owned(),
            datadir,
            plugins,
            plugin_options,
        })
    }
}

struct Values(HashMap<String, String>);

impl Values {
    fn text(&self, name: &str) -> Result<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.ok_or_else(|| fault::odd_answer("SHOW VARIABLES", name))
    }

    /// Empty counts as not set.
    fn optional(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        self.text(name)?
            .parse()
            .map_err(|_| fault::odd_answer("SHOW VARIABLES", name))
    }

    fn switch(&self, name: &str) -> bool {
        let value = self.optional(name);
        value.is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("ON"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(changes: &[(&str, &str)]) -> Result<Variables> {
        let mut values: HashMap<String, String> = NAMES
            .iter()
            .filter(|name| **name != "innodb_log_archive")
            .map(|name| ((*name).to_owned(), "1".to_owned()))
            .collect();
        values.insert("datadir".to_owned(), "/d/".to_owned());
        for (name, value) in changes {
            values.insert((*name).to_owned(), (*value).to_owned());
        }
        Variables::parse(values.into_iter().collect(), Vec::new())
    }

    #[test]
    fn directories_are_resolved_and_secrets_kept() {
        let got = answer(&[
            ("innodb_log_group_home_dir", "./"),
            ("innodb_undo_directory", "undo"),
            ("aria_log_dir_path", "/aria"),
            ("innodb_data_home_dir", ""),
            ("ignore_db_dirs", "a,lost+found"),
            ("file_key_management_filekey", "hush"),
        ])
        .unwrap();
        assert_eq!(got.innodb_log_group_home_dir, Path::new("/d/"));
        assert_eq!(got.innodb_undo_directory, Path::new("/d/undo"));
        assert_eq!(got.aria_log_dir_path, Path::new("/aria"));
        assert_eq!(got.innodb_data_home_dir, None);
        assert_eq!(got.ignore_db_dirs, ["a", "lost+found"]);
        assert_eq!(got.plugin_options[0].value, "hush");
        assert!(!format!("{got:?}").contains("hush"));
    }

    #[test]
    fn strange_servers_are_refused() {
        assert!(answer(&[("innodb_log_archive", "OFF")]).is_ok());
        let error = answer(&[("innodb_log_archive", "ON")]).unwrap_err();
        assert!(error.to_string().contains("innodb_log_archive"));
        assert!(answer(&[("innodb_page_size", "x")]).is_err());
        assert!(answer(&[("datadir", "d")]).is_err());
    }
}
