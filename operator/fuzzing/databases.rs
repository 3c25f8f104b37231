//! What the supervisors in database containers report.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;

use super::lines;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{PostgresCluster, PostgresClusterStatus};
use crate::engine::{ConnectionSeen, ContainerSeen, ContainerState, ImageSeen, NetworkSeen};
use crate::kinds::certificates::due::{CaSeen, CertificatesSeen};
use crate::kinds::containers::{DockerSeen, HOME, container_name};
use crate::kinds::fact::Fact;
use crate::kinds::postgres_cluster::{LinkSeen, Observed, SecretsSeen, network_name, peers_network_name, plan};
use crate::kinds::postgres_reports::{LINE, bounded};
use crate::supervisor::wire::Report;

/// A healthy cluster with three instances.
const CLUSTER: &str = include_str!("cluster.json");
/// Most bytes that the status of a cluster gets from the reports of one instance, in bytes; a cluster whose instances are
/// all well has some 3 KiB.
const STATUS: usize = 16 << 10;

/// Reports of `db-1`, `db-2` and `db-3` in turns, one a line: each is refused or leads to a plan, and the status stays
/// small, besides the timelines, which are bounded by [`bounded`].
pub(super) fn report_line(bytes: &[u8]) {
    let mut object: PostgresCluster = serde_json::from_str(CLUSTER).unwrap();
    let mut observed = observed(&object);
    for (at, line) in lines(bytes).take(6).enumerate() {
        let member = format!("db-{}", at % 3 + 1);
        let report = serde_json::from_slice::<Report>(line).ok().filter(|_| line.len() < LINE);
        match report.map(bounded) {
            Some(Ok(report)) => {
                observed.refused.remove(&member);
                let proven = report.proof.as_ref().and_then(|proof| proof.proven_ms);
                observed.proven_ms.extend(proven.map(|ms| (member.clone(), ms)));
                observed.links.insert(member, LinkSeen { report, connected: true, silent_ms: 0 });
            }
            Some(Err(why)) => drop(observed.refused.insert(member, why)),
            None => continue,
        }
        let now = Timestamp::from_second(1_800_000_000 + at as i64).unwrap();
        let plan = plan::plan(&object, &observed, object.want(), now);
        let size = size(&plan.status);
        assert!(size <= STATUS * observed.links.len().max(1), "{size}: {:?}", plan.status);
        plan.steps.iter().for_each(|step| drop(step.to_string()));
        object.status = Some(plan.status);
    }
}

/// The bytes of a status without its timelines.
fn size(status: &PostgresClusterStatus) -> usize {
    let mut status = status.clone();
    if let Some(decisions) = &mut status.decisions {
        decisions.history.clear();
    }
    serde_json::to_string(&status).unwrap().len()
}

/// Its containers run, and nothing is missing.
fn observed(object: &PostgresCluster) -> Observed {
    let (network, peers) = (network_name(object), peers_network_name(object));
    let connection = |second: u8, at: u8, aliases: Vec<String>| {
        let address = Some(Ipv4Addr::new(172, second, 0, 10 + at));
        ConnectionSeen { network: "network".into(), address, aliases: Some(aliases) }
    };
    let container = |at: u8| {
        let member = format!("db-{at}");
        let name = container_name(object, &member);
        let own = (network.clone(), connection(30, at, vec![member]));
        let networks = BTreeMap::from([own, (peers.clone(), connection(31, at, Vec::new()))]);
        let (id, image, state) = ("1".to_owned(), object.spec.image.clone(), ContainerState::Running);
        (name.clone(), ContainerSeen { id, name, labels: BTreeMap::new(), state, image, networks, exit_code: None })
    };
    let seen = |(second, name): (u8, &String)| {
        let subnet = (Ipv4Addr::new(172, second, 0, 0), 16);
        (name.clone(), NetworkSeen { name: name.clone(), id: "network".into(), ours: true, subnet })
    };
    let containers: BTreeMap<_, _> = (1..=3).map(container).collect();
    let image = ImageSeen { id: "image".into(), ..ImageSeen::default() };
    let host = DockerSeen {
        volumes: Fact::Known(containers.keys().cloned().collect()),
        containers: Fact::Known(containers),
        foreign: Fact::Known(Default::default()),
        networks: Fact::Known([(30, &network), (31, &peers)].map(seen).into()),
        images: Fact::Known([(object.spec.image.clone(), image)].into()),
        binary: Some("binary".into()),
        daemon: None,
    };
    let ca = CaSeen { until: Timestamp::MAX, issues: true, next: None, old: false, request: None };
    Observed {
        declared: Default::default(),
        reserved: Default::default(),
        waited: Default::default(),
        silent: Default::default(),
        hosts: [(HOME.to_owned(), host)].into(),
        work: BTreeMap::new(),
        libraries: BTreeMap::new(),
        links: BTreeMap::new(),
        proven_ms: BTreeMap::new(),
        calling: false,
        refused: BTreeMap::new(),
        secrets: SecretsSeen { complete: true, hash: "h".into(), ..SecretsSeen::default() },
        archives: Default::default(),
        backups: None,
        certificates: Some(CertificatesSeen {
            ca: Ok(Some(ca)),
            server: None,
            client: None,
            given: None,
            told: true,
            hash: Some("t".into()),
        }),
    }
}
