//! A store for measurements: an S3 server that keeps bytes in memory and does nothing else, so that what is measured is the client.
//! It checks no signature and no checksum, hashes nothing, and uses one thread.
//!
//! `bytes_store BUCKET...` prints its address and serves until standard input ends. `GET /-/bytes` tells how many bytes of bodies
//! it has sent, and `DELETE /-/` makes it forget everything. After `PUT /-/far` it answers as one does that is far away.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement fails where it stands, and prints where it is"
)]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

/// What Amazon's own transfer manager (aws-sdk-s3-transfer-manager 0.3) takes S3 to do: how long an answer takes to begin, and bytes per
/// second of one request's body to the store and from it.
const FAR_LATENCY: Duration = Duration::from_millis(30);
const FAR_UP: u32 = 20_000_000;
const FAR_DOWN: u32 = 90_000_000;

/// Bytes that a far store sends at once.
const FAR_PIECE_LEN: usize = 256 << 10;

/// An object: its parts in order.
type Parts = Vec<Bytes>;

#[derive(Debug, Default)]
struct State {
    buckets: Vec<String>,
    /// By bucket and key, with a slash between.
    objects: BTreeMap<String, (String, Parts)>,
    uploads: HashMap<String, BTreeMap<u32, Bytes>>,
    /// Uploads and objects so far; tags are made of it.
    count: u64,
    sent: u64,
    far: bool,
}

type Answer = Response<Content>;

/// The body of an answer.
#[derive(Debug)]
struct Content {
    rest: Bytes,
    /// When the next piece may be sent, of a store that is far away.
    next: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut len = self.rest.len();
        if let Some(next) = &mut self.next {
            ready!(next.as_mut().poll(context));
            len = len.min(FAR_PIECE_LEN);
            let pause = Duration::from_secs(len as u64) / FAR_DOWN;
            let then = next.deadline() + pause;
            next.as_mut().reset(then);
        }
        let piece = self.rest.split_to(len);
        Poll::Ready((len > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Content {
        rest: body.into(),
        next: None,
    });
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

fn with(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    let value = HeaderValue::from_str(value).unwrap();
    answer
        .headers_mut()
        .insert(HeaderName::from_static(name), value);
    answer
}

fn refused(status: u16, code: &str) -> Answer {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    answer(status, text)
}

fn xml(root: &str, inner: &str) -> Answer {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <{root} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inner}</{root}>"
    );
    with(answer(200, text), "content-type", "application/xml")
}

/// Unescapes what stands in an address.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap()
}

/// One range of the parts.
fn cut(parts: &[Bytes], mut first: usize, len: usize) -> Bytes {
    let mut found = BytesMut::new();
    let mut missing = len;
    for part in parts {
        if first >= part.len() {
            first -= part.len();
            continue;
        }
        let piece = part.slice(first..(first + missing).min(part.len()));
        first = 0;
        missing -= piece.len();
        // What lies in one part, as most ranges do, is not copied.
        if found.is_empty() && missing == 0 {
            return piece;
        }
        if found.is_empty() {
            found.reserve(len);
        }
        found.extend_from_slice(&piece);
        if missing == 0 {
            break;
        }
    }
    found.freeze()
}

async fn body_of(request: Request<Incoming>) -> Bytes {
    let len = request.headers().get("content-length");
    let len = len.map_or(0, |len| len.to_str().unwrap().parse().unwrap());
    let mut body = request.into_body();
    let mut bytes = BytesMut::with_capacity(len);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.unwrap().into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    bytes.freeze()
}

fn list(state: &State, bucket: &str, query: &HashMap<String, String>) -> Answer {
    let text = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (prefix, delimiter, after) = (
        text("prefix"),
        text("delimiter"),
        text("continuation-token"),
    );
    let most = text("max-keys").parse().unwrap_or(1000);
    let root = format!("{bucket}/");
    let mut inner = String::new();
    let (mut last, mut count, mut more) = (String::new(), 0, false);
    for (full, (etag, parts)) in state.objects.range(format!("{root}{prefix}")..) {
        let Some(key) = full
            .strip_prefix(&root)
            .filter(|key| key.starts_with(&prefix))
        else {
            break;
        };
        let border = (!delimiter.is_empty())
            .then(|| key[prefix.len()..].find(&delimiter))
            .flatten();
        let name = match border {
            Some(at) => &key[..prefix.len() + at + delimiter.len()],
            None => key,
        };
        if name <= after.as_str() || name == last {
            continue;
        }
        if count == most {
            more = true;
            break;
        }
        let len: usize = parts.iter().map(Bytes::len).sum();
        match border {
            Some(_) => write!(
                inner,
                "<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"
            ),
            None => write!(
                inner,
                "<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                 <ETag>&quot;{etag}&quot;</ETag><Size>{len}</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents>"
            ),
        }
        .unwrap();
        name.clone_into(&mut last);
        count += 1;
    }
    write!(
        inner,
        "<KeyCount>{count}</KeyCount><IsTruncated>{more}</IsTruncated>"
    )
    .unwrap();
    if more {
        write!(
            inner,
            "<NextContinuationToken>{last}</NextContinuationToken>"
        )
        .unwrap();
    }
    xml("ListBucketResult", &inner)
}

