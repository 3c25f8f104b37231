//! The steps that bring the containers of an object to their desired state, one container per member. Pure.
//! The kind's policy decides which operations on existing containers are allowed: one predicate, called for each
//! [`Deed`].

use std::collections::{BTreeMap, BTreeSet};

use super::{DockerSeen, DockerStep, Work, WorkSeen};
use crate::api::labels;
use crate::engine::{ContainerSeen, ContainerSpec, ContainerState, NetworkSpec, VolumeSpec};
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
    /// Grace of a container to stop, in seconds.
    pub grace: u64,
}

/// One member: a container, and a volume of the same name.
pub struct Member {
    /// Its name.
    pub name: String,
    /// The host that it lives on.
    pub host: String,
    /// Labels of its volume.
    pub labels: BTreeMap<String, String>,
    /// The name of its container and of its volume.
    pub container: String,
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
    if missing && !networks.contains_key(&common.network.name) {
        steps.push(DockerStep::EnsureNetwork { host: host.to_owned(), spec: common.network.clone() });
    }
    steps
}

fn get_image(common: &Common, host: &str) -> Option<DockerStep> {
    let (host, image, revision) = (host.to_owned(), common.image.to_owned(), String::new());
    let work = Work::Image { host: host.clone(), image: image.clone(), revision: revision.clone() };
    due(common.work.get(&work)).then(|| DockerStep::GetImage { host, image, revision, logins: Vec::new() })
}

fn make(common: &Common, seen: &DockerSeen, volumes: &BTreeSet<String>, member: &Member) -> Vec<DockerStep> {
    let Some(spec) = member.spec.as_ref().filter(|_| seen.has_image(common.image) == Some(true)) else {
        return Vec::new();
    };
    let (host, name, container) = (&member.host, &member.name, &member.container);
    let waits = common.work.get(&Work::Start { host: host.clone(), container: container.clone() });
    if !due(waits) {
        return Vec::new();
    }
    let mut steps = Vec::new();
    if !volumes.contains(container) {
        let spec = VolumeSpec { name: container.clone(), labels: member.labels.clone() };
        steps.push(DockerStep::EnsureVolume { host: host.clone(), member: name.clone(), spec });
    }
    let (spec, env) = (Box::new(spec.clone()), Vec::new());
    steps.push(DockerStep::Create { host: host.clone(), member: name.clone(), spec, env, again: None });
    steps.push(start(member));
    steps
}

fn start(member: &Member) -> DockerStep {
    let (host, name, container) = (member.host.clone(), member.name.clone(), member.container.clone());
    DockerStep::Start { host, member: name, container, again: None }
}

fn keep(
    common: &Common,
    seen: &DockerSeen,
    member: &Member,
    container: &ContainerSeen,
    may: &mut impl FnMut(&str, &Deed) -> bool,
) -> Option<DockerStep> {
    let mut may = |deed: Deed| may(&member.name, &deed);
    let remove = |why: String, grace| self::remove(common, member, why, grace);
    if removing(common.work, &member.host, &member.container) {
        return None;
    }
    if container.state == ContainerState::Dead {
        // Docker began to remove it and did not finish: it never starts again, and it blocks its name.
        return may(Deed::Remake).then(|| remove("Docker has half removed it".into(), None)).flatten();
    }
    let runs = runs(container);
    let replaceable = seen.has_image(common.image) == Some(true);
    // No container is removed before its replacement can be created.
    if let Some(why) = member.spec.as_ref().and_then(|spec| stale(container, spec)).filter(|_| replaceable) {
        let deed = if runs { Deed::Replace } else { Deed::ReplaceStopped };
        if may(deed) {
            return remove(why, runs.then_some(common.grace));
        }
    }
    if runs {
        return None;
    }
    let failed = common.work.get(&Work::Start { host: member.host.clone(), container: member.container.clone() });
    if let Some(why) = failed.and_then(|failed| failed.failure()) {
        let again = due(failed) && replaceable && member.spec.is_some() && may(Deed::Remake);
        return again.then(|| remove(format!("it could not be started: {why}"), None)).flatten();
    }
    let deed = if container.state == ContainerState::Created { Deed::Start } else { Deed::Restart };
    may(deed).then(|| start(member))
}

