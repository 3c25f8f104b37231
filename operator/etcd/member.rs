//! What a node keeps about its member of etcd, in its data directory. Pure.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::api::cluster::{CLIENT_PORT, PEER_PORT};
use crate::api::labels::Owner;

/// Kind in the owner labels of container and volume; no object of that kind exists.
const KIND: &str = "Etcd";
/// The image that is used unless another one is named.
pub const IMAGE: &str = "quay.io/coreos/etcd:v3.5.21";

/// How a member began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Began {
    /// As the first one.
    Init,
    /// It was added to others.
    Join,
}

/// A node's member of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The name of the node.
    pub node: String,
    /// The address that the member listens on, and others reach it by.
    pub address: IpAddr,
    /// The image of etcd.
    pub image: String,
    /// Which cluster it is of: a hash of the CA of etcd.
    pub cluster: String,
    /// How it began.
    pub began: Began,
    /// The members when it began, as etcd takes them: `NAME=URL,...`.
    pub initial: String,
    /// It has served the store once: its data is worth something.
    #[serde(default)]
    pub ran: bool,
    /// A hash of the certificate that its container has.
    #[serde(default)]
    pub delivered: String,
    /// `cluster reset` has begun and is not done.
    #[serde(default)]
    pub resetting: bool,
}

impl Member {
    /// The first member of a new cluster.
    pub fn first(node: &str, address: IpAddr, image: &str, cluster: &str) -> Self {
        Self {
            node: node.to_owned(),
            address,
            image: image.to_owned(),
            cluster: cluster.to_owned(),
            began: Began::Init,
            initial: format!("{node}={}", peer_url(address)),
            ran: false,
            delivered: String::new(),
            resetting: false,
        }
    }

    /// The same member at another address.
    pub fn at(self, address: IpAddr) -> Self {
        let initial = self.initial.replace(&self.peer_url(), &peer_url(address));
        Self { address, initial, ..self }
    }

    /// Its URL for clients.
    pub fn client_url(&self) -> String {
        client_url(self.address)
    }

    /// Its URL for the other members.
    pub fn peer_url(&self) -> String {
        peer_url(self.address)
    }

    /// The owner of its container and volume.
    pub fn owner(&self) -> Owner {
        owner(&self.node)
    }
}

/// The owner of a node's container and volume.
pub fn owner(node: &str) -> Owner {
    Owner { kind: KIND.to_owned(), namespace: String::new(), name: node.to_owned() }
}

/// The URL for clients of the member at an address.
pub fn client_url(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(address, CLIENT_PORT))
}

/// The URL for other members of the member at an address.
pub fn peer_url(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(address, PEER_PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_reached_by_its_nodes_address() {
        let of = |address: [u8; 4]| Member::first("one", address.into(), IMAGE, "c");
        let one = of([10, 0, 0, 1]);
        assert_eq!(one.client_url(), "https://10.0.0.1:2379");
        assert_eq!(one.initial, "one=https://10.0.0.1:2380");
        let moved = one.clone().at([10, 0, 0, 9].into());
        assert_eq!(
            (moved.initial.as_str(), moved.node, moved.cluster),
            ("one=https://10.0.0.9:2380", one.node, one.cluster)
        );
        assert_eq!(client_url(std::net::Ipv6Addr::LOCALHOST.into()), "https://[::1]:2379");
    }
}
