//! ZMTP 3.1 (NULL mechanism) over tokio: a ROUTER that tolerates any behaviour of its peers, and a DEALER.
//!
//! - [`codec`]: the protocol without sockets or clocks.
//! - [`Router`] and [`Service`]: a server. [`Peer`] is the handle on one connection.
//! - [`Protocols`]: HTTP/2 on the same port, by another crate.
//! - [`Dealer`]: a client.
//! - [`Limits`]: limits of memory and time, for each peer and in all. [`Usage`]: what is held and was refused.
//!
//! The crate's README lists what it does not do.

mod alarm;
mod bind;
mod budget;
pub mod codec;
mod dealer;
mod driver;
mod endpoint;
mod handover;
mod limits;
mod listener;
mod peer;
mod progress;
mod registry;
mod router;

pub use alarm::Alarm;
pub use bind::{BindTcpError, BoundTcp, bind_tcp};
pub use budget::{Sending, Share, Usage};
pub use codec::{Message, ProtocolError};
pub use dealer::{ConnectError, Dealer, DealerOptions, RecvError};
pub use driver::{CloseReason, Refusal};
pub use endpoint::{Endpoint, ParseEndpointError};
pub use handover::{Handover, OtherProtocol, Place, Protocols, Stream};
pub use limits::Limits;
pub use listener::{BindError, IpcListener};
pub use peer::{Ask, Pause, Peer, PeerId, Queued, SendError};
pub use progress::Progress;
pub use router::{Router, Service};
