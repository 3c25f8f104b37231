//! Decides the containers of a LoadBalancer: their specs, and the steps that create them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::dialect::Dialect;
use super::names::{CONFIG_DIR, RUN_DIR};
use super::places::Place;
use super::render::dialect;
use super::{LoadBalancer, Observed, Step, Targets, published};
use crate::api::endpoints::EndpointSet;
use crate::api::labels;
use crate::api::object::Object as _;
use crate::engine::{Attachment, BINARY_DIR, Chosen, ContainerSpec, NetworkSpec, Security};
use crate::kinds::containers::bounds::limits;
use crate::kinds::containers::converge::{self, Common, Volumes, removals};
use crate::kinds::containers::{Deed, DockerSeen, Member, Needs, networks};
use crate::kinds::{network_of, network_spec};

/// Limit of processes and threads of a balancer, unless its resources name one.
const PIDS: i64 = 1024;
/// Grace for open connections when a balancer is stopped, in seconds.
const STOP_SECONDS: i64 = 30;

/// The networks of the objects that it refers to, without that of its namespace. `host`: only those that are needed there.
fn networks(object: &LoadBalancer, targets: &Targets, host: Option<&str>) -> BTreeSet<String> {
    // A network belongs to one host: without an endpoint there, it is not needed there.
    let near = |set: &&EndpointSet| {
        set.endpoints.is_empty() || host.is_none_or(|host| set.endpoints.iter().any(|one| one.host == host))
    };
    let there = targets.values().filter(|one| !one.deleting());
    let networks = there.filter_map(|one| Some(one.endpoints().filter(near)?.network.clone()));
    // Addresses without a network are addresses of hosts.
    networks.filter(|network| !network.is_empty() && *network != network_of(object.namespace())).collect()
}

/// Whether a database that it refers to has not reported its network yet.
fn networks_missing(object: &LoadBalancer, observed: &Observed) -> bool {
    let databases = object.spec.backends.iter().filter(|backend| backend.is_database());
    let mut named = databases.filter_map(|backend| observed.targets.get(&backend.target()?.object()?));
    named.any(|database| !database.deleting() && database.endpoints().is_none())
}

/// The spec of a balancer's container, with Evenkeel's binary from this volume; `None` while it cannot be known.
pub fn container_spec(
    object: &LoadBalancer,
    observed: &Observed,
    place: &Place,
    binary: &str,
) -> Option<ContainerSpec> {
    let known = observed.docker(place)?.networks.known()?;
    if networks_missing(object, observed) {
        return None;
    }
    let needed = networks(object, &observed.targets, place.host.as_deref());
    let there = needed.into_iter().filter(|network| known.contains_key(network));
    let networks = there.map(|network| Attachment { network, aliases: Vec::new(), address: None }).collect();
    let (member, name) = (place.member.clone(), place.container.clone());
    let spec = &object.spec;
    let dialect = dialect(spec.engine);
    Some(ContainerSpec {
        hostname: member.clone(),
        image: spec.image().into(),
        entrypoint: entrypoint(dialect),
        labels: object
            .owner()
            .member_labels(&member)
            .into_iter()
            .chain([(labels::BINARY.into(), binary.into())])
            .collect(),
        volumes: vec![(name.clone(), CONFIG_DIR.into(), false), (binary.into(), BINARY_DIR.into(), true)],
        tmpfs: BTreeMap::from([(RUN_DIR.into(), "mode=0700,size=16m".into())]),
        network: network_of(object.namespace()),
        networks,
        aliases: vec![object.name().into(), member],
        ports: published::ports(object, observed, place).ok()?,
        stop_timeout_seconds: STOP_SECONDS,
        // Docker restarts it even while the operator is down.
        restart: true,
        // Root without any privilege: its files belong to root, and in a container a low port needs no privilege.
        user: Some("0:0".into()),
        security: Security {
            cap_drop: vec!["ALL".into()],
            cap_add: dialect.capabilities.iter().map(|one| (*one).to_owned()).collect(),
            read_only: true,
            no_new_privileges: true,
            ..Default::default()
        },
        name,
        chosen: Chosen { pids_limit: Some(PIDS), ..Default::default() },
        ..limits(&spec.resources)
    })
}

