//! The hit of a lookup in L1: finding and pinning it.

use std::ops::Range;

use hashbrown::HashMap;
use larder_policy::prefix_scan::{PrefixScan, required_range};
use larder_types::ChunkId;

use super::lease::{PinnedObject, ShardPins};
use super::sessions::LookupSpec;
use crate::context::Context;
use crate::index::{Index, ObjectId, ShardKey};

/// The shards of a lookup with their attention windows.
pub(crate) type Shards = [(ShardKey, Option<u32>)];

/// The longest prefix that every shard can serve from L1, and the chunks that were looked at.
pub(crate) fn find_prefix(
    index: &Index,
    shards: &Shards,
    spec: &LookupSpec<'_>,
) -> (u32, Vec<Option<ChunkId>>) {
    let mut scan = PrefixScan::new(shards.iter().map(|(_, window)| *window));
    let mut rows = Rows::new(shards);
    let mut chunks = Vec::new();
    for chunk in index.leading_chunks(spec.model, spec.salt, spec.chunk_hashes) {
        chunks.push(chunk);
        let found = rows.resident(index, chunk);
        if !scan.push(|row| found[row].is_some()) {
            break;
        }
    }
    (scan.hit(), chunks)
}

/// Pins what each shard needs of a hit's chunks, once per reader.
pub(crate) fn pin_prefix(
    cx: &mut Context,
    shards: &Shards,
    chunks: &[Option<ChunkId>],
    readers: u32,
    hit: u32,
) -> Vec<ShardPins> {
    let mut index = cx.index_mut();
    chunks[..hit as usize].iter().flatten().for_each(|chunk| index.on_hit(*chunk));
    let needed: Vec<_> = shards.iter().map(|(_, window)| required_range(hit, *window)).collect();
    let mut pinned: Vec<Vec<PinnedObject>> =
        needed.iter().map(|columns| Vec::with_capacity(columns.len())).collect();
    let mut rows = Rows::new(shards);
    for column in needed.iter().map(|columns| columns.start).min().unwrap_or(hit)..hit {
        let found = rows.resident(&index, chunks[column as usize]);
        for row in (0..shards.len()).filter(|row| needed[*row].contains(&column)) {
            let object = found[row].expect("the hit was just found");
            index.pin(object, readers);
            pinned[row].push(PinnedObject::new(object, readers));
        }
    }
    let pins = |((objects, columns), (shard, _)): ((Vec<PinnedObject>, &Range<u32>), &(ShardKey, _))| {
        ShardPins::new(*shard, columns.start, objects)
    };
    pinned.into_iter().zip(&needed).zip(shards).map(pins).collect()
}

/// Finds the objects of all shards of a chunk at once, so that a chunk costs its objects and not their square.
struct Rows {
    shards: Vec<ShardKey>,
    /// The row of each shard, if there are more than a few.
    by_shard: Option<HashMap<ShardKey, usize>>,
    found: Vec<Option<ObjectId>>,
}

impl Rows {
    /// Of fewer rows each one is looked for by itself.
    const MANY: usize = 8;

    fn new(shards: &Shards) -> Self {
        let shards: Vec<ShardKey> = shards.iter().map(|(shard, _)| *shard).collect();
        let by_shard = (shards.len() >= Self::MANY)
            .then(|| shards.iter().enumerate().map(|(row, shard)| (*shard, row)).collect());
        Self { found: vec![None; shards.len()], shards, by_shard }
    }

    /// The resident object of each row.
    fn resident(&mut self, index: &Index, chunk: Option<ChunkId>) -> &[Option<ObjectId>] {
        self.found.fill(None);
        let Some(chunk) = chunk else { return &self.found };
        match &self.by_shard {
            Some(by_shard) => index.for_each_resident(chunk, |shard, object| {
                if let Some(row) = by_shard.get(&shard) {
                    self.found[*row] = Some(object);
                }
            }),
            None => {
                let rows = self.found.iter_mut().zip(&self.shards);
                rows.for_each(|(found, shard)| *found = index.resident(chunk, *shard));
            }
        }
        &self.found
    }
}