/// Removes the container of a member, unless that is in progress or waits after a failure.
fn remove(common: &Common, member: &Member, why: String, grace: Option<u64>) -> Option<DockerStep> {
    let (host, container) = (member.host.clone(), member.container.clone());
    let work = common.work.get(&Work::Remove { host: host.clone(), container: container.clone() });
    due(work).then(|| DockerStep::Remove { host, member: member.name.clone(), container, grace, why })
}

/// The step that removes the container of a member so that it is recreated; `None` unless the container is outdated
/// and its image is on the host.
pub fn replace(common: &Common, member: &Member) -> Option<DockerStep> {
    let seen = common.hosts.get(&member.host)?;
    let container = seen.container(&member.container)?;
    let why = stale(container, member.spec.as_ref()?)?;
    let replaceable = seen.has_image(common.image) == Some(true);
    replaceable.then(|| remove(common, member, why, Some(common.grace))).flatten()
}

/// Removes containers of former members and, with `volumes`, their volumes once no container mounts them.
pub fn removals(common: &Common, members: &[Member], volumes: bool, data: bool) -> Vec<DockerStep> {
    let wanted = |host: &str, name: &str| members.iter().any(|one| one.host == host && one.container == name);
    let mut steps = Vec::new();
    for (host, seen) in common.hosts {
        let (Some(containers), Some(all)) = (seen.containers.known(), seen.volumes.known()) else { continue };
        for container in containers.values().filter(|one| !wanted(host, &one.name)) {
            steps.extend(take_away(common, host, container, "scaled down"));
        }
        let left = all.iter().filter(|name| volumes && !wanted(host, name) && !containers.contains_key(*name));
        steps.extend(left.map(|volume| remove_volume(host, volume, data)));
    }
    steps
}

/// Removes everything: containers, then, with `volumes`, volumes, then the network. Returns the steps, and whether
/// nothing is left after them; `None` while a host that may have something does not answer.
pub fn teardown(
    common: &Common,
    volumes: bool,
    data: bool,
    shared_network: bool,
    why: &str,
) -> Option<(Vec<DockerStep>, bool)> {
    let (mut steps, mut finished) = (Vec::new(), true);
    for (host, seen) in common.hosts {
        let (containers, all, networks) = (seen.containers.known()?, seen.volumes.known()?, seen.networks.known()?);
        for container in containers.values() {
            steps.extend(take_away(common, host, container, why));
        }
        if !containers.is_empty() {
            finished = false;
            continue;
        }
        steps.extend(all.iter().filter(|_| volumes).map(|volume| remove_volume(host, volume, data)));
        if networks.contains_key(&common.network.name) {
            let (host, network) = (host.clone(), common.network.name.clone());
            steps.push(DockerStep::RemoveNetwork { host, network, shared: shared_network });
        }
    }
    Some((steps, finished))
}

fn take_away(common: &Common, host: &str, container: &ContainerSeen, why: &str) -> Option<DockerStep> {
    if removing(common.work, host, &container.name) {
        return None;
    }
    let work = Work::Remove { host: host.to_owned(), container: container.name.clone() };
    let member = container.labels.get(labels::MEMBER).unwrap_or(&container.name).clone();
    let (host, container, grace) = (host.to_owned(), container.name.clone(), runs(container).then_some(common.grace));
    due(common.work.get(&work)).then(|| DockerStep::Remove { host, member, container, grace, why: why.to_owned() })
}

fn remove_volume(host: &str, volume: &str, data: bool) -> DockerStep {
    // Only the container with that name mounts it.
    let (host, member, volume) = (host.to_owned(), volume.to_owned(), volume.to_owned());
    DockerStep::RemoveVolume { host, member, volume, data }
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
        "another version of evenkeel is to run in it".into()
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
