//! What Python does with the values of a template: how it writes them, and the methods of texts, lists and dicts.
//!
//! minijinja has most of this. This file has what minijinja does in another way than Jinja, and what it lacks.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use regex::Regex;

/// Deepest nesting of values that are written or read. Python itself stops at about a thousand.
pub(super) const MAX_DEPTH: usize = 200;

/// Most values in a list or dict. Values within others count as often as they would be written.
const MAX_VALUES: usize = 1 << 18;

/// Most bytes of one text that a template may make.
pub(super) const MAX_TEXT: usize = 32 << 20;

/// Most places of a text that is padded, and most items of a range, as in Jinja's sandbox.
const MAX_WIDTH: i64 = 100_000;

/// Characters that `repr` writes as escapes.
static UNPRINTABLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\p{C}\p{Z}]"));
static LETTER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\p{L}"));
static DECIMAL: LazyLock<Regex> = LazyLock::new(|| pattern(r"\p{Nd}"));
static NUMERIC: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\p{N}零〇一二三四五六七八九十百千万億兆]"));
static DIGIT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        "[\\p{Nd}\u{b2}\u{b3}\u{b9}\u{1369}-\u{1371}\u{19da}\u{2070}\u{2074}-\u{2079}\u{2080}-\u{2089}\u{2460}-\u{2468}\
         \u{2474}-\u{247c}\u{2488}-\u{2490}\u{24ea}\u{24f5}-\u{24fd}\u{24ff}\u{2776}-\u{277e}\u{2780}-\u{2788}\
         \u{278a}-\u{2792}]",
    )
});
static IDENTIFIER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[\p{XID_Start}_]\p{XID_Continue}*$"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a constant, valid pattern")
}

pub(super) fn wrong(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// Pays for bytes that a method makes or reads: one unit of fuel for 64 bytes.
pub(super) fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    if bytes > MAX_TEXT {
        return Err(wrong(format!("a text of {bytes} bytes; at most {MAX_TEXT}")));
    }
    state.consume_fuel(1 + bytes as u64 / 64)
}

/// Which view of a dict it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ViewKind {
    Items,
    Keys,
    Values,
}

/// `dict.items()`, `.keys()` and `.values()`: they have a length, but their items cannot be had by number.
#[derive(Debug)]
pub(super) struct View {
    kind: ViewKind,
    items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn get_value(self: &Arc<Self>, _key: &Value) -> Option<Value> {
        Some(Value::UNDEFINED)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            ViewKind::Items => "dict_items",
            ViewKind::Keys => "dict_keys",
            ViewKind::Values => "dict_values",
        };
        let mut out = Limited::default();
        match write_items(&mut out, &self.items, "([", "])", 1) {
            Ok(()) => write!(f, "{name}{}", out.text),
            Err(_) => Err(fmt::Error),
        }
    }
}

/// The result of `map`, `select` and others: it can be iterated over once, has no length, and counts as true.
#[derive(Debug)]
pub(super) struct Generator(Arc<Mutex<VecDeque<Value>>>);

struct Rest(Arc<Mutex<VecDeque<Value>>>);

impl Iterator for Rest {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        (left, Some(left))
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn get_value(self: &Arc<Self>, _key: &Value) -> Option<Value> {
        Some(Value::UNDEFINED)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Iter(Box::new(Rest(Arc::clone(&self.0))))
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<generator object>")
    }
}

/// A generator of these items.
pub(super) fn generator(state: &State<'_, '_>, items: impl IntoIterator<Item = Value>) -> Result<Value, Error> {
    let items: VecDeque<Value> = items.into_iter().collect();
    let mut left = MAX_VALUES;
    items.iter().try_for_each(|item| measure(item, 1, &mut left))?;
    state.consume_fuel(((MAX_VALUES - left) / 16) as u64)?;
    Ok(Value::from_object(Generator(Arc::new(Mutex::new(items)))))
}

