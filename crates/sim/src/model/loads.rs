//! From what was found to loads under way, and what becomes of them.

use std::collections::BTreeSet;

use super::jobs::{Job, Owner, Phase, ShardKey};
use super::{Expected, Io, IoFor, Model, State, Uid, View};
use crate::scenario::Millis;

/// How long the result of I/O that is over is waited for.
pub(crate) const GRACE: Millis = 1000;

/// One object on its way.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) uid: Uid,
    adapter: u32,
    waiters: Vec<(u64, usize, usize)>,
    issued: bool,
    stale_at: Millis,
    pub(crate) grace: Option<Millis>,
}

/// What a reservation came to, to be judged.
#[derive(Clone, Debug, Default)]
pub struct Reserved {
    /// Chunks of the job: none of them makes room for another.
    pub protected: BTreeSet<super::ChunkKey>,
    /// Memory ended: so many pages could not be had. Only if nothing was let go after that.
    pub refused: Option<u64>,
    /// The job wants an exact order.
    pub exact: bool,
    /// What it evicted, with pages.
    pub evicted: Vec<(super::ChunkKey, u64)>,
    /// Its new objects.
    pub new: Vec<Uid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    NoSpace,
    Contended,
}

impl Model {
    /// Plans, takes memory for what is planned as far as the core got it, and begins the loads.
    pub(crate) fn reserve_job(&mut self, seq: u64, view: &View<'_>) {
        self.settle();
        let mut judged = Reserved::default();
        let mut limit = self.jobs[&seq].cells.len();
        let mut barred: Vec<usize> = Vec::new();
        let mut released_late = false;
        let trimmed_afterwards = self.is_trimmed_afterwards(seq, view);
        for round in 0.. {
            let mut job = self.jobs.remove(&seq).expect("it is alive");
            judged.protected = job.chunks.iter().copied().collect();
            judged.exact = job.window.is_none();
            let plan = self.plan(&job, limit, &barred, round > 0);
            for column in 0..job.cells.len() {
                for row in 0..job.ranks.len() {
                    if job.cells[column][row] != ShardKey::Absent && !plan.contains(&(row, column)) {
                        released_late |= round > 0 && !matches!(job.cells[column][row], ShardKey::Loading(_));
                        self.let_go_cell(seq, &mut job, row, column);
                    }
                }
            }
            self.jobs.insert(seq, job);
            self.settle();
            self.drop_displaced(seq, &plan, view);
            if !trimmed_afterwards {
                judged.evicted.extend(self.accept_evictions(view));
            }
            let stop = self.take_planned(seq, &plan, round > 0, view, &mut judged.new);
            self.settle();
            let job = &self.jobs[&seq];
            if stop.is_some_and(|(_, stop)| stop == Stop::NoSpace) && job.ranks.len() == 1 && judged.exact {
                judged.refused = Some(job.bytes.div_ceil(self.scenario.page));
            }
            match stop {
                None => break,
                Some((column, Stop::Contended)) if job.full => barred.push(column),
                Some((column, _)) => limit = column,
            }
        }
        if released_late {
            judged.refused = None;
        }
        let job = self.jobs.get_mut(&seq).expect("it is alive");
        job.phase = Phase::Loading;
        let over = !job.cells.iter().flatten().any(|c| matches!(c, ShardKey::Loading(_)));
        // What it lets go at its end, and what is trimmed then, was not to be had before.
        judged.refused = judged.refused.filter(|_| !over);
        self.reserved.push(judged);
        if over {
            self.finish_job(seq);
        }
    }

    /// Objects in the job's way that nobody can read went by themselves: the rest of their chunks is there.
    fn drop_displaced(&mut self, seq: u64, plan: &BTreeSet<(usize, usize)>, view: &View<'_>) {
        let job = &self.jobs[&seq];
        let gone = self.gone(view);
        let in_the_way = |uid: &Uid| {
            let alloc = &self.allocs[*uid];
            let rest = |u: &Uid| self.allocs[*u].key.chunk == alloc.key.chunk && !gone.contains(u);
            let wanted = plan.iter().any(|(row, column)| job.key(*row, *column) == alloc.key);
            wanted && !job.sizes.contains(&alloc.bytes) && self.in_state(State::Resident).any(|u| rest(&u))
        };
        let displaced: Vec<Uid> = gone.iter().copied().filter(in_the_way).collect();
        displaced.into_iter().for_each(|uid| self.unlink(uid));
    }

