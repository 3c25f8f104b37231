//! Which connections of a container to its networks are wrong, and the steps that put them right. Pure.

use std::collections::BTreeMap;

use super::{DockerStep, Work, WorkSeen};
use crate::engine::{Attachment, ConnectionSeen, ContainerSeen, ContainerSpec, NetworkSeen};
use crate::runtime::Want;
use crate::runtime::companions::due;

/// A connection that is not as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Wrong {
    /// The connection as it should be.
    pub to: Attachment,
    /// What is wrong, as text for people.
    pub why: String,
    /// The container is not on the network at all.
    pub away: bool,
}

/// What is wrong with the connections of a container. `networks`: those that are known to exist. Its own networks are made
/// again if they are gone; another one belongs to another object, and waits until that object has made it.
pub fn wrong(container: &ContainerSeen, spec: &ContainerSpec, networks: &BTreeMap<String, NetworkSeen>) -> Vec<Wrong> {
    let there = |to: &Attachment| spec.owns(&to.network) || networks.contains_key(&to.network);
    let wanted = spec.attachments().into_iter().filter(there);
    let judged = wanted.filter_map(|to| {
        let (why, away) = fault(&to, container.networks.get(&to.network), networks.get(&to.network))?;
        Some(Wrong { to, why, away })
    });
    judged.collect()
}

/// The fault of one connection, and whether the container is not on the network at all.
fn fault(to: &Attachment, seen: Option<&ConnectionSeen>, network: Option<&NetworkSeen>) -> Option<(String, bool)> {
    let name = &to.network;
    let Some(seen) = seen else { return Some((format!("it is not connected to network {name}"), true)) };
    match network {
        None => return Some((format!("network {name} is gone"), true)),
        Some(network) if !seen.network.is_empty() && seen.network != network.id => {
            return Some((format!("network {name} was removed and made again"), true));
        }
        Some(_) => {}
    }
    if let (Some(wanted), Some(has)) = (to.address, seen.address)
        && wanted != has
    {
        return Some((format!("it has address {has} instead of {wanted} in network {name}"), true));
    }
    let names = seen.aliases.as_ref()?;
    let missing = to.aliases.iter().find(|alias| !names.contains(alias))?;
    Some((format!("it lacks the DNS name {missing} in network {name}"), false))
}

/// What is wrong, and what is done about it, as text for people.
pub fn in_words(why: &str, want: Want) -> String {
    let then = match want {
        Want::Paused => "nothing is done while reconciliation is paused",
        _ => "Evenkeel connects it again",
    };
    format!("{why}; {then}")
}

/// The steps that put right what is wrong, unless that waits after a failure.
pub fn connect(work: &WorkSeen, host: &str, member: &str, container: &str, wrong: Vec<Wrong>) -> Vec<DockerStep> {
    let due = wrong.into_iter().filter(|one| due(work.get(&work_of(host, container, &one.to))));
    let step = |Wrong { to, why, .. }| {
        let (host, member, container) = (host.to_owned(), member.to_owned(), container.to_owned());
        DockerStep::Connect { host, member, container, to, why }
    };
    due.map(step).collect()
}

/// Why Docker refused to connect the container like this, if it did.
pub fn refused<'a>(work: &'a WorkSeen, host: &str, container: &str, to: &Attachment) -> Option<&'a str> {
    work.get(&work_of(host, container, to))?.failure()
}

fn work_of(host: &str, container: &str, to: &Attachment) -> Work {
    let (host, container, network) = (host.to_owned(), container.to_owned(), to.network.clone());
    Work::Connect { host, container, network, address: to.address }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::engine::ContainerState;

    const HAS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);

    fn spec() -> ContainerSpec {
        let more = Attachment { network: "more".into(), aliases: Vec::new(), address: None };
        ContainerSpec {
            network: "net".into(),
            address: Some(HAS),
            aliases: vec!["db-1".into()],
            networks: vec![more],
            ..Default::default()
        }
    }

    fn network(name: &str) -> (String, NetworkSeen) {
        let (id, subnet) = (format!("id of {name}"), (Ipv4Addr::new(10, 0, 0, 0), 24));
        (name.into(), NetworkSeen { name: name.into(), id, ours: true, subnet })
    }

    fn connection(network: &str) -> (String, ConnectionSeen) {
        let (id, aliases) = (format!("id of {network}"), Some(vec!["db-1".into(), "0123456789ab".into()]));
        (network.into(), ConnectionSeen { network: id, address: Some(HAS), aliases })
    }

    /// What is wrong after this change of a container that is as it should be.
    fn wrong_after(change: impl FnOnce(&mut ContainerSeen, &mut BTreeMap<String, NetworkSeen>)) -> Vec<String> {
        let mut container = ContainerSeen {
            id: "id".into(),
            name: "default.db-1".into(),
            labels: BTreeMap::new(),
            state: ContainerState::Running,
            image: String::new(),
            networks: [connection("net"), connection("more")].into(),
            exit_code: None,
        };
        let mut networks = [network("net"), network("more")].into();
        change(&mut container, &mut networks);
        wrong(&container, &spec(), &networks).into_iter().map(|one| one.why).collect()
    }

    fn at<'c>(container: &'c mut ContainerSeen, network: &str) -> &'c mut ConnectionSeen {
        container.networks.entry(network.into()).or_default()
    }

    #[test]
    fn nothing_is_wrong_with_a_container_that_has_its_networks_address_and_names() {
        assert_eq!(wrong_after(|_, _| {}), Vec::<String>::new());
        // A container that was never started has no network's ID yet.
        assert_eq!(wrong_after(|container, _| at(container, "net").network.clear()), Vec::<String>::new());
        // A network of another object is made by that object.
        assert_eq!(wrong_after(|_, networks| drop(networks.remove("more"))), Vec::<String>::new());
        assert_eq!(wrong_after(|container, _| at(container, "net").aliases = None), Vec::<String>::new());
    }

    /// Regression 106: a container that somebody took off its network, or connected again in another way, was left so.
    /// Its networks, addresses and DNS names are compared with its spec now.
    #[test]
    fn every_difference_of_a_connection_is_told() {
        let told = [
            wrong_after(|container, _| drop(container.networks.remove("net"))),
            wrong_after(|container, _| drop(container.networks.remove("more"))),
            wrong_after(|_, networks| drop(networks.remove("net"))),
            wrong_after(|container, _| at(container, "net").network = "another".into()),
            wrong_after(|container, _| at(container, "net").address = Some(Ipv4Addr::new(10, 0, 0, 2))),
            wrong_after(|container, _| at(container, "net").aliases = Some(vec!["0123456789ab".into()])),
        ];
        expect_test::expect![[r#"
            it is not connected to network net
            it is not connected to network more
            network net is gone
            network net was removed and made again
            it has address 10.0.0.2 instead of 10.0.0.11 in network net
            it lacks the DNS name db-1 in network net"#]]
        .assert_eq(&told.concat().join("\n"));
    }
}
