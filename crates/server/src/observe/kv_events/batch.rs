//! From the core's records to the events that a subscriber reads.

use larder_core::stats::events::{ChunkEvent, Page, Tier};
use larder_wire::ops::subscribe_kv_events::{Event, EventKind, MEDIUM_CPU, MEDIUM_STORAGE};

use super::bindings::Bindings;

/// Hashes that one event names at most.
const HASHES_MAX: usize = 1024;

/// Tokens in one batch, unless a single chunk has more: a megabyte or so on the wire.
const TOKENS_MAX: usize = 1 << 18;

/// The contents of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Events {
    /// The events.
    pub(super) events: Vec<Event>,
    /// The last record that is in them or was passed over.
    pub(super) next_cursor: u64,
    /// Stored chunks that were passed over because their tokens are not known.
    pub(super) unbound: u64,
}

/// The events of `model` in a page, at most `events_max`.
///
/// A chunk stored in memory is one event, with its tokens. Neighbouring records of any other kind have only hashes and
/// become one event.
pub(super) fn events(page: &Page<ChunkEvent>, model: &str, events_max: usize, bindings: &Bindings) -> Events {
    let mut out = Events { next_cursor: page.next_cursor, ..Events::default() };
    let mut tokens = 0;
    // Two removals of one chunk must not join across a record that was passed over.
    let mut joins = true;
    // Where reading goes on if the batch is full before the page is read.
    let mut before = page.records.first().map_or(page.next_cursor, |(seq, _)| seq - 1);
    for (seq, record) in &page.records {
        let passed = std::mem::replace(&mut before, *seq);
        if *record.model != *model {
            continue;
        }
        let kind = if record.visible { EventKind::Stored } else { EventKind::Removed };
        let (medium, with_tokens) = match record.tier {
            Tier::L1 => (MEDIUM_CPU, record.visible),
            Tier::L2(_) => (MEDIUM_STORAGE, false),
        };
        let binding = bindings.get(&record.hash).filter(|_| with_tokens);
        if with_tokens && binding.is_none() {
            out.unbound += 1;
            joins = false;
            continue;
        }
        if let Some(last) = out.events.last_mut().filter(|_| joins && !with_tokens)
            && (last.kind, &*last.medium) == (kind, medium)
            && last.block_hashes.len() < HASHES_MAX
        {
            last.block_hashes.push(record.hash);
            last.seq = *seq;
            continue;
        }
        let more = binding.map_or(0, |binding| binding.tokens.len());
        if out.events.len() == events_max || (tokens > 0 && tokens + more > TOKENS_MAX) {
            out.next_cursor = passed;
            break;
        }
        tokens += more;
        joins = true;
        out.events.push(Event {
            seq: *seq,
            kind,
            medium: medium.into(),
            model_name: record.model.clone(),
            block_hashes: vec![record.hash],
            parent_block_hash: binding.and_then(|binding| binding.parent),
            tokens: binding.map_or_else(Vec::new, |binding| binding.tokens.to_vec()).into(),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use larder_types::ids::AdapterId;
    use larder_types::object::ChunkHash;

    use super::*;

    const L2: Tier = Tier::L2(AdapterId(0));

    fn hash(i: u8) -> ChunkHash {
        ChunkHash::new(&[i]).expect("one byte")
    }

    /// Records with numbers from 11 on.
    fn page(records: &[(Tier, bool, &str, u8)]) -> Page<ChunkEvent> {
        let record = |(tier, visible, model, i): &(Tier, bool, &str, u8)| ChunkEvent {
            tier: *tier,
            visible: *visible,
            model: (*model).into(),
            hash: hash(*i),
        };
        let records: Vec<_> = (11..).zip(records.iter().map(record)).collect();
        let next_cursor = records.last().map_or(10, |(seq, _)| *seq);
        Page { records, next_cursor, lost: false }
    }

    /// Chunks 1 to 9 of two tokens each.
    fn bindings() -> Bindings {
        let mut bindings = Bindings::default();
        let chain: Vec<ChunkHash> = (1..10).map(hash).collect();
        bindings.bind(&chain, &(2..20).collect::<Vec<u32>>(), 2, 0);
        bindings
    }

    /// (number, kind, medium, hashes) of each event.
    fn short(events: &[Event]) -> Vec<(u64, EventKind, &str, usize)> {
        events.iter().map(|e| (e.seq, e.kind, &*e.medium, e.block_hashes.len())).collect()
    }

    #[test]
    fn sends_stored_chunks_one_by_one_with_their_tokens() {
        let page = page(&[(Tier::L1, true, "m", 1), (Tier::L1, true, "other", 7), (Tier::L1, true, "m", 2)]);
        let out = events(&page, "m", 9, &bindings());
        let stored = EventKind::Stored;
        assert_eq!(short(&out.events), [(11, stored, "CPU", 1), (13, stored, "CPU", 1)]);
        assert_eq!((out.events[0].parent_block_hash, &out.events[0].tokens), (None, &vec![2, 3].into()));
        assert_eq!(
            (out.events[1].parent_block_hash, &out.events[1].tokens),
            (Some(hash(1)), &vec![4, 5].into())
        );
        assert_eq!((out.next_cursor, out.unbound), (13, 0));
    }

    #[test]
    fn joins_records_without_tokens() {
        let gone =
            [(Tier::L1, false, "m", 1), (Tier::L1, false, "m", 2), (L2, true, "m", 1), (L2, true, "m", 2)];
        let page = page(&[&gone[..], &[(L2, false, "m", 2), (Tier::L1, false, "m", 3)]].concat());
        let out = events(&page, "m", 9, &Bindings::default());
        let (stored, removed) = (EventKind::Stored, EventKind::Removed);
        let expected = [(12, removed, "CPU", 2), (14, stored, "STORAGE", 2), (15, removed, "STORAGE", 1)];
        assert_eq!(short(&out.events), [&expected[..], &[(16, removed, "CPU", 1)]].concat());
        assert!(out.events.iter().all(|event| event.tokens.is_empty()));
    }

    #[test]
    fn passes_over_chunks_of_unknown_tokens() {
        let page = page(&[(Tier::L1, true, "m", 77), (Tier::L1, true, "m", 1)]);
        let out = events(&page, "m", 9, &bindings());
        assert_eq!((out.events.len(), out.unbound, out.next_cursor), (1, 1, 12));
        let page = page_of_removals();
        let out = events(&page, "m", 9, &Bindings::default());
        assert_eq!(out.events.len(), 2, "no event names a chunk twice");
    }

    fn page_of_removals() -> Page<ChunkEvent> {
        page(&[(Tier::L1, false, "m", 1), (Tier::L1, true, "m", 1), (Tier::L1, false, "m", 1)])
    }

    #[test]
    fn full_batch_continues_where_it_ended() {
        let page = page(&[
            (Tier::L1, true, "m", 1),
            (Tier::L1, false, "m", 1),
            (Tier::L1, false, "m", 2),
            (Tier::L1, true, "other", 3),
            (Tier::L1, true, "m", 4),
        ]);
        let out = events(&page, "m", 2, &bindings());
        assert_eq!((out.events.len(), out.events[1].seq), (2, 13), "the second removal joins the first");
        assert_eq!(out.next_cursor, 14, "what belongs to others is passed over");
        assert_eq!(events(&page, "m", 1, &bindings()).next_cursor, 11);
    }

    #[test]
    fn bounds_a_batch_in_tokens() {
        let chunk = TOKENS_MAX / 2 + 1;
        let mut bindings = Bindings::default();
        bindings.bind(&[hash(1), hash(2)], &vec![5; 2 * chunk], chunk, 0);
        let page = page(&[(Tier::L1, true, "m", 1), (Tier::L1, true, "m", 2)]);
        let out = events(&page, "m", 9, &bindings);
        assert_eq!((out.events.len(), out.next_cursor), (1, 11));
    }
}
