//! Options about stores, and the store that comes of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::base::error::{Error, Kind, Result};
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::cli::common::Common;
use crate::repository::cut::Shares;
use crate::repository::{Location, NewBackup, Repository, StoredBackup, name_of_now};
use crate::store::s3::{
    CustomerKey, Encryption, ObjectLock, S3Options, S3Store, StorageClass, Tags,
};
use crate::store::{DirectoryStore, Policy, Rated, Retrying, Shared};

/// Environment variable with the store, where `--store` is not given.
const STORE_ENV: &str = "XBPIPE_STORE";

/// As other clients of S3 know it.
const CA_ENV: &str = "AWS_CA_BUNDLE";

fn ca_bundle() -> Option<PathBuf> {
    let path = std::env::var_os(CA_ENV).filter(|path| !path.is_empty());
    path.map(PathBuf::from)
}

/// Options about stores.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store options")]
pub(super) struct StoreArgs {
    /// Where backups are: s3://BUCKET[/PREFIX], or a directory [default: $XBPIPE_STORE, or the current directory]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,

    /// Address of an S3 store that is not Amazon's [default: environment or profile]
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,

    /// Region of the bucket [default: environment or profile, or what the bucket says]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,

    /// Profile of the shared AWS configuration. Credentials come from the environment, a profile, a web identity, or the role
    /// of the container or host
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,

    /// Where the bucket stands in addresses
    #[arg(long, value_name = "WHERE", value_enum, default_value = "auto")]
    addressing: Addressing,

    /// File with certificates to trust instead of the system's [default: $AWS_CA_BUNDLE]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Encryption by the store: s3, kms, kms:KEY, or customer:FILE with a key of 32 bytes
    #[arg(long, value_name = "HOW")]
    sse: Option<String>,

    /// Storage class of large objects, such as STANDARD_IA
    #[arg(long, value_name = "CLASS")]
    storage_class: Option<String>,

    /// Tag of every object; may be given up to ten times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<String>,

    /// Keep objects from being removed: governance:DAYS or compliance:DAYS
    #[arg(long, value_name = "LOCK")]
    object_lock: Option<String>,

    /// Pay for requests to somebody else's bucket
    #[arg(long)]
    requester_pays: bool,

    /// Account that must own the bucket
    #[arg(long, value_name = "ACCOUNT")]
    bucket_owner: Option<String>,

    /// Do not have the store verify checksums; for stores that refuse them
    #[arg(long)]
    no_store_checksums: bool,

    /// Bytes per second to and from the store, such as 50M
    #[arg(long, value_name = "SIZE")]
    rate_limit: Option<ByteCount>,

    /// How long to go on trying when the store fails
    #[arg(long, value_name = "SECONDS", default_value = "900")]
    retry_window: u32,

    /// How long the store may be silent before a request is made again
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u32).range(1..=3600))]
    stall_timeout: u32,
}

/// Where the bucket stands in addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Addressing {
    /// In the host name at Amazon's, in the path elsewhere.
    Auto,
    /// In the path.
    Path,
    /// In the host name.
    Host,
}

fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what)
}

impl StoreArgs {
    /// The store that names without one are in.
    pub(super) fn default_store(&self) -> String {
        let told = self.store.clone();
        told.or_else(|| std::env::var(STORE_ENV).ok())
            .filter(|store| !store.is_empty())
            .unwrap_or_else(|| ".".to_owned())
    }

    /// Opens the store `at`, or the one that names without one are in; it must be there.
    pub(super) fn open_existing(&self, at: Option<&str>, run: &Run) -> Result<Repository> {
        match at {
            Some(at) => self.open(at, false, run),
            None => self.open(&self.default_store(), false, run),
        }
    }

