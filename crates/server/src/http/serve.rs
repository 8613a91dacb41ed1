//! Serves HTTP connections: a limited number of them, and none for longer than it is used.
//!
//! When as many connections are open as may be, the oldest idle one gives way to a new one, or one whose request has
//! not been answered for seconds. So strangers that hold connections open keep neither probes nor operators out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::response::Response;
use axum::serve::Listener;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::app::refusals::{Refusals, Refused};

/// A connection that sends no whole head of a request for this long is closed, also between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// A body must be here within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection on which nothing is served for this long is closed: its client does not read the response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// A request that has not been answered for this long gives way to a new connection, if no idle one does.
const SLOW: Duration = Duration::from_secs(5);

/// Bytes of a request's head, at most.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Requests with a body of more than this many bytes, or of unknown length, are served a few at a time.
const LARGE_BODY_BYTES: u64 = 64 * 1024;

/// How many.
const LARGE_BODIES_MAX: usize = 4;

/// The open connections of one or more listeners.
#[derive(Debug)]
pub(crate) struct Connections {
    open_max: usize,
    last_id: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    large_bodies: Semaphore,
    refusals: Arc<Refusals>,
}

#[derive(Debug)]
struct Connection {
    state: Mutex<State>,
    close: Notify,
}

/// What a connection does, since when.
#[derive(Clone, Copy, Debug)]
struct State {
    is_serving: bool,
    since: Instant,
}

impl Connections {
    /// None yet, and at most `open_max`.
    pub(crate) fn new(open_max: usize, refusals: Arc<Refusals>) -> Self {
        let large_bodies = Semaphore::new(LARGE_BODIES_MAX);
        Self { open_max, last_id: AtomicU64::new(0), open: Mutex::default(), large_bodies, refusals }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection; another one is closed for it if need be. `None` if there is no room.
    fn admit(&self, id: u64, now: Instant) -> Option<Arc<Connection>> {
        let mut open = self.lock();
        if open.len() >= self.open_max {
            self.refusals.count(Refused::HttpConnections);
            let gives_way = |(id, connection): (&u64, &Arc<Connection>)| {
                let State { is_serving, since } = connection.state();
                let is_slow = now.saturating_duration_since(since) >= SLOW;
                (!is_serving || is_slow).then_some((is_serving, since, *id))
            };
            let (.., oldest) = open.iter().filter_map(gives_way).min()?;
            open.remove(&oldest)?.close.notify_one();
        }
        let state = Mutex::new(State { is_serving: false, since: now });
        let connection = Arc::new(Connection { state, close: Notify::new() });
        open.insert(id, connection.clone());
        Some(connection)
    }
}

impl Connection {
    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_serving(&self, is_serving: bool) {
        let now = Instant::now();
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { is_serving, since: now };
    }

    /// Completes once nothing has been served for [`WRITE_TIMEOUT`].
    async fn unused(&self) {
        loop {
            let State { is_serving, since } = self.state();
            let end = since + WRITE_TIMEOUT;
            match is_serving {
                true => sleep(WRITE_TIMEOUT).await,
                false if end <= Instant::now() => return,
                false => sleep_until(end).await,
            }
        }
    }
}

/// Accepts and serves connections until `stopped`, then lets requests end that have begun.
pub(crate) async fn serve<L>(
    mut listener: L,
    router: Router,
    connections: Arc<Connections>,
    mut stopped: watch::Receiver<bool>,
) where
    L: Listener,
    L::Addr: fmt::Debug,
{
    let mut tasks = JoinSet::new();
    loop {
        let io = tokio::select! {
            () = wait(&mut stopped) => break,
            Some(_) = tasks.join_next() => continue,
            (io, _) = listener.accept() => io,
        };
        let id = connections.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(connection) = connections.admit(id, Instant::now()) else { continue };
        let (router, connections, stopped) = (router.clone(), connections.clone(), stopped.clone());
        tasks.spawn(async move {
            serve_connection(io, router, &connection, &connections, stopped).await;
            connections.lock().remove(&id);
        });
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

/// Completes once the server stops.
async fn wait(stopped: &mut watch::Receiver<bool>) {
    // An error means that the server is gone.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn serve_connection<I>(
    io: I,
    router: Router,
    connection: &Arc<Connection>,
    connections: &Arc<Connections>,
    mut stopped: watch::Receiver<bool>,
) where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        answer(service.clone(), request, connection.clone(), connections.clone())
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    let mut served = pin!(builder.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = connection.close.notified() => return,
        () = connection.unused() => return,
        () = wait(&mut stopped) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

/// Serves one request. A large one waits for its turn first.
async fn answer(
    service: TowerToHyperService<Router>,
    request: hyper::Request<Incoming>,
    connection: Arc<Connection>,
    connections: Arc<Connections>,
) -> Result<Response, Infallible> {
    let _serving = Serving::begin(connection);
    let is_large = request.body().size_hint().upper().is_none_or(|bytes| bytes > LARGE_BODY_BYTES);
    // The semaphore is never closed.
    let _turn = if is_large { connections.large_bodies.acquire().await.ok() } else { None };
    let request: Request = request.map(|body| axum::body::Body::new(TimedBody::new(body)));
    service.call(request).await
}

/// A connection serves a request while this is there.
struct Serving(Arc<Connection>);

impl Serving {
    fn begin(connection: Arc<Connection>) -> Self {
        connection.set_serving(true);
        Self(connection)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.set_serving(false);
    }
}

/// A body that fails if it does not end in time.
struct TimedBody {
    body: Incoming,
    timeout: Pin<Box<Sleep>>,
}

impl TimedBody {
    fn new(body: Incoming) -> Self {
        Self { body, timeout: Box::pin(sleep(BODY_TIMEOUT)) }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => {
                let late = || Some(Err("the body did not end in time".into()));
                self.timeout.as_mut().poll(cx).map(|()| late())
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(open_max: usize) -> Connections {
        Connections::new(open_max, Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn oldest_idle_connection_gives_way_and_a_served_one_does_not() {
        let connections = connections(3);
        let now = Instant::now();
        let first = connections.admit(1, now).unwrap();
        first.set_serving(true);
        for id in 2..10 {
            assert!(connections.admit(id, now).is_some());
        }
        assert_eq!(connections.lock().keys().copied().collect::<Vec<_>>(), [1, 8, 9]);
        assert_eq!(connections.refusals.of(Refused::HttpConnections), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_takes_seconds_gives_way_if_no_connection_is_idle() {
        let connections = connections(1);
        let now = Instant::now();
        connections.admit(1, now).unwrap().set_serving(true);
        assert!(connections.admit(2, now).is_none());
        assert!(connections.admit(3, now + SLOW).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_does_not_take_its_response_ends() {
        let connection = connections(1).admit(1, Instant::now()).unwrap();
        connection.set_serving(true);
        assert!(tokio::time::timeout(10 * WRITE_TIMEOUT, connection.unused()).await.is_err());
        connection.set_serving(false);
        assert!(tokio::time::timeout(2 * WRITE_TIMEOUT, connection.unused()).await.is_ok());
    }
}
