//! A core with a clock, and short names for what workers and schedulers do.

use larder_types::ConnectionId;
use larder_types::InstanceId;
use larder_types::Layout;
use larder_types::LayoutId;
use larder_types::Time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use larder_core::LookupSpec;
use larder_core::Trim;
use larder_core::index::{ObjectId, ShardKey};
use larder_core::{Committed, NotRegistered, PreparedStore, TransferSpec};
use larder_core::{Core, CoreConfig, Slot};
use larder_core::{Group, WorkerSpec};
use larder_policy::eviction::EvictionKind;
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank, ObjectKey};

/// Alignment of the arena, and the size of a default object.
pub(crate) const PAGE: u64 = 4096;
/// Time limits of every rig, in milliseconds.
pub(crate) const READ_TTL: u64 = 300_000;
pub(crate) const WRITE_TTL: u64 = 600_000;
pub(crate) const SESSION_TTL: u64 = 900_000;
pub(crate) const QUARANTINE: u64 = 10_000;
pub(crate) const REAP: u64 = 2_000_000;

pub(crate) type Chain = Arc<[ChunkHash]>;

/// One of several ways to get somewhere.
pub(crate) type Deed = fn(&mut Rig);

/// An object's layout of `pages` pages.
pub(crate) fn layout(pages: u64) -> Layout {
    Layout::new(&[pages, PAGE], DType::UInt8).expect("not empty")
}

/// `chunks` chained hashes; prompts of different `seed` have no common chunk.
pub(crate) fn prompt(seed: u8, chunks: u8) -> Chain {
    (0..chunks).map(|i| hash(seed, i)).collect()
}

pub(crate) fn hash(seed: u8, i: u8) -> ChunkHash {
    ChunkHash::new(&[seed, i]).expect("two bytes")
}

/// Who does something: a worker's instance, connection and place, and the request it is for.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) instance: i64,
    pub(crate) connection: u64,
    pub(crate) rank: KvRank,
    pub(crate) request: Arc<str>,
    pub(crate) model: Arc<str>,
}

/// Worker `instance` of model "m" with one rank, on the connection of the same number.
pub(crate) fn worker(instance: i64, request: &str) -> Who {
    Who {
        instance,
        connection: instance as u64,
        rank: KvRank::new(1, 0),
        request: request.into(),
        model: "m".into(),
    }
}

/// Sessions that a rig's core takes.
pub(crate) const SESSIONS_MAX: usize = 64;

pub(crate) struct Rig {
    pub(crate) core: Core,
    pub(crate) now: u64,
    salt: Arc<str>,
    /// The connection of each request's last lookup.
    connections: BTreeMap<Arc<str>, u64>,
}

impl Rig {
    /// An arena of `pages` pages, and worker 1 of model "m" with objects of one page.
    pub(crate) fn new(pages: u64) -> Self {
        let mut rig = Self::empty(pages, EvictionKind::Lru, None);
        rig.register(1, "m", 1, 1);
        rig
    }

    /// The same, with workers that are dropped some time after their connection is lost.
    pub(crate) fn with_disconnect_grace(pages: u64, millis: u64) -> Self {
        let grace = Some(Duration::from_millis(millis));
        let mut rig = Self::with(CoreConfig {
            capacity_bytes: pages * PAGE,
            worker_disconnect_grace: grace,
            ..Self::config()
        });
        rig.register(1, "m", 1, 1);
        rig
    }

    pub(crate) fn empty(pages: u64, eviction: EvictionKind, trim: Option<Trim>) -> Self {
        Self::with(CoreConfig { capacity_bytes: pages * PAGE, eviction, trim, ..Self::config() })
    }

    pub(crate) fn with(config: CoreConfig) -> Self {
        Self { core: Core::new(config), now: 0, salt: "".into(), connections: BTreeMap::new() }
    }

    /// The times and limits of every rig.
    pub(crate) fn config() -> CoreConfig {
        CoreConfig {
            align_bytes: PAGE,
            read_ttl: Duration::from_millis(READ_TTL),
            write_ttl: Duration::from_millis(WRITE_TTL),
            session_ttl: Duration::from_millis(SESSION_TTL),
            sessions_max: SESSIONS_MAX,
            worker_reap_timeout: Some(Duration::from_millis(REAP)),
            worker_registration_grace: Duration::from_millis(REAP),
            worker_disconnect_grace: None,
            quarantine: Duration::from_millis(QUARANTINE),
            ..CoreConfig::default()
        }
    }

    pub(crate) fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    /// Advances the time by `millis`, and checks all invariants.
    pub(crate) fn wait(&mut self, millis: u64) {
        self.now += millis;
        self.core.advance(self.time());
        self.core.check();
    }

    pub(crate) fn register(&mut self, instance: i64, model: &str, world_size: u32, pages: u64) -> bool {
        let groups = vec![Group { id: 0, window: None, layout: layout(pages) }];
        let spec = WorkerSpec {
            instance: InstanceId(instance),
            model: model.into(),
            world_size,
            block_tokens: None,
            groups,
        };
        self.core.register(self.time(), ConnectionId(instance as u64), spec)
    }

