//! Porters: the throw-away containers that copy a volume into a store, or a copy from there into a volume. What kinds with porters
//! share: the container, and what is said to it. Pure.
//!
//! Untrusted files meet only a porter: it has an image without any file, this program, the volume, no other mount, and the few
//! capabilities that its way needs. What opens the store comes over the link and stays in its memory.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::labels::{self, Owner};
use crate::api::volume_claims;
use crate::engine::{BINARY, BINARY_DIR, ContainerSpec, EMPTY_IMAGE, Mount, MountSource, NetworkSpec, Security};
use crate::kinds::attempts::{self, LinkSeen};
use crate::kinds::containers::converge::{self, Common, Volumes};
use crate::kinds::containers::{DockerSeen, DockerStep, Member, Needs, WorkSeen};
use crate::kinds::links::{self, Speech};
use crate::kinds::redis_reports::{check_names, cut};
use crate::kinds::{network_of, network_spec};
use crate::supervisor::porter::VOLUME;
use crate::supervisor::porter::wire::{Command, Report, SOCKET, Way};

/// Most bytes of a report.
const LINE: usize = 16 << 10;
/// Most bytes of its memory: parts of an upload on the way, and frames being compressed.
const MEMORY: i64 = 768 << 20;
/// Most processes and threads.
const PROCESSES: i64 = 64;
/// Its share of the CPUs when others need them, too, of 1024 that others have.
const SHARE: i64 = 512;
/// Seconds to end.
const GRACE: u64 = 2;
/// The folder of its socket.
const FOLDER: &str = "mode=0700,size=64k";

/// The speech of porters.
pub enum PorterSpeech {}

impl Speech for PorterSpeech {
    type Command = Command;
    type Report = Report;
    const SOCKET: &'static str = SOCKET;
    const LINE: usize = LINE;

    fn bounded(mut report: Report) -> Result<Report, String> {
        let tried = report.tried.iter().map(|tried| &tried.id);
        check_names([&report.boot].into_iter().chain(tried).chain(report.work.iter().flat_map(attempts::names)))?;
        let problem = report.tried.iter_mut().filter_map(|tried| tried.problem.as_mut());
        cut(problem.chain(report.work.iter_mut().filter_map(|work| work.error.as_mut())));
        Ok(report)
    }

    fn significant(report: &Report) -> Report {
        let mut rest = report.clone();
        rest.work.iter_mut().for_each(|work| (work.bytes, work.stored) = (0, 0));
        rest
    }
}

impl From<&Report> for attempts::Told {
    fn from(report: &Report) -> Self {
        Self { boot: report.boot.clone(), archives: true, backup: report.work.clone(), ..Self::default() }
    }
}

/// What porters say, by name.
pub type Heard = BTreeMap<String, links::LinkSeen<Report>>;

/// The same as work that was ordered.
pub fn told(heard: &Heard) -> BTreeMap<String, LinkSeen> {
    attempts::told(heard)
}

/// A porter that should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Porter<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its host.
    pub host: &'a str,
    /// The claim of its volume.
    pub claim: &'a str,
    /// Docker's name of the volume.
    pub volume: &'a str,
    /// Which way the data goes.
    pub way: Way,
}

/// What a host must have for porters of a namespace.
pub fn needs(namespace: &str) -> Needs {
    Needs {
        images: BTreeSet::from([EMPTY_IMAGE.to_owned()]),
        networks: BTreeSet::from([network_of(namespace)]),
        volumes: BTreeSet::new(),
    }
}

/// The steps towards these porters of an object, and towards no others.
pub fn converge(
    owner: &Owner,
    porters: &[Porter],
    hosts: &BTreeMap<String, DockerSeen>,
    work: &WorkSeen,
) -> Vec<DockerStep> {
    let network = network_spec(&owner.namespace);
    let common = common(&network, hosts, work);
    let members: Vec<Member> = porters.iter().map(|porter| member(owner, porter, &network.name, hosts)).collect();
    let steps = converge::converge(&common, &members, |_, _| true);
    steps.into_iter().chain(converge::removals(&common, &members)).collect()
}

/// Whether no porter of an object is left. A host that does not answer may have one.
pub fn gone(hosts: &BTreeMap<String, DockerSeen>) -> bool {
    hosts.values().all(|seen| seen.containers.known().is_some_and(BTreeMap::is_empty))
}

/// The network stays: it is that of all pods of the namespace.
fn common<'a>(network: &'a NetworkSpec, hosts: &'a BTreeMap<String, DockerSeen>, work: &'a WorkSeen) -> Common<'a> {
    let (shares_network, volumes) = (true, Volumes::Kept);
    Common { hosts, work, image: EMPTY_IMAGE, network, shares_network, volumes, grace: GRACE }
}

