//! The server's background tasks, as LMCache's `/periodic-threads` shows its own.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::extract::{Query, Segment};
use super::{Answer, AppState, Refusal};
use crate::app::state::State;
use crate::app::tasks::{Level, Task};

/// All tasks, or those of a level, those that run.
pub(super) async fn list(Shared(state): Shared<AppState>, Query(query): Query) -> Answer {
    let wanted = query.get("level").map(|name| level(name)).transpose()?;
    let is_on = |name| query.get(name).is_some_and(|text| matches!(text.as_str(), "true" | "1"));
    let only_running = is_on("running_only") || is_on("active_only");
    let threads: Vec<Value> = state
        .tasks
        .all()
        .filter(|task| wanted.is_none_or(|level| task.level == level))
        .filter(|task| !only_running || task.is_running())
        .map(|task| task_json(&state, task))
        .collect();
    Ok(Json(json!({"summary": summary(&state), "threads": threads})).into_response())
}

/// One of them.
pub(super) async fn one(Shared(state): Shared<AppState>, Segment(name): Segment) -> Answer {
    let task = state.tasks.all().find(|task| task.name == name);
    let task = task.ok_or_else(|| {
        Refusal::new(axum::http::StatusCode::NOT_FOUND, format!("Thread not found: {name}"))
    })?;
    Ok(Json(task_json(&state, task)).into_response())
}

/// Whether all of them run.
pub(super) async fn health(Shared(state): Shared<AppState>) -> Response {
    let ended: Vec<&str> =
        state.tasks.all().filter(|task| !task.is_running()).map(|task| task.name).collect();
    let body = json!({
        "healthy": ended.is_empty(), "unhealthy_count": ended.len(), "unhealthy_threads": ended,
    });
    Json(body).into_response()
}

/// How many there are and run, in all and by level.
pub(super) fn summary(state: &State) -> Value {
    let count = |wanted: Option<Level>| {
        let tasks = state.tasks.all().filter(|task| wanted.is_none_or(|l| task.level == l));
        tasks.fold((0, 0), |(all, running), task| (all + 1, running + u32::from(task.is_running())))
    };
    let (all, running) = count(None);
    let by_level = Level::ALL.into_iter().map(|level| {
        let (all, running) = count(Some(level));
        (level.name().to_owned(), json!({"total": all, "running": running, "active": running}))
    });
    json!({
        "total_count": all, "running_count": running, "active_count": running,
        "by_level": by_level.collect::<serde_json::Map<_, _>>(),
    })
}

fn task_json(state: &State, task: &Task) -> Value {
    let (runs, last) = task.runs();
    let ago = last.map(|last| state.core().now().since(last).as_secs_f64());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    json!({
        "name": task.name, "level": task.level.name(),
        // It is woken by what it waits for, not by a clock.
        "interval": 0.0, "init_wait": 0.0,
        "is_running": task.is_running(), "is_active": task.is_running(),
        "last_run_time": ago.map(|ago| now - ago), "last_run_ago": ago,
        "total_runs": runs, "failed_runs": 0, "success_rate": 100.0, "last_summary": {},
    })
}

fn level(name: &str) -> Answer<Level> {
    Level::ALL.into_iter().find(|level| level.name() == name).ok_or_else(|| {
        let names: Vec<&str> = Level::ALL.iter().map(|level| level.name()).collect();
        Refusal::bad_request(format!("Invalid level: {name}. Valid values: {}", names.join(", ")))
    })
}
