//! What the engine that asks can read: see `crates/core/src/requests/models.rs`.

use larder_types::object::KvRank;

use super::{ChunkKey, Form, Key, Model, State, Uid, Worker};
use crate::scenario::GroupSpec;

/// A row of a lookup.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShapeRow {
    pub(crate) rank: KvRank,
    pub(crate) group: u32,
    /// The layout that the worker of the rank can read.
    pub(crate) form: Form,
    pub(crate) window: Option<u32>,
}

/// The rows of a lookup: group by group, ranks in order.
pub(crate) type Shape = Vec<ShapeRow>;

/// What a worker registered.
type Profile<'a> = &'a [GroupSpec];

/// The profile of all workers, if they have the same.
fn only<'a>(workers: &[&'a Worker]) -> Option<Profile<'a>> {
    let first = &workers.first()?.groups;
    workers.iter().all(|w| w.groups == *first).then_some(first)
}

impl Model {
    fn of_model(&self, model: u8, world: u32) -> Vec<&Worker> {
        self.workers.iter().filter(|w| w.model == model && w.world == world).collect()
    }

    /// What the engine can read that asks over a connection. `None` if that is not known.
    pub(super) fn shape(
        &self,
        connection: u64,
        model: u8,
        world: u32,
        worker_id: Option<u32>,
    ) -> Option<Shape> {
        let all = self.of_model(model, world);
        let asks = |w: &&&Worker| w.connection == Some(connection) || w.scheduler == Some(connection);
        let related: Vec<&Worker> = all.iter().filter(asks).copied().collect();
        if related.is_empty() {
            let presumed = presumed(&all);
            return shape(world, worker_id, |_| presumed);
        }
        let common = only(&related);
        let newest = |rank| related.iter().rfind(|w| w.rank == Some(rank)).map(|w| &w.groups[..]);
        shape(world, worker_id, |rank| newest(rank).or(common))
    }

    /// What the workers can read that registered last.
    pub(super) fn newest_shape(&self, model: u8, world: u32) -> Option<Shape> {
        let all = self.of_model(model, world);
        let newest = &all.last()?.groups[..];
        let presumed = presumed(&all).unwrap_or(newest);
        shape(world, None, |_| Some(presumed))
    }

    /// The object that the key of a peer stands for, which has no layout.
    pub(super) fn presumed(&self, key: Key) -> Option<Uid> {
        let all = self.of_model(key.chunk.model, key.rank.world_size());
        let connected: Vec<&Worker> = all.iter().filter(|w| w.connection.is_some()).copied().collect();
        if !all.is_empty() {
            let groups = only(if connected.is_empty() { &all } else { &connected })?;
            return self.resident(Key { form: groups.get(key.group as usize)?.form, ..key });
        }
        let is_one = |u: &Uid| {
            let alloc = &self.allocs[*u];
            alloc.key.chunk == key.chunk
                && (alloc.key.rank, alloc.key.group) == (key.rank, key.group)
                && matches!(alloc.state, State::Staged | State::Resident)
        };
        let found: Vec<Uid> = self.live.iter().copied().filter(is_one).collect();
        match found[..] {
            [uid] => Some(uid).filter(|uid| self.allocs[*uid].state == State::Resident),
            _ => None,
        }
    }

    /// The readable objects of a chunk, rank and group in layouts that no worker has.
    pub(super) fn dead_forms(&self, chunk: ChunkKey, rank: KvRank, group: u32) -> Vec<Uid> {
        let workers = self.of_model(chunk.model, rank.world_size());
        let forms: Vec<Form> = workers.iter().flat_map(|w| &w.groups).map(|g| g.form).collect();
        let dead = |u: &Uid| {
            let key = self.allocs[*u].key;
            (key.chunk, key.rank, key.group) == (chunk, rank, group) && !forms.contains(&key.form)
        };
        self.in_state(State::Resident).filter(dead).collect()
    }
}

/// The profile that an unknown scheduler is taken to ask for.
fn presumed<'a>(all: &[&'a Worker]) -> Option<Profile<'a>> {
    let connected: Vec<&Worker> = all.iter().filter(|w| w.connection.is_some()).copied().collect();
    let unclaimed: Vec<&Worker> = connected.iter().filter(|w| w.scheduler.is_none()).copied().collect();
    let candidates = [&unclaimed[..], &connected[..], all];
    only(candidates.into_iter().find(|workers| !workers.is_empty())?)
}

fn shape<'a>(
    world: u32,
    worker_id: Option<u32>,
    of: impl Fn(KvRank) -> Option<Profile<'a>>,
) -> Option<Shape> {
    let ranks = (0..world).filter(|r| worker_id.is_none_or(|w| w == *r));
    let ranks: Vec<KvRank> = ranks.map(|r| KvRank::new(world, r)).collect();
    let profiles: Vec<Profile> = ranks.iter().map(|rank| of(*rank)).collect::<Option<_>>()?;
    let first = *profiles.first()?;
    if profiles.iter().any(|profile| profile.len() != first.len()) {
        return None;
    }
    let rows = (0..first.len()).flat_map(|at| {
        let row = move |(rank, profile): (&KvRank, &Profile)| ShapeRow {
            rank: *rank,
            group: at as u32,
            form: profile[at].form,
            window: first[at].window,
        };
        ranks.iter().zip(&profiles).map(row)
    });
    Some(rows.collect())
}
