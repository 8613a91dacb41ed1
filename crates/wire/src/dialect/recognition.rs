//! Which dialect a connection speaks, from its messages.
//!
//! A client begins with a request for the chunk size. Its id differs between dialects. But the sockets of a running
//! client reconnect by themselves after a restart of the server, and go on with whatever comes next; the numbers of
//! their requests go on too. So each message narrows the dialects down to those in which it has its form: count and
//! types of payloads.
//!
//! An answer of another type than expected ends the message loop of a client before 0.5.3. Where a message means two
//! things, it is read as the one whose answer both understand.

use bytes::Bytes;

use super::Dialect;
use crate::msgpack::{Kind, Reader};
use crate::operation::Operation;

/// The dialects to choose between, the likeliest first. 0.5.7 is not among them: its ids are those of 0.5.3, and it
/// shows itself by names and fields of its own.
const BY_ID: [Dialect; 5] =
    [Dialect::V0_5_3, Dialect::V0_5_0, Dialect::V0_4_7, Dialect::V0_4_6, Dialect::V0_4_3];

/// Some of [`BY_ID`], by position.
type Dialects = [bool; BY_ID.len()];

/// What is known of the dialect of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognition {
    /// Those that all messages so far fit, in the order of [`BY_ID`].
    possible: Dialects,
    chosen: Dialect,
    /// A request for the chunk size has come.
    is_opened: bool,
    /// Some message has come.
    is_begun: bool,
    /// Its number was not that of a client's first request.
    is_resumed: bool,
    /// The last request that was read as [`Operation::EndSession`] and may have been a status query.
    unsure: Option<Bytes>,
}

impl Default for Recognition {
    fn default() -> Self {
        Self {
            possible: [true; BY_ID.len()],
            chosen: Dialect::default(),
            is_opened: false,
            is_begun: false,
            is_resumed: false,
            unsure: None,
        }
    }
}

impl Recognition {
    /// Takes the next message of the connection into account, and returns in which dialect to read it. `uid` is the
    /// client's number for the request, which begins with 0.
    pub fn observe(&mut self, uid: &[u8], operation: &[u8], payloads: &[Bytes]) -> Dialect {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        if is_first {
            self.is_resumed = number(uid).is_some_and(|uid| uid > 0);
        }
        match number(operation) {
            // The usual case, once it is certain.
            Some(_) if self.is_frozen() => {}
            Some(id) => self.narrow(id, payloads, is_first),
            // Only later clients send names.
            None => self.name(operation),
        }
        self.is_opened |= self.chosen.decode(operation) == Ok(Operation::GetChunkSize);
        self.chosen
    }

    /// Whether the connection goes on where an earlier one was lost: it did not begin as a client's first one does.
    pub fn is_resumed(&self) -> bool {
        !self.is_opened
    }

    /// The ids are those that do not change any more.
    fn is_frozen(&self) -> bool {
        self.possible == [true, false, false, false, false] || self.chosen == Dialect::V0_5_7
    }

    fn name(&mut self, operation: &[u8]) {
        match Operation::decode(operation) {
            Ok(Operation::NegotiateChunkSize | Operation::ServerModuleAffinityCall) => {
                self.chosen = Dialect::V0_5_7;
            }
            Ok(_) if self.chosen != Dialect::V0_5_7 => self.choose([true, false, false, false, false]),
            _ => {}
        }
    }

    fn narrow(&mut self, id: u32, payloads: &[Bytes], is_first: bool) {
        let fitting =
            BY_ID.map(|dialect| dialect.operation(id).is_some_and(|op| fits(op, dialect, payloads)));
        let mut left: Dialects = std::array::from_fn(|at| self.possible[at] && fitting[at]);
        if left.iter().all(|possible| !possible) {
            // An earlier message was malformed, or this one is.
            left = fitting;
        }
        if left.iter().all(|possible| !possible) {
            return;
        }
        let reads = |at: usize, operation| BY_ID[at].operation(id) == Some(operation);
        let only = |operation| std::array::from_fn(|at| left[at] && reads(at, operation));
        let (asking, pinging) = (only(Operation::GetChunkSize), only(Operation::Ping));
        let (ending, querying) = (only(Operation::EndSession), only(Operation::QueryPrefetchStatus));
        if some(asking) && is_first && !self.is_resumed {
            // What a client does first.
            self.possible = left;
            self.set_chosen(likeliest(asking));
        } else if some(pinging) && (self.is_resumed || asking[self.place()]) {
            // A client asks for the size once, at its start. And what may be a heartbeat must not clear all of L1.
            self.choose(pinging);
        } else if self.is_resumed && some(ending) && some(querying) {
            self.end_or_query(left, querying, payloads);
        } else {
            self.choose(left);
        }
    }

