use super::*;

const C: ConnectionId = ConnectionId(1);
const WORKER: ConnectionId = ConnectionId(2);

fn at(n: u64) -> UnixTime {
    UnixTime(n)
}

fn copy(request: &str, start: u32) -> CopyKey {
    CopyKey { instance: InstanceId(7), request: request.into(), start, direction: Direction::Store }
}

/// Begins a request, as every lookup does.
fn look_up(table: &mut SpanTable, now: u64, request: &str) {
    table.lookup_begins(at(now), &request.into(), C, vec![("model_name", Value::Word("m"))]);
}

fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name).collect()
}

#[test]
fn request_is_a_tree_with_the_hit_of_its_lookup() {
    let mut table = SpanTable::default();
    look_up(&mut table, 10, "r");
    table.lookup_ends(at(12), "r", Ok(vec![("hit_tokens", Value::Count(32))]));
    table.copy_begins(at(13), copy("r", 0), WORKER, Vec::new());
    table.copy_ends(at(17), &copy("r", 0), Ok(vec![("stored_count", Value::Count(2))]));
    table.request_ends(at(20), "r");
    let spans = table.take(9);
    assert_eq!(names(&spans), ["mp.lookup_prefetch", "mp.store", "request"]);
    let root = &spans[2];
    assert_eq!((root.parent, root.began, root.ended, root.error), (None, at(10), at(20), None));
    let id = ("session_id", Value::Text("r".into()));
    assert_eq!(root.attributes, [id.clone(), ("hit_tokens", Value::Count(32))]);
    for child in &spans[..2] {
        assert_eq!((child.trace, child.parent), (root.trace, Some(root.id)));
        assert_eq!((&child.attributes[0], child.error), (&id, None));
    }
    assert_eq!((spans[0].began, spans[0].ended), (at(10), at(12)));
    assert_eq!((spans[1].began, spans[1].ended), (at(13), at(17)));
    let ids = [spans[0].id, spans[1].id, root.id];
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    assert_eq!((table.take(9), table.dropped()), (vec![], 0));
}

/// vLLM ends a request before its stores are through.
#[test]
fn request_ends_after_its_copies_and_is_the_parent_of_late_ones() {
    let mut table = SpanTable::default();
    look_up(&mut table, 1, "r");
    table.lookup_ends(at(2), "r", Ok(Vec::new()));
    table.copy_begins(at(3), copy("r", 0), WORKER, Vec::new());
    table.copy_begins(at(3), copy("r", 8), WORKER, Vec::new());
    table.request_ends(at(4), "r");
    table.copy_ends(at(5), &copy("r", 0), Ok(Vec::new()));
    assert_eq!(names(&table.take(9)), ["mp.lookup_prefetch", "mp.store"]);
    table.copy_ends(at(6), &copy("r", 8), Ok(Vec::new()));
    let spans = table.take(9);
    assert_eq!(names(&spans), ["mp.store", "request"]);
    let root = &spans[1];
    assert_eq!(root.ended, at(6));
    table.copy_begins(at(7), copy("r", 16), WORKER, Vec::new());
    table.copy_ends(at(8), &copy("r", 16), Ok(Vec::new()));
    let late = table.take(9);
    assert_eq!(names(&late), ["mp.store"]);
    assert_eq!((late[0].trace, late[0].parent), (root.trace, Some(root.id)));
    // The same name again is another request.
    look_up(&mut table, 9, "r");
    table.request_ends(at(10), "r");
    let spans = table.take(9);
    assert_eq!((names(&spans), spans[0].error), (vec!["mp.lookup_prefetch", "request"], Some("cancelled")));
    assert_ne!(spans[1].trace, root.trace);
}

#[test]
fn lost_connection_ends_its_spans() {
    let mut table = SpanTable::default();
    look_up(&mut table, 1, "r");
    table.copy_begins(at(2), copy("r", 0), WORKER, Vec::new());
    table.connection_lost(at(3), WORKER);
    let spans = table.take(9);
    assert_eq!((names(&spans), spans[0].error), (vec!["mp.store"], Some("connection lost")));
    table.connection_lost(at(4), C);
    let spans = table.take(9);
    assert_eq!(names(&spans), ["mp.lookup_prefetch", "request"]);
    assert!(spans.iter().all(|span| span.error == Some("connection lost") && span.ended == at(4)));
}

#[test]
fn spans_without_an_end_expire() {
    let mut table = SpanTable::default();
    look_up(&mut table, 0, "old");
    table.lookup_ends(at(1), "old", Ok(Vec::new()));
    look_up(&mut table, 60, "new");
    table.copy_begins(at(0), copy("old", 0), WORKER, Vec::new());
    table.copy_begins(at(60), copy("new", 0), WORKER, Vec::new());
    table.take(9);
    table.expire(at(100), Duration::from_nanos(50));
    let spans = table.take(9);
    // The copy's end is a use of the request.
    assert_eq!((names(&spans), spans[0].error), (vec!["mp.store"], Some("not ended in time")));
    table.expire(at(150), Duration::from_nanos(50));
    let spans = table.take(9);
    assert_eq!((names(&spans), spans[1].error), (vec!["mp.store", "request"], Some("not ended in time")));
    assert_eq!(spans[1].attributes[0].1, Value::Text("old".into()));
    table.expire(at(200), Duration::from_nanos(50));
    assert_eq!(names(&table.take(9)), ["mp.lookup_prefetch", "request"]);
    assert!(table.requests.values().all(|request| matches!(request, Request::Ended(_))));
    assert_eq!((table.copies.len(), table.open), (0, 0));
}

#[test]
fn drops_and_counts_spans_beyond_each_limit() {
    let mut table = SpanTable::default();
    (0..=REQUESTS_MAX).for_each(|n| look_up(&mut table, 1, &format!("r{n}")));
    assert_eq!((table.open, table.dropped()), (REQUESTS_MAX, 1));
    for n in 0..=COPIES_MAX {
        table.copy_begins(at(1), copy("r0", n as u32), WORKER, Vec::new());
    }
    assert_eq!((table.copies.len(), table.dropped()), (COPIES_MAX, 2));
    // Each request and its lookup: twice as many spans as may wait, and the copies.
    table.end_all(at(2), "the end");
    assert_eq!(table.waiting(), WAITING_MAX);
    let left_out = (2 * REQUESTS_MAX + COPIES_MAX - WAITING_MAX) as u64;
    assert_eq!(table.dropped(), 2 + left_out);
    assert_eq!((table.requests.len(), table.ended.len()), (ENDED_MAX, ENDED_MAX));
    table.lost(3);
    assert_eq!(table.dropped(), 2 + left_out + 3);
    assert_eq!(table.take(7).len(), 7);
    assert_eq!(table.waiting(), WAITING_MAX - 7);
}

#[test]
fn no_span_ends_before_it_began_after_a_clock_step() {
    let mut table = SpanTable::default();
    look_up(&mut table, 10, "r");
    table.request_ends(at(5), "r");
    assert!(table.take(9).iter().all(|span| (span.began, span.ended) == (at(10), at(10))));
    assert_eq!(at(5).since(at(10)), Duration::ZERO);
}
