//! Jinja as transformers sets it up, on top of minijinja, with bounds on what a template may cost.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use minijinja::value::{Kwargs, Object, Rest, StringInput, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, filters, functions};
use regex::Regex;

use super::python::{
    bind, check_format, generator, integer, is_generator, is_namespace, is_space, method, pay, range, small, str_of,
    tojson, width_of, wrong,
};

/// A template that cannot be compiled or rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chat template{}: {reason}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct TemplateError {
    /// Line of the template, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

/// Longest source of a template, bytes. The longest templates of published models have about 30,000.
pub(super) const MAX_SOURCE: usize = 1 << 20;

/// Most words and signs between two braces: each may nest the parser and the generator of code once more.
const MAX_TOKENS: usize = 8_000;

/// Most `elif`: each is nested in the one before.
const MAX_ELIF: usize = 1_000;

/// Fuel of a rendering. An instruction costs one, and so do 64 bytes of text. A conversation of 1,000 messages with
/// tools takes about 100,000; a loop without end is stopped after about a second.
const FUEL: u64 = 2_000_000;

/// Further fuel for each byte of the conversation: a template may go through a long one many times.
const FUEL_PER_BYTE: u64 = 4;

/// Stack of the thread in which templates are compiled and rendered, bytes. Only the part that is used takes memory.
const STACK: usize = 512 << 20;

/// Longest time that a rendering may take. Fuel stops nearly everything long before. What fuel does not count, such as
/// comparing two long texts again and again, ends here.
const TIME: Duration = Duration::from_millis(1500);

/// Time that is added once, because a program that was stopped for a while and goes on has lost its time.
const GRACE: Duration = Duration::from_millis(500);

/// Runs `work` on a stack that is deep enough for whatever a template can nest within its bounds, and waits for it for
/// a bounded time. Work that takes longer is left alone: its fuel bounds what it may still use.
///
/// # Errors
/// When it takes too long, or there is no thread.
pub(super) fn on_a_deep_stack<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TemplateError> {
    let failed = |reason: String| TemplateError { line: None, reason };
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("template".into())
        .stack_size(STACK)
        .spawn(move || _ = sender.send(work()))
        .map_err(|error| failed(format!("no thread to render it in: {error}")))?;
    receiver.recv_timeout(TIME).or_else(|_| receiver.recv_timeout(GRACE)).map_err(|error| match error {
        RecvTimeoutError::Timeout => failed(format!("takes longer than {} s", (TIME + GRACE).as_secs())),
        RecvTimeoutError::Disconnected => failed("the thread that renders it ended".to_owned()),
    })
}

/// Fuel for a conversation of so many bytes.
pub(super) fn fuel(bytes: usize) -> u64 {
    FUEL + FUEL_PER_BYTE * bytes as u64
}

