//! Refuses what a browser sends on behalf of another site.
//!
//! That only this machine, or this network, can reach the API does not mean that its owner asks: any page that is open
//! in a browser there can send requests, too, or give a name of its own this server's address ("DNS rebinding") and so
//! read the answers. Tools and probes are not affected: they address the server by its IP address, by `localhost` or by a
//! name that it was given, and send none of a browser's headers.
//!
//! The rules, for every path and method ([`Guard::check`]):
//!
//! - `Host` must be an IP address, `localhost` or one of the server's names ([`HttpConfig::names`]), if the server listens
//!   on loopback or was given names with `--http-allowed-hosts`. Without either, a name that this server does not know may
//!   be that of a service or an ingress.
//! - `Origin` must be the host of the request or one of the server's names; to change something it must be a known host.
//! - `Sec-Fetch-Site` must not be another site or origin. A link to the page itself is followed.
//! - A change in a form's encoding, which a page may send without permission, must not come from a browser.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use crate::config::HttpConfig;
use crate::metrics::Metrics;

/// Encodings in which a page may send to another site without that site's permission.
const FORM_ENCODINGS: [&str; 3] = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Which hosts are this server's.
#[derive(Debug)]
pub(super) struct Guard {
    /// Names in lower case. One that begins with a dot stands for all names that end so, `*` for all names.
    names: Vec<String>,
    /// Those of the names that pages may come from although the request has another `Host`, as behind a proxy.
    pages: Vec<String>,
    /// Whether other names are refused.
    is_strict: bool,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Foreign {
    #[error(
        "the host '{0}' is not this server's: use its IP address or localhost, or start it with --http-allowed-hosts {0}"
    )]
    Host(String),
    #[error(
        "the request comes from a page of '{0}', which is not this server's (--http-allowed-hosts gives it names)"
    )]
    Origin(String),
    #[error("the request comes from a page of another site (Sec-Fetch-Site: {0})")]
    Site(String),
    #[error("a browser sends this as a form: send application/json")]
    Form,
}

impl Guard {
    /// Whether the server listens on loopback is found by resolving its host once.
    pub(super) fn new(config: &HttpConfig, more_names: &[&str]) -> Self {
        let given: Vec<String> = config.allowed_hosts.iter().map(|name| normal(name)).collect();
        let others = [config.host.as_str()].into_iter().chain(more_names.iter().copied()).map(normal);
        // "*" as a host to listen on is every interface, not every name.
        let others = others.filter(|name| !name.starts_with(['*', '.']));
        let names = given.iter().cloned().chain(others).collect();
        let is_strict = !given.is_empty() || is_loopback(&config.host);
        // On an address or localhost, another port is another site.
        let pages = given.into_iter().filter(|name| name != "*" && !is_address_or_localhost(name)).collect();
        Self { names, pages, is_strict }
    }

    /// Whether the request may be served, by its headers and the authority of its target, if it has one.
    fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Foreign> {
        for host in headers.get_all(header::HOST) {
            let host = String::from_utf8_lossy(host.as_bytes());
            self.check_host(&host)?;
        }
        let changes = !matches!(*method, Method::GET | Method::HEAD);
        for site in headers.get_all(SEC_FETCH_SITE) {
            let follows_link =
                *method == Method::GET && path == "/" && is(headers, &SEC_FETCH_MODE, "navigate");
            if !matches!(site.as_bytes(), b"same-origin" | b"none") && !follows_link {
                return Err(Foreign::Site(shown(&String::from_utf8_lossy(site.as_bytes()))));
            }
        }
        for origin in headers.get_all(header::ORIGIN) {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            if !self.is_own_origin(&origin, headers, changes) {
                return Err(Foreign::Origin(shown(&origin)));
            }
        }
        let is_verified = headers.contains_key(header::ORIGIN) || is(headers, &SEC_FETCH_SITE, "same-origin");
        if changes && !is_verified && is_form(headers) && is_browser(headers) {
            return Err(Foreign::Form);
        }
        Ok(())
    }

    fn check_host(&self, host: &str) -> Result<(), Foreign> {
        let name = name_of(host);
        if !self.is_strict || self.knows(&name) { Ok(()) } else { Err(Foreign::Host(shown(&name))) }
    }

