//! Start-up and shutdown.
//!
//! Everything that can fail at start is tried before the first request is read: ports are bound, the arena is mapped and
//! locked. A port in use is reported within milliseconds.
//!
//! Shutdown, at a signal or, if configured, when no client is connected: stop accepting, send the answers that are
//! waiting, wind down (`stop`), free the arena. All of it has one deadline, `--shutdown-timeout` from the signal on. A
//! second signal ends the process at once.

use larder_policy::Quotas;
use larder_types::Time;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use larder_arena::{Arena, ArenaError};
use larder_core::Trim;
use larder_core::{Core, CoreConfig};
use larder_l2::TenantLimits;
use larder_types::hash::{HashAlgorithm as WireHash, TokenHasher};
use larder_zmtp::{BoundTcp, Endpoint, Limits, OtherProtocol, Protocols, Router, bind_tcp};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::assemble::{App, Parts};
use super::connection_counter::ConnectionCounter;
use super::descriptors::{self, Shares};
use super::log_control::LogControl;
use super::memory::Memory;
use super::owner_socket::OwnerSocket;
use super::quota_file::QuotaFile;
use super::signals;
use super::start_error::{StartError, may_pass};
use super::state::State;
use super::stop::{self, Deadline};
use crate::config::{Config, MIB, Transport};
use crate::http::Caller;
use crate::http::serve::{Connections, serve};
use crate::l2::{CoreSlot, L2};
use crate::observe::coordinator::Reporting;
use crate::observe::kv_events;
use crate::observe::lookup_log::LookupLog;
use crate::observe::recorder::Recorder;
use crate::ops::Operations;
use crate::prefix_hashes::PrefixHashCache;
use crate::transport::grpc::GrpcService;
use crate::transport::zmq::ZmqService;

/// Requests that may be open at once. Engines run thousands; requests that are never ended expire with the session
/// TTL.
const SESSIONS_MAX: usize = 1 << 16;

/// How long blocked threads are waited for when everything else has ended.
const THREADS_LINGER: Duration = Duration::from_millis(100);

/// A server with bound ports and mapped memory, which does not read requests yet.
#[derive(Debug)]
pub struct Server {
    app: App,
    router: Router,
    shares: Shares,
    http: Vec<TcpListener>,
    http_uds: Option<OwnerSocket>,
    prometheus: Vec<TcpListener>,
}

/// Runs a server until a signal stops it. `log` changes the log level.
///
/// # Errors
/// See [`StartError`]. Nothing is left behind then.
pub fn run(config: Config, log: Arc<LogControl>) -> Result<(), StartError> {
    let threads = config.rpc.worker_threads.cpu;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|source| StartError::System { action: "start threads", source })?;
    let served = runtime.block_on(async {
        let handled = signals::handle(log.clone());
        let stop = handled.map_err(|source| StartError::System { action: "listen for signals", source })?;
        let server = Server::bind(config).await?;
        let _ = server.app.state.log.set(log);
        server.announce();
        Ok(server.serve_until(stop).await)
    });
    let patience = served.as_ref().map_or(Duration::ZERO, |deadline| deadline.left());
    runtime.shutdown_timeout(patience.max(THREADS_LINGER));
    served.map(drop)
}

