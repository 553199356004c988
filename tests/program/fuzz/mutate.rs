//! Seeded mutations: bytes, numbers, JSON by its structure, and the containers that files come in.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;

/// What a file is made of: what can be changed so that a reader gets further than its first line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text without a structure that is known here.
    Text,
    /// One JSON document.
    Json,
    /// A JSON document a line.
    Lines,
    /// `safetensors`: the length of a header, the header in JSON, and arrays.
    Tensors,
    /// Lines of JSON, compressed.
    Gz,
    /// A request: a head, an empty line, and a body in JSON.
    Http,
}

/// Splitmix64: the same stream on every machine, and in every version of every crate.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64, name: &str, index: u64) -> Self {
        let of_name = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let mut rng = Self(seed ^ of_name.rotate_left(17) ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is 1 or more.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap_or(0)
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Values that programs trip over, as JSON.
const VALUES: &[&str] = &[
    "null", "true", "false", "0", "-0.0", "1", "-1", "2", "0.5", "-2147483648", "2147483647", "2147483648",
    "4294967296", "9007199254740993", "9223372036854775807", "9223372036854775808", "18446744073709551615",
    "18446744073709551616", "1e19", "1e308", "-1e308", "1e-320", "1e999", "NaN", "Infinity", "-Infinity", "\"\"",
    "\" \"", "\"NaN\"", "\"\\u0000\"", "\"\\ud800\"", "\"\u{feff}\"", "\"/\"", "\"/dev/zero\"", "\"..\"", "\".\"",
    "\"a\\nb\"", "[]", "{}", "[[]]", "[null]", "[0]", "[1,2,3]", "{\"a\":1}", "1000000", "100000000", "65536", "1e6",
    "3.0", "\"1\"",
];

/// Numbers for places where only a number can stand.
const NUMBERS: &[&str] = &[
    "0", "-1", "1", "2", "3", "255", "65536", "1000000", "2147483648", "4294967295", "9223372036854775807",
    "9223372036854775808", "18446744073709551616", "1e308", "-1e308", "1e-40", "1e999", "nan", "inf", "-inf", "0.0",
    "1.5",
];

/// Another version of a file. `all` are the files that there are, to take parts from.
pub(crate) fn mutated(rng: &mut Rng, kind: Kind, base: &[u8], all: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = base.to_vec();
    // Some changes change nothing.
    for _ in 0..8 {
        if bytes != base {
            break;
        }
        bytes = changed(rng, kind, base, all);
    }
    bytes
}

fn changed(rng: &mut Rng, kind: Kind, base: &[u8], all: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = base.to_vec();
    // Mostly one change: several hide behind the first.
    let changes = 1 + [0, 0, 0, 0, 1, 1, 2, 5][rng.below(8)];
    for _ in 0..changes {
        bytes = match (kind, rng.below(8)) {
            (Kind::Json, 0..6) => json(rng, &bytes),
            (Kind::Lines, 0..6) => line(rng, &bytes),
            (Kind::Tensors, 0..5) => header(rng, &bytes),
            (Kind::Tensors, 5..7) => numbers_of(rng, &bytes),
            (Kind::Gz, 0..6) => compressed(rng, &bytes),
            (Kind::Http, 0..5) => body(rng, &bytes),
            (Kind::Text, 0..4) => number_in(rng, &bytes),
            _ => raw(rng, &bytes, all),
        };
    }
    bytes.truncate(1 << 20);
    bytes
}

/// Bytes turned, cut out, doubled, put in, or taken from another file.
fn raw(rng: &mut Rng, bytes: &[u8], all: &[Vec<u8>]) -> Vec<u8> {
    let mut found = bytes.to_vec();
    if found.is_empty() {
        found.push(0);
    }
    let at = rng.below(found.len());
    let end = (at + 1 + rng.below(32)).min(found.len());
    match rng.below(10) {
        0 => found[at] ^= 1 << rng.below(8),
        1 => {
            found[at] = *rng.pick(&[0, 0xff, b'\n', b'\r', b'"', b'{', b'[', b'}', b'-', b'9', 0x80, b' ', b'<', b'%']);
        }
        2 => found.truncate(at),
        3 => drop(found.drain(at..end)),
        4 => {
            let copy = found[at..end].to_vec();
            found.splice(at..at, copy.iter().cycle().take(copy.len() * (1 + rng.below(200))).copied());
        }
        5 => drop(found.splice(at..at, rng.pick(VALUES).bytes())),
        6 => drop(found.splice(at..end, rng.next().to_le_bytes())),
        7 => {
            let other = rng.pick(all);
            let from = rng.below(other.len());
            found.truncate(at);
            found.extend_from_slice(other.get(from..).unwrap_or_default());
        }
        8 => found = number_in(rng, &found),
        _ => {
            // A line twice, or in another's place.
            let text = found.clone();
            let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
            let (mut order, one, other) = (lines.clone(), rng.below(lines.len()), rng.below(lines.len()));
            match rng.below(3) {
                0 => order.insert(one, lines[other]),
                1 => order.swap(one, other),
                _ => drop(order.remove(one)),
            }
            found = order.concat();
        }
    }
    found
}

/// A number in a text becomes another one.
fn number_in(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let is_part = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+');
    let starts: Vec<usize> =
        (0..bytes.len()).filter(|&i| bytes[i].is_ascii_digit() && (i == 0 || !is_part(bytes[i - 1]))).collect();
    let Some(&start) = starts.get(rng.below(starts.len())) else { return raw_bit(rng, bytes) };
    let end = (start..bytes.len()).find(|&i| !is_part(bytes[i])).unwrap_or(bytes.len());
    [&bytes[..start], rng.pick(NUMBERS).as_bytes(), &bytes[end..]].concat()
}

fn raw_bit(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut found = bytes.to_vec();
    if !found.is_empty() {
        let at = rng.below(found.len());
        found[at] ^= 1 << rng.below(8);
    }
    found
}

/// Stands in a document where text is to stand that no JSON value is.
const RAW: &str = "@raw@";

/// A document with one of its values, keys or lists changed.
fn json(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return raw_bit(rng, bytes) };
    let mut paths = Vec::new();
    walk(&value, &mut Vec::new(), &mut paths);
    let path = rng.pick(&paths).clone();
    let from = rng.pick(&paths).clone();
    let other = at(&mut value, &from).clone();
    let place = at(&mut value, &path);
    let mut written = rng.pick(VALUES).to_string();
    match (rng.below(12), place) {
        (0..3, place) => *place = RAW.into(),
        (3, place) => *place = other,
        (4, place) => {
            let depth = [10, 100, 126, 127, 128, 1000, 20_000][rng.below(7)];
            let (open, close) = *rng.pick(&[("[", "]"), ("{\"a\":", "}")]);
            written = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            *place = RAW.into();
        }
        (5, Value::Object(object)) if !object.is_empty() => {
            let key = rng.pick(&object.keys().cloned().collect::<Vec<_>>()).clone();
            object.shift_remove(&key);
        }
        // The same key twice.
        (6, Value::Object(object)) if !object.is_empty() => {
            let key = rng.pick(&object.keys().cloned().collect::<Vec<_>>()).clone();
            let doubled = if rng.below(2) == 0 { object[&key].clone() } else { RAW.into() };
            object.insert(format!("@twice@{key}"), doubled);
        }
        (7, Value::Object(object)) if !object.is_empty() => {
            let key = rng.pick(&object.keys().cloned().collect::<Vec<_>>()).clone();
            let moved = object.shift_remove(&key).unwrap_or_default();
            object.insert([&key, "_", "x"].concat(), moved);
        }
        (8, Value::Array(list)) if !list.is_empty() => {
            let times = [0, 1, 2, 3, 300][rng.below(5)];
            let many: Vec<Value> = std::iter::repeat_n(list.clone(), times).flatten().take(100_000).collect();
            *list = many;
        }
        (9, Value::Array(list)) if !list.is_empty() => drop(list.remove(rng.below(list.len()))),
        // A document within a string, as the header of our own archives has.
        (10, Value::String(text)) => match text.starts_with(['{', '[']) {
            true => *text = String::from_utf8_lossy(&json(rng, text.as_bytes())).into_owned(),
            false => *text = text.repeat([0, 2, 1000][rng.below(3)]).chars().take(200_000).collect(),
        },
        (11, place @ Value::Number(_)) => {
            let near = place.as_f64().unwrap_or(0.0) + [-1.0, 1.0, 0.5][rng.below(3)];
            *place = serde_json::Number::from_f64(near).map_or(Value::Null, Value::Number);
            if near.fract() == 0.0 && near.abs() < 1e15 {
                *place = Value::from(near as i64);
            }
        }
        (_, place) => *place = RAW.into(),
    }
    let text = serde_json::to_string(&value).unwrap_or_default();
    text.replace("\"@twice@", "\"").replace(&format!("\"{RAW}\""), &written).into_bytes()
}

