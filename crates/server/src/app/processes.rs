//! Proof that a worker can write no more.
//!
//! A worker that was frozen, or lost its connection, may still be copying into slots that it was given. Time proves
//! nothing about it. So its memory stays out of use until its process has ended or does not map the arena any more; the
//! core asks for that by [`Effect::CheckProcess`](larder_core::Effect::CheckProcess).
//!
//! Which process uses a connection is found out at its first transfer, while it lives: the one at the other end of a
//! Unix socket, or, on the same machine, those that hold the other end of the TCP connection, if they map the arena. If
//! it ends before that, it counts as the one that was at the other end before the registration was answered. A process that cannot be
//! identified (another machine, another network or PID namespace, no permission) is gone for certain only if every
//! process can be seen and none but this one maps the arena. What cannot be proven waits for
//! `--late-write-timeout-seconds`.
//!
//! `/proc` is read by a background task, without any lock, and only while memory waits.

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
    /// The processes at its other end then, which did not map the arena yet.
    registered_by: Vec<Process>,
    /// Whether the processes have been looked for.
    is_searched: bool,
    /// Whether a process at its other end lived and did not map the arena, so that another one copies.
    is_forwarded: bool,
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

    /// A worker has got slots. Has its process identified, the first time.
    pub fn copies(self: &Arc<Self>, connection: ConnectionId) {
        let mut table = self.lock();
        let Some(user) = table.users.get_mut(&connection).filter(|user| !user.is_searched) else { return };
        user.is_searched = true;
        let (this, remote) = (self.clone(), user.remote.clone());
        drop(table);
        self.runtime.spawn_blocking(move || {
            let there = at_other_end(&remote);
            let maps = |process: &Process| this.arena.is_mapped_by(process.pid).unwrap_or(false);
            let found: Vec<Process> = there.iter().copied().filter(maps).collect();
            tracing::debug!(connection = connection.0, %remote, ?found, "processes of a worker");
            this.lock().users.entry(connection).and_modify(|user| {
                user.is_forwarded = found.is_empty() && !there.is_empty();
                user.processes = found;
            });
        });
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
    /// Whether the processes that use the connection can write no more. `None`: they could not be identified.
    fn is_gone(&self, can_write_no_more: impl Fn(Process) -> bool) -> Option<bool> {
        if !self.processes.is_empty() {
            return Some(self.processes.iter().all(|process| can_write_no_more(*process)));
        }
        let is_known = !self.is_forwarded && !self.registered_by.is_empty();
        (is_known && self.registered_by.iter().all(|process| process.has_ended())).then_some(true)
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
    fn a_process_that_ends_before_its_first_transfer_is_that_of_the_registration() {
        let living = Process::of(std::process::id()).unwrap();
        let registered = |by: &[Process]| User { registered_by: by.to_vec(), ..User::default() };
        let unseen = |_| unreachable!("no process was identified");
        assert_eq!(registered(&[ended()]).is_gone(unseen), Some(true));
        assert_eq!(registered(&[ended(), living]).is_gone(unseen), None, "one of them may write");
        assert_eq!(registered(&[]).is_gone(unseen), None);
        let forwarded = User { is_forwarded: true, ..registered(&[ended()]) };
        assert_eq!(forwarded.is_gone(unseen), None, "another process copies");
        let identified = User { processes: vec![living], ..registered(&[ended()]) };
        assert_eq!(identified.is_gone(|_| false), Some(false), "what was identified counts");
    }

    #[test]
    fn an_address_of_a_table_is_read() {
        assert_eq!(ip("0100007F"), Some([127, 0, 0, 1].into()));
        assert_eq!(ip("0000000000000000FFFF00000100007F"), Some([127, 0, 0, 1].into()));
        assert_eq!((ip("01"), ip("0100007G")), (None, None));
    }
}
