//! The token of calls that change something.

use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::part::Part;
use crate::config::Config;

/// Serves a call if it has the configured token, or if none is configured.
pub(super) async fn require_token(config: Part<Config>, request: Request, next: Next) -> Response {
    let Some(token) = &config.http.auth_token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    if given.is_some_and(|given| is_same(given, token.expose().as_bytes())) {
        return next.run(request).await;
    }
    ApiError::Unauthorized.into_response()
}

/// The token in an `Authorization` header.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Compares in a time that does not depend on where two tokens of the same length differ.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differences = given.iter().zip(token).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differences) == 0
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