fn read(state: &mut State, path: &str, range: Option<&str>, head: bool) -> Answer {
    let Some((etag, parts)) = state.objects.get(path) else {
        return refused(404, "NoSuchKey");
    };
    let len: usize = parts.iter().map(Bytes::len).sum();
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let range = range.map(|(first, last)| {
        let first: usize = first.parse().unwrap();
        (
            first,
            last.parse()
                .unwrap_or(usize::MAX)
                .min(len.saturating_sub(1)),
        )
    });
    let etag = etag.clone();
    let found = match range {
        Some((first, _)) if first >= len => return refused(416, "InvalidRange"),
        Some((first, last)) => {
            let found = answer(206, cut(parts, first, last + 1 - first));
            with(
                found,
                "content-range",
                &format!("bytes {first}-{last}/{len}"),
            )
        }
        None if head => with(answer(200, ""), "content-length", &len.to_string()),
        None => answer(200, cut(parts, 0, len)),
    };
    state.sent += found.body().size_hint().exact().unwrap_or(0);
    let found = with(found, "etag", &format!("\"{etag}\""));
    let found = with(found, "accept-ranges", "bytes");
    with(found, "last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")
}

async fn serve(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Answer {
    let query: HashMap<_, _> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (name.to_owned(), unescape(&value.replace('+', " "))))
        .collect();
    let path = unescape(request.uri().path().trim_start_matches('/'));
    let method = request.method().clone();
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.and_then(|v| v.to_str().ok()).map(str::to_owned)
    };
    let (range, only_new) = (header("range"), header("if-none-match").is_some());
    if header("x-amz-decoded-content-length").is_some() {
        return refused(501, "NotImplemented");
    }
    let begun = tokio::time::Instant::now();
    let body = body_of(request).await;
    let len = body.len() as u64;
    let (mut answer, far) = {
        let mut state = state.lock().unwrap();
        if path.starts_with("-/") {
            match method {
                Method::DELETE => {
                    state.objects.clear();
                    state.uploads.clear();
                }
                Method::PUT => state.far = true,
                _ => {}
            }
            return answer(200, format!("{}\n", std::mem::take(&mut state.sent)));
        }
        let answer = act(
            &mut state,
            &method,
            path,
            &query,
            range.as_deref(),
            only_new,
            body,
        );
        (answer, state.far)
    };
    if far {
        let taken = FAR_LATENCY + Duration::from_secs(len) / FAR_UP;
        tokio::time::sleep_until(begun + taken).await;
        answer.body_mut().next = Some(Box::pin(tokio::time::sleep(Duration::ZERO)));
    }
    answer
}

fn act(
    state: &mut State,
    method: &Method,
    path: String,
    query: &HashMap<String, String>,
    range: Option<&str>,
    only_new: bool,
    body: Bytes,
) -> Answer {
    let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
    if !state.buckets.iter().any(|b| b == bucket) {
        return refused(404, "NoSuchBucket");
    }
    state.count += 1;
    let tag = format!("{:032x}-1", state.count);
    let upload = query.get("uploadId");
    match *method {
        Method::GET if query.contains_key("location") => xml("LocationConstraint", ""),
        Method::GET if key.is_empty() => list(state, bucket, query),
        Method::HEAD if key.is_empty() => answer(200, ""),
        Method::GET => read(state, &path, range, false),
        Method::HEAD => read(state, &path, None, true),
        Method::POST if query.contains_key("uploads") => {
            state.uploads.insert(tag.clone(), BTreeMap::new());
            let inner =
                format!("<Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{tag}</UploadId>");
            xml("InitiateMultipartUploadResult", &inner)
        }
        Method::PUT if upload.is_some() => {
            let number = query["partNumber"].parse().unwrap();
            match state.uploads.get_mut(&query["uploadId"]) {
                Some(parts) => {
                    parts.insert(number, body);
                    with(answer(200, ""), "etag", &format!("\"{tag}\""))
                }
                None => refused(404, "NoSuchUpload"),
            }
        }
        Method::POST if upload.is_some() => match state.uploads.remove(&query["uploadId"]) {
            Some(parts) => {
                let parts = parts.into_values().collect();
                state.objects.insert(path.clone(), (tag.clone(), parts));
                let inner = format!(
                    "<Bucket>{bucket}</Bucket><Key>{key}</Key><ETag>&quot;{tag}&quot;</ETag>"
                );
                xml("CompleteMultipartUploadResult", &inner)
            }
            None => refused(404, "NoSuchUpload"),
        },
        Method::DELETE if upload.is_some() => {
            state.uploads.remove(&query["uploadId"]);
            answer(204, "")
        }
        Method::PUT if key.is_empty() => answer(200, ""),
        Method::PUT if only_new && state.objects.contains_key(&path) => {
            refused(412, "PreconditionFailed")
        }
        Method::PUT => {
            state.objects.insert(path, (tag.clone(), vec![body]));
            with(answer(200, ""), "etag", &format!("\"{tag}\""))
        }
        Method::DELETE => {
            state.objects.remove(&path);
            answer(204, "")
        }
        _ => refused(501, "NotImplemented"),
    }
}

fn main() {
    let buckets = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let state = Arc::new(Mutex::new(State {
        buckets: buckets.collect(),
        ..State::default()
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (end, mut ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        end.send(()).ok();
    });
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let socket = tokio::select! {
                accepted = listener.accept() => accepted.unwrap().0,
                _ = &mut ended => break,
            };
            let state = Arc::clone(&state);
            let service = hyper::service::service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(serve(state, request).await) }
            });
            // How a connection ends is the client's affair.
            tokio::spawn(async move {
                hyper::server::conn::http1::Builder::new()
                    .max_buf_size(1 << 20)
                    .serve_connection(TokioIo::new(socket), service)
                    .await
                    .ok();
            });
        }
    });
}
