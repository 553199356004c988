//! Who may ask. A browser sends what any web page tells it to, also to this machine, and a page may call this machine
//! by a name of the page's choice (DNS rebinding). So only names and pages that are known are let in; a server may ask
//! for a key as well.

use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{Method, Version};
use sha2::{Digest as _, Sha256};

use super::error::ServeError;
use super::request::{Refusal, shortened};

/// Who may ask.
#[derive(Default)]
pub struct Access {
    /// Names of this machine beside its numbers and `localhost`; `*` for any.
    hosts: Vec<String>,
    /// Web pages that may ask, such as `https://example.com`; `*` for any.
    origins: Vec<String>,
    key: Option<Key>,
}

/// A key that clients must have: its SHA-256 only.
struct Key([u8; 32]);

/// Means any name, or any page.
const ANY: &str = "*";

/// Most characters of a header that are shown.
const MOST_SHOWN: usize = 80;

impl Access {
    /// `hosts` are names by which clients may call this machine, beside its numbers and `localhost`. `origins` are web
    /// pages that may ask, such as `https://example.com`. `*` means any. `key` is what clients must send as
    /// `Authorization: Bearer …`.
    ///
    /// # Errors
    /// [`ServeError::Config`] for what is no name, no page or no key. The error does not repeat a key.
    pub fn new(hosts: &[String], origins: &[String], key: Option<&str>) -> Result<Self, ServeError> {
        let wrong = |what: &str, found: &str, expected: &str| {
            ServeError::Config(format!("{what} {found:?}: must be {expected}"))
        };
        for host in hosts {
            let fine =
                host == ANY || (!host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || "-._".contains(c)));
            if !fine {
                return Err(wrong("--allow-host", host, "a name such as gpu.example.com, without a port, or *"));
            }
        }
        for origin in origins {
            let rest = origin.split_once("://").map_or("", |(_, rest)| rest);
            if origin != ANY && (rest.is_empty() || rest.contains(['/', '?', '#', ' '])) {
                return Err(wrong("--allow-origin", origin, "an origin such as https://example.com, or *"));
            }
        }
        let key = match key {
            Some(key) if key.is_empty() || !key.bytes().all(|byte| (0x21..0x7f).contains(&byte)) => {
                let problem = "the key is empty or holds characters that no key has, such as spaces or line ends";
                return Err(ServeError::Config(problem.to_owned()));
            }
            key => key.map(|key| Key(Sha256::digest(key).into())),
        };
        let lower = |all: &[String]| all.iter().map(|one| one.to_ascii_lowercase()).collect();
        Ok(Self { hosts: lower(hosts), origins: lower(origins), key })
    }

    /// Whether clients need a key.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Lets clients call this machine by one more name.
    pub(super) fn add_host(&mut self, name: &str) {
        self.hosts.push(name.to_ascii_lowercase());
    }

    /// Refuses a request by another name than one of this machine's.
    pub(super) fn check_host(&self, head: &Parts) -> Result<(), Refusal> {
        let mut hosts = head.headers.get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) => {
                let named = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
                if !named.is_some_and(|host| self.is_own(host.host())) {
                    return Err(foreign("Host", host, "--allow-host"));
                }
            }
            // Before HTTP/1.1 there was no such header; no browser is that old.
            (None, _) if head.version < Version::HTTP_11 => {}
            (found, _) => {
                let found = if found.is_some() { "several Host headers" } else { "no Host header" };
                return Err(Refusal::bad(None, format!("the request has {found}: must have one")));
            }
        }
        match head.uri.host() {
            Some(host) if !self.is_own(host) => Err(foreign(
                "Host",
                &HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("?")),
                "--allow-host",
            )),
            _ => Ok(()),
        }
    }

    fn is_own(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let number = host.trim_start_matches('[').trim_end_matches(']');
        // Only a name can be made to point to this machine: a page cannot have one of this machine's numbers.
        host == "localhost"
            || host.ends_with(".localhost")
            || number.parse::<IpAddr>().is_ok()
            || self.hosts.iter().any(|own| own == host || own == ANY)
    }

    /// Refuses a request of a web page that may not ask. Returns the page that asks, if one does.
    pub(super) fn check_origin(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let (origin, others) = (origins.next(), origins.next());
        let Some(origin) = origin else { return Ok(None) };
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let is_own = !host.is_empty() && text == format!("http://{}", host.to_ascii_lowercase());
        if others.is_none() && (is_own || self.origins.iter().any(|one| *one == text || one == ANY)) {
            return Ok(Some(origin.clone()));
        }
        Err(foreign("Origin", origin, "--allow-origin"))
    }

    /// Refuses a request without the key.
    pub(super) fn check_key(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(Key(own)) = &self.key else { return Ok(()) };
        let sent = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let sent = match sent.split_at_checked(7) {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii(),
            _ => b"",
        };
        let sent: [u8; 32] = Sha256::digest(sent).into();
        // It takes the same time for every key. The time of comparing digests would tell nothing about a key anyway.
        let difference = own.iter().zip(&sent).fold(0, |difference, (a, b)| difference | (a ^ b));
        if std::hint::black_box(difference) == 0 {
            return Ok(());
        }
        let message = "the key is missing or wrong: must be sent as \"Authorization: Bearer KEY\"";
        Err(Refusal::new(401, "invalid_api_key", message))
    }
}

