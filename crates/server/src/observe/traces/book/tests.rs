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
fn look_up(book: &mut Book, now: u64, request: &str) {
    book.lookup_begins(at(now), &request.into(), C, vec![("model_name", Value::Word("m"))]);
}

fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name).collect()
}

#[test]
fn a_request_is_a_tree_with_what_its_lookup_found() {
    let mut book = Book::default();
    look_up(&mut book, 10, "r");
    book.lookup_ends(at(12), "r", Ok(vec![("hit_tokens", Value::Count(32))]));
    book.copy_begins(at(13), copy("r", 0), WORKER, Vec::new());
    book.copy_ends(at(17), &copy("r", 0), Ok(vec![("stored_count", Value::Count(2))]));
    book.request_ends(at(20), "r");
    let spans = book.take(9);
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
    assert_eq!((book.take(9), book.dropped()), (vec![], 0));
}

/// vLLM ends a request before its stores are through.
#[test]
fn a_request_waits_for_its_copies_and_is_found_by_those_that_come_late() {
    let mut book = Book::default();
    look_up(&mut book, 1, "r");
    book.lookup_ends(at(2), "r", Ok(Vec::new()));
    book.copy_begins(at(3), copy("r", 0), WORKER, Vec::new());
    book.copy_begins(at(3), copy("r", 8), WORKER, Vec::new());
    book.request_ends(at(4), "r");
    book.copy_ends(at(5), &copy("r", 0), Ok(Vec::new()));
    assert_eq!(names(&book.take(9)), ["mp.lookup_prefetch", "mp.store"]);
    book.copy_ends(at(6), &copy("r", 8), Ok(Vec::new()));
    let spans = book.take(9);
    assert_eq!(names(&spans), ["mp.store", "request"]);
    let root = &spans[1];
    assert_eq!(root.ended, at(6));
    book.copy_begins(at(7), copy("r", 16), WORKER, Vec::new());
    book.copy_ends(at(8), &copy("r", 16), Ok(Vec::new()));
    let late = book.take(9);
    assert_eq!(names(&late), ["mp.store"]);
    assert_eq!((late[0].trace, late[0].parent), (root.trace, Some(root.id)));
    // The same name again is another request.
    look_up(&mut book, 9, "r");
    book.request_ends(at(10), "r");
    let spans = book.take(9);
    assert_eq!((names(&spans), spans[0].error), (vec!["mp.lookup_prefetch", "request"], Some("cancelled")));
    assert_ne!(spans[1].trace, root.trace);
}

#[test]
fn what_a_lost_connection_leaves_behind_ends_with_it() {
    let mut book = Book::default();
    look_up(&mut book, 1, "r");
    book.copy_begins(at(2), copy("r", 0), WORKER, Vec::new());
    book.connection_lost(at(3), WORKER);
    let spans = book.take(9);
    assert_eq!((names(&spans), spans[0].error), (vec!["mp.store"], Some("connection lost")));
    book.connection_lost(at(4), C);
    let spans = book.take(9);
    assert_eq!(names(&spans), ["mp.lookup_prefetch", "request"]);
    assert!(spans.iter().all(|span| span.error == Some("connection lost") && span.ended == at(4)));
}

#[test]
fn what_nobody_ends_ends_after_a_while() {
    let mut book = Book::default();
    look_up(&mut book, 0, "old");
    book.lookup_ends(at(1), "old", Ok(Vec::new()));
    look_up(&mut book, 60, "new");
    book.copy_begins(at(0), copy("old", 0), WORKER, Vec::new());
    book.copy_begins(at(60), copy("new", 0), WORKER, Vec::new());
    book.take(9);
    book.expire(at(100), Duration::from_nanos(50));
    let spans = book.take(9);
    // The copy's end is a use of the request.
    assert_eq!((names(&spans), spans[0].error), (vec!["mp.store"], Some("nobody has ended it")));
    book.expire(at(150), Duration::from_nanos(50));
    let spans = book.take(9);
    assert_eq!((names(&spans), spans[1].error), (vec!["mp.store", "request"], Some("nobody has ended it")));
    assert_eq!(spans[1].attributes[0].1, Value::Text("old".into()));
    book.expire(at(200), Duration::from_nanos(50));
    assert_eq!(names(&book.take(9)), ["mp.lookup_prefetch", "request"]);
    assert!(book.requests.values().all(|request| matches!(request, Request::Ended(_))));
    assert_eq!((book.copies.len(), book.open), (0, 0));
}

#[test]
fn everything_is_bounded_and_what_is_left_out_counted() {
    let mut book = Book::default();
    (0..=REQUESTS_MAX).for_each(|n| look_up(&mut book, 1, &format!("r{n}")));
    assert_eq!((book.open, book.dropped()), (REQUESTS_MAX, 1));
    for n in 0..=COPIES_MAX {
        book.copy_begins(at(1), copy("r0", n as u32), WORKER, Vec::new());
    }
    assert_eq!((book.copies.len(), book.dropped()), (COPIES_MAX, 2));
    // Each request and its lookup: twice as many spans as may wait, and the copies.
    book.end_all(at(2), "the end");
    assert_eq!(book.waiting(), WAITING_MAX);
    let left_out = (2 * REQUESTS_MAX + COPIES_MAX - WAITING_MAX) as u64;
    assert_eq!(book.dropped(), 2 + left_out);
    assert_eq!((book.requests.len(), book.ended.len()), (ENDED_MAX, ENDED_MAX));
    book.lost(3);
    assert_eq!(book.dropped(), 2 + left_out + 3);
    assert_eq!(book.take(7).len(), 7);
    assert_eq!(book.waiting(), WAITING_MAX - 7);
}

#[test]
fn a_clock_that_is_set_back_makes_no_span_end_before_it_began() {
    let mut book = Book::default();
    look_up(&mut book, 10, "r");
    book.request_ends(at(5), "r");
    assert!(book.take(9).iter().all(|span| (span.began, span.ended) == (at(10), at(10))));
    assert_eq!(at(5).since(at(10)), Duration::ZERO);
}
