//! Lists all objects for a coordinator that has just registered this server, and may know nothing of it.
//!
//! They are reported as stores, a page at a time, L1 first and then the adapters that can list. A page is read when the
//! whole event log is reported, and sent before later events. So later events correct it, and the coordinator ends with
//! exactly the objects that are there.
//!
//! Each page of L1 holds the core's lock once, shortly.

use std::num::NonZeroUsize;
use std::time::Duration;

use larder_core::stats::events::{Change, ObjectEvent, Tier};
use larder_l2::Cursor;
use larder_types::ids::AdapterId;
use larder_types::object::ObjectKey;
use tokio::time::timeout;

use crate::app::core_handle::CoreHandle;
use crate::l2::L2;

/// Objects of L1 that are looked at under the core's lock at once, and of an adapter's in one listing.
const L1_PAGE: usize = 512;
const L2_PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Objects of one adapter that are reported, at most: a listing reads its directory once for each page.
const L2_OBJECTS_MAX: usize = 1 << 18;

/// An adapter that takes longer to list a page is left out. Heartbeats wait meanwhile.
const L2_PATIENCE: Duration = Duration::from_secs(5);

/// The position in the listing.
#[derive(Debug)]
pub(super) struct Inventory(Place);

#[derive(Debug)]
enum Place {
    /// From this place in memory on.
    L1(u64),
    /// From this cursor of an adapter on, after so many of its objects.
    L2(AdapterId, Option<Cursor>, usize),
}

impl Inventory {
    /// Starts at the first object.
    pub(super) fn new() -> Self {
        Self(Place::L1(0))
    }

    /// The next page, as stores. `None` at the end.
    pub(super) async fn next(&mut self, core: &CoreHandle, l2: &L2) -> Option<Vec<ObjectEvent>> {
        match &mut self.0 {
            Place::L1(from) => {
                let page = core.read(|core, _| core.index().list(*from, L1_PAGE));
                self.0 = page.next.map_or(Place::L2(AdapterId(0), None, 0), Place::L1);
                let there = page.objects.into_iter();
                Some(there.map(|object| stored(Tier::L1, object.key, object.bytes)).collect())
            }
            Place::L2(id, cursor, sent) => {
                let id = *id;
                let (_, adapter) = l2.adapters().nth(id.0 as usize)?;
                let next_adapter = Place::L2(AdapterId(id.0 + 1), None, 0);
                if !adapter.capabilities().list {
                    self.0 = next_adapter;
                    return Some(Vec::new());
                }
                let listing = timeout(L2_PATIENCE, adapter.list(cursor.take(), L2_PAGE)).await;
                let problem = match listing {
                    Ok(Ok(page)) => {
                        let sent = *sent + page.objects.len();
                        let goes_on = page.next.is_some() && sent < L2_OBJECTS_MAX;
                        if page.next.is_some() && !goes_on {
                            tracing::info!(
                                adapter = id.0 + 1,
                                sent,
                                "the coordinator gets no more objects of this adapter"
                            );
                        }
                        self.0 = if goes_on { Place::L2(id, page.next, sent) } else { next_adapter };
                        let there = page.objects.into_iter();
                        let tier = Tier::L2(id);
                        return Some(
                            there.map(|object| stored(tier, object.key, object.stored_bytes)).collect(),
                        );
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer in time".to_owned(),
                };
                tracing::warn!(
                    adapter = id.0 + 1,
                    problem,
                    "the coordinator does not get the objects of this adapter"
                );
                self.0 = next_adapter;
                Some(Vec::new())
            }
        }
    }
}

fn stored(tier: Tier, key: ObjectKey, bytes: u64) -> ObjectEvent {
    ObjectEvent { tier, change: Change::Stored, key, bytes }
}
