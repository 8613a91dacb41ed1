//! Who may change something.

use axum::extract::{Request, State as Shared};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::{AppState, error};

/// Lets a request through that carries the operator's token (`--http-auth-token-file`), or every one if
/// there is none.
pub(super) async fn require_token(Shared(state): Shared<AppState>, request: Request, next: Next) -> Response {
    let Some(token) = &state.config.http.auth_token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    if given.is_some_and(|given| same(given, token.expose().as_bytes())) {
        return next.run(request).await;
    }
    let text =
        "this call needs the header 'Authorization: Bearer TOKEN', with the token of --http-auth-token-file";
    let mut answer = error(StatusCode::UNAUTHORIZED, text);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

/// What follows the scheme, whose case does not matter.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Compares in a time that tells nothing but the length.
fn same(given: &[u8], token: &[u8]) -> bool {
    given.len() == token.len() && given.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_and_compared() {
        assert_eq!(bearer(b"Bearer abc "), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer abc"), Some(&b"abc"[..]));
        assert_eq!((bearer(b"Basic abc"), bearer(b""), bearer(b"Bearer")), (None, None, None));
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abd", b"abc") && !same(b"ab", b"abc") && !same(b"", b"abc"));
    }
}
