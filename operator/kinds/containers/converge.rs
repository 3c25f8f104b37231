//! The steps that bring the containers of an object to their desired state, one container per member. Pure.
//! The kind's policy decides which operations on existing containers are allowed: one predicate, called for each
//! [`Deed`].

use std::collections::{BTreeMap, BTreeSet};

use super::networks::{self, Wrong};
use super::{DockerSeen, DockerStep, Work, WorkSeen};
use crate::api::labels;
use crate::api::object::Object;
use crate::api::postgres_cluster::ReclaimPolicy;
use crate::engine::log_bound::bounded;
use crate::engine::{ContainerSeen, ContainerSpec, ContainerState, NetworkSeen, NetworkSpec, VolumeSpec};
use crate::runtime::companions::due;

/// What the members of an object have in common.
pub struct Common<'a> {
    /// What was observed on each host.
    pub hosts: &'a BTreeMap<String, DockerSeen>,
    /// The background work.
    pub work: &'a WorkSeen,
    /// The image of all members.
    pub image: &'a str,
    /// The network that they need.
    pub network: &'a NetworkSpec,
    /// Other objects may use that network too.
    pub shares_network: bool,
    /// What happens to the volume of a removed member.
    pub volumes: Volumes,
    /// Seconds that a container gets to stop.
    pub grace: u64,
}

/// What happens to the volume of a removed member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volumes {
    /// It stays.
    Kept,
    /// It is removed; it holds no user data.
    Scratch,
    /// It is removed with the user's data in it.
    Data,
}

impl From<ReclaimPolicy> for Volumes {
    fn from(policy: ReclaimPolicy) -> Self {
        match policy {
            ReclaimPolicy::Delete => Self::Data,
            ReclaimPolicy::Retain => Self::Kept,
        }
    }
}

/// The name of the container and of the data volume of a member.
pub fn container_name(object: &impl Object, member: &str) -> String {
    format!("{}.{member}", object.namespace())
}

/// One member: a container, and mostly a volume of the same name.
pub struct Member {
    /// Its name.
    pub name: String,
    /// The host that it runs on.
    pub host: String,
    /// Labels of its volume; `None`: it has none.
    pub volume: Option<BTreeMap<String, String>>,
    /// The name of its container and of its volume.
    pub container: String,
    /// It is on its host's network and needs none of Docker's.
    pub on_host: bool,
    /// The desired container; `None` while it is not known.
    pub spec: Option<ContainerSpec>,
}

/// An operation on an existing container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Start a container that was never started.
    Start,
    /// Restart a container that exited.
    Restart,
    /// Remove a container that can never start again, so that it is recreated.
    Remake,
    /// Remove an outdated container; it runs.
    Replace,
    /// Remove an outdated container; it does not run.
    ReplaceStopped,
}

/// The steps towards a running container for every member. `may`: whether an operation is allowed on the member with
/// this name.
pub fn converge(common: &Common, members: &[Member], mut may: impl FnMut(&str, &Deed) -> bool) -> Vec<DockerStep> {
    let mut steps = Vec::new();
    for (host, seen) in common.hosts {
        let ours: Vec<_> = members.iter().filter(|member| member.host == *host).collect();
        steps.extend(prepare(common, host, seen, &ours));
        if let (Some(containers), Some(volumes)) = (seen.containers.known(), seen.volumes.known()) {
            for member in ours {
                match containers.get(&member.container) {
                    None => steps.extend(make(common, seen, volumes, member)),
                    Some(container) => steps.extend(keep(common, seen, member, container, &mut may)),
                }
            }
        }
    }
    steps
}

/// Prerequisites on a host: network, image and Evenkeel's binary.
fn prepare(common: &Common, host: &str, seen: &DockerSeen, members: &[&Member]) -> Vec<DockerStep> {
    let mut steps = Vec::new();
    let (Some(containers), Some(networks), Some(image)) =
        (seen.containers.known(), seen.networks.known(), seen.has_image(common.image))
    else {
        return steps;
    };
    let missing = members.iter().any(|member| !containers.contains_key(&member.container));
    let old = members.iter().any(|member| {
        let container = containers.get(&member.container);
        container.zip(member.spec.as_ref()).is_some_and(|(container, spec)| stale(container, spec).is_some())
    });
    if !image && (missing || old) {
        steps.extend(get_image(common, host));
    }
    let binary = Work::Binary { host: host.to_owned() };
    if image && seen.binary.is_none() && due(common.work.get(&binary)) {
        steps.push(DockerStep::GetBinary { host: host.to_owned(), image: common.image.to_owned() });
    }
    if members.iter().any(|member| !member.on_host) || networks.contains_key(&common.network.name) {
        steps.extend(ensure_network(common.work, host, common.network, networks));
    }
    steps
}

