//! A server of a few lines stands in for real ones: it does what a test says, and counts.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use serde_json::{Value, json};

use super::{Api, Endpoint, EndpointConfig, by_first_token, check, echoed, shares};
use crate::evals::local::Local;
use crate::evals::model::{AnswerProbabilities, ClosedQuestion, How, Model, Prompt, Sampling, Written};
use crate::lm::chat::Message;
use crate::lm::config::{ModelConfig, SmallLlama};
use crate::lm::model::Decoder;
use crate::lm::serve::{Served, Server};
use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};

/// A request as it came.
#[derive(Debug, Clone)]
struct Seen {
    path: String,
    authorization: String,
    body: Value,
}

/// Status, further headers, body.
type Reply = (u16, String, String);

struct Fake {
    port: u16,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Fake {
    fn start(port: u16, reply: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let reply = Arc::new(reply);
        let (stopped, all) = (Arc::clone(&stop), Arc::clone(&seen));
        let accepting = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        let (all, reply) = (Arc::clone(&all), Arc::clone(&reply));
                        std::thread::spawn(move || answer(stream, &all, &*reply));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self { port, stop, seen, accepting: Some(accepting) }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1#m", self.port)
    }

    fn hits(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.accepting.take().unwrap().join().unwrap();
    }
}

/// One request for each connection.
fn answer(stream: TcpStream, all: &Mutex<Vec<Seen>>, reply: &(dyn Fn(&Seen, usize) -> Reply + Send + Sync)) {
    let mut reader = BufReader::new(stream);
    let (mut path, mut authorization, mut length) = (String::new(), String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim();
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap().to_owned();
        } else if let Some((name, value)) = line.split_once(": ") {
            match name.to_ascii_lowercase().as_str() {
                "authorization" => authorization = value.to_owned(),
                "content-length" => length = value.parse().unwrap(),
                _ => {}
            }
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let seen = Seen { path, authorization, body: serde_json::from_slice(&body).unwrap_or_default() };
    // Questions about the server itself are not counted.
    let number = match seen.path.as_str() {
        "/v1/models" => 0,
        _ => {
            let mut all = all.lock().unwrap();
            all.push(seen.clone());
            all.len()
        }
    };
    let (status, headers, body) = reply(&seen, number);
    let mut text = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    write!(text, "{headers}\r\n{body}").unwrap();
    reader.into_inner().write_all(text.as_bytes()).ok();
}

fn ok(body: &Value) -> Reply {
    (200, String::new(), body.to_string())
}

fn error(status: u16, message: &str) -> Reply {
    (status, String::new(), json!({"error": {"message": message}}).to_string())
}

/// A completion that repeats the prompt.
fn text(seen: &Seen) -> Reply {
    if seen.path == "/v1/models" {
        return error(404, "no such path");
    }
    let text = format!("<{}>", seen.body["prompt"].as_str().unwrap());
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 2});
    ok(&json!({"choices": [{"text": text, "finish_reason": "stop"}], "usage": usage}))
}

fn config(cache: Option<&Path>) -> EndpointConfig {
    EndpointConfig {
        cache: cache.map(Path::to_owned),
        // Set nowhere.
        key_variable: "PAIRWISE_TEST_KEY".to_owned(),
        ..EndpointConfig::default()
    }
}

fn open(fake: &Fake, config: &EndpointConfig) -> Endpoint {
    Endpoint::open(&fake.url(), config).unwrap()
}

fn prompts(count: usize) -> Vec<Prompt> {
    (0..count).map(|i| Prompt::Text(i.to_string())).collect()
}

fn write(endpoint: &Endpoint, count: usize) -> Result<Vec<Written>, String> {
    endpoint.write(&prompts(count), &Sampling::default(), 0, &|_| ()).map_err(|error| error.to_string())
}

fn asked(prompt: &str, answers: [&str; 2]) -> ClosedQuestion {
    ClosedQuestion { prompt: Prompt::Text(prompt.to_owned()), answers: answers.map(str::to_owned).to_vec() }
}

fn answers(endpoint: &Endpoint, asked: &[ClosedQuestion]) -> Result<Vec<AnswerProbabilities>, String> {
    endpoint.answers(asked, &|_| ()).map_err(|error| error.to_string())
}

