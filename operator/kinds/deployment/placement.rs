//! Where pods may run, and what must be there first. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use super::{JobSeen, Observed, blueprint};
use crate::api::deployment::{Decisions, Deployment};

/// Hosts that new pods of this template may be placed on, by name.
pub fn eligible<'a>(_object: &Deployment, observed: &'a Observed, spec: &PodSpec) -> Vec<&'a str> {
    let wanted = spec.node_selector.clone().unwrap_or_default();
    let fits = |labels: &BTreeMap<String, String>| wanted.iter().all(|(key, value)| labels.get(key) == Some(value));
    let hosts = observed.hosts.iter();
    let good = hosts.filter(|(_, host)| host.schedulable && host.containers.known().is_some() && fits(&host.labels));
    good.map(|(name, _)| name.as_str()).collect()
}

/// The host for one more pod: in the failure domain with the fewest pods, and there on the host with the fewest.
pub fn choose(object: &Deployment, observed: &Observed, d: &Decisions, spec: &PodSpec) -> Option<String> {
    let mut eligible = eligible(object, observed, spec);
    if blueprint::has_host_port(spec) {
        // Those on their way out hold it too.
        eligible.retain(|host| !d.pods.iter().any(|pod| pod.host == *host));
    }
    let staying = || d.pods.iter().filter(|pod| pod.stop.is_none());
    if blueprint::single_writer(spec)
        && let Some(home) = d.pods.first().map(|pod| pod.host.as_str())
    {
        // The volume is where it is.
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

/// Why no host will do, for people.
pub fn nowhere(observed: &Observed, spec: &PodSpec) -> String {
    let count = observed.hosts.len();
    let closed = observed.hosts.values().filter(|host| !host.schedulable).count();
    let silent = observed.hosts.values().filter(|host| host.containers.known().is_none()).count();
    let selector = spec.node_selector.clone().unwrap_or_default();
    let wanted: Vec<_> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if blueprint::has_host_port(spec) && closed + silent < count {
        return "a host port can be held by one pod a host; every host that would do has one".to_owned();
    }
    let labels = if wanted.is_empty() { String::new() } else { format!(", nodeSelector {}", wanted.join(",")) };
    format!("no host will take it: {count} declared, {closed} unschedulable, {silent} not answering{labels}")
}

/// The key of the job that gets an image onto a host.
pub fn image_job(host: &str, image: &str) -> String {
    format!("image {host} {image}")
}

/// The image that a job's key names.
pub fn image_of_job(key: &str) -> Option<&str> {
    key.strip_prefix("image ")?.split_once(' ').map(|(_, image)| image)
}

/// The key of the job that puts our binary onto a host.
pub fn binary_job(host: &str) -> String {
    format!("binary {host}")
}

/// The key of the job that stops containers.
pub fn stop_job(container: &str) -> String {
    format!("stop {container}")
}

/// Whether a job is to be begun.
pub fn due(job: Option<&JobSeen>) -> bool {
    matches!(job, None | Some(JobSeen::Failed { retry: true, .. }))
}

/// Whether the image, resolved from `tag`, is on the host.
pub fn has_image(observed: &Observed, host: &str, exact: &str, tag: &str) -> bool {
    let brought = |image: &str| match observed.jobs.get(&image_job(host, image)) {
        Some(JobSeen::Done(references)) => references.split(',').any(|reference| reference == exact),
        _ => false,
    };
    brought(exact) || brought(tag)
}

/// What to ask for so as to get an image that was resolved from `tag`: a registry knows digests, but nobody knows the id
/// of an image that was built by hand, which must be on every host under its tag.
pub fn wanted_image<'a>(exact: &'a str, tag: &'a str) -> &'a str {
    if exact.contains('@') { exact } else { tag }
}

/// Names of the Secrets with registry logins.
pub fn logins(spec: &PodSpec) -> Vec<String> {
    spec.image_pull_secrets.iter().flatten().map(|reference| reference.name.clone()).collect()
}
