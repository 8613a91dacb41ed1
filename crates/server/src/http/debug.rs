//! What shows or changes the insides of the process. Served with `--enable-debug-endpoints` only, and to
//! those who have the token, if there is one.

use std::fmt::Write as _;
use std::fs;

use axum::Json;
use axum::extract::{Request, State as Shared};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::body::{Faults, Fields, object};
use super::extract::{Body, Query};
use super::{Answer, AppState, Refusal};
use crate::app::state::State;
use crate::config::LogLevel;
use crate::config::secret::{REDACTED, names_a_secret, redact_url};

/// Variables of the environment that are shown; anything else may be a secret of somebody else's.
const SHOWN_PREFIX: &str = "LMCACHE_";

/// Lets a call through if these endpoints are on.
pub(super) async fn gate(Shared(state): Shared<AppState>, request: Request, next: Next) -> Response {
    if state.config.http.debug_endpoints {
        return next.run(request).await;
    }
    Refusal::new(StatusCode::NOT_FOUND, "Not Found: it is served with --enable-debug-endpoints only")
        .into_response()
}

/// The variables that concern this server, without secrets: text that is JSON, as LMCache answers.
pub(super) async fn env() -> Response {
    text(format!("{:#}", Value::Object(shown(std::env::vars_os()))))
}

fn shown(variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>) -> Map<String, Value> {
    let texts =
        variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let ours = texts.filter(|(name, _)| name.starts_with(SHOWN_PREFIX));
    ours.map(|(name, value)| {
        let value = if names_a_secret(&name) { REDACTED.to_owned() } else { redacted(&value) };
        (name, value.into())
    })
    .collect()
}

/// A value without the secrets that stand in it, be it an address or JSON.
fn redacted(value: &str) -> String {
    match serde_json::from_str::<Value>(value) {
        Ok(mut json @ (Value::Object(_) | Value::Array(_))) => {
            crate::config::secret::redact(&mut json);
            json.to_string()
        }
        _ => redact_url(value),
    }
}

/// The process's threads by name, as the kernel sees them.
pub(super) async fn threads(Query(query): Query) -> Response {
    let mut out = String::new();
    let mut total = 0;
    for (id, name, state) in tasks_of_process() {
        let fits = |wanted: &str, is: &str| query.get(wanted).is_none_or(|wanted| wanted == is);
        if fits("name", &name) && fits("thread_id", &id) {
            total += 1;
            let _ = writeln!(out, "Thread {id}: {name} ({state})");
        }
    }
    let _ = write!(out, "\n=== Thread Summary ===\nTotal threads: {total}\n");
    text(out)
}

/// Id, name and state of each thread. What cannot be read is left out.
fn tasks_of_process() -> Vec<(String, String, String)> {
    let Ok(entries) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let read = |entry: fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let state = status.lines().find_map(|line| line.strip_prefix("State:"))?;
        Some((entry.file_name().into_string().ok()?, name.trim().to_owned(), state.trim().to_owned()))
    };
    let mut threads: Vec<_> = entries.flatten().filter_map(read).collect();
    threads.sort_by_key(|(id, ..)| id.parse().unwrap_or(u64::MAX));
    threads
}

/// The level of what is logged; with `level`, changes it, as LMCache's dashboard does. There is one level
/// for everything, so every logger has it.
pub(super) async fn log_level(Shared(state): Shared<AppState>, Query(query): Query) -> Answer {
    let logger = query.get("logger_name").map(String::as_str);
    if let Some(wanted) = query.get("level") {
        let Some(level) = parse(wanted) else {
            return Ok(
                (StatusCode::BAD_REQUEST, text(format!("Invalid log level: {wanted}"))).into_response()
            );
        };
        set(&state, level)?;
        return Ok(text(format!("Set {} level to {}", logger.unwrap_or("larder"), level_name(level))));
    }
    let level = level_name(current(&state));
    Ok(text(match logger {
        Some(logger) => format!("{logger}: {level}"),
        None => format!("=== Loggers and Levels ===\nlarder: {level}\n"),
    }))
}

/// Changes the level of what is logged.
pub(super) async fn put_log_level(Shared(state): Shared<AppState>, Body(body): Body) -> Answer {
    let map = object(&body)?;
    let mut faults = Faults::default();
    Fields::of_body(&map).must_have(&mut faults, "level");
    let wanted = Fields::of_body(&map).text(&mut faults, "level").unwrap_or_default();
    faults.answer()?;
    let level = parse(wanted).ok_or_else(|| Refusal::bad_request(format!("Invalid log level: {wanted}")))?;
    set(&state, level)?;
    Ok(Json(json!({"status": "ok", "level": level.name()})).into_response())
}

fn current(state: &State) -> LogLevel {
    state.log.get().map_or(state.config.logging.level, |log| log.level())
}

fn set(state: &State, level: LogLevel) -> Answer<()> {
    let refuse = |why: String| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let log =
        state.log.get().ok_or_else(|| refuse("this process's log level cannot be changed".to_owned()))?;
    log.set(level).map_err(refuse)?;
    tracing::info!(%level, "log level changed");
    Ok(())
}

/// A level by our name for it or by Python's.
fn parse(name: &str) -> Option<LogLevel> {
    match name.to_ascii_lowercase().as_str() {
        "warning" => Some(LogLevel::Warn),
        "critical" => Some(LogLevel::Error),
        name => LogLevel::from_name(name),
    }
}

/// The level in the words of Python's logging.
fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace => "TRACE",
        LogLevel::Debug => "DEBUG",
        LogLevel::Info => "INFO",
        LogLevel::Warn => "WARNING",
        LogLevel::Error => "ERROR",
    }
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_concerns_the_server_is_shown_and_no_secret() {
        let variables = [
            ("LMCACHE_LOG_LEVEL", "DEBUG"),
            ("LMCACHE_RESP_PASSWORD", "hunter2"),
            ("LMCACHE_COORDINATOR_URL", "http://me:hunter2@host:1"),
            ("LMCACHE_SERVER_L2_ADAPTER", r#"{"type":"redis","password":"hunter2"}"#),
            ("AWS_REGION", "hunter2"),
        ];
        let shown = Value::Object(shown(variables.into_iter().map(|(n, v)| (n.into(), v.into()))));
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
        assert_eq!(shown["LMCACHE_LOG_LEVEL"], "DEBUG");
        assert_eq!(shown["LMCACHE_COORDINATOR_URL"], "http://***@host:1");
        assert_eq!(shown.as_object().map(Map::len), Some(4));
    }

    #[test]
    fn levels_are_known_by_both_names() {
        assert_eq!((parse("WARNING"), parse("warn")), (Some(LogLevel::Warn), Some(LogLevel::Warn)));
        assert_eq!((parse("CRITICAL"), parse("Trace")), (Some(LogLevel::Error), Some(LogLevel::Trace)));
        assert_eq!(parse("bogus"), None);
        for level in LogLevel::ALL {
            assert_eq!(parse(level_name(*level)), Some(*level));
        }
    }
}
