//! Amazon S3 and whatever speaks its protocol, through Amazon's client library.

mod answer;
mod config;
mod ranged;
mod unverified;

use std::future::Future;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLocationConstraint, ChecksumAlgorithm, ChecksumMode, ChecksumType,
    CompletedMultipartUpload, CompletedPart, CreateBucketConfiguration, Delete, ObjectIdentifier,
    RequestPayer, ServerSideEncryption,
};
use aws_smithy_types::base64;
use bytes::Bytes;
use tokio::runtime::{Handle, Runtime};

pub use aws_sdk_s3::types::StorageClass;
pub use config::{AccessKey, CustomerKey, Encryption, Header, ObjectLock, S3Options, Tags};

use super::fault::{Class, Fault};
use super::hedge::Hedges;
use super::{
    Listed, Object, OpenUpload, Page, Part, Result, Store, Upload, UploadPage, check_key,
    whole_crc, whole_len,
};
use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind};
use config::Connection;

/// Slowest network that a part is waited for on, in bytes per second.
const SLOWEST: u64 = 256 << 10;

/// Completing an object of thousands of parts takes a store minutes.
const COMPLETE_STALLS: u32 = 30;

/// An interrupted run has little time to clean up.
const ABORT_TIME: Duration = Duration::from_secs(3);

const REMOVE: &str = "remove";

/// Threads that carry the network.
const NETWORK_THREADS: usize = 2;

