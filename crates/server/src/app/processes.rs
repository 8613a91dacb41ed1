//! Proof that a worker can write no more.
//!
//! A worker that was frozen, or lost its connection, may still be copying into slots that it was given. Time proves
//! nothing about it. So its memory stays out of use until its process has ended or does not map the arena any more; the
//! core asks for that by [`Effect::CheckProcess`](larder_core::Effect::CheckProcess).
//!
//! Which process uses a connection is found out before it gets its first slots: the one at the other end of a Unix
//! socket, or, on the same machine, those that hold the other end of the TCP connection, if they map the arena. If it has
//! ended by then, it never got any; that is known from the process that was there at the registration. A process that
//! cannot be identified (another machine, another network or PID namespace, no permission, a proxy in between) is gone
//! for certain only if every process can be seen and none but this one maps the arena. What cannot be proven waits for
//! `--late-write-timeout-seconds`.
//!
//! `/proc` is read on threads that may block, without any lock: at those two moments, and while memory waits.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use larder_arena::{Arena, Process};
use larder_types::ConnectionId;
use tokio::runtime::Handle;

use super::core_handle::CoreHandle;

/// The pause before the second check; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often the process of a closed connection is checked at least.
const CHECKS_MIN: u32 = 4;

/// The inode of the first PID namespace, in which all processes are seen.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// What fraction of L1 may wait for late writers before a warning is logged.
const WARN_FRACTION: u64 = 8;

/// A connection, and the processes that use it.
#[derive(Clone, Debug, Default)]
struct User {
    remote: String,
    is_open: bool,
    /// Whether a worker has registered over it.
    has_registered: bool,
    /// The processes that were at its other end then, until the next search. They did not map the arena yet.
    registered_by: Vec<Process>,
    /// Whether the processes have been looked for, or are.
    is_searched: bool,
    /// Whether all processes at its other end had ended before it got slots.
    has_got_none: bool,
    /// Those that map the arena; empty if none could be identified.
    processes: Vec<Process>,
    /// Checks since it waits.
    checks: u32,
}

#[derive(Debug, Default)]
struct Table {
    users: BTreeMap<ConnectionId, User>,
    /// Connections whose processes memory waits for.
    waiting: BTreeSet<ConnectionId>,
    is_running: bool,
    has_warned: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Processes {
    core: Weak<CoreHandle>,
    arena: Arc<Arena>,
    runtime: Handle,
    table: Mutex<Table>,
}

impl Processes {
    /// No connections.
    pub fn new(core: Weak<CoreHandle>, arena: Arc<Arena>, runtime: Handle) -> Self {
        Self { core, arena, runtime, table: Mutex::default() }
    }

    /// A client has connected from `remote`.
    pub fn connected(&self, connection: ConnectionId, remote: &str) {
        let user = User { remote: remote.to_owned(), is_open: true, ..User::default() };
        self.lock().users.insert(connection, user);
    }

    /// A connection is over.
    pub fn connection_lost(self: &Arc<Self>, connection: ConnectionId) {
        let mut table = self.lock();
        let Some(user) = table.users.get_mut(&connection) else { return };
        user.is_open = false;
        if user.is_searched {
            drop(table);
            // What it owned is perhaps still being released.
            self.check(connection);
        } else {
            table.users.remove(&connection);
        }
    }

    /// A worker has registered. Whether the process at the other end is still to be noted: see
    /// [`note_registered`](Self::note_registered).
    pub fn registered(&self, connection: ConnectionId) -> bool {
        let mut table = self.lock();
        let user = table.users.get_mut(&connection);
        user.is_some_and(|user| !std::mem::replace(&mut user.has_registered, true))
    }

    /// Notes the process at the other end of a connection. Blocks while `/proc` is read. To be called before the
    /// registration is answered: until then the worker does not map the arena.
    pub fn note_registered(&self, connection: ConnectionId) {
        let Some(remote) = self.lock().users.get(&connection).map(|user| user.remote.clone()) else { return };
        let found = at_other_end(&remote);
        self.lock().users.entry(connection).and_modify(|user| user.registered_by = found);
    }

