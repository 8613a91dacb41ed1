//! What a server leaves to the next one, while engines live on.

use std::os::unix::fs::{FileExt, MetadataExt};

use bytes::Bytes;
use larder_types::ids::InstanceId;
use larder_wire::ops;
use larder_wire::ops::prepare_retrieve::RetrievePlan;
use larder_wire::ops::prepare_store::StorePlan;

use crate::support::{TestServer, config, fill, key, open_pool};

const W: InstanceId = InstanceId(7);

#[tokio::test]
async fn stopped_server_frees_its_memory_except_for_what_a_worker_is_reading() {
    let mut config = config();
    config.l1.bytes = 8 << 20;
    // Slots in pages of their own.
    config.l1.align_bytes = 64 << 10;
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    let store = key("m", 1, 4, "store", Some(0));
    let plan = c.call(ops::PrepareStore::new(store.clone(), W)).await;
    let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
    fill(&pool, &slots, 10);
    assert!(c.call(ops::CommitStore { key: store, instance_id: W, data: Bytes::new() }).await);
    assert_eq!(c.hit(&key("m", 1, 2, "r", None)).await, 2);
    let read = key("m", 1, 2, "r", Some(0));
    let plan = c.call(ops::PrepareRetrieve { key: read, instance_id: W }).await;
    let RetrievePlan::Slots(being_read) = plan else { panic!("{plan:?}") };
    assert!(pool.metadata().unwrap().blocks() * 512 >= 2 << 20, "memory is committed");
    server.stop().await;
    let left = pool.metadata().unwrap();
    assert_eq!(left.blocks() * 512, 2 * left.blksize(), "two slots of less than a page");
    for (i, slot) in being_read.iter().enumerate() {
        let mut bytes = vec![0; slot.length as usize];
        pool.read_exact_at(&mut bytes, slot.offset).unwrap();
        assert!(
            bytes.iter().all(|byte| *byte == 10 + i as u8),
            "a worker in the middle of a read gets its bytes"
        );
    }
}