    /// A message that ends a session in one dialect and asks for a status in another. No result means "done" to the one
    /// and "pending" to the other, which then asks for the same again.
    fn end_or_query(&mut self, possible: Dialects, querying: Dialects, payloads: &[Bytes]) {
        let request = payloads.first().cloned();
        if request.is_some() && self.unsure == request {
            return self.choose(querying);
        }
        self.unsure = request;
        self.possible = possible;
        self.set_chosen(Dialect::V0_4_7);
    }

    /// The position of the dialect in use.
    fn place(&self) -> usize {
        BY_ID.iter().position(|dialect| *dialect == self.chosen).unwrap_or(0)
    }

    /// Keeps to the dialect in use, if it is still possible.
    fn choose(&mut self, possible: Dialects) {
        self.possible = possible;
        if !self.is_opened || !possible[self.place()] {
            self.set_chosen(likeliest(possible));
        }
    }

    fn set_chosen(&mut self, dialect: Dialect) {
        if self.chosen != dialect {
            self.chosen = dialect;
            self.is_opened = false;
        }
    }
}

fn some(dialects: Dialects) -> bool {
    dialects.into_iter().any(|is| is)
}

/// The likeliest of some dialects.
fn likeliest(dialects: Dialects) -> Dialect {
    let mut some = BY_ID.into_iter().zip(dialects).filter(|(_, is)| *is);
    some.next().map_or(Dialect::default(), |(dialect, _)| dialect)
}

fn number(frame: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(frame);
    if reader.kind("number").ok()? != Kind::Int {
        return None;
    }
    u32::try_from(reader.int("number").ok()?).ok()
}

/// What a payload frame holds, as far as its first bytes show it.
#[derive(Clone, Copy, Debug)]
enum Form {
    Int,
    IntOrNil,
    Bool,
    Number,
    Text,
    Bytes,
    List,
    Map,
    /// A cache key with a worker in it.
    WorkerKey,
    /// A cache key without one.
    SchedulerKey,
}

impl Form {
    fn matches(self, frame: &[u8]) -> bool {
        let kind = frame.first().map(|first| Kind::of(*first));
        match self {
            Self::Int => kind == Some(Kind::Int),
            Self::IntOrNil => matches!(kind, Some(Kind::Int | Kind::Nil)),
            Self::Bool => kind == Some(Kind::Bool),
            Self::Number => matches!(kind, Some(Kind::Int | Kind::Float)),
            Self::Text => kind == Some(Kind::Str),
            Self::Bytes => kind == Some(Kind::Bin),
            Self::List => kind == Some(Kind::Array),
            Self::Map => kind == Some(Kind::Map),
            Self::WorkerKey => names_worker(frame) == Some(true),
            Self::SchedulerKey => names_worker(frame) == Some(false),
        }
    }
}

/// Whether a key is that of a worker, not of a scheduler. Reads the fields before the tokens only.
fn names_worker(frame: &[u8]) -> Option<bool> {
    let mut reader = Reader::new(frame);
    for _ in 0..reader.map("key").ok()? {
        match reader.str("key").ok()? {
            "worker_id" => return Some(!reader.nil()),
            "token_ids" | "token_bytes" => return None,
            _ => reader.skip("key").ok()?,
        }
    }
    None
}

