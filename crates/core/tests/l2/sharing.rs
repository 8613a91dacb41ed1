//! C17: requests for the same keys at the same time.

use larder_policy::PrefetchKind;

use crate::driver::Todo;
use crate::rig::{Rig, prompt};

#[test]
fn requests_that_overlap_share_what_they_have_in_common() {
    let mut rig = Rig::simple(32);
    let (short, long) = (prompt(1, 4), prompt(1, 8));
    rig.put_all(0, &long);
    rig.lookup("short", &short, 1);
    rig.answer_lookups();
    rig.lookup("long", &long, 1);
    rig.settle();
    assert_eq!((rig.report("short").chunks, rig.report("long").chunks), (4, 8));
    assert_eq!((rig.loaded(0).len(), rig.used_pages()), (8, 8));
    rig.end("short");
    assert_eq!(rig.resident(&long).len(), 8);
    assert!(rig.read("long", &long, 0, 8));
    rig.end("long");
    rig.assert_idle();
}

#[test]
fn one_goes_away_and_the_other_is_served() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 3);
    rig.put_all(0, &p);
    for request in ["one", "two"] {
        rig.lookup_from(if request == "one" { 7 } else { 8 }, request, &p, 1);
    }
    rig.answer_lookups();
    rig.step(|t| matches!(t, Todo::Load { .. }));
    rig.lose(7);
    rig.settle();
    assert_eq!(rig.report("two").chunks, 3);
    assert_eq!(rig.loaded(0).len(), 3);
    assert!(rig.read("two", &p, 0, 3));
    rig.end("two");
    rig.assert_idle();
}

#[test]
fn a_shared_load_that_fails_fails_for_both() {
    let mut rig = Rig::simple(8);
    let p = prompt(1, 3);
    rig.put_all(0, &p);
    rig.spoil(0, &p, 1);
    rig.lookup("one", &p, 1);
    rig.lookup("two", &p, 1);
    rig.settle();
    assert_eq!((rig.report("one").chunks, rig.report("two").chunks), (1, 1));
    rig.end("one");
    rig.end("two");
    rig.assert_idle();
}

/// An object that was loaded for one request is a hit for the next while anyone holds it.
#[test]
fn objects_pinned_by_another_request_are_a_hit() {
    let mut rig = Rig::new(8, 1, PrefetchKind::Default);
    let p = prompt(1, 2);
    rig.put_all(0, &p);
    rig.hit("one", &p, 1);
    assert_eq!(rig.lookup("two", &p, 1).expect("in L1").chunks, 2);
    rig.end("one");
    assert!(rig.read("two", &p, 0, 2));
    assert_eq!(rig.resident(&p), []);
}
