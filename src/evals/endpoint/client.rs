//! Requests to a server: repeated where that may help, no more at a time than it can take, answered from the cache
//! where they can be.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::RngExt as _;
use serde_json::Value;
use ureq::http::{StatusCode, Uri};

use super::cache::{Cache, key};
use super::config::EndpointConfig;
use crate::disk::DiskError;
use crate::evals::error::EndpointError;
use crate::random::stream;

/// A server, and how it is asked.
#[derive(Debug)]
pub(super) struct Client {
    /// Its address without a `/` at the end.
    pub(super) base: String,
    /// Whether it is this machine.
    pub(super) is_loopback: bool,
    pub(super) key: Option<Secret>,
    pub(super) counts: Counts,
    pub(super) cache: Option<Cache>,
    agent: ureq::Agent,
    key_variable: String,
    retries: usize,
    timeout_seconds: f64,
    /// Time between the beginnings of two requests.
    between: Duration,
    /// When the next request may begin.
    next: Mutex<Option<Instant>>,
    /// Fingerprint of the model's weights, once it was asked for; `None` inside where the server tells none.
    fingerprint: OnceLock<Option<String>>,
    /// Held by whoever asks for it.
    asking: Mutex<()>,
}

/// What was asked so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) cached: AtomicU64,
    pub(super) read: AtomicU64,
    pub(super) written: AtomicU64,
}

/// A key. It is shown to the server only.
pub(super) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How far a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Only to the cache.
    Cached,
    /// To the server, to learn whether it can do this. An internal error of the server counts as a no.
    Probe,
    /// To the server.
    Ask,
}

/// Waits before a request is repeated double from the first to the longest. With six repetitions they come to 31.5 s,
/// so that a server may be started again.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The longest wait that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// How often a waiting request looks whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(50);

/// Longest time until a connection is there.
const CONNECT: Duration = Duration::from_secs(15);

/// Largest answer, bytes.
const MOST_BYTES: u64 = 64 << 20;

/// Shorter keys are placeholders for servers that want any, such as "x": no secrets, and part of many words.
const SHORTEST_SECRET: usize = 8;

/// Characters of an answer that a message shows.
const SHOWN: usize = 200;