/// Checks that a list, tuple or dict holds few enough values to go through. A list that holds another one twice, which
/// holds another one twice, and so on, takes little memory, but writing it would not end.
pub(super) fn small(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let mut left = MAX_VALUES;
    if is_namespace(value) {
        return Ok(());
    }
    measure(value, 0, &mut left)?;
    state.consume_fuel(((MAX_VALUES - left) / 16) as u64)
}

fn measure(value: &Value, depth: usize, left: &mut usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(wrong(format!("values are nested more than {MAX_DEPTH} deep")));
    }
    *left = left.checked_sub(1).ok_or_else(|| wrong(format!("a list or dict of more than {MAX_VALUES} values")))?;
    match value.kind() {
        ValueKind::Map if is_namespace(value) => Err(wrong("a namespace within a list or dict is not supported")),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            measure(&key, depth + 1, left)?;
            measure(&value.get_item(&key)?, depth + 1, left)
        }),
        ValueKind::Seq => value.try_iter()?.try_for_each(|item| measure(&item, depth + 1, left)),
        ValueKind::Iterable if !is_generator(value) => {
            value.try_iter()?.try_for_each(|item| measure(&item, depth + 1, left))
        }
        _ => Ok(()),
    }
}

/// `range(start, stop, step)`.
#[derive(Debug)]
pub(super) struct Range {
    start: i64,
    stop: i64,
    step: i64,
    len: usize,
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = key.as_usize().filter(|&index| index < self.len)?;
        Some(Value::from(self.start + self.step * index as i64))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            1 => write!(f, "range({}, {})", self.start, self.stop),
            step => write!(f, "range({}, {}, {step})", self.start, self.stop),
        }
    }
}

pub(super) fn range(first: i64, second: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, stop) = second.map_or((0, first), |stop| (first, stop));
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(wrong("range: the step is 0"));
    }
    let (span, stride) = (i128::from(stop) - i128::from(start), i128::from(step));
    let len = if span.signum() == stride.signum() { (span.abs() + stride.abs() - 1) / stride.abs() } else { 0 };
    if len > i128::from(MAX_WIDTH) {
        return Err(wrong(format!("range: {len} numbers; at most {MAX_WIDTH}, as in Jinja's sandbox")));
    }
    Ok(Value::from_object(Range { start, stop, step, len: usize::try_from(len).unwrap_or(0) }))
}

/// Whether this is a namespace, which otherwise looks like a map.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"))
}

/// Whether this is a generator, which has no length.
pub(super) fn is_generator(value: &Value) -> bool {
    value.downcast_object_ref::<Generator>().is_some()
}

/// Whether `json.dumps` refuses this value.
fn is_no_json(value: &Value) -> bool {
    is_generator(value)
        || is_namespace(value)
        || value.downcast_object_ref::<View>().is_some()
        || value.downcast_object_ref::<Range>().is_some()
}

/// A text that grows up to a limit.
#[derive(Default)]
struct Limited {
    text: String,
}

impl Limited {
    fn add(&mut self, part: &str) -> Result<(), Error> {
        if self.text.len() + part.len() > MAX_TEXT {
            return Err(wrong(format!("a text of more than {MAX_TEXT} bytes")));
        }
        self.text.push_str(part);
        Ok(())
    }
}

/// `str(value)`.
pub(super) fn str_of(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        _ => {
            let mut out = Limited::default();
            write_repr(&mut out, value, 0)?;
            Ok(out.text)
        }
    }
}

