//! A model served by OpenAI's protocol, on HTTP/1: `GET /v1/models`, `GET /health`, `POST /v1/completions` and
//! `POST /v1/chat/completions`.
//!
//! Log-probabilities are of the model's own distribution, at temperature 1 and without limits, whatever tokens are
//! drawn with. In completions, a token's text is what it adds to the text: nothing while a character is not whole, then
//! all of it. In chats, where bytes are told as well, it is the token's own, and a part of a character is written as
//! OpenAI does (`\xe2\x82`). A token that ends a text has none, is not listed, and counts in `usage`.
//!
//! Tokens are streamed as they come; with log-probabilities, which are computed at the end, they come all at once. The
//! same request with the same seed is answered by the same text, whatever else is asked for at the same time.
//!
//! One thread has all connections: it reads, refuses and sends, and never computes. Each request that is worked on has a
//! thread of its own, from its JSON to its last token. A request ends when its client goes away or its time is up; what
//! takes longer begins with a comment or a line feed now and then, which stand for nothing in events and in JSON.

mod access;
mod door;
mod request;
mod write;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum_core::body::Body;
use axum_core::response::Response;
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL,
    CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode, Version};
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, sleep_until, timeout, timeout_at};

pub use self::access::Access;
use self::door::{Port, Stay, Visit};
use self::request::{Refusal, Wanted, shortened};
pub use self::write::Served;
use self::write::{Answer, Choice, Told, lock};
use super::error::LmError;
use super::sample::Finish;
use crate::device::DeviceError;

/// A server that listens.
pub struct Server {
    port: Port,
    limits: Limits,
    access: Arc<Access>,
}

/// What a server puts up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at the same time. Where there are more, the one that has been silent for longest is closed.
    pub connections: usize,
    /// Most requests that are worked on or wait for that.
    pub requests: usize,
    /// Largest body of a request, bytes. To read it takes up to 40 times as much memory, for one request at a time.
    pub body: usize,
    /// How long a request may take, from its head to the last token.
    pub request: Duration,
    /// How long a client may take to send a head, then a body, and how long it may say nothing or take nothing of what it
    /// is sent.
    pub patience: Duration,
    /// How often a client that waits is written to.
    pub ping: Duration,
}

/// A model that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its folder.
    #[error(transparent)]
    Lm(#[from] LmError),
    /// This machine.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// It cannot do what is wanted.
    #[error("{0}")]
    Config(String),
    /// The address cannot be had.
    #[error("cannot listen on {host}:{port}: {reason}; choose another --port (0 for any free one) or --host")]
    Listen {
        /// Name or number of this machine.
        host: String,
        /// Port.
        port: u16,
        /// Why.
        reason: String,
    },
    /// No more connections come in.
    #[error("the server can take no more connections: {0}")]
    Accept(io::Error),
}

/// Bodies up to this size, bytes, are always read. Larger ones share [`MOST_BODIES`].
const SMALL_BODY: usize = 64 << 10;

/// Bytes of larger bodies that are held at the same time, or four of the largest if these are more.
const MOST_BODIES: usize = 64 << 20;

/// How long the rest of a body that is refused is read and thrown away, so that the client gets to read why.
const DRAIN: Duration = Duration::from_secs(5);

/// Pieces of text that wait for a client to take them; then its request waits.
const MOST_PIECES: usize = 1024;

/// Characters of a path that are shown.
const MOST_PATH: usize = 80;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            requests: 256,
            body: 4 << 20,
            request: Duration::from_secs(600),
            patience: Duration::from_secs(30),
            ping: Duration::from_secs(1),
        }
    }
}

