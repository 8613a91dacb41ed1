//! Start-up and shutdown.
//!
//! Everything that can fail at start is tried before anything is promised: ports are bound, the
//! arena is mapped and locked, and only then are requests read. A port that is taken is known within
//! milliseconds.
//!
//! Shutdown, at a signal or, if asked for, when everybody has left: stop accepting, send the replies that
//! are waiting, wind down (`stop`), let the arena go. All of it has one deadline, `--shutdown-timeout`
//! from the signal on. A second signal ends the process at once.

use larder_policy::Quotas;
use larder_types::Time;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use larder_arena::{Arena, ArenaError};
use larder_core::Trim;
use larder_core::{Core, CoreConfig};
use larder_l2::TenantLimits;
use larder_types::hash::{HashAlgorithm as WireHash, HashAlgorithmError, TokenHasher};
use larder_zmtp::{BindError, Endpoint, Limits, ParseEndpointError, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::stop::{self, Deadline};
use crate::app::log_control::LogControl;
use crate::app::memory::Memory;
use crate::app::quota_file::QuotaFile;
use crate::app::state::{Parts, State};
use crate::config::{Config, MIB};
use crate::l2::{L2, OpenError};
use crate::observe::coordinator::Reporting;
use crate::observe::lookup_log::LookupLog;
use crate::observe::recorder::Recorder;
use crate::ops::Rpc;
use crate::prefix_hashes::Chains;

/// How long memory that a vanished worker may still be using is left alone.
const QUARANTINE: Duration = Duration::from_secs(10);

/// Requests that may be open at once. Engines run thousands; clients that never end their requests
/// leave them to the session TTL.
const SESSIONS_MAX: usize = 1 << 16;

/// How long threads that block may go on when everything else has ended, though time is up: what they hold
/// goes with the process.
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

/// A server that is bound and mapped, and reads no requests yet.
#[derive(Debug)]
pub struct Server {
    state: Arc<State>,
    router: Router,
    http: TcpListener,
    prometheus: Option<TcpListener>,
}

/// Runs a server until it is told to stop: by `SIGTERM` or `SIGINT`. `log` changes what is logged.
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
        let _ = server.state.log.set(log);
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
        let prometheus = match config.metrics.prometheus_port {
            Some(port) => Some(bind_http("--prometheus-port", &config.http.host, port).await?),
            None => None,
        };
        let hash = WireHash::parse(config.hash_algorithm.name(), python_hash_seed().as_deref())?;
        let hasher = TokenHasher::new(hash, config.chunk_tokens as usize)
            .expect("a validated configuration has at least one token per chunk");
        let arena = Arc::new(arena(&config)?);
        let memory = Arc::new(Memory::new(arena.clone()));
        let owner = Arc::new(crate::l2::Owner::default());
        let (quota_file, quotas) = kept_quotas(&config)?;
        let salts = TenantLimits {
            default_limit_bytes: config.quota_default_bytes,
            limits: quotas.list().map(|(salt, bytes)| (salt.clone(), bytes)).collect(),
        };
        let l2 = L2::new(crate::l2::open(&config.l2.adapters, &salts, &owner)?);
        let mut core = Core::new(core_config(&config, &l2));
        core.change_quotas(Time::ZERO, |of_core| *of_core = quotas);
        let (recorder, chains) = (recorder(&config)?, Chains::new(hasher));
        let lookup_log = lookup_log(&config)?;
        let parts = Parts { config, core, arena, memory, l2, chains, quota_file, recorder, lookup_log };
        let state = State::new(parts, tokio::runtime::Handle::current());
        owner.is(&state);
        Ok(Self { state, router, http, prometheus })
    }

    /// Where requests arrive, with real ports.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.router.local_endpoints()
    }

    /// Where HTTP is served.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.local_addr().ok()
    }

    /// What requests, scrapes and tasks share.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// One line that says where the server is and how to use it.
    fn announce(&self) {
        let endpoints: Vec<String> = self.endpoints().iter().map(Endpoint::to_string).collect();
        let http = self.http_address().map_or_else(String::new, |a| format!("http://{a}"));
        let size = human_bytes(self.state.arena.size());
        let pool =
            self.state.arena.name().map_or("sent through the socket".to_owned(), |n| format!("/dev/shm/{n}"));
        let (host, port) = match self.endpoints().first() {
            // An engine on this node reaches a server that listens everywhere.
            Some(Endpoint::Tcp { host, port }) if host == "0.0.0.0" || host == "::" => ("localhost", *port),
            Some(Endpoint::Tcp { host, port }) => (host.as_str(), *port),
            _ => ("localhost", self.state.config.rpc.port),
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

    /// The same. Returns when everything has to be over.
    async fn serve_until(self, stop: impl Future<Output = ()>) -> Deadline {
        let Self { state, router, http, prometheus } = self;
        let (close_http, closed) = watch::channel(false);
        let committer = {
            let state = state.clone();
            std::thread::Builder::new().name("memory".to_owned()).spawn(move || {
                let _running = state.tasks.memory.begin();
                state.memory.run(|| state.tasks.memory.woke(state.core().now()));
            })
        };
        if let Err(error) = &committer {
            // Memory is then committed by the stores that need it.
            tracing::warn!(%error, "no thread to commit memory ahead");
        }
        let timekeeper = tokio::spawn({
            let state = state.clone();
            async move { state.core().run_timers(&state.tasks.timekeeper).await }
        });
        let publisher = tokio::spawn(crate::observe::kv_events::publish(state.clone()));
        let http_port = http.local_addr().map_or(state.config.http.port, |address| address.port());
        let goodbye = Reporting::start(&state, http_port).map(Reporting::end);
        #[cfg(feature = "otel")]
        let last_push = crate::otlp::Exporter::start(&state).map(crate::otlp::Exporter::end);
        #[cfg(not(feature = "otel"))]
        let last_push = None::<std::future::Ready<()>>;
        let mut https =
            vec![tokio::spawn(serve_http(http, crate::http::router(state.clone()), closed.clone()))];
        if let Some(listener) = prometheus {
            let router = crate::http::metrics_router(state.clone());
            https.push(tokio::spawn(serve_http(listener, router, closed)));
        }
        let mut deadline = Deadline::after(state.config.shutdown_timeout);
        let stop = async {
            end(stop, &state).await;
            deadline = Deadline::after(state.config.shutdown_timeout);
            tracing::info!("stopping");
        };
        router.serve(Arc::new(Rpc::new(state.clone())), stop).await;
        let undone =
            stop::wind_down(&state, stop::Running { goodbye, last_push, close_http, https }, deadline).await;
        if undone != stop::Undone::default() {
            tracing::warn!("ended, and not done in time: {undone}");
        }
        timekeeper.abort();
        publisher.abort();
        state.memory.stop();
        if let Ok(thread) = committer {
            let _ = thread.join();
        }
        // I/O that hangs may keep the memory for as long as the process is there, but not its name.
        state.arena.free_name();
        deadline
    }
}

/// A size as people say it.
fn human_bytes(bytes: u64) -> String {
    match bytes as f64 / MIB as f64 {
        mib if mib < 1024.0 => format!("{mib:.0} MiB"),
        mib => format!("{:.1} GiB", mib / 1024.0),
    }
}

/// The quotas to begin with, and where they are kept, if they are.
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

/// Who writes down what is asked, if anybody is to.
fn recorder(config: &Config) -> Result<Option<Recorder>, StartError> {
    let Some(path) = &config.record else { return Ok(None) };
    let recorder = Recorder::start(path, config.chunk_tokens);
    recorder.map(Some).map_err(|source| StartError::Record { path: path.display().to_string(), source })
}

/// Who logs lookups, if anybody is to.
fn lookup_log(config: &Config) -> Result<Option<LookupLog>, StartError> {
    let Some(log) = &config.lookup_hash_log else { return Ok(None) };
    let started = LookupLog::start(log, config.chunk_tokens);
    started.map(Some).map_err(|source| StartError::LookupLog { path: log.dir.display().to_string(), source })
}

/// L1's memory, shared if it can be.
fn arena(config: &Config) -> Result<Arena, ArenaError> {
    let l1 = &config.l1;
    let Some(name) = &l1.shm_name else { return Arena::private(l1.bytes) };
    match Arena::shared(name, l1.bytes) {
        Err(ArenaError::NoSpace { free, need }) if l1.shm_fallback => {
            tracing::warn!(
                free,
                need,
                "/dev/shm is too small for L1: as --shm-fallback says, every byte goes through the socket"
            );
            Arena::private(l1.bytes)
        }
        other => other,
    }
}

/// Completes at `stop`, or once everybody has left, if the server is to end then.
async fn end(stop: impl Future<Output = ()>, state: &State) {
    let Some(patience) = state.config.exit_when_idle else { return stop.await };
    tokio::select! {
        () = stop => {}
        () = state.presence.deserted(patience) => {
            let seconds = patience.as_secs_f64();
            tracing::info!(seconds, "nobody is connected any more, as --exit-when-idle-seconds says: ending");
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

async fn serve_http(listener: TcpListener, router: axum::Router, mut stopped: watch::Receiver<bool>) {
    let stop = async move {
        let _ = stopped.wait_for(|s| *s).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "http has ended");
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
            tracing::warn!("second signal: ending at once");
            std::process::exit(1);
        });
    })
}