    /// Opens the store `at`; with `create`, a missing directory is made.
    pub(super) fn open(&self, at: &str, create: bool, run: &Run) -> Result<Repository> {
        let at = if at.is_empty() { "." } else { at };
        let store: Shared = match at.strip_prefix("s3://") {
            Some(rest) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(usage(format!("{at:?} names no bucket"))
                        .hint("write s3://BUCKET or s3://BUCKET/PREFIX"));
                }
                let options = self.s3_options(bucket, prefix)?;
                Arc::new(S3Store::open(options, &run.cancel)?)
            }
            None if at.contains("://") => {
                return Err(usage(format!("{at:?} is no store that xbpipe knows"))
                    .hint("write s3://BUCKET/PREFIX, or a directory; Google's storage has an S3 interface"));
            }
            None => Arc::new(DirectoryStore::open(Path::new(at), create)?),
        };
        let store: Shared = match self.rate_limit {
            Some(rate) => Arc::new(Rated::new(store, rate.0, run.cancel.clone())),
            None => store,
        };
        let policy = Policy {
            window: Duration::from_secs(u64::from(self.retry_window)),
            ..Policy::default()
        };
        let monitor = Arc::clone(&run.monitor);
        let store = Retrying::new(store, policy, run.cancel.clone(), monitor);
        Ok(Repository::new(Arc::new(store)))
    }

    fn s3_options(&self, bucket: &str, prefix: &str) -> Result<S3Options> {
        Ok(S3Options {
            endpoint_url: self.endpoint_url.clone(),
            path_style: match self.addressing {
                Addressing::Auto => None,
                Addressing::Path => Some(true),
                Addressing::Host => Some(false),
            },
            region: self.region.clone(),
            profile: self.profile.clone(),
            ca_file: self.ca_file.clone().or_else(ca_bundle),
            encryption: self.sse.as_deref().map(encryption).transpose()?,
            storage_class: self.storage_class.as_deref().map(StorageClass::from),
            tags: Tags::parse(&self.tags)?,
            object_lock: self
                .object_lock
                .as_deref()
                .map(ObjectLock::parse)
                .transpose()?,
            requester_pays: self.requester_pays,
            expected_bucket_owner: self.bucket_owner.clone(),
            checksums: !self.no_store_checksums,
            stall: Duration::from_secs(u64::from(self.stall_timeout)),
            ..S3Options::new(bucket, prefix)
        })
    }

    /// The place in a store that `to` means (s3://..., or a store itself with a slash at its end), if it means one; and what of
    /// the memory that leaves for whoever feeds it.
    pub(super) fn new_backup(
        &self,
        to: &Path,
        common: &Common,
        run: &Run,
    ) -> Result<Option<(NewBackup, ByteCount)>> {
        let text = to.to_str().unwrap_or_default();
        if !text.starts_with("s3://") && !text.ends_with('/') {
            return Ok(None);
        }
        let mut location = Location::parse(text, "");
        if location.name.is_empty() {
            location.name = name_of_now();
        }
        let memory = common.memory_with_store();
        let shares = Shares::new(memory)?;
        let repository = self.open(&location.store, true, run)?;
        run.monitor.info(format!("storing backup {location}"));
        let place = NewBackup {
            repository,
            name: location.name,
            memory,
        };
        Ok(Some((place, shares.pipeline)))
    }

    /// Opens the backup that `text` names: `STORE/NAME`, or a name in the default store.
    pub(super) fn backup(&self, text: &str, run: &Run) -> Result<StoredBackup> {
        let (repository, name) = self.named(text, false, run)?;
        StoredBackup::open(&repository, &name)
    }

    /// The store and the name that `text` means.
    pub(super) fn named(
        &self,
        text: &str,
        create: bool,
        run: &Run,
    ) -> Result<(Repository, String)> {
        let location = Location::parse(text, &self.default_store());
        if location.name.is_empty() {
            return Err(usage(format!("{text:?} is a store and names no backup"))
                .hint("write STORE/NAME; xbpipe ls shows the names"));
        }
        let repository = self.open(&location.store, create, run)?;
        Ok((repository, location.name))
    }

    /// The backup in a store that a source of an archive means, if it means one.
    pub(super) fn stored(&self, source: &Path, run: &Run) -> Result<Option<StoredBackup>> {
        let Some(text) = source.to_str().filter(|text| *text != "-") else {
            return Ok(None);
        };
        if text.starts_with("s3://") || self.store.is_some() {
            return self.backup(text, run).map(Some);
        }
        if !Location::is_stored(source) {
            return Ok(None);
        }
        // A directory may be named with a slash at the end, and by a path relative to here.
        let text = text.trim_end_matches('/');
        let location = Location::parse(text, ".");
        let repository = self.open(&location.store, false, run)?;
        StoredBackup::open(&repository, &location.name).map(Some)
    }
}

fn encryption(text: &str) -> Result<Encryption> {
    match text.split_once(':') {
        None if text == "s3" => Ok(Encryption::Store),
        None if text == "kms" => Ok(Encryption::Kms(None)),
        Some(("kms", key)) => Ok(Encryption::Kms(Some(key.to_owned()))),
        Some(("customer", file)) => CustomerKey::read(Path::new(file)).map(Encryption::Customer),
        _ => Err(usage(format!("--sse {text:?} is no encryption"))
            .hint("write s3, kms, kms:KEY or customer:FILE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encryptions_have_words() {
        assert_eq!(encryption("s3").unwrap(), Encryption::Store);
        assert_eq!(
            encryption("kms:a:b").unwrap(),
            Encryption::Kms(Some("a:b".into()))
        );
        assert_eq!(encryption("aes").unwrap_err().kind(), Kind::Usage);
    }
}