impl Server {
    /// Binds every port and maps L1.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let endpoints: Vec<Endpoint> = config.rpc.endpoints().map(|e| e.parse()).collect::<Result<_, _>>()?;
        let shares = Shares::of(descriptors::raise_limit());
        let limits = Limits {
            linger: stop::replies_linger(config.shutdown_timeout),
            peers_max: shares.peers,
            half_open_max: shares.half_open,
            ..Limits::default()
        };
        let router = Router::bind(&endpoints, limits).await?;
        let http_host = &config.http.host;
        let http = BoundHttp::bind("--http-port", http_host, config.http.port).await?;
        let http_uds = config.http.uds.as_deref().map(OwnerSocket::bind).transpose();
        let http_uds = http_uds.map_err(StartError::HttpSocket)?;
        let prometheus = match config.metrics.prometheus_port {
            Some(port) => Some(BoundHttp::bind("--prometheus-port", http_host, port).await?),
            None => None,
        };
        let hash = WireHash::parse(config.hash_algorithm.name(), python_hash_seed().as_deref())?;
        let hasher = TokenHasher::new(hash, config.chunk_tokens as usize)
            .expect("a validated configuration has at least one token per chunk");
        let arena = Arc::new(arena(&config)?);
        let core_slot = Arc::new(CoreSlot::default());
        let (quota_file, quotas) = kept_quotas(&config)?;
        let salts = TenantLimits {
            default_limit_bytes: config.quota_default_bytes,
            limits: quotas.list().map(|(salt, bytes)| (salt.clone(), bytes)).collect(),
        };
        let l2 = L2::new(crate::l2::open(&config.l2.adapters, &salts, &core_slot)?);
        let mut core = Core::new(core_config(&config, &l2));
        core.change_quotas(Time::ZERO, |of_core| *of_core = quotas);
        let (recorder, lookup_log) = (recorder(&config)?, lookup_log(&config)?);
        let hashes = PrefixHashCache::new(hasher);
        let usage = router.usage();
        let parts =
            Parts { config, core, core_slot, arena, l2, hashes, quota_file, recorder, lookup_log, usage };
        let app = App::new(parts, &tokio::runtime::Handle::current());
        // Last: probes are refused until the server is ready, instead of waiting for it.
        let http = http.listen()?;
        let prometheus = prometheus.map_or(Ok(Vec::new()), BoundHttp::listen)?;
        Ok(Self { app, router, shares, http, http_uds, prometheus })
    }

    /// Where requests arrive, with real ports.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.router.local_endpoints()
    }

    /// Where HTTP is served; the first address of its host.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.first()?.local_addr().ok()
    }

    /// What the HTTP API and the metrics read.
    pub fn state(&self) -> &Arc<State> {
        &self.app.state
    }

    /// Logs the addresses and the flags that connect vLLM.
    fn announce(&self) {
        let endpoints: Vec<String> = self.endpoints().iter().map(Endpoint::to_string).collect();
        let http = self.http.iter().filter_map(|listener| listener.local_addr().ok());
        let http: Vec<String> = http.map(|address| format!("http://{address}")).collect();
        let http = http.join(" and ");
        let size = human_bytes(self.app.state.arena.size());
        let pool = self
            .app
            .state
            .arena
            .name()
            .map_or("sent through the socket".to_owned(), |n| format!("/dev/shm/{n}"));
        let (host, port) = match self.endpoints().first() {
            // An engine on this node reaches a server that listens everywhere.
            Some(Endpoint::Tcp { host, port }) if host == "0.0.0.0" || host == "::" => ("localhost", *port),
            Some(Endpoint::Tcp { host, port }) => (host.as_str(), *port),
            _ => ("localhost", self.app.state.config.rpc.port),
        };
        tracing::info!(
            "ready: requests on {}, L1 {size} ({pool}), admin on {http}; connect vLLM with \
             --kv-transfer-config '{{\"kv_connector\":\"LMCacheMPConnector\",\"kv_role\":\"kv_both\",\
             \"kv_load_failure_policy\":\"recompute\",\"kv_connector_extra_config\":{{\"lmcache.mp.host\":\"tcp://{host}\",\"lmcache.mp.port\":{port},\
             \"lmcache.mp.mp_transfer_mode\":\"engine_driven\"}}}}'",
            endpoints.join(" and "),
        );
    }

    /// Serves until `stop` completes, then winds down.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        self.serve_until(stop).await;
    }

    /// The same. Returns the deadline of the shutdown.
    async fn serve_until(self, stop: impl Future<Output = ()>) -> Deadline {
        let Self { app, router, shares, http, http_uds, prometheus } = self;
        let App { state, operations, connections, memory, copies, long_requests } = app;
        let (close_http, closed) = watch::channel(false);
        let committer = commit_ahead(&state, &memory);
        let timekeeper = tokio::spawn({
            let state = state.clone();
            async move { state.core().run_timers(&state.tasks.timekeeper).await }
        });
        let publisher = tokio::spawn({
            let state = state.clone();
            async move { kv_events::publish(state.events.clone(), &state.tasks.publisher).await }
        });
        let http_address = http.first().and_then(|listener| listener.local_addr().ok());
        let http_port = http_address.map_or(state.config.http.port, |address| address.port());
        let goodbye = Reporting::start(&state, http_port).map(Reporting::end);
        #[cfg(feature = "otel")]
        let last_push = crate::otlp::Exporter::start(&state).map(crate::otlp::Exporter::end);
        #[cfg(not(feature = "otel"))]
        let last_push = None::<std::future::Ready<()>>;
        let limit = |open_max| Arc::new(Connections::new(open_max, state.refusals.clone()));
        let (of_http, of_prometheus) = (limit(shares.http), limit(shares.http_more));
        let api = |listener| (listener, crate::http::router(state.clone(), Caller::Anyone), of_http.clone());
        let scrapes =
            |listener| (listener, crate::http::metrics_router(state.clone()), of_prometheus.clone());
        let listeners = http.into_iter().map(api).chain(prometheus.into_iter().map(scrapes));
        let mut https: Vec<_> = listeners
            .map(|(listener, router, connections)| {
                tokio::spawn(serve(listener, router, connections, closed.clone()))
            })
            .collect();
        if let Some(socket) = http_uds {
            let router = crate::http::router(state.clone(), Caller::Owner);
            https.push(tokio::spawn(serve(socket, router, limit(shares.http_more), closed)));
        }
        let mut deadline = Deadline::after(state.config.shutdown_timeout);
        let stop = async {
            end(stop, state.config.exit_when_idle, &connections).await;
            deadline = Deadline::after(state.config.shutdown_timeout);
            tracing::info!("stopping");
            operations.stopping();
        };
        let protocols = protocols(&state, &operations);
        router.serve_all(Arc::new(ZmqService::new(operations.clone())), protocols, stop).await;
        // What copies still store goes to L2 too.
        let _ = deadline.limit(long_requests.idle()).await;
        let _ = deadline.limit(copies.idle()).await;
        let undone =
            stop::wind_down(&state, stop::Running { goodbye, last_push, close_http, https }, deadline).await;
        if undone != stop::Undone::default() {
            tracing::warn!("--shutdown-timeout is over, not done in time: {undone}");
        }
        timekeeper.abort();
        publisher.abort();
        memory.stop();
        if let Some(thread) = committer {
            let _ = thread.join();
        }
        release_memory(&state);
        // I/O that hangs may keep the memory for as long as the process is there, but not its name.
        state.arena.free_name();
        deadline
    }
}

