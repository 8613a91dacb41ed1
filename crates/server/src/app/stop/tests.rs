//! With a paused clock, which advances when all tasks wait.

use larder_types::ConnectionId;
use larder_types::InstanceId;
use larder_types::Layout;
use larder_types::Time;
use std::future::{pending, ready};
use std::sync::Arc;

use larder_core::TransferSpec;
use larder_core::{Group, WorkerSpec};
use larder_types::dtype::DType;
use larder_types::object::{ChunkHash, KvRank};
use tokio::sync::watch;

use super::*;
use crate::Server;
use crate::config::{Config, L2AdapterConfig};
use larder_l2::adapters::BackendConfig;
use larder_l2::adapters::mock::MockConfig;

const TIMEOUT: Duration = Duration::from_secs(10);
const OBJECTS: u64 = 3;
const OBJECT_BYTES: u64 = 4096;

/// A server without clients, with objects being stored to an L2 of this speed.
async fn storing(bytes_per_second: u64) -> Arc<State> {
    let mut config = Config::default();
    config.rpc.host = "127.0.0.1".to_owned();
    (config.rpc.port, config.http.port, config.l1.bytes, config.l1.shm_name) = (0, 0, 1 << 20, None);
    let mock = MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: bytes_per_second };
    config.l2.adapters = vec![L2AdapterConfig::new(BackendConfig::Mock(mock))];
    let server = Server::bind(config).await.expect("the server starts");
    let state = server.state().clone();
    store(&state);
    state
}

fn store(state: &State) {
    let (model, salt, request): (Arc<str>, Arc<str>, Arc<str>) = ("m".into(), "".into(), "r".into());
    let layout = Layout::new(&[OBJECT_BYTES], DType::UInt8).expect("not empty");
    let instance = InstanceId(1);
    let groups = vec![Group { id: 0, window: None, layout }];
    let worker = WorkerSpec { instance, model: model.clone(), world_size: 1, block_tokens: None, groups };
    let chain: Vec<_> = (0..OBJECTS as u8).map(|i| ChunkHash::new(&[1, i]).expect("two bytes")).collect();
    let spec = TransferSpec {
        instance,
        connection: ConnectionId(1),
        request_id: &request,
        model: &model,
        rank: KvRank::new(1, 0),
        salt: &salt,
        chunk_hashes: &chain,
        start: 0,
        end: OBJECTS as u32,
    };
    state.core().with(|core, _| {
        core.register(Time::ZERO, ConnectionId(1), worker);
        assert_eq!(core.prepare_store(Time::ZERO, &spec).expect("registered").slots.len() as u64, OBJECTS);
        core.commit_store(Time::ZERO, &spec);
    });
}

/// Winds down with this goodbye and these HTTP ports. What was left, and how long it took.
async fn end<G: Future<Output = ()>>(
    state: &Arc<State>,
    goodbye: Option<G>,
    https: Vec<JoinHandle<()>>,
) -> (Undone, Duration) {
    let (close_http, _closed) = watch::channel(false);
    let begun = Instant::now();
    let last_push = None::<std::future::Ready<()>>;
    let running = Running { goodbye, last_push, close_http, https };
    let undone = wind_down(state, running, Deadline::after(TIMEOUT)).await;
    (undone, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn gives_up_after_one_timeout_and_counts_what_hangs() {
    let state = storing(1).await;
    let https = vec![tokio::spawn(pending()), tokio::spawn(ready(()))];
    let (undone, took) = end(&state, Some(pending()), https).await;
    assert_eq!(took, TIMEOUT);
    let expected = Undone { objects: OBJECTS, adapters: 1, answers: 1, ..Undone::default() };
    assert_eq!(undone, expected);
    let text = "3 objects not in L2 and lost, 1 L2 adapters with I/O in progress, 1 HTTP ports with answers in progress";
    assert_eq!(undone.to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn says_goodbye_to_the_coordinator_while_l2_hangs() {
    let state = storing(1).await;
    let mut heard = false;
    let goodbye = async {
        tokio::time::sleep(GOODBYE_MAX / 2).await;
        heard = true;
    };
    let (_, took) = end(&state, Some(goodbye), Vec::new()).await;
    assert!(heard && took < TIMEOUT, "{heard} after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn pushes_to_the_collector_while_l2_and_the_coordinator_hang() {
    let state = storing(1).await;
    let (close_http, _closed) = watch::channel(false);
    let push = async |time| tokio::time::sleep(time).await;
    for (time, pushes) in [(GOODBYE_MAX / 2, 0), (TIMEOUT, 1)] {
        let (goodbye, last_push) = (Some(pending()), Some(push(time)));
        let running = Running { goodbye, last_push, close_http: close_http.clone(), https: Vec::new() };
        let undone = wind_down(&state, running, Deadline::after(TIMEOUT)).await;
        assert_eq!(undone.pushes, pushes, "{undone}");
    }
}

#[tokio::test(start_paused = true)]
async fn waits_until_l2_is_done_and_no_longer() {
    let state = storing(OBJECT_BYTES).await;
    let (undone, took) = end(&state, None::<std::future::Ready<()>>, Vec::new()).await;
    assert_eq!((undone, undone.to_string().as_str()), (Undone::default(), ""));
    assert_eq!(took.as_secs(), 1, "all objects at once, each a second long");
    assert_eq!(state.core().read(|core, _| core.write_back_pending()), 0);
}

#[tokio::test(start_paused = true)]
async fn http_answer_in_progress_gets_a_second() {
    let state = storing(OBJECT_BYTES).await;
    let (undone, took) = end(&state, Some(ready(())), vec![tokio::spawn(pending())]).await;
    assert_eq!(undone, Undone { answers: 1, ..Undone::default() });
    assert_eq!(took.as_secs(), 1 + ANSWERS_MAX.as_secs());
}

#[tokio::test(start_paused = true)]
async fn partial_deadline_is_earlier_and_none_stays_none() {
    let whole = Deadline::after(TIMEOUT);
    assert_eq!(whole.keeping(GOODBYE_MAX).left(), TIMEOUT - GOODBYE_MAX);
    assert_eq!(Deadline::after(GOODBYE_MAX).keeping(GOODBYE_MAX).left(), GOODBYE_MAX * 3 / 4);
    assert_eq!(whole.within(ANSWERS_MAX).left(), ANSWERS_MAX);
    assert_eq!(Deadline::after(Duration::ZERO).within(ANSWERS_MAX).left(), Duration::ZERO);
    let never = Deadline::after(Duration::MAX);
    assert_eq!((never.left(), never.keeping(GOODBYE_MAX).left()), (Duration::MAX, Duration::MAX));
    assert_eq!(never.limit(ready(7)).await, Some(7));
    assert_eq!(
        (replies_linger(TIMEOUT), replies_linger(Duration::from_secs(2))),
        (REPLIES_MAX, REPLIES_MAX / 2)
    );
}
