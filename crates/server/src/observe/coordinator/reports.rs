//! The body of `POST /events`: batches of events, each of one kind and one tier.

use larder_core::stats::events::{Change, ObjectEvent, Tier};
use serde::Serialize;

/// The coordinator's name of host memory.
pub(super) const L1_BACKEND: &str = "dram";

/// A tier, or a part of one, and how large it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compartment {
    pub(super) tier: &'static str,
    pub(super) backend: &'static str,
    pub(super) shared: bool,
    /// 0: no limit.
    pub(super) bytes: u64,
}

/// Numbers batches, so that the coordinator recognises repeated and missing ones.
#[derive(Debug)]
pub(super) struct Reports {
    instance_id: String,
    /// Grows from one run of the server to the next, and from one registration to the next.
    incarnation: u64,
    last_seq: u64,
    last_revision: u64,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    batches: Vec<Batch<'a>>,
}

#[derive(Debug, Serialize)]
struct Batch<'a> {
    instance_id: &'a str,
    incarnation: u64,
    seq: u64,
    event_type: &'static str,
    tier: &'static str,
    backend: &'a str,
    entries: Vec<Entry<'a>>,
    shared: bool,
    ts: f64,
    capacity_bytes: u64,
    capacity_revision: u64,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    key: Key<'a>,
    size_bytes: u64,
    /// Only position-independent reuse needs them, which this server does not do.
    token_ids: [u32; 0],
    /// -1: not known.
    token_offset: i64,
}

#[derive(Debug, Serialize)]
struct Key<'a> {
    chunk_hash_hex: String,
    model_name: &'a str,
    kv_rank: u32,
    object_group_id: u32,
    cache_salt: &'a str,
}

impl Reports {
    /// No reports yet.
    pub(super) fn new(instance_id: &str, incarnation: u64) -> Self {
        Self { instance_id: instance_id.to_owned(), incarnation, last_seq: 0, last_revision: 0 }
    }

    /// What was reported so far no longer counts, for its receiver may have lost some or all of it: a new
    /// incarnation begins, as if the server had started at `now`, in seconds. What the receiver still has of L1
    /// is void with the first batch of it; what was said of L2 stays.
    pub(super) fn begin_incarnation(&mut self, now: u64) {
        self.incarnation = now.max(self.incarnation + 1);
        self.last_seq = 0;
    }

    /// Skips a number, which shows the coordinator that events are lost.
    pub(super) fn skip(&mut self) {
        self.last_seq += 1;
    }

    /// A report of how large the tiers are, if any are given, and of what happened. `places` are the names of the
    /// adapters, and whether they are shared with other servers, in the order of their numbers.
    pub(super) fn body(
        &mut self,
        capacity: &[Compartment],
        events: &[ObjectEvent],
        places: &[(&'static str, bool)],
        ts: f64,
    ) -> Vec<u8> {
        self.last_revision += u64::from(!capacity.is_empty());
        let (incarnation, revision) = (self.incarnation, self.last_revision);
        let mut seq = self.last_seq;
        let mut batch = |event_type, tier, backend, shared| {
            seq += 1;
            let instance_id = self.instance_id.as_str();
            let (entries, capacity_bytes, capacity_revision) = (Vec::new(), 0, 0);
            Batch {
                instance_id,
                incarnation,
                seq,
                event_type,
                tier,
                backend,
                entries,
                shared,
                ts,
                capacity_bytes,
                capacity_revision,
            }
        };
        let config = capacity.iter().map(|part| Batch {
            capacity_bytes: part.bytes,
            capacity_revision: revision,
            ..batch("config", part.tier, part.backend, part.shared)
        });
        let mut batches: Vec<Batch<'_>> = config.collect();
        for run in events.chunk_by(|a, b| (a.tier, a.change) == (b.tier, b.change)) {
            let Some(ObjectEvent { tier, change, .. }) = run.first() else { continue };
            let (tier, place, shared) = match tier {
                Tier::L1 => ("l1", L1_BACKEND, false),
                // An adapter that is not listed is a bug, but no reason to stop.
                Tier::L2(id) => {
                    let (place, shared) = places.get(id.0 as usize).copied().unwrap_or(("unknown", false));
                    ("l2", place, shared)
                }
            };
            let (event_type, backend) = match change {
                Change::Stored => ("store", place),
                Change::Removed => ("delete", place),
                // A use is one of the key, wherever it lies.
                Change::Used => ("access", ""),
            };
            batches.push(Batch {
                entries: run.iter().map(entry).collect(),
                ..batch(event_type, tier, backend, shared)
            });
        }
        self.last_seq = seq;
        serde_json::to_vec(&Body { batches }).expect("texts and numbers have a form in JSON")
    }
}

fn entry(event: &ObjectEvent) -> Entry<'_> {
    let key = &event.key;
    Entry {
        key: Key {
            chunk_hash_hex: key.chunk_hash.to_string(),
            model_name: &key.model_name,
            kv_rank: key.kv_rank.0,
            object_group_id: key.object_group,
            cache_salt: &key.cache_salt,
        },
        size_bytes: event.bytes,
        token_ids: [],
        token_offset: -1,
    }
}

#[cfg(test)]
mod tests {
    use larder_types::ids::AdapterId;
    use larder_types::object::{ChunkHash, KvRank, ObjectKey};
    use serde_json::{Value, json};

