//! The other end of a connection. Each request has its `Peer` as an extension; who the user is follows from it. Pure.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A TLS connection.
    Tcp {
        /// Where it comes from.
        address: SocketAddr,
        /// The client's certificate and its chain, already verified; empty if it sent none.
        certificates: Arc<[CertificateDer<'static>]>,
    },
    /// A connection to the unix socket.
    Unix {
        /// The user id of the process, as the kernel says.
        uid: u32,
    },
}

impl Peer {
    /// The address that limits are counted by: of IPv6, the network of one link (/64); none on the unix socket.
    pub fn origin(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp { address, .. } => Some(origin(address.ip())),
            Self::Unix { .. } => None,
        }
    }
}

/// The address that limits are counted by.
pub fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

/// As audit lines show it: the address without the port, or `unix`.
impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { address, .. } => write!(f, "{}", address.ip().to_canonical()),
            Self::Unix { .. } => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_addresses_of_one_link_are_one_origin() {
        let of = |text: &str| origin(text.parse().unwrap()).to_string();
        assert_eq!(of("127.0.0.2"), "127.0.0.2");
        assert_eq!(of("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!((of("2001:db8::1:2:3:4"), of("2001:db8::9")), ("2001:db8::".into(), "2001:db8::".into()));
    }
}