#[test]
fn failures_that_may_pass_are_tried_again_and_others_are_not() {
    let fake = Fake::start(0, |seen, number| match number {
        1 => error(503, "loading"),
        2 => (429, "Retry-After: 2\r\n".to_owned(), String::new()),
        _ => text(seen),
    });
    let endpoint = open(&fake, &EndpointConfig { concurrency: 1, ..config(None) });
    let begun = Instant::now();
    assert_eq!(write(&endpoint, 1).unwrap(), [Written { text: "<0>".to_owned(), ended: true }]);
    // Half a second, then what the server asked for.
    assert!(begun.elapsed() >= Duration::from_millis(2500), "{:?}", begun.elapsed());
    assert_eq!(fake.hits(), 3);
    assert!(endpoint.remarks()[0].contains("3 requests, 2 of them repeated"), "{:?}", endpoint.remarks());

    let of_status = |status: u16| {
        let fake = Fake::start(0, move |_, _| error(status, "so it is"));
        let found = write(&open(&fake, &EndpointConfig { retries: 1, concurrency: 1, ..config(None) }), 3).unwrap_err();
        let posts = fake.seen().iter().filter(|seen| seen.path == "/v1/completions").count();
        (posts, found)
    };
    for status in [400, 401, 403, 422] {
        let (hits, found) = of_status(status);
        assert_eq!(hits, 1, "{found}");
        assert!(found.contains(&format!("HTTP {status}")) && found.contains("so it is"), "{found}");
    }
    let (hits, found) = of_status(500);
    assert_eq!(hits, 2);
    assert!(found.contains("HTTP 500: so it is (tried 2 times); no answers are kept"), "{found}");
}

#[test]
fn what_is_in_the_cache_is_not_asked_for_again_not_even_of_a_server_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Some(&folder.path().join("cache")));
    let fake = Fake::start(0, |seen, _| text(seen));
    let first = write(&open(&fake, &config), 3).unwrap();
    assert_eq!(fake.hits(), 3);
    // The same prompt is asked for once, also when it is twice in a list.
    let twice = vec![Prompt::Text("new".to_owned()); 2];
    let sampling = Sampling { seed: 7, ..Sampling::default() };
    let endpoint = open(&fake, &config);
    let both = |first| endpoint.write(&twice[..1], &sampling, first, &|_| ()).unwrap();
    assert_eq!(both(0), both(0));
    assert_eq!(fake.hits(), 4);
    // Another seed is another request.
    both(1);
    assert_eq!(fake.hits(), 5);
    assert_eq!(fake.seen()[4].body["seed"], 8);

    let cut = |torn: &str| {
        let file = std::fs::read_dir(folder.path().join("cache")).unwrap().next().unwrap().unwrap().path();
        std::fs::File::options().append(true).open(file).unwrap().write_all(torn.as_bytes()).unwrap();
    };
    cut("{\"key\": \"ab");
    let url = fake.url();
    drop(fake);
    let endpoint = Endpoint::open(&url, &EndpointConfig { retries: 0, ..config }).unwrap();
    assert_eq!(write(&endpoint, 3).unwrap(), first);
    let remarks = endpoint.remarks();
    assert!(remarks[0].contains("0 requests, 3 answers from the cache; 0 tokens read"), "{remarks:?}");
    assert!(remarks.last().unwrap().starts_with("1 torn lines"), "{remarks:?}");
    // What is not there needs the server.
    let found = write(&endpoint, 4).unwrap_err();
    assert!(found.contains(&format!("{}/completions: cannot be reached", url.trim_end_matches("#m"))), "{found}");
    assert!(found.contains("5 answers are kept in the cache, and the same command goes on from there"), "{found}");
}

#[test]
fn a_server_that_is_started_again_goes_on_and_nothing_is_asked_twice() {
    let folder = tempfile::tempdir().unwrap();
    let config = EndpointConfig { concurrency: 2, ..config(Some(folder.path())) };
    let answered = Arc::new(Mutex::new(Vec::new()));
    let note = |seen: &Seen, answered: &Mutex<Vec<String>>| {
        if seen.path == "/v1/models" {
            return text(seen);
        }
        answered.lock().unwrap().push(seen.body["prompt"].as_str().unwrap().to_owned());
        std::thread::sleep(Duration::from_millis(20));
        text(seen)
    };
    let own = Arc::clone(&answered);
    let fake = Fake::start(0, move |seen, _| note(seen, &own));
    let (port, endpoint) = (fake.port, open(&fake, &config));
    let texts = std::thread::scope(|scope| {
        let writing = scope.spawn(|| write(&endpoint, 30).unwrap());
        while answered.lock().unwrap().len() < 10 {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(fake);
        std::thread::sleep(Duration::from_millis(700));
        let own = Arc::clone(&answered);
        let second = Fake::start(port, move |seen, _| note(seen, &own));
        let texts = writing.join().unwrap();
        assert!(second.hits() >= 15, "{}", second.hits());
        texts
    });
    assert!((0..30).all(|i| texts[i].text == format!("<{i}>")));
    let mut all = answered.lock().unwrap().clone();
    all.sort_by_key(|prompt| prompt.parse::<usize>().unwrap());
    assert_eq!(all, (0..30).map(|i| i.to_string()).collect::<Vec<_>>());
}

#[test]
fn results_are_in_order_and_requests_no_more_than_allowed_at_a_time() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inside, peak) = (Arc::clone(&now), Arc::clone(&most));
    let fake = Fake::start(0, move |seen, number| {
        peak.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Those that come first take longest.
        std::thread::sleep(Duration::from_millis(30_u64.saturating_sub(number as u64)));
        inside.fetch_sub(1, Ordering::SeqCst);
        text(seen)
    });
    let done = AtomicUsize::new(0);
    let endpoint = open(&fake, &EndpointConfig { concurrency: 3, ..config(None) });
    let count = |more: usize| {
        done.fetch_add(more, Ordering::Relaxed);
    };
    let texts = endpoint.write(&prompts(24), &Sampling::default(), 5, &count).unwrap();
    assert!((0..24).all(|i| texts[i].text == format!("<{i}>")), "{texts:?}");
    assert_eq!((done.load(Ordering::Relaxed), most.load(Ordering::SeqCst)), (24, 3));
    let seeds =
        |seen: Seen| (seen.body["prompt"].as_str().unwrap().parse().unwrap(), seen.body["seed"].as_u64().unwrap());
    assert!(fake.seen().into_iter().map(seeds).all(|(prompt, seed): (u64, u64)| seed == prompt + 5));

    let endpoint = open(&fake, &EndpointConfig { requests_per_minute: 600.0, prices: [1.0, 2e6], ..config(None) });
    let begun = Instant::now();
    write(&endpoint, 4).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    // 4 · (10 · 1 + 2 · 2,000,000) / 1,000,000.
    assert!(endpoint.remarks()[0].ends_with("40 tokens read, 8 written, cost 16.0000"), "{:?}", endpoint.remarks());
}

