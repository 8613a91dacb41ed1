//! TCP sockets for a host: one for each of its addresses.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that the system may queue until they are accepted.
pub(crate) const BACKLOG: i32 = 1024;

/// Times that a port of the system's choice is tried at all addresses.
const ATTEMPTS_MAX: usize = 16;

/// Why a host was not bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindTcpError {
    /// The host has no address.
    #[error("cannot resolve the host")]
    Resolve(#[source] io::Error),
    /// An address of the host cannot be bound.
    #[error("cannot bind {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// Sockets that are bound and do not listen yet: their addresses are taken, and connections are refused.
#[derive(Debug)]
pub struct BoundTcp {
    sockets: Vec<(SocketAddr, Socket)>,
}

impl BoundTcp {
    /// Begins to accept connections. One listener for each address, IPv4 first.
    ///
    /// # Errors
    /// Another process has bound the same address at the same time, and listens first.
    pub fn listen(self) -> Result<Vec<TcpListener>, BindTcpError> {
        let listen_one = |(address, socket): (SocketAddr, Socket)| {
            let listening = socket.listen(BACKLOG).and_then(|()| TcpListener::from_std(socket.into()));
            listening.map_err(|source| BindTcpError::Bind { address, source })
        };
        self.sockets.into_iter().map(listen_one).collect()
    }
}

/// Binds every address of `host`: a name such as `localhost` may have one of each family, and clients may use
/// either. `*` is every IPv4 interface, `::` every interface. Port 0 is one that the system chooses, the same for all
/// addresses. IPv4 comes first, as clients of libzmq use it by default.
///
/// An address of a family or an interface that this machine does not have is left out, if another one can be bound.
///
/// # Errors
/// See [`BindTcpError`]. Nothing is bound then.
pub async fn bind_tcp(host: &str, port: u16) -> Result<BoundTcp, BindTcpError> {
    let addresses = resolve(host, port).await.map_err(BindTcpError::Resolve)?;
    for _ in 1..ATTEMPTS_MAX {
        match bind_all(&addresses) {
            // The port that the system chose for one address may be taken at another.
            Err(BindTcpError::Bind { source, .. })
                if port == 0 && source.kind() == io::ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
    bind_all(&addresses)
}

/// The addresses of a host, IPv4 first, each once.
async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let host = if host == "*" { "0.0.0.0" } else { host };
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let addresses = in_order(found);
    if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) }
}

fn in_order(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(|address| !address.is_ipv4());
    addresses
}

fn bind_all(addresses: &[SocketAddr]) -> Result<BoundTcp, BindTcpError> {
    let has_any_ipv4 = addresses.iter().any(|address| address.ip() == Ipv4Addr::UNSPECIFIED);
    let mut sockets: Vec<(SocketAddr, Socket)> = Vec::new();
    let mut missing = None;
    for &address in addresses {
        let mut address = address;
        if let Some((first, _)) = sockets.first() {
            address.set_port(first.port());
        }
        // `::` takes IPv4 too, unless that has a socket of its own.
        let only_ipv6 = has_any_ipv4 && address.ip() == Ipv6Addr::UNSPECIFIED;
        match bind_one(address, only_ipv6) {
            Ok(bound) => sockets.push(bound),
            Err(source) if is_missing(&source) => {
                missing = missing.or(Some(BindTcpError::Bind { address, source }));
            }
            Err(source) => return Err(BindTcpError::Bind { address, source }),
        }
    }
    match missing {
        Some(error) if sockets.is_empty() => Err(error),
        _ => Ok(BoundTcp { sockets }),
    }
}

/// Whether this machine has no such address.
fn is_missing(error: &io::Error) -> bool {
    /// `EAFNOSUPPORT`.
    const NO_FAMILY: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(NO_FAMILY)
}

/// A bound socket, and its address with the real port.
fn bind_one(address: SocketAddr, only_ipv6: bool) -> io::Result<(SocketAddr, Socket)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if only_ipv6 {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((bound, socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn bound(bound: &BoundTcp) -> Vec<SocketAddr> {
        bound.sockets.iter().map(|(address, _)| *address).collect()
    }

    #[test]
    fn ipv4_comes_first_and_each_address_once() {
        let found = addresses(&["[::1]:7", "127.0.0.1:7", "[::1]:7", "127.0.0.2:7"]);
        assert_eq!(in_order(found), addresses(&["127.0.0.1:7", "127.0.0.2:7", "[::1]:7"]));
    }

    #[test]
    fn every_address_is_bound_to_the_same_port() {
        let bound = bound(&bind_all(&addresses(&["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"])).unwrap());
        let ips: Vec<String> = bound.iter().map(|address| address.ip().to_string()).collect();
        assert_eq!(ips, ["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
        assert!(bound.iter().all(|address| address.port() == bound[0].port() && address.port() > 0));
    }

    #[test]
    fn addresses_of_other_machines_are_left_out_unless_there_are_no_others() {
        let foreign = "192.0.2.1:0";
        assert_eq!(bound(&bind_all(&addresses(&[foreign, "127.0.0.1:0"])).unwrap()).len(), 1);
        let error = bind_all(&addresses(&[foreign])).unwrap_err();
        assert!(matches!(&error, BindTcpError::Bind { source, .. } if is_missing(source)), "{error:?}");
    }

    #[tokio::test]
    async fn one_address_in_use_is_an_error() {
        let taken = bind_all(&addresses(&["127.0.0.2:0"])).unwrap();
        let port = bound(&taken)[0].port();
        let _listening = taken.listen().unwrap();
        let both = addresses(&[&format!("127.0.0.1:{port}"), &format!("127.0.0.2:{port}")]);
        let error = bind_all(&both).unwrap_err();
        assert!(
            matches!(&error, BindTcpError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
        );
    }

    #[tokio::test]
    async fn connections_are_refused_until_it_listens() {
        let bound_only = bind_tcp("127.0.0.1", 0).await.unwrap();
        let address = bound(&bound_only)[0];
        let refused = tokio::net::TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let _listeners = bound_only.listen().unwrap();
        assert!(tokio::net::TcpStream::connect(address).await.is_ok());
    }

    #[tokio::test]
    async fn any_address_of_both_families_is_bound_together() {
        let listeners = bind_all(&addresses(&["0.0.0.0:0", "[::]:0"])).unwrap().listen().unwrap();
        assert!(!listeners.is_empty());
        assert_eq!(bound(&bind_tcp("*", 0).await.unwrap())[0].ip(), Ipv4Addr::UNSPECIFIED);
    }
}