    /// A worker is about to get slots. Whether its process is still to be identified: see
    /// [`identify`](Self::identify).
    pub fn transfers(&self, connection: ConnectionId) -> bool {
        let mut table = self.lock();
        let user = table.users.get_mut(&connection);
        user.is_some_and(|user| !std::mem::replace(&mut user.is_searched, true))
    }

    /// Identifies the process that uses a connection. Blocks while `/proc` is read. To be called before the first slots
    /// are answered: until then the process copies nothing.
    pub fn identify(&self, connection: ConnectionId) {
        let Some(user) = self.lock().users.get(&connection).cloned() else { return };
        let mut there = at_other_end(&user.remote);
        let maps = |process: &Process| self.arena.is_mapped_by(process.pid).unwrap_or(false);
        let found: Vec<Process> = there.iter().copied().filter(maps).collect();
        tracing::debug!(connection = connection.0, remote = user.remote, ?found, "processes of a worker");
        there.extend(user.registered_by);
        self.lock().users.entry(connection).and_modify(|user| user.is_identified(there, found));
    }

    /// Memory waits for the process that uses a connection, which is perhaps lost.
    pub fn check(self: &Arc<Self>, connection: ConnectionId) {
        let mut table = self.lock();
        table.waiting.insert(connection);
        if std::mem::replace(&mut table.is_running, true) {
            return;
        }
        drop(table);
        self.runtime.spawn(self.clone().run());
    }

    /// Checks until nothing waits any more.
    async fn run(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let this = self.clone();
            let checked = self.runtime.spawn_blocking(move || this.check_all()).await;
            if checked.is_err() || self.is_done() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Whether nothing waits, so that the task ends.
    fn is_done(&self) -> bool {
        let mut table = self.lock();
        table.is_running = !table.waiting.is_empty();
        !table.is_running
    }

    fn check_all(&self) {
        let Some(core) = self.core.upgrade().filter(|core| !core.is_poisoned()) else {
            self.lock().waiting.clear();
            return;
        };
        let waiting: Vec<ConnectionId> = self.lock().waiting.iter().copied().collect();
        let mut is_unmapped = None;
        for connection in waiting {
            let user = self.lock().users.get(&connection).cloned().unwrap_or_default();
            let is_gone = match user.is_gone(|process| self.can_write_no_more(process)) {
                Some(is_gone) => is_gone,
                None => *is_unmapped.get_or_insert_with(|| self.is_unmapped_by_others()),
            };
            if is_gone {
                core.with(|core, now| core.process_gone(now, connection));
            }
            let mut table = self.lock();
            table.users.entry(connection).and_modify(|user| user.checks += 1);
            drop(table);
            let is_done = user.is_open || user.checks >= CHECKS_MIN;
            if is_done && !core.read(|core, _| core.awaits_process(connection)) {
                let mut table = self.lock();
                table.waiting.remove(&connection);
                if !user.is_open {
                    table.users.remove(&connection);
                }
            }
        }
        self.warn(&core);
    }

    /// Logs once when much memory waits, and again when it has been little in between.
    fn warn(&self, core: &CoreHandle) {
        let gauges = core.read(|core, _| core.gauges());
        let (bytes, capacity) = (gauges.quarantined_bytes, gauges.l1.capacity_bytes);
        let mut table = self.lock();
        if bytes <= capacity / (2 * WARN_FRACTION) {
            table.has_warned = false;
        } else if bytes > capacity / WARN_FRACTION && !std::mem::replace(&mut table.has_warned, true) {
            tracing::warn!(
                bytes,
                capacity,
                "much of L1 waits for workers that are lost or late and may still write to it; end their processes, \
                 or see --late-write-timeout-seconds"
            );
        }
    }

    fn can_write_no_more(&self, process: Process) -> bool {
        process.has_ended() || matches!(self.arena.is_mapped_by(process.pid), Ok(false))
    }

    /// Whether it is certain that no other process maps the arena.
    fn is_unmapped_by_others(&self) -> bool {
        let namespace = fs::read_link("/proc/self/ns/pid");
        if !namespace.is_ok_and(|namespace| namespace.as_os_str() == INITIAL_PID_NAMESPACE) {
            return false;
        }
        pids().filter(|pid| *pid != std::process::id()).all(|pid| match self.arena.is_mapped_by(pid) {
            Ok(maps) => !maps,
            Err(_) => Process::of(pid).is_none(),
        }) && fs::metadata("/proc/1/stat").is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl User {
    /// The processes at its other end now or earlier, and those of them that map the arena.
    fn is_identified(&mut self, there: Vec<Process>, found: Vec<Process>) {
        self.has_got_none =
            found.is_empty() && !there.is_empty() && there.iter().all(|process| process.has_ended());
        self.registered_by = Vec::new();
        self.processes = found;
    }

    /// Whether the processes that use the connection can write no more. `None`: they could not be identified.
    fn is_gone(&self, can_write_no_more: impl Fn(Process) -> bool) -> Option<bool> {
        if self.processes.is_empty() {
            return self.has_got_none.then_some(true);
        }
        Some(self.processes.iter().all(|process| can_write_no_more(*process)))
    }
}

/// The processes at the other end of a connection.
fn at_other_end(remote: &str) -> Vec<Process> {
    let pids: Vec<u32> = if let Some(pid) = remote.strip_prefix("ipc:pid ") {
        pid.parse().into_iter().collect()
    } else if let Some(address) = remote.strip_prefix("tcp://").and_then(|a| a.parse().ok()) {
        holders(&sockets(address))
    } else {
        Vec::new()
    };
    pids.into_iter().filter(|pid| *pid != std::process::id()).filter_map(Process::of).collect()
}

/// All processes that `/proc` shows.
fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The inodes of this machine's sockets with that local address.
fn sockets(local: SocketAddr) -> Vec<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(|line| socket(line, local)).collect()
}

/// The inode of the socket in a line of such a table, if it has that local address.
fn socket(line: &str, local: SocketAddr) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let inode = fields.nth(7)?;
    let same = u16::from_str_radix(port, 16) == Ok(local.port()) && ip(address)? == local.ip().to_canonical();
    (same && inode != "0").then(|| format!("socket:[{inode}]"))
}

/// An address as the kernel prints it: words of 32 bits in the order of this machine.
fn ip(hex: &str) -> Option<std::net::IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(std::net::IpAddr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            let bytes: [u8; 16] = words.try_into().ok()?;
            Some(std::net::IpAddr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// The processes that hold one of these sockets, as far as their descriptors can be read.
fn holders(sockets: &[String]) -> Vec<u32> {
    let holds = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| target.to_str().is_some_and(|target| sockets.iter().any(|socket| socket == target)))
    };
    if sockets.is_empty() { Vec::new() } else { pids().filter(holds).collect() }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_holder_of_a_connection_is_found() {
        for host in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(host) else { continue };
            let port = listener.local_addr().unwrap().port();
            let connect = if host.starts_with('1') || host == "[::]:0" { "127.0.0.1" } else { "::1" };
            let client = TcpStream::connect((connect, port)).unwrap();
            let (_accepted, remote) = listener.accept().unwrap();
            assert_eq!(holders(&sockets(remote)), [std::process::id()], "{host}");
            drop(client);
        }
    }