    /// Runs one transfer call on the core, then checks all invariants.
    fn transfer<T>(
        &mut self,
        who: &Who,
        (chain, start, end): (&Chain, u32, u32),
        call: impl FnOnce(&mut Core, Time, &TransferSpec<'_>) -> T,
    ) -> T {
        let spec = TransferSpec {
            instance: InstanceId(who.instance),
            connection: ConnectionId(who.connection),
            request_id: &who.request,
            model: &who.model,
            rank: who.rank,
            salt: &self.salt,
            chunk_hashes: chain,
            start,
            end,
        };
        let out = call(&mut self.core, Time::from_millis(self.now), &spec);
        self.core.check();
        out
    }

    pub(crate) fn try_prepare(
        &mut self,
        who: &Who,
        chain: &Chain,
        start: u32,
        end: u32,
    ) -> Result<PreparedStore, NotRegistered> {
        self.transfer(who, (chain, start, end), |c, now, s| c.prepare_store(now, s))
    }

    pub(crate) fn prepare(&mut self, who: &Who, chain: &Chain, start: u32, end: u32) -> PreparedStore {
        self.try_prepare(who, chain, start, end).expect("registered")
    }

    /// Prepares a store of all but some chunks of each group.
    pub(crate) fn prepare_except(
        &mut self,
        who: &Who,
        range: (&Chain, u32, u32),
        skipped: &[Vec<u32>],
    ) -> PreparedStore {
        self.transfer(who, range, |c, now, s| c.prepare_store_except(now, s, skipped)).expect("registered")
    }

    pub(crate) fn commit(&mut self, who: &Who, chain: &Chain, start: u32, end: u32) -> Committed {
        self.transfer(who, (chain, start, end), |c, now, s| c.commit_store(now, s))
    }

    pub(crate) fn abort(&mut self, who: &Who, chain: &Chain, start: u32, end: u32) {
        self.transfer(who, (chain, start, end), |c, now, s| c.abort_store(now, s));
    }

    /// Prepares and commits; returns how many chunks were written.
    pub(crate) fn store(&mut self, who: &Who, chain: &Chain, start: u32, end: u32) -> usize {
        let slots = self.prepare(who, chain, start, end).slots.len();
        if slots > 0 {
            assert_eq!(
                self.commit(who, chain, start, end).published().map(|c| c.objects),
                Some(slots as u64)
            );
        }
        slots
    }

    pub(crate) fn prepare_retrieve(
        &mut self,
        who: &Who,
        chain: &Chain,
        start: u32,
        end: u32,
    ) -> Option<Vec<Slot>> {
        self.transfer(who, (chain, start, end), |c, now, s| c.prepare_retrieve(now, s)).expect("registered")
    }

    pub(crate) fn commit_retrieve(&mut self, who: &Who, chain: &Chain, start: u32, end: u32) -> bool {
        self.transfer(who, (chain, start, end), |c, now, s| c.commit_retrieve(now, s).is_some())
    }

    pub(crate) fn lookup(&mut self, who: &Who, chain: &Chain, readers: u32) -> u32 {
        self.lookup_from(who, chain, 0, readers)
    }

    /// A lookup of a reader that has the chunks before `start`. Returns how many it finds from there on.
    pub(crate) fn lookup_from(&mut self, who: &Who, chain: &Chain, start: u32, readers: u32) -> u32 {
        let (now, salt) = (self.time(), self.salt.clone());
        let spec = LookupSpec {
            request_id: &who.request,
            connection: ConnectionId(who.connection),
            model: &who.model,
            world_size: who.rank.world_size(),
            worker_id: None,
            salt: &salt,
            chunk_hashes: chain,
            start,
            readers,
        };
        self.connections.insert(who.request.clone(), who.connection);
        let hit = self.core.lookup(now, &spec).hit().expect("there is no L2").chunks;
        self.core.check();
        hit
    }

    fn connection_of(&self, request: &str) -> ConnectionId {
        ConnectionId(self.connections.get(request).copied().unwrap_or(1))
    }

    pub(crate) fn free(&mut self, request: &str, start: u32, end: u32) {
        let now = self.time();
        self.core.free(now, (self.connection_of(request), request), None, (start, end));
        self.core.check();
    }

    pub(crate) fn end(&mut self, request: &str) {
        self.end_of(self.connection_of(request).0, request);
    }

    pub(crate) fn end_of(&mut self, connection: u64, request: &str) {
        let now = self.time();
        self.core.end_session(now, ConnectionId(connection), request);
        self.core.check();
    }

    pub(crate) fn lose(&mut self, connection: u64) {
        let now = self.time();
        self.core.connection_lost(now, ConnectionId(connection));
        self.core.check();
    }

    pub(crate) fn clear(&mut self, force: bool) -> u64 {
        let now = self.time();
        let removed = self.core.clear(now, force);
        self.core.check();
        removed
    }

    pub(crate) fn key(&self, hash: ChunkHash) -> ObjectKey {
        ObjectKey::new(hash, "m", KvRank::new(1, 0), 0, "").expect("valid")
    }

    /// The resident object of a chunk, of model "m", rank 0 of 1.
    pub(crate) fn object(&self, hash: &ChunkHash) -> Option<ObjectId> {
        let chunk = self.core.index().chunk(&"m".into(), &self.salt, hash)?;
        self.core
            .index()
            .resident(chunk, ShardKey { rank: KvRank::new(1, 0), group: 0, layout: LayoutId::UNKNOWN })
    }

    /// Which chunks of a prompt are resident.
    pub(crate) fn resident(&self, chain: &Chain) -> Vec<u32> {
        (0..chain.len() as u32).filter(|i| self.object(&chain[*i as usize]).is_some()).collect()
    }

    pub(crate) fn used_pages(&self) -> u64 {
        self.core.gauges().l1.used_bytes / PAGE
    }
}
