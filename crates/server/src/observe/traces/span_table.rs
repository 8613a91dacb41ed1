//! Open spans, and ended ones that wait to be sent. Pure: the caller gives the time.
//!
//! | bound | of | beyond it |
//! |---|---|---|
//! | [`REQUESTS_MAX`] | requests in progress | they are not traced |
//! | [`ENDED_MAX`] | ended requests kept for copies that come later | such a copy begins a request of its own |
//! | [`COPIES_MAX`] | copies in progress | they are not traced |
//! | [`WAITING_MAX`] | ended spans that wait to be sent | they are dropped |
//!
//! Dropped spans are counted.

use larder_types::ConnectionId;
use larder_types::InstanceId;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use larder_core::TransferSpec;

use super::ids::Ids;
use super::{Span, UnixTime, Value};
use crate::observe::event::Direction;

/// Requests in progress.
pub const REQUESTS_MAX: usize = 1 << 14;
/// Ended requests that are kept.
pub const ENDED_MAX: usize = 1 << 12;
/// Copies in progress.
pub const COPIES_MAX: usize = 1 << 13;
/// Ended spans that wait to be sent.
pub const WAITING_MAX: usize = 1 << 14;

/// The attributes of a finished span, or why it did not finish.
pub(super) type Outcome = Result<Attributes, &'static str>;

type Attributes = Vec<(&'static str, Value)>;

/// Which copy: the worker, its request, the first chunk, and which way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CopyKey {
    instance: InstanceId,
    request: Arc<str>,
    start: u32,
    direction: Direction,
}

impl CopyKey {
    pub(super) fn new(direction: Direction, spec: &TransferSpec<'_>) -> Self {
        Self { instance: spec.instance, request: spec.request_id.clone(), start: spec.start, direction }
    }
}

/// The root of a request's spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Root {
    trace: [u8; 16],
    id: [u8; 8],
}

/// The begin of a span.
#[derive(Debug)]
struct Begun {
    at: UnixTime,
    connection: ConnectionId,
    attributes: Attributes,
}

#[derive(Debug)]
enum Request {
    Open(OpenRequest),
    Ended(Root),
}

/// A request in progress.
#[derive(Debug)]
struct OpenRequest {
    root: Root,
    begun: Begun,
    used: UnixTime,
    lookup: Option<Begun>,
    /// Copies in progress.
    copies: u32,
    /// It has ended, except for its copies.
    is_over: bool,
}

#[derive(Debug)]
struct Copy {
    root: Root,
    begun: Begun,
}

/// The spans of all requests.
#[derive(Debug, Default)]
pub(super) struct SpanTable {
    ids: Ids,
    requests: HashMap<Arc<str>, Request>,
    open: usize,
    /// Ended requests, the first to end first.
    ended: VecDeque<(Arc<str>, Root)>,
    copies: HashMap<CopyKey, Copy>,
    waiting: VecDeque<Span>,
    dropped: u64,
}

impl SpanTable {
    pub(super) fn lookup_begins(
        &mut self,
        at: UnixTime,
        request: &Arc<str>,
        connection: ConnectionId,
        attributes: Attributes,
    ) {
        // A lookup after the end begins another request of the same id.
        let is_open = matches!(self.requests.get(request), Some(Request::Open(_)));
        if !is_open && self.open_request(at, request, connection).is_none() {
            return;
        }
        if let Some(Request::Open(open)) = self.requests.get_mut(request) {
            open.used = at;
            open.lookup = Some(Begun { at, connection, attributes });
        }
    }

    pub(super) fn lookup_ends(&mut self, now: UnixTime, request: &str, outcome: Outcome) {
        let Some((name, open)) = self.open_mut(request) else { return };
        open.used = now;
        let Some(begun) = open.lookup.take() else { return };
        if let Ok(attributes) = &outcome {
            // A request has the attributes of its last lookup.
            open.begun.attributes.clone_from(attributes);
        }
        let root = open.root;
        self.end_child(now, "mp.lookup_prefetch", &name, root, begun, outcome);
    }

    pub(super) fn copy_begins(
        &mut self,
        at: UnixTime,
        key: CopyKey,
        connection: ConnectionId,
        attributes: Attributes,
    ) {
        if self.copies.len() >= COPIES_MAX && !self.copies.contains_key(&key) {
            self.dropped += 1;
            return;
        }
        let known = match self.requests.get(&key.request) {
            Some(Request::Open(open)) => Some(open.root),
            Some(Request::Ended(root)) => Some(*root),
            None => None,
        };
        let Some(root) = known.or_else(|| self.open_request(at, &key.request, connection)) else { return };
        let request = key.request.clone();
        let before = self.copies.insert(key, Copy { root, begun: Begun { at, connection, attributes } });
        let again = before.is_some_and(|before| before.root == root);
        if let Some((_, open)) = self.open_mut(&request) {
            open.used = at;
            open.copies += u32::from(!again);
        }
    }

