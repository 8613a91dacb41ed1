//! L2 as the core sees it: adapters by number, what they are asked for, and what they answer.
//!
//! The core never calls an adapter. It says what is to be done ([`Effect`], from
//! [`Core::take_effects`]) and is told what came of it, in any order, late, or never:
//!
//! ```text
//! Effect::Lookup ----> l2_found            once, or never
//! Effect::Load ------> l2_loaded           once for each item, or never
//! Effect::Store -----> l2_stored           once, or never
//! each item ---------> io_ended            once: its region was dropped, before or after the result
//! ```
//!
//! An object that some I/O works on is *lent*: its memory is not reused, whatever becomes of the
//! object, before [`Core::io_ended`] has been called for every item it was handed out in. Every
//! identifier here is used once, so an answer that comes late means nothing to anybody else.

use larder_policy::AdapterDesc;
use larder_types::AdapterId;

use hashbrown::HashMap;
use larder_types::object::ObjectKey;

use crate::core::Core;
use crate::index::ObjectId;
use crate::prefetch::LookupReport;
use larder_types::time::Time;

/// One lookup at one adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(pub u64);

/// One piece of memory lent to an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(pub u64);

/// One batch of objects to be stored by one adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u64);

/// One object to read from the arena or to write into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoItem {
    /// Names this loan of the memory.
    pub io: IoId,
    /// Names the object.
    pub key: ObjectKey,
    /// Its first byte, from the start of the arena.
    pub offset: u64,
    /// Its exact size.
    pub bytes: u64,
}

/// Something to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask an adapter which objects it has. Answer: [`Core::l2_found`].
    Lookup {
        /// Names the question.
        lookup: LookupId,
        /// Whom to ask.
        adapter: AdapterId,
        /// For what.
        keys: Vec<ObjectKey>,
    },
    /// Have objects loaded. Answer: [`Core::l2_loaded`] for each.
    Load {
        /// By whom.
        adapter: AdapterId,
        /// What, and where to.
        items: Vec<IoItem>,
    },
    /// Have objects stored. Answer: [`Core::l2_stored`].
    Store {
        /// By whom.
        adapter: AdapterId,
        /// Names the batch.
        task: TaskId,
        /// What, and where from.
        items: Vec<IoItem>,
    },
    /// A lookup that had been answered with "pending" has ended: whoever waits should ask again.
    LookupDone(LookupReport),
    /// A warm-up has ended.
    PrefetchDone {
        /// As [`Core::prefetch`] named it.
        id: u64,
    },
}

/// What a piece of lent memory is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Load,
    Store(TaskId),
}

/// Memory that is lent to an adapter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Io {
    pub(crate) object: ObjectId,
    pub(crate) adapter: AdapterId,
    pub(crate) bytes: u64,
    pub(crate) purpose: Purpose,
}

/// All memory that is lent.
pub(crate) type IoTable = HashMap<IoId, Io>;

impl Core {
    /// What is to be done outside, in this order. Also starts what has been waiting, as far as the
    /// limits allow: so call this after every event, before the next one if possible. Costs next
    /// to nothing if there is nothing.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        if !self.adapters.is_empty() {
            self.start_waiting_jobs();
            self.issue_loads();
            self.write_ahead();
            self.issue_stores();
        }
        std::mem::take(&mut self.effects)
    }

    /// The adapters, in the order of their numbers.
    pub fn adapters(&self) -> impl Iterator<Item = (AdapterId, &AdapterDesc)> {
        self.adapters.iter().enumerate().map(|(i, desc)| (AdapterId(i as u32), desc))
    }

    /// Nobody outside touches this piece of memory any more: its region was dropped.
    pub fn io_ended(&mut self, now: Time, io: IoId) {
        self.advance(now);
        let Some(Io { object, adapter, bytes, purpose }) = self.ios.remove(&io) else { return };
        self.index.take_back(object);
        match purpose {
            Purpose::Load => self.load_io_ended(now, io, adapter, bytes),
            Purpose::Store(task) => self.store_io_ended(now, task, adapter, bytes),
        }
    }
}

impl Core {
    /// Recomputes what the books say of L2. For tests.
    pub(crate) fn check_l2(&self) {
        let lent = |adapter: AdapterId, load: bool| {
            let mine = |io: &&Io| io.adapter == adapter && matches!(io.purpose, Purpose::Load) == load;
            let ios = self.ios.values().filter(mine);
            ios.fold((0, 0), |(bytes, objects), io| (bytes + io.bytes, objects + 1))
        };
        self.prefetch.check(&self.sessions);
        self.prefetch.in_flight.check(|adapter| lent(adapter, true));
        self.write_back.check(|adapter| lent(adapter, false));
    }
}

/// The unit to which some adapters pad what they store.
const BLOCK_BYTES: u64 = 4096;

/// Whether `stored` bytes can be an object of `bytes`: exactly that long, or padded to whole blocks.
pub(crate) const fn can_be(stored: u64, bytes: u64) -> bool {
    stored == bytes || (stored > bytes && stored - bytes < BLOCK_BYTES && stored.is_multiple_of(BLOCK_BYTES))
}