/// A bucket, or what is below a prefix in one.
#[derive(Debug)]
pub struct S3Store {
    options: S3Options,
    url: String,
    connection: RwLock<Connection>,
    hedges: Hedges,
    cancel: Cancel,
    handle: Handle,
    /// Only gone while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for S3Store {
    fn drop(&mut self) {
        // Connections that are still open have nothing to say any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl S3Store {
    /// Makes a client and asks the bucket whether it is there, lets us in and where it is. A store that does not answer is no
    /// failure yet.
    pub fn open(options: S3Options, cancel: &Cancel) -> crate::base::error::Result<Self> {
        let failed = |e| Error::new(Kind::Failed, "cannot start the network threads").source(e);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(NETWORK_THREADS)
            .thread_name("network")
            .enable_all()
            .build()
            .map_err(failed)?;
        let connection = runtime.block_on(config::connect(&options, None))?;
        let mut url = format!("s3://{}", options.bucket);
        if !options.prefix.is_empty() {
            url.push('/');
            url.push_str(&options.prefix);
        }
        let store = Self {
            options,
            url,
            connection: RwLock::new(connection),
            hedges: Hedges::default(),
            cancel: cancel.clone(),
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        };
        store.probe()?;
        Ok(store)
    }

    /// Lists one object: the cheapest request whose refusal comes with a reason.
    fn probe(&self) -> crate::base::error::Result<()> {
        const METHOD: &str = "list";
        let mut missing = false;
        let connection = self.connection();
        let request = connection
            .client
            .list_objects_v2()
            .bucket(&self.options.bucket)
            .prefix(self.full(""))
            .max_keys(1)
            .set_request_payer(self.payer())
            .set_expected_bucket_owner(self.owner());
        let region = self.wait(METHOD, "", self.short(), async {
            let Err(error) = request.send().await else {
                return Ok(None);
            };
            let told = answer::answer(&error);
            missing = told.is_some_and(|answer| answer.code == "NoSuchBucket");
            if missing && self.options.create_bucket {
                return Ok(None);
            }
            let region = answer::answer(&error).and_then(|a| a.bucket_region());
            match region.filter(|region| *region != connection.region) {
                Some(region) if connection.region_guessed => Ok(Some(region)),
                Some(region) => {
                    let what = format!(
                        "the bucket {:?} is in region {region}, not in {}",
                        self.options.bucket, connection.region
                    );
                    let hint = format!("use --region {region}, or leave the region out");
                    Err(Fault::new(Class::Refused, METHOD, self.url(), what).hint(hint))
                }
                None => Err(self.fault(METHOD, self.url(), &error)),
            }
        });
        match region {
            Ok(None) if missing => Ok(self.make_bucket()?),
            Ok(None) => Ok(()),
            Ok(Some(region)) => {
                let connected = self.block_on(config::connect(&self.options, Some(&region)))?;
                self.set_connection(connected);
                Ok(())
            }
            // Whoever comes next tries again.
            Err(fault) if fault.class.is_worth_retrying() => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }

    fn make_bucket(&self) -> Result<()> {
        const METHOD: &str = "make the bucket";
        let connection = self.connection();
        // Amazon's first region is the one that must not be named.
        let elsewhere = connection.region != config::REGION_DEFAULT;
        let place = elsewhere.then(|| {
            let region = BucketLocationConstraint::from(connection.region.as_str());
            CreateBucketConfiguration::builder()
                .location_constraint(region)
                .build()
        });
        let request = connection
            .client
            .create_bucket()
            .bucket(&self.options.bucket)
            .set_create_bucket_configuration(place);
        self.wait(METHOD, &self.options.bucket, self.short(), async {
            let made = request.send().await;
            made.map_err(|e| self.fault(METHOD, &self.options.bucket, &e))?;
            Ok(())
        })
    }

    fn connection(&self) -> Connection {
        self.connection
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_connection(&self, connection: Connection) {
        *self
            .connection
            .write()
            .unwrap_or_else(PoisonError::into_inner) = connection;
    }

    fn client(&self) -> Client {
        self.connection().client
    }

    /// The key in the bucket.
    fn full(&self, key: &str) -> String {
        if self.options.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}/{key}", self.options.prefix)
        }
    }

    /// What a listing is called in messages.
    fn named<'s>(&'s self, prefix: &'s str) -> &'s str {
        if prefix.is_empty() { &self.url } else { prefix }
    }

    /// The key relative to our root.
    fn own(&self, full: &str) -> Option<String> {
        let rest = full.strip_prefix(&self.options.prefix)?;
        let rest = match self.options.prefix.as_str() {
            "" => rest,
            _ => rest.strip_prefix('/')?,
        };
        Some(rest.to_owned())
    }

    fn payer(&self) -> Option<RequestPayer> {
        self.options
            .requester_pays
            .then_some(RequestPayer::Requester)
    }

    fn owner(&self) -> Option<String> {
        self.options.expected_bucket_owner.clone()
    }

    /// Algorithm, key and digest of the key, where the customer has one.
    fn customer_key(&self) -> (Option<String>, Option<String>, Option<String>) {
        match &self.options.encryption {
            Some(Encryption::Customer(key)) => (
                Some("AES256".to_owned()),
                Some(key.key.clone()),
                Some(key.md5.clone()),
            ),
            _ => (None, None, None),
        }
    }

    /// Algorithm and key id, where the store has the key.
    fn store_key(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match &self.options.encryption {
            Some(Encryption::Store) => (Some(ServerSideEncryption::Aes256), None),
            Some(Encryption::Kms(id)) => (Some(ServerSideEncryption::AwsKms), id.clone()),
            Some(Encryption::Customer(_)) | None => (None, None),
        }
    }

    /// Payload that TLS protects need not be hashed for the signature; its CRC goes along.
    fn unsigned(&self) -> bool {
        self.connection().https && self.options.checksums
    }

    fn crc(&self, crc32: u32) -> Option<String> {
        self.options
            .checksums
            .then(|| base64::encode(crc32.to_be_bytes()))
    }

    /// How long a call that moves little may take.
    fn short(&self) -> Duration {
        self.options.stall.saturating_mul(2)
    }

    /// How long `len` bytes may take.
    fn long(&self, len: u64) -> Duration {
        self.short() + Duration::from_secs(len / SLOWEST)
    }

    fn fault<E>(&self, method: &'static str, key: &str, error: &SdkError<E, HttpResponse>) -> Fault
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let mut fault = answer::fault(method, key, &self.options.bucket, error);
        let status = answer::answer(error).map_or(0, |answer| answer.status);
        if fault.class == Class::Refused && self.options.retry_statuses.contains(&status) {
            fault.class = Class::Transient;
        }
        fault
    }

    /// Puts the headers that were asked for into a request.
    fn headers(&self, writes: bool) -> impl Fn(&mut HttpRequest) + Send + Sync + 'static {
        let headers = self.options.headers.clone();
        move |request| Header::add_all(&headers, writes, request)
    }