impl Server {
    /// Listens, with the default limits, for whoever is on this machine; port 0 is any free one.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub fn bind(host: &str, port: u16) -> Result<Self, ServeError> {
        Self::bind_with(host, port, Limits::default(), Access::default())
    }

    /// Listens; port 0 is any free one. Clients may call this machine by the name `host`.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub fn bind_with(host: &str, port: u16, limits: Limits, mut access: Access) -> Result<Self, ServeError> {
        access.add_host(host);
        match Port::bind(host, port) {
            Ok(port) => Ok(Self { port, limits, access: Arc::new(access) }),
            Err(error) => Err(ServeError::Listen { host: host.to_owned(), port, reason: error.to_string() }),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_private(&self) -> bool {
        match self.port.address.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback(),
        }
    }

    /// Answers requests until `stop` is set; returns how many there were.
    ///
    /// # Errors
    /// [`ServeError::Accept`].
    pub fn run(&self, served: &Arc<Served>, stop: &Arc<AtomicBool>) -> Result<u64, ServeError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let bodies = MOST_BODIES.max(self.limits.body.saturating_mul(4)).min(Semaphore::MAX_PERMITS);
        let exchange = Arc::new(Exchange {
            served: Arc::clone(served),
            stop: Arc::clone(stop),
            limits: self.limits.clone(),
            access: Arc::clone(&self.access),
            since,
            requests: AtomicU64::new(0),
            places: Arc::new(Semaphore::new(self.limits.requests)),
            bodies: Arc::new(Semaphore::new(bodies)),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(ServeError::Accept)?;
        runtime.block_on(self.port.receive(&exchange))?;
        Ok(exchange.requests.load(Ordering::Relaxed))
    }
}

/// What requests are answered with.
struct Exchange {
    served: Arc<Served>,
    stop: Arc<AtomicBool>,
    limits: Limits,
    access: Arc<Access>,
    /// When the server began, seconds since 1970.
    since: u64,
    /// How many there were.
    requests: AtomicU64,
    /// For requests that are worked on or wait for that.
    places: Arc<Semaphore>,
    /// Bytes of larger bodies that may be held.
    bodies: Arc<Semaphore>,
}