#[derive(Clone)]
enum Step {
    Key(String),
    Index(usize),
}

fn walk(value: &Value, path: &mut Vec<Step>, all: &mut Vec<Vec<Step>>) {
    all.push(path.clone());
    let mut visit = |step: Step, value: &Value| {
        path.push(step);
        walk(value, path, all);
        path.pop();
    };
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| visit(Step::Key(key.clone()), value)),
        // Of long lists the beginning: all their values are alike.
        Value::Array(list) => list.iter().take(40).enumerate().for_each(|(i, value)| visit(Step::Index(i), value)),
        _ => {}
    }
}

fn at<'a>(value: &'a mut Value, path: &[Step]) -> &'a mut Value {
    path.iter().fold(value, |value, step| match step {
        Step::Key(key) => &mut value[key.as_str()],
        Step::Index(i) => &mut value[*i],
    })
}

/// One line of several changed as a document.
fn line(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let full: Vec<usize> = (0..lines.len()).filter(|&i| !lines[i].is_empty()).collect();
    let i = full.get(rng.below(full.len())).copied().unwrap_or(0);
    lines[i] = json(rng, &lines[i]);
    lines.join(&b'\n')
}

/// The header of a file of tensors: changed, with its own length or another one.
fn header(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.get(..8).and_then(|head| head.try_into().ok()).map_or(0, u64::from_le_bytes);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (Some(header), Some(rest)) = (
        length.checked_add(8).and_then(|end| bytes.get(8..end)),
        length.checked_add(8).and_then(|end| bytes.get(end..)),
    ) else {
        return raw_bit(rng, bytes);
    };
    let header = match rng.below(6) {
        0 => number_in(rng, header),
        1..3 => json(rng, header),
        _ => state(rng, header),
    };
    let length = match rng.below(12) {
        0 => rng.next(),
        1 => u64::MAX,
        2 => 1 << 40,
        3 => header.len() as u64 + 1,
        _ => header.len() as u64,
    };
    [&length.to_le_bytes(), header.as_slice(), rest].concat()
}

