//! What the answers of an S3 store, and their absence, mean.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::fault::{Class, Fault};

/// What a store said, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// HTTP status; zero without an answer.
    pub(super) status: u16,
    /// Code of the error document.
    pub(super) code: String,
    /// Its text.
    pub(super) message: String,
    /// Header `x-amz-bucket-region`.
    pub(super) region: Option<String>,
}

impl Answer {
    fn of<E: ProvideErrorMetadata>(error: &E, response: &HttpResponse) -> Self {
        let region = response.headers().get("x-amz-bucket-region");
        Self {
            status: response.status().as_u16(),
            code: error.code().unwrap_or_default().to_owned(),
            message: error.message().unwrap_or_default().to_owned(),
            region: region.map(str::to_owned),
        }
    }

    /// The region that the bucket is in, if the store says so.
    pub(super) fn bucket_region(&self) -> Option<String> {
        let told = self.message.split_once("expecting '");
        let told = told.and_then(|(_, rest)| rest.split_once('\''));
        self.region
            .clone()
            .or_else(|| told.map(|(region, _)| region.to_owned()))
    }
}

/// The answer in an error, if there was one.
pub(super) fn answer<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<Answer> {
    match error {
        SdkError::ServiceError(service) => Some(Answer::of(service.err(), service.raw())),
        _ => None,
    }
}

/// An error of the client as a fault. `bucket` is what to call it in sentences.
pub(super) fn fault<E>(
    method: &'static str,
    key: &str,
    bucket: &str,
    error: &SdkError<E, HttpResponse>,
) -> Fault
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if let Some(answer) = answer(error) {
        return told(method, key, bucket, &answer);
    }
    let story = story(error);
    if story.to_lowercase().contains("credential") {
        let what = format!("no usable credentials: {story}");
        return Fault::new(Class::Refused, method, key, what).hint(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile with --profile, \
             or run where a role gives them",
        );
    }
    if let Some(reason) = distrust(error) {
        let what = format!("the store's certificate is not trusted: {reason}");
        return Fault::new(Class::Refused, method, key, what)
            .hint("give the certificate of who has signed it with --ca-file, or name the host as the certificate does");
    }
    let class = match error {
        SdkError::ConstructionFailure(_) => Class::Refused,
        SdkError::DispatchFailure(_) => Class::Unreachable,
        _ => Class::Transient,
    };
    let fault = Fault::new(class, method, key, story);
    match class {
        Class::Unreachable => {
            fault.hint("check --endpoint-url and whether the store can be reached from this host")
        }
        _ => fault,
    }
}

/// Why a certificate was not taken, if that is what an error is about.
fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(reason)) = error.downcast_ref() {
            return Some(reason.to_string());
        }
        // What an I/O error carries is not among its sources.
        let carried = error.downcast_ref().and_then(std::io::Error::get_ref);
        cause = match carried {
            Some(carried) => Some(carried),
            None => error.source(),
        };
    }
    None
}

