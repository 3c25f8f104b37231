//! One Pod: from its owner's status, and from the template it was created from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::owner::{created_at, derived_uid, reference_to, seconds, text};
use crate::api::pod::{PodContainer, PodContainerState, PodPhase, PodSeen};

/// What all pods of one owner have in common.
pub struct PodTemplate<'a> {
    /// The object whose status contains them.
    pub owner: &'a Value,
    /// Their controller reference.
    pub parent: Value,
    /// Their labels.
    pub labels: Map<String, Value>,
    /// Their annotations.
    pub annotations: Map<String, Value>,
    /// The spec of their template; empty if there is none.
    pub spec: Map<String, Value>,
    /// The resolved images, by container.
    pub images: BTreeMap<String, String>,
}

/// Whether a pod is being deleted, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It is not being deleted.
    No,
    /// Since this time, if it is known.
    Since(Option<Timestamp>),
}

impl<'a> PodTemplate<'a> {
    /// The template for pods without a Kubernetes template: only names and labels.
    pub fn of_application(app: &str, owner: &'a Value) -> Self {
        let labels =
            [("app.kubernetes.io/name", app.into()), ("app.kubernetes.io/instance", owner["metadata"]["name"].clone())];
        Self {
            owner,
            parent: reference_to(owner),
            labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            annotations: Map::new(),
            spec: Map::new(),
            images: BTreeMap::new(),
        }
    }

    /// A pod as an object.
    pub fn pod(&self, seen: &PodSeen, deletion: Deletion) -> Value {
        let (init, main): (Vec<_>, Vec<_>) = seen.containers.iter().partition(|container| container.init);
        let statuses = |containers: Vec<&PodContainer>| -> Vec<Value> {
            containers.into_iter().map(|container| self.container(seen, container)).collect()
        };
        let (init, main) = (statuses(init), statuses(main));
        let phase = match seen.phase {
            PodPhase::Unknown => PodPhase::Unknown,
            // As in Kubernetes, a pod whose containers have run and wait for their restart is running, too.
            PodPhase::CrashLoopBackOff if initialized(seen) => PodPhase::Running,
            _ if main.iter().any(|status| status["state"].get("running").is_some()) => PodPhase::Running,
            _ => PodPhase::Pending,
        };
        let mut status = json!({
            "phase": phase,
            "conditions": conditions(seen, &main),
            "startTime": seconds(seen.created_at),
            "containerStatuses": main,
        });
        if !init.is_empty() {
            status["initContainerStatuses"] = init.into();
        }
        if let Some(address) = seen.address {
            status["podIP"] = address.to_string().into();
            status["podIPs"] = json!([{"ip": address}]);
        }
        if deletion == Deletion::No && seen.phase != phase {
            status["reason"] = seen.phase.word().into();
        }
        if let Some(message) = seen.message.as_deref().filter(|message| !message.is_empty()) {
            status["message"] = message.into();
        }
        let (metadata, spec) = (self.metadata(seen, deletion), self.spec(seen));
        status["qosClass"] = quality(&spec).into();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
    }

    fn metadata(&self, seen: &PodSeen, deletion: Deletion) -> Value {
        let mut metadata = json!({
            "name": seen.name,
            "namespace": self.owner["metadata"]["namespace"],
            "uid": derived_uid(self.owner, "Pod", &seen.name),
            "resourceVersion": self.owner["metadata"]["resourceVersion"],
            "creationTimestamp": seconds(seen.created_at),
            "labels": self.labels,
            "ownerReferences": [self.parent],
        });
        if !self.annotations.is_empty() {
            metadata["annotations"] = self.annotations.clone().into();
        }
        if let Deletion::Since(since) = deletion {
            metadata["deletionTimestamp"] = json!(seconds(since.or_else(|| created_at(self.owner))));
        }
        metadata
    }

