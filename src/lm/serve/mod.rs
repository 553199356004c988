//! A model served by OpenAI's protocol, on HTTP/1.1: `GET /v1/models`, `GET /health`, `POST /v1/completions` and
//! `POST /v1/chat/completions`.
//!
//! Log-probabilities are of the model's own distribution, at temperature 1 and without limits, whatever tokens are
//! drawn with. A token's text is what it adds to the text: nothing while a character is not whole, then all of it. A
//! token that ends a text has none, is not listed, and counts in `usage`.
//!
//! Tokens are streamed as they come; with log-probabilities, which are computed at the end, they come all at once. The
//! same request with the same seed is answered by the same text, whatever else is asked for at the same time.
//!
//! A client that goes away is noticed by writing to it: what takes longer begins with a comment or a line feed now and
//! then, which stand for nothing in events and in JSON.

mod door;
mod request;
mod write;

use std::io::{self, Read as _, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tiny_http::{HTTPVersion, Header, Method, Request, Response, StatusCode};

use self::door::{Door, GLANCE, Port};
use self::request::{Refusal, Wanted, shortened};
pub use self::write::Served;
use self::write::{Answer, Choice, Told, lock};
use super::run::LmError;
use super::sample::Finish;
use crate::device::DeviceError;

/// A server that listens.
pub struct Server {
    port: Port,
    /// How often a client is written to while it waits.
    ping: Duration,
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

/// Largest body of a request, bytes.
const MOST_BYTES: usize = 16 << 20;

/// Every client is to come with a new connection for its next request. Where connections come at the same time,
/// tiny_http may leave one waiting until another ends, which those that are kept never do.
const CLOSE: &str = "Connection: close\r\n";

/// How long a client may neither send what it has begun nor take what it is sent; then its connection is closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What requests are given to end in when the server does.
const GRACE: Duration = Duration::from_secs(2);

/// How often a client is written to while it waits.
const PING: Duration = Duration::from_secs(1);

/// Characters of a path that are shown.
const MOST_PATH: usize = 80;

impl Server {
    /// Listens; port 0 is any free one.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub fn bind(host: &str, port: u16) -> Result<Self, ServeError> {
        Self::bind_with(host, port, PATIENCE, PING)
    }

    fn bind_with(host: &str, port: u16, patience: Duration, ping: Duration) -> Result<Self, ServeError> {
        match Port::bind(host, port, patience) {
            Ok(port) => Ok(Self { port, ping }),
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
        let front = self.port.accept().map_err(ServeError::Accept)?;
        self.run_behind(front, served, stop)
    }

    fn run_behind(
        &self,
        front: tiny_http::Server,
        served: &Arc<Served>,
        stop: &Arc<AtomicBool>,
    ) -> Result<u64, ServeError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut number = 0;
        let mut door = Door::new(&self.port, front);
        // A request that no thread could be had for yet.
        let mut waiting: Option<Request> = None;
        // Every thread that works on a request holds one.
        let working = Arc::new(());
        while !stop.load(Ordering::Relaxed) {
            let Some(request) = waiting.take().map_or_else(|| door.next(), |request| Ok(Some(request)))? else {
                continue;
            };
            let (served, stop, working) = (Arc::clone(served), Arc::clone(stop), Arc::clone(&working));
            let (id, ping) = (number, self.ping);
            // A thread for each, so that a client that stops in the middle of its request holds up no other.
            waiting = in_thread(request, move |request| {
                answer(request, &Exchange { served: &served, stop: &stop, id, since, ping });
                drop(working);
            });
            match waiting {
                None => number += 1,
                Some(_) => thread::sleep(GLANCE),
            }
        }
        door.close();
        let ending = Instant::now();
        while Arc::strong_count(&working) > 1 && ending.elapsed() < GRACE {
            thread::sleep(GLANCE);
        }
        Ok(number)
    }
}

/// Works on a request in a thread; gives it back where none can be had.
fn in_thread(request: Request, work: impl FnOnce(Request) + Send + 'static) -> Option<Request> {
    let slot = Arc::new(Mutex::new(Some(request)));
    let own = Arc::clone(&slot);
    let begun = thread::Builder::new().spawn(move || {
        let request = lock(&own).take();
        request.map(work);
    });
    if begun.is_err() { lock(&slot).take() } else { None }
}

/// What a request is answered with.
struct Exchange<'a> {
    served: &'a Served,
    stop: &'a AtomicBool,
    /// Number of the request.
    id: u64,
    /// When the server began, seconds since 1970.
    since: u64,
    /// How often the client is written to while it waits.
    ping: Duration,
}

