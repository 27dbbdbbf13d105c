//! An HTTP proxy that does to chosen requests what networks and stores do to them: errors, lost answers, resets, stalls, flipped
//! bytes. It runs in the test's own process, passes the signed host name on, and counts what it sees.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::http_server::HttpServer;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type AnyBody = UnsyncBoxBody<Bytes, Failure>;

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is answered with this status and error code instead.
    Answer(u16, &'static str),
    /// It is answered as a bucket does that is in this region.
    OtherRegion(&'static str),
    /// It is done, and answered with a 500.
    Lost,
    /// The connection breaks after so many bytes of its body.
    CutRequest(u64),
    /// The connection breaks after so many bytes of the answer.
    CutAnswer(u64),
    /// The answer stops after so many bytes and never goes on.
    Stall(u64),
    /// One bit of this byte of the answer is another one.
    Flip(u64),
}

#[derive(Debug)]
struct Rule {
    method: &'static str,
    target: String,
    /// Matching requests that are left alone first, and how many are then acted upon.
    skip: usize,
    times: usize,
    action: Action,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    log: VecDeque<String>,
    /// Requests with their `x-amz-` headers, one `name: value` each.
    requests: Vec<(String, Vec<String>)>,
    /// Every connection breaks.
    down: bool,
}

/// The proxy; it ends with the value.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    server: HttpServer,
    state: Arc<Mutex<State>>,
}

impl FaultProxy {
    /// Starts one in front of `upstream` (`host:port`).
    pub(crate) fn start(upstream: &str) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let upstream = upstream.to_owned();
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        let service = hyper::service::service_fn(move |request| {
            let (state, client) = (Arc::clone(&shared), client.clone());
            pass(state, client, upstream.clone(), request)
        });
        Self {
            server: HttpServer::start(service),
            state,
        }
    }

    /// Its address as a URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Acts upon requests of `method` whose path and query, authorization, session token or range contain `target`: after the first
    /// `skip`, for `times`.
    pub(crate) fn on(
        &self,
        method: &'static str,
        target: &str,
        skip: usize,
        times: usize,
        action: Action,
    ) {
        self.state.lock().unwrap().rules.push(Rule {
            method,
            target: target.to_owned(),
            skip,
            times,
            action,
        });
    }

    /// The store is gone, or back.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.lock().unwrap().down = down;
    }

    /// No more faults.
    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    /// Requests seen since the last call: method, path, query; with a CRC-32 where one was declared, and a range where one was
    /// asked for.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log).into()
    }

    /// Requests seen since the last call: method, path and query, and the headers of the protocol's own.
    pub(crate) fn take_requests(&self) -> Vec<(String, Vec<String>)> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

fn action_for(state: &Mutex<State>, method: &str, told: [&str; 4]) -> Option<Action> {
    let mut state = state.lock().unwrap();
    for rule in &mut state.rules {
        let hits = told.iter().any(|text| text.contains(&rule.target));
        if rule.method != method || !hits || rule.times == 0 {
            continue;
        }
        if rule.skip > 0 {
            rule.skip -= 1;
            continue;
        }
        rule.times -= 1;
        return Some(rule.action.clone());
    }
    None
}

fn error(status: u16, code: &str) -> Response<AnyBody> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>made by a \
         test</Message><RequestId>1</RequestId></Error>"
    );
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

async fn drain(body: &mut Incoming, most: u64) {
    let mut seen = 0;
    while let Some(Ok(frame)) = body.frame().await {
        seen += frame.data_ref().map_or(0, Bytes::len) as u64;
        if seen >= most {
            return;
        }
    }
}

async fn pass(
    state: Arc<Mutex<State>>,
    client: Client<HttpConnector, Incoming>,
    upstream: String,
    mut request: Request<Incoming>,
) -> Result<Response<AnyBody>, Failure> {
    let target = request
        .uri()
        .path_and_query()
        .map(ToString::to_string)
        .unwrap_or_default();
    let signed = request.headers().get("authorization");
    let signed = signed.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let token = request.headers().get("x-amz-security-token");
    let token = token.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let declared = request.headers().get("x-amz-checksum-crc32");
    let declared = declared.and_then(|v| v.to_str().ok());
    let range = request.headers().get("range");
    let range = range.and_then(|v| v.to_str().ok());
    let line = match (declared, range) {
        (Some(crc), _) => format!("{} {target} crc32={crc}", request.method()),
        (None, Some(range)) => format!("{} {target} {range}", request.method()),
        (None, None) => format!("{} {target}", request.method()),
    };
    {
        let mut state = state.lock().unwrap();
        state.log.push_back(line);
        let own = request.headers().iter().filter_map(|(name, value)| {
            let value = value.to_str().ok()?;
            let is_own = name.as_str().starts_with("x-amz-");
            is_own.then(|| format!("{name}: {value}"))
        });
        let line = format!("{} {target}", request.method());
        state.requests.push((line, own.collect()));
        if state.down {
            return Err("down".into());
        }
    }
    let told = [target.as_str(), signed, token, range.unwrap_or_default()];
    let action = action_for(&state, request.method().as_str(), told);
    match &action {
        Some(Action::Answer(status, code)) => {
            drain(request.body_mut(), u64::MAX).await;
            return Ok(error(*status, code));
        }
        Some(Action::OtherRegion(region)) => {
            drain(request.body_mut(), u64::MAX).await;
            let mut response = error(301, "PermanentRedirect");
            let region = hyper::header::HeaderValue::from_static(region);
            response.headers_mut().insert("x-amz-bucket-region", region);
            return Ok(response);
        }
        Some(Action::CutRequest(bytes)) => {
            drain(request.body_mut(), *bytes).await;
            return Err("cut".into());
        }
        _ => {}
    }
    // Only the address changes: the host header is part of what was signed.
    *request.uri_mut() = format!("http://{upstream}{target}").parse()?;
    let response = client.request(request).await?;
    let cut = match action {
        Some(Action::Lost) => {
            response.into_body().collect().await.ok();
            return Ok(error(500, "InternalError"));
        }
        Some(Action::CutAnswer(at)) => Some((at, Cut::Break)),
        Some(Action::Stall(at)) => Some((at, Cut::Stall)),
        Some(Action::Flip(at)) => Some((at, Cut::Flip)),
        _ => None,
    };
    Ok(response.map(|inner| match cut {
        None => inner.map_err(|e| -> Failure { e.into() }).boxed_unsync(),
        Some((at, cut)) => Tampered {
            inner,
            seen: 0,
            at,
            cut,
        }
        .boxed_unsync(),
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Break,
    Stall,
    Flip,
}

/// A body that something happens to.
struct Tampered {
    inner: Incoming,
    seen: u64,
    at: u64,
    cut: Cut,
}

impl Body for Tampered {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self.cut {
            Cut::Break if self.seen >= self.at => return Poll::Ready(Some(Err("cut".into()))),
            Cut::Stall if self.seen >= self.at => return Poll::Pending,
            _ => {}
        }
        let frame = match std::task::ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(e)) => return Poll::Ready(Some(Err(e.into()))),
            None => return Poll::Ready(None),
        };
        let Ok(mut data) = frame.into_data() else {
            return Poll::Ready(None);
        };
        let begin = self.seen;
        self.seen += data.len() as u64;
        if (begin..self.seen).contains(&self.at) {
            let at = usize::try_from(self.at - begin).unwrap();
            if self.cut == Cut::Flip {
                let mut bytes = data.to_vec();
                bytes[at] ^= 0x10;
                data = bytes.into();
            } else {
                data.truncate(at);
                self.seen = self.at;
            }
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