    fn spec(&self, seen: &PodSeen) -> Map<String, Value> {
        let mut spec = self.spec.clone();
        if !spec.contains_key("containers") {
            let plain = seen.containers.iter().map(|c| json!({"name": c.name, "image": c.image}));
            spec.insert("containers".to_owned(), plain.collect());
        }
        // Clients read these without a look whether they are there.
        for (field, default) in
            [("restartPolicy", json!("Always")), ("dnsPolicy", json!("ClusterFirst")), ("securityContext", json!({}))]
        {
            spec.entry(field).or_insert(default);
        }
        let node = Some(&seen.host).filter(|host| !host.is_empty());
        spec.insert("nodeName".to_owned(), json!(node));
        spec
    }

    fn container(&self, pod: &PodSeen, seen: &PodContainer) -> Value {
        let declared = self.spec.get("containers").and_then(Value::as_array);
        let declared = declared.into_iter().flatten().find(|container| text(&container["name"]) == seen.name);
        json!({
            "name": seen.name,
            "image": declared.map_or(&json!(seen.image), |declared| &declared["image"]),
            "imageID": self.images.get(&seen.name).unwrap_or(&seen.image),
            // Docker accepts a name in place of an ID.
            "containerID": format!("docker://{}", seen.id.as_ref().unwrap_or(&seen.container)),
            "ready": seen.ready,
            "started": seen.state == PodContainerState::Running,
            "restartCount": seen.restarts,
            "state": container_state(pod, seen),
        })
    }
}

/// Whether all init containers have succeeded.
fn initialized(pod: &PodSeen) -> bool {
    let mut init = pod.containers.iter().filter(|container| container.init);
    init.all(|container| container.state == PodContainerState::Terminated && container.exit_code == Some(0))
}

/// The QoS class of a pod: by which of its containers have requests and limits.
fn quality(spec: &Map<String, Value>) -> &'static str {
    let containers = ["containers", "initContainers"].iter().filter_map(|list| spec.get(*list)?.as_array()).flatten();
    let (mut any, mut all) = (false, true);
    for container in containers {
        let resources = &container["resources"];
        for resource in ["cpu", "memory"] {
            let (request, limit) = (&resources["requests"][resource], &resources["limits"][resource]);
            any |= !request.is_null() || !limit.is_null();
            all &= !limit.is_null() && (request.is_null() || request == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Running, terminated, or waiting with the reason.
fn container_state(pod: &PodSeen, container: &PodContainer) -> Value {
    let reason = |otherwise: &str| container.reason.clone().unwrap_or_else(|| otherwise.to_owned());
    match container.state {
        PodContainerState::Running => json!({"running": {"startedAt": seconds(pod.created_at)}}),
        PodContainerState::Terminated => {
            let code = container.exit_code.unwrap_or_default();
            json!({"terminated": {"exitCode": code, "reason": reason(if code == 0 { "Completed" } else { "Error" })}})
        }
        PodContainerState::Waiting => {
            // A problem of the pod is the reason of each container that does not run.
            let word = match pod.phase {
                PodPhase::CreateContainerConfigError | PodPhase::ImagePullBackOff | PodPhase::CrashLoopBackOff => {
                    pod.phase.to_string()
                }
                _ => reason("ContainerCreating"),
            };
            json!({"waiting": {"reason": word, "message": pod.message.as_deref().unwrap_or_default()}})
        }
    }
}

fn conditions(seen: &PodSeen, containers: &[Value]) -> Value {
    let all_ready = !containers.is_empty() && containers.iter().all(|container| container["ready"] == true);
    let condition = |kind: &str, holds: bool, since: Option<Timestamp>| {
        let status = if holds { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": seconds(since)})
    };
    let ready_since = seen.ready_since.or(seen.created_at);
    json!([
        condition("PodScheduled", !seen.host.is_empty(), seen.created_at),
        condition("Initialized", !containers.is_empty(), seen.created_at),
        condition("ContainersReady", all_ready, ready_since),
        condition("Ready", seen.ready, ready_since),
    ])
}