/// The source as minijinja needs it. Line ends become those that Jinja reads. transformers' `{% generation %}`, which
/// only marks the assistant's text, becomes a block that does nothing but hold its own variables. Lists, tuples and
/// dicts are measured when they are made (`_small`), because they can hold one another and grow without an instruction.
///
/// # Errors
/// With the line, for what would nest too deep, and for what minijinja would render in another way than Jinja.
pub(super) fn prepare(source: &str) -> Result<String, TemplateError> {
    static NAMESPACE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(\w+)\s*=\s*namespace\s*\(").expect("a constant, valid pattern"));
    if source.len() > MAX_SOURCE {
        let reason = format!("a source of {} bytes; at most {MAX_SOURCE}", source.len());
        return Err(TemplateError { line: Some(1), reason });
    }
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let namespaces: Vec<String> = NAMESPACE.captures_iter(&source).map(|found| found[1].to_owned()).collect();
    let mut out = String::with_capacity(source.len());
    let (mut at, mut elif) = (0, 0);
    while let Some(found) = source[at..].find('{') {
        let open = at + found;
        out.push_str(&source[at..open]);
        let rest = &source[open..];
        let line = || 1 + source.as_bytes()[..open].iter().filter(|&&byte| byte == b'\n').count();
        let wrong = |reason: String| TemplateError { line: Some(line()), reason };
        let copied = |end: Option<usize>| end.unwrap_or(rest.len());
        at = open
            + match () {
                () if rest.starts_with("{#") => {
                    let end = copied(rest.find("#}").map(|end| end + 2));
                    out.push_str(&rest[..end]);
                    end
                }
                () if !rest.starts_with("{{") && !rest.starts_with("{%") => {
                    out.push('{');
                    1
                }
                () => {
                    let inside = rest[2..].trim_start_matches(['-', '+']).trim_start();
                    let word =
                        inside.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
                    match word {
                        "raw" if rest.starts_with("{%") => {
                            let end = copied(rest.find("endraw"));
                            let (tag, text) = rest[..end].split_once("%}").unwrap_or((&rest[..end], ""));
                            out.push_str(tag);
                            if tag.len() < end {
                                out.push_str("%}");
                            }
                            // Jinja keeps the line end behind the tag; minijinja removes it.
                            if text.starts_with('\n') && !tag.ends_with('-') {
                                out.push('\n');
                            }
                            out.push_str(text);
                            end
                        }
                        // minijinja has this tag; transformers' Jinja does not.
                        "do" if rest.starts_with("{%") => return Err(wrong("unknown tag 'do'".into())),
                        "autoescape" if rest.starts_with("{%") => {
                            return Err(wrong("the tag 'autoescape' is not supported".into()));
                        }
                        _ => {
                            elif += usize::from(word == "elif");
                            if elif > MAX_ELIF {
                                return Err(wrong(format!("more than {MAX_ELIF} elif")));
                            }
                            rewrite(rest, word, &namespaces, &mut out).map_err(wrong)?
                        }
                    }
                }
            };
    }
    out.push_str(&source[at..]);
    Ok(out)
}

/// A bracket that is open.
enum Open {
    /// A list or a dict, which is measured.
    Made,
    /// A subscript, or the arguments of a call.
    Plain,
    /// A group or, once there is a comma, a tuple; where it begins in the output.
    Group { from: usize, comma: bool },
}

/// Copies the tag at the beginning of `rest`, and returns its length.
fn rewrite(rest: &str, word: &str, namespaces: &[String], out: &mut String) -> Result<usize, String> {
    /// Words after which a value begins.
    const BEFORE_VALUES: [&str; 12] =
        ["in", "not", "and", "or", "if", "elif", "else", "is", "set", "for", "with", "recursive"];
    let close = if rest.starts_with("{{") { "}}" } else { "%}" };
    let is_set = word == "set" && close == "%}";
    let is_for = word == "for" && close == "%}";
    let (mut tokens, mut braces) = (0, 0);
    // The tag without its texts.
    let mut bare = String::new();
    let mut open: Vec<Open> = Vec::new();
    // Whether a value ends here, so that a bracket belongs to it; whether names are assigned to; where the value of
    // `set` begins, and where that of `for` does.
    let (mut after_value, mut in_target, mut assigned, mut comma) = (false, is_set || is_for, None, false);
    let mut each: Option<usize> = None;
    out.push_str(&rest[..2]);
    let mut at = 2;
    let end = loop {
        let Some(c) = rest[at..].chars().next() else { break rest.len() };
        if braces == 0 && rest[at..].starts_with(close) {
            break at;
        }
        tokens += usize::from(!c.is_whitespace());
        if tokens > MAX_TOKENS {
            return Err(format!("more than {MAX_TOKENS} words and signs between two braces"));
        }
        let mut len = c.len_utf8();
        match c {
            '\'' | '"' => {
                let mut escaped = false;
                for (i, inner) in rest[at + 1..].char_indices() {
                    len = 1 + i + inner.len_utf8();
                    match inner {
                        'U' | 'N' if escaped => return Err(format!("the escape \\{inner} in a text is not supported")),
                        _ if escaped => escaped = false,
                        '\\' => escaped = true,
                        _ if inner == c => break,
                        _ => {}
                    }
                }
                out.push_str(&rest[at..at + len]);
                bare.push_str("''");
                after_value = true;
            }
            _ if c.is_alphanumeric() || c == '_' => {
                len = rest[at..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len() - at);
                let name = &rest[at..at + len];
                let name = match name {
                    "generation" if name == word && close == "%}" => "with",
                    "endgeneration" if name == word && close == "%}" => "endwith",
                    name => name,
                };
                if open.is_empty()
                    && matches!(name, "if" | "recursive")
                    && let Some(from) = each.take()
                {
                    out.insert_str(from, " (");
                    out.push_str(")|_each ");
                }
                out.push_str(name);
                bare.push_str(name);
                if is_for && in_target && open.is_empty() && name == "in" {
                    (in_target, each) = (false, Some(out.len()));
                }
                after_value = !BEFORE_VALUES.contains(&name) || bare.trim_end_matches(name).trim_end().ends_with('.');
            }
            '[' | '{' if !after_value || c == '{' => {
                out.extend(['(', c]);
                open.push(Open::Made);
                braces += usize::from(c == '{');
                bare.push(c);
                after_value = false;
            }
            '[' | '(' => {
                open.push(if after_value || in_target {
                    Open::Plain
                } else {
                    Open::Group { from: out.len(), comma: false }
                });
                out.push(c);
                bare.push(c);
                after_value = false;
            }
            ']' | ')' | '}' => {
                braces -= usize::from(c == '}' && braces > 0);
                out.push(c);
                match open.pop() {
                    Some(Open::Made) => out.push_str("|_small)"),
                    Some(Open::Group { from, comma: true }) => {
                        out.insert(from, '(');
                        out.push_str("|_small)");
                    }
                    _ => {}
                }
                bare.push(c);
                after_value = true;
            }
            ',' => {
                match open.last_mut() {
                    Some(Open::Group { comma, .. }) => *comma = true,
                    None => comma |= assigned.is_some(),
                    _ => {}
                }
                out.push(c);
                bare.push(c);
                after_value = false;
            }
            '=' if is_set && open.is_empty() && assigned.is_none() => {
                out.push(c);
                (assigned, in_target) = (Some(out.len()), false);
                bare.push(c);
                after_value = false;
            }
            _ => {
                out.push(c);
                bare.push(c);
                after_value &= c.is_whitespace();
            }
        }
        at += len;
    };
    if let Some(from) = each {
        wrap(out, from, "_each");
    }
    if let Some(assigned) = assigned {
        let target = bare.split('=').next().unwrap_or_default();
        let filter = match (comma, target.contains('.')) {
            (true, _) => Some("_small"),
            (false, true) => Some("_plain"),
            (false, false) => None,
        };
        if let Some(filter) = filter {
            wrap(out, assigned, filter);
        }
    }
    no_difference(&bare, close, namespaces)?;
    let len = (end + 2).min(rest.len());
    out.push_str(&rest[end..len]);
    Ok(len)
}

/// Puts a filter on the output from `from` on, but for the sign that cuts white space.
fn wrap(out: &mut String, from: usize, filter: &str) {
    let value = out.trim_end_matches(['-', '+']).len();
    let sign = out.split_off(value.max(from));
    out.insert_str(from, " (");
    *out += &format!(")|{filter} {sign}");
}

/// Refuses what minijinja would render in another way than Jinja. `bare` is a tag without its texts.
fn no_difference(bare: &str, close: &str, namespaces: &[String]) -> Result<(), String> {
    static MARKUP: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\|\s*(safe|e|escape|forceescape)\b").expect("a constant, valid pattern"));
    static METHOD: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(\w*)\s*\.\s*(items|keys|values|get|copy|pop|popitem|update|setdefault|clear|fromkeys)\b\s*(\(|=[^=])?",
        )
        .expect("a constant, valid pattern")
    });
    static EXPONENT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\d[eE][-+]?\d").expect("a constant, valid pattern"));
    for found in METHOD.captures_iter(bare) {
        // In Jinja an attribute of a dict comes before an item: `x.items` is the method, even beside an item `items`.
        if found.get(3).is_none() && !namespaces.iter().any(|name| *name == found[1]) {
            let name = &found[2];
            return Err(format!("'.{name}' without a call is a dict's method in Jinja; write ['{name}'] for an item"));
        }
    }
    if bare.contains('~') && EXPONENT.is_match(bare) {
        return Err("a number with an exponent beside ~ is not supported".into());
    }
    for found in MARKUP.find_iter(bare) {
        let last = bare[found.end()..].trim_matches(['-', ' ', '\n', '\t']).is_empty();
        let mut depth = 0;
        let mut adds = false;
        for c in bare.chars() {
            match c {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                '+' | '%' | '*' => adds |= depth == 0,
                _ => {}
            }
        }
        if close != "}}" || !last || adds {
            let name = found.as_str();
            return Err(format!(
                "'{name}' within an expression: Jinja then escapes what is added to it; not supported"
            ));
        }
    }
    Ok(())
}

