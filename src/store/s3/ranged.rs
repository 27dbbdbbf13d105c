//! One range of an object, asked for once, and a second time if the answer is slow: whichever request has the next bytes gives
//! them. `r[repository.hedge]`

use std::future::{Future, pending};
use std::pin::Pin;

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::time::Instant;

use super::{S3Store, answer, late, refused};
use crate::store::Result;
use crate::store::fault::{Class, Fault};

const METHOD: &str = "read";

type Asking<'s> = Pin<Box<dyn Future<Output = Result<ByteStream>> + 's>>;

/// One request and its answer.
struct Request<'s> {
    key: &'s str,
    /// Where in the object its next bytes belong.
    position: u64,
    state: State<'s>,
}

enum State<'s> {
    Asking(Asking<'s>),
    Answered(ByteStream),
}

impl Request<'_> {
    /// The next bytes. Given up while it waits, it can be called again.
    async fn next(&mut self) -> Result<Bytes> {
        if let State::Asking(asking) = &mut self.state {
            self.state = State::Answered(asking.await?);
        }
        let piece = match &mut self.state {
            State::Answered(body) => body.next().await,
            State::Asking(_) => None,
        };
        match piece {
            Some(Ok(piece)) => Ok(piece),
            Some(Err(e)) => Err(Fault::new(
                Class::Transient,
                METHOD,
                self.key,
                answer::story(&e),
            )),
            None => Err(Fault::new(
                Class::Short,
                METHOD,
                self.key,
                "it ends too early",
            )),
        }
    }
}

async fn next_of(request: &mut Option<Request<'_>>) -> Result<Bytes> {
    match request {
        Some(request) => request.next().await,
        None => pending().await,
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => pending().await,
    }
}

impl S3Store {
    fn ask<'s>(
        &'s self,
        key: &'s str,
        first: u64,
        last: u64,
        etag: Option<&'s str>,
    ) -> Request<'s> {
        // Some objects have no tag that anybody knows.
        let etag = etag.filter(|etag| !etag.is_empty());
        let (algorithm, customer_key, customer_md5) = self.customer_key();
        let request = self
            .client()
            .get_object()
            .bucket(&self.options.bucket)
            .key(self.full(key))
            .range(format!("bytes={first}-{last}"))
            .set_if_match(etag.map(str::to_owned))
            .set_sse_customer_algorithm(algorithm)
            .set_sse_customer_key(customer_key)
            .set_sse_customer_key_md5(customer_md5)
            .set_request_payer(self.payer())
            .set_expected_bucket_owner(self.owner())
            .customize()
            .mutate_request(self.headers(false));
        let asking = async move {
            let got = request.send().await;
            let got = got.map_err(|e| self.fault(METHOD, key, &e))?;
            // A store that ignores ranges would fill the buffer with something else.
            let begins = got
                .content_range()
                .and_then(|range| range.strip_prefix("bytes "))
                .and_then(|range| range.split_once('-'))
                .and_then(|(begin, _)| begin.parse::<u64>().ok());
            if begins != Some(first) {
                let what = "the store does not answer with the range that was asked for";
                return Err(refused(METHOD, key, what));
            }
            if let (Some(wanted), Some(found)) = (etag, got.e_tag()) {
                // Not every store minds the condition.
                if wanted != found {
                    let what = "it has changed meanwhile";
                    return Err(Fault::new(Class::Changed, METHOD, key, what));
                }
            }
            Ok(got.body)
        };
        Request {
            key,
            position: first,
            state: State::Asking(Box::pin(asking)),
        }
    }

    /// Fills `buf` with what is at `offset`, beginning at `filled`.
    pub(super) async fn read_range(
        &self,
        key: &str,
        offset: u64,
        buf: &mut [u8],
        filled: &mut usize,
        etag: Option<&str>,
    ) -> Result<()> {
        let begun = Instant::now();
        let missing = (buf.len() - *filled) as u64;
        let mut hedge_at = self.hedges.patience(missing).map(|time| begun + time);
        let last = offset + (buf.len() as u64).saturating_sub(1);
        let stall = self.options.stall;
        let mut one = Some(self.ask(key, offset + *filled as u64, last, etag));
        let mut two = None;
        while *filled < buf.len() {
            let next = async {
                tokio::select! {
                    biased;
                    piece = next_of(&mut one) => Some((false, piece)),
                    piece = next_of(&mut two) => Some((true, piece)),
                    () = until(hedge_at) => None,
                }
            };
            let next = tokio::time::timeout(stall, next).await;
            let next = next.map_err(|_elapsed| late(METHOD, key, stall))?;
            let at = offset + *filled as u64;
            let Some((second, piece)) = next else {
                hedge_at = None;
                if self.hedges.begin() {
                    two = Some(self.ask(key, at, last, etag));
                }
                continue;
            };
            let (this, other) = if second {
                (&mut two, &mut one)
            } else {
                (&mut one, &mut two)
            };
            let piece = match piece {
                Ok(piece) => piece,
                Err(fault) => {
                    *this = None;
                    if other.is_none() {
                        return Err(fault);
                    }
                    continue;
                }
            };
            if let Some(this) = this {
                // What the other one has given already is passed over.
                let begin = usize::try_from(at - this.position.min(at)).unwrap_or(usize::MAX);
                this.position += piece.len() as u64;
                let fresh = piece.get(begin..).unwrap_or_default();
                let room = buf.get_mut(*filled..).unwrap_or_default();
                let n = fresh.len().min(room.len());
                if let (Some(to), Some(from)) = (room.get_mut(..n), fresh.get(..n)) {
                    to.copy_from_slice(from);
                    *filled += n;
                }
            }
        }
        self.hedges.done(missing, begun.elapsed());
        Ok(())
    }
}
