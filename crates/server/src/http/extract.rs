//! The parts of a call, refused in the one shape that all refusals have.

use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;

use super::Refusal;

/// The whole body, within the limit of its route.
#[derive(Debug)]
pub(super) struct Body(pub(super) Bytes);

/// What follows the question mark.
#[derive(Debug)]
pub(super) struct Query(pub(super) HashMap<String, String>);

/// The one part of the path that varies, decoded.
#[derive(Debug)]
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let refuse = |why: BytesRejection| Refusal::new(why.status(), why.body_text());
        Bytes::from_request(request, state).await.map(Self).map_err(refuse)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let refuse = |why: QueryRejection| Refusal::new(why.status(), why.body_text());
        let query = extract::Query::from_request_parts(parts, state).await;
        query.map(|extract::Query(query)| Self(query)).map_err(refuse)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let refuse = |why: PathRejection| Refusal::new(why.status(), why.body_text());
        let path = extract::Path::from_request_parts(parts, state).await;
        path.map(|extract::Path(segment)| Self(segment)).map_err(refuse)
    }
}
