//! Lookups and prefetch requests that L1 alone cannot answer. Their answers are not predicted: each answer is
//! observed, and checked against what the model allows.

use larder_core::{Hit, PrefetchResult};
use larder_policy::PrefetchKind;

use super::engines::Shape;
use super::{ChunkKey, Key, Lookup, Model, Row, State, Uid};
use crate::scenario::Millis;

/// The lookup or prefetch request of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The lookup of a request of a connection.
    Request(u32, u64),
    /// A prefetch request, by its id.
    Prefetch(u64),
}

/// A lookup or a prefetch request that is not answered yet.
#[derive(Clone, Debug)]
pub struct Job {
    /// The lookup or prefetch request.
    pub owner: Owner,
    /// Chunks of the prompt that the reader has.
    pub before: Vec<ChunkKey>,
    /// Requested chunks.
    pub chunks: Vec<ChunkKey>,
    /// The objects of each chunk.
    pub(crate) rows: Shape,
    /// Load all chunks that are found, not only a prefix.
    pub full: bool,
    pub(crate) readers: u32,
    /// The time by which it must be answered.
    pub deadline: Millis,
}

impl Job {
    pub(crate) fn key(&self, row: usize, column: usize) -> Key {
        let row = self.rows[row];
        Key { chunk: self.chunks[column], rank: row.rank, group: row.group, form: row.form }
    }

    /// All requested objects.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        (0..self.chunks.len()).flat_map(move |c| (0..self.rows.len()).map(move |r| self.key(r, c)))
    }

    fn wants(&self, key: Key) -> bool {
        let wanted = (key.rank, key.group, key.form);
        self.rows.iter().any(|row| (row.rank, row.group, row.form) == wanted)
            && self.chunks.contains(&key.chunk)
    }

    /// The objects that a hit of `hit` chunks consists of.
    pub fn needed(&self, hit: u32) -> Vec<Key> {
        let keys = |row: usize| needed(self.rows[row].window, hit).map(move |c| self.key(row, c as usize));
        (0..self.rows.len()).flat_map(keys).collect()
    }

    /// The longest prefix of the first `columns` chunks of which every row has what it needs.
    pub(crate) fn longest(&self, columns: usize, present: impl Fn(usize, usize) -> bool) -> u32 {
        let row = |r: usize| (0..columns).map(|c| present(r, c)).collect::<Vec<bool>>();
        let table: Vec<Vec<bool>> = (0..self.rows.len()).map(row).collect();
        let servable = |hit: &usize| {
            let has = |(row, there): (&super::engines::ShapeRow, &Vec<bool>)| {
                needed(row.window, *hit as u32).all(|c| there[c as usize])
            };
            self.rows.iter().zip(&table).all(has)
        };
        (0..=columns).rev().find(servable).expect("the empty prefix is servable") as u32
    }
}

/// The chunks of a prefix of `hit` chunks that a worker reads: all, or those in its attention window.
pub(crate) fn needed(window: Option<u32>, hit: u32) -> std::ops::Range<u32> {
    window.map_or(0, |w| hit.saturating_sub(w))..hit
}

impl Model {
    pub(crate) fn readable(&self, job: &Job, row: usize, column: usize) -> Option<Uid> {
        self.resident(job.key(row, column))
    }

    pub(crate) fn submit(&mut self, job: Job) -> u64 {
        self.submitted += 1;
        let seq = self.next_seq();
        self.jobs.insert(seq, job);
        seq
    }

    /// Jobs that are not answered yet.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// Whether a job that `by` accepts, open or ended in this step, requests an object.
    pub(crate) fn is_wanted(&self, key: Key, by: impl Fn(&Job) -> bool) -> bool {
        self.jobs.values().chain(&self.ended).any(|job| by(job) && job.wants(key))
    }

    /// Whether a job that is not answered may hold pins on objects of a chunk.
    pub(crate) fn may_be_held(&self, chunk: ChunkKey) -> bool {
        self.jobs.values().any(|job| job.chunks.contains(&chunk))
    }