    /// Whether what is gone was there as long as the job looked: it has reserved nothing, so it has evicted
    /// nothing, but what it found was all it wanted, and after it had been answered L1 was trimmed.
    fn is_trimmed_afterwards(&self, seq: u64, view: &View<'_>) -> bool {
        let job = &self.jobs[&seq];
        // With several rows or a window memory may have been taken and given back.
        let simple = job.ranks.len() == 1 && job.window.is_none();
        let is_new = |column| {
            let key = job.key(0, column);
            let known = self.linked(key).map(|uid| self.allocs[uid]);
            let known = known.filter(|alloc| alloc.state == State::Staged).map(|a| (a.offset, a.bytes));
            view.object(key, true).is_some_and(|staged| known != Some(staged))
        };
        self.scenario.trim.is_some() && simple && !(0..job.cells.len()).any(is_new)
    }

    /// The cells that the job has a use for.
    fn plan(&self, job: &Job, limit: usize, barred: &[usize], again: bool) -> BTreeSet<(usize, usize)> {
        let has = |row: usize, column: usize| {
            !barred.contains(&column)
                && (self.in_l1(job, row, column, again)
                    || job.found.values().any(|f| f.contains(&(row, column))))
        };
        let columns = 0..limit;
        if job.full {
            let all = columns.flat_map(|c| (0..job.ranks.len()).map(move |r| (r, c)));
            return all.filter(|(r, c)| has(*r, *c)).collect();
        }
        let hit = job.longest(limit, has);
        let needed = super::jobs::needed(job.window, hit);
        needed.flat_map(|c| (0..job.ranks.len()).map(move |r| (r, c as usize))).collect()
    }

    /// Whether L1 serves a cell of a plan.
    fn in_l1(&self, job: &Job, row: usize, column: usize, again: bool) -> bool {
        match job.cells[column][row] {
            ShardKey::L1(uid) | ShardKey::Loaded(uid) => self.allocs[uid].state == State::Resident,
            ShardKey::Absent => again && self.readable(job, row, column).is_some(),
            ShardKey::Loading(_) => false,
        }
    }

    fn take_planned(
        &mut self,
        seq: u64,
        plan: &BTreeSet<(usize, usize)>,
        again: bool,
        view: &View<'_>,
        new: &mut Vec<Uid>,
    ) -> Option<(usize, Stop)> {
        let mut job = self.jobs.remove(&seq).expect("it is alive");
        for &(row, column) in plan {
            if job.cells[column][row] == ShardKey::Absent && self.in_l1(&job, row, column, again) {
                let uid = self.readable(&job, row, column).expect("just seen");
                job.cells[column][row] = ShardKey::L1(uid);
                self.touch(&job.chunks[column..=column]);
            }
        }
        let mut stop = None;
        let mut order: Vec<(usize, usize)> = plan.iter().map(|(row, column)| (*column, *row)).collect();
        order.sort_unstable();
        for (column, row) in order {
            if job.cells[column][row] != ShardKey::Absent {
                continue;
            }
            if let Err(why) = self.take_cell(seq, &mut job, row, column, view, new) {
                // In a later row memory for the earlier ones was taken and given back: which of the two
                // reasons it was cannot be seen.
                let absent = plan
                    .iter()
                    .filter(|(r, c)| *c >= column && job.cells[*c][*r] == ShardKey::Absent)
                    .count();
                match why {
                    _ if job.ranks.len() > 1 || job.window.is_some() => {
                        self.unclear_stops += 1;
                        self.follow_column(&job, row, column, view);
                        // And for other chunks, when a prefix was tried that ends between those tried here.
                        let more = if job.window.is_some() { job.cells.len() } else { 0 };
                        let others = (0..more).filter(|other| *other != column);
                        others.for_each(|column| self.follow_column(&job, 0, column, view));
                    }
                    Stop::NoSpace => self.counters.no_room_objects += absent as u64,
                    Stop::Contended => self.counters.contended_objects += 1,
                }
                let blocked = |row: &usize| self.is_contended(&job, *row, column);
                let why = if (0..job.ranks.len()).any(|row| blocked(&row)) { Stop::Contended } else { why };
                stop = Some((column, why));
                break;
            }
        }
        self.jobs.insert(seq, job);
        stop
    }

