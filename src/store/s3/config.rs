//! What a user can say about an S3 store, and the client that comes of it.

use std::path::PathBuf;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BuildError;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode, StorageClass, Tag, Tagging,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_types::base64;
use md5::{Digest as _, Md5};

use super::unverified;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;

/// Where requests are signed for when nobody says a region.
pub(super) const REGION_DEFAULT: &str = "us-east-1";

/// Bytes of a customer's key (`SSE-C`).
const CUSTOMER_KEY_LEN: usize = 32;

/// How long connections are kept that nobody uses: stores close them after a minute or less.
const IDLE: Duration = Duration::from_secs(20);

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
    /// As a request of its own has it.
    pub(super) fn retention(&self) -> ObjectLockRetention {
        ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::from(self.mode.as_str()))
            .retain_until_date(self.until)
            .build()
    }

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

/// Most tags of an object. (S3's user guide, "Categorizing your storage using tags")
const TAGS_MAX: usize = 10;

/// Tags of every object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tags(Vec<(String, String)>);

impl Tags {
    /// `KEY=VALUE` each.
    pub fn parse(tags: &[String]) -> Result<Self> {
        if tags.len() > TAGS_MAX {
            let what = format!("an object has at most {TAGS_MAX} tags");
            return Err(Error::new(Kind::Usage, what));
        }
        let pairs = tags.iter().map(|tag| {
            let pair = tag.split_once('=').filter(|(key, _)| !key.is_empty());
            let what = || Error::new(Kind::Usage, format!("--tag {tag:?} is not KEY=VALUE"));
            let (key, value) = pair.ok_or_else(what)?;
            Ok((key.to_owned(), value.to_owned()))
        });
        pairs.collect::<Result<_>>().map(Self)
    }

    /// As a header has them: `key=value&key=value`, escaped as in an address.
    pub(super) fn header(&self) -> Option<String> {
        let pairs = self.0.iter();
        let pairs: Vec<String> = pairs
            .map(|(key, value)| format!("{}={}", escape(key), escape(value)))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("&"))
    }

    /// As a request of their own has them.
    pub(super) fn set(&self) -> std::result::Result<Option<Tagging>, BuildError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tags = self.0.iter();
        let tags = tags.map(|(key, value)| Tag::builder().key(key).value(value).build());
        let tags = tags.collect::<std::result::Result<_, _>>()?;
        Tagging::builder().set_tag_set(Some(tags)).build().map(Some)
    }
}

fn escape(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    });
    escaped.collect()
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
    /// Take any certificate.
    pub any_certificate: bool,
    /// Encryption by the store.
    pub encryption: Option<Encryption>,
    /// Make the bucket if it is not there.
    pub create_bucket: bool,
    /// Storage class of objects that are uploaded in parts.
    pub storage_class: Option<StorageClass>,
    /// Storage class of objects that are put in one piece; `None`: the bucket's default.
    pub small_storage_class: Option<StorageClass>,
    /// More headers for requests that read or write objects.
    pub headers: Vec<Header>,
    /// Tags.
    pub tags: Tags,
    /// Lock.
    pub object_lock: Option<ObjectLock>,
    /// We pay.
    pub requester_pays: bool,
    /// Account that must own the bucket.
    pub expected_bucket_owner: Option<String>,
    /// Have the store verify CRC-32 of parts and objects.
    pub checksums: bool,
    /// Remove objects one by one, where the store knows no other way.
    pub single_deletes: bool,
    /// HTTP statuses after which a call is made again, besides those that mean so.
    pub retry_statuses: Vec<u16>,
    /// How long a call may hear nothing from the store.
    pub stall: Duration,
}

/// A header that somebody wants to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    name: String,
    value: String,
}

impl std::fmt::Debug for Header {
    /// Values may be keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Header({:?})", self.name)
    }
}

impl Header {
    /// Takes `name: value` apart.
    pub fn parse(text: &str) -> Result<Self> {
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let parsed = text
            .split_once(':')
            .map(|(name, value)| (name, value.trim()));
        match parsed {
            Some((name, value))
                if !name.is_empty()
                    && name.chars().all(token)
                    && value.chars().all(|c| c == ' ' || c.is_ascii_graphic()) =>
            {
                Ok(Self {
                    name: name.to_ascii_lowercase(),
                    value: value.to_owned(),
                })
            }
            _ => Err(Error::new(
                Kind::Usage,
                "a header is not of the form NAME: VALUE",
            )),
        }
    }

    /// Whether it belongs to a request that reads, too: encryption by the store is a matter of writing, except with the
    /// customer's key.
    fn is_for_reading(&self) -> bool {
        let encryption = self.name.strip_prefix("x-amz-server-side-encryption");
        match encryption {
            Some(rest) => rest.starts_with("-customer"),
            None => true,
        }
    }

    /// Puts those of `headers` that belong there into a request.
    pub(super) fn add_all(headers: &[Self], writes: bool, request: &mut HttpRequest) {
        for header in headers.iter().filter(|h| writes || h.is_for_reading()) {
            request
                .headers_mut()
                .insert(header.name.clone(), header.value.clone());
        }
    }
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
            any_certificate: false,
            encryption: None,
            create_bucket: false,
            storage_class: None,
            small_storage_class: None,
            headers: Vec::new(),
            tags: Tags::default(),
            object_lock: None,
            requester_pays: false,
            expected_bucket_owner: None,
            checksums: true,
            single_deletes: false,
            retry_statuses: Vec::new(),
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
    if options.any_certificate {
        return unverified::http_client(IDLE);
    }
    let builder = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .pool_idle_timeout(IDLE);
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
    fn tags_are_escaped() {
        let tags = ["a=b c".to_owned(), "k=ü&=".to_owned()];
        let tags = Tags::parse(&tags).unwrap();
        assert_eq!(tags.header().unwrap(), "a=b%20c&k=%C3%BC%26%3D");
        assert_eq!(tags.set().unwrap().unwrap().tag_set().len(), 2);
        assert_eq!(Tags::parse(&[]).unwrap().header(), None);
        assert!(Tags::parse(&["x".to_owned()]).is_err());
        assert!(Tags::parse(&vec!["a=b".to_owned(); 11]).is_err());
    }

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
    fn headers_have_a_name_and_a_value_that_stays_out_of_sight() {
        let header = Header::parse("X-Amz-Server-Side-Encryption-Customer-Key: s=e").unwrap();
        assert_eq!(header.value, "s=e");
        assert!(header.is_for_reading() && !format!("{header:?}").contains("s=e"));
        let header = Header::parse("x-amz-server-side-encryption:AES256").unwrap();
        assert!(!header.is_for_reading());
        for bad in ["", "x", ": y", "a b: c", "a: b\nc: d"] {
            assert_eq!(Header::parse(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
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
