//! The token of calls that change something, and with `--http-auth-reads` of all calls but probes.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use crate::config::{Config, HttpConfig};

/// Whether the caller needs the token at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// If the configuration says so.
    Configured,
    /// The caller has proved who it is.
    Open,
}

/// What calls do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reads,
    Changes,
}

/// Serves a call if it has the configured token, or if it needs none.
pub(super) async fn require_token(
    State((config, rule, kind)): State<(Arc<Config>, Rule, Kind)>,
    request: Request,
    next: Next,
) -> Response {
    let Some(token) = token(&config.http, rule, kind) else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    if given.is_some_and(|given| is_same(given, token)) {
        return next.run(request).await;
    }
    ApiError::Unauthorized.into_response()
}

/// The token that a call needs, if it needs one.
fn token(http: &HttpConfig, rule: Rule, kind: Kind) -> Option<&[u8]> {
    let is_needed = rule == Rule::Configured && (kind == Kind::Changes || http.auth_reads);
    http.auth_token.as_ref().filter(|_| is_needed).map(|token| token.expose().as_bytes())
}

/// The token in an `Authorization` header.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Compares in a time that depends on neither token: the comparison of BLAKE3 hashes is constant-time.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    blake3::hash(given) == blake3::hash(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_scheme_is_case_insensitive() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        assert_eq!(bearer(b"Basic abc"), None);
        assert_eq!(bearer(b"Bearer"), None);
    }

    #[test]
    fn part_of_a_token_is_not_the_token() {
        assert!(is_same(b"secret", b"secret"));
        assert!(
            !is_same(b"secre", b"secret")
                && !is_same(b"secrets", b"secret")
                && !is_same(b"Secret", b"secret")
        );
    }
}