/// What clients may speak.
fn protocols(state: &State, operations: &Arc<Operations>) -> Protocols {
    let rpc = &state.config.rpc;
    let grpc = || {
        let (operations, refusals) = (operations.clone(), state.refusals.clone());
        let service = GrpcService::new(operations, refusals, rpc.grpc_message_bytes_max);
        Arc::new(service) as Arc<dyn OtherProtocol>
    };
    let has_grpc = rpc.transport != Transport::Zmq;
    Protocols { zmtp: rpc.transport != Transport::Grpc, http2: has_grpc.then(grpc) }
}

/// A thread that commits memory before stores need it; none if there can be no thread.
fn commit_ahead(state: &Arc<State>, memory: &Arc<Memory>) -> Option<std::thread::JoinHandle<()>> {
    let (state, memory) = (state.clone(), memory.clone());
    let thread = std::thread::Builder::new().name("memory".to_owned()).spawn(move || {
        let _running = state.tasks.memory.begin();
        let woke = || state.tasks.memory.woke(state.core.now());
        memory.run(woke, |committed| state.core.with(|core, _| core.grow_capacity(committed)));
    });
    if let Err(error) = &thread {
        tracing::warn!(%error, "no thread to commit memory ahead: stores that need memory wait for it");
    }
    thread.ok()
}

/// Gives the memory of L1 back: engines keep the segment mapped until they have registered with the next server, which
/// would lack it. What a worker may still be reading stays with it.
fn release_memory(state: &State) {
    if state.core().is_poisoned() {
        return;
    }
    let in_use = state.core().read(|core, _| core.ranges_in_use());
    if let Err(error) = state.arena.release_pages(in_use) {
        tracing::warn!(%error, "the memory of L1 is free only when all engines have registered with another server");
    }
}

/// A size in MiB or GiB.
fn human_bytes(bytes: u64) -> String {
    match bytes as f64 / MIB as f64 {
        mib if mib < 1024.0 => format!("{mib:.0} MiB"),
        mib => format!("{:.1} GiB", mib / 1024.0),
    }
}

/// The initial quotas, and the file that keeps them, if there is one.
fn kept_quotas(config: &Config) -> Result<(Option<QuotaFile>, Quotas), StartError> {
    let mut quotas = Quotas::new(config.quota_default_bytes);
    let Some(directory) = &config.state_dir else { return Ok((None, quotas)) };
    let failed = |source| StartError::StateDir { path: directory.display().to_string(), source };
    let (file, limits) = QuotaFile::open(directory).map_err(failed)?;
    for (salt, bytes) in &limits {
        // The file holds no more than there may be.
        let _ = quotas.set(salt, *bytes);
    }
    Ok((Some(file), quotas))
}