/// What transformers' environment has: its settings, filters, tests and functions.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let mut syntax = minijinja::syntax::SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build()?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_recursion_limit(300);
    environment.set_formatter(|out, state, value| {
        let text = str_of(value)?;
        pay(state, text.len())?;
        out.write_str(&text).map_err(|_| wrong("the output cannot be written"))
    });
    environment.set_unknown_method_callback(method);
    // Filters of minijinja that Jinja does not have, or that write something else.
    for name in ["split", "bool", "zip", "lines", "chain", "pprint"] {
        environment.remove_filter(name);
    }
    for name in ["startingwith", "endingwith", "safe", "int"] {
        environment.remove_test(name);
    }
    environment.remove_global("debug");
    add_tests(&mut environment);
    add_filters(&mut environment);
    add_functions(&mut environment);
    Ok(environment)
}

fn add_tests(environment: &mut Environment<'static>) {
    let is_list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Undefined);
    environment.add_test("iterable", move |value: &Value| {
        is_list(value) || (matches!(value.kind(), ValueKind::Map | ValueKind::Iterable) && !is_namespace(value))
    });
    environment.add_test("sequence", move |value: &Value| {
        is_list(value) || (value.kind() == ValueKind::Map && !is_namespace(value))
    });
    environment.add_test("mapping", |value: &Value| value.kind() == ValueKind::Map && !is_namespace(value));
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    environment.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    for (name, wanted) in [("odd", 1), ("even", 0)] {
        environment.add_test(name, move |value: &Value| match value.kind() {
            ValueKind::Bool => Ok(i64::from(value.is_true()) == wanted),
            ValueKind::Number => Ok(i64::try_from(value.clone()).is_ok_and(|number| number.rem_euclid(2) == wanted)),
            other => Err(wrong(format!("{name} needs a number, not a {other}"))),
        });
    }
}

