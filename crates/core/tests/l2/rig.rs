//! A core with fake adapters, and short names for what engines do.

use larder_policy::AdapterDesc;
use larder_policy::prefetch::plan::Fetch;
use larder_types::AdapterId;
use larder_types::ConnectionId;
use larder_types::InstanceId;
use larder_types::Layout;
use larder_types::LayoutId;
use larder_types::Time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use larder_core::LookupSpec;
use larder_core::PrefetchId;
use larder_core::index::{ObjectId, ShardKey};
use larder_core::{Committed, PreparedStore, TransferSpec};
use larder_core::{Core, CoreConfig};
use larder_core::{Group, WorkerSpec};
use larder_core::{Hit, LookupStatus, PrefetchResult, PrefetchSpec, PrefetchStatus};
use larder_policy::eviction::EvictionKind;
use larder_policy::{OffloadKind, PrefetchKind};
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank, ObjectKey};

use crate::driver::{Driver, Todo};

pub(crate) const PAGE: u64 = 4096;
pub(crate) const READ_TTL: u64 = 300_000;
pub(crate) const LOAD_DEADLINE: u64 = 30_000;

pub(crate) type Chain = Arc<[ChunkHash]>;

pub(crate) fn prompt(seed: u8, chunks: u16) -> Chain {
    (0..chunks).map(|i| ChunkHash::new(&[seed, (i >> 8) as u8, i as u8]).expect("three bytes")).collect()
}

pub(crate) fn pages_layout(pages: u64) -> Layout {
    Layout::new(&[pages, PAGE], DType::UInt8).expect("not empty")
}

/// One page, two pages, and so on.
fn group_layout(group: u32) -> Layout {
    pages_layout(u64::from(group) + 1)
}

pub(crate) struct Rig {
    pub(crate) core: Core,
    pub(crate) driver: Driver,
    pub(crate) now: u64,
    /// The connection of each request's last lookup.
    connections: BTreeMap<String, u64>,
}

/// Settings of a rig.
pub(crate) fn config(pages: u64, adapters: usize) -> CoreConfig {
    let adapter = |i| AdapterDesc { name: format!("a{i}").into(), readable: true };
    CoreConfig {
        capacity_bytes: pages * PAGE,
        align_bytes: PAGE,
        worker_disconnect_grace: None,
        eviction: EvictionKind::Lru,
        read_ttl: Duration::from_millis(READ_TTL),
        session_ttl: Duration::from_secs(3600),
        worker_reap_timeout: None,
        load_deadline: Duration::from_millis(LOAD_DEADLINE),
        adapters: (0..adapters).map(adapter).collect(),
        ..CoreConfig::default()
    }
}

impl Rig {
    /// One worker of model "m" with objects of one page.
    pub(crate) fn with(config: CoreConfig) -> Self {
        let driver = Driver::new(config.adapters.len());
        let mut rig = Self { core: Core::new(config), driver, now: 0, connections: BTreeMap::new() };
        rig.register(1, &[None]);
        rig
    }

    pub(crate) fn new(pages: u64, adapters: usize, policy: PrefetchKind) -> Self {
        Self::with(CoreConfig { prefetch_policy: policy, ..config(pages, adapters) })
    }

    /// One adapter, the default policy.
    pub(crate) fn simple(pages: u64) -> Self {
        Self::new(pages, 1, PrefetchKind::Default)
    }

    pub(crate) fn storing(pages: u64, adapters: usize, policy: OffloadKind) -> Self {
        Self::with(CoreConfig { store_policy: policy, ..config(pages, adapters) })
    }

    /// Worker `instance` of model "m" with groups of these windows and sizes of one page, two pages,
    /// and so on.
    pub(crate) fn register(&mut self, instance: i64, windows: &[Option<u32>]) {
        let groups = windows.iter().enumerate().map(|(i, window)| Group {
            id: i as u32,
            window: *window,
            layout: group_layout(i as u32),
        });
        let groups = groups.collect();
        let spec = WorkerSpec {
            instance: InstanceId(instance),
            model: "m".into(),
            world_size: 1,
            block_tokens: None,
            groups,
        };
        self.core.register(self.time(), ConnectionId(1), spec);
    }