    /// One batch of removals.
    async fn removed(&self, keys: &[String]) -> Result<()> {
        const METHOD: &str = REMOVE;
        let Some(first) = keys.first() else {
            return Ok(());
        };
        let fail = |what: String| refused(METHOD, first, what);
        let mut objects = Vec::with_capacity(keys.len());
        for key in keys {
            check_key(key).map_err(|e| refused(METHOD, key, e))?;
            let object = ObjectIdentifier::builder().key(self.full(key)).build();
            objects.push(object.map_err(|e| fail(e.to_string()))?);
        }
        if self.options.single_deletes {
            return self.removed_singly(keys).await;
        }
        let batch = Delete::builder().set_objects(Some(objects)).quiet(true);
        let batch = batch.build().map_err(|e| fail(e.to_string()))?;
        let request = self
            .client()
            .delete_objects()
            .bucket(&self.options.bucket)
            .delete(batch)
            .set_request_payer(self.payer())
            .set_expected_bucket_owner(self.owner());
        let deleted = request.send().await;
        let deleted = deleted.map_err(|e| self.fault(METHOD, first, &e))?;
        for error in deleted.errors() {
            let told = answer::Answer {
                code: error.code().unwrap_or_default().to_owned(),
                message: error.message().unwrap_or_default().to_owned(),
                ..answer::Answer::default()
            };
            let key = error.key().and_then(|k| self.own(k)).unwrap_or_default();
            let fault = answer::told(METHOD, &key, &self.options.bucket, &told);
            if fault.class != Class::NotFound {
                return Err(fault);
            }
        }
        Ok(())
    }

    async fn removed_singly(&self, keys: &[String]) -> Result<()> {
        let client = self.client();
        for key in keys {
            let request = client
                .delete_object()
                .bucket(&self.options.bucket)
                .key(self.full(key))
                .set_request_payer(self.payer())
                .set_expected_bucket_owner(self.owner());
            if let Err(error) = request.send().await {
                let fault = self.fault(REMOVE, key, &error);
                if fault.class != Class::NotFound {
                    return Err(fault);
                }
            }
        }
        Ok(())
    }

    /// How long the removal of `keys` objects may take.
    fn removing(&self, keys: usize) -> Duration {
        match u32::try_from(keys) {
            Ok(keys) if self.options.single_deletes => self.short().saturating_mul(keys.max(1)),
            _ => self.short(),
        }
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }

