//! The spec of a member's container. Pure.

use std::collections::BTreeMap;

use super::{container_name, network_name};
use crate::api::labels;
use crate::api::object::Object as _;
use crate::api::placement::Network;
use crate::api::redis_cluster::RedisCluster;
use crate::api::redis_status::RedisPlace;
use crate::engine::{ContainerSpec, HOST_NETWORK, Security};
use crate::kinds::containers::bounds::limits;
use crate::supervisor::redis::cluster::wire;

/// What the supervisor needs as root: folders and files for the server's user, that user's rights, an end for its processes.
/// The server itself has no capability, and nothing in the container gains one.
const CAPABILITIES: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"];
/// Most processes of a member for which none are declared.
const PROCESSES: i64 = 512;
/// Time to save the data at a stop, in seconds.
pub const STOP_TIMEOUT_SECONDS: i64 = 30;

/// The desired container of a member.
pub fn container_spec(object: &RedisCluster, place: &RedisPlace, binary: &str) -> ContainerSpec {
    let name = container_name(object, &place.name);
    let on_host = place.network == Network::Host;
    let listen = place.listens().map(|at| ["--listen".to_owned(), at]);
    let labels = object.owner().member_labels(&place.name).into_iter();
    ContainerSpec {
        hostname: place.name.clone(),
        image: object.spec.image.clone(),
        entrypoint: ["/evenkeel/evenkeel", "supervisor-cluster", "--member", &place.name]
            .map(String::from)
            .into_iter()
            .chain(listen.into_iter().flatten())
            .collect(),
        labels: labels.chain([(labels::BINARY.into(), binary.into())]).collect(),
        volumes: vec![(name.clone(), wire::VOLUME.into(), false), (binary.into(), "/evenkeel".into(), true)],
        tmpfs: BTreeMap::from([("/run/evenkeel".into(), "mode=0755,size=16m".into())]),
        network: if on_host { HOST_NETWORK.into() } else { network_name(object) },
        address: place.address.filter(|_| !on_host),
        aliases: Some(place.name.clone()).filter(|_| !on_host).into_iter().collect(),
        stop_timeout_seconds: STOP_TIMEOUT_SECONDS,
        // Safe: a supervisor starts no server without an order that names its run.
        restart: true,
        security: Security {
            cap_drop: vec!["ALL".into()],
            cap_add: CAPABILITIES.map(String::from).to_vec(),
            no_new_privileges: true,
            ..Default::default()
        },
        pids_limit: object.spec.resources.pids().or(Some(PROCESSES)),
        name,
        ..limits(&object.spec.resources)
    }
}
