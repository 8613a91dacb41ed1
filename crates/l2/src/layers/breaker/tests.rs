use super::*;
use crate::adapters::mock::{Mock, MockConfig};
use crate::layers::fault::{Fault, FaultConfig};
use crate::testing::{TestArena, key};

/// Only engines probe reads.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// Has no space for large objects.
#[derive(Debug)]
struct FullAboveOneMib {
    inner: Mock,
}

impl Adapter for FullAboveOneMib {
    forward!(inner: kind, capabilities, lookup, load, delete, list, usage, usage_by_salt, set_quota, health, failures, close);

    fn store(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<Stored>> {
        if transfers.iter().all(|transfer| transfer.region.len() <= 1 << 20) {
            return self.inner.store(transfers);
        }
        let full = L2Error::permanent(ErrorKind::Full, "injected").for_all(transfers.len());
        Box::pin(std::future::ready(full))
    }
}

struct Rig {
    fault: Arc<Fault>,
    breaker: Breaker,
    arena: TestArena,
}

impl Rig {
    fn new() -> Self {
        let inner = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 40 });
        let fault = Arc::new(Fault::new(Arc::new(FullAboveOneMib { inner }), FaultConfig::default()));
        let breaker = Breaker::new(
            Arc::clone(&fault) as Arc<dyn Adapter>,
            BreakerConfig { idle_before_probe: NEVER, ..BreakerConfig::default() },
        );
        Self { fault, breaker, arena: TestArena::new(4 << 20) }
    }

    fn fail(&self, error: f64) {
        self.fault.set(FaultConfig { error, ..FaultConfig::default() });
    }

    async fn load(&self) -> ErrorKind {
        self.breaker.load(vec![self.arena.blank(1, 1)]).await[0].as_ref().unwrap_err().kind()
    }
}