/// The steps that make a network: if it is missing, or if somebody else made it and Docker allows no fixed addresses in it.
pub fn ensure_network(
    work: &WorkSeen,
    host: &str,
    spec: &NetworkSpec,
    there: &BTreeMap<String, NetworkSeen>,
) -> Vec<DockerStep> {
    let (host, name, network) = (host.to_owned(), &spec.name, there.get(&spec.name));
    let useless = network.is_some_and(|network| !network.ours)
        && work.iter().any(|(work, heard)| {
            let concerns = matches!(work, Work::Connect { network, address: Some(_), .. } if network == name);
            concerns && heard.failure().is_some()
        });
    let remove = DockerStep::RemoveNetwork { host: host.clone(), network: name.clone(), shared: true };
    let ensure = DockerStep::EnsureNetwork { host, spec: spec.clone() };
    match network {
        Some(_) if useless => vec![remove, ensure],
        None => vec![ensure],
        Some(_) => Vec::new(),
    }
}

fn get_image(common: &Common, host: &str) -> Option<DockerStep> {
    let (host, image, revision) = (host.to_owned(), common.image.to_owned(), String::new());
    let work = Work::Image { host: host.clone(), image: image.clone(), revision: revision.clone() };
    due(common.work.get(&work)).then(|| DockerStep::GetImage { host, image, revision, logins: Vec::new() })
}

fn make(common: &Common, seen: &DockerSeen, volumes: &BTreeSet<String>, member: &Member) -> Vec<DockerStep> {
    let spec = member.spec.as_ref().filter(|_| seen.has_image(common.image) == Some(true));
    let Some(spec) = spec.zip(seen.daemon.as_ref()).map(|(spec, daemon)| bounded(spec, daemon)) else {
        return Vec::new();
    };
    let (host, name, container) = (&member.host, &member.name, &member.container);
    if !due(common.work.get(&Work::Start { host: host.clone(), container: container.clone() })) {
        return Vec::new();
    }
    let mut steps = Vec::new();
    if let Some(labels) = member.volume.clone().filter(|_| !volumes.contains(container)) {
        let spec = VolumeSpec { name: container.clone(), labels };
        steps.push(DockerStep::EnsureVolume { host: host.clone(), member: name.clone(), spec });
    }
    steps.push(DockerStep::create(host, name, &spec, &[], None));
    steps.push(DockerStep::start(host, name, container, None));
    steps
}

fn keep(
    common: &Common,
    seen: &DockerSeen,
    member: &Member,
    container: &ContainerSeen,
    may: &mut impl FnMut(&str, &Deed) -> bool,
) -> Vec<DockerStep> {
    let mut may = |deed: Deed| may(&member.name, &deed);
    let remove = |why: &str, grace| self::remove(common, member, why, grace).into_iter().collect();
    if removing(common.work, &member.host, &member.container) {
        return Vec::new();
    }
    if container.state == ContainerState::Dead {
        // Docker's removal of it was interrupted: it never starts again, and its name is free only once it is removed.
        return if may(Deed::Remake) { remove("Docker has half removed it", None) } else { Vec::new() };
    }
    let runs = runs(container);
    if let Some(why) = outdated(common, seen, member, container) {
        let deed = if runs { Deed::Replace } else { Deed::ReplaceStopped };
        if may(deed) {
            return remove(&why, runs.then_some(common.grace));
        }
    }
    let (host, name) = (&member.host, &member.container);
    let wrong = wrong(seen, member, container);
    let refused =
        wrong.iter().filter(|one| one.away).find_map(|one| networks::refused(common.work, host, name, &one.to));
    if let Some(why) = refused.filter(|_| runs)
        && may(Deed::Replace)
    {
        return remove(&format!("it could not be connected to its network: {why}"), Some(common.grace));
    }
    let mut steps = networks::connect(common.work, host, &member.name, name, wrong);
    if runs {
        return steps;
    }
    let failed = common.work.get(&Work::Start { host: host.clone(), container: name.clone() });
    if let Some(why) = failed.and_then(|failed| failed.failure()) {
        let makeable = member.spec.is_some() && seen.has_image(common.image) == Some(true);
        let again = due(failed) && makeable && may(Deed::Remake);
        return if again { remove(&format!("it could not be started: {why}"), None) } else { Vec::new() };
    }
    let deed = if container.state == ContainerState::Created { Deed::Start } else { Deed::Restart };
    if !may(deed) {
        return Vec::new();
    }
    steps.push(DockerStep::start(host, &member.name, name, None));
    steps
}

/// What is wrong with the connections of a member's container. Docker connects one that is restarting to no network.
pub fn wrong(seen: &DockerSeen, member: &Member, container: &ContainerSeen) -> Vec<Wrong> {
    let (Some(spec), Some(networks)) = (&member.spec, seen.networks.known()) else { return Vec::new() };
    if container.state == ContainerState::Restarting { Vec::new() } else { networks::wrong(container, spec, networks) }
}

