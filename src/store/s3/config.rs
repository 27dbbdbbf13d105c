//! What a user can say about an S3 store, and the client that comes of it.

use std::path::PathBuf;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockMode, StorageClass};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_types::base64;
use md5::{Digest as _, Md5};

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;

/// Where requests are signed for when nobody says a region.
const REGION_DEFAULT: &str = "us-east-1";

/// Bytes of a customer's key (`SSE-C`).
const CUSTOMER_KEY_LEN: usize = 32;

/// Longest file with certificates.
const CA_FILE_LEN_MAX: u64 = 4 << 20;

/// Encryption by the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// With keys of the store's own (`SSE-S3`).
    Store,
    /// With a key of its key service (`SSE-KMS`); `None`: the bucket's own.
    Kms(Option<String>),
    /// With a key that comes with every request and that the store forgets (`SSE-C`).
    Customer(CustomerKey),
}

/// A key of 256 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct CustomerKey {
    pub(super) key: String,
    pub(super) md5: String,
}

impl std::fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CustomerKey")
    }
}

impl CustomerKey {
    /// Reads the 32 bytes of a key file.
    pub fn read(path: &std::path::Path) -> Result<Self> {
        let bytes = fsx::read_small(path, 4096)?;
        if bytes.len() != CUSTOMER_KEY_LEN {
            let what = format!(
                "{} bytes are no key of {CUSTOMER_KEY_LEN} bytes in",
                bytes.len()
            );
            return Err(Error::new(Kind::Usage, what)
                .path(path)
                .hint("make one with: openssl rand -out FILE 32"));
        }
        Ok(Self {
            md5: base64::encode(Md5::digest(&bytes)),
            key: base64::encode(bytes),
        })
    }
}

/// An access key with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// The key that the store knows us by.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// Token of temporary credentials.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey({:?})", self.id)
    }
}

/// Until when and how strictly objects cannot be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectLock {
    pub(super) mode: ObjectLockMode,
    pub(super) until: DateTime,
}

impl ObjectLock {
    /// `compliance:DAYS` or `governance:DAYS`, from now on.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = text.split_once(':').and_then(|(mode, days)| {
            let mode = match mode {
                "compliance" => ObjectLockMode::Compliance,
                "governance" => ObjectLockMode::Governance,
                _ => return None,
            };
            let days: u32 = days.parse().ok().filter(|d| (1..=36_500).contains(d))?;
            let until = super::super::memory::now() + i64::from(days) * 86_400;
            let until = DateTime::from_secs(until);
            Some(Self { mode, until })
        });
        parsed.ok_or_else(|| {
            Error::new(Kind::Usage, format!("{text:?} is no object lock"))
                .hint("write governance:DAYS or compliance:DAYS")
        })
    }
}

/// Where the objects are and how they are to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Options {
    /// Bucket.
    pub bucket: String,
    /// What all keys begin with, without slashes at the ends; may be empty.
    pub prefix: String,
    /// Address of a store other than Amazon's, or `None` for what the environment and the profile say.
    pub endpoint_url: Option<String>,
    /// Bucket in the path instead of in the host name; `None`: as the endpoint and the bucket's name need it.
    pub path_style: Option<bool>,
    /// Region; `None`: environment, profile, or what the bucket says.
    pub region: Option<String>,
    /// Profile of the shared configuration files.
    pub profile: Option<String>,
    /// Credentials; `None`: environment, profile, web identity, or the role of this container or host.
    pub access_key: Option<AccessKey>,
    /// Certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Encryption by the store.
    pub encryption: Option<Encryption>,
    /// Storage class of large objects; small ones have the bucket's default.
    pub storage_class: Option<StorageClass>,
    /// Tags, as `key=value&key=value`, escaped as in an address.
    pub tagging: Option<String>,
    /// Lock.
    pub object_lock: Option<ObjectLock>,
    /// We pay.
    pub requester_pays: bool,
    /// Account that must own the bucket.
    pub expected_bucket_owner: Option<String>,
    /// Have the store verify CRC-32 of parts and objects.
    pub checksums: bool,
    /// How long a call may hear nothing from the store.
    pub stall: Duration,
}

impl S3Options {
    /// A bucket and nothing special.
    #[must_use]
    pub fn new(bucket: &str, prefix: &str) -> Self {
        Self {
            bucket: bucket.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
            endpoint_url: None,
            path_style: None,
            region: None,
            profile: None,
            access_key: None,
            ca_file: None,
            encryption: None,
            storage_class: None,
            tagging: None,
            object_lock: None,
            requester_pays: false,
            expected_bucket_owner: None,
            checksums: true,
            stall: Duration::from_secs(30),
        }
    }

