//! The spec of a member's container. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{container_name, network_name};
use crate::api::labels;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{MemberPlace, PostgresCluster};
use crate::engine::ContainerSpec;
use crate::supervisor::wire;

/// Shared memory for parallel queries, in bytes; Docker's default of 64 MiB is too small.
const SHM_BYTES: i64 = 256 << 20;
/// Longer than the supervisor's own time-out of a fast stop.
pub const STOP_TIMEOUT_SECONDS: i64 = 30;

/// The desired container of a member.
pub fn container_spec(object: &PostgresCluster, place: &MemberPlace, binary: &str) -> ContainerSpec {
    let name = container_name(object, &place.name);
    let ports = object.spec.expose.as_ref().and_then(|expose| {
        let address: IpAddr = expose.bind_address.parse().ok()?;
        let port = u16::try_from(u32::from(expose.host_port) + place.ordinal - 1).ok()?;
        Some((address, port, wire::PORT))
    });
    ContainerSpec {
        hostname: place.name.clone(),
        image: object.spec.image.clone(),
        entrypoint: ["/evenkeel/evenkeel", "supervisor", "--member", &place.name].map(String::from).to_vec(),
        env: BTreeMap::new(),
        labels: object
            .owner()
            .member_labels(&place.name)
            .into_iter()
            .chain([(labels::BINARY.into(), binary.into())])
            .collect(),
        volumes: vec![(name.clone(), wire::VOLUME.into(), false), (binary.into(), "/evenkeel".into(), true)],
        tmpfs: BTreeMap::from([("/run/evenkeel".into(), "mode=0755,size=16m".into())]),
        network: network_name(object),
        address: place.address,
        aliases: vec![place.name.clone()],
        ports: ports.into_iter().collect(),
        shm_bytes: Some(SHM_BYTES),
        stop_timeout_seconds: STOP_TIMEOUT_SECONDS,
        // Safe by the protocol: a restarted instance serves no client before it is confirmed.
        restart: true,
        name,
        ..Default::default()
    }
}
