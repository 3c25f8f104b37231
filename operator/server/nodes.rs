//! Keeps the kubeconfig of this operator naming all operators over its store. Which ones those are is decided by [`named`], which is
//! pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use super::Server;
use super::cluster::Cluster;
use super::identity::kubeconfig::Nodes;
use crate::api::chain::chain;
use crate::api::cluster::NodeInfo;
use crate::store;

/// Interval of looking who the other operators are.
const LOOK: Duration = Duration::from_secs(3);
/// How long an operator that does not run is still named, where it has no member of etcd that would say that its node is one.
const SILENT: Duration = Duration::from_secs(3600);

/// An operator that was seen: its address, and when it was last seen to run, by the boot clock.
type Seen = (String, Duration);

/// Looks again and again, for ever. A single operator has no others.
pub(super) async fn keep(server: &Server) {
    let Some(cluster) = &server.cluster else {
        // It may have had others before.
        write(server, &Nodes::new());
        return;
    };
    let now = server.clock.boot();
    let mut seen: BTreeMap<_, Seen> =
        server.authority.nodes().into_iter().map(|(name, address)| (name, (address, now))).collect();
    loop {
        if let (Ok(running), Ok(members)) = (cluster.nodes.list().await, members(cluster).await) {
            seen = named(seen, running, members.as_deref(), server.clock.boot());
            write(server, &seen.iter().map(|(name, (address, _))| (name.clone(), address.clone())).collect());
        }
        sleep(LOOK).await;
    }
}

/// The names of the nodes that have a member of etcd; `None`: these members have names of the user's.
async fn members(cluster: &Cluster) -> Result<Option<Vec<String>>, store::Error> {
    if !cluster.managed {
        return Ok(None);
    }
    Ok(Some(cluster.members.list().await?.into_iter().map(|member| member.name).collect()))
}

fn write(server: &Server, nodes: &Nodes) {
    match server.authority.set_nodes(nodes) {
        Ok(true) => tracing::info!(nodes = nodes.len(), "the kubeconfig names the operators of all nodes"),
        Ok(false) => {}
        Err(error) => tracing::warn!(error = %chain(&error), "the kubeconfig could not be written"),
    }
}

/// The operators to name: those that run, and those that were seen before and whose node is still one of the cluster's. `members`: the
/// names of the nodes that have a member of etcd, if Evenkeel manages it. Pure.
fn named(
    before: BTreeMap<String, Seen>,
    running: Vec<NodeInfo>,
    members: Option<&[String]>,
    now: Duration,
) -> BTreeMap<String, Seen> {
    let stays = |name: &String, at: Duration| match members {
        Some(members) => members.contains(name),
        None => now < at + SILENT,
    };
    let mut named: BTreeMap<_, _> = before.into_iter().filter(|(name, (_, at))| stays(name, *at)).collect();
    // An operator that listens on all addresses and advertises none says 0.0.0.0, which is another machine to everybody.
    let is_nowhere = |node: &NodeInfo| node.address.parse().is_ok_and(|at: SocketAddr| at.ip().is_unspecified());
    let reached = running.into_iter().filter(|node| !is_nowhere(node));
    named.extend(reached.map(|node| (node.name, (node.address, now))));
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_whose_address_is_that_of_no_machine_is_not_named() {
        let node = |address: &str| NodeInfo {
            name: "a".into(),
            address: address.into(),
            version: String::new(),
            started: String::new(),
        };
        let count = |address| named(BTreeMap::new(), vec![node(address)], None, Duration::ZERO).len();
        assert_eq!(["0.0.0.0:7443", "[::]:7443", "10.0.0.1:7443", "a.example:7443"].map(count), [0, 0, 1, 1]);
    }

    /// A node that is down for a moment is asked again later, and one that was removed must not be.
    #[test]
    fn a_node_that_is_down_stays_named_and_one_that_was_removed_does_not() {
        let node = |name: &str| NodeInfo {
            name: name.into(),
            address: format!("{name}:7443"),
            version: String::new(),
            started: String::new(),
        };
        let names = |seen: &BTreeMap<String, Seen>| seen.keys().cloned().collect::<Vec<_>>().join(" ");
        let members = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let at = Duration::from_secs;
        let all = named(BTreeMap::new(), vec![node("a"), node("b")], Some(&members(&["a", "b"])), at(0));
        let down = named(all.clone(), vec![node("a")], Some(&members(&["a", "b"])), at(9000));
        assert_eq!((names(&all), names(&down)), ("a b".into(), "a b".into()));
        assert_eq!(names(&named(down, vec![node("a")], Some(&members(&["a"])), at(9001))), "a");
        // The members of an etcd of the user's have names of the user's.
        let silent = named(all.clone(), vec![node("a")], None, at(3599));
        assert_eq!(
            (names(&silent), names(&named(silent.clone(), vec![node("a")], None, at(3600)))),
            ("a b".into(), "a".into())
        );
    }
}