    /// What was done for later rows before memory ended or somebody was in the way, as far as it left
    /// traces.
    fn follow_column(&mut self, job: &Job, from: usize, column: usize, view: &View<'_>) {
        for row in from..job.ranks.len() {
            let key = job.key(row, column);
            let stays = matches!(job.owner, Owner::Warm(_)) || self.retains(key);
            let Some(uid) = self.linked(key) else { continue };
            let alloc = self.allocs[uid];
            let staged = alloc.state == State::Staged;
            let there = view.object(key, staged) == Some((alloc.offset, alloc.bytes));
            let stale = self.loads.iter().find(|(_, l)| l.uid == uid && self.now >= l.stale_at);
            match stale.map(|(load, _)| *load) {
                Some(load) if !there => self.give_up_load(load),
                _ if !staged && !there && !job.sizes.contains(&alloc.bytes) => self.unlink(uid),
                _ if there && stays && alloc.temporary && view.stays(key, staged) => _ = self.promote(uid),
                _ => {}
            }
        }
    }

    /// Whether somebody else writes the object, or takes too long to load it.
    fn is_contended(&self, job: &Job, row: usize, column: usize) -> bool {
        let staged = |uid: &Uid| self.allocs[*uid].state == State::Staged;
        let Some(uid) = self.linked(job.key(row, column)).filter(staged) else { return false };
        match self.loads.values().find(|l| l.uid == uid) {
            Some(load) => self.now >= load.stale_at && !load.waiters.is_empty(),
            None => true,
        }
    }

    /// Whether the core has not given up the load of an object whose memory is lent.
    fn is_where_it_was(&self, uid: Uid, view: &View<'_>) -> bool {
        let alloc = &self.allocs[uid];
        view.object(alloc.key, true) == Some((alloc.offset, alloc.bytes))
    }

    fn take_cell(
        &mut self,
        seq: u64,
        job: &mut Job,
        row: usize,
        column: usize,
        view: &View<'_>,
        new: &mut Vec<Uid>,
    ) -> Result<(), Stop> {
        let key = job.key(row, column);
        let stays = matches!(job.owner, Owner::Warm(_)) || self.retains(key);
        if self.is_contended(job, row, column) {
            return Err(Stop::Contended);
        }
        if let Some(uid) = self.linked(key) {
            let load = self.loads.iter().find(|(_, l)| l.uid == uid).map(|(load, _)| *load);
            match load {
                Some(load) if self.now < self.loads[&load].stale_at => {
                    if stays {
                        self.promote(uid);
                    }
                    self.counters.loads_shared += 1;
                    self.loads.get_mut(&load).expect("just seen").waiters.push((seq, row, column));
                    job.cells[column][row] = ShardKey::Loading(load);
                    return Ok(());
                }
                // A shorter prefix than the core tried, perhaps: it never came here then.
                Some(_) if job.window.is_some() && self.is_where_it_was(uid, view) => {
                    return Err(Stop::NoSpace);
                }
                Some(load) => self.give_up_load(load),
                None if job.sizes.contains(&self.allocs[uid].bytes) => {
                    if stays {
                        self.promote(uid);
                    }
                    job.cells[column][row] = ShardKey::L1(uid);
                    self.touch(&job.chunks[column..=column]);
                    return Ok(());
                }
                // Nobody can read it.
                None => self.unlink(uid),
            }
        }
        let Some((offset, bytes)) = view.object(key, true) else { return Err(Stop::NoSpace) };
        assert_eq!(bytes, job.bytes, "reserved with another size");
        let adapter = *job.found.iter().find(|(_, f)| f.contains(&(row, column))).expect("it was planned").0;
        let uid = self.reserve(key, offset, bytes);
        self.allocs[uid].temporary = !stays;
        self.allocs[uid].origin = Some(adapter);
        let load = self.next_seq();
        self.loads.insert(
            load,
            Load {
                uid,
                adapter,
                waiters: vec![(seq, row, column)],
                issued: false,
                stale_at: self.now + self.scenario.l2.load_deadline,
                grace: None,
            },
        );
        job.cells[column][row] = ShardKey::Loading(load);
        new.push(uid);
        Ok(())
    }

    /// Bytes and objects that an adapter has of this kind.
    pub fn lent(&self, adapter: u32, loads: bool) -> (u64, u64) {
        let mine = |io: &&Io| io.adapter == adapter && matches!(io.purpose, IoFor::Load(_)) == loads;
        let ios = self.ios.values().filter(mine);
        ios.fold((0, 0), |(bytes, objects), io| (bytes + self.allocs[io.uid].bytes, objects + 1))
    }

