//! The endpoints of a cluster for balancers: which member takes writes, which take reads. Pure.

use std::collections::BTreeSet;

use super::network_name;
use crate::api::endpoints::{Endpoint, EndpointRole, EndpointSet, EndpointState};
use crate::api::postgres_cluster::{
    Decisions, InstanceState, InstanceStatus, MemberPlace, Network, PostgresCluster, Stage,
};

/// One endpoint per member. The writer is the leader of a term in `Steady`; there is no writer from the start of an
/// election until its leader serves. Reads go to streaming standbys, and to the primary while there are none.
pub fn endpoint_set(object: &PostgresCluster, decisions: &Decisions, instances: &[InstanceStatus]) -> EndpointSet {
    let state_of = |name: &str| {
        let instance = instances.iter().find(|instance| instance.name == name);
        instance.map(|instance| instance.state).unwrap_or_default()
    };
    let leader = decisions.leader.as_ref().filter(|_| decisions.stage == Stage::Steady);
    let streaming = decisions.members.iter().any(|member| state_of(&member.name) == InstanceState::Streaming);
    let endpoint = |member: &MemberPlace| {
        let state = state_of(&member.name);
        let mut roles = BTreeSet::new();
        if leader.is_some_and(|leader| leader.member == member.name) {
            roles.insert(EndpointRole::Primary);
        }
        if state != InstanceState::Running || !streaming {
            roles.insert(EndpointRole::Replica);
        }
        Endpoint {
            published: Vec::new(),
            name: member.name.clone(),
            host: member.host.clone(),
            address: member.address,
            port: Some(member.listens_on()),
            roles,
            state: match state {
                InstanceState::Running | InstanceState::Streaming => EndpointState::Serving,
                InstanceState::Unknown | InstanceState::Paused => EndpointState::Unknown,
                _ => EndpointState::Out,
            },
        }
    };
    let endpoints = decisions.members.iter().map(endpoint).collect();
    // Addresses of hosts are reached from everywhere. Members on a Docker network keep its name until the last has left it.
    let on_hosts = decisions.members.iter().all(|member| member.network == Network::Host);
    let network = if on_hosts { String::new() } else { network_name(object) };
    EndpointSet { network, epoch: decisions.term, endpoints }
}