#[test]
fn when_one_request_has_failed_the_others_are_not_tried_one_after_another() {
    let fake = Fake::start(0, |_, _| {
        std::thread::sleep(Duration::from_millis(900));
        error(500, "too late")
    });
    let slow = EndpointConfig { timeout_seconds: 0.2, retries: 0, concurrency: 8, ..config(None) };
    let questions: Vec<ClosedQuestion> = (0..8).map(|i| asked(&format!("{i}?"), [" Yes", " No"])).collect();
    let found = answers(&open(&fake, &slow), &questions).unwrap_err();
    assert!(found.contains("gave no answer within 0.2 s"), "{found}");
    // The one that failed, and one or two that were on their way.
    assert!(fake.hits() <= 3, "{}", fake.hits());
}

#[test]
fn answers_of_other_weights_are_not_taken_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let config = EndpointConfig { retries: 0, ..config(Some(folder.path())) };
    let weights = Arc::new(Mutex::new("one"));
    let own = Arc::clone(&weights);
    let fake = Fake::start(0, move |seen, _| {
        let weights = *own.lock().unwrap();
        match seen.path.as_str() {
            "/v1/models" => ok(&json!({"data": [{"id": "n"}, {"id": "m", "fingerprint": weights}]})),
            _ => ok(&json!({"choices": [{"text": weights}], "system_fingerprint": weights})),
        }
    });
    let texts = |count: usize| {
        let endpoint = open(&fake, &config);
        write(&endpoint, count).map(|all| (all[0].text.clone(), endpoint.remarks().len()))
    };
    let of = |weights: &str| Ok((weights.to_owned(), 1));
    assert_eq!((texts(2), fake.hits()), (of("one"), 2));
    assert_eq!((texts(2), fake.hits()), (of("one"), 2));
    *weights.lock().unwrap() = "two";
    assert_eq!((texts(2), fake.hits()), (of("two"), 4));
    // They change while it goes on.
    let endpoint = open(&fake, &config);
    write(&endpoint, 2).unwrap();
    *weights.lock().unwrap() = "three";
    let found = write(&endpoint, 3).unwrap_err();
    assert!(
        found.contains("serves other weights than before (three, not two): give the same command again"),
        "{found}"
    );
    *weights.lock().unwrap() = "two";
    texts(2).unwrap();
    // A server that is away has the weights that it had last.
    let url = fake.url();
    drop(fake);
    let away = Endpoint::open(&url, &config).unwrap();
    assert_eq!(write(&away, 2).unwrap()[1].text, "two");

    // Of a server that tells nothing it is said that nobody knows.
    let fake = Fake::start(0, |seen, _| text(seen));
    write(&open(&fake, &config), 1).unwrap();
    let endpoint = open(&fake, &config);
    write(&endpoint, 1).unwrap();
    assert!(endpoint.remarks()[1].contains("1 answers are from the cache, and the server does not tell"));
}

