//! Engines that share a model name, or nearly, and differ in their data.

use bytes::Bytes;
use larder_types::InstanceId;
use larder_wire::key::CacheKey;
use larder_wire::ops;
use larder_wire::ops::RegisterEngineDriven;
use larder_wire::ops::prepare_retrieve::RetrievePlan;
use larder_wire::ops::prepare_store::StorePlan;

use crate::support::{
    Client, Directory, TestServer, config, fill, holds, key, open_pool, registration, with_files,
};

/// An engine of one worker, with a connection for its scheduler.
struct Engine {
    model: &'static str,
    instance: InstanceId,
    worker: Client,
    scheduler: Client,
    pool: std::fs::File,
    /// What its chunks are filled with.
    byte: u8,
}

impl Engine {
    async fn start(server: &TestServer, instance: i64, registration: RegisterEngineDriven) -> Self {
        Self::named(server, instance, "m", registration).await
    }

    async fn named(
        server: &TestServer,
        instance: i64,
        model: &'static str,
        registration: RegisterEngineDriven,
    ) -> Self {
        let (mut worker, scheduler) = (server.client().await, server.client().await);
        let pool = open_pool(&worker.call(registration).await);
        Self { model, instance: InstanceId(instance), worker, scheduler, pool, byte: instance as u8 * 16 }
    }

    fn key(&self, request: &str) -> CacheKey {
        key(self.model, 1, 4, request, Some(0))
    }

    /// Looks up, reads all of the hit, and stores the whole prompt: the hit, and how many chunks were stored. What is
    /// promised must be read, with the engine's own bytes.
    async fn serve(&mut self, request: &str) -> (i64, usize) {
        let hit = self.scheduler.hit(&key(self.model, 1, 4, request, None)).await;
        let instance_id = self.instance;
        if hit > 0 {
            let key = key(self.model, 1, hit as usize, request, Some(0));
            let plan = self.worker.call(ops::PrepareRetrieve { key: key.clone(), instance_id }).await;
            let RetrievePlan::Slots(slots) = plan else { panic!("a promised hit was refused: {plan:?}") };
            assert!(holds(&self.pool, &slots, self.byte), "bytes of another engine");
            assert!(self.worker.call(ops::CommitRetrieve { key, instance_id }).await);
        }
        let key = self.key(request);
        let plan = self.worker.call(ops::PrepareStore::new(key.clone(), instance_id)).await;
        let StorePlan::Slots { slots, chunk_indices, .. } = plan else { panic!("{plan:?}") };
        if !slots.is_empty() {
            assert_eq!(chunk_indices.len(), 4, "all or nothing");
            fill(&self.pool, &slots, self.byte);
            assert!(self.worker.call(ops::CommitStore { key, instance_id, data: Bytes::new() }).await);
        }
        self.scheduler.call(ops::EndSession { request_id: request.into() }).await;
        (hit, slots.len())
    }
}

/// The same size in another type or shape.
fn others() -> [RegisterEngineDriven; 4] {
    [
        RegisterEngineDriven { dtype: "bfloat16".to_owned(), ..registration(2, "m") },
        RegisterEngineDriven {
            dtype: "float8_e4m3fn".to_owned(),
            hidden_dim_size: 24,
            ..registration(2, "m")
        },
        RegisterEngineDriven { num_layers: 4, hidden_dim_size: 6, ..registration(2, "m") },
        RegisterEngineDriven { num_layers: 1, use_mla: false, ..registration(2, "m") },
    ]
}

#[tokio::test]
async fn bytes_of_another_type_or_shape_are_never_served() {
    for other in others() {
        let server = TestServer::start(config()).await;
        let mut first = Engine::start(&server, 1, registration(1, "m")).await;
        assert_eq!(first.serve("a1").await, (0, 4));
        first.worker.call(ops::UnregisterEngineDriven { instance_id: first.instance }).await;
        let mut second = Engine::start(&server, 2, other).await;
        assert_eq!(second.serve("b1").await, (0, 4));
        assert_eq!(second.serve("b2").await, (4, 0));
        server.stop().await;
    }
}

#[tokio::test]
async fn an_engine_that_was_killed_and_comes_back_with_another_type_stores_anew() {
    let server = TestServer::start(config()).await;
    let mut first = Engine::start(&server, 1, registration(1, "m")).await;
    assert_eq!(first.serve("a1").await, (0, 4));
    drop(first);
    let [second, ..] = others();
    let mut second = Engine::start(&server, 2, second).await;
    assert_eq!(second.serve("b1").await, (0, 4));
    assert_eq!(second.serve("b2").await, (4, 0));
    server.stop().await;
}

#[tokio::test]
async fn engines_of_two_types_are_served_side_by_side() {
    let server = TestServer::start(config()).await;
    let mut first = Engine::start(&server, 1, registration(1, "m")).await;
    assert_eq!(first.serve("a1").await, (0, 4));
    let [second, ..] = others();
    let mut second = Engine::start(&server, 2, second).await;
    assert_eq!(second.serve("b1").await, (0, 4));
    for round in 2..4 {
        assert_eq!(first.serve(&format!("a{round}")).await, (4, 0));
        assert_eq!(second.serve(&format!("b{round}")).await, (4, 0));
    }
    server.stop().await;
}

#[tokio::test]
async fn files_of_two_models_or_types_are_never_taken_for_each_other() {
    let directory = Directory::new();
    let server = TestServer::start(with_files(&directory)).await;
    let [bfloat16, ..] = others();
    let bfloat16 =
        RegisterEngineDriven { model_name: "org/model".into(), instance_id: InstanceId(3), ..bfloat16 };
    let engines: [(i64, &'static str, RegisterEngineDriven); 3] = [
        (1, "org/model", registration(1, "org/model")),
        (2, "org-SEP-model", registration(2, "org-SEP-model")),
        (3, "org/model", bfloat16),
    ];
    let mut running = Vec::new();
    for (instance, model, registration) in engines {
        let mut engine = Engine::named(&server, instance, model, registration).await;
        assert_eq!(engine.serve(&format!("first{instance}")).await, (0, 4));
        running.push(engine);
    }
    server.until("all is written to L2", |_| directory.objects() == 12).await;
    server
        .until("nothing is pending", |state| {
            state.core().read(|core, _| core.gauges().write_back_pending) == 0
        })
        .await;
    server.state.core().with(|core, now| core.clear(now, true));
    for engine in &mut running {
        let (hit, _) = engine.serve(&format!("second{}", engine.instance)).await;
        assert_eq!(hit, 4, "from L2: {} {}", engine.model, engine.instance);
    }
    server.stop().await;
}