fn write_repr(out: &mut Limited, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(wrong(format!("values are nested more than {MAX_DEPTH} deep")));
    }
    match value.kind() {
        ValueKind::Undefined => out.add("Undefined"),
        ValueKind::None => out.add("None"),
        ValueKind::Bool => out.add(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match float(value) {
            Some(number) => out.add(&float_repr(number)),
            None => out.add(&value.to_string()),
        },
        ValueKind::String => out.add(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Seq if value.downcast_object_ref::<Range>().is_none() => {
            let items: Vec<Value> = value.try_iter()?.collect();
            let (open, close) = match (value.is_tuple(), items.len()) {
                (true, 1) => ("(", ",)"),
                (true, _) => ("(", ")"),
                (false, _) => ("[", "]"),
            };
            write_items(out, &items, open, close, depth + 1)
        }
        ValueKind::Map => {
            let namespace = is_namespace(value);
            out.add(if namespace { "<Namespace {" } else { "{" })?;
            for (i, key) in value.try_iter()?.enumerate() {
                out.add(if i > 0 { ", " } else { "" })?;
                write_repr(out, &key, depth + 1)?;
                out.add(": ")?;
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.add(if namespace { "}>" } else { "}" })
        }
        ValueKind::Iterable if !is_no_json(value) => {
            write_items(out, &value.try_iter()?.collect::<Vec<_>>(), "[", "]", depth + 1)
        }
        _ => out.add(&value.to_string()),
    }
}

fn write_items(out: &mut Limited, items: &[Value], open: &str, close: &str, depth: usize) -> Result<(), Error> {
    out.add(open)?;
    for (i, item) in items.iter().enumerate() {
        out.add(if i > 0 { ", " } else { "" })?;
        write_repr(out, item, depth)?;
    }
    out.add(close)
}

/// The number, if it is a float.
pub(super) fn float(value: &Value) -> Option<f64> {
    if value.kind() != ValueKind::Number || value.is_integer() {
        return None;
    }
    f64::try_from(value.clone()).ok()
}

/// `repr` of a float: the shortest digits that give it back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float_repr(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let shortest = format!("{number:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => {
            let plain = format!("{number}");
            if plain.contains('.') { plain } else { plain + ".0" }
        }
    }
}

/// `repr` of a text.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        let code = u32::from(c);
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if !UNPRINTABLE.is_match(c.encode_utf8(&mut [0; 4])) => out.push(c),
            _ if code < 0x100 => _ = write!(out, "\\x{code:02x}"),
            _ if code < 0x10000 => _ = write!(out, "\\u{code:04x}"),
            _ => _ = write!(out, "\\U{code:08x}"),
        }
    }
    out.push(quote);
    out
}

/// The options of `json.dumps`.
struct Json {
    ensure_ascii: bool,
    indent: Option<String>,
    separators: (String, String),
    sort_keys: bool,
}

/// transformers' own `tojson`: `json.dumps`, without escapes for HTML.
pub(super) fn tojson(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [ensure_ascii, indent, separators, sort_keys] =
        bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"], args)?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(number) => {
            let width = integer("tojson's indent", &number)?.max(0);
            Some(" ".repeat(width_of("tojson's indent", width)?))
        }
    };
    let separators = match separators.filter(|separators| !separators.is_none()) {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(list) => {
            let items: Vec<Value> = list.try_iter()?.collect();
            match &items[..] {
                [item, key] if item.as_str().is_some() && key.as_str().is_some() => (str_of(item)?, str_of(key)?),
                _ => return Err(wrong("tojson: separators are two texts")),
            }
        }
    };
    let json = Json {
        ensure_ascii: ensure_ascii.is_some_and(|value| value.is_true()),
        indent,
        separators,
        sort_keys: sort_keys.is_some_and(|value| value.is_true()),
    };
    let mut out = Limited::default();
    json.write(&mut out, value, 0)?;
    pay(state, out.text.len())?;
    Ok(Value::from(out.text))
}