/// Arguments by name, for a filter of minijinja that takes them so. In Python they may be given by place.
fn by_name<const N: usize>(filter: &str, names: [&str; N], args: &[Value]) -> Result<Kwargs, Error> {
    let bound = bind(filter, names, args)?;
    let given = names.into_iter().zip(bound).filter_map(|(name, value)| Some((name, value?)));
    Ok(given.collect())
}

/// Arguments of a filter, by place or by name.
type Args = Rest<ValueOrKwargs>;

/// What a filter makes.
type Made = Result<Value, Error>;

fn add_filters(environment: &mut Environment<'static>) {
    environment.add_filter("_small", |state: &State<'_, '_>, value: &Value| -> Made {
        small(state, value)?;
        Ok(value.clone())
    });
    environment.add_filter("_each", |value: &Value| -> Made {
        iterable("for", value)?;
        Ok(value.clone())
    });
    environment.add_filter("_plain", |value: &Value| -> Made {
        if is_namespace(value) {
            Err(wrong("a namespace within a namespace is not supported"))
        } else {
            Ok(value.clone())
        }
    });
    environment.add_filter("groupby", |state: &State<'_, '_>, value: Value, args: Args| -> Made {
        iterable("groupby", &value)?;
        let kwargs = by_name("groupby", ["attribute", "default", "case_sensitive"], &args.into_values())?;
        let items: Vec<Value> = value.try_iter()?.collect();
        pay(state, items.len() * 256)?;
        let groups = filters::groupby(Value::from(items), None, kwargs)?;
        small(state, &groups)?;
        Ok(groups)
    });
    environment.add_filter("tojson", |state: &State<'_, '_>, value: &Value, args: Args| {
        tojson(state, value, &args.into_values())
    });
    for name in ["default", "d"] {
        environment.add_filter(name, |value: &Value, args: Args| -> Made {
            let [default, boolean] = bind("default", ["default_value", "boolean"], &args.into_values())?;
            let missing = value.is_undefined() || (boolean.is_some_and(|flag| flag.is_true()) && !value.is_true());
            Ok(if missing { default.unwrap_or_else(|| Value::from("")) } else { value.clone() })
        });
    }
    for name in ["length", "count"] {
        environment.add_filter(name, |value: &Value| match value.len() {
            _ if value.is_undefined() => Ok(0),
            Some(len) if !is_generator(value) && !is_namespace(value) => Ok(len),
            _ => Err(wrong(format!(
                "a {} has no length",
                if is_generator(value) { "generator" } else { "value of this kind" }
            ))),
        });
    }
    environment.add_filter("string", |state: &State<'_, '_>, value: &Value| -> Made {
        if value.is_safe() {
            return Ok(value.clone());
        }
        let text = str_of(value)?;
        pay(state, text.len())?;
        Ok(Value::from(text))
    });
    environment.add_filter("join", |state: &mut State<'_, '_>, value: Value, args: Args| -> Made {
        let [separator, attribute] = bind("join", ["d", "attribute"], &args.into_values())?;
        let separator = separator.map_or(Ok(String::new()), |separator| str_of(&separator))?;
        let value = match attribute.filter(|attribute| !attribute.is_none()) {
            Some(attribute) => attributes(state, value, attribute)?,
            None => value,
        };
        iterable("join", &value)?;
        let mut out = String::new();
        for (i, item) in value.try_iter()?.enumerate() {
            let item = str_of(&item)?;
            pay(state, separator.len() + item.len())?;
            if i > 0 {
                out.push_str(&separator);
            }
            out.push_str(&item);
        }
        pay(state, out.len())?;
        Ok(Value::from(out))
    });
    environment.add_filter("sort", |state: &mut State<'_, '_>, value: Value, args: Args| -> Made {
        iterable("sort", &value)?;
        let kwargs = by_name("sort", ["reverse", "case_sensitive", "attribute"], &args.into_values())?;
        let attribute = kwargs.peek::<Option<Value>>("attribute")?;
        let items: Vec<Value> = value.try_iter()?.collect();
        let value = Value::from(items);
        if let Some(several) = attribute.as_ref().and_then(Value::as_str).filter(|list| list.contains(',')) {
            // Jinja compares by one attribute after the other. As the sort is stable, the last attribute comes first.
            let reverse = kwargs.get::<Option<Value>>("reverse")?.unwrap_or(Value::from(false));
            let case = kwargs.get::<Option<Value>>("case_sensitive")?.unwrap_or(Value::from(false));
            let mut sorted = value;
            for attribute in several.split(',').rev() {
                let names =
                    [("reverse", reverse.clone()), ("case_sensitive", case.clone()), ("attribute", attribute.into())];
                sorted = filters::sort(state, sorted, names.into_iter().collect())?;
            }
            return Ok(sorted);
        }
        let keys = match attribute.filter(|attribute| !attribute.is_none()) {
            Some(attribute) => attributes(state, value.clone(), attribute)?,
            None => value.clone(),
        };
        comparable("sort", &keys)?;
        filters::sort(state, value, kwargs)
    });
    environment.add_filter("dictsort", |state: &State<'_, '_>, value: &Value, args: Args| -> Made {
        let len = value.len().unwrap_or(0);
        pay(state, len * 64)?;
        filters::dictsort(value, by_name("dictsort", ["case_sensitive", "by", "reverse"], &args.into_values())?)
    });
    for (name, filter) in [("min", filters::min as fn(&State<'_, '_>, Value, Kwargs) -> _), ("max", filters::max)] {
        environment.add_filter(name, move |state: &State<'_, '_>, value: Value, args: Args| -> Made {
            iterable(name, &value)?;
            let kwargs = by_name(name, ["case_sensitive", "attribute"], &args.into_values())?;
            filter(state, value, kwargs)
        });
    }
    environment.add_filter("map", |state: &mut State<'_, '_>, value: Value, args: Args| -> Made {
        iterable("map", &value)?;
        filters::map(state, value, args).and_then(|items| generator(state, items))
    });
    type Selecting = fn(&mut State<'_, '_>, Value, Option<Cow<'_, str>>, Args) -> Result<Vec<Value>, Error>;
    for (name, filter) in [("select", filters::select as Selecting), ("reject", filters::reject)] {
        environment.add_filter(
            name,
            move |state: &mut State<'_, '_>, value: Value, test: Option<Cow<'_, str>>, args: Args| -> Made {
                iterable(name, &value)?;
                filter(state, value, test, args).and_then(|items| generator(state, items))
            },
        );
    }
    type SelectingBy =
        fn(&mut State<'_, '_>, Value, Cow<'_, str>, Option<Cow<'_, str>>, Args) -> Result<Vec<Value>, Error>;
    for (name, filter) in [("selectattr", filters::selectattr as SelectingBy), ("rejectattr", filters::rejectattr)] {
        environment.add_filter(
            name,
            move |state: &mut State<'_, '_>,
                  value: Value,
                  attribute: Cow<'_, str>,
                  test: Option<Cow<'_, str>>,
                  args: Args|
                  -> Made {
                iterable(name, &value)?;
                filter(state, value, attribute, test, args).and_then(|items| generator(state, items))
            },
        );
    }
    environment.add_filter("unique", |state: &State<'_, '_>, value: Value, args: Args| -> Made {
        iterable("unique", &value)?;
        let kwargs = by_name("unique", ["case_sensitive", "attribute"], &args.into_values())?;
        generator(state, filters::unique(state, value, kwargs)?.try_iter()?)
    });
    environment.add_filter("reverse", |state: &State<'_, '_>, value: &Value| -> Made {
        iterable("reverse", value)?;
        pay(state, value.len().unwrap_or(0) * 32)?;
        let reversed = filters::reverse(value)?;
        if value.kind() == ValueKind::String { Ok(reversed) } else { generator(state, reversed.try_iter()?) }
    });
    environment.add_filter("last", |state: &State<'_, '_>, value: Value| -> Made {
        if is_generator(&value) {
            return Err(wrong("last: a generator cannot be read from its end; make a list of it first"));
        }
        iterable("last", &value)?;
        pay(state, value.len().unwrap_or(0) * 32)?;
        filters::last(value)
    });
    environment.add_filter("batch", |state: &mut State<'_, '_>, value: Value, args: Args| -> Made {
        iterable("batch", &value)?;
        let [count, fill] = bind("batch", ["linecount", "fill_with"], &args.into_values())?;
        let count = count.ok_or_else(|| wrong("batch needs a number"))?;
        let count = width_of("batch", integer("batch", &count)?)?.max(1);
        let items: Vec<Value> = value.try_iter()?.collect();
        pay(state, items.len() * 64)?;
        let rows = items.chunks(count).map(|chunk| {
            let mut row = chunk.to_vec();
            if let Some(fill) = fill.as_ref().filter(|fill| !fill.is_none()) {
                row.resize(count, fill.clone());
            }
            Value::from(row)
        });
        generator(state, rows.collect::<Vec<_>>())
    });
    environment.add_filter("slice", |state: &mut State<'_, '_>, value: Value, args: Args| -> Made {
        iterable("slice", &value)?;
        let [count, fill] = bind("slice", ["slices", "fill_with"], &args.into_values())?;
        let count = count.ok_or_else(|| wrong("slice needs a number"))?;
        let count = width_of("slice", integer("slice", &count)?)?.max(1);
        let items: Vec<Value> = value.try_iter()?.collect();
        pay(state, items.len() * 64 + count * 64)?;
        let (each, longer) = (items.len() / count, items.len() % count);
        let (mut rows, mut at) = (Vec::new(), 0);
        for row in 0..count {
            let end = at + each + usize::from(row < longer);
            let mut items = items[at..end].to_vec();
            if let Some(fill) = fill.as_ref().filter(|fill| !fill.is_none() && longer > 0 && row >= longer) {
                items.push(fill.clone());
            }
            rows.push(Value::from(items));
            at = end;
        }
        generator(state, rows)
    });
    environment.add_filter("items", |state: &State<'_, '_>, value: &Value| -> Made {
        pay(state, value.len().unwrap_or(0) * 64)?;
        match value.kind() {
            ValueKind::Undefined => generator(state, []),
            ValueKind::Map if !is_namespace(value) => generator(state, filters::items(value)?.try_iter()?),
            other => Err(wrong(format!("items needs a dict, not a {other}"))),
        }
    });
    environment.add_filter("int", |value: &Value, args: Args| -> Made {
        let [default, base] = bind("int", ["default", "base"], &args.into_values())?;
        let default = default.unwrap_or_else(|| Value::from(0));
        let base = base.map_or(Ok(10), |base| integer("int's base", &base))?;
        let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
        let base = base.ok_or_else(|| wrong("int's base is between 2 and 36"))?;
        Ok(match value.kind() {
            ValueKind::Bool => Value::from(i64::from(value.is_true())),
            ValueKind::Number if value.is_integer() => value.clone(),
            ValueKind::Number => truncated(f64::try_from(value.clone()).unwrap_or(f64::NAN)).unwrap_or(default),
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default().trim_matches(is_space);
                let (sign, digits) =
                    text.strip_prefix('-').map_or((1, text.strip_prefix('+').unwrap_or(text)), |rest| (-1, rest));
                let prefix = match base {
                    16 => Some(["0x", "0X"]),
                    8 => Some(["0o", "0O"]),
                    2 => Some(["0b", "0B"]),
                    _ => None,
                };
                let digits = prefix.and_then(|p| p.iter().find_map(|p| digits.strip_prefix(p))).unwrap_or(digits);
                let plain = digits.replace('_', "");
                let fine = !plain.starts_with(['-', '+']) && !digits.starts_with('_') && !digits.ends_with('_');
                match i128::from_str_radix(&plain, base) {
                    Ok(number) if fine => Value::from(sign * number),
                    _ => python_float(text).and_then(truncated).unwrap_or(default),
                }
            }
            ValueKind::Undefined => return Err(wrong("int: the value is undefined")),
            _ => default,
        })
    });
    environment.add_filter("float", |value: &Value, args: Args| -> Made {
        let [default] = bind("float", ["default"], &args.into_values())?;
        let default = default.unwrap_or_else(|| Value::from(0.0));
        Ok(match value.kind() {
            ValueKind::Bool => Value::from(f64::from(u8::from(value.is_true()))),
            ValueKind::Number => Value::from(f64::try_from(value.clone()).map_err(|e| wrong(e.to_string()))?),
            ValueKind::String => python_float(value.as_str().unwrap_or_default()).map_or(default, Value::from),
            ValueKind::Undefined => return Err(wrong("float: the value is undefined")),
            _ => default,
        })
    });
    environment.add_filter("trim", |value: StringInput<'_>, chars: Option<&str>| -> Value {
        let set: Option<Vec<char>> = chars.map(|chars| chars.chars().collect());
        let cut = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
        value.preserve_safety(value.as_str().trim_matches(cut).to_owned())
    });
    environment.add_filter("indent", |state: &State<'_, '_>, value: &Value, args: Args| -> Made {
        let [width, first, blank] = bind("indent", ["width", "first", "blank"], &args.into_values())?;
        let by = match width {
            None => " ".repeat(4),
            Some(text) if text.as_str().is_some() => str_of(&text)?,
            Some(width) => " ".repeat(width_of("indent", integer("indent", &width)?)?),
        };
        let (first, blank) = (first.is_some_and(|v| v.is_true()), blank.is_some_and(|v| v.is_true()));
        let text = str_of(value)?;
        pay(state, text.len() + text.matches('\n').count().saturating_mul(by.len()))?;
        // Jinja adds a line end first, so that a line end at the end of the text keeps a line behind it.
        let text = text + "\n";
        let lines: Vec<&str> = text.lines().collect();
        let mut out = String::new();
        for (i, line) in lines.iter().enumerate() {
            if i > 0 {
                out.push('\n');
            }
            if (i > 0 && (blank || !line.is_empty())) || (i == 0 && first) {
                out.push_str(&by);
            }
            out.push_str(line);
        }
        Ok(Value::from(out))
    });
    for name in ["e", "escape", "forceescape"] {
        environment.add_filter(name, move |state: &State<'_, '_>, value: &Value| -> Made {
            if value.is_safe() && name != "forceescape" {
                return Ok(value.clone());
            }
            let text = str_of(value)?;
            pay(state, text.len() * 5)?;
            let text = text.replace('&', "&amp;").replace('>', "&gt;").replace('<', "&lt;");
            Ok(Value::from_safe_string(text.replace('\'', "&#39;").replace('"', "&#34;")))
        });
    }
    environment.add_filter("attr", |value: &Value, name: &str| -> Made {
        // An attribute, never an item. The only attributes of a dict are its methods.
        if is_namespace(value) { value.get_attr(name) } else { Ok(Value::UNDEFINED) }
    });
    environment.add_filter("wordcount", |state: &State<'_, '_>, value: &Value| -> Result<usize, Error> {
        static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+").expect("a constant, valid pattern"));
        let text = str_of(value)?;
        pay(state, text.len())?;
        Ok(WORD.find_iter(&text).count())
    });
    environment.add_filter("center", |state: &mut State<'_, '_>, value: &Value, width: Option<Value>| -> Made {
        let text = Value::from(str_of(value)?);
        method(state, &text, "center", &[width.unwrap_or_else(|| Value::from(80))])
    });
    environment.add_filter("truncate", |state: &State<'_, '_>, value: &Value, args: Args| -> Made {
        let [length, kill, end, leeway] =
            bind("truncate", ["length", "killwords", "end", "leeway"], &args.into_values())?;
        let length = length.map_or(Ok(255), |length| integer("truncate", &length))?;
        let end = end.map_or(Ok("...".to_owned()), |end| str_of(&end))?;
        let leeway = leeway.map_or(Ok(5), |leeway| integer("truncate", &leeway))?;
        let text = str_of(value)?;
        pay(state, text.len() * 4)?;
        let chars: Vec<char> = text.chars().collect();
        let room = length - end.chars().count() as i64;
        if room < 0 || leeway < 0 {
            return Err(wrong("truncate: the length is less than its end, or the leeway is negative"));
        }
        if chars.len() as i64 <= length + leeway {
            return Ok(Value::from(text));
        }
        let kept: String = chars.iter().take(usize::try_from(room).unwrap_or(0)).collect();
        let kept = match kill.is_some_and(|kill| kill.is_true()) {
            true => kept,
            false => kept.rsplit_once(' ').map_or(kept.clone(), |(before, _)| before.to_owned()),
        };
        Ok(Value::from(kept + &end))
    });
    environment.add_filter("format", |state: &mut State<'_, '_>, format: &Value, args: Args| -> Made {
        let text = str_of(format)?;
        check_format(&text)?;
        if text.contains('*') {
            return Err(wrong("a format whose width is an argument is not supported"));
        }
        pay(state, text.len())?;
        filters::format(state, format, args)
    });
}