/// Starts with the existing file if the engine accepts it, else with one that listens on no port.
fn entrypoint(dialect: &Dialect) -> Vec<String> {
    let (check, run) = ((dialect.check)(r#""$1""#), (dialect.run)(r#""$1""#));
    let script =
        format!(r#"umask 077; chmod 700 {CONFIG_DIR}; {check} >/dev/null 2>&1 || printf %s "$0" > "$1"; exec {run}"#);
    let file = format!("{CONFIG_DIR}/{}", dialect.file);
    vec!["sh".into(), "-c".into(), script, dialect.bootstrap.into(), file]
}

/// What is needed from Docker besides containers and volumes.
pub fn needs(object: &LoadBalancer, targets: &Targets) -> Needs {
    let mut networks = networks(object, targets, None);
    networks.insert(network_of(object.namespace()));
    Needs { images: [object.spec.image().to_owned()].into(), networks, ..Default::default() }
}

fn common<'a>(
    object: &'a LoadBalancer,
    observed: &'a Observed,
    hosts: &'a BTreeMap<String, DockerSeen>,
    network: &'a NetworkSpec,
) -> Common<'a> {
    Common {
        hosts,
        work: &observed.work,
        image: object.spec.image(),
        network,
        shares_network: true,
        volumes: Volumes::Scratch,
        grace: STOP_SECONDS.unsigned_abs(),
    }
}

/// A balancer as a member; `None` while there is no host for it.
fn wanted(object: &LoadBalancer, observed: &Observed, place: &Place) -> Option<Member> {
    let (host, docker) = (place.host.clone()?, observed.docker(place));
    let seen = observed.container(place);
    // An existing container keeps the binary that it has.
    let own = seen.and_then(|seen| seen.labels.get(labels::BINARY));
    let binary = own.or(docker.and_then(|docker| docker.binary.as_ref()));
    // While the network of a database is missing, the balancers that exist stay as they are.
    let known = docker.and_then(|docker| docker.networks.known());
    let there = |network: &String| known.is_some_and(|known| known.contains_key(network));
    let waits = match seen {
        Some(_) => !networks(object, &observed.targets, Some(&host)).iter().all(there),
        None => !published::reserved(object, observed, place),
    };
    let spec = binary.filter(|_| !waits).and_then(|binary| container_spec(object, observed, place, binary));
    let (name, container) = (place.member.clone(), place.container.clone());
    let volume = Some(object.owner().member_labels(&name));
    Some(Member { volume, name, host, container, on_host: false, spec })
}

/// What is wrong with the network of a running balancer.
pub fn lost(object: &LoadBalancer, observed: &Observed, place: &Place) -> Option<String> {
    let seen = observed.container(place).filter(|seen| converge::runs(seen))?;
    let member = wanted(object, observed, place)?;
    let wrong = converge::wrong(observed.docker(place)?, &member, seen).into_iter().find(|one| one.away)?;
    Some(networks::in_words(&wrong.why, object.want()))
}

/// The steps towards a running container for every balancer. `settled`: whether a balancer balances, or cannot be waited for,
/// so that another one may be replaced.
pub fn steps(
    object: &LoadBalancer,
    observed: &Observed,
    places: &[Place],
    settled: impl Fn(&Place) -> bool,
) -> Vec<Step> {
    let network = network_spec(object.namespace());
    let everywhere = common(object, observed, &observed.hosts, &network);
    let members: Vec<_> = places.iter().filter_map(|place| wanted(object, observed, place)).collect();
    let mut steps = removals(&everywhere, &members);
    // A host without a balancer needs neither image nor network.
    let used = |host: &String| members.iter().any(|member| member.host == *host);
    let used = observed.hosts.iter().filter(|(host, _)| used(host));
    let hosts = used.map(|(host, seen)| (host.clone(), seen.clone())).collect();
    let mut replaced = false;
    steps.extend(converge::converge(&common(object, observed, &hosts, &network), &members, |name, deed| match deed {
        Deed::Start | Deed::Restart | Deed::Remake | Deed::ReplaceStopped => true,
        Deed::Replace => {
            let others = places.iter().all(|other| other.member == name || settled(other));
            let now = others && !replaced;
            replaced |= now;
            now
        }
    }));
    steps.into_iter().map(Step::Docker).collect()
}

/// Removes everything; the network too, if no other object uses it. The steps, and whether nothing is left once they
/// are done. A silent host without a balancer has nothing; of one that is out of
/// service nothing is left.
pub fn teardown(object: &LoadBalancer, observed: &Observed, places: &[Place]) -> (Vec<Step>, bool) {
    let placed = |host: &String| places.iter().any(|place| place.host.as_ref() == Some(host));
    let unplaced = places.iter().all(|place| place.host.is_none());
    let off = |host: &String| observed.declared.get(host).is_some_and(|one| one.lost);
    let matters = |host: &String| !observed.silent.contains_key(host) || (placed(host) || unplaced) && !off(host);
    let hosts = observed.hosts.iter().filter(|(host, _)| matters(host));
    let hosts = hosts.map(|(host, seen)| (host.clone(), seen.clone())).collect();
    let network = network_spec(object.namespace());
    let why = format!("{} {} is deleted", LoadBalancer::RESOURCE, object.name());
    let (steps, finished) = converge::teardown(&common(object, observed, &hosts, &network), &why);
    (steps.into_iter().map(Step::Docker).collect(), finished)
}