/// Every cause of an error, in one line.
pub(super) fn story(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// What the store said as a fault. Codes are those of the S3 API reference ("Error responses"), of Ceph and of `MinIO`.
pub(super) fn told(method: &'static str, key: &str, bucket: &str, answer: &Answer) -> Fault {
    let Answer {
        status,
        code,
        message,
        ..
    } = answer;
    let writes = method == "put";
    let (class, sentence, hint) = match (code.as_str(), *status) {
        ("NoSuchBucket", _) => (
            Class::Refused,
            Some(format!("there is no bucket {bucket:?}")),
            Some("check its name, --endpoint-url and --region; xbpipe does not make buckets"),
        ),
        ("NoSuchUpload", _) => (
            Class::NotFound,
            Some("there is no such upload".to_owned()),
            None,
        ),
        ("NoSuchKey" | "NotFound", _) | ("", 404) => (
            Class::NotFound,
            Some("there is no such object".to_owned()),
            None,
        ),
        ("InvalidAccessKeyId", _) => (
            Class::Refused,
            Some("the store does not know this access key".to_owned()),
            Some(
                "check the access key, and that it belongs to this store (--endpoint-url, --profile)",
            ),
        ),
        ("SignatureDoesNotMatch", _) => (
            Class::Refused,
            Some(
                "the signature is wrong: the secret key does not belong to the access key"
                    .to_owned(),
            ),
            Some("check the secret key for missing or additional characters"),
        ),
        ("RequestTimeTooSkewed", _) => (
            Class::Refused,
            Some("the clock of this host differs too much from the store's".to_owned()),
            Some("set the clock"),
        ),
        (
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired",
            _,
        ) => (
            Class::Expired,
            None,
            Some("renew the credentials; they are read again at every try"),
        ),
        (
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "IllegalLocationConstraintException",
            _,
        ) if answer.bucket_region().is_some() => {
            let region = answer.bucket_region().unwrap_or_default();
            (
                Class::Refused,
                Some(format!("the bucket {bucket:?} is in region {region}")),
                Some("say so with --region"),
            )
        }
        ("AuthorizationHeaderMalformed", _) => (
            Class::Refused,
            Some("the requests are signed for another region than the bucket's".to_owned()),
            Some("say with --region where the bucket is"),
        ),
        // An answer without a body has no code either. (Observed of Ceph 16.2; Amazon documents the same.)
        ("", 400) if method == "look at" => (
            Class::Refused,
            None,
            Some(
                "an object that was stored with a customer's key needs it again: --sse customer:FILE",
            ),
        ),
        ("InvalidObjectState", _) => (
            Class::Refused,
            Some("the object is in an archive class and must be restored there first".to_owned()),
            Some(
                "restore the objects of this backup with the store's own tool, wait, and try again",
            ),
        ),
        (
            "QuotaExceeded"
            | "XMinioStorageFull"
            | "XMinioAdminBucketQuotaExceeded"
            | "InsufficientCapacity",
            _,
        )
        | (_, 507) => (
            Class::Full,
            None,
            Some("remove backups (xbpipe rm, xbpipe prune, xbpipe gc), or have the quota raised"),
        ),
        (
            "BadDigest"
            | "InvalidDigest"
            | "XAmzContentChecksumMismatch"
            | "XAmzContentSHA256Mismatch",
            _,
        ) => (Class::Damaged, None, None),
        (
            "SlowDown"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequests",
            _,
        )
        | (_, 429 | 503) => (Class::Throttled, None, None),
        (
            "InternalError"
            | "RequestTimeout"
            | "ServiceUnavailable"
            | "OperationAborted"
            | "ConditionalRequestConflict",
            _,
        )
        | (_, 408 | 500 | 502 | 504) => (Class::Transient, None, None),
        (_, 412) if writes => (
            Class::Exists,
            Some("there is an object of that name".to_owned()),
            None,
        ),
        (_, 412) => (
            Class::Changed,
            Some("it has changed meanwhile".to_owned()),
            None,
        ),
        (_, 416) => (Class::Short, Some("it ends too early".to_owned()), None),
        ("AccessDenied" | "Forbidden", _) | (_, 403) => (
            Class::Refused,
            Some("access denied".to_owned()),
            Some(
                "the account needs s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, \
                 s3:AbortMultipartUpload and, to remove backups, s3:DeleteObject",
            ),
        ),
        _ => (Class::Refused, None, None),
    };
    let mut cause = sentence.unwrap_or_default();
    let raw = match (code.as_str(), message.as_str()) {
        ("", "") => format!("HTTP status {status}"),
        ("", message) => format!("HTTP status {status}: {message}"),
        (code, "") => code.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    cause = if cause.is_empty() {
        raw
    } else {
        format!("{cause} ({raw})")
    };
    let fault = Fault::new(class, method, key, cause);
    match hint {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_thing_has_its_own_sentence() {
        let class = |method, code: &str, status| {
            let answer = Answer {
                status,
                code: code.to_owned(),
                message: "text".to_owned(),
                region: None,
            };
            let fault = told(method, "k", "b", &answer);
            assert!(code.is_empty() || fault.cause.contains(code), "{fault}");
            fault.class
        };
        for (method, code, status, expected) in [
            ("put", "SlowDown", 503, Class::Throttled),
            ("put", "", 503, Class::Throttled),
            ("put", "InternalError", 200, Class::Transient),
            ("put", "PreconditionFailed", 412, Class::Exists),
            ("read", "PreconditionFailed", 412, Class::Changed),
            ("put", "ConditionalRequestConflict", 409, Class::Transient),
            ("read", "NoSuchKey", 404, Class::NotFound),
            ("read", "InvalidRange", 416, Class::Short),
            ("put", "ExpiredToken", 400, Class::Expired),
            ("put", "BadDigest", 400, Class::Damaged),
            ("put", "QuotaExceeded", 403, Class::Full),
            ("put", "AccessDenied", 403, Class::Refused),
            ("put", "NoSuchBucket", 404, Class::Refused),
            ("put", "Strange", 400, Class::Refused),
            ("list", "AuthorizationHeaderMalformed", 400, Class::Refused),
            ("look at", "", 400, Class::Refused),
        ] {
            assert_eq!(class(method, code, status), expected, "{code}");
        }
    }

    #[test]
    fn the_region_is_in_the_header_or_in_the_text() {
        let mut answer = Answer {
            message: "the region 'us-east-1' is wrong; expecting 'eu-west-1'".to_owned(),
            ..Answer::default()
        };
        assert_eq!(answer.bucket_region().as_deref(), Some("eu-west-1"));
        answer.region = Some("eu-north-1".to_owned());
        assert_eq!(answer.bucket_region().as_deref(), Some("eu-north-1"));
    }
}
