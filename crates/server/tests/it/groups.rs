//! Workers with several groups of layers, through the sockets: with the pool, and with bytes in the messages.

use std::fs::File;

use bytes::Bytes;
use larder_types::Layout;
use larder_types::dtype::DType;
use larder_types::ids::InstanceId;
use larder_wire::codec::Newer;
use larder_wire::ops;
use larder_wire::ops::prepare_retrieve::RetrievePlan;
use larder_wire::ops::prepare_store::StorePlan;
use larder_wire::ops::register_engine_driven::{GroupLayout, Pool};
use larder_wire::slot::Slot;
use larder_wire::tensor_map::{TensorMapWriter, read_chunks};

use crate::support::{CHUNK, Client, TestServer, config, fill, holds, key, open_pool, registration};

const W: InstanceId = InstanceId(7);

/// Layers with full attention: two planes of whole chunks.
fn full() -> GroupLayout {
    GroupLayout {
        num_layers: 2,
        hidden_dim_size: 12,
        dtype: "float16".to_owned(),
        tokens_per_block: 4,
        window_tokens: 0,
        kv_size: 2,
        window_chunks: 0,
        recurrent: false,
    }
}

/// Layers with a window of half a chunk.
fn windowed() -> GroupLayout {
    GroupLayout { window_tokens: CHUNK as i64 / 2, kv_size: 1, window_chunks: 1, ..full() }
}

/// States of another type; of a hit only the last one counts.
fn state() -> GroupLayout {
    let dtype = "int8".to_owned();
    GroupLayout { num_layers: 1, dtype, kv_size: 0, window_chunks: 1, recurrent: true, ..full() }
}

fn layouts() -> [Layout; 3] {
    let tokens = CHUNK as u64;
    [
        Layout::new(&[2, 2, tokens, 12], DType::Float16).expect("a small layout"),
        Layout::new(&[2, tokens / 2, 12], DType::Float16).expect("a small layout"),
        Layout::new(&[1, tokens, 12], DType::Int8).expect("a small layout"),
    ]
}

fn with_groups(groups: Vec<GroupLayout>) -> ops::RegisterEngineDriven {
    ops::RegisterEngineDriven { group_layouts: Newer(Some(groups)), ..registration(7, "m") }
}

async fn register(c: &mut Client) -> Pool {
    c.call(with_groups(vec![full(), windowed(), state()])).await
}

fn prepare(chunks: usize, skipped: Option<Vec<Vec<i64>>>) -> ops::PrepareStore {
    ops::PrepareStore {
        skipped_chunks: skipped,
        ..ops::PrepareStore::new(key("m", 1, chunks, "s", Some(0)), W)
    }
}

/// What a worker leaves out that stores three chunks: of the groups with a window all but the last.
fn all_but_the_last() -> Option<Vec<Vec<i64>>> {
    Some(vec![vec![], vec![0, 1], vec![0, 1]])
}

const GROUP_IDS: [u64; 5] = [0, 0, 0, 1, 2];
const CHUNK_INDICES: [u64; 5] = [0, 1, 2, 2, 2];

fn check_layouts(slots: &[Slot]) {
    for (slot, group) in slots.iter().zip(GROUP_IDS) {
        let layout = &layouts()[group as usize];
        assert_eq!((&slot.shape, slot.dtype, slot.length), (layout.shape(), layout.dtype(), layout.bytes()));
    }
}

async fn store(c: &mut Client, pool: &File) {
    let plan = c.call(prepare(3, all_but_the_last())).await;
    let StorePlan::Slots { slots, chunk_indices, group_ids } = plan else { panic!("{plan:?}") };
    assert_eq!((&chunk_indices[..], group_ids.as_deref()), (&CHUNK_INDICES[..], Some(&GROUP_IDS[..])));
    check_layouts(&slots);
    fill(pool, &slots, 10);
    let commit = ops::CommitStore { key: key("m", 1, 3, "s", Some(0)), instance_id: W, data: Bytes::new() };
    assert!(c.call(commit).await);
}

