//! A model served by OpenAI's protocol, on HTTP/1: `GET /v1/models`, `GET /health`, `POST /v1/completions` and
//! `POST /v1/chat/completions`.
//!
//! Log-probabilities are those of the model's own distribution, at temperature 1 and without limits, however tokens are
//! drawn. In completions, the text of a token is what it adds to the text: nothing while a character is not whole, then
//! the whole character. In chats, whose answers have the bytes, too, it is the token's own text, and a part of a
//! character is written as OpenAI writes it (`\xe2\x82`). A token that ends a text counts only in `usage`.
//!
//! Tokens are streamed as they come. Log-probabilities are computed at the end, so with them all tokens come at once.
//! The same request with the same seed is answered by the same text, whatever other requests there are.
//!
//! One thread has all connections: it reads, refuses and sends, and never computes. Each request that is worked on has
//! a thread of its own, from its JSON to its last token. A request ends when its client goes away or its time is up.
//! While a client waits, it now and then receives comments (in a stream of events) or line feeds (before JSON).

mod access;
mod answer;
mod door;
mod error;
mod request;
mod tell;
mod write;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;

pub use self::access::Access;
use self::answer::{Exchange, answer};
pub use self::door::Limits;
use self::door::Port;
pub use self::error::ServeError;
pub use self::write::Served;

/// A server that listens.
pub struct Server {
    port: Port,
    limits: Limits,
    access: Arc<Access>,
}

/// Bytes of larger bodies that are held at the same time, or four of the largest if these are more.
const MOST_BODIES: usize = 64 << 20;

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
        let own = Arc::clone(&exchange);
        let answering = move |request, visit| {
            let exchange = Arc::clone(&own);
            async move { answer(request, &exchange, &visit).await }
        };
        runtime.block_on(self.port.receive(&self.limits, stop, answering))?;
        Ok(exchange.requests.load(Ordering::Relaxed))
    }
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

    /// The connection that was silent longest is closed; if none is silent, the new client is refused.
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
            super::request::Wanted::read(body.to_string().as_bytes(), body.get("messages").is_some(), "tiny").unwrap()
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