    /// Loads are handed out, as far as the limits allow.
    pub(crate) fn issue_loads(&mut self) {
        let mut cleared = Vec::new();
        for adapter in 0..self.scenario.l2.adapters.len() as u32 {
            let mut ios = Vec::new();
            let queued: Vec<u64> = self
                .loads
                .iter()
                .filter(|(seq, l)| l.adapter == adapter && !l.issued && !cleared.contains(*seq))
                .map(|(seq, _)| *seq)
                .collect();
            for seq in queued {
                let uid = self.loads[&seq].uid;
                let (lent, _) = self.lent(adapter, true);
                if lent > 0 && lent.saturating_add(self.allocs[uid].bytes) > self.scenario.l2.load_bytes {
                    break;
                }
                if self.allocs[uid].state != State::Staged {
                    cleared.push(seq);
                    continue;
                }
                self.loads.get_mut(&seq).expect("just seen").issued = true;
                ios.push(self.lend(uid, adapter, IoFor::Load(seq)));
            }
            if !ios.is_empty() {
                self.of_adapter[adapter as usize].load_requests += 1;
                self.of_adapter[adapter as usize].load_objects += ios.len() as u64;
                self.expected.push(Expected::Load { adapter, ios });
            }
        }
        cleared.into_iter().for_each(|seq| self.load_ended(seq, false));
        self.settle();
    }

    /// The core's name of some I/O.
    pub fn bind_io(&mut self, seq: u64, id: u64) {
        self.io_ids.insert(id, seq);
    }

    /// The load that some I/O is for, if it is still wanted.
    fn load_of(&self, io: u64) -> Option<u64> {
        let load = self.io_ids.get(&io).and_then(|seq| self.io_purposes.get(seq))?;
        match load {
            IoFor::Load(load) => self.loads.contains_key(load).then_some(*load),
            IoFor::Store(_) => None,
        }
    }

    /// An adapter says how a load went.
    pub fn l2_loaded(&mut self, io: u64, ok: bool) {
        if let Some(load) = self.load_of(io) {
            self.load_ended(load, ok);
        }
    }

    pub(crate) fn load_ended(&mut self, seq: u64, ok: bool) {
        let load = self.loads.remove(&seq).expect("it is alive");
        let counters = &mut self.of_adapter[load.adapter as usize];
        counters.loaded_objects += u64::from(ok);
        counters.loaded_bytes += if ok { self.allocs[load.uid].bytes } else { 0 };
        counters.load_failed_objects += u64::from(!ok);
        let alloc = &mut self.allocs[load.uid];
        let wanted = !alloc.temporary || load.waiters.iter().any(|(job, ..)| self.jobs[job].shares > 0);
        let admitted = ok && alloc.state == State::Staged && wanted;
        alloc.state = if admitted { State::Resident } else { State::Unlinked };
        for (job, row, column) in &load.waiters {
            self.counters.missing_objects += u64::from(!admitted);
            let waiting = self.jobs.get_mut(job).expect("jobs leave their loads");
            waiting.cells[*column][*row] =
                if admitted { ShardKey::Loaded(load.uid) } else { ShardKey::Absent };
        }
        for (job, ..) in load.waiters {
            if !self.jobs[&job].cells.iter().flatten().any(|c| matches!(c, ShardKey::Loading(_))) {
                self.finish_job(job);
            }
        }
        self.settle();
    }

    pub(crate) fn load_io_ended(&mut self, load: u64) {
        let grace = self.now + GRACE;
        if let Some(load) = self.loads.get_mut(&load) {
            load.grace = Some(grace);
        }
    }

    /// A job no longer wants what a load brings.
    pub(crate) fn leave_load(&mut self, seq: u64, job: u64) {
        let Some(load) = self.loads.get_mut(&seq) else { return };
        load.waiters.retain(|(j, ..)| *j != job);
        let orphan = load.waiters.is_empty();
        if orphan && (!load.issued || self.allocs[load.uid].temporary) {
            self.give_up_load(seq);
        }
    }

    fn give_up_load(&mut self, seq: u64) {
        let load = self.loads.remove(&seq).expect("it is alive");
        assert!(load.waiters.is_empty(), "somebody waits for it");
        self.unlink(load.uid);
    }

    /// A worker wants to store what is being loaded. Says whether the load has made way.
    pub(crate) fn orphan_of(&self, uid: Uid) -> bool {
        self.loads.values().any(|l| l.uid == uid && l.waiters.is_empty())
    }

    /// A load makes way for a worker's store.
    pub fn displace(&mut self, uid: Uid) {
        let seq = self.loads.iter().find(|(_, l)| l.uid == uid).map(|(seq, _)| *seq);
        match seq {
            Some(seq) => self.give_up_load(seq),
            None => self.unlink(uid),
        }
    }
}
