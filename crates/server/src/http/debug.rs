//! Endpoints that show or change the process itself. They are served with `--enable-debug-endpoints` only, and need the
//! token if one is configured.

use std::fmt::Write as _;
use std::fs;
use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::Answer;
use super::body::{FieldErrors, Fields, object};
use super::error::ApiError;
use super::extract::{Body, Query};
use super::part::Part;
use crate::app::log_control::LogControl;
use crate::config::secret::{REDACTED, names_a_secret, redact_url};
use crate::config::{Config, LogLevel};

/// Environment variables that are shown; others may be secrets of other programs.
const SHOWN_PREFIX: &str = "LMCACHE_";

type LogPart = Part<OnceLock<Arc<LogControl>>>;

/// Serves a call if these endpoints are enabled.
pub(super) async fn gate(config: Part<Config>, request: Request, next: Next) -> Response {
    if config.http.debug_endpoints {
        return next.run(request).await;
    }
    ApiError::NotFound("Not Found: it is served with --enable-debug-endpoints only".to_owned())
        .into_response()
}

/// The server's environment variables without secrets: JSON sent as text, as LMCache does.
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

/// A value without the secrets in it, if it is a URL or JSON.
fn redacted(value: &str) -> String {
    match serde_json::from_str::<Value>(value) {
        Ok(mut json @ (Value::Object(_) | Value::Array(_))) => {
            crate::config::secret::redact(&mut json);
            json.to_string()
        }
        _ => redact_url(value),
    }
}

/// The process's threads, as the kernel reports them.
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

/// Id, name and state of each thread. Threads that cannot be read are left out.
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

/// The log level; with `level`, changes it, as LMCache's dashboard does. All loggers have the same level.
pub(super) async fn log_level(config: Part<Config>, log: LogPart, Query(query): Query) -> Answer {
    let logger = query.get("logger_name").map(String::as_str);
    if let Some(wanted) = query.get("level") {
        let Some(level) = parse(wanted) else {
            return Ok(
                (StatusCode::BAD_REQUEST, text(format!("Invalid log level: {wanted}"))).into_response()
            );
        };
        set(&log, level)?;
        return Ok(text(format!("Set {} level to {}", logger.unwrap_or("larder"), level_name(level))));
    }
    let level = level_name(log.get().map_or(config.logging.level, |log| log.level()));
    Ok(text(match logger {
        Some(logger) => format!("{logger}: {level}"),
        None => format!("=== Loggers and Levels ===\nlarder: {level}\n"),
    }))
}

/// Changes the log level.
pub(super) async fn put_log_level(log: LogPart, Body(body): Body) -> Answer {
    let map = object(&body)?;
    let mut errors = FieldErrors::default();
    Fields::of_body(&map).must_have(&mut errors, "level");
    let wanted = Fields::of_body(&map).text(&mut errors, "level").unwrap_or_default();
    errors.check()?;
    let level = parse(wanted).ok_or_else(|| ApiError::BadRequest(format!("Invalid log level: {wanted}")))?;
    set(&log, level)?;
    Ok(Json(json!({"status": "ok", "level": level.name()})).into_response())
}

fn set(log: &OnceLock<Arc<LogControl>>, level: LogLevel) -> Answer<()> {
    let fixed = || ApiError::Unavailable("this process's log level cannot be changed".to_owned());
    let log = log.get().ok_or_else(fixed)?;
    log.set(level).map_err(ApiError::Unavailable)?;
    tracing::info!(%level, "log level changed");
    Ok(())
}

/// A level by its own name or by Python's.
fn parse(name: &str) -> Option<LogLevel> {
    match name.to_ascii_lowercase().as_str() {
        "warning" => Some(LogLevel::Warn),
        "critical" => Some(LogLevel::Error),
        name => LogLevel::from_name(name),
    }
}

/// The level's name in Python's logging.
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
    fn only_own_variables_are_shown_without_secrets() {
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
    fn levels_are_parsed_by_both_names() {
        assert_eq!((parse("WARNING"), parse("warn")), (Some(LogLevel::Warn), Some(LogLevel::Warn)));
        assert_eq!((parse("CRITICAL"), parse("Trace")), (Some(LogLevel::Error), Some(LogLevel::Trace)));
        assert_eq!(parse("bogus"), None);
        for level in LogLevel::ALL {
            assert_eq!(parse(level_name(*level)), Some(*level));
        }
    }
}