    /// A process that has ended.
    fn ended() -> Process {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        child.wait().unwrap();
        process
    }

    #[test]
    fn only_a_process_that_ended_before_it_got_slots_is_gone_without_having_mapped_the_arena() {
        let living = Process::of(std::process::id()).unwrap();
        let unseen = |_: Process| unreachable!("no process was identified");
        let identified = |there: &[Process]| {
            let mut user = User::default();
            user.is_identified(there.to_vec(), Vec::new());
            user.is_gone(unseen)
        };
        assert_eq!(identified(&[ended()]), Some(true));
        assert_eq!(identified(&[ended(), living]), None, "a proxy, or it has lost the arena");
        assert_eq!(identified(&[]), None, "it is on another machine");
        assert_eq!(User::default().is_gone(unseen), None, "not yet");
        let mut user = User::default();
        user.is_identified(vec![ended(), living], vec![living]);
        assert_eq!((user.is_gone(|_| false), user.is_gone(|_| true)), (Some(false), Some(true)));
    }

    #[test]
    fn an_address_of_a_table_is_read() {
        assert_eq!(ip("0100007F"), Some([127, 0, 0, 1].into()));
        assert_eq!(ip("0000000000000000FFFF00000100007F"), Some([127, 0, 0, 1].into()));
        assert_eq!((ip("01"), ip("0100007G")), (None, None));
    }
}