#[test]
fn what_a_server_with_chats_only_and_newer_names_has_said_is_found_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = EndpointConfig { samples: 2, retries: 0, ..config(Some(folder.path())) };
    let fake = Fake::start(0, |seen, _| match seen.path.as_str() {
        "/v1/chat/completions" if seen.body.get("max_tokens").is_some() => {
            error(400, "use 'max_completion_tokens' instead")
        }
        "/v1/chat/completions" => ok(&json!({"choices": [{"message": {"content": "Yes, I do"}}]})),
        _ => error(404, "no such path"),
    });
    let all = |endpoint: &Endpoint| {
        (answers(endpoint, &[asked("q?", [" Yes", " No"])]).unwrap(), write(endpoint, 2).unwrap())
    };
    let first = all(&open(&fake, &config));
    let url = fake.url();
    drop(fake);
    assert_eq!(all(&Endpoint::open(&url, &config).unwrap()), first);
}

#[test]
fn the_key_is_shown_to_the_server_only() {
    const KEY: &str = "sk-very-secret";
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(0, |seen, number| {
        let body =
            json!({"choices": [{"text": format!("you said {}", seen.authorization), "finish_reason": "length"}]});
        match number {
            1 => ok(&body),
            2 => error(400, &format!("what is {}?", seen.authorization)),
            3 => error(401, &format!("{} is wrong", seen.authorization)),
            _ => (200, String::new(), format!("no JSON, {}", seen.authorization)),
        }
    });
    let config = EndpointConfig { concurrency: 1, ..config(Some(folder.path())) };
    let endpoint = Endpoint::with_key(&fake.url(), Some(KEY.to_owned()), &config).unwrap();
    let mut all = vec![format!("{endpoint:?}"), write(&endpoint, 1).unwrap()[0].text.clone()];
    for count in 2..5 {
        all.push(write(&endpoint, count).unwrap_err());
    }
    assert_eq!(fake.seen()[0].authorization, format!("Bearer {KEY}"));
    assert_eq!(all[1], "you said Bearer ***");
    assert!(all[2].contains("HTTP 400: what is Bearer ***?"), "{}", all[2]);
    assert!(all[3].contains("the key in the environment variable PAIRWISE_TEST_KEY is not accepted"), "{}", all[3]);
    assert!(all[4].contains("is no JSON") && all[4].contains("begins: no JSON, Bearer ***"), "{}", all[4]);
    all.extend(endpoint.remarks());
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        all.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    assert!(all.iter().all(|text| !text.contains(KEY)), "{all:?}");

    // A placeholder is no secret, and hiding it would break what holds it by chance.
    let fake = Fake::start(0, |_, _| ok(&json!({"created": 1711, "choices": [{"text": "11 x"}]})));
    for placeholder in ["1", "x", "text"] {
        let endpoint = Endpoint::with_key(&fake.url(), Some(placeholder.to_owned()), &self::config(None)).unwrap();
        assert_eq!(write(&endpoint, 1).unwrap()[0].text, "11 x");
    }

    // Over the network it is only sent with a warning; without a key there is advice.
    let far =
        |key: Option<&str>| Endpoint::with_key("http://example.com/v1#m", key.map(str::to_owned), &config).unwrap();
    assert!(far(Some(KEY)).remarks()[1].contains("PAIRWISE_TEST_KEY goes over the network unencrypted"));
    assert_eq!(far(None).remarks().len(), 1);
    let fake = Fake::start(0, |_, _| error(401, "who are you?"));
    let found = write(&open(&fake, &config), 9).unwrap_err();
    assert!(found.contains("put the key into the environment variable PAIRWISE_TEST_KEY"), "{found}");
    let with_line = Endpoint::with_key(&fake.url(), Some(format!("{KEY}\n")), &config).unwrap_err().to_string();
    assert!(with_line.contains("PAIRWISE_TEST_KEY") && !with_line.contains(KEY), "{with_line}");
}

