//! What the engine that asks can read: see `crates/core/src/requests/models.rs`.

use larder_types::object::KvRank;

use super::{ChunkKey, Form, Key, Model, State, Uid, Worker};

/// The rows of a lookup.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) ranks: Vec<KvRank>,
    /// The layout of each rank.
    pub(crate) forms: Vec<Form>,
    pub(crate) window: Option<u32>,
}

/// What a worker registered.
type Profile = (Option<u32>, Form);

fn profile(worker: &Worker) -> Profile {
    (worker.window, worker.form)
}

/// The profile of all workers, if they have the same.
fn only(workers: &[&Worker]) -> Option<Profile> {
    let first = profile(workers.first()?);
    workers.iter().all(|w| profile(w) == first).then_some(first)
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
        let newest = |rank| related.iter().rfind(|w| w.rank == Some(rank)).map(|w| profile(w));
        shape(world, worker_id, |rank| newest(rank).or(common))
    }

    /// What the workers can read that registered last.
    pub(super) fn newest_shape(&self, model: u8, world: u32) -> Option<Shape> {
        let all = self.of_model(model, world);
        let newest = profile(all.last()?);
        let presumed = presumed(&all).unwrap_or(newest);
        shape(world, None, |_| Some(presumed))
    }

    /// The object that the key of a peer stands for, which has no layout.
    pub(super) fn presumed(&self, key: Key) -> Option<Uid> {
        let all = self.of_model(key.chunk.model, key.rank.world_size());
        let connected: Vec<&Worker> = all.iter().filter(|w| w.connection.is_some()).copied().collect();
        if !all.is_empty() {
            let (_, form) = only(if connected.is_empty() { &all } else { &connected })?;
            return self.resident(Key { form, ..key });
        }
        let is_one = |u: &Uid| {
            let alloc = &self.allocs[*u];
            alloc.key.chunk == key.chunk
                && alloc.key.rank == key.rank
                && matches!(alloc.state, State::Staged | State::Resident)
        };
        let found: Vec<Uid> = self.live.iter().copied().filter(is_one).collect();
        match found[..] {
            [uid] => Some(uid).filter(|uid| self.allocs[*uid].state == State::Resident),
            _ => None,
        }
    }

    /// Removes the readable objects of a chunk and rank in layouts that no worker has.
    pub(super) fn drop_dead_forms(&mut self, chunk: ChunkKey, rank: KvRank) {
        let forms: Vec<Form> = self.of_model(chunk.model, rank.world_size()).iter().map(|w| w.form).collect();
        let dead = |u: &Uid| {
            let key = self.allocs[*u].key;
            key.chunk == chunk && key.rank == rank && !forms.contains(&key.form)
        };
        let dead: Vec<Uid> = self.in_state(State::Resident).filter(dead).collect();
        dead.into_iter().for_each(|uid| self.unlink(uid));
    }
}

/// The profile that an unknown scheduler is taken to ask for.
fn presumed(all: &[&Worker]) -> Option<Profile> {
    let connected: Vec<&Worker> = all.iter().filter(|w| w.connection.is_some()).copied().collect();
    let unclaimed: Vec<&Worker> = connected.iter().filter(|w| w.scheduler.is_none()).copied().collect();
    let candidates = [&unclaimed[..], &connected[..], all];
    only(candidates.into_iter().find(|workers| !workers.is_empty())?)
}

fn shape(world: u32, worker_id: Option<u32>, of: impl Fn(KvRank) -> Option<Profile>) -> Option<Shape> {
    let ranks = (0..world).filter(|r| worker_id.is_none_or(|w| w == *r));
    let ranks: Vec<KvRank> = ranks.map(|r| KvRank::new(world, r)).collect();
    let profiles: Vec<Profile> = ranks.iter().map(|rank| of(*rank)).collect::<Option<_>>()?;
    let (window, _) = *profiles.first()?;
    Some(Shape { ranks, forms: profiles.into_iter().map(|(_, form)| form).collect(), window })
}
