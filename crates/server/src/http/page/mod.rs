//! The dashboard: a few static files that are part of the binary. It polls [`Overview`](crate::overview::Overview) and
//! changes nothing.
//!
//! No file refers to another host, and the content security policy forbids it.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::error::ApiError;

/// The files may load each other and call this server.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every answer. A browser may cache a file but revalidates it each time, so page and server always have the
/// same version.
fn headers() -> [(HeaderName, &'static str); 5] {
    [
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ]
}

/// One file of the page.
#[derive(Debug)]
struct File {
    name: &'static str,
    content_type: &'static str,
    body: &'static str,
}

static INDEX: File =
    File { name: "", content_type: "text/html; charset=utf-8", body: include_str!("index.html") };

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Files that the index loads from `/page/`.
static FILES: [File; 8] = [
    File { name: "style.css", content_type: "text/css; charset=utf-8", body: include_str!("style.css") },
    File { name: "icon.svg", content_type: "image/svg+xml", body: include_str!("icon.svg") },
    File { name: "app.js", content_type: SCRIPT, body: include_str!("app.js") },
    File { name: "chart.js", content_type: SCRIPT, body: include_str!("chart.js") },
    File { name: "format.js", content_type: SCRIPT, body: include_str!("format.js") },
    File { name: "history.js", content_type: SCRIPT, body: include_str!("history.js") },
    File { name: "tables.js", content_type: SCRIPT, body: include_str!("tables.js") },
    File { name: "verdict.js", content_type: SCRIPT, body: include_str!("verdict.js") },
];

/// Entity tags of the files, computed at the first request.
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| FILES.iter().map(File::tag).collect());
static INDEX_TAG: LazyLock<HeaderValue> = LazyLock::new(|| INDEX.tag());

impl File {
    fn tag(&self) -> HeaderValue {
        let hash = blake3::hash(self.body.as_bytes()).to_hex();
        HeaderValue::try_from(format!("\"{}\"", &hash[..16])).expect("hexadecimal digits")
    }

    /// The file, or 304 if the client's copy is current.
    fn answer(&self, tag: &HeaderValue, request: &HeaderMap) -> Response {
        let cached = request.get_all(header::IF_NONE_MATCH).iter().any(|tags| names(tags, tag));
        let tag = [(header::ETAG, tag.clone())];
        if cached {
            return (StatusCode::NOT_MODIFIED, headers(), tag).into_response();
        }
        (headers(), tag, [(header::CONTENT_TYPE, self.content_type)], self.body).into_response()
    }
}

/// Whether a list of tags contains `tag`. A proxy that compresses may have made it a weak tag.
fn names(tags: &HeaderValue, tag: &HeaderValue) -> bool {
    let Ok(tags) = tags.to_str() else { return false };
    tags.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == "*" || *tag == one)
}

/// `/`: the dashboard for clients that accept HTML, and JSON for tools and probes.
pub(super) async fn root(request: HeaderMap) -> Response {
    let vary = [(header::VARY, "Accept")];
    if prefers_html(&request) {
        return (vary, INDEX.answer(&INDEX_TAG, &request)).into_response();
    }
    (vary, Json(json!({"status": "ok", "service": "LMCache HTTP API"}))).into_response()
}

/// `/page/NAME`.
pub(super) async fn file(Path(name): Path<String>, request: HeaderMap) -> Result<Response, ApiError> {
    let found = FILES.iter().zip(&*TAGS).find(|(file, _)| file.name == name);
    match found {
        Some((file, tag)) => Ok(file.answer(tag, &request)),
        None => Err(ApiError::not_found()),
    }
}

/// Whether `Accept` prefers HTML to JSON. Wildcards count for neither.
fn prefers_html(request: &HeaderMap) -> bool {
    let ranges = || {
        let lists = request.get_all(header::ACCEPT).iter().filter_map(|list| list.to_str().ok());
        lists.flat_map(|list| list.split(',')).map(media_range)
    };
    let quality = |name: &str| {
        let named = ranges().filter(|(range, _)| range.eq_ignore_ascii_case(name));
        named.map(|(_, quality)| quality).fold(0.0, f32::max)
    };
    quality("text/html") > quality("application/json")
}

/// A media range and its quality: 1 by default, 0 if it cannot be parsed.
fn media_range(text: &str) -> (&str, f32) {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (range, quality.map_or(1.0, |text| text.parse().unwrap_or(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers_with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a header"))])
    }

    #[test]
    fn page_is_served_to_clients_that_accept_html() {
        let firefox = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, html) in [
            (firefox, true),
            ("TEXT/HTML", true),
            ("application/json;q=0.5, text/html;q=0.9", true),
            ("*/*", false),
            ("", false),
            ("application/json", false),
            ("text/html, application/json", false),
            ("application/json, text/html;q=0.9", false),
            ("text/html;q=0", false),
            ("text/html;q=x", false),
        ] {
            assert_eq!(prefers_html(&headers_with(header::ACCEPT, accept)), html, "{accept}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }

    #[test]
    fn finds_tag_in_a_list_and_as_weak_tag() {
        let tag = HeaderValue::from_static("\"abc\"");
        for (tags, found) in [
            ("\"abc\"", true),
            ("\"x\", W/\"abc\"", true),
            ("*", true),
            ("\"x\"", false),
            ("abc", false),
            ("", false),
        ] {
            assert_eq!(names(&HeaderValue::from_static(tags), &tag), found, "{tags}");
        }
    }

    #[test]
    fn page_loads_exactly_the_embedded_files() {
        let named = |text: &'static str, mark: &'static str| {
            text.split(mark).skip(1).map(|rest| rest.split('"').next().expect("a part"))
        };
        let by_index = named(INDEX.body, "=\"page/");
        let by_scripts = FILES.iter().flat_map(|file| named(file.body, "from \"./"));
        let mut wanted: Vec<&str> = by_index.chain(by_scripts).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut embedded: Vec<&str> = FILES.iter().map(|file| file.name).collect();
        embedded.sort_unstable();
        assert_eq!(wanted, embedded, "files loaded and files embedded");
        for file in FILES.iter().chain([&INDEX]) {
            let elsewhere = file.body.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http:") && !elsewhere.contains("https:"), "{}", file.name);
        }
    }
}