/// The document within the header that our own archives keep their state in.
fn state(rng: &mut Rng, header: &[u8]) -> Vec<u8> {
    let mut value = serde_json::from_slice::<Value>(header).unwrap_or_default();
    match value.pointer_mut("/__metadata__/pairwise") {
        Some(Value::String(text)) => *text = String::from_utf8_lossy(&json(rng, text.as_bytes())).into_owned(),
        _ => return json(rng, header),
    }
    value.to_string().into_bytes()
}

/// Numbers among the tensors that are none, or huge.
fn numbers_of(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut found = bytes.to_vec();
    let header = bytes.get(..8).and_then(|head| head.try_into().ok()).map_or(0, u64::from_le_bytes);
    let from = usize::try_from(header).unwrap_or(usize::MAX).saturating_add(8);
    if from.saturating_add(4) <= found.len() {
        for _ in 0..=rng.below(4) {
            let at = from + 4 * rng.below((found.len() - from) / 4);
            let number =
                *rng.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e18, f32::MIN_POSITIVE, -0.0]);
            found[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
    }
    found
}

/// What a compressed file holds changed, and compressed again; or many lines of nothing.
fn compressed(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    if MultiGzDecoder::new(bytes).take(1 << 22).read_to_end(&mut text).is_err() {
        return raw_bit(rng, bytes);
    }
    let text = match rng.below(20) {
        0 => vec![b'\n'; 1 << 22],
        1 => vec![b'a'; 1 << 22],
        _ => line(rng, &text),
    };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&text).and_then(|()| encoder.finish()).unwrap_or_default()
}

/// The body of a request changed, with its length told right, mostly.
fn body(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return raw_bit(rng, bytes) };
    let body = json(rng, body.as_bytes());
    let length = if rng.below(10) == 0 { rng.pick(NUMBERS).to_string() } else { body.len().to_string() };
    let head: Vec<String> = head
        .lines()
        .map(|line| match line.to_ascii_lowercase().starts_with("content-length") {
            true => format!("Content-Length: {length}"),
            false => line.to_owned(),
        })
        .collect();
    [head.join("\r\n").as_bytes(), b"\r\n\r\n", &body].concat()
}