#[test]
fn addresses_and_configurations_that_cannot_be_are_refused() {
    let refused = |spec: &str| Endpoint::open(spec, &config(None)).unwrap_err().to_string();
    assert!(refused("localhost:8080").contains("is no web address: expected http://HOST:PORT/v1#MODEL"));
    let password = refused("https://me:hunter2@host/v1#m");
    assert!(password.contains("OPENAI_API_KEY, or that of --key-variable"), "{password}");
    for spec in [
        "https://me:hunter2@host/v1#m", "http://me:hunter2/x@host/v1", "http://me:a#hunter2@h",
        "http://me:12#@hunter2@h/v1", "https://host/v1?key=hunter2#m", "https://host?hunter2",
    ] {
        let found = check(spec).unwrap_err().to_string();
        assert!(!found.contains("hunter2") && !found.contains("me:"), "{spec}: {found}");
        assert_eq!(found, refused(spec));
    }
    assert!(refused("http://host/v1?key=1#m").contains("http://host/v1?…: an address with a query is not supported"));
    for spec in ["runs/a@b", "http://h", "http://h/v1#a?b", "https://h/accounts/x/ai/v1#@cf/meta/llama"] {
        assert!(check(spec).is_ok(), "{spec}");
    }
    assert!(refused("http://:80/v1#m").contains("http://:80/v1"));
    assert_eq!(Endpoint::open("http://host:1", &config(None)).unwrap().name(), "http://host:1/v1");
    assert_eq!(Endpoint::open("http://host/api/v1/#a/b:c", &config(None)).unwrap().client.base, "http://host/api/v1");
    let wrong = |config| Endpoint::open("http://h/v1#m", &config).unwrap_err().to_string();
    assert_eq!(wrong(EndpointConfig { concurrency: 0, ..config(None) }), "concurrency = 0: must be at least 1");
    assert_eq!(wrong(EndpointConfig { timeout_seconds: 0.0, ..config(None) }), "timeout_seconds = 0: must be above 0");
    assert!(
        wrong(EndpointConfig { requests_per_minute: -1.0, ..config(None) }).starts_with("requests_per_minute = -1")
    );
    for seconds in [1e19, 1e30, 1e-9, f64::INFINITY, f64::NAN] {
        let found = wrong(EndpointConfig { timeout_seconds: seconds, ..config(None) });
        assert!(found.ends_with("must be from 0.001 to 86400"), "{found}");
    }
    let found = wrong(EndpointConfig { samples: usize::MAX, ..config(None) });
    assert!(found.starts_with("samples = ") && found.ends_with("must be at most 10000"), "{found}");
    let found = wrong(EndpointConfig { concurrency: usize::MAX, ..config(None) });
    assert!(found.ends_with("must be at most 1024"), "{found}");
    for price in [-1.0, f64::NAN, f64::INFINITY] {
        let found = wrong(EndpointConfig { prices: [0.0, price], ..config(None) });
        assert!(found.starts_with("prices = ") && found.ends_with("must be 0 or more"), "{found}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(wrong(config(Some(file.path()))).contains("cannot make the cache"));
}

#[test]
fn answers_that_are_not_the_protocols_and_slow_ones_are_named() {
    let of = |reply: Reply| {
        let fake = Fake::start(0, move |_, _| reply.clone());
        write(&open(&fake, &config(None)), 1).unwrap_err()
    };
    assert!(of(ok(&json!({"choices": []}))).contains("the answer lacks `choices[0]`; it begins: {\"choices\":[]}"));
    assert!(of(ok(&json!({"choices": [{"index": 0}]}))).contains("lacks the text `choices[0].text`"));
    let long = of((200, String::new(), "x".repeat(500)));
    assert!(long.contains(&format!("{} …", "x".repeat(200))) && !long.contains(&"x".repeat(201)), "{long}");
    assert!(
        of((302, "Location: http://elsewhere/\r\n".to_owned(), String::new())).contains("moved to http://elsewhere/")
    );
    let fake = Fake::start(0, |seen, _| {
        std::thread::sleep(Duration::from_millis(400));
        text(seen)
    });
    let slow = EndpointConfig { timeout_seconds: 0.1, retries: 1, ..config(None) };
    let found = write(&open(&fake, &slow), 1).unwrap_err();
    assert!(found.contains("gave no answer within 0.1 s (tried 2 times)"), "{found}");
}

#[test]
fn models_are_found_and_missing_ones_are_named() {
    let of = |spec: &str, names: &'static [&'static str]| {
        let fake = Fake::start(0, move |seen, _| match (seen.path.as_str(), seen.body["model"].as_str()) {
            ("/v1/models", _) => {
                let data: Vec<Value> = names.iter().map(|name| json!({"id": name})).collect();
                ok(&json!({"data": data}))
            }
            (_, Some(name)) if names.contains(&name) => text(seen),
            _ => error(404, "no such model"),
        });
        let endpoint = Endpoint::open(&format!("http://127.0.0.1:{}/v1{spec}", fake.port), &config(None)).unwrap();
        // Settled, it has its name before it has done anything, and keeps it.
        let named = endpoint.settle().map(|()| endpoint.name().to_owned());
        assert_eq!(named.is_ok(), !spec.is_empty() || names.len() == 1, "{named:?}");
        assert!(named.as_ref().map_or(true, |name| names.contains(&name.as_str()) || spec == "#c"), "{named:?}");
        write(&endpoint, 2).map(|_| endpoint.name().to_owned())
    };
    assert_eq!(of("", &["only"]).unwrap(), "only");
    let several = of("", &["a", "b"]).unwrap_err();
    assert!(several.contains("has 2 models: say which, as http://") && several.ends_with("#MODEL: a, b"), "{several}");
    assert_eq!(of("#b", &["a", "b"]).unwrap(), "b");
    let missing = of("#c", &["a", "b"]).unwrap_err();
    assert!(missing.contains("HTTP 404: no such model); the server has: a, b"), "{missing}");
}

#[test]
fn stop_texts_beyond_four_are_cut_here_and_chats_are_sent_as_such() {
    let fake = Fake::start(0, |seen, _| match seen.path.as_str() {
        "/v1/completions" => ok(&json!({"choices": [{"text": "one;two|three", "finish_reason": "length"}]})),
        _ if seen.body.get("max_tokens").is_some() => error(400, "use 'max_completion_tokens' instead"),
        _ => ok(&json!({"choices": [{"message": {"content": null}, "finish_reason": "stop"}]})),
    });
    let sampling = Sampling { stop: ["a", "b", "c", "d", "|", ";"].map(str::to_owned).to_vec(), ..Sampling::default() };
    let endpoint = open(&fake, &EndpointConfig { concurrency: 1, ..config(None) });
    let chat = Prompt::Chat(vec![Message::new("user", "hello")]);
    let written = endpoint.write(&[Prompt::Text("x".to_owned()), chat.clone()], &sampling, 0, &|_| ()).unwrap();
    assert_eq!(written[0], Written { text: "one".to_owned(), ended: true });
    assert_eq!(written[1], Written { text: String::new(), ended: true });
    let seen = fake.seen();
    assert_eq!(seen[0].body["stop"], json!(["a", "b", "c", "d"]));
    assert_eq!(seen[2].body["messages"], json!([{"role": "user", "content": "hello"}]));
    assert_eq!((&seen[2].body["max_completion_tokens"], seen.len()), (&json!(48), 3));
    let only = EndpointConfig { api: Api::Completions, ..config(None) };
    let found = open(&fake, &only).write(&[chat], &sampling, 0, &|_| ()).unwrap_err().to_string();
    assert!(found.contains("--api chat"), "{found}");
}

/// `tokens` with their log-probabilities, as OpenAI's completions have them.
fn told(tokens: &[(&str, f64)], offset: usize) -> Value {
    let mut at = offset;
    let offsets: Vec<usize> = tokens
        .iter()
        .map(|(token, _)| {
            at += token.chars().count();
            at - token.chars().count()
        })
        .collect();
    let log_probs: Vec<Value> = tokens
        .iter()
        .enumerate()
        .map(|(i, (_, log_prob))| if i == 0 { Value::Null } else { json!(log_prob) })
        .collect();
    let texts: Vec<&str> = tokens.iter().map(|(token, _)| *token).collect();
    json!({"choices": [{"logprobs": {"tokens": texts, "token_logprobs": log_probs, "text_offset": offsets}}]})
}

fn assert_near(found: &AnswerProbabilities, expected: [f64; 2], how: How) {
    let near = found.log_probs.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12);
    assert!(near && found.how == how, "{found:?}, expected {expected:?}");
}

