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
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use larder_arena::{Arena, ArenaError};
use larder_core::Trim;
use larder_core::{Core, CoreConfig};
use larder_l2::TenantLimits;
use larder_types::hash::{HashAlgorithm as WireHash, HashAlgorithmError, TokenHasher};
use larder_zmtp::{BindError, Endpoint, Limits, ParseEndpointError, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::assemble::{App, Parts};
use super::connection_counter::ConnectionCounter;
use super::log_control::LogControl;
use super::owner_socket::OwnerSocket;
use super::quota_file::QuotaFile;
use super::state::State;
use super::stop::{self, Deadline};
use crate::config::{Config, MIB};
use crate::http::Caller;
use crate::l2::{CoreSlot, L2, OpenError};
use crate::observe::coordinator::Reporting;
use crate::observe::kv_events;
use crate::observe::lookup_log::LookupLog;
use crate::observe::recorder::Recorder;
use crate::prefix_hashes::PrefixHashCache;
use crate::transport::zmq::ZmqService;

/// How long memory that a lost worker may still be using is not reused.
const QUARANTINE: Duration = Duration::from_secs(10);

/// Requests that may be open at once. Engines run thousands; requests that are never ended expire with the session
/// TTL.
const SESSIONS_MAX: usize = 1 << 16;

/// How long blocked threads are waited for when everything else has ended.
const THREADS_LINGER: Duration = Duration::from_millis(100);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An endpoint is not one.
    #[error("--listen: {0}")]
    Endpoint(#[from] ParseEndpointError),
    /// The request port is taken or the address is not this machine's.
    #[error("requests: {0}")]
    Requests(#[from] BindError),
    /// The HTTP or metrics port is taken.
    #[error("{flag} {address}: {source}")]
    Http {
        /// The flag that names the port.
        flag: &'static str,
        /// What could not be bound.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The socket of `--http-uds` cannot be bound.
    #[error("--http-uds: {0}")]
    HttpSocket(BindError),
    /// There is no memory for L1.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// An L2 adapter cannot be opened.
    #[error(transparent)]
    L2(#[from] OpenError),
    /// What has to outlast the server cannot be kept.
    #[error("--state-dir {path}: {source}")]
    StateDir {
        /// The directory.
        path: String,
        /// Why it cannot be used.
        source: io::Error,
    },
    /// What is asked cannot be recorded.
    #[error("--record {path}: {source}")]
    Record {
        /// The file.
        path: String,
        /// Why it cannot be written.
        source: io::Error,
    },
    /// Lookups cannot be logged.
    #[error("--lookup-hash-log-dir {path}: {source}")]
    LookupLog {
        /// The directory.
        path: String,
        /// Why it cannot be written.
        source: io::Error,
    },
    /// The hash algorithm cannot be used.
    #[error("--hash-algorithm: {0}")]
    Hash(#[from] HashAlgorithmError),
    /// The operating system refused something else.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// A server with bound ports and mapped memory, which does not read requests yet.
#[derive(Debug)]
pub struct Server {
    app: App,
    router: Router,
    http: TcpListener,
    http_uds: Option<OwnerSocket>,
    prometheus: Option<TcpListener>,
}

/// Runs a server until `SIGTERM` or `SIGINT`. `log` changes the log level.
///
/// # Errors
/// See [`StartError`]. Nothing is left behind then.
pub fn run(config: Config, log: LogControl) -> Result<(), StartError> {
    let threads = config.rpc.worker_threads.cpu;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|source| StartError::System { action: "start threads", source })?;
    let served = runtime.block_on(async {
        let stop = signals()?;
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
        let limits = Limits { linger: stop::replies_linger(config.shutdown_timeout), ..Limits::default() };
        let router = Router::bind(&endpoints, limits).await?;
        let http = bind_http("--http-port", &config.http.host, config.http.port).await?;
        let http_uds = config.http.uds.as_deref().map(OwnerSocket::bind).transpose();
        let http_uds = http_uds.map_err(StartError::HttpSocket)?;
        let prometheus = match config.metrics.prometheus_port {
            Some(port) => Some(bind_http("--prometheus-port", &config.http.host, port).await?),
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
        let parts = Parts { config, core, core_slot, arena, l2, hashes, quota_file, recorder, lookup_log };
        let app = App::new(parts, &tokio::runtime::Handle::current());
        Ok(Self { app, router, http, http_uds, prometheus })
    }

    /// Where requests arrive, with real ports.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.router.local_endpoints()
    }

    /// Where HTTP is served.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.local_addr().ok()
    }

    /// What the HTTP API and the metrics read.
    pub fn state(&self) -> &Arc<State> {
        &self.app.state
    }

    /// Logs the addresses and the flags that connect vLLM.
    fn announce(&self) {
        let endpoints: Vec<String> = self.endpoints().iter().map(Endpoint::to_string).collect();
        let http = self.http_address().map_or_else(String::new, |a| format!("http://{a}"));
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
        let Self { app, router, http, http_uds, prometheus } = self;
        let App { state, operations, connections, memory, copies } = app;
        let (close_http, closed) = watch::channel(false);
        let committer = {
            let (state, memory) = (state.clone(), memory.clone());
            std::thread::Builder::new().name("memory".to_owned()).spawn(move || {
                let _running = state.tasks.memory.begin();
                memory.run(|| state.tasks.memory.woke(state.core.now()));
            })
        };
        if let Err(error) = &committer {
            tracing::warn!(%error, "no thread to commit memory ahead: stores that need memory wait for it");
        }
        let timekeeper = tokio::spawn({
            let state = state.clone();
            async move { state.core().run_timers(&state.tasks.timekeeper).await }
        });
        let publisher = tokio::spawn({
            let state = state.clone();
            async move { kv_events::publish(state.events.clone(), &state.tasks.publisher).await }
        });
        let http_port = http.local_addr().map_or(state.config.http.port, |address| address.port());
        let goodbye = Reporting::start(&state, http_port).map(Reporting::end);
        #[cfg(feature = "otel")]
        let last_push = crate::otlp::Exporter::start(&state).map(crate::otlp::Exporter::end);
        #[cfg(not(feature = "otel"))]
        let last_push = None::<std::future::Ready<()>>;
        let mut https = vec![tokio::spawn(serve_http(
            http,
            crate::http::router(state.clone(), Caller::Anyone),
            closed.clone(),
        ))];
        if let Some(socket) = http_uds {
            let router = crate::http::router(state.clone(), Caller::Owner);
            https.push(tokio::spawn(serve_http(socket, router, closed.clone())));
        }
        if let Some(listener) = prometheus {
            let router = crate::http::metrics_router(state.clone());
            https.push(tokio::spawn(serve_http(listener, router, closed)));
        }
        let mut deadline = Deadline::after(state.config.shutdown_timeout);
        let stop = async {
            end(stop, state.config.exit_when_idle, &connections).await;
            deadline = Deadline::after(state.config.shutdown_timeout);
            tracing::info!("stopping");
        };
        router.serve(Arc::new(ZmqService::new(operations)), stop).await;
        // What copies still store goes to L2 too.
        let _ = deadline.limit(copies.idle()).await;
        let undone =
            stop::wind_down(&state, stop::Running { goodbye, last_push, close_http, https }, deadline).await;
        if undone != stop::Undone::default() {
            tracing::warn!("--shutdown-timeout is over, not done in time: {undone}");
        }
        timekeeper.abort();
        publisher.abort();
        memory.stop();
        if let Ok(thread) = committer {
            let _ = thread.join();
        }
        // I/O that hangs may keep the memory for as long as the process is there, but not its name.
        state.arena.free_name();
        deadline
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

/// The recording of `--record`, if given.
fn recorder(config: &Config) -> Result<Option<Recorder>, StartError> {
    let Some(path) = &config.record else { return Ok(None) };
    let recorder = Recorder::start(path, config.chunk_tokens);
    recorder.map(Some).map_err(|source| StartError::Record { path: path.display().to_string(), source })
}

/// The log of `--lookup-hash-log-dir`, if given.
fn lookup_log(config: &Config) -> Result<Option<LookupLog>, StartError> {
    let Some(log) = &config.lookup_hash_log else { return Ok(None) };
    let started = LookupLog::start(log, config.chunk_tokens);
    started.map(Some).map_err(|source| StartError::LookupLog { path: log.dir.display().to_string(), source })
}

/// L1's memory, in shared memory if configured and possible.
fn arena(config: &Config) -> Result<Arena, ArenaError> {
    let l1 = &config.l1;
    let Some(name) = &l1.shm_name else { return Arena::private(l1.bytes) };
    match Arena::shared(name, l1.bytes) {
        Err(ArenaError::NoSpace { free, need }) if l1.shm_fallback => {
            tracing::warn!(
                free,
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
        worker_reap_timeout: config.liveness.worker_reap_timeout,
        worker_registration_grace: config.liveness.worker_registration_grace,
        quarantine: QUARANTINE,
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

async fn bind_http(flag: &'static str, host: &str, port: u16) -> Result<TcpListener, StartError> {
    TcpListener::bind((host, port)).await.map_err(|source| StartError::Http {
        flag,
        address: format!("{host}:{port}"),
        source,
    })
}

async fn serve_http<L>(listener: L, router: axum::Router, mut stopped: watch::Receiver<bool>)
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let stop = async move {
        let _ = stopped.wait_for(|s| *s).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "HTTP has ended: the admin API and /metrics are gone until a restart");
    }
}

/// Completes at the first `SIGTERM` or `SIGINT`. The second one ends the process.
fn signals() -> Result<impl Future<Output = ()>, StartError> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|source| StartError::System { action: "listen for signals", source });
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
            tracing::warn!("second signal: exiting at once");
            std::process::exit(1);
        });
    })
}
