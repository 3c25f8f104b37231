//! Decides the containers of a LoadBalancer: their specs, and the steps that create them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::dialect::Dialect;
use super::names::{CONFIG_DIR, RUN_DIR, container, member};
use super::render::dialect;
use super::{LoadBalancer, Observed, Step, Targets};
use crate::api::labels;
use crate::api::object::Object as _;
use crate::engine::{Attachment, BINARY_DIR, Chosen, ContainerSpec, NetworkSpec, Security};
use crate::kinds::containers::bounds::limits;
use crate::kinds::containers::converge::{self, Common, Volumes, removals};
use crate::kinds::containers::{Deed, HOME, Member, Needs, networks};
use crate::kinds::{network_of, network_spec};

/// Limit of processes and threads of a balancer, unless its resources name one.
const PIDS: i64 = 1024;
/// Grace for open connections when a balancer is stopped, in seconds.
const STOP_SECONDS: i64 = 30;

/// The desired balancers: (member, container).
pub fn members(object: &LoadBalancer) -> Vec<(String, String)> {
    let of = |ordinal| {
        let member = member(object, ordinal);
        (member.clone(), container(object, &member))
    };
    (1..=object.spec.replicas).map(of).collect()
}

/// The networks of the objects that it refers to, without that of its namespace.
fn networks(object: &LoadBalancer, targets: &Targets) -> BTreeSet<String> {
    let there = targets.values().filter(|one| !one.deleting());
    let networks = there.filter_map(|one| Some(one.endpoints()?.network.clone()));
    networks.filter(|network| *network != network_of(object.namespace())).collect()
}

/// Whether a database that it refers to has not reported its network yet.
fn networks_missing(object: &LoadBalancer, observed: &Observed) -> bool {
    let databases = object.spec.backends.iter().filter(|backend| backend.is_database());
    let mut named = databases.filter_map(|backend| observed.targets.get(&backend.target()?.object()?));
    named.any(|database| !database.deleting() && database.endpoints().is_none())
}

/// The spec of a balancer's container, with Evenkeel's binary from this volume; `None` while it cannot be known.
pub fn container_spec(object: &LoadBalancer, observed: &Observed, ordinal: u32, binary: &str) -> Option<ContainerSpec> {
    let known = observed.docker()?.networks.known()?;
    if networks_missing(object, observed) {
        return None;
    }
    let there = networks(object, &observed.targets).into_iter().filter(|network| known.contains_key(network));
    let networks = there.map(|network| Attachment { network, aliases: Vec::new(), address: None }).collect();
    let member = member(object, ordinal);
    let name = container(object, &member);
    let spec = &object.spec;
    let dialect = dialect(spec.engine);
    let local = IpAddr::from(Ipv4Addr::LOCALHOST);
    let address = spec.bind_address.parse().unwrap_or(local);
    let listened = spec.frontends.iter().filter_map(|one| Some((address, one.host_port?, one.port)));
    let stats = spec.stats.iter().filter_map(|stats| Some((local, stats.host_port?, stats.port)));
    let published = |(address, first, inside): (IpAddr, u16, u16)| {
        Some((address, u16::try_from(u32::from(first) + ordinal - 1).ok()?, inside))
    };
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
        ports: listened.chain(stats).filter_map(published).collect(),
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
    let mut networks = networks(object, targets);
    networks.insert(network_of(object.namespace()));
    Needs { images: [object.spec.image().to_owned()].into(), networks, ..Default::default() }
}

fn common<'a>(object: &'a LoadBalancer, observed: &'a Observed, network: &'a NetworkSpec) -> Common<'a> {
    Common {
        hosts: &observed.hosts,
        work: &observed.work,
        image: object.spec.image(),
        network,
        shares_network: true,
        volumes: Volumes::Scratch,
        grace: STOP_SECONDS.unsigned_abs(),
    }
}

fn wanted(object: &LoadBalancer, observed: &Observed, ordinal: u32) -> Member {
    let name = member(object, ordinal);
    let container = container(object, &name);
    let seen = observed.container(&container);
    // An existing container keeps the binary that it has.
    let own = seen.and_then(|seen| seen.labels.get(labels::BINARY));
    let binary = own.or(observed.docker().and_then(|docker| docker.binary.as_ref()));
    // While the network of a database is missing, the balancers that exist stay as they are.
    let known = observed.docker().and_then(|docker| docker.networks.known());
    let there = |network: &String| known.is_some_and(|known| known.contains_key(network));
    let waits = seen.is_some() && !networks(object, &observed.targets).iter().all(there);
    let spec = binary.filter(|_| !waits).and_then(|binary| container_spec(object, observed, ordinal, binary));
    Member { labels: object.owner().member_labels(&name), name, host: HOME.into(), container, spec }
}

/// What is wrong with the network of a running balancer.
pub fn lost(object: &LoadBalancer, observed: &Observed, container: &str) -> Option<String> {
    let seen = observed.container(container).filter(|seen| converge::runs(seen))?;
    let mut members = (1..=object.spec.replicas).map(|ordinal| wanted(object, observed, ordinal));
    let member = members.find(|member| member.container == container)?;
    let wrong = converge::wrong(observed.docker()?, &member, seen).into_iter().find(|one| one.away)?;
    Some(networks::in_words(&wrong.why, object.want()))
}

/// The steps towards a running container for every balancer. `settled`: whether a container balances, so that another
/// one may be replaced.
pub fn steps(object: &LoadBalancer, observed: &Observed, settled: impl Fn(&str) -> bool) -> Vec<Step> {
    let network = network_spec(object.namespace());
    let common = common(object, observed, &network);
    let members: Vec<_> = (1..=object.spec.replicas).map(|ordinal| wanted(object, observed, ordinal)).collect();
    let mut steps = removals(&common, &members);
    let mut replaced = false;
    steps.extend(converge::converge(&common, &members, |name, deed| match deed {
        Deed::Start | Deed::Restart | Deed::Remake | Deed::ReplaceStopped => true,
        Deed::Replace => {
            let others = members.iter().all(|other| other.name == name || settled(&other.container));
            let now = others && !replaced;
            replaced |= now;
            now
        }
    }));
    steps.into_iter().map(Step::Docker).collect()
}

/// Removes everything; the network too, if no other object uses it. The steps, and whether nothing is left once they
/// are done; `None` while it is unknown what exists.
pub fn teardown(object: &LoadBalancer, observed: &Observed) -> Option<(Vec<Step>, bool)> {
    let network = network_spec(object.namespace());
    let why = format!("{} {} is deleted", LoadBalancer::RESOURCE, object.name());
    let (steps, finished) = converge::teardown(&common(object, observed, &network), &why)?;
    Some((steps.into_iter().map(Step::Docker).collect(), finished))
}