/// Whether a request of these payloads can be meant. Only operations with ids that have moved are distinguished.
fn fits(operation: Operation, dialect: Dialect, payloads: &[Bytes]) -> bool {
    use Form::{Bool, Bytes, Int, IntOrNil, List, Map, Number, SchedulerKey, Text, WorkerKey};
    use Operation as Op;
    let is_frozen = dialect == Dialect::V0_5_3;
    let forms: &[&[Form]] = match operation {
        Op::Store => &[&[WorkerKey, Int, List, Bytes]],
        Op::Retrieve => &[&[WorkerKey, Int, List, Bytes, Int]],
        Op::Lookup => &[&[Map, Int]],
        Op::FreeLookupLocks => &[&[SchedulerKey, Int], &[SchedulerKey, Int, List]],
        Op::PrepareStore if is_frozen => &[&[WorkerKey, Int], &[WorkerKey, Int, List]],
        Op::PrepareStore | Op::PrepareRetrieve | Op::CommitRetrieve => &[&[WorkerKey, Int]],
        Op::CommitStore => &[&[WorkerKey, Int, Bytes]],
        Op::QueryPrefetchStatus | Op::QueryPrefetchLookupHits | Op::EndSession => &[&[Text]],
        Op::WaitPrefetchStatus => &[&[Text, Number]],
        Op::RegisterEngineDriven => &[&[Map]],
        Op::UnregisterEngineDriven | Op::UnregisterQCache => &[&[Int]],
        Op::RegisterQCache => &[&[Int, List, Text, Int, Text, Map, List]],
        Op::StoreQ => &[&[WorkerKey, Int, List, Bytes]],
        Op::Clear if is_frozen => &[&[], &[Bool]],
        Op::Clear | Op::GetChunkSize | Op::Noop => &[&[]],
        Op::Ping if dialect.has_process_ids() => &[&[]],
        Op::Ping => &[&[IntOrNil]],
        Op::ReportBlockAllocation => &[&[Int, Text, List]],
        // The same in all dialects, or without an old one's id.
        _ => return true,
    };
    forms.iter().any(|form| {
        form.len() == payloads.len() && form.iter().zip(payloads).all(|(form, frame)| form.matches(frame))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msgpack::Writer;

    fn frame(write: impl FnOnce(&mut Writer)) -> Bytes {
        let mut writer = Writer::new();
        write(&mut writer);
        writer.into_bytes()
    }

    fn key(worker: Option<u64>) -> Bytes {
        frame(|writer| {
            writer.map(2);
            writer.str("model_name");
            writer.str("m");
            writer.str("worker_id");
            match worker {
                Some(worker) => writer.uint(worker),
                None => writer.nil(),
            }
        })
    }

    fn int(value: u64) -> Bytes {
        frame(|writer| writer.uint(value))
    }

    fn text() -> Bytes {
        frame(|writer| writer.str("r"))
    }

    /// What the last of these messages was read as, and in which dialect.
    fn observed(messages: &[(u64, &[Bytes])]) -> (Dialect, Option<Operation>) {
        observed_from(0, messages)
    }

    /// The same, of requests with numbers that begin with another one.
    fn observed_from(uid: u64, messages: &[(u64, &[Bytes])]) -> (Dialect, Option<Operation>) {
        let mut recognition = Recognition::default();
        let mut last = (Dialect::default(), None);
        for (uid, (id, payloads)) in (uid..).zip(messages) {
            let dialect = recognition.observe(&int(uid), &int(*id), payloads);
            last = (dialect, dialect.operation(*id as u32));
        }
        last
    }

    #[test]
    fn the_first_request_for_the_chunk_size_tells_the_dialect() {
        let dialects = [
            (11, Dialect::V0_4_3),
            (16, Dialect::V0_4_6),
            (17, Dialect::V0_4_7),
            (18, Dialect::V0_5_0),
            (21, Dialect::V0_5_3),
        ];
        for (id, dialect) in dialects {
            assert_eq!(observed(&[(id, &[])]), (dialect, Some(Operation::GetChunkSize)));
            let mut recognition = Recognition::default();
            recognition.observe(b"\0", &int(id), &[]);
            assert!(!recognition.is_resumed());
        }
        let mut recognition = Recognition::default();
        let name = frame(|writer| writer.str("negotiate_chunk_size"));
        assert_eq!(recognition.observe(b"\0", &name, &[int(16)]), Dialect::V0_5_7);
        for message in [&int(22)[..], b"\xa4noop", b"\xa1x", b"\xc0"] {
            assert_eq!(recognition.observe(b"\x01", message, &[]), Dialect::V0_5_7, "it stays");
        }
    }

    #[test]
    fn the_dialect_stays_over_a_conversation() {
        let (worker, nil) = (key(Some(0)), frame(Writer::nil));
        let data = frame(|writer| writer.bin(b""));
        let talk: [(u64, &[Bytes]); 6] = [
            (17, &[]),
            (18, &[]),
            (10, &[key(None)]),
            (12, &[worker.clone(), int(1)]),
            (13, &[worker.clone(), int(1), data.clone()]),
            (18, &[]),
        ];
        assert_eq!(observed(&talk), (Dialect::V0_4_7, Some(Operation::Ping)));
        let talk: [(u64, &[Bytes]); 5] = [
            (18, &[]),
            (19, std::slice::from_ref(&nil)),
            (13, &[worker.clone(), int(1)]),
            (17, &[]),
            (18, &[]),
        ];
        assert_eq!(observed(&talk), (Dialect::V0_5_0, Some(Operation::GetChunkSize)));
        let talk: [(u64, &[Bytes]); 4] = [(21, &[]), (22, &[nil]), (16, &[worker, int(1)]), (20, &[])];
        assert_eq!(observed(&talk), (Dialect::V0_5_3, Some(Operation::Clear)));
    }

    #[test]
    fn connections_that_were_resumed_show_their_dialect_by_their_payloads() {
        let (worker, scheduler) = (key(Some(0)), key(None));
        let data = frame(|writer| writer.bin(b""));
        let resumed: [(u64, &[Bytes], Dialect, Operation); 18] = [
            (18, &[], Dialect::V0_4_7, Operation::Ping),
            (17, &[], Dialect::V0_4_6, Operation::Ping),
            (16, &[], Dialect::V0_4_7, Operation::Clear),
            (9, &[text()], Dialect::V0_4_7, Operation::EndSession),
            (5, &[scheduler.clone(), int(1)], Dialect::V0_5_0, Operation::Lookup),
            (6, &[text()], Dialect::V0_5_0, Operation::QueryPrefetchStatus),
            (19, &[int(1)], Dialect::V0_5_0, Operation::Ping),
            (19, &[frame(Writer::nil)], Dialect::V0_5_0, Operation::Ping),
            (12, &[worker.clone(), int(1)], Dialect::V0_4_7, Operation::PrepareStore),
            (13, &[worker.clone(), int(1)], Dialect::V0_5_0, Operation::PrepareStore),
            (10, &[text()], Dialect::V0_5_0, Operation::EndSession),
            (22, &[int(1)], Dialect::V0_5_3, Operation::Ping),
            (22, &[frame(Writer::nil)], Dialect::V0_5_3, Operation::Ping),
            (8, &[scheduler.clone(), int(1)], Dialect::V0_5_3, Operation::Lookup),
            (12, &[scheduler.clone(), int(1)], Dialect::V0_5_3, Operation::FreeLookupLocks),
            (16, &[worker.clone(), int(1)], Dialect::V0_5_3, Operation::PrepareStore),
            (17, &[worker.clone(), int(1), data.clone()], Dialect::V0_5_3, Operation::CommitStore),
            (20, &[], Dialect::V0_5_3, Operation::Clear),
        ];
        for (id, payloads, dialect, operation) in resumed {
            assert_eq!(observed_from(7, &[(id, payloads)]), (dialect, Some(operation)), "{id}");
        }
    }

    #[test]
    fn later_messages_correct_a_guess() {
        let worker = key(Some(0));
        let mut recognition = Recognition::default();
        assert_eq!(
            recognition.observe(b"\0", &int(18), &[]),
            Dialect::V0_5_0,
            "taken for a request for the chunk size"
        );
        assert_eq!(recognition.observe(b"\0", &int(18), &[]), Dialect::V0_4_7, "it pings");
        assert_eq!(recognition.observe(b"\0", &int(18), &[]), Dialect::V0_4_7);
        assert!(recognition.is_resumed());
        let lookups: [(u64, &[Bytes]); 2] = [(5, &[key(None), int(1)]), (9, &[text()])];
        assert_eq!(observed(&lookups), (Dialect::V0_4_7, Some(Operation::EndSession)));
        let clear: [(u64, &[Bytes]); 2] = [(17, &[]), (19, &[int(1)])];
        assert_eq!(observed(&clear), (Dialect::V0_5_0, Some(Operation::Ping)));
        let garbage: [(u64, &[Bytes]); 2] = [(18, &[]), (22, &[frame(Writer::nil)])];
        assert_eq!(observed(&garbage), (Dialect::V0_5_3, Some(Operation::Ping)));
        let release: [(u64, &[Bytes]); 2] = [(12, &[worker, int(1)]), (13, &[text()])];
        assert_eq!(observed(&release), (Dialect::V0_5_3, Some(Operation::EndSession)));
    }

    #[test]
    fn a_status_query_that_is_repeated_is_none_of_a_session_that_ends() {
        let other = [frame(|writer| writer.str("other"))];
        let text = [text()];
        let (query, next) = ((9, &text[..]), (9, &other[..]));
        assert_eq!(observed(&[query]), (Dialect::V0_5_3, Some(Operation::QueryPrefetchStatus)));
        assert_eq!(observed_from(7, &[query, next]), (Dialect::V0_4_7, Some(Operation::EndSession)));
        assert_eq!(
            observed_from(7, &[query, query]),
            (Dialect::V0_5_3, Some(Operation::QueryPrefetchStatus))
        );
        let key = [key(None), int(1)];
        let (lookup, old) = ((8, &key[..]), (5, &key[..]));
        assert_eq!(observed_from(7, &[query, lookup]), (Dialect::V0_5_3, Some(Operation::Lookup)));
        assert_eq!(observed_from(7, &[query, old, (18, &[])]), (Dialect::V0_4_7, Some(Operation::Ping)));
    }

    #[test]
    fn nothing_follows_from_what_fits_no_dialect() {
        let bad: [(u64, &[Bytes]); 3] = [(9999, &[]), (8, &[frame(|writer| writer.array(0))]), (0, &[])];
        for message in bad {
            assert_eq!(observed(&[message]).0, Dialect::V0_5_3);
            assert_eq!(observed(&[(17, &[]), message]).0, Dialect::V0_4_7);
        }
        assert_eq!(names_worker(b"\xdf\xff\xff\xff\xff"), None);
    }
}
