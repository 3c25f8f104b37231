//! The containers of a balancer: what each is to be, and the steps that get there. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::dialect::Dialect;
use super::names::{CONFIG_DIR, RUN_DIR, container, member, name, namespace};
use super::render::dialect;
use super::{Fact, LoadBalancer, Observed, RESOURCE, Step};
use crate::api::endpoints::Routable;
use crate::api::labels::{self, Owner};
use crate::api::load_balancer::TargetObject;
use crate::engine::{Attachment, BINARY_DIR, ContainerSeen, ContainerSpec, ContainerState, Security, VolumeSpec};
use crate::kinds::{network_of, network_spec};

/// Grace for open connections when a balancer is stopped, in seconds.
pub const STOP_SECONDS: i64 = 30;

/// The owner named in the labels of everything of this balancer.
pub fn owner(object: &LoadBalancer) -> Owner {
    Owner { kind: "LoadBalancer".into(), namespace: namespace(object).into(), name: name(object).into() }
}

/// The balancers there are to be: (member, container).
pub fn members(object: &LoadBalancer) -> Vec<(String, String)> {
    let of = |ordinal| {
        let member = member(object, ordinal);
        (member.clone(), container(object, &member))
    };
    (1..=object.spec.replicas).map(of).collect()
}

/// The networks of the objects that it names, beside that of its namespace.
pub fn networks(object: &LoadBalancer, targets: &BTreeMap<TargetObject, Routable>) -> BTreeSet<String> {
    let there = targets.values().filter(|one| !one.deleting());
    let networks = there.filter_map(|one| Some(one.endpoints()?.network.clone()));
    networks.filter(|network| *network != network_of(namespace(object))).collect()
}

/// Some database that it names has not said yet in which network it is.
fn networks_missing(object: &LoadBalancer, observed: &Observed) -> bool {
    let databases = object.spec.backends.iter().filter(|backend| backend.is_database());
    let mut named = databases.filter_map(|backend| observed.targets.get(&backend.target()?.object()?));
    named.any(|database| !database.deleting() && database.endpoints().is_none())
}

/// What the container of a balancer is to be, with our program from this volume; `None` while that cannot be known.
pub fn container_spec(object: &LoadBalancer, observed: &Observed, ordinal: u32, binary: &str) -> Option<ContainerSpec> {
    let known = observed.networks.known()?;
    let networks = networks(object, &observed.targets);
    if networks_missing(object, observed) || networks.iter().any(|network| !known.contains_key(network)) {
        return None;
    }
    let there = networks.into_iter().filter(|network| known.get(network) == Some(&true));
    let networks = there.map(|network| Attachment { network, aliases: Vec::new() }).collect();
    let member = member(object, ordinal);
    let name = container(object, &member);
    let spec = &object.spec;
    let dialect = dialect(spec.engine);
    let listened = spec.frontends.iter().filter_map(|one| Some((host_address(object), one.host_port?, one.port)));
    let stats =
        spec.stats.iter().filter_map(|stats| Some((IpAddr::from(Ipv4Addr::LOCALHOST), stats.host_port?, stats.port)));
    let published = |(address, first, inside): (IpAddr, u16, u16)| {
        Some((address, u16::try_from(u32::from(first) + ordinal - 1).ok()?, inside))
    };
    Some(ContainerSpec {
        hostname: member.clone(),
        image: spec.image().into(),
        entrypoint: entrypoint(dialect),
        labels: member_labels(object, &member).into_iter().chain([(labels::BINARY.into(), binary.into())]).collect(),
        volumes: vec![(name.clone(), CONFIG_DIR.into(), false), (binary.into(), BINARY_DIR.into(), true)],
        tmpfs: BTreeMap::from([(RUN_DIR.into(), "mode=0700,size=16m".into())]),
        network: network_of(namespace(object)),
        networks,
        aliases: vec![self::name(object).into(), member],
        ports: listened.chain(stats).filter_map(published).collect(),
        stop_timeout_seconds: STOP_SECONDS,
        // It must be there when nobody looks after it, too.
        restart: true,
        // Root without any privilege: its files are its own, and a low port needs none in a container.
        user: Some("0:0".into()),
        security: Security {
            cap_drop: vec!["ALL".into()],
            cap_add: dialect.capabilities(),
            read_only: true,
            no_new_privileges: true,
            ..Default::default()
        },
        name,
        ..Default::default()
    })
}

fn host_address(object: &LoadBalancer) -> IpAddr {
    object.spec.bind_address.parse().unwrap_or(IpAddr::from(Ipv4Addr::LOCALHOST))
}

