//! Where this instance's server listens: set once at the start of the process, from its arguments.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;
use std::sync::OnceLock;

use super::wire::PORT;

/// Where a server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The address of the host, if the container is on the host's network; else every address of the container.
    pub address: Option<Ipv4Addr>,
    /// The port, which also names the unix socket.
    pub port: u16,
    /// The port of a Redis Cluster's own connections, if it does not follow from the other.
    pub bus: Option<u16>,
}

impl Listen {
    /// On the networks of a container of its own.
    pub const CONTAINER: Self = Self { address: None, port: PORT, bus: None };
}

/// An argument that says where a server listens has another form than `ADDRESS:PORT` or `ADDRESS:PORT@BUS`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither ADDRESS:PORT nor ADDRESS:PORT@BUS")]
pub struct Unreadable(String);

impl FromStr for Listen {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let unreadable = || Unreadable(text.to_owned());
        let (at, bus) = text.split_once('@').map_or((text, None), |(at, bus)| (at, Some(bus)));
        let at: SocketAddrV4 = at.parse().map_err(|_| unreadable())?;
        let bus = bus.map(str::parse).transpose().map_err(|_| unreadable())?;
        Ok(Self { address: Some(*at.ip()), port: at.port(), bus })
    }
}

static LISTEN: OnceLock<Listen> = OnceLock::new();

/// Sets it, before anything asks.
pub fn set(at: Option<Listen>) {
    if let Some(at) = at {
        // Only the first call of a process counts.
        let _ = LISTEN.set(at);
    }
}

/// Why a server could not listen where it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another program listens there.
    #[error("port {port} of {address} is used by another program of the host")]
    Taken {
        /// The address.
        address: Ipv4Addr,
        /// The port.
        port: u16,
    },
    /// The host does not have this address.
    #[error("{address} is not an address of this host: correct spec.address of its DockerHost")]
    NotHere {
        /// The address.
        address: Ipv4Addr,
    },
}

/// Whether a server could listen there now. PostgreSQL starts as soon as it can listen on one of its addresses, and only logs the
/// others: it would serve loopback alone.
pub fn check(listen: Listen) -> Result<(), Error> {
    let Some(own) = listen.address else { return Ok(()) };
    let ports = [Some(listen.port), listen.bus].into_iter().flatten();
    for (address, port) in ports.flat_map(|port| [(own, port), (Ipv4Addr::LOCALHOST, port)]) {
        let socket = tokio::net::TcpSocket::new_v4();
        let bound = socket.and_then(|socket| {
            // As PostgreSQL does: connections of an earlier server that linger do not count.
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddrV4::new(address, port).into())
        });
        match bound.map_err(|error| error.kind()) {
            Err(std::io::ErrorKind::AddrInUse) => return Err(Error::Taken { address, port }),
            Err(std::io::ErrorKind::AddrNotAvailable) => return Err(Error::NotHere { address }),
            _ => {}
        }
    }
    Ok(())
}

/// Where this instance's server listens.
pub fn listen() -> Listen {
    listen_or(PORT)
}

/// Where a server listens whose port on the networks of a container of its own is this.
pub fn listen_or(port: u16) -> Listen {
    LISTEN.get().copied().unwrap_or(Listen { address: None, port, bus: None })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_of_another_program_and_an_address_of_another_host_are_told() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let told = |address: [u8; 4], port| match check(Listen { address: Some(address.into()), port, bus: None }) {
            Err(error) => error.to_string(),
            Ok(()) => "free".to_owned(),
        };
        assert_eq!(
            told([127, 0, 0, 2], port),
            format!("port {port} of 127.0.0.1 is used by another program of the host")
        );
        assert_eq!(
            told([192, 0, 2, 1], 1),
            "192.0.2.1 is not an address of this host: correct spec.address of its DockerHost"
        );
        drop(other);
        assert_eq!(told([127, 0, 0, 2], port), "free");
        assert!(check(Listen::CONTAINER).is_ok());
        let read = |text: &str| text.parse::<Listen>().map(|listen| (listen.port, listen.bus)).ok();
        assert_eq!(
            ["10.0.0.1:20000", "10.0.0.1:20000@21000"].map(read),
            [Some((20000, None)), Some((20000, Some(21000)))]
        );
        assert_eq!(["10.0.0.1", "10.0.0.1:1@", "[::1]:1", "10.0.0.1:70000"].map(read), [None; 4]);
    }
}
