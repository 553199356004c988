//! `lm serve` as its clients see it: plain HTTP against the binary.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json as object};

use crate::common::{command, json, pairwise, refused, stderr};

/// A language model of 30,000 parameters after four steps.
const TINY: &[&str] = &[
    "lm", "pretrain", "--size", "30k", "--texts", "200", "--vocab-size", "300", "--steps", "4", "--set",
    "train.batch_size=8", "--set", "pretrain.context=128", "--out", "tiny",
];

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const JSON: &str = "Content-Type: application/json\r\n";

/// A server, which ends with the test.
struct Served {
    child: Child,
    address: String,
    out: BufReader<std::process::ChildStdout>,
}

impl Served {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let arguments = [&["lm", "serve", "--model", "tiny/model", "--port", "0"], more].concat();
        Self::of(command(folder, &arguments))
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("serving tiny at http://").and_then(|rest| rest.strip_suffix("/v1"));
        let address = address.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { child, address, out }
    }

    /// Sends bytes, and returns the status and the body of the answer.
    fn raw(&self, request: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status, if is_chunked { unchunked(body) } else { body.to_owned() })
    }

    /// Sends bytes, keeps the connection, and returns the head of the answer in lower case and what comes behind it within
    /// its length.
    fn kept(&self, request: &[u8]) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).expect("an answer in time") > 0, "{head}");
        }
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap_or("0").parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.raw(&request("GET", path, "", ""));
        (status, serde_json::from_str(&body).unwrap())
    }

    fn send(&self, path: &str, body: &str) -> (u16, String) {
        self.raw(&request("POST", path, JSON, body))
    }

    /// What a good request is answered with.
    fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.send(path, &body.to_string());
        assert_eq!(status, 200, "{body}: {answer}");
        serde_json::from_str(&answer).unwrap()
    }

    /// The objects of a stream, without the last word.
    fn stream(&self, path: &str, mut body: Value) -> Vec<Value> {
        body["stream"] = true.into();
        let (status, answer) = self.send(path, &body.to_string());
        assert_eq!(status, 200, "{body}: {answer}");
        let events: Vec<&str> =
            answer.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
        let (last, others) = events.split_last().unwrap();
        assert_eq!(*last, "[DONE]");
        others.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    fn refused(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, answer) = self.send(path, &body.to_string());
        (status, serde_json::from_str::<Value>(&answer).unwrap()["error"].take())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A request with further lines of its head, after which the connection is closed.
fn request(method: &str, path: &str, lines: &str, body: &str) -> Vec<u8> {
    let lines = format!("Host: localhost\r\nConnection: close\r\n{lines}");
    format!("{method} {path} HTTP/1.1\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body += &after[..length];
        rest = &after[length + 2..];
    }
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

#[test]
fn a_served_model_says_what_it_says_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    json(folder, TINY);
    let server = Served::start(folder, &["--threads", "2"]);
    assert_eq!(server.get("/health"), (200, object!({"status": "ok"})));
    let models = server.get("/v1/models").1;
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&object!("list"), &object!("tiny")));
    assert_eq!(server.get("/v1/models/tiny").1["id"], "tiny");
    // Which weights it is, as answers say it.
    let fingerprint = &server.post(COMPLETIONS, &object!({"prompt": "a", "max_tokens": 1}))["system_fingerprint"];
    assert!(fingerprint.as_str().is_some_and(|fingerprint| fingerprint.len() == 64), "{fingerprint}");
    assert_eq!(&models["data"][0]["fingerprint"], fingerprint);
    assert_eq!(&server.get("/v1/models/tiny").1["fingerprint"], fingerprint);
    assert_eq!(models["data"][0]["fingerprint"].as_str().map(str::len), Some(64));

    // Log-probabilities of a text that is repeated are those of `lm score`.
    let (prompt, completion) = ("This film", " was a great caf\u{e9}, and I liked it.");
    fs::write(folder.join("rows.jsonl"), format!("{}\n", object!({"prompt": prompt, "completion": completion})))
        .unwrap();
    let scored = pairwise(folder, &["lm", "score", "--model", "tiny/model", "--data", "rows.jsonl", "--per-token"]);
    let scored: Value = serde_json::from_str(&String::from_utf8(scored.stdout).unwrap()).unwrap();
    let expected = numbers(&scored["token_logprobs"]);
    let whole = format!("{prompt}{completion}");
    let body = object!({"prompt": whole, "max_tokens": 0, "echo": true, "logprobs": 3});
    let told = server.post(COMPLETIONS, &body);
    assert_eq!(text(&told), whole);
    let log_probs = &told["choices"][0]["logprobs"];
    let tokens: Vec<&str> =
        log_probs["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(tokens.concat(), whole);
    assert_eq!((&log_probs["token_logprobs"][0], &log_probs["top_logprobs"][0]), (&Value::Null, &Value::Null));
    let found = numbers(&log_probs["token_logprobs"]);
    let end = &found[found.len() - expected.len()..];
    assert!(end.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4), "{end:?}, expected {expected:?}");
    let mut offset = 0;
    for (token, at) in tokens.iter().zip(log_probs["text_offset"].as_array().unwrap()) {
        assert_eq!(at, offset, "{token:?}");
        offset += token.chars().count();
    }
    for (i, likeliest) in log_probs["top_logprobs"].as_array().unwrap().iter().enumerate().skip(1) {
        let likeliest = likeliest.as_object().unwrap();
        assert!((1..=4).contains(&likeliest.len()), "{likeliest:?}");
        assert_eq!(likeliest[tokens[i]], log_probs["token_logprobs"][i]);
    }
    assert_eq!(told["usage"]["prompt_tokens"], tokens.len());
    assert_eq!(told["usage"]["completion_tokens"], 0);

    // A chat is written as "hh", and has no token that begins a text.
    let chat = object!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1});
    let plain = object!({"prompt": "\n\nHuman: Hello\n\nAssistant:", "max_tokens": 1});
    let tokens_of = |path: &str, body: &Value| server.post(path, body)["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(tokens_of(CHAT, &chat) + 1, tokens_of(COMPLETIONS, &plain));

    // Greedy text is that of `lm sample`.
    let arguments =
        ["lm", "sample", "--model", "tiny/model", "--prompt", prompt, "--temperature", "0", "--max-new-tokens", "30"];
    let sampled = String::from_utf8(pairwise(folder, &arguments).stdout).unwrap();
    let greedy = object!({"prompt": prompt, "max_tokens": 30, "temperature": 0, "logprobs": 0});
    let answer = server.post(COMPLETIONS, &greedy);
    assert_eq!(format!("{prompt}{}\n", text(&answer)), sampled);
    // The likeliest token is the one that was written, and its text is part of the whole.
    let top = object!({"prompt": prompt, "max_tokens": 30, "temperature": 0, "logprobs": 1});
    let top = server.post(COMPLETIONS, &top);
    for (chosen, likeliest) in numbers(&top["choices"][0]["logprobs"]["token_logprobs"])
        .iter()
        .zip(top["choices"][0]["logprobs"]["top_logprobs"].as_array().unwrap())
    {
        let best = likeliest.as_object().unwrap().values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
        assert_eq!(best, *chosen);
    }
    // What is told of written tokens is what is told when they are read again.
    let again = object!({"prompt": format!("{prompt}{}", text(&answer)), "max_tokens": 0, "echo": true, "logprobs": 0});
    let again = server.post(COMPLETIONS, &again);
    let (told, read) = (&answer["choices"][0]["logprobs"], &again["choices"][0]["logprobs"]);
    if again["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] {
        let (told, read) = (numbers(&told["token_logprobs"]), numbers(&read["token_logprobs"]));
        assert!(told.iter().rev().zip(read.iter().rev()).all(|(a, b)| (a - b).abs() < 1e-4), "{told:?} {read:?}");
    }
}