#[test]
fn the_log_probability_of_an_answer_is_that_of_its_tokens() {
    let whole = told(&[("Is", -1.0), (" it", -2.0), ("?", -3.0), (" Y", -0.5), ("es", -0.25)], 0);
    assert_eq!(echoed(&whole, " Yes", 0), Ok(Some(-0.75)));
    // One that spans the boundary counts.
    assert_eq!(echoed(&whole, "Yes", 0), Ok(Some(-0.75)));
    assert_eq!(echoed(&whole, "es", 0), Ok(Some(-0.25)));
    // What was written after it does not, and a token put before the text shifts nothing.
    let mut longer = told(&[("<s>", 0.0), ("Is", -1.0), ("?", -3.0), (" Yes", -0.5), (".", -9.0)], 0);
    assert_eq!(echoed(&longer, " Yes", 1), Ok(Some(-0.5)));
    longer["usage"] = json!({"completion_tokens": 0});
    assert_eq!(echoed(&longer, " Yes.", 1), Ok(Some(-9.5)));
    // Characters of several bytes.
    assert_eq!(echoed(&told(&[("é", -1.0), (" né", -2.0), ("é", -4.0)], 7), "néé", 0), Ok(Some(-6.0)));
    // Servers that repeat nothing, or tell nothing.
    assert_eq!(echoed(&told(&[(" I", -1.0), (" am!", -2.0)], 0), " Yes", 0), Ok(None));
    assert_eq!(echoed(&json!({"choices": [{"text": "x", "logprobs": null}]}), " Yes", 0), Ok(None));
    assert!(echoed(&json!({}), " Yes", 0).is_err());
}