fn member(owner: &Owner, porter: &Porter, network: &str, hosts: &BTreeMap<String, DockerSeen>) -> Member {
    let container = format!("{}.{}", owner.namespace, porter.name);
    let binary = hosts.get(porter.host).and_then(|seen| seen.binary.as_deref());
    let spec = binary.map(|binary| spec(owner, porter, &container, (network, binary)));
    Member { name: porter.name.to_owned(), host: porter.host.to_owned(), volume: None, container, on_host: false, spec }
}

fn spec(owner: &Owner, porter: &Porter, container: &str, (network, binary): (&str, &str)) -> ContainerSpec {
    let labels = owner.member_labels(porter.name).into_iter();
    let own = volume_claims::volume(&owner.namespace, porter.claim);
    let name = porter.volume.to_owned();
    let source = match name == own {
        true => MountSource::Kept { name, labels: volume_claims::owner(&owner.namespace, porter.claim).labels() },
        false => MountSource::Volume { name, options: BTreeMap::new(), labels: BTreeMap::new() },
    };
    let capabilities: &[&str] = match porter.way {
        Way::Store => &["DAC_READ_SEARCH"],
        Way::Restore => &["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"],
    };
    ContainerSpec {
        name: container.to_owned(),
        hostname: "evenkeel-porter".into(),
        image: EMPTY_IMAGE.into(),
        entrypoint: [BINARY, "porter"].map(String::from).to_vec(),
        labels: labels.chain([(labels::BINARY.to_owned(), binary.to_owned())]).collect(),
        volumes: vec![(binary.to_owned(), BINARY_DIR.to_owned(), true)],
        tmpfs: BTreeMap::from([("/run/evenkeel".to_owned(), FOLDER.to_owned())]),
        mounts: vec![Mount { source, path: VOLUME.into(), read_only: porter.way == Way::Store }],
        network: network.to_owned(),
        stop_timeout_seconds: GRACE.cast_signed(),
        memory_bytes: Some(MEMORY),
        cpu_shares: Some(SHARE),
        pids_limit: Some(PROCESSES),
        user: Some("0:0".into()),
        security: Security {
            cap_add: capabilities.iter().map(|name| (*name).to_owned()).collect(),
            cap_drop: vec!["ALL".into()],
            read_only: true,
            no_new_privileges: true,
            ..Default::default()
        },
        ..Default::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::supervisor::porter::wire::Tried;
    use crate::supervisor::wire::BackupState;

    #[test]
    fn a_porter_reads_with_one_capability_and_writes_with_four() {
        let owner = Owner { kind: "Backup".into(), namespace: "team".into(), name: "nightly".into() };
        let told = |way, volume| {
            let porter = Porter { name: "nightly.porter-1", host: "local", claim: "files", volume, way };
            let spec = spec(&owner, &porter, "team.nightly.porter-1", ("team", "evenkeel-bin"));
            let mount = &spec.mounts[0];
            let kept = matches!(mount.source, MountSource::Kept { .. });
            assert!(spec.security.read_only && spec.security.no_new_privileges && !spec.security.privileged);
            assert_eq!(
                (spec.security.cap_drop, spec.env.len(), spec.memory_bytes),
                (vec!["ALL".to_owned()], 0, Some(MEMORY))
            );
            format!("{} read-only {} kept {kept}", spec.security.cap_add.join(" "), mount.read_only)
        };
        assert_eq!(told(Way::Store, "team.claim.files"), "DAC_READ_SEARCH read-only true kept true");
        assert_eq!(told(Way::Restore, "files"), "CHOWN DAC_OVERRIDE FOWNER FSETID read-only false kept false");
    }

    #[test]
    fn what_a_porter_says_is_bounded() {
        let report = |id: &str, problem: &str| Report {
            tried: Some(Tried { id: id.into(), problem: Some(problem.into()), ..Tried::default() }),
            work: Some(BackupState { id: id.into(), error: Some(problem.into()), ..BackupState::default() }),
            ..Report::default()
        };
        assert!(PorterSpeech::bounded(report(&"x".repeat(200), "")).is_err());
        assert!(PorterSpeech::bounded(report("a\nb", "")).is_err());
        let cut = PorterSpeech::bounded(report("id", &"x\n".repeat(2000))).unwrap();
        let length = |text: Option<String>| text.unwrap().len();
        assert!(length(cut.tried.unwrap().problem) <= 512 && length(cut.work.unwrap().error) <= 512);
    }
}