    use super::*;

    const L2: Tier = Tier::L2(AdapterId(0));

    fn event(tier: Tier, change: Change, i: u8) -> ObjectEvent {
        let hash = ChunkHash::new(&[0x2a, i]).expect("two bytes");
        let key = ObjectKey::new(hash, "m", KvRank::new(1, 0), 0, "s").expect("valid");
        ObjectEvent { tier, change, key, bytes: if change == Change::Stored { 512 } else { 0 } }
    }

    fn batches(reports: &mut Reports, capacity: &[Compartment], events: &[ObjectEvent]) -> Vec<Value> {
        let body = reports.body(capacity, events, &[("fs", true)], 12.5);
        let mut body: Value = serde_json::from_slice(&body).expect("JSON");
        serde_json::from_value(body["batches"].take()).expect("a list")
    }

    #[test]
    fn store_has_the_shape_of_the_reference() {
        let mut reports = Reports::new("node-a", 1_795_337_406);
        let found = batches(&mut reports, &[], &[event(Tier::L1, Change::Stored, 7)]);
        let expected = json!({
            "instance_id": "node-a", "incarnation": 1_795_337_406_u64, "seq": 1, "event_type": "store",
            "tier": "l1", "backend": "dram", "shared": false, "ts": 12.5,
            "capacity_bytes": 0, "capacity_revision": 0,
            "entries": [{
                "key": {"chunk_hash_hex": "2a07", "model_name": "m", "kv_rank": 16_777_472, "object_group_id": 0,
                        "cache_salt": "s"},
                "size_bytes": 512, "token_ids": [], "token_offset": -1,
            }],
        });
        assert_eq!(found, [expected]);
    }

    #[test]
    fn batches_are_of_one_kind_and_one_tier_and_in_order() {
        let mut reports = Reports::new("node-a", 1);
        let events = [
            event(Tier::L1, Change::Stored, 1),
            event(Tier::L1, Change::Stored, 2),
            event(L2, Change::Stored, 1),
            event(L2, Change::Used, 1),
            event(Tier::L1, Change::Removed, 1),
            event(Tier::L1, Change::Stored, 1),
        ];
        let found = batches(&mut reports, &[], &events);
        let short = |b: &Value| {
            let text = |name: &str| b[name].as_str().map(str::to_owned).expect("a text");
            let entries = b["entries"].as_array().map_or(0, Vec::len);
            (
                b["seq"].as_u64(),
                text("event_type"),
                text("tier"),
                text("backend"),
                b["shared"] == true,
                entries,
            )
        };
        let row = |seq: u64, kind: &str, tier: &str, backend: &str, entries| {
            (Some(seq), kind.to_owned(), tier.to_owned(), backend.to_owned(), tier == "l2", entries)
        };
        let expected = [
            row(1, "store", "l1", "dram", 2),
            row(2, "store", "l2", "fs", 1),
            row(3, "access", "l2", "", 1),
            row(4, "delete", "l1", "dram", 1),
            row(5, "store", "l1", "dram", 1),
        ];
        assert_eq!(found.iter().map(short).collect::<Vec<_>>(), expected);
        reports.skip();
        assert_eq!(batches(&mut reports, &[], &events[..1])[0]["seq"], 7, "6 is missing for ever");
    }

    #[test]
    fn incarnation_grows_and_restarts_the_numbers() {
        let mut reports = Reports::new("node-a", 100);
        let stored = [event(Tier::L1, Change::Stored, 1)];
        let mut next = |now: Option<u64>| {
            now.into_iter().for_each(|now| reports.begin_incarnation(now));
            let batch = batches(&mut reports, &[], &stored).remove(0);
            (batch["incarnation"].as_u64(), batch["seq"].as_u64())
        };
        assert_eq!(next(None), (Some(100), Some(1)));
        assert_eq!(next(Some(150)), (Some(150), Some(1)));
        assert_eq!(next(None), (Some(150), Some(2)));
        assert_eq!(next(Some(150)), (Some(151), Some(1)), "twice in a second");
        assert_eq!(next(Some(90)), (Some(152), Some(1)), "a clock that was set back");
    }

    #[test]
    fn capacities_of_one_report_have_one_revision() {
        let mut reports = Reports::new("node-a", 1);
        let memory = Compartment { tier: "l1", backend: "dram", shared: false, bytes: 1 << 30 };
        let files = Compartment { tier: "l2", backend: "fs", shared: true, bytes: 0 };
        for revision in 1..3 {
            let found =
                batches(&mut reports, &[memory.clone(), files.clone()], &[event(L2, Change::Removed, 1)]);
            let revisions: Vec<_> = found.iter().map(|b| b["capacity_revision"].as_u64()).collect();
            assert_eq!(revisions, [Some(revision), Some(revision), Some(0)]);
            assert_eq!((&found[0]["capacity_bytes"], &found[0]["entries"]), (&json!(1 << 30), &json!([])));
            assert_eq!(found[1]["seq"], (revision - 1) * 3 + 2);
        }
    }
}
