//! A model served by OpenAI's protocol, on HTTP/1.1: `GET /v1/models`, `GET /health`, `POST /v1/completions` and
//! `POST /v1/chat/completions`.
//!
//! Log-probabilities are of the model's own distribution, at temperature 1 and without limits, whatever tokens are
//! drawn with. A token's text is what it adds to the text: nothing while a character is not whole, then all of it. A
//! token that ends a text has none, is not listed, and counts in `usage`.
//!
//! Tokens are streamed as they come; with log-probabilities, which are computed at the end, they come all at once. The
//! same request with the same seed is answered by the same text, whatever else is asked for at the same time.

mod request;
mod write;

use std::io::{self, Read as _, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tiny_http::{HTTPVersion, Method, Request, StatusCode};

use self::request::{Refusal, Wanted};
pub use self::write::Served;
use self::write::{Answer, Choice, Told};
use super::run::LmError;
use super::sample::Finish;
use crate::device::DeviceError;

/// A server that listens.
pub struct Server {
    http: tiny_http::Server,
    address: SocketAddr,
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

/// What a body may claim to be, bytes. tiny_http reserves as much when it throws away what was not read.
const MOST_CLAIMED: usize = 1 << 30;

/// Every client is to come with a new connection for its next request. Where connections come at the same time,
/// tiny_http may leave one waiting until another ends, which those that are kept never do.
const CLOSE: &str = "Connection: close\r\n";

/// How often it is looked whether to end.
const GLANCE: Duration = Duration::from_millis(50);

/// What requests are given to end in when the server does.
const GRACE: Duration = Duration::from_secs(2);

impl Server {
    /// Listens; port 0 is any free one.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub fn bind(host: &str, port: u16) -> Result<Self, ServeError> {
        let refused = |reason: String| ServeError::Listen { host: host.to_owned(), port, reason };
        let addresses = (host, port).to_socket_addrs().map_err(|error| refused(error.to_string()))?;
        let addresses: Vec<SocketAddr> = addresses.collect();
        let http = tiny_http::Server::http(addresses.as_slice()).map_err(|error| refused(error.to_string()))?;
        let address = http.server_addr().to_ip().ok_or_else(|| refused("it has no IP address".to_owned()))?;
        Ok(Self { http, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_private(&self) -> bool {
        match self.address.ip() {
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
        let number = Arc::new(AtomicU64::new(0));
        // Every thread that works on a request holds one.
        let working = Arc::new(());
        while !stop.load(Ordering::Relaxed) {
            let Some(request) = self.http.recv_timeout(GLANCE).map_err(ServeError::Accept)? else { continue };
            let (served, stop, working) = (Arc::clone(served), Arc::clone(stop), Arc::clone(&working));
            let id = number.fetch_add(1, Ordering::Relaxed);
            // A thread for each, so that a client that stops in the middle of its request holds up no other.
            std::thread::spawn(move || {
                answer(request, &Exchange { served: &served, stop: &stop, id, since });
                drop(working);
            });
        }
        let ending = Instant::now();
        while Arc::strong_count(&working) > 1 && ending.elapsed() < GRACE {
            std::thread::sleep(GLANCE);
        }
        Ok(number.load(Ordering::Relaxed))
    }
}

/// What a request is answered with.
struct Exchange<'a> {
    served: &'a Served,
    stop: &'a AtomicBool,
    /// Number of the request.
    id: u64,
    /// When the server began, seconds since 1970.
    since: u64,
}

/// The client may have gone away; there is nobody else to tell.
fn answer(mut request: Request, exchange: &Exchange<'_>) {
    if request.body_length().is_some_and(|length| length > MOST_CLAIMED) {
        // Dropping it would reserve the memory that it claims, and abort for want of it.
        std::mem::forget(request);
        return;
    }
    match wanted(&mut request, exchange) {
        Ok(Task::Tell(body)) => respond(request, 200, &body),
        Ok(Task::Write(wanted)) if wanted.stream => exchange.stream(request, &wanted),
        Ok(Task::Write(wanted)) => match exchange.served.write(&wanted, exchange.stop, &|_, _| true) {
            Ok(answer) => respond(request, 200, &exchange.whole(&wanted, &answer)),
            Err(refusal) => respond(request, refusal.status, &refusal.body()),
        },
        Err(refusal) => respond(request, refusal.status, &refusal.body()),
    }
}

enum Task {
    Tell(Value),
    Write(Box<Wanted>),
}

/// Reads a request.
fn wanted(request: &mut Request, exchange: &Exchange<'_>) -> Result<Task, Refusal> {
    let url = request.url().to_owned();
    let path = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let allowed = match path {
        "/v1/completions" | "/v1/chat/completions" => Method::Post,
        _ => Method::Get,
    };
    let name = exchange.served.name.as_str();
    let model = || json!({"id": name, "object": "model", "created": exchange.since, "owned_by": "pairwise"});
    let task = match path {
        "/health" => Some(Task::Tell(json!({"status": "ok"}))),
        "/v1/models" => Some(Task::Tell(json!({"object": "list", "data": [model()]}))),
        "/v1/completions" | "/v1/chat/completions" => None,
        _ if path.strip_prefix("/v1/models/") == Some(name) => Some(Task::Tell(model())),
        _ => {
            let message = format!(
                "there is no {path}: expected /v1/completions, /v1/chat/completions, /v1/models, /v1/models/{name} or \
                 /health"
            );
            return Err(Refusal { status: 404, message, param: None, code: Some("not_found") });
        }
    };
    if *request.method() != allowed && !(allowed == Method::Get && *request.method() == Method::Head) {
        let message = format!("{} {path}: must be {allowed}", request.method());
        return Err(Refusal { status: 405, message, param: None, code: Some("method_not_allowed") });
    }
    if let Some(task) = task {
        return Ok(task);
    }
    let too_large = || {
        let message = format!("the body is larger than {MOST_BYTES} bytes");
        Refusal { status: 413, message, param: None, code: Some("request_too_large") }
    };
    if request.body_length().is_some_and(|length| length > MOST_BYTES) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    request
        .as_reader()
        .take(most)
        .read_to_end(&mut body)
        .map_err(|error| Refusal::bad(None, format!("the body cannot be read: {error}")))?;
    if body.len() > MOST_BYTES {
        return Err(too_large());
    }
    Ok(Task::Write(Box::new(Wanted::read(&body, path == "/v1/chat/completions", name)?)))
}

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

    /// Server-sent events, a chunk of HTTP each.
    fn stream(&self, request: Request, wanted: &Wanted) {
        let (sender, pieces) = mpsc::channel::<(usize, String)>();
        let whole = wanted.log_probs.is_some();
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || {
                let piece = |index: usize, text: String| whole || sender.send((index, text)).is_ok();
                self.served.write(wanted, self.stop, &piece)
            });
            // What is wrong with a request shows before anything is written.
            let first = pieces.recv().ok();
            let mut events = match first {
                Some(_) => Ok(Events::begin(request)),
                None => Err(request),
            };
            let mut there = true;
            if let Ok(events) = &mut events {
                there = self.openings(events, wanted).is_ok();
                for (index, text) in first.into_iter().chain(&pieces) {
                    there = there && events.send(&self.piece(wanted, index, &text, None, None)).is_ok();
                    if !there {
                        break;
                    }
                }
            }
            // Without a receiver nothing more is written.
            drop(pieces);
            let Ok(written) = writing.join() else { return };
            let answer = match (written, &mut events) {
                (Ok(answer), _) => answer,
                (Err(refusal), Err(_)) => {
                    if let Err(request) = events {
                        respond(request, refusal.status, &refusal.body());
                    }
                    return;
                }
                (Err(refusal), Ok(events)) => {
                    events.send(&refusal.body()).ok();
                    return;
                }
            };
            if there {
                let mut events = match events {
                    Ok(events) => events,
                    Err(request) => {
                        let mut events = Events::begin(request);
                        if self.openings(&mut events, wanted).is_err() {
                            return;
                        }
                        events
                    }
                };
                self.closings(&mut events, wanted, &answer).ok();
            }
        });
    }

    /// Chats begin with whose turn it is.
    fn openings(&self, events: &mut Events, wanted: &Wanted) -> io::Result<()> {
        if !wanted.chat {
            return Ok(());
        }
        for index in 0..wanted.count {
            let delta = json!({"role": "assistant", "content": "", "refusal": null});
            let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
            events.send(&self.chunk(wanted, json!([choice]), None))?;
        }
        Ok(())
    }

    /// What is told when all is written: tokens with log-probabilities, reasons, counts.
    fn closings(&self, events: &mut Events, wanted: &Wanted, answer: &Answer) -> io::Result<()> {
        for (index, choice) in answer.choices.iter().enumerate() {
            if wanted.log_probs.is_some() {
                let mut offset = 0;
                for told in &choice.tokens {
                    let log_probs = log_probs(wanted, std::slice::from_ref(told), offset);
                    events.send(&self.piece(wanted, index, &told.text, Some(&log_probs), None))?;
                    offset += told.text.chars().count();
                }
            }
            events.send(&self.piece(wanted, index, "", None, Some(choice.finish)))?;
        }
        if wanted.usage {
            events.send(&self.chunk(wanted, json!([]), Some(usage(answer))))?;
        }
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

/// A stream of server-sent events.
struct Events {
    writer: Box<dyn Write + Send>,
    /// HTTP/1.0 knows no chunks: there a stream ends with the connection.
    chunked: bool,
}

impl Events {
    /// Sends the head. That a client is gone shows at the first event.
    fn begin(request: Request) -> Self {
        let chunked = *request.http_version() >= HTTPVersion(1, 1);
        let mut writer = request.into_writer();
        let transfer = if chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n{transfer}{CLOSE}\r\n"
        );
        writer.write_all(head.as_bytes()).ok();
        Self { writer, chunked }
    }

    fn send(&mut self, data: &Value) -> io::Result<()> {
        self.event(&data.to_string())
    }

    fn event(&mut self, data: &str) -> io::Result<()> {
        let event = format!("data: {data}\n\n");
        match self.chunked {
            true => write!(self.writer, "{:x}\r\n{event}\r\n", event.len())?,
            false => self.writer.write_all(event.as_bytes())?,
        }
        self.writer.flush()
    }

    fn end(&mut self) -> io::Result<()> {
        self.event("[DONE]")?;
        if self.chunked {
            self.writer.write_all(b"0\r\n\r\n")?;
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
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use burn::tensor::Device;

    use super::{Served, Server};
    use crate::lm::config::{ModelConfig, SmallLlama};
    use crate::lm::model::Decoder;
    use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};

    /// Asks, reads one answer, and lets go of the connection when the server says so.
    fn ask(mut stream: TcpStream) -> String {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
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
        let config = TokenizerConfig { vocab_size: 257, ..TokenizerConfig::default() };
        let tokenizer = Tokenizer::train(std::iter::once("a".to_owned()), &config).unwrap();
        let size = SmallLlama { vocabulary: 257, hidden: 8, layers: 1, heads: 1, context: 16 };
        let decoder = Decoder::new(ModelConfig::small_llama(size), 0, &Device::flex());
        let served = Arc::new(Served::new("tiny".to_owned(), &decoder, tokenizer, None).unwrap());
        let server = Server::bind("127.0.0.1", 0).unwrap();
        let (address, stop) = (server.address(), Arc::new(AtomicBool::new(false)));
        let (rounds, clients) = (30, 12);
        let requests = std::thread::scope(|scope| {
            let serving = scope.spawn(|| server.run(&served, &stop).unwrap());
            for _ in 0..rounds {
                // Connections first, so that they come together.
                let streams: Vec<TcpStream> = (0..clients).map(|_| TcpStream::connect(address).unwrap()).collect();
                let asking: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| ask(stream))).collect();
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
}