/// Answers a request.
async fn answer(request: Request<Incoming>, exchange: &Arc<Exchange>, visit: &Arc<Visit>) -> Response {
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
    /// What may be asked for there.
    Allow(&'static str),
    /// What a web page may ask for.
    Preflight,
}

/// Methods of paths that a body is sent to, and of the others.
const POSTED: &str = "POST, OPTIONS";
const GOT: &str = "GET, HEAD, OPTIONS";

/// What is asked for, as far as its head tells.
fn task(head: &Parts, exchange: &Exchange) -> Result<Task, Refusal> {
    let path = head.uri.path().trim_end_matches('/');
    if path == "/health" {
        // Whoever watches over a server needs no key.
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
            return Err(Refusal { status: 404, message, param: None, code: Some("not_found") });
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
    Err(Refusal { status: 405, message, param: None, code: Some("method_not_allowed") })
}

fn too_large(most: usize) -> Refusal {
    let message = format!("the body is larger than {most} bytes: --max-body raises the limit");
    Refusal { status: 413, message, param: None, code: Some("request_too_large") }
}

fn crowded(exchange: &Exchange) -> Refusal {
    let most = exchange.limits.requests;
    let message = format!("{most} requests are worked on or wait for that: try again later, or raise --max-requests");
    Refusal { status: 429, message, param: None, code: Some("too_many_requests") }
}

fn busy(message: &str) -> Refusal {
    Refusal { status: 503, message: format!("{message}: try again later"), param: None, code: Some("overloaded") }
}

fn defect() -> Refusal {
    let message = "this request ended by a defect of the server".to_owned();
    Refusal { status: 500, message, param: None, code: None }
}

fn over_time(limit: Duration) -> Refusal {
    let limit = limit.as_secs_f64();
    let message = format!("the request takes longer than {limit} s: ask for less, or raise --request-seconds");
    Refusal { status: 503, message, param: None, code: Some("timeout") }
}

const JSON: &str = "application/json";

/// An answer that is whole.
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

/// A body, and the room that it takes among others.
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
        Err(Refusal { status: 408, message, param: None, code: Some("timeout") })
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

/// What a thread that works on a request says.
enum Word {
    /// Nothing is wrong with the request; and what an answer in events begins with.
    Begins(Option<Bytes>),
    /// More of an answer in events.
    Piece(Bytes),
    /// The rest of it, or an answer that is no events, whole.
    Ends(Bytes),
    /// There is none.
    Refuses(Refusal),
}

/// Has a request worked on, and tells what is written to the client: all at once, or as server-sent events.
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
    // What is wrong with a request shows before anything is written.
    let Ok(first) = timeout_at(until.into(), words.recv()).await else {
        return refused(&over_time(exchange.limits.request));
    };
    let (is_events, ready, words) = match first {
        Some(Word::Begins(Some(opening))) => (true, opening, Some(words)),
        Some(Word::Begins(None)) => {
            // A client of HTTP/1.0 could not tell a piece from the whole.
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

/// An answer that is sent while it is written. Whoever writes it ends when this is dropped.
struct Pieces {
    is_events: bool,
    /// What comes next.
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
    /// Ends an answer that has begun, in the only way that is left to tell why.
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

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
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
        let told = wanted.and_then(|wanted| Telling { exchange: self, wanted: &wanted, id, words }.tell());
        let last = match told {
            Ok(rest) => Word::Ends(rest.into()),
            Err(refusal) => Word::Refuses(refusal),
        };
        words.blocking_send(last).ok();
        drop(room);
    }
}

/// A request that is understood, on its way to an answer.
struct Telling<'a> {
    exchange: &'a Exchange,
    wanted: &'a Wanted,
    id: u64,
    words: &'a mpsc::Sender<Word>,
}

impl Telling<'_> {
    /// Says what is written as it comes; returns what is told at the end.
    fn tell(&self) -> Result<String, Refusal> {
        let Self { exchange, wanted, words, .. } = self;
        let comes_in_pieces = wanted.stream && wanted.log_probs.is_none();
        let begins = Once::new();
        let piece = |index: usize, text: &str| {
            begins.call_once(|| {
                let opening = wanted.stream.then(|| self.openings().into());
                words.blocking_send(Word::Begins(opening)).ok();
            });
            if comes_in_pieces && !text.is_empty() {
                let event = event(&self.piece(index, text, None, None));
                words.blocking_send(Word::Piece(event.into())).is_ok()
            } else {
                !words.is_closed()
            }
        };
        let ends = || exchange.stop.load(Ordering::Relaxed) || words.is_closed();
        let answer = exchange.served.write(wanted, &ends, &piece)?;
        Ok(if wanted.stream { self.closings(&answer) } else { self.whole(&answer).to_string() })
    }

    /// What every answer, and every piece of one, begins with.
    fn head(&self) -> Map<String, Value> {
        let wanted = self.wanted;
        let kind = match (wanted.chat, wanted.stream) {
            (false, _) => "text_completion",
            (true, false) => "chat.completion",
            (true, true) => "chat.completion.chunk",
        };
        let id = format!("{}-{}", if wanted.chat { "chatcmpl" } else { "cmpl" }, self.id);
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        [
            ("id", json!(id)),
            ("object", json!(kind)),
            ("created", json!(created)),
            ("model", json!(self.exchange.served.name)),
            ("system_fingerprint", json!(self.exchange.served.fingerprint)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
    }

    fn whole(&self, answer: &Answer) -> Value {
        let wanted = self.wanted;
        let one = |(index, choice): (usize, &Choice)| {
            let log_probs = log_probs(wanted, &choice.tokens, 0);
            let finish = finish_reason(choice.finish);
            match wanted.chat {
                false => json!({
                    "index": index, "text": choice.text, "logprobs": log_probs, "finish_reason": finish
                }),
                true => json!({
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": null},
                    "logprobs": log_probs,
                    "finish_reason": finish,
                }),
            }
        };
        let mut body = self.head();
        body.insert("choices".to_owned(), answer.choices.iter().enumerate().map(one).collect());
        body.insert("usage".to_owned(), usage(answer));
        Value::Object(body)
    }

    /// Chats begin with whose turn it is.
    fn openings(&self) -> String {
        let count = if self.wanted.chat { self.wanted.count } else { 0 };
        let one = |index: usize| {
            let delta = json!({"role": "assistant", "content": "", "refusal": null});
            let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
            event(&self.chunk(json!([choice]), None))
        };
        (0..count).map(one).collect()
    }

    /// What is told when all is written: tokens with log-probabilities, reasons, counts.
    fn closings(&self, answer: &Answer) -> String {
        let wanted = self.wanted;
        let mut events = String::new();
        for (index, choice) in answer.choices.iter().enumerate() {
            if wanted.log_probs.is_some() {
                let mut offset = 0;
                for told in &choice.tokens {
                    let log_probs = log_probs(wanted, std::slice::from_ref(told), offset);
                    events += &event(&self.piece(index, &told.text, Some(&log_probs), None));
                    offset += told.text.chars().count();
                }
            }
            events += &event(&self.piece(index, "", None, Some(choice.finish)));
        }
        if wanted.usage {
            events += &event(&self.chunk(json!([]), Some(usage(answer))));
        }
        events + "data: [DONE]\n\n"
    }

    /// Some text of a completion.
    fn piece(&self, index: usize, text: &str, log_probs: Option<&Value>, finish: Option<Finish>) -> Value {
        let finish = finish.map(finish_reason);
        let choice = match self.wanted.chat {
            false => json!({"index": index, "text": text, "logprobs": log_probs, "finish_reason": finish}),
            true => {
                let delta = if finish.is_some() { json!({}) } else { json!({"content": text}) };
                json!({"index": index, "delta": delta, "logprobs": log_probs, "finish_reason": finish})
            }
        };
        self.chunk(json!([choice]), None)
    }

    fn chunk(&self, choices: Value, usage: Option<Value>) -> Value {
        let mut body = self.head();
        body.insert("choices".to_owned(), choices);
        if self.wanted.usage {
            body.insert("usage".to_owned(), usage.unwrap_or(Value::Null));
        }
        Value::Object(body)
    }
}

fn usage(answer: &Answer) -> Value {
    let Answer { prompt_tokens, completion_tokens, .. } = answer;
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    })
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos | Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// Log-probabilities in the shape of the form; `null` where they are not wanted. `offset` is where the first token
/// begins in the text, characters.
fn log_probs(wanted: &Wanted, tokens: &[Told], offset: usize) -> Value {
    let Some(top) = wanted.log_probs else { return Value::Null };
    if wanted.chat {
        let one = |told: &Told| {
            let top = told
                .top
                .iter()
                .map(|(own, log_prob)| json!({"token": own.name, "logprob": log_prob, "bytes": own.bytes}));
            json!({
                "token": told.own.name, "logprob": told.log_prob, "bytes": told.own.bytes,
                "top_logprobs": top.collect::<Value>(),
            })
        };
        return json!({"content": tokens.iter().map(one).collect::<Value>(), "refusal": null});
    }
    let mut offsets = Vec::with_capacity(tokens.len());
    let mut at = offset;
    for told in tokens {
        offsets.push(at);
        at += told.text.chars().count();
    }
    let likeliest = |told: &Told| {
        let Some(log_prob) = told.log_prob else { return Value::Null };
        let mut all = Map::new();
        // Tokens that add the same count once, the likeliest; the token itself is always there, by what it adds.
        for (own, log_prob) in told.top.iter().filter(|(own, _)| own.id != told.own.id) {
            all.entry(own.name.clone()).or_insert_with(|| json!(log_prob));
        }
        all.insert(told.text.clone(), json!(log_prob));
        Value::Object(all)
    };
    let likeliest: Value = if top == 0 { Value::Null } else { tokens.iter().map(likeliest).collect() };
    json!({
        "tokens": tokens.iter().map(|told| told.text.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|told| told.log_prob).collect::<Vec<_>>(),
        "top_logprobs": likeliest,
        "text_offset": offsets,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use burn::tensor::Device;
    use serde_json::{Value, json};

    use super::{Access, Limits, Served, Server};
    use crate::lm::config::{ModelConfig, SmallLlama};
    use crate::lm::model::Decoder;
    use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};

    /// Ends the server, also where a test fails: its thread would be waited for without end.
    struct Ends<'a>(&'a AtomicBool);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// An untrained model with a token for each byte.
    fn tiny(context: usize) -> Arc<Served> {
        let config = TokenizerConfig { vocab_size: 257, ..TokenizerConfig::default() };
        let tokenizer = Tokenizer::train(std::iter::once("a".to_owned()), &config).unwrap();
        let size = SmallLlama { vocabulary: 257, hidden: 8, layers: 1, heads: 1, context };
        let decoder = Decoder::new(ModelConfig::small_llama(size), 0, &Device::flex());
        Arc::new(Served::new("tiny".to_owned(), &decoder, tokenizer, None, None).unwrap())
    }

    /// Runs a server with these limits while `clients` do what they do; returns how many requests there were.
    fn with_server(served: &Arc<Served>, limits: Limits, clients: impl FnOnce(SocketAddr)) -> u64 {
        let server = Server::bind_with("127.0.0.1", 0, limits, Access::default()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            let ends = Ends(&stop);
            let serving = scope.spawn(|| server.run(served, &stop).unwrap());
            clients(server.address());
            drop(ends);
            serving.join().unwrap()
        })
    }

    const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

    fn completion(body: &Value) -> Vec<u8> {
        let body = body.to_string();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn short() -> Vec<u8> {
        completion(&json!({"prompt": "a", "max_tokens": 1}))
    }

    /// What takes minutes: few of them are written for at the same time.
    fn long() -> Value {
        json!({"prompt": vec!["a"; 16], "n": 128, "max_tokens": 4000, "temperature": 0})
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Reads the head of an answer, in lower case, and its body where it has a length.
    fn receive(reader: &mut impl std::io::BufRead) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).expect("an answer in time") > 0, "{head}");
        }
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        reader.read_exact(&mut body).unwrap();
        head + &String::from_utf8(body).unwrap()
    }

    fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = connect(address);
        stream.write_all(request).unwrap();
        receive(&mut BufReader::new(stream))
    }

    /// Whether the other side closes a connection, and what it says before.
    fn until_closed(stream: &mut TcpStream) -> String {
        let mut rest = Vec::new();
        // Closed with something unread is closed.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        String::from_utf8(rest).unwrap()
    }

    fn is_open(stream: &mut TcpStream) -> bool {
        stream.set_nonblocking(true).unwrap();
        let open = stream.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).unwrap();
        open
    }

    #[test]
    fn clients_that_come_at_the_same_time_are_all_answered() {
        let (rounds, clients) = (30, 12);
        let requests = with_server(&tiny(16), Limits::default(), |address| {
            for _ in 0..rounds {
                // Connections first, so that they come together.
                let streams: Vec<TcpStream> = (0..clients).map(|_| connect(address)).collect();
                std::thread::scope(|scope| {
                    let asking = streams.into_iter().map(|mut stream| {
                        scope.spawn(move || {
                            let mut reader = BufReader::new(stream.try_clone().unwrap());
                            // The connection is kept for the next request.
                            for _ in 0..2 {
                                stream.write_all(HEALTH).unwrap();
                                let answer = receive(&mut reader);
                                assert!(answer.starts_with("http/1.1 200 ok\r\n"), "{answer}");
                                assert!(answer.ends_with("{\"status\":\"ok\"}"), "{answer}");
                            }
                        })
                    });
                    asking.collect::<Vec<_>>().into_iter().for_each(|asking| asking.join().unwrap());
                });
            }
        });
        assert_eq!(requests, 2 * rounds * clients);
    }

    #[test]
    fn clients_that_are_silent_or_slow_are_closed() {
        let limits = Limits { patience: Duration::from_millis(500), ..Limits::default() };
        with_server(&tiny(16), limits, |address| {
            let begun = Instant::now();
            let mut silent = connect(address);
            // One with half a head, one with half a body, and one that has had an answer.
            let (mut head, mut body, mut kept) = (connect(address), connect(address), connect(address));
            head.write_all(&HEALTH[..20]).unwrap();
            body.write_all(&short()[..short().len() - 5]).unwrap();
            kept.write_all(HEALTH).unwrap();
            assert!(receive(&mut BufReader::new(kept.try_clone().unwrap())).starts_with("http/1.1 200"));
            // A byte now and then is no progress.
            let mut drop_by_drop = connect(address);
            for &byte in &HEALTH[..12] {
                drop_by_drop.write_all(&[byte]).ok();
                std::thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(until_closed(&mut drop_by_drop), "");
            for stream in [&mut silent, &mut head, &mut kept] {
                assert_eq!(until_closed(stream), "");
            }
            assert!(until_closed(&mut body).starts_with("HTTP/1.1 408 "));
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            assert!(ask(address, &short()).starts_with("http/1.1 200"));
        });
    }

    #[test]
    fn heads_without_measure_are_refused() {
        with_server(&tiny(16), Limits::default(), |address| {
            let line = format!("X: {}\r\n", "x".repeat(1000));
            for head in [line.repeat(40), "X: x\r\n".repeat(101), format!("X: {}\r\n", "x".repeat(40_000))] {
                let request = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{head}\r\n");
                let mut stream = connect(address);
                stream.write_all(request.as_bytes()).ok();
                assert!(until_closed(&mut stream).starts_with("HTTP/1.1 431 "));
            }
            let path = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(40_000));
            assert!(ask(address, path.as_bytes()).starts_with("http/1.1 431 "));
            // Without end: closed long before 20 MB.
            let mut stream = connect(address);
            stream.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
            let sent = (0..20_000).take_while(|_| stream.write_all(line.as_bytes()).is_ok()).count();
            assert!(sent < 20_000);
            let measured = "X: x\r\n".repeat(90);
            let request = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{measured}\r\n");
            assert!(ask(address, request.as_bytes()).starts_with("http/1.1 200 "));
        });
    }

    /// Whoever was silent for longest goes; where nobody is, a new one is told.
    #[test]
    fn there_is_room_for_a_client_that_asks() {
        let limits = Limits { connections: 4, ..Limits::default() };
        with_server(&tiny(4096), limits, |address| {
            let mut silent: Vec<TcpStream> = (0..4)
                .map(|_| {
                    let stream = connect(address);
                    std::thread::sleep(Duration::from_millis(20));
                    stream
                })
                .collect();
            assert!(ask(address, &short()).starts_with("http/1.1 200 "));
            assert!(!is_open(&mut silent[0]), "the one that came first");
            assert!(is_open(&mut silent[3]), "the one that came last");
            drop(silent);
            let asking: Vec<TcpStream> = (0..4)
                .map(|_| {
                    let mut stream = connect(address);
                    stream.write_all(&completion(&long())).unwrap();
                    std::thread::sleep(Duration::from_millis(50));
                    stream
                })
                .collect();
            let answer = ask(address, HEALTH);
            assert!(answer.starts_with("http/1.1 503 ") && answer.contains("--max-connections"), "{answer}");
            drop(asking);
            std::thread::sleep(Duration::from_millis(500));
            assert!(ask(address, HEALTH).starts_with("http/1.1 200 "));
        });
    }

    #[test]
    fn more_requests_than_allowed_are_told_to_come_again() {
        let limits = Limits { requests: 2, ..Limits::default() };
        with_server(&tiny(4096), limits, |address| {
            let asking = [(); 2].map(|()| {
                let mut stream = connect(address);
                stream.write_all(&completion(&long())).unwrap();
                stream
            });
            std::thread::sleep(Duration::from_millis(300));
            let answer = ask(address, &short());
            assert!(answer.starts_with("http/1.1 429 ") && answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
            assert!(answer.contains("\"code\":\"too_many_requests\""), "{answer}");
            assert!(ask(address, HEALTH).starts_with("http/1.1 200 "));
            drop(asking);
            std::thread::sleep(Duration::from_secs(1));
            assert!(ask(address, &short()).starts_with("http/1.1 200 "));
        });
    }

    /// More requests than are written for at the same time, each of which would take minutes.
    #[test]
    fn long_requests_hold_up_no_others_and_end_in_time() {
        let limits = Limits { request: Duration::from_secs(3), ping: Duration::from_millis(300), ..Limits::default() };
        with_server(&tiny(4096), limits, |address| {
            let (mut events, whole) = (long(), long());
            events["stream"] = true.into();
            let count = 2 * rayon::current_num_threads() + 2;
            let mut asking: Vec<TcpStream> = (0..count)
                .map(|i| {
                    let mut stream = connect(address);
                    stream.write_all(&completion(if i % 2 == 0 { &events } else { &whole })).unwrap();
                    stream
                })
                .collect();
            std::thread::sleep(Duration::from_millis(300));
            for _ in 0..3 {
                let begun = Instant::now();
                assert!(ask(address, &short()).starts_with("http/1.1 200 "));
                assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            }
            // Those that have begun say it in their answer, the others by its status.
            let told: Vec<String> = asking
                .iter_mut()
                .map(|stream| {
                    let mut text = Vec::new();
                    let ends = |text: &[u8]| text.ends_with(b"0\r\n\r\n") || text.ends_with(b"}}");
                    while !ends(&text) {
                        let mut piece = [0; 65536];
                        let length = stream.read(&mut piece).unwrap();
                        assert!(length > 0, "{}", String::from_utf8_lossy(&text));
                        text.extend_from_slice(&piece[..length]);
                    }
                    String::from_utf8(text).unwrap()
                })
                .collect();
            assert!(told.iter().all(|told| told.contains("takes longer than 3 s")), "{told:?}");
            assert!(told.iter().all(|told| !told.contains("[DONE]")));
            assert!(told.iter().any(|told| told.starts_with("HTTP/1.1 503 ")), "{told:?}");
            assert!(told.iter().any(|told| told.starts_with("HTTP/1.1 200 ")), "{told:?}");
            assert!(ask(address, &short()).starts_with("http/1.1 200 "));
        });
    }

    /// Each of the requests would be worked on for minutes, and there is one more of them than places.
    #[test]
    fn clients_that_go_away_leave_their_places() {
        let served = tiny(4096);
        let told = json!({
            "prompt": "a", "n": 128, "max_tokens": 4000, "temperature": 0, "stream": true, "logprobs": 0
        });
        with_server(&served, Limits::default(), |address| {
            let long = long();
            for i in 0..=2 * rayon::current_num_threads() {
                let mut stream = connect(address);
                stream.write_all(&completion(if i % 2 == 0 { &long } else { &told })).unwrap();
                // In time to be read, and not longer.
                std::thread::sleep(Duration::from_millis(200));
            }
            let begun = Instant::now();
            let places: Vec<_> = (0..2 * rayon::current_num_threads())
                .map(|_| served.long.enter(1, &|| begun.elapsed() > Duration::from_secs(20)).expect("a place in time"))
                .collect();
            drop(places);
        });
    }

    /// A client that takes nothing of what it is sent holds a place for as long as it may be silent.
    #[test]
    fn clients_that_take_nothing_leave_their_places() {
        let limits = Limits { requests: 1, patience: Duration::from_millis(500), ..Limits::default() };
        with_server(&tiny(4096), limits, |address| {
            let mut events = long();
            events["stream"] = true.into();
            let mut deaf = connect(address);
            deaf.write_all(&completion(&events)).unwrap();
            let begun = Instant::now();
            std::thread::sleep(Duration::from_millis(300));
            assert!(ask(address, &short()).starts_with("http/1.1 429 "));
            while !ask(address, &short()).starts_with("http/1.1 200 ") {
                assert!(begun.elapsed() < Duration::from_secs(20), "it still has its place");
                std::thread::sleep(Duration::from_millis(100));
            }
        });
    }

    #[test]
    fn what_takes_long_begins_with_signs_of_life_and_is_whole() {
        // Less than a hundredth of what a request takes.
        let limits = Limits { ping: Duration::from_millis(1), ..Limits::default() };
        with_server(&tiny(512), limits, |address| {
            let long = |stream: bool| {
                let body = json!({
                    "prompt": "a", "n": 64, "max_tokens": 500, "temperature": 0, "logprobs": 0, "stream": stream
                });
                completion(&body)
            };
            let whole = |request: Vec<u8>| {
                let mut stream = connect(address);
                stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
                // The last one of the connection: it is closed behind the answer.
                let request = String::from_utf8(request).unwrap().replacen("\r\n", "\r\nConnection: close\r\n", 1);
                stream.write_all(request.as_bytes()).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                answer
            };
            let answer = whole(long(false));
            assert!(answer.contains("\r\ntransfer-encoding: chunked\r\n"), "{}", &answer[..300]);
            assert!(answer.contains("\r\nconnection: close\r\n"), "{}", &answer[..300]);
            assert!(answer.contains("\r\n\r\n1\r\n\n\r\n"), "{}", &answer[..300]);
            assert!(answer.ends_with("\r\n0\r\n\r\n"));
            let json = answer.split("\r\n").find(|line| line.starts_with('{')).unwrap();
            let json: Value = serde_json::from_str(json).unwrap();
            assert_eq!(json["choices"].as_array().unwrap().len(), 64);
            let events = whole(long(true));
            assert!(events.contains("4\r\n: \n\n\r\n"), "{}", &events[..300]);
            assert!(events.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"));
        });
    }

    #[test]
    fn requests_without_measure_are_refused_at_once() {
        let served = tiny(128);
        let read = |body: &Value| {
            super::Wanted::read(body.to_string().as_bytes(), body.get("messages").is_some(), "tiny").unwrap()
        };
        let refused = |body: &Value| served.write(&read(body), &|| false, &|_, _| true).unwrap_err();
        // Before it waits for a place: with all of them taken, it would wait for ever.
        let places: Vec<_> = (0..rayon::current_num_threads()).map(|_| served.reading.enter(1, &|| false)).collect();
        let long = "a".repeat(128 * 256 + 1);
        let chat = json!({"messages": [{"role": "user", "content": long}]});
        for (body, param, found) in [
            (json!({"prompt": long}), "prompt", "its 32769 bytes are more than fit"),
            (json!({"prompt": ["a", long]}), "prompt", "its 32769 bytes"),
            (json!({"prompt": vec![1; 129]}), "prompt", "its 129 tokens are more than fit"),
            (chat, "messages", "its 32774 bytes"),
        ] {
            let refusal = refused(&body);
            assert_eq!((refusal.status, refusal.param.as_deref()), (400, Some(param)));
            assert_eq!(refusal.code, Some("context_length_exceeded"));
            assert!(refusal.message.contains(found), "{}", refusal.message);
        }
        drop(places);
        // 2048 sequences of 100 tokens, with 1 + 5 numbers at each.
        let told = json!({"prompt": vec!["a"; 16], "n": 128, "max_tokens": 100, "logprobs": 5});
        let refusal = refused(&told);
        assert_eq!((refusal.status, refusal.param.as_deref()), (400, Some("logprobs")));
        assert!(
            refusal.message.contains("2048 completions of up to 100 tokens, with 6 numbers"),
            "{}",
            refusal.message
        );
    }
}