/// A float's whole part, as `int()` has it.
fn truncated(number: f64) -> Option<Value> {
    // A larger float has more digits than a whole number can have here.
    (number.abs() < 1e36).then(|| Value::from(number.trunc() as i128))
}

/// `float(text)`.
fn python_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let plain = text.replace('_', "");
    let fine = !text.starts_with('_') && !text.ends_with('_') && !text.contains("__");
    plain.parse().ok().filter(|_| fine)
}

fn attributes(state: &mut State<'_, '_>, value: Value, attribute: Value) -> Result<Value, Error> {
    let name: Kwargs = [("attribute", attribute)].into_iter().collect();
    state.apply_filter("map", &[value, Value::from(name)]).and_then(|items| Ok(items.try_iter()?.collect()))
}

/// Refuses values that Jinja cannot iterate over, such as numbers and none.
fn iterable(filter: &str, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Plain => {
            Err(wrong(format!("{filter} cannot go through a {}", value.kind())))
        }
        _ => Ok(()),
    }
}

/// Python compares numbers with numbers and texts with texts.
fn comparable(filter: &str, values: &Value) -> Result<(), Error> {
    let mut kind = None;
    for value in values.try_iter()? {
        let this = match value.kind() {
            ValueKind::Bool => ValueKind::Number,
            kind => kind,
        };
        let fine = !matches!(this, ValueKind::None | ValueKind::Map | ValueKind::Undefined | ValueKind::Plain);
        if values.len().unwrap_or(2) > 1 && (!fine || kind.is_some_and(|kind| kind != this)) {
            return Err(wrong(format!("{filter}: values of these kinds cannot be compared")));
        }
        kind = Some(this);
    }
    Ok(())
}

