use std::sync::Arc;

use larder_core::{Group, WorkerSpec};
use larder_types::Layout;
use larder_types::dtype::DType;
use larder_types::object::{WORLD_SIZE_MAX, check_model_name};
use larder_wire::ops::RegisterEngineDriven;
use larder_wire::ops::register_engine_driven::Pool;

use super::context::{Call, Context};
use super::reply::Reply;
use crate::app::refusals::Refused;
use crate::observe::event::RequestEvent;

/// Registers a worker that copies by itself, and answers where the arena is.
///
/// A worker that cannot be served gets no arena, and then finds and stores nothing: its engine runs, uncached, instead
/// of waiting five minutes to fail.
pub(super) fn serve(cx: &Arc<Context>, call: &Call<'_>, registration: RegisterEngineDriven) -> Reply<Pool> {
    let instance = registration.instance_id;
    let spec = match worker(cx, &registration) {
        Ok(spec) => spec,
        Err(reason) => {
            let model = &*registration.model_name;
            if cx.refusals.count_and_log(Refused::Registrations) {
                tracing::warn!(%instance, model, "worker not served: {reason}");
            }
            cx.core.with(|core, now| core.register_unserved(now, instance));
            return Ok(Pool::default()).into();
        }
    };
    let (model, object_bytes, world_size) =
        (&registration.model_name, spec.groups[0].layout.bytes(), spec.world_size);
    let registered = cx.observe(|core, now| {
        let registered = core.register_within_limits(now, call.connection, spec);
        let is_new = registered == Ok(true);
        if registered.is_err() {
            core.register_unserved(now, instance);
        }
        (registered, is_new.then_some(RequestEvent::Registered { now, model, world_size, object_bytes }))
    });
    if let Err(reason) = registered {
        cx.refusals.warn(Refused::Registrations, format_args!("worker {instance}: {reason}"));
        return Ok(Pool::default()).into();
    }
    if registered == Ok(true) {
        tracing::info!(%instance, model = &**model, world_size, chunk_bytes = object_bytes, "worker registered");
    }
    // It will store soon: have memory committed.
    cx.memory.prepare(cx.core.read(|core, _| core.index().high_water_mark()));
    if !cx.processes.registered(call.connection) {
        return Ok(pool(cx)).into();
    }
    let (cx, connection) = (cx.clone(), call.connection);
    Reply::copy(move || {
        cx.processes.note_registered(connection);
        Ok(pool(&cx))
    })
}

fn pool(cx: &Context) -> Pool {
    match cx.arena.name() {
        Some(name) => Pool { shm_name: name.to_owned(), pool_size: cx.arena.size() },
        None => Pool::default(),
    }
}

/// The worker that the registration describes, or why it cannot be served.
fn worker(cx: &Context, registration: &RegisterEngineDriven) -> Result<WorkerSpec, String> {
    if !cx.serves_engine_driven {
        return Err("--supported-transfer-mode does not include engine_driven".to_owned());
    }
    check_model_name(&registration.model_name).map_err(|e| e.to_string())?;
    let world_size = u32::try_from(registration.world_size)
        .ok()
        .filter(|w| (1..=WORLD_SIZE_MAX).contains(w))
        .ok_or_else(|| format!("world_size {} is not in 1..={WORLD_SIZE_MAX}", registration.world_size))?;
    let layout = layout(registration, cx.chunk_tokens() as i64)?;
    if layout.bytes() > cx.arena.size() {
        return Err(format!("a chunk of {} bytes does not fit into L1", layout.bytes()));
    }
    Ok(WorkerSpec {
        instance: registration.instance_id,
        model: registration.model_name.clone(),
        world_size,
        block_tokens: u32::try_from(registration.block_size).ok().filter(|b| *b > 0),
        groups: vec![Group { id: 0, window: None, layout }],
    })
}

/// The shape of one chunk: `[2, layers, slots, hidden]`, or without the leading axis if the worker
/// has one plane (MLA and fused formats).
fn layout(registration: &RegisterEngineDriven, chunk_tokens: i64) -> Result<Layout, String> {
    let positive = |name: &str, value: i64| {
        u64::try_from(value).ok().filter(|v| *v > 0).ok_or_else(|| format!("{name} {value} is not positive"))
    };
    let dtype = DType::from_name(&registration.dtype).map_err(|e| e.to_string())?;
    let slots = registration.num_physical_slots.unwrap_or(chunk_tokens);
    let plane = [
        positive("num_layers", registration.num_layers)?,
        positive("num_physical_slots", slots)?,
        positive("hidden_dim_size", registration.hidden_dim_size)?,
    ];
    let split = [2, plane[0], plane[1], plane[2]];
    let shape = if registration.use_mla { &plane[..] } else { &split[..] };
    Layout::new(shape, dtype).ok_or_else(|| format!("a chunk of shape {shape:?} is too large"))
}