/// The client may have gone away; there is nobody else to tell.
fn answer(mut request: Request, exchange: &Exchange<'_>) {
    let task = match task(&request, exchange) {
        Ok(task) => task,
        Err(refusal) => return refuse_unread(request, &refusal),
    };
    let chat = match task {
        Task::Tell(body) => return respond(request, 200, &body),
        Task::Write { chat } => chat,
    };
    match wanted(&mut request, chat, exchange) {
        Ok(wanted) => exchange.write(request, &wanted),
        Err(refusal) => respond(request, refusal.status, &refusal.body()),
    }
}

enum Task {
    Tell(Value),
    Write { chat: bool },
}

/// What is asked for, as far as its head tells.
fn task(request: &Request, exchange: &Exchange<'_>) -> Result<Task, Refusal> {
    let path = request.url().split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let allowed = match path {
        "/v1/completions" | "/v1/chat/completions" => Method::Post,
        _ => Method::Get,
    };
    let Served { name, fingerprint, .. } = exchange.served;
    let model = || {
        json!({
            "id": name, "object": "model", "created": exchange.since, "owned_by": "pairwise", "fingerprint": fingerprint
        })
    };
    let task = match path {
        "/health" => Task::Tell(json!({"status": "ok"})),
        "/v1/models" => Task::Tell(json!({"object": "list", "data": [model()]})),
        "/v1/completions" | "/v1/chat/completions" => Task::Write { chat: path == "/v1/chat/completions" },
        _ if path.strip_prefix("/v1/models/") == Some(name) => Task::Tell(model()),
        _ => {
            let message = format!(
                "there is no {}: expected /v1/completions, /v1/chat/completions, /v1/models, /v1/models/{name} or \
                 /health",
                shortened(path, MOST_PATH)
            );
            return Err(Refusal { status: 404, message, param: None, code: Some("not_found") });
        }
    };
    if *request.method() != allowed && !(allowed == Method::Get && *request.method() == Method::Head) {
        let message = format!("{} {path}: must be {allowed}", request.method());
        return Err(Refusal { status: 405, message, param: None, code: Some("method_not_allowed") });
    }
    match request.body_length() {
        Some(length) if length > MOST_BYTES => Err(too_large()),
        _ => Ok(task),
    }
}

/// Reads the body.
fn wanted(request: &mut Request, chat: bool, exchange: &Exchange<'_>) -> Result<Wanted, Refusal> {
    // Where a client offers to go on by another protocol, tiny_http would read beyond the body.
    let length = request.body_length().unwrap_or(MOST_BYTES + 1);
    let mut body = Vec::new();
    request
        .as_reader()
        .take(length as u64)
        .read_to_end(&mut body)
        .map_err(|error| Refusal::bad(None, format!("the body cannot be read: {error}")))?;
    if body.len() > MOST_BYTES {
        return Err(too_large());
    }
    let _alone = lock(&exchange.served.parsing);
    Wanted::read(&body, chat, &exchange.served.name)
}

fn too_large() -> Refusal {
    let message = format!("the body is larger than {MOST_BYTES} bytes");
    Refusal { status: 413, message, param: None, code: Some("request_too_large") }
}

/// Answers a request that was read.
fn respond(request: Request, status: u16, body: &Value) {
    let is_head = *request.method() == Method::Head;
    let body = body.to_string();
    let reason = StatusCode(status).default_reason_phrase();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{CLOSE}\r\n"
    );
    let mut writer = request.into_writer();
    let body = if is_head { "" } else { body.as_str() };
    writer.write_all((head + body).as_bytes()).and_then(|()| writer.flush()).ok();
}