/// Starts with the file that is there if the engine takes it, else with one that listens to nobody.
fn entrypoint(dialect: &dyn Dialect) -> Vec<String> {
    let (check, run) = (dialect.check(r#""$1""#), dialect.run(r#""$1""#));
    let script =
        format!(r#"umask 077; chmod 700 {CONFIG_DIR}; {check} >/dev/null 2>&1 || printf %s "$0" > "$1"; exec {run}"#);
    let file = format!("{CONFIG_DIR}/{}", dialect.file());
    vec!["sh".into(), "-c".into(), script, dialect.bootstrap().into(), file]
}

fn member_labels(object: &LoadBalancer, member: &str) -> BTreeMap<String, String> {
    let mut labels = owner(object).labels();
    labels.insert(labels::MEMBER.into(), member.into());
    labels
}

/// Why the container is not what it should be, if it is not.
pub fn stale(seen: &ContainerSeen, spec: &ContainerSpec) -> Option<String> {
    let hash = seen.labels.get(labels::SPEC_HASH).map(String::as_str).unwrap_or_default();
    if hash == spec.hash() {
        return None;
    }
    Some(if seen.image == spec.image {
        "its definition changed".into()
    } else {
        format!("image {} instead of {}", spec.image, seen.image)
    })
}

/// The steps towards a running container for every balancer. `settled`: all of them balance, so that one may go.
pub fn steps(object: &LoadBalancer, observed: &Observed, settled: impl Fn(&str) -> bool) -> Vec<Step> {
    let (Fact::Known(containers), Fact::Known(volumes), Fact::Known(networks)) =
        (&observed.containers, &observed.volumes, &observed.networks)
    else {
        return Vec::new();
    };
    let mut steps = removals(object, observed, containers, volumes);
    let members = members(object);
    let missing = members.iter().any(|(_, container)| !containers.contains_key(container));
    let image = observed.image == Fact::Known(true);
    if missing && !image {
        steps.push(Step::EnsureImage(object.spec.image().into()));
    }
    if observed.binary.is_none() {
        steps.push(Step::EnsureBinary { image: object.spec.image().into() });
    }
    let network = network_of(namespace(object));
    if missing && networks.get(&network) != Some(&true) {
        steps.push(Step::EnsureNetwork(network_spec(namespace(object))));
    }
    let mut replaced = false;
    for (ordinal, (member, container)) in (1..).zip(&members) {
        let seen = containers.get(container);
        // One that runs keeps the program that it has.
        let binary = seen.and_then(|seen| seen.labels.get(labels::BINARY)).or(observed.binary.as_ref());
        let spec = binary.and_then(|binary| container_spec(object, observed, ordinal, binary));
        match (seen, spec) {
            (None, Some(spec)) => {
                if !volumes.contains(container) {
                    let labels = member_labels(object, member);
                    steps.push(Step::EnsureVolume(VolumeSpec { name: container.clone(), labels }));
                }
                steps.push(Step::CreateContainer(Box::new(spec)));
                steps.push(Step::StartContainer(container.clone()));
            }
            (Some(seen), spec) => {
                let old = spec.and_then(|spec| stale(seen, &spec));
                let runs = runs(seen);
                match (seen.state, old) {
                    // Docker began to remove it and did not end: it never starts again, and its name is free only without it.
                    (ContainerState::Dead, _) => {
                        let why = "Docker has half removed it".into();
                        steps.push(Step::RemoveContainer { name: container.clone(), why });
                    }
                    (_, None) if !runs => steps.push(Step::StartContainer(container.clone())),
                    (_, None) => {}
                    // Nothing is taken away before what replaces it can be had.
                    (_, Some(_)) if !image => steps.push(Step::EnsureImage(object.spec.image().into())),
                    (_, Some(why)) if !runs => {
                        steps.push(Step::RemoveContainer { name: container.clone(), why });
                    }
                    (_, Some(why)) => {
                        let others = members.iter().all(|(_, other)| other == container || settled(other));
                        if others && !replaced && !observed.stopping.contains(container) {
                            replaced = true;
                            steps.push(Step::StopContainer { name: container.clone(), why });
                        }
                    }
                }
            }
            (None, None) => {}
        }
    }
    steps
}

fn runs(seen: &ContainerSeen) -> bool {
    !matches!(seen.state, ContainerState::Created | ContainerState::Exited | ContainerState::Dead)
}

/// What there is of balancers that the spec has no room for.
fn removals(
    object: &LoadBalancer,
    observed: &Observed,
    containers: &BTreeMap<String, ContainerSeen>,
    volumes: &BTreeSet<String>,
) -> Vec<Step> {
    let wanted: BTreeSet<_> = members(object).into_iter().map(|(_, container)| container).collect();
    let mut steps = Vec::new();
    for (name, seen) in containers.iter().filter(|(name, _)| !wanted.contains(*name)) {
        let (name, why) = (name.clone(), "scaled down".into());
        match runs(seen) {
            true if observed.stopping.contains(&name) => {}
            true => steps.push(Step::StopContainer { name, why }),
            false => steps.push(Step::RemoveContainer { name, why }),
        }
    }
    let left = volumes.iter().filter(|name| !wanted.contains(*name) && !containers.contains_key(*name));
    steps.extend(left.map(|name| Step::RemoveVolume(name.clone())));
    steps
}

/// Everything goes; the network too, if nobody else is in it.
pub fn teardown(object: &LoadBalancer, observed: &Observed) -> Option<Vec<Step>> {
    let (Fact::Known(containers), Fact::Known(volumes)) = (&observed.containers, &observed.volumes) else {
        return None;
    };
    let why = format!("{RESOURCE} {} is deleted", name(object));
    let gone = |name: &String| Step::RemoveContainer { name: name.clone(), why: why.clone() };
    let mut steps: Vec<_> = containers.keys().map(gone).collect();
    steps.extend(volumes.iter().map(|name| Step::RemoveVolume(name.clone())));
    if !steps.is_empty() {
        steps.push(Step::RemoveNetwork(network_of(namespace(object))));
    }
    Some(steps)
}
