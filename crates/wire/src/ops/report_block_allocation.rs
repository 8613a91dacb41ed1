//! `report_block_allocation`.

use std::sync::Arc;

use larder_types::InstanceId;

use crate::codec::{Entry, payloads, structure};
use crate::ops::OperationSpec;

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

payloads!(ReportBlockAllocation { instance_id, model_name, records });

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

impl OperationSpec for ReportBlockAllocation {
    const ID: Option<u8> = Some(23);
    const NAME: &'static str = "report_block_allocation";
    type Response = ();

    fn failure() -> Option<Self::Response> {
        Some(())
    }
}

#[cfg(test)]
impl super::tests::Samples for ReportBlockAllocation {
    fn requests() -> Vec<Self> {
        vec![Self {
            instance_id: super::tests::INSTANCE,
            model_name: "org/model".into(),
            records: vec![BlockAllocation {
                request_id: "request".to_owned(),
                new_block_ids: vec![1, 2],
                new_token_ids: vec![3; 20],
            }],
        }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![()]
    }
}
