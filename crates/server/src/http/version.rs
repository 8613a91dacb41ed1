//! Which version this is, and of which LMCache it behaves like.

use axum::Json;

/// The LMCache release whose protocol and surface this server keeps to.
const LMCACHE_VERSION: &str = "0.5.6";

/// The commit this was built from, if the build said so.
pub(crate) const COMMIT: Option<&str> = option_env!("LARDER_COMMIT");

/// LMCache's version first, so that checks on it pass, then ours.
pub(super) async fn version() -> Json<String> {
    Json(format!("{LMCACHE_VERSION}-larder.{}", env!("CARGO_PKG_VERSION")))
}

pub(super) async fn lmcache_version() -> Json<&'static str> {
    Json(LMCACHE_VERSION)
}

pub(super) async fn commit_id() -> Json<&'static str> {
    Json(COMMIT.unwrap_or("unknown"))
}