/// Removes the container of a member, unless that is under way or waits after a failure.
fn remove(common: &Common, member: &Member, why: &str, grace: Option<u64>) -> Option<DockerStep> {
    let Member { host, name, container, .. } = member;
    let work = common.work.get(&Work::Remove { host: host.clone(), container: container.clone() });
    due(work).then(|| DockerStep::remove(host, name, container, grace, why))
}

/// The step that removes the container of a member so that it is recreated; `None` unless the container is outdated
/// and its image is on the host.
pub fn replace(common: &Common, member: &Member) -> Option<DockerStep> {
    let seen = common.hosts.get(&member.host)?;
    let why = outdated(common, seen, member, seen.container(&member.container)?)?;
    remove(common, member, &why, Some(common.grace))
}

/// Why the container of a member must be replaced. A container is removed only once the image of its replacement
/// exists.
fn outdated(common: &Common, seen: &DockerSeen, member: &Member, container: &ContainerSeen) -> Option<String> {
    stale(container, member.spec.as_ref()?).filter(|_| seen.has_image(common.image) == Some(true))
}

/// Removes the containers of removed members, then their volumes unless these are kept.
pub fn removals(common: &Common, members: &[Member]) -> Vec<DockerStep> {
    let wanted = |host: &str, name: &str| members.iter().any(|one| one.host == host && one.container == name);
    let mut steps = Vec::new();
    for (host, seen) in common.hosts {
        let (Some(containers), Some(all)) = (seen.containers.known(), seen.volumes.known()) else { continue };
        for container in containers.values().filter(|one| !wanted(host, &one.name)) {
            steps.extend(take_away(common, host, container, "scaled down"));
        }
        let left = all.iter().filter(|name| !wanted(host, name) && !containers.contains_key(*name));
        steps.extend(left.filter_map(|volume| remove_volume(common, host, volume)));
    }
    steps
}

/// Removes everything: containers, then volumes unless these are kept, then the network. The steps, and whether nothing
/// is left once they are done. A host that does not answer may have something, and delays no other host.
pub fn teardown(common: &Common, why: &str) -> (Vec<DockerStep>, bool) {
    let (mut steps, mut finished) = (Vec::new(), true);
    for (host, seen) in common.hosts {
        let (Some(containers), Some(all), Some(networks)) =
            (seen.containers.known(), seen.volumes.known(), seen.networks.known())
        else {
            finished = false;
            continue;
        };
        for container in containers.values() {
            steps.extend(take_away(common, host, container, why));
        }
        if !containers.is_empty() {
            finished = false;
            continue;
        }
        steps.extend(all.iter().filter_map(|volume| remove_volume(common, host, volume)));
        if networks.contains_key(&common.network.name) {
            let (host, network) = (host.clone(), common.network.name.clone());
            steps.push(DockerStep::RemoveNetwork { host, network, shared: common.shares_network });
        }
    }
    (steps, finished)
}

fn take_away(common: &Common, host: &str, container: &ContainerSeen, why: &str) -> Option<DockerStep> {
    if removing(common.work, host, &container.name) {
        return None;
    }
    let work = Work::Remove { host: host.to_owned(), container: container.name.clone() };
    let member = container.labels.get(labels::MEMBER).unwrap_or(&container.name);
    let grace = runs(container).then_some(common.grace);
    due(common.work.get(&work)).then(|| DockerStep::remove(host, member, &container.name, grace, why))
}

/// Removes a volume, unless volumes are kept. Only the container with the same name mounts it.
fn remove_volume(common: &Common, host: &str, volume: &str) -> Option<DockerStep> {
    let data = common.volumes == Volumes::Data;
    (common.volumes != Volumes::Kept).then(|| DockerStep::remove_volume(host, volume, volume, data))
}

/// Whether the operator is stopping or removing the container.
pub fn removing(work: &WorkSeen, host: &str, container: &str) -> bool {
    let (host, container) = (host.to_owned(), container.to_owned());
    work.get(&Work::Remove { host, container }).is_some_and(|heard| heard.runs())
}

/// Why the container is outdated, if it is.
pub fn stale(container: &ContainerSeen, spec: &ContainerSpec) -> Option<String> {
    let hash = container.labels.get(labels::SPEC_HASH).map(String::as_str).unwrap_or_default();
    if hash == spec.hash() {
        return None;
    }
    Some(if container.labels.get(labels::BINARY) != spec.labels.get(labels::BINARY) {
        "another version of evenkeel must run in it".into()
    } else if container.image == spec.image {
        "its definition changed".into()
    } else {
        format!("image {} instead of {}", spec.image, container.image)
    })
}