impl Client {
    /// `base` is the address, `key` the key, if there is one.
    pub(super) fn new(base: &str, key: Option<String>, config: &EndpointConfig) -> Result<Self, EndpointError> {
        let wrong = |problem: &str| EndpointError::Address { address: base.to_owned(), problem: problem.to_owned() };
        let uri: Uri = base.parse().map_err(|_| wrong("is no address"))?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = host.parse::<std::net::IpAddr>();
        let is_loopback = host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback());
        config.validate()?;
        let timeout = Duration::from_secs_f64(config.timeout_seconds);
        let rate = config.requests_per_minute;
        if key.as_ref().is_some_and(|key| !key.bytes().all(|byte| (0x21..0x7f).contains(&byte))) {
            return Err(EndpointError::Config(format!(
                "{}: holds characters that no key has, such as spaces or line ends",
                config.key_variable
            )));
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(timeout))
            .timeout_connect(Some(timeout.min(CONNECT)))
            // A key goes to the address that was given, and nowhere else.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(config.concurrency)
            .max_idle_connections_per_host(config.concurrency)
            .user_agent(concat!("pairwise/", env!("CARGO_PKG_VERSION")));
        let agent = if is_loopback { agent.proxy(None) } else { agent };
        let cache = config.cache.as_deref().map(Cache::open).transpose()?;
        Ok(Self {
            base: base.to_owned(),
            is_loopback,
            key: key.map(Secret),
            counts: Counts::default(),
            cache,
            agent: ureq::Agent::new_with_config(agent.build()),
            key_variable: config.key_variable.clone(),
            retries: config.retries,
            timeout_seconds: config.timeout_seconds,
            between: if rate > 0.0 { Duration::from_secs_f64((60.0 / rate).min(3600.0)) } else { Duration::ZERO },
            next: Mutex::new(None),
            fingerprint: OnceLock::new(),
            asking: Mutex::new(()),
        })
    }

    /// What the server says to a request, as `read` understands it; `None` where only the cache is asked and has
    /// nothing. An answer is kept before it is used, and only if it is understood. `gone` ends the waiting.
    pub(super) fn post<T>(
        &self,
        path: &str,
        body: &Value,
        mode: Mode,
        gone: &AtomicBool,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Result<Option<T>, EndpointError> {
        let ask = |fingerprint: Option<&str>| {
            let answer = self.send(path, Some(body), mode, gone)?;
            let told = answer.get("system_fingerprint").and_then(Value::as_str);
            if let (Some(known), Some(told)) = (fingerprint, told)
                && known != told
            {
                // Those before and after would be taken for one model's.
                return Err(EndpointError::Config(format!(
                    "{}: serves other weights than before ({told}, not {known}): give the same command again, or choose \
                     another --out",
                    self.base
                )));
            }
            let understood = read(&answer).map_err(|problem| self.malformed(path, &problem, &answer.to_string()))?;
            for (name, count) in [("prompt_tokens", &self.counts.read), ("completion_tokens", &self.counts.written)] {
                let tokens = answer.pointer(&format!("/usage/{name}")).and_then(Value::as_u64).unwrap_or(0);
                count.fetch_add(tokens, Ordering::Relaxed);
            }
            Ok((answer, understood))
        };
        let Some(cache) = &self.cache else {
            return match mode {
                Mode::Cached => Ok(None),
                _ => ask(None).map(|(_, understood)| Some(understood)),
            };
        };
        let fingerprint = self.fingerprint(cache, body)?;
        let key = key(&self.base, path, body, fingerprint);
        let _asking = cache.asking(key);
        if let Some(answer) = cache.get(&key)?
            && let Ok(understood) = read(&answer)
        {
            self.counts.cached.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(understood));
        }
        if mode == Mode::Cached {
            return Ok(None);
        }
        let (answer, understood) = ask(fingerprint)?;
        cache.put(key, &answer)?;
        Ok(Some(understood))
    }

    /// Asks for something that is never kept.
    pub(super) fn get(&self, path: &str, gone: &AtomicBool) -> Result<Value, EndpointError> {
        self.send(path, None, Mode::Ask, gone)
    }

    /// Whether the server tells which weights it has; not known before the first answer is looked for in the cache.
    pub(super) fn tells_weights(&self) -> bool {
        self.fingerprint.get().is_some_and(Option::is_some)
    }

    /// What the server tells of its model's weights, `pairwise lm serve` for one: asked once. A server that is away has what
    /// it had when it was there last.
    fn fingerprint(&self, cache: &Cache, body: &Value) -> Result<Option<&str>, DiskError> {
        if let Some(found) = self.fingerprint.get() {
            return Ok(found.as_deref());
        }
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = self.fingerprint.get() {
            return Ok(found.as_deref());
        }
        let model = body.get("model").and_then(Value::as_str).unwrap_or_default();
        let found = match self.once("/models", None) {
            Ok(answer) => {
                let all = answer.get("data").and_then(Value::as_array);
                let own = all.and_then(|all| all.iter().find(|one| one.get("id").is_some_and(|id| id == model)));
                let told = own.and_then(|own| own.get("fingerprint")?.as_str()).map(str::to_owned);
                cache.set_fingerprint(&self.base, model, told.as_deref())?;
                told
            }
            Err(Failed { failure: Failure::Final(EndpointError::NotFound { .. }), .. }) => None,
            Err(_) => cache.fingerprint(&self.base, model)?,
        };
        Ok(self.fingerprint.get_or_init(|| found).as_deref())
    }

    /// An answer that is not what it should be.
    pub(super) fn malformed(&self, path: &str, problem: &str, answer: &str) -> EndpointError {
        EndpointError::Malformed {
            url: self.base.clone() + path,
            problem: problem.to_owned(),
            found: beginning(&self.without_key(answer)),
        }
    }

    /// What is kept, for messages.
    pub(super) fn kept(&self) -> String {
        match &self.cache {
            Some(cache) => {
                format!("{} answers are kept in the cache, and the same command goes on from there", cache.len())
            }
            None => "no answers are kept, as there is no cache".to_owned(),
        }
    }

    fn send(&self, path: &str, body: Option<&Value>, mode: Mode, gone: &AtomicBool) -> Result<Value, EndpointError> {
        let mut wait = FIRST_WAIT;
        let mut attempts = 0;
        loop {
            attempts += 1;
            self.pace(gone);
            if gone.load(Ordering::Relaxed) {
                return Err(EndpointError::Config(format!("{}: given up, as another request failed", self.base)));
            }
            let Failed { failure, after } = match self.once(path, body) {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let retries = match &failure {
                Failure::Final(_) => 0,
                // Some servers have no other word for what they cannot do.
                Failure::Status(status, _) if mode == Mode::Probe && matches!(status.as_u16(), 500 | 501) => {
                    self.retries.min(1)
                }
                _ => self.retries,
            };
            if attempts > retries || gone.load(Ordering::Relaxed) {
                return Err(self.explain(path, failure, attempts));
            }
            let number = self.counts.repeated.fetch_add(1, Ordering::Relaxed);
            // Clients that were turned away together do not come back together.
            let jitter = stream(u64::from(std::process::id()), "back-off", number).random_range(1.0..1.25);
            pause(after.unwrap_or_default().min(LONGEST_ASKED).max(wait).mul_f64(jitter), gone);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn explain(&self, path: &str, failure: Failure, attempts: usize) -> EndpointError {
        let url = self.base.clone() + path;
        let kept = self.kept();
        match failure {
            Failure::Final(error) => error,
            Failure::Timeout => EndpointError::Timeout { url, attempts, seconds: self.timeout_seconds, kept },
            Failure::Connection(reason) => EndpointError::Unreachable { url, attempts, reason, kept },
            Failure::Status(status, said) => {
                EndpointError::Status { url, status: status.as_u16(), said, attempts, kept: Some(kept) }
            }
        }
    }

    /// One request.
    fn once(&self, path: &str, body: Option<&Value>) -> Result<Value, Failed> {
        let url = self.base.clone() + path;
        // Questions about the server itself cost nothing and are not counted.
        let number = self.counts.requests.fetch_add(u64::from(body.is_some()), Ordering::Relaxed);
        let is_first = number == 0;
        let bearer = self.key.as_ref().map(|key| format!("Bearer {}", key.0));
        let sent = match body {
            Some(body) => {
                let mut request = self.agent.post(&url).header("Content-Type", "application/json");
                if let Some(bearer) = bearer {
                    request = request.header("Authorization", bearer);
                }
                request.send(body.to_string())
            }
            None => {
                let mut request = self.agent.get(&url);
                if let Some(bearer) = bearer {
                    request = request.header("Authorization", bearer);
                }
                request.call()
            }
        };
        let failed = |error: ureq::Error| self.connection(&error, is_first, &url);
        let mut response = sent.map_err(failed)?;
        let status = response.status();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let after = header("retry-after").and_then(|text| wait_asked(text.trim(), SystemTime::now()));
        let location = header("location").map(str::to_owned);
        let body = response.body_mut().with_config().limit(MOST_BYTES).lossy_utf8(true);
        let text = body.read_to_string().map_err(failed)?;
        let last = |error: EndpointError| Failed { failure: Failure::Final(error), after: None };
        if status.is_success() {
            let answer: Result<Value, _> = serde_json::from_str(&text);
            let mut answer =
                answer.map_err(|error| last(self.malformed(path, &format!("is no JSON ({error})"), &text)))?;
            self.hide_key(&mut answer);
            return Ok(answer);
        }
        let said = self.message_of(&text);
        match status.as_u16() {
            401 | 403 => Err(last(EndpointError::Key {
                url,
                status: status.as_u16(),
                variable: self.key_variable.clone(),
                is_set: self.key.is_some(),
                said,
            })),
            404 | 405 => Err(last(EndpointError::NotFound { url, status: status.as_u16(), said, there: Vec::new() })),
            408 | 409 | 429 | 500.. => Err(Failed { failure: Failure::Status(status, said), after }),
            300..=399 => {
                let to = location.unwrap_or_default();
                let said = format!("it has moved to {}: give that address", self.without_key(&to));
                let status = status.as_u16();
                Err(last(EndpointError::Status { url, status, said, attempts: 1, kept: None }))
            }
            status => Err(last(EndpointError::Status { url, status, said, attempts: 1, kept: None })),
        }
    }

    fn connection(&self, error: &ureq::Error, is_first: bool, url: &str) -> Failed {
        use ureq::Error;
        let reason = self.without_key(&error.to_string());
        let failure = match error {
            Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                let seconds = self.timeout_seconds.min(CONNECT.as_secs_f64());
                Failure::Connection(format!("no connection within {seconds} s"))
            }
            Error::Timeout(_) => Failure::Timeout,
            // A name that was never found is more likely misspelt than away for a while.
            Error::HostNotFound if !is_first => Failure::Connection(reason),
            Error::Io(_) | Error::ConnectionFailed | Error::Protocol(_) | Error::BodyStalled => {
                Failure::Connection(reason)
            }
            _ => Failure::Final(EndpointError::Unreachable {
                url: url.to_owned(),
                attempts: 1,
                reason,
                kept: self.kept(),
            }),
        };
        Failed { failure, after: None }
    }

    /// Waits for this request's turn.
    fn pace(&self, gone: &AtomicBool) {
        if self.between.is_zero() {
            return;
        }
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let turn = next.map_or(now, |next| next.max(now));
            *next = Some(turn + self.between);
            turn
        };
        pause(turn.saturating_duration_since(Instant::now()), gone);
    }

    /// A text that may hold the key, without it.
    fn without_key(&self, text: &str) -> String {
        match &self.key {
            Some(Secret(key)) if key.len() >= SHORTEST_SECRET => text.replace(key, "***"),
            _ => text.to_owned(),
        }
    }

    /// Removes the key from every text of a parsed answer, where nothing is escaped any more.
    fn hide_key(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.without_key(text),
            Value::Array(all) => all.iter_mut().for_each(|value| self.hide_key(value)),
            Value::Object(fields) => {
                for (name, mut value) in std::mem::take(fields) {
                    self.hide_key(&mut value);
                    fields.insert(self.without_key(&name), value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// What a server says is wrong: OpenAI's `error.message`, or what others write instead.
    fn message_of(&self, text: &str) -> String {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let places = ["/error/message", "/error", "/message", "/detail"];
        let told = places.iter().find_map(|place| value.pointer(place).and_then(Value::as_str));
        beginning(&self.without_key(told.unwrap_or(text)))
    }
}

/// A request that failed, and when to come back.
struct Failed {
    failure: Failure,
    after: Option<Duration>,
}

enum Failure {
    /// It would fail again.
    Final(EndpointError),
    Timeout,
    Connection(String),
    Status(StatusCode, String),
}

/// Waits, unless what is waited for is no longer wanted.
fn pause(time: Duration, gone: &AtomicBool) {
    let begun = Instant::now();
    while !gone.load(Ordering::Relaxed) {
        let left = time.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(GLANCE));
    }
}

/// How long a server asks to wait: in seconds, or until a time (RFC 9110, "Sun, 06 Nov 1994 08:49:37 GMT").
fn wait_asked(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut parts = text.strip_suffix(" GMT")?.split_once(", ")?.1.split(' ');
    let [day, month, year, time] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? as u64;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    if !(1..=31).contains(&day) || !(1970..=9999).contains(&year) {
        return None;
    }
    let mut seconds = 0;
    for part in time.split(':') {
        seconds = 60 * seconds + part.parse::<u64>().ok().filter(|part| *part < 61)?;
    }
    if time.split(':').count() != 3 {
        return None;
    }
    // Days of the Gregorian calendar: years begin in March here, so that the leap day is their last.
    let (month, year) = if month < 2 { (month + 10, year - 1) } else { (month - 2, year) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    // 1970-01-01 by the same count.
    let since_1970 = days.checked_sub(719_468)?;
    let then = UNIX_EPOCH + Duration::from_secs(86_400 * since_1970 + seconds);
    Some(then.duration_since(now).unwrap_or_default())
}

fn beginning(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::{Client, Failure, wait_asked};
    use crate::evals::endpoint::EndpointConfig;

    fn client(key: &str) -> Client {
        Client::new("http://127.0.0.1:1/v1", Some(key.to_owned()), &EndpointConfig::default()).unwrap()
    }

    #[test]
    fn waits_are_told_in_seconds_or_by_a_date() {
        // The example of RFC 9110 is second 784,111,777 of Unix time.
        let now = UNIX_EPOCH + Duration::from_secs(784_111_700);
        let of = |text: &str| wait_asked(text, now);
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(77)));
        assert_eq!(of("Sun, 06 Nov 1994 08:48:20 GMT"), Some(Duration::ZERO));
        assert_eq!(of("Sat, 05 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(of("2.5"), Some(Duration::from_millis(2500)));
        // The 29th of February 2000 and the 1st of March are a day apart: 951,782,400 and 951,868,800.
        let leap = |day: &str| wait_asked(day, UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(leap("Tue, 29 Feb 2000 00:00:00 GMT"), 951_782_400);
        assert_eq!(leap("Wed, 01 Mar 2000 00:00:00 GMT"), 951_868_800);
        assert_eq!(leap("Thu, 01 Jan 1970 00:00:01 GMT"), 1);
        for wrong in ["", "-1", "soon", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov GMT"]
        {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn keys_are_hidden_in_texts_and_placeholders_are_not() {
        let cleaned = |key: &str| {
            let mut value =
                json!({"created": 1711, "tokens": ["x", "a+b/c==secret"], "a+b/c==secret": {"token": null}});
            client(key).hide_key(&mut value);
            value
        };
        for placeholder in ["1", "x", "null", "token"] {
            assert_eq!(cleaned(placeholder), cleaned("not-there"), "{placeholder}");
        }
        let hidden = json!({"created": 1711, "tokens": ["x", "***"], "***": {"token": null}});
        assert_eq!(cleaned("a+b/c==secret"), hidden);
        // Also where a message is cut within the key, or writes it with escapes.
        let said = client("a+b/c==secret").message_of(r#"{"error": {"message": "key a\u002Bb\/c==secret is wrong"}}"#);
        assert_eq!(said, "key *** is wrong");
        let long = format!("{}a+b/c==secret", "x".repeat(190));
        assert!(!client("a+b/c==secret").message_of(&long).contains("a+b"));
    }

    #[test]
    fn what_was_never_connected_gave_no_answer_in_no_time() {
        let of = |timeout| {
            let failed = client("key").connection(&ureq::Error::Timeout(timeout), false, "u");
            matches!(failed.failure, Failure::Connection(reason) if reason == "no connection within 15 s")
        };
        assert!(of(ureq::Timeout::Connect) && !of(ureq::Timeout::Global));
    }
}
