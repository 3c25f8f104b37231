//! Chooses the host of a pod, and checks the image there. Pure.

use k8s_openapi::api::core::v1::PodSpec;

use super::context::PlanContext;
use super::{HostSeen, Observed, blueprint, claims, published};
use crate::api::deployment::{Decisions, Deployment, Pod};
use crate::engine::ImageSeen;
use crate::kinds::containers::{Work, WorkSeen};
use crate::kinds::placement::{self, Candidate, Wants, fits, nowhere};
use crate::runtime::companions::Heard;

/// What a pod of this template needs of its host.
fn wants<'a>(observed: &Observed, spec: &'a PodSpec) -> Wants<'a> {
    let (address, alone) = (published::spans(observed), blueprint::has_host_port(spec));
    Wants { selector: spec.node_selector.as_ref(), address, alone }
}

/// The hosts, with the number of pods that each has. Terminating pods still hold a host port.
fn candidates<'a>(observed: &'a Observed, pods: &[Pod], spec: &PodSpec) -> Vec<Candidate<'a>> {
    let counts = |pod: &&Pod| blueprint::has_host_port(spec) || pod.stop.is_none() && !pod.given_up;
    let candidate = |(name, host): (&'a String, &'a HostSeen)| Candidate {
        name,
        host: &host.declared,
        answers: host.docker.containers.known().is_some(),
        own: pods.iter().filter(counts).filter(|pod| pod.host == *name).count(),
        apart: false,
    };
    observed.hosts.iter().map(candidate).collect()
}

/// Hosts that pods of this template may be on, by name.
pub fn eligible<'a>(observed: &'a Observed, spec: &PodSpec) -> Vec<&'a str> {
    let wants = Wants { alone: false, ..wants(observed, spec) };
    let all = candidates(observed, &[], spec);
    all.iter().filter(|one| fits(one, &wants)).map(|one| one.name).collect()
}

/// Why a pod cannot be on a host without a path that it mounts, while there is another host that may have it.
pub fn lacks(context: &PlanContext, host: &str, spec: &PodSpec) -> Option<String> {
    let missing = &context.before.decisions.as_ref()?.missing;
    let path = &missing.get(host)?.path;
    let other = eligible(context.observed, spec).into_iter().any(|other| !missing.contains_key(other));
    other.then(|| format!("host {host} has no {path}"))
}

/// The host for one more pod; `Err`: why there is none, as text for people.
pub fn choose(object: &Deployment, observed: &Observed, d: &Decisions, spec: &PodSpec) -> Result<String, String> {
    let mut all = candidates(observed, &d.pods, spec);
    let wants = wants(observed, spec);
    if all.iter().any(|one| fits(one, &wants) && !d.missing.contains_key(one.name)) {
        all.retain(|one| !d.missing.contains_key(one.name));
    }
    if let Some(home) = d.home.as_deref().filter(|_| blueprint::single_writer(spec)) {
        // The volume cannot move to another host. If its host is off, only one that was given the same volume will do.
        let given = |host: &str| {
            let volumes = observed.hosts.get(host).map(|host| &host.volumes);
            volumes.is_some_and(|given| claims::of(spec).all(|claim| given.contains(claim)))
        };
        let certified = observed.certified(home);
        all.retain(|one| one.name == home || certified && given(one.name));
        return kinds_choice(&all, &wants, object).ok_or_else(|| match certified {
            true => format!(
                "its volume is on host {home}, which is out of service; give the volume to the namespace in spec.volumes of \
                 another DockerHost"
            ),
            false => format!("its volume is on host {home}, which takes no pod now"),
        });
    }
    let free = |one: &Candidate| !published::is_taken(object, observed, spec, one.name);
    if all.iter().any(|one| fits(one, &wants) && free(one)) {
        all.retain(free);
    }
    let reason = || match wants.alone && all.iter().any(|one| one.host.open && one.answers) {
        true => "a host port can be held by one pod a host; every host that would do has one".to_owned(),
        false => nowhere(&all, &wants),
    };
    kinds_choice(&all, &wants, object).ok_or_else(reason)
}

fn kinds_choice(all: &[Candidate], wants: &Wants, object: &Deployment) -> Option<String> {
    placement::choose(all, wants, object.metadata.uid.as_deref().unwrap_or_default()).map(str::to_owned)
}

/// The pull of an image onto a host for a revision.
pub fn pull<'a>(work: &'a WorkSeen, host: &str, image: &str, revision: &str) -> Option<&'a Heard<()>> {
    let (host, image, revision) = (host.to_owned(), image.to_owned(), revision.to_owned());
    work.get(&Work::Image { host, image, revision })
}

/// The image on a host, if it is known to exist there.
pub fn image<'a>(observed: &'a Observed, host: &str, image: &str) -> Option<&'a ImageSeen> {
    observed.docker(host)?.images.known()?.get(image)
}

/// Why an image is not available on a host although no pull failed: the tag is another image there, or the image does
/// not exist there and must not be pulled.
pub fn unobtainable(observed: &Observed, host: &str, exact: &str, tag: &str, policy: Option<&str>) -> Option<String> {
    let there = image(observed, host, tag).is_some();
    if there && !exact.contains('@') && image(observed, host, exact).is_none() {
        return Some(format!("image {tag} on {host} is another one than {exact}"));
    }
    let never = policy == Some("Never") && !there;
    never.then(|| format!("image {tag} is not on the host, and it must not be pulled; put it there"))
}

/// The reference to pull for an image that was resolved from `tag`. A registry knows digests, but no registry knows the
/// id of an image that was built by hand; that image must exist on every host under its tag.
pub fn wanted_image<'a>(exact: &'a str, tag: &'a str) -> &'a str {
    if exact.contains('@') { exact } else { tag }
}

/// Names of the Secrets with registry logins.
pub fn logins(spec: &PodSpec) -> Vec<String> {
    spec.image_pull_secrets.iter().flatten().map(|reference| reference.name.clone()).collect()
}