#[test]
fn streams_seeds_stops_and_chats() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    json(folder, TINY);
    // With the token that begins a text, as completions have it.
    let template = "{{ bos_token }}{% for message in messages %}{{ message.content }}\
                    {% if not loop.last %}|{% endif %}{% endfor %}";
    fs::write(folder.join("joined.jinja"), template).unwrap();
    let server = Served::start(folder, &["--chat-template", "joined.jinja"]);

    let drawn =
        object!({"prompt": ["This", "A film"], "max_tokens": 40, "seed": 5, "n": 2, "top_p": 0.9, "temperature": 1.2});
    let whole = server.post(COMPLETIONS, &drawn);
    let texts = |answer: &Value| -> Vec<String> {
        answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
    };
    let expected = texts(&whole);
    assert_eq!(expected.len(), 4);
    assert_ne!(expected[0], expected[1]);
    // The same seed gives the same texts, also while others are written, and in pieces.
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..4).map(|_| scope.spawn(|| texts(&server.post(COMPLETIONS, &drawn)))).collect();
        let mut joined = vec![String::new(); 4];
        let mut counted = drawn.clone();
        counted["stream_options"] = object!({"include_usage": true});
        let events = server.stream(COMPLETIONS, counted);
        let (usage, events) = events.split_last().unwrap();
        assert_eq!((&usage["usage"], &usage["choices"]), (&whole["usage"], &object!([])));
        let mut reasons = 0;
        for event in events {
            let choice = &event["choices"][0];
            joined[usize::try_from(choice["index"].as_u64().unwrap()).unwrap()] += choice["text"].as_str().unwrap();
            reasons += usize::from(choice["finish_reason"].is_string());
        }
        assert_eq!((&joined, reasons), (&expected, 4));
        assert!(others.into_iter().all(|other| other.join().unwrap() == expected));
    });
    let mut other = drawn.clone();
    other["seed"] = 6.into();
    assert_ne!(texts(&server.post(COMPLETIONS, &other)), expected);

    // A stop text ends a text before it, whole or in pieces.
    let first = &expected[0];
    let stop: String = first.chars().skip(first.chars().count() / 2).take(3).collect();
    let before = &first[..first.find(&stop).unwrap()];
    let mut stopped = drawn.clone();
    stopped["stop"] = object!([stop, "never in there"]);
    let answer = server.post(COMPLETIONS, &stopped);
    assert_eq!((text(&answer), &answer["choices"][0]["finish_reason"]), (before, &object!("stop")));
    let events = server.stream(COMPLETIONS, stopped);
    let own = events.iter().map(|event| &event["choices"][0]).filter(|choice| choice["index"] == 0);
    assert_eq!(own.map(|choice| choice["text"].as_str().unwrap()).collect::<String>(), before);

    // Tokens as ids, and prompts that are repeated in a stream.
    let ids = object!({"prompt": [40, 41, 42], "max_tokens": 5, "seed": 1, "echo": true});
    let answer = server.post(COMPLETIONS, &ids);
    let events = server.stream(COMPLETIONS, ids);
    assert_eq!(events.iter().map(text).collect::<String>(), text(&answer));
    assert_eq!(answer["usage"]["prompt_tokens"], 3);

    // Chats.
    let messages = object!([{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]);
    let chat = object!({
        "messages": messages, "max_tokens": 12, "seed": 2, "logprobs": true, "top_logprobs": 2, "model": "tiny",
    });
    let answer = server.post(CHAT, &chat);
    assert_eq!(answer["object"], "chat.completion");
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
    // As the template writes it, a completion reads it.
    let plain = object!({"prompt": "Be short.|Hello", "max_tokens": 12, "seed": 2, "logprobs": 2});
    let plain = server.post(COMPLETIONS, &plain);
    assert_eq!(text(&plain), content);
    let told = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let of = |name: &str| told.iter().map(|token| token[name].clone()).collect::<Vec<Value>>();
    assert_eq!(object!(of("logprob")), plain["choices"][0]["logprobs"]["token_logprobs"]);
    let bytes = |token: &Value| serde_json::from_value::<Option<Vec<u8>>>(token["bytes"].clone()).unwrap();
    let own: Vec<u8> = told.iter().filter_map(bytes).flatten().collect();
    assert_eq!(String::from_utf8_lossy(&own), content);
    let added = plain["choices"][0]["logprobs"]["tokens"].as_array().unwrap();
    assert_eq!(added.len(), told.len());
    for (token, added) in told.iter().zip(added) {
        let name = token["token"].as_str().unwrap();
        match bytes(token).map(String::from_utf8) {
            // What a whole character is by itself it adds, unless what came before was none.
            Some(Ok(text)) => {
                assert_eq!(name, text);
                assert!(added.as_str().unwrap().ends_with(name), "{token}, {added}");
            }
            Some(Err(part)) => {
                let written: String = part.as_bytes().iter().map(|byte| format!("\\x{byte:02x}")).collect();
                assert_eq!(name, written);
            }
            None => assert_eq!(added, ""),
        }
    }
    assert!(told.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
    for with_log_probs in [true, false] {
        let mut chat = chat.clone();
        if !with_log_probs {
            (chat["logprobs"], chat["top_logprobs"]) = (false.into(), Value::Null);
        }
        let events = server.stream(CHAT, chat);
        assert_eq!(events[0]["object"], "chat.completion.chunk");
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        let pieces = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
        assert_eq!(pieces.collect::<String>(), content);
        let told: Vec<&Value> =
            events.iter().flat_map(|event| event["choices"][0]["logprobs"]["content"].as_array()).flatten().collect();
        assert_eq!(told.len(), if with_log_probs { of("token").len() } else { 0 });
    }

    // HTTP/1.0 knows no chunks, and needs no name of the machine: its streams end with the connection.
    let short = object!({"prompt": "This", "max_tokens": 5, "seed": 1, "stream": true}).to_string();
    let old = |more: &str| {
        let length = short.len();
        let head = format!("POST {COMPLETIONS} HTTP/1.0\r\n{JSON}{more}Content-Length: {length}\r\n\r\n");
        (head + &short).into_bytes()
    };
    let texts_of = |events: &str| -> String {
        let events = events.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: {"));
        events.map(|event| text(&serde_json::from_str(&format!("{{{event}")).unwrap()).to_owned()).collect()
    };
    let mut ended = [String::new(), String::new()];
    for (more, ended) in ["", "Connection: keep-alive\r\n"].into_iter().zip(&mut ended) {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(&old(more)).unwrap();
        stream.read_to_string(ended).unwrap();
        assert!(ended.ends_with("data: [DONE]\n\n") && !ended.contains("chunked"), "{ended}");
    }
    let [closed, kept] = ended.map(|ended| texts_of(ended.split_once("\r\n\r\n").unwrap().1));
    assert_eq!((&kept, kept.is_empty()), (&closed, false));
    // An answer that is no stream has a length, also there.
    let whole = object!({"prompt": "This", "max_tokens": 5, "seed": 1}).to_string();
    let length = whole.len();
    let whole = format!("POST {COMPLETIONS} HTTP/1.0\r\n{JSON}Content-Length: {length}\r\n\r\n{whole}");
    let (head, body) = server.kept(whole.as_bytes());
    assert!(head.contains("content-length: "), "{head}");
    assert_eq!(text(&serde_json::from_str(&body).unwrap()), closed);
    // A client that offers another protocol gets its answer by this one.
    let short = object!({"prompt": "This", "max_tokens": 5}).to_string();
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let offer = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\n{JSON}{upgrade}Content-Length: {}\r\n\r\n{short}",
        short.len()
    );
    let head = server.kept(offer.as_bytes()).0;
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");

    // A client that goes away in the middle of a stream holds nothing up.
    let body = object!({"prompt": "This", "max_tokens": 100, "stream": true, "n": 64}).to_string();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(&request("POST", COMPLETIONS, JSON, &body)).unwrap();
        stream.read_exact(&mut [0; 64]).unwrap();
    }
    assert_eq!(server.get("/health").0, 200);
}

