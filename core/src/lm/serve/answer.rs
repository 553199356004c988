//! Answers to HTTP requests: who may ask for what, bodies, and what is sent while a request is worked on.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use axum_core::body::Body;
use axum_core::response::Response;
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL,
    CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode, Version};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, sleep_until, timeout, timeout_at};

use super::access::{self, Access};
use super::door::{Limits, Stay, Visit};
use super::request::{Refusal, Wanted, shortened};
use super::tell::{Telling, Word, event};
use super::write::{Served, lock};

/// Everything that answering requests needs.
pub(super) struct Exchange {
    pub(super) served: Arc<Served>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) limits: Limits,
    pub(super) access: Arc<Access>,
    /// When the server began, seconds since 1970.
    pub(super) since: u64,
    /// How many requests there were.
    pub(super) requests: AtomicU64,
    /// One permit for each request that is worked on or waits for that.
    pub(super) places: Arc<Semaphore>,
    /// One permit for each byte of larger bodies that may be held.
    pub(super) bodies: Arc<Semaphore>,
}

/// Bodies up to this size, bytes, are always read. Larger ones share a room ([`Exchange::bodies`]).
const SMALL_BODY: usize = 64 << 10;

/// How long the rest of a refused body is read and thrown away, so that the client can read the reason.
const DRAIN: Duration = Duration::from_secs(5);

/// Most pieces of text that wait for a client to take them. With more of them, its request waits.
const MOST_PIECES: usize = 1024;

/// Most characters of a path that are shown.
const MOST_PATH: usize = 80;

/// Answers a request.
pub(super) async fn answer(request: Request<Incoming>, exchange: &Arc<Exchange>, visit: &Arc<Visit>) -> Response {
    let id = exchange.requests.fetch_add(1, Ordering::Relaxed);
    let until = Instant::now() + exchange.limits.request;
    let stay = Stay::begin(visit, until + exchange.limits.patience);
    let (head, mut body) = request.into_parts();
    let access = &exchange.access;
    let origin = match access.check_host(&head).and_then(|()| access.check_origin(&head.headers)) {
        Ok(origin) => origin,
        Err(refusal) => return settle(refused(&refusal), body),
    };
    let task = match access::is_preflight(&head) && origin.is_some() {
        true => Ok(Task::Preflight),
        false => task(&head, exchange),
    };
    let response = match task {
        Err(refusal) => refused(&refusal),
        Ok(Task::Tell(told)) => whole(200, told.to_string()),
        Ok(Task::Allow(methods)) => allow(methods),
        Ok(Task::Preflight) => preflight(),
        Ok(Task::Write { chat }) => {
            let begun = Begun { id, chat, version: head.version, until };
            write(&mut body, begun, exchange, stay).await
        }
    };
    let mut response = settle(response, body);
    if let Some(origin) = origin {
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().insert(VARY, HeaderValue::from_static("Origin"));
    }
    response
}

