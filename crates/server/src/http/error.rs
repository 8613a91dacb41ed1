//! Errors of the HTTP API: a status and one sentence.

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use larder_types::object::ObjectKeyError;
use serde::Serialize;
use serde_json::{Value, json};

/// Why a call was not done. One variant for each status.
#[derive(Debug)]
pub(super) enum ApiError {
    BadRequest(String),
    /// The call needs the token of `--http-auth-token-file`.
    Unauthorized,
    /// The call is made on behalf of another site.
    Forbidden(String),
    NotFound(String),
    MethodNotAllowed,
    Conflict(&'static str),
    /// Fields of the body or the query are invalid.
    InvalidFields(Vec<FieldError>),
    NotImplemented(String),
    Unavailable(String),
    /// The HTTP library rejected the request.
    Rejected(StatusCode, String),
}

/// An invalid field, as LMCache's framework describes it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FieldError {
    pub(super) input: Value,
    /// Path of names and indices, from `body` or `query` on.
    pub(super) loc: Vec<Value>,
    pub(super) msg: String,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
}

impl ApiError {
    /// The path or the thing that it names does not exist.
    pub(super) fn not_found() -> Self {
        Self::NotFound("Not Found".to_owned())
    }

    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::InvalidFields(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Rejected(status, _) => *status,
        }
    }
}

impl From<ObjectKeyError> for ApiError {
    fn from(error: ObjectKeyError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, mut headers) = (self.status(), HeaderMap::new());
        let sentence = match self {
            Self::InvalidFields(fields) => return (status, Json(json!({"detail": fields}))).into_response(),
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                "this call needs the token of --http-auth-token-file, as 'Authorization: Bearer TOKEN'"
                    .to_owned()
            }
            Self::MethodNotAllowed => "Method Not Allowed".to_owned(),
            Self::Conflict(sentence) => sentence.to_owned(),
            Self::BadRequest(sentence)
            | Self::Forbidden(sentence)
            | Self::NotFound(sentence)
            | Self::NotImplemented(sentence)
            | Self::Unavailable(sentence)
            | Self::Rejected(_, sentence) => sentence,
        };
        // LMCache's tools read one or the other.
        (status, headers, Json(json!({"detail": sentence, "error": sentence}))).into_response()
    }
}