#[tokio::test(start_paused = true)]
async fn opens_probes_with_growing_pauses_and_closes() {
    let rig = Rig::new();
    rig.fail(1.0);
    assert_eq!(rig.breaker.health().reads, Circuit::Closed);
    for failures in 1..=5 {
        assert_eq!(rig.load().await, ErrorKind::Unavailable);
        let expected = if failures < 5 { Circuit::Failing } else { Circuit::Open };
        assert_eq!(rig.breaker.health().reads, expected, "after {failures} failures");
    }
    assert_eq!(rig.breaker.health(), Health { reads: Circuit::Open, writes: Circuit::Closed });
    let calls = rig.fault.calls();
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        tokio::time::advance(Duration::from_secs(pause) - Duration::from_millis(1)).await;
        let before = rig.fault.calls();
        assert_eq!(rig.load().await, ErrorKind::Unavailable);
        assert_eq!(rig.fault.calls(), before, "no call passes before {pause} s are over");
        tokio::time::advance(Duration::from_millis(1)).await;
        rig.load().await;
        assert_eq!(rig.fault.calls(), before + 1, "one call passes after {pause} s");
    }
    assert_eq!(rig.fault.calls(), calls + 7);
    rig.fail(0.0);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(rig.load().await, ErrorKind::NotFound, "an absent object is a valid answer");
    assert_eq!(rig.breaker.health().reads, Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn misses_do_not_open_it_and_a_dropped_probe_frees_it() {
    let rig = Rig::new();
    for _ in 0..20 {
        assert_eq!(rig.load().await, ErrorKind::NotFound);
    }
    rig.fail(1.0);
    let lost = rig.breaker.lookup((0..5).map(key).collect()).await;
    assert!(lost.iter().all(Result::is_err));
    assert_eq!(rig.breaker.health().reads, Circuit::Open);
    tokio::time::advance(Duration::from_secs(1)).await;
    rig.fault.set(FaultConfig { hang: 1.0, ..FaultConfig::default() });
    let mut probe = rig.breaker.lookup(vec![key(1)]);
    let _ = tokio::time::timeout(Duration::from_millis(1), &mut probe).await;
    assert_eq!(rig.breaker.health().reads, Circuit::HalfOpen);
    assert!(rig.breaker.lookup(vec![key(1)]).await[0].is_err(), "one probe at a time");
    drop(probe);
    rig.fail(0.0);
    assert!(rig.breaker.lookup(vec![key(1)]).await[0].is_ok());
    assert_eq!(rig.breaker.health().reads, Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn health_follows_the_last_call() {
    let rig = Rig::new();
    rig.fail(1.0);
    rig.load().await;
    assert_eq!(rig.breaker.health(), Health { reads: Circuit::Failing, writes: Circuit::Closed });
    rig.fail(0.0);
    assert_eq!(rig.load().await, ErrorKind::NotFound);
    assert_eq!(rig.breaker.health(), Health::default());
}

#[tokio::test(start_paused = true)]
async fn full_backend_is_unhealthy_but_calls_still_pass() {
    let rig = Rig::new();
    let large = || vec![rig.arena.object(1, 2 << 20)];
    for _ in 0..20 {
        let stored = rig.breaker.store(large()).await;
        assert_eq!(stored[0].as_ref().unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(rig.breaker.health().writes, Circuit::Failing);
    }
    assert!(rig.breaker.store(vec![rig.arena.object(2, 64)]).await[0].is_ok());
    assert_eq!(rig.breaker.health(), Health::default());
    rig.breaker.store(large()).await;
    assert_eq!(rig.breaker.store(vec![rig.arena.object(2, 64)]).await[0].as_ref().unwrap().written_bytes, 0);
    assert_eq!(
        rig.breaker.health().writes,
        Circuit::Failing,
        "nothing was written, so the outcome is unknown"
    );
}

#[tokio::test(start_paused = true)]
async fn successful_lookups_do_not_hide_failing_loads() {
    let rig = Rig::new();
    for failures in 1..=5 {
        rig.fail(1.0);
        rig.load().await;
        rig.fail(0.0);
        assert!(rig.breaker.lookup(vec![key(1)]).await[0].is_ok());
        let expected = if failures < 5 { Circuit::Failing } else { Circuit::Open };
        assert_eq!(rig.breaker.health().reads, expected, "after {failures} failures");
    }
}

#[tokio::test(start_paused = true)]
async fn probes_detect_that_writes_recovered() {
    let rig = Rig::new();
    let store = async |len| rig.breaker.store(vec![rig.arena.object(1, len)]).await.remove(0);
    rig.fail(1.0);
    for _ in 0..9 {
        assert!(store(64).await.is_err());
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(rig.breaker.health().writes, Circuit::Open, "it still fails");
    rig.fail(0.0);
    tokio::time::sleep(BreakerConfig::default().pause_max * 2).await;
    assert_eq!(rig.breaker.health(), Health::default());
    assert_eq!(rig.breaker.usage().objects, 0, "the probe is deleted");
    let calls = rig.fault.calls();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!(rig.fault.calls(), calls, "no probes while it is healthy");
    assert_eq!(store(2 << 20).await.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(rig.breaker.health().writes, Circuit::Failing);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.breaker.health(), Health::default(), "the probe fits");
}

#[tokio::test(start_paused = true)]
async fn probes_detect_that_reads_recovered_without_calls() {
    let mut rig = Rig::new();
    rig.breaker = Breaker::new(Arc::clone(&rig.fault) as Arc<dyn Adapter>, BreakerConfig::default());
    rig.fail(1.0);
    for _ in 0..9 {
        assert!(rig.breaker.load(vec![rig.arena.blank(1, 1)]).await[0].is_err());
        assert!(rig.breaker.lookup(vec![key(1)]).await[0].is_err());
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(rig.breaker.health().reads, Circuit::Open, "it still fails");
    let problems = rig.breaker.failures().problems;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].contains("injected") && problems[0].contains("mounted"),
        "reason and remedy: {problems:?}"
    );
    rig.fail(0.0);
    tokio::time::sleep(BreakerConfig::default().pause_max * 2).await;
    assert_eq!(rig.breaker.health(), Health::default());
    assert_eq!((rig.breaker.usage().objects, rig.breaker.failures().problems), (0, vec![]));
}

/// Fails with one kind of error.
#[derive(Debug)]
struct Failing {
    inner: Mock,
    kind: ErrorKind,
}

impl Adapter for Failing {
    forward!(inner: kind, capabilities, lookup, store, delete, list, usage, usage_by_salt, set_quota, health, failures, close);

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        let failed = L2Error::permanent(self.kind, "injected").for_all(transfers.len());
        Box::pin(std::future::ready(failed))
    }
}

#[tokio::test(start_paused = true)]
async fn only_failures_of_the_backend_open_the_circuit() {
    use Circuit::{Closed, Failing as Fails, Open};
    let arena = TestArena::new(4 << 20);
    // After 9 failures of one object, and after failures of 30 objects.
    let cases = [
        (ErrorKind::NotFound, Closed, Closed),
        (ErrorKind::Unreadable, Closed, Closed),
        (ErrorKind::Corrupt, Closed, Closed),
        (ErrorKind::Damaged, Closed, Open),
        (ErrorKind::BadKey, Closed, Closed),
        (ErrorKind::OverLimit, Closed, Closed),
        (ErrorKind::TooManyFiles, Fails, Fails),
        (ErrorKind::Full, Fails, Fails),
        (ErrorKind::Denied, Open, Open),
        (ErrorKind::ReadOnly, Open, Open),
        (ErrorKind::Stale, Open, Open),
        (ErrorKind::Io, Open, Open),
    ];
    for (kind, of_one, of_many) in cases {
        let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 40 });
        let breaker = Breaker::new(
            Arc::new(Failing { inner: mock, kind }),
            BreakerConfig { idle_before_probe: NEVER, ..BreakerConfig::default() },
        );
        for _ in 0..9 {
            breaker.load(vec![arena.blank(1, 1)]).await;
        }
        assert_eq!(breaker.health().reads, of_one, "{kind}, one object");
        for n in 0..30 {
            breaker.load(vec![arena.blank(n, 1)]).await;
        }
        assert_eq!(breaker.health().reads, of_many, "{kind}, many objects");
    }
}
