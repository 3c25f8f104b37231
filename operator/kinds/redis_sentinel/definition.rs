//! The spec of a member's container. Pure.

use std::collections::BTreeMap;

use super::{container_name, network_name, stores};
use crate::api::labels;
use crate::api::object::Object as _;
use crate::api::placement::Network;
use crate::api::redis_sentinel::{RedisPlace, RedisSentinel};
use crate::engine::{ContainerSpec, HOST_NETWORK, Security};
use crate::kinds::containers::bounds::limits;
use crate::supervisor::redis::wire;

/// What the supervisor needs as root: folders and files for the server's user, that user's rights, an end for its processes.
/// The server itself has no capability, and nothing in the container gains one.
const CAPABILITIES: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"];
/// Most processes of a member for which none are declared.
const PROCESSES: i64 = 512;
/// Time to save the data at a stop, in seconds.
pub const STOP_TIMEOUT_SECONDS: i64 = 30;

/// What runs in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A data member.
    Data,
    /// A Sentinel.
    Sentinel,
}

/// The desired container of a member.
pub fn container_spec(object: &RedisSentinel, place: &RedisPlace, part: Part, binary: &str) -> ContainerSpec {
    let name = container_name(object, &place.name);
    let on_host = place.network == Network::Host;
    let listen = place.listens().map(|at| ["--listen".to_owned(), at]);
    let verb = match part {
        Part::Data => "supervisor-redis",
        Part::Sentinel => "supervisor-sentinel",
    };
    let resources = match part {
        Part::Data => object.spec.resources.clone(),
        Part::Sentinel => Default::default(),
    };
    ContainerSpec {
        hostname: place.name.clone(),
        image: object.spec.image.clone(),
        entrypoint: ["/evenkeel/evenkeel", verb, "--member", &place.name]
            .map(String::from)
            .into_iter()
            .chain(listen.into_iter().flatten())
            .collect(),
        labels: object
            .owner()
            .member_labels(&place.name)
            .into_iter()
            .chain([(labels::BINARY.into(), binary.into())])
            .collect(),
        volumes: vec![(name.clone(), wire::VOLUME.into(), false), (binary.into(), "/evenkeel".into(), true)],
        mounts: if part == Part::Data { stores::directories(object) } else { Vec::new() },
        tmpfs: BTreeMap::from([("/run/evenkeel".into(), "mode=0755,size=16m".into())]),
        network: if on_host { HOST_NETWORK.into() } else { network_name(object) },
        address: place.address.filter(|_| !on_host),
        aliases: Some(place.name.clone()).filter(|_| !on_host).into_iter().collect(),
        stop_timeout_seconds: STOP_TIMEOUT_SECONDS,
        // Safe by the protocol: a supervisor starts no server without an order that names its run.
        restart: true,
        security: Security {
            cap_drop: vec!["ALL".into()],
            cap_add: CAPABILITIES.map(String::from).to_vec(),
            no_new_privileges: true,
            ..Default::default()
        },
        pids_limit: object.spec.resources.pids().filter(|_| part == Part::Data).or(Some(PROCESSES)),
        name,
        ..limits(&resources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::places::Place as _;

    /// An update of Evenkeel replaces no container on a Docker network because other objects live on several hosts.
    #[test]
    fn the_container_on_a_docker_network_is_what_it_was_and_on_a_hosts_network_it_listens_there() {
        let spec = serde_saphyr::from_str("image: redis:7").unwrap_or_else(|error| panic!("{error}"));
        let object = RedisSentinel::new("cache", spec);
        let bridged = RedisPlace {
            network: Network::Bridge,
            address: Some([172, 30, 0, 11].into()),
            port: wire::PORT,
            ..RedisPlace::new("cache-1".into(), 1, "local".into())
        };
        let hash = |place: &RedisPlace, part| container_spec(&object, place, part, "evenkeel-bin-1").hash();
        expect_test::expect!["1c412809c0c55696"].assert_eq(&hash(&bridged, Part::Data));
        expect_test::expect!["ae4d165de8e610cd"].assert_eq(&hash(&bridged, Part::Sentinel));
        let mut placed = RedisPlace::new("cache-1".into(), 1, "h1".into());
        placed.put(Some([10, 99, 0, 11].into()), &[Some(20431)]);
        let spec = container_spec(&object, &placed, Part::Data, "evenkeel-bin-1");
        assert_eq!((spec.network.as_str(), spec.address, spec.aliases.len()), (HOST_NETWORK, None, 0));
        assert_eq!(
            spec.entrypoint.join(" "),
            "/evenkeel/evenkeel supervisor-redis --member cache-1 --listen 10.99.0.11:20431"
        );
    }
}