impl Json {
    fn write(&self, out: &mut Limited, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(wrong(format!("tojson: values are nested more than {MAX_DEPTH} deep")));
        }
        if is_no_json(value) {
            return Err(wrong(format!("tojson cannot write {value}")));
        }
        match value.kind() {
            ValueKind::None => out.add("null"),
            ValueKind::Bool => out.add(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.add(&number(value)),
            ValueKind::String => self.text(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut empty = true;
                for item in value.try_iter()? {
                    out.add(if empty { "[" } else { &self.separators.0 })?;
                    self.new_line(out, depth + 1)?;
                    self.write(out, &item, depth + 1)?;
                    empty = false;
                }
                self.close(out, empty, "[]", depth)
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    if keys.iter().any(|key| key.as_str().is_none()) {
                        return Err(wrong("tojson: sort_keys needs texts as keys"));
                    }
                    keys.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
                }
                let mut empty = true;
                for key in keys {
                    out.add(if empty { "{" } else { &self.separators.0 })?;
                    self.new_line(out, depth + 1)?;
                    match key.kind() {
                        ValueKind::String => self.text(out, key.as_str().unwrap_or_default())?,
                        ValueKind::None => out.add("\"null\"")?,
                        ValueKind::Bool => out.add(if key.is_true() { "\"true\"" } else { "\"false\"" })?,
                        ValueKind::Number => out.add(&format!("\"{}\"", number(&key)))?,
                        other => return Err(wrong(format!("tojson: a key is a {other}"))),
                    }
                    out.add(&self.separators.1)?;
                    self.write(out, &value.get_item(&key)?, depth + 1)?;
                    empty = false;
                }
                self.close(out, empty, "{}", depth)
            }
            other => Err(wrong(format!("tojson cannot write {other}"))),
        }
    }

    fn close(&self, out: &mut Limited, empty: bool, pair: &str, depth: usize) -> Result<(), Error> {
        if empty {
            return out.add(pair);
        }
        self.new_line(out, depth)?;
        out.add(&pair[1..])
    }

    fn new_line(&self, out: &mut Limited, depth: usize) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        out.add("\n")?;
        (0..depth).try_for_each(|_| out.add(indent))
    }

    fn text(&self, out: &mut Limited, text: &str) -> Result<(), Error> {
        let json = serde_json::to_string(text).map_err(|e| wrong(e.to_string()))?;
        if !self.ensure_ascii || (json.is_ascii() && !json.contains('\u{7f}')) {
            return out.add(&json);
        }
        let mut ascii = String::with_capacity(json.len());
        for c in json.chars() {
            if c.is_ascii() && c != '\u{7f}' {
                ascii.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(ascii, "\\u{unit:04x}");
                }
            }
        }
        out.add(&ascii)
    }
}

/// A number as Python's `json` writes it.
fn number(value: &Value) -> String {
    match float(value) {
        Some(number) if number.is_nan() => "NaN".into(),
        Some(number) if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        Some(number) => float_repr(number),
        None => value.to_string(),
    }
}

/// The arguments of a function of Python, given by place or by name.
pub(super) fn bind<const N: usize>(
    function: &str,
    names: [&str; N],
    args: &[Value],
) -> Result<[Option<Value>; N], Error> {
    let (places, kwargs): (&[Value], Kwargs) = from_args(args)?;
    if places.len() > N {
        return Err(wrong(format!("{function} takes at most {N} arguments, not {}", places.len())));
    }
    let mut bound = [const { None }; N];
    for (place, value) in bound.iter_mut().zip(places) {
        *place = Some(value.clone());
    }
    for (place, name) in bound.iter_mut().zip(names) {
        if kwargs.has(name) {
            if place.is_some() {
                return Err(wrong(format!("{function} has {name} twice")));
            }
            *place = Some(kwargs.get::<Value>(name)?);
        }
    }
    kwargs.assert_all_used()?;
    Ok(bound)
}

pub(super) fn integer(what: &str, value: &Value) -> Result<i64, Error> {
    match value.kind() {
        ValueKind::Bool => Ok(i64::from(value.is_true())),
        _ if value.is_integer() => value.as_i64().ok_or_else(|| wrong(format!("{what} is {value}"))),
        other => Err(wrong(format!("{what} is a {other}; expected a whole number"))),
    }
}

/// A width that fits in memory.
pub(super) fn width_of(what: &str, width: i64) -> Result<usize, Error> {
    match usize::try_from(width.max(0)) {
        Ok(width) if width as i64 <= MAX_WIDTH => Ok(width),
        _ => Err(wrong(format!("{what} is {width}; at most {MAX_WIDTH}"))),
    }
}

fn text<'a>(what: &str, value: &'a Value) -> Result<&'a str, Error> {
    value.as_str().ok_or_else(|| wrong(format!("{what} is a {}; expected a text", value.kind())))
}