    /// Checks the answer of a lookup, and ends its job. Returns the job.
    ///
    /// # Panics
    /// If no lookup of that request is open, its deadline has passed, or the answer is not allowed.
    pub fn lookup_answered(&mut self, (request, connection): (u32, u64), hit: &Hit) -> Job {
        let job = self.end_job(Owner::Request(request, connection));
        let held = job.needed(hit.chunks);
        assert!(hit.l1_chunks <= hit.chunks && hit.chunks as usize <= job.chunks.len(), "{hit:?} of {job:?}");
        assert_eq!((hit.l1_objects + hit.l2_objects) as usize, held.len(), "objects of {hit:?}");
        let rows = job.rows.iter().enumerate().map(|(row, shape)| {
            let range = needed(shape.window, hit.chunks);
            let uid = |column: u32| {
                let key = job.key(row, column as usize);
                // It may have been cleared since.
                let held = || self.live.iter().rev().copied().find(|u| self.allocs[*u].key == key);
                let uid = self.resident(key).or_else(held);
                let uid = uid.unwrap_or_else(|| panic!("{key:?} of {hit:?} is not in L1"));
                (uid, job.readers)
            };
            Row {
                rank: shape.rank,
                group: shape.group,
                form: shape.form,
                first: job.before.len() as u32 + range.start,
                grants: range.map(uid).collect(),
            }
        });
        let rows: Vec<Row> = rows.collect();
        if hit.l2_objects == 0 {
            let stays = |key: &Key| {
                let alloc = self.resident(*key).map(|uid| self.allocs[uid]);
                alloc.is_none_or(|alloc| !alloc.loaded || !alloc.temporary)
            };
            let kept = held.iter().all(|key| !self.retains(*key) || stays(key));
            assert!(kept, "the policy retains a hit that is still temporary");
        }
        self.counted.hit_chunks += u64::from(hit.chunks - hit.l1_chunks);
        self.counted.hit_objects += u64::from(hit.l2_objects);
        let deadline = self.now + self.scenario.read_ttl;
        let own = |s: &&mut super::Session| s.request == request && s.owner == connection;
        let session = self.sessions.iter_mut().find(own).expect("an open session");
        session.job = None;
        let hit = job.before.len() as u32 + hit.chunks;
        session.result = Some(hit);
        if hit > 0 {
            let chunks = [&job.before[..], &job.chunks].concat();
            session.lookup = Some(Lookup { chunks, hit, rows, deadline });
        }
        job
    }

    /// Checks the answer of a prefetch request, and ends its job.
    ///
    /// # Panics
    /// If it was answered before, or the answer is not allowed.
    pub fn prefetch_answered(&mut self, id: u64, result: PrefetchResult) {
        let job = self.end_job(Owner::Prefetch(id));
        let objects = (result.l1_objects + result.l2_objects) as usize;
        let expected =
            if job.full { result.chunks as usize * job.rows.len() } else { job.needed(result.chunks).len() };
        assert_eq!(result.total_objects as usize, job.chunks.len() * job.rows.len(), "objects requested");
        assert!(result.chunks as usize <= job.chunks.len(), "{result:?} of {job:?}");
        assert_eq!(objects, expected, "objects of {result:?}");
        if !job.full {
            for uid in job.needed(result.chunks).iter().filter_map(|key| self.resident(*key)) {
                // An object that was stored to all adapters may be temporary again (`skip_l1`).
                let stays = !self.allocs[uid].temporary || self.skips_l1;
                assert!(stays, "a prefetch request left {:?} temporary", self.allocs[uid]);
            }
        }
        self.prefetches.insert(id, Some((result, self.now + self.scenario.session_ttl)));
    }

    fn end_job(&mut self, owner: Owner) -> Job {
        let seq = self.jobs.iter().find(|(_, job)| job.owner == owner).map(|(seq, _)| *seq);
        let seq = seq.unwrap_or_else(|| panic!("answered twice, or never requested: {owner:?}"));
        let job = self.jobs.remove(&seq).expect("just seen");
        assert!(self.now <= job.deadline, "answered after the deadline: {job:?}");
        self.ended.push(job.clone());
        job
    }

    /// Ends a job without an answer.
    pub(crate) fn cancel_job(&mut self, seq: u64) {
        let job = self.jobs.remove(&seq).expect("an open job");
        self.counted.jobs_cancelled += 1;
        if let Owner::Request(request, _) = job.owner {
            self.cancelled.push_back((request, job.chunks.len()));
        }
        self.ended.push(job);
    }

    /// Makes a loaded object of a hit permanent if the policy retains it.
    pub(crate) fn keep_hit(&mut self, uid: Uid) {
        if self.allocs[uid].loaded && self.retains(self.allocs[uid].key) {
            self.allocs[uid].temporary = false;
        }
    }

    /// Whether the prefetch policy retains a loaded object.
    pub(crate) fn retains(&self, key: Key) -> bool {
        match self.prefetch {
            PrefetchKind::Default => false,
            PrefetchKind::Retain => true,
            PrefetchKind::Adaptive => self.kept.as_ref().is_none_or(|kept| kept.contains(&key.chunk)),
        }
    }

    /// Whether an object is being loaded from L2.
    pub(crate) fn is_load(&self, uid: Uid) -> bool {
        self.allocs[uid].loaded && self.allocs[uid].state == State::Staged
    }
}