#[test]
fn bad_requests_are_named_and_ctrl_c_ends_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    json(folder, TINY);
    let mut server = Served::start(folder, &["--chat-template", "chatml"]);
    let cases: &[(&str, Value, u16, &str, &str)] = &[
        (
            COMPLETIONS,
            object!({"prompt": "a", "temperature": "hot"}),
            400,
            "temperature",
            "must be a number of at least 0",
        ),
        (COMPLETIONS, object!({"prompt": "a", "max_tokens": 128}), 400, "prompt", "context of 128 tokens"),
        (COMPLETIONS, object!({"prompt": [5, 100_000]}), 400, "prompt", "there is no token 100000: must be below"),
        (COMPLETIONS, object!({"prompt": "a", "model": "gpt-4"}), 404, "model", "there is only \"tiny\" here"),
        (COMPLETIONS, object!({"prompt": "a", "suffix": "b"}), 400, "suffix", "does not support it"),
        (COMPLETIONS, object!({"prompt": "a", "stream": true, "top_p": 2}), 400, "top_p", "above 0 and at most 1"),
        (COMPLETIONS, object!({}), 400, "prompt", "prompt is missing"),
        (CHAT, object!({"messages": "hello"}), 400, "messages", "must be a list of turns"),
        (CHAT, object!({"messages": [{"role": "user", "content": "a"}], "tools": [{}]}), 400, "tools", "support"),
    ];
    for (path, body, status, param, message) in cases {
        let (found, error) = server.refused(path, body);
        assert_eq!((found, &error["param"]), (*status, &object!(param)), "{body}: {error}");
        assert!(error["message"].as_str().unwrap().contains(message), "{body}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    assert_eq!(server.send(COMPLETIONS, "{").0, 400);
    assert_eq!(server.send(COMPLETIONS, "\u{0}").0, 400);
    assert_eq!(server.send("/v1/embeddings", "{}").0, 404);
    assert_eq!(server.get(COMPLETIONS).0, 405);
    assert_eq!(server.send("/v1/models", "{}").0, 405);
    let large = format!("{{\"prompt\": \"{}\"}}", "x".repeat(17 << 20));
    assert_eq!(server.send(COMPLETIONS, &large).0, 413);
    let mut chunks =
        format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n");
    chunks += &format!("100000\r\n{}\r\n", "x".repeat(1 << 20)).repeat(5);
    assert!(server.kept(chunks.as_bytes()).0.starts_with("http/1.1 413 "));
    // What is too large is told before it comes, also where it claims more than there is memory.
    for length in ["17000000", "2000000000", "99999999999999"] {
        let head =
            format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: {length}\r\n\r\n{{");
        let head = server.kept(head.as_bytes()).0;
        assert!(head.starts_with("http/1.1 413 "), "{length}: {head}");
    }
    let (found, error) = server.refused(COMPLETIONS, &object!({"prompt": "x".repeat(40_000)}));
    assert_eq!((found, &error["code"]), (400, &object!("context_length_exceeded")), "{error}");
    // Bytes that are no request, half a request, and one that claims to be without end.
    let garbage: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999\r\n\r\n{",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ];
    for bytes in garbage {
        TcpStream::connect(&server.address).unwrap().write_all(bytes).unwrap();
    }
    assert_eq!(server.post(COMPLETIONS, &object!({"prompt": "", "max_tokens": 3}))["usage"]["prompt_tokens"], 1);

    let status = Command::new("kill").args(["-INT", &server.child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let status = server.child.wait().unwrap();
    let (mut rest, mut errors) = (String::new(), String::new());
    server.out.read_to_string(&mut rest).unwrap();
    server.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(rest.starts_with("stopped after "), "{rest:?}");
    assert!(!errors.contains("panicked"), "{errors}");
}

/// The most that a program may have open: the last connection fails.
#[test]
#[cfg(unix)]
fn more_connections_than_the_system_allows_end_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    json(folder, TINY);
    for limit in [64, 65] {
        let binary = command(folder, &[]).get_program().to_owned();
        let mut shell = Command::new("sh");
        shell.current_dir(folder).arg("-c").arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\"")).arg(binary);
        shell.args(["lm", "serve", "--model", "tiny/model", "--port", "0"]);
        let mut server = Served::of(shell);
        let idle: Vec<TcpStream> = (0..limit).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
        std::thread::sleep(Duration::from_secs(2));
        assert!(server.child.try_wait().unwrap().is_none(), "{limit}: it has ended");
        drop(idle);
        let began = Instant::now();
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut start = [0; 15];
        stream.read_exact(&mut start).unwrap_or_else(|error| panic!("{limit}: {error} after {:?}", began.elapsed()));
        assert_eq!(&start, b"HTTP/1.1 200 OK");
    }
}

/// What a browser sends for a page of somebody else, and who has no key.
#[test]
fn only_who_may_is_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    json(folder, TINY);
    let key = "sk-4f1c9a77";
    let arguments =
        ["lm", "serve", "--model", "tiny/model", "--port", "0", "--api-key", "--allow-origin", "https://chat.example"];
    let mut server = command(folder, &arguments);
    server.env("PAIRWISE_API_KEY", key);
    let mut server = Served::of(server);
    let body = object!({"prompt": "a", "max_tokens": 1}).to_string();
    let bearer = format!("Authorization: Bearer {key}\r\n");
    let post = |lines: &str| {
        let (status, answer) = server.raw(&request("POST", COMPLETIONS, lines, &body));
        (status, serde_json::from_str::<Value>(&answer).unwrap())
    };
    let fine = format!("{JSON}{bearer}");
    assert_eq!(post(&fine).0, 200);
    for (lines, status, code) in [
        (JSON.to_owned(), 401, "invalid_api_key"),
        (format!("{JSON}Authorization: Bearer sk-4f1c9a78\r\n"), 401, "invalid_api_key"),
        (bearer.clone(), 415, "unsupported_media_type"),
        (format!("{bearer}Content-Type: text/plain\r\n"), 415, "unsupported_media_type"),
        (format!("{fine}Content-Encoding: gzip\r\n"), 415, "unsupported_media_type"),
        (format!("{fine}Origin: https://evil.example\r\n"), 403, "forbidden"),
        (format!("{fine}Origin: null\r\n"), 403, "forbidden"),
        (format!("{fine}Origin: https://chat.example\r\n"), 200, ""),
    ] {
        let (found, answer) = post(&lines);
        assert_eq!((found, answer["error"]["code"].as_str().unwrap_or_default()), (status, code), "{lines}: {answer}");
        assert!(!answer.to_string().contains("sk-4f"), "{answer}");
    }
    // A page that has made its name mean this machine.
    let rebound = format!("GET /v1/models HTTP/1.1\r\nHost: evil.example:8080\r\nConnection: close\r\n{bearer}\r\n");
    let (status, answer) = server.raw(rebound.as_bytes());
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("Host") && answer.contains("--allow-host"), "{answer}");
    assert_eq!(server.raw(b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n").0, 400);
    assert_eq!(server.raw(&request("GET", "/v1/models", "", "")).0, 401);
    assert_eq!(server.raw(&request("GET", "/v1/models", &bearer, "")).0, 200);
    assert_eq!(server.get("/health").0, 200);
    // What a browser asks first.
    let asks = "Access-Control-Request-Method: POST\r\nOrigin: https://chat.example\r\n";
    let head = server.kept(&request("OPTIONS", COMPLETIONS, asks, "")).0;
    assert!(head.starts_with("http/1.1 204 "), "{head}");
    assert!(head.contains("access-control-allow-origin: https://chat.example\r\n"), "{head}");
    assert!(head.contains("access-control-allow-headers: authorization, content-type\r\n"), "{head}");
    let asks = asks.replace("chat", "evil");
    assert_eq!(server.raw(&request("OPTIONS", COMPLETIONS, &asks, "")).0, 403);
    // What may be asked for, and without a body.
    let head = server.kept(&request("OPTIONS", COMPLETIONS, "", "")).0;
    assert!(head.starts_with("http/1.1 204 ") && head.contains("allow: post, options\r\n"), "{head}");
    let head = server.kept(&request("DELETE", COMPLETIONS, &bearer, "")).0;
    assert!(head.starts_with("http/1.1 405 ") && head.contains("allow: post, options\r\n"), "{head}");
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(&request("HEAD", "/health", "", "")).unwrap();
    let mut head = String::new();
    stream.read_to_string(&mut head).unwrap();
    assert!(head.contains("content-length: 15\r\n") && head.ends_with("\r\n\r\n"), "{head}");

    server.child.kill().unwrap();
    let (mut rest, mut errors) = (String::new(), String::new());
    server.out.read_to_string(&mut rest).unwrap();
    server.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(!rest.contains(key) && !errors.contains(key), "{rest}{errors}");

    // The key itself in the place of a variable's name is repeated in no message.
    for (given, expected) in
        [("sk-4f1c9a77", "must be the name of an environment variable"), ("NOT_SET_ANYWHERE_7f", "is not set")]
    {
        let message = refused(folder, &["lm", "serve", "--model", "tiny/model", "--api-key", given]);
        assert!(message.contains(expected) && !message.contains(given), "{message}");
    }
    for (option, value) in [("--allow-host", "a/b"), ("--allow-origin", "chat.example"), ("--max-requests", "0")] {
        let message = refused(folder, &["lm", "serve", "--model", "tiny/model", option, value]);
        assert!(message.contains(option) && message.contains(value), "{message}");
    }
}

/// The whole load is `benches/peers/serve_load.py`.
#[test]
fn slow_clients_heads_without_end_and_endless_templates_hurt_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    json(folder, TINY);
    let endless = "{% for a in range(20000) %}{% for b in range(20000) %}{% for c in range(20000) %}{% endfor %}\
                   {% endfor %}{% endfor %}";
    fs::write(folder.join("endless.jinja"), endless).unwrap();
    let server = Served::start(folder, &["--chat-template", "endless.jinja", "--request-seconds", "5"]);
    let slow: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: loc").unwrap();
            stream
        })
        .collect();
    let chat = object!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1});
    std::thread::scope(|scope| {
        let endless: Vec<_> = (0..4).map(|_| scope.spawn(|| server.refused(CHAT, &chat))).collect();
        let heads = scope.spawn(|| {
            let line = format!("X: {}\r\n", "x".repeat(1000));
            for _ in 0..20 {
                let mut stream = TcpStream::connect(&server.address).unwrap();
                stream.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
                // The system takes some of it, the server 32 kB.
                let sent = (0..20_000).take_while(|_| stream.write_all(line.as_bytes()).is_ok()).count();
                assert!(sent < 20_000, "20 MB of head were taken");
            }
        });
        for _ in 0..10 {
            let begun = Instant::now();
            server.post(COMPLETIONS, &object!({"prompt": "a", "max_tokens": 1}));
            assert_eq!(server.get("/health").0, 200);
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            std::thread::sleep(Duration::from_millis(100));
        }
        heads.join().unwrap();
        for (status, error) in endless.into_iter().map(|chat| chat.join().unwrap()) {
            assert!([400, 503].contains(&status), "{status}: {error}");
        }
    });
    drop(slow);
    if let Ok(status) = fs::read_to_string(format!("/proc/{}/status", server.child.id())) {
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kilobytes: u64 = most.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kilobytes < 200_000, "{kilobytes} kB");
    }
}

#[test]
fn what_cannot_be_served_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(refused(folder, &["lm", "serve", "--model", "absent"]).contains("absent"));
    assert!(refused(folder, &["lm", "serve", "--model", "absent", "--port", "99999"]).contains("99999"));
    json(folder, TINY);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let message = refused(folder, &["lm", "serve", "--model", "tiny/model", "--port", &port]);
    assert!(message.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{message}");
    let message = refused(folder, &["lm", "serve", "--model", "tiny/model", "--chat-template", "alpaca"]);
    assert!(message.contains("no chat template \"alpaca\""), "{message}");
    let row = object!({"prompt": "a", "chosen": " good", "rejected": " bad"});
    fs::write(folder.join("pairs.jsonl"), format!("{row}\n").repeat(8)).unwrap();
    let arguments =
        ["lm", "reward", "--model", "tiny/model", "--data", "pairs.jsonl", "--out", "reward", "--set", "train.steps=1"];
    let made = pairwise(folder, &arguments);
    assert!(made.status.success(), "{}", stderr(&made));
    let message = refused(folder, &["lm", "serve", "--model", "reward/model"]);
    assert!(message.contains("is a reward model, which scores texts and writes none"), "{message}");
}
