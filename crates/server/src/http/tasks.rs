//! The server's background tasks, in the shape of LMCache's `/periodic-threads`.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::response::{IntoResponse, Response};
use larder_types::Time;
use serde_json::{Value, json};

use super::Answer;
use super::error::ApiError;
use super::extract::{Query, Segment};
use super::part::Part;
use crate::app::core_handle::CoreHandle;
use crate::app::tasks::{Level, Task, Tasks};

/// All tasks, filtered by level and by whether they run.
pub(super) async fn list(tasks: Part<Tasks>, core: Part<CoreHandle>, Query(query): Query) -> Answer {
    let wanted = query.get("level").map(|name| level(name)).transpose()?;
    let is_on = |name| query.get(name).is_some_and(|text| matches!(text.as_str(), "true" | "1"));
    let only_running = is_on("running_only") || is_on("active_only");
    let threads: Vec<Value> = tasks
        .all()
        .filter(|task| wanted.is_none_or(|level| task.level == level))
        .filter(|task| !only_running || task.is_running())
        .map(|task| task_json(task, core.now()))
        .collect();
    Ok(Json(json!({"summary": summary(&tasks), "threads": threads})).into_response())
}

/// One task.
pub(super) async fn one(tasks: Part<Tasks>, core: Part<CoreHandle>, Segment(name): Segment) -> Answer {
    let task = tasks.all().find(|task| task.name == name);
    let task = task.ok_or_else(|| ApiError::NotFound(format!("Thread not found: {name}")))?;
    Ok(Json(task_json(task, core.now())).into_response())
}

/// Whether all tasks run.
pub(super) async fn health(tasks: Part<Tasks>) -> Response {
    let ended: Vec<&str> = tasks.all().filter(|task| !task.is_running()).map(|task| task.name).collect();
    let body = json!({
        "healthy": ended.is_empty(), "unhealthy_count": ended.len(), "unhealthy_threads": ended,
    });
    Json(body).into_response()
}

/// Numbers of tasks and of running tasks, in total and by level.
pub(super) fn summary(tasks: &Tasks) -> Value {
    let count = |wanted: Option<Level>| {
        let tasks = tasks.all().filter(|task| wanted.is_none_or(|l| task.level == l));
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

fn task_json(task: &Task, now: Time) -> Value {
    let (runs, last) = task.runs();
    let ago = last.map(|last| now.since(last).as_secs_f64());
    let unix_now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    json!({
        "name": task.name, "level": task.level.name(),
        // Tasks are woken by events, not periodically.
        "interval": 0.0, "init_wait": 0.0,
        "is_running": task.is_running(), "is_active": task.is_running(),
        "last_run_time": ago.map(|ago| unix_now - ago), "last_run_ago": ago,
        "total_runs": runs, "failed_runs": 0, "success_rate": 100.0, "last_summary": {},
    })
}

fn level(name: &str) -> Answer<Level> {
    Level::ALL.into_iter().find(|level| level.name() == name).ok_or_else(|| {
        let names: Vec<&str> = Level::ALL.iter().map(|level| level.name()).collect();
        ApiError::BadRequest(format!("Invalid level: {name}. Valid values: {}", names.join(", ")))
    })
}