#[tokio::test]
async fn what_was_stored_of_all_groups_is_found_and_read_back() {
    let server = TestServer::start(config()).await;
    let mut c = server.client().await;
    let pool = register(&mut c).await;
    assert_eq!(pool.null_block_id, Newer(Some(0)));
    let pool = open_pool(&pool);
    store(&mut c, &pool).await;
    let again = c.call(prepare(3, all_but_the_last())).await;
    let nothing = StorePlan::Slots { slots: vec![], chunk_indices: vec![], group_ids: Some(vec![]) };
    assert_eq!(again, nothing);
    assert_eq!(c.hit(&key("m", 1, 3, "r", None)).await, 3);
    assert_eq!(c.hit(&key("m", 1, 2, "short", None)).await, 0, "the window there was not stored");
    let worker = key("m", 1, 3, "r", Some(0));
    let plan = c.call(ops::PrepareRetrieve { key: worker.clone(), instance_id: W }).await;
    let RetrievePlan::GroupSlots { slots, group_ids, chunk_indices } = plan else { panic!("{plan:?}") };
    assert_eq!((&group_ids[..], &chunk_indices[..]), (&GROUP_IDS[..], &CHUNK_INDICES[..]));
    check_layouts(&slots);
    assert!(holds(&pool, &slots, 10));
    assert!(c.call(ops::CommitRetrieve { key: worker, instance_id: W }).await);
    c.call(ops::EndSession { request_id: "r".into() }).await;
    let gauges = server.state.core().read(|core, _| core.gauges());
    assert_eq!((gauges.l1.resident_objects, gauges.l1.held_objects), (5, 0));
    server.stop().await;
}

#[tokio::test]
async fn chunks_to_leave_out_must_be_chunks_of_the_range_and_of_each_group() {
    let server = TestServer::start(config()).await;
    let mut c = server.client().await;
    register(&mut c).await;
    for skipped in
        [vec![vec![]], vec![vec![]; 4], vec![vec![], vec![3], vec![]], vec![vec![], vec![], vec![-1]]]
    {
        let plan = c.call(prepare(3, Some(skipped.clone()))).await;
        assert_eq!(plan, StorePlan::NOTHING, "{skipped:?}");
    }
    assert_eq!(server.state.core().read(|core, _| core.gauges().stores), 0);
    let plan = c.call(prepare(3, Some(vec![]))).await;
    let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
    assert_eq!(slots.len(), 9, "an empty list leaves nothing out");
    server.stop().await;
}