    /// Waits for an answer, the end of the run, or too long.
    fn wait<T>(
        &self,
        method: &'static str,
        key: &str,
        time: Duration,
        future: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let ended = async {
            loop {
                if let Err(error) = self.cancel.check() {
                    return error;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        self.block_on(async {
            tokio::select! {
                biased;
                done = tokio::time::timeout(time, future) => {
                    done.unwrap_or_else(|_elapsed| Err(late(method, key, time)))
                }
                error = ended => Err(Fault::interrupted(method, key, &error)),
            }
        })
    }
}

fn late(method: &'static str, key: &str, time: Duration) -> Fault {
    let what = format!("no answer in {:.1} s", time.as_secs_f64());
    Fault::new(Class::Transient, method, key, what)
}

/// CRC-32 of a whole object as stores tell it; that of a composite is none.
fn told_crc(text: Option<&str>, kind: Option<&ChecksumType>) -> Option<u32> {
    if kind == Some(&ChecksumType::Composite) {
        return None;
    }
    let bytes = base64::decode(text?).ok()?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn refused(method: &'static str, key: &str, what: impl Into<String>) -> Fault {
    Fault::new(Class::Refused, method, key, what)
}

impl S3Store {
    fn look_at(&self, key: &str) -> Result<HeadObjectOutput> {
        const METHOD: &str = "look at";
        check_key(key).map_err(|e| refused(METHOD, key, e))?;
        let (algorithm, customer_key, customer_md5) = self.customer_key();
        let request = self
            .client()
            .head_object()
            .bucket(&self.options.bucket)
            .key(self.full(key))
            .set_checksum_mode(self.options.checksums.then_some(ChecksumMode::Enabled))
            .set_sse_customer_algorithm(algorithm)
            .set_sse_customer_key(customer_key)
            .set_sse_customer_key_md5(customer_md5)
            .set_request_payer(self.payer())
            .set_expected_bucket_owner(self.owner())
            .customize()
            .mutate_request(self.headers(false));
        self.wait(METHOD, key, self.short(), async {
            let head = request.send().await;
            head.map_err(|e| self.fault(METHOD, key, &e))
        })
    }
}

impl Store for S3Store {
    fn url(&self) -> &str {
        &self.url
    }

    fn put(&self, key: &str, body: Bytes, only_new: bool) -> Result<Object> {
        const METHOD: &str = "put";
        check_key(key).map_err(|e| refused(METHOD, key, e))?;
        let len = body.len() as u64;
        let crc32 = crc32fast::hash(&body);
        let (algorithm, customer_key, customer_md5) = self.customer_key();
        let (encryption, kms_key) = self.store_key();
        let lock = self.options.object_lock.clone();
        let request = self
            .client()
            .put_object()
            .bucket(&self.options.bucket)
            .key(self.full(key))
            .set_checksum_crc32(self.crc(crc32))
            .set_if_none_match(only_new.then(|| "*".to_owned()))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key)
            .set_sse_customer_algorithm(algorithm)
            .set_sse_customer_key(customer_key)
            .set_sse_customer_key_md5(customer_md5)
            .set_storage_class(self.options.small_storage_class.clone())
            .set_tagging(self.options.tags.header())
            .set_object_lock_mode(lock.as_ref().map(|l| l.mode.clone()))
            .set_object_lock_retain_until_date(lock.map(|l| l.until))
            .set_request_payer(self.payer())
            .set_expected_bucket_owner(self.owner())
            .body(ByteStream::from(body))
            .customize()
            .mutate_request(self.headers(true));
        self.wait(METHOD, key, self.long(len), async {
            let sent = if self.unsigned() {
                request.disable_payload_signing().send().await
            } else {
                request.send().await
            };
            let sent = sent.map_err(|e| self.fault(METHOD, key, &e))?;
            Ok(Object {
                len,
                etag: sent.e_tag().unwrap_or_default().to_owned(),
                crc32: told_crc(sent.checksum_crc32(), sent.checksum_type()),
            })
        })
    }

    fn create_upload(&self, key: &str) -> Result<Upload> {
        const METHOD: &str = "begin the upload of";
        check_key(key).map_err(|e| refused(METHOD, key, e))?;
        let (algorithm, customer_key, customer_md5) = self.customer_key();
        let (encryption, kms_key) = self.store_key();
        let lock = self.options.object_lock.clone();
        let checked = self.options.checksums;
        let request = self
            .client()
            .create_multipart_upload()
            .bucket(&self.options.bucket)
            .key(self.full(key))
            .set_checksum_algorithm(checked.then_some(ChecksumAlgorithm::Crc32))
            .set_checksum_type(checked.then_some(ChecksumType::FullObject))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key)
            .set_sse_customer_algorithm(algorithm)
            .set_sse_customer_key(customer_key)
            .set_sse_customer_key_md5(customer_md5)
            .set_storage_class(self.options.storage_class.clone())
            .set_tagging(self.options.tags.header())
            .set_object_lock_mode(lock.as_ref().map(|l| l.mode.clone()))
            .set_object_lock_retain_until_date(lock.map(|l| l.until))
            .set_request_payer(self.payer())
            .set_expected_bucket_owner(self.owner())
            .customize()
            .mutate_request(self.headers(true));
        self.wait(METHOD, key, self.short(), async {
            let created = request.send().await;
            let created = created.map_err(|e| self.fault(METHOD, key, &e))?;
            let id = created
                .upload_id()
                .ok_or_else(|| refused(METHOD, key, "the store does not name the upload"))?;
            Ok(Upload {
                key: key.to_owned(),
                id: id.to_owned(),
            })
        })
    }

    fn put_part(&self, upload: &Upload, part: &Part, body: Bytes) -> Result<Part> {
        const METHOD: &str = "put";
        let key = &upload.key;
        if body.len() as u64 != part.len {
            return Err(refused(METHOD, key, "a part is not as long as announced"));
        }
        let (algorithm, customer_key, customer_md5) = self.customer_key();
        let number = i32::try_from(part.number)
            .map_err(|_| refused(METHOD, key, "the number of the part is too large"))?;
        let request = self
            .client()
            .upload_part()
            .bucket(&self.options.bucket)
            .key(self.full(key))
            .upload_id(&upload.id)
            .part_number(number)
            .set_checksum_crc32(self.crc(part.crc32))
            .set_sse_customer_algorithm(algorithm)
            .set_sse_customer_key(customer_key)
            .set_sse_customer_key_md5(customer_md5)
            .set_request_payer(self.payer())
            .set_expected_bucket_owner(self.owner())
            .body(ByteStream::from(body))
            .customize()
            .mutate_request(self.headers(false));
        self.wait(METHOD, key, self.long(part.len), async {
            let sent = if self.unsigned() {
                request.disable_payload_signing().send().await
            } else {
                request.send().await
            };
            let sent = sent.map_err(|e| self.fault(METHOD, key, &e))?;
            let etag = sent
                .e_tag()
                .ok_or_else(|| refused(METHOD, key, "the store does not name the part"))?;
            Ok(Part {
                etag: etag.to_owned(),
                ..part.clone()
            })
        })
    }

    // r[repository.crc.declared]
    fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Object> {
        const METHOD: &str = "complete";
        let key = &upload.key;
        super::check_parts(parts).map_err(|e| refused(METHOD, key, e))?;
        let completed = parts.iter().map(|part| {
            CompletedPart::builder()
                .set_part_number(i32::try_from(part.number).ok())
                .e_tag(&part.etag)
                .set_checksum_crc32(self.crc(part.crc32))
                .build()
        });
        let completed = CompletedMultipartUpload::builder()
            .set_parts(Some(completed.collect()))
            .build();
        let (algorithm, customer_key, customer_md5) = self.customer_key();
        let (len, crc32) = (whole_len(parts), whole_crc(parts));
        let checked = self.options.checksums;
        let request = self
            .client()
            .complete_multipart_upload()
            .bucket(&self.options.bucket)
            .key(self.full(key))
            .upload_id(&upload.id)
            .multipart_upload(completed)
            .set_checksum_crc32(self.crc(crc32))
            .set_checksum_type(checked.then_some(ChecksumType::FullObject))
            .set_mpu_object_size(if checked {
                i64::try_from(len).ok()
            } else {
                None
            })
            .set_sse_customer_algorithm(algorithm)
            .set_sse_customer_key(customer_key)
            .set_sse_customer_key_md5(customer_md5)
            .set_request_payer(self.payer())
            .set_expected_bucket_owner(self.owner());
        let time = self.options.stall.saturating_mul(COMPLETE_STALLS);
        let mut object = self.wait(METHOD, key, time, async {
            let done = request.send().await;
            let done = done.map_err(|e| self.fault(METHOD, key, &e))?;
            let told = told_crc(done.checksum_crc32(), done.checksum_type());
            if told.is_some_and(|told| told != crc32) {
                let what = "the store has put together something else than was sent";
                return Err(Fault::new(Class::Refused, METHOD, key, what));
            }
            Ok(Object {
                len,
                etag: done.e_tag().unwrap_or_default().to_owned(),
                crc32: told,
            })
        })?;
        // Observed of Ceph 16.2: the answer names no tag, and the object has one.
        if object.etag.is_empty() {
            object.etag = self.head(key)?.etag;
        }
        Ok(object)
    }

    fn keep(&self, key: &str) -> Result<()> {
        const METHOD: &str = "lock or tag";
        let lock = self.options.object_lock.as_ref();
        let tags = self.options.tags.set();
        let tags = tags.map_err(|e| refused(METHOD, key, e.to_string()))?;
        if lock.is_none() && tags.is_none() {
            return Ok(());
        }
        // Observed of Ceph 16.2: it locks and tags what comes in one piece, and nothing that comes in parts.
        let there = self.look_at(key)?;
        if let (Some(lock), None) = (lock, there.object_lock_mode()) {
            let request = self
                .client()
                .put_object_retention()
                .bucket(&self.options.bucket)
                .key(self.full(key))
                .retention(lock.retention())
                .set_request_payer(self.payer())
                .set_expected_bucket_owner(self.owner());
            self.wait(METHOD, key, self.short(), async {
                let locked = request.send().await;
                locked.map_err(|e| self.fault(METHOD, key, &e))
            })?;
        }
        // Of what it has not tagged it says that there are no tags, or nothing.
        if let (Some(tags), None | Some(0)) = (tags, there.tag_count()) {
            let request = self
                .client()
                .put_object_tagging()
                .bucket(&self.options.bucket)
                .key(self.full(key))
                .tagging(tags)
                .set_request_payer(self.payer())
                .set_expected_bucket_owner(self.owner());
            self.wait(METHOD, key, self.short(), async {
                let tagged = request.send().await;
                tagged.map_err(|e| self.fault(METHOD, key, &e))
            })?;
        }
        Ok(())
    }

    fn abort(&self, upload: &Upload) -> Result<()> {
        const METHOD: &str = "abort the upload of";
        let request = self
            .client()
            .abort_multipart_upload()
            .bucket(&self.options.bucket)
            .key(self.full(&upload.key))
            .upload_id(&upload.id)
            .set_request_payer(self.payer())
            .set_expected_bucket_owner(self.owner());
        // Not `wait`: this is what an interrupted run has left to do.
        let sent = self.block_on(async { tokio::time::timeout(ABORT_TIME, request.send()).await });
        let fault = match sent {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => self.fault(METHOD, &upload.key, &error),
            Err(_elapsed) => late(METHOD, &upload.key, ABORT_TIME),
        };
        match fault.class {
            Class::NotFound => Ok(()),
            _ => Err(fault),
        }
    }

    fn head(&self, key: &str) -> Result<Object> {
        let head = self.look_at(key)?;
        Ok(Object {
            len: u64::try_from(head.content_length().unwrap_or(0)).unwrap_or(0),
            etag: head.e_tag().unwrap_or_default().to_owned(),
            crc32: told_crc(head.checksum_crc32(), head.checksum_type()),
        })
    }

    fn read(
        &self,
        key: &str,
        offset: u64,
        buf: &mut [u8],
        filled: &mut usize,
        etag: Option<&str>,
    ) -> Result<()> {
        const METHOD: &str = "read";
        check_key(key).map_err(|e| refused(METHOD, key, e))?;
        if *filled >= buf.len() {
            return Ok(());
        }
        let time = self.long(buf.len() as u64);
        let read = self.read_range(key, offset, buf, filled, etag);
        self.wait(METHOD, key, time, read)
    }

    fn hedged(&self) -> u64 {
        self.hedges.count()
    }

    fn list(&self, prefix: &str, by_directory: bool, from: Option<&str>) -> Result<Page> {
        const METHOD: &str = "list";
        let what = self.named(prefix);
        let request = self
            .client()
            .list_objects_v2()
            .bucket(&self.options.bucket)
            .prefix(self.full(prefix))
            .set_delimiter(by_directory.then(|| "/".to_owned()))
            .set_continuation_token(from.map(str::to_owned))
            .set_request_payer(self.payer())
            .set_expected_bucket_owner(self.owner());
        self.wait(METHOD, what, self.short(), async {
            let listed = request.send().await;
            let listed = listed.map_err(|e| self.fault(METHOD, what, &e))?;
            let objects = listed.contents().iter().filter_map(|object| {
                Some(Listed {
                    key: self.own(object.key()?)?,
                    len: u64::try_from(object.size().unwrap_or(0)).unwrap_or(0),
                    modified: object.last_modified().map_or(0, |t| t.secs()),
                })
            });
            let prefixes = listed.common_prefixes().iter();
            Ok(Page {
                objects: objects.collect(),
                prefixes: prefixes.filter_map(|p| self.own(p.prefix()?)).collect(),
                next: listed
                    .is_truncated()
                    .unwrap_or(false)
                    .then(|| listed.next_continuation_token().map(str::to_owned))
                    .flatten(),
            })
        })
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        let first = keys.first().map_or("", String::as_str);
        self.wait(REMOVE, first, self.removing(keys.len()), self.removed(keys))
    }

    fn discard(&self, keys: &[String]) -> Result<()> {
        let first = keys.first().map_or("", String::as_str);
        // Not `wait`: this is what an interrupted run has left to do.
        let removed = async { tokio::time::timeout(ABORT_TIME, self.removed(keys)).await };
        self.block_on(removed)
            .unwrap_or_else(|_elapsed| Err(late(REMOVE, first, ABORT_TIME)))
    }

    fn uploads(&self, prefix: &str, from: Option<&str>) -> Result<UploadPage> {
        const METHOD: &str = "list the uploads of";
        let what = self.named(prefix);
        let (key_marker, id_marker) = from
            .and_then(|from| from.split_once('\n'))
            .map_or((None, None), |(key, id)| {
                (Some(key.to_owned()), Some(id.to_owned()))
            });
        let request = self
            .client()
            .list_multipart_uploads()
            .bucket(&self.options.bucket)
            .prefix(self.full(prefix))
            .set_key_marker(key_marker)
            .set_upload_id_marker(id_marker)
            .set_request_payer(self.payer())
            .set_expected_bucket_owner(self.owner());
        self.wait(METHOD, what, self.short(), async {
            let listed = request.send().await;
            let listed = listed.map_err(|e| self.fault(METHOD, what, &e))?;
            let uploads = listed.uploads().iter().filter_map(|upload| {
                Some(OpenUpload {
                    upload: Upload {
                        key: self.own(upload.key()?)?,
                        id: upload.upload_id()?.to_owned(),
                    },
                    started: upload.initiated().map_or(0, |t| t.secs()),
                })
            });
            let next = (listed.next_key_marker(), listed.next_upload_id_marker());
            Ok(UploadPage {
                uploads: uploads.collect(),
                next: match next {
                    (Some(key), Some(id)) if listed.is_truncated().unwrap_or(false) => {
                        Some(format!("{key}\n{id}"))
                    }
                    _ => None,
                },
            })
        })
    }

    fn refresh(&self) -> Result<()> {
        let region = self.connection().region;
        let connected = self.block_on(config::connect(&self.options, Some(&region)));
        let connected = connected.map_err(|e| {
            Fault::new(
                Class::Expired,
                "read the credentials for",
                self.url(),
                e.to_string(),
            )
        })?;
        self.set_connection(connected);
        Ok(())
    }
}
