//! Extractors that report failures as [`ApiError`].

use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;

use super::error::ApiError;

/// The whole body, within the limit of its route.
#[derive(Debug)]
pub(super) struct Body(pub(super) Bytes);

/// The parameters of the query.
#[derive(Debug)]
pub(super) struct Query(pub(super) HashMap<String, String>);

/// The variable segment of the path, decoded.
#[derive(Debug)]
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let reject = |why: BytesRejection| ApiError::Rejected(why.status(), why.body_text());
        Bytes::from_request(request, state).await.map(Self).map_err(reject)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let reject = |why: QueryRejection| ApiError::Rejected(why.status(), why.body_text());
        let query = extract::Query::from_request_parts(parts, state).await;
        query.map(|extract::Query(query)| Self(query)).map_err(reject)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let reject = |why: PathRejection| ApiError::Rejected(why.status(), why.body_text());
        let path = extract::Path::from_request_parts(parts, state).await;
        path.map(|extract::Path(segment)| Self(segment)).map_err(reject)
    }
}