/// `joiner(separator)`: nothing at the first call, the separator from then on.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    used: Mutex<bool>,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> minijinja::value::ObjectRepr {
        minijinja::value::ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let [] = bind("joiner", [], args)?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(if std::mem::replace(&mut *used, true) { self.separator.clone() } else { Value::from("") })
    }
}

/// `cycler(…)`: its items in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: Mutex<usize>,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> minijinja::value::ObjectRepr {
        minijinja::value::ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        (key.as_str() == Some("current")).then(|| self.items[at].clone())
    }

    fn call_method(self: &Arc<Self>, _state: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let [] = bind("cycler", [], args)?;
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        match method {
            "next" => {
                let item = self.items[*at].clone();
                *at = (*at + 1) % self.items.len();
                Ok(item)
            }
            "reset" => {
                *at = 0;
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

fn add_functions(environment: &mut Environment<'static>) {
    environment
        .add_function("raise_exception", |message: &Value| -> Result<Value, Error> { Err(wrong(str_of(message)?)) });
    environment.add_function("range", |args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
        let [first, second, step] = bind("range", ["start", "stop", "step"], &args.into_values())?;
        let number = |value: Option<Value>| value.map(|value| integer("range", &value)).transpose();
        let first = number(first)?.ok_or_else(|| wrong("range needs a number"))?;
        range(first, number(second)?, number(step)?)
    });
    environment.add_function("dict", |state: &State<'_, '_>, args: Rest<ValueOrKwargs>| {
        dict(state, "dict", &args.into_values())
    });
    environment.add_function("namespace", |state: &State<'_, '_>, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
        let values = dict(state, "namespace", &args.into_values())?;
        for key in values.try_iter()? {
            if key.as_str().is_some_and(|key| key.starts_with('_')) {
                return Err(wrong(format!("a namespace cannot hold {key}: a name that begins with _")));
            }
        }
        functions::namespace(Some(from_args::<(ValueOrKwargs,)>(std::slice::from_ref(&values))?.0))
    });
    environment.add_function("joiner", |separator: Option<Value>| {
        Value::from_object(Joiner {
            separator: separator.unwrap_or_else(|| Value::from(", ")),
            used: Mutex::new(false),
        })
    });
    environment.add_function("cycler", |items: Rest<Value>| -> Result<Value, Error> {
        if items.is_empty() {
            return Err(wrong("cycler needs at least one item"));
        }
        Ok(Value::from_object(Cycler { items: items.to_vec(), at: Mutex::new(0) }))
    });
}

/// `dict(mapping or pairs, **more)`.
fn dict(state: &State<'_, '_>, function: &str, args: &[Value]) -> Result<Value, Error> {
    let (places, kwargs): (&[Value], Kwargs) = from_args(args)?;
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    match places {
        [] => {}
        [map] if map.kind() == ValueKind::Map => {
            for key in map.try_iter()? {
                let value = map.get_item(&key)?;
                pairs.push((key, value));
            }
        }
        [list] => {
            iterable(function, list)?;
            for pair in list.try_iter()? {
                let both: Vec<Value> = pair.try_iter()?.collect();
                let [key, value] = <[Value; 2]>::try_from(both)
                    .map_err(|_| wrong(format!("{function}: expected pairs of a key and a value")))?;
                pairs.push((key, value));
            }
        }
        _ => return Err(wrong(format!("{function} takes one dict or list"))),
    }
    for name in kwargs.args() {
        pairs.push((Value::from(name), kwargs.peek::<Value>(name)?));
    }
    pay(state, pairs.len() * 64)?;
    let made = Value::from_pairs(pairs);
    small(state, &made)?;
    Ok(made)
}
