//! What a peer may use up.

use std::time::Duration;

/// Limits of a [`Router`](crate::Router). The defaults suit a server of large values and few thousand peers.
///
/// Memory is bounded by `receive_bytes_max` + `send_bytes_max` + one message of each + about 96 KiB per peer, which are
/// its buffers and what it may hold of both sums without being counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest frame accepted, in bytes. A longer one closes its connection. Default: 1 GiB.
    pub frame_bytes_max: usize,
    /// Most parts accepted in one message; more close the connection. Default: 64.
    pub message_parts_max: usize,
    /// Most bytes in all parts of one message; more close the connection. Default: 1 GiB.
    pub message_bytes_max: usize,
    /// Most bytes of unfinished messages, and of messages whose service has [paused](crate::Peer::pause) their peer,
    /// over all peers. What a peer holds above 16 KiB counts. A peer that needs more waits for room, for `stall_timeout`
    /// at most. A message that is larger than this passes while it is the only one. Default: 256 MiB.
    pub receive_bytes_max: usize,
    /// Most bytes waiting to be sent over all peers; a message counts 256 bytes besides its own, and what a peer holds
    /// above 32 KiB counts. The message that meets the limit may exceed it. Default: 512 MiB.
    pub send_bytes_max: usize,
    /// A peer that sends less than 64 KiB of an unfinished message within this time is closed; with less than 16 MiB
    /// within a quarter of it, if another one waits for room. Default: 20 s.
    pub stall_timeout: Duration,
    /// Most connected peers. One more closes a peer that never sent a message, the one that has been silent longest; or
    /// one that has been silent for a minute and is not [kept](crate::Peer::keep). If there is none, the new one is
    /// closed after its handshake, and may try again. Default: 4096.
    pub peers_max: usize,
    /// Most connections within their handshake. One more closes the oldest of them. Default: 1024.
    pub half_open_max: usize,
    /// Time for a handshake, from accept to READY. Default: 10 s.
    pub handshake_timeout: Duration,
    /// Most messages waiting to be sent to one peer; at least 1. Default: 10 000.
    pub send_queue_messages_max: usize,
    /// Most bytes (parts, without framing) waiting to be sent to one peer. A single message may exceed
    /// this if nothing else is waiting. Default: 256 MiB.
    pub send_queue_bytes_max: usize,
    /// A peer that takes none of the bytes waiting for it for this long is closed; after 10 s, if `send_bytes_max` is
    /// met. Default: 5 min.
    pub write_stall_timeout: Duration,
    /// After shutdown, time to send what is queued. Default: 1 s.
    pub linger: Duration,
    /// Send PING to a peer that has been silent for this long (ZMTP 3.1 peers only). Default: never.
    pub ping_interval: Option<Duration>,
    /// Close a peer that stays silent for this long after a PING. Default: 30 s.
    pub ping_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Limits {
            frame_bytes_max: 1024 * MIB,
            message_parts_max: 64,
            message_bytes_max: 1024 * MIB,
            receive_bytes_max: 256 * MIB,
            send_bytes_max: 512 * MIB,
            stall_timeout: Duration::from_secs(20),
            peers_max: 4096,
            half_open_max: 1024,
            handshake_timeout: Duration::from_secs(10),
            send_queue_messages_max: 10_000,
            send_queue_bytes_max: 256 * MIB,
            write_stall_timeout: Duration::from_secs(300),
            linger: Duration::from_secs(1),
            ping_interval: None,
            ping_timeout: Duration::from_secs(30),
        }
    }
}