/// What a request's head asks for.
enum Task {
    Tell(Value),
    Write {
        chat: bool,
    },
    /// The methods that the path has.
    Allow(&'static str),
    /// A browser asks what a web page may do.
    Preflight,
}

/// Methods of paths that a body is sent to, and of the others.
const POSTED: &str = "POST, OPTIONS";
const GOT: &str = "GET, HEAD, OPTIONS";

/// What a request asks for, as far as its head tells.
fn task(head: &Parts, exchange: &Exchange) -> Result<Task, Refusal> {
    let path = head.uri.path().trim_end_matches('/');
    if path == "/health" {
        // A program that watches the server needs no key.
        check_method(&head.method, path, GOT)?;
        return Ok(Task::Tell(json!({"status": "ok"})));
    }
    if head.method != Method::OPTIONS {
        exchange.access.check_key(&head.headers)?;
    }
    let Served { name, fingerprint, .. } = exchange.served.as_ref();
    let model = || {
        json!({
            "id": name, "object": "model", "created": exchange.since, "owned_by": "pairwise", "fingerprint": fingerprint
        })
    };
    let (task, methods) = match path {
        "/v1/completions" => (Task::Write { chat: false }, POSTED),
        "/v1/chat/completions" => (Task::Write { chat: true }, POSTED),
        "/v1/models" => (Task::Tell(json!({"object": "list", "data": [model()]})), GOT),
        _ if path.strip_prefix("/v1/models/") == Some(name) => (Task::Tell(model()), GOT),
        _ => {
            let message = format!(
                "there is no {}: expected /v1/completions, /v1/chat/completions, /v1/models, /v1/models/{name} or \
                 /health",
                shortened(path, MOST_PATH)
            );
            return Err(Refusal::new(404, "not_found", message));
        }
    };
    if head.method == Method::OPTIONS {
        return Ok(Task::Allow(methods));
    }
    check_method(&head.method, path, methods)?;
    if methods == POSTED {
        access::check_content(&head.headers)?;
    }
    Ok(task)
}

fn check_method(method: &Method, path: &str, methods: &str) -> Result<(), Refusal> {
    if methods.split(", ").any(|one| one == method.as_str()) {
        return Ok(());
    }
    let message = format!("{} {path}: must be {methods}", shortened(method.as_str(), MOST_PATH));
    Err(Refusal::new(405, "method_not_allowed", message))
}

fn too_large(most: usize) -> Refusal {
    Refusal::new(413, "request_too_large", format!("the body is larger than {most} bytes: --max-body raises the limit"))
}

fn crowded(exchange: &Exchange) -> Refusal {
    let most = exchange.limits.requests;
    let message = format!("{most} requests are worked on or wait for that: try again later, or raise --max-requests");
    Refusal::new(429, "too_many_requests", message)
}

fn busy(message: &str) -> Refusal {
    Refusal::new(503, "overloaded", format!("{message}: try again later"))
}

fn defect() -> Refusal {
    let message = "this request ended by a defect of the server".to_owned();
    Refusal { status: 500, message, param: None, code: None }
}

fn over_time(limit: Duration) -> Refusal {
    let limit = limit.as_secs_f64();
    let message = format!("the request takes longer than {limit} s: ask for less, or raise --request-seconds");
    Refusal::new(503, "timeout", message)
}

const JSON: &str = "application/json";

/// An answer whose body is known.
fn whole(status: u16, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

fn refused(refusal: &Refusal) -> Response {
    let mut response = whole(refusal.status, refusal.body().to_string());
    let (name, value) = match refusal.status {
        401 => (WWW_AUTHENTICATE, "Bearer"),
        405 if refusal.message.ends_with(POSTED) => (ALLOW, POSTED),
        405 => (ALLOW, GOT),
        429 | 503 => (RETRY_AFTER, "1"),
        _ => return response,
    };
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

fn allow(methods: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn preflight() -> Response {
    let mut response = allow(POSTED);
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Authorization, Content-Type"));
    response
}

/// Reads what is left of a body and throws it away while the answer is sent: a connection that is closed with something
/// unread takes the answer back.
fn settle(mut response: Response, mut body: Incoming) -> Response {
    if body.is_end_stream() {
        return response;
    }
    if response.status() == StatusCode::REQUEST_TIMEOUT {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    if body.size_hint().upper().is_none_or(|left| left > SMALL_BODY as u64) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    tokio::spawn(async move {
        let drain = async { while let Some(Ok(_)) = frame(&mut body).await {} };
        timeout(DRAIN, drain).await.ok();
    });
    response
}

async fn frame(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
}

/// A body that was read, and its share of the room for large bodies.
#[derive(Default)]
struct Read {
    bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

async fn read(body: &mut Incoming, exchange: &Exchange) -> Result<Read, Refusal> {
    let Limits { body: most, patience, .. } = exchange.limits;
    if body.size_hint().lower() > most as u64 {
        return Err(too_large(most));
    }
    let reading = async {
        let mut read = Read::default();
        let mut held = SMALL_BODY;
        while let Some(next) = frame(body).await {
            let next = next.map_err(|error| Refusal::bad(None, format!("the body cannot be read: {error}")))?;
            let Ok(bytes) = next.into_data() else { continue };
            let length = read.bytes.len() + bytes.len();
            if length > most {
                return Err(too_large(most));
            }
            if length > held {
                let more = u32::try_from(length - held).unwrap_or(u32::MAX);
                let Ok(room) = Arc::clone(&exchange.bodies).try_acquire_many_owned(more) else {
                    return Err(busy("too many large bodies are being read"));
                };
                match &mut read.room {
                    Some(own) => own.merge(room),
                    none => *none = Some(room),
                }
                held = length;
            }
            read.bytes.extend_from_slice(&bytes);
        }
        Ok(read)
    };
    timeout(patience, reading).await.unwrap_or_else(|_| {
        let message = format!("the body is not there after {} s", patience.as_secs_f64());
        Err(Refusal::new(408, "timeout", message))
    })
}

/// A request that is to be worked on.
struct Begun {
    /// Its number.
    id: u64,
    chat: bool,
    version: Version,
    /// When it must be over.
    until: Instant,
}

/// Has a request worked on, and sends the client what is written: all at once, or as server-sent events.
async fn write(body: &mut Incoming, begun: Begun, exchange: &Arc<Exchange>, stay: Stay) -> Response {
    let Begun { id, chat, version, until } = begun;
    if exchange.places.available_permits() == 0 {
        return refused(&crowded(exchange));
    }
    let read = match read(body, exchange).await {
        Ok(read) => read,
        Err(refusal) => return refused(&refusal),
    };
    let Ok(place) = Arc::clone(&exchange.places).try_acquire_owned() else {
        return refused(&crowded(exchange));
    };
    stay.works();
    let (sender, mut words) = mpsc::channel(MOST_PIECES);
    let own = Arc::clone(exchange);
    let work = move || {
        own.work(read, id, chat, &sender);
        drop(place);
    };
    if thread::Builder::new().name("request".to_owned()).spawn(work).is_err() {
        return refused(&busy("there is no thread to be had"));
    }
    // If the request is refused, that is known before anything is written.
    let Ok(first) = timeout_at(until.into(), words.recv()).await else {
        return refused(&over_time(exchange.limits.request));
    };
    let (is_events, ready, words) = match first {
        Some(Word::Begins(Some(opening))) => (true, opening, Some(words)),
        Some(Word::Begins(None)) => {
            // A client of HTTP/1.0 could not tell a part of an answer from the whole answer.
            let sign = Instant::now() + exchange.limits.ping;
            let by = if version >= Version::HTTP_11 { until.min(sign) } else { until };
            match timeout_at(by.into(), words.recv()).await {
                Ok(Some(Word::Ends(all))) => (false, all, None),
                Ok(Some(Word::Refuses(refusal))) => return refused(&refusal),
                Ok(_) => return refused(&defect()),
                Err(_) if by == until => return refused(&over_time(exchange.limits.request)),
                Err(_) => (false, Bytes::from_static(b"\n"), Some(words)),
            }
        }
        Some(Word::Refuses(refusal)) => return refused(&refusal),
        Some(Word::Piece(_) | Word::Ends(_)) | None => return refused(&defect()),
    };
    let mut response = whole(
        200,
        Body::new(Pieces {
            is_events,
            ready: Some(ready),
            words,
            ping: Box::pin(sleep(exchange.limits.ping)),
            until: Box::pin(sleep_until(until.into())),
            limits: exchange.limits.clone(),
            _stay: stay,
        }),
    );
    if is_events {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// An answer that is sent while it is written. The thread that writes it ends when this is dropped.
struct Pieces {
    is_events: bool,
    /// What is sent next.
    ready: Option<Bytes>,
    /// `None` when there will be no more.
    words: Option<mpsc::Receiver<Word>>,
    /// When a sign of life is due.
    ping: Pin<Box<Sleep>>,
    /// When it must be over.
    until: Pin<Box<Sleep>>,
    limits: Limits,
    _stay: Stay,
}

impl Pieces {
    /// Ends an answer that has begun with the reason; the status was sent already.
    fn end(&mut self, refusal: &Refusal) {
        let told = refusal.body();
        self.ready = Some(if self.is_events { event(&told).into() } else { told.to_string().into() });
        self.words = None;
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        loop {
            if let Some(ready) = this.ready.take() {
                this.ping.as_mut().reset((Instant::now() + this.limits.ping).into());
                return Poll::Ready(Some(Ok(Frame::data(ready))));
            }
            let Some(words) = &mut this.words else { return Poll::Ready(None) };
            match words.poll_recv(context) {
                Poll::Ready(Some(Word::Piece(piece))) => this.ready = Some(piece),
                Poll::Ready(Some(Word::Ends(rest))) => {
                    this.ready = Some(rest);
                    this.words = None;
                }
                Poll::Ready(Some(Word::Refuses(refusal))) => this.end(&refusal),
                Poll::Ready(Some(Word::Begins(_)) | None) => this.end(&defect()),
                Poll::Pending if this.until.as_mut().poll(context).is_ready() => {
                    this.end(&over_time(this.limits.request));
                }
                Poll::Pending if this.ping.as_mut().poll(context).is_ready() => {
                    this.ready = Some(Bytes::from_static(if this.is_events { b": \n\n" } else { b"\n" }));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_none() && self.words.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.words, &self.ready) {
            (None, ready) => SizeHint::with_exact(ready.as_ref().map_or(0, |ready| ready.len() as u64)),
            (Some(_), _) => SizeHint::default(),
        }
    }
}

impl Exchange {
    /// Works on a request, in a thread of its own.
    fn work(&self, read: Read, id: u64, chat: bool, words: &mpsc::Sender<Word>) {
        let Read { bytes, room } = read;
        let wanted = {
            let _alone = lock(&self.served.parsing);
            Wanted::read(&bytes, chat, &self.served.name)
        };
        drop(bytes);
        let Self { served, stop, .. } = self;
        let told = wanted.and_then(|wanted| Telling { served, stop, wanted: &wanted, id, words }.tell());
        let last = match told {
            Ok(rest) => Word::Ends(rest.into()),
            Err(refusal) => Word::Refuses(refusal),
        };
        words.blocking_send(last).ok();
        drop(room);
    }
}
