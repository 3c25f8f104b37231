//! Containers, volumes and the network: who lives where, what each container is to be, and the steps that get there. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::{Fact, Observed, RESOURCE, Step, container_name, name, namespace, network_name};
use crate::api::labels::{self, Owner};
use crate::api::postgres_cluster::{Decisions, MemberPlace, PostgresCluster, ReclaimPolicy, Stage};
use crate::engine::{ContainerSeen, ContainerSpec, ContainerState, NetworkSpec, VolumeSpec};
use crate::supervisor::wire;

/// The first fixed address of a subnet is this far from its start; lower ones are the gateway's and whoever knows.
const FIRST_ADDRESS: u32 = 10;
/// Shared memory for parallel queries; Docker's 64 MiB are too few.
const SHM_BYTES: i64 = 256 << 20;
/// Longer than the supervisor's own bound for a fast stop.
const STOP_TIMEOUT_SECONDS: i64 = 30;

/// The owner named in the labels of everything of this cluster.
pub fn owner(object: &PostgresCluster) -> Owner {
    Owner { kind: "PostgresCluster".into(), namespace: namespace(object).into(), name: name(object).into() }
}

/// Decides which members there are: enough for the spec, and, before anything is decided, every one whose volume holds data.
pub fn place(object: &PostgresCluster, observed: &Observed, decisions: &mut Decisions) {
    let subnet = observed.network.known().copied().flatten();
    let mut ordinals: BTreeSet<u32> = decisions.members.iter().map(|place| place.ordinal).collect();
    if decisions.stage == Stage::New {
        let known = observed.volumes.known().into_iter().flatten();
        ordinals.extend(known.filter_map(|volume| ordinal_of(object, volume)));
    }
    let mut candidate = 1;
    while ordinals.len() < object.spec.instances as usize {
        ordinals.insert(candidate);
        candidate += 1;
    }
    decisions.members = ordinals
        .into_iter()
        .map(|ordinal| MemberPlace {
            name: format!("{}-{ordinal}", name(object)),
            ordinal,
            host: "local".into(),
            address: subnet.map(|(base, _)| address(base, ordinal)),
        })
        .collect();
}

fn ordinal_of(object: &PostgresCluster, volume: &str) -> Option<u32> {
    volume.strip_prefix(&container_name(object, name(object)))?.strip_prefix('-')?.parse().ok()
}

fn address(base: Ipv4Addr, ordinal: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base).saturating_add(FIRST_ADDRESS + ordinal))
}

/// Members that the spec has no room for: the highest ordinals, never the leader.
pub fn leaving(object: &PostgresCluster, decisions: &Decisions) -> BTreeSet<String> {
    let leader = decisions.leader.as_ref().map(|leader| leader.member.as_str());
    let surplus = decisions.members.len().saturating_sub(object.spec.instances as usize);
    let others = decisions.members.iter().rev().filter(|place| Some(place.name.as_str()) != leader);
    others.take(surplus).map(|place| place.name.clone()).collect()
}

/// What the container of a member is to be.
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
        labels: member_labels(object, &place.name)
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
        // Harmless by the protocol: what comes back serves nobody before it is confirmed.
        restart: true,
        name,
        ..Default::default()
    }
}

fn member_labels(object: &PostgresCluster, member: &str) -> BTreeMap<String, String> {
    let mut labels = owner(object).labels();
    labels.insert(labels::MEMBER.into(), member.into());
    labels
}

/// Why the container is not what it should be, if it is not.
pub fn stale(container: &ContainerSeen, spec: &ContainerSpec) -> Option<String> {
    let hash = container.labels.get(labels::SPEC_HASH).map(String::as_str).unwrap_or_default();
    if hash == spec.hash() {
        return None;
    }
    Some(if container.image == spec.image {
        "its definition changed".into()
    } else {
        format!("image {} instead of {}", spec.image, container.image)
    })
}