    /// Whether a page of this origin is this server's own, or one that it was given.
    fn is_own_origin(&self, origin: &str, headers: &HeaderMap, changes: bool) -> bool {
        let Some((scheme, host)) = origin.split_once("://") else { return false };
        let default_port = if scheme == "https" { ":443" } else { ":80" };
        let whole = |host: &str| host.trim_end_matches(default_port).to_ascii_lowercase();
        let is_same = headers
            .get(header::HOST)
            .and_then(|own| own.to_str().ok())
            .is_some_and(|own| whole(own) == whole(host));
        let name = name_of(host);
        has_name(&self.pages, &name) || is_same && (!changes || self.knows(&name))
    }

    /// Whether a host cannot be another site's name: an address, `localhost`, or one of the server's names.
    fn knows(&self, name: &str) -> bool {
        is_address_or_localhost(name) || has_name(&self.names, name)
    }
}

fn is_address_or_localhost(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || name == "localhost"
}

fn has_name(names: &[String], name: &str) -> bool {
    names.iter().any(|known| {
        let is_part =
            known.strip_prefix('.').is_some_and(|domain| name == domain || name.ends_with(known.as_str()));
        known == name || is_part || known == "*"
    })
}

/// Serves a request that is not on behalf of another site.
pub(super) async fn refuse_other_sites(
    State((guard, metrics)): State<(Arc<Guard>, Arc<Metrics>)>,
    request: Request,
    next: Next,
) -> Response {
    /// Whether a refusal has been logged.
    static LOGGED: AtomicBool = AtomicBool::new(false);
    // The authority of an absolute target takes the place of `Host`.
    let authority =
        request.uri().authority().map_or(Ok(()), |authority| guard.check_host(authority.as_str()));
    let checked =
        authority.and_then(|()| guard.check(request.method(), request.uri().path(), request.headers()));
    let Err(foreign) = checked else { return next.run(request).await };
    metrics.count(|counters| counters.http_foreign_requests += 1);
    if !LOGGED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            path = request.uri().path(),
            "HTTP request refused: {foreign}; further ones are counted in lmcache_mp_http_foreign_requests_total"
        );
    }
    ApiError::Forbidden(foreign.to_string()).into_response()
}

/// Whether a host to listen on is reached from this machine only.
fn is_loopback(host: &str) -> bool {
    match (host, 0).to_socket_addrs() {
        Ok(addresses) => {
            let mut addresses = addresses.peekable();
            addresses.peek().is_some() && addresses.all(|address| address.ip().to_canonical().is_loopback())
        }
        Err(_) => normal(host) == "localhost",
    }
}

/// A name as it is compared: in lower case, without the root's dot.
fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The name or address in `HOST[:PORT]`, as it is compared.
fn name_of(host: &str) -> String {
    let host = host.trim();
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    normal(bare)
}

/// A foreign text in an error: not longer than a name, nothing that is not printable.
fn shown(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(253).collect()
}

fn is(headers: &HeaderMap, name: &HeaderName, value: &str) -> bool {
    headers.get(name).is_some_and(|given| given.as_bytes() == value.as_bytes())
}

fn is_form(headers: &HeaderMap) -> bool {
    let encoding =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let encoding = encoding.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    FORM_ENCODINGS.contains(&encoding.as_str())
}

