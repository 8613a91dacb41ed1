//! Who may change something.

use axum::extract::{Request, State as Shared};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{AppState, Refusal};

/// Lets a call through if it carries the token that the operator has set, or if there is none.
pub(super) async fn require_token(Shared(state): Shared<AppState>, request: Request, next: Next) -> Response {
    let Some(token) = &state.config.http.auth_token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    if given.is_some_and(|given| is_same(given, token.expose().as_bytes())) {
        return next.run(request).await;
    }
    let refusal = Refusal::new(
        StatusCode::UNAUTHORIZED,
        "this call needs the token of --http-auth-token-file, as 'Authorization: Bearer TOKEN'",
    );
    ([(header::WWW_AUTHENTICATE, "Bearer")], refusal).into_response()
}

/// The token in an `Authorization` header.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Compares in a time that tells nothing about where two of one length differ.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differences = given.iter().zip(token).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        assert_eq!(bearer(b"Basic abc"), None);
        assert_eq!(bearer(b"Bearer"), None);
    }

    #[test]
    fn only_the_whole_token_is_the_same() {
        assert!(is_same(b"secret", b"secret"));
        assert!(
            !is_same(b"secre", b"secret")
                && !is_same(b"secrets", b"secret")
                && !is_same(b"Secret", b"secret")
        );
    }
}
