//! The page for browsers: a few static files that are part of the binary. It shows
//! [`Overview`](crate::overview::Overview), which it asks for by itself, and changes nothing.
//!
//! No file refers to another host, and the policy sent with each forbids it.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{Refusal, not_found};

/// What the files may do: load each other and ask this server.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Sent with every file, whether it goes along or not. A browser may keep a file, and asks each time
/// whether it is still the same, so that page and server are never of two versions.
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

/// What the index asks for, below `/page/`.
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

/// What each file is known by, made at the first question.
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| FILES.iter().map(File::tag).collect());
static INDEX_TAG: LazyLock<HeaderValue> = LazyLock::new(|| INDEX.tag());

impl File {
    fn tag(&self) -> HeaderValue {
        let hash = blake3::hash(self.body.as_bytes()).to_hex();
        HeaderValue::try_from(format!("\"{}\"", &hash[..16])).expect("hexadecimal digits")
    }

    /// The file, or that the one which the asker has is still the same.
    fn answer(&self, tag: &HeaderValue, asked: &HeaderMap) -> Response {
        let known = asked.get_all(header::IF_NONE_MATCH).iter().any(|tags| names(tags, tag));
        let tag = [(header::ETAG, tag.clone())];
        if known {
            return (StatusCode::NOT_MODIFIED, headers(), tag).into_response();
        }
        (headers(), tag, [(header::CONTENT_TYPE, self.content_type)], self.body).into_response()
    }
}

/// Whether a list of tags holds `tag`. A proxy that compresses may have made it a weak one.
fn names(tags: &HeaderValue, tag: &HeaderValue) -> bool {
    let Ok(tags) = tags.to_str() else { return false };
    tags.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == "*" || *tag == one)
}

/// `/`: the page for whoever says that they read HTML, which tools and probes do not.
pub(super) async fn root(asked: HeaderMap) -> Response {
    let vary = [(header::VARY, "Accept")];
    if prefers_html(&asked) {
        return (vary, INDEX.answer(&INDEX_TAG, &asked)).into_response();
    }
    (vary, Json(json!({"status": "ok", "service": "LMCache HTTP API"}))).into_response()
}

/// `/page/NAME`.
pub(super) async fn file(Path(name): Path<String>, asked: HeaderMap) -> Result<Response, Refusal> {
    let found = FILES.iter().zip(&*TAGS).find(|(file, _)| file.name == name);
    match found {
        Some((file, tag)) => Ok(file.answer(tag, &asked)),
        None => Err(not_found().await),
    }
}

/// Whether `Accept` names HTML, and not JSON as much or more. Ranges with asterisks name neither.
fn prefers_html(asked: &HeaderMap) -> bool {
    let ranges = || {
        let lists = asked.get_all(header::ACCEPT).iter().filter_map(|list| list.to_str().ok());
        lists.flat_map(|list| list.split(',')).map(media_range)
    };
    let quality = |name: &str| {
        let named = ranges().filter(|(range, _)| range.eq_ignore_ascii_case(name));
        named.map(|(_, quality)| quality).fold(0.0, f32::max)
    };
    quality("text/html") > quality("application/json")
}

/// A media range and how welcome it is: 1 unless it says otherwise, 0 if what it says makes no sense.
fn media_range(text: &str) -> (&str, f32) {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (range, quality.map_or(1.0, |text| text.parse().unwrap_or(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a header"))])
    }

    #[test]
    fn only_who_names_html_gets_the_page() {
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
            assert_eq!(prefers_html(&asking(header::ACCEPT, accept)), html, "{accept}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }

    #[test]
    fn a_tag_is_found_in_a_list_and_if_a_proxy_weakened_it() {
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
    fn the_page_asks_for_nothing_that_is_not_there() {
        let named = |text: &'static str, mark: &'static str| {
            text.split(mark).skip(1).map(|rest| rest.split('"').next().expect("a part"))
        };
        let by_index = named(INDEX.body, "=\"page/");
        let by_scripts = FILES.iter().flat_map(|file| named(file.body, "from \"./"));
        let mut wanted: Vec<&str> = by_index.chain(by_scripts).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut there: Vec<&str> = FILES.iter().map(|file| file.name).collect();
        there.sort_unstable();
        assert_eq!(wanted, there, "every file is used, and no other");
        for file in FILES.iter().chain([&INDEX]) {
            let elsewhere = file.body.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http:") && !elsewhere.contains("https:"), "{}", file.name);
        }
    }
}