#[tokio::test]
async fn groups_that_cannot_be_stored_are_refused() {
    let mut server = TestServer::start(config()).await;
    server.expect_log("worker not served: group 0: num_layers 0 is not positive");
    server.expect_log("group_layouts: 65 entries are more than the limit of 64");
    let mut c = server.client().await;
    let wrong = [
        GroupLayout { num_layers: 0, ..full() },
        GroupLayout { hidden_dim_size: -1, ..full() },
        GroupLayout { dtype: "float7".to_owned(), ..full() },
        GroupLayout { window_tokens: -1, ..full() },
        GroupLayout { window_tokens: CHUNK as i64 + 1, ..full() },
        GroupLayout { kv_size: 3, ..full() },
        GroupLayout { window_chunks: -1, ..full() },
        GroupLayout { window_chunks: 1 << 40, ..full() },
        GroupLayout { num_layers: i64::MAX, ..full() },
        // Each fits into 63 bits, and not both of them.
        GroupLayout { num_layers: 1 << 53, ..full() },
    ];
    for group in wrong {
        let pool = c.call(with_groups(vec![group.clone(), group.clone()])).await;
        assert_eq!(pool, Pool::default(), "{group:?}");
    }
    let many = ops::RegisterEngineDriven { world_size: 64, ..with_groups(vec![full(); 9]) };
    assert_eq!(c.call(many).await, Pool::default(), "576 objects for each chunk");
    let too_many = c.call(with_groups(vec![full(); 65])).await;
    assert_eq!(too_many, Pool::default());
    assert_eq!(server.state.core().read(|core, _| core.gauges().workers), 0);
    assert!(!c.call(with_groups(vec![full(); 64])).await.shm_name.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn one_group_is_served_as_if_none_was_named() {
    let server = TestServer::start(config()).await;
    let mut c = server.client().await;
    for (instance, groups) in [(1, vec![]), (2, vec![GroupLayout { window_chunks: 1, ..full() }])] {
        let registration = ops::RegisterEngineDriven {
            instance_id: InstanceId(instance),
            group_layouts: Newer(Some(groups)),
            ..registration(instance, "m")
        };
        let pool = c.call(registration).await;
        assert_eq!(pool.null_block_id, Newer(Some(0)), "its client knows the field");
        let key = key("m", instance as u32, 2, "s", Some(0));
        let plan = c.call(ops::PrepareStore::new(key, InstanceId(instance))).await;
        let StorePlan::Slots { slots, group_ids, .. } = plan else { panic!("{plan:?}") };
        assert_eq!((slots.len(), slots[0].length, group_ids), (2, 768, None));
    }
    server.stop().await;
}

/// The map of the chunks that a worker sends, filled from `byte` up.
fn sent(cells: &[(usize, u64)], byte: u8) -> Bytes {
    let mut writer = TensorMapWriter::grouped(3);
    let mut bytes = byte..;
    for (group, layout) in layouts().iter().enumerate() {
        let own: Vec<u64> = cells.iter().filter(|cell| cell.0 == group).map(|cell| cell.1).collect();
        writer.begin_group(&own);
        for _ in own {
            writer
                .push_with(layout, |out| out.fill(bytes.next().expect("as many bytes as tensors")))
                .expect("as many tensors as announced");
        }
    }
    writer.finish()
}

#[tokio::test]
async fn without_a_common_memory_the_chunks_of_all_groups_travel_as_a_map() {
    let mut config = config();
    config.l1.shm_name = None;
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    assert_eq!(register(&mut c).await, Pool { null_block_id: Newer(Some(0)), ..Pool::default() });
    assert_eq!(c.call(prepare(3, None)).await, StorePlan::Inline);
    let cells = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)];
    let commit = |seed: u32, data: Bytes| {
        let key = key("m", seed, 3, "s", Some(0));
        ops::CommitStore { key, instance_id: W, data }
    };
    assert!(c.call(commit(1, sent(&cells, 20))).await);
    assert!(c.call(commit(1, sent(&cells, 90))).await, "it is there already");
    assert_eq!(c.hit(&key("m", 1, 3, "r", None)).await, 3);
    let worker = key("m", 1, 3, "r", Some(0));
    let plan = c.call(ops::PrepareRetrieve { key: worker.clone(), instance_id: W }).await;
    let RetrievePlan::Inline(data) = plan else { panic!("{plan:?}") };
    assert_eq!(data, sent(&cells, 20), "as it was sent");
    assert!(c.call(ops::CommitRetrieve { key: worker, instance_id: W }).await);
    let [full, windowed, state] = &layouts();
    assert_eq!(read_chunks(&data, &[full, windowed, state], 3).unwrap().len(), 5);
    assert_eq!(server.state.core().read(|core, _| core.gauges().l1.held_objects), 0);

    // What is not as registered is refused as a whole.
    let good = sent(&cells, 20);
    let mut longer = good.to_vec();
    longer.push(0);
    let mut other_type = good.to_vec();
    let at = other_type.windows(4).position(|w| w == b"int8").unwrap();
    other_type[at..at + 4].copy_from_slice(b"bool");
    for data in
        [Bytes::from(longer), Bytes::from(other_type), good.slice(..good.len() - 1), sent(&[(0, 3)], 1)]
    {
        assert!(!c.call(commit(2, data)).await);
    }
    let pickle = larder_wire::pickle::PickleWriter::new().finish();
    assert!(!c.call(commit(2, pickle)).await, "a pickle does not say which groups it has");
    assert_eq!(server.state.core().read(|core, _| core.gauges().l1.resident_objects), 5);
    server.stop().await;
}

#[tokio::test]
async fn a_worker_with_one_group_may_send_a_map_too() {
    let mut config = config();
    config.l1.shm_name = None;
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    c.register(7, "m").await;
    let layout = Layout::new(&[2, CHUNK as u64, 12], DType::Float16).unwrap();
    let map = |chunks: u8| {
        let mut writer = TensorMapWriter::single(usize::from(chunks));
        (0..chunks).for_each(|i| writer.push_with(&layout, |out| out.fill(i + 1)).unwrap());
        writer.finish()
    };
    let commit = |data| ops::CommitStore { key: key("m", 1, 3, "s", Some(0)), instance_id: W, data };
    assert!(!c.call(commit(map(2))).await, "a chunk is missing");
    assert_eq!(server.state.core().read(|core, _| core.gauges().l1.resident_objects), 0);
    assert!(c.call(commit(map(3))).await);
    assert_eq!(c.hit(&key("m", 1, 3, "r", None)).await, 3);
    server.stop().await;
}
