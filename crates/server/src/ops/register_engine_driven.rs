use std::sync::Arc;

use larder_core::{Group, WorkerSpec};
use larder_policy::prefix_scan::AttentionWindow;
use larder_types::Layout;
use larder_types::dtype::DType;
use larder_types::object::{WORLD_SIZE_MAX, check_model_name};
use larder_wire::codec::Newer;
use larder_wire::ops::RegisterEngineDriven;
use larder_wire::ops::register_engine_driven::{GroupLayout, Pool};

use super::context::{Call, Context};
use super::reply::Reply;
use crate::app::refusals::Refused;
use crate::observe::event::RequestEvent;

/// Objects of one chunk, of all groups and ranks, if there are several groups.
const SHARDS_MAX: usize = 512;

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
    let (model, world_size, groups) = (&registration.model_name, spec.world_size, spec.groups.len());
    let object_bytes = spec.groups.iter().map(|group| group.layout.bytes()).sum();
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
        tracing::info!(%instance, model = &**model, world_size, groups, chunk_bytes = object_bytes, "worker registered");
    }
    // It will store soon: have memory committed.
    cx.memory.prepare(cx.core.read(|core, _| core.index().high_water_mark()));
    let pool = pool(cx, &registration);
    if !cx.processes.registered(call.connection) {
        return Ok(pool).into();
    }
    let (cx, connection) = (cx.clone(), call.connection);
    Reply::copy(move || {
        cx.processes.note_registered(connection);
        Ok(pool)
    })
}

fn pool(cx: &Context, registration: &RegisterEngineDriven) -> Pool {
    // Clients that do not know the field do not get it.
    let null_block_id = Newer(registration.group_layouts.0.as_ref().map(|_| cx.null_block_id));
    match cx.arena.name() {
        Some(name) => Pool { shm_name: name.to_owned(), pool_size: cx.arena.size(), null_block_id },
        None => Pool { null_block_id, ..Pool::default() },
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
    let groups = groups(registration, cx.chunk_tokens() as i64)?;
    if groups.len() > 1 && groups.len() * world_size as usize > SHARDS_MAX {
        let (groups, max) = (groups.len(), SHARDS_MAX);
        return Err(format!(
            "{groups} groups of {world_size} ranks are more than {max} objects for each chunk"
        ));
    }
    let chunk_bytes = groups.iter().try_fold(0u64, |sum, group| sum.checked_add(group.layout.bytes()));
    if let Some(bytes) = chunk_bytes.filter(|bytes| *bytes > cx.arena.size()) {
        return Err(format!("a chunk of {bytes} bytes does not fit into L1"));
    }
    chunk_bytes.ok_or("a chunk of all groups is too large")?;
    Ok(WorkerSpec {
        instance: registration.instance_id,
        model: registration.model_name.clone(),
        world_size,
        block_tokens: u32::try_from(registration.block_size).ok().filter(|b| *b > 0),
        groups,
    })
}

/// The groups of a worker's layers. One group alone is transferred as if none was named: whole chunks, all of them.
fn groups(registration: &RegisterEngineDriven, chunk_tokens: i64) -> Result<Vec<Group>, String> {
    let layouts = registration.group_layouts.0.as_deref().unwrap_or_default();
    if layouts.len() < 2 {
        let layout = layout(&Plane {
            layers: registration.num_layers,
            tokens: ("num_physical_slots", registration.num_physical_slots.unwrap_or(chunk_tokens)),
            hidden: registration.hidden_dim_size,
            dtype: &registration.dtype,
            is_single: registration.use_mla,
        })?;
        return Ok(vec![Group { id: 0, window: None, layout }]);
    }
    let numbered = (0..).zip(layouts);
    let group = |(id, group): (u32, &GroupLayout)| {
        let (window, layout) = self::group(group, registration.use_mla, chunk_tokens)
            .map_err(|reason| format!("group {id}: {reason}"))?;
        Ok(Group { id, window, layout })
    };
    numbered.map(group).collect()
}

/// The window in chunks of one of several groups, and the layout of its chunks.
fn group(group: &GroupLayout, use_mla: bool, chunk_tokens: i64) -> Result<(AttentionWindow, Layout), String> {
    let window = u32::try_from(group.window_chunks)
        .map_err(|_| format!("window_chunks {} is not a number of chunks", group.window_chunks))?;
    let tokens = match group.window_tokens {
        0 => chunk_tokens,
        tokens if tokens > chunk_tokens => {
            return Err(format!("window_tokens {tokens} is more than a chunk of {chunk_tokens}"));
        }
        tokens => tokens,
    };
    let is_single = match group.kv_size {
        0 => use_mla,
        1 | 2 => group.kv_size == 1,
        other => return Err(format!("kv_size {other} is not 0, 1 or 2")),
    };
    let layout = layout(&Plane {
        layers: group.num_layers,
        tokens: ("window_tokens", tokens),
        hidden: group.hidden_dim_size,
        dtype: &group.dtype,
        is_single,
    })?;
    Ok((Some(window).filter(|window| *window > 0), layout))
}

/// What the shape of one chunk follows from.
struct Plane<'a> {
    layers: i64,
    /// With its name in the registration.
    tokens: (&'static str, i64),
    hidden: i64,
    dtype: &'a str,
    /// One plane (MLA, fused formats, states) instead of two.
    is_single: bool,
}

/// The shape of one chunk: `[2, layers, tokens, hidden]`, or without the leading axis if there is one plane.
fn layout(plane: &Plane<'_>) -> Result<Layout, String> {
    let positive = |name: &str, value: i64| {
        u64::try_from(value).ok().filter(|v| *v > 0).ok_or_else(|| format!("{name} {value} is not positive"))
    };
    let dtype = DType::from_name(plane.dtype).map_err(|e| e.to_string())?;
    let axes = [
        positive("num_layers", plane.layers)?,
        positive(plane.tokens.0, plane.tokens.1)?,
        positive("hidden_dim_size", plane.hidden)?,
    ];
    let split = [2, axes[0], axes[1], axes[2]];
    let shape = if plane.is_single { &axes[..] } else { &split[..] };
    Layout::new(shape, dtype).ok_or_else(|| format!("a chunk of shape {shape:?} is too large"))
}