/// Answers a request whose body was not read, before tiny_http throws it away.
fn refuse_unread(request: Request, refusal: &Refusal) {
    let body = refusal.body().to_string().into_bytes();
    let kind = Header::from_bytes("Content-Type", "application/json").into_iter().collect();
    let length = Some(body.len());
    let response = Response::new(StatusCode(refusal.status), kind, body.as_slice(), length, None);
    // What it throws away it reserves memory for, and aborts the program where there is not as much.
    let mut trial: Vec<u8> = Vec::new();
    if trial.try_reserve_exact(request.body_length().unwrap_or(0)).is_ok() {
        drop(trial);
        request.respond(response).ok();
        return;
    }
    // Never dropped: the connection is lost, and with it a thread, but no more than that.
    std::mem::forget(request.upgrade("none", response));
}

impl Exchange<'_> {
    /// What every answer, and every piece of one, begins with.
    fn head(&self, wanted: &Wanted) -> Map<String, Value> {
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
            ("model", json!(self.served.name)),
            ("system_fingerprint", json!(self.served.fingerprint)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
    }

    fn whole(&self, wanted: &Wanted, answer: &Answer) -> Value {
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
        let mut body = self.head(wanted);
        body.insert("choices".to_owned(), answer.choices.iter().enumerate().map(one).collect());
        body.insert("usage".to_owned(), usage(answer));
        Value::Object(body)
    }

    /// Writes what is wanted, and tells it to the client: all at once, or as server-sent events.
    fn write(&self, request: Request, wanted: &Wanted) {
        let (sender, pieces) = mpsc::channel::<(usize, String)>();
        thread::scope(|scope| {
            let piece = move |index: usize, text: String| sender.send((index, text)).is_ok();
            let write = move || self.served.write(wanted, self.stop, &piece);
            let Ok(writing) = thread::Builder::new().spawn_scoped(scope, write) else {
                let message = "there is no thread to be had: try again later".to_owned();
                let refusal = Refusal { status: 503, message, param: None, code: None };
                return respond(request, refusal.status, &refusal.body());
            };
            // What is wrong with a request shows before anything is written.
            let first = pieces.recv().ok();
            let reply = Reply::Unbegun(request);
            let told = match first {
                Some(first) => self.tell(reply, wanted, first, &pieces),
                None => Ok(reply),
            };
            // Without a receiver nothing more is written.
            drop(pieces);
            let written = writing.join().unwrap_or_else(|_| {
                let message = "this request ended by a defect of the server".to_owned();
                Err(Refusal { status: 500, message, param: None, code: None })
            });
            // Where the client is gone, there is nobody else to tell.
            told.and_then(|reply| self.finish(reply, wanted, written)).ok();
        });
    }

    /// Sends text as it comes; where it is told at the end, a sign of life now and then. An error: the client is gone.
    fn tell(
        &self,
        mut reply: Reply,
        wanted: &Wanted,
        first: (usize, String),
        pieces: &mpsc::Receiver<(usize, String)>,
    ) -> io::Result<Reply> {
        let comes_in_pieces = wanted.stream && wanted.log_probs.is_none();
        let mut last = Instant::now();
        let mut next = Some(first);
        loop {
            match next.take() {
                Some((index, text)) if comes_in_pieces && !text.is_empty() => {
                    let mut events = self.begin(reply, wanted)?;
                    events.event(&self.piece(wanted, index, &text, None, None))?;
                    reply = Reply::Begun(events);
                    last = Instant::now();
                }
                _ => {}
            }
            if last.elapsed() >= self.ping {
                if reply.may_begin(wanted) {
                    let mut body = self.begin(reply, wanted)?;
                    body.send(if wanted.stream { ": \n\n" } else { "\n" })?;
                    reply = Reply::Begun(body);
                }
                last = Instant::now();
            }
            next = match pieces.recv_timeout(self.ping.saturating_sub(last.elapsed())) {
                Ok(piece) => Some(piece),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(reply),
            };
        }
    }

    /// What is told when all is written.
    fn finish(&self, reply: Reply, wanted: &Wanted, written: Result<Answer, Refusal>) -> io::Result<()> {
        match (written, reply) {
            (Err(refusal), Reply::Unbegun(request)) => respond(request, refusal.status, &refusal.body()),
            (Err(refusal), Reply::Begun(mut body)) => {
                let told = refusal.body();
                if wanted.stream {
                    body.event(&told)?;
                } else {
                    body.send(&told.to_string())?;
                }
                body.end()?;
            }
            (Ok(answer), Reply::Unbegun(request)) if !wanted.stream => {
                respond(request, 200, &self.whole(wanted, &answer));
            }
            (Ok(answer), Reply::Begun(mut body)) if !wanted.stream => {
                body.send(&self.whole(wanted, &answer).to_string())?;
                body.end()?;
            }
            (Ok(answer), reply) => self.closings(&mut self.begin(reply, wanted)?, wanted, &answer)?,
        }
        Ok(())
    }

    /// Begins what has not begun.
    fn begin(&self, reply: Reply, wanted: &Wanted) -> io::Result<Body> {
        let request = match reply {
            Reply::Begun(body) => return Ok(body),
            Reply::Unbegun(request) => request,
        };
        let mut body = Body::begin(request, if wanted.stream { "text/event-stream" } else { "application/json" });
        if wanted.stream && wanted.chat {
            self.openings(&mut body, wanted)?;
        }
        Ok(body)
    }

    /// Chats begin with whose turn it is.
    fn openings(&self, events: &mut Body, wanted: &Wanted) -> io::Result<()> {
        for index in 0..wanted.count {
            let delta = json!({"role": "assistant", "content": "", "refusal": null});
            let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
            events.event(&self.chunk(wanted, json!([choice]), None))?;
        }
        Ok(())
    }

    /// What is told when all is written: tokens with log-probabilities, reasons, counts.
    fn closings(&self, events: &mut Body, wanted: &Wanted, answer: &Answer) -> io::Result<()> {
        for (index, choice) in answer.choices.iter().enumerate() {
            if wanted.log_probs.is_some() {
                let mut offset = 0;
                for told in &choice.tokens {
                    let log_probs = log_probs(wanted, std::slice::from_ref(told), offset);
                    events.event(&self.piece(wanted, index, &told.text, Some(&log_probs), None))?;
                    offset += told.text.chars().count();
                }
            }
            events.event(&self.piece(wanted, index, "", None, Some(choice.finish)))?;
        }
        if wanted.usage {
            events.event(&self.chunk(wanted, json!([]), Some(usage(answer))))?;
        }
        events.send("data: [DONE]\n\n")?;
        events.end()
    }

    /// Some text of a completion.
    fn piece(
        &self,
        wanted: &Wanted,
        index: usize,
        text: &str,
        log_probs: Option<&Value>,
        finish: Option<Finish>,
    ) -> Value {
        let finish = finish.map(finish_reason);
        let choice = match wanted.chat {
            false => json!({"index": index, "text": text, "logprobs": log_probs, "finish_reason": finish}),
            true => {
                let delta = if finish.is_some() { json!({}) } else { json!({"content": text}) };
                json!({"index": index, "delta": delta, "logprobs": log_probs, "finish_reason": finish})
            }
        };
        self.chunk(wanted, json!([choice]), None)
    }

    fn chunk(&self, wanted: &Wanted, choices: Value, usage: Option<Value>) -> Value {
        let mut body = self.head(wanted);
        body.insert("choices".to_owned(), choices);
        if wanted.usage {
            body.insert("usage".to_owned(), usage.unwrap_or(Value::Null));
        }
        Value::Object(body)
    }
}