/// Whether a process of the container runs.
pub fn runs(container: &ContainerSeen) -> bool {
    !matches!(container.state, ContainerState::Created | ContainerState::Exited | ContainerState::Dead)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::engine::{ConnectionSeen, ImageSeen};
    use crate::kinds::fact::Fact;
    use crate::runtime::companions::{Heard, Standing};

    /// The steps for a host with one container in this state, which was on a network with this ID, when the network has
    /// that one now (`None`: it is gone).
    fn steps(state: ContainerState, was: &str, now: Option<(&str, bool)>, work: &WorkSeen) -> Vec<String> {
        let network = NetworkSpec { name: "net".into(), labels: BTreeMap::new(), internal: false };
        let address = Some(Ipv4Addr::new(10, 0, 0, 11));
        let spec = ContainerSpec {
            name: "db-1".into(),
            image: "image".into(),
            network: "net".into(),
            address,
            ..Default::default()
        };
        let connection = ConnectionSeen { network: was.into(), address, aliases: None };
        let container = ContainerSeen {
            id: "id".into(),
            name: "db-1".into(),
            labels: [(labels::SPEC_HASH.to_owned(), spec.hash())].into(),
            state,
            image: "image".into(),
            networks: [("net".to_owned(), connection)].into(),
            exit_code: None,
        };
        let seen = |(id, ours): (&str, bool)| NetworkSeen {
            name: "net".into(),
            id: id.into(),
            ours,
            subnet: (Ipv4Addr::new(10, 0, 0, 0), 24),
        };
        let image = ImageSeen { id: String::new(), ..Default::default() };
        let host = DockerSeen {
            containers: Fact::Known([("db-1".to_owned(), container)].into()),
            networks: Fact::Known(now.map(|now| ("net".to_owned(), seen(now))).into_iter().collect()),
            images: Fact::Known([("image".to_owned(), image)].into()),
            binary: Some("binary".into()),
            ..DockerSeen::nothing()
        };
        let common = Common {
            hosts: &[("local".to_owned(), host)].into(),
            work,
            image: "image",
            network: &network,
            shares_network: false,
            volumes: Volumes::Kept,
            grace: 1,
        };
        let member = Member {
            name: "db-1".into(),
            host: "local".into(),
            volume: Some(BTreeMap::new()),
            container: "db-1".into(),
            on_host: false,
            spec: Some(spec),
        };
        let steps = converge(&common, &[member], |_, deed| !matches!(deed, Deed::Replace | Deed::ReplaceStopped));
        steps.iter().map(ToString::to_string).collect()
    }

    fn refused(retry: bool) -> WorkSeen {
        let (host, container, network) = ("local".to_owned(), "db-1".to_owned(), "net".to_owned());
        let work = Work::Connect { host, container, network, address: Some(Ipv4Addr::new(10, 0, 0, 11)) };
        let state = Standing::Failed { why: "no fixed address".into(), failures: 1, retry };
        [(work, Heard { value: None, silent_ms: 0, state })].into()
    }

    #[test]
    fn a_container_on_its_network_needs_nothing() {
        assert_eq!(steps(ContainerState::Running, "1", Some(("1", true)), &WorkSeen::new()), Vec::<String>::new());
    }

    /// Regression 114: Docker starts no container whose network was removed (`docker network prune` while it was
    /// stopped), also if a network of that name was made since. A cluster was never healed.
    #[test]
    fn a_stopped_container_is_connected_to_its_new_network_before_it_starts() {
        let none = WorkSeen::new();
        let new = "connect container db-1 to network net: network net was removed and made again";
        let gone = "connect container db-1 to network net: network net is gone";
        let start = "start container db-1";
        assert_eq!(steps(ContainerState::Exited, "1", Some(("2", true)), &none), [new, start]);
        assert_eq!(steps(ContainerState::Exited, "1", None, &none), ["create network net on local", gone, start]);
        assert_eq!(steps(ContainerState::Running, "1", None, &none), ["create network net on local", gone]);
    }

    /// Regression 115: Docker gives no fixed address in a network that was made by hand without a subnet; an instance
    /// could not be connected to it for ever. Such a network is replaced by our own, if nobody else uses it.
    #[test]
    fn a_network_that_cannot_hold_fixed_addresses_is_replaced() {
        let (own, foreign) = (Some(("2", true)), Some(("2", false)));
        let replaced = ["remove network net on local unless it is used", "create network net on local"];
        assert_eq!(steps(ContainerState::Running, "1", foreign, &refused(false)), replaced);
        assert_eq!(steps(ContainerState::Running, "1", own, &refused(false)), Vec::<String>::new());
        let again = steps(ContainerState::Running, "1", own, &refused(true));
        assert_eq!(again, ["connect container db-1 to network net: network net was removed and made again"]);
    }
}
