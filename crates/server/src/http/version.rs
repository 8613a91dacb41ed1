//! The server's version, and the LMCache version that it is compatible with.

use axum::Json;

/// The LMCache release with the same protocol and HTTP API.
const LMCACHE_VERSION: &str = "0.5.6";

/// The commit of the build, if the build was given it.
pub(crate) const COMMIT: Option<&str> = option_env!("LARDER_COMMIT");

/// LMCache's version first, so that version checks pass, then the server's.
pub(super) async fn version() -> Json<String> {
    Json(format!("{LMCACHE_VERSION}-larder.{}", env!("CARGO_PKG_VERSION")))
}

pub(super) async fn lmcache_version() -> Json<&'static str> {
    Json(LMCACHE_VERSION)
}

pub(super) async fn commit_id() -> Json<&'static str> {
    Json(COMMIT.unwrap_or("unknown"))
}