    pub(super) fn copy_ends(&mut self, now: UnixTime, key: &CopyKey, outcome: Outcome) {
        let Some(Copy { root, begun }) = self.copies.remove(key) else { return };
        let name = match key.direction {
            Direction::Store => "mp.store",
            Direction::Retrieve => "mp.retrieve",
        };
        self.end_child(now, name, &key.request, root, begun, outcome);
        let Some((_, open)) = self.open_mut(&key.request).filter(|(_, open)| open.root == root) else {
            return;
        };
        open.used = now;
        open.copies -= 1;
        if open.is_over && open.copies == 0 {
            self.end_request(now, &key.request.clone(), None);
        }
    }

    pub(super) fn request_ends(&mut self, now: UnixTime, request: &str) {
        let Some((name, open)) = self.open_mut(request) else { return };
        open.is_over = true;
        if open.copies == 0 {
            self.end_request(now, &name, None);
        }
    }

    pub(super) fn connection_lost(&mut self, now: UnixTime, connection: ConnectionId) {
        self.end_where(now, "connection lost", |_, begun| begun.connection == connection);
    }

    pub(super) fn expire(&mut self, now: UnixTime, unused: Duration) {
        self.end_where(now, "not ended in time", |used, _| now.since(used) >= unused);
    }

    pub(super) fn end_all(&mut self, now: UnixTime, why: &'static str) {
        self.end_where(now, why, |_, _| true);
    }

    /// Ends the copies and requests that `which` selects by their last use and their begin.
    fn end_where(&mut self, now: UnixTime, why: &'static str, which: impl Fn(UnixTime, &Begun) -> bool) {
        let copies = self.copies.iter().filter(|(_, copy)| which(copy.begun.at, &copy.begun));
        let copies: Vec<CopyKey> = copies.map(|(key, _)| key.clone()).collect();
        copies.iter().for_each(|key| self.copy_ends(now, key, Err(why)));
        let requests = self.requests.iter().filter_map(|(name, request)| match request {
            Request::Open(open) => which(open.used, &open.begun).then(|| name.clone()),
            Request::Ended(_) => None,
        });
        let requests: Vec<Arc<str>> = requests.collect();
        requests.iter().for_each(|name| self.end_request(now, name, Some(why)));
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn take(&mut self, spans_max: usize) -> Vec<Span> {
        let count = spans_max.min(self.waiting.len());
        self.waiting.drain(..count).collect()
    }

    pub(super) fn lost(&mut self, spans: u64) {
        self.dropped += spans;
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn open_request(&mut self, at: UnixTime, name: &Arc<str>, connection: ConnectionId) -> Option<Root> {
        if self.open >= REQUESTS_MAX {
            self.dropped += 1;
            return None;
        }
        let root = Root { trace: self.ids.trace(), id: self.ids.span() };
        let begun = Begun { at, connection, attributes: Vec::new() };
        let open = OpenRequest { root, begun, used: at, lookup: None, copies: 0, is_over: false };
        self.open += 1;
        self.requests.insert(name.clone(), Request::Open(open));
        Some(root)
    }

    fn open_mut(&mut self, request: &str) -> Option<(Arc<str>, &mut OpenRequest)> {
        let name = self.requests.get_key_value(request)?.0.clone();
        match self.requests.get_mut(request)? {
            Request::Open(open) => Some((name, open)),
            Request::Ended(_) => None,
        }
    }

    /// Ends an open request, and its lookup with it. Copies in progress still find its root.
    fn end_request(&mut self, now: UnixTime, name: &Arc<str>, error: Option<&'static str>) {
        let Some(Request::Open(open)) = self.requests.remove(name) else { return };
        let OpenRequest { root, begun, lookup, .. } = open;
        self.open -= 1;
        if let Some(lookup) = lookup {
            self.end_child(now, "mp.lookup_prefetch", name, root, lookup, Err(error.unwrap_or("cancelled")));
        }
        self.push(now, "request", name, (root.trace, root.id, None), begun, error);
        self.requests.insert(name.clone(), Request::Ended(root));
        self.ended.push_back((name.clone(), root));
        if self.ended.len() > ENDED_MAX
            && let Some((name, root)) = self.ended.pop_front()
            && matches!(self.requests.get(&name), Some(Request::Ended(last)) if *last == root)
        {
            self.requests.remove(&name);
        }
    }

    fn end_child(
        &mut self,
        now: UnixTime,
        what: &'static str,
        request: &Arc<str>,
        root: Root,
        mut begun: Begun,
        outcome: Outcome,
    ) {
        let error = outcome.as_ref().err().copied();
        begun.attributes.extend(outcome.unwrap_or_default());
        let id = self.ids.span();
        self.push(now, what, request, (root.trace, id, Some(root.id)), begun, error);
    }

    fn push(
        &mut self,
        now: UnixTime,
        name: &'static str,
        request: &Arc<str>,
        (trace, id, parent): ([u8; 16], [u8; 8], Option<[u8; 8]>),
        begun: Begun,
        error: Option<&'static str>,
    ) {
        if self.waiting.len() >= WAITING_MAX {
            self.dropped += 1;
            return;
        }
        let mut attributes = vec![("session_id", Value::Text(request.clone()))];
        attributes.extend(begun.attributes);
        let (began, ended) = (begun.at, now.max(begun.at));
        self.waiting.push_back(Span { trace, id, parent, name, began, ended, attributes, error });
    }
}

#[cfg(test)]
mod tests;
