//! Fixed addresses of members in the network of their object. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::engine::Attachment;
use crate::kinds::containers::{DockerSeen, HOME, WorkSeen, networks};

/// Distance to the next address of a member, if the first is taken, and the number of addresses to try.
const NEXT: u32 = 32;
const COUNT: u32 = 3;
/// Offset in the subnet to which a member's ordinal is added; lower ones are left for the gateway and for other containers.
pub const FIRST: u32 = 10;

/// The subnet of a network, if the network is known to exist.
pub fn subnet(hosts: &BTreeMap<String, DockerSeen>, network: &str) -> Option<(Ipv4Addr, u8)> {
    let networks = hosts.get(HOME)?.networks.known()?;
    networks.get(network).map(|network| network.subnet)
}

/// The address of a member: the one that it had, if that is in the subnet, else the one at this offset. If Docker
/// refuses it (another container has it), the next one.
pub fn address(
    (base, prefix): (Ipv4Addr, u8),
    offset: u32,
    before: Option<Ipv4Addr>,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Ipv4Addr {
    let own = || own((base, prefix), offset);
    let inside =
        |address: &Ipv4Addr| (u32::from(*address) ^ u32::from(base)).checked_shr(32 - u32::from(prefix)) == Some(0);
    let mut candidates = before.into_iter().chain(own()).filter(inside);
    candidates.find(|address| !taken(*address)).or(own().next()).unwrap_or(base)
}

/// The addresses to try for the member at this offset, best first.
pub fn own((base, _): (Ipv4Addr, u8), offset: u32) -> impl Iterator<Item = Ipv4Addr> {
    let first = u32::from(base).saturating_add(offset);
    (0..COUNT).map(move |number| Ipv4Addr::from(first.saturating_add(number * NEXT)))
}

/// Whether Docker refused to connect the container with this address.
pub fn taken(work: &WorkSeen, container: &str, network: &str, address: Ipv4Addr) -> bool {
    let to = Attachment { network: network.to_owned(), aliases: Vec::new(), address: Some(address) };
    networks::refused(work, HOME, container, &to).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBNET: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 77, 1, 0), 24);

    /// Regression 110: a network that was removed and made again with another subnet left every member with an address
    /// that does not exist there; and an address that another container had taken was never given up.
    #[test]
    fn a_member_keeps_its_address_unless_the_subnet_changed_or_docker_refuses_it() {
        let of = |last: u8| Ipv4Addr::new(10, 77, 1, last);
        assert_eq!(address(SUBNET, 12, None, |_| false), of(12));
        assert_eq!(address(SUBNET, 12, Some(of(44)), |_| false), of(44));
        assert_eq!(address(SUBNET, 12, Some(Ipv4Addr::new(172, 18, 0, 12)), |_| false), of(12));
        assert_eq!(address(SUBNET, 12, Some(of(12)), |address| address == of(12)), of(44));
        assert_eq!(address(SUBNET, 12, Some(of(44)), |address| address == of(44)), of(12));
        assert_eq!(address(SUBNET, 12, Some(of(12)), |_| true), of(12));
    }
}