    /// Names in addresses cannot have a dot before a wildcard certificate, and few other stores have names for buckets.
    fn wants_path_style(&self, endpoint: bool) -> bool {
        self.path_style
            .unwrap_or(endpoint || self.bucket.contains('.'))
    }
}

/// A client and what it was made for.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) region: String,
    /// Nobody said the region.
    pub(super) region_guessed: bool,
    /// Requests are encrypted on their way, so that payload need not be signed.
    pub(super) https: bool,
}

fn http_client(options: &S3Options) -> Result<SharedHttpClient> {
    let builder = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .pool_idle_timeout(Duration::from_secs(20));
    let Some(path) = &options.ca_file else {
        return Ok(builder.build_https());
    };
    let pem = fsx::read_small(path, CA_FILE_LEN_MAX)?;
    let store = TrustStore::empty().with_pem_certificate(pem);
    let context = TlsContext::builder()
        .with_trust_store(store)
        .build()
        .map_err(|e| {
            Error::new(Kind::Usage, "cannot use the certificates in")
                .path(path)
                .source(e)
        })?;
    Ok(builder.tls_context(context).build_https())
}

/// Reads environment, profile and credentials, and makes a client. `region` is what the bucket has told.
pub(super) async fn connect(options: &S3Options, region: Option<&str>) -> Result<Connection> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(options.stall.min(Duration::from_secs(10)))
        .build();
    // Quick repeats only; how long to go on is for our own policy.
    let retries = RetryConfig::standard()
        .with_max_attempts(3)
        .with_initial_backoff(Duration::from_millis(100))
        .with_max_backoff(Duration::from_secs(2));
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client(options)?)
        .timeout_config(timeouts)
        .retry_config(retries)
        // Parts are in memory, so nothing stalls on our side; what the store does is timed by each call.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(if options.checksums {
            RequestChecksumCalculation::WhenSupported
        } else {
            RequestChecksumCalculation::WhenRequired
        })
        // A checksum of the whole object says nothing about a range, and ours are in the index.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = region.or(options.region.as_deref()) {
        loader = loader.region(Region::new(region.to_owned()));
    }
    if let Some(endpoint) = &options.endpoint_url {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(key) = &options.access_key {
        let (id, secret, token) = (&key.id, &key.secret, key.session_token.clone());
        let credentials = Credentials::new(id, secret, token, None, "given");
        loader = loader.credentials_provider(credentials);
    }
    let shared = loader.load().await;
    let known = shared.region().map(|r| r.as_ref().to_owned());
    // The environment may name an endpoint as well.
    let endpoint = options.endpoint_url.clone().or_else(|| {
        ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
            .iter()
            .find_map(|name| std::env::var(name).ok())
            .filter(|url| !url.is_empty())
    });
    let region = known.clone().unwrap_or_else(|| REGION_DEFAULT.to_owned());
    let config = Builder::from(&shared)
        .region(Region::new(region.clone()))
        .force_path_style(options.wants_path_style(endpoint.is_some()));
    Ok(Connection {
        client: Client::from_conf(config.build()),
        region,
        region_guessed: known.is_none(),
        https: !endpoint.is_some_and(|url| url.starts_with("http://")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_have_a_mode_and_days() {
        assert_eq!(
            ObjectLock::parse("governance:30").unwrap().mode,
            ObjectLockMode::Governance
        );
        for bad in ["", "governance", "governance:0", "legal:3", "compliance:x"] {
            assert_eq!(ObjectLock::parse(bad).unwrap_err().kind(), Kind::Usage);
        }
    }

    #[test]
    fn customer_keys_have_256_bits_and_stay_out_of_sight() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fsx::write_small(&path, &[7; 32]).unwrap();
        let key = CustomerKey::read(&path).unwrap();
        assert_eq!(key.key, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
        assert_eq!(format!("{key:?}"), "CustomerKey");
        fsx::write_small(&path, b"short").unwrap();
        assert_eq!(CustomerKey::read(&path).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn dots_and_other_stores_want_the_path() {
        let mut options = S3Options::new("a.b", "/x/y/");
        assert_eq!(options.prefix, "x/y");
        assert!(options.wants_path_style(false));
        options.bucket = "ab".to_owned();
        assert!(!options.wants_path_style(false) && options.wants_path_style(true));
        options.path_style = Some(false);
        assert!(!options.wants_path_style(true));
    }
}
