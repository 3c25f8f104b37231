//! What it means for a pod, and for the choice of its host, that Docker refuses to make or to start its container. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;

use crate::api::deployment::{Decisions, Pod, Stop};
use crate::kinds::waits::{self, Waited};

/// Docker's words before a path that its host does not have.
const MISSING: &str = "bind source path does not exist: ";
/// A host that had no such path is asked again after this time.
const AGAIN: Duration = Duration::from_mins(10);

/// The refusal, and what to do about it if that is known.
pub fn in_words(why: &str) -> String {
    let says = |all: &[&str]| all.iter().any(|words| why.contains(words));
    if !says(&["failed to mount local volume", "failed to mount local storage", "error while mounting volume"]) {
        return why.to_owned();
    }
    let advice = if says(&["no such device", "unknown filesystem type", "protocol not supported"]) {
        "the host's kernel cannot mount that. For NFS install its client there (nfs-common on Debian and Ubuntu, nfs-utils \
         elsewhere) and load the kernel module nfs"
    } else if says(&["connection refused", "connection timed out", "no route to host", "network is unreachable"]) {
        "the file server does not answer that host"
    } else if says(&["permission denied", "access denied", "operation not permitted"]) {
        "the file server does not allow that host to mount it"
    } else if says(&["no such file or directory"]) {
        "the file server exports no such path"
    } else {
        return why.to_owned();
    };
    format!("{why} ({advice})")
}

/// The path that the host does not have, in Docker's refusal to make a container.
pub fn missing_path(why: &str) -> Option<&str> {
    let rest = &why[why.find(MISSING)? + MISSING.len()..];
    let path = rest.split(['\n', '"']).next()?.trim();
    path.starts_with('/').then_some(path)
}

/// Forgets missing paths that the pods do not need any more, that exist, or that may exist by now.
pub fn forget(d: &mut Decisions, spec: &PodSpec, waited: &Waited) {
    let volumes = || spec.volumes.iter().flatten().filter_map(|volume| volume.host_path.as_ref());
    let (pods, target) = (&d.pods, &d.target);
    let made = |host: &str| pods.iter().any(|pod| pod.host == host && pod.hash == *target && pod.made);
    d.missing.retain(|host, missing| {
        let fresh = missing.since.is_some_and(|since| waits::waited(waited, since) < AGAIN);
        fresh && !made(host) && volumes().any(|volume| volume.path == missing.path)
    });
}

/// The hosts without a path, as text for people.
pub fn warning(d: &Decisions) -> Option<String> {
    let told: Vec<_> = d.missing.iter().map(|(host, missing)| format!("host {host} has no {}", missing.path)).collect();
    (!told.is_empty()).then(|| {
        format!(
            "{}; pods are placed on hosts that have it, if there is one. Nothing is made on a host: make it there",
            told.join(", ")
        )
    })
}

/// A pod whose reserved port another program has is replaced by one with another port.
pub fn give_way(pod: &mut Pod, why: &str, now: Timestamp) {
    let refused = ["port is already allocated", "address already in use"].iter().any(|words| why.contains(words));
    let named = |port: u16| {
        let ends = |rest: &str| !rest.starts_with(|next: char| next.is_ascii_digit());
        why.match_indices(&format!(":{port}")).any(|(at, found)| ends(&why[at + found.len()..]))
    };
    let taken = pod.ports.values().map(|at| at.port()).find(|port| refused && named(*port));
    if let Some(port) = taken.filter(|_| pod.stop.is_none()) {
        pod.taken = Some(port);
        let why = format!("port {port} of host {} is taken by another program", pod.host);
        pod.stop = Some(Stop { since: Some(now), why, drained_at: None });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::deployment::MissingPath;

    /// Regression 336: a port that another program of the host had taken was tried again and again. The port stays reserved as
    /// foreign, and another pod with another port takes over.
    #[test]
    fn a_pod_whose_reserved_port_is_taken_gives_way() {
        let told = |why: &str| {
            let ports = [(8052, "192.0.2.1:20001".parse().unwrap())].into();
            let mut pod = Pod { name: "web-1".into(), host: "h1".into(), ports, ..Default::default() };
            give_way(&mut pod, why, Timestamp::UNIX_EPOCH);
            (pod.taken, pod.stop.map(|stop| stop.why).unwrap_or_default())
        };
        let taken = (Some(20_001), "port 20001 of host h1 is taken by another program".to_owned());
        assert_eq!(told("Bind for 192.0.2.1:20001 failed: port is already allocated"), taken);
        assert_eq!(told("listen tcp4 192.0.2.1:20001: bind: address already in use"), taken);
        let other = (None, String::new());
        assert_eq!(told("Bind for 192.0.2.1:200012 failed: port is already allocated"), other);
        assert_eq!(told("listen tcp4 192.0.2.1:20001: bind: cannot assign requested address"), other);
    }

    /// Regression 411: a pod whose `hostPath` its host did not have was tried there for ever, beside hosts that had it.
    #[test]
    fn a_missing_path_is_read_from_dockers_words_and_remembered_for_ten_minutes() {
        let said = "invalid mount config for type \"bind\": bind source path does not exist: /srv/app";
        assert_eq!(missing_path(said), Some("/srv/app"));
        assert_eq!(missing_path("no space left on device"), None);
        let volumes = |path: &str| {
            let spec = serde_json::json!({"containers": [], "volumes": [{"name": "a", "hostPath": {"path": path}}]});
            serde_json::from_value::<PodSpec>(spec).unwrap()
        };
        let left = |seconds: u64, path: &str| {
            let since = Timestamp::UNIX_EPOCH;
            let missing = MissingPath { path: "/srv/app".into(), since: Some(since) };
            let mut d = Decisions { missing: [("h1".to_owned(), missing)].into(), ..Default::default() };
            forget(&mut d, &volumes(path), &[(since, Duration::from_secs(seconds))].into());
            warning(&d).unwrap_or_default()
        };
        assert!(left(599, "/srv/app").starts_with("host h1 has no /srv/app; pods are placed on hosts that have it"));
        assert_eq!((left(600, "/srv/app").as_str(), left(1, "/srv/other").as_str()), ("", ""));
    }

    #[test]
    fn a_volume_that_cannot_be_mounted_says_what_to_install_or_whom_to_ask() {
        let told = [
            "failed to mount local volume: mount :/srv:/var/lib/docker/volumes/x/_data, data: addr=10.0.0.5,rw: no such device",
            "failed to mount local volume: mount :/srv:/x, data: addr=10.0.0.5,rw: connection refused",
            "failed to mount local volume: mount :/srv:/x, data: addr=10.0.0.5,rw: permission denied",
            "failed to mount local volume: mount :/srv:/x, data: addr=10.0.0.5,rw: invalid argument",
            "exec: no such file or directory",
        ];
        expect_test::expect![[r#"
            failed to mount local volume: mount :/srv:/var/lib/docker/volumes/x/_data, data: addr=10.0.0.5,rw: no such device (the host's kernel cannot mount that. For NFS install its client there (nfs-common on Debian and Ubuntu, nfs-utils elsewhere) and load the kernel module nfs)
            failed to mount local volume: mount :/srv:/x, data: addr=10.0.0.5,rw: connection refused (the file server does not answer that host)
            failed to mount local volume: mount :/srv:/x, data: addr=10.0.0.5,rw: permission denied (the file server does not allow that host to mount it)
            failed to mount local volume: mount :/srv:/x, data: addr=10.0.0.5,rw: invalid argument
            exec: no such file or directory
        "#]].assert_eq(&told.map(|why| in_words(why) + "\n").concat());
    }
}