    /// The worker's layout changes.
    pub(crate) fn reregister(&mut self, windows: &[Option<u32>]) {
        self.core.unregister(self.time(), ConnectionId(1), InstanceId(1));
        self.register(1, windows);
    }

    /// The worker's objects take so many pages from now on.
    pub(crate) fn reregister_with(&mut self, pages: u64) {
        self.core.unregister(self.time(), ConnectionId(1), InstanceId(1));
        let layout = pages_layout(pages);
        let groups = vec![Group { id: 0, window: None, layout }];
        let instance = InstanceId(1);
        let spec = WorkerSpec { instance, model: "m".into(), world_size: 1, block_tokens: None, groups };
        self.core.register(self.time(), ConnectionId(1), spec);
    }

    pub(crate) fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    pub(crate) fn wait(&mut self, millis: u64) {
        self.now += millis;
        self.core.advance(self.time());
        self.core.check();
        self.driver.collect(&mut self.core);
    }

    pub(crate) fn key(chain: &Chain, group: u32, column: u32) -> ObjectKey {
        let key = ObjectKey::new(chain[column as usize], "m", KvRank::new(1, 0), group, "").expect("valid");
        key.with_layout(group_layout(group).id())
    }

    pub(crate) fn keys(chain: &Chain, columns: &[u32]) -> Vec<ObjectKey> {
        columns.iter().map(|c| Self::key(chain, 0, *c)).collect()
    }

    /// An adapter has these chunks of a group.
    pub(crate) fn put_group(&mut self, adapter: u32, group: u32, chain: &Chain, columns: &[u32]) {
        for column in columns {
            let size = (u64::from(group) + 1) * PAGE;
            let key = Self::key(chain, group, *column);
            self.driver.adapter(AdapterId(adapter)).objects.insert(key, size);
        }
    }

    pub(crate) fn put(&mut self, adapter: u32, chain: &Chain, columns: &[u32]) {
        self.put_group(adapter, 0, chain, columns);
    }

    pub(crate) fn put_all(&mut self, adapter: u32, chain: &Chain) {
        self.put(adapter, chain, &(0..chain.len() as u32).collect::<Vec<u32>>());
    }

    /// Loading a chunk fails.
    pub(crate) fn spoil(&mut self, adapter: u32, chain: &Chain, column: u32) {
        let key = Self::key(chain, 0, column);
        self.driver.adapter(AdapterId(adapter)).unloadable.insert(key);
    }

    pub(crate) fn lookup_from(
        &mut self,
        connection: u64,
        request: &str,
        chain: &Chain,
        readers: u32,
    ) -> Option<Hit> {
        self.lookup_rest(connection, request, (chain, 0), readers)
    }

    /// A lookup of a reader that has the chunks before `start`.
    pub(crate) fn lookup_rest(
        &mut self,
        connection: u64,
        request: &str,
        (chain, start): (&Chain, u32),
        readers: u32,
    ) -> Option<Hit> {
        let (request, model, salt): (Arc<str>, Arc<str>, Arc<str>) = (request.into(), "m".into(), "".into());
        let spec = LookupSpec {
            request_id: &request,
            connection: ConnectionId(connection),
            model: &model,
            world_size: 1,
            worker_id: None,
            salt: &salt,
            chunk_hashes: chain,
            start,
            readers,
        };
        self.connections.insert(request.to_string(), connection);
        let hit = self.core.lookup(self.time(), &spec).hit();
        self.core.check();
        self.driver.collect(&mut self.core);
        self.core.check();
        hit
    }

    fn connection_of(&self, request: &str) -> ConnectionId {
        ConnectionId(self.connections.get(request).copied().unwrap_or(1))
    }

    pub(crate) fn lookup(&mut self, request: &str, chain: &Chain, readers: u32) -> Option<Hit> {
        self.lookup_from(1, request, chain, readers)
    }

    /// The hit of one reader, whether L1 answers at once or L2 is asked.
    pub(crate) fn hit_now(&mut self, request: &str, chain: &Chain) -> u32 {
        self.hit(request, chain, 1)
    }

    /// Looks up, executes all effects, and asks for the result.
    pub(crate) fn hit(&mut self, request: &str, chain: &Chain, readers: u32) -> u32 {
        self.lookup(request, chain, readers);
        self.settle();
        match self.result(request) {
            LookupStatus::Ready(hit) => hit,
            other => panic!("{request} has no result: {other:?}"),
        }
    }