/// Whether Python's `str.isspace` calls this a space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Methods of texts, lists and dicts. Methods that change a list or a dict are refused, as in Jinja's sandbox.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => text_method(state, value.as_str().unwrap_or_default(), name, args),
        ValueKind::Map if !is_namespace(value) => dict_method(state, value, name, args),
        ValueKind::Seq => list_method(state, value, name, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn list_method(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let is_list = !value.is_tuple() && value.downcast_object_ref::<Range>().is_none();
    match name {
        "count" | "index" => {
            let [what, start, stop] = bind(name, ["value", "start", "stop"], args)?;
            let what = what.ok_or_else(|| wrong(format!("{name} needs a value")))?;
            let items: Vec<Value> = value.try_iter()?.collect();
            pay(state, items.len() * 64)?;
            if name == "count" {
                return Ok(Value::from(items.iter().filter(|item| **item == what).count()));
            }
            let (start, stop) = bounds(items.len(), start.as_ref(), stop.as_ref())?;
            let found = (start..stop).find(|&i| items[i] == what);
            found.map(Value::from).ok_or_else(|| wrong("index: the value is not in the list"))
        }
        "copy" if is_list => {
            let [] = bind(name, [], args)?;
            let items: Vec<Value> = value.try_iter()?.collect();
            pay(state, items.len() * 32)?;
            Ok(Value::from(items))
        }
        "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse" if is_list => {
            Err(wrong(format!("{name} would change a list, which Jinja's sandbox forbids")))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn dict_method(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let view = |kind| -> Result<Value, Error> {
        let [] = bind(name, [], args)?;
        let mut items = Vec::with_capacity(value.len().unwrap_or(0));
        for key in value.try_iter()? {
            items.push(match kind {
                ViewKind::Keys => key,
                ViewKind::Values => value.get_item(&key)?,
                ViewKind::Items => Value::from(Tuple::from([key.clone(), value.get_item(&key)?])),
            });
        }
        pay(state, items.len() * 48)?;
        Ok(Value::from_object(View { kind, items }))
    };
    match name {
        "items" => view(ViewKind::Items),
        "keys" => view(ViewKind::Keys),
        "values" => view(ViewKind::Values),
        "get" => {
            let [key, default] = bind(name, ["key", "default"], args)?;
            let key = key.ok_or_else(|| wrong("get needs a key"))?;
            let found = value.get_item(&key)?;
            Ok(if found.is_undefined() { default.unwrap_or_else(|| Value::from(())) } else { found })
        }
        "copy" => {
            let [] = bind(name, [], args)?;
            let mut pairs = Vec::with_capacity(value.len().unwrap_or(0));
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                pairs.push((key, item));
            }
            pay(state, pairs.len() * 64)?;
            Ok(Value::from_pairs(pairs))
        }
        "update" | "pop" | "popitem" | "setdefault" | "clear" => {
            Err(wrong(format!("{name} would change a dict, which Jinja's sandbox forbids")))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// `start` and `stop` of a method within `len`. Negative ones count from the end.
fn bounds(len: usize, start: Option<&Value>, stop: Option<&Value>) -> Result<(usize, usize), Error> {
    let place = |value: Option<&Value>, default: usize| match value.filter(|value| !value.is_none()) {
        None => Ok::<usize, Error>(default),
        Some(value) => {
            let place = integer("a position", value)?;
            let place = if place < 0 { place.saturating_add(len as i64).max(0) } else { place };
            Ok(usize::try_from(place).unwrap_or(usize::MAX).min(len))
        }
    };
    Ok((place(start, 0)?, place(stop, len)?))
}

/// A text's characters from `start` to `stop`, and where they begin; `None` where `start` lies behind the end.
fn part<'a>(text: &'a str, start: Option<&Value>, stop: Option<&Value>) -> Result<Option<(&'a str, usize)>, Error> {
    let len = text.chars().count();
    if let Some(start) = start.filter(|start| !start.is_none())
        && integer("a position", start)? > len as i64
    {
        return Ok(None);
    }
    let (start, stop) = bounds(len, start, stop)?;
    if start > stop {
        return Ok(None);
    }
    let byte = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(byte, _)| byte);
    Ok(Some((&text[byte(start)..byte(stop)], start)))
}

fn text_method(state: &State<'_, '_>, s: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    pay(state, s.len())?;
    let done = |text: String| {
        pay(state, text.len())?;
        Ok(Value::from(text))
    };
    let all = |pattern: &Regex| !s.is_empty() && s.chars().all(|c| pattern.is_match(c.encode_utf8(&mut [0; 4])));
    let nothing = || bind(name, [], args).map(|[]: [Option<Value>; 0]| ());
    match name {
        "upper" => nothing().and_then(|()| done(s.to_uppercase())),
        "lower" => nothing().and_then(|()| done(s.to_lowercase())),
        "casefold" if s.is_ascii() => nothing().and_then(|()| done(s.to_lowercase())),
        "capitalize" => {
            nothing()?;
            let mut chars = s.chars();
            let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
            done(first + &chars.as_str().to_lowercase())
        }
        "swapcase" => {
            nothing()?;
            let mut out = String::with_capacity(s.len());
            for c in s.chars() {
                if c.is_uppercase() { out.extend(c.to_lowercase()) } else { out.extend(c.to_uppercase()) }
            }
            done(out)
        }
        "title" => {
            nothing()?;
            let (mut out, mut within) = (String::with_capacity(s.len()), false);
            for c in s.chars() {
                if within {
                    out.extend(c.to_lowercase());
                } else {
                    out.extend(c.to_uppercase());
                }
                within = c.is_lowercase() || c.is_uppercase();
            }
            done(out)
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = bind(name, ["chars"], args)?;
            let chars = chars.filter(|chars| !chars.is_none());
            let set: Option<Vec<char>> =
                chars.as_ref().map(|v| text(name, v)).transpose()?.map(|v| v.chars().collect());
            let cut = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
            done(
                match name {
                    "strip" => s.trim_matches(cut),
                    "lstrip" => s.trim_start_matches(cut),
                    _ => s.trim_end_matches(cut),
                }
                .to_owned(),
            )
        }
        "split" | "rsplit" => split(state, s, name, args),
        "splitlines" => {
            let [keep] = bind(name, ["keepends"], args)?;
            let lines = split_lines(s, keep.is_some_and(|keep| keep.is_true()));
            pay(state, lines.len() * 32)?;
            Ok(Value::from(lines))
        }
        "replace" => {
            let [old, new, count] = bind(name, ["old", "new", "count"], args)?;
            let (Some(old), Some(new)) = (old, new) else { return Err(wrong("replace needs two texts")) };
            let (old, new) = (text(name, &old)?, text(name, &new)?);
            let count = count.map_or(Ok(-1), |count| integer("replace's count", &count))?;
            let most = if old.is_empty() { s.chars().count() + 1 } else { s.len() / old.len() };
            let most = usize::try_from(count).map_or(most, |count| most.min(count));
            pay(state, s.len().saturating_add(most.saturating_mul(new.len())))?;
            Ok(Value::from(match usize::try_from(count) {
                Ok(count) => s.replacen(old, new, count),
                Err(_) => s.replace(old, new),
            }))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [what, start, stop] = bind(name, ["sub", "start", "end"], args)?;
            let what = what.ok_or_else(|| wrong(format!("{name} needs a text")))?;
            let what = text(name, &what)?;
            let Some((within, start)) = part(s, start.as_ref(), stop.as_ref())? else {
                return match name {
                    "count" => Ok(Value::from(0)),
                    "find" | "rfind" => Ok(Value::from(-1)),
                    _ => Err(wrong(format!("{name}: {what:?} is not in the text"))),
                };
            };
            if name == "count" {
                let empty = what.is_empty();
                return Ok(Value::from(if empty { within.chars().count() + 1 } else { within.matches(what).count() }));
            }
            let at = if name.starts_with('r') { within.rfind(what) } else { within.find(what) };
            match at {
                Some(at) => Ok(Value::from(start + within[..at].chars().count())),
                None if name.ends_with("find") => Ok(Value::from(-1)),
                None => Err(wrong(format!("{name}: {what:?} is not in the text"))),
            }
        }
        "startswith" | "endswith" => {
            let [what, start, stop] = bind(name, ["prefix", "start", "end"], args)?;
            let what = what.ok_or_else(|| wrong(format!("{name} needs a text")))?;
            let choices: Vec<Value> = match what.is_tuple() {
                true => what.try_iter()?.collect(),
                false => vec![what],
            };
            let Some((within, _)) = part(s, start.as_ref(), stop.as_ref())? else { return Ok(Value::from(false)) };
            for choice in &choices {
                let choice = text(name, choice)?;
                if if name == "startswith" { within.starts_with(choice) } else { within.ends_with(choice) } {
                    return Ok(Value::from(true));
                }
            }
            Ok(Value::from(false))
        }
        "join" => {
            let [items] = bind(name, ["iterable"], args)?;
            let items = items.ok_or_else(|| wrong("join needs a list"))?;
            if matches!(items.kind(), ValueKind::None | ValueKind::Undefined) {
                return Err(wrong("join needs a list"));
            }
            let mut out = Limited::default();
            for (i, item) in items.try_iter()?.enumerate() {
                out.add(if i > 0 { s } else { "" })?;
                out.add(text("an item of join", &item)?)?;
            }
            done(out.text)
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let [width, fill] = bind(name, ["width", "fillchar"], args)?;
            let width = width.ok_or_else(|| wrong(format!("{name} needs a width")))?;
            let width = width_of(name, integer(name, &width)?)?;
            let fill = fill.map_or(Ok(" ".to_owned()), |fill| text(name, &fill).map(str::to_owned))?;
            if fill.chars().count() != 1 {
                return Err(wrong(format!("{name}: the character to fill with is {fill:?}; expected one")));
            }
            done(pad(s, width, &fill, name))
        }
        "partition" | "rpartition" => {
            let [separator] = bind(name, ["sep"], args)?;
            let separator = separator.ok_or_else(|| wrong(format!("{name} needs a text")))?;
            let separator = text(name, &separator)?;
            if separator.is_empty() {
                return Err(wrong(format!("{name}: the separator is empty")));
            }
            let last = name == "rpartition";
            let found = if last { s.rsplit_once(separator) } else { s.split_once(separator) };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None if last => ["", "", s],
                None => [s, "", ""],
            };
            Ok(Value::from(Tuple::new(parts.map(Value::from).to_vec())))
        }
        "removeprefix" | "removesuffix" => {
            let [what] = bind(name, ["affix"], args)?;
            let what = what.ok_or_else(|| wrong(format!("{name} needs a text")))?;
            let what = text(name, &what)?;
            let cut = if name == "removeprefix" { s.strip_prefix(what) } else { s.strip_suffix(what) };
            Ok(Value::from(cut.unwrap_or(s)))
        }
        "expandtabs" => {
            let [size] = bind(name, ["tabsize"], args)?;
            let size = size.map_or(Ok(8), |size| integer(name, &size))?;
            let size = width_of(name, size)?;
            pay(state, s.matches('\t').count().saturating_mul(size))?;
            let (mut out, mut column) = (String::new(), 0);
            for c in s.chars() {
                if c == '\t' && size > 0 {
                    let spaces = size - column % size;
                    out.extend(std::iter::repeat_n(' ', spaces));
                    column += spaces;
                } else if c != '\t' {
                    out.push(c);
                    column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                }
            }
            done(out)
        }
        "isalpha" => nothing().map(|()| Value::from(all(&LETTER))),
        "isdecimal" => nothing().map(|()| Value::from(all(&DECIMAL))),
        "isdigit" => nothing().map(|()| Value::from(all(&DIGIT))),
        "isnumeric" => nothing().map(|()| Value::from(all(&NUMERIC))),
        "isalnum" => {
            nothing()?;
            let fits = |c: &str| LETTER.is_match(c) || NUMERIC.is_match(c);
            Ok(Value::from(!s.is_empty() && s.chars().all(|c| fits(c.encode_utf8(&mut [0; 4])))))
        }
        "isascii" => nothing().map(|()| Value::from(s.is_ascii())),
        "isspace" => nothing().map(|()| Value::from(!s.is_empty() && s.chars().all(is_space))),
        "isprintable" => nothing()
            .map(|()| Value::from(s.chars().all(|c| c == ' ' || !UNPRINTABLE.is_match(c.encode_utf8(&mut [0; 4]))))),
        "isidentifier" => nothing().map(|()| Value::from(IDENTIFIER.is_match(s))),
        "islower" => {
            nothing().map(|()| Value::from(s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase)))
        }
        "isupper" => {
            nothing().map(|()| Value::from(s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase)))
        }
        "istitle" => {
            nothing()?;
            let (mut cased, mut within) = (false, false);
            for c in s.chars() {
                if (c.is_uppercase() && within) || (c.is_lowercase() && !within) {
                    return Ok(Value::from(false));
                }
                within = c.is_uppercase() || c.is_lowercase();
                cased |= within;
            }
            Ok(Value::from(cased))
        }
        "format" => {
            check_format(s)?;
            let text = minijinja::formatting::format(minijinja::formatting::FormatStyle::StrFormat, s, args)?;
            done(text)
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Refuses format strings with too large a width, or with a width that is an argument.
pub(super) fn check_format(format: &str) -> Result<(), Error> {
    let mut digits: i64 = 0;
    let mut open = 0;
    for c in format.chars() {
        digits = c.to_digit(10).map_or(0, |digit| digits.saturating_mul(10).saturating_add(i64::from(digit)));
        width_of("a width of a format", digits)?;
        open = match c {
            '{' => open + 1,
            '}' => 0,
            ':' if open > 0 => 100,
            _ if open < 100 => 0,
            _ => open,
        };
        if open > 100 {
            return Err(wrong("a format whose width is an argument is not supported"));
        }
    }
    Ok(())
}

fn pad(s: &str, width: usize, fill: &str, how: &str) -> String {
    let missing = width.saturating_sub(s.chars().count());
    match how {
        "ljust" => s.to_owned() + &fill.repeat(missing),
        "rjust" => fill.repeat(missing) + s,
        "center" => {
            let left = missing / 2 + (missing & width & 1);
            fill.repeat(left) + s + &fill.repeat(missing - left)
        }
        _ => {
            let (sign, digits) = s.split_at(usize::from(s.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
    }
}

fn split(state: &State<'_, '_>, s: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [separator, most] = bind(name, ["sep", "maxsplit"], args)?;
    let most = most.map_or(Ok(-1), |most| integer("maxsplit", &most))?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let backwards = name == "rsplit";
    let mut parts: Vec<&str> = match separator.filter(|separator| !separator.is_none()) {
        Some(separator) => {
            let separator = text(name, &separator)?;
            if separator.is_empty() {
                return Err(wrong(format!("{name}: the separator is empty")));
            }
            let limit = most.saturating_add(1);
            if backwards { s.rsplitn(limit, separator).collect() } else { s.splitn(limit, separator).collect() }
        }
        None => {
            let (mut parts, mut rest) = (Vec::new(), s);
            loop {
                rest = if backwards { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
                if rest.is_empty() {
                    break;
                }
                let at = if backwards { rest.rfind(is_space) } else { rest.find(is_space) };
                match at {
                    Some(at) if parts.len() < most => {
                        let space = rest[at..].chars().next().map_or(1, char::len_utf8);
                        let (word, left) =
                            if backwards { (&rest[at + space..], &rest[..at]) } else { (&rest[..at], &rest[at..]) };
                        parts.push(word);
                        rest = left;
                    }
                    _ => {
                        parts.push(rest);
                        break;
                    }
                }
            }
            parts
        }
    };
    if backwards {
        parts.reverse();
    }
    pay(state, parts.len() * 32)?;
    Ok(Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>()))
}

fn split_lines(s: &str, keep: bool) -> Vec<Value> {
    let (mut lines, mut rest) = (Vec::new(), s);
    let breaks =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    while let Some(at) = rest.find(breaks) {
        let len = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        lines.push(Value::from(&rest[..if keep { at + len } else { at }]));
        rest = &rest[at + len..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    lines
}