/// The recording of `--record`, if given. No recording for want of space is better than no server.
fn recorder(config: &Config) -> Result<Option<Recorder>, StartError> {
    let Some(path) = &config.record else { return Ok(None) };
    match Recorder::start(path, config.chunk_tokens) {
        Ok(recorder) => Ok(Some(recorder)),
        Err(error) if may_pass(&error) => {
            tracing::warn!(%error, file = %path.display(), "--record: the file cannot be written, nothing is recorded");
            Ok(None)
        }
        Err(source) => Err(StartError::Record { path: path.display().to_string(), source }),
    }
}

/// The log of `--lookup-hash-log-dir`, if given.
fn lookup_log(config: &Config) -> Result<Option<LookupLog>, StartError> {
    let Some(log) = &config.lookup_hash_log else { return Ok(None) };
    match LookupLog::start(log, config.chunk_tokens) {
        Ok(started) => Ok(Some(started)),
        Err(error) if may_pass(&error) => {
            let directory = log.dir.display();
            tracing::warn!(%error, %directory, "--lookup-hash-log-dir: cannot be written, lookups are not logged");
            Ok(None)
        }
        Err(source) => Err(StartError::LookupLog { path: log.dir.display().to_string(), source }),
    }
}

/// L1's memory, in shared memory if configured and possible.
fn arena(config: &Config) -> Result<Arena, ArenaError> {
    let l1 = &config.l1;
    let Some(name) = &l1.shm_name else { return Arena::private(l1.bytes) };
    match Arena::shared(name, l1.bytes) {
        Err(ArenaError::NoSpace { size, need }) if l1.shm_fallback => {
            tracing::warn!(
                size,
                need,
                "/dev/shm is too small for L1: because of --shm-fallback, all bytes go through the socket"
            );
            Arena::private(l1.bytes)
        }
        other => other,
    }
}

/// Completes at `stop`, or after `exit_when_idle` without a connection.
async fn end(
    stop: impl Future<Output = ()>,
    exit_when_idle: Option<Duration>,
    connections: &ConnectionCounter,
) {
    let Some(timeout) = exit_when_idle else { return stop.await };
    tokio::select! {
        () = stop => {}
        () = connections.idle_for(timeout) => {
            let seconds = timeout.as_secs_f64();
            tracing::info!(seconds, "no client is connected: stopping, because of --exit-when-idle-seconds");
        }
    }
}

fn core_config(config: &Config, l2: &L2) -> CoreConfig {
    let eviction = &config.eviction;
    CoreConfig {
        capacity_bytes: config.l1.bytes,
        align_bytes: config.l1.align_bytes,
        eviction: eviction.policy,
        trim: eviction
            .background_trim
            .then_some(Trim { above: eviction.trigger_watermark, release: eviction.ratio }),
        read_ttl: config.l1.read_ttl,
        write_ttl: config.l1.write_ttl,
        session_ttl: config.liveness.session_ttl,
        sessions_max: SESSIONS_MAX,
        client_share: config.l1.client_share,
        worker_reap_timeout: config.liveness.worker_reap_timeout,
        worker_registration_grace: config.liveness.worker_registration_grace,
        worker_disconnect_grace: config.liveness.worker_disconnect_grace,
        quarantine: config.liveness.late_write_timeout,
        adapters: l2.descriptions(),
        prefetch_policy: config.l2.prefetch_policy,
        store_policy: config.l2.store_policy,
        prefetch_jobs_max: config.l2.prefetch_jobs_max,
        residency_sample: if config.metrics.enabled { config.metrics.sample_rate } else { 0.0 },
        ..CoreConfig::default()
    }
}

/// vLLM mixes this into its hashes; servers and engines must agree on it.
fn python_hash_seed() -> Option<String> {
    std::env::var("PYTHONHASHSEED").ok()
}

/// A port for HTTP that does not take connections yet.
struct BoundHttp {
    flag: &'static str,
    address: String,
    sockets: BoundTcp,
}

impl BoundHttp {
    async fn bind(flag: &'static str, host: &str, port: u16) -> Result<Self, StartError> {
        let address = format!("{host}:{port}");
        match bind_tcp(host, port).await {
            Ok(sockets) => Ok(Self { flag, address, sockets }),
            Err(source) => Err(StartError::Http { flag, address, source }),
        }
    }

    fn listen(self) -> Result<Vec<TcpListener>, StartError> {
        let Self { flag, address, sockets } = self;
        sockets.listen().map_err(|source| StartError::Http { flag, address, source })
    }
}