    pub(crate) fn result(&mut self, request: &str) -> LookupStatus {
        self.core.take_result(self.time(), self.connection_of(request), request)
    }

    /// The hit of a pending lookup, as it was reported.
    pub(crate) fn report(&self, request: &str) -> Hit {
        let mut reports = self.driver.done.iter().filter(|r| &*r.request_id == request);
        reports.next_back().and_then(|r| r.hit).expect("a report")
    }

    pub(crate) fn warm(&mut self, chain: &Chain, fetch: Fetch) -> PrefetchId {
        let (model, salt): (Arc<str>, Arc<str>) = ("m".into(), "".into());
        let spec = PrefetchSpec { model: &model, world_size: 1, salt: &salt, chunk_hashes: chain, fetch };
        let id = self.core.prefetch(self.time(), &spec).expect("registered");
        self.core.check();
        self.driver.collect(&mut self.core);
        id
    }

    pub(crate) fn warmed(&mut self, chain: &Chain, fetch: Fetch) -> PrefetchResult {
        let id = self.warm(chain, fetch);
        self.settle();
        assert_eq!(self.driver.warmed.last(), Some(&id));
        match self.core.prefetch_status(self.time(), id) {
            PrefetchStatus::Done(result) => result,
            other => panic!("{id:?} is {other:?}"),
        }
    }

    /// Does the first thing that `wanted` says yes to. Returns whether there was one.
    pub(crate) fn step(&mut self, wanted: impl Fn(&Todo) -> bool) -> bool {
        let Some(at) = self.driver.todo.iter().position(wanted) else { return false };
        let todo = self.driver.todo.remove(at);
        let now = self.time();
        self.driver.perform(&mut self.core, now, todo);
        true
    }

    /// Lets the adapters do everything, in the order asked.
    pub(crate) fn settle(&mut self) {
        while self.step(|_| true) {}
    }

    /// Lets the adapters answer all questions, and no more.
    pub(crate) fn answer_lookups(&mut self) {
        while self.step(|t| matches!(t, Todo::Lookup { .. })) {}
    }

    /// Loads that were asked for and not done.
    pub(crate) fn loads(&self) -> Vec<ObjectKey> {
        let loads = self.driver.todo.iter().filter_map(|t| match t {
            Todo::Load { item, .. } => Some(item.key.clone()),
            _ => None,
        });
        loads.collect()
    }

    pub(crate) fn loaded(&self, adapter: u32) -> &[ObjectKey] {
        &self.driver.adapters[adapter as usize].loaded
    }