/// An answer that may have begun before it is whole.
enum Reply {
    Unbegun(Request),
    Begun(Body),
}

impl Reply {
    /// HTTP/1.0 tells the length of what is no stream first.
    fn may_begin(&self, wanted: &Wanted) -> bool {
        match self {
            Self::Unbegun(request) => wanted.stream || *request.http_version() >= HTTPVersion(1, 1),
            Self::Begun(_) => true,
        }
    }
}

/// The body of an answer, in pieces.
struct Body {
    writer: Box<dyn Write + Send>,
    framing: Framing,
}

/// How a client knows where a body ends.
enum Framing {
    Chunked,
    /// HTTP/1.0 knows no chunks: there it ends with the connection.
    Closed,
    /// A client of HTTP/1.0 that keeps the connection must know the length: it gets all at the end. What is sent before,
    /// and the head of it.
    Held(String, Vec<u8>),
}

impl Body {
    /// Sends the head. That a client is gone shows at the first piece.
    fn begin(request: Request, kind: &str) -> Self {
        let keeps = |header: &Header| {
            header.field.equiv("Connection") && header.value.as_str().to_ascii_lowercase().contains("keep-alive")
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nCache-Control: no-cache\r\n{CLOSE}");
        let (first, framing) = if *request.http_version() >= HTTPVersion(1, 1) {
            (format!("{head}Transfer-Encoding: chunked\r\n\r\n"), Framing::Chunked)
        } else if request.headers().iter().any(keeps) {
            (String::new(), Framing::Held(head, Vec::new()))
        } else {
            (format!("{head}\r\n"), Framing::Closed)
        };
        let mut writer = request.into_writer();
        writer.write_all(first.as_bytes()).ok();
        Self { writer, framing }
    }

    fn event(&mut self, data: &Value) -> io::Result<()> {
        self.send(&format!("data: {data}\n\n"))
    }

    fn send(&mut self, text: &str) -> io::Result<()> {
        match &mut self.framing {
            Framing::Chunked => write!(self.writer, "{:x}\r\n{text}\r\n", text.len())?,
            Framing::Closed => self.writer.write_all(text.as_bytes())?,
            Framing::Held(_, all) => return all.write_all(text.as_bytes()),
        }
        self.writer.flush()
    }

    fn end(&mut self) -> io::Result<()> {
        match &self.framing {
            Framing::Chunked => self.writer.write_all(b"0\r\n\r\n")?,
            Framing::Closed => {}
            Framing::Held(head, all) => {
                write!(self.writer, "{head}Content-Length: {}\r\n\r\n", all.len())?;
                self.writer.write_all(all)?;
            }
        }
        self.writer.flush()
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
        let bytes = |text: &str| text.as_bytes().to_vec();
        let one = |told: &Told| {
            let top = told
                .top
                .iter()
                .map(|(text, log_prob)| json!({"token": text, "logprob": log_prob, "bytes": bytes(text)}));
            json!({
                "token": told.text, "logprob": told.log_prob, "bytes": bytes(&told.text),
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
        // Tokens that add the same count once, the likeliest; the token itself is always there.
        for (text, log_prob) in &told.top {
            all.entry(text.clone()).or_insert_with(|| json!(log_prob));
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
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use burn::tensor::Device;

    use super::door::accepts;
    use super::{PATIENCE, PING, Served, Server};
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
        Arc::new(Served::new("tiny".to_owned(), &decoder, tokenizer, None).unwrap())
    }

    const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

    fn completion(body: &str) -> Vec<u8> {
        format!("POST /v1/completions HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    /// Asks, reads one answer of a known length, and lets go of the connection when the server says so.
    fn ask(mut stream: TcpStream, request: &[u8]) -> String {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).expect("an answer in time") > 0, "{head}");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        head + &String::from_utf8(body).unwrap()
    }

    #[test]
    fn clients_that_come_at_the_same_time_are_all_answered() {
        let served = tiny(16);
        let server = Server::bind("127.0.0.1", 0).unwrap();
        let (address, stop) = (server.address(), Arc::new(AtomicBool::new(false)));
        let (rounds, clients) = (30, 12);
        let requests = std::thread::scope(|scope| {
            let _ends = Ends(&stop);
            let serving = scope.spawn(|| server.run(&served, &stop).unwrap());
            for _ in 0..rounds {
                // Connections first, so that they come together.
                let streams: Vec<TcpStream> = (0..clients).map(|_| TcpStream::connect(address).unwrap()).collect();
                let asking: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| ask(stream, HEALTH))).collect();
                for answer in asking {
                    let answer = answer.join().unwrap();
                    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
                    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
                    assert!(answer.ends_with("{\"status\":\"ok\"}"), "{answer}");
                }
            }
            stop.store(true, Ordering::Relaxed);
            serving.join().unwrap()
        });
        assert_eq!(requests, rounds * clients);
    }

    /// tiny_http ends to accept connections at every pause, as it does after an error.
    #[test]
    fn connections_are_accepted_again_and_those_of_before_are_answered() {
        let served = tiny(16);
        let server = Server::bind_with("127.0.0.1", 0, Duration::from_millis(400), PING).unwrap();
        let (address, stop) = (server.address(), Arc::new(AtomicBool::new(false)));
        std::thread::scope(|scope| {
            let _ends = Ends(&stop);
            let serving = scope.spawn(|| server.run(&served, &stop));
            // Silent for longer than it may be: closed.
            let mut silent = TcpStream::connect(address).unwrap();
            silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            assert_eq!(silent.read(&mut [0]).expect("closed in time"), 0);
            for _ in 0..3 {
                // What is begun before the pause ends is answered by the one who has accepted it.
                let early = TcpStream::connect(address).unwrap();
                std::thread::sleep(Duration::from_millis(300));
                assert!(ask(early, HEALTH).starts_with("HTTP/1.1 200 OK\r\n"));
                std::thread::sleep(Duration::from_millis(900));
                assert!(ask(TcpStream::connect(address).unwrap(), HEALTH).starts_with("HTTP/1.1 200 OK\r\n"));
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(serving.join().unwrap().unwrap(), 6);
        });
    }

    /// A front that accepts somewhere else stands for one whose thread has panicked: the port is open, and nobody there.
    #[test]
    fn a_front_that_has_silently_died_is_replaced() {
        let served = tiny(16);
        let server = Server::bind_with("127.0.0.1", 0, Duration::from_millis(200), PING).unwrap();
        let (address, stop) = (server.address(), Arc::new(AtomicBool::new(false)));
        let dead = tiny_http::Server::from_listener(TcpListener::bind("127.0.0.1:0").unwrap(), None).unwrap();
        std::thread::scope(|scope| {
            let _ends = Ends(&stop);
            let serving = scope.spawn(|| server.run_behind(dead, &served, &stop));
            assert!(ask(TcpStream::connect(address).unwrap(), HEALTH).starts_with("HTTP/1.1 200 OK\r\n"));
            stop.store(true, Ordering::Relaxed);
            assert_eq!(serving.join().unwrap().unwrap(), 1);
        });
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!accepts(nobody.local_addr().unwrap()));
        let somebody = tiny_http::Server::http("127.0.0.1:0").unwrap();
        assert!(accepts(somebody.server_addr().to_ip().unwrap()));
    }

    /// Each of the requests would be worked on for minutes, and there is one more of them than places.
    #[test]
    fn clients_that_go_away_leave_their_places() {
        let served = tiny(4096);
        let server = Server::bind("127.0.0.1", 0).unwrap();
        let (address, stop) = (server.address(), Arc::new(AtomicBool::new(false)));
        let prompts = vec!["a"; 16];
        let long = serde_json::json!({"prompt": prompts, "n": 128, "max_tokens": 4000, "temperature": 0});
        let told = serde_json::json!({
            "prompt": "a", "n": 128, "max_tokens": 4000, "temperature": 0, "stream": true, "logprobs": 0
        });
        std::thread::scope(|scope| {
            let _ends = Ends(&stop);
            let serving = scope.spawn(|| server.run(&served, &stop).unwrap());
            for i in 0..=rayon::current_num_threads() {
                let body = if i % 2 == 0 { &long } else { &told };
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(&completion(&body.to_string())).unwrap();
                // In time to be read, and not longer.
                std::thread::sleep(Duration::from_millis(200));
            }
            let began = Instant::now();
            let stream = TcpStream::connect(address).unwrap();
            let answer = ask(stream, &completion("{\"prompt\": \"a\", \"max_tokens\": 1}"));
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
            stop.store(true, Ordering::Relaxed);
            serving.join().unwrap();
        });
    }

    #[test]
    fn what_takes_long_begins_with_signs_of_life_and_is_whole() {
        let served = tiny(512);
        // Less than a hundredth of what a request takes.
        let server = Server::bind_with("127.0.0.1", 0, PATIENCE, Duration::from_millis(1)).unwrap();
        let (address, stop) = (server.address(), Arc::new(AtomicBool::new(false)));
        let long = |stream: bool| {
            let body = serde_json::json!({
                "prompt": "a", "n": 64, "max_tokens": 500, "temperature": 0, "logprobs": 0, "stream": stream
            });
            completion(&body.to_string())
        };
        let whole = |request: Vec<u8>| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
            // The last one of the connection: it is closed behind the answer.
            let request = String::from_utf8(request).unwrap().replacen("\r\n", "\r\nConnection: close\r\n", 1);
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        std::thread::scope(|scope| {
            let _ends = Ends(&stop);
            let serving = scope.spawn(|| server.run(&served, &stop).unwrap());
            let answer = whole(long(false));
            assert!(answer.contains("\r\nTransfer-Encoding: chunked\r\n"), "{}", &answer[..300]);
            assert!(answer.contains("\r\n\r\n1\r\n\n\r\n"), "{}", &answer[..300]);
            assert!(answer.ends_with("\r\n0\r\n\r\n"));
            let json = answer.split("\r\n").find(|line| line.starts_with('{')).unwrap();
            let json: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(json["choices"].as_array().unwrap().len(), 64);
            let events = whole(long(true));
            assert!(events.contains("4\r\n: \n\n\r\n"), "{}", &events[..300]);
            assert!(events.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"));
            stop.store(true, Ordering::Relaxed);
            serving.join().unwrap();
        });
    }

    #[test]
    fn requests_without_measure_are_refused_at_once() {
        let served = tiny(128);
        let read = |body: &serde_json::Value| {
            super::Wanted::read(body.to_string().as_bytes(), body.get("messages").is_some(), "tiny").unwrap()
        };
        let refused =
            |body: &serde_json::Value| served.write(&read(body), &AtomicBool::new(false), &|_, _| true).unwrap_err();
        // Before it waits for a place: with all of them taken, it would wait for ever.
        let places: Vec<_> = (0..rayon::current_num_threads()).map(|_| served.gate.enter()).collect();
        let long = "a".repeat(128 * 256 + 1);
        let chat = serde_json::json!({"messages": [{"role": "user", "content": long}]});
        for (body, param, found) in [
            (serde_json::json!({"prompt": long}), "prompt", "its 32769 bytes are more than fit"),
            (serde_json::json!({"prompt": ["a", long]}), "prompt", "its 32769 bytes"),
            (serde_json::json!({"prompt": vec![1; 129]}), "prompt", "its 129 tokens are more than fit"),
            (chat, "messages", "its 32774 bytes"),
        ] {
            let refusal = refused(&body);
            assert_eq!((refusal.status, refusal.param.as_deref()), (400, Some(param)));
            assert_eq!(refusal.code, Some("context_length_exceeded"));
            assert!(refusal.message.contains(found), "{}", refusal.message);
        }
        drop(places);
        // 2048 sequences of 100 tokens, with 1 + 5 numbers at each.
        let told = serde_json::json!({"prompt": vec!["a"; 16], "n": 128, "max_tokens": 100, "logprobs": 5});
        let refusal = refused(&told);
        assert_eq!((refusal.status, refusal.param.as_deref()), (400, Some("logprobs")));
        assert!(
            refusal.message.contains("2048 completions of up to 100 tokens, with 6 numbers"),
            "{}",
            refusal.message
        );
    }
}
