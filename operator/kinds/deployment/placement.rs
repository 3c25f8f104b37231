//! Chooses the host of a pod, and checks the image there. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use super::{Observed, blueprint};
use crate::api::deployment::Decisions;
use crate::engine::ImageSeen;
use crate::kinds::containers::{Work, WorkSeen};
use crate::runtime::companions::Heard;

/// Hosts that new pods of this template may be placed on, by name.
pub fn eligible<'a>(observed: &'a Observed, spec: &PodSpec) -> Vec<&'a str> {
    let wanted = spec.node_selector.clone().unwrap_or_default();
    let fits = |labels: &BTreeMap<String, String>| wanted.iter().all(|(key, value)| labels.get(key) == Some(value));
    let hosts = observed.hosts.iter();
    let good =
        hosts.filter(|(_, host)| host.schedulable && host.docker.containers.known().is_some() && fits(&host.labels));
    good.map(|(name, _)| name.as_str()).collect()
}

/// The host for one more pod: in the failure domain with the fewest pods, and there on the host with the fewest.
pub fn choose(observed: &Observed, d: &Decisions, spec: &PodSpec) -> Option<String> {
    let mut eligible = eligible(observed, spec);
    if blueprint::has_host_port(spec) {
        // Terminating pods still hold it too.
        eligible.retain(|host| !d.pods.iter().any(|pod| pod.host == *host));
    }
    let staying = || d.pods.iter().filter(|pod| pod.stop.is_none());
    if blueprint::single_writer(spec)
        && let Some(home) = d.pods.first().map(|pod| pod.host.as_str())
    {
        // The volume cannot move to another host.
        return eligible.contains(&home).then(|| home.to_owned());
    }
    let domain = |host: &str| observed.hosts.get(host).map(|seen| seen.failure_domain.as_str()).unwrap_or_default();
    let load = |host: &&str| {
        let in_domain = staying().filter(|pod| domain(&pod.host) == domain(host)).count();
        let on_host = staying().filter(|pod| pod.host == *host).count();
        (in_domain, on_host, (*host).to_owned())
    };
    eligible.into_iter().min_by_key(load).map(str::to_owned)
}

/// Why no host is eligible, as text for people.
pub fn nowhere(observed: &Observed, spec: &PodSpec) -> String {
    let count = observed.hosts.len();
    let closed = observed.hosts.values().filter(|host| !host.schedulable).count();
    let silent = observed.hosts.values().filter(|host| host.docker.containers.known().is_none()).count();
    let selector = spec.node_selector.clone().unwrap_or_default();
    let wanted: Vec<_> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if blueprint::has_host_port(spec) && closed + silent < count {
        return "a host port can be held by one pod a host; every host that would do has one".to_owned();
    }
    let labels = if wanted.is_empty() { String::new() } else { format!(", nodeSelector {}", wanted.join(",")) };
    format!("no host will take it: {count} declared, {closed} unschedulable, {silent} not answering{labels}")
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