#[test]
fn first_tokens_and_shares_as_by_hand() {
    let told = |all: &[(&str, f64)]| all.iter().map(|(token, p)| ((*token).to_owned(), p.ln())).collect::<Vec<_>>();
    let near = |found: Option<Vec<f64>>, expected: [f64; 2]| {
        let found = found.unwrap();
        assert!(found.iter().zip(expected).all(|(found, p)| (found - p.ln()).abs() < 1e-12), "{found:?}");
    };
    let answers = [" Yes", " No"];
    near(
        by_first_token(&told(&[(" Yes", 0.4), ("Yes", 0.1), (" N", 0.2), ("yes", 0.15), ("\n", 0.05)]), &answers),
        [0.5, 0.2],
    );
    // An absent one has the least that is told.
    near(by_first_token(&told(&[(" Yes", 0.4), (" I", 0.01)]), &answers), [0.4, 0.01]);
    near(by_first_token(&told(&[(" (A", 0.4), (" (", 0.3), ("(B", 0.2)]), &[" (A)", " (B)"]), [0.4, 0.2]);
    assert_eq!(by_first_token(&told(&[(" (", 0.9), ("(A", 0.05)]), &[" (A)", " (B)"]), None);
    assert_eq!(by_first_token(&[], &answers), None);
    let texts = [" Yes.", "Yes", " No", "Maybe"].map(str::to_owned);
    // 4 texts and three halves.
    near(Some(shares(&texts, &answers.map(str::to_owned))), [2.5 / 5.5, 1.5 / 5.5]);
}

#[test]
fn the_best_way_that_a_server_has_is_found_out_once() {
    // It repeats prompts, but refuses to write nothing.
    let fake = Fake::start(0, |seen, _| {
        if seen.body["max_tokens"] == 0 {
            return error(400, "max_tokens must be at least 1");
        }
        let prompt = seen.body["prompt"].as_str().unwrap();
        let (question, answer) = prompt.split_at(prompt.find('?').unwrap() + 1);
        let log_prob = if answer == " Yes" { -0.5 } else { -1.5 };
        ok(&told(&[(question, 0.0), (answer, log_prob), ("!", -7.0)], 0))
    });
    let questions: Vec<ClosedQuestion> = (0..5).map(|i| asked(&format!("{i}?"), [" Yes", " No"])).collect();
    let endpoint = open(&fake, &config(None));
    let expected = AnswerProbabilities { log_probs: vec![-0.5, -1.5], how: How::Exact, cut: false, conditional: false };
    assert_eq!(answers(&endpoint, &questions).unwrap(), vec![expected; 5]);
    assert_eq!(fake.hits(), 11);
    assert!(endpoint.remarks()[1].ends_with("found 5 exactly"), "{:?}", endpoint.remarks());

    // It tells the likeliest tokens only, and at most 5.
    let fake = Fake::start(0, |seen, _| {
        if seen.body["echo"] == true {
            return error(400, "echo is not supported");
        }
        if seen.body["logprobs"].as_u64() > Some(5) {
            return error(400, "logprobs must be at most 5");
        }
        let alike = seen.body["prompt"].as_str().unwrap().ends_with(" (");
        let told = if alike { json!({"A": -0.1, "B": -2.0}) } else { json!({" Yes": -1.0, " No": -0.5}) };
        ok(&json!({"choices": [{"text": "x", "logprobs": {"top_logprobs": [told]}}]}))
    });
    let endpoint = open(&fake, &config(None));
    let found = answers(&endpoint, &[asked("q?", [" Yes", " No"]), asked("q?", [" (A)", " (B)"])]).unwrap();
    assert_near(&found[0], [-1.0, -0.5], How::FirstToken);
    assert_near(&found[1], [-0.1, -2.0], How::FirstToken);
    // After the bracket nothing but A and B is left: their sum is not that of all that could be said.
    assert_eq!([found[0].conditional, found[1].conditional], [false, true]);

    // It tells nothing: what it writes is counted. Even seeds say yes.
    let fake = Fake::start(0, |seen, _| {
        let text = if seen.body["seed"].as_u64().unwrap_or(1) % 2 == 0 { " Yes, I do" } else { "No" };
        ok(&json!({"choices": [{"text": text, "logprobs": null}]}))
    });
    let folder = tempfile::tempdir().unwrap();
    let few = EndpointConfig { samples: 3, ..config(Some(folder.path())) };
    let endpoint = open(&fake, &few);
    let found = answers(&endpoint, &[asked("q?", [" Yes", " No"])]).unwrap();
    assert_near(&found[0], [(2.5_f64 / 4.5).ln(), (1.5_f64 / 4.5).ln()], How::Written);
    // Again, without the server.
    let url = fake.url();
    drop(fake);
    let again = Endpoint::open(&url, &EndpointConfig { retries: 0, ..few.clone() }).unwrap();
    assert_eq!(answers(&again, &[asked("q?", [" Yes", " No"])]).unwrap(), found);
    let fake = Fake::start(0, |_, _| ok(&json!({"choices": [{"text": "x"}]})));
    let none = open(&fake, &EndpointConfig { samples: 0, ..config(None) });
    assert!(answers(&none, &[asked("q?", [" Yes", " No"])]).unwrap_err().contains("tells no log-probabilities"));
}