    fn transfer<T>(
        &mut self,
        request: &str,
        (chain, start, end): (&Chain, u32, u32),
        call: impl FnOnce(&mut Core, Time, &TransferSpec<'_>) -> T,
    ) -> T {
        let (request, model, salt): (Arc<str>, Arc<str>, Arc<str>) = (request.into(), "m".into(), "".into());
        let spec = TransferSpec {
            instance: InstanceId(1),
            connection: ConnectionId(1),
            request_id: &request,
            model: &model,
            rank: KvRank::new(1, 0),
            salt: &salt,
            chunk_hashes: chain,
            start,
            end,
        };
        let out = call(&mut self.core, Time::from_millis(self.now), &spec);
        self.core.check();
        self.driver.collect(&mut self.core);
        self.core.check();
        out
    }

    pub(crate) fn prepare(&mut self, request: &str, chain: &Chain, start: u32, end: u32) -> PreparedStore {
        self.prepare_except(request, (chain, start, end), &[])
    }

    /// Prepares a store of all but some chunks of each group.
    pub(crate) fn prepare_except(
        &mut self,
        request: &str,
        (chain, start, end): (&Chain, u32, u32),
        skipped: &[Vec<u32>],
    ) -> PreparedStore {
        let call = |c: &mut Core, now, s: &TransferSpec<'_>| c.prepare_store_except(now, s, skipped);
        let prepared = self.transfer(request, (chain, start, end), call).expect("registered");
        for slot in &prepared.slots {
            self.driver.assert_free(slot.offset, slot.layout.bytes());
            let key = Self::key(chain, slot.group, start + slot.chunk).with_layout(slot.layout.id());
            self.driver.bytes.insert(slot.offset, key);
        }
        prepared
    }

    pub(crate) fn commit(&mut self, request: &str, chain: &Chain, start: u32, end: u32) -> Committed {
        self.transfer(request, (chain, start, end), |c, now, s| c.commit_store(now, s))
    }

    /// Stores a range. Returns how many chunks were written.
    pub(crate) fn store(&mut self, chain: &Chain, start: u32, end: u32) -> usize {
        let slots = self.prepare("storer", chain, start, end).slots.len();
        if slots > 0 {
            assert_eq!(
                self.commit("storer", chain, start, end).published().map(|c| c.objects),
                Some(slots as u64)
            );
        }
        slots
    }

    /// Reads a range of a hit, and finds its own bytes there. False if it could not be read.
    pub(crate) fn read(&mut self, request: &str, chain: &Chain, start: u32, end: u32) -> bool {
        let range = (chain, start, end);
        let slots =
            self.transfer(request, range, |c, now, s| c.prepare_retrieve(now, s)).expect("registered");
        let Some(slots) = slots else { return false };
        for slot in &slots {
            let expected = Self::key(chain, slot.group, start + slot.chunk).with_layout(slot.layout.id());
            assert_eq!(self.driver.bytes.get(&slot.offset), Some(&expected), "wrong bytes");
        }
        self.transfer(request, range, |c, now, s| c.commit_retrieve(now, s).is_some())
    }

    pub(crate) fn free(&mut self, request: &str, start: u32, end: u32) {
        let connection = self.connection_of(request);
        self.core.free(self.time(), (connection, request), None, (start, end));
        self.core.check();
        self.driver.collect(&mut self.core);
    }

    pub(crate) fn end(&mut self, request: &str) {
        self.core.end_session(self.time(), self.connection_of(request), request);
        self.core.check();
        self.driver.collect(&mut self.core);
    }

    pub(crate) fn lose(&mut self, connection: u64) {
        self.core.connection_lost(self.time(), ConnectionId(connection));
        self.core.check();
        self.driver.collect(&mut self.core);
    }

    pub(crate) fn clear(&mut self, force: bool) -> u64 {
        let removed = self.core.clear(self.time(), force);
        self.core.check();
        self.driver.collect(&mut self.core);
        removed
    }

    pub(crate) fn object(&self, chain: &Chain, group: u32, column: u32) -> Option<ObjectId> {
        let chunk = self.core.index().chunk(&"m".into(), &"".into(), &chain[column as usize])?;
        self.core
            .index()
            .resident(chunk, ShardKey { rank: KvRank::new(1, 0), group, layout: LayoutId::UNKNOWN })
    }

    pub(crate) fn resident_of(&self, chain: &Chain, group: u32) -> Vec<u32> {
        (0..chain.len() as u32).filter(|c| self.object(chain, group, *c).is_some()).collect()
    }

    /// Chunks of the first group that are resident.
    pub(crate) fn resident(&self, chain: &Chain) -> Vec<u32> {
        self.resident_of(chain, 0)
    }

    pub(crate) fn used_pages(&self) -> u64 {
        self.core.gauges().l1.used_bytes / PAGE
    }

    pub(crate) fn evictable_pages(&self) -> u64 {
        self.core.gauges().l1.evictable_bytes / PAGE
    }

    /// Checks that nothing is running or pinned: everything left is evictable.
    pub(crate) fn assert_idle(&self) {
        let gauges = self.core.gauges();
        assert!(self.driver.todo.is_empty(), "adapters have something to do: {:?}", self.driver.todo);
        assert_eq!((gauges.prefetch_jobs, gauges.prefetch_waiting), (0, 0), "jobs");
        assert_eq!(gauges.l1.staged_bytes, 0, "staged bytes");
        assert_eq!(gauges.l1.unlinked_objects, 0, "memory of objects that are gone");
        assert_eq!(gauges.l1.evictable_bytes, gauges.l1.used_bytes, "pins are left");
        assert_eq!(self.core.index().usage().temporary_objects, 0, "temporary objects");
        assert_eq!(gauges.write_back_pending, 0, "write-back");
        for (id, _) in self.core.adapters() {
            assert_eq!(self.core.adapter_gauges(id), Default::default(), "{id:?}");
        }
    }
}