/// Refuses a body that the headers do not call plain JSON. A page that does not ask first can only send other types.
pub(super) fn check_content(headers: &HeaderMap) -> Result<(), Refusal> {
    let refused = |name: &HeaderName, expected: &str| {
        let found = headers.get(name).map_or("missing".to_owned(), shown);
        let message = format!("{name} is {found}: must be {expected}");
        Err(Refusal::new(415, "unsupported_media_type", message))
    };
    let all = headers.get_all(CONTENT_TYPE).iter().count();
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut parts = kind.split(';').map(str::trim);
    let is_json = all == 1 && parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    let is_utf8 = parts.all(|part| match part.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if !is_json || !is_utf8 {
        return refused(&CONTENT_TYPE, "application/json");
    }
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            refused(&CONTENT_ENCODING, "left out")
        }
        _ => Ok(()),
    }
}

/// Whether a browser asks if a web page may send a request.
pub(super) fn is_preflight(head: &Parts) -> bool {
    head.method == Method::OPTIONS && head.headers.contains_key("access-control-request-method")
}

fn foreign(name: &str, found: &HeaderValue, option: &str) -> Refusal {
    Refusal::new(403, "forbidden", format!("{name} {} is not let in: {option} lets it in", shown(found)))
}

fn shown(value: &HeaderValue) -> String {
    format!("{:?}", shortened(&String::from_utf8_lossy(value.as_bytes()), MOST_SHOWN))
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use hyper::header::HeaderMap;
    use hyper::http::request::Parts;

    use super::{Access, check_content};

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|&one| one.to_owned()).collect()
    }

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/v1/models");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_names_of_this_machine_are_let_in() {
        let plain = Access::default();
        let named = Access::new(&strings(&["GPU.example.com"]), &[], None).unwrap();
        let any = Access::new(&strings(&["*"]), &[], None).unwrap();
        for (host, own, with_name) in [
            ("localhost", true, true),
            ("LOCALHOST:8080", true, true),
            ("localhost.:8080", true, true),
            ("chat.localhost:1", true, true),
            ("127.0.0.1:8080", true, true),
            ("[::1]:8080", true, true),
            ("192.168.1.5", true, true),
            ("gpu.example.com:8080", false, true),
            ("evil.example:8080", false, false),
            ("localhost.evil.example", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("evil.example@localhost", true, true),
            ("localhost@evil.example", false, false),
            ("", false, false),
            ("a b", false, false),
        ] {
            let head = head(&[("host", host)]);
            assert_eq!(plain.check_host(&head).is_ok(), own, "{host:?}");
            assert_eq!(named.check_host(&head).is_ok(), with_name, "{host:?}");
            assert_eq!(any.check_host(&head).is_ok(), !["", "a b"].contains(&host), "{host:?}");
        }
        let refusal = plain.check_host(&head(&[("host", "evil.example:80")])).unwrap_err();
        assert_eq!((refusal.status, refusal.message.contains("evil.example:80")), (403, true), "{}", refusal.message);
        // One name, in one place.
        assert_eq!(plain.check_host(&head(&[])).unwrap_err().status, 400);
        assert_eq!(plain.check_host(&head(&[("host", "localhost"), ("host", "localhost")])).unwrap_err().status, 400);
        let mut whole = head(&[("host", "localhost")]);
        whole.uri = "http://evil.example/v1/models".parse().unwrap();
        assert_eq!(plain.check_host(&whole).unwrap_err().status, 403);
        for wrong in ["", "a/b", "a:1", "http://a"] {
            assert!(Access::new(&strings(&[wrong]), &[], None).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_pages_that_were_named_are_let_in() {
        let plain = Access::default();
        let named = Access::new(&[], &strings(&["https://chat.example"]), None).unwrap();
        for (origin, own, with_name) in [
            ("http://localhost:8080", true, true),
            ("http://localhost:3000", false, false),
            ("https://localhost:8080", false, false),
            ("https://chat.example", false, true),
            ("https://chat.example.evil", false, false),
            ("http://chat.example", false, false),
            ("null", false, false),
            ("", false, false),
        ] {
            let head = head(&[("host", "localhost:8080"), ("origin", origin)]);
            assert_eq!(plain.check_origin(&head.headers).is_ok(), own, "{origin:?}");
            assert_eq!(named.check_origin(&head.headers).is_ok(), with_name, "{origin:?}");
        }
        assert_eq!(plain.check_origin(&HeaderMap::new()), Ok(None));
        for wrong in ["", "chat.example", "https://chat.example/", "https://"] {
            assert!(Access::new(&[], &strings(&[wrong]), None).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_who_has_the_key_is_let_in() {
        let locked = Access::new(&[], &[], Some("sk-secret-1")).unwrap();
        let sent = |value: &str| head(&[("authorization", value)]).headers;
        for (value, fits) in [
            ("Bearer sk-secret-1", true),
            ("bearer sk-secret-1", true),
            ("Bearer sk-secret-2", false),
            ("Bearer sk-secret-", false),
            ("Bearer sk-secret-11", false),
            ("Bearer ", false),
            ("Basic sk-secret-1", false),
            ("sk-secret-1", false),
        ] {
            assert_eq!(locked.check_key(&sent(value)).is_ok(), fits, "{value:?}");
        }
        let refusal = locked.check_key(&HeaderMap::new()).unwrap_err();
        assert_eq!((refusal.status, refusal.code), (401, Some("invalid_api_key")));
        assert!(!format!("{refusal:?}").contains("secret"));
        assert!(Access::default().check_key(&HeaderMap::new()).is_ok());
        for wrong in ["", "with space", "line\n"] {
            let problem = Access::new(&[], &[], Some(wrong)).err().unwrap().to_string();
            assert!(problem.contains("the key is empty or holds characters"), "{problem}");
        }
    }

    #[test]
    fn only_bodies_that_are_said_to_be_json_are_read() {
        for (kind, fine) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json; charset=\"UTF-8\"", true),
            ("application/json; charset=latin1", false),
            ("application/json-patch+json", false),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("", false),
        ] {
            assert_eq!(check_content(&head(&[("content-type", kind)]).headers).is_ok(), fine, "{kind:?}");
        }
        assert_eq!(check_content(&HeaderMap::new()).unwrap_err().status, 415);
        let packed = head(&[("content-type", "application/json"), ("content-encoding", "gzip")]);
        assert!(check_content(&packed.headers).unwrap_err().message.contains("content-encoding is \"gzip\""));
    }
}