#[test]
fn a_server_with_chats_only_is_sent_turns() {
    let fake = Fake::start(0, |seen, _| {
        if seen.path != "/v1/chat/completions" {
            return error(404, "no such path");
        }
        let content = seen.body["messages"][0]["content"].as_str().unwrap();
        let told = if content == "yes or no?" { [("Yes", -0.2), ("No", -1.0)] } else { [("(", -0.1), ("A", -4.0)] };
        let told: Vec<Value> = told.iter().map(|(token, p)| json!({"token": token, "logprob": p})).collect();
        // The logprobs are there only where they are asked for.
        let log_probs =
            if seen.body["logprobs"] == true { json!({"content": [{"top_logprobs": told}]}) } else { Value::Null };
        ok(&json!({"choices": [{"message": {"content": "(B) it is"}, "logprobs": log_probs}]}))
    });
    let endpoint = open(&fake, &EndpointConfig { samples: 2, ..config(None) });
    let found = answers(&endpoint, &[asked("yes or no?", [" Yes", " No"]), asked("which?", [" (A)", " (B)"])]).unwrap();
    assert_near(&found[0], [-0.2, -1.0], How::FirstToken);
    // The bracket decides nothing, so answers are drawn.
    assert_near(&found[1], [(0.5_f64 / 3.5).ln(), (2.5_f64 / 3.5).ln()], How::Written);
}

/// A model served by `lm serve` answers as it does without a server.
#[test]
fn a_served_model_answers_as_a_local_one() {
    let text = "Human: Is the following statement something you would say?\n\nAssistant: Yes No (A) (B)";
    let tokens = TokenizerConfig { vocab_size: 300, min_frequency: 1, ..TokenizerConfig::default() };
    let tokenizer = Tokenizer::train(std::iter::repeat_n(text.to_owned(), 3), &tokens).unwrap();
    let size = SmallLlama { vocabulary: tokenizer.vocab_size(), hidden: 32, layers: 2, heads: 2, context: 256 };
    let mut decoder = Decoder::new(ModelConfig::small_llama(size), 3, &Device::flex());
    // Fresh models find all tokens about equally likely.
    decoder.parameters.iter_mut().for_each(|tensor| *tensor = tensor.clone() * 3.0);
    let served = Arc::new(Served::new("tiny".to_owned(), &decoder, tokenizer.clone(), None, None).unwrap());
    let server = Server::bind("127.0.0.1", 0).unwrap();
    let (stop, address) = (Arc::new(AtomicBool::new(false)), server.address());
    let serving = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || server.run(&served, &stop).unwrap())
    };
    let local = Local::new("tiny".to_owned(), decoder, tokenizer, None, Vec::new());
    let endpoint = Endpoint::open(&format!("http://{address}/v1"), &config(None)).unwrap();
    let questions: Vec<ClosedQuestion> = [
        ("Human: Is it?\n\nAssistant:", [" Yes", " No"]),
        ("Would you say \"é 🙂\"?\n (A) Yes\n (B) No\n\nAnswer:", [" (A)", " (B)"]),
        ("ends with a space ", [" Yes", " No"]),
    ]
    .into_iter()
    .map(|(prompt, answers)| asked(prompt, answers))
    .collect();
    let found = endpoint.answers(&questions, &|_| ()).unwrap();
    let expected = local.answers(&questions, &|_| ()).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.how, How::Exact);
        let near = found.log_probs.iter().zip(&expected.log_probs).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(near, "{found:?}, expected {expected:?}");
    }
    assert_eq!(endpoint.name(), "tiny");
    // It tells which weights it has, so that others' answers are not taken for its own.
    let folder = tempfile::tempdir().unwrap();
    let caching = Endpoint::open(&format!("http://{address}/v1"), &config(Some(folder.path()))).unwrap();
    caching.answers(&questions[..1], &|_| ()).unwrap();
    assert!(caching.client.tells_weights());
    // At temperature 0 both write the same; at 1 the same seed gives the same.
    let prompts = [Prompt::Text("Human: Is".to_owned()), Prompt::Text("No".to_owned())];
    let greedy = Sampling { temperature: 0.0, max_new_tokens: 12, stop: vec!["s".to_owned()], ..Sampling::default() };
    let write = |model: &dyn Model, sampling: &Sampling| model.write(&prompts, sampling, 0, &|_| ()).unwrap();
    assert_eq!(write(&endpoint, &greedy), write(&local, &greedy));
    let drawn = Sampling { seed: 4, max_new_tokens: 12, ..Sampling::default() };
    assert_eq!(write(&endpoint, &drawn), write(&endpoint, &drawn));
    assert_eq!(write(&endpoint, &drawn)[0], write(&local, &drawn)[0]);
    stop.store(true, Ordering::Relaxed);
    assert!(serving.join().unwrap() > 10);
}