/// Whether the headers have a mark that browsers leave. Tools may leave it too; they send JSON.
fn is_browser(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).map_or(&b""[..], |agent| agent.as_bytes());
    let hints = headers.keys().any(|name| name.as_str().starts_with("sec-"));
    hints || agent.starts_with(b"Mozilla/") || headers.contains_key(header::REFERER)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn guard(host: &str, names: &[&str]) -> Guard {
        let allowed_hosts = names.iter().map(|name| (*name).to_owned()).collect();
        Guard::new(&HttpConfig { host: host.to_owned(), allowed_hosts, ..HttpConfig::default() }, &[])
    }

    fn check(guard: &Guard, method: &Method, lines: &[(&str, &str)]) -> Result<(), Foreign> {
        let header = |(name, value): &(&str, &str)| {
            let name: HeaderName = name.parse().expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        };
        guard.check(method, "/", &lines.iter().map(header).collect())
    }

    #[test]
    fn on_loopback_only_addresses_localhost_and_given_names_are_hosts() {
        let guard = guard("127.0.0.1", &["Cache.Example.", ".inner.example"]);
        for host in [
            "127.0.0.1:8080",
            "127.0.0.1",
            "localhost:8080",
            "LOCALHOST.",
            "[::1]:8080",
            "[::1]",
            "10.1.2.3:8080",
            "0.0.0.0:8080",
            "cache.example:1",
            "cache.example.",
            "a.inner.example",
            "inner.example:8080",
        ] {
            assert_eq!(check(&guard, &Method::GET, &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example:8080",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evilinner.example",
            "xcache.example",
            "",
            "[evil.example]",
            "evil.example:127.0.0.1",
            "user@127.0.0.1",
            "127.0.0.1, evil.example",
        ] {
            assert!(check(&guard, &Method::GET, &[("host", host)]).is_err(), "{host}");
        }
        assert_eq!(
            check(&guard, &Method::GET, &[]),
            Ok(()),
            "HTTP/1.0 has no Host, and no browser speaks it"
        );
        let two = [("host", "127.0.0.1"), ("host", "evil.example")];
        assert!(check(&guard, &Method::GET, &two).is_err(), "each Host counts");
    }

    #[test]
    fn elsewhere_names_are_checked_if_any_are_given() {
        let request = [("host", "larder.models.svc:8080")];
        assert_eq!(check(&guard("0.0.0.0", &[]), &Method::GET, &request), Ok(()));
        assert!(check(&guard("0.0.0.0", &["larder"]), &Method::GET, &request).is_err());
        assert_eq!(check(&guard("0.0.0.0", &["*"]), &Method::GET, &request), Ok(()));
        assert!(check(&guard("*", &["larder"]), &Method::GET, &request).is_err());
        for host in ["localhost", "::1", "127.5.6.7", "::ffff:127.0.0.1"] {
            assert!(guard(host, &[]).is_strict, "{host}");
        }
        for host in ["0.0.0.0", "::", "10.1.2.3"] {
            assert!(!guard(host, &[]).is_strict, "{host}");
        }
    }

    #[test]
    fn origin_must_be_the_server() {
        let own = "127.0.0.1:8080";
        let on_loopback = guard("127.0.0.1", &["cache.example"]);
        let of = |host, origin| [("host", host), ("origin", origin)];
        for (host, origin) in [
            (own, "http://127.0.0.1:8080"),
            ("localhost", "http://localhost:80"),
            ("LOCALHOST:8080", "http://localhost:8080"),
            // A proxy may give the server its own Host.
            (own, "https://cache.example"),
        ] {
            for method in [Method::GET, Method::POST] {
                assert_eq!(
                    check(&on_loopback, &method, &of(host, origin)),
                    Ok(()),
                    "{method} {host} {origin}"
                );
            }
        }
        for origin in [
            "http://evil.example",
            "null",
            "",
            "http://127.0.0.1:3000",
            "http://localhost:8080",
            "http://10.0.0.1:8080",
        ] {
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
                let seen = check(&on_loopback, &method, &of(own, origin));
                assert_eq!(seen, Err(Foreign::Origin(origin.to_owned())), "{method} {origin}");
            }
        }
        // A name that a page took for this address may be the name of a service; it changes nothing.
        let anywhere = guard("0.0.0.0", &[]);
        let rebound = of("evil.example:8080", "http://evil.example:8080");
        assert_eq!(check(&anywhere, &Method::GET, &rebound), Ok(()));
        assert!(check(&anywhere, &Method::DELETE, &rebound).is_err());
    }

    #[test]
    fn other_sites_and_forms_of_browsers_are_refused() {
        let guard = guard("127.0.0.1", &[]);
        for site in ["cross-site", "same-site", "anything"] {
            for method in [Method::GET, Method::POST] {
                assert!(check(&guard, &method, &[("sec-fetch-site", site)]).is_err(), "{method} {site}");
            }
            let link = [("sec-fetch-site", site), ("sec-fetch-mode", "navigate")];
            assert_eq!(check(&guard, &Method::GET, &link), Ok(()), "a link to the page");
            assert!(check(&guard, &Method::POST, &link).is_err());
        }
        for site in ["none", "same-origin"] {
            assert_eq!(check(&guard, &Method::GET, &[("sec-fetch-site", site)]), Ok(()));
        }
        for mark in [
            ("user-agent", "Mozilla/5.0"),
            ("referer", "http://evil.example/"),
            ("sec-fetch-mode", "no-cors"),
        ] {
            for encoding in
                ["text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "Multipart/form-data; x"]
            {
                let form = [mark, ("content-type", encoding)];
                assert_eq!(check(&guard, &Method::POST, &form), Err(Foreign::Form), "{form:?}");
            }
            assert_eq!(check(&guard, &Method::POST, &[mark, ("content-type", "application/json")]), Ok(()));
        }
        let curl = [("user-agent", "curl/8.5.0"), ("content-type", "application/x-www-form-urlencoded")];
        assert_eq!(check(&guard, &Method::POST, &curl), Ok(()), "curl -d");
    }
}
