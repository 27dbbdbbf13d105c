//! Options that say where the server is and who we are.

use std::path::PathBuf;

use clap::Args;

use crate::base::error::Result;
use crate::base::monitor::Monitor;
use crate::base::optfile::{Choice, OptionFiles};
use crate::server::connect::{ConnectOptions, Given, Protocol, Secret};

/// Options that say where the server is and who we are. What is not given comes from the environment
/// (`XBPIPE_PASSWORD`, `MYSQL_PWD`), then from option files, groups `[client]` and `[xbpipe]` among others.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection options")]
pub(super) struct ConnectArgs {
    /// Read options from this file only
    #[arg(long, value_name = "FILE", conflicts_with = "no_defaults")]
    defaults_file: Option<PathBuf>,

    /// Read this option file too
    #[arg(long, value_name = "FILE", conflicts_with_all = ["no_defaults", "defaults_file"])]
    defaults_extra_file: Option<PathBuf>,

    /// Read groups with this suffix too
    #[arg(long, value_name = "SUFFIX")]
    defaults_group_suffix: Option<String>,

    /// Read no option files
    #[arg(long)]
    no_defaults: bool,

    /// Host name or address
    #[arg(short = 'H', long)]
    host: Option<String>,

    /// TCP port
    #[arg(short = 'P', long)]
    port: Option<u16>,

    /// Unix socket
    #[arg(short = 'S', long, value_name = "FILE")]
    socket: Option<PathBuf>,

    /// tcp or socket
    #[arg(long, value_name = "HOW")]
    protocol: Option<Protocol>,

    /// Account name [default: the login name]
    #[arg(short = 'u', long)]
    user: Option<String>,

    /// Ask for the password on the terminal
    #[arg(short = 'p', long, conflicts_with = "password_file")]
    ask_password: bool,

    /// Read the password from the first line of this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// Use TLS over TCP: true, false [default: if the server can]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    ssl: Option<bool>,

    /// PEM file of certificate authorities; the server's certificate is then verified
    #[arg(long, value_name = "FILE")]
    ssl_ca: Option<PathBuf>,

    /// PEM file of our certificate
    #[arg(long, value_name = "FILE")]
    ssl_cert: Option<PathBuf>,

    /// PEM file of our key
    #[arg(long, value_name = "FILE")]
    ssl_key: Option<PathBuf>,

    /// The server's certificate must name the host
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    ssl_verify_server_cert: Option<bool>,
}

impl ConnectArgs {
    /// Merges them with environment and option files.
    pub(super) fn resolve(self, monitor: &dyn Monitor) -> Result<ConnectOptions> {
        let files = OptionFiles::load(&Choice {
            no_defaults: self.no_defaults,
            defaults_file: self.defaults_file,
            defaults_extra_file: self.defaults_extra_file,
            group_suffix: self.defaults_group_suffix,
            home: std::env::home_dir(),
        })?;
        for warning in files.warnings() {
            monitor.warning(warning.clone());
        }
        let password = if self.ask_password {
            Some(Secret::ask("Password: ")?)
        } else {
            None
        };
        let given = Given {
            host: self.host,
            port: self.port,
            socket: self.socket,
            protocol: self.protocol,
            user: self.user,
            password,
            password_file: self.password_file,
            ssl: self.ssl,
            ssl_ca: self.ssl_ca,
            ssl_cert: self.ssl_cert,
            ssl_key: self.ssl_key,
            ssl_verify_server_cert: self.ssl_verify_server_cert,
        };
        ConnectOptions::resolve(&given, &|name| std::env::var_os(name), &files)
    }
}