/// The steps towards a running container for every member. `restart_dead`: whether dead containers are to be started or
/// made anew now; while an election can do without them they only take its time.
pub fn steps(object: &PostgresCluster, observed: &Observed, decisions: &Decisions, restart_dead: bool) -> Vec<Step> {
    let (Fact::Known(containers), Fact::Known(volumes), Fact::Known(network)) =
        (&observed.containers, &observed.volumes, &observed.network)
    else {
        return Vec::new();
    };
    let mut steps = Vec::new();
    let missing: Vec<_> = decisions
        .members
        .iter()
        .filter(|place| !containers.contains_key(&container_name(object, &place.name)))
        .collect();
    let image = observed.image == Fact::Known(true);
    if !missing.is_empty() && !image {
        steps.push(Step::EnsureImage(object.spec.image.clone()));
    }
    if observed.binary.is_none() && (image || !missing.is_empty()) {
        steps.push(Step::EnsureBinary { image: object.spec.image.clone() });
    }
    if network.is_none() {
        steps.push(Step::EnsureNetwork(NetworkSpec { name: network_name(object), labels: owner(object).labels() }));
    }
    let hosts: Option<Vec<String>> =
        decisions.members.iter().map(|place| place.address.map(|address| address.to_string())).collect();
    if let Some(host) = hosts.map(|hosts| hosts.join(","))
        && (!observed.secrets.complete || observed.secrets.host != host)
    {
        steps.push(Step::EnsureSecrets { host });
    }
    if let Some(binary) = observed.binary.as_ref().filter(|_| network.is_some()) {
        for place in missing {
            let spec = container_spec(object, place, binary);
            if !volumes.contains(&spec.name) {
                let labels = member_labels(object, &place.name);
                steps.push(Step::EnsureVolume(VolumeSpec { name: spec.name.clone(), labels }));
            }
            let name = spec.name.clone();
            steps.push(Step::CreateContainer(Box::new(spec)));
            steps.push(Step::StartContainer(name));
        }
    }
    for (name, container) in containers {
        match container.state {
            ContainerState::Created => steps.push(Step::StartContainer(name.clone())),
            ContainerState::Exited if restart_dead => steps.push(Step::StartContainer(name.clone())),
            // Docker began to remove it and did not end: it never starts again, and its name is free only without it.
            ContainerState::Dead if restart_dead => {
                let why = "Docker has half removed it".into();
                steps.push(Step::RemoveContainer { name: name.clone(), why });
            }
            _ => {}
        }
    }
    steps
}

/// The containers (and, if the object says so, volumes) of members that are no more.
pub fn removals(object: &PostgresCluster, observed: &Observed, decisions: &Decisions) -> Vec<Step> {
    let Some(containers) = observed.containers.known() else { return Vec::new() };
    let wanted: BTreeSet<_> = decisions.members.iter().map(|place| container_name(object, &place.name)).collect();
    let extra = |name: &&String| !wanted.contains(*name);
    let mut steps: Vec<_> = containers
        .keys()
        .filter(extra)
        .map(|name| Step::RemoveContainer { name: name.clone(), why: "scaled down".into() })
        .collect();
    if object.spec.storage.reclaim_policy == ReclaimPolicy::Delete {
        let volumes = observed.volumes.known().into_iter().flatten();
        steps.extend(volumes.filter(extra).map(|name| Step::RemoveVolume(name.clone())));
    }
    steps
}

/// Everything goes: containers, then, if the object says so, the data, then the network.
pub fn teardown(object: &PostgresCluster, observed: &Observed) -> Option<Vec<Step>> {
    let (Fact::Known(containers), Fact::Known(volumes), Fact::Known(network)) =
        (&observed.containers, &observed.volumes, &observed.network)
    else {
        return None;
    };
    let mut steps: Vec<_> = containers
        .keys()
        .map(|name| Step::RemoveContainer {
            name: name.clone(),
            why: format!("{RESOURCE} {} is deleted", self::name(object)),
        })
        .collect();
    if object.spec.storage.reclaim_policy == ReclaimPolicy::Delete {
        steps.extend(volumes.iter().map(|name| Step::RemoveVolume(name.clone())));
    }
    if network.is_some() {
        steps.push(Step::RemoveNetwork(network_name(object)));
    }
    Some(steps)
}
