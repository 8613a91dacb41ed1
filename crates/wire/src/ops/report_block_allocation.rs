//! `report_block_allocation`.

use std::sync::Arc;

use larder_types::InstanceId;

use crate::codec::{Entry, structure};
use crate::ops::{operation, samples};

/// Reports which blocks the engine gave to which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportBlockAllocation {
    /// The worker.
    pub instance_id: InstanceId,
    /// The model.
    pub model_name: Arc<str>,
    /// The allocations since the last report.
    pub records: Vec<BlockAllocation>,
}

/// The blocks that the engine gave to one request since its last report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockAllocation {
    /// The request.
    pub request_id: String,
    /// Its new blocks.
    pub new_block_ids: Vec<i64>,
    /// Its new tokens.
    pub new_token_ids: Vec<i64>,
}

structure!(BlockAllocation { request_id as "req_id", new_block_ids, new_token_ids });

impl Entry for BlockAllocation {
    const LIST_MAX: usize = 1 << 16;
}

operation!(
    ReportBlockAllocation = Some(23), "report_block_allocation",
    { instance_id, model_name, records } -> (), failure: Some(())
);

samples!(ReportBlockAllocation: vec![Self {
    instance_id: INSTANCE,
    model_name: "org/model".into(),
    records: vec![BlockAllocation {
        request_id: "request".to_owned(),
        new_block_ids: vec![1, 2],
        new_token_ids: vec![3; 20],
    }],
}] => vec![()]);
