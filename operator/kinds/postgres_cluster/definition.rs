//! The spec of a member's container. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{container_name, network_name};
use crate::api::labels;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{MemberPlace, Network, PostgresCluster};
use crate::api::postgres_memory::default_shm;
use crate::engine::{Chosen, ContainerSpec, Daemon, HOST_NETWORK, Mount, Security};
use crate::kinds::containers::bounds::limits;
use crate::kinds::stores::{self, OWN, SOURCE};
use crate::supervisor::wire;

/// The size of `/dev/shm` in the hash of a container for which none is declared. It is that of the first release, so that
/// another default recreates no container.
const HASHED_SHM_BYTES: i64 = 256 << 20;
/// PostgreSQL's own way to be killed in the right order when memory runs out: a session before the postmaster and the
/// supervisor, as if it had one per cent of the memory more than it has. It needs no privilege, unlike a score below 0 for
/// those two: an engine that may not set one starts no container.
const OOM_ENVIRONMENT: [(&str, &str); 2] =
    [("PG_OOM_ADJUST_FILE", "/proc/self/oom_score_adj"), ("PG_OOM_ADJUST_VALUE", "10")];
/// What the supervisor needs as root: folders and files for the server's user, that user's rights, an end for its processes.
/// The server itself has no capability, and nothing in the container gains one.
const CAPABILITIES: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"];
/// Most processes of an instance for which none are declared.
const PROCESSES: i64 = 4_096;
/// Longer than the supervisor's own time-out of a fast stop.
pub const STOP_TIMEOUT_SECONDS: i64 = 30;

/// What an instance gets where the object declares nothing.
pub fn chosen(object: &PostgresCluster, daemon: &Daemon) -> Chosen {
    let shm = default_shm(object.spec.resources.memory(), daemon.memory_bytes);
    Chosen {
        shm_bytes: Some(shm).filter(|_| object.spec.shm_bytes().is_none()),
        env: OOM_ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Default::default()
    }
}

/// The directories of the host that have archives: its own, and the one that it is recovered from.
fn directories(object: &PostgresCluster) -> Vec<Mount> {
    let own = object.spec.backup.as_ref().map(|backup| (&backup.store, OWN, false));
    let source = object.spec.bootstrap.recovery.as_ref().and_then(|recovery| recovery.source.store.as_ref());
    stores::mounts(own.into_iter().chain(source.map(|store| (store, SOURCE, true))))
}

/// The desired container of a member, without what is chosen for it.
pub fn container_spec(object: &PostgresCluster, place: &MemberPlace, binary: &str) -> ContainerSpec {
    let name = container_name(object, &place.name);
    let on_host = place.network == Network::Host;
    let listen = place.address.zip(place.port).filter(|_| on_host);
    let listen = listen.map(|(address, port)| ["--listen".to_owned(), format!("{address}:{port}")]);
    let ports = object.spec.expose.as_ref().filter(|_| !on_host).and_then(|expose| {
        let address: IpAddr = expose.bind_address.parse().ok()?;
        let port = u16::try_from(u32::from(expose.host_port) + place.ordinal - 1).ok()?;
        Some((address, port, wire::PORT))
    });
    ContainerSpec {
        hostname: place.name.clone(),
        image: object.spec.image.clone(),
        entrypoint: ["/evenkeel/evenkeel", "supervisor", "--member", &place.name]
            .map(String::from)
            .into_iter()
            .chain(listen.into_iter().flatten())
            .collect(),
        env: BTreeMap::new(),
        labels: object
            .owner()
            .member_labels(&place.name)
            .into_iter()
            .chain([(labels::BINARY.into(), binary.into())])
            .collect(),
        volumes: vec![(name.clone(), wire::VOLUME.into(), false), (binary.into(), "/evenkeel".into(), true)],
        mounts: directories(object),
        tmpfs: BTreeMap::from([("/run/evenkeel".into(), "mode=0755,size=16m".into())]),
        network: if on_host { HOST_NETWORK.into() } else { network_name(object) },
        address: place.address.filter(|_| !on_host),
        aliases: Some(place.name.clone()).filter(|_| !on_host).into_iter().collect(),
        ports: ports.into_iter().collect(),
        shm_bytes: Some(object.spec.shm_bytes().unwrap_or(HASHED_SHM_BYTES)),
        open_files: object.spec.ulimits.nofile.map(i64::from),
        stop_timeout_seconds: STOP_TIMEOUT_SECONDS,
        // Safe by the protocol: a restarted instance serves no client before it is confirmed.
        restart: true,
        // The root file system stays writable: a tablespace may lie outside the volume.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::containers::testing::daemon;

    fn cluster(spec: &str) -> PostgresCluster {
        let spec = serde_saphyr::from_str(spec).unwrap_or_else(|error| panic!("{error}"));
        PostgresCluster::new("db", spec)
    }

    fn spec(object: &PostgresCluster) -> ContainerSpec {
        let place = MemberPlace {
            name: "db-1".into(),
            ordinal: 1,
            host: "local".into(),
            network: Network::Bridge,
            address: None,
            peer: None,
            port: None,
        };
        ContainerSpec { chosen: chosen(object, &daemon()), ..container_spec(object, &place, "evenkeel-bin-1") }
    }

    /// Regression 93: the default size of `/dev/shm` and the order in which Linux kills processes apply to containers
    /// that are made from now on. An upgrade of the operator must not replace every instance for them.
    #[test]
    fn what_is_chosen_replaces_no_container_and_what_is_declared_does() {
        let plain = cluster("{image: 'postgres:15'}");
        // A change recreates every instance of every user, one after the other. The last one gave up capabilities.
        expect_test::expect!["1da2d8d693e515af"].assert_eq(&spec(&plain).hash());
        let changes = [
            "shmSize: 1Gi",
            "resources: {limits: {memory: 1Gi}}",
            "resources: {limits: {cpu: 1}}",
            "ulimits: {nofile: 4096}",
        ];
        for change in changes {
            let changed = cluster(&format!("{{image: 'postgres:15', {change}}}"));
            assert_ne!(spec(&changed).hash(), spec(&plain).hash(), "{change}");
        }
    }

    #[test]
    fn shared_memory_is_what_was_declared_or_half_of_the_memory() {
        let chosen = |spec: &str| chosen(&cluster(spec), &daemon()).shm_bytes;
        assert_eq!(chosen("{image: 'postgres:15'}"), Some(2 << 30));
        assert_eq!(chosen("{image: 'postgres:15', resources: {limits: {memory: 3Gi}}}"), Some(3 << 29));
        let declared = cluster("{image: 'postgres:15', shmSize: 64Mi}");
        assert_eq!((spec(&declared).shm_bytes, spec(&declared).chosen.shm_bytes), (Some(64 << 20), None));
    }

    /// Regression 94: when memory ran out, Linux could kill the postmaster of an instance instead of the session that took
    /// the memory: to Linux both were the same.
    #[test]
    fn sessions_are_killed_before_the_postmaster_without_any_privilege() {
        let env = chosen(&cluster("{image: 'postgres:15'}"), &daemon()).env;
        let shown: Vec<_> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown, ["PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj", "PG_OOM_ADJUST_VALUE=10"]);
    }
}
